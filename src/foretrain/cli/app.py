"""The commands of `foretrain`. Each imports its code when called, so that `foretrain --help` is fast.

Errors for users are printed in one line with exit code 2. This module imports no torch, pandas or numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foretrain.cli.benchmark import benchmark
from foretrain.cli.compare import compare
from foretrain.cli.configs import config_app
from foretrain.cli.download import data_download
from foretrain.cli.launch import launch_app
from foretrain.cli.options import (
    AccumulationOption,
    BatchSizeOption,
    BlankOption,
    CsvSafeOption,
    Device,
    DeviceOption,
    DrawSeedOption,
    DrawsOver,
    DryRunOption,
    DType,
    FamilyOptions,
    ForeignFormat,
    MicroBatchOption,
    ModelAndData,
    ModelArgument,
    ModelOption,
    NumSamplesOption,
    Overrides,
    PrecisionOption,
    RepairOption,
    RescaleOption,
    SortOption,
    ThreadsOption,
    TokenBudgetOption,
    TokenizerOption,
    TrailingRows,
    Values,
    VerboseOption,
    comma_list,
    config_and_overrides,
    dash_as_stdout,
    forecast_settings,
    level_list,
    model_and_data,
    spoken_beside,
    train_flags,
)
from foretrain.cli.options import prepare as _prepare
from foretrain.cli.options import require_single_process as _require_single_process
from foretrain.cli.quick import quick
from foretrain.cli.reading import SERIES_ONLY, GroupedCommand, reads_files
from foretrain.cli.start import importing
from foretrain.errors import ConfigError

app = typer.Typer(
    name="foretrain",
    help="Train, fine-tune, evaluate and use time-series foundation models; naive baselines beside every metric.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Import, generate or download series as a corpus, and inspect one.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(launch_app, name="launch")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("runs/demo"),
    threads: ThreadsOption = None,
) -> None:
    """Generate data, import it, fine-tune the model in the box, compare it with naive forecasts and write a report."""
    _require_single_process("demo")
    _prepare(threads)
    from foretrain.cli.demo import run_demo

    run_demo(out)


@data_app.command("import", cls=GroupedCommand)
@reads_files()
def data_import(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: CSV, Parquet, .xlsx, JSON, .zip, numpy.")],
    reading: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option(help="The corpus folder to create (or, with --update, to extend).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be read, and write nothing.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Append new bars and items to an existing corpus.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Comma-separated columns that must exist; they come first.")
    ] = None,
    adjust: Annotated[bool, typer.Option("--adjust", help="Multiply OHLC by adj_close/close.")] = False,
    min_rows: Annotated[int | None, typer.Option(min=1, help="Drop items shorter than this.")] = None,
    provenance: Annotated[str, typer.Option(help="real or synthetic; reports state it.")] = "real",
) -> None:
    """Convert raw files to a checked, memory-mapped corpus. Prints what was found, fixed and dropped."""
    _require_single_process("data import")
    if out is None and not dry_run:
        raise ConfigError("data import: give --out, the corpus folder to write, or --dry-run, to write none.")
    from foretrain.cli.commands import import_data, preview_files

    reading |= {"target": comma_list(target), "adjust": adjust, "min_rows": min_rows}
    if out is None or dry_run:
        preview_files(paths, out=out, update=update, provenance=provenance, **reading)
        return
    import_data(paths, out, update=update, provenance=provenance, **reading)


@data_app.command("generate")
def data_generate(
    items: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The corpus folder to create.")] = None,
    num_series: Annotated[int, typer.Option(min=1, max=10**10, help="How many series.")] = 100_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw series.")] = 1,
) -> None:
    """Write synthetic series as a corpus for pretraining. Repeat an interrupted command to continue it."""
    _require_single_process("data generate")
    if out is None:
        raise ConfigError("data generate: give --out, the corpus folder to write.")
    from foretrain.cli.commands import generate_data

    example = "data generate synthetic/mixture --out corpora/mixture"
    config, overrides = config_and_overrides(items, None, example, "data generate")
    generate_data(config, overrides, out, num_series=num_series, workers=workers)


@data_app.command("verify")
def data_verify(
    folders: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="Corpus folders.")],
) -> None:
    """Compare every shard of corpora with the hash in its manifest."""
    _require_single_process("data verify")
    _prepare(None)
    from foretrain.cli.commands import verify_corpora

    verify_corpora(folders)


data_app.command("download")(data_download)


@data_app.command("inspect", cls=GroupedCommand)
@reads_files()
def data_inspect(
    data: Annotated[Path, typer.Argument(help="A corpus folder, or files that an import reads.")],
    reading: dict[str, Any],
    plot: Annotated[Path | None, typer.Option(help="Plot the corpus to this PNG file.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every shard against its recorded hash.")] = False,
) -> None:
    """Print the columns, ranges, quality and provenance of a corpus, or what an import would read from files."""
    _require_single_process("data inspect")
    from foretrain.cli.commands import inspect_data

    with spoken_beside(plot):
        inspect_data(data, reading, plot=plot, verify=verify)


@app.command()
def train(
    context: typer.Context,
    items: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="The config, if not given as first argument.")] = None,
    model_id: Annotated[str | None, typer.Option(help="Start from this release or hub id (model.model_id).")] = None,
    random_init: Annotated[
        bool | None, typer.Option("--random-init/--no-random-init", help="Whether to start from random weights.")
    ] = None,
    context_length: Annotated[int | None, typer.Option(min=1, help="Steps of history (data.context_length).")] = None,
    prediction_length: Annotated[int | None, typer.Option(min=1, help="Steps ahead (data.prediction_length).")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps (training.max_steps).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate (optimizer.learning_rate).")] = None,
    per_device_train_batch_size: MicroBatchOption = None,
    gradient_accumulation_steps: AccumulationOption = None,
    token_budget: TokenBudgetOption = None,
    output_dir: Annotated[Path | None, typer.Option(help="The run folder (output_dir).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest intact checkpoint, if any.")] = False,
    resume_from_checkpoint: Annotated[Path | None, typer.Option(help="Resume from this checkpoint folder.")] = None,
    max_train_series: Annotated[int | None, typer.Option(min=1, help="Random subset (data.max_train_series).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data order, initial weights and dropout (seed).")] = None,
    device: Annotated[Device | None, typer.Option(help="Device to train on (device).")] = None,
    dtype: Annotated[DType | None, typer.Option(help="Precision of the forward pass (training.dtype).")] = None,
    threads: ThreadsOption = None,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train or fine-tune a model from a config. Ctrl-C saves a checkpoint and exits; --resume continues from it.

    If the config has stages, KEY=VALUE applies to the stages that do not set the key, stages.NAME.KEY=VALUE to one
    stage, and the flags that set keys of sections (--context-length to --dtype) override the key in all stages.
    """
    _prepare(threads)  # options that set a key of the config are read from the context
    config, overrides = config_and_overrides(items, config)
    with importing():
        from foretrain.cli.train import BatchFlags, train_command
        from foretrain.models.checkpoints import checkpoint_at, what_instead

    if resume_from_checkpoint is not None:  # or a name of it, such as runs/x/latest
        found = checkpoint_at(resume_from_checkpoint)
        if found is None and (what := what_instead(resume_from_checkpoint)):
            raise ConfigError(f"{resume_from_checkpoint}: cannot be resumed from: {what}")
        resume_from_checkpoint = found or resume_from_checkpoint
    accepted = train_command(
        config,
        overrides,
        flags=train_flags(context.params),
        batch=BatchFlags(per_device_train_batch_size, gradient_accumulation_steps),
        resume=str(resume_from_checkpoint) if resume_from_checkpoint else ("auto" if resume else None),
        dry_run=dry_run,
        verbose=verbose,
    )
    if not accepted:
        raise typer.Exit(2)


app.command(cls=GroupedCommand)(quick)
app.command()(benchmark)
app.command()(compare)


@app.command(cls=GroupedCommand)
@reads_files()
def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="The corpus, or the file or folder of files, to score on.")],
    reading: dict[str, Any],
    prediction_length: Annotated[int | None, typer.Option(min=1, help="Steps ahead (default: as trained).")] = None,
    num_windows: Annotated[
        int, typer.Option(min=1, help="Origins per item, at most those that the model and its ancestors held out.")
    ] = 20,
    stride: Annotated[int | None, typer.Option(min=1, help="Steps between origins (default: the horizon).")] = None,
    split: Annotated[str, typer.Option(help="test, validation or all.")] = "test",
    score_seen_dates: Annotated[
        bool,
        typer.Option("--score-seen-dates", help="Also prices from before the cut-off date of published weights."),
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="Comma-separated columns to score (default: as trained, else the family's).")
    ] = None,
    past_covariates: Annotated[str | None, typer.Option(help="Past covariates (default: as trained).")] = None,
    known_covariates: Annotated[str | None, typer.Option(help="Covariates known ahead (default: as trained).")] = None,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Steps of history (default: as trained, else the model's).")
    ] = None,
    quantile_levels: Annotated[str | None, typer.Option(help="Comma-separated levels.")] = None,
    batch_size: BatchSizeOption = 256,
    seasonality: Annotated[
        int | None, typer.Option(min=1, help="Season in steps (default: from the frequency).")
    ] = None,
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Score at most this many items (chosen by seed).")
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated (default: naive, drift, seasonal_naive, seasonal_naive_found, historical_mean); also "
            "auto_ets, auto_theta, dynamic_optimized_theta, auto_arima (extra `baselines`).",
        ),
    ] = None,
    baseline_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Time to fit such models in; if it is too short, fewer items are scored (600)."),
    ] = None,
    cross_learning: Annotated[
        bool,
        typer.Option("--cross-learning", help="Not allowed here: results would depend on the batch."),
    ] = False,
    sort_quantiles: SortOption = None,
    repair_candles: RepairOption = None,
    blank_missing: BlankOption = None,
    num_samples: NumSamplesOption = None,
    seed: DrawSeedOption = 0,
    rescale: RescaleOption = None,
    option: FamilyOptions = None,
    tokenizer: TokenizerOption = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="zero-shot|MODEL",
            help="Compare with the weights before training (and decide on promotion), or with a model.",
        ),
    ] = None,
    require_significance: Annotated[
        bool | None,
        typer.Option(
            "--require-significance/--no-require-significance",
            help="Promote only if the differences are statistically significant (default: yes).",
        ),
    ] = None,
    promote_over: Annotated[
        DrawsOver | None,
        typer.Option(help="items: where origins are too few, a test over items promotes too (default: origins)."),
    ] = None,
    clusters: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Items with an equal value here share shocks: test over such groups."),
    ] = None,
    fail_if_not_promoted: Annotated[
        bool, typer.Option("--fail-if-not-promoted", help="Exit with code 1 if the model is not promoted.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json, tables, report.html.")] = None,
    csv_safe: CsvSafeOption = False,
    device: DeviceOption = Device.auto,
    dtype: PrecisionOption = DType.float32,
    threads: ThreadsOption = None,
) -> None:
    """Score a model on rolling origins and compare it with naive, drift, seasonal naive and historical mean."""
    _require_single_process("evaluate")
    _prepare(threads)
    given = {
        "--fail-if-not-promoted": fail_if_not_promoted,
        "--[no-]require-significance": require_significance is not None,
        "--promote-over": promote_over is not None,
    }
    flags = [flag for flag, used in given.items() if used]
    if csv_safe and out is None:
        raise ConfigError("--csv-safe: has no effect without --out, the folder of the tables.")
    if against is None and flags:
        raise ConfigError(f"{flags[0]}: has no effect without --against, the model to compare with.")
    if promote_over == DrawsOver.items and require_significance is False:
        raise ConfigError("--promote-over items: has no effect with --no-require-significance. Leave one of them out.")
    from foretrain.cli.commands import evaluate_model

    result = evaluate_model(
        model,
        data,
        reading=reading,
        prediction_length=prediction_length,
        num_windows=num_windows,
        stride=stride,
        split=split,
        score_seen_dates=score_seen_dates,
        target=comma_list(target),
        past_covariates=comma_list(past_covariates),
        known_covariates=comma_list(known_covariates),
        context_length=context_length,
        quantile_levels=level_list(quantile_levels),
        batch_size=batch_size,
        seasonality=seasonality,
        max_items=max_items,
        baselines=comma_list(baselines),
        baseline_seconds=baseline_seconds,
        cross_learning=cross_learning,
        sort_quantiles=sort_quantiles,
        repair_candles=repair_candles,
        blank_missing=blank_missing,
        num_samples=num_samples,
        seed=seed,
        rescale=rescale,
        options=forecast_settings(option),
        tokenizer=tokenizer,
        against=against,
        require_significance=require_significance is not False,
        promote_over=(promote_over or DrawsOver.origins).value,
        clusters=clusters,
        out=out,
        csv_safe=csv_safe,
        device=device.value,
        dtype=dtype.value,
        threads=threads,
    )
    if fail_if_not_promoted and not (result.promotion and result.promotion.promoted):
        raise typer.Exit(1)


@app.command(cls=GroupedCommand)
@reads_files(without=SERIES_ONLY, roles="item, timestamp, cutoff, step, actual, predicted or last_close")
def score(
    predictions: Annotated[
        Path, typer.Argument(help="File that an import reads: item, timestamp, actual, predicted, last_close.")
    ],
    reading: dict[str, Any],
    values: Annotated[
        Values | None,
        typer.Option(help="Prices, or changes since the last close (fraction: 0.01 is 1 %); default: price."),
    ] = None,
    claimed_percent: Annotated[
        list[float] | None, typer.Option(min=0, help="A published error in percent to explain; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for score.json and score.md.")] = None,
) -> None:
    """Score predictions in a file: errors beside those of naive, and warnings about misleading figures."""
    _require_single_process("score")
    _prepare(None)
    from foretrain.cli.commands import score_predictions

    score_predictions(
        predictions,
        out=out,
        reading=reading,
        values=values.value if values else None,
        claimed_percent=tuple(claimed_percent or ()),
    )


@app.command(cls=GroupedCommand)
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
    _require_single_process("forecast")
    _prepare(threads)
    from foretrain.cli.commands import forecast_file
    from foretrain.forecasting.request import FrameRequest
    from foretrain.models.request import DECILES

    named, data = model_and_data(items, model)
    request = FrameRequest(
        prediction_length=prediction_length or 1,
        quantile_levels=level_list(quantile_levels) or DECILES,
        context_length=context_length,
        batch_size=batch_size,
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


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder of a run (checkpoints/step-...).")],
    out: Annotated[Path, typer.Option(help="The release folder to create.")],
    ema: Annotated[
        bool, typer.Option("--ema", help="Export the averaged (EMA) weights instead of the raw ones.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write the adapter alone, in peft's format, not the merged weights.")
    ] = False,
) -> None:
    """Convert a training checkpoint to a release: config.json and weights in upstream's layout."""
    _require_single_process("export")
    _prepare(None)
    from foretrain.run.export import export_checkpoint

    export_checkpoint(checkpoint, out, ema=ema, adapter=adapter)
    content = "adapter" if adapter else "weights"
    typer.echo(f"wrote {out}: the {'averaged' if ema else 'raw'} {content} of {checkpoint}")


@config_app.command("show")
def config_show(
    items: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="The config, if not given as first argument.")] = None,
) -> None:
    """Print the config of a run with its defaults filled in."""
    _prepare(None)
    from foretrain.config import dump_yaml
    from foretrain.run.stages import load_any

    typer.echo(dump_yaml(load_any(*config_and_overrides(items, config))), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a run's config."""
    _prepare(None)
    import json

    from foretrain.run.stages import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@config_app.command("import")
def config_import(
    file: Annotated[Path, typer.Argument(help="The YAML file of the other project.")],
    source: Annotated[
        ForeignFormat, typer.Option("--from", help="The file's project: Kronos' finetune_csv, TSM-Trainer.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The config to write, never overwritten (default: print it).")
    ] = None,
) -> None:
    """Convert another project's config; a report on stderr lists how each key was converted."""
    _prepare(None)
    from foretrain.foreign import import_config

    import_config(source.value, file, dash_as_stdout(out))


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="Where runs are to be written.")] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what to fix, and how; versions and devices, for a bug report. Exit code 1 if there is something to fix."""
    _prepare(None)
    from foretrain.cli.doctor import examine

    report = examine(folder)
    typer.echo(report.json() if as_json else report.text())
    raise typer.Exit(1 if report.to_fix else 0)


def _version(show: bool) -> None:
    if show:
        from foretrain import __version__

        typer.echo(f"foretrain {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
