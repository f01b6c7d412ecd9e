"""The forecasts that a report draws: the best, the median and the worst.

# C steps of history, H horizon, Q levels
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from foretrain.evaluation import metrics
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.markets import Markets
from foretrain.evaluation.scored import Scored


@dataclass(frozen=True)
class Example:
    """One forecast with its history, for plots."""

    title: str
    history: np.ndarray  # (C,) newest steps before the cutoff
    truth: np.ndarray  # (H,)
    quantiles: np.ndarray  # (H, Q)
    naive: np.ndarray  # (H,)
    times: np.ndarray | None  # (C + H,) microseconds
    score: float  # scaled error of the median
    unit: str  # name of the target column, and the currency if a library knows it


def examples_of(backtest: Backtest, model: Scored, markets: Markets | None = None) -> list[Example]:
    """Return the best, the median and the worst forecast by scaled error, each of a different item if possible."""
    errors = metrics.scaled_errors(model)
    counts = np.isfinite(errors).sum(1)
    score = np.where(counts > 0, np.where(np.isfinite(errors), errors, 0.0).sum(1) / np.maximum(counts, 1), np.nan)
    order = np.argsort(score, kind="stable")[: int(np.isfinite(score).sum())]
    if not len(order):
        return []
    found: list[Example] = []
    used: set[int] = set()
    wanted = (("Best forecast", order), ("Median forecast", _from_middle(order)), ("Worst forecast", order[::-1]))
    for label, candidates in wanted[: len(order)]:
        row = next((r for r in candidates if model.item[r] not in used), candidates[0])
        used.add(int(model.item[row]))
        example = _example(backtest, model, int(row), label, float(score[row]))
        currency = "" if markets is None else markets.unit(backtest.row_ref(int(row))[0][:2])[0]
        is_price = bool(currency) and bool(model.price[row])
        found.append(replace(example, unit=f"{example.unit} ({currency})") if is_price else example)
    return found


def _from_middle(order: np.ndarray) -> np.ndarray:
    return order[np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")]


def _example(backtest: Backtest, model: Scored, row: int, label: str, score: float) -> Example:
    panel = backtest.panel
    ref, target = backtest.row_ref(row)
    window = panel.window(ref)
    steps = max(3 * panel.prediction_length, 24)
    times = None
    if window.context_times is not None and window.future_times is not None:
        times = np.concatenate([window.context_times[-steps:], window.future_times])
    return Example(
        title=f"{label}: {model.items[model.item[row]]}",
        history=window.context[target, -steps:].astype(np.float64),
        truth=model.target[row],
        quantiles=np.asarray(model.quantiles[row], np.float64),
        naive=np.asarray(backtest.naive.median[row], np.float64),
        times=times,
        score=score,
        unit=panel.corpora[ref.corpus].columns[panel.selections[ref.corpus].targets[target]],
    )
