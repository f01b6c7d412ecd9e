"""What published weights saw in training: models/FAMILY/training_data.yaml, facts with their sources, read and checked.

Weights are known by their hub id. A copy in a folder of another name is unknown.
"""

from __future__ import annotations

import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from foretrain.config import Section, build, read_yaml
from foretrain.errors import ConfigError
from foretrain.models.hub import local_folder

FOLDER = Path(__file__).parent
FILE = "training_data.yaml"
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)$")  # a model's folder in the hub's cache

SeenKind = Literal["saw_test", "trained_on", "perhaps", "unseen", "unknown"]


def _as_date(value: object) -> object:
    """Return the date of a text such as 2024-02-29."""
    return date.fromisoformat(value) if isinstance(value, str) else value


Day = Annotated[date, BeforeValidator(_as_date)]


class SeenSets(Section):
    """Which data sets of one repository of benchmark data some weights saw."""

    saw_test: tuple[str, ...] = ()  # the suite counts these as seen, test windows included
    trained_on: tuple[str, ...] = ()  # of these at least the part before the test windows
    perhaps: tuple[str, ...] = ()  # their series are in other data that were seen
    others: Literal["unseen", "unknown"]  # what the source says of all others
    source: str

    def seen(self, dataset: str) -> SeenKind:
        """Return what is known of a data set."""
        if dataset in self.saw_test:
            return "saw_test"
        if dataset in self.trained_on:
            return "trained_on"
        return "perhaps" if dataset in self.perhaps else self.others


class PublishedWeights(Section):
    """What published weights of one training saw."""

    names: tuple[str, ...]  # hub ids
    saw: str  # in a few words
    sources: tuple[str, ...]
    trained_until: Day | None = None  # the last day (UTC) of what was trained on, if its authors say it
    chosen_until: Day | None = None  # the last day of what chose the weights
    sets: dict[str, SeenSets] = Field(default_factory=dict)  # by repository of data sets

    @model_validator(mode="after")
    def _order_of_dates(self) -> Self:
        if self.chosen_until and (self.trained_until is None or self.chosen_until < self.trained_until):
            raise ValueError("chosen_until is before trained_until, or without it")
        return self

    @property
    def last_day(self) -> date | None:
        """The last day that training or the choice of the weights may have seen."""
        return self.chosen_until or self.trained_until


class _TrainingData(Section):
    weights: tuple[PublishedWeights, ...]


@cache
def published_weights() -> dict[str, PublishedWeights]:
    """Return what is known of published weights, by hub id."""
    found = dict[str, PublishedWeights]()
    for path in sorted(FOLDER.glob(f"*/{FILE}")):
        for entry in build(_TrainingData, read_yaml(path), source=f"{path.parent.name}/{FILE}").weights:
            for name in entry.names:
                if name in found:
                    raise ConfigError(f"{path.parent.name}/{FILE}: {name} is there twice; keep one entry.")
                found[name] = entry
    return found


def published_name(asked: str | None) -> str | None:
    """Return the hub id of published weights that were asked for by it or by a folder of the hub's cache, else None.

    A folder of one's own that is called like a hub id holds other weights.
    """
    if not asked:
        return None
    path = Path(asked).expanduser()
    for part in (path, *path.parents):
        if cached := _CACHED.match(part.name):
            name = "/".join(cached.groups())
            return name if name in published_weights() else None
    return asked if asked in published_weights() and local_folder(asked) is None else None
