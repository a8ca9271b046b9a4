"""Depth Anything V2 Small: counts, the published function, the door for published weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from spdlib.errors import ConfigError, ModelError
from spdlib.geometry import lattice_points
from spdlib.inspection import Reads
from spdlib.models import DepthModel, create_model, load, load_published
from spdlib.models.base import count_parameters
from spdlib.models.dav2 import DAv2, Head
from tests.models.published import as_authors

SIZE = (70, 98)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# parameters


def counts(network: DepthModel) -> dict[str, int]:
    table = network.parameter_table()
    return dict(zip(table["component"], table["parameters"], strict=True))


def test_counts() -> None:
    with torch.device("meta"):
        network = create_model("dav2_s")
    assert counts(network) == {
        "encoder": 22_056_192, "neck": 2_093_280, "fusion": 607_488, "head": 27_745,
        "total": 24_784_705,
    }  # fmt: skip
    parts = {"neck.reassemble": 1_678_560, "neck.convs": 414_720, "fusion.stages.0": 151_872}
    assert {name: count_parameters(network.get_submodule(name)) for name in parts} == parts
    idle = network.get_submodule("fusion.stages.0.beside")
    assert count_parameters(idle) == 73_856
    frozen = {p for p in network.parameters() if not p.requires_grad}
    assert frozen == set(idle.parameters())


def test_counts_with_a_swapped_encoder() -> None:
    with torch.device("meta"):
        found = counts(create_model("dav2_s", "mobilenetv2_100"))
    assert found["neck"] == 9 * 64 * (24 + 32 + 96 + 320)
    assert (found["fusion"], found["head"]) == (607_488, 27_745)


def test_its_size_is_that_of_the_published_pipeline() -> None:
    """The shorter side 518, both rounded to patches of 14, of a picture of 480x640."""
    longer = 14 * round(640 * 518 / 480 / 14)
    with torch.device("meta"):
        assert create_model("dav2_s").config.image_size == (518, longer) == (518, 686)


# the function


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The metric network of `transformers` at its true size, random weights, none zero or one."""
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, depth_estimation_type="metric", max_depth=20
    )
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for layer in (model.head.conv1, model.head.conv2, model.head.conv3):
            layer.weight.mul_(7)  # or all depths would be much alike
    return model


@pytest.fixture(scope="module")
def folder(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `transformers` writes: model.safetensors and config.json."""
    folder = tmp_path_factory.mktemp("published")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def authors(folder: Path) -> Path:
    """The same weights by the authors' names, without a configuration."""
    path = folder / "authors" / "vits.safetensors"
    path.parent.mkdir()
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(as_authors(tensors), path)
    return path


@pytest.fixture(scope="module")
def published(folder: Path) -> DepthModel:
    """Tests share it and leave it as it is."""
    return load_published(folder, "metric", 20, image_size=SIZE)


def expected_depth(theirs: Any, images: Tensor) -> Tensor:
    shift, scale = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    with torch.no_grad():
        depth: Tensor = theirs(pixel_values=(images - shift) / scale).predicted_depth
    return depth


@pytest.mark.parametrize("layout", ["transformers", "authors"])
def test_it_is_the_published_function(
    theirs: Any, published: DepthModel, authors: Path, layout: str
) -> None:
    """At several sizes, odd grids and one other than the position table's aspect among them."""
    model = published
    if layout == "authors":
        model = load_published(authors, "metric", 20)
        assert all(map(torch.equal, model.parameters(), published.parameters()))
    assert model.config.encoder.mean == MEAN
    for size in (SIZE, (126, 84), (14, 14), (56, 140)):
        images = torch.rand(2, 3, *size)
        expected = expected_depth(theirs, images)
        assert size == (14, 14) or expected.std() > 0.1
        with torch.no_grad():
            found = model(images).depth
        assert found.shape == expected.shape
        error = ((found - expected).abs() / expected).max().item()
        print(f"{layout} {size}: largest relative error {error:.1e}")
        assert error < 1e-5


def test_a_scene_holds_the_finished_map_and_only_reads_it(published: DepthModel) -> None:
    ran: list[int] = []
    hook = published.encoder.register_forward_hook(lambda *_: ran.append(1))
    scene = published.encode(torch.rand(3, *SIZE))
    dense = scene.dense()
    points = lattice_points(SIZE, SIZE)
    assert dense.shape == (1, *SIZE)
    assert torch.allclose(scene.depth_at(points), dense.flatten(), rtol=1e-6)
    between = scene.depth_at([[3.5, 7.0]])
    assert torch.allclose(between, dense[0, 7, 3:5].mean(), rtol=1e-6)
    hook.remove()
    assert len(ran) == 1
    assert {name: level.shape for name, level in scene.maps.items()} == {"depth": (1, *SIZE, 1)}
    (reads,) = scene.explain(points[:5])
    assert isinstance(reads, Reads)
    assert torch.allclose(reads.pixels[0, :, 0], points[:5], atol=1e-4)


@pytest.mark.parametrize("encoder", ["mobilenetv2_100", "vit_tiny_patch16_224"])
def test_its_sites_are_the_pixels_of_the_padded_image(encoder: str) -> None:
    model = create_model("dav2_s", encoder, image_size=(64, 96)).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 96)).depth.shape == (2, 64, 96)
    scene = model.encode(torch.rand(3, 60, 90))
    height, width = scene.padded
    assert scene.maps["depth"].shape == (1, height, width, 1)
    assert scene.dense().shape == (1, 60, 90)


@pytest.mark.parametrize(("max_depth", "metres"), [(20, 2.5), (80, 2.5), (5, 2.5), (2, 1.0)])
def test_fresh_answers_begin_near_the_median(max_depth: int, metres: float) -> None:
    head = Head(max_depth)
    depth = head(10 * torch.randn(1, 64, 4, 5), (14, 18))
    assert depth.shape == (1, 14, 18)
    assert (depth / metres).log().abs().max() < 0.1


def test_no_answer_exceeds_the_largest_depth() -> None:
    head = Head(7)
    with torch.no_grad():
        head.conv3.get_parameter("bias").fill_(100)
    assert head(torch.randn(1, 64, 2, 2), (4, 4)).max() <= 7


# published weights


def test_published_weights_are_saved_and_loaded(published: DepthModel, tmp_path: Path) -> None:
    assert published.trained == "Depth Anything V2 Small, model.safetensors"
    assert not published.training
    assert published.config.encoder.weights == "model.safetensors"
    published.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, DAv2)
    assert (again.fingerprint(), again.trained) == (published.fingerprint(), published.trained)
    assert again.config.options == {"max_depth": 20}
    images = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(again(images).depth, published(images).depth)


def test_relative_weights_are_a_start_and_warn(authors: Path, published: DepthModel) -> None:
    with pytest.warns(UserWarning, match=r"disparity up to an unknown scale and .*started anew"):
        model = load_published(authors, "relative")
    assert model.trained is None
    assert model.config.options == {"max_depth": 20}
    last = {"head.conv3.weight", "head.conv3.bias"}
    ours, files = model.state_dict(), published.state_dict()
    assert {name for name in ours if not torch.equal(ours[name], files[name])} == last
    images = torch.rand(2, 3, *SIZE)
    depth = model(images).depth
    assert (depth / 2.5).log().abs().max() < 0.1
    depth.log().square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.filterwarnings("ignore:.*relative weights")
def test_relative_weights_take_another_largest_depth(authors: Path) -> None:
    model = load_published(authors, "relative", 10, image_size=SIZE, focal=90.0)
    assert model.config.options == {"max_depth": 10}
    assert (model.config.image_size, model.config.focal) == (SIZE, 90)


def test_the_caller_says_what_the_weights_are(folder: Path, authors: Path) -> None:
    with pytest.raises(ConfigError, match=r"metric weights need max_depth.* 20 .* 80 "):
        load_published(folder, "metric")
    with pytest.raises(ConfigError, match="unknown output 'metrical'; did you mean 'metric'"):
        load_published(folder, "metrical", 20)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_depth=0"):
        load_published(authors, "metric", 0)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.update(depth_estimation_type="relative"),
            r"depth_estimation_type is 'relative'",
        ),
        (lambda v: v.pop("depth_estimation_type"), r"is 'relative', but the caller says 'metric'"),
        (lambda v: v.update(max_depth=80), r"max_depth is 80, but the caller says 20; say what"),
        (
            lambda v: v["backbone_config"].update(out_indices=[9, 10, 11, 12]),
            r"out_indices is \[9, 10, 11, 12\], but Depth Anything V2 Small has \[3, 6, 9, 12\]",
        ),
        (lambda v: v.update(backbone_config=[3]), "is no configuration of Depth Anything"),
    ],
)
def test_a_configuration_that_contradicts_is_refused(
    folder: Path, tmp_path: Path, change: Change, message: str
) -> None:
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=rf"config\.json: .*{message}"):
        load_published(tmp_path, "metric", 20)


def test_a_metric_configuration_contradicts_relative_weights(folder: Path) -> None:
    message = r"config\.json: depth_estimation_type is 'metric', but the caller says 'relative'"
    with pytest.raises(ModelError, match=message):
        load_published(folder / "model.safetensors", "relative")


def test_configurations_of_other_things_are_no_matter(authors: Path) -> None:
    (authors.parent / "config.json").write_text('{"model_type": "other"}')
    try:
        assert load_published(authors, "metric", 80).config.options == {"max_depth": 80}
    finally:
        (authors.parent / "config.json").unlink()


def wide(tensors: dict[str, Any], width: int) -> None:
    for name, tensor in tensors.items():
        if "projects" in name and tensor.dim() == 4:
            tensors[name] = torch.zeros(len(tensor), width, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: wide(t, 768), r"Depth Anything V2 Base, whose encoder is 768 wide.*: give its"),
        (lambda t: wide(t, 1024), r"Depth Anything V2 Large, whose encoder is 1024 wide"),
        (lambda t: wide(t, 100), r"Depth Anything V2 of another size, whose encoder is 100 wide"),
        (
            lambda t: t.pop("pretrained.blocks.7.norm1.weight"),
            r"does not fit this encoder: 1 tensors missing \['blocks.7.norm1.weight'\].*; give",
        ),
        (
            lambda t: t.pop("depth_head.scratch.layer2_rn.weight"),
            r"fit dav2_s: 1 tensors missing \['depth_head.scratch.layer2_rn.weight'\].*; give",
        ),
        (
            lambda t: t.update({"depth_head.readout_projects.0.0.weight": torch.zeros(3)}),
            r"1 unknown \['depth_head.readout_projects.0.0.weight'\]",
        ),
        (
            lambda t: t.update({"depth_head.scratch.output_conv2.2.bias": torch.zeros(3)}),
            r"1 of another shape \['depth_head.scratch.output_conv2.2.bias'\] \(\[3\], not \[1\]\)",
        ),
        (
            lambda t: t["depth_head.scratch.output_conv1.bias"].fill_(math.nan),
            r"'depth_head.scratch.output_conv1.bias' holds NaN or infinity; fetch it again",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if "depth_head" in name],
            r"holds no Depth Anything V2, by the names of its tensors; give the file of 'depth-",
        ),
    ],
)
def test_files_of_other_networks_are_refused(
    authors: Path, tmp_path: Path, change: Change, message: str
) -> None:
    tensors = safetensors.torch.load_file(authors)
    change(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "vits.safetensors")
    with pytest.raises(ModelError, match=rf"vits.safetensors.*{message}"):
        load_published(tmp_path / "vits.safetensors", "metric", 20)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.safetensors: is no path of a file|no such file"):
        load_published(tmp_path, "metric", 20)
    torch.save({}, tmp_path / "depth_anything_v2_vits.pth")
    remedy = r"Convert it .*torch.load\('depth_anything_v2_vits.pth', 'cpu', weights_only=True\)"
    with pytest.raises(ModelError, match=rf"is no readable safetensors file.*{remedy}"):
        load_published(tmp_path / "depth_anything_v2_vits.pth", "metric", 20)
    for odd in (None, 3, "a\0b", "x" * 5000):
        with pytest.raises(ModelError, match=r"check its name|no such file"):
            load_published(odd, "metric", 20)  # type: ignore[arg-type]
