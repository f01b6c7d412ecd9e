"""What the parents of a model saw in training, read from their release.json while they are there.

A release carries the record of all its ancestors (ancestry.py), so only the parents are read. Those of an
older version recorded none: the folders that they name are read instead, as far as they still hold the same weights.

What is gone or malformed is unknown, and said to be. What the system fails to read (UnreadableError) is an error: a
record that says "unknown" stays, and the next try may succeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretrain.adapters.files import base_of
from foretrain.errors import ModelError, UnreadableError
from foretrain.forecasting.ancestry import Ancestry, own_training
from foretrain.models.hub import facts_of, release_hash, resolve
from foretrain.models.training_data import published_name

PUBLISHED = "published"  # in the facts of weights without a record of training: the hub id that they were loaded by
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)


def ancestry_of(parents: Mapping[str, Mapping[str, Any]], *, unchanged: bool = True) -> Ancestry:
    """Return what the ancestors of a run saw, from its parents as release.json names them: role -> hash and place.

    unchanged: the weights there are known to have these hashes; else they are hashed.
    """
    return Ancestry.joined({role: of_parent(role, parents, None if unchanged else frozenset()) for role in parents})


def loaded_facts(folder: Path, parts: Mapping[str, str], asked: str | None = None) -> dict[str, Any]:
    """Return the record of a model loaded from a folder: its release.json, with what else the model was made from.

    That is the parts given for it, such as a tokenizer (role -> folder or hub id), which replace the release's own,
    and the base of an adapter of another program, which has no release.json. {} if nothing is recorded.

    asked: the hub id or folder that was asked for; that of published weights is recorded.
    """
    facts, places = facts_of(folder), {role: {"asked": asked} for role, asked in parts.items()}
    if not facts and (base := base_of(folder)) is not None:
        places = {"model": base, **places}
    elif not facts and (name := published_name(asked)) is not None:
        facts = {PUBLISHED: name}
    return with_parts(facts, places) if places else facts


def with_parts(facts: dict[str, Any], places: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a release.json, with its ancestry, of a model that has other parts than the release records.

    places: role -> where a part was found, as in `parents` of release.json.
    """
    found = _ancestry_or_unknown(facts)
    parents = {role: {"hash": _hash(place), **place} for role, place in places.items()}
    for role, parent in parents.items():
        found = found.without(role).and_also(ancestry_of({role: parent}))
    return {**facts, "parents": {**(facts.get("parents") or {}), **parents}, "ancestry": found.to_json()}


def with_ancestry(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a release.json with its ancestry: if an older version wrote it, what the folders of its parents tell."""
    return {**facts, "ancestry": _ancestry_or_unknown(facts).to_json()} if facts else facts


def recorded(facts: Mapping[str, Any], ancestry: Ancestry) -> Ancestry:
    """Return a release's own training, as "", with its ancestry."""
    own, name = own_training(facts), facts.get(PUBLISHED)
    published = (("", str(name)),) if name else ()
    unknown = ancestry.unknown if own else ("", *ancestry.unknown)
    return Ancestry((*own, *ancestry.seen), unknown, (*published, *ancestry.published))


def published_among(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return (ancestor, hub id) of the published weights that a model is, as "", or was made from.

    A release of an older version names its parents alone.
    """
    try:
        own, found = facts.get(PUBLISHED), Ancestry.read(facts) or Ancestry()
        parents = [(role, published_name(place.get("asked"))) for role, place in (facts.get("parents") or {}).items()]
    except _MALFORMED:
        return ()
    pairs = [("", own), *parents, *found.published]
    return tuple(dict.fromkeys((by, name) for by, name in pairs if isinstance(name, str)))


def of_parent(role: str, parents: Mapping[str, Mapping[str, Any]], line: frozenset[str] | None = None) -> Ancestry:
    """Return what a parent, as "", and its ancestors saw.

    line: hashes of the releases that lead here from one of an older version, whose parents must have the recorded
    hashes; None if the parent's weights have just been read.
    """
    folder, name = _folder(role, parents), published_name(parents[role].get("asked"))
    unknown = Ancestry(unknown=("",), published=(("", name),) if name else ())
    if folder is None or (line is not None and not _is_unchanged(folder, parents[role], line)):
        return unknown
    line = (line or frozenset()) | {str(parents[role].get("hash"))}
    try:
        if facts := _read(folder):
            return recorded(facts, _ancestry(facts, line))
        if role == "model" or not (facts := _read(folder.parent)):
            return unknown
        # a part inside the release that was trained with it
        inside = _ancestry(facts, line).through(role)
        same = facts["parents"][role]["hash"] == parents[role]["hash"]
        return inside if same else Ancestry(inside.seen, ("", *inside.unknown), inside.published)
    except _MALFORMED:
        return unknown


def _ancestry_or_unknown(facts: Mapping[str, Any]) -> Ancestry:
    """Return the ancestry of a release; all its parents are unknown if the record is malformed."""
    try:
        return _ancestry(facts, frozenset())
    except _MALFORMED:
        return Ancestry(unknown=tuple(facts.get("parents") or ()))


def _hash(place: Mapping[str, Any]) -> str | None:
    """Return the hash of the weights at a place; None if they are gone."""
    try:
        return release_hash(resolve(place["asked"], place.get("revision"), offline=True))
    except UnreadableError:
        raise
    except ModelError:
        return None


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
    except UnreadableError:
        raise
    except ModelError:
        return False


def _read(folder: Path) -> dict[str, Any]:
    """Return the release.json of a folder, {} if there is none, or a malformed one."""
    try:
        return facts_of(folder)
    except UnreadableError:
        raise
    except ModelError:
        return {}
