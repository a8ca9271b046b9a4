"""Bad pictures, arrays, points, cameras and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from spdlib.geometry import Camera
from tests.hostile.bench import (
    AGAIN,
    DEEP,
    DIGITS,
    INF,
    NAN,
    Bad,
    Bench,
    cut,
    flip,
    huge_png,
    photo,
)

# -- pictures and arrays -------------------------------------------------------------------------


def _lazy(bench: Bench) -> Image.Image:
    """A truncated picture that Pillow has opened but not decoded."""
    return Image.open(bench.damaged("pictures", cut(0.95), "photo.jpg") / "photo.jpg")


PICTURES = (
    Bad("image", "no such file", lambda b: b.root / "none.jpg", r"none\.jpg: no such file.*check"),
    Bad("image", "a folder", lambda b: b.copy("pictures"),
        r"pictures: is a folder.*check the path"),
    Bad("image", "a pipe", lambda b: b.pipe("p.png"), r"p\.png: is a pipe.*check the path"),
    Bad("image", "empty", lambda b: b.written("e.png", b""), rf"e\.png: .*{AGAIN}"),
    Bad("image", "text", lambda b: b.written("t.jpg", "hello"), rf"t\.jpg: .*{AGAIN}"),
    Bad("image", "a NUL in its name", lambda b: "a\0b.png", r"a.*b\.png: .*null.*check its name"),
    Bad("image", "PNG cut", photo("photo.png", cut(0.6)), rf"photo\.png: .*{AGAIN}"),
    Bad("image", "PNG with a flipped bit", photo("photo.png", flip(0.5)),
        rf"photo\.png: .*{AGAIN}"),
    Bad("image", "JPEG cut", photo("photo.jpg", cut(0.7)), rf"photo\.jpg: .*{AGAIN}"),
    Bad("image", "JPEG of 20 bytes", photo("photo.jpg", cut(0.03)), rf"photo\.jpg: .*{AGAIN}"),
    Bad("image", "WebP cut", photo("photo.webp", cut(0.5)), rf"photo\.webp: .*{AGAIN}"),
    Bad("image", "TIFF cut", photo("photo.tiff", cut(0.5)), rf"photo\.tiff: .*{AGAIN}"),
    Bad("image", "GIF cut", photo("photo.gif", cut(0.3)), rf"photo\.gif: .*{AGAIN}"),
    Bad("image", "3,600 million pixels by its header", lambda b: b.written("bomb.png", huge_png()),
        r"bomb\.png: .*120 million pixels.*smaller"),
    Bad("image", "16-bit grey", lambda b: b.copy("pictures") / "depth.png",
        r"depth\.png.*not 8-bit.*convert"),
    Bad("image", "a script of a format that Pillow would run",
        lambda b: b.written("x.eps", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        rf"x\.eps: .*{AGAIN}"),
    Bad("image", "PIL, truncated", _lazy, r"truncated"),
    Bad("image", "PIL, grey", lambda b: Image.new("L", (60, 40)), r"image is L, not RGB.*convert"),
    Bad("image", "PIL, transparent", lambda b: Image.new("RGBA", (60, 40)), r"RGBA, not RGB.*conv"),
    Bad("image", "a number", lambda b: 3, r"an image is a path.*got int"),
    Bad("image", "None", lambda b: None, r"an image is a path.*got NoneType"),
    Bad("image", "a dictionary", lambda b: {}, r"an image is a path.*got dict"),
    Bad("image", "an empty list", lambda b: [], r"at least one"),
    Bad("image", "images of two sizes",
        lambda b: [np.zeros((40, 60, 3), np.uint8), np.zeros((40, 64, 3), np.uint8)],
        r"images of one size.*40, 60.*40, 64"),
    Bad("image", "int32", lambda b: np.zeros((40, 60, 3), np.int32), r"uint8 or float.*int32"),
    Bad("image", "bool", lambda b: np.zeros((40, 60, 3), bool), r"uint8 or float.*bool"),
    Bad("image", "complex", lambda b: np.zeros((3, 40, 60), complex), r"uint8 or float.*complex"),
    Bad("image", "objects", lambda b: np.full((40, 60, 3), None), r"uint8 or float.*object"),
    Bad("image", "text in an array", lambda b: np.full((40, 60, 3), "a"), r"uint8 or float.*<U1"),
    Bad("image", "floats to 255", lambda b: np.full((3, 40, 60), 255.0), r"0\.\.1.*255.*Rescale"),
    Bad("image", "negative floats", lambda b: np.full((3, 40, 60), -1.0), r"0\.\.1.*-1.*Rescale"),
    Bad("image", "NaN", lambda b: np.full((3, 40, 60), NAN), r"NaN.*finite"),
    Bad("image", "infinite", lambda b: np.full((3, 40, 60), INF), r"0\.\.1.*inf"),
    Bad("image", "grey array", lambda b: np.zeros((40, 60), np.uint8), r"\[40, 60\].*RGB"),
    Bad("image", "four channels", lambda b: np.zeros((4, 40, 60)), r"\[4, 40, 60\].*RGBA.*RGB"),
    Bad("image", "floats with channels last", lambda b: np.zeros((40, 60, 3)), r"transpose"),
    Bad("image", "five axes", lambda b: np.zeros((1, 1, 3, 40, 60)), r"\[1, 1, 3, 40, 60\]"),
    Bad("image", "no pixels", lambda b: np.zeros((3, 0, 60)), r"\[3, 0, 60\]"),
    Bad("image", "too long when resized", lambda b: np.zeros((32, 9000, 3), np.uint8),
        r"9000.*beyond 4096"),
)  # fmt: skip

# -- points --------------------------------------------------------------------------------------

POINTS = (
    Bad("points", "none", lambda b: [], r"no points.*at least one"),
    Bad("points", "None", lambda b: None, r"points are numbers|got.*object"),
    Bad("points", "words", lambda b: "here", r"points are"),
    Bad("points", "words in a list", lambda b: [("a", "b")], r"points are"),
    Bad("points", "ragged", lambda b: [(1, 2), (3,)], r"points are"),
    Bad("points", "three numbers", lambda b: [1, 2, 3], r"\(u, v\).*\[3\]"),
    Bad("points", "3-D points", lambda b: np.zeros((5, 3)), r"\(u, v\).*\[5, 3\]"),
    Bad("points", "a grid", lambda b: np.zeros((2, 5, 5, 2)), r"\(u, v\).*\[2, 5, 5, 2\]"),
    Bad("points", "points of two images", lambda b: np.zeros((2, 5, 2)), r"1 images.*\[1, K, 2\]"),
    Bad("points", "NaN", lambda b: [(NAN, 2)], r"\(nan, 2\).*outside.*u in"),
    Bad("points", "infinite", lambda b: [(1, INF)], r"\(1, inf\).*outside.*v in"),
    Bad("points", "left of the image", lambda b: [(3, 3), (-0.51, 2)], r"\(-0\.51, 2\).*outside"),
    Bad("points", "right of it", lambda b: [(59.51, 2)], r"\(59\.51, 2\).*u in \[-0\.5, 59\.5\]"),
    Bad("points", "below it", lambda b: [(2, 40)], r"\(2, 40\).*v in \[-0\.5, 39\.5\]"),
    Bad("points", "1e30", lambda b: [(1e30, 2)], r"outside"),
    Bad("points", "complex", lambda b: [(1j, 2)], r"pixels.*complex"),
    Bad("points", "bool", lambda b: [(True, False)], r"pixels.*bool"),
    Bad("asked", "chunk 0", lambda b: lambda s: s.depth_at((1, 1), chunk=0),
        r"chunk.*from 1; got 0"),
    Bad("asked", "chunk 1.5", lambda b: lambda s: s.depth_at((1, 1), chunk=1.5),
        r"chunk.*got 1\.5"),
    Bad("asked", "group -1", lambda b: lambda s: s.depth_at((1, 1), group=-1), r"group.*got -1"),
    Bad("asked", "stride 0", lambda b: lambda s: s.dense(stride=0), r"stride.*from 1; got 0"),
    Bad("asked", "stride 1.5", lambda b: lambda s: s.dense(1.5), r"stride.*got 1\.5"),
    Bad("asked", "stride as text", lambda b: lambda s: s.dense("2"), r"stride.*got '2'"),
    Bad("asked", "stride NaN", lambda b: lambda s: s.dense(NAN), r"stride.*got nan"),
    Bad("asked", "a scene saved without a name", lambda b: lambda s: s.save(""), r"names no file"),
    Bad("asked", "a scene saved under NUL", lambda b: lambda s: s.save("a\0b"), r"names no file"),
    Bad("asked", "a scene saved under 300 letters",
        lambda b: lambda s: s.save(b.root / ("n" * 300)), r"nnn.*another folder"),
    Bad("asked", "stride 2^63", lambda b: lambda s: s.dense(2**63), r"stride.*from 1"),
    Bad("asked", "3-D without a camera", lambda b: lambda s: s.points_3d((1, 1)), r"need a camera"),
)  # fmt: skip

# -- cameras -------------------------------------------------------------------------------------


def _camera(*numbers: Any) -> Callable[[Bench], Callable[[], Camera]]:
    return lambda b: lambda: Camera(*numbers)


def _matrix(matrix: Any, width: Any = 640, height: Any = 480) -> Any:
    return lambda b: lambda: Camera.from_matrix(matrix, width, height)


K = ((500.0, 0.0, 320.0), (0.0, 500.0, 240.0), (0.0, 0.0, 1.0))

CAMERAS = (
    Bad("camera", "focal length 0", _camera(0, 500, 320, 240, 640, 480), r"positive.*fx=0"),
    Bad("camera", "negative", _camera(-500, 500, 320, 240, 640, 480), r"positive.*-500"),
    Bad("camera", "NaN", _camera(500, 500, NAN, 240, 640, 480), r"finite.*nan"),
    Bad("camera", "infinite", _camera(500, INF, 320, 240, 640, 480), r"finite.*inf"),
    Bad("camera", "text", _camera("500", 500, 320, 240, 640, 480), r"number.*'500'"),
    Bad("camera", "None", _camera(500, 500, None, 240, 640, 480), r"number.*None"),
    Bad("camera", "complex", _camera(500j, 500, 320, 240, 640, 480), r"number.*500j"),
    Bad("camera", "bool", _camera(True, 500, 320, 240, 640, 480), r"number.*True"),
    Bad("camera", "half a pixel wide", _camera(500, 500, 320, 240, 640.5, 480), r"640\.5"),
    Bad("camera", "width 0", _camera(500, 500, 320, 240, 0, 480), r"1x1|width"),
    Bad("camera", "a list as width", _camera(500, 500, 320, 240, [640], 480), r"\[640\]"),
    Bad("camera", "matrix 2x2", _matrix([[1, 2], [3, 4]]), r"3 x 3"),
    Bad("camera", "matrix of words", _matrix([["a"] * 3] * 3), r"3 x 3"),
    Bad("camera", "ragged matrix", _matrix([[1, 2, 3], [4, 5], [6]]), r"3 x 3"),
    Bad("camera", "matrix None", _matrix(None), r"3 x 3"),
    Bad("camera", "transposed matrix", _matrix(np.array(K).T), r"ends in the rows"),
    Bad("camera", "4x4 matrix", _matrix(np.eye(4)), r"3 x 3"),
    Bad("camera", "view of 0 degrees", lambda b: lambda: Camera.from_fov(0, 64, 48), r"0 and 180"),
    Bad("camera", "view of 180 degrees", lambda b: lambda: Camera.from_fov(180, 64, 48), r"180"),
    Bad("camera", "view of NaN", lambda b: lambda: Camera.from_fov(NAN, 64, 48), r"degrees.*nan"),
    Bad("camera", "unknown axis", lambda b: lambda: Camera.from_fov(60, 64, 48, "sideways"),
        r"sideways.*horizontal"),
    Bad("encode with camera", "another size", lambda b: Camera.from_focal(60, 64, 48),
        r"48x64.*40x60.*resized or camera\.cropped"),
    Bad("encode with camera", "height first", lambda b: Camera.from_focal(60, 40, 60),
        r"width first"),
    Bad("encode with camera", "a matrix", lambda b: np.array(K), r"ndarray.*from_matrix"),
    Bad("encode with camera", "a focal length", lambda b: 500.0, r"float.*from_matrix"),
    Bad("encode with camera", "normalised", lambda b: Camera(0.8, 1.1, 0.5, 0.5, 60, 40),
        r"fx=0\.8.*normalised"),
    Bad("encode with camera", "millimetres", lambda b: Camera.from_focal(4.2, 60, 40),
        r"fx=4\.2.*millimetres"),
    Bad("encode with camera", "a shear", lambda b: Camera(50, 50, 30, 20, 60, 40, 1e300),
        r"skew=1e\+300"),
    Bad("camera", "turned by NaN", lambda b: lambda: Camera.from_focal(60, 64, 48).roll(NAN),
        r"finite.*nan"),
    Bad("camera", "matrix of 10,000 numbers", _matrix([0.5] * 10_000), r"got .{9,99}$"),
    Bad("encode with camera", "an axis never set", lambda b: Camera(50, 50, 0, 0, 60, 40),
        r"cx=0.*never set"),
    Bad("encode with camera", "an axis far outside", lambda b: Camera(50, 50, 9000, 20, 60, 40),
        r"cx=9000.*principal point"),
)  # fmt: skip

# -- settings ------------------------------------------------------------------------------------


def _set(**settings: Any) -> Callable[[Bench], dict[str, Any]]:
    return lambda b: settings


def _words(*words: str) -> Callable[[Bench], list[str]]:
    return lambda b: list(words)


SETTINGS = (
    Bad("settings", "unknown", _set(stepz=3), r"stepz.*steps"),
    Bad("settings", "unknown experiment", _set(experiment="v16"), r"v16"),
    Bad("settings", "unknown profile", _set(profile="laptop"), r"laptop.*known|laptop.*mean"),
    Bad("settings", "unknown network", _set(network="v99"), r"v99"),
    Bad("settings", "unknown encoder", _set(encoder="resnet51"), r"resnet51"),
    Bad("settings", "steps 2.5", _set(steps=2.5), r"steps=2\.5"),
    Bad("settings", "steps -1", _set(steps=-1), r"steps=-1"),
    Bad("settings", "steps as a word", _set(steps="many"), r"steps='many'"),
    Bad("settings", "batch of 0", _set(batch_size=0), r"batch_size=0"),
    Bad("settings", "NaN rate", _set(decoder_lr=NAN), r"_lr=nan.*finite"),
    Bad("settings", "infinite rate", _set(encoder_lr=INF), r"encoder_lr=inf"),
    Bad("settings", "negative rate", _set(decoder_lr=-1e-3), r"_lr=-0\.001"),
    Bad("settings", "NaN weight decay", _set(weight_decay=NAN), r"weight_decay=nan"),
    Bad("settings", "negative weight decay", _set(weight_decay=-1.0), r"weight_decay=-1"),
    Bad("settings", "decay of 2", _set(ema_decay=2.0), r"ema_decay"),
    Bad("settings", "one side", _set(image_size=64), r"image_size.*64"),
    Bad("settings", "sides of 0", _set(image_size=(0, 64)), r"image_size.*0"),
    Bad("settings", "sides as words", _set(image_size=("a", "b")), r"image_size"),
    Bad("settings", "unknown precision", _set(precision="int4"), r"int4"),
    Bad("settings", "unknown loss", _set(supervision="l7"), r"l7"),
    Bad("settings", "no weights there", _set(weights="none.safetensors"), r"none\.safetensors"),
    Bad("settings", "std of 0", _set(input_mean=(0.5,) * 3, input_std=(0.0,) * 3),
        r"std=\(0\.0.*of RGB images in 0\.\.1"),
    Bad("settings", "NaN mean", _set(input_mean=(NAN,) * 3, input_std=(0.5,) * 3), r"mean.*nan"),
    Bad("--set", "no value", _words("steps"), r"FIELD=VALUE.*'steps'"),
    Bad("--set", "no name", _words("=3"), r"FIELD=VALUE.*'=3'"),
    Bad("--set", "5,000 digits", _words(f"steps={DIGITS}"), r"steps"),
    Bad("--set", "20,000 brackets", _words(f"steps={DEEP}"), r"steps"),
    Bad("--set", "NaN", _words("decoder_lr=NaN"), r"_lr=nan.*finite"),
    Bad("--set", "Infinity", _words("decoder_lr=Infinity"), r"_lr=inf"),
    Bad("--set", "1e999", _words("decoder_lr=1e999"), r"_lr=inf"),
    Bad("--set", "a list", _words("steps=[1,2]"), r"steps=.*1, 2"),
    Bad("--set", "null", _words("steps=null"), r"steps=None"),
    Bad("--set", "an object", _words('steps={"a":1}'), r"steps="),
    Bad("--set", "a NUL", _words("steps=\0"), r"steps="),
)  # fmt: skip


VALUES = (*PICTURES, *POINTS, *CAMERAS, *SETTINGS)
