"""Runs whose series are cut by dates: what they record, refuse, say, and are evaluated on."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain as command
from tests.run.test_ancestry import HORIZON, config, facts, train

from foretrain.config import dump_yaml
from foretrain.data.importers import import_corpus
from foretrain.data.splits import Origin
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.evaluation.overlap import ABOUT_TRAINING, check_overlap
from foretrain.forecasting.ancestry import Ancestry, Seen, most_seen
from foretrain.notes import Code, codes
from foretrain.run.build import open_source
from foretrain.run.config import config_hash, config_hash_1, load_config, shipped_config
from foretrain.run.dry_run import describe_run
from foretrain.run.train import train_run

CUTS = {"validation_from": "2024-01-05", "test_from": "2024-01-07", "embargo": "6h"}


def write_bars(folder: Path, **rows: int) -> None:
    """CSV files of hourly closes from 1 January 2024 on, an item each with so many rows."""
    folder.mkdir(exist_ok=True)
    for k, (item, count) in enumerate(rows.items()):
        close = 100 * np.exp(np.random.default_rng(k).standard_normal(400)[:count].cumsum() / 100)
        stamps = pd.date_range("2024-01-01", periods=count, freq="h")
        pd.DataFrame({"timestamp": stamps, "close": close}).to_csv(folder / f"{item}.csv", index=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three items to 9, 8 and 3 January: the last one ends before both cuts."""
    folder = tmp_path_factory.mktemp("bars")
    write_bars(folder / "in", a=200, b=180, gone=60)
    import_corpus([folder / "in"], folder / "bars")
    return folder / "bars"


@pytest.fixture(scope="module")
def release(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release of a run with a gate. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    gate = {"promotion": True, "require_significance": False}
    settings = {"max_steps": 4, "checkpoint_every": 2, "validate_every": 2}
    return train(folder, corpus, data=CUTS, evaluation=gate, training=settings)


def test_a_run_records_its_dates_and_its_gate_scores_what_lies_after_them(release: Path):
    found = facts(release)
    assert {key: found["data"][key] for key in CUTS} == CUTS and "test_steps" not in found["data"]
    parts = found["corpora"][0]["parts"]
    assert parts["train"] == {"series": 3, "start_after_it": 0, "too_short": 0, "held_out": 0}
    assert parts["test"] == {"series": 2, "end_before_it": 1, "start_after_it": 0, "too_short": 0}
    gate = found["promotion"]
    assert gate["origins"] >= (180 - 144) // HORIZON and Code.TRAINING_SAW_WINDOWS not in str(gate["objections"])
    log = (release.parent / "training.log").read_text()
    assert "bars: training ends before 2024-01-04 18:00:00 (validation_from less 6h)" in log
    assert "bars: test from 2024-01-07 on: 2 of 3 series have a window; 1 ending before it" in log


def test_an_evaluation_scores_the_same_days_of_every_item(release: Path, corpus: Path, capsys):
    command("evaluate", release, "--data", corpus, "--num-windows", 100)
    shown = capsys.readouterr().out
    assert (
        "At most 9 windows per item instead of 100: by date, training held out the test part from 2024-01-07" in shown
    )
    assert "same days" not in shown and "start on days that training saw" not in shown and "NO FAIR TEST" not in shown
    command("evaluate", release, "--data", corpus, "--num-windows", 100, "--test-from", "2024-01-04")
    assert "NO FAIR TEST" in capsys.readouterr().out
    command("evaluate", release, "--data", corpus, "--test-from", "2024-01-32", code=2)
    assert "test_from: is no date" in capsys.readouterr().err


def test_a_resume_with_other_dates_is_refused_and_with_the_same_ones_goes_on(corpus: Path, tmp_path: Path):
    settings = {"max_steps": 4, "checkpoint_every": 2}
    train(tmp_path / "run", corpus, data=CUTS, training={**settings, "max_steps": 2})
    for change in ({"test_from": "2024-01-08"}, {"embargo": None}, {"validation_from": None}):
        other = config(tmp_path / "run", corpus, data={**CUTS, **change}, training=settings)
        with pytest.raises(TrainingError, match=f"data.{next(iter(change))}"):
            train_run(other, resume="auto")
    same = {**CUTS, "test_from": "2024-01-07T00:00", "embargo": "360min"}
    train_run(config(tmp_path / "run", corpus, data=same, training=settings), resume="auto")
    straight = train(tmp_path / "straight", corpus, data=CUTS, training=settings)
    assert facts(tmp_path / "run" / "release")["config_hash"] == facts(straight)["config_hash"]


def test_dates_are_identity_and_leave_hashes_of_configs_without_them_alone(corpus: Path, tmp_path: Path):
    plain, dated, other = (
        config(tmp_path, corpus, data=data) for data in ({}, CUTS, {**CUTS, "test_from": "2024-01-08"})
    )
    assert len({config_hash(one) for one in (plain, dated, other)}) == 3
    assert len({config_hash_1(one) for one in (plain, dated, other)}) == 3
    assert "test_from: '2024-01-07'" in dump_yaml(dated), "a text, that other readers of YAML make no date of"


def test_an_update_moves_no_cut(tmp_path: Path):
    """The same windows are trained on, and the release of before is judged as it was."""
    write_bars(tmp_path / "in", a=200, b=180, gone=60)
    import_corpus([tmp_path / "in"], tmp_path / "bars")
    made = config(tmp_path / "run", tmp_path / "bars", data=CUTS)
    before = open_source(made)[1].windows(0, 300)
    release = train(tmp_path / "run", tmp_path / "bars", data=CUTS)
    write_bars(tmp_path / "in", a=320, b=330, gone=60)
    import_corpus([tmp_path / "in"], tmp_path / "bars", update=True)
    after = open_source(made)[1].windows(0, 300)
    assert np.array_equal(before.source, after.source)
    assert np.array_equal(before.future, after.future, equal_nan=True)
    opened = Corpus.open(tmp_path / "bars")

    def found(cutoff: int) -> set[str]:
        return codes(check_overlap(facts(release), [opened], [[Origin(0, cutoff)]])) & set(ABOUT_TRAINING)

    assert found(144) == found(250) == set() and found(143) == {Code.VALIDATION_SAW_WINDOWS}
    assert found(89) == {Code.TRAINING_SAW_WINDOWS} and found(90) == {Code.VALIDATION_SAW_WINDOWS}


def test_a_dry_run_says_where_series_are_cut_and_what_ancestors_saw(release: Path, corpus: Path, tmp_path: Path):
    def lines(**data: Any) -> str:
        training = {"validate_every": 1}
        return "\n".join(describe_run(config(tmp_path, corpus, release, data=data, training=training), World()))

    same = lines(**CUTS)
    assert "  bars: training ends before 2024-01-04 18:00:00 (validation_from less 6h); a date is 00:00 of the" in same
    assert "  bars: validation from 2024-01-05 to 2024-01-06 18:00:00: 2 of 3 series have a window" in same
    assert "note: " not in same
    earlier = lines(validation_from="2024-01-05", test_from="2024-01-06")
    assert "note: the test part of bars is from 2024-01-06 on, but the training of its parent model" in earlier
    assert "used later steps in 2 of 3 series: evaluations score what all held out" in earlier
    assert "note: the validation part of bars is from 2024-01-03 to 2024-01-07" in lines(
        validation_from="2024-01-03", test_from="2024-01-07"
    )
    assert "note: the test part of bars is the newest 100 steps, but the training" in lines(test_steps=100)


def test_a_child_inherits_the_dates_of_its_parent(release: Path, corpus: Path, tmp_path: Path):
    child = train(tmp_path / "child", corpus, release, data={**CUTS, "test_from": "2024-01-06T12:00"})
    (rule,) = Ancestry.read(facts(child)).seen
    assert (rule.by, rule.test_from, rule.embargo, rule.test_steps) == ("model", "2024-01-07", "6h", 0)
    command("evaluate", child, "--data", corpus, "--num-windows", 50, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["counts"]["windows"] == (200 - 144) // HORIZON + (180 - 144) // HORIZON, "from its parent's date on"
    assert not {"training_saw_windows", "validation_saw_windows"} & {entry["code"] for entry in found["codes"]}


def test_a_run_that_validates_or_compares_needs_the_dates_of_those_parts(corpus: Path, tmp_path: Path):
    alone = {"test_from": "2024-01-07"}
    with pytest.raises(ConfigError, match=r"data\.validation_from: not given, so data\.test_from 2024-01-07 leaves no"):
        train(tmp_path / "a", corpus, data=alone, training={"validate_every": 1})
    train(tmp_path / "b", corpus, data=alone)
    gate = {"evaluation": {"promotion": True}}
    with pytest.raises(ConfigError, match=r"data\.validation_from 2024-01-05 alone leaves no test part to compare on"):
        train(tmp_path / "c", corpus, data={"validation_from": "2024-01-05"}, **gate)
    with pytest.raises(
        ConfigError, match=r"from data\.test_from 2024-01-09T06:00:00 on, no item has room for a window"
    ):
        train(tmp_path / "d", corpus, data={"test_from": "2024-01-09T06:00"}, **gate)


def test_one_rule_that_covers_several_leaves_out_no_more_than_any_of_them():
    cut = Seen("f", validation_from="2024-01-05", test_from="2024-01-10", embargo="1D")
    later = Seen("f", test_from="2024-01-08", embargo="2D")
    found = most_seen([cut, later])
    assert (found.validation_from, found.test_from, found.embargo) == ("2024-01-06", "2024-01-10", None)
    assert found.dates is not None and found.dates.check() is None
    open_end = most_seen([cut, Seen("f", validation_from="2024-01-02")])
    assert (open_end.validation_from, open_end.test_from) == ("2024-01-04", None)
    mixed = most_seen([cut, Seen("f", test_steps=30)])
    assert mixed.dates is None and (mixed.validation_steps, mixed.test_steps) == (0, 0)
    long = Ancestry(tuple(Seen(f"{k:064}", by="model", name=f"corpus {k}", test_from="2024-01-08") for k in range(900)))
    assert {rule.test_from for rule in Ancestry.read({"ancestry": long.to_json()}).seen} == {"2024-01-08"}
    assert long.to_json()["shortened"]


@pytest.mark.parametrize("record", [{"test_from": "soon"}, {"test_from": 5}, {"embargo": "1D"}, {"embargo": "x"}])
def test_a_record_with_malformed_dates_is_that_of_another_program(corpus: Path, record: dict[str, Any]):
    opened = Corpus.open(corpus)
    release = {"corpora": [{"fingerprint": opened.fingerprint}], "data": record}
    assert codes(check_overlap(release, [opened], [[Origin(0, 150)]])) == {Code.TRAINING_UNKNOWN}


def test_the_dates_that_a_shipped_config_shows_cut_it():
    path = shipped_config("market/daily.yaml")
    lines = [line.lstrip("# ").rstrip("\\ \n") for line in path.read_text().splitlines() if line.startswith("#")]
    start = next(k for k, line in enumerate(lines) if line.startswith("foretrain train") and "validation_steps" in line)
    words = shlex.split(" ".join(lines[start : start + 2]))
    dated = load_config(path, words[3:]).data.cuts
    assert (dated.validation_from, dated.test_from, dated.embargo) == ("2016-07-01", "2017-01-01", "14D")
    with pytest.raises(ConfigError, match="cut by dates and validation_steps and test_steps by steps; give one kind"):
        load_config(path, ["data.test_from=2017-01-01"])
