"""The verb `foretrain quick`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foretrain.cli.options import (
    CsvSafeOption,
    Device,
    DeviceOption,
    ThreadsOption,
    TokenizerOption,
    comma_list,
    prepare,
    require_single_process,
)
from foretrain.cli.reading import reads_files


@reads_files()
def quick(
    data: Annotated[Path, typer.Argument(help="A file or folder of files as data import reads them, or a corpus.")],
    reading: dict[str, Any],
    model: Annotated[
        str | None, typer.Option(help="What to start from: a release, a hub id (default: tiny, the model in the box).")
    ] = None,
    prediction_length: Annotated[
        int | None, typer.Option(min=1, help="Steps to forecast (default: as trained, else usual of the frequency).")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Comma-separated columns to forecast (default: as forecast.)")
    ] = None,
    future: Annotated[Path | None, typer.Option(help="Known covariates of the steps to forecast.")] = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="Minutes of training; the rest takes about one more.")] = 2.0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps of training, whatever fits the minutes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate (default: usual of the model).")] = None,
    tokenizer: TokenizerOption = None,
    out: Annotated[Path | None, typer.Option(help="The folder to create (default: DATA-quick).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data order and dropout.")] = 42,
    csv_safe: CsvSafeOption = False,
    device: DeviceOption = Device.auto,
    threads: ThreadsOption = None,
) -> None:
    """Fine-tune on a file for minutes, judge beside naive and zero-shot, forecast, draw and report. No config."""
    require_single_process("quick")
    prepare(threads)
    from foretrain.cli.commands import command_line
    from foretrain.cli.quick_steps import quick_command
    from foretrain.cli.quick_words import Settings

    settings = Settings(
        model=model,
        tokenizer=tokenizer,
        target=comma_list(target),
        prediction_length=prediction_length,
        future=future,
        minutes=minutes,
        max_steps=max_steps,
        learning_rate=learning_rate,
        seed=seed,
        csv_safe=csv_safe,
        device=device.value,
        threads=threads,
    )
    quick_command(data, settings, reading=reading, out=out, command=command_line())
