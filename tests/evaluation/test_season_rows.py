"""Which seasonal baselines an evaluation has, and what its headline and the gate make of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.proofs import season_rates as rates

from foretrain.data.importers.axis import decide
from foretrain.data.splits import Origin, select
from foretrain.data.store import Corpus
from foretrain.evaluation.baselines import FOUND, SEASONAL
from foretrain.evaluation.gate import judge
from foretrain.evaluation.panel import make_panel
from foretrain.evaluation.reference import ZERO_SHOT, ReferenceModel
from foretrain.evaluation.report import format_table, render, write_report
from foretrain.evaluation.result import standing
from foretrain.evaluation.season_rows import natural_seasons, repeats_by_clock, season_rows, seasons_before_scoring
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes
from foretrain.timeaxis.frequency import DAY, HOUR, MINUTE

LABEL = "seasonal naive (7, found)"


def corpus_of(values, *, freq="D", step=DAY, **fields):
    """A regular corpus of items (N, T), all beginning in 2024."""
    start = int(np.datetime64("2024-01-01", "us").astype(np.int64))
    times = start + step * np.arange(values.shape[1], dtype=np.int64)
    items = [(f"item-{k}", row[None].astype(np.float32), times) for k, row in enumerate(values)]
    return Corpus.from_arrays("c", items, ["y"], freq=freq, time="regular", **fields)


def panel_of(corpus, cutoffs, *, context_length=64, horizon=4, **more):
    origins = [Origin(k, cutoff) for k, chosen in enumerate(cutoffs) for cutoff in chosen]
    settings = {"prediction_length": horizon, "context_length": context_length, "stride": horizon, **more}
    return make_panel([corpus], [select(corpus)], [origins], **settings)


@pytest.fixture(scope="module")
def births():
    """Two years of daily births: a week, on which the usual season of daily data is 1."""
    return corpus_of(1000 + 100 * rates.weekly(np.random.default_rng(0), 2, 500))


@pytest.fixture(scope="module")
def of_two(persistence):
    """Builder of a forecaster of a share of the values seven days ago and a rest of their mean."""

    class Blend(persistence):
        def __init__(self, share):
            super().__init__()
            self.share = share

        def collate(self, windows):
            found = super().collate(windows)
            week = torch.from_numpy(windows.context[:, -7:].astype(np.float32))
            return {**found, "week": week}

        def forecast(self, batch, request):
            found = super().forecast(batch, request)
            steps = torch.arange(request.prediction_length) % 7
            mean = batch["week"].mean(1, keepdim=True)
            point = self.share * batch["week"][:, steps] + (1 - self.share) * mean
            spread = found.quantiles - found.quantiles[:, :, [4]]
            return replace(found, quantiles=point[:, :, None] + 50 * spread)

    return Blend


def test_values_from_the_first_scored_window_on_change_nothing():
    values = rates.weekly(np.random.default_rng(0), 2, 400)
    changed = values.copy()
    changed[0, 300:], changed[1, 310:] = 0.0, np.nan
    found = [season_rows(panel_of(corpus_of(v), [[300, 320], [310]]), ("naive", FOUND)) for v in (values, changed)]
    assert found[0].found == found[1].found == (7,)


def test_another_item_s_values_after_the_first_instant_that_is_forecast_change_nothing():
    values = np.random.default_rng(0).standard_normal((2, 400)).cumsum(1)
    values[1, 100:] = 10 * rates.weekly(np.random.default_rng(0), 1, 300)[0]
    late = panel_of(corpus_of(values), [[390], [390]])
    assert seasons_before_scoring(late, 0).main == 7
    assert seasons_before_scoring(panel_of(corpus_of(values), [[100], [390]]), 0).main is None


@pytest.mark.parametrize(
    ("freq", "tried"),
    [
        ("D", (7,)),
        ("h", (24, 168)),
        ("15min", (96, 672)),
        ("min", (1440, 10080)),
        ("W-MON", (52,)),
        ("B", (5,)),
        ("7min", ()),
        ("MS", (12,)),
    ],
)
def test_a_frequency_makes_its_cycles_plausible(freq, tried):
    start = np.array([np.datetime64("2024-01-01", "us").astype(np.int64)])
    corpus = Corpus.from_arrays("c", [("a", np.ones((1, 1), np.float32), start)], ["x"], freq=freq, time="stamps")
    assert natural_seasons(corpus, corpus.frequency.seasonality) == tried


def test_steps_without_a_frequency_are_searched(births):
    values = [(f"i{k}", births.values(k)[:, :400], None) for k in range(2)]
    corpus = Corpus.from_arrays("steps", values, ["y"])
    assert natural_seasons(corpus, 1) is None
    assert seasons_before_scoring(panel_of(corpus, [[380], [380]]), 0).main == 7


def test_a_season_that_is_the_usual_one_needs_no_second_row(births):
    panel = panel_of(births, [[480], [480]], seasonality=7)
    found = season_rows(panel, ("naive", FOUND))
    assert (found.names, found.decisive, found.notes) == (("naive", SEASONAL), (SEASONAL,), ())


def test_a_found_season_is_a_row_of_its_own(births):
    found = season_rows(panel_of(births, [[480], [480]]), ("naive", SEASONAL, FOUND))
    assert found.names == ("naive", SEASONAL, FOUND) and found.decisive == (FOUND,)
    assert found.steps == {SEASONAL: (1,), FOUND: (7,)} and found.labels[FOUND] == LABEL
    (note,) = found.notes
    assert (note.code, note.counts) == (Code.SEASON_FOUND, {"season": 7, "usual": 1})


def test_nothing_is_looked_for_unless_it_is_asked_for(births):
    assert season_rows(panel_of(births, [[480], [480]]), ("naive", SEASONAL)).found == (None,)


def test_a_season_longer_than_the_context_has_no_row_and_is_said(births):
    usual = season_rows(panel_of(births, [[480], [480]], context_length=64, seasonality=288), ("naive", SEASONAL))
    assert usual.names == ("naive",)
    assert [(note.code, note.counts) for note in usual.notes] == [
        (Code.SEASON_EXCEEDS_CONTEXT, {"season": 288, "context": 64, "windows": 2})
    ]
    found = season_rows(panel_of(births, [[480], [480]], context_length=6), ("naive", FOUND))
    assert found.names == ("naive",) and found.decisive == ()
    assert [note.counts for note in found.notes] == [{"season": 7, "context": 6, "windows": 2}]
    own = season_rows(panel_of(births, [[480], [480]], context_length=6, seasonality=7), ("naive", FOUND))
    assert own.names == ("naive",) and codes(own.notes) == {Code.SEASON_EXCEEDS_CONTEXT}


def test_windows_with_less_history_than_the_season_are_counted(births):
    found = season_rows(panel_of(births, [[20, 480], [480]], seasonality=30), ("naive", SEASONAL))
    assert found.names == ("naive", SEASONAL)
    assert [note.counts for note in found.notes] == [{"season": 30, "context": 20, "windows": 1}]


def test_a_day_that_fits_stands_in_for_a_week_that_does_not():
    values = rates.pedestrians(np.random.default_rng(0), 2, 1600)
    steps = Corpus.from_arrays(
        "steps", [(f"i{k}", row[None].astype(np.float32), None) for k, row in enumerate(values)], ["y"]
    )
    found = season_rows(panel_of(steps, [[1500], [1500]], context_length=100), ("naive", FOUND))
    assert found.found == (168,) and found.steps[FOUND] == (24,)
    assert codes(found.notes) == {Code.SEASON_FOUND, Code.SEASON_EXCEEDS_CONTEXT}


def test_corpora_are_told_apart(births):
    walk = corpus_of(np.random.default_rng(0).standard_normal((1, 500)).cumsum(1), freq="h", step=HOUR)
    corpora = [births, walk]
    panel = make_panel(
        corpora, [select(c) for c in corpora], [[Origin(0, 480)], [Origin(0, 480)]],
        prediction_length=4, context_length=20, stride=4,
    )  # fmt: skip
    found = season_rows(panel, ("naive", SEASONAL, FOUND))
    assert found.found == (7, None) and found.steps == {SEASONAL: (1, 1), FOUND: (7, 1)}
    (long,) = (note for note in found.notes if note.code == Code.SEASON_EXCEEDS_CONTEXT)
    assert long.counts == {"season": 24, "context": 20, "windows": 1} and long.text.startswith(walk.name)


# What a headline, a table and the gate make of it


def verdicts(found):
    return {test.against: (standing(test), test.verdict) for test in found.comparisons}


def test_a_model_that_beats_naive_alone_is_called_worse_first(births, of_two):
    found = evaluate(of_two(0.3), births, prediction_length=7, num_windows=20)
    (naive, better), (season, worse) = (verdicts(found)[who] for who in ("naive", FOUND))
    assert (naive, season) == (1, -1) and worse.startswith(f"worse than {LABEL}, ")
    assert found.headline.startswith(f"model: {worse}; {better}.") and f" that of {LABEL}." in found.headline
    assert found.season_baselines == (FOUND,) and found.data[0]["season_found"] == 7
    assert '<div class="verdict worse">' in render(found, {})


def test_a_verdict_that_two_tests_share_is_said_once(births, of_two):
    found = evaluate(of_two(0.3), births, prediction_length=7, num_windows=5)
    assert found.season_baselines == (FOUND,) and found.verdict == "too few windows to tell (5 origins, 10 needed)"


def test_a_model_that_beats_both_is_called_better_than_both(of_two):
    noise = np.random.default_rng(2).standard_normal((2, 500))
    noisy = corpus_of(rates.weekly(np.random.default_rng(1), 2, 500) + 0.5 * noise)
    found = evaluate(of_two(0.7), noisy, prediction_length=7, num_windows=40)
    (naive, first), (season, second) = (verdicts(found)[who] for who in ("naive", FOUND))
    assert naive == season == 1 and found.verdict == f"{first}; {second}"
    assert '<div class="verdict better">' in render(found, {})


def test_rows_have_one_name_in_tables_and_one_key_in_files(births, of_two, tmp_path):
    found = evaluate(of_two(0.3), births, prediction_length=14, num_windows=12)
    write_report(found, tmp_path)
    assert [line.split("  ")[0] for line in format_table(found).splitlines() if line.startswith("seasonal")] == [
        "seasonal naive",
        LABEL,
    ]
    assert LABEL in (tmp_path / "report.html").read_text()
    tree = json.loads((tmp_path / "evaluation.json").read_text())
    assert tree["labels"] == {FOUND: LABEL} and tree["season_baselines"] == [FOUND]
    assert FOUND in tree["pooled"] and FOUND in [test["against"] for test in tree["comparisons"]]
    assert FOUND in (tmp_path / "per_item.csv").read_text() and "season_found" in tree["data"][0]


def test_the_gate_asks_for_the_found_season_too(births, of_two):
    def gate(share, reference):
        against = ReferenceModel(ZERO_SHOT, "base", of_two(reference), "abc")
        return judge(evaluate(of_two(share), births, prediction_length=7, num_windows=20, against=against))

    found = gate(0.4, 0.1)
    assert not found.promoted and codes(found.objections) == {Code.NOT_BELOW}
    assert f"is not below {LABEL}'s" in found.reason and found.verdicts[FOUND].startswith(f"worse than {LABEL}, ")
    saved = json.loads(json.dumps(found.to_dict()))
    assert [entry["code"] for entry in saved["objections"]] == [Code.NOT_BELOW] and saved["figures"][FOUND] > 0


def test_a_seasonal_naive_that_is_naive_has_no_direction_accuracy(hourly, persistence):
    prices = hourly(2, 200, price=True)
    found = evaluate(
        persistence(0.3), prices, prediction_length=4, num_windows=3, seasonality=1, compare=(SEASONAL, "drift")
    )
    shown = {who: found.shown(who, "direction_accuracy_share") for who in found.pooled}
    assert {who for who, value in shown.items() if np.isnan(value)} == {"naive", SEASONAL} == set(found.no_direction)
    table = format_table(found)
    assert [line.startswith(("naive ", "seasonal naive")) for line in table.splitlines() if "n/a" in line] == [True] * 2
    assert "naive and seasonal naive name no direction" in table


# Sessions


def session_stamps(days, bars, *, opening=9 * HOUR + 30 * MINUTE):
    """Minute stamps of weekdays from 2024-01-01; bars(day) and opening may be functions of the number of the day."""
    first = int(np.datetime64("2024-01-01", "us").astype(np.int64))
    weekdays = [d for d in range(2 * days) if d % 7 < 5][:days]
    count = bars if callable(bars) else lambda day: bars
    opens = opening if callable(opening) else lambda day: opening
    return np.concatenate([first + d * DAY + opens(d) + MINUTE * np.arange(count(d)) for d in weekdays]).astype(
        np.int64
    )


def axis_of(times):
    return decide(["a"], lambda item: times, clock="dates", freq=None)


def session_corpus(times, values=None):
    axis = axis_of(times)
    values = np.arange(len(times)) if values is None else values
    return Corpus.from_arrays(
        "s", [("a", np.asarray(values, np.float32)[None], times)], ["close"], freq=axis.freq, time=axis.time,
        seasonality=axis.seasonality, bars_per_session=axis.bars_per_session,
    )  # fmt: skip


def test_regular_sessions_keep_their_number_of_bars_with_half_days_and_clock_changes():
    half = session_stamps(40, lambda day: 210 if day % 13 == 0 else 390)
    utc = session_stamps(40, 390, opening=lambda day: 14 * HOUR + 30 * MINUTE - (HOUR if day > 30 else 0))
    for times in (half, utc):
        corpus = session_corpus(times)
        assert (corpus.manifest.bars_per_session, corpus.manifest.seasonality) == (390, 390)
        assert not repeats_by_clock(corpus, 390) and natural_seasons(corpus, 390) == (390,)


def extended(days=20):
    """Minutes of extended hours, of which a few lack bars: no two days have the same number."""
    rng = np.random.default_rng(0)
    whole = session_stamps(days, 453, opening=8 * HOUR)
    return whole[rng.random(len(whole)) > rng.uniform(0, 0.12, days).repeat(453)]


def test_extended_hours_have_no_number_of_bars_and_repeat_the_time_of_day(persistence):
    times = extended()
    corpus = session_corpus(times, times % DAY // MINUTE)
    assert corpus.manifest.bars_per_session is None and repeats_by_clock(corpus, corpus.manifest.seasonality)
    model = persistence()
    model.max_context_length = 1000
    found = evaluate(model, corpus, prediction_length=30, num_windows=4, compare=(SEASONAL, FOUND))
    assert Code.SEASON_BY_CLOCK in codes(found.warnings) and found.season_baselines == ()
    assert found.labels == {SEASONAL: "seasonal naive (time of day)"}
    assert found.pooled[SEASONAL]["mae"] < 0.2 < found.pooled["naive"]["mae"]  # the value is the minute of the day


def test_a_given_season_is_a_number_of_steps_again():
    corpus = session_corpus(extended())
    assert not repeats_by_clock(corpus, 400)
