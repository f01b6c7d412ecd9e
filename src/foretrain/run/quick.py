"""`foretrain quick`: a run of minutes on the series of one file, and its verdict on a test part that is opened once.

The validation part chooses the weights, those before the first step among them, and says whether a naive forecast is to
be preferred; the test part only judges what was chosen.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.config import build, read_yaml
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ModelError
from foretrain.evaluation.baselines import FOUND, SEASONAL, baselines
from foretrain.evaluation.columns import evaluation_columns
from foretrain.evaluation.reference import ReferenceModel
from foretrain.evaluation.result import EvaluationResult, relative, standing
from foretrain.evaluation.significance import ORIGINS, Comparison
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.frame import FrameTask
from foretrain.forecasting.parents import with_ancestry
from foretrain.forecasting.predictor import Predictor
from foretrain.forecasting.record import recorded_data, trained_context
from foretrain.forecasting.selection import FrameColumns
from foretrain.models import family
from foretrain.models.base import Forecaster
from foretrain.models.request import DECILES
from foretrain.notes import counted
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig, shipped_config
from foretrain.run.quick_parts import Pace, Parts, Rehearsal
from foretrain.run.train import build_validation
from foretrain.training.loader import BatchLoader, plan_of
from foretrain.training.optimizer import build_optimizer
from foretrain.training.step import Updater
from foretrain.training.train_state import TrainState

if TYPE_CHECKING:
    import pandas as pd

LONGEST_CONTEXT = 2048  # of a model that records none
FULL_TRAINING = 30_000_000  # weights; of larger models an adapter is trained
METRICS = ("val_mase", "val_wql", "val_loss")  # the first that is finite chooses the weights
BASELINES = ("naive", SEASONAL, FOUND)
REHEARSAL_SECONDS = 4.0
_CONFIGS = {False: ("finetune.yaml", "stock.yaml"), True: ("lora.yaml",)}  # of a family, with its usual settings
_USUAL_RATE = 1e-4  # of a family that has none
_MEASURED_ITEMS = 8  # of a validation in the rehearsal
_ROWS = 64  # of a step: targets and covariates of its windows


@dataclass(frozen=True)
class Start:
    """What a run starts from: the model, as it was asked for, and the columns and parts of the data."""

    asked: str
    tokenizer: str | None
    predictor: Predictor
    columns: FrameColumns
    target: Sequence[str] | None  # None = those of the release or the family
    parts: Parts | None  # None = too few rows to score anything
    learning_rate: float | None = None  # None = the usual one

    @property
    def model(self) -> Forecaster:
        return self.predictor.model

    @property
    def weights(self) -> int:
        """Number of the model's weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def adapts(self) -> bool:
        """True if low-rank updates are trained, because the model is large."""
        large = self.weights > FULL_TRAINING and bool(self.model.adapter_targets)
        return large and importlib.util.find_spec("peft") is not None


def context_of(predictor: Predictor) -> int:
    """Return the context of a quick run: that of the model's training, else its longest, at most LONGEST_CONTEXT."""
    longest = predictor.model.max_context_length
    return trained_context(predictor.facts, predictor.model, None) or min(longest, LONGEST_CONTEXT)


def first_config(start: Start, corpus: Path, out: Path, *, seed: int, device: str, threads: int | None) -> RunConfig:
    """Return the config of the run before its steps are known. Raises ConfigError."""
    usual, parts = _usual_settings(start.model.family, start.adapts), start.parts
    assert parts is not None
    optimizer = {key: value for key, value in usual.get("optimizer", {}).items() if key != "schedule"}
    rows = sum(map(len, (start.columns.targets, start.columns.past, start.columns.known)))
    batch = min(32, max(8, _ROWS // rows))
    own = family(start.model.family).columns([*map(str, start.columns.targets)]) is not None
    roles = {
        "target": start.columns.targets,
        "past_covariates": start.columns.past,
        "known_covariates": start.columns.known,
    }
    tree: dict[str, Any] = {
        "model": {"model_id": start.asked, "family": start.model.family},
        "data": {
            "corpora": [{"path": str(corpus)}],
            "context_length": context_of(start.predictor),
            "prediction_length": parts.horizon,
            "min_context": parts.min_context,
            "validation_steps": parts.validation_steps,
            "test_steps": parts.steps_after_validation,
            **({} if own else {role: [*map(str, names)] for role, names in roles.items()}),
        },
        "training": {
            "max_steps": 1000,
            "batch_size": batch,
            "micro_batch_size": 8 if start.weights > FULL_TRAINING else batch,
            "clip_norm": 1.0,
            "validate_every": 100,
            "validate_first": True,
            "patience": 4,
            "on_nonfinite": "skip",
            "checkpoint_every": None,
            "keep_last": 1,
            "best_metric": METRICS[0],
            "tensorboard": False,
        },
        "optimizer": {
            **optimizer,
            "learning_rate": _rate(start, optimizer) if start.learning_rate is None else start.learning_rate,
            "schedule": {"kind": "cosine", "warmup_ratio": 0.05},
        },
        "evaluation": {"num_windows": parts.validation_origins, "stride": parts.validation_stride},
        "output_dir": str(out),
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    if start.tokenizer is not None:
        tree["model"]["tokenizer"] = start.tokenizer
    if own and start.target is not None:
        tree["evaluation"]["target"] = [*start.target]
    if start.adapts:
        tree["adapter"] = usual.get("adapter") or {"rank": 8, "alpha": 16}
    return build(RunConfig, tree, source="quick")


def check_start(start: Start) -> None:
    """Raise ModelError or ConfigError if the model cannot be trained for this horizon and context."""
    try:
        build_model(first_config(start, Path("corpus"), Path("run"), seed=0, device="cpu", threads=None), device="meta")
    except ModelError as error:
        horizon = start.parts.horizon if start.parts else 0
        reason = str(error).removesuffix(" Leave these keys out.")
        raise ModelError(f"{start.asked}: cannot be trained to forecast {horizon} steps: {reason}") from None


def _usual_settings(name: str, adapter: bool) -> dict[str, Any]:
    """Return the shipped config of fine-tuning a family, {} if it has none."""
    for file in _CONFIGS[adapter]:
        try:
            return read_yaml(shipped_config(f"{name}/{file}"))
        except ConfigError:
            continue
    return {}


def _rate(start: Start, optimizer: Mapping[str, Any]) -> float:
    """Return the learning rate: a tenth of that of the model's own training, if it records one, else the family's."""
    try:
        return float(start.predictor.facts["pretraining"]["recipe"]["config"]["optimizer"]["learning_rate"]) / 10
    except (KeyError, TypeError, ValueError):
        return float(optimizer.get("learning_rate", _USUAL_RATE))


def rehearse(config: RunConfig, seconds: float = REHEARSAL_SECONDS) -> Rehearsal:
    """Measure steps and validations on a copy of the model that is thrown away; nothing is written.

    Raises the errors of a run that can be found before its first step.
    """
    world = World.start(config.device, config.threads)
    config, source = open_source(config, None, {})
    model = build_model(config)
    model.check(source)
    items = min(_MEASURED_ITEMS, sum(corpus.num_series for corpus in source.corpora))
    small = config.evaluation.model_copy(update={"max_items": items})
    validation = build_validation(config.model_copy(update={"evaluation": small}), source, model, world)
    assert validation is not None
    model.to(world.device).eval()
    validation(model, 0)  # the first call is slower
    begun = time.perf_counter()
    metrics = validation(model, 0).metrics
    window = (time.perf_counter() - begun) / (items * config.evaluation.num_windows)
    model.train()
    loader, state = BatchLoader(model, source, config.training, world), TrainState()
    updater = Updater(
        model, build_optimizer(model, config.optimizer), None, state, config.training, seed=config.seed, world=world
    )
    batches, times = loader.iterate(plan_of(loader.stream, config.training, 1), 0, 0), list[float]()
    end = time.perf_counter() + seconds
    while len(times) < 2 or (time.perf_counter() < end and len(times) < 50):
        begun = time.perf_counter()
        updater.step(batches, 0.0)
        times.append(time.perf_counter() - begun)
    batches.close()
    usable = [name for name in METRICS if math.isfinite(metrics.get(name, math.nan))]
    return Rehearsal(sum(times[1:]) / len(times[1:]), window, usable[0] if usable else METRICS[-1])


def paced(config: RunConfig, measured: Rehearsal, found: Pace, minutes: float) -> RunConfig:
    """Return the config with its steps, its validations, and a limit a quarter above the minutes."""
    training = {
        "max_steps": found.steps,
        "max_minutes": 1.25 * minutes,
        "validate_every": found.validate_every,
        "log_every": found.log_every,
        "best_metric": measured.metric,
    }
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "evaluation": config.evaluation.model_copy(update={"max_items": found.max_items}),
        }
    )


def score(
    predictor: Predictor,
    corpus: Corpus,
    parts: Parts,
    split: str,
    *,
    name: str,
    target: Sequence[str] | None = None,
    columns: FrameColumns | None = None,
    against: ReferenceModel | None = None,
    max_items: int | None = None,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Score a model and the naive forecasts on the validation or the test part.

    target, columns: for a model that records no columns. Raises the errors of evaluate.
    """
    facts, kind = with_ancestry(predictor.facts), family(predictor.model.family)
    chosen: dict[str, Any] = {"target": target}
    if columns is not None and kind.columns([*map(str, columns.targets)]) is None:
        names = {"target": columns.targets, "past_covariates": columns.past, "known_covariates": columns.known}
        chosen = {role: [*map(str, found)] for role, found in names.items()}
    selection, notes = evaluation_columns(corpus, kind, recorded_data(facts), **chosen)
    is_test = split == "test"
    return evaluate(
        predictor.model,
        corpus,
        selection=selection,
        prediction_length=parts.horizon,
        num_windows=parts.test_origins + parts.windows_beyond if is_test else parts.validation_origins,
        stride=parts.test_stride if is_test else parts.validation_stride,
        split=split,  # type: ignore[arg-type]
        validation_steps=parts.validation_steps,
        test_steps=parts.steps_after_validation,
        context_length=context_of(predictor),
        max_items=max_items,
        compare=BASELINES,
        against=against,
        name=name,
        release=facts,
        command=command,
        notes=notes,
        progress=progress,
    )


def figures(result: EvaluationResult) -> tuple[str, dict[str, float]]:
    """Return the metric that decides, that of the promotion gate, and its value by forecaster."""
    metric = "pct_mae" if result.prices else "mase"
    return metric, {who: values[metric] for who, values in result.pooled.items()}


def preferred(result: EvaluationResult, among: Sequence[str] | None = None) -> str:
    """Return the forecaster with the lowest error, "model" if it is among those and no other is lower."""
    errors = {who: value for who, value in figures(result)[1].items() if math.isfinite(value)}
    choices = [who for who in ("model", *BASELINES) if who in errors and (among is None or who in among)]
    return min(choices, key=lambda who: errors[who], default="model" if among is None else "naive")


def naive_forecasters(result: EvaluationResult) -> list[str]:
    """Return the baselines of a result, without one that is another one's equal, as the season of one step is."""
    return [who for who in BASELINES if who in result.pooled and (who == "naive" or season_of(result, who) > 1)]


def errors_by_target(result: EvaluationResult, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean of the metric that decides over the windows of each scored target, by forecaster; {} for one
    target."""
    metric = figures(result)[0]
    longest = sorted(targets, key=len, reverse=True)  # a name may end as another one does
    of = np.array([next((name for name in longest if item.endswith(f" {name}")), "") for item in result.items])
    windows = np.array(result.item_windows, float)
    found = dict[str, dict[str, float]]()
    tables = {who: np.array(values[metric], float) for who, values in result.per_item.items()}
    finite = np.logical_and.reduce([np.isfinite(errors) for errors in tables.values()])
    for name in targets:
        known = (of == name) & finite
        if known.any():
            found[name] = {who: float(np.average(v[known], weights=windows[known])) for who, v in tables.items()}
    return found if len(found) > 1 else {}


def season_of(result: EvaluationResult, who: str) -> int:
    """Return the steps of the season that a baseline of a result repeats."""
    if who == FOUND:
        found = [note.counts["season"] for note in result.warnings if note.code == "season_found"]
        return int(found[0]) if found else 1
    return max(result.settings["seasonality"].values()) if who == SEASONAL else 1


def against(result: EvaluationResult, test: Comparison, label: str) -> str:
    """Return a comparison of the test part in words: better, worse, or no difference shown; label: of the other."""
    _, errors = figures(result)
    ours, theirs = errors["model"], errors[test.against]
    known = math.isfinite(ours) and theirs > 0
    if test.method is None:
        return f"{test.verdict}{f'; its error is {relative(1 - ours / theirs)} that of {label}' if known else ''}"
    word = {1: "better than", -1: "worse than", 0: "no difference shown from"}[standing(test)]
    p = "p<0.001" if test.p_value < 0.001 else f"p={test.p_value:.3f}"
    over = f"{test.count} {test.over}" + ("" if test.over == ORIGINS else f" at {counted(test.origins, 'origin')}")
    return f"{word} {label}{f': error {relative(1 - ours / theirs)} its' if known else ''}, {p}, {over}"


def naive_table(
    task: FrameTask, table: pd.DataFrame, who: str, result: EvaluationResult | None, context_length: int
) -> pd.DataFrame:
    """Return the forecast of a baseline in the format and with the rows of a model's long table.

    result: of an evaluation, which says what season the baseline repeats. context_length: newest steps of the history
    that the baseline reads, as in that evaluation.
    """
    levels = [name for name in table.columns if name in map(str, DECILES)]
    contexts, stamps = list[Any](), list[Any]()
    for window in task.windows:
        for row in range(window.num_targets):
            contexts.append(window.context[row, -context_length:])
            times = window.context_times
            stamps.append((None if times is None else times[-context_length:], window.future_times))
    by_clock = result is not None and who == SEASONAL and "time of day" in result.labels.get(SEASONAL, "")
    season = 1 if result is None else season_of(result, who)
    quantiles = np.float32(
        baselines(
            (who,),
            contexts,
            task.prediction_length,
            [0.5, *map(float, levels)],
            season,
            stamps if by_clock else None,
        )[who]
    ).reshape(len(table), -1)
    columns = {"predictions": quantiles[:, 0], **{name: quantiles[:, 1 + k] for k, name in enumerate(levels)}}
    return table.loc[:, ["item_id", "timestamp", "target_name"]].assign(**columns)
