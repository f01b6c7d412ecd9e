"""The series length that a training window needs, and the settings to suggest if no series is long enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foretrain.data.config import DataConfig
from foretrain.data.parts import DateCuts
from foretrain.data.windows import IntArray
from foretrain.errors import DataError

NONE = "Windows of a single step would not fit either; give longer series."


def rows_needed(config: DataConfig) -> int:
    """Return the rows of the shortest series that has a training window; where dates cut, those before the cut."""
    cuts, window = config.cuts, config.resolved_min_context + config.resolved_min_prediction_length
    return window if isinstance(cuts, DateCuts) else window + cuts.validation + cuts.test


def no_window(
    name: str,
    config: DataConfig,
    lengths: IntArray,
    by_hash: int,
    held_out_by_name: int = 0,
    not_among_items: int = 0,
) -> DataError:
    """Return the error for a corpus without a training window.

    lengths: rows of all series that are neither held out nor outside data.items; where dates cut, those before the cut.
    """
    held_out = by_hash + held_out_by_name + not_among_items
    total = len(lengths) + held_out
    kept_out = f"{held_out:,} held out{' or not among data.items' * bool(not_among_items)}"
    if by_hash and not len(lengths):
        return DataError(
            f"{name}: all of its {total:,} series are held out (data.holdout_fraction {config.holdout_fraction}"
            f"{', and by name' * (total > by_hash)}), so none is left to train on. Lower it."
        )
    longest = int(lengths.max(initial=0))
    floor = f", and data.min_rows asks for {config.min_rows}" if config.min_rows else ""
    ways = [_setting_text(way, config) for way in remedies(config, longest)]
    middle = int(np.sort(lengths)[len(lengths) // 2]) if len(lengths) else 0
    others = f" Half of its series have {middle:,} rows or more." if middle < longest else ""
    cuts, before, parts = config.cuts, "", ""
    if isinstance(cuts, DateCuts):
        before = f" before {cuts.end_of_training}"
        if not longest:
            return DataError(
                f"{name}: none of its {total:,} series has a row{before} ({kept_out}), so nothing is left "
                "to train on. Give later dates."
            )
    else:
        parts = f" + validation and test steps {cuts.validation + cuts.test:,}"
    return DataError(
        f"{name}: none of its {total:,} series can be trained on ({kept_out}): the longest has {longest:,} "
        f"rows{before}; needed are {rows_needed(config):,} (min_context {config.resolved_min_context:,} + "
        f"{'min_' * bool(config.min_prediction_length)}prediction_length {config.resolved_min_prediction_length:,}"
        f"{parts}){floor}.{others} {'Give later dates, or shorter lengths. ' * bool(before)}"
        + ("With that one would work, each line alone:" + "".join(f"\n  {way}" for way in ways) if ways else NONE)
    )


def remedies(config: DataConfig, rows: int) -> list[dict[str, int]]:
    """Return changes of the data section, each of which alone gives a series of `rows` rows a window; may be empty."""
    must = {"min_rows": rows} if config.min_rows and config.min_rows > rows else {}
    config = _changed(config, must)
    short = rows_needed(config) - rows
    if short <= 0:
        return [must]
    changes = []
    context = config.resolved_min_context - short
    if context > 0:
        if config.min_context == config.context_length:
            changes.append({"context_length": context, "min_context": context})
        changes.append({"min_context": context})
    if not config.min_prediction_length:
        changes += _horizon(config, rows, lambda p: {"prediction_length": p})
    future = config.resolved_min_prediction_length - short
    if future > 0:
        changes.append({"min_prediction_length": future})
    changes += _shorter_parts(config, rows)
    if not changes:
        low = ["min_context"] + ["min_prediction_length"] * bool(config.min_prediction_length)
        most = config.context_length
        lengths = _horizon(config, rows, lambda p: {"prediction_length": p, **dict.fromkeys(low, min(p, most))})
        changes = lengths or _horizon(
            config,
            rows,
            lambda p: {
                "prediction_length": p,
                **dict.fromkeys(low, min(p, most)),
                **{key: min(steps, p) for key, steps in _given_parts(config).items()},
            },
        )
    return [{**must, **change} for change in changes]


def _given_parts(config: DataConfig) -> dict[str, int]:
    """Return the validation and test steps that the config sets itself, by key; the others follow the horizon."""
    return {key: steps for key in ("validation_steps", "test_steps") if (steps := getattr(config, key))}


def _shorter_parts(config: DataConfig, rows: int) -> list[dict[str, int]]:
    """Return, as a list of one or none, the longest validation and test parts that fit, each with room for a window."""
    given = _given_parts(config)
    free = rows - rows_needed(_changed(config, dict.fromkeys(given, 0)))
    change = {}
    for n, (key, steps) in enumerate(sorted(given.items(), key=lambda part: part[1])):
        fits = min(steps, free // (len(given) - n))
        free -= fits
        if fits < config.prediction_length:
            return []
        if fits < steps:
            change[key] = fits
    return [{key: change[key] for key in given if key in change}] if change else []


def _horizon(config: DataConfig, rows: int, change: Callable[[int], dict[str, int]]) -> list[dict[str, int]]:
    """Return, as a list of one or none, the change with the longest prediction_length that fits `rows` rows."""
    low, high = 0, config.prediction_length
    while low < high:
        middle = (low + high + 1) // 2
        fits = rows_needed(_changed(config, change(middle))) <= rows
        low, high = (middle, high) if fits else (low, middle - 1)
    return [change(low)] if low else []


def _changed(config: DataConfig, change: dict[str, Any]) -> DataConfig:
    return config.model_copy(update=change)


def _setting_text(way: dict[str, int], config: DataConfig) -> str:
    """Return settings as they stand at the end of a command, with a shell's comment on what they mean."""
    text = " ".join(f"data.{key}={value}" for key, value in way.items())
    if way.keys() == {"min_context"}:
        return f"{text}  # contexts padded to {config.context_length:,}"
    if "context_length" in way:
        return f"{text}  # whole contexts"
    if way.keys() <= {"validation_steps", "test_steps"}:
        return f"{text}  # at most: smaller parts leave more windows to train on"
    return f"{text}  # shorter futures for the newest windows" if way.keys() == {"min_prediction_length"} else text
