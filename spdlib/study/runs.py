"""A run's folder: what was trained, on what, by which machine, with which result (decisions 9).

One folder holds one run: the resolved config, a record of everything else needed to repeat it,
tidy tables, and weights as safetensors. Every file is written to a temporary name, synced and
renamed, so that a crash or a full disk leaves the previous file whole. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from spdlib import disk
from spdlib.data.frames import Frames
from spdlib.data.store import PackedFrames, info
from spdlib.errors import RunError

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pandas", "h5py", "accelerate", "safetensors")
FIGURES_OF_FRAMES = ("frames", "error_maps", "query")
"""Figures that show images of the data, which may not be redistributed."""
DEFAULT_ROOT = Path("results") / "runs"


def machine() -> dict[str, Any]:
    """Describe this machine: processors, memory, system and library versions.

    A host name, user or path is never part of it.
    """
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "system": _system(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "torch_threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {"model": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}


def _system() -> str:
    name = platform.system()
    with contextlib.suppress(OSError, KeyError, AttributeError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{name} {platform.machine()}"


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str, folder: Path | None = None) -> str | None:
    """Standard output of a command without its final newline; None if it failed."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n")


def code_version() -> dict[str, Any]:
    """Git commit of the package's checkout, whether tracked files differ, and a hash of its source.

    `commit` and `dirty` are None where the package does not live in a git checkout; `source_hash`
    names the code in any case.
    """
    here = Path(__file__).resolve().parent
    source = source_hash(here.parent)
    # An installed package may lie inside somebody else's checkout.
    if not _output("git", "ls-files", Path(__file__).name, folder=here):
        return {"commit": None, "dirty": None, "source_hash": source}
    commit = _output("git", "rev-parse", "HEAD", folder=here)
    changes = _output("git", "status", "--porcelain", "--untracked-files=no", folder=here)
    dirty = None if commit is None else bool(changes)
    return {"commit": commit, "dirty": dirty, "source_hash": source}


def source_hash(folder: str | Path) -> str:
    """First 16 hex digits of the SHA-256 of names and contents of all Python files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def origin() -> dict[str, Any]:
    """Code and machine at work, as they stand in a record beside what they made."""
    return {"code": code_version(), "machine": machine()}


def hash_of(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON value, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_frames(frames: Frames) -> dict[str, Any]:
    """What identifies a set of frames in a record: count, hash of the names, provenance.

    Stores and copies in memory add the fingerprint of their content. Files appear by content,
    never by path.
    """
    described: dict[str, Any] = {"frames": len(frames), "ids_hash": hash_of(list(frames.ids))}
    source: Any = frames
    while hasattr(source, "frames"):  # a subset or a copy in memory
        source = source.frames
    provenance = getattr(source, "provenance", None)
    if provenance is not None:
        described["provenance"] = dict(provenance)
    if isinstance(source, PackedFrames):
        described["fingerprint"] = info(source.path)["fingerprint"]
    elif hasattr(source, "fingerprint"):
        described["fingerprint"] = source.fingerprint
    return described


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a run's file by rename.

    Raises:
        RunError: the file cannot be written; the previous one, if any, is untouched.
    """
    disk.write_bytes(path, data, RunError)


def write_json(path: str | Path, value: Any) -> None:
    """Write an indented JSON file by rename. Raises RunError if that is impossible."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a CSV file by rename. Raises RunError if that is impossible."""
    write_bytes(path, table.to_csv(index=False).encode())


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is missing or is no JSON object.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; is {path.parent} the folder of a run?") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} cannot be read as JSON ({error}); restore or delete it") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    Attributes:
        folder: contains config.json, record.json, history.csv, preflight.csv, `best/` (weights of
            the best evaluation), `last/` (weights and resumable state of the last checkpoint) and,
            after an evaluation, metrics.csv, bins.csv, frames.csv and k_sweep.csv.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open an existing run.

        Raises:
            RunError: the folder holds no run.
        """
        run = cls(Path(folder))
        if not run.exists:
            raise RunError(
                f"{folder} holds no run: {run.config_path.name} is missing; "
                "give the folder that `train` wrote"
            )
        return run

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_path.is_file()

    @property
    def config_path(self) -> Path:
        """Path of the resolved config."""
        return self.folder / "config.json"

    @property
    def record_path(self) -> Path:
        """Path of the record."""
        return self.folder / "record.json"

    @property
    def best(self) -> Path:
        """Folder of the best weights, for `spdlib.load`."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """Folder of the last weights, for `spdlib.load`, and of the resumable state."""
        return self.folder / "last"

    @property
    def state_path(self) -> Path:
        """Path of the resumable state."""
        return self.last / "state.safetensors"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config as a dictionary."""
        return read_json(self.config_path)

    @property
    def record(self) -> dict[str, Any]:
        """Hashes, code version, machine, data provenance, deviations, times and status."""
        return read_json(self.record_path)

    @property
    def finished(self) -> bool:
        """Whether training ended by itself."""
        return self.record_path.is_file() and self.record.get("status") == "finished"

    def update_record(self, changes: Mapping[str, Any]) -> None:
        """Merge `changes` into record.json."""
        known = self.record if self.record_path.is_file() else {}
        write_json(self.record_path, {**known, **changes})

    def table(self, name: str) -> pd.DataFrame:
        """Read the table `name`.csv of this run.

        Raises:
            RunError: the run has no such table.
        """
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            have = sorted(found.stem for found in self.folder.glob("*.csv"))
            raise RunError(f"{self.folder} has no table {name!r}; it has {have}")
        return pd.read_csv(path, dtype={"frame": str})  # "00000" is a name, not a number

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write the table `name`.csv of this run by rename."""
        write_table(self.folder / f"{name}.csv", table)

    @property
    def history(self) -> pd.DataFrame:
        """One row an evaluation: losses, rates, selection scores, ranges, times."""
        return self.table("history")

    @property
    def preflight(self) -> pd.DataFrame:
        """Checks made before the first step."""
        return self.table("preflight")

    @property
    def metrics(self) -> pd.DataFrame:
        """model, protocol, sites, metric, value, frames."""
        return self.table("metrics")

    @property
    def bins(self) -> pd.DataFrame:
        """model, protocol, sites, bin, abs_rel, delta1, count."""
        return self.table("bins")

    @property
    def frames(self) -> pd.DataFrame:
        """Scores of every frame, for paired comparisons."""
        return self.table("frames")

    @property
    def k_sweep(self) -> pd.DataFrame:
        """Accuracy of the same points asked in groups of k."""
        return self.table("k_sweep")


def publish(run: Run, target: str | Path) -> list[str]:
    """Copy a run's config, record, tables and figures to a folder that may be committed.

    Weights, examples and figures that show frames of real data stay behind.

    Returns:
        Names of the copied files.

    Raises:
        RunError: the run has not been evaluated, or the folder cannot be written.
    """
    if not (run.folder / "metrics.csv").is_file():
        raise RunError(f"{run.folder} has no metrics.csv; evaluate the run before publishing it")
    shown = () if run.config.get("data") == "rooms" else FIGURES_OF_FRAMES
    figures = (path for path in run.folder.glob("figures/*.png") if path.stem not in shown)
    files = [run.config_path, run.record_path, *run.folder.glob("*.csv"), *figures]
    for path in sorted(files):
        write_bytes(Path(target) / path.relative_to(run.folder), path.read_bytes())
    return sorted(str(path.relative_to(run.folder)) for path in files)


def recorded_v15_1() -> pd.DataFrame:
    """The log's result of v15.1 (Exp 13), epoch by epoch, as recorded (sheet v15, section 5).

    Columns: epoch, abs_rel, s_star, scaled_abs_rel, delta1 (fraction), silog (factor 1/2),
    train_loss, dense_abs_rel, abs_rel_5_10m. Validation was 128 unseeded random pixels a frame of
    a centre crop, pooled, without the Eigen crop: the numbers stand beside ours, on other pixels.
    """
    columns: dict[str, list[float]] = {
        "abs_rel": [0.1285, 0.1249, 0.1176, 0.1173, 0.1154, 0.1150, 0.1184],
        "s_star": [1.031, 0.992, 1.039, 1.003, 1.033, 1.031, 1.042],
        "scaled_abs_rel": [0.1296, 0.1237, 0.1170, 0.1177, 0.1154, 0.1152, 0.1175],
        "delta1": [0.835, 0.852, 0.855, 0.862, 0.863, 0.863, 0.856],
        "silog": [0.1823, 0.1770, 0.1719, 0.1686, 0.1718, 0.1698, 0.1720],
        "train_loss": [0.1330, 0.0918, 0.0797, 0.0720, 0.0662, 0.0618, 0.0581],
        "dense_abs_rel": [0.1223, 0.1230, 0.1104, 0.1132, 0.1075, 0.1080, 0.1102],
        "abs_rel_5_10m": [0.160, 0.161, 0.171, 0.153, 0.184, 0.178, 0.173],
    }
    table = pd.DataFrame(columns)
    table.insert(0, "epoch", range(1, len(table) + 1))
    return table
