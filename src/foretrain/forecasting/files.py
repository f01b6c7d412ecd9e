"""Forecast input and output as CSV or Parquet files."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import files_together
from foretrain.data.importers.cells import BadCell, to_numbers
from foretrain.data.importers.columns import FINE_STAMPS, plain
from foretrain.data.importers.stamps import Stamps, number_stamps, parse_stamps
from foretrain.data.importers.text import separator_of
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.hints import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

MISSING = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "-nan", "NULL", "null", "None"]  # as pandas reads them


def read_file(
    path: Path, *, id_column: str = "item_id", timestamp_column: str | None = None
) -> tuple[pd.DataFrame, str]:
    """Read a CSV or Parquet file; return a long frame and the name of its column of time stamps.

    Ids are always text. A file without item_id is one item, named after the file. Stamps and numbers are read as
    `data import` reads them: unix times and dates like 20240131, a date and a time column, day first, decimal commas.
    An unnamed column of stamps is called "timestamp". Raises DataError naming file and column.
    """
    frame: Any = _read(path, id_column)
    if frame.empty:
        raise DataError(f"{path}: holds no rows.")
    if id_column not in frame.columns and id_column != "item_id":
        check_columns(path, frame, (id_column,))
    stamp = timestamp_column or _recognised_stamp(path, frame, id_column)
    if stamp not in frame.columns and (unnamed := _unnamed_stamp(frame)) is not None:
        frame = frame.rename(columns={unnamed: stamp})
    check_columns(path, frame, (stamp,))
    frame = _with_stamps(path, frame, stamp)
    for name in frame.columns:
        if name not in (id_column, stamp):
            frame[name] = _numbers(frame[name])
    if id_column not in frame.columns:
        frame.insert(0, id_column, path.name.split(".")[0])
    return frame, stamp


def column_names(path: Path) -> list[str]:
    """Return the columns of a CSV or Parquet file, in order. Raises DataError if it cannot be read."""
    return [str(name) for name in _read(path, "", rows=0).columns]


def check_columns(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise DataError, with the nearest name, for a column that the file lacks."""
    for name in names:
        if name not in frame.columns:
            names = [str(known) for known in frame.columns]
            hint = did_you_mean(name, names, f"It has {', '.join(names)}.", cutoff=0.5)
            raise DataError(f"{path}: no column {name!r}. {hint}")


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as Parquet if the suffix is .parquet, else as CSV."""
    if path.suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)


def scratch_files(*paths: Path) -> AbstractContextManager[dict[Path, Path]]:
    """Return scratch files to write to; if the block succeeds they replace the paths together, if it fails none does.

    Raises DataError on entry for a path that cannot be written.
    """
    return files_together(paths, _unwritten)


def _unwritten(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror or error}). Free space or name another file.")


def _read(path: Path, id_column: str, rows: int | None = None) -> pd.DataFrame:
    """Read the file, or its first `rows` rows."""
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        if parquet:
            frame: Any = pd.read_parquet(path)
            if not isinstance(frame.index, pd.RangeIndex):
                frame = frame.rename_axis([name or f"Unnamed: {k}" for k, name in enumerate(frame.index.names)])
                frame = frame.reset_index()
            if id_column in frame.columns:
                frame[id_column] = frame[id_column].astype(str)
            return frame.head(rows) if rows is not None else frame
        options: Any = {"sep": _separator(path), "encoding": "utf-8-sig"}
        header = list(pd.read_csv(path, nrows=0, **options).columns)
        # an id such as "NA", "007" or "1e5" is text: no missing values and no numbers in that column
        missing = {name: MISSING for name in header if name != id_column}
        types: Any = {id_column: str} if id_column in header else None
        options |= {"dtype": types, "keep_default_na": False, "na_values": missing, "low_memory": False}
        return pd.read_csv(path, nrows=rows, **options)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it in that encoding.") from None
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsers raise these
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read as {'Parquet' if parquet else 'CSV'} ({reason}).") from None


def _separator(path: Path) -> str:
    """Return the cell separator of a text file. Raises DataError for a binary file."""
    suffix = path.suffix.lower()
    if suffix in (".bz2", ".xz", ".zip", ".zst"):  # pandas decompresses these
        return ","
    with gzip.open(path) if suffix == ".gz" else path.open("rb") as file:
        head = file.read(1 << 16)
    if b"\0" in head:
        raise DataError(f"{path}: is not UTF-8 text; give a CSV file in that encoding, or a Parquet file.")
    return separator_of(head.decode("utf-8", errors="ignore").splitlines()[:40])


def _recognised_stamp(path: Path, frame: pd.DataFrame, id_column: str) -> str:
    for wanted in FINE_STAMPS:
        for name in frame.columns:
            if name != id_column and plain(str(name)) == wanted:
                return str(name)
    if _unnamed_stamp(frame) is not None:
        return "timestamp"
    raise DataError(
        f"{path}: no column looks like a time stamp (it has {', '.join(map(str, frame.columns))}); "
        "name it with --timestamp-column."
    )


def _unnamed_stamp(frame: Any) -> str | None:
    """Return an unnamed column of time stamps, as pandas saves an index; None if there is none."""
    import pandas as pd

    for name in frame.columns:
        if not re.fullmatch(r"Unnamed: \d+|", str(name)):
            continue
        if pd.api.types.is_datetime64_any_dtype(frame[name]):
            return name
        if not pd.api.types.is_numeric_dtype(frame[name]) and _stamps(frame[name]) is not None:
            return name
    return None


def _with_stamps(path: Path, frame: Any, stamp: str) -> Any:
    """Parse the time stamps of a frame; step numbers and text that is no stamp stay unchanged."""
    import pandas as pd

    column = frame[stamp]
    clock = next((name for name in frame.columns if plain(str(name)) == "time" and name != stamp), None)
    if plain(stamp) == "date" and clock is not None and not pd.api.types.is_datetime64_any_dtype(column):
        times = frame[clock].astype(str).str.strip()
        if times.str.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?(\.\d+)?").all():
            column = column.astype(str) + " " + times
            frame = frame.drop(columns=clock)
    try:
        found = _stamps(column)
    except DataError as error:  # day first or month first
        fact = str(error).partition("; say which")[0]
        raise DataError(f"{path}: column {stamp!r}: {fact}. Write them like 2024-01-31.") from None
    if found is None or found.offsets not in ((), (0,)) or (found.times == NO_TIME).any():
        return frame
    values = pd.DatetimeIndex(found.times.view("datetime64[us]"))
    if found.offsets and not pd.api.types.is_numeric_dtype(column):
        return frame  # keeps the time zone in the text
    return frame.assign(**{stamp: values})


def _stamps(column: Any) -> Stamps | None:
    """Parse a column of text or whole numbers; None if it holds no stamps or is parsed already."""
    import pandas as pd
    import pyarrow as pa

    if pd.api.types.is_integer_dtype(column.dtype):
        return number_stamps(column.to_numpy())
    if not pd.api.types.is_string_dtype(column.dtype) or column.isna().any():
        return None
    try:
        return parse_stamps(pa.array(column.astype(str), pa.string()))
    except BadCell:
        return None


def _numbers(column: Any) -> Any:
    """Convert a text column to numbers if all its cells are numbers, with thousands marks or decimal commas too."""
    import pandas as pd
    import pyarrow as pa

    if not pd.api.types.is_string_dtype(column.dtype):
        return column
    try:
        found = to_numbers(pa.array(column.where(column.notna(), "").astype(str), pa.string()))
    except BadCell:
        return column
    return column if found is None else pd.Series(found, column.index, name=column.name)


def recognised_target(path: Path, frame: pd.DataFrame, taken: set[str]) -> str:
    """Return the column `target`, else the only numeric one not in `taken`. Raises DataError if there is neither."""
    import pandas as pd

    if "target" in frame.columns:
        return "target"
    numeric = [str(n) for n in frame.columns if n not in taken and pd.api.types.is_numeric_dtype(frame[n])]
    if len(numeric) == 1:
        return numeric[0]
    raise DataError(
        f"{path}: no column 'target'; name what to forecast with --target ({', '.join(numeric) or 'none'})."
    )
