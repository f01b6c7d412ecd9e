"""What `foretrain quick` was asked for, what it found, and how it says so."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.reading import resolved

MOST_TARGETS = 12  # that a line names

if TYPE_CHECKING:
    import pandas as pd

    from foretrain.data.frames import OpenedData
    from foretrain.evaluation.result import EvaluationResult
    from foretrain.forecasting.frame import FrameTask
    from foretrain.forecasting.request import FrameRequest
    from foretrain.run.quick import Start


@dataclass(frozen=True)
class Settings:
    """What the command was asked for, besides the file and how to read it."""

    model: str | None = None
    tokenizer: str | None = None
    target: tuple[str, ...] | None = None
    prediction_length: int | None = None
    future: Path | None = None
    minutes: float = 2.0
    max_steps: int | None = None
    learning_rate: float | None = None
    seed: int = 42
    csv_safe: bool = False
    device: str = "auto"
    threads: int | None = None

    def changed(self, **changes: Any) -> Settings:
        return replace(self, **changes)

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        found = {**vars(self), "future": None if self.future is None else str(resolved(self.future))}
        return json.loads(json.dumps(found))


@dataclass(frozen=True)
class Job:
    """The opened file, the model, and the forecast after the file's end that it is asked for."""

    path: Path
    settings: Settings
    reading: dict[str, Any]
    opened: OpenedData
    frame: pd.DataFrame  # its rows, without those known ahead
    ahead: pd.DataFrame | None
    start: Start
    request: FrameRequest
    task: FrameTask
    unobserved: int  # newest rows in which no series has a target
    is_frame: bool = False
    command: str | None = None  # as typed

    @property
    def base(self) -> str:
        """Name of the model that the run starts from."""
        return name_of(self.start.asked)

    @property
    def targets(self) -> list[str]:
        return [*map(str, self.start.columns.targets)]

    @property
    def horizon(self) -> int:
        return self.request.prediction_length

    @property
    def rows(self) -> int:
        """Rows of the longest series, without those in which no series has a target."""
        return int(self.opened.corpus.lengths.max()) - self.unobserved


@dataclass(frozen=True)
class Chosen:
    """What is released, and what the validation part prefers.

    main: the forecaster with the lowest error on the validation part; beside: the best naive one there.
    """

    name: str
    tuned: bool
    main: str = "model"
    beside: str = "naive"
    validation: EvaluationResult | None = None
    metric: str = ""  # that chose the weights
    scores: tuple[float, float] | None = None  # its values before training, and at its best
    step: int = 0  # that the weights are of
    lost: int | None = None  # the step of the best weights, if their checkpoint cannot be read
    most_items: int | None = None  # that both parts are scored on; None = all

    def exceptions(self, targets: Sequence[str]) -> list[str]:
        """Return the targets for which the validation part prefers the other one of the model and the naive forecast
        than it does over all targets."""
        from foretrain.run.quick import errors_by_target

        if self.validation is None:
            return []
        found = errors_by_target(self.validation, targets)
        lower = {name: errors[self.beside] < errors["model"] for name, errors in found.items()}
        return [name for name in lower if lower[name] == (self.main == "model")]

    def label(self, who: str, result: EvaluationResult | None) -> str:
        """Return a forecaster's name."""
        if who == "model":
            return self.name
        return who.replace("_", " ") if result is None else result.label(who)


@dataclass(frozen=True)
class QuickResult:
    """What a quick run leaves.

    forecast, naive: the steps after the end of the data by the release and by the best naive forecast, as in
    forecast.csv and naive.csv: item_id, timestamp, target_name, predictions (the median), and a column a decile.
    """

    folder: Path
    summary: str  # the verdict in words, as the command prints it
    outcome: dict[str, Any]  # of quick.json: released, main ("model", or a naive forecast), errors, verdicts
    forecast: pd.DataFrame
    naive: pd.DataFrame

    @property
    def release(self) -> Path:
        """The folder of the model, which foretrain.load opens."""
        return self.folder / "release"


def outcome(job: Job, chosen: Chosen, result: EvaluationResult | None) -> dict[str, Any]:
    """Return what the command found, for its JSON file."""
    from foretrain.run.quick import figures

    def errors(found: EvaluationResult | None) -> dict[str, Any] | None:
        return None if found is None else dict(zip(("metric", "errors"), figures(found), strict=True))

    return {
        "released": "fine-tuned" if chosen.tuned else "base",
        "step": chosen.step,
        "main": chosen.main,
        "beside": chosen.beside,
        "exceptions": chosen.exceptions(job.targets),
        "validation": errors(chosen.validation),
        "test": errors(result),
        "verdicts": None if result is None else {test.against: test.verdict for test in result.comparisons},
    }


def summary(job: Job, folder: Path, chosen: Chosen, result: EvaluationResult | None) -> list[str]:
    """Return the outcome in lines."""
    count = job.opened.corpus.num_series
    size = f"{count:,} series of up to {job.rows:,} rows" if count > 1 else f"{job.rows:,} rows"
    targets = ", ".join(job.targets)
    columns = job.start.columns
    kinds = ((columns.known, "known ahead"), (columns.past, "without values ahead"))
    used = "".join(f"; {', '.join(map(str, names))} {kind}" for names, kind in kinds if names)
    lines = [f"data        {size}; {job.horizon:,} steps of {targets} are forecast{used}", *_on_validation(job, chosen)]
    lines.append(f"released    {_released(job, chosen)}, in {folder / 'release'}")
    if result is None:
        return [*lines, f"test        none: {job.rows:,} rows have no room for a window to score. Nothing was judged."]
    return [*lines, *result.alarms, *_on_test(job, folder, chosen, result), *_advice(job, chosen, result)]


def _on_validation(job: Job, chosen: Chosen) -> list[str]:
    from foretrain.run.quick import figures, naive_forecasters

    parts, result = job.start.parts, chosen.validation
    if result is None or parts is None:
        return []
    metric, errors = figures(result)
    shown = [f"{chosen.label(who, result)} {errors[who]:.4g}" for who in ("model", *naive_forecasters(result))]
    none = f" (without the newest {parts.unobserved:,}, which have no target)" if parts.unobserved else ""
    return [
        f"parts       of {parts.rows:,} rows{none} the newest {parts.test_steps:,} are the test part, the "
        f"{parts.validation_steps:,} before them validation",
        f"validation  {metric}, lower is better: {', '.join(shown)}",
    ]


def _released(job: Job, chosen: Chosen) -> str:
    if chosen.validation is None:
        return f"{chosen.name} as it is, zero-shot"
    if not chosen.tuned:
        return f"{job.base} as it was: no step of the training was better on the validation part"
    if chosen.lost is not None:
        return f"the weights of step {chosen.step:,}: the checkpoint of the best ones, step {chosen.lost:,}, is damaged"
    change = ""
    if chosen.scores is not None:
        before, best = (f"{value:.4g}" for value in chosen.scores)
        change = f" ({chosen.metric} {best}; {job.base} as it was: {before})"
    return f"the weights of step {chosen.step:,}, the best on the validation part{change}"


def _on_test(job: Job, folder: Path, chosen: Chosen, result: EvaluationResult) -> list[str]:
    from foretrain.evaluation.reference import ZERO_SHOT
    from foretrain.run.quick import against, naive_forecasters

    origins, needed = result.counts["origins"], job.start.parts.origins_needed if job.start.parts else 0
    few = "" if origins >= needed else f" (a verdict over origins takes {needed})"
    known = {ZERO_SHOT: f"{job.base} as it was"}
    shown = [test for test in result.comparisons if test.against in (ZERO_SHOT, *naive_forecasters(result))]
    texts = [against(result, test, known.get(test.against) or result.label(test.against)) for test in shown]
    count, most = job.opened.corpus.num_series, chosen.most_items
    some = f" of {most:,} of {count:,} series, drawn at random," if most is not None and most < count else ""
    return [
        f"test        {result.counts['windows']:,} windows{some} at {origins:,} origins{few}, opened once; report: "
        f"{folder / 'report.html'}",
        f"            {chosen.name}:",
        *(f"            - {text}" for text in texts),
        *_by_target(job, chosen, result),
    ]


def _by_target(job: Job, chosen: Chosen, result: EvaluationResult) -> list[str]:
    """Return a line on the targets where the test part orders model and best naive forecast unlike over all."""
    from foretrain.evaluation.result import relative
    from foretrain.run.quick import errors_by_target, figures

    found, total = errors_by_target(result, job.targets), figures(result)[1]
    if chosen.beside not in total:  # a season that was found in the validation part alone
        return []
    below = total["model"] < total[chosen.beside]
    unlike = [name for name, errors in found.items() if (errors["model"] < errors[chosen.beside]) != below]
    if not unlike:
        return []
    both = {name: (errors["model"], errors[chosen.beside]) for name, errors in found.items()}
    shown = [f"{name} {relative(1 - a / b)}" for name, (a, b) in both.items() if b > 0]
    more = f", and {len(shown) - MOST_TARGETS:,} more" if len(shown) > MOST_TARGETS else ""
    label = chosen.label(chosen.beside, result)
    return [f"            - not alike for all targets; error against {label}: {', '.join(shown[:MOST_TARGETS])}{more}"]


def _advice(job: Job, chosen: Chosen, result: EvaluationResult) -> list[str]:
    """Say which forecast is the main one, as validation decides, for which targets it is not, and whether the test part
    agrees."""
    from foretrain.evaluation.reference import ZERO_SHOT
    from foretrain.run.quick import figures, naive_forecasters

    errors = figures(result)[1]
    lower = [who for who in naive_forecasters(result) if errors[who] < errors["model"]]
    names = " and ".join(chosen.label(who, result) for who in lower)
    if chosen.main != "model":
        test = f"on the test part too ({names})" if lower else "on the test part the model is better"
        first = f"naive.csv: {chosen.label(chosen.main, result)} beats the model on validation; {test}"
    elif lower:
        first = f"forecast.csv, with care: on the test part {names} has a lower error; see naive.csv"
    elif errors.get(ZERO_SHOT, math.inf) < errors["model"]:
        first = f"forecast.csv, with care: on the test part {job.base} as it was has a lower error"
    else:
        first = "forecast.csv"
    other = chosen.exceptions(job.targets)
    file, who = ("naive.csv", chosen.label(chosen.beside, result)) if chosen.main == "model" else ("forecast.csv", "it")
    some = f", and {len(other) - MOST_TARGETS:,} more" if len(other) > MOST_TARGETS else ""
    listed = f"{', '.join(other[:MOST_TARGETS])}{some}"
    more = [f"            but {file} for {listed}: {who} has the lower error there on validation"] if other else []
    return [f"use         {first}", *more]


def forecast_command(job: Job, folder: Path) -> str:
    """Return the command, or for a frame the call, that repeats the forecast."""
    if job.is_frame:
        future = "" if job.settings.future is None else ", future_df=future"
        target = "" if job.settings.target is None else f", target={[*job.settings.target]}"
        return f'foretrain.load("{folder / "release"}").forecast_df(df, {job.horizon}{target}{future})'
    words = ["foretrain", "forecast", str(folder / "release"), str(job.path)]
    if job.start.parts is None or not job.start.parts.trains:
        words += [] if job.settings.prediction_length is None else ["--prediction-length", str(job.horizon)]
        words += [] if job.settings.target is None else ["--target", ",".join(job.settings.target)]
    words += [] if job.settings.future is None else ["--future", str(job.settings.future)]
    return shlex.join(words) + (" and the options of reading" if job.reading else "")


def name_of(model: str) -> str:
    """Return the last part of a model's path or hub id, with the folder above it if it is `release`."""
    path = Path(model)
    return f"{path.parent.name}/{path.name}" if path.name == "release" and path.parent.name else path.name


def weights_of(start: Start) -> str:
    """Return what is trained: all weights, or low-rank updates."""
    count = f"{start.weights / 1e6:.1f} million weights of {name_of(start.asked)}"
    return f"low-rank updates of the {count}" if start.adapts else f"all {count}"
