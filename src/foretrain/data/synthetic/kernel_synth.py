"""KernelSynth: Gaussian processes with random sums and products of simple kernels, drawn through low-rank factors.

The recipe is that of Chronos (arXiv 2403.07815, appendix A.2). There every series costs a dense factorisation of its
(T, T) covariance. Here each kernel K of the bank is factored once as F F' with a pivoted Cholesky decomposition, which
stops at a residual variance of TOLERANCE: all kernels but white noise have few columns. Then
    sum of kernels:      independent draws are added,
    product of kernels:  draws of the row-wise Kronecker product of their factors, contracted factor by factor,
    with white noise:    independent noise with the kernels' variances.
So a draw has the covariance of the expression, up to TOLERANCE, at a cost linear in T.

# T steps, R rank of a kernel
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np
import numpy.typing as npt

from foretrain.data.synthetic.base import Counts, Floats, Generator, Share, chance, seasons_for, whole_between

TOLERANCE = 1e-6  # residual variance of a factored kernel, relative to its largest variance
_MOST_STEPS = 32_768  # sum of the lengths whose factors are held: about 4 kB a step
OFFICIAL_LENGTH = 1024  # the length whose fractions Chronos' periods are
OFFICIAL_PERIODS = (24, 48, 96, 168, 336, 672, 7, 14, 30, 60, 365, 730, 4, 26, 52, 4, 6, 12, 4, 40, 10)
_MOST_COLUMNS = 10_000  # of a row-wise Kronecker product that is contracted at once
_TILE, _VECTOR_TILE = 1 << 18, 9216  # multiplications that OpenBLAS leaves to one thread; vectors
_NARROWEST = 64  # columns of a tile

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """One kernel of the bank: its kind and one parameter, in steps where it is a distance or a period."""

    kind: Literal["periodic", "linear", "smooth", "rational", "constant", "white"]
    value: float = 1.0

    def __call__(self, first: Floats, second: Floats, length: int) -> Floats:
        """Return the covariance of steps `first` with steps `second`, which broadcast; 0 between steps if white.

        Time runs from 0 to 1 over the length; formulas as in scikit-learn's kernels of these names.
        """
        gap = first - second
        span = max(length - 1, 1)
        if self.kind == "periodic":  # ExpSineSquared with length scale 1
            return np.exp(-2.0 * np.sin(np.pi * gap / self.value) ** 2)
        if self.kind == "linear":  # DotProduct
            return self.value**2 + (first / span) * (second / span)
        if self.kind == "smooth":  # RBF
            return np.exp(-0.5 * (gap / (self.value * span)) ** 2)
        if self.kind == "rational":  # RationalQuadratic with length scale 1
            return (1.0 + (gap / span) ** 2 / (2.0 * self.value)) ** -self.value
        if self.kind == "constant":
            return np.full(np.broadcast_shapes(np.shape(first), np.shape(second)), self.value)
        return self.value * (gap == 0)


class KernelSynth(Generator):
    """Gaussian processes of random kernels.

    Attributes:
        kernels: fewest and most kernels of a series.
        periods_in_steps: share of periods counted in steps (SEASONS); the others are Chronos' fractions of the series.
        add: chance that the next kernel is added; else it is multiplied.
    """

    kind: Literal["kernel_synth"] = "kernel_synth"
    kernels: Counts = (1, 5)
    periods_in_steps: Share = 0.5
    add: Share = 0.5

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        bank, stepped = _bank(length)
        factors = _factors(length)
        out = np.empty((count, length))
        numbers = whole_between(rng, self.kernels, count)
        for i in range(count):
            chosen = rng.integers(0, len(bank), numbers[i])
            in_steps = chance(rng, self.periods_in_steps, numbers[i])
            added = chance(rng, self.add, numbers[i])
            kernels = [
                stepped[rng.integers(0, len(stepped))] if swap and bank[k].kind == "periodic" else bank[k]
                for k, swap in zip(chosen, in_steps, strict=True)
            ]
            out[i] = sum(factors.draw(rng, term) for term in terms(kernels, added))
        return out


def _bank(length: int) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Return Chronos' bank of 33 kernels at a length, and periodic kernels with periods in steps."""
    bank = (
        *(Kernel("periodic", period * length / OFFICIAL_LENGTH) for period in OFFICIAL_PERIODS),
        *(Kernel("linear", sigma) for sigma in (0.0, 1.0, 10.0)),
        *(Kernel("smooth", scale) for scale in (0.1, 1.0, 10.0)),
        *(Kernel("rational", alpha) for alpha in (0.1, 1.0, 10.0)),
        *(Kernel("white", noise) for noise in (0.1, 1.0)),
        Kernel("constant"),
    )
    return bank, tuple(Kernel("periodic", float(period)) for period in seasons_for(length))


def terms(kernels: list[Kernel], added: np.ndarray) -> list[tuple[Kernel, ...]]:
    """Return the products whose sum is ((k0 op k1) op k2) ...; op is + where `added`, else *; added[0] has no use."""
    found: list[tuple[Kernel, ...]] = [(kernels[0],)]
    for kernel, plus in zip(kernels[1:], added[1:], strict=True):
        found = [*found, (kernel,)] if plus else [(*term, kernel) for term in found]
    return found


class Factors:
    """Factors of kernels at one length."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.steps = np.arange(length, dtype=np.float64)
        self._held: dict[Kernel, Singles] = {}

    def draw(self, rng: np.random.Generator, term: tuple[Kernel, ...]) -> Floats:
        """Return (T,) a draw of the Gaussian process whose kernel is the product of `term`."""
        smooth = tuple(k for k in term if k.kind not in ("white", "constant"))
        scale = float(np.prod([k.value for k in term if k.kind in ("white", "constant")]))
        if any(k.kind == "white" for k in term):  # no covariance between steps is left
            variance = np.prod([k(self.steps, self.steps, self.length) for k in smooth], axis=0) if smooth else 1.0
            return np.sqrt(scale * variance) * rng.standard_normal(self.length)
        if not smooth:
            return np.full(self.length, np.sqrt(scale) * rng.standard_normal())
        parts = sorted((self.factor(kernel) for kernel in smooth), key=len)
        return np.sqrt(scale) * _product_draw(rng, parts)

    def factor(self, kernel: Kernel) -> Singles:
        """Return F' (R, T) with F F' equal to the kernel up to TOLERANCE."""
        if kernel not in self._held:
            self._held[kernel] = pivoted_cholesky(kernel, self.steps, self.length).astype(np.float32)
        return self._held[kernel]


def _product_draw(rng: np.random.Generator, parts: list[Singles]) -> Singles:
    """Return (T,) F z, where F is the row-wise Kronecker product of factors (R, T), the shortest first.

    The last factor is contracted by a matrix product, then the others one by one. Of more than _MOST_COLUMNS columns,
    the first factor's are taken one at a time, so that memory stays small.
    """
    ranks = [len(part) for part in parts]
    if len(parts) > 1 and np.prod(ranks) > _MOST_COLUMNS:
        return sum(row * _product_draw(rng, parts[1:]) for row in parts[0])  # type: ignore[return-value]
    drawn = _matmul(rng.standard_normal((int(np.prod(ranks[:-1])), ranks[-1]), np.float32), parts[-1])
    for part in reversed(parts[:-1]):
        drawn = np.einsum("art,rt->at", drawn.reshape(-1, *part.shape), part)
    return drawn[0]


def _matmul(left: Singles, right: Singles) -> Singles:
    """Return left (M, R) @ right (R, T), in tiles so small that OpenBLAS computes each with one thread.

    The last bits of a product depend on how threads share it, and series must not.
    """
    rank, length = right.shape
    out = np.empty((len(left), length), np.float32)
    high = max(1, _TILE // (_NARROWEST * rank))
    for top in range(0, len(left), high):
        rows = left[top : top + high]
        most = (_TILE if len(rows) > 1 else _VECTOR_TILE) // rows.size
        wide = max(1, most // _NARROWEST) * _NARROWEST
        for first in range(0, length, wide):
            np.matmul(rows, right[:, first : first + wide], out=out[top : top + high, first : first + wide])
    return out


def pivoted_cholesky(kernel: Kernel, steps: Floats, length: int) -> Floats:
    """Return F' (R, T) with F F' equal to the covariance of a kernel, until no variance above TOLERANCE is left.

    Harbrecht, Peters and Schneider 2012. The columns of the covariance are computed as they are needed.
    """
    left = kernel(steps, steps, length)
    least = TOLERANCE * left.max()
    rows = list[Floats]()
    while len(rows) < length and left.max() > least:
        pivot = int(left.argmax())
        row = kernel(steps, steps[pivot], length)
        for before in rows:
            row = row - before[pivot] * before
        row = row / np.sqrt(left[pivot])
        left = np.maximum(left - row**2, 0.0)
        left[pivot] = 0.0
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((1, length))


class _Cache:
    """Factors of the lengths that were used last, _MOST_STEPS steps in all; threads may share it."""

    def __init__(self) -> None:
        self._held: dict[int, Factors] = {}
        self._lock = Lock()

    def __call__(self, length: int) -> Factors:
        with self._lock:
            found = self._held.pop(length, None) or Factors(length)
            self._held[length] = found  # the newest is the last
            while len(self._held) > 1 and sum(self._held) > _MOST_STEPS:
                del self._held[next(iter(self._held))]
            return found


_factors = _Cache()
