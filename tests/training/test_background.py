"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import errno
import os
import signal
import threading

import pytest
import torch

from foretrain.distributed.world import World
from foretrain.errors import DataError, TrainingError
from foretrain.training import checkpoint, trainer
from foretrain.training.background import Background
from foretrain.training.checkpoint import CheckpointManager, load_tensors
from foretrain.training.interrupt import Interrupted
from foretrain.training.manifest import damage

IN_BACKGROUND = {"checkpoint_in_background": True, "checkpoint_every": 2, "ema_decay": 0.9}


@pytest.fixture
def store(tmp_path):
    store = CheckpointManager(tmp_path / "checkpoints", World(), keep_last=3, background=True)
    store.clean()
    return store


@pytest.fixture
def held(monkeypatch):
    """An event without which no save writes its tensors."""
    go, real = threading.Event(), CheckpointManager._write_tensors

    def write(self, *arguments):
        assert go.wait(60)
        return real(self, *arguments)

    monkeypatch.setattr(CheckpointManager, "_write_tensors", write)
    yield go
    go.set()


def test_a_save_holds_the_values_of_its_step_whatever_training_does_meanwhile(store, held):
    weights = {"model.a": torch.zeros(1000), "model.b": torch.ones(3, 4).T, "exp_avg.a": torch.full((7,), 2.0)}
    expected = {name: tensor.clone() for name, tensor in weights.items()}
    store.save(1, weights, {}, metric=None)
    for tensor in weights.values():
        tensor.add_(5)
    held.set()
    store.wait()
    into = {name: torch.empty_like(tensor) for name, tensor in weights.items()}
    load_tensors(store.folder / "step-00000001", World(), into)
    assert all(torch.equal(into[name], expected[name]) for name in weights)


def test_the_newest_checkpoint_is_the_newest_that_is_complete(store, held):
    held.set()
    store.save(1, {"model.a": torch.zeros(3)}, {}, metric=None)
    store.wait()
    held.clear()
    store.save(2, {"model.a": torch.ones(3)}, {}, metric=None)
    assert store.newest_intact(pytest.fail) == store.folder / "step-00000001"
    held.set()
    store.wait()
    assert store.newest_intact(pytest.fail) == store.folder / "step-00000002"


def test_one_save_is_under_way_at_a_time_and_uses_the_same_memory(store):
    tensors = {"model.a": torch.zeros(3)}
    for step in range(1, 6):
        tensors["model.a"].fill_(step)
        store.save(step, tensors, {}, metric=None)
        assert len(store._stage._buffers) == 1
    store.wait()
    assert [item.step for item in store.list_complete()] == [3, 4, 5]
    assert all(damage(item.path) is None for item in store.list_complete())


def test_a_run_is_the_same_whichever_way_its_checkpoints_are_written(toy, tmp_path):
    toy.trainer(tmp_path / "at once", **IN_BACKGROUND | {"checkpoint_in_background": False}).fit()
    toy.trainer(tmp_path / "meanwhile", **IN_BACKGROUND, max_steps=5).fit()
    toy.trainer(tmp_path / "meanwhile", **IN_BACKGROUND, resume="auto").fit()
    once, meanwhile = tmp_path / "at once", tmp_path / "meanwhile"
    assert dict(toy.losses(meanwhile)) == dict(toy.losses(once))
    ours, theirs = toy.release(meanwhile), toy.release(once)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert set(toy.steps(once)) <= {*toy.steps(meanwhile)}


def test_a_save_that_fails_in_the_background_ends_the_run_at_a_later_step(toy, tmp_path, monkeypatch):
    real, saves = checkpoint.write_json, []

    def fail(path, data):
        if path.name == "state.json":
            saves.append(path)
            if len(saves) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(TrainingError, match=r"step-00000006: the checkpoint could not be written: No space left"):
        toy.trainer(tmp_path, **IN_BACKGROUND).fit()
    assert toy.steps(tmp_path) == [2, 4]
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))
    monkeypatch.setattr(checkpoint, "write_json", real)
    assert toy.trainer(tmp_path, **IN_BACKGROUND, resume="auto").fit().step == 12


def test_a_signal_waits_for_the_save(toy, tmp_path):
    class Terminating(toy.Source):
        def windows(self, first, count):
            if first == 8 * 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().windows(first, count)

    with pytest.raises(Interrupted):
        toy.trainer(tmp_path, **IN_BACKGROUND, source=Terminating()).fit()
    assert max(toy.steps(tmp_path)) == 5  # in which the signal came
    assert damage(tmp_path / "checkpoints" / "step-00000005") is None


def test_an_error_of_any_kind_is_raised_where_it_is_waited_for():
    class Failure(BaseException):
        """As torch's CheckpointException, which derives from no Exception."""

    def fail() -> None:
        raise Failure("torn")

    saving = Background(fail)
    with pytest.raises(Failure, match="torn"):
        saving.wait()
    assert saving.failed


class Stopping:
    """A source of a toy's windows that does something when those of a step are read."""

    def __init__(self, toy, step, action):
        self._source, self._first, self._action = toy.Source(), 8 * (step - 1), action
        self.fingerprint, self.epoch_length = self._source.fingerprint, self._source.epoch_length

    def windows(self, first, count):
        if first == self._first:
            self._action()
        return self._source.windows(first, count)


def test_an_error_of_the_run_does_not_hide_that_a_checkpoint_failed_meanwhile(toy, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail():
        raise DataError("item 'a': torn")

    monkeypatch.setattr(CheckpointManager, "_write_tensors", refuse)
    with pytest.raises(DataError, match="torn"):
        toy.trainer(tmp_path, **IN_BACKGROUND, source=Stopping(toy, 3, fail)).fit()
    log = (tmp_path / "training.log").read_text()
    assert "WARNING: the checkpoint after step 2: " in log and "No space left on device" in log


def test_a_second_ctrl_c_does_not_wait_for_a_slow_disk(toy, tmp_path, held, monkeypatch):
    def press():
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "SOON", 0.01)
    with pytest.raises(KeyboardInterrupt):  # after the deadline of `held`, if it waited for the save
        toy.trainer(tmp_path, **IN_BACKGROUND, source=Stopping(toy, 3, press)).fit()
    assert "the checkpoint that was being written is incomplete" in (tmp_path / "training.log").read_text()
