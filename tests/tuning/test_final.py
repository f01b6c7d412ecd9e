"""The final table: what it compares, what an opening is, kills, and that nothing else sees the test part."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tuning.studies import never, study

from foretrain.data.writer import CorpusWriter
from foretrain.errors import ConfigError, Interrupted
from foretrain.evaluation.reference import OTHER, ReferenceModel
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.predictor import load
from foretrain.models.hub import release_hash
from foretrain.tuning import contenders, final
from foretrain.tuning.edges import with_pruned
from foretrain.tuning.final import final_table
from foretrain.tuning.final_text import conclusion, final_lines, opening_line
from foretrain.tuning.losses import read_losses, save_study_losses
from foretrain.tuning.records import TrialRecord
from foretrain.tuning.selection import selected_edge
from foretrain.tuning.study import StudyFolder, chosen, create_study, open_study
from foretrain.tuning.trial import run_trial

RATE = "optimizer.learning_rate"
# 8 origins, then 11
ROOM = {
    "data.validation_steps": 96, "data.test_steps": 132, "evaluation.num_windows": 8, "training.dtype": "auto",
}  # fmt: skip

DATES = {
    "data.validation_steps": None,
    "data.test_steps": None,
    "data.validation_from": "2000-01-11",
    "data.test_from": "2000-01-14T06:00",
    "data.embargo": "6h",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of the user's for each test; what is synced costs time of the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def searched(folder: Path, candidates: Mapping[int, dict[str, Any]], **more: Any) -> StudyFolder:
    """A study whose trials have ended, without Optuna."""
    found = create_study(study(folder, **more), resume=False)
    for number, candidate in {-1: {}, **candidates}.items():
        source = "default" if number < 0 else "sampler"
        found.write(run_trial(found.config, number, candidate, found.trial(number), source=source, report=never))
    return found


def corpus_of(folder: Path, values: np.ndarray) -> str:
    """A corpus without a calendar; values (items, steps)."""
    with CorpusWriter(folder, ["a"], time="steps") as writer:
        for number, one in enumerate(values):
            writer.append(f"item{number}", one[None].astype(np.float32))
    return str(folder)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials whose final runs are trained; its test part was not opened."""
    folder = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        found = searched(folder / "study", {0: {RATE: 1e-4}, 1: {RATE: 0.05}}, change=ROOM)
        patch.setattr(final, "open_part", _never_open)
        with pytest.raises(_Stopped):
            opened(found)
    (found.path / "final" / "attempt.json").unlink()
    return found.path


class _Stopped(Exception):
    pass


def _never_open(*_: Any, **__: Any) -> None:
    raise _Stopped


def copied(path: Path, to: Path) -> StudyFolder:
    shutil.copytree(path, to, symlinks=True)
    return open_study(to)


def opened(found: StudyFolder, trial: int | None = None, told: list[str] | None = None) -> dict[str, Any]:
    say = [].append if told is None else told.append
    with final_table(found, chosen(found, trial), command="foretrain tune report", say=say) as tree:
        return tree


def openings(place: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (place / "ledger.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "opening"]


def test_the_table_is_what_evaluations_of_its_releases_say(ended: Path, tmp_path: Path) -> None:
    found = copied(ended, tmp_path / "s")
    tree = opened(found)
    assert tree == json.loads((found.path / "final" / "final.json").read_text())
    assert tree["winner"]["trial"] == 1 and tree["trials"]["compared"] == 2
    assert tree["counts"]["windows"] == 44 and tree["counts"]["origins"] == 11
    runs = {key: load(found.path / "final" / key / "release") for key in ("winner", "default")}
    (corpus,) = [spec.open() for spec in contenders.final_config(found, {}, "default").data.corpora]
    beside = ReferenceModel(OTHER, "default", runs["default"].model)
    said = evaluate(runs["winner"].model, corpus, prediction_length=12, release=runs["winner"].facts, against=beside)
    for mine, theirs in (("winner", "model"), ("default", OTHER), ("naive", "naive"), ("seasonal_naive",) * 2):
        assert tree["metrics"][mine] == pytest.approx(said.pooled[theirs], nan_ok=True)
    assert tree["units"].keys() == said.pooled["model"].keys()
    tests = {test.against: test for test in said.comparisons}
    for mine, theirs in (("default", OTHER), ("naive", "naive")):
        assert tree["tests"][mine]["p_value"] == pytest.approx(tests[theirs].p_value)
        assert tree["tests"][mine]["p_corrected"] == tree["tests"][mine]["p_value"]
    lines = final_lines(tree)
    assert lines[0].startswith("This is the first recorded opening") and "SYNTHETIC DATA" in lines[1]
    assert any(line.startswith("winner (trial 1)") for line in lines)
    assert "zero-shot: none. The run starts from random weights." in lines
    assert not (found.path / "final" / "attempt.json").exists()


def test_the_edge_on_the_validation_counts_every_trial(ended: Path, tmp_path: Path) -> None:
    found = copied(ended, tmp_path / "s")
    edges = opened(found)["selection"]
    table = read_losses(save_study_losses(found))
    assert sorted(set(table.column("trial").to_pylist())) == [-1, 0, 1]
    columns = []
    for number in (1, 0, -1):
        rows = table.filter(np.array(table.column("trial")) == number).to_pandas()
        columns.append(rows.groupby("cutoff").loss.mean().to_numpy())  # rows are alike: 12 steps each
    direct = selected_edge(np.stack(columns[:2], axis=1), columns[2], 0)
    assert edges["default"]["p_value"] == direct.p_value and edges["default"]["edge"] == pytest.approx(direct.edge)
    assert (edges["default"]["trials"], edges["default"]["dates"], edges["default"]["block"]) == (2, 8, 1)
    assert edges["naive"]["p_value"] is not None


def test_losses_that_are_lost_take_the_verdict_on_the_validation_alone(ended: Path, tmp_path: Path) -> None:
    found = copied(ended, tmp_path / "s")
    (found.trial(0) / "losses.parquet").unlink()
    tree = opened(found)
    assert tree["selection"]["default"]["p_value"] is None and tree["tests"]["default"]["p_value"] is not None
    (line, _) = [line for line in final_lines(tree) if line.startswith("Validation, winner")]
    assert "cannot be told" in line and "trials/0000/losses.parquet" in line


def test_pruned_trials_are_added_one_by_one() -> None:
    rng = np.random.default_rng(0)
    edge = selected_edge(1 + rng.standard_normal((20, 3)), 1.5 + rng.standard_normal(20), 0)
    assert edge.p_value is not None and edge.p_single is not None
    assert with_pruned(edge, 0).p_value == edge.p_value
    assert with_pruned(edge, 2).p_value == min(1.0, edge.p_value + 2 * edge.p_single)
    assert with_pruned(replace(edge, p_value=None), 2).p_value is None


def test_a_second_opening_says_so_first_and_counts(ended: Path, tmp_path: Path) -> None:
    first, second = copied(ended, tmp_path / "a"), copied(ended, tmp_path / "b")
    once = opened(first)
    told: list[str] = []
    again, other = opened(first, told=told), opened(second)
    assert all("was trained before" in line for line in told) and len(told) == 2
    assert [tree["opening"]["number"] for tree in (once, again, other)] == [1, 2, 3]
    line = final_lines(other)[0]
    assert line.startswith("OPENED BEFORE: this is opening 3") and "(2 trials)" in line
    assert str(first.path.absolute()) in line and once["created"][:10] in line
    assert other["metrics"] == once["metrics"]
    p_value = once["tests"]["naive"]["p_value"]
    assert other["tests"]["naive"]["p_corrected"] == min(1.0, 3 * p_value)
    assert len(openings(tmp_path / "cache" / "foretrain")) == 3 and len(openings(first.path)) == 2
    found = [json.loads(line) for line in (second.path / "ledger.jsonl").read_text().splitlines()][-1]
    assert found["kind"] == "found" and found["tests"]["naive"]["p_value"] == p_value


def test_an_attempt_that_was_interrupted_counts_once(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = copied(ended, tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(final, "scored_finals", _killed)
        for _ in range(2):  # after the opening, before a figure
            with pytest.raises(Interrupted):
                opened(found)
    assert len(openings(found.path)) == 1 and not (found.path / "final" / "final.json").exists()
    with pytest.raises(BrokenPipeError), final_table(found, chosen(found, None), command="", say=print) as tree:
        raise BrokenPipeError  # the figures may have been seen: the same ones come again
    monkeypatch.setattr(final, "scored_finals", _killed)
    assert opened(found) == tree and tree["opening"]["number"] == 1
    for place in (found.path, tmp_path / "cache" / "foretrain"):
        lines = [json.loads(line)["kind"] for line in (place / "ledger.jsonl").read_text().splitlines()]
        assert lines == ["opening", "found"]
    with pytest.raises(Interrupted):  # a new one
        opened(found)
    assert len(openings(found.path)) == 2


def test_another_comparison_after_an_interrupted_one_is_another_opening(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = copied(ended, tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(final, "scored_finals", _killed)
        with pytest.raises(Interrupted):
            opened(found)
    told: list[str] = []
    tree = opened(found, trial=0, told=told)
    assert tree["opening"]["number"] == 2 and tree["winner"]["trial"] == 0
    assert "which is replaced" in told[0] and "was trained before" in told[-1]


def _killed(*_: Any) -> None:
    raise Interrupted(143, "stopped")


def test_a_final_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = copied(ended, tmp_path / "s")
    whole = release_hash(found.path / "final" / "winner" / "release")
    shutil.rmtree(found.path / "final")
    train = contenders.train_run

    def stop(step: int, metrics: dict[str, float]) -> bool:
        if step == 4:
            raise Interrupted(143, "stopped")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(contenders, "train_run", lambda *args, **more: train(*args, on_validation=stop, **more))
        with pytest.raises(Interrupted):
            opened(found)
    assert not (found.path / "ledger.jsonl").exists()
    assert opened(found)["models"]["winner"]["hash"] == whole
    lines = (found.path / "final" / "winner" / "metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, lines) if line.get("kind") == "train"] == [1, 2, 3, 4, 5, 6]


def test_the_search_and_its_p_values_do_not_depend_on_the_test_part(tmp_path: Path) -> None:
    """Bit for bit; the final figures alone change."""
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.standard_normal((4, 300)), axis=-1)
    changed = values.copy()
    changed[:, -132:] += 5 * rng.standard_normal((4, 132))
    trees, tables = [], []
    for name, one in (("as-it-was", values), ("changed", changed)):
        folder = tmp_path / name
        change = {**ROOM, "data.corpora": [{"path": corpus_of(folder / "corpus", one)}]}
        found = searched(folder / "study", {0: {RATE: 1e-4}, 1: {RATE: 0.05}}, change=change)
        trees.append(opened(found))
        tables.append(read_losses(save_study_losses(found)))
    assert tables[0].equals(tables[1])
    for part in ("winner", "default", "selection", "trials"):
        assert trees[0][part] == trees[1][part]
    for who in ("winner", "default"):
        assert trees[0]["models"][who]["hash"] == trees[1]["models"][who]["hash"]
        assert trees[0]["metrics"][who]["mase"] != trees[1]["metrics"][who]["mase"]
    assert [tree["opening"]["number"] for tree in trees] == [1, 1]  # other values are another part


def test_a_study_that_starts_from_weights_has_a_zero_shot_row(ended: Path, tmp_path: Path) -> None:
    """By dates, on two folds, with two objectives."""
    start = ended / "final" / "default" / "release"
    change = {**DATES, "model": {"family": "linear", "model_id": str(start)}, "evaluation.num_windows": 6}
    objectives = [{"metric": "val_wql"}, {"metric": "val_mase"}]
    found = searched(tmp_path / "s", {0: {RATE: 0.05}}, change=change, objectives=objectives, folds={"count": 2})
    tree = opened(found)
    assert tree["counts"]["origins"] == 10 and tree["selection"]["default"]["dates"] == 12
    assert tree["split"] == {"validation_from": "2000-01-11", "test_from": "2000-01-14T06:00:00", "embargo": "6h",
                             "folds": 2}  # fmt: skip
    assert {"val_wql", "val_mase"} == tree["models"]["winner"]["validated"].keys()
    assert any(line.startswith("validation: val_mase") for line in final_lines(tree))
    assert tree["labels"]["zero_shot"] == f"zero-shot ({start})" and "zero_shot_of_default" not in tree["labels"]
    said = evaluate(
        load(start).model, [spec.open() for spec in contenders.final_config(found, {}, "default").data.corpora],
        prediction_length=12, split="test", test_from="2000-01-14T06:00:00",
    )  # fmt: skip
    assert tree["metrics"]["zero_shot"] == pytest.approx(said.pooled["model"], nan_ok=True)
    assert tree["tests"]["zero_shot"]["p_value"] is not None and not tree["unfair"]


def test_a_study_of_forecasts_compares_options_of_one_model(ended: Path, tmp_path: Path) -> None:
    model = str(ended / "final" / "default" / "release")
    space = {"context_length": {"kind": "categorical", "choices": [24, 36]}}
    found = searched(
        tmp_path / "s", {0: {"context_length": 24}}, change=ROOM, space=space, task="forecast", model=model
    )
    tree = opened(found)
    assert tree["models"]["winner"]["context_length"] == 24 and tree["models"]["default"]["context_length"] == 48
    assert tree["models"]["winner"]["hash"] == tree["models"]["default"]["hash"]
    assert tree["metrics"]["winner"]["mase"] != tree["metrics"]["default"]["mase"]
    assert f"zero-shot: none. Nothing was trained; winner and default are {model}" in "\n".join(final_lines(tree))
    assert not (found.path / "final" / "winner").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.test_steps": 0}, r"no test part to open\. Give data.test_from or data.test_steps"),
        ({"data.test_steps": 6}, "no room for a window"),
    ],
)
def test_a_run_without_a_test_part_is_refused_before_anything_is_trained(
    tmp_path: Path, change: dict, said: str
) -> None:
    found = create_study(study(tmp_path / "s", change=change), resume=False)
    with pytest.raises(ConfigError, match=said), final_table(found, WON, command="", say=print):
        pass
    assert not (found.path / "ledger.jsonl").exists() and not (found.path / "final" / "winner").exists()


def test_a_run_that_changed_since_the_search_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text((Path(__file__).parents[2] / "configs" / "linear" / "quick.yaml").read_text())
    found = create_study(study(tmp_path / "s", run=str(run)), resume=False)
    found.check_run()
    run.write_text(run.read_text().replace("seed: 42", "seed: 7"))
    with (
        pytest.raises(ConfigError, match=r"run: .*run\.yaml has changed"),
        final_table(found, WON, command="", say=print),
    ):
        pass


def test_a_default_that_failed_is_refused(tmp_path: Path) -> None:
    found = create_study(study(tmp_path / "s"), resume=False)
    failed = {"number": -1, "state": "failed", "source": "default", "params": {}, "values": None}
    found.write(TrialRecord(**failed, message="the loss is not finite."))
    with (
        pytest.raises(ConfigError, match=r"as it stands failed.*not finite"),
        final_table(found, WON, command="", say=print),
    ):
        pass


WON = TrialRecord(number=0, state="complete", source="sampler", params={RATE: 0.01}, values=(0.5,))


def test_the_conclusion_follows_the_tests(ended: Path, tmp_path: Path) -> None:
    tree = opened(copied(ended, tmp_path / "s"))
    tree["settings"]["season_baselines"] = []

    def said(**changes: dict[str, Any]) -> str:
        made = copy.deepcopy(tree)
        for who, change in changes.items():
            base = {"p_value": 0.01, "p_corrected": 0.01, "over": "origins", "mean_difference": -0.1}
            made["tests"][who] |= {**base, **change}
        return conclusion(made)

    assert "there is evidence that the search" in said(default={}, naive={})
    assert "better than naive" in said(default={}, naive={})
    assert "no evidence" in said(default={"p_corrected": 0.06}, naive={})
    assert "worse than the run as it stands" in said(default={"mean_difference": 0.1}, naive={})
    assert "worse than naive" in said(default={}, naive={"mean_difference": 0.1})
    assert "too few forecast origins" in said(default={"over": "items"}, naive={})
    assert "too few forecast origins" in said(default={"p_value": None, "p_corrected": None}, naive={})
    assert conclusion({**tree, "unfair": True}).startswith("Conclusion: none")
    torn = {**tree, "opening": {**tree["opening"], "number": 2, "unread": 1}}
    assert "1 line of the ledger that cannot be read" in opening_line(torn)
