"""Candles of made-up markets: open, high, low, close, volume and amount of every bar.

# N series of a block, T bars, S pieces of a bar

A bar's path has SUBSTEPS pieces with independent normal moves. The highest and lowest price within a piece follow the
law of a Brownian bridge's extremes, so high and low are those of a continuous path. All prices are then rounded to
ticks and to float32 by the same monotone maps, which keep low <= open, close <= high.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from foretrain.data.synthetic.axis import axis_stamps, drawn_starts, step_days
from foretrain.data.synthetic.base import (
    Counts,
    Floats,
    Generator,
    PositiveRange,
    Range,
    Share,
    autoregression,
    between,
    chance,
    log_between,
    whole_between,
)
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import DAY, MINUTE, Frequency, IntArray

COLUMNS = ("open", "high", "low", "close", "volume", "amount")
PRICES = COLUMNS[:4]
SUBSTEPS = 4
Market = Literal["one_session", "long_session", "two_sessions", "always"]
# trading hours as (opening, closing) minutes of the day: of the New York, Frankfurt and Shanghai exchanges
SESSIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "one_session": ((570, 960),),
    "long_session": ((540, 1050),),
    "two_sessions": ((570, 690), (780, 900)),
    "always": ((0, 1440),),
}
_FREQUENCIES = ("5min", "15min", "30min", "h", "D", "B", "B", "W")  # of series without an axis
_TOGETHER = 1 << 19  # bars that are simulated at once
_MOST_MOVE = 1.2  # standard deviations of the logarithm of the last price that a series' calm volatility may reach

Mask = npt.NDArray[np.bool_]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clock:
    """Place of bars in their trading days.

    Attributes, all but the last (N, T):
        opens: True for the first bar of a trading day, before which there is an overnight gap.
        busy: how much more is traded at this time of the day than on average; 0 for bars of a day or more.
        nights: days since the bar before, 1 for weekdays and 3 over a weekend.
        days: length of a bar in trading days.
    """

    opens: Mask
    busy: Floats
    nights: Floats
    days: float


class Candles(Generator):
    """Bars of geometric random walks with stochastic volatility, regimes, jumps and gaps, and volume that follows them.

    Attributes:
        markets: trading hours of intraday series, with equal chances (SESSIONS).
        volatility: standard deviation of a day's logarithmic return in a calm regime; log-uniform.
        wild: factor of the volatility in the other regime; regime: mean bars until it changes; both log-uniform.
        clustering: standard deviation of the logarithm of the volatility inside a regime.
        leverage: correlation of a bar's return with the change of the volatility after it.
        trend: largest drift of a trending spell, in deviations of a bar.
        jumps: chance of a jump in a bar; log-uniform; in deviations of a bar: jump.
        gap: deviation of the overnight gap, in deviations of a day.
        smile: how much more volatility and volume intraday bars have at the ends of a session than in its middle; of
            markets that never close, in the busy hours.
        price: first price; log-uniform.
        digits: decimal places of the tick below the first digit of the first price.
        volume: of a typical bar; log-uniform; follow: growth of its logarithm with that of the bar's move.
        fractional: share of series whose volume is no whole number.
        halted: share of series with halts; halt: bars of one.
        idle: share of series in which single bars have no trade.
    """

    kind: Literal["candles"] = "candles"
    markets: tuple[Market, ...] = Field(default=("one_session", "long_session", "two_sessions", "always"), min_length=1)
    volatility: PositiveRange = (0.004, 0.03)
    wild: PositiveRange = (1.2, 3.0)
    regime: PositiveRange = (30.0, 1_000.0)
    clustering: Range = (0.1, 0.6)
    leverage: Range = (-0.6, 0.2)
    trend: Range = (0.0, 0.1)
    jumps: PositiveRange = (0.0003, 0.02)
    jump: PositiveRange = (2.5, 8.0)
    gap: Range = (0.1, 0.8)
    smile: Range = (0.4, 1.6)
    price: PositiveRange = (0.0001, 100_000.0)
    digits: Counts = (2, 6)
    volume: PositiveRange = (30.0, 30_000_000.0)
    follow: Range = (0.2, 0.9)
    fractional: Share = 0.3
    halted: Share = 0.1
    halt: Counts = (1, 30)
    idle: Share = 0.1

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) closes of markets with bars of different lengths."""
        which = rng.integers(0, len(_FREQUENCIES), count)
        out = np.empty((count, length))
        for place, freq in enumerate(_FREQUENCIES):
            rows = np.flatnonzero(which == place)
            if rows.size:
                out[rows] = self.bars(rng, len(rows), Frequency.parse(freq), length)[0][:, 3]
        return out

    def draw_on(self, rng: np.random.Generator, starts: IntArray, frequency: Frequency, length: int) -> Floats:
        """Return (N, length) closes on a regular axis; intraday markets trade around the clock."""
        return self.simulate(rng, axis_stamps(starts, frequency, length), frequency, "always")[:, 3].astype(np.float64)

    def bars(self, rng: np.random.Generator, count: int, frequency: Frequency, length: int) -> tuple[Singles, IntArray]:
        """Return the columns (count, 6, length) and the stamps (count, length) of bars, which are their starts.

        Intraday bars lie in the sessions of weekdays of one of the markets, or around the clock.
        """
        starts = drawn_starts(rng, count, frequency, length)
        market = rng.integers(0, len(self.markets), count)
        values = np.empty((count, len(COLUMNS), length), np.float32)
        times = np.empty((count, length), np.int64)
        for place, name in enumerate(self.markets if is_intraday(frequency) else ("always",)):
            rows = np.flatnonzero(market == place) if is_intraday(frequency) else np.arange(count)
            if rows.size:
                times[rows] = session_stamps(starts[rows], frequency, length, name)
                values[rows] = self.simulate(rng, times[rows], frequency, name)
        return values, times

    def simulate(self, rng: np.random.Generator, times: IntArray, frequency: Frequency, market: str) -> Singles:
        """Return the columns (N, 6, T) of bars with stamps (N, T)."""
        count, length = times.shape
        together = max(1, _TOGETHER // length)
        pieces = [times[row : row + together] for row in range(0, count, together)]
        return np.concatenate([self._simulate(rng, clock_of(piece, frequency, market)) for piece in pieces])

    def _simulate(self, rng: np.random.Generator, clock: Clock) -> Singles:
        count, length = clock.opens.shape
        shocks = rng.standard_normal((SUBSTEPS, count, length), np.float32)
        relative, regime = self._volatility(rng, shocks.sum(axis=0) / np.sqrt(SUBSTEPS), clock)
        daily = log_between(rng, self.volatility, count, 1)
        sigma = np.minimum(daily * np.sqrt(clock.days), _MOST_MOVE / np.sqrt(length))
        spread = (sigma * relative / np.sqrt(SUBSTEPS)).astype(np.float32)
        moves = shocks
        moves *= spread
        moves += (self._drift(rng, count, length) * sigma / SUBSTEPS).astype(np.float32)
        self._add_jumps(rng, moves, sigma)
        move, high, low, average = _path(rng, moves, spread)
        gaps = self._gaps(rng, clock, sigma, spread * np.sqrt(SUBSTEPS))
        opened = np.cumsum(gaps + move, axis=1) - move  # logarithm, from the first price
        first = log_between(rng, self.price, count, 1)
        open_price = first * np.exp(opened)
        prices = open_price[:, None] * np.exp(np.stack([np.zeros_like(move), high, low, move], axis=1))
        volume = self._volume(rng, clock, np.abs(move) / sigma, regime)
        return self._finished(rng, prices, open_price * np.exp(average), volume, first)

    def _volatility(self, rng: np.random.Generator, shocks: Floats, clock: Clock) -> tuple[Floats, Floats]:
        """Return the factor of each bar's volatility (N, T), and its logarithm without the smile of the session."""
        count, length = shocks.shape
        stay = np.exp(-1.0 / log_between(rng, self.regime, count, 1))
        switches = np.cumsum(rng.random((count, length)) > stay, axis=1) + rng.integers(0, 2, (count, 1))
        log_factor = (switches % 2) * np.log(log_between(rng, self.wild, count, 1))
        leverage = between(rng, self.leverage, count, 1)
        change = np.sqrt(1.0 - leverage**2) * rng.standard_normal((count, length))
        change[:, 1:] += leverage * shocks[:, :-1]
        memory = np.exp(-1.0 / log_between(rng, (4.0, 100.0), count, 1))
        cluster = autoregression(change, memory) * np.sqrt(1.0 - memory**2)
        log_factor = log_factor + between(rng, self.clustering, count, 1) * cluster
        smile = between(rng, self.smile, count, 1) * clock.busy
        return np.exp(np.clip(log_factor, -2.5, 2.5) + 0.5 * smile), log_factor

    def _drift(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (N, T) the drift of spells that go up, down or nowhere, in deviations of a bar."""
        stay = np.exp(-1.0 / log_between(rng, self.regime, count, 1))
        spell = np.cumsum(rng.random((count, length)) > stay, axis=1, dtype=np.int64)
        kinds = rng.integers(-1, 2, (count, int(spell.max()) + 1))
        return between(rng, self.trend, count, 1) * np.take_along_axis(kinds, spell, axis=1)

    def _add_jumps(self, rng: np.random.Generator, moves: Singles, sigma: Floats) -> None:
        """Add jumps to pieces of bars, in place."""
        pieces, count, length = moves.shape
        rate = log_between(rng, self.jumps, count, 1)
        series, bar = np.nonzero(rng.random((count, length)) < rate)
        size = log_between(rng, self.jump, len(series)) * np.where(chance(rng, 0.5, len(series)), 1.0, -1.0)
        moves[rng.integers(0, pieces, len(series)), series, bar] += size * sigma[series, 0]

    def _gaps(self, rng: np.random.Generator, clock: Clock, sigma: Floats, deviation: Floats) -> Floats:
        """Return (N, T) logarithmic gaps between a close and the next open: nights, weekends, and next to none else."""
        count, length = deviation.shape
        night = between(rng, self.gap, count, 1) * sigma / np.sqrt(min(clock.days, 1.0))
        usual = rng.uniform(0.0, 0.05, (count, 1)) * deviation
        spread = np.where(clock.opens, night * clock.nights**0.25, usual)
        return spread * rng.standard_normal((count, length))

    def _volume(self, rng: np.random.Generator, clock: Clock, move: Floats, regime: Floats) -> Floats:
        """Return (N, T) volumes before rounding: they last, and rise with the move, with volatility and at the ends."""
        count, length = move.shape
        memory = rng.uniform(0.5, 0.98, (count, 1))
        activity = autoregression(rng.standard_normal((count, length)), memory) * np.sqrt(1.0 - memory**2)
        log_volume: Floats = rng.uniform(0.2, 0.8, (count, 1)) * activity
        log_volume = log_volume + rng.uniform(0.1, 0.5, (count, 1)) * regime
        log_volume += between(rng, self.follow, count, 1) * np.log(0.3 + move)
        log_volume += between(rng, self.smile, count, 1) * clock.busy
        log_volume += rng.normal(0.0, 0.7, (count, 1)) * np.linspace(0.0, 1.0, length)
        log_volume += rng.uniform(0.05, 0.4, (count, 1)) * rng.standard_normal((count, length))
        return log_between(rng, self.volume, count, 1) * np.exp(np.clip(log_volume, -8.0, 8.0))

    def _finished(
        self, rng: np.random.Generator, prices: Floats, average: Floats, volume: Floats, first: Floats
    ) -> Singles:
        """Return the columns (N, 6, T) from prices (N, 4, T): ticks, bars without trade, float32."""
        count, length = volume.shape
        tick: Floats = np.power(10.0, np.floor(np.log10(first)) - whole_between(rng, self.digits, count, 1))
        prices = np.maximum(np.round(prices / tick[:, None]), 1.0) * tick[:, None]
        whole = ~chance(rng, self.fractional, count, 1)
        volume = np.where(whole, np.round(volume), volume)
        volume = np.where(self._without_trade(rng, count, length), 0.0, volume)
        traded = volume > 0
        traded[:, 0] = True  # the first bar has a price before it to repeat only if it is traded
        volume[:, 0] = np.maximum(volume[:, 0], 1.0)
        latest = np.maximum.accumulate(np.where(traded, np.arange(length), 0), axis=1)
        close = np.take_along_axis(prices[:, 3], latest, axis=1)
        out = np.empty((count, len(COLUMNS), length), np.float32)
        out[:, :4] = np.where(traded[:, None], prices, close[:, None])
        out[:, 4] = volume
        out[:, 5] = out[:, 4].astype(np.float64) * np.clip(average, out[:, 2], out[:, 1])
        return out

    def _without_trade(self, rng: np.random.Generator, count: int, length: int) -> Mask:
        """Return (N, T) True for bars of halts and idle ones."""
        rare = chance(rng, self.idle, count, 1) * log_between(rng, (0.005, 0.3), count, 1)
        empty = rng.random((count, length)) < rare
        bars = np.arange(length)
        for row in np.flatnonzero(chance(rng, self.halted, count)):
            begin, lasts = rng.integers(0, length), whole_between(rng, self.halt, 1)[0]
            empty[row] |= (bars >= begin) & (bars < begin + lasts)
        return empty


def bars_per_session(frequency: Frequency, markets: Iterable[Market]) -> int | None:
    """Return the bars of a trading day, None if markets differ in it."""
    if not is_intraday(frequency):
        return 1
    found = {len(session_minutes(frequency, market)) for market in markets}
    return found.pop() if len(found) == 1 else None


def is_intraday(frequency: Frequency) -> bool:
    """Return True for bars shorter than a day."""
    return frequency.micros is not None and frequency.micros < DAY


def session_minutes(frequency: Frequency, market: str) -> IntArray:
    """Return the minutes of the day at which the bars of a market begin."""
    assert frequency.micros is not None
    step = max(1, frequency.micros // MINUTE)
    return np.concatenate([np.arange(opening, closing, step) for opening, closing in SESSIONS[market]])


def session_stamps(starts: IntArray, frequency: Frequency, length: int, market: str) -> IntArray:
    """Return the (N, T) stamps of bars from days and places in the day of `starts` (N,): inside the sessions."""
    if not is_intraday(frequency) or market == "always":
        return axis_stamps(starts, frequency, length)
    minutes = session_minutes(frequency, market)
    day = starts // DAY
    first = ((starts - day * DAY) * len(minutes)) // DAY  # the start's place in the day becomes one in the session
    number = first[:, None] + np.arange(length)
    date = grid.stamps((day * DAY)[:, None], "B", number // len(minutes))
    return date + minutes[number % len(minutes)] * MINUTE


def clock_of(times: IntArray, frequency: Frequency, market: str) -> Clock:
    """Return where bars with these stamps (N, T) lie in the days of a market."""
    day = times // DAY
    nights = np.ones(times.shape)
    if not is_intraday(frequency):
        days = max(1.0, step_days(frequency) * (5 / 7 if frequency.base != "D" else 1.0))
        nights[:, 1:] = np.minimum(np.diff(day, axis=1), 3.0) if frequency.kind == "business" else 1.0
        return Clock(np.full(times.shape, frequency.base != "D"), np.zeros(times.shape), nights, days)
    minutes = session_minutes(frequency, market)
    place = (np.searchsorted(minutes, (times - day * DAY) // MINUTE) + 0.5) / len(minutes)
    opens = np.zeros(times.shape, bool)
    if market == "always":  # busiest in the afternoon of Greenwich, when Europe and America are awake
        return Clock(opens, 0.5 * np.sin(2 * np.pi * (place - 0.36)), nights, 1.0 / len(minutes))
    nights[:, 1:] = np.clip(np.diff(day, axis=1), 1.0, 3.0)
    opens[:, 1:] = np.diff(day, axis=1) > 0
    return Clock(opens, _smile(place), nights, 1.0 / len(minutes))


def _smile(place: Floats) -> Floats:
    """Return how much more is traded at a place (0 to 1) of a session than on average: high ends, the opening most."""
    return 1.2 * np.exp(-place / 0.12) + 0.8 * np.exp(-(1.0 - place) / 0.12) - 0.25


def _path(rng: np.random.Generator, moves: Singles, spread: Singles) -> tuple[Singles, Singles, Singles, Singles]:
    """Return the last, highest, lowest and mean place (N, T) of Brownian paths that begin at 0, from moves (S, N, T).

    spread: (N, T) deviation of a move. The maximum m of a bridge from a to b has P(m > x) = exp(-2 (x - a) (x - b) /
    spread**2); the minimum is its mirror image (Karatzas and Shreve 1991, 4.3.40).
    """
    place = np.zeros_like(spread)
    high, low, total = place, place, place
    variance = 2.0 * spread**2
    for move in moves:
        middle = place + 0.5 * move
        up, down = (0.5 * np.sqrt(move**2 + variance * rng.standard_exponential(move.shape, np.float32)) for _ in "hl")
        place = place + move
        # round-off must not leave an end of the piece outside
        high = np.maximum(high, np.maximum(middle + up, place))
        low = np.minimum(low, np.minimum(middle - down, place))
        total = total + middle
    return place, high, low, total / np.float32(len(moves))
