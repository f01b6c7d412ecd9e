"""The verb `foretrain compare`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Annotated

import typer

from foretrain.cli.options import (
    BaselineSecondsOption,
    BatchSizeOption,
    Device,
    DeviceOption,
    DType,
    MaxMemoryOption,
    NamedItemsOption,
    PrecisionOption,
    ThreadsOption,
    TrainedOnOption,
    comma_list,
    dash_as_stdout,
    given_options,
    prepare,
    require_single_process,
    spoken_beside,
)
from foretrain.errors import ConfigError

_SCORING = (  # options that have no effect on finished results
    "horizon", "windows", "seasonality", "data_root", "trained_on", "items", "max_items", "batch_size", "max_memory",
    "baseline_seconds", "device", "dtype", "threads",
)  # fmt: skip
_OF_DATA = ("horizon", "windows", "seasonality", "items")
_PICTURES = (".png", ".svg", ".pdf")


def compare(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Releases, runs, hub ids, tiny (in the box), baselines (naive, drift, mean, linear; with the "
            "extra `baselines` auto_ets, auto_theta, dynamic_optimized_theta, auto_arima), or MODULE:FUNCTION. "
            "With --from: which of those there (default: all).",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(metavar="DATA", help="A corpus, or files; repeatable, each a task.")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A benchmark suite in place of --data; repeatable.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Tasks of it by name; repeatable.")] = None,
    results: Annotated[
        Path | None, typer.Option("--from", metavar="RESULTS", help="Finished results of `benchmark` in place of both.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="With --data: steps to forecast.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="With --data: windows an item, a horizon apart.")] = 1,
    seasonality: Annotated[
        int | None, typer.Option(min=1, help="With --data: steps of a season (default: of the frequency).")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where data sets of suites are.")] = Path("benchmark-data"),
    trained_on: TrainedOnOption = None,
    items: NamedItemsOption = None,
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Compare on a drawn sample of so many items of each task.")
    ] = None,
    batch_size: BatchSizeOption = 256,
    max_memory: MaxMemoryOption = None,
    baseline_seconds: BaselineSecondsOption = None,
    device: DeviceOption = Device.auto,
    dtype: PrecisionOption = DType.float32,
    threads: ThreadsOption = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all tables as markdown.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every figure as CSV.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON, losses of items too, or -.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that stands alone.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the losses of items (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Compare models on the same windows: figures, skill with intervals, tests of pairs, and where each wins.

    Exit code 1 if a model fails on a task, or the data of a task cannot be used.
    """
    require_single_process("compare")
    given = given_options(context, _SCORING)
    _check(given, models, data=data, suite=suite, task=task, results=results, horizon=horizon, plot=plot)
    prepare(threads)
    from foretrain.cli.compare_models import Outputs, compare_models, compare_results
    from foretrain.forecasting.outputs import scratch_files

    written = dash_as_stdout(json_file)
    outputs = Outputs(markdown, csv_file, written, html, plot)
    if len(set(outputs.files)) != len(outputs.files):
        raise ConfigError("compare: two outputs have one file. Name a file for each.")
    with spoken_beside(written), scratch_files(*outputs.files) as scratch:
        to = outputs.into(scratch)
        if results is not None:
            code = compare_results(results, models or [], to)
        else:
            from foretrain.cli.benchmark import check_names, chosen_tasks
            from foretrain.cli.benchmark_models import Request
            from foretrain.models.memory import memory_bytes

            check_names(models or [], baseline_seconds)
            tasks = tuple(chosen_tasks(suite, task or [])) if suite else ()
            request = Request(
                tuple(models or ()), tasks, data_root, Path(), horizon=horizon or 1, windows=windows,
                seasonality=seasonality, trained_on=tuple(trained_on or ()), items=comma_list(items),
                max_items=max_items,
                batch_size=batch_size, max_memory=memory_bytes(max_memory), device=device.value,
                dtype=dtype.value, threads=threads, baseline_seconds=baseline_seconds,
            )  # fmt: skip
            code = compare_models(request, data or [], to)
    raise typer.Exit(code)


def _check(
    given: Set[str],
    models: Sequence[str] | None,
    *,
    data: Sequence[Path] | None,
    suite: Sequence[str] | None,
    task: Sequence[str] | None,
    results: Path | None,
    horizon: int | None,
    plot: Path | None,
) -> None:
    """Raise ConfigError for options that contradict each other. given: options of _SCORING on the command line."""
    if sum(map(bool, (data, suite, results))) != 1:
        raise ConfigError("compare: give one of --data, --suite and --from: what the models are compared on.")
    if results is None and not models:
        raise ConfigError("compare: name the models to compare; seasonal naive is always among them.")
    without = given if results else given & set(_OF_DATA) if suite else given & {"data_root"}
    if without:
        flag = min(without, key=_SCORING.index).replace("_", "-")
        raise ConfigError(f"--{flag}: has no effect with --{'from' if results else 'suite' if suite else 'data'}.")
    if task and not suite:
        raise ConfigError("--task: names tasks of --suite. Leave it out.")
    if data and horizon is None:
        raise ConfigError("--data: give --horizon, the steps to forecast.")
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise ConfigError(f"--plot {plot}: pictures are written as .png, .svg or .pdf; choose one of these.")
    if plot is not None and results is not None:
        raise ConfigError("--plot: draws losses of items, which finished results do not hold. Leave it out.")
