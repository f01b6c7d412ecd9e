"""What is known of a trial once it has ended: result.json in its folder, and trials.jsonl of all of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from foretrain.config import Section, explained
from foretrain.errors import DataError
from foretrain.reading import Unreadable, read_json
from foretrain.tuning.space import Value

RESULT, TRIALS, LOSSES = "result.json", "trials.jsonl", "losses.parquet"
FORMAT = 1
DEFAULT_TRIAL = -1  # the number of the run as it stands, which is no trial of the search

S = TypeVar("S", bound=Section)
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


class FoldRecord(Section):
    """What fold.json holds of a fold that has ended. step: whose weights were chosen; steps: that were made."""

    step: int = Field(ge=0)
    steps: int = Field(ge=0)
    pruned: bool
    stopped_by: str | None
    metrics: dict[str, float | None]  # of the chosen weights; None = not finite
    curve: tuple[tuple[int, float | None], ...]  # (step, first objective) of validations
    memory_gb: float | None
    seconds_per_forecast: float | None


class SavedTrial(Section):
    """What trial.json holds of a trial that is under way, for the next process that works on it."""

    params: dict[str, Value]
    started: str
    attempts: int = Field(ge=0, lt=2**31)
    seconds: float = Field(ge=0)


def read_saved(cls: type[S], path: Path) -> S | None:
    """Return what a JSON file of a trial holds, None without one. Raises DataError for one that is damaged."""
    try:
        return cls.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, Unreadable) as error:
        raise DataError(f"{path}: cannot be read: {error}. Restore it, or delete its folder.") from None
    except ValidationError as error:
        raise DataError(f"{explained(cls, error, str(path))}\n  Restore it, or delete its folder.") from None
