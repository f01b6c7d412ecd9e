"""Series whose values follow a calendar: the day of the week and of the year, month ends, holidays, hours of the day.

# N series of a block, T steps, D days, H bins of a day

Effects multiply the rate of a day, from which steps of any frequency are made: an hour takes its share of the day, a
week, month or quarter sums its days. So a month has its own length, weekdays, holidays and leap day.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from foretrain.data.synthetic.axis import (
    EDGE,
    FIRST_YEAR,
    LAST_YEAR,
    MIDDLE,
    Holidays,
    axis_stamps,
    days,
    drawn_starts,
    rows_of,
    step_days,
    supported,
    weeks_of,
)
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
    deviation,
    log_between,
    pick_by,
    whole_between,
)
from foretrain.errors import DataError
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import DAY, HOUR, MINUTE, Frequency, IntArray

_BEFORE, _AFTER = 10, 5  # days around a holiday that it can change
_HARMONICS = 3  # of the smooth season of the year
_TOGETHER = 1 << 20  # days, or steps if these are shorter, that are drawn at once
_MOST_YEARS = 100 * 366  # days of a series whose frequency is drawn
_BUMPS = 3  # of a day's profile


class Calendar(Generator):
    """Rates or levels with calendar effects at a drawn frequency; on an axis that is given, they follow its stamps.

    Ranges called deviations are standard deviations of the logarithm of an effect's factors; log-uniform.

    Attributes:
        frequencies: with their chances, for series without an axis; those that span over a century are left out.
        absent: share of series without an effect, drawn for each effect.
        week: deviation over the days of the week.
        weekend: added to the logarithm of Saturdays and Sundays, in half of the series.
        closed: share of series that are 0 at weekends and holidays.
        hours: deviation over the hours of a day.
        daylight: share of intraday series that follow a bell of daylight; shut: share that are 0 outside some hours.
        clock_changes: share of intraday series whose day begins an hour earlier in summer.
        year: deviation over the days of a year.
        edges: deviation over first and last days of months; twice as much where a quarter ends.
        holidays: fewest and most holidays of a year.
        holiday: effect on the logarithm on the day itself.
        around: deviation of the effect on days before and after, which fades with the distance.
        growth: movement of the logarithm of the level from start to end.
        walk: deviation of the level's random walk at its end.
        noise: deviation of the noise, a part of which lasts.
        averages: share of series whose weeks, months and quarters are averages of days instead of sums.
        additive: share of series whose effects are added to a level instead of multiplied.
        counts: share of the others that are Poisson counts.
        level: of a day; log-uniform.
    """

    kind: Literal["calendar"] = "calendar"
    frequencies: dict[str, float] = Field(
        default={"15min": 0.1, "30min": 0.1, "h": 0.2, "D": 0.25, "B": 0.1, "W": 0.1, "ME": 0.1, "QE": 0.05},
        min_length=1,
    )
    absent: Share = 0.25
    week: PositiveRange = (0.03, 0.5)
    weekend: Range = (-1.2, 0.7)
    closed: Share = 0.1
    hours: PositiveRange = (0.1, 1.0)
    daylight: Share = 0.1
    shut: Share = 0.1
    clock_changes: Share = 0.3
    year: PositiveRange = (0.05, 0.6)
    edges: PositiveRange = (0.03, 0.4)
    holidays: Counts = (0, 12)
    holiday: Range = (-1.5, 1.0)
    around: PositiveRange = (0.02, 0.3)
    growth: Range = (-0.8, 1.2)
    walk: PositiveRange = (0.02, 0.6)
    noise: PositiveRange = (0.01, 0.4)
    averages: Share = 0.3
    additive: Share = 0.3
    counts: Share = 0.2
    level: PositiveRange = (0.1, 10_000.0)

    @field_validator("frequencies")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for freq, weight in value.items():
            try:
                supported(freq)
            except DataError as error:
                raise ValueError(str(error)) from None
            if not 0 < weight < float("inf"):
                raise ValueError(f"the chance of {freq!r} is {weight:g}; it must be above 0")
        return value

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws, each at a frequency and from a start of its own."""
        known = {supported(freq): weight for freq, weight in self.frequencies.items()}
        fitting = [f for f in known if length * step_days(f) <= _MOST_YEARS] or [min(known, key=step_days)]
        which = pick_by(rng, [known[frequency] for frequency in fitting], count)
        out = np.empty((count, length))
        for place, frequency in enumerate(fitting):
            rows = np.flatnonzero(which == place)
            if rows.size:
                starts = drawn_starts(rng, len(rows), frequency, length)
                out[rows] = self.draw_on(rng, starts, frequency, length)
        return out

    def draw_on(self, rng: np.random.Generator, starts: IntArray, frequency: Frequency, length: int) -> Floats:
        """Return (N, length) draws whose steps are those of a frequency from `starts` (N,)."""
        together = max(1, int(_TOGETHER / (length * max(1.0, step_days(frequency)))))
        pieces = [starts[row : row + together] for row in range(0, len(starts), together)]
        return np.concatenate([self._draw_on(rng, piece, frequency, length) for piece in pieces])

    def _draw_on(self, rng: np.random.Generator, starts: IntArray, frequency: Frequency, length: int) -> Floats:
        count = len(starts)
        rate = self.rates(rng, starts, frequency, length)
        t = np.linspace(0.0, 1.0, length)
        walk = np.cumsum(rng.standard_normal((count, length)), axis=1) / np.sqrt(length)
        path = between(rng, self.growth, count, 1) * t + log_between(rng, self.walk, count, 1) * walk
        noise = self._noise(rng, count, length)
        level = log_between(rng, self.level, count, 1)
        product = level * rate * np.exp(path + noise)
        counted = chance(rng, self.counts, count) & (product.max(axis=1) < 1e9)
        product[counted] = rng.poisson(product[counted])
        rows = np.flatnonzero(chance(rng, self.additive, count))
        effect = rate[rows] - rate[rows].mean(axis=1, keepdims=True)
        base = between(rng, (-3.0, 3.0), len(rows), 1)
        product[rows] = level[rows] * (base + effect + path[rows] + noise[rows])
        return product

    def rates(self, rng: np.random.Generator, starts: IntArray, frequency: Frequency, length: int) -> Floats:
        """Return (N, length) the product of the effects, about 1 at a typical step, 0 where a series is closed."""
        if frequency.micros is not None and frequency.micros % DAY:
            return self._of_day(rng, starts, frequency.micros, length)
        if frequency.kind == "business":
            day = axis_stamps(starts, frequency, length) // DAY
            daily = self.daily(rng, day[:, 0], int((day[:, -1] - day[:, 0]).max()) + 1)
            return np.take_along_axis(daily, day - day[:, :1], axis=1)
        first, last = _periods(starts, frequency, length)
        daily = self.daily(rng, first[:, 0], int((last[:, -1] - first[:, 0]).max()))
        if frequency.micros == DAY:
            return daily
        total = np.zeros((len(starts), daily.shape[1] + 1))
        np.cumsum(daily, axis=1, out=total[:, 1:])
        sums = np.take_along_axis(total, last - first[:, :1], axis=1)
        sums -= np.take_along_axis(total, first - first[:, :1], axis=1)
        whole = np.maximum(sums, 0.0)  # differences of a cumulated sum can fall below 0 by round-off
        averaged = chance(rng, self.averages, len(starts), 1)
        return whole / np.where(averaged, last - first, step_days(frequency))

    def daily(self, rng: np.random.Generator, first: IntArray, count: int) -> Floats:
        """Return (N, D) rates of the days from day numbers `first` (N,)."""
        series, table = len(first), days()
        week = self._present(rng, series) * log_between(rng, self.week, series, 1) * rng.standard_normal((series, 7))
        week[:, 5:] += chance(rng, 0.5, series, 1) * between(rng, self.weekend, series, 1)
        closed = chance(rng, self.closed, series)
        week[closed, 5:] = -np.inf
        week = np.take_along_axis(week, (grid.weekday(first)[:, None] + np.arange(7)) % 7, axis=1)
        edges = self._present(rng, series) * log_between(rng, self.edges, series, 1)
        edge = edges * self._edge_shape(rng, series)
        year = self._present(rng, series) * log_between(rng, self.year, series, 1) * self._year_shape(rng, series)
        rate = np.tile(np.exp(week), (1, count // 7 + 1))[:, :count]
        rate *= np.take_along_axis(np.exp(edge), rows_of(table.edge, first, count), axis=1)
        rate *= np.take_along_axis(np.exp(year), rows_of(table.year_day, first, count), axis=1)
        self._change_holidays(rng, rate, first, closed)
        return rate

    def _present(self, rng: np.random.Generator, count: int) -> Floats:
        """Return (N, 1): 0 for the series without an effect, else 1."""
        return np.where(chance(rng, self.absent, count, 1), 0.0, 1.0)

    @staticmethod
    def _edge_shape(rng: np.random.Generator, count: int) -> Floats:
        """Return (N, classes of Days.edge) effects of month ends: strongest at the edge, stronger as a quarter ends."""
        fade = rng.uniform(0.2, 0.9, (count, 1)) ** np.arange(EDGE)
        start, end = rng.standard_normal((2, count, 1)) * fade
        usual = np.concatenate([start, end, np.zeros((count, 1))], axis=1)
        assert usual.shape[1] == MIDDLE + 1
        quarter = usual.copy()
        quarter[:, EDGE:MIDDLE] *= rng.uniform(1.0, 2.0, (count, 1))
        return np.concatenate([usual, quarter], axis=1)

    @staticmethod
    def _year_shape(rng: np.random.Generator, count: int) -> Floats:
        """Return (N, 366) of unit deviation: a few harmonics, in some series with steps from month to month."""
        angle = 2 * np.pi * np.arange(366) / 366
        waves = [f(k * angle) / k**0.7 for k in range(1, _HARMONICS + 1) for f in (np.sin, np.cos)]
        smooth = np.einsum("nk,kd->nd", rng.standard_normal((count, len(waves))), np.stack(waves))
        month = np.repeat(np.arange(12), [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
        rough = rng.standard_normal((count, 12))[:, month]
        shape = smooth + np.where(chance(rng, 0.4, count, 1), rng.uniform(0.3, 2.0, (count, 1)), 0.0) * rough
        return (shape - shape.mean(axis=1, keepdims=True)) / deviation(shape)

    def _change_holidays(self, rng: np.random.Generator, rate: Floats, first: IntArray, closed: np.ndarray) -> None:
        """Multiply daily rates (N, D) by the holidays' effects, in place."""
        count, length = rate.shape
        numbers = whole_between(rng, self.holidays, count)
        distance = np.arange(-_BEFORE, _AFTER + 1)
        year = first.astype("M8[D]").astype("M8[Y]").astype(np.int64) + 1970 - 1
        years = min(length // 365 + 3, int(LAST_YEAR + 1 - year.max()))
        assert year.min() >= FIRST_YEAR
        for k in range(self.holidays[1]):
            rows = np.flatnonzero(numbers > k)
            n = len(rows)
            dates = Holidays.drawn(rng, n).dates(year[rows], years)
            sides = rng.standard_normal((2, n, 1)) * log_between(rng, self.around, n, 1) * chance(rng, 0.5, n, 1)
            faded = np.exp(-np.abs(distance) / rng.uniform(0.7, 5.0, (n, 1)))
            effect = np.where(distance < 0, sides[0], sides[1]) * faded
            effect[:, _BEFORE] = np.where(closed[rows], -np.inf, between(rng, self.holiday, n))
            place = (dates - first[rows, None])[:, :, None] + distance
            series, when, offset = np.nonzero((place >= 0) & (place < length))
            # dates of a holiday lie further apart than its effect reaches, so no day is met twice
            rate[rows[series], place[series, when, offset]] *= np.exp(effect)[series, offset]

    def _of_day(self, rng: np.random.Generator, starts: IntArray, step: int, length: int) -> Floats:
        """Return (N, length) rates of steps of `step` microseconds: a day's rate times the profile of its hours."""
        count, table = len(starts), days()
        first = starts // DAY
        clock = (starts - first * DAY)[:, None] + step * np.arange(length, dtype=np.int64)
        spanned = int(clock.max() // DAY) + 2  # an hour can be added below
        if (moved := np.flatnonzero(chance(rng, self.clock_changes, count))).size:
            summer = rows_of(table.summer, first[moved], spanned)
            clock[moved] += HOUR * np.take_along_axis(summer, clock[moved] // DAY, axis=1)
        daily = self.daily(rng, first, spanned)
        width = max(step, MINUTE) if step < 15 * MINUTE and DAY % max(step, MINUTE) == 0 else 15 * MINUTE
        work, rest = self.profiles(rng, count, DAY // width)
        weekend = rows_of(table.weekday, first, spanned) > 4
        day = clock // DAY
        bin_ = (clock - day * DAY) // width
        place = bin_ + np.take_along_axis(weekend, day, axis=1) * work.shape[1]
        profile = np.take_along_axis(np.concatenate([work, rest], axis=1), place, axis=1)
        return profile * np.take_along_axis(daily, day, axis=1)

    def profiles(self, rng: np.random.Generator, count: int, bins: int) -> tuple[Floats, Floats]:
        """Return the profiles (N, H) of working days and of weekends, of mean 1: peaks, daylight or opening hours."""
        hour = (np.arange(bins) + 0.5) / bins
        work, rest = self._peaks(rng, count, hour), self._peaks(rng, count, hour)
        mixed = chance(rng, 0.7, count, 1) * rng.uniform(0.0, 1.0, (count, 1))
        rest = (1.0 - mixed) * work + mixed * rest
        height = self._present(rng, count) * log_between(rng, self.hours, count, 1)
        found = [np.exp(height * shape) for shape in (work, rest)]
        kind = rng.random((count, 1))
        middle, width = rng.uniform(0.35, 0.65, (count, 1)), rng.uniform(0.25, 0.65, (count, 1))
        distance = np.abs(hour - middle) / width
        inside = np.where(distance < 0.5, 1.0, 0.0)
        light = inside * np.cos(np.pi * np.minimum(distance, 0.5)) ** rng.uniform(0.7, 2.5, (count, 1))
        lit, shut = kind < self.daylight, kind > 1.0 - self.shut
        found = [np.where(lit, light, np.where(shut, inside * shape, shape)) for shape in found]
        work, rest = (shape / shape.mean(axis=1, keepdims=True) for shape in found)
        return work, rest

    @staticmethod
    def _peaks(rng: np.random.Generator, count: int, hour: Floats) -> Floats:
        """Return (N, H) of unit deviation: one to three peaks or dips at any hour, some of them rough."""
        shape = np.zeros((count, len(hour)))
        number = rng.integers(1, _BUMPS, (count, 1), endpoint=True)
        for k in range(_BUMPS):
            sharp = log_between(rng, (0.7, 15.0), count, 1)
            height = (number > k) * rng.normal(1.0, 0.7, (count, 1))
            shape += height * np.exp(sharp * (np.cos(2 * np.pi * (hour - rng.random((count, 1)))) - 1.0))
        rough = rng.standard_normal((count, 24))[:, (hour * 24).astype(np.int64)]
        shape += chance(rng, 0.5, count, 1) * rng.uniform(0.02, 0.25, (count, 1)) * rough
        return (shape - shape.mean(axis=1, keepdims=True)) / deviation(shape)

    def _noise(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (N, T) noise of which a part lasts, with a few outliers in some series."""
        fresh = rng.standard_normal((count, length))
        lasting = rng.uniform(0.0, 0.9, (count, 1))
        slow = autoregression(fresh[:, ::-1], lasting) * np.sqrt(1.0 - lasting**2)
        share = rng.uniform(0.0, 1.0, (count, 1))
        noise = (1.0 - share) * fresh + share * slow
        outlier = chance(rng, 0.3, count, 1) & (rng.random((count, length)) < 0.005)
        return log_between(rng, self.noise, count, 1) * np.where(outlier, 4.0 * noise, noise)


def _periods(starts: IntArray, frequency: Frequency, length: int) -> tuple[IntArray, IntArray]:
    """Return the day numbers (N, T) at which steps of days, weeks or months begin, and the first ones after them.

    Stamps of weeks and of frequencies that end in E are the last days of their steps, the others the first ones.
    """
    at_end = weeks_of(frequency) or frequency.base.endswith("E")
    edges = axis_stamps(starts, frequency, length + 1) // DAY
    if not at_end:
        return edges[:, :-1], edges[:, 1:]
    before = 2 * edges[:, :1] - edges[:, 1:2] if frequency.months is None else _month_before(edges[:, :1], frequency)
    return np.concatenate([before, edges[:, :-2]], axis=1) + 1, edges[:, :-1] + 1


def _month_before(day: IntArray, frequency: Frequency) -> IntArray:
    assert frequency.months is not None
    month = day.astype("M8[D]").astype("M8[M]").astype(np.int64) + 1 - frequency.months
    return month.astype("M8[M]").astype("M8[D]").astype(np.int64) - 1
