"""What state.json and manifest.json of a checkpoint must hold, whoever wrote and signed them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from foretrain.reading import Unreadable
from foretrain.training.line_stats import LineStats
from foretrain.training.train_state import RunTotals, TrainState

OTHER_CHECKPOINT = "Resume from another checkpoint, or restore this one from a backup."
_NEVER_BELOW_0 = ("scale", "seconds", "paused", "flops", "data_wait")
_MOST = 2**53  # of counters: the seeds of draws are computed from them
_Count = Annotated[int, Field(ge=0, lt=_MOST)]
_Positive = Annotated[int, Field(ge=1, lt=_MOST)]
_Number = bool | int | float
_Name = Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]


class _StrictRecord(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Numbers(_StrictRecord):
    """The optimizer's numbers, as optimizer_state.state_numbers returns them."""

    state: dict[str, dict[str, dict[str, _Number]]]
    groups: list[dict[str, Annotated[list[_Number | str | list[Any]], Field(min_length=2, max_length=2)]]]


class _State(_StrictRecord):
    progress: dict[str, Any]
    totals: dict[str, Any] = {}
    line: dict[str, Any] = {}
    config: dict[str, Any]
    seed: int
    batch_size: _Positive
    micro_batch_size: _Positive
    data_fingerprint: str
    threads: _Positive
    ancestry: dict[str, Any] | list[Any] | None = None
    facts: dict[str, Any] | None = None
    optimizer: _Numbers | None = None


class _FileEntry(_StrictRecord):
    sha256: str
    bytes: _Count


class _ScoreEntry(_StrictRecord):
    model_config = ConfigDict(strict=True, extra="forbid")

    value: Annotated[float, Field(allow_inf_nan=False)]
    of: str


class _Manifest(_StrictRecord):
    step: _Count
    metric: Annotated[float, Field(allow_inf_nan=False)] | None
    final: bool
    metrics: dict[_Name, _ScoreEntry] = {}
    files: dict[_Name, _FileEntry]


def check_state(state: Mapping[str, Any]) -> None:
    """Raise Unreadable unless the content of a state.json has the keys, types and ranges that a resume reads."""
    _check(TypeAdapter(_State), state)
    for name, kind in (("progress", TrainState), ("totals", RunTotals), ("line", LineStats)):
        found = state.get(name, {})
        _check(TypeAdapter(kind), found, name)
        if unknown := found.keys() - {field.name for field in fields(kind)}:
            raise Unreadable(f"{name}.{min(unknown)}: not a counter of this version")
        for key, value in {**found, **found.get("plateau", {})}.items():
            lowest = 0 if isinstance(value, int) or key in _NEVER_BELOW_0 else -math.inf
            if isinstance(value, int | float) and not lowest <= value < _MOST:
                raise Unreadable(f"{name}.{key}: {value} is out of range")


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise Unreadable unless the content of a manifest.json names files of its folder and their hashes."""
    _check(TypeAdapter(_Manifest), manifest)


def _check(kind: TypeAdapter[Any], found: Any, within: str = "") -> None:
    try:
        kind.validate_json(json.dumps(found), strict=True)  # of JSON, also strict, makes dataclasses of objects
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ([within] if within else []) + [*first["loc"]])) or "it"
        raise Unreadable(f"{place}: {first['msg']}") from None
