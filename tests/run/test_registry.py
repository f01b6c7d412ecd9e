from __future__ import annotations

import json
import os

import pytest
from tests.training.test_run_record import LINES, finished, write_run

from foretrain.errors import ConfigError, DataError
from foretrain.locks import FileLock
from foretrain.models.hub import release_hash
from foretrain.run import registry
from foretrain.run.registry import LOCK, NAME, change_tags, place_of, read_entries, refresh, tags_of
from foretrain.training.run_record import read_run, runs_in


@pytest.fixture
def folder(tmp_path):
    """A folder of two runs, the first with a release."""
    run = write_run(tmp_path / "a", LINES, finished(20, 0.25, 10))
    write_run(tmp_path / "b", LINES)
    (run / "release").mkdir()
    (run / "release" / "config.json").write_text("{}")
    (run / "release" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def refreshed(folder):
    return refresh(folder, [read_run(place) for place in runs_in(folder)])


def test_the_registry_holds_what_the_runs_tell(folder):
    entries, notes = refreshed(folder)
    assert notes == [] and entries == read_entries(folder) and list(entries) == ["a", "b"]
    assert entries["a"]["best"]["value"] == 0.25 and entries["a"]["metrics"]["val_wql"]["unit"] == "ratio"
    assert entries["a"]["release"]["sha256"] == release_hash(folder / "a" / "release")
    assert entries["b"]["release"] is None and entries["b"]["state"] == "ended early"
    assert not (folder / LOCK).exists()


def test_a_lost_registry_is_written_again_but_for_its_tags(folder):
    change_tags(folder / "a", ["good"])
    before, _ = refreshed(folder)
    (folder / NAME).unlink()
    after, _ = refreshed(folder)
    assert before["a"]["tags"] == ["good"] and after == {**before, "a": {**before["a"], "tags": []}}


def test_tags_are_added_removed_and_kept(folder):
    run = folder / "b"
    assert change_tags(run, ["x", "good"]) == ["good", "x"] == tags_of(run)
    refreshed(folder)
    assert change_tags(run, ["good"], ["x"]) == ["good"] and refreshed(folder)[0]["b"]["tags"] == ["good"]
    with pytest.raises(ConfigError, match=r"has no tag 'god'\. Did you mean 'good'"):
        change_tags(run, [], ["god"])
    for wrong in ("", "-x", "a b", "a/b", "x" * 65):
        with pytest.raises(ConfigError, match="is no tag"):
            change_tags(run, [wrong])
    assert tags_of(run) == ["good"] and tags_of(folder / "a") == []


def test_a_stage_has_its_tags_in_the_registry_of_its_pipeline_s_folder(tmp_path):
    stage = write_run(tmp_path / "p" / "stages" / "01-a", LINES)
    (tmp_path / "p" / "config.yaml").write_text("stages: [{name: a}]")
    assert place_of(stage) == (tmp_path, "p/stages/01-a")
    change_tags(stage, ["x"])
    assert list(refreshed(tmp_path)[0]) == ["p", "p/stages/01-a"] and tags_of(stage) == ["x"]


def test_tags_of_a_run_that_is_gone_stay_and_are_told(folder):
    change_tags(folder / "b", ["good"])
    refreshed(folder)
    (folder / "b").rename(folder / "c")
    entries, (note,) = refreshed(folder)
    assert "b: is gone; its tags (good) stay" in note and entries["b"]["tags"] == ["good"] and "c" in entries
    (folder / "a" / "metrics.jsonl").unlink()
    (folder / "a" / "config.yaml").unlink()
    assert refreshed(folder)[0].keys() == {"b", "c"}


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1, "runs": {"a": {"tags": 3}}}', '{"format": 1}'])
def test_a_damaged_registry_stops_a_tag_and_is_kept_by_a_refresh(folder, content):
    (folder / NAME).write_text(content)
    with pytest.raises(DataError, match="is damaged"):
        change_tags(folder / "a", ["good"])
    assert (folder / NAME).read_text() == content
    (folder / "checkpoint_registry.damaged-1.json").write_text("older")
    entries, (note,) = refreshed(folder)
    assert "is damaged" in note and "kept as checkpoint_registry.damaged-2.json" in note and list(entries) == ["a", "b"]
    assert (folder / "checkpoint_registry.damaged-2.json").read_text() == content
    assert (folder / "checkpoint_registry.damaged-1.json").read_text() == "older"


def test_a_registry_of_a_newer_format_is_left_alone(folder):
    text = json.dumps({"format": 2, "runs": {}})
    (folder / NAME).write_text(text)
    for act in (lambda: change_tags(folder / "a", ["good"]), lambda: refreshed(folder)):
        with pytest.raises(DataError, match="has format 2"):
            act()
    assert (folder / NAME).read_text() == text


def test_a_writer_waits_for_another_one_and_says_who_it_is(folder, monkeypatch):
    monkeypatch.setattr(registry, "PATIENCE", 0.0)
    with (
        FileLock(folder / LOCK, folder, "is writing", DataError),
        pytest.raises(DataError, match=f"process {os.getpid()}"),
    ):
        change_tags(folder / "a", ["good"])
    assert change_tags(folder / "a", ["good"]) == ["good"]


def test_the_hash_of_a_release_is_made_anew_when_its_files_change(folder, monkeypatch):
    first = refreshed(folder)[0]["a"]["release"]
    with monkeypatch.context() as patched:
        patched.setattr(registry, "release_hash", lambda release: pytest.fail("read again"))
        assert refreshed(folder)[0]["a"]["release"] == first
    (folder / "a" / "release" / "model.safetensors").write_bytes(b"other weights")
    assert refreshed(folder)[0]["a"]["release"]["sha256"] == release_hash(folder / "a" / "release") != first["sha256"]
