"""What random harm leaves behind: commands killed, interrupted, starved of disk, then run again.

Each trial starts a small command, hurts it at a moment drawn uniformly over the length of an
undisturbed run, and holds if

- the command ends, and none of its processes lives on;
- the file that was there before is whole, or replaced by a whole one;
- the same command, given again, succeeds with the outcome of the undisturbed run (weights bit for
  bit, a store that verifies with the same fingerprint, the same outputs of a notebook) and leaves
  the same files, so that no temporary stays.

Counts go to a table, where `hit` trials are those whose command was still at work at the moment;
what broke is printed.

    python -m tests.hostile.torture [--trials 7] [--seed 0] [--commands packing] [--harms SIGINT]
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import psutil
from PIL import Image

from spdlib.data.rooms import Rooms
from spdlib.data.store import verify
from spdlib.disk import file_hash
from spdlib.errors import SPDError
from spdlib.machine import origin
from spdlib.study.runs import write_json, write_table

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUT = REPOSITORY / "results" / "measured" / "torture.csv"
MARK = "SPD_TORTURE_TRIAL"
"""Environment variable by which every process of a trial is found, in whatever session it runs."""
FILLER, DISK, EARLIER = "filler", "96m", b"\x89HDF\r\n\x1a\nwhat was there before"
ONE, FULL, LIMIT = "kill -9 of one", "full disk", "limit of file sizes"
PATIENCE = 180.0
"""Seconds after which a command counts as hung."""
THIRDS = ("first third", "second third", "last third")


class BrokenError(SPDError):
    """A trial did not hold."""


class Command:
    """A small command in a folder of its own."""

    name = ""

    def prepare(self, folder: Path) -> None:
        """Make what lies there before."""

    def words(self, folder: Path) -> list[str]:
        """Arguments of Python."""
        raise NotImplementedError

    def check_kept(self, folder: Path) -> None:
        """SPDError where harm damaged what was there before, or left half of something new."""

    def outcome(self, folder: Path) -> Any:
        """What a whole run leaves, to be compared."""
        raise NotImplementedError


class Training(Command):
    """Twelve steps of the smallest network, with a checkpoint after every second one."""

    name = "training"

    def words(self, folder: Path) -> list[str]:
        often = ["--workers", "1", "--checkpoint-every", "2", "--set", "steps=12"]
        where = ["--device", "cpu", "--out", str(folder / "run")]
        return ["-m", "spdlib", "train", "v15_2", "--profile", "smoke", *often, *where]

    def outcome(self, folder: Path) -> Any:
        run = folder / "run"
        history = pd.read_csv(run / "history.csv").drop(columns=["seconds", "data_wait_share"])
        weights = [file_hash(run / kept / "model.safetensors") for kept in ("best", "last")]
        return weights, history.to_csv()


class TwoProcesses(Training):
    """The same by two processes, under PyTorch's own launcher."""

    name = "training in two processes"

    def words(self, folder: Path) -> list[str]:
        launcher = "-m torch.distributed.run --standalone --nproc-per-node 2"
        return [*launcher.split(), *super().words(folder)]


class Packing(Command):
    """160 small frames packed over an earlier store."""

    name = "packing"

    def __init__(self, source: Path) -> None:
        self.source = source

    def prepare(self, folder: Path) -> None:
        (folder / "store.h5").write_bytes(EARLIER)

    def words(self, folder: Path) -> list[str]:
        paths = [str(self.source), str(folder / "store.h5")]
        return ["-m", "spdlib", "data", "pack", *paths, "--compression", "gzip"]

    def check_kept(self, folder: Path) -> None:
        if (folder / "store.h5").read_bytes() != EARLIER:
            self.outcome(folder)

    def outcome(self, folder: Path) -> Any:
        return verify(folder / "store.h5")["fingerprint"]


class Notebook(Command):
    """Ten cells executed over an earlier output."""

    name = "notebook"

    def prepare(self, folder: Path) -> None:
        cell = "import time\ntime.sleep(0.2)\nprint({}, ('x' * 99 + chr(10)) * 500)"
        cells = [nbformat.v4.new_code_cell(cell.format(i), id=f"cell{i}") for i in range(10)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "n.ipynb")
        (folder / "out.ipynb").write_bytes(EARLIER)

    def words(self, folder: Path) -> list[str]:
        return ["-m", "spdlib", "run", str(folder / "n.ipynb"), "-o", str(folder / "out.ipynb")]

    def check_kept(self, folder: Path) -> None:
        if (folder / "out.ipynb").read_bytes() != EARLIER:
            self.outcome(folder)
        for failed in folder.glob("*.failed.ipynb"):
            nbformat.read(failed, as_version=4)

    def outcome(self, folder: Path) -> Any:
        cells = nbformat.read(folder / "out.ipynb", as_version=4).cells
        return ["".join(output.text for output in cell.outputs) for cell in cells]


def write_frames(folder: Path) -> Path:
    """Frames as a user brings them: four rooms, 40 times each."""
    rows, rooms = ["frame,fx,fy,cx,cy"], Rooms(4, size=(120, 160))
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for i in range(160):
        frame = rooms[i % 4]
        camera, millimetres = frame.camera, np.rint(frame.truth() * 1000).astype(np.uint16)
        Image.fromarray(frame.image).save(folder / "rgb" / f"{i}.png")
        Image.fromarray(millimetres).save(folder / "depth" / f"{i}.png")
        rows.append(f"{i},{camera.fx},{camera.fy},{camera.cx},{camera.cy}")
    (folder / "cameras.csv").write_text("\n".join(rows))
    return folder


# -- harm -------------------------------------------------------------------------------------

Harm = Callable[[Popen[bytes], Path], None]


def kill_one(process: Popen[bytes], folder: Path) -> None:
    """One of the launched processes, or the launcher where it has launched none yet."""
    launched = [each for each in family() if each.ppid() == process.pid]
    random.choice(launched or [psutil.Process(process.pid)]).kill()


def fill_disk(process: Popen[bytes], folder: Path) -> None:
    """As another program does: to the last byte."""
    with (folder / FILLER).open("wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(piece)):
                    pass


HARMS: dict[str, Harm] = {
    "kill -9": lambda process, _: process.kill(),  # as a system without memory does
    "SIGINT": lambda process, _: os.killpg(process.pid, signal.SIGINT),  # as a terminal does
    "SIGTERM": lambda process, _: process.terminate(),  # as batch systems do
    FULL: fill_disk,
    LIMIT: lambda process, _: None,  # it was there from the beginning
}
"""What may happen at a moment to every command but that of two processes."""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own in memory for the folder; only root may do this."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "torture", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# -- trials -----------------------------------------------------------------------------------


def start(words: Sequence[str], folder: Path, limit: int | None = None) -> Popen[bytes]:
    """The command in a session of its own, all its processes marked."""
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, MARK: str(os.getpid()), "OMP_NUM_THREADS": "1"}
    for place in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        environment[place] = str(scratch)

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with (scratch / "errors").open("wb") as errors:
        how: dict[str, Any] = {"cwd": REPOSITORY, "env": environment, "stderr": errors}
        how |= {"stdout": subprocess.DEVNULL, "start_new_session": True, "preexec_fn": restrict}
        return Popen([sys.executable, *words], **how)


def family() -> list[psutil.Process]:
    """All processes of the trial that live."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()):
                found.append(process)
    return found


def await_end(process: Popen[bytes]) -> None:
    """BrokenError where the command hangs, or processes that it started outlive it."""
    try:
        process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE / 3
        while left := family():
            if time.monotonic() > deadline:
                raise BrokenError(f"left processes: {[' '.join(p.cmdline())[:80] for p in left]}")
            time.sleep(0.2)
    except subprocess.TimeoutExpired:
        raise BrokenError(f"hangs for more than {PATIENCE:g} s") from None
    finally:
        for each in family():
            with suppress(psutil.Error):
                each.kill()
        process.wait()


def complete(command: Command, folder: Path) -> None:
    """Run the command to its end. BrokenError: it fails."""
    process = start(command.words(folder), folder)
    await_end(process)
    if process.returncode:
        said = (folder.parent / "scratch" / "errors").read_text().strip().splitlines()
        raise BrokenError(f"ends with {process.returncode}: {(said or [''])[-1]}")


def fresh(root: Path) -> Path:
    """An empty folder, the same each time."""
    folder = root / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def files(folder: Path) -> list[str]:
    """Every file, hidden ones too, by its path in the folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)


@dataclass(frozen=True)
class Reference:
    """What undisturbed runs leave, the time of the shorter one, bytes of their largest file."""

    outcome: Any
    files: list[str]
    seconds: float
    largest: int

    @classmethod
    def of(cls, command: Command, root: Path) -> Reference:
        """Run the command twice. BrokenError: that gives two outcomes."""
        found: list[Any] = []
        for _ in range(2):
            folder, since = fresh(root), time.monotonic()
            command.prepare(folder)
            complete(command, folder)
            found.append((time.monotonic() - since, command.outcome(folder), files(folder)))
        if found[0][1:] != found[1][1:]:
            raise BrokenError(f"{command.name} has two outcomes undisturbed")
        largest = max((folder / name).stat().st_size for name in files(folder))
        return cls(found[0][1], found[0][2], min(each[0] for each in found), largest)


@dataclass
class Trial:
    """One command, hurt once; `broken` says what did not hold."""

    moment: float  # a share of the undisturbed run's time
    hit: bool = True  # the command was still at work then
    broken: str = ""

    def run(self, command: Command, harm: str, folder: Path, reference: Reference) -> None:
        """Hurt the command, look at what is left, run it again and compare."""
        command.prepare(folder)
        limit = int(self.moment * reference.largest) if harm == LIMIT else None
        process = start(command.words(folder), folder, limit)
        try:
            if limit is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self.moment * reference.seconds)
                self.hit = process.poll() is None
                if self.hit:
                    HARMS.get(harm, kill_one)(process, folder)
            await_end(process)
            (folder / FILLER).unlink(missing_ok=True)
            command.check_kept(folder)
            complete(command, folder)
            if command.outcome(folder) != reference.outcome:
                raise BrokenError("the outcome is another than undisturbed")
            if differing := set(files(folder)) ^ set(reference.files):
                raise BrokenError(f"other files are left than undisturbed: {sorted(differing)}")
        except (SPDError, OSError, ValueError) as broken:
            self.broken = f"{type(broken).__name__}: {broken}"


def trials(
    command: Command, harms: Sequence[str], count: int, root: Path, moments: random.Random
) -> Iterator[dict[str, Any]]:
    """Every harm `count` times, one row a trial."""
    reference = Reference.of(command, root)
    print(f"{command.name}: {reference.seconds:.1f} s undisturbed", flush=True)
    for harm in harms:
        for _ in range(count):
            one, folder = Trial(moments.random()), fresh(root)
            with small_disk(folder) if harm == FULL else nullcontext():
                one.run(command, harm, folder, reference)
            print(f"{command.name}, {harm}: {one}", flush=True)
            row = {"command": command.name, "harm": harm, "moment": THIRDS[int(3 * one.moment)]}
            yield {**row, "hit": one.hit, "held": not one.broken}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=7, help="of each harm to each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", help="some of them; default: all")
    parser.add_argument("--harms", nargs="+", help="some of them; default: all")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    args = parser.parse_args(given)
    random.seed(args.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="torture") as place:
        root, common = Path(place), list(HARMS)
        try:
            with small_disk(root):
                pass
        except (OSError, subprocess.SubprocessError):
            print("no trials with a full disk: only root may make a small one")
            common.remove(FULL)
        packing = Packing(write_frames(root / "frames"))
        for command in (packing, Notebook(), Training(), TwoProcesses()):
            harms = [ONE] if isinstance(command, TwoProcesses) else common
            chosen = [harm for harm in harms if harm in (args.harms or harms)]
            if chosen and command.name in (args.commands or [command.name]):
                moments = random.Random(f"{args.seed} {command.name}")
                rows += trials(command, chosen, args.trials, root, moments)
    kinds = pd.DataFrame(rows).groupby(["command", "harm", "moment"], sort=False)
    table = kinds.agg(trials=("held", "size"), hit=("hit", "sum"), held=("held", "sum"))
    table = table.assign(broken=table["trials"] - table["held"]).reset_index()
    write_table(args.out, table)
    settings = {"trials": args.trials, "seed": args.seed}
    write_json(args.out.with_suffix(".json"), {**origin(), "settings": settings})
    print(table.to_string(index=False))
    print(f"{table['held'].sum()} of {table['trials'].sum()} trials held; written to {args.out}")
    if table["broken"].any():
        raise BrokenError("some trials did not hold; they are printed above")


if __name__ == "__main__":
    try:
        main()
    except SPDError as error:
        sys.exit(f"error: {error}")
