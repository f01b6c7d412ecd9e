"""The journal of a study, and the lock of its workers."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from tests.tuning import needs_optuna  # noqa: F401

from foretrain.errors import ConfigError, DataError, TrainingError
from foretrain.processes import tag, this_process
from foretrain.tuning.leases import Leases
from foretrain.tuning.shared_lock import SharedLock
from foretrain.tuning.storage import JOURNAL, StudyJournal, open_storage

DEAD = {"boot": "gone", "pid": 1, "started": "1"}


def log(number: int) -> dict:
    return {"op_code": 2, "worker_id": "w", "number": number}


@pytest.mark.parametrize("torn", [b'{"op_co', b"\x00" * 100, b'{"op_code": 2, "worker_id": "w", "number": 9}'])
def test_what_a_kill_left_of_a_line_is_truncated_at_the_start_and_before_an_append(tmp_path: Path, torn: bytes):
    path = tmp_path / JOURNAL
    journal = StudyJournal(path)
    journal.append_logs([log(0), log(1)])
    with path.open("ab") as file:
        file.write(torn)
    assert [found["number"] for found in journal.read_logs(0)] == [0, 1]
    journal.append_logs([log(2)])
    assert [found["number"] for found in journal.read_logs(1)] == [1, 2]
    with path.open("ab") as file:
        file.write(torn)
    again = StudyJournal(path)
    assert path.read_bytes().endswith(b"}\n")
    assert [found["number"] for found in again.read_logs(0)] == [0, 1, 2]


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"no": 1}', '{"op_code": NaN}'])
def test_a_line_that_is_no_operation_is_named(tmp_path: Path, line: str):
    path = tmp_path / JOURNAL
    StudyJournal(path).append_logs([log(0)])
    with path.open("a") as file:
        file.write(f"{line}\n{json.dumps(log(1))}\n")
    with pytest.raises(DataError, match=r"journal\.jsonl: line 2 is no operation"):
        list(StudyJournal(path).read_logs(0))


def test_nothing_but_json_is_kept(tmp_path: Path):
    import optuna

    storage = open_storage(tmp_path, None)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=1))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    for line in (tmp_path / JOURNAL).read_text().splitlines():
        json.loads(line)


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"storage: the database cannot be opened: ") as caught:
        open_storage(tmp_path, "nothing://me:secretword@host/x")
    assert "secretword" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_lock_of_a_dead_process_is_broken_at_once_and_another_hosts_after_its_grace(tmp_path: Path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": os.uname().nodename, **DEAD}))
    SharedLock(path, grace=3600).acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    path.write_text(json.dumps({"host": "elsewhere", **DEAD}))
    lock = SharedLock(path, grace=0.05)
    lock.acquire()
    lock.release()
    assert not path.exists()


def test_a_live_holder_is_waited_for_and_named_if_it_hangs(tmp_path: Path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({**this_process(), "token": "other"}))
    with pytest.raises(TrainingError, match=f"its holder .*{os.getpid()}.* does not release it"):
        SharedLock(path, grace=0.01, patience=0.05).acquire()
    assert path.exists()


def test_one_at_a_time_holds_the_lock(tmp_path: Path):
    inside, most = [], []

    def enter() -> None:
        for _ in range(20):
            with SharedLock(tmp_path / "lock").held():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80 and set(most) == {1}


def test_a_lease_is_one_worker_s_until_it_dies(tmp_path: Path):
    leases = Leases(tmp_path, "w")
    assert leases.claim("3") is not None and leases.claim("3") is None and leases.is_mine("3")
    leases.release("3")
    again = leases.claim("3")
    assert again is not None and (again.attempts, again.deaths) == (2, 0)
    for host, age, held in ((os.uname().nodename, 0, False), ("elsewhere", 10, True), ("elsewhere", 600, False)):
        (tmp_path / "4.json").write_text(json.dumps({"holder": {**DEAD, "host": host}, "attempts": 1, "deaths": 0}))
        now = time.time()
        os.utime(tmp_path / "4.json", (now - age, now - age))
        assert leases.state("4").held == held
    taken = leases.claim("4")
    assert taken is not None and (taken.attempts, taken.deaths) == (2, 1)
    assert not leases.touch("5")


@pytest.mark.parametrize(
    "holder", [{"pid": 10**30}, {"pid": -1}, {"host": [1]}, {"step": "x"}, {"value": "x"}, [], "x"]
)
def test_a_damaged_lease_is_free(tmp_path: Path, holder: object):
    whole = {"host": os.uname().nodename, **DEAD, "pid": os.getpid()}
    damaged = {**whole, **holder} if isinstance(holder, dict) else holder
    (tmp_path / "4.json").write_text(json.dumps({"holder": damaged, "attempts": 1, "deaths": 0}))
    leases = Leases(tmp_path, "w")
    assert not leases.state("4").held and leases.holders() == {}
    taken = leases.claim("4")
    assert taken is not None and (taken.attempts, taken.deaths) == (1, 0)


def test_what_a_killed_process_left_beside_locks_and_leases_is_deleted_by_the_next(tmp_path: Path):
    dead = tag().replace(f".{os.getpid()}.", f".{2**22 + 1}.")
    left = [tmp_path / f"{stem}.{dead}.00000000" for stem in (".lock", ".4", ".now")]
    for path in left:
        path.touch()
    with SharedLock(tmp_path / "lock").held():
        Leases(tmp_path, "w").claim("4")
    (tmp_path / "5.json").write_text(json.dumps({"holder": {**DEAD, "host": "far"}, "attempts": 1, "deaths": 0}))
    assert Leases(tmp_path, "w").state("5").held
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4.json", "5.json"]


def test_other_programs_of_optuna_open_the_journal_without_changing_it(tmp_path: Path):
    """optuna-dashboard opens a journal by Optuna's own backend for files."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.create_study(study_name="mine", storage=open_storage(tmp_path, None))
    study.set_user_attr("of", "foretrain")
    for value in (3.0, 1.0, 2.0):
        trial = study.ask()
        trial.report(value + 1, 1)
        study.tell(trial, trial.suggest_float("x", 0, 1) + value)
    before = (tmp_path / JOURNAL).read_bytes()
    theirs = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    (summary,) = optuna.get_all_study_summaries(theirs)
    assert summary.study_name == "mine" and summary.user_attrs == {"of": "foretrain"}
    seen = optuna.load_study(study_name="mine", storage=theirs)
    assert seen.trials == study.trials and seen.best_trial.number == 1
    assert (tmp_path / JOURNAL).read_bytes() == before
