"""What is known of a trial once it has ended: result.json in its folder, and trials.jsonl of all of a study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foretrain.config import Section
from foretrain.tuning.space import Value

RESULT, TRIALS, LOSSES = "result.json", "trials.jsonl", "losses.parquet"
FORMAT = 1
DEFAULT_TRIAL = -1  # the number of the run as it stands, which is no trial of the search

State = Literal["complete", "pruned", "failed"]
Source = Literal["default", "sampler", "adviser", "user"]


class CurvePoint(Section):
    """The first objective after a validation."""

    fold: int = Field(ge=0)
    step: int = Field(ge=0)
    value: float | None  # None = not finite


class TrialRecord(Section):
    """One trial. Times are ISO 8601 in UTC; metrics are means over the folds."""

    format: int = FORMAT
    number: int = Field(ge=DEFAULT_TRIAL)
    state: State
    source: Source
    params: dict[str, Value]  # active keys of the space
    values: tuple[float, ...] | None  # of the objectives, in their order; None unless complete
    metrics: dict[str, float] = Field(default_factory=dict)  # all metrics of the weights that were chosen
    folds: tuple[dict[str, float], ...] = ()  # the same of each fold
    constraints: dict[str, float] = Field(default_factory=dict)  # measured, by the names in the config
    feasible: bool = True
    curve: tuple[CurvePoint, ...] = ()
    steps: int = Field(default=0, ge=0)  # optimizer steps over all folds
    seconds: float = Field(default=0, ge=0)
    worker: str = ""  # host:pid of the process that ended it
    attempts: int = Field(default=1, ge=1)  # processes that worked on it
    started: str = ""
    ended: str = ""
    message: Annotated[str, Field(max_length=2000)] = ""  # why it failed or was pruned
    suggestion: str | None = None  # where a proposal of the adviser stands in its log
