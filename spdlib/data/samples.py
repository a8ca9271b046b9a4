"""Training samples: frame, augmentation and query points, reproducible one by one.

Everything random about a sample derives from (seed, epoch, index), so a resumed run needs no state
of the workers, and the number of workers changes nothing. The sample's camera carries the effective
focal length in pixels (suspected fault F1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from spdlib.data.augment import AugmentConfig, augment
from spdlib.data.frames import Frames
from spdlib.data.queries import edge_aware_points, recorded_points, seeded_generator, uniform_points
from spdlib.errors import ConfigError, DataError
from spdlib.settings import Settings

Sampling = Literal["uniform", "edge_aware", "with_replacement"]
_DRAWN_BY = (uniform_points, edge_aware_points, recorded_points)
SAMPLERS = dict(zip(get_args(Sampling), _DRAWN_BY, strict=True))

Position = tuple[int, int]
"""Epoch and index of one sample."""


@dataclass(frozen=True)
class SampleConfig(Settings):
    """What one training sample holds.

    Attributes:
        image_size: height, width of the image in pixels.
        points: K, query points per frame; 0 leaves them out, where a loss reads the depth map.
        seed: seed of every random choice.
        augment: changes of image, depth and camera.
        sampling: "uniform", "edge_aware" (30 % near depth edges) or "with_replacement" (uniform;
            a pixel may be drawn twice).
        jitter: sub-pixel points; False gives integer pixels.
        truth: name of the depth to learn; None takes in-painted, raw, exact in this order.

    Raises:
        ConfigError: a size below 1, a negative count, or an unknown name.
    """

    image_size: tuple[PositiveInt, PositiveInt]
    points: NonNegativeInt = 256
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampling: Sampling = "uniform"
    jitter: bool = True
    truth: str | None = None


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Map data set over (epoch, index).

    A sample is a dictionary of tensors that the default collation stacks:
        image: float32 [3, h, w] in 0..1.
        depth: float32 [h, w] metres, 0 where nothing was measured.
        camera: float64 [7] (`Camera.to_tensor`).
        index: int64, position of the frame.
        points, truth, valid: `PointSample` of K points, where K is above 0.
    """

    def __init__(self, frames: Frames, config: SampleConfig) -> None:
        self.frames = frames
        self.config = config

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        """Sample (epoch, index), always the same; DataError if its frame lacks the truth."""
        if not isinstance(position, tuple):
            raise DataError(f"a training sample's position is (epoch, index); got {position!r}")
        epoch, index = position
        frame, config = self.frames[index], self.config
        generator = seeded_generator("sample", config.seed, epoch, index)
        arrays, size = (frame.image, frame.truth(config.truth)), config.image_size
        # torch warns about arrays it could not write to, such as decoded images
        image, depth = (torch.from_numpy(np.require(a, requirements="W")) for a in arrays)
        image, depth, camera = augment(
            image.permute(2, 0, 1), depth, frame.camera, config.augment, generator, size
        )
        sample = {"image": image, "depth": depth, "camera": camera.to_tensor()}
        sample["index"] = torch.tensor(index)
        if config.points:
            draw_points = SAMPLERS[config.sampling]
            sample |= draw_points(depth, config.points, generator, config.jitter)._asdict()
        return sample


class EpochBatches(Sampler[list[Position]]):
    """Batches of (epoch, index) in a new random order each epoch, startable at any step.

    The frames left over at an epoch's end are dropped for that epoch. With several processes every
    one takes its own equal part of each batch.

    Args:
        n: number of frames.
        batch_size: frames of a batch, all processes together.
        seed: seed of the orders.
        start_step: steps already done by an earlier run.
        steps: step at which to end.
        rank, world: this process's number and how many there are.

    Raises:
        ConfigError: the batch is larger than the data, or cannot be shared out evenly.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        *,
        steps: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 1 <= batch_size <= n:
            raise ConfigError(f"batch size {batch_size} must lie between 1 and the {n} frames")
        if batch_size % world or not 0 <= rank < world:
            raise ConfigError(
                f"batch size {batch_size} cannot be shared by process {rank} of {world}"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.start_step, self.steps = start_step, steps
        self.rank, self.world = rank, world
        self.steps_per_epoch = n // batch_size

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[Position]]:
        """Yield this process's part of every batch from `start_step` to `steps`."""
        share = self.batch_size // self.world
        order: list[int] = []
        for step in range(self.start_step, self.steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if batch == 0 or not order:
                generator = seeded_generator("order", self.seed, epoch)
                order = torch.randperm(self.n, generator=generator).tolist()
            first = batch * self.batch_size + self.rank * share
            yield [(epoch, index) for index in order[first : first + share]]
