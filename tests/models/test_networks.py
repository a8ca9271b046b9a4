"""What every registered network owes, one test for all of them; a new one joins by its name.

Where a network is an exception, a table below says so. What is particular to a generation is tested
in test_v13, test_v14, test_v15, test_dav2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spdlib.errors import ConfigError, ModelError, QueryError
from spdlib.geometry import lattice_points
from spdlib.models import (
    DepthModel,
    Encoder,
    counts,
    create_model,
    list_models,
    load,
    network_class,
    words,
)
from spdlib.models.base import count_parameters
from spdlib.scene import Scene
from spdlib.study.diagnostics import set_dependence
from spdlib.study.objectives import silog

SIZE = (64, 96)
HIERARCHICAL, VIT = "test_convnext", "vit_tiny_patch16_224"

Names = Mapping[str, Sequence[str]]
"""Patterns of parameters' names by network."""

BOTH = ("dav2_s", "lookup_mlp", "v15_0", "v15_1", "v15_2")
ENCODERS = {"v13_plan": (VIT,)} | dict.fromkeys(BOTH, (HIERARCHICAL, VIT))
"""Kinds of encoder that a network reads, the smaller first; others take a hierarchical one."""

HEADS = {"v15_2": "local_path.head"} | dict.fromkeys(("v15_0", "v15_1"), "local_path.last")
"""Where the layers lie that end in depth; elsewhere in "head"."""

TRAINABLE = {
    "v13_plan": 4_143_275, "v13_calibrated": 34_167_251 - 209_664, "v13_log_depth": 35_661_609,
    "v13_1": 39_978_897, "v14_plan": 40_187_371, "v14_dual": 32_881_641,
    "v14_triple": 33_301_161, "v15_0": 28_519_265, "v15_1": 22_056_192 + 779_425,
    "v15_2": 22_056_192 + 558_145, "dav2_s": 24_784_705 - 73_856,
    "lookup_mlp": 244_800 + 37_633,  # ConvNeXt's stem and first stage; 96 -> 384 -> 1
}  # fmt: skip
"""Trainable parameters with the default encoder."""

FROZEN: Names = {
    "v13_plan": ["encoder.*"],
    # L1 does not depend on them
    "lookup_mlp": ["encoder.body.stages_[123].*"],
    # 209,664 and 73,856 parameters that nothing reads
    "v13_calibrated": ["precompute.anchors.*", "precompute.values.*"],
    "dav2_s": ["fusion.stages.0.beside.*"],
}

AUXILIARY: Names = {key: ["neck_depth.*"] for key in ("v14_plan", "v14_dual", "v14_triple")}
"""What the auxiliary loss alone reaches."""

MAPS_KEYS = "level[34]_attention.*.attention.key.bias"
DEAD: Names = {
    "v13_plan": ["b[25].layers.*.attention.key.bias", "precompute.b3_tokens.keys.bias"],
    "v13_calibrated": [
        MAPS_KEYS, "b2.layers.*.attention.key.bias", "precompute.b3_tokens.keys.bias",
    ],
    "v13_log_depth": [
        MAPS_KEYS, "b[25].layers.*.attention.key.bias", "precompute.b3_tokens.keys.bias",
    ],
    "v13_1": [
        MAPS_KEYS, "b[25].layers.*.attention.key.bias", "precompute.b3[ab]_tokens.keys.bias",
    ],
    "v14_plan": [MAPS_KEYS, "b3[ab]_tokens.keys.bias"],
    "v14_dual": [MAPS_KEYS, "b3b_tokens.keys.bias"],
    "v14_triple": [MAPS_KEYS, "b3b_tokens.keys.bias"],
    "v15_2": ["local_path.*.key.bias"],
}  # fmt: skip
"""Biases of keys: one number for all keys of a query, which its softmax does not see.

Q2Q's are a third of `in_proj_bias`, whose other thirds learn.
"""

STARTS = {"init", "msda_init", "head_bias", "inserted_attention", "smooth_init"}
"""Options of a fresh network's weights. All others change what the same weights answer."""

Equal = Callable[[Tensor, Tensor], None]

only_dense = pytest.mark.parametrize(
    "name", [n for n in list_models() if network_class(n).has_dense], indirect=True
)
only_inserted = pytest.mark.parametrize(
    "name",
    [n for n in list_models() if "inserted_attention" in words(network_class(n).Options)],
    indirect=True,
)


def small(name: str, **options: Any) -> DepthModel:
    """A network for 64x96 images, random weights, evaluation mode.

    L4 has 6 cells then: queries are routed to 4 of them.
    """
    encoder = ENCODERS.get(name, (HIERARCHICAL,))[0]
    routed = {n: 4 for n in counts(network_class(name).Options) if n.startswith("routed")}
    return create_model(name, encoder, image_size=SIZE, focal=70.0, **routed | options).eval()


def matching(model: DepthModel, patterns: Names) -> set[str]:
    """Names of the parameters that a table has for this network."""
    wanted = patterns.get(model.config.network, ())
    found = {key for key, _ in model.named_parameters() if any(fnmatchcase(key, p) for p in wanted)}
    assert all(any(fnmatchcase(key, p) for key in found) for p in wanted)
    return found


def anywhere(count: int, batch: int = 1) -> Tensor:
    """Points [batch, count, 2] anywhere in a 64x96 image."""
    return torch.rand(batch, count, 2) * torch.tensor([SIZE[1], SIZE[0]]) - 0.5


def squares(model: DepthModel, images: Tensor, points: Tensor | None) -> Tensor:
    """A scalar that all answers, auxiliary ones included, have a part in."""
    depth, auxiliary = model(images, points)
    return torch.stack([x.log().square().mean() for x in (depth, *auxiliary.values())]).sum()


@pytest.fixture(scope="module", params=list_models())
def name(request: pytest.FixtureRequest) -> str:
    """A registered network."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def model(name: str) -> DepthModel:
    """A small one, fresh, float32. Tests share it and leave it as it is."""
    torch.manual_seed(0)
    return small(name)


@pytest.fixture(scope="module")
def exact_model(name: str) -> DepthModel:
    """The same in float64, every weight moved so that none is zero. Tests leave it as it is."""
    torch.manual_seed(0)
    model = small(name).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


@pytest.fixture
def few(points: Tensor) -> Tensor:
    """Points [2, 12, 2], float64, corners and edges first."""
    return points[:, :12]


# parameters


def test_trainable_parameters(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name)
    counts = network.parameter_table()["parameters"]
    assert counts.iloc[-1] == counts.iloc[:-1].sum() == count_parameters(network)
    frozen = {key: p.numel() for key, p in network.named_parameters() if not p.requires_grad}
    assert set(frozen) == matching(network, FROZEN)
    assert counts.iloc[-1] - sum(frozen.values()) == TRAINABLE[name]


def test_optimisers_get_each_trainable_parameter_once(model: DepthModel) -> None:
    """Attention inserted into the encoder trains with the decoder."""
    groups = model.parameter_groups(1e-5, 1e-4, 0.01)
    common = {"weight_decay": 0.01}
    assert [{k: v for k, v in group.items() if k != "params"} for group in groups] == [
        {"name": "encoder", "lr": 1e-5, **common}, {"name": "decoder", "lr": 1e-4, **common},
    ]  # fmt: skip
    names = {id(p): key for key, p in model.named_parameters()}
    encoder, decoder = ([names[id(p)] for p in group["params"]] for group in groups)
    trainable = [key for key, p in model.named_parameters() if p.requires_grad]
    assert encoder == [key for key in trainable if key.startswith("encoder.")]
    assert decoder == [key for key in trainable if not key.startswith("encoder.")]
    torch.optim.AdamW(groups)


# training's path


def test_forward_answers_every_point(model: DepthModel, images: Tensor) -> None:
    points = anywhere(7, 2)
    depth, auxiliary = model(images, points)
    assert depth.shape == (2, 7)
    assert depth.dtype == torch.float32
    assert (depth > 0).all()
    assert auxiliary == {}
    assert bool(deepcopy(model).train()(images, points).auxiliary) == model.has_auxiliary


def test_images_without_points_ask_the_dense_path(model: DepthModel, images: Tensor) -> None:
    if model.has_dense:
        depth = model(images).depth
        assert depth.shape == (2, *model.decode_lattice(model.maps(images)).shape[1:])
        assert depth.dtype == torch.float32
        return
    with pytest.raises(ModelError, match=f"{model.config.network} has no dense path; ask its poi"):
        model(images)
    with pytest.warns(UserWarning, match="no dense path: asking 24 queries"):
        assert model.encode(images[0]).dense(stride=16).shape == (1, 4, 6)


def test_a_gradient_reaches_every_trainable_parameter(
    exact_model: DepthModel, images: Tensor, few: Tensor
) -> None:
    """But for those that the tables name, which get none at all."""
    network, images = deepcopy(exact_model).train(), images.double()
    trainable = {key: p for key, p in network.named_parameters() if p.requires_grad}
    network(images, few).depth.log().square().mean().backward()
    assert {k for k, p in trainable.items() if p.grad is None} == matching(network, AUXILIARY)
    for points in (few, None) if network.has_dense else (few,):
        network.zero_grad()
        squares(network, images, points).backward()
        sizes = {k: p.grad.abs().max() for k, p in trainable.items() if p.grad is not None}
        assert set(sizes) == set(trainable)
        assert all(size.isfinite() for size in sizes.values())
        limit = 1e-12 * max(sizes.values())
        assert {k for k, size in sizes.items() if size < limit} == matching(network, DEAD)


def test_training_computes_in_float32_and_under_autocast(
    name: str, model: DepthModel, images: Tensor
) -> None:
    """The head stays in float32."""
    network, points = deepcopy(model).train(), anywhere(20, 2)
    seen: list[torch.dtype] = []
    for layer in network.get_submodule(HEADS.get(name, "head")).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda _, x, y: seen.extend([x[0].dtype, y.dtype]))
    for low in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = squares(network, images, points)
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)
    with torch.no_grad():
        high = network.eval()(images, points).depth
        with torch.autocast("cpu", torch.bfloat16):
            found = network(images, points).depth
    assert set(seen) == {torch.float32}
    assert found.dtype == torch.float32
    assert (found / high).log().abs().max() < 0.06


def test_training_repeats_bit_for_bit(model: DepthModel, images: Tensor) -> None:
    network, points = deepcopy(model).train(), anywhere(100, 2)

    def gradients() -> list[Tensor]:
        network.zero_grad()
        torch.manual_seed(3)  # dropout
        squares(network, images, points).backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_padding_among_the_points_teaches_nothing(
    exact_model: DepthModel, images: Tensor, few: Tensor, equal: Equal
) -> None:
    """Nine valid points in one image, four in another, none in the third."""
    counts = torch.tensor([9, 4, 0])
    valid = torch.arange(12) < counts[:, None]
    images = torch.cat([images, images[:1]]).double().requires_grad_()
    points = torch.cat([few, few[:1]]).where(valid[..., None], 47.5)
    truth = (torch.rand(3, 12).double() * 4 + 1) * valid
    parameters = [p for p in exact_model.parameters() if p.requires_grad]

    def learned(depth: Tensor, truth: Tensor, valid: Tensor) -> list[Tensor]:
        """The loss and its gradients by images and parameters."""
        loss = silog(depth, truth, valid, reduction="pooled").value
        inputs = [images, *parameters]
        return [loss, *torch.autograd.grad(loss, inputs, materialize_grads=True)]

    found = learned(exact_model(images, points).depth, truth, valid)
    assert all(value.isfinite().all() for value in found)
    assert [bool(gradient.any()) for gradient in found[1]] == [True, True, False]
    if exact_model.queries_are_independent:
        parts = zip(images[:2].split(1), points[:2].split(1), counts.tolist(), strict=False)
        alone = torch.cat([exact_model(x, at[:, :k]).depth for x, at, k in parts], 1)
        expected = learned(alone, truth[valid][None], truth[valid][None] > 0)
        for value, reference in zip(found, expected, strict=True):
            equal(value, reference)


def test_weights_that_are_not_numbers_answer_so(model: DepthModel) -> None:
    """No failing index before training can name the frames of the step."""
    network = deepcopy(model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert network(torch.rand(1, 3, *SIZE), anywhere(20, 1)).depth.isnan().all()


def test_extreme_images_have_finite_depths_and_gradients(model: DepthModel) -> None:
    """Black, white, a chequerboard of pixels, one white pixel."""
    network, images = deepcopy(model).train(), torch.zeros(4, 3, *SIZE)
    images[1] = 1
    images[2, :, ::2, ::2] = images[2, :, 1::2, 1::2] = 1
    images[3, :, 20, 30] = 1
    depth = network(images, anywhere(20, 4)).depth
    depth.log().square().mean().backward()
    assert depth.isfinite().all()
    assert (depth > 0).all()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


# queries


@torch.no_grad()
def test_company_matters_only_where_it_may(
    name: str, exact_model: DepthModel, images: Tensor, equal: Equal, capsys: pytest.CaptureFixture
) -> None:
    """Neither order nor chunks matter; other queries matter to networks with Q2Q or a canvas."""
    scene, points = exact_model.encode(images[0]), anywhere(64)[0].double()
    together, order = scene.depth_at(points), torch.randperm(64)
    equal(scene.depth_at(points[order]), together[order])
    change = set_dependence(scene, points)
    with capsys.disabled():
        print(f"\n{name}: set dependence {change:.1e}")
    if not exact_model.queries_are_independent:
        assert torch.equal(scene.depth_at(points, chunk=5), together)
        assert change > 1e-4
        return
    assert change < 1e-12
    for chunk in (1, 5):
        equal(scene.depth_at(points, chunk=chunk), together)


@torch.no_grad()
def test_images_of_a_batch_do_not_meet(
    exact_model: DepthModel, images: Tensor, few: Tensor, equal: Equal
) -> None:
    together = exact_model(images.double(), few).depth
    for image in range(2):
        part = slice(image, image + 1)
        equal(exact_model(images[part].double(), few[part]).depth, together[part])


@torch.no_grad()
@only_dense
def test_dense_is_sparse_at_the_networks_own_sites(
    exact_model: DepthModel, images: Tensor, equal: Equal
) -> None:
    size = (32, 32)  # some networks have a site at every pixel
    maps = exact_model.maps(images[:1, :, :32, :32].double())
    dense = exact_model.decode_lattice(maps)
    sites = lattice_points((dense.shape[1], dense.shape[2]), size, dtype=torch.float64)
    equal(dense.flatten(1), exact_model.decode(maps, sites[None], size).depth)


@pytest.mark.parametrize("count", [1, 1024])
def test_any_number_of_points_is_answered(model: DepthModel, count: int) -> None:
    depth = model.encode(torch.rand(3, 64, 90)).depth_at(torch.rand(count, 2) * 63)
    assert depth.shape == (count,)
    assert depth.isfinite().all()
    assert (depth > 0).all()


def test_chunks_change_memory_not_answers(model: DepthModel) -> None:
    """In float32; networks with dependent queries are asked in groups of 256 whatever the chunk."""
    scene, points = model.encode(torch.rand(3, 64, 90)), torch.rand(300, 2) * 63
    depth = scene.depth_at(points)
    assert torch.allclose(scene.depth_at(points, chunk=100), depth, rtol=1e-4)
    first = scene.depth_at(points[:256])
    assert torch.allclose(first, depth[:256], rtol=1e-4)
    if not model.queries_are_independent:
        assert torch.equal(first, depth[:256])
        assert (scene.depth_at(points, group=300) - depth).abs().max() > 1e-5


@torch.no_grad()
def test_maps_are_channels_last_and_stay_as_they_are(
    model: DepthModel, images: Tensor, few: Tensor
) -> None:
    """Canvases among them are made anew in every call."""
    maps = model.maps(images)
    before = {key: level.clone() for key, level in maps.items()}
    first, second = (model.decode(maps, few.float(), SIZE).depth for _ in range(2))
    assert torch.equal(first, second)
    for key, level in maps.items():
        assert (level.dim(), len(level)) == (4, 2)
        assert level.is_contiguous()
        assert torch.equal(level, before[key])


# files and copies


def test_a_saved_network_comes_back_whole(name: str, images: Tensor, tmp_path: Path) -> None:
    """Settings that are not the default included."""
    chosen = {option: values[-1] for option, values in words(network_class(name).Options).items()}
    network = small(name, **chosen)
    network.save(tmp_path)
    again = load(tmp_path)
    assert again.config == network.config
    assert again.fingerprint() == network.fingerprint()
    assert not again.training
    points = anywhere(5, 2)
    assert torch.equal(again(images, points).depth, network(images, points).depth)


def test_a_saved_scene_comes_back(model: DepthModel, tmp_path: Path) -> None:
    scene, points = model.encode(torch.rand(3, 64, 90)), torch.rand(20, 2) * 63
    scene.save(tmp_path / "scene.safetensors")
    again = Scene.load(tmp_path / "scene.safetensors", model)
    assert torch.equal(again.depth_at(points), scene.depth_at(points))


@torch.no_grad()
def test_copies_answer_by_themselves(exact_model: DepthModel, images: Tensor, few: Tensor) -> None:
    """The averaged weights of a run are a copy: its encoder must call its own attention."""
    network = deepcopy(exact_model)
    copy = deepcopy(network)
    for parameter in network.parameters():
        parameter.zero_()
    found = copy(images.double(), few).depth
    assert torch.equal(found, exact_model(images.double(), few).depth)


# options


@torch.no_grad()
def test_options_change_what_they_say(
    name: str, exact_model: DepthModel, images: Tensor, few: Tensor, equal: Equal
) -> None:
    """The same weights under each option: a fault changes answers, a start does not."""
    points = torch.cat([few, few], 1)  # some share a cell
    expected = exact_model(images.double(), points).depth
    for option, values in words(exact_model.Options).items():
        other = small(name, **{option: values[1]}).double()
        other.load_state_dict(exact_model.state_dict())
        found = other(images.double(), points).depth
        assert torch.equal(found, expected) == (option in STARTS), option


def test_impossible_options_are_refused(name: str) -> None:
    options = network_class(name).Options
    with pytest.raises(ConfigError, match=f"unknown option of {name} 'colour'; known: \\w+"):
        small(name, colour="red")
    for option, values in words(options).items():
        for wrong in ("wrong", True):
            message = f"{name} option {option}={wrong!r}: input should be '{values[0]}' or"
            with pytest.raises(ConfigError, match=message):
                small(name, **{option: wrong})
    for option in counts(options):
        for number in (0, 2.0, True):
            with pytest.raises(ConfigError, match=f"{option}={number!r}: input should be"):
                small(name, **{option: number})


@torch.no_grad()
@only_inserted
def test_inserted_attention_starts_as_the_identity(name: str, images: Tensor) -> None:
    """Between stages 3 and 4: the neck's L3 and stage 4 both read what it changes (F13)."""
    for value, changed in (("zero", []), ("random", [2, 3])):
        network = small(name, inserted_attention=value)
        plain = Encoder(network.config.encoder).eval()
        plain.body.load_state_dict(network.encoder.body.state_dict())
        pairs = zip(network.encoder(images), plain(images), strict=True)
        differ = [n for n, (a, b) in enumerate(pairs) if not torch.allclose(a, b, atol=1e-5)]
        assert differ == changed


# refusals


@pytest.mark.parametrize("encoder", [HIERARCHICAL, VIT])
def test_encoders_of_the_other_kind_are_refused(name: str, encoder: str) -> None:
    if encoder in ENCODERS.get(name, (HIERARCHICAL,)):
        assert create_model(name, encoder).encoder.is_vit == (encoder == VIT)
        return
    wanted = "hierarchical" if encoder == VIT else "vit_small_patch14_dinov2"
    with pytest.raises(ModelError, match=rf"{name} reads .*{encoder}.*hoose .*{wanted}"):
        create_model(name, encoder)


def test_points_that_do_not_fit_the_images_are_refused(model: DepthModel) -> None:
    images = torch.rand(2, 3, *SIZE)
    with pytest.raises(QueryError, match=r"points are a tensor \[2, K, 2\]; got list"):
        model(images, [(1.0, 2.0)])
    for shape in ((1, 4, 2), (4, 2), (2, 4, 3), (2, 0, 2)):
        message = f"points of 2 images are [2, K, 2], K > 0; got {list(shape)}"
        with pytest.raises(QueryError, match=re.escape(message)):
            model(images, torch.rand(*shape))
    for wrong in ((500.0, -90.0), (float("nan"), 3.0)):
        points = anywhere(4, 2)
        points[1, 2] = torch.tensor(wrong)
        with pytest.raises(QueryError, match=r"point \((500|nan), .* outside the 64x96 image"):
            model(images, points)


@pytest.mark.parametrize("size", [(63, 96), (64, 90)])
def test_sizes_off_the_multiple_are_refused(model: DepthModel, size: tuple[int, int]) -> None:
    images, points = torch.rand(1, 3, *size), torch.rand(1, 4, 2) * 60
    with pytest.raises(ModelError, match=rf"multiples of .*got {size[0]}x{size[1]}.*pad"):
        model(images, points)
    assert model(model.pad(images), points).depth.isfinite().all()


# forms of execution


@torch.no_grad()
def test_execution_changes_no_answer_and_no_identity(
    exact_model: DepthModel, images: Tensor, few: Tensor, equal: Equal
) -> None:
    network = deepcopy(exact_model)
    before = network.fingerprint(), network.config
    expected = network(images.double(), few).depth
    network.execution = "reference"
    equal(network(images.double(), few).depth, expected)
    assert (network.fingerprint(), network.config) == before
    with pytest.raises(ConfigError, match="unknown execution 'quick'; known: fast, reference"):
        network.execution = "quick"


def test_a_scene_is_asked_in_the_form_of_its_maps(model: DepthModel, tmp_path: Path) -> None:
    """A scene whose maps both forms read may be asked in either."""
    network, points = deepcopy(model), anywhere(5)[0]
    scene = network.encode(torch.rand(3, *SIZE))
    scene.save(tmp_path / "scene.safetensors")
    expected = scene.depth_at(points)
    network.execution = "reference"
    for asked in (scene, Scene.load(tmp_path / "scene.safetensors", network)):
        if not network.maps_depend_on_execution:
            assert (asked.depth_at(points) / expected - 1).abs().max() < 1e-3
            continue
        with pytest.raises(QueryError, match=r"execution='fast'.*encode the image again, or set"):
            asked.depth_at(points)
    network.execution = "fast"
    assert torch.equal(scene.depth_at(points), expected)
