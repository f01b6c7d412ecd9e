"""What `foretrain quick` was asked for, what it found, and how it says so."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    device: str = "auto"
    threads: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        found = {**vars(self), "future": None if self.future is None else str(self.future.resolve())}
        return json.loads(json.dumps(found))


@dataclass(frozen=True)
class Job:
    """The opened file, the model, and the forecast after the file's end that it is asked for."""

    path: Path
    settings: Settings
    reading: dict[str, Any]
    opened: OpenedData
    ahead: pd.DataFrame | None
    start: Start
    request: FrameRequest
    task: FrameTask

    @property
    def base(self) -> str:
        """Name of the model that the run starts from."""
        return Path(self.start.asked).name

    @property
    def horizon(self) -> int:
        return self.request.prediction_length

    @property
    def rows(self) -> int:
        """Rows of the longest series."""
        return int(self.opened.corpus.lengths.max())


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
    most_items: int | None = None  # that both parts are scored on; None = all

    def label(self, who: str, result: EvaluationResult | None) -> str:
        """Return a forecaster's name."""
        if who == "model":
            return self.name
        return who.replace("_", " ") if result is None else result.label(who)


def outcome(chosen: Chosen, result: EvaluationResult | None) -> dict[str, Any]:
    """Return what the command found, for its JSON file."""
    from foretrain.run.quick import figures

    def errors(found: EvaluationResult | None) -> dict[str, Any] | None:
        return None if found is None else dict(zip(("metric", "errors"), figures(found), strict=True))

    return {
        "released": "fine-tuned" if chosen.tuned else "base",
        "step": chosen.step,
        "main": chosen.main,
        "beside": chosen.beside,
        "validation": errors(chosen.validation),
        "test": errors(result),
        "verdicts": None if result is None else {test.against: test.verdict for test in result.comparisons},
    }


def summary(job: Job, folder: Path, chosen: Chosen, result: EvaluationResult | None) -> list[str]:
    """Return the outcome in lines."""
    count = job.opened.corpus.num_series
    size = f"{count:,} series of up to {job.rows:,} rows" if count > 1 else f"{job.rows:,} rows"
    targets = ", ".join(map(str, job.start.columns.targets))
    lines = [f"data        {size}; {job.horizon:,} steps of {targets} are forecast", *_on_validation(job, chosen)]
    lines.append(f"released    {_released(job, chosen)}, in {folder / 'release'}")
    if result is None:
        return [*lines, f"test        none: {job.rows:,} rows have no room for a window to score. Nothing was judged."]
    return [*lines, *result.alarms, *_on_test(job, folder, chosen, result), *_advice(chosen, result)]


def _on_validation(job: Job, chosen: Chosen) -> list[str]:
    from foretrain.run.quick import figures, naive_forecasters

    parts, result = job.start.parts, chosen.validation
    if result is None or parts is None:
        return []
    metric, errors = figures(result)
    shown = [f"{chosen.label(who, result)} {errors[who]:.4g}" for who in ("model", *naive_forecasters(result))]
    return [
        f"parts       of {parts.rows:,} rows the newest {parts.test_steps:,} are the test part, the "
        f"{parts.validation_steps:,} before them validation",
        f"validation  {metric}, lower is better: {', '.join(shown)}",
    ]


def _released(job: Job, chosen: Chosen) -> str:
    if chosen.validation is None:
        return f"{chosen.name} as it is, zero-shot"
    if not chosen.tuned:
        return f"{job.base} as it was: no step of the training was better on the validation part"
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
    ]


def _advice(chosen: Chosen, result: EvaluationResult) -> list[str]:
    """Say which forecast is the main one, as validation decides, and whether the test part agrees."""
    from foretrain.run.quick import figures, naive_forecasters

    errors = figures(result)[1]
    lower = [who for who in naive_forecasters(result) if errors[who] < errors["model"]]
    names = " and ".join(chosen.label(who, result) for who in lower)
    if chosen.main != "model":
        test = f"on the test part too ({names})" if lower else "on the test part the model is better"
        return [f"use         naive.csv: {chosen.label(chosen.main, result)} beats the model on validation; {test}"]
    if lower:
        return [f"use         forecast.csv, with care: on the test part {names} has a lower error; see naive.csv"]
    return ["use         forecast.csv"]


def forecast_command(job: Job, folder: Path) -> str:
    """Return the command that repeats the forecast."""
    words = ["foretrain", "forecast", str(folder / "release"), str(job.path)]
    if job.start.parts is None or not job.start.parts.trains:
        words += [] if job.settings.prediction_length is None else ["--prediction-length", str(job.horizon)]
        words += [] if job.settings.target is None else ["--target", ",".join(job.settings.target)]
    words += [] if job.settings.future is None else ["--future", str(job.settings.future)]
    return shlex.join(words) + (" and the options of reading" if job.reading else "")


def weights_of(start: Start) -> str:
    """Return what is trained: all weights, or low-rank updates."""
    count = f"{start.weights / 1e6:.1f} million weights of {Path(start.asked).name}"
    return f"low-rank updates of the {count}" if start.adapts else f"all {count}"
