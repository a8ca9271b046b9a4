"""Rooms: exact depth against closed forms, purity, statistics against NYU's, pictures."""

from __future__ import annotations

import math
import pickle
import random
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spdlib.data.frames import Frame
from spdlib.data.rooms import Rooms
from spdlib.data.rooms.furniture import BALL, BOX, CYLINDER, Solid, Style
from spdlib.data.rooms.layout import FREE_ITEMS, WALL_ITEMS, Pose, sample_room
from spdlib.data.rooms.materials import WIDE, Material, seam_cover
from spdlib.data.rooms.rays import FAR, directions, trace, view_from
from spdlib.data.rooms.render import choose_pose, one_thread
from spdlib.errors import DataError
from spdlib.geometry import NYU_CAMERA, Camera

SIZE = (48, 64)
CAMERA = NYU_CAMERA.resized(*SIZE)
GREY = Material((0.5, 0.5, 0.5))

# In-painted depth of all 1,449 labelled NYU frames (Silberman et al., ECCV 2012) inside the white
# border, every eighth row and column; measured on the reconstructed copy that the README describes.
NYU_QUANTILES = {0.05: 1.116, 0.25: 1.836, 0.50: 2.520, 0.75: 3.432, 0.95: 5.512}
NYU_BANDS = [3.09, 3.16, 2.95, 2.46, 2.12, 1.90]  # medians of six horizontal bands, top to bottom
NYU_FRAME_MEDIAN_CV, NYU_LOG_STD, NYU_LOG_STD_WITHIN = 0.304, 0.475, 0.358
# AbsRel on the 654 test frames of what 795 training frames predict without looking at the image
NYU_CONSTANT, NYU_PIXEL_MAP = 0.361, 0.325


def frames_of(rooms: Rooms) -> list[Frame]:
    return [rooms[index] for index in range(len(rooms))]


@pytest.fixture(scope="module")
def many() -> list[Frame]:
    return frames_of(Rooms(240, seed=1, size=SIZE, start=1000))


@pytest.fixture(scope="module")
def depths(many: list[Frame]) -> np.ndarray:
    return np.stack([frame.truth() for frame in many])


def traced(solids: list[Solid], pose: Pose, camera: Camera = CAMERA) -> tuple[Tensor, Tensor]:
    """Depth [H, W] of solids alone, FAR beside them, and the number of the solid."""
    found = trace(view_from([pose], solids), *directions(camera, (0.0, 0.0)))
    depth, solid = (values[0, : camera.height, : camera.width] for values in found)
    return depth, solid


def depth_of(solids: list[Solid], pose: Pose, camera: Camera = CAMERA) -> Tensor:
    return traced(solids, pose, camera)[0]


@one_thread()
def labelled(seed: int, number: int, camera: Camera) -> tuple[Tensor, np.ndarray]:
    """Depth [H, W] of a frame of `Rooms`, and what each of its pixels shows."""
    rng = random.Random(f"rooms/{seed}/{number}")
    room = sample_room(rng)
    depth, solid = traced(room.solids, choose_pose(room, rng), camera)
    return depth, np.array([each.label for each in room.solids])[solid.numpy()]


def positions(depth: Tensor, pose: Pose, camera: Camera = CAMERA) -> Tensor:
    """Room coordinates [H, W, 3], float64, of a depth map."""
    v, u = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    points = camera.back_project(torch.stack([u, v], -1).double(), depth.double())
    axes = torch.tensor(pose.axes(), dtype=torch.float64)
    return points @ axes + torch.tensor(pose.position, dtype=torch.float64)


LEVEL = Pose((0.0, 1.4, -2.0), 0.0, 0.0, 0.0)
TURNED = Pose((0.3, 1.5, -2.1), 0.35, -0.25, 0.06)


def test_depth_is_planar_not_along_the_ray() -> None:
    wall = Solid(BOX, (0, 0, 1.5), (20, 20, 0.5), GREY, "wall")
    depth = depth_of([wall], LEVEL)
    assert torch.allclose(depth, torch.full(SIZE, 3.0), atol=1e-5)  # the same in the corners


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_stay_planes(axis: int) -> None:
    centre = ((3.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 3.0))[axis]
    half = ((0.5, 30.0, 30.0), (30.0, 0.5, 30.0), (30.0, 30.0, 0.5))[axis]
    slab = Solid(BOX, centre, half, GREY, "floor")
    depth = depth_of([slab], TURNED)
    seen = (depth > 0) & (depth < 30)
    assert seen.float().mean() > 0.2
    found = positions(depth, TURNED)[..., axis][seen]
    expected = -0.5 if axis == 1 else 2.5
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [BOX, CYLINDER, BALL])
def test_solids_against_closed_forms(shape: int) -> None:
    """Every hit lies on the solid, faces the camera, and no ray through the solid is missed."""
    half = np.array([0.5, 0.7, 0.4])
    yaw, tilt, centre = 0.6, -0.3, np.array([0.4, 1.0, 0.5])
    solid = Solid(shape, tuple(centre), tuple(half), GREY, "other_prop", yaw=yaw, tilt=tilt)
    depth = depth_of([solid], TURNED)
    turn_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0],
                       [-math.sin(yaw), 0, math.cos(yaw)]])  # fmt: skip
    turn_x = np.array([[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)],
                       [0, math.sin(tilt), math.cos(tilt)]])  # fmt: skip
    own = (positions(depth, TURNED).numpy() - centre) @ (turn_y @ turn_x) / half
    hit = (depth < FAR / 2).numpy()
    surface = {
        BOX: np.abs(own).max(-1),
        CYLINDER: np.maximum(np.hypot(own[..., 0], own[..., 2]), np.abs(own[..., 1])),
        BALL: np.linalg.norm(own, axis=-1),
    }[shape]
    assert hit.mean() > 0.03
    np.testing.assert_allclose(surface[hit], 1.0, atol=1e-5)
    # march along the rays: the first point inside the solid comes right after the hit
    eye = (np.array(TURNED.position) - centre) @ (turn_y @ turn_x) / half
    ray = positions(torch.ones(SIZE), TURNED).numpy() - np.array(TURNED.position)
    ray = ray @ (turn_y @ turn_x) / half
    steps = np.linspace(0, 6, 1201)
    along = eye + steps[:, None, None, None] * ray
    inside = {
        BOX: np.abs(along).max(-1) < 1,
        CYLINDER: (np.hypot(along[..., 0], along[..., 2]) < 1) & (np.abs(along[..., 1]) < 1),
        BALL: np.linalg.norm(along, axis=-1) < 1,
    }[shape]
    met = inside.any(0)
    assert (met & ~hit).sum() == 0
    first = steps[inside.argmax(0)]
    assert np.abs(first - depth.numpy())[met].max() < 0.0051


def test_a_ball_on_the_axis() -> None:
    camera = Camera(60.0, 60.0, 32.0, 24.0, 64, 48)  # the axis meets the centre of a pixel
    ball = Solid(BALL, (0.0, 1.4, 1.0), (0.5, 0.5, 0.5), GREY, "other_prop")
    depth = depth_of([ball], LEVEL, camera)
    assert depth[24, 32] == pytest.approx(2.5, abs=1e-6)
    radius = 60 * 0.5 / math.sqrt(3.0**2 - 0.5**2)  # of the silhouette, in pixels
    assert (depth[24] < FAR / 2).sum() == 2 * math.floor(radius) + 1


def test_the_nearer_solid_hides_the_other() -> None:
    near = Solid(BOX, (0, 1.4, 0.0), (0.3, 0.3, 0.1), GREY, "table")
    far = Solid(BOX, (0, 1.4, 1.0), (3.0, 3.0, 0.1), GREY, "wall")
    for order in ([near, far], [far, near]):
        depth = depth_of(order, LEVEL)
        assert sorted(set(depth.flatten().mul(1e4).round().tolist())) == [19000, 29000]


def test_frames_are_functions_of_seed_and_number() -> None:
    rooms = Rooms(4, seed=5, size=SIZE)
    rooms[0]
    for frame in (rooms[3], rooms[-1]):
        alone = Rooms(1, seed=5, size=SIZE, start=3)[0]
        np.testing.assert_array_equal(frame.image, alone.image)
        np.testing.assert_array_equal(frame.truth(), alone.truth())
    assert not np.array_equal(Rooms(4, seed=6, size=SIZE)[3].truth(), rooms[3].truth())


def test_the_size_changes_the_sampling_not_the_room() -> None:
    small, large = (Rooms(8, seed=5, size=size)[7].truth() for size in (SIZE, (144, 192)))
    # centres of a pixel and of the middle one of its 3 x 3 pixels coincide
    same = np.abs(small / large[1::3, 1::3] - 1) < 1e-4
    assert same.mean() > 0.999


def test_frames_carry_depth_and_camera() -> None:
    rooms = Rooms(3, seed=5, size=SIZE, start=2)
    frame = pickle.loads(pickle.dumps(rooms))[2]
    assert len(rooms) == 3 and rooms.ids == ["room_5_000002", "room_5_000003", "room_5_000004"]
    assert frame.id == rooms.ids[2] and list(frame.depths) == ["exact"]
    assert frame.image.shape == (*SIZE, 3) and frame.image.dtype == np.uint8
    assert frame.truth().shape == SIZE and frame.truth().dtype == np.float32
    assert frame.camera == CAMERA


def test_workers_render_the_same_frames() -> None:
    rooms = Rooms(4, seed=5, size=SIZE)
    dataset = cast("Dataset[Frame]", rooms)
    loader: DataLoader[Frame] = DataLoader(dataset, batch_size=None, num_workers=2)
    for frame, number in zip(loader, range(4), strict=True):
        np.testing.assert_array_equal(frame.image, rooms[number].image)


def test_odd_sizes() -> None:
    frame = Rooms(1, size=(37, 51))[0]
    assert frame.image.shape == (37, 51, 3) and frame.truth().max() < 20


@pytest.mark.parametrize(
    "arguments", [{"count": 0}, {"count": 2, "start": -1}, {"count": 2, "size": (4, 64)}]
)
def test_refusals(arguments: dict[str, int]) -> None:
    with pytest.raises(DataError, match="rooms need"):
        Rooms(**arguments)  # type: ignore[arg-type]


def test_there_is_no_frame_after_the_last() -> None:
    with pytest.raises(IndexError, match="frame 3 of 3"):
        Rooms(3, size=SIZE)[3]


def test_floors_are_planes_below_a_hand_held_camera() -> None:
    camera = NYU_CAMERA.resized(96, 128)
    grid = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    points = torch.stack(grid[::-1], -1).double()
    heights = []
    for number in range(6):
        depth, label = labelled(3, number, camera)
        floor = camera.back_project(points, depth.double())[torch.from_numpy(label == "floor")]
        if len(floor) < 100:
            continue
        plane = torch.linalg.lstsq(floor, torch.ones(len(floor), 1, dtype=torch.float64)).solution
        height = 1 / plane.norm()
        heights.append(float(height))
        assert ((floor @ plane - 1) * height).abs().max() < 1e-4
    assert len(heights) >= 3 and min(heights) >= 0.9 and max(heights) <= 1.75


def test_edges_of_picture_and_depth_coincide() -> None:
    frames = frames_of(Rooms(6, seed=3, size=(96, 128)))
    picture = torch.tensor(np.stack([frame.image for frame in frames])).float().mean(-1)
    depth = torch.tensor(np.stack([frame.truth() for frame in frames]))
    depth_edges = (depth[:, :, 1:] / depth[:, :, :-1]).log().abs() > 0.1
    change = (picture[:, :, 1:] - picture[:, :, :-1]).abs()
    at_shift = [
        float(change.roll(shift, 2)[:, :, 4:-4][depth_edges[:, :, 4:-4]].mean())
        for shift in range(-3, 4)
    ]
    assert int(np.argmax(at_shift)) == 3
    assert at_shift[3] > 1.5 * max(at_shift[0], at_shift[-1])


def test_depth_is_distributed_as_in_nyu(depths: np.ndarray) -> None:
    for share, expected in NYU_QUANTILES.items():
        assert np.quantile(depths, share) == pytest.approx(expected, rel=0.15), share
    for band, expected in zip(np.array_split(depths, 6, axis=1), NYU_BANDS, strict=True):
        assert np.median(band) == pytest.approx(expected, rel=0.15)
    medians = np.median(depths.reshape(len(depths), -1), axis=1)
    assert medians.std() / medians.mean() == pytest.approx(NYU_FRAME_MEDIAN_CV, rel=0.2)
    log_depth = np.log(depths).reshape(len(depths), -1)
    assert log_depth.std() == pytest.approx(NYU_LOG_STD, rel=0.1)
    assert log_depth.std(axis=1).mean() == pytest.approx(NYU_LOG_STD_WITHIN, rel=0.1)
    assert depths.min() > 0.2 and depths.max() < 13


def weighted_median(depth: np.ndarray) -> np.ndarray:
    """The constant along axis 0 with the least AbsRel: the median weighted by 1 / depth."""
    ordered = np.sort(depth, axis=0)
    weight = np.cumsum(1 / ordered, axis=0)
    middle = (weight < weight[-1:] / 2).sum(axis=0, keepdims=True)
    return np.take_along_axis(ordered, middle, axis=0)[0]


def test_image_free_predictions_score_as_on_nyu(depths: np.ndarray) -> None:
    train, held_out = np.split(depths, 2)
    constant, pixel_map = weighted_median(train.reshape(-1, 1)), weighted_median(train)
    for prediction, expected in ((constant, NYU_CONSTANT), (pixel_map, NYU_PIXEL_MAP)):
        abs_rel = (np.abs(held_out - prediction) / held_out).mean()
        assert abs_rel == pytest.approx(expected, rel=0.12)


def test_pictures_are_lit_and_varied(many: list[Frame]) -> None:
    pictures = np.stack([frame.image for frame in many]).reshape(len(many), -1).astype(np.float32)
    assert pictures.mean(1).min() > 25 and pictures.mean(1).max() < 200
    assert np.median(pictures.std(1)) > 40  # NYU: 60
    found = np.stack([labelled(1, 1000 + i, CAMERA)[1] for i in range(40)])
    labels, counts = np.unique(found, return_counts=True)
    share = dict(zip(labels.tolist(), counts / found.size, strict=True))
    assert 0.3 < share["wall"] + share["floor"] + share["ceiling"] < 0.65
    assert sum(part > 0.01 for part in share.values()) >= 12


@pytest.mark.parametrize("kind", sorted(WALL_ITEMS))
def test_furniture_stands_on_the_floor_within_its_footprint(kind: str) -> None:
    for name in [*WALL_ITEMS[kind].split()[::2], *FREE_ITEMS[kind].split()[::2]]:
        item = Style(random.Random(1)).made(name)
        low = min(s.centre[1] - s.half[1] for s in item.solids if not s.tilt)
        assert -1e-6 <= low < 0.15, name
        for solid in item.solids:
            assert abs(solid.centre[0]) < item.width / 2 + 0.3, name
            assert -0.3 < solid.centre[2] < item.depth + 0.3, name
            assert min(solid.half) > 0


def test_seams_cover_their_share_near_and_far() -> None:
    position = (torch.arange(1000) + 0.5) / 1000
    cell, seam = torch.tensor(0.3), torch.tensor(0.006)
    for footprint in (0.0005, 0.01, 0.05):
        cover = seam_cover(position, cell, seam, torch.tensor(footprint))
        assert cover.mean() == pytest.approx(2 * 0.006 / 0.3, rel=0.15)
    none = seam_cover(position, torch.tensor(WIDE), torch.tensor(0.0), torch.tensor(0.01))
    assert none.max() == 0
