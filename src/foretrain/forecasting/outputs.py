"""Forecasts as CSV or Parquet files that appear together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import files_together
from foretrain.errors import DataError
from foretrain.printing import for_spreadsheet

if TYPE_CHECKING:
    import pandas as pd


def save_table(frame: pd.DataFrame, path: Path, *, csv_safe: bool = False) -> None:
    """Write a frame as Parquet if the suffix is .parquet, else as CSV; csv_safe: with texts as for_spreadsheet."""
    if path.suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
        return
    if csv_safe:
        texts = frame.select_dtypes(exclude=["number", "datetime", "datetimetz", "bool"])
        frame = frame.assign(**{name: texts[name].astype(object).map(_safe) for name in texts}).rename(columns=_safe)
    frame.to_csv(path, index=False)


def _safe(value: Any) -> Any:
    return for_spreadsheet(value) if isinstance(value, str) else value


def scratch_files(*paths: Path, new: Sequence[Path] = ()) -> AbstractContextManager[dict[Path, Path]]:
    """Return scratch files to write to; if the block succeeds they replace the paths together, if it fails none does.

    Raises DataError on entry for a path that cannot be written, and later for one of `new` that appears meanwhile.
    """
    return files_together(paths, _unwritten, new=new)


def _unwritten(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror or error}). Free space or name another file.")
