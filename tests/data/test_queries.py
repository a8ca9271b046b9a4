from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spdlib.data.queries import (
    PointSample,
    edge_aware_points,
    edge_mask,
    eigen_mask,
    evaluation_points,
    lattice_truth,
    recorded_points,
    seeded_generator,
    stable_seed,
    truth_at,
    uniform_points,
)
from spdlib.errors import QueryError
from spdlib.geometry import lattice_points

SAMPLERS = {
    "uniform": uniform_points,
    "edge_aware": edge_aware_points,
    "recorded": recorded_points,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(height: int, width: int) -> Tensor:
    """Depth that names its pixel, so that a truth tells where it came from."""
    return torch.arange(1, height * width + 1, dtype=torch.float32).reshape(height, width)


def pixel_numbers(sample: PointSample, width: int) -> Tensor:
    cells = torch.floor(sample.points + 0.5).long()
    return cells[:, 1] * width + cells[:, 0] + 1


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    k=st.integers(0, 60),
    holes=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_points_lie_in_valid_pixels_and_carry_their_depth(
    height: int, width: int, k: int, holes: float, seed: int
) -> None:
    depth = numbered(height, width)
    depth[torch.rand(height, width, generator=generator(seed)) < holes] = 0
    count = int((depth > 0).sum())
    for name, draw in SAMPLERS.items():
        sample = draw(depth, k, generator(seed))
        assert sample.points.shape == (k, 2)
        expected = k if name == "recorded" and count else min(k, count)
        assert int(sample.valid.sum()) == expected
        inside = (sample.points >= -0.5) & (sample.points <= torch.tensor([width, height]) - 0.5)
        assert bool(inside.all())
        assert torch.equal(sample.truth[~sample.valid], torch.zeros(k - expected))
        numbers = pixel_numbers(sample, width)[sample.valid].float()
        assert torch.equal(sample.truth[sample.valid], numbers)
        if name != "recorded":
            assert len(numbers.unique()) == len(numbers)


def test_no_valid_pixel_gives_padding_only() -> None:
    for draw in SAMPLERS.values():
        sample = draw(torch.zeros(6, 8), 5, generator())
        assert not sample.valid.any()
        assert torch.equal(sample.points, torch.tensor([[4.0, 3.0]]).repeat(5, 1))
    assert not evaluation_points(torch.zeros(480, 640), "a").valid.any()


def test_jitter_covers_the_pixel_and_integers_stay_without_it() -> None:
    depth = torch.ones(60, 60)
    shift = uniform_points(depth, 3600, generator()).points
    shift = shift - torch.floor(shift + 0.5)
    assert shift.min() < -0.49 and shift.max() > 0.49 and shift.mean().abs() < 0.01
    points = uniform_points(depth, 100, generator(), jitter=False).points
    assert torch.equal(points, points.round())


def test_uniform_points_cover_the_image_evenly() -> None:
    depth = torch.ones(40, 40)
    points = torch.cat([uniform_points(depth, 200, generator(s)).points for s in range(100)])
    quadrant = (points[:, 0] > 19.5).long() * 2 + (points[:, 1] > 19.5).long()
    shares = torch.bincount(quadrant) / len(points)
    assert (shares - 0.25).abs().max() < 0.01


def step_scene() -> Tensor:
    depth = torch.full((60, 80), 2.0)
    depth[:, 40:] = 4.0
    return depth


def test_edge_mask_is_the_step_dilated_by_three_pixels() -> None:
    mask = edge_mask(step_scene())
    assert torch.equal(mask[30].nonzero().flatten(), torch.arange(36, 44))
    assert torch.equal(mask, mask[30].expand(60, 80))


def test_edge_mask_ignores_holes_and_flat_depth() -> None:
    depth = torch.full((40, 40), 3.0)
    assert not edge_mask(depth).any()
    depth[10:20, 10:20] = 0
    assert not edge_mask(depth).any()
    holed = step_scene()
    holed[:, 38:42] = 0
    assert not edge_mask(holed).any()


def test_edge_mask_marks_at_most_the_steepest_tenth_before_dilation() -> None:
    depth = torch.rand(50, 50, generator=generator()) + 1
    assert abs(int(edge_mask(depth, radius=0).sum()) - 250) <= 1


def test_edge_aware_points_put_three_tenths_near_edges() -> None:
    depth = step_scene()  # a tenth of it is near the edge
    near = edge_mask(depth)
    hits = 0
    for seed in range(20):
        sample = edge_aware_points(depth, 100, generator(seed))
        cells = torch.floor(sample.points + 0.5).long()
        count = int(near[cells[:, 1], cells[:, 0]].sum())
        assert count >= 30
        hits += count
    # 30 on purpose, and a tenth of the 70 uniform ones
    assert hits / 20 == pytest.approx(37, abs=1.5)
    assert edge_aware_points(torch.full((20, 20), 2.0), 50, generator()).valid.all()


def test_eigen_mask_is_the_crop_and_the_open_depth_range() -> None:
    depth = torch.full((480, 640), 5.0)
    depth[100, 100], depth[100, 101], depth[100, 102] = 10.0, 1e-3, 0.0
    mask = eigen_mask(depth)
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    assert int(mask.sum()) == 426 * 560 - 3
    small = eigen_mask(torch.full((2, 240, 320), 5.0))
    rows = small[0].any(1).nonzero().flatten()
    assert small.shape == (2, 240, 320) and (rows.min(), rows.max()) == (23, 234)


def test_evaluation_points_are_fixed_integer_pixels_of_the_crop() -> None:
    depth = torch.rand(480, 640, generator=generator()) * 8 + 0.5
    first, again = evaluation_points(depth, "rgb_00001"), evaluation_points(depth, "rgb_00001")
    other = evaluation_points(depth, "rgb_00002")
    assert torch.equal(first.points, again.points) and first.valid.all()
    assert not torch.equal(first.points, other.points)
    assert torch.equal(first.points, first.points.round())
    cells = first.points.long()
    assert bool(eigen_mask(depth)[cells[:, 1], cells[:, 0]].all())
    assert len(torch.unique(cells, dim=0)) == 1024
    assert torch.equal(first.truth, depth[cells[:, 1], cells[:, 0]])


def test_holes_replace_only_the_points_they_hit() -> None:
    depth = torch.full((480, 640), 3.0)
    full = evaluation_points(depth, "x")
    depth[:, :320] = 0
    holed = evaluation_points(depth, "x")
    kept = full.points[full.points[:, 0] >= 320]
    assert torch.equal(holed.points[: len(kept)], kept)


def test_evaluation_points_never_change() -> None:
    """The committed scores were taken at these points; no process or machine may move them."""
    points = evaluation_points(torch.full((480, 640), 3.0), "rgb_00045").points
    assert points[:3].tolist() == EXPECTED_POINTS
    assert stable_seed("a", 1) == EXPECTED_SEED


def test_generators_differ_with_every_part_of_their_seed() -> None:
    parts = [("s", 0, 1), ("s", 1, 0), ("s", 0, "1"), ("t", 0, 1)]
    draws = [torch.rand(1, generator=seeded_generator(*p)).item() for p in parts]
    assert len(set(draws)) == len(draws)
    assert torch.rand(1, generator=seeded_generator(*parts[0])).item() == draws[0]


def test_truth_is_read_from_the_pixel_a_point_falls_into() -> None:
    depth = numbered(3, 4)
    depth[1, 1] = 0
    points = torch.tensor([[0.49, 0.0], [0.5, 0.0], [1.2, 1.4], [-0.5, -0.5], [3.5, 2.5]])
    assert truth_at(depth, points).tolist() == [1.0, 2.0, 0.0, 1.0, 12.0]


def test_lattice_truth_is_the_truth_at_the_sites() -> None:
    depth = numbered(24, 32)
    for size in ((6, 8), (24, 32), (5, 7)):
        sites = lattice_points(size, (24, 32), dtype=torch.float64)
        assert torch.equal(lattice_truth(depth, size).flatten(), truth_at(depth, sites))
    assert lattice_truth(depth.expand(3, 2, 24, 32), (6, 8)).shape == (3, 2, 6, 8)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(QueryError, match=r"\[H, W\].*\(1, 4, 4\)"):
        uniform_points(torch.ones(1, 4, 4), 3, generator())
    with pytest.raises(QueryError, match="-1"):
        recorded_points(torch.ones(4, 4), -1, generator())


EXPECTED_POINTS = [[312.0, 154.0], [67.0, 219.0], [301.0, 152.0]]
EXPECTED_SEED = 6222101017213550541
