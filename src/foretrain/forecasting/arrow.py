"""A user's frame as an Arrow table that can be imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foretrain.errors import DataError
from foretrain.forecasting import checks
from foretrain.forecasting.covariates import column_of
from foretrain.forecasting.times import read_times

if TYPE_CHECKING:
    import pandas as pd


def arrow_table(df: pd.DataFrame, id_column: str) -> tuple[Any, str | None]:
    """Return the columns of a frame as a pyarrow.Table, and the frequency of a column of periods, None without one.

    Ids become text, periods their first instants, decimals and floats in object columns numbers. Raises DataError for
    an index that holds data, column names that are no text, ids that only differ in type, and cells that are no single
    value.
    """
    import pandas as pd
    import pyarrow as pa

    checks.check_shape(df, "df")
    _check_index(df)
    if not len(df):
        raise DataError("df has no rows; give at least one row per item.")
    freq = None
    columns = {}
    for name in df.columns:
        column = column_of(df, name)
        if name == id_column:
            checks.check_ids(column, "df")
            column = column.astype(object).map(str)
        elif _is_period(column):
            found = read_times(column, "df")
            column, freq = pd.Series(found.values, name=name), found.freq
        elif isinstance(column.dtype, pd.SparseDtype):
            column = pd.Series(column.to_numpy(), name=name)
        checks.check_numbers(column, "df")
        columns[name] = _arrow(checks.python_numbers(column, target=False), name)
    return pa.table(columns), freq


def _check_index(df: pd.DataFrame) -> None:
    """Raise DataError for an index that is more than row numbers, as an import would lose it."""
    import pandas as pd

    index = df.index
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex) and "timestamp" not in df.columns:
        raise DataError(
            "df has its time stamps in the index, which is not imported. "
            "df.rename_axis('timestamp').reset_index() makes a column of it."
        )
    names = [name for name in index.names if name is not None and name not in df.columns]
    counts = pd.api.types.is_integer_dtype(index.dtype) and not names
    if isinstance(index, pd.MultiIndex) or not (counts or isinstance(index, pd.RangeIndex) or index.name in df.columns):
        shown = ", ".join(map(repr, names)) or f"without a name, such as {index[0]!r}"
        raise DataError(
            f"df has an index of {index.nlevels} level(s) ({shown}), which is not imported. df.reset_index() makes "
            "columns of it, df.reset_index(drop=True) drops it."
        )


def _is_period(column: Any) -> bool:
    import pandas as pd
    from pandas.api import types

    if isinstance(column.dtype, pd.PeriodDtype):
        return True
    return column.dtype == object and types.infer_dtype(column, skipna=True) == "period"


def _arrow(column: Any, name: str) -> Any:
    import pyarrow as pa

    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        kinds: dict[str, Any] = {}
        for value in column.dropna():
            kinds.setdefault(type(value).__name__, value)
        shown = " and ".join(f"{value!r} ({kind})" for kind, value in list(kinds.items())[:2])
        raise DataError(
            f"df: column {name!r} holds {shown}, which is no column of numbers, text or stamps. Convert it, for "
            f"example with df[{name!r}].astype(str), or drop it."
        ) from None
    if pa.types.is_nested(array.type):
        raise DataError(
            f"df: column {name!r} holds {array.type} cells; give one value per row and time stamp (df.explode), or "
            "drop the column."
        )
    return array
