from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from spdlib.data.augment import augmentation
from spdlib.data.frames import Frame
from spdlib.data.queries import truth_at
from spdlib.data.samples import EpochBatches, SampleConfig, TrainingSamples
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA, Camera

SIZE = (48, 64)


class Made:
    """Frames of noise with read-only images, as decoders hand them out."""

    def __init__(self, count: int = 10) -> None:
        self.ids = [f"made_{i}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Frame:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        image.flags.writeable = False
        depth = rng.uniform(1, 5, (96, 128)).astype(np.float32)
        return Frame(self.ids[index], image, {"exact": depth}, NYU_CAMERA.resized(96, 128))


def samples(**changes: object) -> TrainingSamples:
    settings = {"points": 20, "seed": 1, "augment": augmentation("strong"), **changes}
    return TrainingSamples(Made(), SampleConfig(SIZE, **settings))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_a_sample_has_the_promised_tensors() -> None:
    sample = samples()[0, 3]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in sample.items()}
    assert shapes == {
        "image": ((3, 48, 64), torch.float32),
        "depth": ((48, 64), torch.float32),
        "camera": ((7,), torch.float64),
        "index": ((), torch.int64),
        "points": ((20, 2), torch.float32),
        "truth": ((20,), torch.float32),
        "valid": ((20,), torch.bool),
    }
    assert torch.equal(sample["truth"], truth_at(sample["depth"], sample["points"]))
    camera = Camera.from_tensor(sample["camera"])
    assert camera.focal == pytest.approx(NYU_CAMERA.focal / 10, rel=0.02)


def test_a_sample_depends_on_seed_epoch_and_index_only() -> None:
    first, second = samples(), samples()
    second[0, 1], second[4, 2]
    for name, value in first[0, 3].items():
        assert torch.equal(value, second[0, 3][name]), name
    for other in (first[1, 3], first[0, 4], samples(seed=2)[0, 3]):
        assert not torch.equal(first[0, 3]["points"], other["points"])


def test_workers_change_nothing() -> None:
    batches = EpochBatches(10, 4, seed=0, steps=3)

    def load(workers: int) -> list[dict[str, torch.Tensor]]:
        return list(DataLoader(samples(), batch_sampler=batches, num_workers=workers))

    for alone, helped in zip(load(0), load(1), strict=True):
        assert alone["image"].shape == (4, 3, 48, 64)
        for name, value in alone.items():
            assert torch.equal(value, helped[name]), name


def test_points_are_drawn_if_any_are_wanted() -> None:
    assert {"points", "truth", "valid"} <= samples()[0, 0].keys()
    assert set(samples(points=0)[0, 0]) == {"image", "depth", "camera", "index"}
    integer = samples(jitter=False, sampling="edge_aware")[0, 0]["points"]
    assert torch.equal(integer, integer.round())


def test_samples_are_asked_by_epoch_and_index() -> None:
    with pytest.raises(DataError, match="epoch, index"):
        samples()[3]  # type: ignore[index]
    with pytest.raises(DataError, match="raw"):
        samples(truth="raw")[0, 0]


@pytest.mark.parametrize(
    "values",
    [{"points": -1}, {"sampling": "grid"}, {"image_size": (0, 64)}],
)
def test_impossible_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(values)))):
        SampleConfig(**{"image_size": SIZE, **values})  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    share=st.integers(1, 4),
    world=st.integers(1, 3),
    start=st.integers(0, 25),
    seed=st.integers(0, 5),
)
def test_batches_can_start_anywhere_and_be_shared(
    n: int, share: int, world: int, start: int, seed: int
) -> None:
    size = min(share * world, n - n % world)
    if size == 0:
        return
    whole = list(EpochBatches(n, size, seed, steps=25))
    assert len(whole) == 25 == len(EpochBatches(n, size, seed, steps=25))
    assert list(EpochBatches(n, size, seed, start, steps=25)) == whole[start:]
    parts = [
        EpochBatches(n, size, seed, start, steps=25, rank=r, world=world) for r in range(world)
    ]
    for batch, *pieces in zip(whole[start:], *parts, strict=True):
        assert [position for piece in pieces for position in piece] == batch
    check_epochs(whole, n // size)


def check_epochs(batches: Sequence[list[tuple[int, int]]], per_epoch: int) -> None:
    for first in range(0, len(batches), per_epoch):
        seen = [position for batch in batches[first : first + per_epoch] for position in batch]
        assert {epoch for epoch, _ in seen} == {first // per_epoch}
        assert len(set(seen)) == len(seen)


def test_every_epoch_has_its_own_order() -> None:
    first, second = list(EpochBatches(40, 40, 0, steps=2))
    assert sorted(i for _, i in first) == list(range(40))
    assert [i for _, i in first] != [i for _, i in second]


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 frames"):
        EpochBatches(5, 8, 0, steps=1)
    with pytest.raises(ConfigError, match="process 0 of 2"):
        EpochBatches(9, 3, 0, steps=1, world=2)
