"""One trial: trains a candidate on every fold, or forecasts with it, and records what its weights lose where.

folder/fold-K is the run folder of fold K, with fold.json and losses.parquet once it has ended; result.json and
losses.parquet in the folder itself are of the whole trial. A folder that holds part of a trial is continued.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from foretrain.adapters.layers import merged
from foretrain.atomic import replacing_file, write_json
from foretrain.distributed.world import World
from foretrain.errors import (
    ConfigError,
    DataError,
    ForetrainError,
    MissingCorpusError,
    TrainingError,
    of_the_disk,
    out_of_memory,
)
from foretrain.evaluation.validation import Validation
from foretrain.locks import FileLock
from foretrain.models.base import Forecaster
from foretrain.processes import this_process
from foretrain.run.build import open_source, saved_config, settled
from foretrain.run.config import RunConfig
from foretrain.run.intact import stage_corpora
from foretrain.run.train import build_validation, train_run
from foretrain.training.journal import read_journal
from foretrain.training.memory import ResidentGrowth
from foretrain.training.run_record import metrics_of
from foretrain.tuning.candidates import fold_configs, is_maximized, metric_key
from foretrain.tuning.checks import check_study as check_study
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.folds import Fold
from foretrain.tuning.forecasting import forecast_fold
from foretrain.tuning.losses import losses_table, read_losses, write_losses
from foretrain.tuning.quiet import quiet
from foretrain.tuning.records import (
    LOSSES,
    RESULT,
    CurvePoint,
    FoldRecord,
    SavedTrial,
    Source,
    TrialRecord,
    read_saved,
)
from foretrain.tuning.space import Candidate

FOLD, STATE, LOG = "fold.json", "trial.json", "trial.log"
Report = Callable[[int, float], bool]


class _Impossible(Exception):
    """The candidate failed; the study goes on."""


@dataclass
class _Progress:
    """What is known of a trial while it runs; saved in trial.json."""

    folder: Path
    params: Candidate
    started: str
    attempts: int = 0
    seconds: float = 0.0  # of earlier attempts
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: Path, params: Candidate) -> _Progress:
        """Open a trial's folder and count this attempt. Raises TrainingError for one of another candidate."""
        folder.mkdir(parents=True, exist_ok=True)
        found = read_saved(SavedTrial, folder / STATE)
        if found is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            found = SavedTrial(params=params, started=now, attempts=0, seconds=0)
        if found.params != params:
            raise TrainingError(f"{folder}: holds a trial of other values. Choose another folder, or delete it.")
        progress = cls(folder, params, found.started, found.attempts + 1, found.seconds)
        progress.save()
        return progress

    @property
    def total(self) -> float:
        """Seconds that all attempts took."""
        return self.seconds + time.monotonic() - self.began

    def save(self) -> None:
        """Write what the next attempt must know."""
        tree = {"params": self.params, "started": self.started, "attempts": self.attempts, "seconds": self.total}
        with replacing_file(self.folder / STATE) as scratch:
            write_json(scratch, tree)


def run_trial(
    config: TuneConfig, number: int, candidate: Candidate, folder: Path, *, source: Source, report: Report
) -> TrialRecord:
    """Run a trial to its end and write result.json and losses.parquet into its folder.

    Args:
        number: of the trial in its study.
        candidate: values of the active keys of the space.
        folder: of the trial; one that holds part of it is continued from its checkpoint.
        source: who proposed the candidate.
        report: called as (step, value of the first objective) after each validation, the steps counted over folds;
            True ends the trial as pruned.

    A candidate that fails (an impossible config, a loss that is not finite, too little memory) gives a record with
    state "failed". Raises ForetrainError for what concerns the study as a whole: absent or changed data, a full disk,
    another process in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".trial.lock", folder, "works on this trial", TrainingError):
        if (ended := read_saved(TrialRecord, folder / RESULT)) is not None:
            return ended
        progress = _Progress.open(folder, candidate)
        facts: dict[str, Any] = {"number": number, "source": source, "params": candidate}
        folds: list[dict[str, Any]] = []
        try:
            with quiet(folder / LOG):
                _run_folds(config, candidate, progress, report, folds)
            facts |= _outcome(config, folds)
        except _Impossible as error:
            facts |= {"state": "failed", "values": None, "message": str(error)[:2000]}
        facts |= _measured(config, folds, progress)
        me = this_process()
        record = TrialRecord(
            **facts,
            worker=f"{me['host']}:{me['pid']}",
            attempts=progress.attempts,
            started=progress.started,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if record.state == "complete":
            tables = [read_losses(folder / f"fold-{n}" / LOSSES) for n in range(len(folds))]
            write_losses(pa.concat_tables(tables), folder / LOSSES)
        with replacing_file(folder / RESULT) as scratch:
            write_json(scratch, record.model_dump(mode="json"))
        return record


def _run_folds(
    config: TuneConfig, candidate: Candidate, progress: _Progress, report: Report, done: list[dict[str, Any]]
) -> None:
    """Run the folds in order until one is pruned; append what is known of each to `done`."""
    try:
        configs = fold_configs(config, candidate, progress.folder)
    except MissingCorpusError:
        raise
    except ForetrainError as error:
        raise _Impossible(_in_a_line(error)) from None
    offset = 0
    for fold, own in configs:
        place = Path(own.output_dir)
        if (known := read_saved(FoldRecord, place / FOLD)) is not None:
            found = known.model_dump()
        elif config.task == "forecast":
            with _failures():
                found = forecast_fold(config, candidate, own, fold)
        else:
            found = _train_fold(config, own, fold, progress, offset, report)
        if known is None:
            with replacing_file(place / FOLD) as scratch:
                write_json(scratch, found)
        done.append(found)
        if found["pruned"]:
            return
        offset += max(found["steps"], own.training.max_steps or 0)


def _train_fold(
    config: TuneConfig, own: RunConfig, fold: Fold, progress: _Progress, offset: int, report: Report
) -> dict[str, Any]:
    """Train one fold and return what fold.json holds."""
    folder, key = Path(own.output_dir), metric_key(config.objectives[0])
    gc.collect()
    growth, pruned = ResidentGrowth(), False

    def after(step: int, metrics: dict[str, float]) -> bool:
        nonlocal pruned
        progress.save()
        value = metrics.get(key)
        if value is None:  # no evaluation of this evaluator is due with this validation
            return False
        pruned = bool(report(offset + step, float(value))) or pruned  # what is saved is no numpy.bool
        return pruned

    with _failures():
        stage_corpora([own.data], World())  # of one process
        own, source = open_source(own)
    with _failures(DataError):
        world = World.start(own.device, own.threads, own.deadlines)
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        own, _ = settled(own, source, world, saved_config(folder, "auto"))
        model, result = train_run(own, resume="auto", world=world, source=source, on_validation=after)
        if not isinstance(model, Forecaster):
            raise ConfigError(f"run: a {model.family} makes no forecasts, so its trials have no losses to compare.")
        validation = build_validation(own, source, model, world)
        assert validation is not None
        table, each = scored_losses(validation, model, fold)
    write_losses(table, folder / LOSSES)
    lines = _validations(folder)
    return {
        "step": result.release_step,
        "steps": result.step,
        # the signal to stop may have come from an attempt before this one, which a checkpoint holds
        "pruned": pruned or result.stopped_by == "evaluation",
        "stopped_by": result.stopped_by,
        "metrics": {name: _finite(value) for name, value in lines.get(result.release_step, {}).items()},
        "curve": [[offset + step, _finite(found.get(key))] for step, found in sorted(lines.items()) if key in found],
        "memory_gb": peak_gb(world, growth),
        "seconds_per_forecast": each,
    }


def scored_losses(
    validation: Validation, model: Forecaster, fold: Fold, context_length: int | None = None
) -> tuple[pa.Table, float]:
    """Return the losses of a model on the windows of a validation, and the seconds that a window took."""
    model.eval()
    began = time.monotonic()
    with torch.no_grad(), merged(model):
        scored = validation.forecasts(model, context_length=context_length)
    seconds = (time.monotonic() - began) / validation.backtest.num_windows
    return losses_table(validation.backtest, scored, fold.number), seconds


class _failures:
    """Turn what makes a candidate impossible into _Impossible; `through`: errors that concern the whole study."""

    def __init__(self, *through: type[Exception]) -> None:
        self.through = (MissingCorpusError, *through)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, self.through) or not isinstance(error, Exception):
            return
        if (said := out_of_memory(error)) is not None:
            raise _Impossible(f"out of memory: {said}") from error
        cause = error.__cause__
        if of_the_disk(error) or (isinstance(cause, OSError) and out_of_memory(cause) is None):
            return
        if isinstance(error, ForetrainError | ValueError):
            raise _Impossible(_in_a_line(error)) from error


def _validations(folder: Path) -> dict[int, dict[str, float]]:
    """Return the metrics of a run by step: of its validations, and of the evaluations beside them."""
    found: dict[int, dict[str, float]] = {}
    for line in read_journal(folder / "metrics.jsonl"):
        if line.get("kind") in ("validation", "evaluation"):
            found.setdefault(line["step"], {}).update(metrics_of(line))
            broken = [name for name, value in line.items() if value is None and name.startswith("val_")]
            found[line["step"]] |= dict.fromkeys(broken, math.nan)
    return found


def _outcome(config: TuneConfig, folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return state, values and metrics of a trial whose folds have ended. Raises _Impossible."""
    if folds[-1]["pruned"]:
        return {"state": "pruned", "values": None, "message": f"pruned after {sum(f['steps'] for f in folds):,} steps"}
    values = []
    for objective in config.objectives:
        key = metric_key(objective)
        found = [fold["metrics"].get(key) for fold in folds]
        for fold, value in zip(folds, found, strict=True):
            if key not in fold["metrics"]:
                raise _Impossible(
                    f"{objective.metric}: was not measured at step {fold['step']:,}, whose weights were chosen; let "
                    "the evaluator be due with every validation"
                )
            if value is None:
                raise _Impossible(f"{objective.metric}: is not finite at step {fold['step']:,}")
        values.append(math.fsum(found) / len(found))
    return {"state": "complete", "values": tuple(values)}


def _measured(config: TuneConfig, folds: list[dict[str, Any]], progress: _Progress) -> dict[str, Any]:
    """Return what a record says of metrics, curve and constraints."""
    per_fold = [{name: value for name, value in fold["metrics"].items() if value is not None} for fold in folds]
    shared = [name for name in (per_fold[0] if per_fold else {}) if all(name in one for one in per_fold)]
    measured = {"seconds": progress.total}
    for name in ("memory_gb", "seconds_per_forecast"):
        found = [fold[name] for fold in folds if fold[name] is not None]
        measured |= {name: max(found)} if found else {}
    bounds = {name: bound for name, bound in config.constraints.model_dump().items() if bound is not None}
    points = [
        CurvePoint(fold=n, step=step, value=value) for n, fold in enumerate(folds) for step, value in fold["curve"]
    ]
    return {
        "metrics": {name: math.fsum(one[name] for one in per_fold) / len(per_fold) for name in shared},
        "folds": tuple(per_fold),
        "constraints": measured,
        "feasible": all(name in measured and measured[name] <= bound for name, bound in bounds.items()),
        "curve": tuple(points),
        "steps": sum(fold["steps"] for fold in folds),
        "seconds": progress.total,
    }


def peak_gb(world: World, growth: ResidentGrowth) -> float | None:
    """Return the gigabytes that a fold took at its peak beyond what the process had; on a GPU those of the GPU."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 1e9
    found = growth.bytes()
    return None if found is None else found / 1e9


def best_of(records: list[TrialRecord], config: TuneConfig) -> TrialRecord | None:
    """Return the feasible, complete trial with the best first objective, the earliest among equals; None without one.

    The run as it stands takes part.
    """
    ended = [one for one in records if one.state == "complete" and one.feasible and one.values is not None]
    sign = -1.0 if is_maximized(config.objectives[0]) else 1.0
    return min(ended, key=lambda one: (sign * (one.values or (math.inf,))[0], one.number), default=None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
