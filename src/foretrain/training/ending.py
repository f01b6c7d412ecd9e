"""What a run says at its end: why it ended, what it released, and what it took."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from foretrain.errors import TrainingError
from foretrain.printing import duration
from foretrain.training.health import seconds_text
from foretrain.training.settings import StepPlan, TrainingConfig
from foretrain.training.train_state import RunTotals, StoppedBy

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@contextmanager
def disk_errors(output_dir: Path) -> Iterator[None]:
    """Raise a TrainingError in place of errors of a disk that is full, read-only or broken."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
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


def describe_steps(times: Mapping[str, float | None], epochs: float | None) -> str:
    """Return the times of a run's steps, and its epochs if it counts them."""
    words = {"mean": "mean", "std": "standard deviation", "p50": "median", "p95": "95th percentile"}
    told = ", ".join(f"{word} {seconds_text(times[f'step_s_{name}'])}" for name, word in words.items())
    return f"a step: {told}" + ("" if epochs is None else f"; {epochs:,.2f} epochs")


def describe_totals(totals: RunTotals) -> str:
    """Return what a run took; its rates are those of training alone."""
    facts = totals.facts()
    return (
        f"took {duration(totals.seconds)} for {totals.steps:,} steps on {totals.windows:,} windows, "
        f"{duration(totals.paused)} of it validations and checkpoints; training alone: {facts['steps_per_s']:.3g} "
        f"step/s, {facts['windows_per_s']:,.0f} series/s"
    )
