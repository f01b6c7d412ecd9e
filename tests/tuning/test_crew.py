"""Workers in processes of their own, which are killed, stopped and lost, and the parent that counts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.tuning.cheap_studies import new_study
from tests.tuning.fake_worker import STEPS
from tests.tuning.needs_optuna import TrialState
from tests.waiting import DEADLINE, start_command, wait_until

from foretrain.errors import ForetrainError
from foretrain.tuning.crew import MOST_RESTARTS, Crew, CrewLost, worker_environment
from foretrain.tuning.study import StudyFolder, open_study
from foretrain.tuning.worker import open_optuna

pytestmark = pytest.mark.processes
FAKE = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]


def start(study: StudyFolder, name: str, **environment: str) -> subprocess.Popen[str]:
    return start_command(
        [*FAKE, str(study.path), name], environment=environment, output=study.path.parent / f"{name}.log"
    )


def trial_of(study: StudyFolder, worker: str) -> str | None:
    """The folder of the trial in which a worker waits at FAKE_GATE."""
    for path in study.leases.glob("[0-9]*.json"):
        with suppress(FileNotFoundError):  # a trial that has just ended
            holder = json.loads(path.read_text())["holder"]
            if holder and holder["worker"] == worker and holder.get("step", 0) == 2 and int(path.stem) >= 1:
                return f"{int(path.stem):04d}"
    return None


def check_whole(study: StudyFolder, trials: int) -> None:
    """No trial runs, all are distinct, and each made each step once."""
    told = open_optuna(study).get_trials()
    assert [trial.state for trial in told] == [TrialState.COMPLETE] * trials
    assert len({trial.params["rate"] for trial in told}) == trials
    assert [record.number for record in study.records()] == list(range(-1, trials))
    for record in study.records():
        steps = [line.split()[0] for line in (study.trial(record.number) / "steps.txt").read_text().splitlines()]
        assert steps == [str(step) for step in range(1, STEPS + 1)], record.number


def test_a_study_survives_kills_of_a_lock_holder_in_half_a_line_and_of_a_worker_in_mid_trial(tmp_path: Path):
    study = new_study(tmp_path, trials=8)
    holding = tmp_path / "holding"
    victims = [start(study, "steps", FAKE_GATE=str(tmp_path / "never"))]
    try:
        wait_until(lambda: trial_of(study, "steps"), victims[0])
        killed_in = trial_of(study, "steps")
        victims.append(start(study, "lock", FAKE_HOLD=str(holding)))
        wait_until(holding.exists, victims[1])
        assert not (study.path / "journal.jsonl").read_bytes().endswith(b"\n")
        victims[1].kill()
        victims[1].wait()
        victims[0].kill()
        victims[0].wait()
        with start(study, "rest") as rest:
            assert rest.wait(timeout=DEADLINE) == 0, (tmp_path / "rest.log").read_text()
    finally:
        for victim in victims:
            victim.kill()
            victim.wait()
    check_whole(study, 8)
    attempts = {study.trial(record.number).name: record.attempts for record in study.records()}
    assert killed_in is not None and attempts[killed_in] == 2


def test_two_workers_share_a_study_and_one_that_is_killed_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = new_study(tmp_path, trials=6)
    monkeypatch.setenv("FAKE_GATE", str(tmp_path / "gate"))  # so that no worker ends before the kill
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:  # the first trial has ended
            crew._members[0].process.kill()
            (tmp_path / "gate").touch()

    crew = Crew(study, 2, say=say, command=FAKE, backoff=0.01)
    crew.run()
    check_whole(study, 6)
    ends = [line for line in said if "ended by SIGKILL; it starts anew in 0.01 s (1 of 3 times until" in line]
    assert len(ends) == 1 and sum(line.startswith("trial ") for line in said) == 7
    assert crew._members[0].process.poll() == 0


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", CrewLost, "all workers ended before the study did: .* by SIGKILL"),
        ("import sys; print('error: corpus: is gone.'); sys.exit(2)", ForetrainError, "^corpus: is gone.$"),
    ],
)
def test_the_loss_of_all_workers_is_an_error_with_its_reason(tmp_path: Path, script: str, kind: type, said: str):
    lines: list[str] = []
    with pytest.raises(kind, match=said) as caught:
        Crew(new_study(tmp_path), 2, lines.append, [sys.executable, "-c", script], backoff=0.01).run()
    assert type(caught.value) is kind
    starts = sum("it starts anew" in line for line in lines)
    assert starts == (2 * MOST_RESTARTS if kind is CrewLost else 0) and "none is left" in lines[-1]


def test_a_signal_to_the_parent_stops_workers_at_a_checkpoint(tmp_path: Path):
    study = new_study(tmp_path, trials=4)
    script = (
        "import sys; from pathlib import Path; from foretrain.errors import Interrupted\n"
        "from foretrain.tuning.crew import Crew; from foretrain.tuning.study import open_study\n"
        "try: Crew(open_study(Path(sys.argv[1])), 1, command=sys.argv[2:]).run()\n"
        "except Interrupted as stopped: sys.exit(stopped.exit_code)\n"
    )
    command = [sys.executable, "-c", script, str(study.path), *FAKE]
    worker = f"{os.uname().nodename}-0"
    gate = {"FAKE_GATE": str(tmp_path / "never")}
    with start_command(command, environment=gate, output=tmp_path / "parent.log") as parent:
        wait_until(lambda: trial_of(study, worker), parent)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=DEADLINE) == 130, (tmp_path / "parent.log").read_text()
    (lease,) = study.leases.glob("*.json")
    assert json.loads(lease.read_text())["holder"] is None
    with start(study, "rest") as rest:
        assert rest.wait(timeout=DEADLINE) == 0
    check_whole(open_study(study.path), 4)


def test_max_minutes_ends_a_study_that_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = new_study(tmp_path, trials=1000, max_minutes=0.05)
    monkeypatch.setenv("FAKE_PAUSE", "0.2")
    said: list[str] = []
    Crew(study, 1, say=said.append, command=FAKE).run()
    assert "max_minutes: 0.05 are over; trials at work go to their next checkpoint" in said
    assert len(study.records()) < 100


def test_cores_are_divided_and_an_account_stays_out_of_the_folder(tmp_path: Path):
    environment = worker_environment(10_000, "mysql://me:secretword@host/x", {"OMP_WAIT_POLICY": "ACTIVE"})
    assert environment["OMP_NUM_THREADS"] == "1" and environment["OMP_WAIT_POLICY"] == "ACTIVE"
    assert worker_environment(2, None, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    study = new_study(tmp_path, storage="mysql://me:secretword@host/x")
    assert "secretword" not in "".join(path.read_text() for path in study.path.iterdir() if path.is_file())
