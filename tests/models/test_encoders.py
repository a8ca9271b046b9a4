"""Encoders: the right weights, scaled and centred as they were trained."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spdlib.errors import ConfigError, ModelError
from spdlib.models.base import count_parameters
from spdlib.models.encoders import (
    STRIDES,
    Encoder,
    EncoderConfig,
    padded_size,
    vit_taps,
)

TINY = "mobilenetv3_small_050"
HALF = (0.5, 0.5, 0.5)


def local(name: str, weights: Path, **changes: object) -> EncoderConfig:
    """A configuration that says all a file of weights needs."""
    padding = None if name.startswith(("vit_", "convnext")) else "symmetric"
    said: dict[str, object] = {"mean": HALF, "std": HALF, "padding": padding, **changes}
    return EncoderConfig(name, weights=str(weights), **said)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """All of timm's tensors of a small network, its classifier included."""
    path = tmp_path / "timm.safetensors"
    safetensors.torch.save_file(timm.create_model(TINY, num_classes=10).state_dict(), path)
    return path


# levels


@pytest.mark.parametrize("name", [TINY, "convnextv2_atto", "resnet10t", "mobilenetv2_035"])
def test_hierarchical_levels(name: str) -> None:
    encoder = Encoder(EncoderConfig(name)).eval()
    levels = encoder(torch.rand(2, 3, 64, 96))
    assert encoder.multiple == 32
    assert [level.shape[1] for level in levels] == encoder.channels
    assert [tuple(level.shape[2:]) for level in levels] == [(64 // s, 96 // s) for s in STRIDES]


def test_vit_levels() -> None:
    encoder = Encoder(EncoderConfig("vit_tiny_patch16_224")).eval()
    levels = encoder(torch.rand(2, 3, 48, 80))
    assert (encoder.multiple, encoder.channels) == (16, [192] * 4)
    assert [tuple(level.shape) for level in levels] == [(2, 192, 3, 5)] * 4


def test_counts() -> None:
    assert count_parameters(Encoder(EncoderConfig("vit_small_patch14_dinov2"))) == 22_056_192


def test_padded_size() -> None:
    assert padded_size((240, 320), 32) == (256, 320)
    assert padded_size((350, 476), 14) == (350, 476)


# the ViT's taps and positions


def test_taps_carry_the_final_norm() -> None:
    """At the trained size, where no table is resized, the taps are timm's own."""
    encoder = Encoder(EncoderConfig("vit_tiny_patch16_224")).eval()
    vit = encoder.body
    assert isinstance(vit, VisionTransformer)
    with torch.no_grad():
        for parameter in vit.norm.parameters():
            nn.init.normal_(parameter)
        images = torch.randn(1, 3, 224, 224)
        found = vit_taps(vit, images, (2, 5, 8, 11))
        expected = vit.get_intermediate_layers(images, n=[2, 5, 8, 11], reshape=True, norm=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_taps_follow_timms_token_order(name: str) -> None:
    """Class and register tokens in front, with and without a position of their own."""
    vit = timm.create_model(name, depth=2, img_size=(28, 56), patch_size=14, num_classes=0).eval()
    assert isinstance(vit, VisionTransformer)
    with torch.no_grad():
        for token in (vit.cls_token, vit.reg_token):
            if token is not None:
                nn.init.normal_(token)
        images = torch.randn(2, 3, 28, 56)
        found = vit_taps(vit, images, (0, 1))
        expected = vit.get_intermediate_layers(images, n=[0, 1], reshape=True, norm=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(70, 70), (70, 84), (28, 98), (84, 126)])
def test_position_table_is_resized_as_transformers_does(size: tuple[int, int]) -> None:
    """Bicubic, no antialiasing, to the size itself; timm's own rule differs."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=70, patch_size=14
    )
    theirs = transformers.Dinov2Model(config).embeddings.eval()
    vit = VisionTransformer(
        img_size=70, patch_size=14, embed_dim=32, depth=1, num_heads=2, num_classes=0
    )
    with torch.no_grad():
        for ours, other in (("pos_embed", "position_embeddings"), ("cls_token", "cls_token")):
            vit.get_parameter(ours).copy_(nn.init.normal_(theirs.get_parameter(other)))
        vit.patch_embed.proj.load_state_dict(theirs.patch_embeddings.projection.state_dict())
        seen: list[Tensor] = []
        vit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        images = torch.randn(2, 3, *size)
        vit_taps(vit, images, (0,))
        torch.testing.assert_close(seen[0], theirs(images), rtol=1e-5, atol=1e-5)


# normalisation


def test_images_are_normalised_with_the_configured_statistics() -> None:
    encoder = Encoder(EncoderConfig(TINY, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))).eval()
    images = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    for found, expected in zip(encoder(images), encoder.body((images - mean) / std), strict=True):
        assert torch.equal(found, expected)


def test_mean_and_std_change_every_level(file: Path) -> None:
    images = torch.rand(1, 3, 64, 64)
    first = Encoder(local(TINY, file)).eval()(images)
    for change in ({"mean": (0.485, 0.456, 0.406)}, {"std": (0.229, 0.224, 0.225)}):
        other = Encoder(local(TINY, file, **change)).eval()(images)
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(first, other, strict=True))


def test_images_go_in_as_they_are_on_request_also_with_weights(tmp_path: Path) -> None:
    """The switch is apart from mean and std, which belong to the weights (F12)."""
    path, body = tmp_path / "said.safetensors", timm.create_model(TINY, num_classes=0)
    said = {"mean": "0.5, 0.5, 0.5", "std": "0.5, 0.5, 0.5", "padding": "symmetric"}
    safetensors.torch.save_file(body.state_dict(), path, said)
    encoder = Encoder(EncoderConfig(TINY, weights=str(path), input_norm="none")).eval()
    assert (encoder.config.mean, encoder.config.std) == (HALF, HALF)
    images = torch.rand(1, 3, 64, 64)
    for found, expected in zip(encoder(images), encoder.body(images), strict=True):
        assert torch.equal(found, expected)


def test_defaults_are_timms() -> None:
    config = Encoder(EncoderConfig("tf_mobilenetv3_small_minimal_100")).config
    cfg = timm.get_pretrained_cfg("tf_mobilenetv3_small_minimal_100")
    assert cfg is not None
    assert (config.mean, config.std, config.padding) == (cfg.mean, cfg.std, "same")
    config = Encoder(EncoderConfig("vit_tiny_patch16_224")).config
    assert (config.mean, config.std, config.padding) == (HALF, HALF, "patch")


# centres


def without_activations(encoder: Encoder) -> Encoder:
    """The encoder as an affine map: every path from a pixel to a cell then shows in gradients."""
    for module in encoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6 | nn.GELU):
                setattr(module, name, nn.Identity())
    return encoder


def measured_displacement(encoder: Encoder, height: int) -> list[float]:
    """Centre of the rows each level's middle cell depends on, less what the grid rule says.

    The image is tall and narrow: rows behave as in a large image, at little cost.
    """
    image = torch.rand(1, 3, height, 32, dtype=torch.float64, requires_grad=True)
    found = []
    for level, stride in zip(encoder(image), STRIDES, strict=True):
        row = level.shape[2] // 2
        (gradient,) = torch.autograd.grad(level[0, :, row].sum(), image, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        first, last = rows[0].item(), rows[-1].item()
        assert 0 < first < last < height - 1, "the image is too small for this receptive field"
        found.append((first + last) / 2 - (row * stride + (stride - 1) / 2))
    return found


@pytest.mark.parametrize(
    ("name", "padding", "height", "expected"),
    [
        ("mobilenetv2_035", "same", 640, [1.5, 3.5, 7.5, 15.5]),
        ("mobilenetv2_035", "symmetric", 640, [-1.5, -3.5, -7.5, -15.5]),
        ("convnext_atto", "patch", 1600, [0, 0, 0, 0]),
    ],
)
def test_receptive_fields_lie_where_the_encoder_says(
    name: str, padding: str, height: int, expected: list[float]
) -> None:
    encoder = without_activations(Encoder(EncoderConfig(name, padding=padding)).double().eval())
    assert encoder.displacement == expected
    assert measured_displacement(encoder, height) == expected


def test_vit_patches_lie_on_the_grid_rule() -> None:
    assert Encoder(EncoderConfig("vit_tiny_patch16_224")).displacement == [0.0] * 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edgenext_xx_small", [0, 0, 0, 0]),
        ("poolformer_s12", [None] * 4),
        ("tf_mobilenetv3_small_minimal_100", [1.5, 3.5, 7.5, 15.5]),
        ("resnet18", [-1.5, -3.5, -7.5, -15.5]),
        ("resnet10t", [None] * 4),  # its shortcuts average 2x2 cells
    ],
)
def test_displacement_is_that_of_the_family(name: str, expected: list[float | None]) -> None:
    assert Encoder(EncoderConfig(name)).displacement == expected


def assert_paddings_shift(make: Callable[[str], Encoder]) -> None:
    """TensorFlow's padding sees what symmetric padding sees 3/7/15/31 px further left and above.

    Images are just large enough for one cell whose receptive field lies inside.
    """
    same, symmetric = make("same"), make("symmetric")
    for level, (stride, side) in enumerate(zip(STRIDES, (96, 192, 352, 576), strict=True)):
        image, shift = torch.rand(1, 3, side, side), stride - 1
        moved = torch.roll(image, (-shift, -shift), (2, 3))
        cell = side // 2 // stride - 1
        with torch.no_grad():
            expected, shifted, unshifted = (
                encoder(x)[level][0, :, cell, cell]
                for encoder, x in ((same, image), (symmetric, moved), (symmetric, image))
            )
        scale = expected.abs().max()
        assert (shifted - expected).abs().max() < 1e-4 * scale
        assert (unshifted - expected).abs().max() > 1e-2 * scale


def test_wrong_padding_shifts_every_level() -> None:
    body = Encoder(EncoderConfig("mobilenetv2_035", padding="same")).body.state_dict()

    def make(padding: str) -> Encoder:
        encoder = Encoder(EncoderConfig("mobilenetv2_035", padding=padding)).eval()
        encoder.body.load_state_dict(body)
        return encoder

    assert_paddings_shift(make)


def test_wrong_padding_loads_real_weights_and_shifts_every_level(encoder_weights: Path) -> None:
    assert_paddings_shift(
        lambda padding: Encoder(local("mobilenetv2_100", encoder_weights, padding=padding)).eval()
    )


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        (TINY, "patch"),
        (TINY, "reflect"),
        ("resnet18", "same"),
        ("convnext_atto", "symmetric"),
        ("edgenext_xx_small", "symmetric"),
        ("vit_tiny_patch16_224", "same"),
    ],
)
def test_impossible_paddings_are_refused(name: str, padding: str) -> None:
    with pytest.raises(ConfigError, match=r"padding"):
        Encoder(EncoderConfig(name, padding=padding))


@pytest.mark.parametrize(
    ("name", "padding"),
    [("edgenext_xx_small", "patch"), ("resnet18", "symmetric"), ("convnext_atto", None)],
)
def test_paddings_that_the_network_has_are_taken(name: str, padding: str | None) -> None:
    assert Encoder(EncoderConfig(name, padding=padding)).config.padding == padding


def test_files_of_networks_without_a_choice_need_no_padding(tmp_path: Path) -> None:
    path = tmp_path / "timm.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), path)
    config = Encoder(EncoderConfig("resnet10t", weights=str(path), mean=HALF, std=HALF)).config
    assert config.padding is None


# weights


def test_fingerprints_tell_weights_apart_whatever_their_origin(file: Path) -> None:
    torch.manual_seed(0)
    first = Encoder(EncoderConfig(TINY))
    torch.manual_seed(0)
    assert Encoder(EncoderConfig(TINY)).fingerprint() == first.fingerprint()
    read = Encoder(local(TINY, file))
    assert read.fingerprint() == Encoder(local(TINY, file)).fingerprint() != first.fingerprint()
    with torch.no_grad():
        read.body.get_submodule("bn1").get_buffer("running_mean")[0] += 1e-3
    assert read.fingerprint() != Encoder(local(TINY, file)).fingerprint()


def test_real_weights_load_strictly(encoder_weights: Path) -> None:
    encoder = Encoder(local("mobilenetv2_100", encoder_weights, padding="same")).eval()
    tensors = safetensors.torch.load_file(encoder_weights)
    state = encoder.body.state_dict()
    missing = state.keys() - tensors.keys()
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert all(torch.equal(state[key], tensor.float()) for key, tensor in tensors.items())
    assert encoder.channels == [24, 32, 96, 320]
    assert encoder.config.weights == encoder_weights.name
    assert encoder.config.weights_sha256 is not None
    assert len(encoder.config.weights_sha256) == 64
    assert all(level.isfinite().all() for level in encoder(torch.rand(1, 3, 64, 64)))


@pytest.mark.parametrize("name", [TINY, "convnext_atto", "vit_tiny_patch16_224"])
def test_whole_timm_files_fit_the_feature_extractor(name: str, tmp_path: Path) -> None:
    """With a classifier, and with the names that feature extractors change."""
    whole: Any = timm.create_model(name, num_classes=10).eval()
    path = tmp_path / "timm.safetensors"
    safetensors.torch.save_file(whole.state_dict(), path)
    encoder = Encoder(local(name, path)).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        if name == TINY:
            features = whole.blocks(whole.bn1(whole.conv_stem((images - 0.5) / 0.5)))
        else:
            features = whole.forward_features((images - 0.5) / 0.5)
        if name.startswith("vit"):
            features = features[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
        torch.testing.assert_close(encoder(images)[3], features, rtol=1e-4, atol=1e-4)


def test_a_file_may_say_its_own_input(tmp_path: Path) -> None:
    path = tmp_path / "said.safetensors"
    said = {"mean": "0.5, 0.5, 0.5", "std": "[0.25, 0.5, 1.0]", "padding": "same"}
    safetensors.torch.save_file(timm.create_model(TINY).state_dict(), path, said)
    config = Encoder(EncoderConfig(TINY, weights=str(path))).config
    assert (config.mean, config.std, config.padding) == (HALF, (0.25, 0.5, 1.0), "same")
    with pytest.raises(ConfigError, match=r"padding='symmetric' contradicts its weights.*'same'"):
        Encoder(EncoderConfig(TINY, weights=str(path), padding="symmetric"))
    safetensors.torch.save_file(timm.create_model(TINY).state_dict(), path, {**said, "std": "one"})
    with pytest.raises(ConfigError, match=r"said.safetensors: std 'one' is not three numbers"):
        Encoder(EncoderConfig(TINY, weights=str(path)))


def test_a_silent_file_needs_its_input_said(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"timm.safetensors does not say which mean, padding"):
        Encoder(EncoderConfig(TINY, weights=str(file), std=HALF))


def _change(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bn1.weight"), r"1 tensors missing \['bn1.weight'\]"),
        (lambda t: t.update(extra=torch.zeros(3)), r"1 unknown \['extra'\]"),
        (lambda t: t.update({"bn1.bias": torch.zeros(3)}), r"1 of another shape \['bn1.bias'\]"),
        (lambda t: t["bn1.bias"].fill_(torch.nan), r"'bn1.bias' holds NaN or infinity"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    file: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    _change(file, change)
    with pytest.raises(ModelError, match=rf"timm.safetensors.*{message}"):
        Encoder(local(TINY, file))


def test_weights_of_another_encoder_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="give the file of the same timm network"):
        Encoder(local("mobilenetv2_035", file))


def test_truncated_and_missing_files_are_named(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"timm.safetensors: is no readable safetensors file"):
        Encoder(local(TINY, file))
    file.unlink()
    for missing in (file, Path("x" * 5000), Path("a\0b")):
        with pytest.raises(ModelError, match=r"no encoder weights at .*place a safetensors file"):
            Encoder(local(TINY, missing))


@pytest.mark.timeout(30)
def test_a_pipe_a_folder_and_a_pickle_are_no_weights(file: Path, tmp_path: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ModelError, match=r"timm.safetensors: is a pipe or a device, not a file"):
        Encoder(local(TINY, file))
    with pytest.raises(ModelError, match=r"is a folder, not a file"):
        Encoder(local(TINY, tmp_path))
    torch.save({"bn1.weight": torch.zeros(2)}, tmp_path / "timm.pth")
    with pytest.raises(ModelError, match=r"timm.pth: is no readable safetensors file"):
        Encoder(local(TINY, tmp_path / "timm.pth"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mean": "0.5, nan, 0.5"}, "mean=.*finite number"),
        ({"std": "0.5, 0.5"}, "std="),
        ({"std": "0.5, 0.5, -1"}, r"std=\(0.5, 0.5, -1.0\): an encoder's mean and std"),
        ({"padding": "round"}, "cannot have padding 'round'"),
    ],
)
def test_a_files_own_input_is_checked(tmp_path: Path, said: dict[str, str], message: str) -> None:
    path = tmp_path / "said.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, said)
    with pytest.raises(ConfigError, match=rf"said.safetensors: its metadata are wrong .*{message}"):
        Encoder(EncoderConfig(TINY, weights=str(path)))


@pytest.mark.parametrize("name", ["resnet18.none", "a/b", "../etc", "\0", "hf-hub:a/b", ""])
def test_what_timm_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"encoder .*timm|timm knows no encoder"):
        Encoder(EncoderConfig(name))


def test_unreachable_weights_give_one_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        Encoder(EncoderConfig(TINY, pretrained=True))
    assert time.monotonic() - started < 60
    message = str(caught.value)
    assert f"the weights of '{TINY}' could not be fetched" in message
    assert "Download 'model.safetensors' of 'timm/mobilenetv3_small_050" in message
    assert f"EncoderConfig('{TINY}', weights='model.safetensors', mean=(0.485" in message
    assert "padding='symmetric'" in message
    assert "--weights or in SPD_WEIGHTS" in message


def test_a_host_that_never_answers_is_given_up_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("spdlib.models.encoders.HUB_SECONDS", 0.2)
        started = time.monotonic()
        with pytest.raises(ModelError, match="could not be fetched"):
            Encoder(EncoderConfig(TINY, pretrained=True))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncoderConfig("mobilenetv2_999"), r"no encoder 'mobilenetv2_999'; near ones are \["),
        (EncoderConfig("vit_tiny_patch16_224", taps=(2, 5, 8, 12)), "has 12 blocks"),
        (EncoderConfig("swin_tiny_patch4_window7_224"), "one image size only"),
        (EncoderConfig("eva02_tiny_patch14_224"), "has levels at strides"),
    ],
)
def test_unusable_networks_are_refused(config: EncoderConfig, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Encoder(config)


@pytest.mark.parametrize(
    "settings",
    [
        {"pretrained": True, "weights": "file.safetensors"},
        {"std": (0.0, 1.0, 1.0)},
        {"input_norm": "always"},
        {"taps": (1, 2, 3)},
        {"taps": (-1, 2, 5, 8)},
    ],
)
def test_contradictions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EncoderConfig(TINY, **settings)  # type: ignore[arg-type]


# BatchNorm


@pytest.mark.parametrize("asked", [False, True])
def test_batchnorm_trains_only_when_asked(asked: bool) -> None:
    encoder = Encoder(EncoderConfig(TINY, train_batchnorm=asked)).train()
    norm = encoder.body.get_submodule("bn1")
    before = norm.get_buffer("running_mean").clone()
    encoder(torch.rand(2, 3, 64, 64))
    assert encoder.training
    assert norm.training is asked
    assert torch.equal(norm.get_buffer("running_mean"), before) is not asked
    assert all(p.requires_grad for p in encoder.parameters())
    assert not encoder.eval().body.get_submodule("bn1").training


def test_a_plain_vit_has_no_stages_to_insert_between() -> None:
    encoder = Encoder(EncoderConfig("vit_tiny_patch16_224"))
    with pytest.raises(ModelError, match="has no stages to insert a module between; choose"):
        encoder.insert(nn.Identity())
