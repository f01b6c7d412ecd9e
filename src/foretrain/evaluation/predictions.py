"""Files of third-party predictions: which row belongs to which forecast, its cutoff and its horizon.

# R rows of the file, N forecasts, H steps of the longest, Q levels
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.importers import ImportOptions
from foretrain.data.importers.columns import corpus_name, plain
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.reading import open_table
from foretrain.data.importers.time_names import FINE_STAMPS
from foretrain.data.importers.times import TableTimes, read_column_times
from foretrain.data.importers.values import read_numbers
from foretrain.data.windows import NO_TIME
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.scored import INTERVAL, MEDIAN, Array, Ints, Scored
from foretrain.notes import Code, Note
from foretrain.timeaxis.frequency import MINUTE

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
    path: Path,
    columns: Mapping[str, str | None] | None = None,
    values: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Predictions:
    """Read a file of predictions, its cells as `data import` reads them.

    Args:
        path: the file, with one row per predicted step.
        columns: role -> name of its column; a role that is not given is looked up by its usual names (ROLES). item,
            cutoff, step and the quantiles (columns named 0.1 ... 0.9) are optional; one of cutoff and timestamp is
            required.
        values: meaning of actual and predicted: "price"; "fraction" or "percent", changes since the last close; None =
            price, and an error if they are far too small for the last close. Changes need no last_close.
        reading: fields of ImportOptions that say how cells are read, such as encoding and dayfirst.

    The rows of an item with the same cutoff are one forecast; without cutoffs, successive rows of an item whose step
    grows; without steps, each row is a forecast one step ahead.

    Raises DataError if the file cannot be read or contradicts itself, ConfigError for unknown roles and values.
    """
    if values not in (None, *VALUES):
        raise ConfigError(f"--values {values}: choose one of {', '.join(VALUES)}.")
    for role in columns or {}:
        if role not in ROLES:
            raise ConfigError(f"--column {role}: choose one of {', '.join(ROLES)}.")
    table = open_table(path, ImportOptions.of(**(reading or {})), any_header=True)
    file = _File.read(table, _roles(table, {**dict.fromkeys(ROLES), **(columns or {})}, values))
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
        notes=(*table.notes, *index.notes),
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
    def read(cls, table: RawTable, roles: dict[str, Any]) -> _File:
        codes, names = _items(table, roles["item"])
        found = {role: _times(table, roles[role]) for role in ("timestamp", "cutoff") if roles[role] is not None}
        found = _in_one_clock(table, found, roles)
        shown = found.get("timestamp") or found["cutoff"]
        columns = {
            role: read_numbers(table, name)
            for role, name in roles.items()
            if name is not None and role not in NON_NUMERIC
        }
        levels = _levels(table.cells.column_names)
        return cls(
            path=table.path,
            item=codes,
            names=names,
            cutoffs=found["cutoff"].times if "cutoff" in found else None,
            times=found["timestamp"].times if "timestamp" in found else None,
            steps=columns.get("step"),
            actual=columns["actual"],
            predicted=columns["predicted"],
            last=columns.get("last_close", np.ones(len(codes))),
            has_prices="last_close" in columns,
            levels=tuple(levels),
            quantiles=np.stack([read_numbers(table, name) for name in levels.values()] or [columns["actual"]], 1),
            dates=_first_and_last(shown),
        )._complete()

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


def _roles(table: RawTable, given: dict[str, str | None], values: str | None) -> dict[str, Any]:
    """Return the column of every role, None if there is none. Raises DataError if a required one is missing."""
    header, path = table.cells.column_names, table.path
    usual = {plain(name): name for name in reversed(header)}
    shown = f"The columns are {', '.join(map(repr, header))}."
    found: dict[str, Any] = {}
    for role, name in given.items():
        known = next((usual[other] for other in ROLES[role] if other in usual), None)
        if isinstance(name, tuple):
            raise DataError(f"{path}: one column of ids is needed, not {', '.join(name)}. Join them in the file.")
        found[role] = known if name is None else corpus_name(name, header)
        if name is not None and found[role] is None:
            raise DataError(f"{path}: no column {name!r} ({role}). {shown}")
    needed = ["actual", "predicted", *(["last_close"] if values in (None, "price") else [])]
    for role in needed:
        if found[role] is None:
            raise DataError(f"{path}: no column {ROLES[role][0]!r}; name it with --column {role}=NAME. {shown}")
    if found["timestamp"] is None and found["cutoff"] is None:
        found["timestamp"] = _unnamed_stamps(table)
    return found


def _unnamed_stamps(table: RawTable) -> str:
    """Return an unnamed column of time stamps, as pandas saves an index. Raises DataError if there is none."""
    for name in table.cells.column_names:
        if plain(name) in ("", "index") or plain(name).startswith("unnamed"):
            with contextlib.suppress(DataError):  # a saved index of row numbers
                if read_column_times(table, name).clock != "steps":
                    return name
    raise DataError(
        f"{table.path}: no column looks like a time stamp; name it with --column timestamp=NAME. The columns are "
        f"{', '.join(map(repr, table.cells.column_names))}."
    )


def _items(table: RawTable, name: str | None) -> tuple[Ints, tuple[str, ...]]:
    """Return the item of each row (R,) and the items' names; a file without items is one, named after the file."""
    if name is None:
        return np.zeros(table.cells.num_rows, np.int64), (table.options.item_id(table.path),)
    encoded = table.texts(name).fill_null("").dictionary_encode()
    codes, names = np.asarray(encoded.indices).astype(np.int64), encoded.dictionary.to_pylist()
    if "" in names:
        row = int((codes == names.index("")).argmax())
        raise DataError(
            f"{table.path}: line {table.lines[row]}: column {name!r} has no item. Name it, or drop the row."
        )
    return codes, tuple(names)


def _levels(columns: Any) -> dict[float, str]:
    """Return {level: column name} of the columns whose names are numbers between 0 and 1."""
    found = {}
    for name in columns:
        try:
            level = float(name)
        except ValueError:
            continue
        if 0 < level < 1:
            found[level] = name
    return dict(sorted(found.items()))


def _times(table: RawTable, name: str) -> TableTimes:
    """Return a column of times (R,) as microseconds, or as step numbers."""
    found = read_column_times(table, name)
    assert found.times is not None
    if (found.times == NO_TIME).any():
        line = table.lines[int((found.times == NO_TIME).argmax())]
        raise DataError(f"{table.path}: line {line}: column {name!r} is empty; every row needs a time.")
    return found


def _in_one_clock(
    table: RawTable, found: dict[str, TableTimes], roles: Mapping[str, str | None]
) -> dict[str, TableTimes]:
    """Return the times of both roles in one clock. Raises DataError if one counts steps and one has stamps.

    A column whose stamps are all midnights with an offset was read as dates of that place; beside instants it is moved
    back to UTC.
    """
    kinds = {role: times.clock == "steps" for role, times in found.items()}
    if len(set(kinds.values())) > 1:
        first, second = (roles[role] for role in found)
        raise DataError(
            f"{table.path}: one of the columns {first!r} and {second!r} counts steps, the other has time stamps. Give "
            "both as the same."
        )
    if "utc" not in {times.clock for times in found.values()}:
        return found
    for role, times in found.items():
        if times.clock == "dates" and len(times.offsets) > 1:
            raise DataError(f"{table.path}: column {roles[role]!r} has several offsets. Write its stamps in UTC.")
        if times.clock == "dates" and times.offsets:
            assert times.times is not None
            found[role] = replace(times, times=times.times - times.offsets[0] * MINUTE, clock="utc")
    return found


def _first_and_last(found: TableTimes) -> tuple[str, str]:
    times = found.times
    assert times is not None
    ends = (int(times.min()), int(times.max()))
    first, last = (f"step {t}" if found.clock == "steps" else str(np.datetime64(t, "us").astype("M8[s]")) for t in ends)
    return first, last


def _refuse_returns(path: Path, actual: Array, last: Array) -> None:
    size, close = np.nanmedian(np.abs(actual)), np.nanmedian(np.abs(last))
    if size < PRICE_RATIO * close:
        raise DataError(
            f"{path}: half of the actual values are below {size:.3g}, and half of the last closes above {close:.3g}: "
            "these look like changes, not prices. Give --values fraction (0.01 is one percent) or --values percent; "
            "--values price if they are prices."
        )
