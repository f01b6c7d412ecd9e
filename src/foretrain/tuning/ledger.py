"""The ledger of test parts: who opened which one, when, after how many trials, and what was found.

An opening is appended before a value of the test part is forecast, in the study's folder and in the user's, so that
another study on the same test part counts too. Lines are never changed: what was found is a line of its own. An attempt
that was interrupted goes on under its id, which has one line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.records import user_folder
from foretrain.data.splits import Selection
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, TrainingError
from foretrain.reading import parse_json
from foretrain.run.config import RunConfig

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class HeldPart:
    """What a test part is known by.

    key: a hash of its values. fingerprints: those of the corpora. first, last: microseconds, or steps before the ends
    of series.
    """

    key: str
    fingerprints: tuple[str, ...]
    first: int
    last: int

    def is_shared_with(self, line: dict[str, Any]) -> bool:
        """Whether an opening was of this part: of the same values, or of days of the same corpora."""
        if line["key"] == self.key:
            return True
        overlaps = line["first"] <= self.last and self.first <= line["last"]
        return overlaps and bool(set(line["fingerprints"]) & set(self.fingerprints))


def part_of(config: RunConfig, corpora: Sequence[Corpus], selections: Sequence[Selection]) -> HeldPart:
    """Return what a run's test part is known by, whatever windows are scored in it. Raises ConfigError without one."""
    if not config.data.cuts.has_test:
        raise ConfigError("the run has no test part to open. Give data.test_from or data.test_steps in `set`.")
    dated = all(corpus.manifest.time != "steps" for corpus in corpora)
    rows, bounds = list[str](), list[int]()
    for corpus, selection in zip(corpora, selections, strict=True):
        region = config.data.cuts.parts(corpus).test
        for series in np.flatnonzero(region.end > region.begin).tolist():
            begin, end = int(region.begin[series]), int(region.end[series])
            times = corpus.times_slice(series, begin, end) if dated else None
            edges = (begin - end, -1) if times is None else (int(times[0]), int(times[-1]))
            values = np.ascontiguousarray(corpus.values(series)[list(selection.targets), begin:end], np.float64)
            bounds += edges
            rows.append(json.dumps([corpus.item_id(series), *edges, hashlib.sha256(values.tobytes()).hexdigest()]))
    if not rows:
        raise ConfigError("the run's test part is empty: no series has a step in it. Give an earlier date in `set`.")
    key = hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
    return HeldPart(key, tuple(sorted({corpus.fingerprint for corpus in corpora})), min(bounds), max(bounds))


@dataclass(frozen=True)
class Opening:
    """An opening that was recorded. earlier: the openings before it, the oldest first. unread: lines without sense."""

    id: str
    earlier: tuple[dict[str, Any], ...]
    unread: int
    places: tuple[Path, ...]

    @property
    def count(self) -> int:
        """Openings of this test part, this one among them; a line that cannot be read counts as one."""
        return len(self.earlier) + self.unread + 1

    def found(self, facts: dict[str, Any]) -> None:
        """Append what was found, once. Raises TrainingError."""
        for place in self.places:
            _append(place, {"kind": "found", "id": self.id, "time": _now(), **facts})


def new_id() -> str:
    """Return an id for an opening."""
    return uuid.uuid4().hex


def open_part(part: HeldPart, folder: Path, *, study: str, trials: int, id: str | None = None) -> Opening:
    """Record an opening in a study's folder and in the user's, and return it.

    study: its folder, as text. trials: that were compared. id: of an attempt, which is recorded once however often it
    is gone on with; None = a new one. Raises TrainingError if it cannot be recorded: then the part stays closed.
    """
    places, known, unread = (folder / LEDGER, user_folder() / LEDGER), dict[str, dict[str, Any]](), 0
    line = {"kind": "opening", "id": id or new_id(), "time": _now(), "study": study, "trials": trials, **asdict(part)}
    for place in places:
        lines, bad = _append(place, line)
        unread = max(unread, bad)
        known |= {one["id"]: one for one in lines if one["kind"] == "opening"}
    earlier = [one for one in known.values() if one["id"] != line["id"] and part.is_shared_with(one)]
    return Opening(line["id"], tuple(sorted(earlier, key=lambda one: one["time"])), unread, places)


def _append(place: Path, line: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Append a line to a ledger that has none of its kind and id; return its other lines, and how many make no sense.

    Raises TrainingError.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            found = [_parsed(one) for one in text.splitlines() if one.strip()]
            known = [one for one in found if one is not None]
            if not any((one["kind"], one["id"]) == (line["kind"], line["id"]) for one in known):
                torn = b"\n" if text and not text.endswith(b"\n") else b""
                file.write(torn + json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise TrainingError(
            f"{place}: the opening of the test part cannot be recorded ({error.strerror or error}), so it stays "
            "closed. Make the folder writable, or name another one by XDG_CACHE_HOME."
        ) from None
    return known, len(found) - len(known)


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Return a line of a ledger, None for one that makes no sense."""
    with suppress(ValueError, KeyError, TypeError):
        line = parse_json(text.decode("utf-8"))
        texts = [line[name] for name in ("id", "time")]
        if line["kind"] == "opening":
            texts += [line["key"], *line["fingerprints"]]
            if not (isinstance(line["first"], int) and isinstance(line["last"], int)):
                return None
        if line["kind"] in ("opening", "found") and all(isinstance(text, str) for text in texts):
            return line
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
