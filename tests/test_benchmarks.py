"""The benchmarks' cost formulas against PyTorch's counter, and a quick run of each."""

from __future__ import annotations

import importlib.util
import json
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from spdlib.data.rooms import Rooms
from spdlib.errors import ConfigError, ModelError
from spdlib.models import create_model, list_models, network_class
from spdlib.models.base import count_parameters
from spdlib.models.counting import counted_macs
from spdlib.models.v15 import LocalPath
from spdlib.study.experiments import EXPERIMENTS

IMAGE, LATTICE = (350, 476), (100, 136)


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def decode() -> ModuleType:
    return benchmark("decode")


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return benchmark("data")


@pytest.fixture(scope="module")
def maps() -> dict[str, torch.Tensor]:
    """Maps of v15_2's sizes."""
    return {"s8_L2": torch.empty(1, 50, 68, 128), "L1": torch.empty(1, *LATTICE, 64)}


def macs(run: Callable[[], object]) -> int:
    """What PyTorch counts in a call, on tensors without numbers: counting needs none."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return counted_macs(run)


def queries_macs(maps: dict[str, torch.Tensor], form: str, k: int) -> int:
    path, points = LocalPath(), torch.empty(1, k, 2)
    return macs(lambda: getattr(path, form)(maps, points, IMAGE))


def test_plain_queries_cost_what_the_formula_says(maps: dict[str, torch.Tensor]) -> None:
    """The counter sees products, not the bilinear reads of 75 tokens of 64 values."""
    assert queries_macs(maps, "plain", 10) == 10 * (733_440 - 4 * 75 * 64)


def test_folded_queries_cost_what_the_formula_says(maps: dict[str, torch.Tensor]) -> None:
    """Without interpolation; with the codes' 75 sums, which are projected once a call."""
    products = 171_232 - 3 * 2 * 4 * 25 * 4 - 4 * 64
    codes = 2 * 75 * 64 - 6_656
    once = 2 * 75 * 64 * 64
    assert codes == 2_944
    for k in (1, 10):
        assert queries_macs(maps, "folded", k) == once + k * (products + codes)


def test_dense_path_costs_what_the_formula_says(maps: dict[str, torch.Tensor]) -> None:
    """The counter sees projections and the codes' products, not sums over 16 channels."""
    path, sites = LocalPath(), 13_600
    counted = macs(lambda: path.lattice(maps))
    unseen = sites * 2 * 75 * 64 + 5 * sites * 64 * 4 + 350 * 476 * 4
    codes = sites * 2 * 75 * 64 + 2 * 75 * 64 * 64
    assert counted == 1_543_015_200 - unseen + codes


def test_encoding_costs_what_was_counted_by_hand() -> None:
    """24,936,007,680 for the ViT and 161,337,344 for the neck at 350x476."""
    model, images = create_model("v15_2").eval(), torch.empty(1, 3, *IMAGE)
    encoder = macs(lambda: model.encoder(images))
    assert encoder == 24_936_007_680
    together = macs(lambda: model.maps(images))
    cells = {"L4": 13 * 17, "L3": 25 * 34}
    convolutions = (2 * cells["L4"] + 4 * cells["L3"]) * 9 * 64 * 64
    before_upsampling = (cells["L4"] + cells["L3"]) * 64 * 64
    assert together - encoder == 161_337_344 + convolutions + before_upsampling


def test_depth_anything_has_the_shape_of_dav2_s(decode: ModuleType) -> None:
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model = decode.depth_anything()
    assert count_parameters(model) == 24_785_089


def test_quick_run_of_decode(
    decode: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    decode.main(["--quick", "--threads", "1", "--out", str(tmp_path / "bench_decode.csv")])
    table = pd.read_csv(tmp_path / "bench_decode.csv")
    assert set(table["operation"]) == {
        "float32", "encode", "encode + queries", "reference", "fast", "dense",
        "reference reads", "fast reads",
    }  # fmt: skip
    assert (table["milliseconds"] > 0).all()
    assert list(table.loc[:1, "times_floor"]) == pytest.approx([1, 1])
    assert set(table.loc[table["operation"] == "fast", "k"]) == {1, 16}
    rows = table.set_index(["network", "operation", "k"])
    for subject in decode.QUICK[2:]:
        found = rows.loc[subject.label]
        reference, fast = found.loc["reference", 16], found.loc["fast", 16]
        ratio = reference["milliseconds"] / fast["milliseconds"]
        assert reference["times_faster"] == pytest.approx(ratio, rel=1e-3)
        assert 0 <= reference["difference"] < decode.TOLERANCE
        assert reference["macs"] > fast["macs"] > 16 * 1e6
        assert fast["gathered_bytes"] == 16 * found.loc["fast", 1]["gathered_bytes"]
        assert found.loc["encode", 0]["macs"] > 0
    record = json.loads((tmp_path / "bench_decode.json").read_text())
    assert record["settings"]["quick"] is True
    assert record["machine"]["cores"] >= 1
    assert len(record["ratios"]) == 2 * 5 + 3 * 3 + 3 * 4
    aims = {
        (row["network"].partition(",")[0], row["what"].partition(" /")[0]): row["aim"]
        for row in record["ratios"][10:]
        if "/" in row["what"]
    }
    assert aims == {
        **{(name, "reference"): ">= 3" if "v13" in name else "" for name in decode.OLDER},
        **{(name, "reference reads"): ">= 2" for name in decode.OLDER if "v14" in name},
    }
    printed = capsys.readouterr().out
    assert "reference / fast at K = 16" in printed


def test_the_published_ratios_of_older_networks_reach_their_aims(repository: Path) -> None:
    published = repository / "results" / "measured" / "bench_decode.json"
    compare = {">=": operator.ge, "<=": operator.le}
    found = set()
    for row in json.loads(published.read_text())["ratios"]:
        if row["aim"] and not row["network"].startswith("v15"):
            sign, bound = row["aim"].split()
            assert compare[sign](row["value"], float(bound)), row
            found.add(row["network"].partition(",")[0])
    assert len(found) == 6


def test_forms_that_disagree_are_not_compared(decode: ModuleType) -> None:
    pair = decode.Pair.of(decode.QUICK[1], torch.device("cpu"))
    points = pair.points(5)
    assert pair.difference(points) < 1e-5
    with torch.no_grad():
        pair.scenes["reference"].model.local_path.head[-1].bias.add_(1)
    with pytest.raises(ModelError, match=r"fast and the reference form differ by .* cannot be"):
        pair.difference(points)


def test_the_recorded_setting_is_measured(decode: ModuleType) -> None:
    """256 queries of a 256x320 image with the default encoder, of every v13 and v14 but a plan."""
    older = {x.network: x for x in decode.FULL if x.network != "v15_2"}
    trained = {name for name in list_models() if name.startswith(("v13", "v14"))} - {"v13_plan"}
    assert set(older) == trained
    for name, subject in older.items():
        with torch.device("meta"):
            config = create_model(name).config
        assert (subject.encoder, subject.size) == (config.encoder.name, config.image_size)
        assert subject.compared == (256,)


def test_decode_refuses_a_device_that_is_not_there(
    decode: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        decode.main(["--device", "cuda", "--quick"])


@pytest.fixture(scope="module")
def networks() -> ModuleType:
    return benchmark("networks")


def test_networks_as_built_and_as_recorded(
    networks: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One with dependent queries and a record, one with neither."""
    out = tmp_path / "networks.csv"
    networks.main(["--networks", "v14_dual", "v15_2", "--out", str(out)])
    table = pd.read_csv(out).set_index("network")
    dual, latest = table.loc["v14_dual"], table.loc["v15_2"]
    assert (dual["parameters"], latest["parameters"]) == (32_881_641, 22_614_337)
    assert (table["trainable"] == table["parameters"]).all()
    assert dual["encoder"] == "convnextv2_tiny.fcmae_ft_in22k_in1k"
    assert (dual["image_size"], latest["image_size"]) == ("256x320", "350x476")
    assert table["queries_independent"].to_list() == [False, True]
    assert 25.2e9 < latest["macs_per_image"] < 25.3e9  # the encoder, and what the neck adds
    assert 0.15e6 < latest["macs_per_query"] < 0.2e6 < 3e6 < dual["macs_per_query"] < 6e6
    assert list(dual[["recorded_in", "epoch", "abs_rel", "delta1"]]) == ["exp08", 3, 0.2403, 0.471]
    assert dual["protocol"] == "recorded: 654 frames, 256 points, squash"
    assert np.isnan(dual["rmse"])
    assert latest[["recorded_in", "protocol", *networks.SCORES]].isna().all()
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["settings"] == {"queries": 256}
    assert "libraries" in record["machine"] and "source_hash" in record["code"]
    printed = capsys.readouterr().out
    assert "| `v14_dual` | queries read deformably" in printed
    assert "32.9 M | 7.5 G | 4.42 M | 0.240 |" in printed


def test_docs_show_the_published_table(networks: ModuleType, repository: Path) -> None:
    table = pd.read_csv(networks.OUTPUT)
    assert list(table["network"]) == list_models()
    shown = networks.markdown(table, networks.EqualTerms.read(networks.COMPARISON).networks)
    assert shown in (repository / "docs" / "networks.md").read_text()


def test_frozen_parameters_are_not_counted_as_trainable(networks: ModuleType) -> None:
    model = networks.create_model("v13_calibrated", "mobilenetv3_small_050", image_size=(64, 96))
    assert count_parameters(model) - networks.trainable(model) == 209_664


def test_every_network_has_its_idea_in_a_line() -> None:
    ideas = [network_class(name).idea for name in list_models()]
    assert len(set(ideas)) == len(ideas)
    assert all(20 < len(idea) < 90 and "\n" not in idea for idea in ideas)


def test_quick_run_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of two networks at two numbers of points, beside the encoder alone."""
    training, out = benchmark("training"), tmp_path / "bench_training.csv"
    networks = ["--experiments", "v15_2", "exp08_corrected", "--points", "8", "16"]
    threads = ["--threads", str(torch.get_num_threads())]
    training.main(["--quick", *networks, *threads, "--out", str(out)])
    table = pd.read_csv(out).set_index(["operation", "network", "k"])
    steps, encoder = table.loc["step"], table.loc["encoder"].iloc[0]
    assert set(steps.index) == {(n, k) for n in ("v15_2", "v14_dual") for k in (8, 16)}
    assert (steps["macs"] > encoder["macs"]).all()
    assert (steps["macs"].xs(16, level="k") > steps["macs"].xs(8, level="k")).all()
    minutes = 2000 * steps["milliseconds"] / 60_000
    assert steps["minutes_on_equal_terms"].to_numpy() == pytest.approx(minutes, rel=1e-3)
    record = json.loads(out.with_suffix(".json").read_text())
    settings = {"profile": "smoke", "precision": "float32", "rounds": 1, "points": [8, 16]}
    assert record["settings"] == settings
    assert "v14_dual" in capsys.readouterr().out


def test_a_steps_cost_includes_its_gradients() -> None:
    """Two products more for each of the forward pass: by the weights, and by the input."""
    layer, x = torch.nn.Linear(16, 8), torch.rand(4, 16, requires_grad=True)
    assert counted_macs(lambda: layer(x)) == 4 * 16 * 8
    assert counted_macs(lambda: layer(x).sum().backward(), gradients=True) == 3 * 4 * 16 * 8
    image = torch.rand(1, 8, 6, 6, requires_grad=True)
    for groups in (1, 8):
        convolution = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        forward = 36 * 8 * 9 * 8 // groups
        run = lambda: convolution(image).sum().backward()  # noqa: B023, E731
        assert counted_macs(run, gradients=True) == 3 * forward


def test_training_compares_every_network_on_equal_terms() -> None:
    training = benchmark("training")
    found = {EXPERIMENTS[name].network for name in training.EXPERIMENTS}
    others = {"v13_plan"}  # it reads a plain ViT
    others |= {"dav2_s", "lookup_mlp", "v15_0", "v15_1"}  # never trained on equal terms so far
    assert found == set(list_models()) - others


def bts_folder(root: Path, count: int) -> Path:
    """Rooms of 48x64 as a BTS folder's training frames."""
    scene = root / "bts" / "official_splits" / "train" / "room"
    scene.mkdir(parents=True)
    rooms = Rooms(count, size=(48, 64))
    for index in range(count):
        frame = rooms[index]
        millimetres = np.rint(1000 * frame.truth()).astype(np.uint16)
        Image.fromarray(frame.image).save(scene / f"rgb_{index:05d}.jpg")
        Image.fromarray(millimetres).save(scene / f"sync_depth_{index:05d}.png")
    return root / "bts"


def test_small_run_of_data(
    data: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = bts_folder(tmp_path, 5), tmp_path / "bench_data.csv"
    numbers = ["--frames", "4", "--rounds", "2", "--batch", "2", "--points", "16", "--workers", "0"]
    threads = ["--threads", str(torch.get_num_threads())]  # set for the whole process
    places = ["--data", str(folder), "--scratch", str(tmp_path), "--out", str(out)]
    data.main([*numbers, *threads, *places, "--size", "24", "32"])
    table = pd.read_csv(out)
    assert list(table.columns) == [
        "source", "task", "workers", "median", "min", "max", "megabytes_per_frame",
    ]  # fmt: skip
    sources = [
        "packed store", "packed store, resized to 24x32", "packed store, gzip",
        "BTS folder (JPEG, PNG)", "FastDepth .h5", "FastDepth .h5, deflated",
    ]  # fmt: skip
    assert list(table["source"]) == 2 * sources
    assert list(table["task"]) == 6 * ["read"] + 6 * ["augmented"]
    assert (table[["min", "megabytes_per_frame"]] > 0).all(axis=None)
    assert table["median"].between(table["min"], table["max"]).all()
    text = out.with_suffix(".json").read_text()
    record = json.loads(text)
    assert record["settings"] == {
        "frames": 4, "rounds": 2, "size": [24, 32], "batch": 2, "augment": "strong", "points": 16,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    assert record["machine"]["cores"] >= 1 and "source_hash" in record["code"]
    assert str(tmp_path) not in text
    printed = capsys.readouterr().out
    assert all(source in printed for source in sources)
    assert not list(tmp_path.glob("bench_data_*"))  # the written files are gone


def test_data_needs_a_folder(data: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPD_NYU_DIR", raising=False)
    with pytest.raises(ConfigError, match="--data, or set SPD_NYU_DIR"):
        data.main([])


def test_make_generations_trains_the_networks_that_are_timed(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text().replace("\\\n", " ")
    listed = next(line for line in makefile.splitlines() if line.startswith("GENERATIONS :="))
    runs = dict(word.split(":")[::-1] for word in listed.removeprefix("GENERATIONS :=").split())
    assert set(runs) == set(benchmark("training").EXPERIMENTS)
    assert all(EXPERIMENTS[key].network == network for key, network in runs.items())
