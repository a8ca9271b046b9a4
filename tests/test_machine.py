"""What is said of the machine and the code, and memory that a process keeps."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from spdlib import machine
from spdlib.machine import code_version, keep_freed_memory, source_hash

STEPS = """
import resource, sys, torch
from spdlib.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(15):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sum(torch.ones(10**7) for _ in range(2))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_machine_names_hardware_and_versions_only() -> None:
    described = machine.machine()
    assert described["cores"] >= 1
    assert described["libraries"]["torch"]
    text = json.dumps(described)
    assert platform.node() not in text or len(platform.node()) < 3
    assert str(Path.home()) not in text
    assert len(getpass.getuser()) < 5 or getpass.getuser() not in text


def test_changed_source_has_another_hash(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "inner" / "b.py").write_text("y = 2\n")
    before = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("not code")
    assert source_hash(tmp_path) == before
    (tmp_path / "inner" / "b.py").write_text("y = 3\n")
    assert source_hash(tmp_path) != before
    assert code_version()["source_hash"] == source_hash(Path(machine.__file__).parent)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory at once")
def test_large_tensors_get_pages_that_are_there_already() -> None:
    faults = {
        word: int(subprocess.check_output([sys.executable, "-c", STEPS, word]))
        for word in ("keep", "return")
    }
    # 40 tensors; a heap that still grows asks for pages of a few at most
    assert faults["keep"] < 0.3 * faults["return"]


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
