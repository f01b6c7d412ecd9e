"""Aggregations of sampled paths to one value per step, chosen by name.

    mean, median
    trimmed_mean_10              mean without the lowest and the highest 10% of the samples
    quantile_0.35
    mean_quantile_mix_0.15_0.3   70% mean and 30% of the 15% quantile
    mean_plus_std_0.5, mean_minus_std_0.5

# S samples, H horizon
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from foretrain.data.windows import FloatArray
from foretrain.errors import ConfigError
from foretrain.hints import nearest

Aggregation = Callable[[np.ndarray], np.ndarray]  # (..., S, H) -> (..., H)

FORMS = (
    "mean",
    "median",
    "trimmed_mean_PERCENT",
    "quantile_LEVEL",
    "mean_quantile_mix_LEVEL_WEIGHT",
    "mean_plus_std_FACTOR",
    "mean_minus_std_FACTOR",
)
_NUMBER = r"(\d+(?:\.\d+)?)"


def aggregation(name: str) -> Aggregation:
    """Return the aggregation with that name. Raises ConfigError for an unknown name or a number out of range."""
    if name == "mean":
        return lambda samples: samples.mean(-2)
    if name == "median":
        return lambda samples: np.median(samples, axis=-2)
    if found := re.fullmatch(f"trimmed_mean_{_NUMBER}", name):
        percent = _within(name, found[1], 0, 50, "percent cut at either end")
        if percent < 1:  # a fraction, as some libraries take it, would cut nothing
            raise ConfigError(
                f"aggregate {name!r} cuts {found[1]}%; for that fraction write trimmed_mean_{100 * percent:g}."
            )
        return lambda samples: _trimmed(samples, percent / 100)
    if found := re.fullmatch(f"quantile_{_NUMBER}", name):
        level = _within(name, found[1], 0, 1, "level")
        return lambda samples: np.quantile(samples, level, axis=-2)
    if found := re.fullmatch(f"mean_quantile_mix_{_NUMBER}_{_NUMBER}", name):
        level, weight = _within(name, found[1], 0, 1, "level"), float(found[2])
        if weight > 1:
            raise ConfigError(f"aggregate {name!r}: the weight of the quantile is {found[2]}; it is at most 1.")
        return lambda samples: (1 - weight) * samples.mean(-2) + weight * np.quantile(samples, level, axis=-2)
    if found := re.fullmatch(f"mean_(plus|minus)_std_{_NUMBER}", name):
        factor = float(found[2]) * (1 if found[1] == "plus" else -1)
        return lambda samples: samples.mean(-2) + factor * samples.std(-2)
    hint = "".join(f"Did you mean {form}? " for form in nearest(name, FORMS, cutoff=0.5))
    raise ConfigError(f"aggregate {name!r} is not known. {hint}Known: {', '.join(FORMS)}.")


def aggregate(samples: Sequence[FloatArray], name: str) -> list[FloatArray]:
    """Aggregate each item's paths (V, S, H) to (V, H), in float64 arithmetic."""
    reduce = aggregation(name)
    return [reduce(paths.astype(np.float64)).astype(np.float32) for paths in samples]


def _within(name: str, text: str, low: float, high: float, what: str) -> float:
    value = float(text)
    if not low < value < high:
        raise ConfigError(
            f"aggregate {name!r}: {text} is no {what}; it must be greater than {low} and less than {high}."
        )
    return value


def _trimmed(samples: np.ndarray, fraction: float) -> np.ndarray:
    """Return the mean without int(fraction * S) samples at either end, as scipy.stats.trim_mean does."""
    count = samples.shape[-2]
    cut = int(fraction * count)
    return np.sort(samples, axis=-2)[..., cut : count - cut, :].mean(-2)
