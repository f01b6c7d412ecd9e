"""A benchmark with finished tasks reads no data that did not change, and all data that may have."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.test_app import foretrain
from tests.suites.shipped import WALKS, suites, write_walks  # noqa: F401

from foretrain.suites import remembered, run
from foretrain.suites.definition import tasks_of
from foretrain.suites.remembered import data_state, recall
from foretrain.suites.score import load_data


@pytest.fixture
def read(suites, tmp_path, monkeypatch) -> list[str]:  # noqa: F811
    """The tasks whose data were read."""
    found: list[str] = []

    def load(task, root, **settings):
        found.append(task.name)
        return load_data(task, root, **settings)

    monkeypatch.setattr(run, "load_data", load)
    monkeypatch.setattr(remembered, "_SETTLED", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return found


def benchmark(root: Path, *models: str) -> None:
    foretrain("benchmark", *models, "--suite", "pooled", "--task", "walks", "--data-root", root, "--out", "results")


def result(model: str) -> dict:
    return json.loads(Path("results", model, "pooled", "walks.json").read_text())


def test_finished_tasks_are_kept_without_reading_data_that_did_not_change(suites, read, capsys):  # noqa: F811
    benchmark(suites, "naive", "drift")
    before = result("naive")
    benchmark(suites, "naive", "drift")
    assert read == ["walks"]
    assert "0 scored, 2 kept, 0 failed" in capsys.readouterr().out and result("naive") == before
    benchmark(suites, "naive", "mean")  # a model without a result needs the data
    assert read == ["walks"] * 2
    assert result("mean")["data_hash"] == before["data_hash"]


def test_a_file_that_was_changed_is_read_though_size_and_time_are_those_of_before(suites, read):  # noqa: F811
    benchmark(suites, "naive")
    before = result("naive")
    (file,) = [path for path in suites.rglob("*") if path.is_file() and path.suffix in (".csv", ".txt")]
    about, content = file.stat(), file.read_bytes()
    write_walks(suites, WALKS)
    assert file.read_bytes() == content
    changed = content.replace(b"1", b"2")
    assert changed != content
    file.write_bytes(changed)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    benchmark(suites, "naive")
    assert read == ["walks"] * 2 and result("naive")["data_hash"] != before["data_hash"]


@pytest.mark.parametrize("what", ["code", "definition", "a file beside", "not settled"])
def test_whatever_decides_the_series_is_part_of_what_is_remembered(suites, read, monkeypatch, what: str):  # noqa: F811
    (task,) = [task for task in tasks_of("pooled") if task.name == "walks"]
    if what == "not settled":
        monkeypatch.setattr(remembered, "_SETTLED", 3600.0)
    benchmark(suites, "naive")
    assert (recall(data_state(task, suites)) is None) is (what == "not settled")
    if what == "code":
        monkeypatch.setattr(remembered, "_code", lambda: "of another version")
    if what == "definition":
        rule = task.definition.model_copy(update={"horizon": task.definition.horizon + 1})
        assert recall(data_state(replace(task, definition=rule), suites)) is None
        return
    if what == "a file beside":
        place = suites / "pooled" / "walks"
        place.mkdir(parents=True)
        (place / "notes.txt").write_text("a corpus of the task comes before raw files")
    benchmark(suites, "naive")
    assert read == ["walks"] * 2


def test_a_damaged_record_costs_time_alone(suites, read, tmp_path):  # noqa: F811
    benchmark(suites, "naive")
    file = tmp_path / "cache" / "foretrain" / "benchmark-data.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({key: {"state": fact["state"]} for key, fact in facts.items()}))
    benchmark(suites, "naive")
    assert read == ["walks"] * 2
    benchmark(suites, "naive")
    assert read == ["walks"] * 2
