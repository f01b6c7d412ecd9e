"""`foretrain.quick`: the command of that name, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import temporary_files
from foretrain.cli.options import require_single_process
from foretrain.cli.quick_steps import quick_command
from foretrain.cli.quick_words import QuickResult, Settings
from foretrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd


def quick(
    data: str | Path | pd.DataFrame,
    model: str | None = None,
    *,
    out: str | Path | None = None,
    prediction_length: int | None = None,
    target: str | Sequence[str] | None = None,
    future: str | Path | pd.DataFrame | None = None,
    minutes: float = 2.0,
    max_steps: int | None = None,
    learning_rate: float | None = None,
    tokenizer: str | None = None,
    seed: int = 42,
    device: str = "auto",
    threads: int | None = None,
    import_options: Mapping[str, Any] | None = None,
) -> QuickResult:
    """Fine-tune for some minutes, judge beside naive and the model as it was, forecast, draw and report.

    Args:
        data: a file, a folder of files, a corpus folder, or a pandas frame in long format.
        model: what to start from: a release folder, a hub id; None = "tiny", the model in the box.
        out: the folder to create; None = DATA-quick in the current folder. Required for a frame.
        prediction_length: steps to forecast; None = as trained, else usual of the frequency.
        target: columns to forecast; None = as forecast_df.
        future: known covariates of the steps to forecast: a file, or a frame beside a frame.
        minutes, max_steps: of training: as many steps as fit the minutes, or this number.
        learning_rate: its peak; None = usual of the model.
        tokenizer: of Kronos, if the model does not hold it.
        seed: of data order and dropout.
        device, threads: where to compute.
        import_options: options of the import, such as {"id_column": "store", "freq": "D"}.

    Prints what the command prints. Raises DataError, ConfigError, ModelError and TrainingError.
    """
    require_single_process("quick")
    settings = Settings(
        model=model,
        tokenizer=tokenizer,
        target=(target,) if isinstance(target, str) else None if target is None else tuple(target),
        prediction_length=prediction_length,
        minutes=minutes,
        max_steps=max_steps,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        threads=threads,
    )
    reading, place = dict(import_options or {}), None if out is None else Path(out)
    if isinstance(data, str | Path):
        if future is not None and not isinstance(future, str | Path):
            raise ConfigError("future: a frame beside a file; give both as files, or both as frames.")
        path = None if future is None else Path(future)
        return quick_command(Path(data), settings.changed(future=path), reading=reading, out=place)
    if place is None:
        raise ConfigError('out: a frame has no name to call the folder after; for example out="sales-quick".')
    with temporary_files() as scratch:
        carried = _carried(data, scratch / "item.parquet", reading)  # a frame without ids is the item "item"
        known = None if future is None else _carried(future, scratch / "future.parquet", reading)
        try:
            return quick_command(carried, settings.changed(future=known), reading=reading, out=place, name="df")
        except DataError as error:
            text = str(error).replace(str(carried), "df").replace(str(known), "future").replace(carried.name, "df")
            raise DataError(text) from None


def _carried(frame: Any, path: Path, reading: dict[str, Any]) -> Path:
    """Write a frame to a file that an import reads, and return it; its frequency goes into the options of reading."""
    import pandas as pd
    import pyarrow.parquet

    from foretrain.forecasting.arrow import arrow_table

    if not isinstance(frame, pd.DataFrame):
        raise ConfigError(f"data and future are files, or pandas frames, not {type(frame).__name__}.")
    table, freq = arrow_table(frame, reading.get("id_column") or "item_id")
    if freq is not None:
        reading.setdefault("freq", freq)
    pyarrow.parquet.write_table(table, path)
    return path
