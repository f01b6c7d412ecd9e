from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.waiting import DEADLINE, as_from_a_terminal

from foretrain.errors import TrainingError
from foretrain.training.interrupt import Interrupted, SignalHandler, ValidationInterrupted
from foretrain.training.trainer import ValidationResult

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).with_name("signalled.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(run folders, exit code of each case)."""
    out = tmp_path_factory.mktemp("signals")
    command = [sys.executable, str(SCRIPT), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, preexec_fn=as_from_a_terminal)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "code"), [("int", 130), ("term", 143), ("usr1", 143), ("twice", 130)])
def test_a_signal_finishes_the_step_saves_and_exits_with_its_code(toy, runs, tmp_path, name, code):
    out, results = runs
    assert results[name] == code
    steps = toy.steps(out / name)
    assert steps == [toy.losses(out / name)[-1][0]]
    assert steps[0] < 2000  # of the whole run
    toy.trainer(tmp_path, max_steps=steps[0] + 3).fit()
    toy.trainer(out / name, max_steps=steps[0] + 3, checkpoint_every=None, prefetch=0, resume="auto").fit()
    assert toy.losses(out / name) == toy.losses(tmp_path)


def test_a_second_ctrl_c_aborts_at_once(runs):
    assert runs[1]["impatient"] == 99  # the step would have taken longer than the deadline


def test_before_the_first_step_has_ended_a_signal_ends_the_run_at_once(toy, runs):
    out, results = runs
    assert results["first"] == 143  # the step would have taken longer than the deadline
    assert toy.steps(out / "first") == []
    assert not (out / "first" / "run.lock").exists()


def test_a_signal_that_nothing_acted_on_has_its_usual_effect_afterwards():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append("usual"))
    try:
        with SignalHandler():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard == []
        assert heard == ["usual"]
        with pytest.raises(TrainingError), SignalHandler():
            os.kill(os.getpid(), signal.SIGUSR1)
            raise TrainingError("which the run reports")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ["usual"]


def test_a_signal_during_validation_saves_and_the_resumed_run_begins_with_it(toy, runs, tmp_path):
    out, results = runs
    assert results["evaluate"] == 143  # the validation would have taken longer than the deadline
    assert toy.steps(out / "evaluate") == [4]
    asked = []

    def evaluate(model, step):
        asked.append(step)
        return ValidationResult({"loss": 1.0 / step})

    settings = {"max_steps": 8, "checkpoint_every": None, "validate_every": 4, "evaluate": evaluate}
    toy.trainer(out / "evaluate", prefetch=0, resume="auto", **settings).fit()
    assert asked == [4, 8]
    toy.trainer(tmp_path, **settings).fit()
    for kind in ("train", "validation"):
        ours, theirs = (
            [(r["step"], r["loss"]) for r in toy.lines(folder, kind)] for folder in (out / "evaluate", tmp_path)
        )
        assert ours == theirs


def test_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with SignalHandler():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_came_before_cuts_at_once():
    signals = SignalHandler()
    with pytest.raises(Interrupted) as stopped, signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ValidationInterrupted), signals.interruptible(True):
            pass
        with signals.interruptible(False):
            pass
        assert signals.flags == (0, 1)
        with signals.at_once():
            pass
    assert stopped.value.exit_code == 143


def test_a_run_outside_the_main_thread_works_without_handlers(toy, tmp_path):
    thread = threading.Thread(target=lambda: toy.trainer(tmp_path).fit())
    thread.start()
    thread.join()
    assert len(toy.losses(tmp_path)) == 12
