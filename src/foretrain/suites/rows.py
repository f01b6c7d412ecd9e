"""The rows of a benchmark task: what a contestant sees of each window, and the truth that it is scored on.

# N rows (a target of a window), V targets of an item, C steps of history, H horizon, Q levels
# P covariates that are known up to the cutoff, K that are known over the horizon too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple, Protocol

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.library_metrics import METRICS_OF, Instances, gluonts_seasonal_error
from foretrain.evaluation.market_metrics import market_metrics
from foretrain.evaluation.scored import Array, Ints
from foretrain.evaluation.streamed_metrics import STREAMED, STREAMED_SUMS, streamed_metrics
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.raw_files import BenchmarkSeries, Stamps
from foretrain.suites.windows import standardised, windows_of

MODES = METRICS_OF | {"market": (gluonts_seasonal_error, market_metrics)}


StaticValue = float | int | bool | str | None  # None = missing


@dataclass(frozen=True)
class CovariateRows:
    """Covariates of a window, by name."""

    past: dict[str, Array] = field(default_factory=dict)  # (C,)
    known: dict[str, Array] = field(default_factory=dict)  # (C + H,)
    static: dict[str, StaticValue] = field(default_factory=dict)


class Sample(NamedTuple):
    """A part of a task's items that was drawn; figures of it stand beside no published ones."""

    items: int
    of: int
    seed: int


class CovariateSource(Protocol):
    """Covariates of a task's items."""

    def of(self, item: int, start: int, cutoff: int, end: int, target: Array) -> CovariateRows:
        """Return those of an item's window: history from start to cutoff, known ones up to end.

        target (C,): the first target's history, from which categories take their numbers.
        """
        ...


@dataclass(frozen=True)
class BenchmarkWindow:
    """What a contestant sees of one window. Nothing in it is later than the cutoff, but known covariates and stamps."""

    item_id: str
    cutoff: int  # steps of the item before the forecast
    targets: tuple[str, ...]  # (V,)
    history: Array  # (V, C) the newest steps that the task allows; NaN = not observed
    stamps: Stamps | None  # (C,) None = steps without a calendar
    future_stamps: Stamps | None  # (H,)
    covariates: CovariateRows = CovariateRows()  # immutable

    def split(self) -> list[BenchmarkWindow]:
        """Return a window for each target."""
        return [
            replace(self, item_id=f"{self.item_id}_{name}", targets=(name,), history=self.history[row : row + 1])
            for row, name in enumerate(self.targets)
        ]


class Contestant(Protocol):
    """A forecaster that takes part in a benchmark."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    @property
    def takes_covariates(self) -> bool:
        """True if its windows shall have their covariates."""
        ...

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return forecasts (N, 1 + Q, H) of all targets of the windows, one after the other.

        The point forecast comes first, then the quantiles at the suite's levels. The forecast of a window depends on
        no other window.
        """
        ...


class TaskRows:
    """Windows and truth of a task, which any number of contestants are scored on. Raises what windows_of raises.

    Of rule ltsf, whose windows overlap, truth and forecasts of all windows are never held: sums of errors are.

    max_items: most items; of more, a sample is drawn by the hash of their ids and the seed, whatever their order.
    most_windows: the first windows alone, as some published figures are.
    """

    def __init__(
        self,
        task: BenchmarkTask,
        series: Sequence[BenchmarkSeries],
        covariates: CovariateSource | None = None,
        *,
        max_items: int | None = None,
        seed: int = 0,
        most_windows: int | None = None,
    ) -> None:
        self.task, self.covariates = task, covariates
        self.series = standardised(task, series) if task.suite.rule == "ltsf" else series
        self.streams = task.suite.metrics_of in STREAMED
        self.cuts, self.sample = windows_of(task, series)[:most_windows], None
        items = list(dict.fromkeys(cut.series for cut in self.cuts))
        if max_items is not None and max_items < len(items):
            drawn = set(sorted(items, key=lambda item: _draw(series[item].item_id, seed))[:max_items])
            self.cuts = [cut for cut in self.cuts if cut.series in drawn]
            self.sample = Sample(max_items, len(items), seed)
        self.widths = np.array([len(series[cut.series].variates) for cut in self.cuts], np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.widths)])  # row of each window's first target
        self._target, self._error = self._truth() if not self.streams else (np.empty((0, 0)), np.empty(0))

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def num_items(self) -> int:
        """Number of items that have a window."""
        return len({cut.series for cut in self.cuts})

    def steps(self) -> Ints:
        """Return the steps of history of each window."""
        return np.array([cut.cutoff - self._start(cut.cutoff) for cut in self.cuts], np.int64)

    def window(self, number: int, *, with_covariates: bool) -> BenchmarkWindow:
        """Return a window, without its truth."""
        cut = self.cuts[number]
        item, start, end = self.series[cut.series], self._start(cut.cutoff), cut.cutoff + self.task.definition.horizon
        history, given = item.values[:, start : cut.cutoff], CovariateRows()
        if with_covariates and self.covariates is not None:
            given = self.covariates.of(cut.series, start, cut.cutoff, end, history[0])
        return BenchmarkWindow(
            item_id=item.item_id,
            cutoff=cut.cutoff,
            targets=item.variates,
            history=history,
            stamps=None if item.stamps is None else item.stamps[start : cut.cutoff],
            future_stamps=None if item.stamps is None else item.stamps[cut.cutoff : end],
            covariates=given,
        )

    def of(self, windows: Sequence[int]) -> Ints:
        """Return the rows of windows, one window after the other."""
        return np.concatenate([np.arange(self.first[k], self.first[k + 1]) for k in windows])

    def kept(self, windows: Ints, forecasts: Array) -> Array:
        """Return what scoring needs of forecasts (N, 1 + Q, H) of windows: they themselves, or sums (windows, K).

        Raises DataError for forecasts that are not finite, if the sums of them are kept.
        """
        if not self.streams:
            return forecasts
        self._require_finite(forecasts, windows)
        sums_of, horizon, found, first = STREAMED[self.task.suite.metrics_of], self.task.definition.horizon, [], 0
        for cut in (self.cuts[k] for k in windows.tolist()):
            truth = self.series[cut.series].values[:, cut.cutoff : cut.cutoff + horizon]
            found.append(sums_of(truth, forecasts[first : first + len(truth), 0]))
            first += len(truth)
        return np.stack(found)

    def empty(self) -> Array:
        """Return room for what is kept of all windows."""
        task = self.task
        if self.streams:
            return np.empty((len(self.cuts), STREAMED_SUMS))
        return np.empty((len(self), 1 + len(task.suite.quantile_levels), task.definition.horizon))

    def metrics(self, kept: Array) -> dict[str, float]:
        """Return the metrics of what is kept of all windows. Raises as instances."""
        mode = self.task.suite.metrics_of
        return streamed_metrics(kept) if self.streams else MODES[mode][1](self.instances(kept))

    def places(self, windows: Sequence[int]) -> Ints:
        """Return where what is kept of windows has its place."""
        return np.asarray(windows, np.int64) if self.streams else self.of(windows)

    def instances(self, forecasts: Array) -> Instances:
        """Return truth and forecasts (N, 1 + Q, H) of all rows. Raises DataError for forecasts that are not finite."""
        self._require_finite(forecasts, np.arange(len(self.cuts)))
        return Instances(
            target=self._target,
            point=forecasts[:, 0],
            quantiles=np.moveaxis(forecasts[:, 1:], 1, 2),
            levels=self.task.suite.quantile_levels,
            seasonal_error=self._error,
            variate=np.concatenate([np.arange(width) for width in self.widths.tolist()]),
            window=np.repeat([cut.window for cut in self.cuts], self.widths),
            last=self._last_closes() if self.task.suite.metrics_of == "market" else None,
            item=np.unique(np.repeat([cut.series for cut in self.cuts], self.widths), return_inverse=True)[1],
        )

    def _last_closes(self) -> Array:
        """Return the last observed close before each row's window (N,); NaN if there is none."""
        found = []
        for cut in self.cuts:
            item = self.series[cut.series]
            close = item.values[item.variates.index("close"), self._start(cut.cutoff) : cut.cutoff]
            known = close[np.isfinite(close)]
            found.append(known[-1] if len(known) else np.nan)
        return np.repeat(np.array(found), self.widths)

    def _require_finite(self, forecasts: Array, windows: Ints) -> None:
        bad = ~np.isfinite(forecasts).all(axis=(1, 2))
        if bad.any():
            ends = np.cumsum(self.widths[windows])
            cut = self.cuts[int(windows[np.searchsorted(ends, int(bad.argmax()), side="right")])]
            raise DataError(
                f"{int(bad.sum()):,} of {bad.size:,} forecasts are not finite, first that of item "
                f"{self.series[cut.series].item_id!r} from step {cut.cutoff:,} on."
            )

    def _truth(self) -> tuple[Array, Array]:
        """Return the truth (N, H) and the seasonal errors (N,)."""
        rule, error_of = self.task.definition, MODES[self.task.suite.metrics_of][0]
        target, errors = np.empty((len(self), rule.horizon)), np.empty(len(self))
        for cut, first in zip(self.cuts, self.first.tolist(), strict=False):
            for row, values in enumerate(self.series[cut.series].values, first):
                target[row] = values[cut.cutoff : cut.cutoff + rule.horizon]
                errors[row] = error_of(values[self._start(cut.cutoff) : cut.cutoff], rule.seasonality)
        return target, errors

    def _start(self, cutoff: int) -> int:
        longest = self.task.definition.max_context
        return 0 if longest is None else max(cutoff - longest, 0)


def _draw(item_id: str, seed: int) -> bytes:
    return blake2b(f"{seed}\0{item_id}".encode(), digest_size=16).digest()
