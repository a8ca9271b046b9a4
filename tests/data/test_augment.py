from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spdlib.data.augment import STYLES, AugmentConfig, augment, augmentation, draw, window_size
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA, Camera, lattice_points

SIZE = (480, 640)
X_RANGE, Y_RANGE, Z_RANGE = (-4.0, 4.0), (-3.0, 3.0), (2.0, 5.0)
GEOMETRY = AugmentConfig(
    random_crop=True, flip_p=0.5, rotate_degrees=10.0, rotate_p=0.7, zoom=(1.0, 1.8), zoom_p=0.7
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_pixels(size: tuple[int, int]) -> Tensor:
    return lattice_points(size, size, dtype=torch.float64)


def encode(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    # dithered, as smooth ramps round to the same side over wide areas
    noise = torch.rand(values.shape, generator=generator()) - 0.5
    return ((values - bounds[0]) / (bounds[1] - bounds[0]) * 255 + noise).round()


def decode(colour: Tensor, bounds: tuple[float, float]) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * colour.double()


def painted_plane(camera: Camera) -> tuple[Tensor, Tensor]:
    """Image whose colours are the 3-D position of each pixel on a tilted plane, and its depth."""
    points = all_pixels(camera.size)
    rays = camera.back_project(points, torch.ones(len(points), dtype=torch.float64))
    depth = 3.2 / (1 + 0.25 * rays[:, 0] - 0.2 * rays[:, 1])
    xyz = camera.back_project(points, depth)
    colours = [encode(xyz[:, i], b) for i, b in enumerate((X_RANGE, Y_RANGE, Z_RANGE))]
    image = torch.stack(colours).clamp(0, 255).byte().reshape(3, *camera.size)
    return image, depth.float().reshape(camera.size)


PAINTED = painted_plane(NYU_CAMERA)


def away_from_black(depth: Tensor) -> Tensor:
    """Next to the frame's border a turned image fades into the black around it."""
    black = F.pad((depth == 0)[None].float(), (2, 2, 2, 2), value=1.0)
    return F.max_pool2d(black, 5, stride=1)[0] == 0


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    crop=st.sampled_from(["fit", "native", "squash"]),
    out_size=st.sampled_from([(240, 320), (238, 322), (350, 476), (120, 160)]),
)
def test_image_depth_and_camera_stay_one_scene(
    seed: int, crop: str, out_size: tuple[int, int]
) -> None:
    config = replace(GEOMETRY, crop=crop)
    image, depth, camera = augment(*PAINTED, NYU_CAMERA, config, generator(seed), out_size)
    still = replace(config, flip_p=0.0, rotate_p=0.0)
    unturned = augment(*PAINTED, NYU_CAMERA, still, generator(seed), out_size)[2]
    changes = draw(config, generator(seed))
    whole, part = (window_size(SIZE, out_size, crop, z)[0] for z in (1.0, changes.zoom))

    seen = away_from_black(depth).flatten()
    xyz = camera.back_project(all_pixels(out_size), depth.double().flatten())[seen]
    if changes.flip:
        xyz = xyz * torch.tensor([-1.0, 1.0, 1.0])
    if changes.degrees:
        xyz = xyz @ unturned.roll(changes.degrees)
    xyz = xyz * torch.tensor([1.0, 1.0, whole / part])
    colours = image.flatten(1)[:, seen]
    for i, bounds in enumerate((X_RANGE, Y_RANGE, Z_RANGE)):
        error = xyz[:, i] - decode(colours[i], bounds)
        # a colour step is 31, 24 or 12 mm, a pixel 6 to 24 mm wide at 3 m; torchvision rounds
        # ties upwards, by an eighth of a step when halving
        step = (bounds[1] - bounds[0]) / 255
        assert error.mean().abs() < 0.2 * step, (i, float(error.mean()))
        assert error.abs().quantile(0.99) < 0.05


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), style=st.sampled_from(sorted(STYLES)))
def test_effective_focal_length_never_changes(seed: int, style: str) -> None:
    config = STYLES[style]
    camera = augment(*PAINTED, NYU_CAMERA, config, generator(seed), (240, 320))[2]
    expected = NYU_CAMERA.focal * (1.0 if config.crop == "native" else 0.5)
    assert camera.focal == pytest.approx(expected, rel=5e-3)
    assert camera.size == (240, 320)


def test_depth_turns_and_flips_with_the_image() -> None:
    """v2 leaves a plain depth tensor beside an image as it is, without a word."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, :, :30] = 200
    depth = torch.full((40, 60), 4.0)
    depth[:, :30] = 2.0
    camera = Camera(50, 50, 29.5, 19.5, 60, 40)
    config = AugmentConfig(flip_p=1.0)
    flipped, mirrored, _ = augment(image, depth, camera, config, generator(), (40, 60))
    assert torch.equal(mirrored, depth.flip(1))
    assert torch.equal(flipped[0] > 0.5, mirrored == 2.0)
    config = AugmentConfig(rotate_degrees=45.0, rotate_p=1.0)
    turned, tilted, _ = augment(image, depth, camera, config, generator(3), (40, 60))
    bright = turned[0] > 0.6
    assert float((tilted[bright] == 2.0).float().mean()) > 0.95
    assert bool((tilted == 0).any()) and set(tilted.unique().tolist()) == {0.0, 2.0, 4.0}
    assert float(turned[:, tilted == 0].max()) < 0.7


def test_zoom_divides_depth_and_keeps_the_focal_length() -> None:
    config = AugmentConfig(zoom=(1.5, 1.5), zoom_p=1.0)
    depth = torch.full(SIZE, 3.0)
    _, nearer, camera = augment(PAINTED[0], depth, NYU_CAMERA, config, generator(), (240, 320))
    assert torch.allclose(nearer, torch.tensor(2.0))
    assert camera.fy == pytest.approx(NYU_CAMERA.fy / 2)


@pytest.mark.parametrize("zoom", [1.0, 1.37, 1.9, 2.6])
def test_nearest_depth_is_not_shifted_against_the_camera(zoom: float) -> None:
    columns = torch.arange(1, 641, dtype=torch.float32).expand(SIZE).contiguous()
    config = AugmentConfig(zoom=(zoom, zoom), zoom_p=1.0)
    _, depth, camera = augment(PAINTED[0], columns, NYU_CAMERA, config, generator(), (240, 320))
    factor = window_size(SIZE, (240, 320), "fit")[0] / window_size(SIZE, (240, 320), "fit", zoom)[0]
    values = depth.double().flatten() * factor
    xyz = camera.back_project(all_pixels((240, 320)), values / factor)
    xyz[:, 2] = values
    error = NYU_CAMERA.project(xyz)[:, 0] - (values - 1)
    # halving has no nearest pixel: the two candidates are equally far
    assert error.mean().abs() < (0.51 if zoom == 1.0 else 0.02)
    assert error.abs().max() < 1.01


def test_depth_is_never_invented_and_holes_stay() -> None:
    depth = torch.full(SIZE, 2.0)
    depth[:, 320:] = 4.0
    depth[200:260, 300:340] = 0.0
    config = replace(GEOMETRY, zoom_p=0.0)
    for seed in range(5):
        result = augment(PAINTED[0], depth, NYU_CAMERA, config, generator(seed), (240, 320))[1]
        assert set(result.unique().tolist()) <= {0.0, 2.0, 4.0} and bool((result == 0).any())


def test_no_augmentation_is_a_plain_resize() -> None:
    image, depth, camera = augment(*PAINTED, NYU_CAMERA, AugmentConfig(), generator(), (240, 320))
    means = PAINTED[0].float().reshape(3, 240, 2, 320, 2).mean((2, 4)) / 255
    assert (image - means).abs().max() < 0.02  # antialiased: a mean of the four pixels and more
    assert camera == NYU_CAMERA.resized(240, 320)
    assert depth.dtype == torch.float32 and depth.shape == (240, 320)
    same, untouched, _ = augment(*PAINTED, NYU_CAMERA, AugmentConfig(), generator(), SIZE)
    assert torch.equal((same * 255).round().byte(), PAINTED[0])
    assert torch.equal(untouched, PAINTED[1])


def test_native_crop_does_not_scale() -> None:
    config = AugmentConfig(crop="native")
    image, depth, camera = augment(*PAINTED, NYU_CAMERA, config, generator(), (350, 476))
    assert torch.equal((image * 255).round().byte(), PAINTED[0][:, 65:415, 82:558])
    assert torch.equal(depth, PAINTED[1][65:415, 82:558])
    assert camera == NYU_CAMERA.cropped(65, 82, 350, 476)


def test_squashing_shows_the_whole_frame() -> None:
    image, depth, camera = augment(
        *PAINTED, NYU_CAMERA, AugmentConfig(crop="squash"), generator(), (256, 320)
    )
    assert image.shape[1:] == depth.shape == (256, 320)
    assert camera.fx == pytest.approx(NYU_CAMERA.fx / 2)
    assert camera.fy == pytest.approx(NYU_CAMERA.fy * 256 / 480)


def test_colours_follow_their_formula() -> None:
    config = AugmentConfig(
        gamma=(0.9, 1.1), brightness=(0.75, 1.25), channel_gain=(0.9, 1.1), colour_p=1.0
    )
    image, depth, _ = augment(*PAINTED, NYU_CAMERA, config, generator(5), SIZE)
    changes = draw(config, generator(5))
    gains = torch.tensor(changes.gains)[:, None, None]
    expected = (gains * (PAINTED[0] / 255.0) ** changes.gamma).clamp(0, 1)
    assert torch.allclose(image, expected, atol=1e-6)
    assert torch.equal(depth, PAINTED[1])


def test_saturation_zero_is_grey() -> None:
    config = AugmentConfig(saturation=(0.0, 0.0), colour_p=1.0)
    image = augment(*PAINTED, NYU_CAMERA, config, generator(), (120, 160))[0]
    assert torch.allclose(image[0], image[1]) and torch.allclose(image[1], image[2])


def test_contrast_turns_around_the_mean_grey() -> None:
    def varied(contrast: float) -> Tensor:
        config = AugmentConfig(contrast=(contrast, contrast), colour_p=1.0)
        return augment(*PAINTED, NYU_CAMERA, config, generator(), SIZE)[0]

    image, half, none = varied(1.0), varied(0.5), varied(0.0)
    luma = torch.tensor([0.299, 0.587, 0.114])
    mean = torch.einsum("c,chw->hw", luma, image).mean()
    assert torch.allclose(half, 0.5 * image + 0.5 * mean, atol=1e-6)
    assert torch.allclose(none, mean.expand_as(none), atol=1e-6)


def test_colours_change_apart_or_together() -> None:
    """In experiments 6 to 8 each by itself with p = 0.5, in BTS all or none."""

    def changed(name: str) -> list[tuple[bool, ...]]:
        draws = [draw(augmentation(name), generator(seed)) for seed in range(400)]
        return [(d.gains != (1, 1, 1), d.contrast != 1, d.saturation != 1) for d in draws]

    apart, together = changed("flip_jitter"), changed("bts")
    assert len(set(apart)) == 8
    assert all(0.4 < sum(which) / 400 < 0.6 for which in zip(*apart, strict=True))
    assert set(together) == {(False, False, False), (True, False, False)}


def test_bts_draws_lie_in_their_ranges_and_happen_half_the_time() -> None:
    draws = [draw(augmentation("bts"), generator(seed)) for seed in range(600)]
    assert all(0.9 <= d.gamma <= 1.1 and abs(d.degrees) <= 2.5 and d.zoom == 1 for d in draws)
    assert all(0.75 * 0.9 <= gain <= 1.25 * 1.1 for d in draws for gain in d.gains)
    for happened in ([d.flip for d in draws], [d.degrees != 0 for d in draws]):
        assert 0.42 < sum(happened) / 600 < 0.58
    assert max(d.degrees for d in draws) > 2.0 and min(d.degrees for d in draws) < -2.0


def test_configurations_share_their_random_numbers() -> None:
    plain, strong = (draw(augmentation(name), generator(9)) for name in ("flip", "strong"))
    assert plain.flip == strong.flip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": "stretch"}, "stretch"),
        ({"flip_p": 1.5}, "flip_p"),
        ({"zoom": (0.8, 1.2)}, "zoom"),
        ({"gamma": (1.1, 0.9)}, "gamma"),
        ({"rotate_degrees": 90.0}, "rotate_degrees"),
        ({"brightness": (0.5, float("nan"))}, "brightness"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**values)  # type: ignore[arg-type]


def test_wrong_frames_are_refused() -> None:
    image, depth = PAINTED
    config = AugmentConfig()
    with pytest.raises(DataError, match="uint8"):
        augment(image.float(), depth, NYU_CAMERA, config, generator(), (240, 320))
    with pytest.raises(DataError, match="one size"):
        augment(image, depth[:-1], NYU_CAMERA, config, generator(), (240, 320))
    with pytest.raises(DataError, match="native crop"):
        native = AugmentConfig(crop="native")
        augment(image, depth, NYU_CAMERA, native, generator(), (600, 640))
    with pytest.raises(ConfigError, match="bts"):
        augmentation("unknown")
