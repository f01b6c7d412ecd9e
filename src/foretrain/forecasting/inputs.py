"""Windows of arrays, lists of arrays and lists of dicts.

# N items, V variates, T steps of an item, H horizon
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foretrain.data.splits import window_key
from foretrain.data.windows import FloatArray, Window
from foretrain.errors import DataError
from foretrain.forecasting.covariates import RowItems, encode, is_numeric, known_numbers

KEYS = ("target", "past_covariates", "future_covariates")


def read_inputs(inputs: Any, prediction_length: int, *, ordinal: bool | None = None) -> list[Window]:
    """Convert inputs to windows: a (N, V, T) array; a list of (T,) or (V, T) arrays; a list of dicts.

    A dict holds `target` (T,) or (V, T), optionally `past_covariates` {name: (T,)} and `future_covariates`
    {name: (H,) or None}, whose names are a subset of the former; None means known ahead but missing here.
    Text is categorical (see forecasting/covariates.py). Arrays may be numpy, torch or lists of numbers; covariates of
    each kind are ordered by name. Items may differ in length, variates and covariates. Raises DataError.
    """
    if hasattr(inputs, "columns"):
        raise DataError("inputs is a frame; give it to forecast_df.")
    if isinstance(inputs, Mapping):
        raise DataError("inputs is a single dict; give a list of dicts, [{...}].")
    if not hasattr(inputs, "__len__") and isinstance(inputs, Iterable):
        inputs = list(inputs)
    if not hasattr(inputs, "__len__") or not len(inputs):
        raise DataError("inputs holds no series; give a 3-d array, a list of arrays or a list of dicts.")
    if isinstance(inputs[0], Mapping):
        return _from_dicts(inputs, prediction_length, ordinal)
    if hasattr(inputs, "ndim") and inputs.ndim != 3:
        raise DataError(
            f"an array of inputs has 3 dimensions (series, variates, steps), this one has shape {tuple(inputs.shape)}. "
            "Use x[None, None] for one series, x[:, None] for a batch of univariate series."
        )
    return [_plain(item, i) for i, item in enumerate(inputs)]


def _plain(item: Any, index: int) -> Window:
    values = _targets(item, index)
    return Window(
        context=values, num_targets=len(values), item_id=str(index), key=window_key(str(index), values.shape[1])
    )


def _targets(item: Any, index: int) -> FloatArray:
    values = _floats(item, f"item {index}")
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2 or not values.shape[0] or not values.shape[1]:
        raise DataError(f"item {index}: a series has shape (steps,) or (variates, steps), not {np.shape(item)}.")
    return values


def _floats(values: Any, what: str) -> FloatArray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: not an array of numbers ({' '.join(str(error).split())}).") from None
    finite = np.isfinite(array)
    return array if finite.all() else np.where(finite, array, np.float32(np.nan))


def _from_dicts(items: Sequence[Any], horizon: int, ordinal: bool | None) -> list[Window]:
    targets, names, ahead = [], [], []
    for i, item in enumerate(items):
        _check_dict(item, i, horizon)
        targets.append(_targets(item["target"], i))
        names.append(sorted(item.get("past_covariates") or {}))
        ahead.append(sorted(item.get("future_covariates") or {}))
        for name in names[-1]:
            length = len(item["past_covariates"][name])
            if length != targets[-1].shape[1]:
                raise DataError(
                    f"item {i}: past_covariates[{name!r}] has {length} steps, target {targets[-1].shape[1]}."
                )
    encoded = {
        name: _column(items, targets, name, horizon, ordinal) for name in sorted({n for row in names for n in row})
    }
    windows = []
    for i, target in enumerate(targets):
        ordered = [name for name in names[i] if name not in ahead[i]] + ahead[i]
        columns = [encoded[name][i] for name in ordered]
        context = np.concatenate([target, *(past[None] for past, _ in columns)])
        unknown = np.full((len(target), horizon), np.nan, np.float32)
        windows.append(
            Window(
                context=context,
                num_targets=len(target),
                num_past=len(names[i]) - len(ahead[i]),
                future=np.concatenate([unknown, *(future[None] for _, future in columns)]),
                item_id=str(i),
                key=window_key(str(i), target.shape[1]),
            )
        )
    return windows


def _check_dict(item: Any, index: int, horizon: int) -> None:
    if not isinstance(item, Mapping):
        raise DataError(f"item {index}: a {type(item).__name__} among dicts; give every item as a dict.")
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise DataError(f"item {index}: unknown key {unknown[0]!r}; a dict holds {', '.join(KEYS)}.")
    if "target" not in item:
        raise DataError(f"item {index}: no 'target'.")
    past, future = item.get("past_covariates") or {}, item.get("future_covariates") or {}
    for key, value in (("past_covariates", past), ("future_covariates", future)):
        if not isinstance(value, Mapping):
            raise DataError(f"item {index}: {key} is a {type(value).__name__}; give a dict of name to array.")
    for name, values in future.items():
        if name not in past:
            raise DataError(f"item {index}: future_covariates[{name!r}] has no history in past_covariates.")
        if not _absent(values) and (np.ndim(values) != 1 or len(values) != horizon):
            raise DataError(
                f"item {index}: future_covariates[{name!r}] has shape {np.shape(values)}; it needs prediction_length = "
                f"{horizon} values."
            )
    for name, values in past.items():
        if np.ndim(values) != 1:
            raise DataError(f"item {index}: past_covariates[{name!r}] has shape {np.shape(values)}; it needs one row.")


def _absent(values: Any) -> bool:
    return values is None or len(values) == 0


def _column(
    items: Sequence[Any], targets: Sequence[FloatArray], name: str, horizon: int, ordinal: bool | None
) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Encode one covariate of all items that have it: item index to history (T,) and future (H,)."""
    import pandas as pd

    holders = [i for i, item in enumerate(items) if name in (item.get("past_covariates") or {})]
    past = [pd.Series(_array(items[i]["past_covariates"][name]), name=name) for i in holders]
    future = {i: (items[i].get("future_covariates") or {}).get(name) for i in holders}
    given = [i for i in holders if not _absent(future[i])]
    blank = np.full(horizon, np.nan, np.float32)
    if all(is_numeric(column) for column in past):
        ahead = {i: pd.Series(_array(future[i]), name=name) for i in given}
        every, kinds = pd.concat(past, ignore_index=True), ("past_covariates", "future_covariates")
        return {
            i: (
                _floats(column, f"item {i}: past_covariates[{name!r}]"),
                known_numbers(ahead[i], every, kinds) if i in ahead else blank,
            )
            for i, column in zip(holders, past, strict=True)
        }
    lengths = [len(column) for column in past]
    place = {i: k for k, i in enumerate(holders)}
    rows = RowItems(
        np.repeat(np.arange(len(holders)), lengths), np.repeat([place[i] for i in given], horizon), len(holders)
    )
    future_column = pd.concat([pd.Series(_array(future[i])) for i in given], ignore_index=True) if given else None
    use_ordinal = any(len(targets[i]) > 1 for i in holders) if ordinal is None else ordinal
    first = np.concatenate([targets[i][0] for i in holders])
    encoded, ahead = encode(pd.concat(past, ignore_index=True), future_column, rows, first, use_ordinal=use_ordinal)
    histories = np.split(encoded, np.cumsum(lengths)[:-1])
    known = dict(zip(given, ahead.reshape(-1, horizon), strict=True)) if ahead is not None else {}
    return {i: (histories[place[i]], known.get(i, blank)) for i in holders}


def _array(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
