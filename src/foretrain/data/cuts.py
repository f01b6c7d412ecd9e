"""The parts that series of a corpus have of their own: cuts.json beside the shards, which a library of symbols writes.

Where each series' validation and test parts begin is part of the corpus' content, so its hash is in the manifest and in
the corpus' fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.reading import read_text
from foretrain.timeaxis.grid import iso

NAME = "cuts.json"
NEVER = 2**62  # microseconds: the time of a part that a series does not have


class OwnCuts(NamedTuple):
    """Microseconds at which a series' validation and test parts begin; None = it has no such part."""

    validation_from: int | None
    test_from: int | None


def cuts_text(cuts: Mapping[str, OwnCuts]) -> str:
    """Return the content of cuts.json."""
    return json.dumps({item: cuts[item] for item in sorted(cuts)}, indent=1, ensure_ascii=False) + "\n"


def with_cuts(content_hash: str, cuts: str | None) -> str:
    """Return the content hash of a corpus whose cuts.json has this sha256; None = it has none."""
    return content_hash if cuts is None else hashlib.sha256(f"{content_hash}\n{cuts}".encode()).hexdigest()


def read_cuts(folder: Path | None, sha256: str | None) -> dict[str, OwnCuts]:
    """Return the cuts of each item of a corpus folder by its manifest's hash of them; {} for a corpus without.

    Raises DataError if they are not what was written.
    """
    if folder is None or sha256 is None:
        return {}
    path = folder / NAME
    again = "Copy the corpus again, whole, or build its library anew."
    try:
        text = read_text(path)
        if hashlib.sha256(text.encode()).hexdigest() != sha256:
            raise DataError(f"{path}: is not the file of this corpus (its sha256 differs from the manifest's). {again}")
        tree: dict[str, Any] = json.loads(text)
        return {item: OwnCuts(*(None if at is None else int(at) for at in pair)) for item, pair in tree.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: missing, though the corpus has parts of its own. {again}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}. {again}") from None


def times_of(cuts: Mapping[str, OwnCuts], items: Sequence[str], name: str) -> dict[str, IntArray]:
    """Return (N,) times at which each item's part begins, NEVER without one, by part.

    name: the corpus'. Raises DataError if an item has no cuts.
    """
    missing = next((item for item in items if item not in cuts), None)
    if missing is not None:
        raise DataError(f"{name}: {NAME} says nothing of item {missing!r}. Build the library anew.")
    found = {}
    for part in ("validation", "test"):
        times = [getattr(cuts[item], f"{part}_from") for item in items]
        found[part] = np.array([NEVER if at is None else at for at in times], np.int64)
    return found


def describe(times: IntArray) -> str:
    """Return the first and the last of some cuts, as text."""
    held = times[times != NEVER]
    if not len(held):
        return "no series"
    first, last = iso(int(held.min())), iso(int(held.max()))
    return first if first == last else f"{first} to {last}"
