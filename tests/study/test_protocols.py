"""A protocol is one small class: it registers, and `evaluate` needs to know nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from spdlib.data.frames import Frame, Frames, Subset
from spdlib.errors import ConfigError, RunError
from spdlib.models import DepthModel
from spdlib.scene import Scene
from spdlib.study import rules
from spdlib.study.config import RunConfig
from spdlib.study.entrants import MeanAnswers, ModelPredictor, constant
from spdlib.study.evaluation import evaluate
from spdlib.study.metrics import RecordedMetrics
from spdlib.study.protocols import (
    PROTOCOLS,
    SAME_PREDICTIONS,
    Eigen,
    Protocol,
    Sites,
    View,
    protocol,
)
from spdlib.study.rules import under_every_protocol
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
    @protocol("eigen_mean")
    class Aligned(Eigen):
        def scored(self, depth: Tensor, sites: Sites) -> Tensor:
            return depth * (sites.truth[sites.valid].mean() / depth[sites.valid].mean())

    @protocol("eigen_dark")
    class Dark(Eigen):
        def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
            view, depth = super().view(frame, truth)
            image = np.zeros_like(view.image)
            image[8:-8, 8:-8] = frame.image[8:-8, 8:-8]
            return replace(view, image=image), depth

    names = ["eigen", "eigen_mean", "eigen_mirrored", "eigen_dark"]
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
    assert score_of(result, "far", "eigen_dark/exact", "abs_rel") == plain


def test_equal_views_are_looked_at_once(model: DepthModel, held_out: Frames) -> None:
    frame, look = held_out[0], ModelPredictor(model)
    view = View(frame.image, frame.camera, frame.camera)
    answers = look(view)
    assert look(replace(view, image=frame.image.copy())) is answers
    mirrored = look(replace(view, mirrored=True))
    assert mirrored is not answers and isinstance(mirrored, MeanAnswers)
    assert mirrored.plain is answers  # nor is the plain half of a mean
    assert look(replace(view, image=frame.image[:, ::-1].copy())) is not answers


def test_twelve_protocols_score_the_same_predictions(
    model: DepthModel, held_out: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, seen = DepthModel.encode, list[str]()

    def counted(self: DepthModel, image: Any, *args: Any, **options: Any) -> Scene:
        seen.append("image")
        return encode(self, image, *args, **options)

    monkeypatch.setattr(DepthModel, "encode", counted)
    far = {"exact": {"far": constant(9.0)}}
    two = Subset(held_out, [0, 1])
    quick = partial(
        evaluate, model, two, baselines=far, dense=False, k_sweep=False, inside=False
    )  # fmt: skip
    result = quick(protocols=SAME_PREDICTIONS)
    assert len(seen) == 2 * len(two)  # of every frame the image and its mirror image
    table = under_every_protocol(result.metrics)
    assert table["protocol"].tolist() == [f"{name}/exact" for name in SAME_PREDICTIONS]
    assert len(table) == len(table.drop_duplicates(["aligned", "mirrored", "averaged"])) == 12
    assert len(table) == len(table.drop_duplicates(["abs_rel", "silog"]))
    assert np.isfinite(table[[*rules.SCORES]].to_numpy()).all()
    scores = table.set_index("protocol")
    assert scores.loc["eigen_median/exact", "s_star"] == pytest.approx(1, abs=0.1)
    # a constant is brought to every frame's own median, which no constant knows
    far_scores = under_every_protocol(result.metrics, "far").set_index("protocol")["abs_rel"]
    assert far_scores["eigen_median/exact"] < far_scores["eigen/exact"]
    assert far_scores["eigen/exact"] == far_scores["eigen_mirrored/exact"]
    flipped = quick(protocols=["eigen", "eigen_median"], flip=True)
    for name in ("eigen", "eigen_median"):
        both = score_of(flipped, "v15_2", f"{name}/exact", "rmse")
        assert scores.loc[f"{name}_mirrored/exact", "rmse"] == both
    for name, note in result.notes.items():
        assert ("(uses the truth)" in note) == ("median" in name or "log_fit" in name)
        assert ("no flip" in note) != ("averaged with the mirrored image" in note)
        assert ("no flip" in note) == ("mirrored" not in name)
        assert ("pooled over all images" in note) == ("pooled" in name)


def test_pooled_scores_differ_from_those_per_image_in_nothing_but_the_means(
    model: DepthModel, held_out: Frames
) -> None:
    """Of one frame both are the same."""
    one = Subset(held_out, [0])
    result = evaluate(model, one, protocols=SAME_PREDICTIONS, k_sweep=False, inside=False)
    for sites in ("points", "dense"):
        table = under_every_protocol(result.metrics, sites=sites).set_index("protocol")
        assert table.loc["eigen/exact", "aligned"] == rules.AS_PREDICTED
        for name in SAME_PREDICTIONS[:6]:
            alone, pooled = (table.loc[f"{name}{end}/exact"] for end in ("", "_pooled"))
            for score in ("abs_rel", "rmse", "delta1", "silog"):
                assert alone[score] == pytest.approx(pooled[score], rel=1e-5)


def test_a_table_without_these_protocols_is_refused() -> None:
    columns = ["model", "protocol", "sites", "metric", "value"]
    metrics = pd.DataFrame([("v15_2", "eigen/exact", "points", "rmse", 1.0)], columns=columns)
    with pytest.raises(RunError, match=r"'v9'.*evaluate it with protocols=SAME_PREDICTIONS"):
        under_every_protocol(metrics, "v9")


def test_an_unknown_protocol_is_refused(model: DepthModel, held_out: Frames) -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'beauty'; known: eigen, eigen_"):
        evaluate(model, held_out, protocols=["beauty"])
    assert PROTOCOLS.find("eigen") is Eigen
