"""Checks of the frames that users give: a DataError names the column and a way out.

# T rows
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from foretrain.data.importers.categories import recurs
from foretrain.data.importers.cells import BadCell, is_number_text, to_numbers
from foretrain.data.importers.columns import market_layout, plain
from foretrain.data.importers.stamps import parse_stamps
from foretrain.data.importers.time_names import FINE_STAMPS
from foretrain.errors import DataError
from foretrain.forecasting.covariates import is_numeric
from foretrain.forecasting.record import listed
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.future import READ_TABLE

_log = logging.getLogger(__name__)
AS_CATEGORY = "or make it a category with astype('category')"


def check_shape(df: Any, which: str) -> None:
    """Raise DataError unless df is a frame whose columns have different names of text."""
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise DataError(f"{which} is a {type(df).__name__}; give a pandas DataFrame.")
    if isinstance(df.columns, pd.MultiIndex):
        shown = tuple(str(part) for part in df.columns[0])
        raise DataError(
            f"{which} has column names of {df.columns.nlevels} levels, such as {shown}, as yfinance makes them. Give "
            "one row per item and time stamp (df.stack(future_stack=True).reset_index() makes the lower level a "
            f"column), or save it as CSV. {READ_TABLE}"
        )
    odd = next((name for name in df.columns if not isinstance(name, str)), None)
    if odd is not None:
        odd = odd.item() if isinstance(odd, np.generic) else odd
        raise DataError(
            f"{which} has a column named {odd!r}, of type {type(odd).__name__}; names are text. "
            "df.columns = df.columns.map(str) makes them text."
        )
    if df.columns.has_duplicates:
        twice = df.columns[df.columns.duplicated()][0]
        raise DataError(f"{which} has two columns named {twice!r}; rename one. {READ_TABLE}")


def check_frame(df: Any, names: Sequence[str], which: str = "df") -> None:
    """Raise DataError if df is not a frame or has no column of time stamps; names: columns of ids and times."""
    import pandas as pd

    check_shape(df, which)
    item, stamp = names
    levels = [name for name in df.index.names if name is not None]
    hidden = next((name for name in (item, stamp) if name in levels and name not in df.columns), None)
    if hidden is not None and not isinstance(df.index, pd.DatetimeIndex | pd.PeriodIndex):
        raise DataError(
            f"{which} has no column {hidden!r}, but a level of that name in its index; df.reset_index() makes columns "
            f"of its index. Its columns are {columns_of(df)}."
        )
    if stamp in df.columns:
        return
    stamps = [name for name in df.columns if name != item and plain(name) in FINE_STAMPS]
    advice = f"timestamp_column={stamps[0]!r} would name yours" if stamps else "name yours with timestamp_column="
    if isinstance(df.index, pd.DatetimeIndex | pd.PeriodIndex):
        advice = f"df.rename_axis({stamp!r}).reset_index() makes one of its index"
    elif isinstance(df.index, pd.MultiIndex):
        advice = f"df.rename_axis({[item, stamp]!r}).reset_index() makes columns of an index of ids and stamps"
    raise DataError(f"{which} has no column {stamp!r}; {advice}. Its columns are {columns_of(df)}. {READ_TABLE}")


def columns_of(df: Any) -> str:
    """Return a frame's column names for a message."""
    shown = [repr(str(name)) for name in df.columns[:12]]
    return ", ".join(shown) + (", ..." if len(df.columns) > 12 else "")


def check_ids(column: Any, which: str) -> None:
    """Raise DataError for rows without an id, ids that are lists, and ids that only differ in type, as 1 and "1"."""
    import pandas as pd

    if column.isna().any():
        raise DataError(f"{which} has a row without {column.name}; fill it in or drop the row. {READ_TABLE}")
    try:
        found = pd.unique(column)
    except TypeError:
        value = next(value for value in column if not getattr(type(value), "__hash__", None))
        raise DataError(
            f"{which}: column {column.name!r} holds a {type(value).__name__}; an id is text or a number."
        ) from None
    if column.dtype != object:
        return
    by_text: dict[str, Any] = {}
    for value in found:
        other = by_text.setdefault(str(value), value)
        if other is not value and type(other) is not type(value):
            raise DataError(
                f"{which}: column {column.name!r} has the ids {other!r} and {value!r}, which only differ in type. Make "
                "all of them text: df[column].astype(str)."
            )


def drop_row_numbers(df: Any, which: str, kept: Sequence[str]) -> Any:
    """Leave out unnamed columns that only count rows or are empty, as pandas makes of a saved index.

    kept: columns with a role. Logs a note.
    """
    unnamed = [
        name for name in df.columns if name not in kept and re.fullmatch(r"|index|Unnamed: \d+(\.\d+)?", name.strip())
    ]
    counts = [name for name in unnamed if _counts_rows(df[name])]
    if not counts:
        return df
    text = f"{which}: columns without a name that only count rows or are empty are left out: {listed(counts)}."
    warn(_log, Note(Code.ROW_NUMBERS_LEFT_OUT, text, {"columns": len(counts)}))
    return df.drop(columns=counts)


def _counts_rows(column: Any) -> bool:
    from pandas.api import types

    if column.name != "index" and column.isna().all():
        return True
    if not types.is_integer_dtype(column.dtype) or column.isna().any():
        return False
    values = column.to_numpy(np.float64)
    if column.name == "index":
        return len(values) > 1 and bool((np.diff(values) == 1).all())
    return bool((np.abs(values) < 1e7).all())


def check_text(column: Any) -> None:
    """Raise DataError for a covariate of text that an import reads as numbers, or leaves out: dates, names, comments.

    Text of plain numbers stays a category, as text was asked for; so do true and false.
    """
    import pyarrow as pa
    from pandas.api import types

    if column.dtype != object and not types.is_string_dtype(column.dtype):
        return
    try:
        texts = [value for value in column.dropna().unique() if isinstance(value, str) and value.strip()]
    except TypeError:  # a cell that is no single value, which the encoding names
        return
    if not texts or all(is_number_text(text) for text in texts):
        return
    if {text.strip().lower() for text in texts} <= {"true", "false"}:
        return
    cells = pa.array(texts, pa.string())
    try:
        numbers, bad = to_numbers(cells), None
    except BadCell as found:
        numbers, bad = None, found
    like_numbers = sum(bool(re.fullmatch(r"[^A-Za-z]*\d[^A-Za-z]*", text)) for text in texts)
    if numbers is not None and np.isfinite(numbers).any():
        shown = next(text for text in texts if not is_number_text(text))
        raise DataError(
            f"column {column.name!r} is text with numbers such as {shown!r}. Convert it to numbers, {AS_CATEGORY}. "
            f"{READ_TABLE}"
        )
    if bad is not None and 2 * like_numbers > len(texts):
        raise DataError(
            f"column {column.name!r} is text that looks like numbers, but {bad.text!r} is {without_flags(bad.why)}. "
            f"Convert the column to numbers, {AS_CATEGORY}. {READ_TABLE}"
        )
    if bad is None and _are_dates(cells):
        raise DataError(
            f"column {column.name!r} holds dates as text, such as {texts[0]!r}; a date is no value. Drop it, "
            f"{AS_CATEGORY}. foretrain.read_table(FILE) leaves such columns out."
        )
    filled = int(column.notna().sum())
    if not recurs(len(texts), filled):
        raise DataError(
            f"column {column.name!r} is text with {len(texts):,} different of {filled:,} cells, such as {texts[0]!r}, "
            f"which do not come back. Drop it, {AS_CATEGORY}. foretrain.read_table(FILE) leaves such columns out."
        )


def without_flags(text: str) -> str:
    """Return an importer's message without its last clause if that names options of the command."""
    return re.split(r"; [^;]*--", text)[0].rstrip(".")


def is_text(column: Any) -> bool:
    """Return True for a column of text, missing cells included."""
    from pandas.api import types

    if column.dtype == object:
        return types.infer_dtype(column, skipna=True) == "string"
    return types.is_string_dtype(column.dtype)


def _are_dates(cells: Any) -> bool:
    try:
        parse_stamps(cells, dayfirst=True)
    except (BadCell, DataError):
        return False
    return True


def first_text(column: Any, items: Any) -> str:
    """Return words for the first cell of a target that is no number; items (T,) are the ids of the rows."""
    import pandas as pd

    if is_boolean(column):
        return f"it is boolean; make it 0 and 1. {READ_TABLE}"
    for row, value in enumerate(column.to_list()):
        if isinstance(value, list | tuple | dict | set | np.ndarray):
            return (
                f"row {row} holds a {type(value).__name__}, so each row may be a whole series; give one row per time "
                f"stamp (df.explode). {READ_TABLE}"
            )
    read: Any = pd.to_numeric(column.astype(object), errors="coerce")
    bad = np.flatnonzero((read.isna() & column.notna()).to_numpy())
    if not len(bad):
        return f"its type is {column.dtype}; convert it with pandas.to_numeric. {READ_TABLE}"
    where = f"row {bad[0]} (item {listed([items.iloc[bad[0]]])})"
    return f"{where} holds {column.iloc[bad[0]]!r}; fix or empty that cell. {READ_TABLE}"


def is_boolean(column: Any) -> bool:
    """Return True for a column of booleans, missing ones included."""
    from pandas.api import types

    kind = types.infer_dtype(column, skipna=True) if column.dtype == object else ""
    return kind == "boolean" or types.is_bool_dtype(column.dtype)


def python_numbers(column: Any, *, target: bool) -> Any:
    """Return an object column of floats or decimals (and of integers, if it is a target) as float64.

    Any other column is returned as it is: integers in an object column are categories, as in the official packages.
    """
    import pandas as pd
    from pandas.api import types

    if column.dtype != object:
        return column
    kind = types.infer_dtype(column, skipna=True)
    kinds = ("floating", "decimal", "mixed-integer-float", *(("integer", "mixed-integer") if target else ()))
    present = column.notna()
    if kind not in kinds or not present.any():
        return column
    try:
        values = np.array([float(value) for value in column[present]], np.float64)
    except (TypeError, ValueError):
        return column
    if any(isinstance(value, str) for value in column[present]):
        return column
    result = np.full(len(column), np.nan)
    result[present.to_numpy()] = values
    return pd.Series(result, column.index, name=column.name)


def warn_of_quotes(df: Any) -> None:
    """Log a note on rows with a price of zero or a negative volume if df has candles: an import makes them missing."""
    names = [name for name in df.columns if is_numeric(df[name])]
    layout = market_layout(names, [False] * len(names))
    if not layout.bars:
        return
    wrong = np.zeros(len(df), bool)
    for i in (*layout.prices, *layout.volumes):
        values = df[names[i]].to_numpy(np.float64, na_value=np.nan)
        wrong |= values == 0 if i in layout.prices else values < 0
    if wrong.any():
        text = (
            f"df: {wrong.sum():,} rows have a price of 0 or a negative volume, first row {int(wrong.argmax())}; they "
            f"are taken as they are. {READ_TABLE} It takes such values for missing."
        )
        warn(_log, Note(Code.QUOTES_IMPOSSIBLE, text, {"rows": int(wrong.sum())}))


def check_numbers(column: Any, which: str) -> None:
    """Raise DataError for a column of numbers that have no order: complex ones."""
    if is_numeric(column) and getattr(column.dtype, "kind", "") == "c":
        raise DataError(f"{which}: column {column.name!r} holds complex numbers; give their real part, or drop it.")
