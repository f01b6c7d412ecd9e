"""Forecasts as CSV or Parquet files that appear together or not at all."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from foretrain.atomic import files_together
from foretrain.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


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
