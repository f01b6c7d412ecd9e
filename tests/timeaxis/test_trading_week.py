"""Bars that follow a market's hours, against days laid out by pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.data.store import Corpus
from foretrain.timeaxis.trading_week import continue_bars, missing_bars

AHEAD = 30
WEEKDAYS = pd.bdate_range("2024-01-02", "2024-04-30")


def micros(stamps) -> np.ndarray:
    return pd.DatetimeIndex(stamps).tz_localize(None).as_unit("us").asi8


def market(
    step: str,
    opens: str,
    closes: str,
    *,
    pause=None,
    days=WEEKDAYS,
    zone=None,
    closed: str = "left",
) -> np.ndarray:
    """Stamps of a market that trades from opens to closes on the given days; in UTC where it has a zone."""
    parts = []
    for day in days:
        bars = pd.date_range(day + pd.Timedelta(opens), day + pd.Timedelta(closes), freq=step, inclusive=closed)
        if pause:
            inside = (bars > day + pd.Timedelta(pause[0])) & (bars <= day + pd.Timedelta(pause[1]))
            bars = bars[~inside]
        parts.append(bars)
    joined = parts[0].append(parts[1:])
    return micros(joined if zone is None else joined.tz_localize(zone).tz_convert("UTC"))


HOLIDAYS = WEEKDAYS.drop(["2024-01-15", "2024-02-19", "2024-03-29"])
MARKETS = {
    "5 minutes with a pause at noon": market("5min", "9h30min", "15h", pause=("11h30min", "13h"), closed="right"),
    "an hour that begins at half past": market("1h", "9h30min", "16h"),
    "ends of hours around a noon pause": np.sort(
        np.concatenate([market("1h", "10h30min", "11h30min", closed="both"), market("1h", "14h", "15h", closed="both")])
    ),
    "days": micros(pd.bdate_range("2023-01-02", "2024-04-30")),
    "days that end at four": micros(pd.bdate_range("2023-01-02", "2024-04-30") + pd.Timedelta("16h")),
    "Sunday to Thursday": micros([d for d in pd.date_range("2023-01-01", "2024-04-30") if d.day_of_week not in (4, 5)]),
    "foreign exchange": micros(
        [
            h
            for h in pd.date_range("2023-10-01", "2024-04-30", freq="h")
            if not (h.day_of_week == 5 or (h.day_of_week == 4 and h.hour >= 21) or (h.day_of_week == 6 and h.hour < 21))
        ]
    ),
    "a session over midnight of UTC": market("15min", "10h", "16h", zone="Australia/Brisbane"),
}


@pytest.mark.parametrize("context", [60, 130, 400])
@pytest.mark.parametrize("name", list(MARKETS))
def test_bars_continue_in_the_market_s_hours(name, context):
    times = MARKETS[name]
    if name == "foreign exchange":
        context += 120  # a market without nights shows its week only in a week
    for cutoff in range(context, min(len(times), context + 1100) - AHEAD, 53):
        found = continue_bars(times[cutoff - context : cutoff], AHEAD)
        assert found is not None, cutoff
        np.testing.assert_array_equal(found, times[cutoff : cutoff + AHEAD], err_msg=str(cutoff))


def test_holidays_and_half_days_do_not_disturb_the_week():
    times = market("5min", "9h30min", "16h", days=HOLIDAYS)
    half = micros(["2024-02-23"])[0]
    times = times[~((times > half + 13 * 3_600_000_000) & (times < half + 86_400_000_000))]
    for last in ("2024-02-20 10:00", "2024-02-23 12:55", "2024-02-26 15:00", "2024-03-01 15:55"):
        cutoff = int(np.searchsorted(times, micros([last])[0], side="right"))
        found = continue_bars(times[cutoff - 400 : cutoff], AHEAD)
        whole = market("5min", "9h30min", "16h")
        after = whole[np.searchsorted(whole, times[cutoff - 1], side="right") :]
        assert found is not None and np.array_equal(found, after[:AHEAD]), last


@pytest.mark.parametrize("last", ["2024-03-11 15:30", "2024-03-12 13:30", "2024-03-14 16:00", "2024-03-20 14:00"])
def test_utc_stamps_follow_a_change_of_the_clocks(last):
    """New York's clocks changed on March 10: a session of 14:30 to 21:00 UTC became one of 13:30 to 20:00."""
    times = market("5min", "9h30min", "16h", zone="America/New_York")
    cutoff = int(np.searchsorted(times, micros([last])[0], side="right"))
    found = continue_bars(times[cutoff - 800 : cutoff], AHEAD)
    assert found is not None
    np.testing.assert_array_equal(found, times[cutoff : cutoff + AHEAD])


def test_what_never_closes_has_no_trading_week():
    hours = micros(pd.date_range("2024-01-01", periods=1000, freq="h"))
    assert continue_bars(hours, 3) is None
    assert continue_bars(np.delete(hours, [400, 401, 777]), 3) is None
    assert continue_bars(hours[:1], 3) is None


def test_stamps_without_a_pattern_have_no_trading_week():
    rng = np.random.default_rng(0)
    assert continue_bars(np.cumsum(rng.integers(1, 10**11, 400)), 3) is None
    assert continue_bars(micros(pd.date_range("2020-01-01", periods=40, freq="MS")), 3) is None


def test_missing_bars_are_counted_while_they_are_few():
    minutes = micros(pd.date_range("2024-01-01", periods=1000, freq="min"))
    step = 60_000_000
    assert missing_bars(np.delete(minutes, [5, 100, 101]), step) == 3
    assert missing_bars(np.delete(minutes, slice(100, 130)), step) is None
    assert missing_bars(np.delete(minutes, 5) + np.r_[np.zeros(500, int), np.full(499, 7)], step) is None
    assert missing_bars(np.delete(minutes[:40], 5), step) is None


def test_a_corpus_of_bars_continues_after_the_night():
    times = MARKETS["5 minutes with a pause at noon"][: 48 * 30]
    values = np.ones((1, len(times)), np.float32)
    for freq in (None, "5min"):
        corpus = Corpus.from_arrays("bars", [("a", values, times)], ["close"], time="stamps", freq=freq)
        found = corpus.future_times(0, 48)
        np.testing.assert_array_equal(found, MARKETS["5 minutes with a pause at noon"][len(times) : len(times) + 48])
