"""Bad inputs: what it is, how it is made, what the one error must say."""

from __future__ import annotations

import io
import math
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

from spdlib.geometry import Camera
from tests.data.conftest import add_member
from tests.hostile.bench import (
    Bench,
    attribute,
    content,
    cut,
    entry,
    exchanged,
    flip,
    hdf5,
    npy,
    replaced,
    tensors,
    values,
)
from tests.hostile.mutations import png_chunk


class Bad(NamedTuple):
    """A bad input.

    Attributes:
        door: where it comes in, of `DOORS`.
        what: what is wrong with it.
        made: makes it on a bench.
        says: pattern of the error's message: the file or value, what is wrong, the remedy.
    """

    door: str
    what: str
    made: Callable[[Bench], Any]
    says: str


NAN, INF = math.nan, math.inf
DIGITS = "1" * 5000
DEEP = "[" * 20_000 + "]" * 20_000
BINARY = bytes(range(256)) * 4
AGAIN = "copy or download it again"


# -- pictures and arrays -------------------------------------------------------------------------


def _huge_png() -> bytes:
    """A PNG of 100 bytes that says it has 60000x60000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks)


def _picture(mode: str, kind: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (16, 12)).save(stream, kind, **options)
    return stream.getvalue()


def _lazy(bench: Bench) -> Image.Image:
    """A truncated picture that Pillow has opened but not decoded."""
    return Image.open(bench.damaged("pictures", cut(0.7), "photo.jpg") / "photo.jpg")


def _photo(name: str, change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("pictures", change, name) / name


PICTURES = (
    Bad("image", "no such file", lambda b: b.root / "none.jpg", r"none\.jpg: no such file.*check"),
    Bad("image", "a folder", lambda b: b.copy("pictures"),
        r"pictures: is a folder.*check the path"),
    Bad("image", "a pipe", lambda b: b.pipe("p.png"), r"p\.png: is a pipe.*check the path"),
    Bad("image", "empty", lambda b: b.written("e.png", b""), rf"e\.png: .*{AGAIN}"),
    Bad("image", "text", lambda b: b.written("t.jpg", "hello"), rf"t\.jpg: .*{AGAIN}"),
    Bad("image", "a NUL in its name", lambda b: "a\0b.png", r"a.*b\.png: .*null.*check its name"),
    Bad("image", "PNG cut", _photo("photo.png", cut(0.6)), rf"photo\.png: .*{AGAIN}"),
    Bad("image", "PNG with a flipped bit", _photo("photo.png", flip(0.5)),
        rf"photo\.png: .*{AGAIN}"),
    Bad("image", "JPEG cut", _photo("photo.jpg", cut(0.7)), rf"photo\.jpg: .*{AGAIN}"),
    Bad("image", "JPEG of 20 bytes", _photo("photo.jpg", cut(0.03)), rf"photo\.jpg: .*{AGAIN}"),
    Bad("image", "WebP cut", _photo("photo.webp", cut(0.5)), rf"photo\.webp: .*{AGAIN}"),
    Bad("image", "TIFF cut", _photo("photo.tiff", cut(0.5)), rf"photo\.tiff: .*{AGAIN}"),
    Bad("image", "GIF cut", _photo("photo.gif", cut(0.3)), rf"photo\.gif: .*{AGAIN}"),
    Bad("image", "3,600 million pixels by its header", lambda b: b.written("bomb.png", _huge_png()),
        r"bomb\.png: .*60000x60000 pixels.*smaller"),
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
    Bad("asked", "stride 0", lambda b: lambda s: s.dense(stride=0), r"stride.*at least 1.*0"),
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
    Bad("camera", "normalised matrix", _matrix([[0.8, 0, 0.5], [0, 1.1, 0.5], [0, 0, 1]]),
        r"0\.[89].*normalised"),
    Bad("camera", "millimetres", lambda b: lambda: Camera.from_focal(4.2, 640, 480),
        r"4\.2.*(millimetres|normalised)"),
    Bad("camera", "axis far outside", _matrix([[500, 0, 90_000], [0, 500, 240], [0, 0, 1]]),
        r"principal point.*90000"),
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
        r"0\.[89].*normalised"),
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
    Bad("settings", "NaN rate", _set(decoder_lr=NAN), r"decoder_lr=nan"),
    Bad("settings", "infinite rate", _set(encoder_lr=INF), r"encoder_lr=inf"),
    Bad("settings", "negative rate", _set(decoder_lr=-1e-3), r"decoder_lr=-0\.001"),
    Bad("settings", "NaN weight decay", _set(weight_decay=NAN), r"weight_decay=nan"),
    Bad("settings", "negative weight decay", _set(weight_decay=-1.0), r"weight_decay=-1"),
    Bad("settings", "decay of 2", _set(ema_decay=2.0), r"ema_decay"),
    Bad("settings", "one side", _set(image_size=64), r"image_size.*64"),
    Bad("settings", "sides of 0", _set(image_size=(0, 64)), r"image_size.*0"),
    Bad("settings", "sides as words", _set(image_size=("a", "b")), r"image_size"),
    Bad("settings", "unknown precision", _set(precision="int4"), r"int4"),
    Bad("settings", "unknown loss", _set(objective="l7"), r"l7"),
    Bad("settings", "no weights there", _set(weights="none.safetensors"), r"none\.safetensors"),
    Bad("settings", "std of 0", _set(input_mean=(0.5,) * 3, input_std=(0.0,) * 3),
        r"std.*positive"),
    Bad("settings", "NaN mean", _set(input_mean=(NAN,) * 3, input_std=(0.5,) * 3), r"mean.*nan"),
    Bad("--set", "no value", _words("steps"), r"FIELD=VALUE.*'steps'"),
    Bad("--set", "no name", _words("=3"), r"FIELD=VALUE.*'=3'"),
    Bad("--set", "5,000 digits", _words(f"steps={DIGITS}"), r"steps"),
    Bad("--set", "20,000 brackets", _words(f"steps={DEEP}"), r"steps"),
    Bad("--set", "NaN", _words("decoder_lr=NaN"), r"decoder_lr=nan"),
    Bad("--set", "Infinity", _words("decoder_lr=Infinity"), r"decoder_lr=inf"),
    Bad("--set", "1e999", _words("decoder_lr=1e999"), r"decoder_lr=inf"),
    Bad("--set", "a list", _words("steps=[1,2]"), r"steps=.*1, 2"),
    Bad("--set", "null", _words("steps=null"), r"steps=None"),
    Bad("--set", "an object", _words('steps={"a":1}'), r"steps="),
    Bad("--set", "a NUL", _words("steps=\0"), r"steps="),
)  # fmt: skip

# -- saved networks and scenes -------------------------------------------------------------------


def _model(change: Any, file: str = "config.json") -> Callable[[Bench], Path]:
    return lambda b: b.damaged("model", change, file)


WEIGHTS = "model.safetensors"
HUGE_HEADER = content(struct.pack("<Q", 2**40) + b"{}")


def _first_nan(arrays: dict[str, Any]) -> None:
    arrays[next(name for name in arrays if arrays[name].dtype.kind == "f")].fill(NAN)


def _bit(arrays: dict[str, Any]) -> None:
    array = next(each for each in arrays.values() if each.dtype.kind == "f" and each.size)
    array.reshape(-1)[:1].view(np.uint8)[0] ^= 1


def _drop(arrays: dict[str, Any]) -> None:
    arrays.pop(next(iter(arrays)))


MODELS = (
    Bad("model", "no such folder", lambda b: b.root / "none", r"none.*folder"),
    Bad("model", "a file", lambda b: b.written("file", "a"), r"file.*folder"),
    Bad("model", "an empty folder", lambda b: b.root, r"config\.json.*folder"),
    Bad("model", "no config.json", lambda b: b.without("model", "config.json"), r"config\.json"),
    Bad("model", "no weights", lambda b: b.without("model", WEIGHTS), r"model\.safetensors"),
    Bad("model", "config.json empty", _model(content("")), r"config\.json: .*take another"),
    Bad("model", "config.json binary", _model(content(BINARY)), r"config\.json: .*take another"),
    Bad("model", "config.json a list", _model(content("[]")), r"config\.json: .*take another"),
    Bad("model", "config.json null", _model(content("null")), r"config\.json: .*take another"),
    Bad("model", "config.json deep", _model(content(DEEP)), r"config\.json: .*take another"),
    Bad("model", "5,000 digits", _model(entry(0, "focal")), r"config\.json.*focal"),
    Bad("model", "config.json a pipe", lambda b: b.piped("model", "config.json"), r"config\.json"),
    Bad("model", "weights a pipe", lambda b: b.piped("model", WEIGHTS),
        r"model\.safetensors.*pipe"),
    Bad("model", "other focal length", _model(entry(61.0, "focal")), r"config\.json.*focal.*61"),
    Bad("model", "NaN focal length", _model(entry(NAN, "focal")), r"config\.json.*focal.*nan"),
    Bad("model", "other mean", _model(entry([0.1, 0.1, 0.1], "encoder", "mean")),
        r"config\.json.*mean"),
    Bad("model", "other std", _model(entry([1, 1, 1], "encoder", "std")), r"config\.json.*std"),
    Bad("model", "other size", _model(entry([32, 96], "image_size")), r"config\.json.*image_size"),
    Bad("model", "another origin", _model(entry("a wizard", "trained")), r"config\.json.*trained"),
    Bad("model", "unknown network", _model(entry("v\0", "network")), r"unknown network"),
    Bad("model", "unknown encoder", _model(entry("../x", "encoder", "name")), r"\.\./x"),
    Bad("model", "encoder a list", _model(entry([], "encoder")), r"config\.json"),
    Bad("model", "unknown option", _model(entry({"x": 1}, "options")), r"config\.json.*'x'|option"),
    Bad("model", "10^9 pixels a side", _model(entry([10**9] * 2, "image_size")), r"image_size"),
    Bad("model", "weights cut", _model(cut(0.5), WEIGHTS), r"model\.safetensors: .*another"),
    Bad("model", "weights empty", _model(content(""), WEIGHTS), r"model\.safetensors: .*another"),
    Bad("model", "a header of 10^12 bytes", _model(HUGE_HEADER, WEIGHTS), r"model\.safetensors"),
    Bad("model", "a flipped bit", _model(flip(0.9), WEIGHTS), r"model\.safetensors.*another"),
    Bad("model", "a changed weight", _model(tensors(_bit), WEIGHTS),
        r"model\.safetensors.*another"),
    Bad("model", "NaN weights", _model(tensors(_first_nan), WEIGHTS),
        r"model\.safetensors.*another"),
    Bad("model", "a missing weight", _model(tensors(_drop), WEIGHTS), r"model\.safetensors"),
    Bad("encoder weights", "no such file", lambda b: b.root / "x.safetensors", r"x\.safetensors"),
    Bad("encoder weights", "a folder", lambda b: b.copy("model"), r"model.*folder"),
    Bad("encoder weights", "a pipe", lambda b: b.pipe("w.safetensors"), r"w\.safetensors.*pipe"),
    Bad("encoder weights", "a device", lambda b: Path("/dev/zero"), r"/dev/zero.*device"),
    Bad("encoder weights", "cut", lambda b: b.damaged("weights", cut(0.5)),
        r"encoder\.safetensors"),
    Bad("encoder weights", "a pickle", lambda b: b.written("w.pth", b"\x80\x04cos\nsystem\n."),
        r"w\.pth"),
    Bad("encoder weights", "of another encoder", lambda b: b.copy("model") / WEIGHTS,
        r"model\.safetensors"),
    Bad("encoder weights", "NaN", lambda b: b.damaged("weights", tensors(_first_nan)),
        r"encoder\.safetensors.*(NaN|finite)"),
    Bad("scene", "no such file", lambda b: b.root / "none", r"none.*check the path"),
    Bad("scene", "a folder", lambda b: b.root, r"folder"),
    Bad("scene", "a pipe", lambda b: b.pipe("s.safetensors"), r"s\.safetensors.*pipe"),
    Bad("scene", "empty", lambda b: b.damaged("scene", content("")), r"encode the image again"),
    Bad("scene", "text", lambda b: b.damaged("scene", content("a scene")),
        r"encode the image again"),
    Bad("scene", "a network's file", lambda b: b.copy("model") / WEIGHTS,
        r"encode the image again"),
    Bad("scene", "cut", lambda b: b.damaged("scene", cut(0.7)), r"encode the image again"),
    Bad("scene", "a flipped bit", lambda b: b.damaged("scene", flip(0.9)),
        r"encode the image again"),
    Bad("scene", "another focal length", lambda b: b.damaged("scene", replaced('60.0', '66.0')),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "another size", lambda b: b.damaged("scene", replaced("[32, 64]", "[32, 65]")),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "a size that is text",
        lambda b: b.damaged("scene", replaced("[32, 64]", '"2, 64"')),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "a missing map", lambda b: b.damaged("scene", tensors(_drop)),
        r"scene\.safetensors.*encode the image again"),
    Bad("scene", "a changed value", lambda b: b.damaged("scene", tensors(_bit)),
        r"scene\.safetensors.*encode the image again"),
)  # fmt: skip

# -- data sets -----------------------------------------------------------------------------------


def _own(change: Any, file: str = "cameras.csv") -> Callable[[Bench], Path]:
    return lambda b: b.damaged("own", change, file)


def _depth(array: np.ndarray, pickled: bool = False) -> Callable[[Bench], Path]:
    """The folder with one frame's depth as a .npy file."""

    def made(bench: Bench) -> Path:
        folder = bench.without("own", "depth/view 0.png")
        (folder / "depth" / "view 0.npy").write_bytes(npy(array, pickled))
        return folder

    return made


def _png(array: np.ndarray, **options: Any) -> Any:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png", **options)
    return content(stream.getvalue())


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _picture("RGB", "jpeg", exif=exif)


def _spotted(value: float) -> np.ndarray:
    """Depth of two metres with some pixels of another value."""
    depth = np.full((12, 16), 2.0, np.float32)
    depth[3, :5] = value
    return depth


def _metres(value: float) -> np.ndarray:
    return np.full((12, 16), value, np.float32)


RGB, DEPTH = "rgb/view 0.png", "depth/view 0.png"
BIG_NPY = npy(np.zeros((2, 2), np.float32)).replace(b"(2, 2)", b"(9999999, 99999)")

OWN = (
    Bad("data set", "no such folder", lambda b: b.root / "none", r"none: does not exist"),
    Bad("data set", "an empty folder", lambda b: b.root, r"no layout.*cameras\.csv"),
    Bad("data set", "no images", lambda b: b.without("own", RGB),
        r"no file 'view 0'.*drop the row"),
    Bad("data set", "no depth", lambda b: b.without("own", DEPTH),
        r"no file 'view 0'.*drop the row"),
    Bad("data set", "table empty", _own(content("")), r"cameras\.csv.*lacks the columns"),
    Bad("data set", "table binary", _own(content(BINARY)), r"cameras\.csv.*UTF-8"),
    Bad("data set", "table with a NUL", _own(replaced("60.5", "6\0")), r"cameras\.csv"),
    Bad("data set", "no column fx", _own(replaced("fx", "fz")), r"cameras\.csv.*'fx'.*needs"),
    Bad("data set", "two columns fx", _own(replaced("fy", "fx")), r"cameras\.csv.*(fy|twice)"),
    Bad("data set", "focal NaN", _own(replaced("60.5", "nan")), r"cameras\.csv, line 2.*nan"),
    Bad("data set", "focal inf", _own(replaced("60.5", "inf")), r"cameras\.csv, line 2.*inf"),
    Bad("data set", "focal 0", _own(replaced("60.5", "0")), r"cameras\.csv, line 2.*0"),
    Bad("data set", "focal a word", _own(replaced("60.5", "x")), r"line 2: fx is 'x'.*correct it"),
    Bad("data set", "focal missing", _own(replaced("60.5", "")), r"line 2: fx is ''.*correct it"),
    Bad("data set", "5,000 digits", _own(replaced("60.5", DIGITS)), r"cameras\.csv, line 2"),
    Bad("data set", "normalised focal", _own(replaced("60.5", "0.8")), r"line 2.*normalised"),
    Bad("data set", "a cell too many", _own(replaced("60.5", "60.5,1")), r"cameras\.csv, line 2"),
    Bad("data set", "a frame twice", _own(replaced("view 1", "view 0")), r"'view 0' occurs twice"),
    Bad("data set", "a frame without files", _own(replaced("view 1", "../x")), r"no file '\.\./x'"),
    Bad("data set", "a split for some", _own(replaced("train", "")), r"only some.*fill"),
    Bad("data set", "unpaired file",
        lambda b: (b.copy("own"), b.written("own.png/rgb/more.png", b""))[0], r"more\.png.*no row"),
    Bad("data set", "two files of one name",
        lambda b: (b.copy("own"), b.written("own.png/rgb/view 0.jpg", b""))[0], r"twice"),
    Bad("data set", "65535", _own(_png(np.full((12, 16), 65535, np.uint16)), DEPTH), r"write 0"),
    Bad("data set", "65535 here and there",
        _own(_png(np.where(_spotted(1) == 1, 65535, 2000).astype(np.uint16)), DEPTH),
        r"view 0\.png.*65\.535.*write 0"),
    Bad("data set", "half float's largest here and there", _depth(_spotted(65504)), r"write 0"),
    Bad("data set", "a tenth of a millimetre here and there", _depth(_spotted(1e-4)), r"write 0"),
    Bad("data set", "1e-7 m here and there", _depth(_spotted(1e-7)), r"write 0"),
    Bad("data set", "NaN", _depth(_spotted(NAN)), r"view 0\.npy.*NaN.*write 0"),
    Bad("data set", "infinite", _depth(_spotted(INF)), r"view 0\.npy.*infinite.*write 0"),
    Bad("data set", "negative", _depth(_spotted(-1)), r"view 0\.npy.*negative.*write 0"),
    Bad("data set", "all 0", _depth(_metres(0)), r"view 0\.npy.*no valid pixel.*drop"),
    Bad("data set", "millimetres in floats", _depth(_metres(2000)), r"view 0\.npy.*millimetres"),
    Bad("data set", "kilometres", _depth(_metres(0.002)), r"view 0\.npy.*metres"),
    Bad("data set", "whole numbers in .npy", _depth(_metres(2).astype(np.int32)), r"float array"),
    Bad("data set", "objects in .npy", _depth(np.full((2, 2), None), True), r"view 0\.npy.*save"),
    Bad("data set", "transposed", _depth(_metres(2).T), r"12x16.*16x12|same size"),
    Bad("data set", "half as large", _depth(np.full((6, 8), 2.0)), r"12x16.*6x8.*same size"),
    Bad("data set", "8-bit depth", _own(_png(np.full((12, 16), 9, np.uint8)), DEPTH), r"16 bits"),
    Bad("data set", "depth cut", _own(cut(0.7), DEPTH), rf"view 0\.png.*{AGAIN}"),
    Bad("data set", "depth with a flipped bit", _own(flip(0.6), DEPTH), rf"view 0\.png.*{AGAIN}"),
    Bad("data set", "depth a pipe", lambda b: b.piped("own", DEPTH), r"view 0\.png.*pipe"),
    Bad("data set", "image with a flipped bit", _own(flip(0.6), RGB), rf"view 0\.png.*{AGAIN}"),
    Bad("data set", "grey image", _own(_png(np.zeros((12, 16), np.uint8)), RGB), r"'L'.*RGB"),
    Bad("data set", "RGBA", _own(content(_picture("RGBA")), RGB), r"'RGBA'.*RGB"),
    Bad("data set", "palette", _own(content(_picture("P")), RGB), r"'P'.*RGB"),
    Bad("data set", "one transparent colour",
        _own(content(_picture("RGB", transparency=(0, 0, 0))), RGB), r"transparent.*RGB"),
    Bad("rgb file", "an EXIF rotation", lambda b: b.written("e.jpg", _with_exif()),
        r"EXIF.*upright"),
    Bad("rgb file", "3,600 million pixels", lambda b: b.written("b.png", _huge_png()), r"smaller"),
    Bad("rgb file", "a GIF", lambda b: b.copy("pictures") / "photo.gif", r"photo\.gif"),
    Bad("rgb file", "a pipe", lambda b: b.pipe("p.png"), r"p\.png.*pipe"),
    Bad("depth file", "an RGB image", lambda b: b.copy("pictures") / "photo.png", r"16 bits"),
    Bad("depth file", "3,600 million pixels", lambda b: b.written("b.png", _huge_png()),
        r"smaller"),
    Bad("depth file", "10^12 numbers by its header", lambda b: b.written("d.npy", BIG_NPY),
        r"d\.npy"),
    Bad("depth file", ".npy cut", _photo("depth.npy", cut(0.6)), r"depth\.npy.*save it again"),
    Bad("depth file", ".npy empty", _photo("depth.npy", content("")), r"depth\.npy.*save it again"),
    Bad("depth file", ".npz", lambda b: b.written("d.npy", b"PK\3\4" + bytes(60)), r"d\.npy"),
    Bad("depth file", "complex", lambda b: b.written("d.npy", npy(np.ones((3, 3), complex))),
        r"d\.npy.*float"),
    Bad("depth file", "a pipe", lambda b: b.pipe("p.npy"), r"p\.npy.*pipe"),
)  # fmt: skip


def _mat(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("labelled", change)


def _fast(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("fastdepth", change, "val/*/*.h5")


def _shard(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("shards", change, "data/val-*.tar")


def _tar(name: str, size: bytes | None = None, **fields: Any) -> Any:
    """A shard with one more member; `size` as its header says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member)
        add_member(archive, "train/kitchen/00001.h5", b"no HDF5")
    data = bytearray(stream.getvalue())
    if size is not None:
        data[124:136] = size
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    return content(bytes(data))


def _links(how: Callable[[h5py.File, str], object]) -> Any:
    """An HDF5 file whose depth points elsewhere."""

    def edit(file: h5py.File) -> None:
        del file["depth"]
        how(file, "depth")

    return hdf5(edit)


def _soft(file: h5py.File, name: str) -> None:
    file[name] = h5py.SoftLink("/rgb")


def _external(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("/etc/hostname", "/x")


def _outside(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (12, 16), "f4", external=[("/etc/passwd", 0, 768)])


LAYOUTS = (
    Bad("list", "a path that leaves", lambda b: b.written("l.txt", "/../a /../b 518.8"), r"leaves"),
    Bad("list", "a missing file", lambda b: b.written("l.txt", "/a/b.jpg /a/c.png 518.8"),
        r"missing"),
    Bad("list", "one word", lambda b: b.written("l.txt", "/a/b.jpg"), r"l\.txt, line 1.*expected"),
    Bad("list", "5,000 digits", lambda b: b.written("l.txt", f"/a /b {DIGITS}"), r"l\.txt, line 1"),
    Bad("list", "binary", lambda b: b.written("l.txt", BINARY), r"l\.txt.*UTF-8|l\.txt.*again"),
    Bad("list", "a NUL", lambda b: b.written("l.txt", "/a\0 /b 518.8"), r"l\.txt, line 1"),
    Bad("list", "empty", lambda b: b.written("l.txt", ""), r"no frames"),
    Bad("list", "a pipe", lambda b: b.pipe("l.txt"), r"l\.txt.*pipe"),
    Bad("data set", "a depth missing",
        lambda b: b.without("bts", "official_splits/test/*/sync_depth_00001.png"), r"rgb_00001"),
    Bad("data set", "an rgb missing",
        lambda b: b.without("bts", "official_splits/test/*/rgb_00001.jpg"), r"sync_depth_00001"),
    Bad("data set", ".mat cut", _mat(cut(0.5)), r"labeled\.mat.*(again|format)"),
    Bad("data set", ".mat text", _mat(content("MATLAB")), r"labeled\.mat.*(again|format)"),
    Bad("data set", ".mat of MATLAB 5",
        _mat(content(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM")),
        r"labeled\.mat"),
    Bad("data set", ".mat without its depths", _mat(hdf5(lambda f: f.pop("depths"))), r"'depths'"),
    Bad("data set", ".mat of floats", _mat(exchanged("images", np.zeros((6, 3, 16, 12)))),
        r"uint8 array 'images'"),
    Bad("data set", ".mat of other sizes", _mat(exchanged("depths", np.zeros((6, 9, 9),
        np.float32))),
        r"sizes do not match"),
    Bad("data set", ".mat of six frames without a list", lambda b: b.copy("labelled"),
        r"split-file"),
    Bad("data set", ".mat a pipe", lambda b: b.pipe("x.mat"), r"x\.mat"),
    Bad("data set", ".h5 cut", _fast(cut(0.5)), r"\.h5.*again"),
    Bad("data set", ".h5 empty", _fast(content("")), r"\.h5.*again"),
    Bad("data set", ".h5 without rgb", _fast(hdf5(lambda f: f.pop("rgb"))), r"\.h5.*'rgb'.*again"),
    Bad("data set", ".h5 with whole metres", _fast(exchanged("depth", np.ones((12, 16), int))),
        r"\.h5.*floating-point"),
    Bad("data set", ".h5 with HWC", _fast(exchanged("rgb", np.zeros((12, 16, 3), np.uint8))),
        r"\.h5.*\[3, H, W\]"),
    Bad("data set", ".h5 with a group as depth", _fast(_links(lambda f, n: f.create_group(n))),
        r"\.h5.*'depth' is not an array"),
    Bad("data set", ".h5 with a soft link", _fast(_links(_soft)), r"points elsewhere"),
    Bad("data set", ".h5 with an external link", _fast(_links(_external)), r"points elsewhere"),
    Bad("data set", ".h5 that shows another file", _fast(_links(_outside)), r"points elsewhere"),
    Bad("data set", ".h5 of 40,000 pixels a side",
        _fast(exchanged("depth", shape=(40_000, 40_000), dtype="f4", chunks=(1000, 1000))),
        r"\.h5.*larger than any frame"),
    Bad("data set", ".h5 with a chunk of 2.4 GB",
        _fast(exchanged("depth", shape=(12, 16), maxshape=(None, None), dtype="f4",
                        chunks=(24_000, 25_000), compression="gzip")),
        r"\.h5.*(chunk|larger)"),
    Bad("data set", ".h5 of another shape", _fast(exchanged("depth", np.ones((12, 12)))), r"12x12"),
    Bad("data set", ".h5 with 65504 m",
        _fast(values("depth", lambda depth: np.where(depth > 5, 65504, depth))), r"write 0"),
    Bad("data set", "tar cut", _shard(cut(0.4)), r"\.tar.*again"),
    Bad("data set", "tar compressed", _shard(zlib.compress), r"\.tar.*tar file.*again"),
    Bad("data set", "tar that climbs", _shard(_tar("../x.h5")), r"\.\./x\.h5.*do not trust"),
    Bad("data set", "tar from the root", _shard(_tar("/x.h5")), r"/x\.h5.*do not trust"),
    Bad("data set", "tar with a link", _shard(_tar("x.h5", type=tarfile.SYMTYPE, linkname="/etc")),
        r"x\.h5.*do not trust"),
    Bad("data set", "tar with a device", _shard(_tar("x.h5", type=tarfile.CHRTYPE)),
        r"do not trust"),
    Bad("data set", "tar with a size of 2^80", _shard(_tar("a/x.h5", b"\x80" + b"\xff" * 11)),
        r"\.tar"),
    Bad("data set", "tar with a size below 0", _shard(_tar("a/x.h5", b"\xff" * 12)), r"\.tar"),
    Bad("data set", "tar with a size that is text", _shard(_tar("a/x.h5", b"many bytes..")),
        r"\.tar"),
    Bad("data set", "tar beyond its end", _shard(_tar("a/x.h5", b"00077777777\0")), r"\.tar"),
    Bad("data set", "tar with a pax size", _shard(_tar("a/x.h5", pax_headers={"size": "-9"})),
        r"\.tar"),
    Bad("data set", "tar without frames", _shard(_tar("a/readme.txt")), r"\.tar|no frames"),
    Bad("pack", "a training frame missing", lambda b: b.without("own", RGB), r"no file 'view 0'"),
    Bad("pack", "a bad frame", _own(cut(0.7), RGB), rf"view 0\.png.*{AGAIN}"),
    Bad("pack", "65535 in one frame",
        _own(_png(np.where(_spotted(1) == 1, 65535, 2000).astype(np.uint16)), DEPTH), r"write 0"),
)  # fmt: skip


def _store(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("store", change)


def _cell(row: int, column: int, value: float) -> Any:
    """The store with another number of a camera."""

    def edit(file: h5py.File) -> None:
        file["camera"][row, column] = value

    return hdf5(edit)


def _text(name: str, value: str | bytes) -> Any:
    def edit(file: h5py.File) -> None:
        file[name][0] = value

    return hdf5(edit)


STORES = (
    Bad("store", "no such file", lambda b: b.root / "none.h5", r"none\.h5.*check the path"),
    Bad("store", "a folder", lambda b: b.root, r"folder"),
    Bad("store", "a pipe", lambda b: b.pipe("s.h5"), r"s\.h5.*pipe"),
    Bad("store", "text", _store(content("a store")), r"store\.h5.*again"),
    Bad("store", "cut", _store(cut(0.5)), r"store\.h5.*again"),
    Bad("store", "another HDF5 file", lambda b: b.copy("fastdepth") / "val/official/00002.h5",
        r"00002\.h5.*data pack"),
    Bad("store", "version 1", _store(attribute("version", 1)), r"version 1.*pack it again"),
    Bad("store", "version a word", _store(attribute("version", "new")), r"new.*pack it again"),
    Bad("store", "no provenance", _store(attribute("provenance", None)), r"provenance.*again"),
    Bad("store", "provenance text", _store(attribute("provenance", "{")), r"store\.h5.*again"),
    Bad("store", "provenance a list", _store(attribute("provenance", "[]")), r"store\.h5.*again"),
    Bad("store", "provenance a number", _store(attribute("provenance", 3)), r"store\.h5.*again"),
    Bad("store", "no cameras", _store(hdf5(lambda f: f.pop("camera"))), r"'camera'.*again"),
    Bad("store", "fewer cameras", _store(exchanged("camera", np.ones((3, 7)))),
        r"store\.h5.*again"),
    Bad("store", "cameras of floats32", _store(exchanged("camera", np.ones((6, 7), np.float32))),
        r"store\.h5.*again"),
    Bad("store", "images of floats", _store(exchanged("image", np.zeros((6, 12, 16, 3)))),
        r"store\.h5.*again"),
    Bad("store", "images of another shape", _store(exchanged("image", np.zeros((6, 9, 9, 3),
        "u1"))),
        r"store\.h5.*again"),
    Bad("store", "depth of bytes", _store(exchanged("depth/raw", np.ones((6, 12, 16), "i1"))),
        r"store\.h5.*again"),
    Bad("store", "depth without its group", _store(exchanged("depth", np.ones(6))), r"again"),
    Bad("store", "a soft link", _store(_links(lambda f, n: f.update({n: h5py.SoftLink("/image")}))),
        r"points elsewhere|again"),
    Bad("store", "a camera NaN", _store(_cell(0, 0, NAN)), r"store\.h5.*again"),
    Bad("store", "a camera of another size", _store(_cell(1, 5, 99)), r"store\.h5.*again"),
    Bad("store", "a camera moved", _store(_cell(1, 2, 30)), r"store\.h5.*again"),
    Bad("store", "a box outside", _store(values("valid_box", lambda box: box * 0 + 99)),
        r"store\.h5.*again"),
    Bad("store", "an id twice", _store(_text("id", "view 1")), r"store\.h5.*again"),
    Bad("store", "an id that is no text", _store(_text("id", b"\xff\xfe")), r"store\.h5.*again"),
    Bad("store", "another split", _store(_text("split", "test")), r"store\.h5.*again"),
    Bad("store", "a changed pixel", _store(values("image", lambda x: x ^ (np.arange(3) == 1))),
        r"store\.h5.*again"),
    Bad("store", "a changed depth", _store(values("depth/raw", lambda x: x + 1)),
        r"store\.h5.*again"),
    Bad("store", "a changed checksum", _store(values("checksum", lambda x: x ^ 1)),
        r"store\.h5.*again"),
    Bad("store", "an array more", _store(hdf5(lambda f: f.create_dataset("labels", data=[1] * 6))),
        r"store\.h5"),
    Bad("info", "cut", _store(cut(0.9)), r"store\.h5.*again"),
)  # fmt: skip

# -- runs, notebooks, command line ---------------------------------------------------------------


def _ran(change: Any, file: str) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("run", change, file)


LAST = "last/state.safetensors"


def _unfinished(change: Any, file: str) -> Callable[[Bench], Path]:
    """The run as if it had been killed, with one file damaged."""

    def made(bench: Bench) -> Path:
        folder = bench.damaged("run", entry("running", "status"), "record.json")
        target = folder / file
        target.write_bytes(change(target.read_bytes()))
        return folder

    return made


RUNS = (
    Bad("run", "no such folder", lambda b: b.root / "none", r"none.*folder that `train` wrote"),
    Bad("run", "an empty folder", lambda b: b.root, r"config\.json is missing"),
    Bad("run", "config.json a list", _ran(content("[]"), "config.json"), r"config\.json"),
    Bad("run", "config.json cut", _ran(cut(0.5), "config.json"), r"config\.json.*restore"),
    Bad("run", "config.json deep", _ran(content(DEEP), "config.json"), r"config\.json"),
    Bad("run", "config.json with an unknown setting", _ran(entry(1, "stepz"), "config.json"),
        r"stepz"),
    Bad("run", "config.json with NaN", _ran(entry(NAN, "optimizer", "decoder_lr"), "config.json"),
        r"config\.json.*decoder_lr"),
    Bad("run", "config.json with 5,000 digits", _ran(replaced('"seed": 0', f'"seed": {DIGITS}'),
        "config.json"), r"config\.json"),
    Bad("run", "config.json a pipe", lambda b: b.piped("run", "config.json"), r"config\.json"),
    Bad("run", "record.json text", _ran(content("fine"), "record.json"), r"record\.json.*restore"),
    Bad("run", "record.json missing", lambda b: b.without("run", "record.json"), r"record\.json"),
    Bad("run", "history.csv binary", _ran(content(BINARY), "history.csv"), r"history\.csv"),
    Bad("run", "history.csv empty", _ran(content(""), "history.csv"), r"history\.csv"),
    Bad("run", "history.csv ragged", _ran(content("a,b\n1,2,3\n1\n1,2,3,4\n"), "history.csv"),
        r"history\.csv"),
    Bad("run", "no best weights", lambda b: b.without("run", "best/model.safetensors"),
        r"model\.safetensors"),
    Bad("resume", "state cut", _unfinished(cut(0.5), LAST), r"state\.safetensors.*delete"),
    Bad("resume", "state empty", _unfinished(content(""), LAST), r"state\.safetensors.*delete"),
    Bad("resume", "state with a flipped bit", _unfinished(flip(0.9), LAST),
        r"state\.safetensors.*delete"),
    Bad("resume", "state of another network",
        lambda b: _unfinished(content((b.valid.model / WEIGHTS).read_bytes()), LAST)(b),
        r"state\.safetensors.*delete"),
    Bad("resume", "history.csv damaged", _unfinished(content(BINARY), "history.csv"),
        r"history\.csv"),
    Bad("publish", "not evaluated", lambda b: b.copy("run"), r"metrics\.csv.*evaluate"),
)  # fmt: skip


def _book(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("notebook", change)


NOTEBOOKS = (
    Bad("notebook", "no such file", lambda b: b.root / "n.ipynb", r"n\.ipynb.*check the path"),
    Bad("notebook", "a folder", lambda b: b.root, r"folder"),
    Bad("notebook", "a pipe", lambda b: b.pipe("n.ipynb"), r"n\.ipynb.*pipe"),
    Bad("notebook", "empty", _book(content("")), r"small\.ipynb.*save it again"),
    Bad("notebook", "text", _book(content("x = 3")), r"small\.ipynb.*save it again"),
    Bad("notebook", "binary", _book(content(BINARY)), r"small\.ipynb.*save it again"),
    Bad("notebook", "a list", _book(content("[]")), r"small\.ipynb.*save it again"),
    Bad("notebook", "deep", _book(content(DEEP)), r"small\.ipynb.*save it again"),
    Bad("notebook", "of version 99", _book(entry(99, "nbformat")), r"small\.ipynb.*save it again"),
    Bad("notebook", "without cells", _book(content('{"nbformat": 4}')), r"small\.ipynb.*save it"),
    Bad("notebook", "cells a number", _book(entry(3, "cells")), r"small\.ipynb.*save it again"),
    Bad("notebook", "a cell a word", _book(entry(["a"], "cells")), r"small\.ipynb.*save it again"),
    Bad("notebook", "a cell without source", _book(entry([{"cell_type": "code"}], "cells")),
        r"small\.ipynb.*save it again"),
    Bad("run notebook", "unknown parameter", lambda b: {"parameters": {"stepz": 3}},
        r"stepz.*steps"),
    Bad("run notebook", "parameter of another kind", lambda b: {"parameters": {"steps": "x"}},
        r"'steps' takes int"),
    Bad("run notebook", "output that is no notebook", lambda b: {"output": b.root / "o.html"},
        r"o\.html.*\.ipynb"),
    Bad("run notebook", "output over itself",
        lambda b: {"output": b.root / "notebook" / "small.ipynb"}, r"is the notebook itself"),
    Bad("run notebook", "output below a file",
        lambda b: {"output": b.written("file", "") / "o.ipynb"}, r"file.*cannot be written"),
)  # fmt: skip


def _call(*words: Any) -> Callable[[Bench], list[Any]]:
    return lambda b: [word(b) if callable(word) else word for word in words]


def _under(name: str) -> Callable[[Bench], Path]:
    return lambda b: b.root / name


def _bad_store(bench: Bench) -> Path:
    return bench.damaged("store", flip(0.5))


COMMANDS = (
    Bad("command", "unknown", _call("trian"), r"'trian'.*'train'"),
    Bad("command", "unknown experiment", _call("train", "v16", "--out", _under("x")), r"v16"),
    Bad("command", "unknown profile", _call("train", "v15_2", "--profile", "big"), r"big"),
    Bad("command", "5,000 digits", _call("train", "v15_2", "--set", f"steps={DIGITS}"), r"steps"),
    Bad("command", "deep", _call("train", "v15_2", "--set", f"steps={DEEP}"), r"steps"),
    Bad("command", "NaN rate", _call("train", "v15_2", "--set", "decoder_lr=NaN"), r"decoder_lr"),
    Bad("command", "a data set for rooms", _call("train", "v15_2", "--data", _under("x.h5")),
        r"x\.h5.*leave it out"),
    Bad("command", "verify a damaged store", _call("data", "verify", _bad_store),
        r"store\.h5.*again"),
    Bad("command", "verify nothing", _call("data", "verify", _under("n.h5")), r"n\.h5"),
    Bad("command", "verify a pipe", _call("data", "verify", lambda b: b.pipe("p.h5")), r"p\.h5"),
    Bad("command", "info of text", _call("data", "info", lambda b: b.written("a.h5", "a")),
        r"a\.h5"),
    Bad("command", "pack an empty folder", _call("data", "pack", _under("."), _under("o.h5")),
        r"no layout"),
    Bad("command", "pack at size 0",
        _call("data", "pack", lambda b: b.copy("own"), _under("o.h5"), "--size", "0", "0"),
        r"size"),
    Bad("command", "pack too few frames",
        _call("data", "pack", lambda b: b.copy("own"), _under("o.h5")), r"at least"),
    Bad("command", "evaluate nothing", _call("evaluate", _under("none")), r"none holds no run"),
    Bad("command", "publish nothing", _call("publish", _under("none"), _under("p")), r"no run"),
    Bad("command", "run no notebook", _call("run", _under("n.ipynb")), r"n\.ipynb.*check"),
    Bad("command", "run a folder", _call("run", _under(".")), r"folder"),
    Bad("command", "run with an unknown parameter",
        _call("run", lambda b: b.copy("notebook"), "-p", "x", "1"), r"'x'"),
    Bad("command", "an unknown benchmark", _call("bench", "sped"), r"sped"),
)  # fmt: skip

CATALOGUE = (
    *(PICTURES + POINTS + CAMERAS + SETTINGS + MODELS + OWN + LAYOUTS + STORES),
    *(RUNS + NOTEBOOKS + COMMANDS),
)
