"""Studies in a database, and workers of another host."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from tests.tuning.cheap_studies import new_study
from tests.tuning.fake_worker import STEPS, fake_trial
from tests.tuning.needs_optuna import TrialState, optuna
from tests.tuning.test_crew import check_whole, start, trial_of
from tests.waiting import DEADLINE, wait_until

from foretrain.errors import ConfigError
from foretrain.tuning import leases
from foretrain.tuning.study import StudyFolder, create_study, open_study
from foretrain.tuning.worker import TuneWorker, open_optuna


@pytest.mark.processes
def test_workers_share_a_database_and_take_over_what_a_killed_one_left(tmp_path: Path):
    pytest.importorskip("sqlalchemy", reason="the database of a study")
    study = new_study(tmp_path, trials=5, storage=f"sqlite:///{tmp_path}/study.db")
    open_optuna(study)  # as the command does before it starts workers
    workers = [start(study, name, FAKE_PAUSE="0.3") for name in ("killed", "left")]
    try:
        wait_until(lambda: trial_of(study, "killed"), workers[0])
        taken = trial_of(study, "killed")
        workers[0].kill()
        assert workers[1].wait(timeout=DEADLINE) == 0, (tmp_path / "left.log").read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    check_whole(study, 5)
    assert not (study.path / "journal.jsonl").exists()
    attempts = {study.trial(record.number).name: record.attempts for record in study.records()}
    assert taken is not None and attempts[taken] == 2


def test_a_study_in_a_database_is_pruned_gone_on_with_and_kept_apart_from_others(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/studies.db"
    more = {"storage": url, "pruner": {"kind": "median", "startup_trials": 2}, "sampler": {"kind": "random"}}
    studies = [new_study(tmp_path / name, trials=6, **more) for name in "ab"]  # two studies in one database
    for study in studies:
        TuneWorker(study, fake_trial).run()
    config = studies[0].config.model_copy(update={"trials": 8})
    TuneWorker(create_study(config, resume=True), fake_trial).run()
    counts = [len(open_optuna(open_study(study.path)).get_trials()) for study in studies]
    assert counts == [8, 6] and [len(study.records()) for study in studies] == [9, 7]
    states = [trial.state for trial in open_optuna(studies[0]).get_trials()]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    with pytest.raises(ConfigError, match="has another storage"):
        create_study(config.model_copy(update={"storage": f"sqlite:///{tmp_path}/other.db"}), resume=True)


def begun_elsewhere(study: StudyFolder) -> int:
    """A trial that a worker of another host holds, with a step behind it. Returns its number."""
    trial = open_optuna(study).ask()
    trial._suggest("rate", optuna.distributions.FloatDistribution(1e-4, 1.0, log=True))
    holder = {"host": "elsewhere", "pid": 7, "boot": "theirs", "started": "1", "worker": "elsewhere-0"}
    lease = {"holder": holder, "attempts": 1, "deaths": 0}
    (study.leases / f"{trial.number}.json").write_text(json.dumps(lease))
    study.trial(trial.number).mkdir(parents=True)
    (study.trial(trial.number) / "steps.txt").write_text("1 7\n")
    return trial.number


def test_the_trial_of_another_host_is_taken_over_only_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = new_study(tmp_path, trials=1)
    TuneWorker(study, fake_trial).run()
    study = create_study(study.config.model_copy(update={"trials": 3}), resume=True)
    number = begun_elsewhere(study)
    lease = study.leases / f"{number}.json"
    looks: list[float] = []

    def passes(seconds: float) -> None:
        """Let the time that a waiting worker sleeps be a minute of the other one's silence."""
        looks.append(seconds)
        assert not (study.trial(number) / "result.json").exists()
        silent = time.time() - 60 * len(looks) - 1
        os.utime(lease, (silent, silent))

    monkeypatch.setattr(time, "sleep", passes)
    monkeypatch.setenv("FAKE_PAUSE", "0")
    monkeypatch.setattr("tests.tuning.fake_worker.time", type("Clock", (), {"sleep": staticmethod(lambda s: None)}))
    TuneWorker(study, fake_trial).run()
    # after a minute it is still the other one's; the trials that were free came before
    assert len(looks) == leases.REMOTE_PATIENCE // 60
    records = {record.number: record for record in study.records()}
    assert sorted(records) == [-1, 0, number, number + 1] and records[number].attempts == 2
    steps = [line.split()[0] for line in (study.trial(number) / "steps.txt").read_text().splitlines()]
    assert steps == [str(step) for step in range(1, STEPS + 1)] and not list(study.leases.glob("*.json"))
