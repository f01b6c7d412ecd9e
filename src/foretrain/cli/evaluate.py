"""The verbs `foretrain evaluate` and `score`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

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
    DrawsOver,
    DType,
    FamilyOptions,
    MaxMemoryOption,
    ModelArgument,
    NumSamplesOption,
    PrecisionOption,
    RepairOption,
    RescaleOption,
    SortOption,
    ThreadsOption,
    TokenizerOption,
    Values,
    comma_list,
    forecast_settings,
    level_list,
    prepare,
    require_single_process,
)
from foretrain.cli.reading import SERIES_ONLY, reads_files
from foretrain.errors import ConfigError


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
    validation_from: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Where the part of --split validation begins (default: as training was cut)."
        ),
    ] = None,
    test_from: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Where the test part begins, by the data's own clock, or library (default: as training was cut).",
        ),
    ] = None,
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
    max_memory: MaxMemoryOption = None,
    seasonality: Annotated[
        int | None, typer.Option(min=1, help="Season in steps (default: from the frequency).")
    ] = None,
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Score at most this many items (chosen by seed).")
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(
            metavar="A,B*|unseen|trained",
            help="Score these items: names and patterns, file:PATH, subset:NAME; or what training never used, or used.",
        ),
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
    require_single_process("evaluate")
    prepare(threads)
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
    from foretrain.models.memory import memory_bytes

    result = evaluate_model(
        model,
        data,
        reading=reading,
        prediction_length=prediction_length,
        num_windows=num_windows,
        stride=stride,
        split=split,
        validation_from=validation_from,
        test_from=test_from,
        score_seen_dates=score_seen_dates,
        target=comma_list(target),
        past_covariates=comma_list(past_covariates),
        known_covariates=comma_list(known_covariates),
        context_length=context_length,
        quantile_levels=level_list(quantile_levels),
        batch_size=batch_size,
        max_memory=memory_bytes(max_memory),
        seasonality=seasonality,
        max_items=max_items,
        items=comma_list(items),
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
    require_single_process("score")
    prepare(None)
    from foretrain.cli.commands import score_predictions

    score_predictions(
        predictions,
        out=out,
        reading=reading,
        values=values.value if values else None,
        claimed_percent=tuple(claimed_percent or ()),
    )
