"""Any corpus as a suite of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.suites.contestants import SuiteNaive, baseline
from foretrain.suites.local import local_data, local_task
from foretrain.suites.rows import TaskRows
from foretrain.suites.run import BenchmarkRun, Entrant
from foretrain.suites.scoring import score_task

SHORT = "2 of 4 series have no window: they are too short for the task."


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two items of 40 and 12 days, with a column of text."""
    days = [str(np.datetime64("2024-01-01") + day) for day in range(40)]
    rows = [f"long,{day},{k % 7},{k},{'ab'[k % 2]}" for k, day in enumerate(days)]
    rows += [f"short,{day},{k % 7},{k},a" for k, day in enumerate(days[:12])]
    (tmp_path / "x.csv").write_text("\n".join(["item_id,timestamp,wave,line,word", *rows]) + "\n")
    import_corpus([tmp_path / "x.csv"], tmp_path / "corpus", min_rows=1)
    return Corpus.open(tmp_path / "corpus")


def test_columns_of_numbers_are_series_and_too_short_items_are_left_out(corpus: Corpus):
    task, data = local_task(corpus, 5, 2, seasonality=7), local_data(corpus, "x")
    assert (task.definition.seasonality, task.definition.freq, task.suite_name) == (7, "D", "local")
    assert sorted(one.item_id for one in data.series) == ["long_line", "long_wave", "short_line", "short_wave"]
    rows = TaskRows(task, data.series)
    # windows start at 30 and 35 of 40 steps, and at 2 and 7 of 12: a season and a step come before two of four
    assert [(data.series[cut.series].item_id, cut.cutoff) for cut in rows.cuts] == [
        (item, cutoff) for item in ("long_wave", "long_line") for cutoff in (30, 35)
    ]


def test_seasonal_naive_of_the_season_is_perfect_on_a_wave(corpus: Corpus):
    task = local_task(corpus, 5, 1, seasonality=7)
    wave = [one for one in local_data(corpus, "x").series if one.item_id == "long_wave"]
    assert score_task(SuiteNaive(), task, wave).metrics["WQL"] == 0
    other = local_task(corpus, 5, 1)  # of days without a season, as gluonts has it
    assert other.definition.seasonality == 1 and score_task(SuiteNaive(), other, wave).metrics["WQL"] > 0.1


def test_without_a_window_the_steps_that_are_needed_are_said(corpus: Corpus):
    task = local_task(corpus, 35, 1, seasonality=7)
    with pytest.raises(DataError, match="local/corpus: no series has the 43 steps"):
        TaskRows(task, local_data(corpus, "x").series)


def test_chosen_items_are_scored_alone_and_their_results_say_so(corpus: Corpus, tmp_path: Path):
    task, data = local_task(corpus, 5, 2, seasonality=7), local_data(corpus, "x", [0])
    assert [one.item_id for one in data.series] == ["long_wave", "long_line"]
    assert data.own is not None and data.own.items == (0, 0)
    assert local_data(corpus, "x", [0, 1]).part == local_data(corpus, "x").part == ""
    run = BenchmarkRun([Entrant(baseline("naive"), "h")], tmp_path, tmp_path / "out", load=lambda _: data)
    (outcome,) = run.outcomes(task)
    assert outcome.result.notes == ["1 of 2 items of corpus, chosen by --items."] and outcome.result.series == 2
    whole = BenchmarkRun(run.entrants, tmp_path, tmp_path / "out", load=lambda _: local_data(corpus, "x"))
    assert not whole.outcomes(task)[0].kept


def test_results_say_how_many_series_are_too_short(corpus: Corpus, tmp_path: Path):
    task, data = local_task(corpus, 5, 2, seasonality=7), local_data(corpus, "x")
    run = BenchmarkRun([Entrant(baseline("naive"), "h")], tmp_path, tmp_path / "out", load=lambda _: data)
    (outcome,) = run.outcomes(task)
    assert outcome.result.notes == [SHORT] and outcome.result.series == 2 and not outcome.kept
    assert run.outcomes(task) == [outcome._replace(kept=True)]
