"""A mixture of generators: blocks of series that are pure functions of (settings, seed, block number).

# N series of a block, V columns, T steps
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.data.permutation import derive
from foretrain.data.synthetic.axis import MAX_DAYS, axis_stamps, drawn_starts, step_days, supported
from foretrain.data.synthetic.base import Generator, Range, Share, between, chance, pick_by
from foretrain.data.synthetic.calendar import Calendar
from foretrain.data.synthetic.candles import COLUMNS as CANDLES
from foretrain.data.synthetic.candles import Candles, is_intraday
from foretrain.data.synthetic.chaos import Chaos
from foretrain.data.synthetic.counts import Demand
from foretrain.data.synthetic.kernel_synth import KernelSynth
from foretrain.data.synthetic.linear_models import Arma, Smoothing
from foretrain.data.synthetic.multivariate import KINDS, Multivariate
from foretrain.data.synthetic.regimes import Regimes
from foretrain.data.synthetic.shapes import Shapes
from foretrain.data.synthetic.trend_season import TrendSeason
from foretrain.data.windows import KNOWN, PAST, TARGET, FloatArray, IntArray
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import MINUTE, Frequency

AnyGenerator = Annotated[
    KernelSynth | TrendSeason | Arma | Smoothing | Regimes | Demand | Shapes | Chaos | Calendar | Candles,
    Field(discriminator="kind"),
]
GENERATORS: tuple[type[Generator], ...] = get_args(get_args(AnyGenerator)[0])
BLOCK = 512  # series that are drawn together
MAX_LENGTH = 16_384
Places = npt.NDArray[np.int64]
Draw = Callable[[Generator, int], tuple[npt.NDArray[np.floating], IntArray | None]]
_TOGETHER = 1 << 21  # values that a generator draws at once: longer series of a block are drawn in pieces


class Lengths(Section):
    """Lengths of a share of the blocks, log-uniform between two ends, both included."""

    shortest: int = Field(ge=2, le=MAX_LENGTH)
    longest: int = Field(ge=2, le=MAX_LENGTH)
    share: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Lengths:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} exceeds longest {self.longest}")
        return self


class Layout(Section):
    """Rows of a series: targets, covariates of the past, and covariates known ahead."""

    targets: int = Field(default=1, ge=1)
    past: int = Field(default=0, ge=0)
    known: int = Field(default=0, ge=0)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.targets + self.past + self.known

    @property
    def roles(self) -> npt.NDArray[np.int8]:
        """(rows,) TARGET, PAST or KNOWN of each row."""
        return np.repeat(np.array([TARGET, PAST, KNOWN], np.int8), [self.targets, self.past, self.known])

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Names of the rows by role: `target`, or target_1, target_2 and so on; past_1 ..., known_1 ..."""
        targets = ("target",) if self.targets == 1 else tuple(f"target_{k + 1}" for k in range(self.targets))
        past, known = (
            tuple(f"{role}_{k + 1}" for k in range(n)) for role, n in (("past", self.past), ("known", self.known))
        )
        return targets, past, known


class Blend(Section):
    """Generators and their weights, and missing values.

    Attributes:
        generators: with their weights, which are shares of series relative to one another.
        missing: share of series with missing values.
        missing_fraction: of the values of such a series, half of them in one gap.
    """

    generators: tuple[AnyGenerator, ...] = Field(
        default=(
            KernelSynth(weight=0.22),
            TrendSeason(weight=0.28),
            Arma(weight=0.08),
            Smoothing(weight=0.13),
            Regimes(weight=0.06),
            Demand(weight=0.06),
            Shapes(weight=0.04),
            Chaos(weight=0.03),
            Calendar(weight=0.10),
        ),
        min_length=1,
    )
    missing: Share = 0.1
    missing_fraction: Range = (0.0, 0.3)

    @model_validator(mode="after")
    def _fraction_fits(self) -> Self:
        low, high = self.missing_fraction
        if low < 0 or high >= 1:
            raise ValueError(f"missing_fraction {list(self.missing_fraction)} must lie in [0, 1)")
        return self


class Mixture(Blend):
    """Settings of a mixture that is written to disk.

    Attributes:
        lengths: series lengths by share of blocks; all series of a block have one length.
        freq: frequency of the time axis, on which every series has a start of its own; None: no calendar. Only series
            of calendar and candles follow it.
        columns: candles: open, high, low, close, volume and amount, of generators of candles alone, whose closes are
            the target otherwise.
        layout: rows of a series; of more than one, the generators' series become groups by `multivariate`.
        multivariate: how the rows of a group depend on each other.
        seed: of all draws.
    """

    lengths: tuple[Lengths, ...] = Field(
        default=(
            Lengths(shortest=16, longest=96, share=0.45),
            Lengths(shortest=97, longest=320, share=0.3),
            Lengths(shortest=321, longest=640, share=0.25),
        ),
        min_length=1,
    )
    freq: str | None = None
    columns: Literal["target", "candles"] = "target"
    layout: Layout = Layout()
    multivariate: Multivariate = Multivariate()
    seed: int = 0

    @property
    def frequency(self) -> Frequency | None:
        """freq, parsed."""
        return None if self.freq is None else supported(self.freq)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of series of a block, which open the items' ids."""
        return KINDS if self.layout.rows > 1 else tuple(generator.kind for generator in self.generators)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.layout.rows == 1 and self.multivariate != Multivariate():
            raise ValueError("multivariate has no effect on series of one row; give layout more, or leave it out")
        if self.layout.rows > 1 and (self.freq is not None or self.columns == "candles"):
            raise ValueError("series of several rows have no calendar: leave freq and columns out, or layout")
        candles = [generator for generator in self.generators if isinstance(generator, Candles)]
        if self.columns == "candles" and len(candles) < len(self.generators):
            raise ValueError("columns: candles needs generators of kind candles alone; only they have these columns")
        if self.freq is not None:
            self._fits_axis(self.freq, candles)
        elif self.columns == "candles":
            raise ValueError("columns: candles needs a freq, such as B or 30min, on which bars lie")
        return self

    def _fits_axis(self, freq: str, candles: list[Candles]) -> None:
        try:
            frequency = supported(freq)
        except DataError as error:
            raise ValueError(str(error)) from None
        longest = max(bucket.longest for bucket in self.lengths)
        if longest * step_days(frequency) > MAX_DAYS:
            raise ValueError(
                f"{longest} steps of freq {freq!r} span {longest * step_days(frequency) / 365.25:.0f} years; at "
                f"most {MAX_DAYS // 366} fit. Shorten lengths, or leave freq out"
            )
        if any(isinstance(g, Calendar) and g.frequencies != Calendar().frequencies for g in self.generators):
            raise ValueError("frequencies of calendar series have no effect beside freq; leave one of them out")
        in_sessions = self.columns == "candles" and is_intraday(frequency)
        if in_sessions and (frequency.micros or 0) % MINUTE:
            raise ValueError(
                f"bars of freq {freq!r} are no whole minutes, as trading hours are; choose 5min, for example"
            )
        if not in_sessions and any(generator.markets != Candles().markets for generator in candles):
            raise ValueError("markets take effect with columns: candles and an intraday freq, or without a freq alone")


@dataclass(frozen=True)
class SeriesBlock:
    """Series of one length."""

    values: FloatArray  # (N, T), of several columns (N, V, T); NaN where missing; the first value of a row is observed
    generator: Places  # (N,) place of each series' generator in Mixture.generators; of groups their kind's in KINDS
    times: IntArray | None = None  # (N, T) stamps in microseconds, with a freq


def draw_block(mixture: Mixture, number: int, count: int = BLOCK) -> SeriesBlock:
    """Return a block; it depends on the mixture, its number and the count, and on nothing else."""
    rng = np.random.Generator(np.random.PCG64DXSM(derive(mixture.seed, number)))
    length = _length(mixture, rng)
    if mixture.layout.rows > 1:
        return _groups(mixture, rng, count, length)

    def draw(generator: Generator, count: int) -> tuple[npt.NDArray[np.floating], IntArray | None]:
        return _drawn(mixture, generator, rng, count, length)

    columns = (len(CANDLES),) if mixture.columns == "candles" else ()
    values, which, times = _blended(mixture, rng, count, (*columns, length), draw)
    remove_values(mixture, rng, values)
    return SeriesBlock(values, which, None if mixture.freq is None else times)


def draw_series(blend: Blend, rng: np.random.Generator, count: int, length: int) -> tuple[FloatArray, Places]:
    """Return (count, length) complete series, and (count,) the place of each one's generator, in random order."""

    def draw(generator: Generator, count: int) -> tuple[npt.NDArray[np.floating], None]:
        return generator.draw(rng, count, length), None

    return _blended(blend, rng, count, (length,), draw)[:2]


def _blended(
    blend: Blend, rng: np.random.Generator, count: int, shape: tuple[int, ...], draw: Draw
) -> tuple[FloatArray, Places, IntArray]:
    """Return values (count, *shape), the place of each series' generator, and stamps (count, T), 0 if none are drawn.

    draw(generator, n) returns n series and their stamps, or None.
    """
    which = np.sort(pick_by(rng, [generator.weight for generator in blend.generators], count))
    values, times = np.empty((count, *shape), np.float32), np.zeros((count, shape[-1]), np.int64)
    together = max(1, _TOGETHER // shape[-1])
    for place, generator in enumerate(blend.generators):
        rows = np.flatnonzero(which == place)
        for first in range(0, len(rows), together):
            piece = rows[first : first + together]
            values[piece], stamps = draw(generator, len(piece))
            if stamps is not None:
                times[piece] = stamps
    order = rng.permutation(count)
    return values[order], which[order], times[order]


def _drawn(
    mixture: Mixture, generator: Generator, rng: np.random.Generator, count: int, length: int
) -> tuple[npt.NDArray[np.floating], IntArray | None]:
    """Return values (N, T) or (N, V, T) of one generator, and with a freq their stamps (N, T)."""
    frequency = mixture.frequency
    if frequency is None:
        return generator.draw(rng, count, length), None
    if mixture.columns == "candles":
        assert isinstance(generator, Candles)
        return generator.bars(rng, count, frequency, length)
    starts = drawn_starts(rng, count, frequency, length)
    return generator.draw_on(rng, starts, frequency, length), axis_stamps(starts, frequency, length)


def _groups(mixture: Mixture, rng: np.random.Generator, count: int, length: int) -> SeriesBlock:
    """Return a block of groups of series; what is known ahead has no missing values."""

    def base(rng: np.random.Generator, count: int, length: int) -> npt.NDArray[np.float64]:
        return draw_series(mixture, rng, count, length)[0].astype(np.float64)

    layout = mixture.layout
    drawn, kinds = mixture.multivariate.draw_named(rng, count, length, layout.targets, layout.past, layout.known, base)
    values = drawn.astype(np.float32)
    unknown = values[:, : layout.rows - layout.known].reshape(-1, length)
    remove_values(mixture, rng, unknown)
    values[:, : layout.rows - layout.known] = unknown.reshape(count, -1, length)
    return SeriesBlock(values, kinds)


def _length(mixture: Mixture, rng: np.random.Generator) -> int:
    bucket = mixture.lengths[int(pick_by(rng, [bucket.share for bucket in mixture.lengths]))]
    drawn = np.exp(rng.uniform(np.log(bucket.shortest), np.log(bucket.longest + 1)))
    return min(max(int(drawn), bucket.shortest), bucket.longest)


def remove_values(blend: Blend, rng: np.random.Generator, values: FloatArray) -> None:
    """Set values to NaN in place: of a series' missing fraction one half in a gap, the other half here and there.

    Candles are missing whole.
    """
    rows = np.flatnonzero(chance(rng, blend.missing, len(values)))
    if not rows.size:
        return
    length = values.shape[-1]
    half = between(rng, blend.missing_fraction, len(rows), 1) / 2
    gap = np.floor(half * length)
    start = np.floor(rng.random((len(rows), 1)) * (length - gap))
    t = np.arange(length)
    gone = (rng.random((len(rows), length)) < half) | ((t >= start) & (t < start + gap))
    gone[:, 0] = False
    gone = gone if values.ndim == 2 else gone[:, None]
    values[rows] = np.where(gone, np.float32(np.nan), values[rows])
