"""The queue: who asks, what is enqueued, and what a real trial of Optuna then draws."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.tuning.adviser.fake_server import FakeServer, Reply, suggest
from tests.tuning.cheap_studies import new_study as cheap_study
from tests.tuning.fake_worker import fake_trial
from tests.tuning.needs_optuna import optuna

from foretrain.config import build
from foretrain.errors import ConfigError
from foretrain.tuning.adviser.adviser import Adviser
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.adviser.fill import LEASE, past_trial, refill
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.space import SearchSpace
from foretrain.tuning.worker import TuneWorker

pytest.importorskip("openai", reason="needs the extra tune: openai")

pytestmark = pytest.mark.processes  # serves on a socket

SPACE = {
    "kind": {"kind": "categorical", "choices": ["a", "b"]},
    "rate": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "size": {"kind": "int", "low": 1, "high": 9, "when": {"kind": ["b"]}},
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def space() -> SearchSpace:
    return SearchSpace(build(TuneConfig, {"output_dir": "o", "run": "debug", "space": SPACE}).space)


def adviser(server: FakeServer, folder: Path, **more: Any) -> Adviser:
    config = AdviserConfig(**{"model": "fake", "base_url": server.url, "api_key_env": None, "batch": 3} | more)
    return Adviser(config, space(), [("val_wql", "minimize")], folder)


def new_study(folder: Path | None = None) -> optuna.Study:
    storage = None
    if folder is not None:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
        storage = optuna.storages.JournalStorage(backend)
    return optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=0))


def test_workers_draw_from_the_queue_first_and_from_tpe_then(tmp_path: Path) -> None:
    """1e9 is clipped and an unknown category refused before a trainer sees them."""
    with FakeServer([suggest({"rate": 1e9}, {"rate": 0.5}, {"rate": "most"})]) as server:
        settings = {"model": "fake", "base_url": server.url, "api_key_env": None, "batch": 3, "attempts": 1}
        study = cheap_study(tmp_path, trials=5, sampler={"kind": "adviser"}, adviser=settings)
        seen = list[Any]()

        def runner(config: TuneConfig, number: int, candidate: Any, folder: Path, **more: Any) -> Any:
            seen.append(candidate)
            return fake_trial(config, number, candidate, folder, **more)

        TuneWorker(study, runner).run()
    records = study.records()
    assert [record.source for record in records] == ["default", "adviser", "adviser", "sampler", "sampler", "sampler"]
    assert [record.params for record in records] == seen and seen[1:3] == [{"rate": 1.0}, {"rate": 0.5}]
    assert all(0 < candidate["rate"] <= 1 for candidate in seen[1:]) and records[1].suggestion is not None


def one(kind: str, rate: float, size: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "rate": rate, "size": size}


def test_an_injected_value_or_category_never_reaches_a_trial(tmp_path: Path) -> None:
    """Through Optuna's own queue, which hands out an enqueued 1e9 with no more than a warning."""
    script = [suggest(one("a", 1e9), one("c", 1e-2), one("b", -1e9, 10**9), one("b", 1e-3, None), {"rate": 1e-3})]
    with FakeServer(script) as server:
        study = new_study()
        assert refill(study, adviser(server, tmp_path, batch=5), most=10) == 2
    drawn = [space().suggest(study.ask()) for _ in range(3)]
    assert drawn[:2] == [{"kind": "a", "rate": 0.1}, {"kind": "b", "rate": 1e-4, "size": 9}]
    assert 1e-4 <= drawn[2]["rate"] <= 0.1  # the sampler's own, since the queue is empty


@pytest.mark.parametrize("values", [{"rate": 1e9}, {"rate": "x"}, {"kind": "c"}, {"kind": "b", "size": 2.5}])
def test_what_anyone_else_enqueues_outside_the_space_ends_the_draw(values: dict[str, Any]) -> None:
    study = new_study()
    study.enqueue_trial({"kind": "a", "rate": 1e-2, "size": 1} | values)
    with pytest.raises(ConfigError, match="in a trial that was enqueued"):
        space().suggest(study.ask())


def test_candidates_persist_and_all_workers_draw_each_once(tmp_path: Path) -> None:
    with FakeServer([suggest(one("a", 1e-3), one("b", 1e-2, 3), one("a", 2e-3))]) as server:
        study = new_study(tmp_path)
        assert refill(study, adviser(server, tmp_path), most=10) == 3
        assert refill(study, adviser(server, tmp_path), most=10) == 0 and len(server.requests) == 1
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    other = optuna.load_study(study_name=study.study_name, storage=optuna.storages.JournalStorage(backend))
    trials = [study.ask(), other.ask(), study.ask()]
    assert [space().suggest(trial)["rate"] for trial in trials] == [1e-3, 1e-2, 2e-3]
    assert [trial.user_attrs for trial in trials] == [
        {"source": "adviser", "suggestion": f"0-{place}"} for place in range(3)
    ]
    assert study.ask().user_attrs == {}


def test_no_more_is_asked_for_than_the_study_may_begin(tmp_path: Path) -> None:
    with FakeServer([suggest(one("a", 1e-3), one("a", 2e-3))]) as server:
        study = new_study()
        assert refill(study, adviser(server, tmp_path), most=0) == 0 and server.requests == []
        assert refill(study, adviser(server, tmp_path), most=2) == 2
    assert "exactly 2" in server.requests[0]["messages"][1]["content"]


def test_one_worker_asks_at_a_time_and_the_others_go_on(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(body: dict[str, Any]) -> Reply:
        asked.set()
        go_on.wait(60)
        return suggest(one("a", 1e-3))

    study = new_study()
    with FakeServer([slow]) as server:
        first = threading.Thread(target=refill, args=(study, adviser(server, tmp_path), 10))
        first.start()
        asked.wait(60)
        assert refill(study, adviser(server, tmp_path), most=10) == 0  # at once
        go_on.set()
        first.join()
    assert len(server.requests) == 1 and len(study.trials) == 1 and not (tmp_path / LEASE).exists()


def test_a_lease_that_a_dead_worker_of_another_host_left_is_taken_over_after_its_time(tmp_path: Path) -> None:
    lease = tmp_path / LEASE
    lease.write_text(json.dumps({"host": "elsewhere", "pid": 7, "boot": "b", "started": "1"}))
    with FakeServer([suggest(one("a", 1e-3))]) as server:
        study, ours = new_study(), adviser(server, tmp_path, total_s=10)
        assert refill(study, ours, most=5) == 0
        os.utime(lease, (1, 1))
        assert refill(study, ours, most=5) == 1


def test_what_a_killed_worker_paid_for_is_enqueued_first(tmp_path: Path) -> None:
    with FakeServer([suggest(one("a", 1e-3), one("a", 2e-3))]) as server:
        ours = adviser(server, tmp_path, batch=2)
        assert len(ours.advise([], 2)) == 2  # and its worker was killed before it could enqueue them
        study = new_study()
        assert refill(study, ours, most=9) == 2 and len(server.requests) == 1
    assert [trial.user_attrs["suggestion"] for trial in study.trials] == ["0-0", "0-1"]
    assert refill(study, ours, most=9) == 0


def test_a_server_that_fails_leaves_the_study_to_its_sampler(tmp_path: Path) -> None:
    with FakeServer([Reply("nonsense")] * 3) as server:
        study, ours = new_study(), adviser(server, tmp_path, bad_answers=2)
        for _ in range(5):
            assert refill(study, ours, most=20) == 0
            trial = study.ask()
            study.tell(trial, space().suggest(trial)["rate"])
    assert len(server.requests) == 2 and len(study.trials) == 5


def test_nothing_but_values_is_told_of_a_trial_that_failed(tmp_path: Path) -> None:
    study = new_study()
    trial = study.ask()
    space().suggest(trial)
    trial.set_user_attr("message", "canary: /home/me/prices.csv")
    trial.report(float("nan"), 1)
    trial.report(0.5, 2)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    found = past_trial(study.trials[0])
    assert found.state == "failed" and found.curve == ((2, 0.5),) and found.values is None
    with FakeServer([suggest(one("a", 1e-3))]) as server:
        refill(study, adviser(server, tmp_path), most=5)
    assert b"canary" not in server.received and b'\\"state\\":\\"failed\\"' in server.received
