"""Damages a small valid file for every reader, many thousand times, and counts what happens.

    python -m tests.hostile.fuzz --mutations 200000 --out results/measured/fuzz.csv

Each process reads a few hundred mutations under limits of memory and time, so a crash or a hang
costs one mutation and is counted. The input of everything that must not happen is kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
import psutil
import torch

from spdlib.disk import write_bytes
from spdlib.errors import RunError, SPDError
from spdlib.machine import origin
from tests.hostile.mutations import damaged
from tests.hostile.readers import Reader, readers
from tests.hostile.valid import Valid

OUTCOMES = ("clear_error", "same_content", "other_content", "traceback", "memory", "crash", "hang")
NEVER = ("traceback", "memory", "crash", "hang")
PER_PROCESS = 500
MEMORY = 4 << 30
"""Bytes that a reader may use beyond what the process had before."""
NEXT_SEED = 500_000_000
"""Between the seeds of a process that ended early and of the one that does the rest."""
KEPT = 20
"""Inputs that are kept of one kind, reader and way of damage."""
SECONDS = 20
"""That one mutation may take before it counts as a hang; valid files take a thousandth."""


@dataclass
class Trial:
    """One process's share: a reader, a way of damage, a seed and a number of mutations."""

    reader: Reader
    parts: bool
    seed: int
    count: int
    folder: Path = Path()
    process: Any = None
    # counts by outcome, then the time when the mutation at work began
    shared: Any = field(default_factory=lambda: multiprocessing.Array("d", len(OUTCOMES) + 1))

    def start(self, scratch: Path, kept: Path) -> None:
        """Gives the reader a copy of its files and lets it work."""
        self.folder = Path(tempfile.mkdtemp(dir=scratch)) / self.reader.folder.name
        shutil.copytree(self.reader.folder, self.folder)
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(self, kept))
        self.process.start()

    @property
    def hung(self) -> bool:
        """Whether the mutation at work takes too long."""
        return 0 < self.shared[-1] < time.monotonic() - SECONDS

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return bool(self.process.is_alive()) and not self.hung

    def end(self, kept: Path) -> Counter[str]:
        """The counts, with that of the mutation that ended the process early."""
        hung = self.hung
        self.process.kill()
        self.process.join()
        if self.process.exitcode == 1:  # Python's own end: no reader failed, the trial did
            raise RuntimeError(f"the trial of {self.reader.name} failed; see above")
        counts = Counter({n: int(count) for n, count in zip(OUTCOMES, self.shared, strict=False)})
        if hung or self.process.exitcode:
            outcome = "hang" if hung else "crash"
            keep(kept, self, outcome, f"exit status {self.process.exitcode}")
            counts[outcome] += 1
        shutil.rmtree(self.folder.parent)
        return counts

    @property
    def forbidden(self) -> tuple[str, ...]:
        """What must not happen: other content neither, where something guards the file."""
        guarded = not self.reader.honest if self.parts else bool(self.reader.guard)
        return (*NEVER, "other_content") if guarded else NEVER


def work(trial: Trial, kept: Path) -> None:
    """Reads mutations until there are enough, counting in memory that the parent shares."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader, target = trial.reader, trial.folder / trial.reader.file
    data, expected = target.read_bytes(), reader.read(trial.folder)

    def attempt(mutation: bytes) -> None:
        trial.shared[-1] = time.monotonic()
        if sum(trial.shared[:-1]) >= trial.count:
            return
        target.write_bytes(mutation)
        outcome, text = read(reader, trial.folder, expected)
        if outcome in trial.forbidden:
            keep(kept, trial, outcome, text)
        trial.shared[OUTCOMES.index(outcome)] += 1

    if reader.parts is not None and trial.parts:
        with_parts(reader.parts(data), trial, attempt)
    else:
        chance = random.Random(trial.seed)
        for _ in range(trial.count):
            attempt(damaged(data, chance))


def with_parts(strategy: Any, trial: Trial, attempt: Callable[[bytes], None]) -> None:
    """Lets hypothesis draw the mutations."""
    settings = hypothesis.settings(
        max_examples=trial.count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(trial.seed)(settings(hypothesis.given(strategy)(attempt)))()


def read(reader: Reader, folder: Path, expected: str) -> tuple[str, str]:
    """What the reader makes of the damaged folder, and its words if it fails."""
    try:
        return ("same_content" if reader.read(folder) == expected else "other_content"), ""
    except SPDError as error:
        memory = isinstance(error.__cause__, MemoryError)
        clear = str(folder) in str(error)  # its name alone may be an ordinary word
        return ("memory" if memory else "clear_error" if clear else "traceback"), str(error)
    except Exception:
        return "traceback", traceback.format_exc()


def keep(kept: Path, trial: Trial, outcome: str, text: str) -> None:
    """Keeps the input and the words of something that must not happen."""
    kept.mkdir(parents=True, exist_ok=True)
    kind = f"{outcome}-{trial.reader.name}-{'parts' if trial.parts else 'bytes'}"
    kind = kind.replace(" ", "_").replace("/", "_")
    if len(list(kept.glob(f"{kind}-*.txt"))) < KEPT:
        place = kept / f"{kind}-{trial.seed}-{int(sum(trial.shared[:-1]))}"
        shutil.copyfile(trial.folder / trial.reader.file, place)
        place.with_name(f"{place.name}.txt").write_text(text)


def trials(table: list[Reader], mutations: int, seed: int) -> Iterator[Trial]:
    """The work in shares, spread evenly over readers and ways of damage."""
    ways = [(reader, parts) for reader in table for parts in (False, True)]
    ways = [(reader, parts) for reader, parts in ways if reader.parts or not parts]
    each = -(-mutations // len(ways))
    for number, (reader, parts) in enumerate(ways):
        for start in range(0, each, PER_PROCESS):
            count = min(PER_PROCESS, each - start)
            yield Trial(reader, parts, seed + 1_000_000 * number + start, count)


def run(queue: list[Trial], jobs: int, scratch: Path, kept: Path) -> pd.DataFrame:
    """Runs all trials, some at a time: one row for each reader and way of damage."""
    totals = {(trial.reader, trial.parts): Counter[str]() for trial in queue}
    running: list[Trial] = []
    while queue or running:
        while queue and len(running) < jobs:
            running.append(queue.pop(0))
            running[-1].start(scratch, kept)
        time.sleep(0.01)
        for trial in [each for each in running if not each.running]:
            running.remove(trial)
            counts = trial.end(kept)
            totals[trial.reader, trial.parts] += counts
            left = trial.count - counts.total()
            if left and counts["crash"] + counts["hang"]:
                queue.insert(0, Trial(trial.reader, trial.parts, trial.seed + NEXT_SEED, left))
    rows = []
    for (reader, parts), counts in totals.items():
        forbidden = sum(counts[name] for name in Trial(reader, parts, 0, 0).forbidden)
        row = {"reader": reader.name, "damage": "parts" if parts else "bytes"}
        numbers = {"mutations": counts.total(), **{name: counts[name] for name in OUTCOMES}}
        guard = reader.guard or "none"
        rows.append({**row, "guard": guard, **numbers, "forbidden": forbidden})
    return pd.DataFrame(rows)


def main(given: Sequence[str] | None = None) -> int:
    """Runs the trial; 1 if anything happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="readers whose name holds this text")
    parser.add_argument("--out", type=Path, default=Path("results/runs/fuzz/fuzz.csv"))
    args = parser.parse_args(given)
    began, kept = time.monotonic(), args.out.with_suffix("")
    torch.set_num_threads(1)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        scratch = Path(folder)
        (scratch / "valid").mkdir()
        table = [each for each in readers(Valid(scratch / "valid")) if args.only in each.name]
        found = run(list(trials(table, args.mutations, args.seed)), args.jobs, scratch, kept)
    write_bytes(args.out, found.to_csv(index=False).encode(), RunError)
    record = {
        **origin(),
        "command": "make fuzz",
        "mutations": int(found["mutations"].sum()),
        "forbidden": int(found["forbidden"].sum()),
        "seed": args.seed,
        "seconds": round(time.monotonic() - began),
        "limits": {"seconds": SECONDS, "megabytes": MEMORY >> 20},
    }
    write_bytes(args.out.with_suffix(".json"), json.dumps(record, indent=2).encode(), RunError)
    print(found.drop(columns="guard").to_string(index=False))
    print(f"{record['mutations']:,} mutations in {record['seconds']} s: {args.out}")
    if record["forbidden"]:
        print(f"{record['forbidden']:,} of them must not happen; their inputs are in {kept}")
    return 1 if record["forbidden"] else 0


if __name__ == "__main__":
    sys.exit(main())
