"""Faults of stated size that market_rules.py plants in real series, by the rule that must find each."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from market_series import Bars

from foretrain.data.market import detect
from foretrain.timeaxis.frequency import DAY, HOUR

DAILY = 23 * HOUR
APART = 400  # bars between two plants of one series
MOST = 6  # plants of a series
Planted = tuple[Bars, list[set[int]]]  # the series, and for each plant the stamps of which one must be found


def places(rng: np.random.Generator, one: Bars, *, room: int = 40) -> np.ndarray:
    """Return bars of a series, far apart, at which a fault is planted."""
    count = min(MOST, max(1, (len(one.times) - 2 * room) // APART))
    cells = np.linspace(room, len(one.times) - room - 1, count + 1).astype(int)
    return np.array([rng.integers(a, max(a + 1, b - (b - a) // 4)) for a, b in itertools.pairwise(cells)])


def spike(rng: np.random.Generator, one: Bars) -> Planted:
    """A close, or the whole bar, 8 to 16 robust deviations of the moves around it off, back with the next bar."""
    values, planted = one.values.copy(), []
    scale = detect.local_scale(detect.moves(values[3]))
    for at in places(rng, one):
        factor = np.exp(rng.choice([-1, 1]) * rng.uniform(8, 16) * scale[at])
        if rng.random() < 0.5:
            values[:4, at] *= factor
        else:
            values[3, at] *= factor
            values[1, at], values[2, at] = np.fmax(values[1, at], values[3, at]), np.fmin(values[2, at], values[3, at])
        planted.append({int(one.times[at])})
    return replace(one, values=values), planted


def stale(rng: np.random.Generator, one: Bars) -> Planted:
    """Ten daily bars, or thirty shorter ones or ones without an open, with the prices of the bar before; all trade."""
    values, planted = one.values.copy(), []
    for at in places(rng, one):
        count = 10 if is_daily(one) and np.isfinite(values[:4, at - 1 : at + 10]).all() else 30
        if (values[4, at : at + count] == 0).any() and np.mean(values[4] > 0) > 0.5:
            continue
        values[:4, at : at + count] = values[:4, at - 1 : at]
        planted.append({int(one.times[at + count - 1])})
    return replace(one, values=values), planted


def split(ratio: float) -> Callable[[np.random.Generator, Bars], Planted]:
    """Splits that no column records: earlier prices times the ratio, earlier volumes divided by it.

    At the opening of sessions where the ratio is at least six usual moves of a session, and, for two or less, the price
    at least half of the highest of the 250 bars before. Below 4.5 in series with volumes.
    """

    def plant(rng: np.random.Generator, one: Bars) -> Planted:
        if ratio < 4.5 and not np.mean(one.values[4] > 0) > 0.8:  # without volumes the rule says nothing
            return one, []
        opens = np.flatnonzero(np.diff(one.times // DAY)) + 1
        usual = detect.local_scale(detect.moves(one.values[3, opens - 1]))
        place = np.unique(np.minimum(np.searchsorted(opens, places(rng, one)), len(opens) - 1))
        place = place[np.diff(place, prepend=-60) >= 60]  # sessions: the rule looks at a hundred around a bar
        values, close, planted = one.values.copy(), one.values[3].astype(np.float64), []
        for at, scale in zip(opens[place].tolist(), usual[place].tolist(), strict=True):
            fallen = close[at - 1] < 0.5 * close[max(0, at - 250) : at].max()
            if abs(np.log(ratio)) >= 6 * scale and not (fallen and 1 < ratio <= 2):
                values[:4, :at] *= ratio
                values[4, :at] /= ratio
                planted.append({int(one.times[at])})
        return replace(one, values=values), planted

    return plant


def without(one: Bars, rows: np.ndarray) -> Bars:
    keep = np.ones(len(one.times), bool)
    keep[rows] = False
    return replace(one, times=one.times[keep], values=one.values[:, keep])


def missing_session(rng: np.random.Generator, one: Bars) -> Planted:
    """A whole session, or of intraday bars one bar inside a session, is left out."""
    chosen = places(rng, one)
    if np.median(np.diff(one.times)) < DAY:  # not at an opening or a close
        day = one.times // DAY
        chosen = np.array([at for at in chosen if day[at - 1] == day[at] == day[at + 1]], int)
    # the gap is reported at the row after it, or as the missing stamp itself
    planted = [{int(one.times[at + 1]), int(one.times[at])} for at in chosen]
    return without(one, chosen), planted


def missing_bar(rng: np.random.Generator, one: Bars) -> Planted:
    """A bar inside a day is left out, where none of the twenty bars before and after it is without a range."""
    flat = np.concatenate([[0], np.cumsum(one.values[1] == one.values[2])])
    chosen = np.array([at for at in places(rng, one) if flat[at + 21] == flat[at - 20]], int)
    if np.median(np.diff(one.times)) < DAY:  # not at an opening or a close
        day = one.times // DAY
        chosen = chosen[(day[chosen - 1] == day[chosen]) & (day[chosen] == day[chosen + 1])]
    return without(one, chosen), [{int(one.times[at + 1])} for at in chosen]


def outage(rng: np.random.Generator, one: Bars) -> Planted:
    """Ten bars are left out, a hundred where a tenth of all bars have no move; of a market without an exchange.

    In series of five days at least, at hours of which three in four slots have a bar, and within a session.
    """
    count = 100 if np.mean(one.values[1] == one.values[2]) >= 0.1 else 10
    if one.times[-1] - one.times[0] < 5 * DAY:
        return one, []
    chosen = places(rng, one, room=110)[:: count // 10 // 3 or 1]  # of a hundred, two or so: a tenth of all at most
    slots = (one.times[chosen + count] - one.times[chosen - 1]) / np.median(np.diff(one.times))
    chosen = chosen[count >= 0.75 * slots]
    planted = [{int(one.times[at + count])} for at in chosen]
    return without(one, (chosen[:, None] + np.arange(count)).ravel()), planted


def phantom_session(rng: np.random.Generator, one: Bars, taken: set[int]) -> Planted:
    """A bar on a weekday on which the market was closed: the last close again, without volume.

    taken: days on which a peer has a bar, or one planted, which are left out and added to: another would not be alone.
    """
    days = one.times // DAY
    closed = np.setdiff1d(np.arange(days[0], days[-1]), days)
    closed = closed[((closed + 3) % 7 < 5) & (closed > days[5]) & ~np.isin(closed, list(taken))]
    if not len(closed):
        return one, []
    chosen = np.sort(rng.choice(closed, min(2, len(closed)), replace=False))
    taken.update(chosen.tolist())
    place = np.searchsorted(days, chosen)
    filled = np.stack([one.values[3, place - 1]] * 4 + [np.zeros(len(place), np.float32)])
    stamps = chosen * DAY + one.times[0] % DAY
    values = np.insert(one.values, place, filled, axis=1)
    return replace(one, times=np.insert(one.times, place, stamps), values=values), [{int(t)} for t in stamps]


def repeated(rng: np.random.Generator, one: Bars) -> Planted:
    """A bar with all prices and the volume of the bar before it, one that traded and spans more than two ticks."""
    values, planted = one.values.copy(), []
    spans, ticks = values[1].astype(np.float64) - values[2], smallest_changes(one)
    for at in places(rng, one):
        wide = spans[at - 1] > 2.5 * ticks[at - 1]
        if wide and values[4, at - 1] > 0 and np.isfinite(values[:, at - 1]).all():
            values[:, at] = values[:, at - 1]
            planted.append({int(one.times[at])})
    return replace(one, values=values), planted


def smallest_changes(one: Bars) -> np.ndarray:
    """Return (T,) the smallest change of the close in a hundred bars around each: a tick."""
    changes = pd.Series(np.abs(np.diff(one.values[3].astype(np.float64), prepend=np.nan)))
    return changes.where(changes > 0).rolling(101, center=True, min_periods=1).min().to_numpy()


def moved_clock(rng: np.random.Generator, one: Bars) -> Planted:
    """The stamps of ten whole sessions are an hour later or earlier, or of ten daily bars an hour later.

    Of sessions with many bars, a tenth of all days is moved.
    """
    times, days = one.times.copy(), np.unique(one.times // DAY)
    planted: list[set[int]] = []
    for number in range(1 if is_daily(one) else max(1, len(days) // 100)):
        first = int(rng.integers(5, len(days) - 15)) if number == 0 and len(days) < 200 else 100 * number + 45
        chosen = np.isin(one.times // DAY, days[first : first + 10])
        times[chosen] += HOUR if is_daily(one) else int(rng.choice([-1, 1])) * HOUR
        if is_daily(one):
            planted += [{int(t)} for t in times[chosen]]
            continue
        found, counts = np.unique(one.times[chosen] // DAY, return_counts=True)
        whole = found[counts == np.median(counts)]  # half days have other hours, and are no part of a plant
        planted += [set(times[chosen & (one.times // DAY == day)].tolist()) for day in whole]
    return replace(one, times=times), planted


def duplicate(rng: np.random.Generator, one: Bars) -> Planted:
    """A session given twice, the second time with prices half a percent higher."""
    at = places(rng, one)
    values = np.insert(one.values, at, one.values[:, at] * np.float32(1.005), axis=1)
    return replace(one, times=np.insert(one.times, at, one.times[at]), values=values), [{int(t)} for t in one.times[at]]


def volume(value: float) -> Callable[[np.random.Generator, Bars], Planted]:
    """A bar with this volume, in a series that records volumes."""

    def plant(rng: np.random.Generator, one: Bars) -> Planted:
        if np.mean(one.values[4] > 0) < 0.85:
            return one, []
        at, values = places(rng, one), one.values.copy()
        values[4, at] = value
        return replace(one, values=values), [{int(t)} for t in one.times[at]]

    return plant


def swapped(rng: np.random.Generator, one: Bars) -> Planted:
    """High and low of a bar change places."""
    at, values = places(rng, one), one.values.copy()
    at = at[values[1, at] > values[2, at]]
    values[1:3, at] = values[2:0:-1, at]
    return replace(one, values=values), [{int(t)} for t in one.times[at]]


def with_events(one: Bars) -> Bars:
    """Return a series with dividends of half a percent every quarter, and no split."""
    paid = np.zeros(len(one.times), np.float32)
    paid[60::63] = 0.005 * one.values[3, 60::63]
    return replace(one, values=np.concatenate([one.values, [paid, np.ones_like(paid)]]).astype(np.float32))


def wrong_dividend(rng: np.random.Generator, one: Bars) -> Planted:
    """A dividend a hundred times too large, of 0.95 to 3 times the close before."""
    one = with_events(one)
    at, values = places(rng, one), one.values.copy()
    values[5, at] = rng.uniform(0.95, 3.0, len(at)) * values[3, at - 1]
    return replace(one, values=values), [{int(t)} for t in one.times[at]]


@dataclass(frozen=True)
class Kind:
    """One kind of plant: the rule that must find it, and the sources it is planted in."""

    rule: str
    title: str
    plant: Callable[..., Planted]
    fits: Callable[[Bars], bool]
    exchange: bool = False


def is_daily(one: Bars) -> bool:
    return float(np.median(np.diff(one.times))) >= DAILY


def any_bars(one: Bars) -> bool:
    return True


def with_sessions(one: Bars) -> bool:
    return one.calendar is not None and not is_daily(one)


def listed(one: Bars) -> bool:
    return one.calendar is not None and is_daily(one)


def with_peers(one: Bars) -> bool:
    """Return True for sources with two listed series or more on most days."""
    return listed(one) and one.source not in ALONE


def with_many_peers(one: Bars) -> bool:
    """Return True for sources with six listed series or more on any day."""
    few = ("datareader_2021", "us_lean_unadjusted_1998_2021", "cn_hikyuu_1990_2011", "backtrader")
    return with_peers(one) and one.source not in few


def on_exchange(one: Bars) -> bool:
    """Return True for sources that have all sessions of their exchange."""
    return one.source in ("yahoo_2020", "us_stocknet_2012_2017", "sse_5min", *FRESH_LISTED) or with_sessions(one)


def never_closed(one: Bars) -> bool:
    return one.calendar is None and not is_daily(one)


def slow(one: Bars) -> bool:
    """Return True for bars of a quarter of an hour to a day of a market that never closes."""
    return one.calendar is None and float(np.median(np.diff(one.times))) >= HOUR // 4 and one.source not in ALONE


FRESH_LISTED = ("backtrader", "stock_prediction_models", "pyalgotrade", "yfinance")
ALONE = ("pyalgotrade", "quandl_wiki", "stockstats", "tdx", "yfinance", "vix", "eia", "vega", "pandas_ta",
         "backtesting", "gym_anytrading", "oanda_daily")  # fmt: skip


KINDS = (
    Kind("spike", "close or bar 8 to 16 robust deviations off, back with the next bar", spike, any_bars),
    Kind("stale_price", "ten whole daily bars that trade, or thirty others, like the one before", stale, any_bars),
    Kind("split_like_jump", "2:1, not recorded", split(2.0), listed),
    Kind("split_like_jump", "3:1, not recorded", split(3.0), listed),
    Kind("split_like_jump", "3:2, not recorded", split(1.5), listed),
    Kind("split_like_jump", "1:10, not recorded", split(0.1), listed),
    Kind("split_like_jump", "2:1, not recorded, bars within sessions", split(2.0), with_sessions),
    Kind("gap", "a session left out, known by peers", missing_session, with_peers),
    Kind("gap", "a session or an intraday bar left out, known by the exchange", missing_session, on_exchange, True),
    Kind("gap", "ten bars left out, a hundred of thin markets, five days, no exchange", outage, never_closed),
    Kind("gap", "a bar of 15 minutes to a day left out, twenty with a range on each side", missing_bar, slow),
    Kind("closed_session", "a filled bar on a holiday, known by peers", phantom_session, with_many_peers),
    Kind("closed_session", "a filled bar on a holiday, known by the exchange", phantom_session,
         lambda one: listed(one) and on_exchange(one), True),
    Kind("repeated_bar", "prices and volume of the bar before, more than two ticks wide", repeated, any_bars),
    Kind("clock_shift", "ten sessions an hour off, intraday", moved_clock, with_sessions),
    Kind("clock_shift", "ten daily stamps an hour off", moved_clock, is_daily),
    Kind("duplicate_timestamp", "a session twice, 0.5 % apart", duplicate, any_bars),
    Kind("zero_volume", "volume 0", volume(0.0), any_bars),
    Kind("negative_volume", "volume -1", volume(-1.0), any_bars),
    Kind("ohlc_inconsistent", "high and low exchanged", swapped, any_bars),
    Kind("corporate_action", "a dividend of 0.95 to 3 closes", wrong_dividend, listed),
)  # fmt: skip
