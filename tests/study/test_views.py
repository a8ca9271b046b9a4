"""What the metre hangs on: four views of a frame, scored at the very same pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spdlib.data.frames import NYU_VALID_BOX, Frame, Frames
from spdlib.data.rooms import Rooms
from spdlib.data.sources import open_source
from spdlib.errors import RunError
from spdlib.models import create_model
from spdlib.study.entrants import PixelMap
from spdlib.study.evaluation import evaluate
from spdlib.study.protocols import PROTOCOLS, SAME_PIXELS, Protocol, View
from spdlib.study.rules import under_every_view
from spdlib.view import plots

BOX = (2, 3, 44, 60)
"""Of frames of 48x64 pixels."""


class Bordered:
    """Frames whose outermost pixels are white and do not count."""

    def __init__(self, frames: Frames) -> None:
        self.frames, self.ids = frames, frames.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Frame:
        frame = replace(self.frames[index], valid_box=BOX)
        image = np.full_like(frame.image, 255)
        image[frame.valid] = frame.image[frame.valid]
        return replace(frame, image=image)


@pytest.fixture
def frame(held_out: Frames) -> Frame:
    return Bordered(held_out)[0]


def protocols() -> list[Protocol]:
    return [PROTOCOLS.find(name)((32, 64)) for name in SAME_PIXELS]


def test_every_view_scores_the_same_pixels(frame: Frame) -> None:
    frame = replace(frame, depths={"exact": np.where(frame.truth() > 2, frame.truth(), 0)})
    seen = []
    for protocol in protocols():
        view, depth = protocol.view(frame, "exact")
        assert view.image.shape[:2] == depth.shape == view.camera.size
        moved = torch.tensor([frame.camera.cx - view.camera.cx, frame.camera.cy - view.camera.cy])
        sites = protocol.sites(depth, frame.id)
        points, truth, valid, _ = sites["points"]
        assert points is not None
        columns, rows = points.long().T
        assert torch.equal(depth[rows, columns][valid], truth[valid])
        counted = torch.nonzero(sites["dense"].valid).flip(-1) + moved
        seen.append((points + moved, truth, counted))
    for other in seen[1:]:
        for ours, theirs in zip(seen[0], other, strict=True):
            torch.testing.assert_close(ours, theirs.to(ours))
    pixels = seen[0][2]
    low, high = pixels.min(0).values.tolist(), pixels.max(0).values.tolist()
    assert low[0] >= 16 and low[1] >= 12 and high[0] <= 47 and high[1] <= 35


def test_the_border_is_painted_cut_or_far_away(frame: Frame) -> None:
    whole, painted, cut, half = (each.view(frame, "exact")[0] for each in protocols())
    top, left, bottom, right = BOX
    inside = frame.image[frame.valid]
    assert whole.image is frame.image
    assert np.array_equal(np.asarray(painted.image)[frame.valid], inside)
    assert np.array_equal(painted.image[0, 10], frame.image[top, 10])
    assert np.array_equal(painted.image[10, -1], frame.image[10, right])
    assert np.array_equal(painted.image[-1, 0], frame.image[bottom, left])
    assert np.array_equal(cut.image, inside)
    assert np.array_equal(half.image, frame.image[12:36, 16:48])
    point = torch.tensor([30.0, 20.0])
    ray = frame.camera.back_project(point, torch.tensor(1.0))
    for view, shift in ((painted, (0, 0)), (cut, (left, top)), (half, (16, 12))):
        assert view.frame_camera == frame.camera
        torch.testing.assert_close(view.camera.project(ray), point - torch.tensor(shift))


def test_a_frame_without_border_is_shown_whole_and_the_note_says_so(held_out: Frames) -> None:
    frame = held_out[0]
    whole, painted, cut, half = protocols()
    plain = View(frame.image, frame.camera, frame.camera)
    for protocol in (whole, painted, cut):
        assert protocol.view(frame, "exact")[0].equals(plain)
    assert not half.view(frame, "exact")[0].equals(plain)
    for protocol in (painted, cut):
        assert "but there is none: the whole frame" in protocol.note("exact", frame)
        bordered = protocol.note("exact", replace(frame, valid_box=BOX))
        assert "outside rows 2-44, columns 3-60" in bordered
    assert "shown: central half alone; scored in the frame's rows 12-35, columns 16-47" in (
        half.note("exact", frame)
    )


def test_one_table_sets_the_views_side_by_side() -> None:
    model = create_model("v15_2", "test_efficientnet", image_size=(96, 128), focal=103.0).eval()
    ramp = PixelMap(torch.linspace(1, 6, 128).expand(96, 128).contiguous())
    frames = Bordered(Rooms(2, size=(96, 128)))
    result = evaluate(
        model, frames, baselines={"exact": {"ramp": ramp}}, protocols=SAME_PIXELS, k_sweep=False,
        inside=False, examples=0,
    )  # fmt: skip
    table = under_every_view(result.metrics)
    views = [PROTOCOLS[name].label() for name in SAME_PIXELS]
    assert table["model"].tolist() == ["v15_2"] * 4 + ["ramp"] * 4
    assert table["view"].tolist() == views * 2
    network, fixed = table[:4], table[4:]
    # who does not look is asked for the same pixels in every view
    assert fixed["s_star"].to_numpy() == pytest.approx(fixed["s_star"].iloc[0], rel=1e-6)
    assert fixed["abs_rel"].to_numpy() == pytest.approx(fixed["abs_rel"].iloc[0], rel=1e-6)
    assert network["s_star"].nunique() == network["abs_rel"].nunique() == 4
    change = 100 * (network["abs_rel"] / network["abs_rel"].iloc[0] - 1)
    assert network["abs_rel_change"].to_numpy() == pytest.approx(change.to_numpy())
    dense = under_every_view(result.metrics, sites="dense")
    assert dense["s_star"].isna().all() and dense["abs_rel"].notna().all()
    drawn = plots.same_pixels(table)
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["v15_2", "ramp"]
    with pytest.raises(RunError, match="evaluate with protocols=SAME_PIXELS"):
        under_every_view(result.metrics, "raw")


def test_nyu_hides_its_white_border(nyu_dir: Path) -> None:
    frame = open_source(nyu_dir)["test"][3]
    assert frame.valid_box == NYU_VALID_BOX
    _, painted, cut, half = (each.view(frame, "raw")[0] for each in protocols())
    assert painted.image.shape == frame.image.shape and cut.image.shape == (467, 625, 3)
    assert half.image.shape == (240, 320, 3)
    white = np.asarray(frame.image)[:5].mean()
    assert white > 250 and np.asarray(painted.image)[:5].mean() < white - 20
