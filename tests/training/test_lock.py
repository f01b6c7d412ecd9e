from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from foretrain.errors import TrainingError
from foretrain.training.lock import RunLock

pytestmark = pytest.mark.processes


def held_by(lock, **changes):
    """The lock as another process would have left it."""
    with lock:
        holder = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps(holder | changes))


def test_a_second_writer_is_refused_by_name_while_the_first_lives(tmp_path):
    script = "import sys; from foretrain.training.lock import RunLock; from pathlib import Path\n"
    script += "with RunLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(TrainingError, match=rf"process {other.pid} on .* is writing this run"), RunLock(tmp_path):
            pass
        other.kill()
        other.wait()
        with RunLock(tmp_path):
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_free_again_after_use(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path):
            pass


def test_a_trainer_in_the_same_process_is_refused_as_well(tmp_path):
    with RunLock(tmp_path), pytest.raises(TrainingError, match="is writing this run"), RunLock(tmp_path):
        pass


@pytest.mark.parametrize(
    "stale", [{"pid": 2**22 + 1}, {"boot": "another boot"}, {"started": "1"}], ids=["dead", "rebooted", "number reused"]
)
def test_a_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, stale):
    lock = RunLock(tmp_path)
    held_by(lock, **stale)
    with lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_the_lock_of_another_host_is_never_taken_over(tmp_path):
    lock = RunLock(tmp_path)
    held_by(lock, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(TrainingError, match=r"on elsewhere is writing this run.*delete .*run.lock"), lock:
        pass


def test_an_incomplete_lock_file_is_ignored(tmp_path):
    (tmp_path / "run.lock").write_text('{"host": "v')
    with RunLock(tmp_path):
        pass


def test_a_run_folder_that_is_gone_at_the_end_is_no_error_of_the_lock(tmp_path):
    with RunLock(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()
