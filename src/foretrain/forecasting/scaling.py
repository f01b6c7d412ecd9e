"""Rows whose scale a model cannot represent: how many there are, and rows that are rescaled for it.

# R rows (variates of all windows), C context steps
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foretrain.data.windows import TARGET, FloatArray, Windows
from foretrain.models.base import Forecast, Forecaster, Trainable, WindowSource
from foretrain.nn.scaling import deviations
from foretrain.notes import Code, Note, Tally

# Tallies of windows that a forecast also names by item.
BY_ITEM = (Code.VALUES_TOO_LARGE, Code.VALUES_TOO_SMALL)
TRAINING_SAMPLE = 64  # windows of a run that are looked at before its first step
SCALE_CODES = (*BY_ITEM, Code.SCALE_FLOORED)


def rescaled(windows: Windows, model: Forecaster) -> tuple[Windows, Tensor | None]:
    """Return the windows with each row multiplied by a power of two, and the factors (R, 1).

    A factor comes from the observed contexts alone, and is 1 for rows that move enough; Forecaster.window_factors. The
    factors are None for a model that needs none.
    """
    factors = model.window_factors(windows)
    if factors is None:
        return windows, None
    by = factors.numpy()
    return replace(windows, context=windows.context * by, future=windows.future * by), factors


def restored(forecast: Forecast, windows: Windows, factors: Tensor) -> Forecast:
    """Return a forecast of rescaled windows in the units of the data."""
    own = factors[torch.from_numpy(windows.role == TARGET)].to(forecast.quantiles.device)
    return replace(
        forecast,
        quantiles=forecast.quantiles / own[..., None],
        mean=None if forecast.mean is None else forecast.mean / own,
        samples=None if forecast.samples is None else forecast.samples / own[..., None],
    )


def scale_tallies(
    windows: Windows, model: Forecaster, *, rescale: bool, cure: str = "--rescale (rescale=True) lifts it above that"
) -> tuple[Tally, ...]:
    """Return the numbers of windows with a row whose scale the model cannot represent.

    With rescale the model's constant hides no row; `cure` says how to avoid that it does.
    """
    count, small = len(windows), model.smallest_deviation
    low, high = model.value_range
    context = torch.from_numpy(windows.context)
    observed = context.isfinite()
    deviation = deviations(context, observed).squeeze(1).numpy()

    def tally(code: Code, rows: np.ndarray, event: str, text: str) -> Tally:
        found = len(np.unique(windows.window[rows])) if rows.any() else 0
        return Tally(code, f"{{{event}:,}} of {{windows:,}} windows {text}", {event: found, "windows": count})

    tallies = [
        tally(Code.VALUES_TOO_LARGE, beyond(windows.context, high), "too large", f"have {_LARGE.format(high)}"),
        tally(Code.VALUES_TOO_SMALL, (deviation > 0) & (deviation < low), "too small", f"have {_SMALL.format(low)}"),
    ]
    if small is not None and not rescale:
        floored = (windows.role == TARGET) & model.floored(context, observed).numpy()
        text = (
            f"have a target with a standard deviation below {small:.3g}, where a constant of the model widens its "
            f"scale by more than 1%; {cure}"
        )
        tallies.append(tally(Code.SCALE_FLOORED, floored, "floored windows", text))
    return tuple(tallies)


def training_scale_notes(model: Trainable, source: WindowSource) -> list[Note]:
    """Return notes if the model cannot represent the scale of some of a run's first training windows."""
    if not isinstance(model, Forecaster):
        return []
    cure = "model.scale_floor=relative avoids this"
    tallies = scale_tallies(source.windows(0, TRAINING_SAMPLE), model, rescale=model.rescales, cure=cure)
    return [note for tally in tallies if (note := tally.note("of the first training windows, {}.")) is not None]


def magnitude_problem(context: FloatArray, value_range: tuple[float, float]) -> tuple[Code, str] | None:
    """Return why a model of this range cannot scale a row of a context (V, C); None if it can."""
    low, high = value_range
    if beyond(context, high).any():
        return Code.VALUES_TOO_LARGE, f"have {_LARGE.format(high)}; divide such series by a constant"
    rows = torch.from_numpy(context)
    deviation = deviations(rows, rows.isfinite())
    if bool(((deviation > 0) & (deviation < low)).any()):
        return Code.VALUES_TOO_SMALL, f"have {_SMALL.format(low)}; multiply such series by a constant"
    return None


_LARGE = "values beyond {:.0e}, which exceed the model's arithmetic"
_SMALL = "a standard deviation below {:.0e}, which the model's arithmetic cannot resolve"


def beyond(context: FloatArray, high: float) -> np.ndarray:
    """Return the mask (R,) of rows (R, C) with a finite value of greater magnitude than `high`."""
    size = np.abs(context)
    return np.asarray(((size > high) & (size < np.inf)).any(1))
