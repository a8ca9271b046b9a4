"""Writing by rename: the old file or the new one, never a part, never a leftover."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from spdlib.disk import replacing, write_bytes
from spdlib.errors import ModelError, RunError


def test_a_file_is_made_with_its_folder_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    write_bytes(path, b"one", RunError)
    write_bytes(path, b"second", RunError)
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_full_disk_keeps_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"previous")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"a\.bin: No space left.*previous file is kept"):
        write_bytes(path, b"next", ModelError)
    assert path.read_bytes() == b"previous"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.bin", RunError) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file.*nothing was written"):
        write_bytes(tmp_path / "file" / "a.bin", b"", RunError)
