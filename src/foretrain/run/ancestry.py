"""What the parents of a run saw in training, read from their release.json while they are there.

A release carries the record of all its ancestors (evaluation/ancestry.py), so only the parents are read. Those of an
older version recorded none: the folders that they name are read instead, as far as they still hold the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretrain.data.source import TrainingSource
from foretrain.errors import ModelError
from foretrain.evaluation.ancestry import Ancestry, own_training
from foretrain.evaluation.overlap import reserved_steps
from foretrain.models.hub import release_hash, resolve
from foretrain.notes import Code, Note, counted
from foretrain.run.config import RunConfig

_UNKNOWN = Ancestry(unknown=("",))
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)


def ancestry_of(parents: Mapping[str, Mapping[str, Any]], *, unchanged: bool = True) -> Ancestry:
    """Return what the ancestors of a run saw, from its parents as release.json names them: role -> hash and place.

    unchanged: the weights there are known to have these hashes; else they are hashed.
    """
    return Ancestry.joined({role: of_parent(role, parents, None if unchanged else frozenset()) for role in parents})


def with_ancestry(facts: dict[str, Any], parts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a release.json with its ancestry.

    If an older version wrote it, the ancestry is what the folders of its parents tell. parts: role -> folder or hub id
    of a part, such as a tokenizer, that replaces the release's own.
    """
    try:
        found = _ancestry(facts, frozenset())
    except _MALFORMED:
        found = Ancestry(unknown=tuple(facts.get("parents") or ()))
    for role, asked in (parts or {}).items():
        places = {role: {"asked": asked}}
        found = found.without(role).and_also(ancestry_of(places))
        facts = {**facts, "parents": {**(facts.get("parents") or {}), **places}}
    return {**facts, "ancestry": found.to_json()} if facts else facts


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the release.json of a release or adapter, with its ancestry; {} if there is none that can be read."""
    return with_ancestry(_read(folder))


def check_test_part(config: RunConfig, source: TrainingSource, facts: Mapping[str, Any]) -> list[Note]:
    """Return a note for each corpus of a run whose test or validation part its ancestors did not hold out.

    facts: the `parents` and the `ancestry` that the run will record.
    """
    test, validation = config.data.resolved_test_steps, config.data.resolved_validation_steps
    horizon = config.data.prediction_length
    ancestors, notes = {key: facts[key] for key in ("parents", "ancestry")}, list[Note]()
    for corpus in source.corpora:
        held = reserved_steps(ancestors, corpus)
        if held is None:
            continue
        kept = f"the training of {held.ancestor} held out the newest"
        if held.test < test:
            fair = "only these are a fair test, and evaluations score no others unless they are asked to"
            if held.test < horizon:
                fair = f"no window of {horizon} steps is a fair test, and the run will not be promoted"
            text = (
                f"note: data.test_steps is {test}, but {kept} {counted(held.test, 'step')} of {corpus.name} alone: "
                f"{fair}. Start from weights that held out more"
            )
            notes.append(Note(Code.ANCESTOR_SAW_TEST_PART, text, {"test_steps": test, "held_out": held.test}))
        elif config.training.validate_every and sum(held[:2]) < test + validation:
            text = (
                f"note: data.validation_steps is {validation}, but {kept} {counted(sum(held[:2]), 'step')} of "
                f"{corpus.name} alone, {test} for the test part among them: the figures of validation are too good"
            )
            notes.append(Note(Code.ANCESTOR_SAW_VALIDATION_PART, text, {"held_out": sum(held[:2])}))
    return notes


def recorded(facts: Mapping[str, Any], ancestry: Ancestry) -> Ancestry:
    """Return a release's own training, as "", with its ancestry."""
    own = own_training(facts)
    return Ancestry((*own, *ancestry.seen), ancestry.unknown if own else ("", *ancestry.unknown))


def of_parent(role: str, parents: Mapping[str, Mapping[str, Any]], line: frozenset[str] | None = None) -> Ancestry:
    """Return what a parent, as "", and its ancestors saw.

    line: hashes of the releases that lead here from one of an older version, whose parents must have the recorded
    hashes; None if the parent's weights have just been read.
    """
    folder = _folder(role, parents)
    if folder is None or (line is not None and not _is_unchanged(folder, parents[role], line)):
        return _UNKNOWN
    line = (line or frozenset()) | {str(parents[role].get("hash"))}
    try:
        if facts := _read(folder):
            return recorded(facts, _ancestry(facts, line))
        if role == "model" or not (facts := _read(folder.parent)):
            return _UNKNOWN
        # a part inside the release that was trained with it
        inside = _ancestry(facts, line).through(role)
        same = facts["parents"][role]["hash"] == parents[role]["hash"]
        return inside if same else Ancestry(inside.seen, ("", *inside.unknown))
    except _MALFORMED:
        return _UNKNOWN


def _ancestry(facts: Mapping[str, Any], line: frozenset[str]) -> Ancestry:
    found = Ancestry.read(facts)
    return _of_older(facts, line) if found is None else found


def _of_older(facts: Mapping[str, Any], line: frozenset[str]) -> Ancestry:
    """Return the ancestry of a release that does not record it."""
    parents = facts["parents"]
    return Ancestry.joined({role: of_parent(role, parents, line) for role in parents})


def _folder(role: str, parents: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """Return the folder of a parent; a part without a name of its own lies inside the parent model."""
    entry = parents[role]
    try:
        if entry.get("asked"):
            return resolve(entry["asked"], entry.get("revision"), offline=True)
    except ModelError:  # it is gone
        return None
    model = _folder("model", parents) if role != "model" and "model" in parents else None
    return model / role if model is not None and (model / role).is_dir() else None


def _is_unchanged(folder: Path, entry: Mapping[str, Any], line: frozenset[str]) -> bool:
    try:
        return entry.get("hash") not in line and release_hash(folder) == entry.get("hash")
    except ModelError:
        return False


def _read(folder: Path) -> dict[str, Any]:
    """Return the release.json of a folder, {} if there is none that can be read."""
    try:
        found = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
