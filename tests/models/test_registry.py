"""Making, saving and loading networks; what is refused on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import spdlib
from spdlib.errors import ConfigError, ModelError
from spdlib.models import DepthModel, EncoderConfig, create_model, list_models, load
from spdlib.reading import read_tensors
from spdlib.sealed import seal, unseal

SIZE = (64, 96)
TINY = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def model() -> DepthModel:
    torch.manual_seed(2)
    return create_model("v15_2", TINY, image_size=SIZE, focal=70.0).eval()


@pytest.fixture
def saved(model: DepthModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "run" / "best")
    return tmp_path / "run" / "best"


def answers(model: DepthModel) -> Tensor:
    images = torch.linspace(0, 1, 3 * 64 * 96).view(1, 3, *SIZE)
    return model(images, torch.tensor([[[3.0, 4.0], [70.5, 33.3]]])).depth


# making


def test_names() -> None:
    assert list_models() == sorted(list_models())
    assert "v15_2" in list_models()


HINT = r"v15_2 \(if it is your own, name its file in SPD_PLUGINS\)"


def test_unknown_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"unknown network 'v15_3'; did you mean 'v15_2'\? \(if"):
        create_model("v15_3")
    with pytest.raises(ModelError, match=HINT):
        create_model("mine")
    monkeypatch.setenv("SPD_PLUGINS", os.pathsep)
    with pytest.raises(ModelError, match=r"v15_2$"):
        create_model("mine")


def test_an_encoder_is_a_name_or_a_configuration() -> None:
    by_name = create_model("v15_2", TINY)
    configured = create_model("v15_2", EncoderConfig(TINY, train_batchnorm=True))
    assert by_name.config.encoder.name == configured.config.encoder.name == TINY
    assert configured.config.encoder.train_batchnorm
    assert by_name.config.encoder.mean == (0.485, 0.456, 0.406)  # the completed configuration


def test_pretrained_is_never_dropped() -> None:
    config = EncoderConfig(TINY, weights="file.safetensors", mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ConfigError, match="exclude each other"):
        create_model("v15_2", config, pretrained_encoder=True)
    with pytest.raises(ConfigError, match="write pretrained_encoder=True"):
        create_model("v15_2", TINY, pretrained=True)


@pytest.mark.parametrize(
    "size", [(0, 96), 128, "64x96", (64,), (64.5, 96), (64, 96, 3), (True, True)]
)
def test_impossible_image_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="image_size must be height and width"):
        create_model("v15_2", TINY, image_size=size)


def test_impossible_focal_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"focal must be a positive length.*got -1"):
        create_model("v15_2", TINY, focal=-1.0)


def test_the_same_seed_gives_the_same_network() -> None:
    first, second, other = (_seeded(seed) for seed in (5, 5, 6))
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()


def _seeded(seed: int) -> DepthModel:
    torch.manual_seed(seed)
    return create_model("v15_2", TINY, image_size=SIZE)


# saving and loading


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_come_back_in_their_type(
    model: DepthModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    copy = deepcopy(model).to(dtype)
    copy.save(tmp_path)
    again = load(tmp_path)
    assert again.dtype == dtype
    assert again.fingerprint() == copy.fingerprint()


def test_options_and_padding_come_back(tmp_path: Path) -> None:
    encoder = EncoderConfig("mobilenetv2_050", padding="same", mean=(0.5, 0.5, 0.5))
    model = create_model("v15_2", encoder, image_size=SIZE, init="recorded").eval()
    model.save(tmp_path)
    again = spdlib.load(str(tmp_path))
    assert again.config.options == {"init": "recorded"}
    assert again.config.encoder.padding == "same"
    assert again.encoder.displacement == [1.5, 3.5, 7.5, 15.5]
    assert torch.equal(answers(again), answers(model))


def test_loading_needs_no_encoder_file(tmp_path: Path) -> None:
    """Nor the network that `pretrained` names."""
    config = EncoderConfig(TINY, mean=(0.5,) * 3, std=(0.5,) * 3, padding="symmetric")
    file = tmp_path / "encoder.safetensors"
    safetensors.torch.save_file(create_model("v15_2", config).encoder.body.state_dict(), file)
    model = create_model("v15_2", replace(config, weights=str(file)))
    model.save(tmp_path / "run")
    file.unlink()
    again = load(tmp_path / "run")
    assert again.config.encoder.weights == "encoder.safetensors"
    assert again.config.encoder.weights_sha256 == model.config.encoder.weights_sha256
    assert again.fingerprint() == model.fingerprint()


def test_weights_of_another_network_are_refused(saved: Path, tmp_path: Path) -> None:
    create_model("v15_2", "mobilenetv3_small_075").save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    with pytest.raises(ModelError, match=rf"weights of another network.*'v15_2' with '{TINY}'"):
        load(saved)


def test_weights_with_missing_or_extra_tensors_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    state, text = unseal(path, "config", ModelError, "")
    removed = state.pop("local_path.source_code")
    path.write_bytes(seal(state, "config", text))
    with pytest.raises(ModelError, match=r"local_path\.source_code"):
        load(saved)
    state.update({"local_path.source_code": removed, "more": torch.zeros(3)})
    path.write_bytes(seal(state, "config", text))
    with pytest.raises(ModelError, match="more"):
        load(saved)


def _set(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_configuration_of_an_unknown_network_is_refused(saved: Path) -> None:
    _set(saved / "config.json", lambda values: values.update(network="v99"))
    with pytest.raises(ModelError, match="unknown network 'v99'"):
        load(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"no {name} in "):
        load(saved)


def test_a_file_is_no_folder(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"best/config\.json is a file; give the folder"):
        load(saved / "config.json")


@pytest.mark.parametrize("keep", [0, 6, -200])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model.safetensors: is no readable .*another checkpoint"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("encoder"),
        lambda values: values.update(encoder="vit"),
        lambda values: values.update(colour="red"),
        lambda values: values["encoder"].update(colour="red"),
        lambda values: values.update(image_size=None),
        lambda values: values.update(image_size=[0, 3]),
        lambda values: values.update(image_size=[10**9, 64]),
        lambda values: values.update(options=[]),
        lambda values: values.update(options={"init": [1]}),
        lambda values: values.update(options=nested(400)),
        lambda values: values.update(network=None),
        lambda values: values.update(network=["v15_2"]),
        lambda values: values.update(network="v15_2\0"),
        lambda values: values.update(focal="70"),
        lambda values: values.update(focal=float("nan")),
        lambda values: values.update(focal=float("inf")),
        lambda values: values["encoder"].update(name="../../etc"),
        lambda values: values["encoder"].update(name=f"{TINY}.none"),
        lambda values: values["encoder"].update(mean=[0.5, float("nan"), 0.5]),
        lambda values: values["encoder"].update(std=[0.5, float("inf"), 0.5]),
        lambda values: values["encoder"].update(std=[0.5, -0.5, 0.5]),
        lambda values: values["encoder"].update(taps=list(range(100_000))),
    ],
)
def test_damaged_configurations_are_named(
    saved: Path, change: Callable[[dict[str, object]], object]
) -> None:
    _set(saved / "config.json", change)
    with pytest.raises(ModelError, match=r"config.json: is not a model configuration") as raised:
        load(saved)
    assert len(str(raised.value)) < 1000 and "\n" not in str(raised.value)


def nested(depth: int) -> Any:
    """Lists in lists, more than Python's recursion takes where each costs it a few calls."""
    return {"init": json.loads("[" * depth + "]" * depth)}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 10**6],
)
def test_configurations_that_are_no_json_are_named(saved: Path, data: bytes) -> None:
    (saved / "config.json").write_bytes(data)
    with pytest.raises(ModelError, match=r"config.json: .*take another checkpoint"):
        load(saved)


CHANGES: dict[str, tuple[str, object]] = {
    "focal": ("focal is 700.0, but the weights were saved with 70.0", 700.0),
    "image_size": (r"image_size is \[128, 96\], but", [128, 96]),
    "encoder.mean": (r"encoder.mean is \[0.5, 0.5, 0.5\], but the weights .* \[0.485", [0.5] * 3),
    "encoder.std": (r"encoder.std is \[0.5, 0.5, 0.5\], but the weights", [0.5] * 3),
    "encoder.input_norm": ("encoder.input_norm is 'none', but", "none"),
    "options.init": ("options.init is 'recorded', but the weights .* 'default'", "recorded"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_configuration_that_was_changed_after_saving_is_refused(saved: Path, name: str) -> None:
    message, value = CHANGES[name]

    def change(values: Any) -> None:
        *part, last = name.split(".")
        (values[part[0]] if part else values)[last] = value

    _set(saved / "config.json", change)
    with pytest.raises(ModelError, match=f"config.json: {message}.*restore it or take another"):
        load(saved)


def test_a_part_of_a_configuration_that_is_missing_is_named(saved: Path) -> None:
    _set(saved / "config.json", lambda values: values.pop("focal"))
    with pytest.raises(ModelError, match="focal is 'missing', but the weights were saved with 70"):
        load(saved)


def test_a_flipped_bit_in_the_weights_is_found(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model.safetensors: is damaged"):
        load(saved)


def _resave(saved: Path, **changes: str) -> None:
    """Write the weights again without a hash, with their configuration or other metadata."""
    state, metadata = read_tensors(saved / "model.safetensors", ModelError, "")
    plain = {key: text.rpartition("\nsha256 ")[0] for key, text in metadata.items()}
    safetensors.torch.save_file(state, saved / "model.safetensors", changes or plain)


def test_weights_of_a_version_without_a_hash_are_loaded(saved: Path, model: DepthModel) -> None:
    _resave(saved)
    assert load(saved).fingerprint() == model.fingerprint()


def test_weights_without_their_configuration_are_refused(saved: Path) -> None:
    _resave(saved, other="thing")
    with pytest.raises(ModelError, match=r"it has no 'config'.*restore it"):
        load(saved)
    _resave(saved, config="[1")
    with pytest.raises(ModelError, match=r"carries no readable configuration"):
        load(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    model: DepthModel, tmp_path: Path, value: float
) -> None:
    broken = deepcopy(model)
    with torch.no_grad():
        broken.get_parameter("local_path.source_code")[0, 0] = value
    model.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(
        ModelError, match=r"cannot save .*'local_path.source_code' holds NaN or inf"
    ):
        broken.save(tmp_path)
    assert weights.read_bytes() == before
    weights.write_bytes(seal(broken.state_dict(), "config", (tmp_path / "config.json").read_text()))
    with pytest.raises(ModelError, match=r"local_path.source_code holds NaN or infinity"):
        load(tmp_path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_pipes_and_folders_are_no_files_of_a_model(saved: Path, name: str) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(ModelError, match=f"{name}: is a pipe or a device, not a file"):
        load(saved)
    (saved / name).unlink()
    (saved / name).mkdir()
    with pytest.raises(ModelError, match=f"{name}: is a folder, not a file"):
        load(saved)


@pytest.mark.parametrize("folder", [None, 3, b"folder", [], "a\0b", "x" * 5000])
def test_what_names_no_folder_is_refused(folder: Any) -> None:
    with pytest.raises(ModelError, match=r"give the (one|folder) that `save`"):
        load(folder)


def test_unwritable_folders_say_so(model: DepthModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ModelError, match=r"cannot write .*model\.safetensors.*choose another folder"
    ):
        model.save(tmp_path / "file" / "best")


def test_a_full_disk_keeps_the_previous_files(
    model: DepthModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match=r"No space left on device; the previous file is kept"):
        create_model("v15_2", TINY).save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert load(saved).fingerprint() == model.fingerprint()


def test_equal_networks_are_equal_files(model: DepthModel, tmp_path: Path) -> None:
    """Byte for byte, in every process: records name a network by the hash of its file."""
    for name in ("a", "b"):
        model.save(tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    length = int.from_bytes(files[0][:8], "little")
    # safetensors writes several entries in any order
    assert len(json.loads(files[0][8 : 8 + length])["__metadata__"]) == 1
