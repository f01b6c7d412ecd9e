"""Workers of a study, in this process: what they draw, refuse, prune, repeat, and leave."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from tests.tuning.cheap_studies import new_study, tune_config
from tests.tuning.fake_worker import STEPS, fake_trial
from tests.tuning.needs_optuna import TrialState, optuna

from foretrain.errors import ConfigError, DataError, Interrupted
from foretrain.tuning.leases import MOST_DEATHS
from foretrain.tuning.records import TrialRecord
from foretrain.tuning.study import StudyFolder, create_study, open_study, ranked
from foretrain.tuning.worker import REFUSED, TuneWorker, open_optuna, work


@pytest.fixture(autouse=True)
def _without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced costs time of the disk, which other tests may be waiting for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def finished(study: StudyFolder, runner=fake_trial) -> list[TrialRecord]:
    """The records of a study that one worker has run to its end."""
    TuneWorker(study, runner).run()
    states = [trial.state for trial in open_optuna(study).get_trials()]
    assert TrialState.RUNNING not in states and not list(study.leases.glob("*.json"))
    return study.records()


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp"])
def test_a_study_of_one_worker_can_be_repeated_and_no_candidate_comes_twice(tmp_path: Path, sampler: str):
    settings = {"sampler": {"kind": sampler, "startup_trials": 3}, "seed": 5, "trials": 6}
    first, second = (finished(new_study(tmp_path / name, **settings)) for name in "ab")
    assert [record.number for record in first] == list(range(-1, 6))
    drawn = [record.params["rate"] for record in first[1:]]
    assert drawn == [record.params["rate"] for record in second[1:]] and len(set(drawn)) == 6
    other = finished(new_study(tmp_path / "c", **{**settings, "seed": 6}))
    assert drawn != [record.params["rate"] for record in other[1:]]


def test_the_default_runs_first_and_once_and_is_no_trial_of_the_search(tmp_path: Path):
    study = new_study(tmp_path, trials=2)
    records = finished(study)
    assert (records[0].number, records[0].source, records[0].params) == (-1, "default", {})
    assert study.trial(-1).name == "default" and all(r.number >= 0 for r in ranked(records, study.directions))
    lines = [json.loads(line) for line in (study.path / "trials.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [-1, 0, 1] and all(line["attempts"] == 1 for line in lines)


def test_a_grid_is_tried_point_by_point_and_ends(tmp_path: Path):
    space = {
        "kind": {"kind": "categorical", "choices": ["a", "b"]},
        "rank": {"kind": "int", "low": 1, "high": 3, "when": {"kind": ["b"]}},
    }
    records = finished(new_study(tmp_path, space=space, sampler={"kind": "grid"}, trials=50))
    found = {json.dumps(record.params, sort_keys=True) for record in records[1:]}
    assert len(records) == 5 and len(found) == 4


def test_a_small_space_ends_without_a_candidate_twice(tmp_path: Path):
    space = {"size": {"kind": "categorical", "choices": [16, 32, 64]}}
    records = finished(new_study(tmp_path, space=space, trials=50))
    assert sorted(record.params["size"] for record in records[1:]) == [16, 32, 64]


@pytest.mark.parametrize("kind", ["median", "asha"])
def test_bad_trials_are_pruned_and_a_pruned_one_never_wins(tmp_path: Path, kind: str):
    study = new_study(tmp_path, pruner={"kind": kind, "startup_trials": 2}, sampler={"kind": "random"}, trials=14)
    records = finished(study)
    pruned = [record for record in records if record.state == "pruned"]
    assert pruned and all(0 < record.steps < STEPS and record.values is None for record in pruned)
    assert not {record.number for record in pruned} & {r.number for r in ranked(records, study.directions)}
    told = {trial.number: trial for trial in open_optuna(study).get_trials()}
    assert all(told[record.number].state == TrialState.PRUNED for record in pruned)


def test_a_trial_beyond_a_constraint_is_kept_and_cannot_win(tmp_path: Path):
    study = new_study(tmp_path, constraints={"memory_gb": 0.005}, trials=12)
    records = finished(study)
    beyond = [record for record in records[1:] if record.params["rate"] > 0.005]
    assert beyond and all(not record.feasible for record in beyond)
    best = ranked(records, study.directions)[0]
    assert best.feasible and best.params["rate"] <= 0.005
    told = open_optuna(study).get_trials()
    assert all((told[r.number].constraints["memory_gb"] > 0) == (not r.feasible) for r in records[1:])


@pytest.mark.parametrize("values", [{"rate": 1e9}, {"rate": "fast"}, {"rte": 0.1}, {}])
def test_what_does_not_fit_the_space_never_reaches_a_trial(tmp_path: Path, values: dict):
    study = new_study(tmp_path, trials=2)
    open_optuna(study).enqueue_trial(values, user_attrs={"source": "adviser"})
    records = finished(study)
    assert [record.source for record in records] == ["default", "sampler", "sampler"]
    assert all(1e-4 <= record.params["rate"] <= 1 for record in records[1:])
    (refused,) = [trial for trial in open_optuna(study).get_trials() if REFUSED in trial.user_attrs]
    assert refused.state == TrialState.FAIL and not study.trial(refused.number).exists()


def test_enqueued_candidates_come_first_with_their_origin_and_none_twice(tmp_path: Path):
    study = new_study(tmp_path, trials=3)
    queue = open_optuna(study)
    for number in range(2):
        queue.enqueue_trial({"rate": 0.5}, user_attrs={"source": "adviser", "suggestion": f"{number}-0"})
    records = finished(study)
    assert [record.source for record in records] == ["default", "adviser", "sampler", "sampler"]
    assert records[1].params == {"rate": 0.5} and records[1].suggestion == "0-0"


def test_an_exception_fails_its_trial_alone_and_an_error_of_the_study_ends_it(tmp_path: Path):
    def breaks(config, number, candidate, folder, **more):
        if number == 1:
            raise ValueError("of its own")
        if number == 2:
            raise DataError("corpus: is gone.")
        return fake_trial(config, number, candidate, folder, **more)

    study = new_study(tmp_path, trials=4)
    with pytest.raises(DataError, match="corpus: is gone"):
        TuneWorker(study, breaks).run()
    records = finished(study)
    assert [record.state for record in records] == ["complete", "complete", "failed", "complete", "complete"]
    assert records[2].message == "ValueError: of its own" and records[3].attempts == 2


def test_a_signal_stops_a_trial_that_goes_on_later_step_by_step(tmp_path: Path):
    def stops(config, number, candidate, folder, *, report, **more):
        def reporting(step: int, value: float) -> bool:
            if number == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return report(step, value)

        return fake_trial(config, number, candidate, folder, report=reporting, **more)

    study = new_study(tmp_path, trials=3)
    with pytest.raises(Interrupted):
        TuneWorker(study, stops).run()
    assert [t.state for t in open_optuna(study).get_trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
    records = finished(open_study(study.path))
    assert [record.attempts for record in records] == [1, 1, 2, 1]
    steps = [line.split()[0] for line in (study.trial(1) / "steps.txt").read_text().splitlines()]
    assert steps == [str(step) for step in range(1, STEPS + 1)]


def test_a_trial_in_which_workers_die_again_and_again_has_failed(tmp_path: Path):
    study = new_study(tmp_path, trials=2)
    finished(study)
    queue = open_optuna(study)
    trial = queue.ask()
    trial._suggest("rate", optuna.distributions.FloatDistribution(1e-4, 1.0, log=True))
    dead = {"host": os.uname().nodename, "pid": 2**22 + 1, "boot": "gone", "started": "1"}
    lease = {"holder": dead, "attempts": MOST_DEATHS, "deaths": MOST_DEATHS - 1}
    (study.leases / f"{trial.number}.json").write_text(json.dumps(lease))
    assert finished(study)[-1].message == f"{MOST_DEATHS} workers died in it"
    assert not (study.trial(trial.number) / "steps.txt").exists()


def test_several_objectives_have_a_front(tmp_path: Path):
    objectives = [{"metric": "val_wql"}, {"metric": "val_skill_vs_naive"}]
    study = new_study(tmp_path, objectives=objectives, trials=4)
    assert study.directions == ["minimize", "maximize"]
    assert len(finished(study)) == 5 and len(ranked(study.records(), study.directions)) == 4


def test_a_study_goes_on_with_more_trials_and_refuses_another_search(tmp_path: Path):
    study = new_study(tmp_path, trials=2)
    finished(study)
    with pytest.raises(ConfigError, match=r"holds a study\. Go on with it by --resume"):
        new_study(tmp_path, trials=2)
    more = create_study(tune_config(tmp_path, trials=4, workers=3), resume=True)
    assert len(finished(more)) == 5
    other = {"rate": {"kind": "float", "low": 1e-4, "high": 0.5, "log": True}}
    with pytest.raises(ConfigError, match=r"has another space\.rate\.high, seed,"):
        create_study(tune_config(tmp_path, space=other, seed=1), resume=True)
    with pytest.raises(ConfigError, match="has another objectives"):
        create_study(tune_config(tmp_path, objectives=[{"metric": "val_mase"}]), resume=True)


def test_a_study_refuses_a_run_that_changed(tmp_path: Path):
    run = tmp_path / "run.yaml"
    run.write_text("seed: 1\n")
    new_study(tmp_path, run=str(run))
    run.write_text("seed: 2\n")
    with pytest.raises(ConfigError, match=r"another run \(what"):
        create_study(tune_config(tmp_path, run=str(run)), resume=True)


def test_checkpoints_of_the_worst_trials_go_first_and_those_of_the_best_stay(tmp_path: Path):
    def with_checkpoint(config, number, candidate, folder, **more):
        (folder / "fold-0" / "checkpoints").mkdir(parents=True)
        (folder / "fold-0" / "checkpoints" / "weights").write_bytes(bytes(1_000_000))
        return fake_trial(config, number, candidate, folder, **more)

    study = new_study(tmp_path, trials=6, disk_gb=0.0025)
    records = finished(study, with_checkpoint)
    left = {path.parent.parent.name for path in study.path.glob("trials/*/*/checkpoints")}
    best = ranked(records, study.directions)
    assert left == {study.trial(record.number).name for record in best[:2]}


def test_a_record_that_is_damaged_is_named(tmp_path: Path):
    study = new_study(tmp_path, trials=1)
    finished(study)
    (study.trial(0) / "result.json").write_text('{"number": 0}')
    with pytest.raises(DataError, match=r"0000/result\.json"):
        study.records()


def changed(log: dict) -> dict:
    """An operation of a journal with another value of a trial's objective, learning rate, or study."""
    if log["op_code"] == 6 and log.get("values"):
        return {**log, "values": [log["values"][0] + 1]}
    return log


def other_rate(log: dict) -> dict:
    return {**log, "params": {"rate": 0.5}} if log["op_code"] == 4 else log


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed, "has another trial 0 than its record"),
        (other_rate, "has another trial 0 than its record"),
        (lambda log: {**log, "directions": [2]} if "directions" in log else log, "its directions are maximize"),
        (lambda log: {**log, "study_name": "other"} if "study_name" in log else log, "has another trial 0"),
        (lambda log: {"op_code": 1, "worker_id": "w"}, "cannot be used: KeyError"),
        (
            lambda log: {**log, "params": {"rate": 5.0}} if log["op_code"] == 4 else log,
            "no trial of study.yaml's space",
        ),
    ],
)
def test_a_journal_that_does_not_fit_the_records_is_named(tmp_path: Path, change, said: str):
    study = new_study(tmp_path, trials=2)
    finished(study)
    lines = [json.loads(line) for line in (study.path / "journal.jsonl").read_text().splitlines()]
    (study.path / "journal.jsonl").write_text("".join(f"{json.dumps(change(line))}\n" for line in lines))
    with pytest.raises(DataError, match=rf"journal\.jsonl: .*({said})"):
        open_optuna(study)


def test_a_study_whose_name_is_no_name_is_refused(tmp_path: Path):
    study = new_study(tmp_path, trials=2)
    for text in ("{}", '{"name": ["x"], "run_hash": "a"}', '{"name": "", "run_hash": "a"}', "["):
        (study.path / "study.json").write_text(text)
        with pytest.raises(ConfigError, match=r"study\.json"):
            open_study(study.path)


def test_a_lease_whose_worker_died_after_its_trial_is_deleted(tmp_path: Path):
    study = new_study(tmp_path, trials=1)
    finished(study)
    dead = {"host": os.uname().nodename, "pid": 2**22 + 1, "boot": "gone", "started": "1"}
    (study.leases / "0.json").write_text(json.dumps({"holder": dead, "attempts": 1, "deaths": 0}))
    left = study.trial(0) / ".tmp-result.json"  # it had begun to write the record again
    left.write_text("{")
    finished(study)
    assert not left.exists()


def test_a_broken_disk_ends_the_worker_and_not_the_trial(tmp_path: Path):
    def breaks(config, number, candidate, folder, **more):
        if number == 1:
            raise OSError(errno.EIO, "Input/output error", "fold.json")
        return fake_trial(config, number, candidate, folder, **more)

    study = new_study(tmp_path, trials=2)
    assert work(study.path, "w", breaks) == 2
    assert [record.state for record in finished(study)] == ["complete"] * 3
