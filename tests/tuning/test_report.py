"""The report on a study: facts, edges, lines, pictures, the page and the results file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from tests.tuning import needs_optuna  # noqa: F401
from tests.tuning.reported import DECAY, NAME, RATE, SPACE, drawn, study_of, trial, write_table

from foretrain.errors import ConfigError
from foretrain.tuning.edges import block_of, edges
from foretrain.tuning.losses import read_losses
from foretrain.tuning.records import DEFAULT_TRIAL, LOSSES, TrialRecord
from foretrain.tuning.report import study_facts, study_lines
from foretrain.tuning.report_axes import KeyAxis
from foretrain.tuning.report_page import study_page
from foretrain.tuning.report_pictures import PICTURES, pictures
from foretrain.tuning.results import RESULTS, UNITS, write_results
from foretrain.tuning.study import StudyFolder

PAIR = [trial(DEFAULT_TRIAL, {}, 1.0), trial(0, {RATE: 1e-3, DECAY: 0.0}, 0.8), trial(1, {RATE: 1e-2, DECAY: 0.1}, 0.9)]


def with_losses(folder: Path, better: float, records: list[TrialRecord] | None = None) -> StudyFolder:
    """A study of 40 origins whose trial 0 is better than the default by so many deviations."""
    rng = np.random.default_rng(0)
    study = study_of(folder, PAIR if records is None else records)
    base = 1 + 0.1 * rng.standard_normal(40)
    write_table(study, DEFAULT_TRIAL, base)
    write_table(study, 0, base - better * 0.1 + 0.1 * rng.standard_normal(40))
    write_table(study, 1, base + 0.1 * rng.standard_normal(40))
    return study


def test_an_edge_is_told_with_the_choice_counted(tmp_path: Path):
    study = with_losses(tmp_path, better=2.0)
    default, naive = edges(study, study.records(), 0).values()
    assert default["against"] == "default" and naive["against"] == "naive"
    assert default["sentence"].startswith("an edge over the run as it stands: trial 0's mean scaled error is ")
    assert default["p_single"] < default["p_value"] < 0.05
    assert default["trials"] == 2 and default["dates"] == default["blocks"] == 40
    assert f"p = {default['p_value']:.2g} with the choice among 2 trials counted" in default["sentence"]


def test_no_edge_is_told_of_noise(tmp_path: Path):
    study = with_losses(tmp_path, better=0.0)
    default = edges(study, study.records(), 0)["default"]
    assert default["sentence"].startswith("no edge over the run as it stands is shown")
    assert default["p_value"] > 0.05


def test_pruned_trials_count_though_they_have_no_losses(tmp_path: Path):
    study = with_losses(tmp_path, 2.0, [*PAIR, trial(2, {RATE: 0.1, DECAY: 0.1}, state="pruned", curve=(2.0,))])
    told = edges(study, study.records(), 0)["default"]
    assert "the choice among 3 trials counted, 1 of them pruned and added one by one" in told["sentence"]
    assert told["p_value"] == told["p_of_trials_with_losses"] + told["p_single"]


def test_without_losses_the_reason_is_told(tmp_path: Path):
    study = study_of(tmp_path, PAIR)
    for edge in edges(study, study.records(), 0).values():
        assert edge["p_value"] is None
        assert edge["sentence"].startswith(f"no verdict against {'naive' if edge['against'] == 'naive' else 'the run'}")
    few = with_losses(tmp_path / "few", 2.0)
    for number in (DEFAULT_TRIAL, 0, 1):
        write_table(few, number, [1.0, 1.1, 0.9])
    assert "3 dates in 3 blocks of 1 are too few" in edges(few, few.records(), 0)["default"]["sentence"]


def test_origins_of_items_at_different_instants_make_longer_blocks(tmp_path: Path):
    study = study_of(tmp_path, PAIR, set={"evaluation.stride": 12, "data.prediction_length": 24})
    path = study.trial(0) / LOSSES
    write_table(study, 0, [1.0] * 10)
    assert block_of(study.config, read_losses(path)) == 2  # horizons of 24 overlap at a distance of 12
    write_table(study, 0, [1.0] * 10, items=("A", "B", "C"))
    assert block_of(study.config, read_losses(path)) == 6


def test_facts_and_lines(tmp_path: Path):
    records = drawn(20)
    records[3] = trial(3, records[3].params, state="pruned", curve=(4.0,))
    records[4] = trial(4, records[4].params, state="failed")
    study = study_of(tmp_path, [trial(DEFAULT_TRIAL, {}, 1.5), *records])
    facts = study_facts(study, study.records())
    assert facts["trials"] == {"asked": 20, "complete": 18, "pruned": 1, "failed": 1, "beyond_constraints": 0}
    values = [record.values[0] for record in records if record.values]
    assert facts["history"][-1]["best"] == min(values) == facts["best"][0]["values"][0]
    assert facts["seconds"] == {"of_trials": 42.0, "from_first_to_last": 79.0}
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    text = "\n".join(study_lines(facts))
    assert "20 of 20 trials: 18 complete, 1 pruned, 1 failed" in text
    assert "ooo-xooo" in text and "trials by worker: host:1 11, host:0 10" in text
    assert re.search(rf"{re.escape(RATE)} +\d+%  █", text)
    assert re.search(r"\ndefault +1\.5 ", text)
    assert "no verdict against naive" in text


def test_a_study_is_reported_for_the_trial_that_is_asked_about(tmp_path: Path):
    study = with_losses(tmp_path, 2.0)
    assert study_facts(study, study.records(), 1)["edges"]["naive"]["trial"] == 1
    with pytest.raises(ConfigError, match="--trial 7: is no complete trial"):
        study_facts(study, study.records(), 7)
    with pytest.raises(ConfigError, match="no trial of it has ended"):
        study_facts(study, study.records()[:1])


def two_objectives(folder: Path) -> StudyFolder:
    """A study with a conditional key, choices, two objectives and a constraint that a trial is beyond."""
    epsilon = {"kind": "float", "low": 1e-9, "high": 1e-7, "log": True, "when": {NAME: ["adamw"]}}
    space = {**SPACE, NAME: {"kind": "categorical", "choices": ["adamw", "muon"]}, "optimizer.epsilon": epsilon}
    records = [trial(DEFAULT_TRIAL, {}, 1.5, 2.0, curve=(2.0, 1.5))]
    for record in drawn(16):
        adam = record.number % 2 == 0
        own = {**record.params, NAME: "adamw" if adam else "muon", **({"optimizer.epsilon": 1e-8} if adam else {})}
        more = {"params": own, "values": (*(record.values or ()), 3 - math.log10(1 + record.number))}
        records.append(record.model_copy(update={**more, "feasible": record.number != 5}))
    return study_of(folder, records, space=space, objectives=[{"metric": "val_wql"}, {"metric": "val_mase"}])


def test_every_picture_and_the_page(tmp_path: Path):
    study = two_objectives(tmp_path)
    facts = study_facts(study, study.records())
    assert facts["chosen"] is None and facts["edges"] == {}
    text = "\n".join(study_lines(facts))
    assert "Pareto front" in text and "name one by --trial" in text and "1 beyond a constraint" in text
    drawn_ = pictures(study, study.records(), facts)
    assert drawn_.keys() == PICTURES.keys()
    assert all(data.startswith(b"\x89PNG") and len(data) < 100_000 for data in drawn_.values())
    text = study_page(facts, drawn_)
    assert text.count('src="data:image/png;base64,') == len(PICTURES)
    assert "http" not in text and "<script" not in text
    assert "optimizer.learning_rate" in text and "the run as it stands" in text


def test_pictures_for_which_there_is_nothing_are_left_out(tmp_path: Path):
    study = study_of(tmp_path, [trial(0, {RATE: 0.1, DECAY: 0.1}, state="failed")])
    facts = study_facts(study, study.records())
    assert pictures(study, study.records(), facts) == {}
    assert "best so far: none" in "\n".join(study_lines(facts))
    assert "No trial is complete" in study_page(facts, {})


def test_axes_hold_the_default_and_leave_out_what_they_do_not_have():
    log = KeyAxis(low=1e-4, high=1e-2, log=True)
    assert log.height(1e-3) == pytest.approx(0.5) and math.isnan(log.height(1.0)) and log.at(None) is None
    assert [text for _, text in log.ticks()] == ["0.0001", "0.001", "0.01"]
    choices = KeyAxis(choices=(True, 1, None), has_gap=True)
    assert [choices.at(value) for value in (True, 1, None, "x")] == [0, 1, 2, None]
    assert choices.ticks() == [(0.0, "yes"), (0.5, "1"), (1.0, "none"), (choices.absent, "not used")]
    assert KeyAxis(choices=("only",)).height("only") == 0.5


def test_the_results_file_has_a_row_for_each_symbol_of_the_winner(tmp_path: Path):
    study = study_of(tmp_path, PAIR)
    write_table(study, DEFAULT_TRIAL, [1.0, 1.0], items=("AAPL", "SPY"))
    write_table(study, 0, [0.5, 0.7], items=("AAPL", "SPY"), naive=2.0)
    write_table(study, 1, [0.1, 0.1], items=("AAPL", "SPY"))
    path = write_results(study, study.records())
    assert path == study.path / RESULTS
    tree = json.loads(path.read_text())
    assert [row["symbol"] for row in tree["results"]] == ["AAPL", "SPY"] == tree["config"]["symbols"]
    row = tree["results"][0]
    assert (row["status"], row["best_model"], row["trial"]) == ("success", "chronos2", 0)
    assert (row["best_mae"], row["naive_mae"], row["default_mae"]) == pytest.approx((0.6, 2.0, 1.0))
    assert row["elapsed_s"] == 6.0 and tree["total_time_s"] == 61.0
    assert (tree["config"]["trials"], tree["config"]["workers"], tree["schema"]) == (20, 1, 1)
    assert set(UNITS) <= {*row, *tree}
    log = {one["id"]: one for one in tree["trials"]}
    assert log["default"]["params"] == {} and log["0"]["score"] == 0.8
    assert log["0"] | {"objective": "val_wql", "source": "sampler", "suggestion_context": None} == log["0"]


def test_the_results_file_says_why_no_symbol_has_a_winner(tmp_path: Path):
    study = study_of(tmp_path, [PAIR[0], trial(0, {RATE: 0.1, DECAY: 0.1}, state="failed")])
    write_table(study, DEFAULT_TRIAL, [1.0, 1.0])
    (row,) = json.loads(write_results(study, study.records()).read_text())["results"]
    assert row["status"] == "failed" and row["symbol"] == "A" and "no trial is complete" in row["error"]
    empty = study_of(tmp_path / "empty", [])
    assert not write_results(empty, empty.records()).exists()
