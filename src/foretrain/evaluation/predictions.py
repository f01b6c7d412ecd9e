"""Files of third-party predictions: which row belongs to which forecast, its cutoff and its horizon.

# R rows of the file, N forecasts, H steps of the longest, Q levels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.importers.columns import FINE_STAMPS
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.scored import INTERVAL, MEDIAN, Array, Ints, Scored
from foretrain.forecasting.files import column_names, read_file
from foretrain.notes import Code, Note

# role -> usual names of its column, tried if no name is given
ROLES = {
    "item": ("item", "item_id", "symbol", "ticker"),
    "cutoff": ("cutoff", "origin"),
    "timestamp": FINE_STAMPS,
    "step": ("step", "horizon"),
    "actual": ("actual",),
    "predicted": ("predicted", "predictions"),
    "last_close": ("last_close",),
}
NON_NUMERIC = ("item", "cutoff", "timestamp")  # roles whose columns are not parsed as numbers
VALUES = ("price", "fraction", "percent")
PRICE_RATIO = 0.2  # actual values are not prices if their median is below this share of the median last close


@dataclass(frozen=True)
class Predictions:
    """The contents of a file of predictions, ready for scoring."""

    points: Scored  # the predicted value at every level; one row per forecast
    naive: Scored  # the last close at every level
    bands: Scored | None  # the quantiles of the file; None if it has none
    returns: tuple[Array, Array]  # (R,) actual and predicted change since the last close, as fractions of it
    has_prices: bool  # False: changes only, the prices are unknown
    dates: tuple[str, str]  # first and last in the file
    notes: tuple[Note, ...]


def read_predictions(
    path: Path, columns: Mapping[str, str | None] | None = None, values: str | None = None
) -> Predictions:
    """Read a CSV or Parquet file of predictions.

    Args:
        path: the file, with one row per predicted step.
        columns: role -> name of its column; a role that is not given is looked up by its usual names (ROLES). item,
            cutoff, step and the quantiles (columns named 0.1 ... 0.9) are optional; one of cutoff and timestamp is
            required.
        values: meaning of actual and predicted: "price"; "fraction" or "percent", changes since the last close; None =
            price, and an error if they are far too small for the last close. Changes need no last_close.

    The rows of an item with the same cutoff are one forecast; without cutoffs, successive rows of an item whose step
    grows; without steps, each row is a forecast one step ahead.

    Raises DataError if the file cannot be read or contradicts itself, ConfigError for unknown roles and values.
    """
    if values not in (None, *VALUES):
        raise ConfigError(f"--values {values}: choose one of {', '.join(VALUES)}.")
    for role in columns or {}:
        if role not in ROLES:
            raise ConfigError(f"--column {role}: choose one of {', '.join(ROLES)}.")
    file = _File.read(path, _roles(path, {**dict.fromkeys(ROLES), **(columns or {})}, values))
    if values is None and file.has_prices:
        _refuse_returns(path, file.actual, file.last)
    file = file.as_prices(values or "price")
    index = _ForecastIndex.of(file)
    target, newest = index.table(file.actual), index.constant(file)
    scored = _scored(target, newest, index, file.names)
    return Predictions(
        points=scored.forecast(_at_all_levels(index.table(file.predicted))),
        naive=scored.forecast(_at_all_levels(np.repeat(newest[:, None], scored.horizon, 1))),
        bands=_bands(scored, index, file) if file.levels else None,
        returns=(file.change(file.actual), file.change(file.predicted)),
        has_prices=file.has_prices,
        dates=file.dates,
        notes=index.notes,
    )


@dataclass(frozen=True)
class _File:
    """The columns of a file."""

    path: Path
    item: Ints  # (R,) index into names
    names: tuple[str, ...]
    cutoffs: Ints | None  # (R,) microseconds, or step numbers
    times: Ints | None  # (R,) timestamps: microseconds, or step numbers
    steps: Array | None  # (R,)
    actual: Array  # (R,)
    predicted: Array  # (R,)
    last: Array  # (R,) last close; 1 if the file has none
    has_prices: bool
    levels: tuple[float, ...]
    quantiles: Array  # (R, Q)
    dates: tuple[str, str]  # first and last

    @classmethod
    def read(cls, path: Path, roles: dict[str, Any]) -> _File:
        item = roles["item"] or "item_id"
        frame, stamp = read_file(path, id_column=item, timestamp_column=roles["timestamp"] or roles["cutoff"])
        codes, names = frame[item].factorize()
        instants = _instants(path, frame[stamp])
        cutoffs = times = None
        if stamp != roles["cutoff"]:
            times = instants
            if roles["cutoff"]:  # read again to parse the cutoffs as times
                again, name = read_file(path, id_column=item, timestamp_column=roles["cutoff"])
                cutoffs = _instants(path, again[name])
        else:
            cutoffs = instants
        columns = {
            role: _numbers(path, frame[name]) for role, name in roles.items() if name and role not in NON_NUMERIC
        }
        levels = _levels(frame.columns)
        found = cls(
            path=path,
            item=codes.astype(np.int64),
            names=tuple(map(str, names)),
            cutoffs=cutoffs,
            times=times,
            steps=columns.get("step"),
            actual=columns["actual"],
            predicted=columns["predicted"],
            last=columns.get("last_close", np.ones(len(frame))),
            has_prices="last_close" in columns,
            levels=tuple(levels),
            quantiles=np.stack([_numbers(path, frame[name]) for name in levels.values()] or [columns["actual"]], 1),
            dates=(_text(instants.min(), frame[stamp]), _text(instants.max(), frame[stamp])),
        )
        return found._complete()

    def _complete(self) -> _File:
        """Return self. Raises DataError if a prediction is missing."""
        missing = np.flatnonzero(np.isfinite(self.actual) & ~np.isfinite(self.predicted)).tolist()
        if missing:
            raise DataError(
                f"{self.path}: row {missing[0] + 1} (item {self.names[self.item[missing[0]]]!r}) has an actual value "
                f"and no prediction; {len(missing)} rows in total. A missing forecast cannot be scored; fill it in or "
                "drop the row."
            )
        return self

    def as_prices(self, values: str) -> _File:
        """Return the file with changes since the last close converted to prices."""
        if values == "price":
            return self
        unit = {"fraction": 1.0, "percent": 100.0}[values]
        actual, predicted = (self.last * (1.0 + column / unit) for column in (self.actual, self.predicted))
        return replace(
            self,
            actual=actual,
            predicted=predicted,
            quantiles=self.last[:, None] * (1.0 + self.quantiles / unit),
        )

    def change(self, column: Array) -> Array:
        """Return the change (R,) since the last close, as a fraction of it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (column - self.last) / np.abs(self.last)


@dataclass(frozen=True)
class _ForecastIndex:
    """Forecast and step of each row of the file."""

    rows: Ints  # (R,) rows of the file in order of forecast and step
    forecast: Ints  # (R,) forecast of each of these rows
    step: Ints  # (R,) step of each of these rows, from 0
    item: Ints  # (N,) item of each forecast
    start: Ints  # (N,) key of the forecast's origin; origins after start and up to end are within its horizon
    end: Ints  # (N,)
    notes: tuple[Note, ...]

    @classmethod
    def of(cls, file: _File) -> _ForecastIndex:
        item, order = file.item, np.arange(len(file.item))
        if file.cutoffs is not None:
            within = next(column for column in (file.times, file.steps, order) if column is not None)
            rows = np.lexsort((within, file.cutoffs, item))
            new = _changes(item[rows]) | _changes(file.cutoffs[rows])
        elif file.steps is not None:
            rows = np.argsort(item, kind="stable")
            new = _changes(item[rows]) | (np.diff(file.steps[rows], prepend=np.inf) <= 0)
        else:
            assert file.times is not None
            rows = np.lexsort((file.times, item))
            new = np.ones(len(rows), bool)
        forecast = np.cumsum(new) - 1
        first = np.flatnonzero(new)
        start, end, notes = _reach(file, rows, first)
        return cls(rows, forecast, np.arange(len(rows)) - first[forecast], item[rows][first], start, end, notes)

    def table(self, column: Array) -> Array:
        """Return a column of the file as (N, H), NaN beyond a forecast's end."""
        found = np.full((len(self.item), int(self.step.max()) + 1), np.nan)
        found[self.forecast, self.step] = column[self.rows]
        return found

    def constant(self, file: _File) -> Array:
        """Return the last close of each forecast (N,). Raises DataError if a forecast has more than one."""
        table = self.table(file.last)
        known = np.isfinite(table)
        highest, lowest = (f(np.where(known, table, table[:, :1]), 1) for f in (np.max, np.min))
        wrong = np.flatnonzero(highest != lowest)
        wrong = wrong[np.isfinite(highest[wrong])]
        if len(wrong):
            raise DataError(
                f"{file.path}: last_close changes within a forecast of item {file.names[self.item[wrong[0]]]!r}, and "
                f"in {len(wrong)} in total. It must be the last close before the forecast was made: naive would see "
                "later prices. Give the same one in all rows of a forecast."
            )
        return table[:, 0]


def _reach(file: _File, rows: Ints, first: Ints) -> tuple[Ints, Ints, tuple[Note, ...]]:
    """Return the key of each forecast's origin, the last key within its horizon, and notes on assumptions.

    `first` holds the positions in `rows` at which forecasts start. Two forecasts overlap if one was made before the
    last step of the other.
    """
    cutoffs, times, steps = file.cutoffs, file.times, file.steps
    last = np.append(first[1:], len(rows)) - 1
    first_row, last_row = rows[first], rows[last]
    if cutoffs is not None and times is not None:
        if (times <= cutoffs).any():
            where = int(np.flatnonzero(times <= cutoffs)[0])
            raise DataError(
                f"{file.path}: row {where + 1}: its timestamp is not after its cutoff, so it is not a forecast."
            )
        _refuse_duplicates(
            file, np.stack([file.item, cutoffs, times]), "one cutoff and one timestamp; keep one of them"
        )
        return cutoffs[first_row], times[last_row] - 1, ()
    if cutoffs is not None:
        known, position = np.unique(cutoffs[first_row], return_inverse=True)
        count = last - first + 1
        reach = count if steps is None else np.maximum(steps[last_row].astype(np.int64), count)
        assumed = (reach > 1).any() and len(known) > 1
        note = Note(Code.CUTOFFS_ONE_STEP_APART, "without timestamps, cutoffs are assumed to be one step apart")
        return position, position + reach - 1, (note,) if assumed else ()
    assert times is not None
    position = np.searchsorted(np.unique(times), times)
    if steps is not None:
        return position[first_row] - np.maximum(steps[first_row].astype(np.int64), 1), position[last_row] - 1, ()
    _refuse_duplicates(
        file,
        np.stack([file.item, times]),
        "one timestamp. Add when each forecast was made (column cutoff), or how many steps ahead it is (column step)",
    )
    text = "every row is assumed to be a forecast one step ahead; add a column cutoff or step if it is not"
    return position, position, (Note(Code.ONE_STEP_AHEAD, text),)


def _refuse_duplicates(file: _File, keys: Ints, what: str) -> None:
    """Raise DataError if two rows of the file have the same keys (K, R)."""
    _, index, counts = np.unique(keys, axis=1, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(index[counts > 1][0])
        raise DataError(f"{file.path}: item {file.names[file.item[row]]!r} has several rows with {what}.")


def _changes(column: Ints) -> np.ndarray:
    return np.diff(column, prepend=column[0] - 1) != 0


def _scored(actual: Array, last: Array, index: _ForecastIndex, items: tuple[str, ...]) -> Scored:
    count, horizon = actual.shape
    nothing = np.zeros(count, np.int64)
    return Scored(
        target=actual,
        quantiles=np.full((count, horizon, 3), np.nan),
        levels=(INTERVAL[0], MEDIAN, INTERVAL[1]),
        last=last,
        seasonal_error=np.full(count, np.nan),
        item=index.item,
        items=items,
        unit=tuple(f"price of {name}" for name in items),
        price=np.ones(count, bool),
        cutoff=nothing,
        rank=nothing,
        start=index.start,
        end=index.end,
        stride=horizon,
    )


def _at_all_levels(point: Array) -> Array:
    return np.repeat(point[:, :, None], 3, 2)


def _bands(scored: Scored, index: _ForecastIndex, file: _File) -> Scored:
    """Return the quantiles of the file as forecasts; levels that metrics need and the file lacks are NaN."""
    every = tuple(sorted({*file.levels, *INTERVAL, MEDIAN}))
    found = np.full((*scored.target.shape, len(every)), np.nan)
    found[:, :, every.index(MEDIAN)] = index.table(file.predicted)
    for k, level in enumerate(file.levels):
        found[:, :, every.index(level)] = index.table(file.quantiles[:, k])
    return replace(scored, quantiles=found, levels=every, scored_levels=file.levels)


def _roles(path: Path, given: dict[str, str | None], values: str | None) -> dict[str, Any]:
    """Return the column of every role, None if there is none. Raises DataError if a required one is missing."""
    header = column_names(path)
    plain = {name.strip().lower(): name for name in reversed(header)}
    found: dict[str, Any] = {}
    for role, name in given.items():
        usual = next((plain[known] for known in ROLES[role] if known in plain), None)
        if name is not None and name not in header:
            raise DataError(f"{path}: no column {name!r} ({role}). The columns are {', '.join(header)}.")
        found[role] = name or usual
    needed = ["actual", "predicted", *(["last_close"] if values in (None, "price") else [])]
    for role in needed:
        if found[role] is None:
            raise DataError(
                f"{path}: no column {ROLES[role][0]!r}; name it with --column {role}=NAME. The columns are "
                f"{', '.join(header)}."
            )
    return found


def _levels(columns: Any) -> dict[float, str]:
    """Return {level: column name} of the columns whose names are numbers between 0 and 1."""
    found = {}
    for name in columns:
        try:
            level = float(name)
        except (TypeError, ValueError):
            continue
        if 0 < level < 1:
            found[level] = name
    return dict(sorted(found.items()))


def _numbers(path: Path, column: Any) -> Array:
    try:
        return column.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        import pandas as pd

        wrong = column[pd.isna(pd.to_numeric(column, errors="coerce")) & column.notna()]
        where = f", such as {wrong.iloc[0]!r} in row {wrong.index[0] + 1:,}" if len(wrong) else ""
        raise DataError(
            f"{path}: column {column.name!r} has values that are not numbers{where}. Correct them or leave them empty."
        ) from None


def _instants(path: Path, column: Any) -> Ints:
    """Return a column of times (R,) as microseconds; step numbers unchanged."""
    import pandas as pd

    if column.isna().any():
        raise DataError(f"{path}: column {column.name!r} has empty cells; every row needs a time.")
    if pd.api.types.is_integer_dtype(column):
        return column.to_numpy(np.int64)
    try:
        return pd.DatetimeIndex(pd.to_datetime(column, utc=True)).as_unit("us").asi8
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: column {column.name!r} has values that are not times ({reason}).") from None


def _text(instant: int, column: Any) -> str:
    import pandas as pd

    if pd.api.types.is_integer_dtype(column):
        return f"step {instant}"
    return str(np.datetime64(int(instant), "us").astype("datetime64[s]"))


def _refuse_returns(path: Path, actual: Array, last: Array) -> None:
    size, close = np.nanmedian(np.abs(actual)), np.nanmedian(np.abs(last))
    if size < PRICE_RATIO * close:
        raise DataError(
            f"{path}: half of the actual values are below {size:.3g}, and half of the last closes above {close:.3g}: "
            "these look like changes, not prices. Give --values fraction (0.01 is one percent) or --values percent; "
            "--values price if they are prices."
        )
