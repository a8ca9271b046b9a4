"""Pixels, cells and cameras: every change of an image keeps its points on the same rays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spdlib.errors import DataError
from spdlib.geometry import (
    NYU_CAMERA,
    Camera,
    GridRule,
    cells_to_pixels,
    lattice_points,
    nearest_cell,
    pixels_to_cells,
)

relaxed = settings(deadline=None, max_examples=60)
sizes = st.tuples(st.integers(1, 700), st.integers(1, 700))
degrees = st.floats(-180, 180)


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    """Cameras with fx != fy and some skew, the principal point anywhere near the image."""
    height, width = draw(st.tuples(st.integers(4, 900), st.integers(4, 900)))
    fx, fy = draw(st.floats(40, 2000)), draw(st.floats(40, 2000))
    cx, cy = draw(st.floats(-50, 950)), draw(st.floats(-50, 950))
    return Camera(fx, fy, cx, cy, width, height, draw(st.floats(-60, 60)))


def points_in(camera: Camera, count: int = 20) -> tuple[Tensor, Tensor]:
    """Points [count, 2] anywhere in the camera's image, and depths [count] of 0.5 to 10 m."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(count, 3, dtype=torch.float64, generator=generator)
    limit = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    return draw[:, :2] * limit - 0.5, draw[:, 2] * 9.5 + 0.5


def turned(points: Tensor, camera: Camera, angle: float) -> Tensor:
    """Points turned counter-clockwise about the image's centre (v points down)."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre = torch.tensor([camera.width - 1, camera.height - 1], dtype=torch.float64) / 2
    u, v = (points - centre).unbind(-1)
    return torch.stack([c * u + s * v, -s * u + c * v], -1) + centre


def assert_close(value: Tensor, reference: Tensor, tolerance: float = 1e-9) -> None:
    scale = max(1.0, reference.abs().max().item())
    assert (value - reference).abs().max().item() <= tolerance * scale


def assert_same_camera(first: Camera, second: Camera) -> None:
    assert_close(first.to_tensor(), second.to_tensor(), 1e-9)


# the grid rule


@relaxed
@given(sizes, sizes)
def test_image_edges_meet_map_edges(image: tuple[int, int], cells: tuple[int, int]) -> None:
    corners = torch.tensor([[-0.5, -0.5], [image[1] - 0.5, image[0] - 0.5]], dtype=torch.float64)
    expected = torch.tensor([[-0.5, -0.5], [cells[1] - 0.5, cells[0] - 0.5]], dtype=torch.float64)
    assert_close(pixels_to_cells(corners, image, cells), expected, 1e-12)


@relaxed
@given(sizes, sizes, st.integers(0, 9))
def test_cells_and_pixels_are_inverse(
    image: tuple[int, int], cells: tuple[int, int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 800 - 50
    back = cells_to_pixels(pixels_to_cells(points, image, cells), image, cells)
    assert_close(back, points, 1e-12)


def test_rule_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 7.0], [1.5, 479.5]])
    cells = pixels_to_cells(points, (480, 640), (120, 80))
    assert torch.allclose(
        cells, torch.tensor([[-0.4375, -0.375], [-0.0625, 1.375], [-0.25, 119.5]])
    )


def test_recorded_rule_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [8.0, 6.0]])
    cells = pixels_to_cells(points, (480, 640), (120, 160), GridRule.RECORDED)
    assert cells.tolist() == [[0.0, 0.0], [2.0, 1.5]]
    assert GridRule.RECORDED.zeros and not GridRule("half_pixel").zeros


@relaxed
@given(st.integers(1, 900), st.integers(1, 900))
def test_nearest_cell_is_exact_for_every_pixel(pixels: int, cells: int) -> None:
    u = torch.arange(pixels)
    points = torch.stack([u.float(), torch.zeros(pixels)], -1)
    expected = (2 * u + 1) * cells // (2 * pixels)  # floor((u + 0.5) w / W), in integers
    found = nearest_cell(points, (1, pixels), (1, cells))
    assert torch.equal(found[:, 0], expected)
    assert found.dtype == torch.int64


def test_nearest_cell_stays_on_the_map() -> None:
    corners = torch.tensor([[-0.5, -0.5], [475.5, 349.5]])
    assert nearest_cell(corners, (350, 476), (100, 136)).tolist() == [[0, 0], [135, 99]]


@relaxed
@given(sizes, st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_lattice_points_are_cell_centres(image: tuple[int, int], cells: tuple[int, int]) -> None:
    points = lattice_points(cells, image, dtype=torch.float64)
    index = pixels_to_cells(points, image, cells)
    rows = torch.arange(cells[0]).repeat_interleave(cells[1])
    columns = torch.arange(cells[1]).repeat(cells[0])
    assert_close(index, torch.stack([columns, rows], -1).double(), 1e-12)
    assert torch.equal(nearest_cell(points, image, cells), torch.stack([columns, rows], -1))


def test_lattice_of_v15_holds_no_pixel_centre() -> None:
    """Sites are at u = (x + 0.5) 3.5 - 0.5, so a dense answer is read between them at any pixel."""
    points = lattice_points((100, 136), (350, 476))
    assert points.shape == (13_600, 2)
    assert set((points % 1).flatten().tolist()) == {0.25, 0.75}


# cameras


@relaxed
@given(cameras())
def test_project_undoes_back_project(camera: Camera) -> None:
    points, depth = points_in(camera)
    xyz = camera.back_project(points, depth)
    assert torch.equal(xyz[..., 2], depth)
    assert_close(camera.project(xyz), points)


def test_back_project_by_hand() -> None:
    camera = Camera(100, 200, 50, 40, 101, 81, skew=10)
    xyz = camera.back_project(torch.tensor([70.0, 60.0]), torch.tensor(2.0))
    assert torch.allclose(xyz, torch.tensor([2 * (20 - 10 * 0.1) / 100, 2 * 20 / 200, 2.0]))


@relaxed
@given(cameras(), st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 90))
def test_crop_keeps_rays(camera: Camera, top: int, left: int, side: int) -> None:
    points, depth = points_in(camera)
    cropped = camera.cropped(top, left, side, side + 1)
    moved = points - torch.tensor([left, top])
    assert cropped.size == (side, side + 1)
    assert_close(cropped.back_project(moved, depth), camera.back_project(points, depth))
    assert_same_camera(cropped.cropped(-top, -left, camera.height, camera.width), camera)


@relaxed
@given(cameras(), sizes)
def test_resize_keeps_rays(camera: Camera, size: tuple[int, int]) -> None:
    points, depth = points_in(camera)
    resized = camera.resized(*size)
    scale = torch.tensor([size[1] / camera.width, size[0] / camera.height], dtype=torch.float64)
    moved = (points + 0.5) * scale - 0.5
    assert_close(resized.back_project(moved, depth), camera.back_project(points, depth))
    assert_same_camera(resized.resized(*camera.size), camera)


@relaxed
@given(cameras())
def test_flip_mirrors_x(camera: Camera) -> None:
    points, depth = points_in(camera)
    mirrored = torch.stack([camera.width - 1 - points[:, 0], points[:, 1]], -1)
    xyz = camera.flipped().back_project(mirrored, depth)
    assert_close(xyz * torch.tensor([-1, 1, 1]), camera.back_project(points, depth))
    assert_same_camera(camera.flipped().flipped(), camera)


@relaxed
@given(cameras(), degrees)
def test_rotation_rolls_rays(camera: Camera, angle: float) -> None:
    points, depth = points_in(camera)
    xyz = camera.rotated(angle).back_project(turned(points, camera, angle), depth)
    roll = camera.roll(angle)
    assert_close(xyz, camera.back_project(points, depth) @ roll.T)
    assert_close(roll @ roll.T, torch.eye(3, dtype=torch.float64))
    assert camera.rotated(angle).fx > 0
    assert_same_camera(camera.rotated(angle).rotated(-angle), camera)


def test_rotation_turns_as_torchvision_does() -> None:
    """A spot in the image lands where the rotated camera says."""
    camera = Camera(300, 200, 33, 20, 81, 61)
    spot, angle = torch.tensor([[55.0, 22.0]], dtype=torch.float64), 25.0
    v, u = torch.meshgrid(torch.arange(61.0), torch.arange(81.0), indexing="ij")
    image = torch.exp(-((u - 55) ** 2 + (v - 22) ** 2) / 8)
    after = TF.rotate(image[None], angle, interpolation=TF.InterpolationMode.BILINEAR)[0]
    found = torch.stack([(after * u).sum(), (after * v).sum()]) / after.sum()
    assert torch.allclose(found, turned(spot, camera, angle)[0].float(), atol=0.05)
    xyz = camera.back_project(spot, torch.ones(1, dtype=torch.float64)) @ camera.roll(angle).T
    assert torch.allclose(camera.rotated(angle).project(xyz)[0].float(), found, atol=0.05)


def test_pure_rotation_needs_no_skew_when_pixels_are_square() -> None:
    camera = Camera(500, 500, 320, 240, 640, 480).rotated(3)
    assert abs(camera.skew) < 1e-9
    assert camera.fx == pytest.approx(500)


Step = tuple[Callable[[Camera], Camera], Callable[[Tensor, Camera], Tensor]]
STEPS: list[Step] = [
    (lambda c: c.cropped(3, 5, 40, 50), lambda p, c: p - torch.tensor([5, 3])),
    (
        lambda c: c.flipped(),
        lambda p, c: p * torch.tensor([-1, 1]) + torch.tensor([c.width - 1, 0]),
    ),
    (lambda c: c.rotated(7.0), lambda p, c: turned(p, c, 7.0)),
    (
        lambda c: c.resized(70, 30),
        lambda p, c: (p + 0.5) * p.new_tensor([30 / c.width, 70 / c.height]) - 0.5,
    ),
]


@relaxed
@given(cameras(), st.lists(st.sampled_from(range(len(STEPS))), min_size=2, max_size=6))
def test_any_sequence_keeps_lengths_and_angles(camera: Camera, order: list[int]) -> None:
    points, depth = points_in(camera)
    before = camera.back_project(points, depth)
    for number in order:
        change, move = STEPS[number]
        points, camera = move(points, camera), change(camera)
    after = camera.back_project(points, depth)
    assert_close(after @ after.T, before @ before.T, 1e-7)


@relaxed
@given(cameras())
def test_cameras_survive_tensors_and_json(camera: Camera) -> None:
    assert Camera.from_tensor(camera.to_tensor()) == camera
    assert Camera(**json.loads(json.dumps(asdict(camera)))) == camera
    names = [camera.fx, camera.fy, camera.cx, camera.cy, camera.skew, camera.width, camera.height]
    assert camera.to_tensor().tolist() == names


def test_nyu_camera() -> None:
    assert NYU_CAMERA.size == (480, 640)
    assert NYU_CAMERA.focal == pytest.approx(519.16366, abs=1e-4)
    assert NYU_CAMERA.resized(240, 320).focal == pytest.approx(519.16366 / 2, abs=1e-4)


@relaxed
@given(cameras())
def test_a_camera_is_its_matrix(camera: Camera) -> None:
    matrix = [[camera.fx, camera.skew, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
    for form in (matrix, torch.tensor(matrix, dtype=torch.float64), np.array(matrix)):
        assert Camera.from_matrix(form, camera.width, camera.height) == camera
    points, depth = points_in(camera)
    homogeneous = camera.back_project(points, depth) @ torch.tensor(matrix, dtype=torch.float64).T
    assert_close(homogeneous[:, :2] / depth[:, None], points)


@relaxed
@given(st.floats(1, 179), st.sampled_from(["horizontal", "vertical", "diagonal"]), sizes)
def test_field_of_view_spans_the_image_edge_to_edge(
    angle: float, axis: str, size: tuple[int, int]
) -> None:
    height, width = size
    camera = Camera.from_fov(angle, width, height, axis)
    assert camera == Camera.from_focal(camera.focal, width, height)
    edges = torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5]], dtype=torch.float64)
    middle = torch.tensor([[(width - 1) / 2, (height - 1) / 2]], dtype=torch.float64)
    if axis != "diagonal":
        other = 1 if axis == "horizontal" else 0
        edges[:, other] = middle[:, other]
    first, last = camera.back_project(edges, torch.ones(2, dtype=torch.float64))
    cosine = first @ last / (first.norm() * last.norm())
    assert math.degrees(math.acos(cosine.clamp(-1, 1))) == pytest.approx(angle, abs=1e-5)
    assert_close(camera.project(torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float64)), middle)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Camera.from_focal(0, 640, 480), "positive focal lengths"),
        (lambda: Camera.from_focal(500, 0, 480), "image size of at least 1x1"),
        (lambda: Camera.from_fov(180, 640, 480), "between 0 and 180 degrees; got 180"),
        (lambda: Camera.from_fov(math.nan, 640, 480), "between 0 and 180 degrees"),
        (lambda: Camera.from_fov(60, 640, 480, "Vertcal"), "did you mean 'vertical'"),
        (lambda: Camera.from_matrix([[500, 0], [0, 500]], 640, 480), "3 x 3 numbers"),
        (lambda: Camera.from_matrix("K", 640, 480), "3 x 3 numbers"),
        (lambda: Camera.from_matrix(torch.eye(4), 640, 480), "3 x 3 numbers"),
        (lambda: Camera.from_matrix(2 * torch.eye(3), 640, 480), "ends in the rows"),
        (lambda: Camera.from_matrix([[0, 0, 9], [0, 0, 9], [0, 0, 1]], 640, 480), "positive focal"),
    ],
)
def test_makers_of_cameras_say_what_is_wrong(make: Callable[[], Camera], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 500.0, 1.0, 1.0, 10, 10),
        (500.0, -1.0, 1.0, 1.0, 10, 10),
        (math.nan, 500.0, 1.0, 1.0, 10, 10),
        (500.0, 500.0, math.inf, 1.0, 10, 10),
        (500.0, 500.0, 1.0, 1.0, 0, 10),
    ],
)
def test_impossible_cameras_are_refused(
    values: tuple[float, float, float, float, int, int],
) -> None:
    with pytest.raises(DataError, match="camera needs"):
        Camera(*values)


@pytest.mark.parametrize(
    "number", [np.float32, np.float64, np.int64, torch.tensor, Fraction, lambda x: np.array([x])]
)
def test_a_cameras_numbers_become_pythons(number: Callable[[int], Any]) -> None:
    camera = Camera(*(number(x) for x in (500, 510, 320, 240, 640, 480)))
    assert camera == Camera(500.0, 510.0, 320.0, 240.0, 640, 480)
    assert json.loads(json.dumps(asdict(camera))) == asdict(camera)
    assert [type(x) for x in asdict(camera).values()] == [float] * 4 + [int] * 2 + [float]
    assert Camera.from_focal(number(500), number(640), number(480)).size == (480, 640)
    assert Camera.from_fov(number(60), number(640), number(480)).size == (480, 640)


@pytest.mark.parametrize(
    "bad",
    [None, "500", True, np.bool_(True), 500j, [500, 510], torch.ones(2), 10**400, {}, object()],
)
@pytest.mark.parametrize("name", ["fx", "cy", "skew", "width", "height"])
def test_what_is_no_number_makes_no_camera(name: str, bad: Any) -> None:
    with pytest.raises(DataError, match=rf"^camera: {name} must be a (number|whole number of pix)"):
        Camera(**{**asdict(NYU_CAMERA), name: bad})
    for make in (Camera.from_focal, Camera.from_fov):
        with pytest.raises(DataError, match="must be a"):
            make(bad, 640, 480)
        with pytest.raises(DataError, match="width must be a whole number of pixels"):
            make(60, bad, 480)


@pytest.mark.parametrize("width", [640.5, math.nan, math.inf])
def test_a_picture_has_whole_pixels(width: Any) -> None:
    with pytest.raises(DataError, match=r"camera: width must be a whole number of pixels; got"):
        Camera(500, 500, 320, 240, width, 480)


@pytest.mark.parametrize("matrix", [1j * np.eye(3), np.eye(3, dtype=bool)])
def test_a_matrix_holds_real_numbers(matrix: np.ndarray) -> None:
    with pytest.raises(DataError, match="3 x 3 numbers"):
        Camera.from_matrix(matrix, 640, 480)


@pytest.mark.parametrize(
    "camera",
    [
        Camera(0.8, 1.07, 0.5, 0.5, 640, 480),  # normalised
        Camera(4.2, 4.2, 319.5, 239.5, 640, 480),  # millimetres of a telephone
        Camera(50.0, 50.0, 1999.5, 1499.5, 4000, 3000),  # and of a lens
        Camera(500.0, 500.0, 32000.0, 240.0, 640, 480),
        Camera(500.0, 500.0, 320.0, -24000.0, 640, 480),
    ],
)
def test_cameras_that_no_picture_has_are_doubted(camera: Camera) -> None:
    assert "in pixels" in str(camera.doubt)
    assert "millimetres" in str(camera.resized(120, 160).doubt)


def test_cameras_of_pictures_are_not_doubted() -> None:
    """From a wide lens to a telephoto, and what resizing, cropping and turning make of them."""
    for degrees in (0.5, 60, 130):
        whole = Camera.from_fov(degrees, 4000, 3000)
        for camera in (whole, whole.resized(96, 128), whole.cropped(0, 0, 32, 32).rotated(30)):
            assert camera.doubt is None
