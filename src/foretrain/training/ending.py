"""What a run says at its end: why it ended, what it released, and what it took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretrain.errors import DISK_TROUBLE, TrainingError
from foretrain.printing import duration
from foretrain.training.health import seconds_text, with_steps
from foretrain.training.line_stats import merged, quantile
from foretrain.training.settings import StepPlan, TrainingConfig
from foretrain.training.train_state import RunTotals, StoppedBy


@contextmanager
def disk_errors(output_dir: Path) -> Iterator[None]:
    """Raise a TrainingError in place of errors of a disk that is full, read-only or broken."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        raise TrainingError(
            f"{output_dir}: cannot be written: {error.strerror}. Checkpoints so far are intact; free some space, then "
            "resume."
        ) from error


def describe_end(config: TrainingConfig, plan: StepPlan, step: int, stopped_by: StoppedBy) -> str:
    """Return why a run ended after `step` steps."""
    if stopped_by == "max_minutes":
        return f"stopped at step {step:,} of {plan.steps:,}: training.max_minutes ({config.max_minutes:g}) are over"
    if stopped_by == "alarm":
        what = "the alarm above (training.alarms: stop); --resume training.alarms=say trains on"
        return f"finished at step {step:,} of {plan.steps:,} by {what}"
    if stopped_by == "patience":
        reason = f"patience: {config.patience} validations without a better {config.best_metric}"
        return f"finished at step {step:,} of {plan.steps:,} ({reason})"
    return f"finished at step {step:,} ({'epochs' if config.epochs and stopped_by == 'max_steps' else stopped_by})"


def describe_release(step: int, metric: str, value: float | None, averaged: bool) -> str:
    """Return which weights a release holds: those of a step, the best by a metric if it has a value."""
    best = "" if value is None else f", the best: {metric} {value:.4f}"
    return f"release/ holds step {step:,}{' (averaged weights)' if averaged else ''}{best}"


def step_times(records: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """Return mean, standard deviation, p50 and p95 (within 5%) of the seconds of all steps of a metrics.jsonl, without
    validations, checkpoints and steps under a profiler; None of what a line, as of an older version, does not tell."""
    lines = list[dict[str, Any]]()
    for record in records:
        if record.get("kind") == "train":
            lines.append(with_steps(record, lines[-1] if lines else None))
    # (steps, line) of those with a step that was timed
    timed = [(count, one) for one in lines if (count := one["steps"] - (one.get("untimed_steps") or 0)) > 0]
    found: dict[str, float | None] = dict.fromkeys(f"step_s_{name}" for name in ("mean", "std", "p50", "p95"))
    if not timed or not all(line.get("steps_per_s") for _, line in timed):
        return found
    steps = sum(count for count, _ in timed)
    found["step_s_mean"] = mean = math.fsum(count / line["steps_per_s"] for count, line in timed) / steps
    if all(line.get("step_s_std") is not None for _, line in timed):
        squares = (count * (line["step_s_std"] ** 2 + (1 / line["steps_per_s"] - mean) ** 2) for count, line in timed)
        found["step_s_std"] = math.sqrt(math.fsum(squares) / steps)
    if all("step_s_bins" in line for _, line in timed):
        histogram = merged(line["step_s_bins"] for _, line in timed)
        found |= {"step_s_p50": quantile(histogram, 0.5), "step_s_p95": quantile(histogram, 0.95)}
    return found


def describe_steps(times: Mapping[str, float | None], epochs: float | None) -> str:
    """Return the times of a run's steps, and its epochs if it counts them."""
    words = {"mean": "mean", "std": "standard deviation", "p50": "median", "p95": "95th percentile"}
    told = ", ".join(f"{word} {seconds_text(times[f'step_s_{name}'])}" for name, word in words.items())
    return f"a step: {told}" + ("" if epochs is None else f"; {epochs:,.2f} epochs")


def describe_totals(totals: RunTotals) -> str:
    """Return what a run took; its rates are those of training alone, without steps under a profiler."""
    facts = totals.facts()
    took = (
        f"took {duration(totals.seconds)} for {totals.steps:,} steps on {totals.windows:,} windows, "
        f"{duration(totals.paused)} of it validations and checkpoints"
    )
    if facts["steps_per_s"] is None:
        return took
    less = f" (without {totals.untimed_steps:,} profiled steps)" if totals.untimed_steps else ""
    return f"{took}; training alone{less}: {facts['steps_per_s']:.3g} step/s, {facts['windows_per_s']:,.0f} series/s"
