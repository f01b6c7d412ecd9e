"""A probe: the first steps of a config as it stands, and whether its weights learn, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foretrain.printing import duration
from foretrain.run.config import RunConfig
from foretrain.training.health import health
from foretrain.training.schedule import lr_at
from foretrain.tuning.short_run import ShortRun, short_run, shortened

SCHEMA = 1
_LINES = 40  # as many as the health report looks at
_CLIPPED = 0.5  # share of clipped steps of which a note tells
_WAITING = 0.2  # share of the time
TRAINS, UNSURE, FAILS = "trains", "cannot tell", "does not train"
_LOST = ("gradients_dead", "gradients_explode", "divergence")


@dataclass(frozen=True)
class ProbeReport:
    """What a probe found.

    Attributes:
        verdict: trains, cannot tell, or does not train.
        why: what the verdict goes by, in a line.
        notes: what else is to be known, a line each.
        health: report of training.health.
        before, after: the metric that chooses weights, before the first step and at the end; None without validation.
        run_s: seconds that the whole run would take, with its validations; None if its steps are not known.
        memory_gb: at the peak of training and validation, beyond what the process had.
        records: those of the run's metrics.jsonl.
    """

    verdict: str
    why: str
    notes: tuple[str, ...]
    health: dict[str, Any] | None
    metric: str
    before: float | None
    after: float | None
    run_s: float | None
    memory_gb: float | None
    records: list[dict[str, Any]]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON data, without the records."""
        kept = {name: value for name, value in vars(self).items() if name != "records"}
        return {"schema": SCHEMA, **kept, "notes": list(self.notes)}


def run_probe(config: RunConfig, steps: int, say: Callable[[str], None]) -> ProbeReport:
    """Train the first steps of a config as it stands and return what they tell. Raises ForetrainError.

    A run that validates is validated before the first step and after the last one, where it ends. One that does not
    can only end with its schedule, which is then run through in these steps.
    """
    total, validates = config.training.max_steps, config.training.validate_every is not None
    steps = steps if total is None else min(steps, total)
    training: dict[str, Any] = {"log_every": max(1, steps // _LINES)}
    if validates:
        training |= {"validate_every": steps, "validate_first": True}
    else:
        training |= {"max_steps": steps, "epochs": None}
    run = short_run(shortened(config, training), steps, say, lambda step, metrics: step >= steps)
    return probe_of(run, config)


def probe_of(run: ShortRun, config: RunConfig) -> ProbeReport:
    """Return what a run of the first steps tells. config: of the whole run."""
    training = config.training
    report = health(run.records) if run.lines else None
    scores = [record.get(training.best_metric) for record in run.records if record.get("kind") == "validation"]
    before, after = (scores[0], scores[-1]) if len(scores) > 1 else (None, None)
    verdict, why = _verdict(run, report)
    total = _total(run, config)
    return ProbeReport(
        verdict=verdict,
        why=why,
        notes=tuple(_notes(run, config, report, total)),
        health=report,
        metric=training.best_metric,
        before=before,
        after=after,
        run_s=_seconds(run, config, report, total),
        memory_gb=run.memory_gb,
        records=run.records,
    )


def _verdict(run: ShortRun, report: dict[str, Any] | None) -> tuple[str, str]:
    if run.nonfinite is not None:
        return FAILS, f"the loss or its gradient is not finite at step {run.nonfinite:,}"
    if report is None:
        return UNSURE, "there is no training line"
    serious = [alarm for alarm in report["alarms"] if alarm["code"] in _LOST]
    if serious:
        return FAILS, f"{serious[-1]['text']} (step {serious[-1]['step']:,})"
    loss = report["loss"]
    if loss["slope_per_1000_steps"] is None:
        return UNSURE, "there are too few lines; give more --steps"
    change = loss["slope_per_1000_steps"] * (report["step"] - _first_step(run)) / 1000
    size = f"{abs(change):.3g} over these steps, {abs(change) / (loss['spread'] or 1e-300):.1f} times its spread"
    if loss["trend"] == "falling":
        return TRAINS, f"the loss falls by {size}"
    if loss["trend"] == "RISING":
        return FAILS, f"the loss rises by {size}"
    return (
        UNSURE,
        "the loss is flat within its noise: the rate is too low, the weights are good already, or --steps few",
    )


def _first_step(run: ShortRun) -> int:
    return run.lines[0]["step"]


def _notes(run: ShortRun, config: RunConfig, report: dict[str, Any] | None, total: int | None) -> list[str]:
    notes = list[str]()
    if report is None:
        return notes
    share, norms = report["gradients"]["clipped_share"], report["gradients"]
    if share is not None and share > _CLIPPED:
        notes.append(
            f"{share:.0%} of the steps are clipped: norms have a mean of {norms['mean']:.3g} and training.clip_norm is "
            f"{norms['clip_norm']:g}, so that the direction of a step is kept and its size is not"
        )
    if total is not None and config.training.validate_every is not None and run.nonfinite is None:
        peak, last = config.optimizer.learning_rate, report["step"] - 1
        reached = max(lr_at(config.optimizer.schedule, peak, step, total) for step in range(report["step"]))
        newest = lr_at(config.optimizer.schedule, peak, last, total)
        if reached < 0.9 * peak:
            notes.append(f"the rate is still warming up: {newest:.2g} of {peak:.2g}; more --steps would see its peak")
    if config.training.validate_every is None:
        notes.append("the run validates nothing, so its learning-rate schedule was run through in these steps")
    waiting = report["data"]["wait_share"]
    if waiting is not None and waiting > _WAITING:
        notes.append(f"{waiting:.0%} of the time is waited for data; training.prefetch, or fewer processes, may help")
    if config.evaluators:
        notes.append("the time of the run's evaluators is not in that of the whole run")
    return notes


def _total(run: ShortRun, config: RunConfig) -> int | None:
    """Return the steps of the whole run; a run in epochs tells them at its start, unless it was cut."""
    if config.training.max_steps is not None:
        return config.training.max_steps
    if config.training.validate_every is None:
        return None
    return next((record.get("total_steps") for record in run.records if record.get("kind") == "start"), None)


def _seconds(run: ShortRun, config: RunConfig, report: dict[str, Any] | None, total: int | None) -> float | None:
    """Return the seconds of the whole run: its steps at the rate of these, and its validations."""
    rate = None if report is None else report["throughput"]["steps_per_s"]
    if total is None or not rate or run.nonfinite is not None:
        return None
    every = config.training.validate_every
    count = 0
    if every == "epoch":
        count = round(config.training.epochs or 1)
    elif every is not None:
        count = -(-total // every) + config.training.validate_first
    return total / rate + count * (run.validation_s or 0.0)


def probe_lines(found: ProbeReport) -> list[str]:
    """Return what a probe found as lines of a terminal."""
    from foretrain.training.health import render

    lines = [] if found.health is None else [render(found.health)]
    lines.append(f"{found.verdict}: {found.why}")
    if found.before is not None and found.after is not None:
        lines.append(f"{found.metric}: {found.before:.5g} before the first step, {found.after:.5g} after the last")
    memory = "" if found.memory_gb is None else f"; {found.memory_gb:.2f} GB at the peak, beyond what Python takes"
    if found.run_s is not None:
        lines.append(f"the whole run takes about {duration(found.run_s)} here{memory}")
    elif memory:
        lines.append(memory.removeprefix("; "))
    return [*lines, *(f"note: {note}" for note in found.notes)]
