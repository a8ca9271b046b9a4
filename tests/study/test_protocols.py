"""A protocol is one small class: it registers, and `evaluate` needs to know nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from spdlib.data.frames import Frame, Frames, Subset
from spdlib.errors import ConfigError
from spdlib.models import DepthModel
from spdlib.study.config import RunConfig
from spdlib.study.entrants import ModelPredictor, constant
from spdlib.study.evaluation import evaluate
from spdlib.study.metrics import RecordedMetrics
from spdlib.study.protocols import PROTOCOLS, Eigen, Protocol, Sites, View, protocol
from spdlib.study.training import build_model
from tests.study.conftest import score_of


@pytest.fixture(scope="module")
def model(small: RunConfig, rooms: Frames) -> DepthModel:
    return build_model(small, rooms).eval()


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Protocols of one test are gone in the next."""
    known = dict(PROTOCOLS)
    yield
    PROTOCOLS.clear()
    PROTOCOLS.update(known)


def test_a_protocol_of_its_own_is_scored_by_name(model: DepthModel, held_out: Frames) -> None:
    @protocol("corners")
    class Corners(Protocol):
        """Four corners of every frame."""

        def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
            depth = torch.from_numpy(frame.truth(truth))
            return View(frame.image, frame.camera, frame.camera), depth

        def sites(self, depth: Tensor, frame_id: str) -> dict[str, Sites]:
            points = torch.tensor([[0, 0], [63, 0], [0, 47], [63, 47]])
            truth = depth[points[:, 1], points[:, 0]]
            return {"points": Sites(points.float(), truth, truth > 0)}

        def accumulator(self, sites: str) -> RecordedMetrics:
            return RecordedMetrics()

        def note(self, truth: str, frame: Frame) -> str:
            return f"the corners against {truth}"

    baselines = {"exact": {"constant": constant(2.5)}}
    quick = partial(evaluate, model, held_out, k_sweep=False, inside=False)
    result = quick(baselines=baselines, protocols=["corners", "eigen"])
    assert list(dict.fromkeys(result.metrics["protocol"])) == ["corners/exact", "eigen/exact"]
    assert score_of(result, "v15_2", "corners/exact", "points") == 4 * len(held_out)
    corners = [held_out[i].truth()[[0, 0, 47, 47], [0, 63, 0, 63]] for i in range(len(held_out))]
    expected = [np.mean(np.abs(2.5 - g) / g) for g in corners]
    rows = result.frames[result.frames["protocol"] == "corners/exact"]
    found = rows[rows["model"] == "constant"].set_index("frame")["abs_rel"]
    assert found.loc[held_out.ids].to_numpy() == pytest.approx(expected)
    assert result.notes["corners/exact"] == "the corners against exact; no flip"


def test_a_protocol_may_change_what_another_shows_and_scores(
    model: DepthModel, held_out: Frames
) -> None:
    @protocol("eigen_median")
    class Aligned(Eigen):
        def scored(self, depth: Tensor, sites: Sites) -> Tensor:
            return depth * (sites.truth[sites.valid].median() / depth[sites.valid].median())

    @protocol("eigen_mirrored")
    class Mirrored(Eigen):
        def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
            view, depth = super().view(frame, truth)
            return replace(view, mirrored=True), depth

    @protocol("eigen_painted")
    class Painted(Eigen):
        def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
            view, depth = super().view(frame, truth)
            image = np.zeros_like(view.image)
            image[8:-8, 8:-8] = frame.image[8:-8, 8:-8]
            return replace(view, image=image), depth

    names = ["eigen", "eigen_median", "eigen_mirrored", "eigen_painted"]
    far = {"exact": {"far": constant(9.0)}}
    quick = partial(
        evaluate, model, Subset(held_out, [0]), baselines=far, dense=False, k_sweep=False,
        inside=False,
    )  # fmt: skip
    result = quick(protocols=names)
    scores = {name: score_of(result, "v15_2", f"{name}/exact", "abs_rel") for name in names}
    assert len(set(scores.values())) == len(names)
    flipped = quick(protocols=["eigen"], flip=True)
    assert scores["eigen_mirrored"] == score_of(flipped, "v15_2", "eigen/exact", "abs_rel")
    aligned, plain = (score_of(result, "far", f"{n}/exact", "abs_rel") for n in names[1::-1])
    assert aligned < plain
    assert score_of(result, "far", "eigen_painted/exact", "abs_rel") == plain


def test_equal_views_are_looked_at_once(model: DepthModel, held_out: Frames) -> None:
    frame, look = held_out[0], ModelPredictor(model)
    view = View(frame.image, frame.camera, frame.camera)
    answers = look(view)
    assert look(replace(view, image=frame.image.copy())) is answers
    assert look(replace(view, mirrored=True)) is not answers
    assert look(replace(view, image=frame.image[:, ::-1].copy())) is not answers


def test_an_unknown_protocol_is_refused(model: DepthModel, held_out: Frames) -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'beauty'; known: eigen, rec"):
        evaluate(model, held_out, protocols=["beauty"])
    assert PROTOCOLS.find("eigen") is Eigen
