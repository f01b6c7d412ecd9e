"""Statistical models fitted to every context as baselines: AutoETS, AutoTheta and others of statsforecast, an extra.

They read the context that the model sees: holes hold the last value before them, and leading ones are left out. Levels
come from statsforecast's intervals; the median is its point forecast. A context that a model cannot be fitted to, as
one of three steps, has naive's forecast, which is counted.

Fits take from milliseconds to seconds each. How long all would take is estimated from a few, so that a sample of items
can be scored instead.

# R rows, H horizon, Q levels
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from foretrain.errors import ConfigError
from foretrain.evaluation.baselines import EVERY_BASELINE, STATISTICAL, baselines
from foretrain.evaluation.panel import Panel
from foretrain.evaluation.scored import Array
from foretrain.hints import did_you_mean
from foretrain.notes import Code, Note, counted

USUAL_SECONDS = 600.0  # that fits may take
INSTALL = "pip install 'foretrain[baselines]'"
_TIMED = 3  # rows that are fitted to know how long all take

Fit = Callable[[Array, int, list[float], int], dict[str, Any]]  # (values, horizon, interval levels, season)


class StatisticalForecasts(NamedTuple):
    """Quantiles of a statistical model."""

    quantiles: Array  # (R, H, Q) NaN for a row without an observed value
    replaced: int  # rows with naive's forecast instead


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no baseline, and for a statistical one if the extra is not installed."""
    for name in names:
        if name not in EVERY_BASELINE:
            hint = did_you_mean(name, EVERY_BASELINE, f"The baselines are {', '.join(EVERY_BASELINE)}.")
            raise ConfigError(f"baselines: {name!r} is not a baseline. {hint}")
        if name in STATISTICAL:
            require_package(name)


def require_package(name: str) -> None:
    """Raise ConfigError if the package of a statistical baseline is not installed."""
    if importlib.util.find_spec("statsforecast") is None:
        raise ConfigError(f"{name} needs statsforecast, which is not installed: {INSTALL}.")


def package_version(name: str) -> str:
    """Import the package of a statistical baseline and return its version. Raises ConfigError if that fails."""
    require_package(name)
    _models(name)
    return importlib.metadata.version("statsforecast")


def statistical_baseline(
    name: str, contexts: Sequence[np.ndarray], horizon: int, levels: Sequence[float], seasonality: int
) -> StatisticalForecasts:
    """Return the forecasts of a model that is fitted to each context.

    Args:
        name: one of STATISTICAL.
        contexts: R one-dimensional histories of any lengths, NaN = not observed.
        horizon: steps to forecast.
        levels: quantile levels; .5 is the point forecast.
        seasonality: steps of a season; 1 = none.

    Raises ConfigError if statsforecast is not installed.
    """
    check_names([name])
    fit = _fit(name)
    quantiles = np.full((len(contexts), horizon, len(levels)), np.nan)
    replaced = []
    for row, context in enumerate(contexts):
        values = _without_holes(context)
        if not len(values):
            continue
        found = _quantiles(fit, values, horizon, levels, seasonality)
        if found is None:
            replaced.append(row)
        else:
            quantiles[row] = found
    if replaced:
        quantiles[replaced] = baselines(["naive"], [contexts[row] for row in replaced], horizon, levels)["naive"]
    return StatisticalForecasts(quantiles, len(replaced))


def affordable_items(panel: Panel, names: Sequence[str], seconds: float) -> tuple[int | None, list[Note]]:
    """Return how many items statistical baselines can be fitted to in a time, and a note; None and no note for all.

    A few rows, evenly spread, are fitted to estimate it, after one that compiles what the package compiles.
    """
    named = [name for name in names if name in STATISTICAL]
    rows = [(ref, row) for ref in panel.refs for row in range(len(panel.selections[ref.corpus].targets))]
    if not named or not rows:
        return None, []
    chosen = [rows[k] for k in np.unique(np.linspace(0, len(rows) - 1, _TIMED).astype(int)).tolist()]
    taken = 0.0
    for name in named:
        for number, (ref, row) in enumerate([chosen[0], *chosen]):
            context = panel.window(ref).context[row]
            began = time.perf_counter()
            statistical_baseline(name, [context], panel.prediction_length, [0.1, 0.5, 0.9], panel.seasons[ref.corpus])
            taken += (time.perf_counter() - began) / len(chosen) if number else 0.0
    items = len({ref[:2] for ref in panel.refs})
    total = taken * len(rows)
    if total <= seconds:
        return None, []
    fewer = max(1, math.floor(items * seconds / total))
    text = (
        f"{fewer:,} of {counted(items, 'item')} are scored, drawn by a seed: to fit {', '.join(named)} to all would "
        f"take about {total:,.0f} s and {seconds:,.0f} are given. --max-items {fewer} draws the same; "
        "--baseline-seconds gives more."
    )
    return fewer, [Note(Code.BASELINES_SAMPLED, text, {"items": fewer, "of": items})]


def replaced_notes(replaced: dict[str, int], rows: int) -> list[Note]:
    """Return a note for each statistical baseline that has naive's forecast for some rows."""
    return [
        Note(
            Code.BASELINE_REPLACED,
            f"{STATISTICAL[name]} could not be fitted to {count:,} of {counted(rows, 'row')}: they have naive's "
            "forecast there.",
            {"rows": count, "of": rows},
        )
        for name, count in replaced.items()
        if count
    ]


def _fit(name: str) -> Fit:
    kind = getattr(_models(name), STATISTICAL[name])
    logging.getLogger("statsforecast").setLevel(logging.ERROR)

    def fit(values: Array, horizon: int, levels: list[float], season: int) -> dict[str, Any]:
        return kind(season_length=season).forecast(y=values, h=horizon, level=levels)

    return fit


def _models(name: str) -> Any:
    """Return the module of the package's models. Raises ConfigError if it cannot be imported."""
    try:
        from statsforecast import models  # type: ignore[import-not-found]  # an extra
    except ImportError as error:  # one of what it needs is missing, or does not fit
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name} needs statsforecast, which cannot be imported ({said}): {INSTALL}.") from error
    return models


def _quantiles(fit: Fit, values: Array, horizon: int, levels: Sequence[float], season: int) -> Array | None:
    """Return (H, Q) quantiles; None if the model cannot be fitted, or gives no numbers."""
    widths = [round(100 * abs(2 * level - 1), 6) for level in levels]
    state = np.random.get_state()  # the package seeds numpy's own generator, from which others may draw
    asked = sorted({int(width) if width == int(width) else width for width in widths if width})
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = fit(values, horizon, asked or [80], season)
        rows = [
            found["mean"] if not width else found[_key(found, "lo" if level < 0.5 else "hi", width)]
            for level, width in zip(levels, widths, strict=True)
        ]
    except Exception as error:  # too short, or a fit that did not end, of which the package also says a bare Exception
        known = (RuntimeError, ValueError, ArithmeticError, LookupError, np.linalg.LinAlgError)
        if type(error) is not Exception and not isinstance(error, known):
            raise
        return None
    finally:
        np.random.set_state(state)
    quantiles = np.stack([np.asarray(row, np.float64) for row in rows], axis=1)
    return quantiles if quantiles.shape == (horizon, len(levels)) and np.isfinite(quantiles).all() else None


def _key(found: dict[str, Any], side: str, width: float) -> str:
    """Return the name under which an interval's side is, whatever way its level is written there."""
    return next(key for key in found if key.startswith(f"{side}-") and abs(float(key[3:]) - width) < 1e-6)


def _without_holes(context: np.ndarray) -> Array:
    """Return the values from the first observed one on; a missing one is the last before it."""
    observed = np.isfinite(context)
    if not observed.any():
        return np.empty(0)
    first = int(observed.argmax())
    index = np.maximum.accumulate(np.where(observed, np.arange(len(context)), 0))[first:]
    return np.ascontiguousarray(context[index], np.float64)
