"""What can be evaluated: a model on a corpus beside naive baselines, and a run's validation part while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from foretrain.config import Section
from foretrain.data.source import DataConfig
from foretrain.data.splits import Origin, Selection, SplitName, rolling_origins, select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation import metrics
from foretrain.evaluation.backtest import DEFAULT_LEVELS, Backtest, make_panel
from foretrain.evaluation.baselines import BASELINES
from foretrain.evaluation.overlap import check_overlap, reserved_steps
from foretrain.evaluation.result import EvaluationResult, summarise
from foretrain.models.base import Forecaster

if TYPE_CHECKING:
    from foretrain.training.distributed import World
    from foretrain.training.trainer import Result


class EvaluationConfig(Section):
    """The `evaluation:` section of a run: what its validation scores. When, and what is best, is the trainer's."""

    num_windows: int = Field(default=1, ge=1)  # forecast origins per item, as far as data.validation_steps has room
    stride: int | None = Field(default=None, ge=1)  # steps between origins; None = prediction_length
    batch_size: int = Field(default=256, ge=1)  # rows per forward pass
    quantile_levels: tuple[float, ...] = DEFAULT_LEVELS  # that WQL and SQL sum over
    max_items: int | None = Field(default=None, ge=1)  # a sample of so many items, the same every time
    seasonality: int | None = Field(default=None, ge=1)  # steps of a season; None = the corpus' own
    loss: bool = True  # also compute the training loss on the validation windows (val_loss)


def evaluate(
    model: Forecaster,
    corpora: Corpus | Sequence[Corpus],
    *,
    selection: Selection | Sequence[Selection] | None = None,
    prediction_length: int,
    num_windows: int = 20,
    stride: int | None = None,
    split: SplitName = "test",
    validation_steps: int | None = None,
    test_steps: int | None = None,
    min_context: int | None = None,
    context_length: int | None = None,
    batch_size: int = 256,
    quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    seasonality: int | None = None,
    max_items: int | None = None,
    compare: Sequence[str] = tuple(BASELINES),
    sort_quantiles: bool = True,
    world: World | None = None,
    name: str = "model",
    release: dict[str, Any] | None = None,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> EvaluationResult:
    """Score a model on rolling origins beside naive baselines that saw the same contexts.

    Args:
        model: any forecaster; where it lies is where it computes.
        corpora: one or several; several are pooled.
        selection: columns of each corpus; None = every numeric column is a target.
        prediction_length: steps ahead.
        num_windows: forecast origins per item, the newest ones; items with room for fewer give fewer.
        stride: steps between origins; None = prediction_length, so that forecasts do not overlap.
        split: "test" or "validation": the newest steps of each item or those before them; "all": the whole item.
        validation_steps, test_steps: sizes of those parts. None takes what training left out, where the release says
            that this is the corpus it was trained on; else it makes the part that is scored just large enough for
            num_windows, and leaves prediction_length to the other.
        min_context: fewest rows before an origin; None = prediction_length, at most context_length.
        context_length: steps of history for model and baselines; None = the model's longest.
        batch_size: rows per forward pass; results do not depend on it beyond rounding.
        quantile_levels: levels that WQL and SQL sum over; .1, .5 and .9 are forecast in any case.
        seasonality: steps of a season, for MASE and seasonal naive; None = the corpus' own.
        max_items: score a sample of so many items, drawn with a fixed seed.
        compare: names of baselines; naive is always among them.
        sort_quantiles: repair quantiles that cross before scoring; the report says so and how many did.
        world: processes that share the work; one result whatever their number.
        release: the model's release.json ({} = nothing is recorded), to score what its training left out and to warn
            when it saw these windows; None says nothing of training.
        command: how to repeat this, for the report.
        progress: called with the number of windows finished.
        options: further keywords of forecast_windows (seed, num_samples, options, dtype, device).

    Raises DataError when no window can be scored (prediction_length too long for the longest item, nothing observed),
    ConfigError for settings that cannot work.
    """
    _refuse_cross_learning(options)
    for key, value in (("context_length", context_length), ("seasonality", seasonality), ("max_items", max_items)):
        if value is not None and value < 1:
            raise ConfigError(f"{key} is {value}; it must be at least 1.")
    corpora = [corpora] if isinstance(corpora, Corpus) else list(corpora)
    if not corpora:
        raise ConfigError("no corpus to evaluate on.")
    selections = _selections(corpora, selection)
    step = prediction_length if stride is None else stride
    longest = min(context_length or model.max_context_length, model.max_context_length)
    origins, notes = [], []
    for corpus in corpora:
        parts: dict[str, int | None] = {"validation": validation_steps, "test": test_steps}
        notes += _keep_to_reserved(parts, reserved_steps(release, corpus), split, prediction_length, num_windows, step)
        origins.append(
            _origins(
                corpus,
                split,
                prediction_length,
                num_windows,
                step,
                parts["validation"],
                parts["test"],
                min_context,
                longest,
            )
        )
    panel = make_panel(
        corpora,
        selections,
        origins,
        prediction_length=prediction_length,
        context_length=longest,
        stride=step,
        seasonality=seasonality,
        max_items=max_items,
    )
    backtest = Backtest(panel, levels=quantile_levels, baselines=compare, batch_size=batch_size, world=world)
    quantiles = backtest.forecast(model, progress=progress, **options)
    crossed = float((quantiles[..., 1:] < quantiles[..., :-1]).any(2).mean())
    if sort_quantiles:
        quantiles = np.sort(quantiles, axis=2)
    settings = {
        "prediction_length": prediction_length,
        "num_windows": num_windows,
        "stride": step,
        "split": split,
        "context_length": longest,
        "batch_size": batch_size,
        "quantile_levels": list(backtest.asked),
        "seasonality": {panel.name(k): season for k, season in enumerate(panel.seasons)},
        "sort_quantiles": sort_quantiles,
        "crossed_share": crossed,
    }
    warning = None if release is None else check_overlap(release, corpora, origins)
    warnings = [*([warning] if warning else []), *dict.fromkeys(notes)]
    return summarise(backtest, quantiles, name=name, settings=settings, command=command, warnings=warnings)


def _keep_to_reserved(
    parts: dict[str, int | None], reserved: dict[str, int], split: str, horizon: int, num_windows: int, stride: int
) -> list[str]:
    """Fill in, where the caller left them open, the parts that training left out; says when that means fewer windows.

    A part too small for one window stays open: then there is no window that training did not see, and the overlap is
    what the report must say.
    """
    if split not in parts or parts[split] is not None or reserved.get(split, 0) < horizon:
        return []
    for name, steps in reserved.items():
        parts[name] = steps if parts[name] is None else parts[name]
    room = (reserved[split] - horizon) // stride + 1
    if room >= num_windows:
        return []
    return [
        f"{room} window{'' if room == 1 else 's'} per item instead of {num_windows}: training left out the newest "
        f"{reserved[split]} steps for the {split} part, and only they are scored. Train with a larger "
        f"data.{split}_steps for more; split all also scores what training saw."
    ]


def validator(
    config: EvaluationConfig,
    data: DataConfig,
    *,
    corpora: Sequence[Corpus] | None = None,
    selections: Sequence[Selection] | None = None,
    world: World | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Callable[[Any, int], Result]:
    """A function (model, step) -> Result for the trainer, scoring the validation part of the run's own data.

    Windows, truth and baselines are worked out once, here. Entered by all ranks together; every rank gets the same
    numbers, whatever their count. Metrics: val_wql, val_mase, val_sql, val_coverage_80_share, val_skill (against
    naive), for prices val_pct_mae and val_direction_accuracy_share, and val_loss. Held-out items
    (data.holdout_fraction) are validated beside the others. A model that does not forecast has val_loss alone.
    dtype is that of products (autocast), as in training; seed that of sampling and of the draw of max_items.

    Raises DataError when the validation part holds no window: an empty validation proves nothing.
    """
    from foretrain.training.trainer import Result

    opened = [spec.open() for spec in data.corpora] if corpora is None else list(corpora)
    if selections is None:
        selections = [select(c, data.target, data.past_covariates, data.known_covariates) for c in opened]
    stride = config.stride or data.prediction_length
    origins = [
        _origins(
            corpus,
            "validation",
            data.prediction_length,
            config.num_windows,
            stride,
            data.resolved_validation_steps,
            data.resolved_test_steps,
            data.resolved_min_context,
            data.context_length,
        )
        for corpus in opened
    ]
    panel = make_panel(
        opened,
        selections,
        origins,
        prediction_length=data.prediction_length,
        context_length=data.context_length,
        stride=stride,
        seasonality=config.seasonality,
        max_items=config.max_items,
        seed=seed,
    )
    precision = None if dtype == "float32" else getattr(torch, dtype)
    backtest = Backtest(
        panel, levels=config.quantile_levels, baselines=("naive",), batch_size=config.batch_size, world=world
    )

    def run(model: Any, step: int) -> Result:
        found = (
            {"val_loss": backtest.loss(model, precision)} if config.loss or not isinstance(model, Forecaster) else {}
        )
        if isinstance(model, Forecaster):
            scored = backtest.naive.forecast(np.sort(backtest.forecast(model, dtype=precision, seed=seed), axis=2))
            pooled = metrics.pooled(scored)
            names = [name for name in VALIDATION_METRICS if name in pooled]
            found |= {f"val_{name}": pooled[name] for name in names}
            found["val_skill"] = metrics.skill(scored, backtest.naive)
        return Result({name: value if math.isfinite(value) else math.nan for name, value in found.items()})

    return run


VALIDATION_METRICS = ("wql", "mase", "sql", "coverage_80_share", "pct_mae", "direction_accuracy_share")


def _origins(
    corpus: Corpus,
    split: SplitName,
    prediction_length: int,
    num_windows: int,
    stride: int,
    validation_steps: int | None,
    test_steps: int | None,
    min_context: int | None,
    context_length: int,
) -> list[Origin]:
    room = (num_windows - 1) * stride + prediction_length
    sizes = {"validation": validation_steps, "test": test_steps}
    if split in sizes and sizes[split] is None:
        sizes[split] = room
    return rolling_origins(
        corpus,
        split=split,
        prediction_length=prediction_length,
        num_windows=num_windows,
        stride=stride,
        validation_steps=sizes["validation"],
        test_steps=sizes["test"],
        min_context=min(prediction_length, context_length) if min_context is None else min_context,
    )


def _selections(corpora: Sequence[Corpus], given: Selection | Sequence[Selection] | None) -> list[Selection]:
    if given is None:
        return [select(corpus) for corpus in corpora]
    selections = [given] * len(corpora) if isinstance(given, Selection) else list(given)
    if len(selections) != len(corpora):
        raise ConfigError(f"{len(selections)} selections for {len(corpora)} corpora; give one for each.")
    for corpus, chosen in zip(corpora, selections, strict=True):
        if max(chosen.columns) >= len(corpus.columns):
            raise DataError(f"{corpus.name}: column {max(chosen.columns)} of the selection does not exist.")
    return selections


def _refuse_cross_learning(options: dict[str, Any]) -> None:
    if getattr(options.get("options"), "cross_learning", False):
        raise ConfigError(
            "cross_learning: which series share a batch would then be part of the model, so the score would depend on "
            "batch size and order. Evaluate without it."
        )
