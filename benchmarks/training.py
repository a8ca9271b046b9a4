"""What a training step costs: every network on equal terms, with random images.

A step is forward, loss, backward, clipping and optimizer, as `spdlib.study.training` does it (but
for averaging weights, some milliseconds), at the image size, batch and encoder of profile
`equal_terms`. The encoder's own forward and backward stand beside it: no network can take less.
Operations take turns; floors are counted MACs at the speed of a large float32 product (see
`_timing`). Reading frames is not part of it.

    python -m spdlib bench training [--points 64 256] [--precision float32] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks._timing import PRODUCT, Operation, floors, measure, timings
from spdlib.errors import ConfigError, SPDError
from spdlib.machine import code_version, keep_freed_memory, machine
from spdlib.models import DepthModel, create_model
from spdlib.models.counting import counted_macs
from spdlib.study.config import RunConfig
from spdlib.study.objectives import Objective
from spdlib.study.profiles import resolve
from spdlib.study.runs import write_json, write_table
from spdlib.study.training.setup import DTYPES, build_objective, precision_of

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "measured" / "bench_training.csv"
EXPERIMENTS = (
    "v15_2", "exp02_corrected", "exp04_corrected", "exp07_corrected", "v14_plan",
    "exp08_corrected", "exp09_corrected",
)  # fmt: skip
"""One of each network that is compared on equal terms."""


@dataclass(frozen=True)
class Lesson:
    """A network, its optimizer, and a batch that it can be trained on over and over.

    Attributes:
        config: of the run that it would be.
        model: in training mode.
        objective: what it minimises.
        optimizer: as in training, at the peak rates.
        batch: images, points, truth and valid.
    """

    config: RunConfig
    model: DepthModel
    objective: Objective
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]

    @classmethod
    def of(cls, config: RunConfig, device: torch.device) -> Lesson:
        """Random weights, images, points and depths."""
        chosen = config.model
        model: Any = create_model(
            chosen.network,
            chosen.encoder,
            image_size=chosen.image_size,
            focal=260.0,
            **chosen.options,
        )
        dtype = DTYPES[config.optimizer.precision]
        model = model.to(device, dtype).to(memory_format=torch.channels_last).train()
        rates = config.optimizer
        groups = model.parameter_groups(rates.encoder_lr, rates.decoder_lr, rates.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=True)
        shape = (config.schedule.batch_size, config.sampling.points)
        height, width = config.model.image_size
        images = model.pad(torch.rand(shape[0], 3, height, width, device=device))
        size = images.new_tensor([width, height])
        batch = {
            "image": images.to(dtype).contiguous(memory_format=torch.channels_last),
            "points": torch.rand(*shape, 2, device=device) * size - 0.5,
            "truth": torch.rand(shape, device=device) * 5 + 1,
            "valid": torch.ones(shape, dtype=torch.bool, device=device),
        }
        return cls(config, model, build_objective(config), optimizer, batch)

    def step(self) -> None:
        """Forward, loss, backward, clipping, optimizer."""
        with precision_of(self.config, self.batch["image"].device.type):
            loss = self.objective(self.model, self.batch)
        loss.value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def encoder_alone(self) -> None:
        """Forward and backward of the encoder."""
        with precision_of(self.config, self.batch["image"].device.type):
            levels = self.model.encoder(self.batch["image"])
        torch.stack([level.float().mean() for level in levels]).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)


def operations_of(
    experiments: Sequence[str], points: Sequence[int], device: torch.device, **settings: Any
) -> list[Operation]:
    """Steps of every network at every number of points, and the encoder of the first."""
    operations: list[Operation] = []
    for experiment in experiments:
        for k in points:
            config = resolve(experiment, points=k, **settings)
            lesson = Lesson.of(config, device)
            if not operations:
                encoder = config.model.encoder.name
                operations.append(timed(encoder, "encoder", 0, lesson.encoder_alone))
            operations.append(timed(config.model.network, "step", k, lesson.step))
    return operations


def timed(name: str, what: str, k: int, run: Any) -> Operation:
    """An operation with its MACs counted, backward included."""
    return Operation(name, what, k, run, counted_macs(run, gradients=True))


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--points", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--precision", default="float32", help="as in a run's settings")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small images, one round: a test")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    args = parser.parse_args(given)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"this machine has no CUDA device for --device {args.device}; use cpu")
    return args


def main(given: Sequence[str] | None = None) -> None:
    args = arguments(given)
    torch.manual_seed(0)
    keep_freed_memory()
    device = torch.device(args.device)
    settings = {"profile": "smoke" if args.quick else "equal_terms", "precision": args.precision}
    rounds = 1 if args.quick else args.rounds
    # weights change no time; no auxiliary maps, as on equal terms
    fresh = dict(weights=None, pretrained=False, train_batchnorm=False, auxiliary_weight=0.0)
    operations = floors(device)
    operations += operations_of(args.experiments, args.points, device, **settings, **fresh)
    tables = []
    for threads in args.threads if device.type == "cpu" else [None]:
        table = timings(operations, measure(operations, rounds, 0.05, threads))
        table.insert(0, "threads", threads)
        tables.append(table.drop(columns=["gathered_bytes", "bound", "difference"]))
    table = pd.concat(tables)
    table.insert(0, "device", device.type)
    steps = table["operation"] == "step"
    table.loc[steps, "minutes_on_equal_terms"] = (
        table["milliseconds"] / 6e4 * resolve(profile="equal_terms").schedule.steps
    )
    write_table(args.out, table.round(4))
    used = {**settings, "rounds": rounds, "points": args.points}
    record = {"machine": machine(), "code": code_version(), "settings": used}
    write_json(args.out.with_suffix(".json"), record)
    print(f"median of {rounds} rounds; {settings}; floor: MACs as in a {PRODUCT}^3 product")
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
    print(f"written to {args.out}")


if __name__ == "__main__":
    try:
        main()
    except SPDError as error:
        sys.exit(f"error: {error}")
