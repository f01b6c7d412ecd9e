from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.waiting import DEADLINE

from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.training import checkpoint
from foretrain.training.checkpoint import CheckpointManager, load_tensors
from foretrain.training.manifest import damage, delete_checkpoint, make_manifest, read_state


@pytest.fixture(params=[False, True], ids=["at once", "in the background"])
def store(tmp_path, request):
    store = CheckpointManager(tmp_path / "checkpoints", World(), keep_last=2, keep_best=2, background=request.param)
    store.clean()
    return store


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((3, 4), value), "model.b": torch.full((5,), -value), "exp_avg.a": torch.zeros(3, 4)}


def save(store: CheckpointManager, step: int, metric: float | None = None, final: bool = False) -> Path:
    store.save(step, tensors(float(step)), {"note": step}, metric=metric, final=final)
    store.wait()
    return store.folder / f"step-{step:08d}"


def test_what_was_saved_is_read_back(store):
    path = save(store, 7)
    into = tensors(0.0)
    load_tensors(path, World(), into)
    assert all(torch.equal(into[name], value) for name, value in tensors(7.0).items())
    assert read_state(path) == {"note": 7}
    assert damage(path) is None


def test_each_kind_of_tensor_has_a_file_that_safetensors_opens(store):
    path = save(store, 7)
    names = []
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names.append(set(opened.keys()))
    assert names == [{"exp_avg.a"}, {"model.a", "model.b"}]


def test_tensors_of_another_model_are_refused(store):
    path = save(store, 7)
    with pytest.raises(TrainingError, match="do not fit this model"):
        load_tensors(path, World(), {"model.a": torch.zeros(2, 2)})
    with pytest.raises(TrainingError, match="do not fit this model"):
        load_tensors(path, World(), {"model.c": torch.zeros(2, 2)})


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("damaged_by", ["truncate", "flip", "delete", "empty"])
def test_damage_to_any_file_is_found_logged_and_skipped(store, damaged_by):
    save(store, 1)
    for name in files_of(save(store, 2)):
        path = save(store, 2)
        file = path / name
        content = file.read_bytes()
        if damaged_by == "delete":
            file.unlink()
        elif damaged_by == "flip":
            at = random.Random(name).randrange(len(content))
            file.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        else:
            file.write_bytes(content[: len(content) // 2] if damaged_by == "truncate" else b"")
        messages = []
        good = store.newest_intact(messages.append)
        assert good is not None and good.name == "step-00000001"
        assert "step-00000002 is damaged and is skipped" in messages[0]


def test_a_bit_of_the_manifest_is_covered_too(store):
    path = save(store, 2, metric=0.5)
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"metric": 0.5', '"metric": 0.4'))
    assert "manifest.json" in (damage(path) or "")


def test_a_checkpoint_whose_manifest_cannot_be_read_is_neither_the_best_nor_deleted_and_is_named_once(store, caplog):
    for step in range(1, 6):
        save(store, step, metric=1 / step)
    (store.folder / "step-00000005" / "manifest.json").write_text("{")
    assert store.best_intact(pytest.fail).step == 4
    for step in range(6, 9):
        save(store, step)
    assert "step-00000005" in files_of(store.folder)
    named = [record.message for record in caplog.records if "step-00000005 is damaged and is skipped" in record.message]
    assert len(named) == 1


def test_damage_everywhere_is_an_error_and_not_a_fresh_start(store):
    for step in (1, 2):
        (save(store, step) / "state.json").write_text("{}")
    with pytest.raises(TrainingError, match="none of the 2 checkpoints is intact"):
        store.newest_intact(lambda text: None)


def test_no_checkpoint_at_all_is_a_start(store):
    assert store.newest_intact(lambda text: None) is None


def test_leftovers_of_a_killed_process_are_removed(store):
    for name in (".tmp-step-00000003", ".trash-step-00000001"):
        (store.folder / name).mkdir()
    store.clean()
    assert files_of(store.folder) == []


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_kept_set_is_what_the_rules_say_after_a_thousand_events(tmp_path, mode):
    """Against a plain oracle, with ties, NaN, unvalidated and vanished checkpoints; manifests alone, no tensors."""
    draw = random.Random(mode)
    alive: dict[int, tuple[float | None, bool]] = {}
    for step in range(1, 1001):
        metric = draw.choice([None, float("nan"), draw.randrange(30) / 10, draw.random()])
        final = draw.random() < 0.005
        path = tmp_path / f"step-{step:08d}"
        path.mkdir()
        (path / "manifest.json").write_text(json.dumps(make_manifest(step, metric, final, {})))
        store = CheckpointManager(tmp_path, World(), keep_last=3, keep_best=4, keep_every=150, mode=mode)
        store.prune()  # by what the disk says alone
        alive[step] = (None if metric is None or metric != metric else metric, final)
        sign = 1 if mode == "min" else -1
        scored = sorted((s for s in alive if alive[s][0] is not None), key=lambda s: (sign * alive[s][0], s))
        keep = set(sorted(alive)[-3:]) | set(scored[:4]) | {s for s in alive if alive[s][1] or s % 150 == 0}
        alive = {s: alive[s] for s in alive if s in keep}
        assert {item.step for item in store.list_complete()} == keep
        if draw.random() < 0.02:
            gone = draw.choice(sorted(alive))
            delete_checkpoint(tmp_path / f"step-{gone:08d}")
            del alive[gone]


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_disk_that_refuses_gives_one_error_and_leaves_no_half_checkpoint(store, monkeypatch, call):
    save(store, 1)
    calls = []

    def refuse(*arguments, **keywords):
        calls.append(arguments)
        raise FULL

    owner = os if call == "fsync" else Path
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(TrainingError, match=r"step-00000002: the checkpoint could not be written: No space left"):
        save(store, 2)
    monkeypatch.undo()
    assert calls
    assert files_of(store.folder) == ["step-00000001"]
    assert damage(store.folder / "step-00000001") is None
    save(store, 2)
    assert files_of(store.folder) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("nth", range(1, 9))
def test_a_failure_at_any_fsync_leaves_the_newest_checkpoint_loadable(store, monkeypatch, nth):
    save(store, 1)
    real, count = os.fsync, 0

    def fail_once(descriptor):
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_once)
    try:
        save(store, 2)
    except TrainingError as error:
        assert "Input/output error" in str(error)
    monkeypatch.undo()
    newest = store.newest_intact(pytest.fail)
    into = tensors(0.0)
    load_tensors(newest, World(), into)
    assert into["model.a"][0, 0] == read_state(newest)["note"]


@pytest.mark.processes
def test_a_step_that_is_saved_again_is_there_whenever_the_process_dies(tmp_path):
    """Killed at every system call that changes the folder's entries, in turn; one of the two must be found."""
    script = """
import os, shutil, sys
from pathlib import Path
import torch
from foretrain.training.checkpoint import CheckpointManager
from foretrain.distributed.world import World
store = CheckpointManager(Path(sys.argv[1]), World())
for nth in range(int(sys.argv[2])):
    store.folder = Path(sys.argv[1]) / str(nth)
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        store.clean()
        store.save(4, {"model.a": torch.zeros(3)}, {"note": 1}, metric=None)
        left = [nth]
        def mortal(real):
            def call(*arguments, **keywords):
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return real(*arguments, **keywords)
            return call
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (os, "fsync")):
            setattr(owner, name, mortal(getattr(owner, name)))
        store.save(4, {"model.a": torch.ones(3)}, {"note": 2}, metric=0.5)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    moments = 14
    command = [sys.executable, "-c", script, str(tmp_path), str(moments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    codes = done.stdout.split()
    assert len(codes) == moments and set(codes) == {"0", "9"}, done.stderr
    found = []
    for nth in range(moments):
        store = CheckpointManager(tmp_path / str(nth), World())
        store.clean()
        found.append(read_state(store.newest_intact(pytest.fail))["note"])
        assert files_of(store.folder) == ["step-00000004"]
    assert found == sorted(found) and set(found) == {1, 2}


SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import Kit
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    Kit.trainer(Path(sys.argv[1]), checkpoint_every=2).fit()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.processes
@pytest.mark.parametrize("limit", [600, 3000])
def test_a_run_on_a_disk_that_really_refuses_ends_with_one_clear_error(tmp_path, limit):
    """The kernel's limit on file size stands for a full disk: at 600 bytes metrics.jsonl hits it, at 3,000 a shard."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SMALL_DISK, str(tmp_path), here, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout.startswith("TrainingError"), done.stdout + done.stderr
    assert "File too large" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_damaged_newest_checkpoint_costs_one_interval_and_is_logged(toy, tmp_path):
    import io

    from rich.console import Console

    toy.trainer(tmp_path / "whole").fit()
    toy.trainer(tmp_path / "cut", max_steps=11).fit()
    (tmp_path / "cut" / "checkpoints" / "step-00000011" / "state.json").write_text("{}")
    console = Console(file=io.StringIO(), width=300)
    toy.trainer(tmp_path / "cut", resume="auto", console=console).fit()
    assert "step-00000011 is damaged and is skipped" in console.file.getvalue()
    assert "resuming from" in console.file.getvalue()
    assert toy.losses(tmp_path / "cut") == toy.losses(tmp_path / "whole")
    assert toy.steps(tmp_path / "cut") == [10, 12]


def test_of_checkpoints_that_resumes_set_aside_the_newest_five_are_kept(store):
    lines: list[str] = []
    for step in range(3, 10):
        save(store, step)
        store.quarantine_after(2, lines.append)
    assert files_of(store.folder) == [f"abandoned-step-{step:08d}-1" for step in range(5, 10)]
    assert sum("is deleted" in line for line in lines) == 2


def test_an_earlier_checkpoint_without_a_readable_manifest_is_set_aside_too(store):
    for step in (1, 2, 3):
        save(store, step)
    store.keep_last = 9
    damaged, intact = save(store, 1), save(store, 2)
    (damaged / "manifest.json").write_text("{")
    (intact / "state.json").write_text("{}")  # its manifest can be read: it is deleted when its time has come
    lines: list[str] = []
    store.quarantine_after(3, lines.append)
    assert files_of(store.folder) == ["damaged-step-00000001-1", "step-00000002", "step-00000003"]
    assert lines == [
        "checkpoint step-00000001 has no manifest that can be read and is renamed to damaged-step-00000001-1"
    ]


def test_what_a_deletion_could_not_delete_is_deleted_at_the_next_one(store, monkeypatch):
    for step in (1, 2):
        save(store, step)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint.shutil, "rmtree", lambda path, ignore_errors=False: None)
        save(store, 3)
    assert files_of(store.folder) == [".trash-step-00000001", "step-00000002", "step-00000003"]
    save(store, 4)
    assert files_of(store.folder) == ["step-00000003", "step-00000004"]


def test_a_checkpoint_is_complete_though_an_earlier_one_cannot_be_deleted(store, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    for step in (1, 2):
        save(store, step)
    monkeypatch.setattr(checkpoint, "delete_checkpoint", refuse)
    with pytest.raises(
        TrainingError, match=r"step-00000003: is complete, but an earlier .* deleted: Permission denied"
    ):
        save(store, 3)
    assert store.newest_intact(pytest.fail) == store.folder / "step-00000003"
