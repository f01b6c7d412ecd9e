"""Series cut by dates: no training window reaches the cut, whatever calendar the series follow."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.config import apply_overrides, build
from foretrain.data.config import DataConfig
from foretrain.data.parts import (
    DateCuts,
    StepCuts,
    date_micros,
    date_text,
    micros_text,
    part_lines,
    rows_before,
    span_text,
)
from foretrain.data.source import TrainingSource
from foretrain.data.splits import rolling_origins
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import DAY, HOUR
from foretrain.training.settings import StepPlan

FIRST = date_micros("2023-01-02")  # a Monday


def corpus_of(kind: str, starts: list[int], lengths: list[int], name: str = "m", timezone: str | None = None) -> Corpus:
    """Series whose value at a step is the number of the step; starts are days after FIRST."""
    items = []
    for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        rng = np.random.default_rng([k, start, length])
        if kind == "stamps":
            times = FIRST + start * DAY + np.cumsum(rng.integers(1, 2 * DAY, length))
        else:
            begin = FIRST + (start - start % 7 if kind in ("B", "MS") else start) * DAY
            begin = date_micros(f"2023-{1 + start % 12:02}-01") if kind == "MS" else begin
            if kind == "WOM-3FRI":
                begin = int(grid.stamps(begin, kind, np.array([0]))[0])
            times = grid.stamps(begin, kind, np.arange(length))
        items.append((f"item {k}", np.arange(length, dtype=np.float32)[None], times))
    regular = {} if kind == "stamps" else {"time": "regular", "freq": kind}
    return Corpus.from_arrays(name, items, ["x"], **({"time": "stamps"} | regular), timezone=timezone)


def config(count: int = 1, **options) -> DataConfig:
    tree = {"corpora": [{"path": "unused"}] * count, "context_length": 8, "prediction_length": 3}
    return build(DataConfig, {**tree, **options})


# -- rows by time ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["B", "h", "D", "W-MON", "MS", "WOM-3FRI", "stamps"]),
    starts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    data=st.data(),
)
def test_rows_before_a_time_are_those_that_their_stamps_tell(kind, starts, data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=len(starts), max_size=len(starts)))
    corpus = corpus_of(kind, starts, lengths)
    stamps = np.concatenate([corpus.times(k) for k in range(corpus.num_series)])
    time = int(data.draw(st.sampled_from(stamps.tolist()))) + data.draw(st.sampled_from([-1, 0, 1, DAY]))
    expected = [int((corpus.times(k) < time).sum()) for k in range(corpus.num_series)]
    assert rows_before(corpus, time).tolist() == expected


def test_stamps_of_another_program_that_do_not_ascend_are_refused_and_ascending_ones_are_cut(tmp_path):
    days = [datetime(2024, 1, day) for day in (1, 2, 3, 4)]
    for name, second in (("good", days), ("bad", [days[1], days[0], *days[2:]])):
        rows = {"target": [[1.0] * 4] * 3, "timestamp": [days, second, days]}
        datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / name)
    time = date_micros("2024-01-03")
    assert rows_before(Corpus.open(tmp_path / "good"), time).tolist() == [2, 2, 2]
    with pytest.raises(DataError, match=r"bad: the stamps of item '1' do not ascend, so no date cuts it\. Import the"):
        rows_before(Corpus.open(tmp_path / "bad"), time)


# -- no window reaches the cut -----------------------------------------------------------------------------------------

CORPORA = st.lists(
    st.tuples(
        st.sampled_from(["B", "h", "stamps", "D"]),
        st.lists(st.tuples(st.integers(0, 40), st.integers(3, 90)), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=50, deadline=None)
@given(
    made=CORPORA,
    first=st.integers(4, 60),
    between=st.integers(1, 30),
    embargo=st.sampled_from([None, "1D", "36h", "7D"]),
    which=st.sampled_from(["both", "test_from", "validation_from"]),
    sampling=st.sampled_from(["random", "epoch", "budget"]),
    least=st.sampled_from([None, 1]),
)
def test_no_window_of_training_or_validation_touches_a_date_behind_its_cut(
    made, first, between, embargo, which, sampling, least
):
    corpora = [corpus_of(kind, *map(list, zip(*series, strict=True)), f"c{k}") for k, (kind, series) in enumerate(made)]
    cuts = {
        "validation_from": micros_text(FIRST + first * DAY),
        "test_from": micros_text(FIRST + (first + between) * DAY),
    }
    given_cuts = {key: text for key, text in cuts.items() if which in ("both", key)}
    span = 0 if embargo is None else {"1D": DAY, "36h": 36 * HOUR, "7D": 7 * DAY}[embargo]
    if which == "both" and between * DAY <= span:
        return  # refused: test_dates_in_the_wrong_order_and_spans_that_leave_nothing_are_refused
    options = {"sampling": "random" if sampling == "random" else "epoch", "min_prediction_length": least, "stride": 2}
    section = config(len(corpora), **given_cuts, embargo=embargo, min_context=2, **options)
    limit = min(date_micros(text) for text in given_cuts.values()) - span
    try:
        source = TrainingSource(section, 0, corpora)
    except DataError as error:
        needed = 2 + (least or 3)
        some = [max(int((c.times(k) < limit).sum()) for k in range(c.num_series)) < needed for c in corpora]
        assert any(some) and "Give later dates" in str(error)
        return
    seen = set[tuple[int, int, int]]()
    for windows in batches(source, sampling):
        for row, (number, series, cutoff) in enumerate(windows.source.tolist()):
            if number < 0:
                continue  # of padding
            seen.add((number, series, cutoff))
            both = np.concatenate([windows.context[row], windows.future[row]])
            steps = both[~np.isnan(both)].astype(int)  # a value is the number of its step
            times = corpora[number].times(series)
            assert len(steps) and (times[steps] < limit).all()
            assert times[cutoff - 1] < limit and not np.isnan(windows.future[row][: least or 3]).any()
    if sampling != "random":  # an epoch has every window that there is
        horizon = least or 3
        for k, corpus in enumerate(corpora):
            for series in range(corpus.num_series):
                rows = int((corpus.times(series) < limit).sum())
                assert {c for n, s, c in seen if (n, s) == (k, series)} == set(range(rows - horizon, 1, -2))
    for split in ("validation", "test"):
        for corpus in corpora:
            region = getattr(section.cuts.parts(corpus), split)
            low = date_micros(given_cuts[f"{split}_from"]) if f"{split}_from" in given_cuts else None
            high = date_micros(cuts["test_from"]) - span if split == "validation" and which == "both" else None
            try:
                origins = rolling_origins(
                    corpus, split=split, prediction_length=3, num_windows=50, min_context=2, region=region
                )
            except DataError:
                assert low is None or region.most_room(2) < 3
                continue
            for series, cutoff in origins:
                times = corpus.times(series)[cutoff : cutoff + 3]
                assert len(times) == 3 and low is not None and (times >= low).all()
                assert high is None or (times < high).all()


def batches(source: TrainingSource, sampling: str):
    """All micro-batches of an epoch, or some of random windows, of a run over three processes."""
    if sampling == "budget":
        buckets = source.in_buckets([4, 8], [2, 3], 22)
        yield from (buckets.windows(k) for k in range(buckets.epoch_length))
        return
    count = source.epoch_length if sampling == "epoch" else 60
    plan = StepPlan(-(-count // 20), count, 20, 7)
    for step in range(plan.steps):
        for rank in range(3):
            for micro in plan.for_rank(step, rank, 3):
                if not micro.idle:
                    yield source.windows(micro.first, micro.count)


def test_rows_after_the_cut_change_neither_which_series_are_trained_on_nor_their_windows():
    """What lies after a date is not known on it: neither lengths nor min_rows may look there."""
    options = {"test_from": "2023-02-01", "min_rows": 25, "max_train_series": 2}
    short, long = (
        TrainingSource(config(**options), 3, [corpus_of("D", [0, 0, 20, 2], lengths)])
        for lengths in ([40, 31, 30, 35], [90, 31, 300, 35])
    )
    one, other = short.windows(0, 200), long.windows(0, 200)
    assert np.array_equal(one.source, other.source) and np.array_equal(one.future, other.future, equal_nan=True)


# -- the config ----------------------------------------------------------------------------------------------------


def refusal(*overrides: str, **options) -> str:
    tree = {"corpora": [{"path": "unused"}], "context_length": 8, "prediction_length": 3, **options}
    with pytest.raises(ConfigError) as caught:
        build(DataConfig, apply_overrides(tree, list(overrides)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2024-02-30", "is no date (day is out of range for month)"),
        ("0000-01-01", "is no date (year 0 is out of range)"),
        ("12024-01-01", "takes a date such as 2024-01-31"),
        ("2024-01-01T24:30", "is no date"),
        ("0001-01-01T00:00+14:00", "is no date"),
        ("soon", "takes a date such as 2024-01-31, a date and time such as 2024-01-31T09:30, or library"),
        ("20240101", "takes a date"),
        ("2024", "takes a date"),
        ("2024-01-01+02:00", "takes a date"),
        ("\u0662\u0660\u0662\u0664-01-01", "takes a date"),
        ("[2024-01-01]", "takes a date"),
    ],
)
def test_what_is_no_date_is_refused_with_its_field(text: str, why: str):
    assert f"test_from: {why}" in refusal(f"test_from={text}")


@pytest.mark.parametrize("text", ["5", "soon", "1B", "2MS", "-5D", "0D", "1e3", "200000D", "9999999999999W", "1ns"])
def test_what_is_no_span_of_time_is_refused_with_its_field(text: str):
    assert "embargo: " in refusal(f"embargo={text}", "test_from=2024-01-01")


def test_dates_in_the_wrong_order_and_spans_that_leave_nothing_are_refused():
    first = "validation_from=2024-01-01"
    assert "validation_from 2024-01-01 is not before test_from 2024-01-01" in refusal(first, "test_from=2024-01-01")
    assert "embargo 7D leaves no validation part between 2024-01-01 and 2024-01-08" in refusal(
        first, "test_from=2024-01-08", "embargo=1W"
    )
    assert "embargo: has no effect without validation_from or test_from" in refusal("embargo=5D")
    assert "give both with a time zone, or both without" in refusal(first, "test_from=2024-02-01T00:00Z")
    for steps in ("validation_steps=0", "test_steps=30"):
        assert f"test_from cut by dates and {steps.partition('=')[0]} by steps; give one kind" in refusal(
            "test_from=2024-01-01", steps
        )


def test_dates_of_one_meaning_have_one_spelling():
    east = datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    for given_as in (
        "2024-01-01",
        "2024-01-01T00:00",
        "2024-01-01 00:00:00.000",
        date(2024, 1, 1),
        datetime(2024, 1, 1),
    ):
        assert date_text(given_as) == "2024-01-01"
    for given_as in ("2024-01-01T00:00Z", "2024-01-01T02:00+02:00", "2023-12-31T19:00-05:00", east):
        assert date_text(given_as) == "2024-01-01T00:00:00+00:00"
    assert date_text("2024-01-01T09:30") == "2024-01-01T09:30:00"
    assert [span_text(text) for text in ("24h", "1D", "d", "90min", "1h30min", "2W")] == [
        "1D", "1D", "1D", "90min", "90min", "14D",
    ]  # fmt: skip


def test_a_date_with_a_time_zone_cuts_corpora_in_utc_and_no_others_and_no_date_cuts_steps():
    cuts = DateCuts(test_from=date_text("2023-01-05T02:00+02:00"))
    utc, local = (corpus_of("D", [0], [9], timezone=zone) for zone in ("UTC", None))
    assert cuts.parts(utc).test.begin.tolist() == [3]
    with pytest.raises(ConfigError, match=r"data\.test_from: .* has a time zone, and m stores local times without one"):
        cuts.parts(local)
    steps = Corpus.from_arrays("steps", [("a", np.ones((1, 50)), None)], ["x"])
    with pytest.raises(ConfigError, match=r"data\.test_from: steps has steps without a calendar, so no date cuts it"):
        TrainingSource(config(test_from="2023-01-05"), 0, [steps])


# -- what is said ------------------------------------------------------------------------------------------------------


def test_series_that_end_before_a_part_start_after_it_or_are_short_are_counted():
    """Of five daily series: whole, delisted before validation, delisted in it, listed in the test part, ends in it."""
    corpus = corpus_of("D", [0, 0, 0, 50, 0], [100, 10, 25, 50, 42], "shares")
    options = {"validation_from": "2023-01-22", "test_from": "2023-02-11", "embargo": "2D"}
    section = config(**options, min_context=2)
    source = TrainingSource(section, 0, [corpus])
    assert source.left_out() == [
        "shares: 1 of 5 series are not trained on: 1 without a row before 2023-01-20 (validation_from less 2D)",
        "shares: training ends before 2023-01-20 (validation_from less 2D); a date is 00:00 of the local times that it "
        "stores, a step lies where its stamp does",
        "shares: validation from 2023-01-22 to 2023-02-09: 3 of 5 series have a window; 1 ending before it, 1 starting "
        "after it",
        "shares: test from 2023-02-11 on: 2 of 5 series have a window; 2 ending before it, 1 without room for 3 steps "
        "in it",
    ]
    assert [line.strip() for line in source.lines()[2:]] == source.left_out()[1:]
    assert source.part_records() == [
        {
            "parts": {
                "train": {"series": 4, "start_after_it": 1, "too_short": 0, "held_out": 0},
                "validation": {"series": 3, "end_before_it": 1, "start_after_it": 1, "too_short": 0},
                "test": {"series": 2, "end_before_it": 2, "start_after_it": 0, "too_short": 1},
            }
        }
    ]
    utc = corpus_of("D", [0], [100], "coins", timezone="UTC")
    assert "a date is 00:00 of UTC" in part_lines(utc, section.cuts, 2, 3)[0]


def test_dates_without_a_window_to_train_on_are_refused_with_what_fits():
    corpus = corpus_of("D", [0, 40], [100, 60])
    with pytest.raises(DataError) as few:
        TrainingSource(config(test_from="2023-01-06", context_length=16), 0, [corpus])
    assert "the longest has 4 rows before 2023-01-06 (test_from); needed are 6 (min_context 3" in str(few.value)
    assert "Give later dates, or shorter lengths. With that one would work" in str(few.value)
    assert "data.min_context=1" in str(few.value) and "_steps" not in str(few.value)
    with pytest.raises(DataError, match=r"none of its 2 series has a row before 2022-12-31 \(test_from less 1D"):
        TrainingSource(config(test_from="2023-01-01", embargo="1D"), 0, [corpus])


def test_a_part_without_a_window_is_refused_with_its_dates():
    corpus = corpus_of("D", [0], [40])
    region = DateCuts(test_from="2023-02-10").parts(corpus).test
    with pytest.raises(DataError, match=r"no test window .* from 2023-02-10 on, a series has at most 1 rows \("):
        rolling_origins(corpus, prediction_length=3, region=region)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), data=st.data())
def test_parts_by_steps_give_the_same_origins_as_steps(lengths, data):
    v, t, stride = data.draw(st.integers(3, 12)), data.draw(st.integers(3, 12)), data.draw(st.integers(1, 5))
    corpus = Corpus.from_arrays("m", [(f"{k}", np.ones((1, n)), None) for k, n in enumerate(lengths)], ["x"])
    parts = StepCuts(v, t).parts(corpus)
    for split in ("validation", "test"):
        found = []
        for where in ({"validation_steps": v, "test_steps": t}, {"region": getattr(parts, split)}):
            try:
                options = {"split": split, "prediction_length": 3, "num_windows": 4, "stride": stride}
                found.append(list(rolling_origins(corpus, **options, **where)))
            except DataError:
                found.append([])
        assert found[0] == found[1]
