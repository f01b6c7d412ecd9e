"""Lock files: one holder, whatever the file system and whatever lies at the path."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import DEADLINE

from foretrain.errors import DataError
from foretrain.locks import FileLock


def lock(tmp_path: Path) -> FileLock:
    return FileLock(tmp_path / ".c.lock", tmp_path / "c", "is writing this corpus", DataError)


def test_a_lock_leaves_no_file_behind(tmp_path: Path) -> None:
    with lock(tmp_path):
        assert (tmp_path / ".c.lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_without_record_locks_every_holder_counts_also_a_dead_one(tmp_path: Path, monkeypatch) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with lock(tmp_path), pytest.raises(DataError, match="is writing this corpus"), lock(tmp_path):
        pass
    held = lock(tmp_path)
    with held:
        text = held.path.read_text()
    held.path.write_text(text.replace(str(os.getpid()), str(2**22 + 1)))
    with pytest.raises(DataError, match=r"process 4194305 on .* delete .*\.c\.lock"), held:
        pass


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "dangling link"])
def test_what_is_no_plain_file_is_refused_at_once_and_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / ".c.lock", tmp_path / "other"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
        if kind == "link":
            other.write_text("precious")
    with pytest.raises(DataError, match=r"\.c\.lock: is not a lock file\. Delete it\."), lock(tmp_path):
        pass
    assert path.exists() or path.is_symlink()
    assert other.exists() == (kind == "link") and (kind != "link" or other.read_text() == "precious")


@pytest.mark.parametrize("content", ["[" * 3000, '{"host": "h", "pid": null}', '{"host": "h", "pid": 1e400}', "\x00"])
def test_a_file_that_names_no_holder_is_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / ".c.lock").write_text(content)
    with lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["read", "ftruncate", "pwrite", "a short pwrite"])
@pytest.mark.parametrize("dead", [False, True])
def test_a_disk_that_refuses_leaves_no_lock_but_that_of_a_process_that_may_hold_it(
    tmp_path: Path, monkeypatch, call: str, dead: bool
) -> None:
    path = tmp_path / ".c.lock"
    if dead:
        with lock(tmp_path):
            text = path.read_text()
        path.write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {2**22 + 1}'))

    def refuse(*arguments: Any) -> int:
        if call == "a short pwrite":
            return real(arguments[0], arguments[1][:9], arguments[2])
        raise OSError(errno.ENOSPC, "No space left on device")

    real = os.pwrite
    monkeypatch.setattr(os, call.split()[-1], refuse)
    with pytest.raises(OSError, match="No space left"), lock(tmp_path):
        pass
    monkeypatch.undo()
    assert path.exists() == (dead and call == "read")
    with lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_of_many_processes_one_at_a_time_holds_it(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from foretrain.errors import DataError
from foretrain.locks import FileLock
folder, entered, until = Path(sys.argv[1]), 0, time.monotonic() + 1
while time.monotonic() < until or not entered:
    try:
        with FileLock(folder / ".c.lock", folder / "c", "is writing this corpus", DataError):
            (folder / "inside").mkdir()  # fails if another process is inside
            entered += 1
            (folder / "inside").rmdir()
    except DataError:
        pass
print(entered)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=DEADLINE) for process in running]
    assert all(int(out) > 0 for out, _ in outputs), [error for _, error in outputs]
    assert list(tmp_path.iterdir()) == []
