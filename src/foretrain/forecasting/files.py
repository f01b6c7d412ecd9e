"""Forecast input and output as CSV or Parquet files."""

from __future__ import annotations

import difflib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.data.importers.columns import FINE_STAMPS, plain
from foretrain.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MISSING = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "-nan", "NULL", "null", "None"]  # as pandas reads them


def read_file(
    path: Path, *, id_column: str = "item_id", timestamp_column: str | None = None
) -> tuple[pd.DataFrame, str]:
    """A CSV or Parquet file as a long frame, and the name of its column of time stamps.

    Ids stay text whatever they look like. A file without the id column is one item, named after the file. Raises
    DataError naming file and column.
    """
    frame = _read(path, id_column)
    if frame.empty:
        raise DataError(f"{path}: holds no rows.")
    if id_column not in frame.columns:
        frame.insert(0, id_column, path.name.split(".")[0])
    stamp = timestamp_column or _recognised_stamp(path, frame, id_column)
    check_columns(path, frame, (stamp,))
    return frame, stamp


def check_columns(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise DataError, with the nearest name, for a column that a file does not have."""
    for name in names:
        if name not in frame.columns:
            raise DataError(f"{path}: no column {name!r}.{_hint(name, frame.columns)}")


def write_file(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV or Parquet, as the name says; the file appears whole or not at all."""
    with appearing(path) as places:
        save_table(frame, places[path])


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV or Parquet, as the name says."""
    if path.suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)


@contextmanager
def appearing(*paths: Path) -> Iterator[dict[Path, Path]]:
    """Scratch files to write to; when the block ends they take the places of the paths, and where it fails none does.

    Raises DataError at once for a place where nothing can be written.
    """
    scratch: dict[Path, Path] = {}
    made: list[Path] = []  # folders, outermost first
    done = False
    try:
        for path in paths:
            with _told(path):
                lacking = [folder for folder in path.parents if not folder.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
                made += reversed(lacking)
                handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
                os.close(handle)
                scratch[path] = Path(name)
        try:
            yield scratch
        except OSError as error:
            path = next((p for p, place in scratch.items() if str(place) == str(error.filename)), None)
            if path is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise _unwritten(path or paths[0], error) from None
        for path, place in scratch.items():
            with _told(path):
                os.chmod(place, 0o644)
                os.replace(place, path)
        done = True
    finally:
        for place in scratch.values():
            place.unlink(missing_ok=True)
        for folder in [] if done else reversed(made):
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror or error}). Free space or name another.")


def _read(path: Path, id_column: str) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    suffixes = [s.lower() for s in path.suffixes]
    try:
        if suffixes[-1:] in ([".parquet"], [".pq"]):
            frame = pd.read_parquet(path)
            if id_column in frame.columns:
                frame[id_column] = frame[id_column].astype(str)
            return frame
        header = list(pd.read_csv(path, nrows=0).columns)
        # an id such as "NA", "007" or "1e5" is text: no missing values and no numbers in that column
        missing = {name: MISSING for name in header if name != id_column}
        types: Any = {id_column: str} if id_column in header else None
        return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing, low_memory=False)
    except (ValueError, OSError, UnicodeDecodeError) as error:  # pandas' and pyarrow's parsers raise these
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read as {'Parquet' if suffixes else 'CSV'} ({reason}).") from None


def _recognised_stamp(path: Path, frame: pd.DataFrame, id_column: str) -> str:
    for wanted in FINE_STAMPS:
        for name in frame.columns:
            if name != id_column and plain(str(name)) == wanted:
                return str(name)
    raise DataError(
        f"{path}: no column looks like a time stamp (it has {', '.join(map(str, frame.columns))}); "
        "name it with --timestamp-column."
    )


def recognised_target(path: Path, frame: pd.DataFrame, taken: set[str]) -> str:
    """The column `target`, else the only numeric one besides those taken. DataError where neither is there."""
    import pandas as pd

    if "target" in frame.columns:
        return "target"
    numeric = [str(n) for n in frame.columns if n not in taken and pd.api.types.is_numeric_dtype(frame[n])]
    if len(numeric) == 1:
        return numeric[0]
    raise DataError(
        f"{path}: no column 'target'; name what to forecast with --target ({', '.join(numeric) or 'none'})."
    )


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" It has {', '.join(map(str, known))}."
