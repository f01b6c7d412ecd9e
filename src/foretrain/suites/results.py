"""Results of benchmark tasks: one JSON file a model and task, OUT/MODEL/SUITE/TASK.json, put there by a rename."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from foretrain.atomic import replacing_file, write_json
from foretrain.errors import DataError
from foretrain.reading import read_object
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.result_folders import folder_name
from foretrain.suites.rows import CovariateSource

SCHEMA = 1
_FACTS = frozenset({"unit", "licence"})  # of the data, as known by now: no older result is scored anew for them


@dataclass(frozen=True)
class TaskResult:
    """What a model came to on a task. Metrics and baseline have published names; None = undefined on these data."""

    model: str
    model_hash: str
    suite: str
    task: str
    dataset: str
    identity: str  # sha256 of all that decides the figures
    state: Literal["done", "failed"]
    error: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    baseline: dict[str, float | None] = field(default_factory=dict)  # the suite's seasonal naive, on the same rows
    imputed: bool = False  # the metrics are those of the baseline, since the model failed
    series: int = 0  # items scored
    windows: int = 0  # of all items together
    variates: int = 0  # targets of an item
    forecasts: int = 0  # targets of all windows
    max_items: int | None = None  # set if a sample of so many items was scored, of items_of, drawn by sample_seed
    items_of: int | None = None
    sample_seed: int | None = None
    point: str = "median"  # what the point forecast is
    context_length: int | None = None  # newest steps of history that the model reads; None = all that the task allows
    covariates: dict[str, list[str]] = field(default_factory=dict)  # past, known, static: given; absent: not there
    unit: str = ""  # of the data; unknown, or mixed: of series or variates in different ones
    licence: str = ""  # of the data
    data: str = ""  # where the series came from
    data_hash: str = ""
    seconds: float = 0.0  # of the model's forecasts, on the slowest of `processes`
    processes: int = 1
    device: str = ""
    dtype: str = "float32"
    num_parameters: int | None = None
    trained_on: list[str] | None = None  # data of the task that the suite counts as seen in training; None = not known
    flags: list[dict[str, str]] = field(
        default_factory=list
    )  # code and text: what training saw of the task, or may have
    notes: list[str] = field(default_factory=list)
    schema: int = SCHEMA


def result_file(out: Path, model: str, task: BenchmarkTask) -> Path:
    """Return where the result of a model on a task lies."""
    return out / folder_name(model) / task.suite_name / f"{task.name.replace('/', '--')}.json"


def write_result(path: Path, result: TaskResult) -> None:
    """Write a result. Raises DataError if the file cannot be written; one that was there before is then unchanged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as scratch:
            write_json(scratch, asdict(result))
    except OSError as error:
        text = f"{path}: cannot be written ({error.strerror or error}). Finished tasks are kept; repeat the command."
        raise DataError(text) from None


def kept_result(path: Path, identity: str) -> TaskResult | None:
    """Return the finished result in a file, if it has this identity; None for any other, and for damaged files."""
    try:
        found = read_object(path)
    except (OSError, ValueError):
        return None
    fields = TaskResult.__dataclass_fields__
    if found.get("schema") != SCHEMA or found.get("identity") != identity or found.get("state") != "done":
        return None
    if not (fields.keys() - _FACTS <= found.keys() and isinstance(found["metrics"], dict)):
        return None
    return TaskResult(**{name: found[name] for name in fields if name in found})


def as_result(found: Mapping[str, Any]) -> TaskResult:
    """Return a result of its JSON, as submissions.read_results gives it; what an older version lacked has its default.

    Raises DataError for metrics that are no numbers.
    """
    named = f"{found['model']}, {found['suite']}/{found['task']}"
    for side in ("metrics", "baseline"):
        for name, value in found[side].items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise DataError(f"{named}: {name} of {side} is {value!r}; it must be a number. Score this task anew.")
    known = {name: found[name] for name in TaskResult.__dataclass_fields__ if name in found}
    return TaskResult(**{"model_hash": "", "dataset": "", "identity": "", **known})


def identity_of(task: BenchmarkTask, data_hash: str, model_hash: str, options: Mapping[str, Any]) -> str:
    """Return the sha256 of all that decides a task's figures: definition, rules of the suite, data, model, options."""
    facts = {
        "schema": SCHEMA,
        "task": task.definition.model_dump(mode="json"),
        "suite": task.suite.model_dump(mode="json", exclude={"tasks", "title", "origin", "licence", "published"}),
        "data": data_hash,
        "model": model_hash,
        "options": dict(options),
    }
    return _sha256(json.dumps(facts, sort_keys=True).encode())


def hash_of_data(series: Sequence[BenchmarkSeries], covariates: CovariateSource | None, *, static: bool = False) -> str:
    """Return the sha256 of items, in their order: ids, names, values, stamps and covariates, static ones if asked."""
    digest = hashlib.sha256()
    for number, one in enumerate(series):
        steps = one.values.shape[1]
        digest.update(json.dumps([one.item_id, one.variates, one.values.shape, one.stamps is None]).encode())
        digest.update(one.values.tobytes())
        digest.update(b"" if one.stamps is None else one.stamps.tobytes())
        if covariates is not None:
            given = covariates.of(number, 0, steps, steps, one.values[0])
            for name, values in (*given.past.items(), *given.known.items()):
                digest.update(json.dumps([name, len(values)]).encode() + values.tobytes())
            if static:
                digest.update(json.dumps(given.static).encode())
    return digest.hexdigest()


def without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None for those that are undefined."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
