"""The reference model that an evaluated model is compared with, and the outcome of the comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from foretrain.evaluation.significance import ORIGINS
from foretrain.models.base import Forecaster
from foretrain.notes import Note

ZERO_SHOT = "zero_shot"  # the weights that training started from
OTHER = "other_model"  # any other model


class ReferenceModel(NamedTuple):
    """A model scored on the same windows as the evaluated one."""

    key: str  # ZERO_SHOT or OTHER; the key of its metrics in a result
    name: str  # its source: a folder, a hub id, "random weights (seed 42)"
    model: Forecaster
    hash: str | None = None  # of its release
    options: Any = None  # its family's forecast options
    facts: dict[str, Any] | None = None  # its release.json, to warn if its training saw the windows

    def describe(self) -> dict[str, str | None]:
        """Return its key, name and hash, for reports."""
        return {"key": self.key, "name": self.name, "hash": self.hash}


@dataclass(frozen=True)
class Promotion:
    """Outcome of the promotion gate: whether a model beats the reference and the baselines, and what was compared."""

    promoted: bool
    reason: str
    metric: str  # of figures; the unit of a mean error that may be pooled over items
    unit: str
    figures: dict[str, float | None]  # of the model, the reference, naive and the baseline of a season found
    verdicts: dict[str, str]  # of the tests of the model against the others
    require_significance: bool
    against: dict[str, str | None]  # ReferenceModel.describe
    windows: int
    origins: int
    data: list[dict[str, Any]]  # name, fingerprint and provenance of the scored corpora
    date_range: list[str] | None  # first and last time scored
    warnings: list[str]
    command: str | None
    codes: list[dict[str, Any]] = field(default_factory=list)  # codes and counts of the warnings
    promote_over: str = ORIGINS  # a test over items counts only if this is "items"
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)  # significance.facts of each
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # value and unit of each of the model's
    objections: tuple[Note, ...] = ()  # reasons against promotion, in the order of `reason`

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        found = asdict(self)
        return {**found, "objections": list(found["objections"])}

    @property
    def scores(self) -> str:
        """The model's metrics on the windows that were compared, as a line."""
        known = ((name, one["value"]) for name, one in self.metrics.items() if one["value"] is not None)
        return f"test metrics of {self.windows:,} windows: {' | '.join(f'{name} {value:.4f}' for name, value in known)}"

    @property
    def headline(self) -> str:
        """The outcome as a sentence."""
        return f"{'Promoted' if self.promoted else 'NOT PROMOTED'}: {self.reason}."
