"""Somebody's predictions as a file: which row belongs to which forecast, made when, reaching how far.

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

# role -> the names by which its column is known where none is given
ROLES = {
    "item": ("item", "item_id", "symbol", "ticker"),
    "cutoff": ("cutoff", "origin"),
    "timestamp": FINE_STAMPS,
    "step": ("step", "horizon"),
    "actual": ("actual",),
    "predicted": ("predicted", "predictions"),
    "last_close": ("last_close",),
}
NO_NUMBERS = ("item", "cutoff", "timestamp")  # roles whose columns hold no numbers
VALUES = ("price", "fraction", "percent")
RETURNS = 0.2  # a median actual value below this share of the median last close is no price


@dataclass(frozen=True)
class Predictions:
    """A file of predictions, ready to be scored."""

    points: Scored  # the predicted value at every level; one row a forecast
    naive: Scored  # the last close at every level
    bands: Scored | None  # the quantiles of the file, where it has some
    returns: tuple[Array, Array]  # (R,) actual and predicted change since the last close, as fractions of it
    has_prices: bool  # else there are only changes in percent, of no known price
    dates: tuple[str, str]  # first and last in the file
    notes: tuple[Note, ...]


def read_predictions(
    path: Path, columns: Mapping[str, str | None] | None = None, values: str | None = None
) -> Predictions:
    """Read a CSV or Parquet file of predictions.

    Args:
        path: one row for each predicted step.
        columns: role -> name of its column; a role that is not given goes by its usual names (ROLES). item, cutoff,
            step and the quantiles (columns named 0.1 ... 0.9) may be missing; one of cutoff and timestamp is needed.
        values: what actual and predicted are: "price"; "fraction" or "percent", changes since the last close; None =
            price, unless they are far too small for the last close, which is an error. Changes need no last_close.

    A forecast is made up of the rows of an item with one cutoff; without cutoffs, of successive rows of an item whose
    step grows; without steps, every row is a forecast of its own, one step ahead.

    Raises DataError for what cannot be read or contradicts itself, ConfigError for unknown roles and values.
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
    place = _Places.of(file)
    target, newest = place.table(file.actual), place.constant(file)
    scored = _scored(target, newest, place, file.names)
    return Predictions(
        points=scored.forecast(_at_all_levels(place.table(file.predicted))),
        naive=scored.forecast(_at_all_levels(np.repeat(newest[:, None], scored.horizon, 1))),
        bands=_bands(scored, place, file) if file.levels else None,
        returns=(file.change(file.actual), file.change(file.predicted)),
        has_prices=file.has_prices,
        dates=file.dates,
        notes=place.notes,
    )


@dataclass(frozen=True)
class _File:
    """The columns of a file."""

    path: Path
    item: Ints  # (R,) index into names
    names: tuple[str, ...]
    made: Ints | None  # (R,) the cutoff: microseconds, or a count of steps
    times: Ints | None  # (R,) the same of the timestamp
    steps: Array | None  # (R,)
    actual: Array  # (R,)
    predicted: Array  # (R,)
    last: Array  # (R,) 1 where there is none
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
        made = times = None
        if stamp != roles["cutoff"]:
            times = instants
            if roles["cutoff"]:  # read once more, as a column of times
                again, name = read_file(path, id_column=item, timestamp_column=roles["cutoff"])
                made = _instants(path, again[name])
        else:
            made = instants
        columns = {role: _numbers(path, frame[name]) for role, name in roles.items() if name and role not in NO_NUMBERS}
        levels = _levels(frame.columns)
        found = cls(
            path=path,
            item=codes.astype(np.int64),
            names=tuple(map(str, names)),
            made=made,
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
        """Itself. Raises DataError where a prediction is missing."""
        lacking = np.flatnonzero(np.isfinite(self.actual) & ~np.isfinite(self.predicted)).tolist()
        if lacking:
            raise DataError(
                f"{self.path}: row {lacking[0] + 1} (item {self.names[self.item[lacking[0]]]!r}) has an actual value "
                f"and no prediction, as have {len(lacking)} rows in all. A forecast that is missing cannot be scored; "
                "fill it in or drop it."
            )
        return self

    def as_prices(self, values: str) -> _File:
        """With changes since the last close turned into what they lead to."""
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
        """(R,) since the last close, as a fraction of it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (column - self.last) / np.abs(self.last)


@dataclass(frozen=True)
class _Places:
    """Where each row of the file belongs."""

    rows: Ints  # (R,) rows of the file in order of forecast and step
    forecast: Ints  # (R,) forecast of each of these rows
    step: Ints  # (R,) step of each of these rows, from 0
    item: Ints  # (N,)
    start: Ints  # (N,) key of the forecast's origin; origins after start and up to end lie within its horizon
    end: Ints  # (N,)
    notes: tuple[Note, ...]

    @classmethod
    def of(cls, file: _File) -> _Places:
        item, order = file.item, np.arange(len(file.item))
        if file.made is not None:
            within = next(column for column in (file.times, file.steps, order) if column is not None)
            rows = np.lexsort((within, file.made, item))
            new = _changes(item[rows]) | _changes(file.made[rows])
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
        """(N, H) a column of the file, NaN beyond a forecast's end."""
        found = np.full((len(self.item), int(self.step.max()) + 1), np.nan)
        found[self.forecast, self.step] = column[self.rows]
        return found

    def constant(self, file: _File) -> Array:
        """(N,) the last close of each forecast. Raises DataError where it has more than one."""
        table = self.table(file.last)
        known = np.isfinite(table)
        highest, lowest = (f(np.where(known, table, table[:, :1]), 1) for f in (np.max, np.min))
        wrong = np.flatnonzero(highest != lowest)
        wrong = wrong[np.isfinite(highest[wrong])]
        if len(wrong):
            raise DataError(
                f"{file.path}: last_close changes within a forecast of item {file.names[self.item[wrong[0]]]!r}, and "
                f"in {len(wrong)} in all. It is the last close before the forecast was made, so naive would be told "
                "later prices; give the same one in all its rows."
            )
        return table[:, 0]


def _reach(file: _File, rows: Ints, first: Ints) -> tuple[Ints, Ints, tuple[Note, ...]]:
    """For each forecast the key of its origin and the last key that its horizon covers, and what had to be assumed.

    first are the positions in rows at which a forecast begins. Two forecasts overlap where one was made before the
    last step of the other had come.
    """
    made, times, steps = file.made, file.times, file.steps
    last = np.append(first[1:], len(rows)) - 1
    begin, finish = rows[first], rows[last]
    if made is not None and times is not None:
        if (times <= made).any():
            where = int(np.flatnonzero(times <= made)[0])
            raise DataError(
                f"{file.path}: row {where + 1}: its timestamp is not after its cutoff; that is no forecast."
            )
        _refuse_doubles(file, np.stack([file.item, made, times]), "one cutoff and one timestamp; keep one of them")
        return made[begin], times[finish] - 1, ()
    if made is not None:
        known, position = np.unique(made[begin], return_inverse=True)
        count = last - first + 1
        reach = count if steps is None else np.maximum(steps[finish].astype(np.int64), count)
        assumed = (reach > 1).any() and len(known) > 1
        note = Note(Code.CUTOFFS_ONE_STEP_APART, "without timestamps, cutoffs are taken to lie one step apart")
        return position, position + reach - 1, (note,) if assumed else ()
    assert times is not None
    position = np.searchsorted(np.unique(times), times)
    if steps is not None:
        return position[begin] - np.maximum(steps[begin].astype(np.int64), 1), position[finish] - 1, ()
    _refuse_doubles(
        file,
        np.stack([file.item, times]),
        "one timestamp. Say when each forecast was made (column cutoff), or how many steps ahead it is (column step)",
    )
    text = "every row is taken for a forecast one step ahead: a column cutoff or step says more"
    return position, position, (Note(Code.ONE_STEP_AHEAD, text),)


def _refuse_doubles(file: _File, keys: Ints, what: str) -> None:
    """Raise DataError where two rows of the file have the same keys (K, R)."""
    _, index, counts = np.unique(keys, axis=1, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(index[counts > 1][0])
        raise DataError(f"{file.path}: item {file.names[file.item[row]]!r} has several rows with {what}.")


def _changes(column: Ints) -> np.ndarray:
    return np.diff(column, prepend=column[0] - 1) != 0


def _scored(actual: Array, last: Array, place: _Places, items: tuple[str, ...]) -> Scored:
    count, horizon = actual.shape
    nothing = np.zeros(count, np.int64)
    return Scored(
        target=actual,
        quantiles=np.full((count, horizon, 3), np.nan),
        levels=(INTERVAL[0], MEDIAN, INTERVAL[1]),
        last=last,
        seasonal_error=np.full(count, np.nan),
        item=place.item,
        items=items,
        unit=tuple(f"price of {name}" for name in items),
        price=np.ones(count, bool),
        cutoff=nothing,
        rank=nothing,
        start=place.start,
        end=place.end,
        stride=horizon,
    )


def _at_all_levels(point: Array) -> Array:
    return np.repeat(point[:, :, None], 3, 2)


def _bands(scored: Scored, place: _Places, file: _File) -> Scored:
    """The quantiles of the file as forecasts; levels that every metric asks for and that it lacks are NaN."""
    every = tuple(sorted({*file.levels, *INTERVAL, MEDIAN}))
    found = np.full((*scored.target.shape, len(every)), np.nan)
    found[:, :, every.index(MEDIAN)] = place.table(file.predicted)
    for k, level in enumerate(file.levels):
        found[:, :, every.index(level)] = place.table(file.quantiles[:, k])
    return replace(scored, quantiles=found, levels=every, scored_levels=file.levels)


def _roles(path: Path, given: dict[str, str | None], values: str | None) -> dict[str, Any]:
    """The column of every role, None where there is none. Raises DataError for one that is missing."""
    header = column_names(path)
    plain = {name.strip().lower(): name for name in reversed(header)}
    found: dict[str, Any] = {}
    for role, name in given.items():
        usual = next((plain[known] for known in ROLES[role] if known in plain), None)
        if name is not None and name not in header:
            raise DataError(f"{path}: no column {name!r} ({role}). It has {', '.join(header)}.")
        found[role] = name or usual
    needed = ["actual", "predicted", *(["last_close"] if values in (None, "price") else [])]
    for role in needed:
        if found[role] is None:
            raise DataError(
                f"{path}: no column {ROLES[role][0]!r}; name yours with --column {role}=NAME. It has "
                f"{', '.join(header)}."
            )
    return found


def _levels(columns: Any) -> dict[float, str]:
    """Level -> its column, for columns named by a number between 0 and 1."""
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
            f"{path}: column {column.name!r} holds something else than numbers{where}. Correct it, or leave it empty."
        ) from None


def _instants(path: Path, column: Any) -> Ints:
    """(R,) a column of times as microseconds; counts of steps as they are."""
    import pandas as pd

    if column.isna().any():
        raise DataError(f"{path}: column {column.name!r} has empty cells; every row needs its time.")
    if pd.api.types.is_integer_dtype(column):
        return column.to_numpy(np.int64)
    try:
        return pd.DatetimeIndex(pd.to_datetime(column, utc=True)).as_unit("us").asi8
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: column {column.name!r} holds something else than times ({reason}).") from None


def _text(instant: int, column: Any) -> str:
    import pandas as pd

    if pd.api.types.is_integer_dtype(column):
        return f"step {instant}"
    return str(np.datetime64(int(instant), "us").astype("datetime64[s]"))


def _refuse_returns(path: Path, actual: Array, last: Array) -> None:
    size, close = np.nanmedian(np.abs(actual)), np.nanmedian(np.abs(last))
    if size < RETURNS * close:
        raise DataError(
            f"{path}: half of the actual values are below {size:.3g}, and half of the last closes above {close:.3g}: "
            "these look like changes, not prices. Say what they are: --values fraction (0.01 is one percent) or "
            "--values percent; --values price if they are prices all the same."
        )
