"""A network in a file of its user goes through everything that the project's own do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_benchmarks import benchmark
from torch import Tensor

from spdlib.data.rooms import Rooms
from spdlib.errors import ConfigError, ModelError, SPDError
from spdlib.inspection import Reads
from spdlib.models import DepthModel, create_model, list_models, load, register, registry
from spdlib.plugins import import_plugins
from spdlib.scene import Answer, Scene
from spdlib.study.config import RunConfig
from spdlib.study.datasets import DataSets, open_data
from spdlib.study.evaluation import Evaluation, evaluate
from spdlib.study.objectives import OBJECTIVES, Regression
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run
from spdlib.study.training import fit
from spdlib.view.diagram import network_diagram
from spdlib.view.inside import where_it_looks
from spdlib.view.workbook import run_notebook

TOY = Path(__file__).with_name("toy_network.py")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """The toy is known while this file's tests run, and no longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_PLUGINS", str(TOY))
        assert "toy" in list_models()
        yield
    registry.NETWORKS.pop("toy")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return resolve("toy", "smoke", steps=2, evaluate_every=2)


@pytest.fixture(scope="module")
def data(config: RunConfig) -> DataSets:
    return open_data(config)


def train(config: RunConfig, data: DataSets, folder: Path) -> Run:
    settings = {"device": "cpu", "workers": 0, "progress": False}
    return fit(config, data.train, data.selection, folder, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(
    config: RunConfig, data: DataSets, tmp_path_factory: pytest.TempPathFactory
) -> DepthModel:
    return load(train(config, data, tmp_path_factory.mktemp("toy")).best)


@pytest.fixture(scope="module")
def result(trained: DepthModel, data: DataSets) -> Evaluation:
    return evaluate(trained, data.test)


def test_on_paper_it_has_its_own_encoder_and_image_size() -> None:
    model = create_model("toy").config
    config = resolve("toy", "paper").model
    assert (config.encoder.name, config.image_size) == (model.encoder.name, model.image_size)
    assert config.encoder.pretrained and config.encoder.mean is None


def test_it_is_counted_and_drawn(trained: DepthModel) -> None:
    table = trained.parameter_table().set_index("component")["parameters"]
    channels = trained.encoder.channels[1]
    assert table["weigh"] == table["head"] == channels + 1
    said = " ".join(text.get_text() for text in network_diagram(trained).axes[0].texts)
    assert "weigh" in said and "L2" in said and f"{channels + 1}" in said


@pytest.mark.parametrize("loss", sorted(OBJECTIVES))
def test_it_trains_with_any_objective(loss: str, data: DataSets, tmp_path: Path) -> None:
    config = resolve("toy", "smoke", steps=2, evaluate_every=2, loss=loss)
    assert train(config, data, tmp_path).finished


def test_it_is_scored_and_diagnosed(result: Evaluation) -> None:
    assert set(result.metrics["protocol"]) == {"eigen/exact", "recorded/exact"}
    assert set(result.metrics["model"]) == {"toy"}
    dependence: Any = result.inside.set_index("diagnostic").loc["set dependence", "value"]
    assert dependence < 1e-6
    assert result.k_sweep["independent"].all()


def test_it_tells_where_it_looks(trained: DepthModel, data: DataSets) -> None:
    frame = data.test[0]
    scene = trained.encode(frame.image, frame.camera)
    (reads,) = scene.explain([(40.0, 30.0)])
    assert isinstance(reads, Reads)
    assert reads.pixels.mean(2)[0, 0].tolist() == pytest.approx([40, 30], abs=1e-3)
    drawn = where_it_looks(frame.image, scene, [(40.0, 30.0)])
    assert [ax.get_title("left") for ax in drawn.axes]


def test_it_and_its_scenes_are_saved_and_read(trained: DepthModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "toy")
    again, frame = load(tmp_path / "toy"), Rooms(1, size=(64, 96))[0]
    scene = trained.encode(frame.image, frame.camera)
    scene.save(tmp_path / "scene.safetensors")
    found = Scene.load(tmp_path / "scene.safetensors", again)
    points = torch.tensor([[3.0, 4.0], [80.0, 60.0]])
    assert torch.equal(found.depth_at(points), scene.depth_at(points))
    assert repr(again).startswith("toy(")


def test_its_decoder_is_timed() -> None:
    decode = benchmark("decode")
    subject = decode.Subject("toy", "mobilenetv3_small_050", (64, 96), (1, 16))
    operations = decode.operations_of(subject, torch.device("cpu"))
    assert {each.name for each in operations} >= {"encode", "fast"}
    assert all(each.run() is not None for each in operations)
    timed = [*decode.floors(torch.device("cpu")), *operations]
    said = decode.ratios(decode.timings(timed, [1.0] * len(timed)), subject)
    assert [row["aim"] for row in said] == ["", "", "<= 0.001"]  # both forms agree: no other aim


@pytest.mark.timeout(600)
def test_a_notebook_takes_it_as_a_parameter(repository: Path, tmp_path: Path) -> None:
    notebook = repository / "notebooks" / "01_calibration_baseline.ipynb"
    out, executed = tmp_path / "run", tmp_path / "toy.ipynb"
    values = {"experiment": "toy", "profile": "smoke", "out": str(out)}
    run_notebook(notebook, values, executed, log=sys.stdout)
    run = Run.open(out)
    assert run.finished
    assert run.config.model.network == "toy"
    assert "toy" in set(run.metrics["model"])


def test_the_toy_is_short() -> None:
    assert TOY.read_text().count("\n") <= 60


def test_unknown_plugins_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPD_PLUGINS", str(tmp_path / "missing.py"))
    with pytest.raises(ConfigError, match=r"missing\.py, which is no Python file"):
        import_plugins()
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name")
    monkeypatch.setenv("SPD_PLUGINS", str(broken))
    with pytest.raises(ConfigError, match=r"broken\.py.*fails when it is imported"):
        import_plugins()


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda depth: depth, "Tensor"),
        (lambda depth: None, "NoneType"),
        (lambda depth: Answer(depth.unsqueeze(-1)), r"a depth \[1, 2, 1\]"),
    ],
)
def test_an_answer_of_another_kind_is_refused(
    returned: Callable[[Tensor], Any], got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("toy")
    monkeypatch.setattr(model, "decode", lambda maps, points, size: returned(points.sum(-1)))
    message = rf"toy\.decode must return an Answer with depth \[1, 2\] .*got {got}"
    images, points = torch.zeros(1, 3, 64, 96), torch.ones(1, 2, 2)
    with pytest.raises(ModelError, match=message):
        model(images, points)
    with pytest.raises(ModelError, match=message):
        model.encode(images).depth_at(points)


def test_a_network_without_its_idea_is_refused() -> None:
    with pytest.raises(ModelError, match="Nameless has no `idea`"):
        register("nameless", encoder="mobilenetv3_small_050", image_size=(64, 96))(
            type("Nameless", (DepthModel,), {})
        )
    assert "nameless" not in list_models()


def test_parameters_outside_all_parts_are_counted() -> None:
    model = create_model("toy")
    model.scale = torch.nn.Parameter(torch.ones(3))
    table = model.parameter_table().set_index("component")["parameters"]
    assert table["of its own"] == 3 and table.sum() == 2 * table["total"]


def test_objectives_without_a_loss_or_a_loss_value_are_named(
    data: DataSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = type("Empty", (Regression,), {})
    bare = type("Bare", (Regression,), {"loss": lambda self, depth, truth, valid: depth.mean()})
    for kind, message in ((empty, "Empty has no `loss`"), (bare, "'toy_loss' returns a Tensor")):
        monkeypatch.setitem(OBJECTIVES, "toy_loss", kind)
        monkeypatch.setattr(kind, "name", "toy_loss", raising=False)
        config = resolve("toy", "smoke", steps=2, evaluate_every=2, loss="toy_loss")
        with pytest.raises(SPDError, match=message):
            train(config, data, tmp_path)


def test_create_model_knows_it() -> None:
    assert create_model("toy", side=5).options.side == 5
