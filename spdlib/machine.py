"""The machine and the code at work: what a record says of them, and memory kept on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pandas", "h5py", "accelerate", "safetensors")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of glibc's settings (malloc.h)."""
KEEP, GROW = 2**31 - 1, 2**28
"""Bytes of free memory that are kept, and that are allocated at a time."""


def machine() -> dict[str, Any]:
    """Describe this machine: processors, memory, system and library versions.

    A host name, user or path is never part of it.
    """
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [
            {"model": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)}
            for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
        "system": _system(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "torch_threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.is_file() else ""
    named = re.search(r"^model name\s*:(.*)", text, re.MULTILINE | re.IGNORECASE)
    if named:
        return named[1].strip()
    macs = _output("sysctl", "-n", "machdep.cpu.brand_string")  # fails on other systems
    return macs or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processor cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def _system() -> str:
    name = platform.system()
    with contextlib.suppress(OSError, KeyError, AttributeError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{name} {platform.machine()}"


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
    here, commit, dirty = Path(__file__).resolve().parent, None, None
    # an installed package may lie inside somebody else's checkout
    if _output("git", "ls-files", Path(__file__).name, folder=here):
        commit = _output("git", "rev-parse", "HEAD", folder=here)
    if commit is not None:
        dirty = bool(_output("git", "status", "--porcelain", "--untracked-files=no", folder=here))
    return {"commit": commit, "dirty": dirty, "source_hash": source_hash(here)}


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


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free; whether the C library can do it.

    glibc returns every large block to the system, which must clear its pages when they are needed
    again: 13 to 35 % of a step's time. Results do not depend on it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEEP), (M_TOP_PAD, GROW))
    return all([bool(mallopt(name, value)) for name, value in settings])
