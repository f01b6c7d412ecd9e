"""Stamps of coming sessions, against days and hours that are known of exchanges."""

from __future__ import annotations

import builtins

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import ConfigError, DataError
from foretrain.notes import Code
from foretrain.timeaxis.exchange import Exchange

NEW_YORK = "America/New_York"
# the sessions around Christmas 2023 and New Year, as the New York Stock Exchange announced them
SESSIONS = pd.bdate_range("2023-11-01", "2024-01-31").drop(["2023-11-23", "2023-12-25", "2024-01-01", "2024-01-15"])


def following(name: str, past: pd.DatetimeIndex, horizon: int) -> pd.DatetimeIndex:
    return Exchange(name).following(past, np.zeros(1, np.int64), ["acme"], horizon)


def hours(side: str, zone: str | None = None) -> pd.DatetimeIndex:
    """Half-hour bars of New York's sessions, those of November 24 until one o'clock."""
    parts = []
    for day in SESSIONS:
        closes = "13h" if day == pd.Timestamp("2023-11-24") else "16h"
        whole = pd.date_range(day + pd.Timedelta("9h30min"), day + pd.Timedelta(closes), freq="30min")
        parts.append({"begin": whole[:-1], "end": whole[1:], "begin and close": whole}[side])
    joined = parts[0].append(parts[1:])
    return joined if zone is None else joined.tz_localize(NEW_YORK).tz_convert(zone)


CONVENTIONS = {
    "local": lambda times: times,
    "UTC without a zone": lambda times: times.tz_localize(NEW_YORK).tz_convert("UTC").tz_localize(None),
    "UTC": lambda times: times.tz_localize(NEW_YORK).tz_convert("UTC"),
    "New York": lambda times: times.tz_localize(NEW_YORK),
    "Tokyo": lambda times: times.tz_localize(NEW_YORK).tz_convert("Asia/Tokyo"),
}


@pytest.mark.parametrize("side", ["begin", "end", "begin and close"])
@pytest.mark.parametrize("convention", list(CONVENTIONS))
def test_bars_follow_holidays_and_early_closes_in_the_frames_own_terms(side, convention):
    whole = CONVENTIONS[convention](hours(side))
    for rows in (205, 560):
        found = following("NYSE", whole[rows - 100 : rows], 40)
        assert list(found) == list(whole[rows : rows + 40])


@pytest.mark.parametrize("clock", ["0h", "16h"])
@pytest.mark.parametrize("convention", list(CONVENTIONS))
def test_days_follow_holidays_in_the_frames_own_terms(convention, clock):
    whole = CONVENTIONS[convention](SESSIONS + pd.Timedelta(clock))
    found = following("XNYS", whole[:30], 20)
    assert list(found) == list(whole[30:50])


def test_dates_marked_as_utc_stay_dates():
    whole = SESSIONS.tz_localize("UTC")
    assert list(following("XNYS", whole[:30], 20)) == list(whole[30:50])


def test_a_pause_at_noon_has_no_bars():
    past = pd.date_range("2024-06-18 13:05", "2024-06-18 15:00", freq="5min").append(
        pd.date_range("2024-06-19 09:35", "2024-06-19 11:20", freq="5min")
    )
    found = following("XSHG", past, 3)
    assert [str(time) for time in found] == ["2024-06-19 11:25:00", "2024-06-19 11:30:00", "2024-06-19 13:05:00"]


def test_bars_named_by_the_clock_keep_their_names():
    """Some vendors name the bar of 9:30 to 10:00 by its hour."""
    names = np.concatenate(
        [np.array([9, 10, 11, 12, 13, 14, 15]) * np.timedelta64(1, "h") + day for day in SESSIONS[30:40].to_numpy()]
    )
    past = pd.DatetimeIndex(names)
    found = following("XNYS", past, 2)
    assert list(found) == [SESSIONS[40] + pd.Timedelta("9h"), SESSIONS[40] + pd.Timedelta("10h")]


def test_every_item_has_its_own_terms_and_a_few_rows_follow_the_longest():
    local, utc = hours("begin"), CONVENTIONS["UTC without a zone"](hours("begin"))
    times = local[:100].append([utc[:90], local[103:104]])
    found = Exchange("XNYS").following(times, np.array([0, 100, 190]), ["a", "b", "c"], 4)
    assert list(found) == [*local[100:104], *utc[90:94], *local[104:108]]


def test_stamps_that_are_not_the_exchanges_are_named():
    with pytest.raises(
        DataError, match=r"'acme': \d\d% of its newest 100 stamps fit no session of XTKS, first 2023-11-01"
    ):
        following("XTKS", hours("begin")[:100], 4)


def test_bars_of_a_week_are_refused():
    with pytest.raises(DataError, match="'acme' has bars of several sessions"):
        following("XNYS", SESSIONS[SESSIONS.day_of_week == 2], 4)


def test_a_horizon_beyond_the_known_sessions_is_refused():
    past = pd.bdate_range("2024-03-01", "2024-03-29")
    with pytest.raises(
        DataError, match=r"sessions of XSHG are known until 20\d\d-12-31 only, which is \d+ of 3000 steps"
    ):
        following("XSHG", past, 3000)


def test_an_unknown_calendar_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'NYSSE' is not one that exchange_calendars knows. Did you mean 'NYSE'\?"):
        Exchange("NYSSE")


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments):
        if name == "exchange_calendars":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"pip install \"foretrain\[market\]\""):
        Exchange("XNYS")


def test_a_history_that_another_exchange_would_have_is_reported(logged_notes):
    """Shanghai's bars fit New York's hours but for the pause at noon; Chinese holidays are sessions elsewhere."""
    days = [day for day in SESSIONS if day.month == 1][:15]
    parts = [("9h30min", "11h30min"), ("13h", "15h")]
    shanghai = pd.DatetimeIndex(
        [
            stamp
            for day in days
            for begin, end in parts
            for stamp in pd.date_range(day + pd.Timedelta(begin), day + pd.Timedelta(end), freq="5min")[1:]
        ]
    )
    following("XSHG", shanghai, 5)
    following("XNYS", hours("end")[:100], 5)
    following("XNYS", SESSIONS, 5)
    assert not logged_notes()
    following("XNYS", shanghai, 5)
    (note,) = logged_notes()
    assert note.code == Code.CALENDAR_DOUBTFUL and "XNYS: it has no bar from 11:35 to 13:00" in note.text
    following("XNYS", SESSIONS.append(pd.DatetimeIndex(["2023-12-25"])).sort_values(), 5)
    (note,) = logged_notes()
    assert note.code == Code.CALENDAR_DOUBTFUL
    assert "1 of its newest 63 stamps fit no session, first 2023-12-25" in note.text
    thin = hours("end")[np.random.default_rng(0).random(len(hours("end"))) < 0.4]
    following("XNYS", thin, 5)  # bars without trades are missing here and there, no part of every day
    assert not logged_notes()
