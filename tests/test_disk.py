"""Writing by rename: the old file or the new one, never a part, never a leftover."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from spdlib import disk
from spdlib.disk import held, replacing, write_bytes
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


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.txt")
    write_bytes(tmp_path / "link", b"new", RunError)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_files_are_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(RunError, match=r"cannot write .*a: it is a folder, a pipe or a device"):
        write_bytes(tmp_path / "a", b"new", RunError)
    assert not (tmp_path / "a").is_file()
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_that_were_made_in_vain_go_again(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with (
        pytest.raises(ZeroDivisionError),
        replacing(tmp_path / "old" / "new" / "b" / "c", RunError),
    ):
        _ = 1 / 0
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.bin", RunError) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_permissions_follow_the_umask_which_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to all threads of the process: a moment's change shows in what they write."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
            write_bytes(tmp_path / "a.bin", b"x", RunError)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


def write_half(path: Path, told: Connection) -> None:
    with replacing(path, RunError) as temporary:
        temporary.write_bytes(b"half")
        told.send(temporary)
        time.sleep(300)


def hold(path: Path, told: Connection) -> None:
    with held(path, RunError):
        told.send(path)
        time.sleep(300)


@contextmanager
def other_process(
    path: Path, work: Callable[[Path, Connection], None]
) -> Iterator[tuple[BaseProcess, Any]]:
    """Another process that works on `path`, has said so and waits, and what it said."""
    context = multiprocessing.get_context("fork")  # a spawned one imports torch for seconds
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(path, told))
    process.start()
    try:
        assert heard.poll(120)
        yield process, heard.recv()
    finally:
        process.kill()
        process.join()


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    path, foreign = tmp_path / "a[1].bin", tmp_path / ".a[1].bin.notes.tmp"
    foreign.write_text("a user's")
    working = other_process(path, write_half), other_process(path, write_half)
    with working[0] as (killed, left), working[1] as (_, kept):
        write_bytes(path, b"beside two living", RunError)
        assert left.is_file() and kept.is_file()
        killed.kill()  # SIGKILL: no `finally` runs
        killed.join()
        write_bytes(tmp_path / "other.bin", b"", RunError)
        assert left.is_file() and kept.is_file()
        write_bytes(path, b"beside one living", RunError)
        assert not left.exists() and kept.is_file()
    write_bytes(path, b"alone", RunError)
    assert sorted(tmp_path.iterdir()) == sorted([path, foreign, tmp_path / "other.bin"])
    assert path.read_bytes() == b"alone"


def test_a_temporary_removed_before_its_lock_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and locking a file, another process may take it for abandoned."""
    lock = disk._lock
    taken: list[Path] = []

    def late(handle: int, wait: bool = True) -> bool:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        return lock(handle, wait)

    monkeypatch.setattr(disk, "_lock", late)
    with replacing(tmp_path / "a.bin", RunError) as temporary:
        assert temporary.exists() and temporary not in taken
        write_bytes(tmp_path / "a.bin", b"from another", RunError)
        assert temporary.exists()
        temporary.write_bytes(b"whole")
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_system_without_locks_writes_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    left = tmp_path / f".a.bin.{'0' * 16}.tmp"
    left.write_bytes(b"half")

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        write_bytes(tmp_path / "a.bin", b"one", RunError)
    assert left.exists() and (tmp_path / "a.bin").read_bytes() == b"one"
    write_bytes(tmp_path / "a.bin", b"two", RunError)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file.*nothing was written"):
        write_bytes(tmp_path / "file" / "a.bin", b"", RunError)


def test_a_lock_has_one_holder_until_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / ".lock"
    with other_process(path, hold) as (process, _):
        with monkeypatch.context() as patched, pytest.raises(RunError) as caught:
            patched.setattr(disk, "_PATIENCE", 0.1)
            held(path, RunError).__enter__()
        told = rf"run: another process works there \(process {process.pid} on .+ since \d.+\); wait"
        assert re.search(told, str(caught.value))
        process.kill()
        with held(path, RunError):
            assert f"process {os.getpid()} on" in path.read_text()
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("ending", [None, RunError, KeyboardInterrupt])
def test_a_lock_ends_with_its_block(tmp_path: Path, ending: type[BaseException] | None) -> None:
    path = tmp_path / ".lock"
    with suppress(RunError, KeyboardInterrupt), held(path, RunError):
        if ending is not None:
            raise ending
    with held(path, RunError):  # in good time: nobody has it
        assert f"process {os.getpid()}" in path.read_text()


def wait_in_a_child(path: Path, told: Connection) -> None:
    """As a training does that is killed while its workers live on."""
    with held(path, RunError):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
        told.send(child.pid)
        time.sleep(300)


def test_children_of_a_killed_holder_do_not_keep_its_lock(tmp_path: Path) -> None:
    with other_process(tmp_path / ".lock", wait_in_a_child) as (process, child):
        process.kill()
        try:
            with held(tmp_path / ".lock", RunError):
                os.kill(int(child), 0)  # it is there
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = r"no locks \(No locks available\); make sure that no other process"
    with pytest.warns(UserWarning, match=message), held(tmp_path / ".lock", RunError):
        pass
    assert os.listdir(tmp_path) in ([], [".lock"])


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*file.*choose another folder"):
        held(tmp_path / "file" / ".lock", RunError).__enter__()
