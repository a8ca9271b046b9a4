"""Memory that a process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from spdlib.study.memory import keep_freed_memory

STEPS = """
import resource, sys, torch
from spdlib.study.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sum(torch.ones(2**24) for _ in range(2))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory at once")
def test_large_tensors_get_pages_that_are_there_already() -> None:
    faults = {
        word: int(subprocess.check_output([sys.executable, "-c", STEPS, word]))
        for word in ("keep", "return")
    }
    # nearly none, but for pages that the system itself takes back meanwhile
    assert faults["keep"] < 0.3 * faults["return"]


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
