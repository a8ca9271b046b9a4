"""The public interface: what a scene accepts, where its points lie, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

import spdlib
from spdlib.errors import QueryError
from spdlib.geometry import NYU_CAMERA, Camera, Size
from spdlib.inspection import Reads
from spdlib.models import DepthModel, ModelConfig
from spdlib.models.base import EXECUTIONS, MAX_SIDE, evaluating
from spdlib.models.sampling import bilinear_points
from spdlib.models.v15 import V152
from spdlib.reading import read_tensors
from spdlib.scene import Answer, Maps, Scene
from spdlib.sealed import seal

SIZE = (64, 96)
FOCAL = 70.0


def build(focal: float | None = FOCAL) -> DepthModel:
    """A small v15_2 whose depths differ clearly from point to point."""
    torch.manual_seed(1)
    model = spdlib.create_model("v15_2", "mobilenetv3_small_050", image_size=SIZE, focal=focal)
    with torch.no_grad():
        model.get_submodule("local_path.head.2").get_parameter("weight").mul_(10)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> DepthModel:
    return build()


@pytest.fixture(scope="module")
def exact_model() -> DepthModel:
    return build().double()


@pytest.fixture
def image() -> np.ndarray:
    """uint8 [64, 96, 3], the training size."""
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def points_in(size: Size, count: int = 30, *batch: int) -> Tensor:
    """Points [*batch, count, 2] anywhere in an image, float64."""
    return torch.rand(*batch, count, 2).double() * torch.tensor([size[1], size[0]]) - 0.5


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


# images


def test_every_form_of_an_image_gives_the_same_scene(model: DepthModel, image: np.ndarray) -> None:
    channels_first = image.transpose(2, 0, 1)
    forms = [
        image, Image.fromarray(image), torch.from_numpy(image), image[::-1][::-1],
        torch.from_numpy(channels_first.copy())[None], channels_first.astype(np.float32) / 255,
        torch.from_numpy(channels_first / 255),
    ]  # fmt: skip
    read_only = image.copy()
    read_only.setflags(write=False)
    expected = model.encode(image).depth_at([[3.0, 4.5]])
    assert expected.shape == (1,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in [*forms, read_only]:
            assert largest(model.encode(form).depth_at([[3.0, 4.5]]) - expected) < 1e-5


def test_a_path_and_a_list_are_images_too(
    model: DepthModel, image: np.ndarray, tmp_path: Path
) -> None:
    path, rotated = tmp_path / "room.png", tmp_path / "rotated.png"
    picture = Image.fromarray(image)
    picture.convert("RGBA").save(path)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: to be turned right by 90 degrees
    picture.transpose(Image.Transpose.ROTATE_90).save(rotated, exif=turned)
    expected = model.encode(image).depth_at([[3.0, 4.5]])
    for form in (path, str(path), rotated):
        assert torch.equal(model.encode(form).depth_at([[3.0, 4.5]]), expected)
    both = model.encode([path, image[:, ::-1]])
    assert both.batch == 2 and both.image_size == SIZE
    assert largest(both.depth_at([[[3.0, 4.5]]] * 2)[0] - expected) < 1e-5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_encoded_upright(
    model: DepthModel, image: np.ndarray, tmp_path: Path, orientation: int
) -> None:
    """Given as a file, as the opened file, or turned by hand; the camera is of what is upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "room.png", exif=exif)
    turned = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "room.png")))
    expected = model.encode(turned)
    for form in (tmp_path / "room.png", Image.open(tmp_path / "room.png")):
        scene = model.encode(form)
        assert scene.image_size == turned.shape[:2]
        assert torch.equal(scene.maps["L1"], expected.maps["L1"])
        if orientation > 4:
            match = r"EXIF orientation turns it to 96x64, give the camera of the upright picture"
            with pytest.raises(QueryError, match=match):
                model.encode(form, Camera.from_focal(FOCAL, 96, 64))
    model.encode(tmp_path / "room.png", Camera.from_focal(FOCAL, *turned.shape[1::-1]))


def test_an_opened_picture_that_is_truncated_is_refused(
    model: DepthModel, image: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "room.jpg"
    Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(QueryError, match=r"^the image: cannot be decoded .*truncated"):
        model.encode(Image.open(path))
    with pytest.raises(QueryError, match=r"room.jpg: cannot be decoded .*truncated"):
        model.encode(path)


@pytest.mark.timeout(30)
def test_a_pipe_is_no_picture(model: DepthModel, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "room.png")
    with pytest.raises(QueryError, match=r"room.png: is a pipe or a device, not a file"):
        model.encode(tmp_path / "room.png")


def test_deep_pictures_are_refused(model: DepthModel, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint16)).save(tmp_path / "depth.png")
    with pytest.raises(QueryError, match=r"depth.png: holds I;16 values, not 8-bit"):
        model.encode(tmp_path / "depth.png")


def test_one_point_has_one_depth(model: DepthModel, image: np.ndarray) -> None:
    scene = model.encode(image, Camera.from_focal(FOCAL, 96, 64))
    depth = scene.depth_at((3, 4.5))
    assert depth.shape == ()
    assert torch.equal(depth, scene.depth_at([(3, 4.5)])[0])
    assert torch.equal(scene.points_3d((3, 4.5)), scene.points_3d([(3, 4.5)])[0])
    with pytest.raises(QueryError, match="the scene holds 2 images"):
        model.encode([image, image]).depth_at((3, 4.5))


def test_a_scene_moves_between_devices(model: DepthModel, image: np.ndarray) -> None:
    moved = model.encode(image).to("meta")
    assert {level.device.type for level in moved.maps.values()} == {"meta"}
    with pytest.raises(
        QueryError, match=r"this scene is on meta, its network on cpu: use scene.to"
    ):
        moved.depth_at((3, 4))


def bad_images() -> dict[str, tuple[Any, str]]:
    """Name -> an image that must be refused, and what the message must say."""
    grey, colour = np.zeros((8, 9), np.uint8), np.zeros((8, 9, 3), np.uint8)
    unit = np.zeros((3, 8, 9), np.float32)
    bright, dark, unknown = unit + 1.01, unit - 0.01, unit.copy()
    unknown[0, 0, 0] = np.nan
    return {
        "grey PIL": (Image.fromarray(grey), "is L, not RGB"),
        "RGBA PIL": (Image.fromarray(colour).convert("RGBA"), "convert"),
        "palette PIL": (Image.fromarray(colour).convert("P"), "is P, not RGB"),
        "grey array": (grey, "grey or RGBA"),
        "grey array with a channel": (grey[..., None], "grey or RGBA"),
        "RGBA array": (np.zeros((8, 9, 4), np.uint8), "grey or RGBA"),
        "uint8 channels first": (colour.transpose(2, 0, 1), r"uint8 \[H, W, 3\]"),
        "grey floats": (unit[:1], "grey or RGBA"),
        "RGBA floats": (np.zeros((4, 8, 9), np.float32), "grey or RGBA"),
        "float channels last": (unit.transpose(1, 2, 0), r"float \[3, H, W\]"),
        "floats of 0 to 255": (unit + 255, "lie in 0..1"),
        "above one": (bright, "spans 1.01..1.01"),
        "below zero": (dark, "lie in 0..1"),
        "NaN": (unknown, "the image holds NaN"),
        "int64": (colour.astype(np.int64), "got torch.int64"),
        "uint16": (colour.astype(np.uint16), "got torch.uint16"),
        "bool": (colour.astype(bool), "got torch.bool"),
        "objects": (colour.astype(object), "got object"),
        "nothing": (np.zeros((0, 9, 3), np.uint8), "got shape"),
        "colours last": (torch.zeros(8, 9, 3), r"got shape \[8, 9, 3\]. Move the channels first"),
        "five dimensions": (torch.zeros(1, 1, 3, 8, 9), "got shape"),
        "0 to 255": (np.full((3, 8, 9), 255.0), r"spans 255\.\.255\. Rescale it, or give uint8"),
        "a missing file": ("room.jpg", "room.jpg: no such file"),
        "a folder": (str(Path(__file__).parent), "is a folder, not a file"),
        "a file of text": (__file__, "is no picture of JPEG, PNG"),
        "numbers": ([[1, 2, 3]], "got int"),
        "an empty list": ([], "images of one size"),
        "a list of two sizes": ([colour, colour[1:]], r"got sizes \[\(8, 9\), \(7, 9\)\]"),
    }


@pytest.mark.parametrize("name", bad_images())
def test_bad_images_are_refused(model: DepthModel, name: str) -> None:
    image, message = bad_images()[name]
    with pytest.raises(QueryError, match=message):
        model.encode(image)


# size and camera


def test_a_camera_decides_the_scale(model: DepthModel) -> None:
    scene = model.encode(torch.rand(3, 480, 640), NYU_CAMERA)
    scale = FOCAL / NYU_CAMERA.focal
    assert scene.resized == (round(480 * scale), round(640 * scale)) == (65, 86)
    assert scene.padded == (96, 96)
    assert scene.image_size == (480, 640)
    assert scene.camera == NYU_CAMERA
    assert scene.camera_assumed is None
    assert NYU_CAMERA.resized(*scene.resized).focal == pytest.approx(FOCAL, rel=0.01)


def test_without_a_camera_the_height_decides(model: DepthModel) -> None:
    scene = model.encode(torch.rand(3, 480, 600))
    assert scene.resized == (64, 80)
    assert scene.padded == (64, 96)
    assert scene.camera is None
    assert scene.camera_assumed == "focal length 525.0 px, as in training at this height"


def test_an_untold_network_says_that_scale_is_unknown() -> None:
    untold = build(focal=None)
    for camera in (None, NYU_CAMERA):
        scene = untold.encode(torch.rand(3, 480, 640), camera)
        assert scene.resized == (64, 85)
        assert scene.camera_assumed is not None
        assert "scale unknown" in scene.camera_assumed


def test_training_size_is_left_alone(model: DepthModel, image: np.ndarray) -> None:
    scene = model.encode(image, Camera(FOCAL, FOCAL, 48, 32, 96, 64))
    assert scene.image_size == scene.resized == scene.padded == SIZE


def test_squashed_images_keep_the_callers_pixels(exact_model: DepthModel) -> None:
    """Suspected fault F1."""
    wide = torch.rand(3, 128, 320).double()
    scene = exact_model.encode(wide, squash=True)
    assert (scene.image_size, scene.resized) == ((128, 320), SIZE)
    pressed = F.interpolate(wide[None], SIZE, mode="bilinear", antialias=True)
    points = points_in((128, 320))
    inside = (points + 0.5) * points.new_tensor([96 / 320, 64 / 128]) - 0.5
    expected = exact_model.encode(pressed).depth_at(inside[None])[0]
    assert largest(scene.depth_at(points) - expected) < 1e-12


def test_camera_of_another_image_is_refused(model: DepthModel, image: np.ndarray) -> None:
    with pytest.raises(QueryError, match=r"camera is of a 480x640 image, the image is 64x96"):
        model.encode(image, NYU_CAMERA)
    with pytest.raises(QueryError, match=r"96x64 image.* 64x96 .*a camera takes the width first"):
        model.encode(image, Camera(FOCAL, FOCAL, 32, 48, 64, 96))


@pytest.mark.parametrize("camera", [(500, 500, 48, 32), [NYU_CAMERA, NYU_CAMERA]])
def test_what_is_no_camera_is_refused(model: DepthModel, image: np.ndarray, camera: Any) -> None:
    with pytest.raises(QueryError, match=r"one spdlib.Camera for all images of a batch; got \w+"):
        model.encode(image, camera)


def test_a_scene_is_shown_in_a_line(model: DepthModel, image: np.ndarray) -> None:
    shown = repr(model.encode(image))
    assert shown.startswith("Scene(64x96, V152, s8_L2 [1, 8, 12, 128], L1 [1, 16, 24, 64]; camera:")
    assert "\n" not in shown


def test_senseless_sizes_are_refused(model: DepthModel) -> None:
    metres = Camera(0.004, 0.004, 48, 32, 96, 64)
    with pytest.raises(QueryError, match=r"Camera.*in millimetres.*give them in pixels"):
        model.encode(torch.rand(3, *SIZE), metres)
    aside = Camera(70, 70, 4000, 32, 96, 64)
    with pytest.raises(QueryError, match=r"cx=4000.*principal point looks"):
        model.encode(torch.rand(3, *SIZE), aside)
    telescope = Camera(1e6, 1e6, 48, 32, 96, 64)
    with pytest.raises(QueryError, match=r"resized to 1x1 .*below 32 px .*Camera\(fx=1000000.0"):
        model.encode(torch.rand(3, *SIZE), telescope)
    with pytest.raises(QueryError, match="below 32 px a side; crop it"):
        model.encode(torch.rand(3, 64, 20))
    with pytest.raises(QueryError, match=f"beyond {MAX_SIDE} px a side; crop it"):
        model.encode(torch.rand(3, 4, 400))


def test_points_stay_in_the_callers_pixels(exact_model: DepthModel) -> None:
    """The same view at twice the size, its camera resized too, has the same depths."""
    coarse = torch.rand(1, 3, 5, 7, dtype=torch.float64)
    small, large = (
        F.interpolate(coarse, size, mode="bicubic").clamp(0, 1) for size in (SIZE, (128, 192))
    )
    camera = Camera(FOCAL, FOCAL, 50, 30, 96, 64)
    points = points_in(SIZE, 200)
    depth = exact_model.encode(small, camera).depth_at(points)
    scene = exact_model.encode(large, camera.resized(128, 192))
    assert scene.resized == SIZE
    again = scene.depth_at((points + 0.5) * 2 - 0.5)
    assert largest(depth - again) < 0.05 * (depth.max() - depth.min())
    assert largest(scene.depth_at(points) - depth) > 0.2 * (depth.max() - depth.min())


def test_padding_changes_no_coordinates(exact_model: DepthModel) -> None:
    """An image of no round size is padded right and below, where no point lies."""
    images = torch.rand(1, 3, 50, 70, dtype=torch.float64)
    scene = exact_model.encode(images, Camera(FOCAL, FOCAL, 34, 25, 70, 50))
    assert (scene.resized, scene.padded) == ((50, 70), (64, 96))
    points = points_in((50, 70), 40, 1)
    with torch.no_grad():
        expected = exact_model(F.pad(images, (0, 26, 0, 14), mode="replicate"), points).depth
    assert largest(scene.depth_at(points) - expected) < 1e-12


# answers


@pytest.mark.parametrize("form", EXECUTIONS)
def test_order_company_and_chunks_change_nothing(form: str, image: np.ndarray) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        model = build().to(dtype)
        model.execution = form
        scene, points = model.encode(image), points_in(SIZE, 67)
        depth = scene.depth_at(points)
        limit = tolerance * max(1.0, depth.max().item())
        order = torch.randperm(67)
        assert largest(scene.depth_at(points[order]) - depth[order]) <= limit
        assert largest(scene.depth_at(points, chunk=5) - depth) <= limit
        assert largest(scene.depth_at(points, chunk=1) - depth) <= limit
        alone = torch.stack([scene.depth_at(point[None])[0] for point in points[:9]])
        assert largest(alone - depth[:9]) <= limit
        assert depth.dtype == dtype


def test_batches_answer_as_single_images(exact_model: DepthModel) -> None:
    images, points = torch.rand(3, 3, 70, 90).double(), points_in((70, 90), 25, 3)
    scene = exact_model.encode(images)
    assert scene.batch == 3
    depth, dense = scene.depth_at(points), scene.dense(stride=8)
    assert (depth.shape, dense.shape) == ((3, 25), (3, 9, 12))
    for index, image in enumerate(images):
        alone = exact_model.encode(image)
        assert largest(alone.depth_at(points[index]) - depth[index]) < 1e-12
        assert largest(alone.depth_at(points[index : index + 1]) - depth[index : index + 1]) < 1e-12
        assert largest(alone.dense(8) - dense[index : index + 1]) < 1e-12


def test_dense_is_the_lattice_resized(exact_model: DepthModel, image: np.ndarray) -> None:
    scene = exact_model.encode(image)
    with torch.no_grad():
        lattice = exact_model.decode_lattice(scene.maps)
    full = F.interpolate(lattice[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
    assert largest(scene.dense() - full) < 1e-12
    assert largest(scene.dense(stride=5) - full[:, ::5, ::5]) < 1e-12


def test_dense_follows_resizing_and_padding(exact_model: DepthModel) -> None:
    image = torch.rand(3, 100, 130)
    scene = exact_model.encode(image, Camera(90, 90, 65, 50, 130, 100))
    assert scene.padded != scene.resized != scene.image_size
    dense = scene.dense(stride=3)
    assert dense.shape == (1, 34, 44)
    v, u = torch.meshgrid(torch.arange(0, 100, 3), torch.arange(0, 130, 3), indexing="ij")
    pixels = torch.stack([u, v], -1).double()
    ratio = torch.tensor([scene.resized[1] / 130, scene.resized[0] / 100], dtype=torch.float64)
    with torch.no_grad():
        lattice = exact_model.decode_lattice(scene.maps)[..., None]
    inside = ((pixels + 0.5) * ratio - 0.5).view(1, -1, 2)
    expected = bilinear_points(lattice, inside, scene.padded).view(1, 34, 44)
    assert largest(dense - expected) < 1e-12


def test_dense_meets_the_queries_at_cell_centres(exact_model: DepthModel) -> None:
    """In an image 5/4 of the training size a cell is 5 px wide: its centre is a pixel."""
    camera = Camera(1.25 * FOCAL, 1.25 * FOCAL, 60, 40, 120, 80)
    scene = exact_model.encode(torch.rand(3, 80, 120), camera)
    assert scene.resized == SIZE
    v, u = torch.meshgrid(torch.arange(2, 80, 5), torch.arange(2, 120, 5), indexing="ij")
    depth = scene.depth_at(torch.stack([u, v], -1).view(1, -1, 2)).view(1, 16, 24)
    assert largest(scene.dense()[:, 2::5, 2::5] - depth) < 1e-12


def test_places_that_a_query_reads_are_in_the_callers_pixels() -> None:
    torch.manual_seed(0)
    watched: Any = spdlib.create_model("v14_dual", "mobilenetv2_035", image_size=SIZE).eval()
    half = watched.encode(torch.rand(3, 128, 192))
    points = points_in((128, 192), 5)
    own = watched.explained(half.maps, half._to_network(points[None].float()), half.padded)
    found = half.explain(points)
    assert [type(probe) for probe in found] == [type(probe) for probe in own]
    pairs = [(a, b) for a, b in zip(found, own, strict=True) if isinstance(a, Reads)]
    assert len(pairs) == 3
    for seen, inside in pairs:
        assert isinstance(inside, Reads)
        assert torch.allclose(seen.pixels, 2 * inside.pixels + 0.5, atol=1e-3)
        assert torch.equal(seen.weights, inside.weights)


def test_points_3d_use_the_callers_camera(model: DepthModel) -> None:
    scene = model.encode(torch.rand(3, 480, 640), NYU_CAMERA)
    points = points_in((480, 640), 10).float()
    xyz, depth = scene.points_3d(points), scene.depth_at(points)
    assert xyz.shape == (10, 3)
    assert torch.equal(xyz[:, 2], depth)
    assert largest(NYU_CAMERA.project(xyz) - points) < 1e-2
    with pytest.raises(QueryError, match="need a camera"):
        model.encode(torch.rand(3, *SIZE)).points_3d(points)


class NoDensePath(V152):
    has_dense = False


class Company(V152):
    """Answers how many queries were asked together."""

    queries_are_independent = False

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        return Answer(torch.full(points.shape[:2], float(points.shape[1])))


def test_networks_without_a_dense_path_ask_every_pixel(model: DepthModel) -> None:
    config = ModelConfig("v15_2", spdlib.EncoderConfig("mobilenetv3_small_050"), SIZE, FOCAL)
    other = NoDensePath(config).eval()
    scene = other.encode(torch.rand(2, 3, *SIZE))
    with pytest.warns(UserWarning, match="asking 24 queries an image") as caught:
        dense = scene.dense(stride=16)
    assert caught[0].filename == __file__
    v, u = torch.meshgrid(torch.arange(0, 64, 16), torch.arange(0, 96, 16), indexing="ij")
    points = torch.stack([u, v], -1).view(1, -1, 2).expand(2, -1, -1)
    assert torch.equal(dense, scene.depth_at(points).view(2, 4, 6))
    with pytest.raises(spdlib.SPDError, match="no dense path"):
        super(V152, other).decode_lattice(scene.maps)


def test_dependent_queries_are_asked_in_groups_of_256() -> None:
    config = ModelConfig("v15_2", spdlib.EncoderConfig("mobilenetv3_small_050"), SIZE)
    scene = Company(config).encode(torch.rand(3, *SIZE))
    groups = scene.depth_at(points_in(SIZE, 600), chunk=10_000)
    assert groups.unique(return_counts=True)[0].tolist() == [88, 256]


def test_a_group_of_another_size_can_be_asked_together(
    model: DepthModel, image: np.ndarray
) -> None:
    config = ModelConfig("v15_2", spdlib.EncoderConfig("mobilenetv3_small_050"), SIZE)
    scene = Company(config).encode(torch.rand(3, *SIZE))
    points = points_in(SIZE, 1024)
    for group in (1, 64, 1024):
        assert scene.depth_at(points, group=group).unique().tolist() == [group]
    with pytest.raises(QueryError, match="group is a whole number from 1; got 0"):
        scene.depth_at(points, group=0)
    independent = model.encode(image)
    alone = independent.depth_at(points[:9], group=1)
    torch.testing.assert_close(alone, independent.depth_at(points[:9]))


def test_scenes_made_under_autocast_answer_outside_it(model: DepthModel, image: np.ndarray) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        scene = model.encode(image)
        inside = scene.depth_at([[10.0, 20.0]])
    outside, expected = scene.depth_at([[10.0, 20.0]]), model.encode(image).depth_at([[10.0, 20.0]])
    assert inside.dtype == outside.dtype == torch.float32
    assert largest(outside - expected) < 0.1 * expected.item()


def test_encoding_leaves_the_training_mode_alone(image: np.ndarray) -> None:
    model = build().train()
    model.encode(image)
    assert model.training
    assert not model.eval().encode(image).maps["L1"].requires_grad
    assert not model.training


@pytest.mark.parametrize("name", ["v15_2", "v14_plan"])
def test_threads_may_ask_a_network_while_it_trains(name: str, image: np.ndarray) -> None:
    """The one that trains is in training mode throughout, dropout is off for those that ask."""
    torch.manual_seed(3)
    model = spdlib.create_model(name, "mobilenetv3_small_050", image_size=SIZE).eval()
    model.trained = "a test"
    points = points_in(SIZE, 5)
    with torch.no_grad():  # so that attention and its dropout show in the answers
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    expected = model.encode(image).depth_at(points)
    model.train()
    own: dict[nn.Module, bool] = {}
    kept: list[bool] = []
    trainer = threading.get_ident()

    def watch(part: nn.Module, _: object) -> None:
        if threading.get_ident() == trainer:
            kept.append(part.training == own[part])

    for part in model.modules():
        own[part] = part.training  # frozen BatchNorm is not
        part.register_forward_pre_hook(watch)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda: model.encode(image).depth_at(points)) for _ in range(12)]
        while not all(each.done() for each in asked):
            model(torch.rand(2, 3, *SIZE), points_in(SIZE, 4, 2).float()).depth.sum().backward()
    assert kept and all(kept) and model.training
    for each in asked:
        assert torch.equal(each.result(), expected)


def test_a_copy_in_evaluation_mode_follows_the_network() -> None:
    model = build().train()
    copy = evaluating(model)
    assert not any(part.training for part in copy.modules())
    assert list(map(id, copy.parameters())) == list(map(id, model.parameters()))
    model.double()
    assert {x.dtype for x in [*copy.parameters(), *copy.buffers()]} <= {torch.float64, torch.int64}
    assert [name for name, _ in copy.named_modules()] == [name for name, _ in model.named_modules()]


def test_scenes_are_immutable(model: DepthModel, image: np.ndarray) -> None:
    scene = model.encode(image)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.camera = NYU_CAMERA  # type: ignore[misc]


# refused points


def bad_points() -> dict[str, tuple[Any, str]]:
    """Name -> points that a scene of one 64x96 image refuses, and what the message must say."""
    return {
        "none": ([], "no points were given"),
        "none of an array": (np.zeros((0, 2)), "no points were given"),
        "a number": (320, r"One point is depth_at\(\(u, v\)\)"),
        "a flat list": ([3.0, 4.0, 5.0, 6.0], r"got shape \[4\]"),
        "three coordinates": ([[1.0, 2.0, 3.0]], r"got shape \[1, 3\]"),
        "four dimensions": (torch.zeros(1, 1, 1, 2), r"got shape \[1, 1, 1, 2\]"),
        "ragged": ([[1.0, 2.0], [3.0]], "points are numbers"),
        "text": ("here", "points are numbers"),
        "nothing": (None, "points are numbers"),
        "complex": (np.array([[1j, 2.0]]), "complex"),
        "bool": (np.array([[True, False]]), "bool"),
        "NaN": ([[3.0, 4.0], [np.nan, 4.0]], r"point \(nan, 4\) lies outside"),
        "infinite": ([[np.inf, 4.0]], r"point \(inf, 4\)"),
        "left": ([[-0.51, 4.0]], r"point \(-0.51, 4\) lies outside the 64x96 image"),
        "right": ([[95.51, 4.0]], r"u in \[-0.5, 95.5\], v in \[-0.5, 63.5\]"),
        "above": ([[3.0, -0.6]], r"point \(3, -0.6\)"),
        "below": ([[3.0, 63.6]], r"point \(3, 63.6\)"),
        "two images": (torch.zeros(2, 5, 2), "holds 1 images, the points are for 2"),
    }


@pytest.mark.parametrize("name", bad_points())
def test_bad_points_are_refused(model: DepthModel, name: str) -> None:
    points, message = bad_points()[name]
    scene = model.encode(torch.rand(3, *SIZE))
    with pytest.raises(QueryError, match=message):
        scene.depth_at(points)


def test_points_may_lie_on_the_very_edge(model: DepthModel, image: np.ndarray) -> None:
    corners = [[-0.5, -0.5], [95.5, -0.5], [-0.5, 63.5], [95.5, 63.5]]
    assert model.encode(image).depth_at(corners).isfinite().all()


def test_points_come_as_lists_arrays_integers_and_tensors(
    model: DepthModel, image: np.ndarray
) -> None:
    scene = model.encode(image)
    whole = [[3, 4], [90, 60]]
    expected = scene.depth_at(torch.tensor(whole).float())
    for points in (whole, tuple(map(tuple, whole)), np.array(whole), np.array(whole, np.uint16)):
        assert torch.equal(scene.depth_at(points), expected)


def test_a_batch_needs_points_for_every_image(model: DepthModel) -> None:
    scene = model.encode(torch.rand(2, 3, *SIZE))
    with pytest.raises(QueryError, match=r"holds 2 images.*give points \[2, K, 2\]"):
        scene.depth_at([[1.0, 2.0]])


def test_senseless_chunks_and_strides_are_refused(model: DepthModel, image: np.ndarray) -> None:
    scene = model.encode(image)
    for chunk in (0, 2.5, "9", True):
        with pytest.raises(QueryError, match=f"chunk is a whole number .* got {chunk!r}"):
            scene.depth_at([[1.0, 2.0]], chunk=chunk)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="stride is a whole number from 1"):
        scene.dense(stride=0)


# files


FOREIGN = Camera.from_matrix(
    np.array([[520, 0, 320], [0, 520, 240], [0, 0, 1]], np.float32), *np.array([640, 480])
)
"""A camera whose numbers were those of other libraries."""


@pytest.mark.parametrize("camera", [None, NYU_CAMERA, FOREIGN])
def test_scenes_survive_a_file(model: DepthModel, tmp_path: Path, camera: Camera | None) -> None:
    scene = model.encode(torch.rand(3, 480, 640), camera)
    scene.save(tmp_path / "office.safetensors")
    again = Scene.load(tmp_path / "office.safetensors", model)
    points = points_in((480, 640), 20)
    assert torch.equal(again.depth_at(points), scene.depth_at(points))
    assert torch.equal(again.dense(16), scene.dense(16))
    for name in ("image_size", "resized", "padded", "camera", "camera_assumed"):
        assert getattr(again, name) == getattr(scene, name)
    assert [path.name for path in tmp_path.iterdir()] == ["office.safetensors"]


def test_a_saved_network_reads_its_scenes(
    model: DepthModel, image: np.ndarray, tmp_path: Path
) -> None:
    scene = model.encode(image)
    scene.save(tmp_path / "scene.safetensors")
    model.save(tmp_path / "model")
    loaded = spdlib.load(tmp_path / "model")
    again = spdlib.Scene.load(tmp_path / "scene.safetensors", loaded)
    points = points_in(SIZE)
    assert torch.equal(again.depth_at(points), scene.depth_at(points))


def test_a_networks_name_reads_no_scene(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"give that network, .*got 'v15_2'"):
        spdlib.Scene.load(tmp_path / "scene.safetensors", "v15_2")


@pytest.mark.parametrize("change", ["weights", "config"])
def test_scenes_of_another_network_are_refused(
    model: DepthModel, image: np.ndarray, tmp_path: Path, change: str
) -> None:
    model.encode(image).save(tmp_path / "scene.safetensors")
    other = build(focal=FOCAL if change == "weights" else 71.0)
    if change == "weights":
        with torch.no_grad():
            next(other.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(QueryError, match="another network or other weights"):
        Scene.load(tmp_path / "scene.safetensors", other)


def _step(optimizer: type[torch.optim.Optimizer], **options: Any) -> Callable[[DepthModel], None]:
    def change(model: DepthModel) -> None:
        model(torch.rand(1, 3, *SIZE), torch.rand(1, 4, 2) * 30).depth.sum().backward()
        optimizer(model.parameters(), **options).step()

    return change


def _load(model: DepthModel) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def _round(model: DepthModel) -> None:
    """Back to the old type and perhaps to the old addresses, not to the old numbers."""
    model.to(torch.bfloat16).to(torch.float32)


def _count(model: DepthModel) -> None:
    """BatchNorm statistics change without any gradient."""
    norm = model.get_submodule("encoder.body.bn1")
    norm.train()(torch.rand(2, len(norm.get_buffer("running_mean")), 4, 4))


CHANGES: dict[str, Callable[[DepthModel], Any]] = {
    "SGD": _step(torch.optim.SGD, lr=1e-2),
    "fused AdamW": _step(torch.optim.AdamW, lr=1e-5, fused=True),
    "load_state_dict": _load,
    "through .data": lambda model: next(model.parameters()).data.mul_(1.01),
    "another type": lambda model: model.double(),
    "another type and back": _round,
    "BatchNorm statistics": _count,
}


@pytest.mark.parametrize("name", CHANGES)
def test_scenes_of_earlier_weights_are_not_saved(
    image: np.ndarray, tmp_path: Path, name: str
) -> None:
    """Their file would name the new weights and pass for theirs."""
    model = build()
    scene = model.encode(image)
    CHANGES[name](model)
    with pytest.raises(QueryError, match=r"changed after it encoded this scene; encode the image"):
        scene.save(tmp_path / "scene.safetensors")
    assert not list(tmp_path.iterdir())


def test_scenes_are_saved_when_the_maps_are_still_the_networks_own(
    image: np.ndarray, tmp_path: Path
) -> None:
    """After a change of mode, of gradients or of the decoder alone."""
    model = build().train()
    scene = model.encode(image)
    model.eval()(torch.rand(1, 3, *SIZE), torch.rand(1, 4, 2) * 30).depth.sum().backward()
    model.requires_grad_(False)
    model.get_submodule("local_path.head.2").get_parameter("weight").add_(1)
    scene.save(tmp_path / "scene.safetensors")
    again = Scene.load(tmp_path / "scene.safetensors", model)
    points = points_in(SIZE)
    assert torch.equal(again.depth_at(points), model.encode(image).depth_at(points))


def test_a_loaded_scene_keeps_the_name_of_its_weights(image: np.ndarray, tmp_path: Path) -> None:
    model = build()
    model.encode(image).save(tmp_path / "scene.safetensors")
    again = Scene.load(tmp_path / "scene.safetensors", model)
    _load(model)
    again.save(tmp_path / "again.safetensors")
    with pytest.raises(QueryError, match="another network or other weights"):
        Scene.load(tmp_path / "again.safetensors", model)
    assert isinstance(Scene.load(tmp_path / "again.safetensors", build()), Scene)


def test_networks_made_in_inference_mode_encode(image: np.ndarray, tmp_path: Path) -> None:
    with torch.inference_mode():
        build().encode(image).save(tmp_path / "scene.safetensors")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _strip(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)


def _garble(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {"scene": "{not json"})


def _forget(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {"scene": json.dumps({"model": "x"})})


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _nest(path: Path) -> None:
    """A hash that is right does not help what it is of."""
    maps, text = {"a": torch.zeros(2)}, "[" * 10**5
    path.write_bytes(seal(maps, "scene", text))


def _record(**changes: Any) -> Callable[[Path], None]:
    """Another record beside the same maps."""

    def change(path: Path) -> None:
        maps, metadata = read_tensors(path, QueryError, "")
        text, *sealed = metadata["scene"].splitlines()
        text = json.dumps({**json.loads(text), **changes})
        safetensors.torch.save_file(maps, path, {"scene": "\n".join([text, *sealed])})

    return change


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": _truncate,
    "no record": _strip,
    "no JSON": _garble,
    "half a record": _forget,
    "nested": _nest,
    "missing": Path.unlink,
    "a flipped bit": _flip,
    "a pipe": _pipe,
    "another size": _record(image_size=[48, 96]),
    "no size": _record(resized=[-64, 2.5]),
    "a smaller padding": _record(padded=[32, 32]),
    "another camera": _record(camera=dataclasses.asdict(NYU_CAMERA)),
    "another form": _record(execution="reference"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_scenes_are_refused(
    model: DepthModel, image: np.ndarray, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "scene.safetensors"
    model.encode(image).save(path)
    DAMAGES[name](path)
    with pytest.raises(
        QueryError, match=r"scene.safetensors: (is|no) .*; (encode|check)"
    ) as raised:
        Scene.load(path, model)
    assert "\n" not in str(raised.value)


def test_unwritable_scenes_say_so(model: DepthModel, image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(QueryError, match=r"cannot write .*choose another folder"):
        model.encode(image).save(tmp_path / "file" / "scene.safetensors")


def test_a_full_disk_keeps_the_previous_scene(
    model: DepthModel, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scene.safetensors"
    model.encode(image).save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(QueryError, match=r"No space left on device; the previous file is kept"):
        model.encode(image[::-1]).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
