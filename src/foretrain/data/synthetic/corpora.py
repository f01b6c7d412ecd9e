"""Synthetic series for demos, tests and pretraining mixtures; series i does not depend on the number of series.

# N series, V variates, T steps

The provenance of these corpora is "synthetic", which reports state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.data.permutation import derive, hash64, uniform
from foretrain.data.store import Corpus
from foretrain.data.synthetic.base import provenance
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import DAY, SECOND, Frequency

Floats = npt.NDArray[np.float64]
Kind = Literal["seasonal", "trend", "random_walk", "ohlcv", "kernel", "mixed"]
OHLCV = ("open", "high", "low", "close", "volume")
START = 946_857_600_000_000  # Monday 3 January 2000, in microseconds
SESSION_OPEN = 9 * 3600 * SECOND + 1800 * SECOND  # 09:30
SESSION = 6 * 3600 * SECOND + 1800 * SECOND  # to 16:00
MAX_KERNEL_LENGTH = 2048  # a Gaussian process costs length**3


class SyntheticSpec(Section):
    """Settings of a synthetic corpus."""

    kind: Kind = "mixed"
    num_series: int = Field(default=64, gt=0)
    length: int = Field(default=512, gt=1)
    num_variates: int = Field(default=1, gt=0)  # "ohlcv" always has its five columns
    seed: int = 0
    freq: str | None = None  # None: "h", and "B" for ohlcv
    missing_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> SyntheticSpec:
        if self.kind == "ohlcv" and self.num_variates != 1:
            raise ValueError("ohlcv series have five columns; num_variates cannot take effect")
        if self.kind == "kernel" and self.length > MAX_KERNEL_LENGTH:
            raise ValueError(f"kernel series are at most {MAX_KERNEL_LENGTH} steps long")
        if self.freq is not None:
            try:
                Frequency.storable(self.freq)
            except DataError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def resolved_freq(self) -> str:
        """freq, or the default of the kind."""
        return self.freq or ("B" if self.kind == "ohlcv" else "h")


class _Draws:
    """Random numbers for given series, a pure function of (seed, stream, series, position)."""

    def __init__(self, seed: int, series: IntArray) -> None:
        self._seed = seed
        self._series = series.astype(np.uint64)
        self._stream = 0

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Floats:
        """Return (n, count) numbers in [low, high); every call uses a new stream."""
        self._stream += 1
        keys = hash64(derive(self._seed, self._stream), self._series)
        return low + (high - low) * uniform(keys[:, None], np.arange(count))

    def normal(self, count: int) -> Floats:
        """Return (n, count) standard normal numbers (Box and Muller)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(count)))
        return radius * np.cos(2 * np.pi * self.uniform(count))


def generate(spec: SyntheticSpec) -> Corpus:
    """Generate a corpus in memory. Series i depends on all fields of the spec except num_series."""
    series = np.arange(spec.num_series, dtype=np.int64)
    if spec.kind == "ohlcv":
        values = _ohlcv(_Draws(derive(spec.seed, 1), series), spec)
        names: tuple[str, ...] = OHLCV
    else:
        values = _variates(series, spec)
        names = ("target",) if spec.num_variates == 1 else tuple(f"target_{k}" for k in range(spec.num_variates))
    if spec.missing_fraction > 0:
        draws = _Draws(derive(spec.seed, 2), series)
        rows = 1 if spec.kind == "ohlcv" else spec.num_variates  # a bar is missing whole
        missing = draws.uniform(rows * spec.length).reshape(len(series), rows, spec.length) < spec.missing_fraction
        values = np.where(missing, np.nan, values)
    axis, time, session = _time_axis(spec)
    width = len(str(spec.num_series - 1))
    return Corpus.from_arrays(
        f"synthetic-{spec.kind}",
        ((f"{spec.kind}_{i:0{width}d}", one, axis) for i, one in enumerate(values.astype(np.float32))),
        names,
        freq=spec.resolved_freq,
        time=time,
        provenance=provenance(f"generate {spec.model_dump_json()}"),
        bars_per_session=session,
        price_columns=OHLCV[:4] if spec.kind == "ohlcv" else (),
    )


def _time_axis(spec: SyntheticSpec) -> tuple[IntArray, str, int | None]:
    """Return (T,) stamps, the kind of time axis, and bars per session of intraday bars (09:30 to 16:00, weekdays)."""
    freq = spec.resolved_freq
    step = Frequency.parse(freq).micros
    number = np.arange(spec.length, dtype=np.int64)
    if spec.kind != "ohlcv" or step is None or step >= DAY:
        return grid.stamps(START, freq, number), "regular", 1 if spec.kind == "ohlcv" else None
    bars = max(1, SESSION // step)
    days = grid.stamps(START, "B", number // bars)
    return days + SESSION_OPEN + (number % bars) * step, "stamps", int(bars)


def _variates(series: IntArray, spec: SyntheticSpec) -> Floats:
    """Return (N, V, T): an independent component for each variate plus, if V > 1, half of a shared one."""
    own = [_kind(series, spec, part) for part in range(spec.num_variates)]
    if spec.num_variates == 1:
        return own[0][:, None, :]
    shared = _kind(series, spec, spec.num_variates)
    return np.stack([one + 0.5 * shared for one in own], axis=1)


def _kind(series: IntArray, spec: SyntheticSpec, part: int) -> Floats:
    """Return (N, T): one component of every series."""
    if spec.kind != "mixed":
        return _MAKERS[spec.kind](_Draws(derive(spec.seed, 3, part), series), spec)
    out = np.empty((len(series), spec.length))
    for k, kind in enumerate(MIXED):
        chosen = series % len(MIXED) == k
        if chosen.any():
            out[chosen] = _MAKERS[kind](_Draws(derive(spec.seed, 3, part), series[chosen]), spec)
    return out


def _seasonal(draws: _Draws, spec: SyntheticSpec) -> Floats:
    t = np.arange(spec.length)
    level = draws.uniform(1, 5, 50)
    out = level + 0.05 * level * draws.normal(spec.length)
    for period, most in zip(_periods(spec.resolved_freq), (0.5, 0.25), strict=True):
        for harmonic in (1, 2):
            height = level * draws.uniform(1, 0.05, most / harmonic)
            out += height * np.sin(2 * np.pi * (harmonic * t / period + draws.uniform(1)))
    return out


def _trend(draws: _Draws, spec: SyntheticSpec) -> Floats:
    t = np.linspace(0, 1, spec.length)
    level = draws.uniform(1, 5, 50)
    bend, slope, turn = draws.uniform(1, 0.2, 0.8), draws.uniform(1, -1, 1), draws.uniform(1, -1, 1)
    season = 0.1 * np.sin(2 * np.pi * (np.arange(spec.length) / _periods(spec.resolved_freq)[0] + draws.uniform(1)))
    return level * (1 + slope * t + turn * np.maximum(t - bend, 0) + season + 0.03 * draws.normal(spec.length))


def _random_walk(draws: _Draws, spec: SyntheticSpec) -> Floats:
    return draws.uniform(1, 20, 200) + draws.uniform(1, 0.1, 1.0) * np.cumsum(draws.normal(spec.length), axis=1)


def _ohlcv(draws: _Draws, spec: SyntheticSpec) -> Floats:
    """Return (N, 5, T) bars of a geometric random walk with slowly varying volatility, which the volume follows."""
    spell = 20
    knots = draws.normal(spec.length // spell + 2)
    place, into = np.divmod(np.arange(spec.length), spell)
    calm = knots[:, place] * (1 - into / spell) + knots[:, place + 1] * (into / spell)
    volatility = draws.uniform(1, 0.005, 0.02) * np.exp(0.5 * calm)
    body, gap = volatility * draws.normal(spec.length), 0.3 * volatility * draws.normal(spec.length)
    log_close = np.log(draws.uniform(1, 10, 300)) + np.cumsum(body + gap, axis=1)
    opened, closed = np.exp(log_close - body), np.exp(log_close)
    high = np.maximum(opened, closed) * np.exp(0.5 * volatility * np.abs(draws.normal(spec.length)))
    low = np.minimum(opened, closed) * np.exp(-0.5 * volatility * np.abs(draws.normal(spec.length)))
    volume = np.ceil(draws.uniform(1, 1e5, 1e6) * np.exp(0.7 * calm + 0.3 * draws.normal(spec.length)))
    return np.stack([opened, high, low, closed, volume], axis=1)


def _kernel(draws: _Draws, spec: SyntheticSpec) -> Floats:
    """Sample Gaussian processes whose kernel is a random sum or product of one to five simple kernels.

    The recipe of KernelSynth (Chronos paper, arXiv 2403.07815, appendix A).
    """
    number, choice, operation = draws.uniform(1), draws.uniform(5), draws.uniform(5)
    noise = draws.normal(spec.length)
    bank = _kernel_bank(spec)
    return np.stack(
        [
            _gaussian_process(bank, choice[i, : 1 + int(number[i, 0] * 5)], operation[i], noise[i])
            for i in range(len(noise))
        ]
    )


def _kernel_bank(spec: SyntheticSpec) -> list[Callable[[Floats], Floats]]:
    """Return covariances as functions of the (T, T) time differences; time runs from 0 to 1."""
    periods = [period / spec.length for period in _periods(spec.resolved_freq)]
    t = np.linspace(0, 1, spec.length)
    return [
        *(lambda gap, p=p: np.exp(-2 * np.sin(np.pi * gap / p) ** 2) for p in periods),
        *(lambda gap, s=s: np.exp(-0.5 * (gap / s) ** 2) for s in (0.02, 0.1, 0.5)),
        *(lambda gap, a=a: (1 + gap**2 / (2 * a * 0.01)) ** -a for a in (0.1, 1.0)),
        lambda gap: 0.1 * np.eye(len(gap)),
        lambda gap: np.outer(t, t) + 0.1,
    ]


def _gaussian_process(
    bank: list[Callable[[Floats], Floats]], choice: Floats, operation: Floats, noise: Floats
) -> Floats:
    t = np.linspace(0, 1, len(noise))
    gap = np.abs(t[:, None] - t[None, :])
    covariance = np.zeros_like(gap)
    for k, drawn in enumerate(choice):
        part = bank[int(drawn * len(bank))](gap)
        covariance = part if k == 0 else covariance + part if operation[k] < 0.5 else covariance * part
    # round-off can make a smooth kernel indefinite; each try adds ten times more to the diagonal
    for jitter in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        try:
            return np.linalg.cholesky(covariance + jitter * np.eye(len(t))) @ noise
        except np.linalg.LinAlgError:
            continue
    raise AssertionError("a sum or product of covariances plus a diagonal is positive definite")


def _periods(freq: str) -> tuple[float, float]:
    """Return two natural season lengths of a frequency, in steps."""
    frequency = Frequency.parse(freq)
    months, step = frequency.months, frequency.micros
    if months is not None:
        return (max(2.0, 12 / months), 60 / months + 1)
    if step is None:
        return (5.0, 21.0)
    if step >= DAY:
        return (7.0, 30.0) if step < 7 * DAY else (13.0, 52.0)
    per_day = DAY / step
    return (per_day, 7 * per_day)


MIXED: tuple[Kind, ...] = ("seasonal", "trend", "random_walk")  # the cheap kinds, assigned in turn
_MAKERS: dict[str, Callable[[_Draws, SyntheticSpec], Floats]] = {
    "seasonal": _seasonal,
    "trend": _trend,
    "random_walk": _random_walk,
    "kernel": _kernel,
}
