"""A run as the files of its folder tell of it: settings, state, course and scores. Imports neither torch nor numpy.

A file that cannot be read is a problem of the record, in one line; what the others tell is there. A folder that was
copied tells the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foretrain.config import read_yaml
from foretrain.errors import ConfigError, DataError, TrainingError
from foretrain.locks import holder
from foretrain.reading import Unreadable, believing, read_json, read_object
from foretrain.training.journal import read_journal

CONFIG, JOURNAL, LOCK, STARTS, LOG = "config.yaml", "metrics.jsonl", "run.lock", "environment.json", "training.log"
METRICS, RECORDS = "final_metrics.json", "best_records.json"
HIGHER_IS_BETTER = ("skill", "accuracy", "_r2")  # parts of the names of such metrics
_NOT_METRICS = ("step", "epoch", "time", "seconds", "score")


@dataclass
class Course:
    """The lines of a metrics.jsonl by kind, each in order. Lines of kind train have `steps`, whatever wrote
    them, and no histograms."""

    lines: list[dict[str, Any]] = field(default_factory=list)  # of kind train
    validations: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    total_steps: int | None = None
    log_every: int | None = None
    first_time: float | None = None  # seconds since 1970
    last_time: float | None = None

    @property
    def step(self) -> int:
        """The newest step of a line; 0 without one."""
        return max((part[-1]["step"] for part in (self.lines, self.validations, self.evaluations) if part), default=0)

    @property
    def trained_s(self) -> float | None:
        """Seconds of training, without validations and checkpoints; None if no line tells."""
        rated = [(line["steps"], rate) for line in self.lines if (rate := number(line.get("steps_per_s")))]
        return sum(steps / rate for steps, rate in rated) if rated else None

    def values(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric of validations and evaluations, in the order of steps."""
        found = [(line["step"], number(line.get(name))) for line in (*self.validations, *self.evaluations)]
        return sorted((step, value) for step, value in found if value is not None)

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that validations and evaluations have."""
        return list(dict.fromkeys(name for line in (*self.validations, *self.evaluations) for name in metrics_of(line)))


@dataclass
class RunRecord:
    """A run, or a pipeline with the runs of its stages. What is not known is None."""

    folder: Path
    family: str | None = None  # of a pipeline those of its stages
    start: str | None = None  # the weights that it starts from; None = random ones
    state: str = "not started"
    step: int = 0
    total_steps: int | None = None
    best: dict[str, Any] | None = None  # name, value, step and unit of training.best_metric where it was best
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # value and unit, of the weights of metrics_step
    metrics_step: int | None = None
    promotion: dict[str, Any] | None = None  # what the gate at its end said of the release: promoted, reason
    test: dict[str, dict[str, Any]] = field(default_factory=dict)  # value and unit, of the windows of the gate
    starts: int | None = None
    started: str | None = None  # ISO 8601, UTC
    ended: str | None = None  # when its newest line was written; None while it trains
    trained_s: float | None = None  # seconds, without validations and checkpoints
    problems: list[str] = field(default_factory=list)
    stages: list[RunRecord] = field(default_factory=list)
    planned_stages: int | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    course: Course = field(default_factory=Course, repr=False)

    @property
    def pipeline(self) -> bool:
        """Whether it is a pipeline of stages."""
        return self.planned_stages is not None

    @property
    def finished(self) -> bool:
        """Whether it came to an end of its own, and has final metrics."""
        return self.state == "finished" or self.state.startswith("stopped by")

    @property
    def best_metric(self) -> str | None:
        """Name of the metric that chooses its weights, if it validates."""
        training = _section(self.config, "training")
        return _text(training.get("best_metric")) if training.get("validate_every") is not None else None

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values of best_metric are better."""
        training = _section(self.config, "training")
        name = str(training.get("best_metric"))
        return training.get("best_mode") == "max" if training.get("best_mode") else is_higher_better(name)

    def facts(self) -> dict[str, Any]:
        """Return the record as JSON data, without config and course."""
        rest = {key: value for key, value in vars(self).items() if key not in ("config", "course", "stages")}
        return {**rest, "folder": str(self.folder), "stages": [stage.facts() for stage in self.stages]}


def measure(name: str) -> str:
    """Return the name of a metric without that of the corpus (val_wql/NAME) or the task that it is of."""
    return name.partition("/")[0] if name.startswith("val_") else name.rpartition("/")[2]


def is_higher_better(name: str) -> bool:
    """Return whether higher values of a metric are better, by its name."""
    return any(word in measure(name) for word in HIGHER_IS_BETTER)


def number(value: Any) -> float | None:
    """Return a number of a JSON file, None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def metrics_of(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a line of kind validation or evaluation."""
    found = {name: number(value) for name, value in line.items() if name not in _NOT_METRICS}
    return {name: value for name, value in found.items() if value is not None}


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, or of a pipeline."""
    if (folder / JOURNAL).is_file():
        return True
    return (folder / CONFIG).is_file() and any((folder / name).exists() for name in ("checkpoints", "stages", STARTS))


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders in a folder, by name. Raises DataError if there is no such folder, or it is a run."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder that holds the folders of runs.")
    if is_run(folder):
        raise DataError(f"{folder}: is a run itself. Name the folder that holds it, or use `runs show`.")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    return [folder / name for name in names if is_run(folder / name)]


def read_run(folder: Path) -> RunRecord:
    """Return the record of a run folder. Raises DataError if it is none, or its files hold what none would write."""
    if not is_run(folder):
        what = "is no run" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {what}. Name the output_dir of a run.")
    with believing(folder, DataError, "Look at its config.yaml, metrics.jsonl and final_metrics.json."):
        return _read_pipeline(folder) if (folder / "stages").is_dir() else _read_single(folder)


def _read_single(folder: Path) -> RunRecord:
    record = RunRecord(folder)
    record.config = _config(folder, record.problems)
    model = _section(record.config, "model")
    record.family, record.start = _text(model.get("family")), _text(model.get("model_id"))
    if record.family is not None and record.config.get("adapter") is not None:
        record.family += " + adapter"
    record.course = course = _course(folder / JOURNAL, record.problems)
    final = _object(folder / METRICS, record.problems)
    starts = _starts(folder / STARTS, record.problems)
    record.step, record.trained_s, record.starts = course.step, course.trained_s, len(starts) or None
    record.total_steps = course.total_steps
    if record.total_steps is None:  # an older version wrote no line on a start
        record.total_steps = _whole(_section(record.config, "training").get("max_steps"))
    record.state = _state(folder, final, record.step)
    _score(record, final)
    record.started = (starts[0] if starts else None) or _iso(course.first_time)
    record.ended = None if record.state.startswith("training") else _iso(course.last_time)
    return record


def _read_pipeline(folder: Path) -> RunRecord:
    """A pipeline's state is that of its newest stage, or of its lock; its scores are those of its newest stage."""
    record = RunRecord(folder)
    record.config = _config(folder, record.problems)
    for stage in sorted((folder / "stages").iterdir()):
        if is_run(stage):
            record.stages.append(_read_single(stage))
    names = _section(record.config, "stages", list)
    record.planned_stages = len(names) or len(record.stages)
    newest = record.stages[-1] if record.stages else RunRecord(folder)
    record.family = " > ".join(dict.fromkeys(str(stage.family) for stage in record.stages)) or None
    record.step, record.total_steps, record.best = newest.step, newest.total_steps, newest.best
    record.metrics, record.metrics_step, record.promotion = newest.metrics, newest.metrics_step, newest.promotion
    record.test = newest.test
    record.started = min((stage.started for stage in record.stages if stage.started), default=None)
    known = [stage.trained_s for stage in record.stages if stage.trained_s is not None]
    record.trained_s = sum(known) if known else None
    record.state = newest.state
    held = _lock_state(folder)
    if held is not None:
        record.state = held
    elif newest.finished and not (folder / "release").exists():  # the next stage has not begun
        record.state = "ended early"
    record.ended = None if record.state.startswith("training") else newest.ended
    return record


def _state(folder: Path, final: Mapping[str, Any], step: int) -> str:
    """Return "training", "finished", "stopped by WHAT", "killed", "ended early" or "not started".

    killed: the process that wrote it has ended and left its lock. ended early: it has not finished, and no process
    writes it: a signal or an error ended it, or the folder is a copy.
    """
    held = _lock_state(folder)
    if held is not None and held != "killed":
        return held
    stopped = _section(final, "stopped")
    if final and (number(stopped.get("step")) or 0) >= (step if stopped else 0):  # else it trained on since then
        by = stopped.get("by")
        return "finished" if by in (None, "max_steps") else f"stopped by {by}"
    if held is not None:
        return held
    return "ended early" if (folder / JOURNAL).is_file() else "not started"


def _lock_state(folder: Path) -> str | None:
    """Return "training" or "killed" by the lock of a folder; None if there is no lock."""
    lock = folder / LOCK
    if (found := holder(lock)) is not None:
        host = found["host"]
        return "training" if host == os.uname().nodename else f"training on {host}"
    return "killed" if lock.is_file() and lock.stat().st_size else None


def _score(record: RunRecord, final: Mapping[str, Any]) -> None:
    """Fill in best and metrics: of a finished run those of final_metrics.json, else of the best validation so far."""
    name, course = record.best_metric, record.course
    if record.finished and isinstance(final.get("step"), int):
        record.metrics_step = final["step"]
        record.metrics = _entries(_section(final, "metrics"))
        if gate := _section(final, "promotion"):
            record.promotion = {"promoted": gate.get("promoted") is True, "reason": _text(gate.get("reason"))}
            record.test = _entries(_section(gate, "metrics"))
    else:
        chosen = [line for line in course.validations if line.get("best") is True]
        if chosen:
            record.metrics_step = chosen[-1]["step"]
            record.metrics = {key: {"value": value, "unit": None} for key, value in metrics_of(chosen[-1]).items()}
    if name is not None and name in record.metrics:
        record.best = {"name": name, "step": record.metrics_step, **record.metrics[name]}


def _entries(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return value and unit of each metric."""
    entries = {name: entry for name, entry in found.items() if isinstance(entry, dict)}
    return {name: {"value": number(one.get("value")), "unit": _text(one.get("unit"))} for name, one in entries.items()}


def _course(path: Path, problems: list[str]) -> Course:
    course = Course()
    if not path.is_file():
        return course
    try:
        _sort(read_journal(path), course)
    except TrainingError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror or error}")
    return course


def _sort(records: Iterable[dict[str, Any]], course: Course) -> None:
    last = 0
    for record in records:
        kind, time = record.get("kind"), number(record.get("time"))
        if time is not None:
            course.first_time = time if course.first_time is None else course.first_time
            course.last_time = time
        if kind == "start":
            course.total_steps, course.log_every = _whole(record.get("total_steps")), _whole(record.get("log_every"))
        elif kind == "train":
            steps = number(record.get("steps")) or record["step"] - last
            last = record["step"]
            kept = {key: value for key, value in record.items() if not key.endswith("_bins")}
            course.lines.append({**kept, "steps": steps})
        elif kind == "validation":
            course.validations.append(record)
        elif kind == "evaluation":
            course.evaluations.append(record)


def _config(folder: Path, problems: list[str]) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        return {}
    try:
        return read_yaml(folder / CONFIG)
    except ConfigError as error:
        problems.append(str(error))
        return {}


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_object(path)
    except (OSError, Unreadable) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}


def _starts(path: Path, problems: list[str]) -> list[str | None]:
    """Return the times of the starts that environment.json records."""
    if not path.is_file():
        return []
    try:
        found = read_json(path)
    except (OSError, Unreadable) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return []
    return [_text(start.get("time")) for start in found if isinstance(start, dict)]


def _section(tree: Mapping[str, Any], name: str, kind: type = dict) -> Any:
    found = tree.get(name)
    return found if isinstance(found, kind) else kind()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
