"""The model that an evaluated one is compared with, and what the comparison decides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from foretrain.models.base import Forecaster
from foretrain.notes import Note

ZERO_SHOT = "zero_shot"  # the weights that training started from
OTHER = "other_model"  # any other model


class ReferenceModel(NamedTuple):
    """A model scored on the same windows as the one that is evaluated."""

    key: str  # ZERO_SHOT or OTHER, under which its figures are found
    name: str  # where it comes from: a folder, a hub id, "random weights (seed 42)"
    model: Forecaster
    hash: str | None = None  # of its release
    options: Any = None  # its family's forecast options

    def describe(self) -> dict[str, str | None]:
        """What a report says of it."""
        return {"key": self.key, "name": self.name, "hash": self.hash}


@dataclass(frozen=True)
class Promotion:
    """Whether a model beats its rival and naive, and the figures that say so. Plain data, fit for JSON."""

    promoted: bool
    reason: str
    metric: str  # of figures; the unit of a mean error that may be pooled over items
    unit: str
    figures: dict[str, float | None]  # model, rival and naive
    verdicts: dict[str, str]  # of Diebold-Mariano tests for the model, against rival and naive
    require_significance: bool
    against: dict[str, str | None]  # Rival.describe
    windows: int
    origins: int
    data: list[dict[str, Any]]  # name, fingerprint and provenance of what was scored
    date_range: list[str] | None  # first and last time that was scored
    warnings: list[str]
    command: str | None
    objections: tuple[Note, ...] = ()  # why it is not promoted, in the order of reason; not part of the JSON

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        found = asdict(self)
        del found["objections"]
        return found

    @property
    def headline(self) -> str:
        """The outcome in a sentence."""
        return f"{'Promoted' if self.promoted else 'NOT PROMOTED'}: {self.reason}."
