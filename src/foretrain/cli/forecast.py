"""The verb `foretrain forecast`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foretrain.cli.options import (
    BatchSizeOption,
    BlankOption,
    CsvSafeOption,
    Device,
    DeviceOption,
    DrawSeedOption,
    DType,
    FamilyOptions,
    MaxMemoryOption,
    ModelAndData,
    ModelOption,
    NumSamplesOption,
    PrecisionOption,
    RepairOption,
    RescaleOption,
    SortOption,
    ThreadsOption,
    TokenizerOption,
    TrailingRows,
    comma_list,
    dash_as_stdout,
    forecast_settings,
    level_list,
    model_and_data,
    prepare,
    require_single_process,
    spoken_beside,
)
from foretrain.cli.reading import reads_files


@reads_files()
def forecast(
    items: ModelAndData,
    reading: dict[str, Any],
    model: ModelOption = None,
    prediction_length: Annotated[
        int | None, typer.Option(min=1, help="Steps to forecast (default: as trained, else usual of the frequency).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet file to write, or - (stdout; default: DATA-forecast.csv, and a picture)."),
    ] = None,
    future: Annotated[Path | None, typer.Option(help="Known covariates of the steps to forecast.")] = None,
    quantile_levels: Annotated[str | None, typer.Option(help="Comma-separated levels (default 0.1 ... 0.9).")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Comma-separated columns to forecast (default: as trained, else the family's, else target)."),
    ] = None,
    past_covariates: Annotated[
        str | None, typer.Option(help="Columns known up to the newest row (default: as trained, else all others).")
    ] = None,
    known_covariates: Annotated[
        str | None, typer.Option(help="Columns with values in --future (default: as trained, else all of them).")
    ] = None,
    calendar: Annotated[
        str | None,
        typer.Option(help="Exchange whose sessions to follow: XNYS, NYSE, XSHG, 24/7, ... (extra `market`)."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Steps of history to use (default: as trained, else the model's).")
    ] = None,
    batch_size: BatchSizeOption = 256,
    max_memory: MaxMemoryOption = None,
    cross_learning: Annotated[
        bool, typer.Option("--cross-learning", help="Let the items of a batch attend to each other.")
    ] = False,
    sort_quantiles: SortOption = None,
    repair_candles: RepairOption = None,
    blank_missing: BlankOption = None,
    allow_unequal_ends: Annotated[
        bool, typer.Option("--allow-unequal-ends", help="With --cross-learning: items may end at different times.")
    ] = False,
    trailing_rows: Annotated[
        TrailingRows | None,
        typer.Option(help="What newest rows without a target are: the steps to forecast, history, or left out."),
    ] = None,
    num_samples: NumSamplesOption = None,
    seed: DrawSeedOption = 0,
    rescale: RescaleOption = None,
    option: FamilyOptions = None,
    tokenizer: TokenizerOption = None,
    candles: Annotated[Path | None, typer.Option(help="Also write the mean forecast candles to this file.")] = None,
    paths: Annotated[Path | None, typer.Option(help="Also write every sampled path to this file.")] = None,
    aggregate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Add an aggregate of the sampled paths: trimmed_mean_10, mean_quantile_mix_0.15_0.3, ...; repeatable.",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a fan or candle chart (.png, .svg, .pdf).")] = None,
    csv_safe: CsvSafeOption = False,
    device: DeviceOption = Device.auto,
    dtype: PrecisionOption = DType.float32,
    threads: ThreadsOption = None,
) -> None:
    """Forecast the series of a file, a folder of files or a corpus. Only the data need be named."""
    require_single_process("forecast")
    prepare(threads)
    from foretrain.cli.forecast_file import forecast_file
    from foretrain.forecasting.request import FrameRequest
    from foretrain.models.memory import memory_bytes
    from foretrain.models.request import DECILES

    named, data = model_and_data(items, model)
    request = FrameRequest(
        prediction_length=prediction_length or 1,
        quantile_levels=level_list(quantile_levels) or DECILES,
        context_length=context_length,
        batch_size=batch_size,
        max_memory=memory_bytes(max_memory),
        num_samples=num_samples,
        seed=seed,
        rescale=rescale,
        options={**forecast_settings(option), **({"cross_learning": True} if cross_learning else {})},
        target=comma_list(target),
        past_covariates=comma_list(past_covariates),
        known_covariates=comma_list(known_covariates),
        freq=reading.get("freq"),
        calendar=calendar,
        aggregates=aggregate or (),
        sort_quantiles=sort_quantiles,
        repair_candles=repair_candles,
        blank_missing=blank_missing,
        trailing_rows=trailing_rows.value if trailing_rows else None,
        allow_unequal_ends=allow_unequal_ends,
    )
    files = {"out": out, "candles": candles, "paths": paths, "plot": plot}
    files = {name: dash_as_stdout(file) for name, file in files.items()} | {"future": future}
    how = {"tokenizer": tokenizer, "device": device.value, "dtype": dtype.value, "threads": threads}
    with spoken_beside(*files.values()):
        horizon = {"choose_horizon": prediction_length is None}
        forecast_file(named, data, request, reading=reading, csv_safe=csv_safe, **horizon, **files, **how)
