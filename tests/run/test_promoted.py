"""Which release of a folder of runs is in use, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.test_app import foretrain
from tests.training.test_run_record import LINES, finished, write_run

from foretrain.errors import ConfigError, DataError
from foretrain.run.promoted import in_use, promote, rollback, run_in_use
from foretrain.run.registry import change_tags, read_promotions, refresh
from foretrain.training.run_record import read_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs a and b, which their gates promoted, c, which its gate did not, and d, which had none."""
    for name, gate in (("a", True), ("b", True), ("c", False), ("d", None)):
        release = write_run(tmp_path / name, LINES, finished(20, 0.25, 10)) / "release"
        release.mkdir()
        (release / "config.json").write_text(json.dumps({"name": name}))
        (release / "model.safetensors").write_bytes(name.encode())
        facts = {} if gate is None else {"promotion": {"promoted": gate, "reason": "naive is better."}}
        (release / "release.json").write_text(json.dumps(facts))
    return tmp_path


def run(runs: Path, name: str):
    return read_run(runs / name)


def test_the_newest_promotion_is_in_use_and_a_rollback_returns_to_the_one_before(runs: Path) -> None:
    for name in ("a", "b"):
        assert promote(run(runs, name))["forced"] is False
        assert in_use(runs) == runs / name / "release"
    promote(run(runs, "d"), force=True, note="by hand")
    left, back = rollback(runs)
    assert (left["run"], back["run"], run_in_use(runs)) == ("d", "b", "b")
    rollback(runs)
    assert in_use(runs) == runs / "a" / "release"
    with pytest.raises(ConfigError, match="no promotion before that of a"):
        rollback(runs)
    promote(run(runs, "b"))
    actions = [(one["action"], one["run"]) for one in read_promotions(runs)]
    assert actions == [("promote", "a"), ("promote", "b"), ("promote", "d"), ("rollback", "b"), ("rollback", "a"),
                       ("promote", "b")]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"), [("c", "its gate did not promote it: naive is better"), ("d", "no gate has judged")]
)
def test_what_no_gate_promoted_takes_force(runs: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        promote(run(runs, name))
    assert read_promotions(runs) == []
    assert promote(run(runs, name), force=True)["forced"] is True


def test_a_run_in_use_and_one_without_a_release_are_refused(runs: Path) -> None:
    promote(run(runs, "a"))
    with pytest.raises(ConfigError, match="is in use already"):
        promote(run(runs, "a"))
    write_run(runs / "e", LINES)
    with pytest.raises(ConfigError, match="has no release to promote"):
        promote(run(runs, "e"), force=True)


def test_a_release_that_changed_or_went_away_is_not_what_was_promoted(runs: Path) -> None:
    promote(run(runs, "a"))
    promote(run(runs, "b"))
    (runs / "a" / "release" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(DataError, match="has changed since it was promoted"):
        rollback(runs)
    assert run_in_use(runs) == "b"
    (runs / "b" / "release" / "config.json").unlink()
    with pytest.raises(DataError, match="is gone"):
        in_use(runs)


def test_tags_and_lists_keep_promotions(runs: Path) -> None:
    promote(run(runs, "a"))
    change_tags(runs / "b", ["good"])
    refresh(runs, [run(runs, "a"), run(runs, "b")])
    assert run_in_use(runs) == "a"


def test_the_verbs_tell_it(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(runs)
    foretrain("runs", "promoted", ".", code=2)
    assert "no run was promoted" in capsys.readouterr().err
    foretrain("runs", "promote", "a")
    assert "a: in use (promoted by its gate)" in capsys.readouterr().out
    foretrain("runs", "promote", "c", code=2)
    foretrain("runs", "promote", "c", "--force", "--note", "a trial")
    foretrain("runs", "list", ".")
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if "(in use)" in row] == ["c"]
    foretrain("runs", "rollback", ".")
    assert "a is in use again, in the place of c" in capsys.readouterr().out
    foretrain("runs", "promoted", ".")
    assert capsys.readouterr().out == "a/release\n"
    foretrain("runs", "promoted", ".", "--history")
    assert [row.split()[1:3] for row in capsys.readouterr().out.splitlines()] == [
        ["promote", "a"], ["promote", "c"], ["rollback", "a"],
    ]  # fmt: skip
    foretrain("runs", "promoted", ".", "--json")
    assert json.loads(capsys.readouterr().out) == {"release": "a/release"}


@pytest.mark.parametrize("promotions", [3, [3], [{"action": "promote"}], [{"run": 1}]])
def test_a_damaged_history_is_told_in_a_line(runs: Path, promotions: object) -> None:
    path = runs / "checkpoint_registry.json"
    path.write_text(json.dumps({"format": 1, "runs": {}, "promotions": promotions}))
    with pytest.raises(DataError, match="no list of promotions"):
        promote(run(runs, "a"))
    assert json.loads(path.read_text())["promotions"] == promotions
