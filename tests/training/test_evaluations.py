"""Evaluations in processes that are killed, signalled, or two of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.run.test_evaluators import evaluated, write
from tests.training.rhythms import Rhythm, digits, oracle, scores_of, two
from tests.waiting import DEADLINE, as_from_a_terminal, run_command, torchrun

from foretrain.run.train import train_run

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).with_name("evaluated.py")
RUN = {"max_steps": 20, "checkpoint_every": 4, "keep_last": 1}


@pytest.fixture(scope="module")
def ended(toy, tmp_path_factory):
    """(folder of runs that were ended in an evaluation and then resumed to their end, exit codes, evaluators)."""
    out = tmp_path_factory.mktemp("evaluations")
    command = [sys.executable, str(SCRIPT), str(out), "killed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, preexec_fn=as_from_a_terminal)
    assert done.returncode == 0, done.stderr
    evaluators = {}
    for name in ("killed", "terminated"):
        evaluators[name] = two()
        toy.trainer(out / name, resume="auto", evaluators=evaluators[name], **RUN).fit()
    toy.trainer(out / "whole", evaluators=two(), **RUN).fit()
    return out, json.loads(done.stdout.splitlines()[-1]), evaluators


@pytest.mark.parametrize("name", ["killed", "terminated"])
def test_a_run_ended_during_evaluations_retains_what_a_replay_of_all_scores_does(toy, ended, name):
    out, _, _ = ended
    found = scores_of(out / name)
    assert found == scores_of(out / "whole")
    assert {len(scores) for scores in found.values()} == {10, 4}
    assert set(toy.steps(out / name)) == oracle(found, two()) | {20}


def test_a_signal_drops_the_evaluation_and_the_resumed_run_starts_with_it(ended):
    _, codes, evaluators = ended
    assert codes == {**{f"killed {at}": -9 for at in (5, 10, 15, 20)}, "terminated": 143}
    quick, rare = evaluators["terminated"]
    assert rare.calls == [10, 15, 20]
    assert quick.calls == [12, 14, 16, 18, 20]  # at step 10 it had ended before


def scores_before_training(out: Path) -> dict[str, float]:
    """Scores of the weights before the first step, which do not depend on the number of processes."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    (found,) = [line for line in lines if line["kind"] == "evaluation" and line["step"] == 0]
    return {key: value for key, value in found.items() if key == "score" or key.startswith("benchmark/own/own/")}


def test_what_happens_to_one_rank_s_evaluation_happens_to_all_and_scores_are_those_of_one(toy, tmp_path):
    draws = (np.random.default_rng(k).standard_normal(50 + 7 * k) for k in range(9))
    path = write(tmp_path / "own", [(f"s{k}", np.cumsum(draw)) for k, draw in enumerate(draws)])
    more = ("training.validate_first=true", "training.validate_every=1", "training.max_steps=1",
            "optimizer.schedule.warmup_steps=0")  # fmt: skip
    one = evaluated(
        tmp_path / "one", {"corpus": str(path), "prediction_length": 3, "num_windows": 3, "every": 1}, more=more
    )
    train_run(one)
    two = one.model_dump(mode="json", exclude={"stage", "parents"}) | {"output_dir": str(tmp_path / "two")}
    two["evaluators"][0]["batch_size"] = 1
    (tmp_path / "two.json").write_text(json.dumps(two))
    done = run_command(torchrun(2, SCRIPT, tmp_path, "pair"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert [json.loads((tmp_path / f"result.{rank}").read_text()) for rank in range(2)] == [
        {"step": 8, "code": 143}
    ] * 2
    lines = toy.lines(tmp_path / "failing", "evaluation")
    assert [(line["step"], line["state"]) for line in lines] == [(4, "failed"), (8, "done")]
    assert lines[0]["problem"] == "ValueError: only here"
    log = (tmp_path / "failing" / "training.log").read_text()
    assert log.count("WARNING: evaluator lite at step 4: failed") == 1
    found, alone = scores_before_training(tmp_path / "two"), scores_before_training(tmp_path / "one")
    assert len(found) == 3 and found == pytest.approx(alone, rel=1e-6)
    again = Rhythm("lite", 4, lambda model, step: digits(model))
    toy.trainer(tmp_path / "stopped", evaluators=[again], max_steps=8, checkpoint_every=None, resume="auto").fit()
    assert again.calls == [4, 8]
