"""A mixture of generators: blocks of series that are pure functions of (settings, seed, block number).

# N series of a block, T steps
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.data.permutation import derive
from foretrain.data.synthetic.base import Generator, Range, Share, between, chance
from foretrain.data.synthetic.chaos import Chaos
from foretrain.data.synthetic.counts import Demand
from foretrain.data.synthetic.kernel_synth import KernelSynth
from foretrain.data.synthetic.linear_models import Arma, Smoothing
from foretrain.data.synthetic.regimes import Regimes
from foretrain.data.synthetic.shapes import Shapes
from foretrain.data.synthetic.trend_season import TrendSeason
from foretrain.data.windows import FloatArray

AnyGenerator = Annotated[
    KernelSynth | TrendSeason | Arma | Smoothing | Regimes | Demand | Shapes | Chaos, Field(discriminator="kind")
]
GENERATORS: tuple[type[Generator], ...] = get_args(get_args(AnyGenerator)[0])
BLOCK = 512  # series that are drawn together
MAX_LENGTH = 16_384


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


class Mixture(Section):
    """Settings of a mixture.

    Attributes:
        generators: with their weights, which are shares of series relative to one another.
        lengths: series lengths by share of blocks; all series of a block have one length.
        missing: share of series with missing values.
        missing_fraction: of the values of such a series, half of them in one gap.
        seed: of all draws.
    """

    generators: tuple[AnyGenerator, ...] = Field(
        default=(
            KernelSynth(weight=0.25),
            TrendSeason(weight=0.32),
            Arma(weight=0.08),
            Smoothing(weight=0.14),
            Regimes(weight=0.07),
            Demand(weight=0.07),
            Shapes(weight=0.04),
            Chaos(weight=0.03),
        ),
        min_length=1,
    )
    lengths: tuple[Lengths, ...] = Field(
        default=(
            Lengths(shortest=16, longest=96, share=0.45),
            Lengths(shortest=97, longest=320, share=0.3),
            Lengths(shortest=321, longest=640, share=0.25),
        ),
        min_length=1,
    )
    missing: Share = 0.1
    missing_fraction: Range = (0.0, 0.3)
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> Mixture:
        low, high = self.missing_fraction
        if low < 0 or high >= 1:
            raise ValueError(f"missing_fraction {list(self.missing_fraction)} must lie in [0, 1)")
        return self


@dataclass(frozen=True)
class SeriesBlock:
    """Series of one length."""

    values: FloatArray  # (N, T), NaN where missing; the first value of a series is observed
    generator: npt.NDArray[np.int64]  # (N,) place of each series' generator in Mixture.generators


def draw_block(mixture: Mixture, number: int, count: int = BLOCK) -> SeriesBlock:
    """Return a block; it depends on the mixture, its number and the count, and on nothing else."""
    rng = np.random.Generator(np.random.PCG64DXSM(derive(mixture.seed, number)))
    length = _length(mixture, rng)
    weights = np.array([generator.weight for generator in mixture.generators])
    which = np.sort(rng.choice(len(weights), count, p=weights / weights.sum()))
    values = np.empty((count, length), np.float32)
    for place, generator in enumerate(mixture.generators):
        rows = np.flatnonzero(which == place)
        if rows.size:
            values[rows] = generator.draw(rng, len(rows), length)
    order = rng.permutation(count)
    values, which = values[order], which[order]
    _remove_values(mixture, rng, values)
    return SeriesBlock(values, which)


def _length(mixture: Mixture, rng: np.random.Generator) -> int:
    shares = np.array([bucket.share for bucket in mixture.lengths])
    bucket = mixture.lengths[rng.choice(len(shares), p=shares / shares.sum())]
    drawn = np.exp(rng.uniform(np.log(bucket.shortest), np.log(bucket.longest + 1)))
    return min(max(int(drawn), bucket.shortest), bucket.longest)


def _remove_values(mixture: Mixture, rng: np.random.Generator, values: FloatArray) -> None:
    """Set values to NaN in place: of a series' missing fraction one half in a gap, the other half here and there."""
    rows = np.flatnonzero(chance(rng, mixture.missing, len(values)))
    if not rows.size:
        return
    length = values.shape[1]
    half = between(rng, mixture.missing_fraction, len(rows), 1) / 2
    gap = np.floor(half * length)
    start = np.floor(rng.random((len(rows), 1)) * (length - gap))
    t = np.arange(length)
    gone = (rng.random((len(rows), length)) < half) | ((t >= start) & (t < start + gap))
    gone[:, 0] = False
    values[rows] = np.where(gone, np.float32(np.nan), values[rows])
