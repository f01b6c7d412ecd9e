"""The registry of a folder of runs: checkpoint_registry.json, what each run there is, its tags, and which is promoted.

Tags and promotions live there alone. All else is a copy of what the folders of the runs tell, which the next refresh()
writes anew, so a lost registry costs nothing but those. A run is known by its path, relative to the folder: a run that
is renamed leaves its tags behind, and an entry whose run is gone stays as long as it has tags.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foretrain.atomic import replacing_file, write_json
from foretrain.errors import ConfigError, DataError, ModelError
from foretrain.hints import did_you_mean
from foretrain.locks import FileLock
from foretrain.models.hub import release_hash
from foretrain.reading import Unreadable, read_object
from foretrain.training.run_record import RunRecord, is_run

NAME, LOCK = "checkpoint_registry.json", "checkpoint_registry.lock"
FORMAT = 1
PATIENCE = 5.0  # seconds that a writer waits for another one
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")

Entries = dict[str, dict[str, Any]]  # path of a run, relative to the folder -> what is known of it
Promotions = list[dict[str, Any]]  # every promotion and rollback in a folder, the newest last (promoted.py)


def refresh(folder: Path, records: Sequence[RunRecord]) -> tuple[Entries, list[str]]:
    """Write the registry of a folder anew from the records of its runs, with the tags that it has; return it, and
    notes for the user.

    A damaged registry is kept under another name. Raises DataError for one of a newer format, and if another process
    writes it for long; OSError if it cannot be written.
    """
    with _locked(folder):
        notes = _put_aside(folder)
        old, promotions = _known(folder)
        new = {path: _entry(record, old.get(path, {})) for path, record in _by_path(folder, records)}
        gone = {path: entry for path, entry in old.items() if path not in new and entry["tags"]}
        for path, entry in gone.items():
            if not is_run(folder / path):  # one that is there could not be read
                notes.append(f"{folder / path}: is gone; its tags ({', '.join(entry['tags'])}) stay in {NAME}")
        entries = dict(sorted((new | gone).items()))
        _write(folder, entries, promotions)
    return entries, notes


def change_tags(run: Path, add: Sequence[str], remove: Sequence[str] = ()) -> list[str]:
    """Add tags to a run in the registry of its folder, remove others, and return those that it has now, sorted.

    Raises ConfigError for what is no tag, or a tag to remove that it does not have, DataError for a damaged registry.
    """
    for tag in add:
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{tag!r}: is no tag. A tag has up to 64 letters, digits and _ . + -, and begins with a letter or a "
                "digit."
            )
    folder, path = place_of(run)
    with _locked(folder):
        entries, promotions = _known(folder)
        entry = entries.setdefault(path, {"tags": []})
        tags = set(entry["tags"])
        for tag in remove:
            if tag not in tags:
                has = f"It has {', '.join(sorted(tags))}." if tags else "It has none."
                raise ConfigError(f"{run}: has no tag {tag!r}. {did_you_mean(tag, tags, has)}")
        entry["tags"] = sorted((tags | set(add)) - set(remove))
        _write(folder, entries, promotions)
    return entry["tags"]


@contextmanager
def changing_promotions(folder: Path) -> Iterator[Promotions]:
    """Give the promotions of a folder to change; they are written at the end of the block, unless it raises.

    Raises DataError for a damaged registry, and if another process writes it for long.
    """
    with _locked(folder):
        entries, promotions = read_entries(folder), read_promotions(folder)
        yield promotions
        _write(folder, entries, promotions)


def tags_of(run: Path) -> list[str]:
    """Return the tags of a run. Raises DataError for a damaged registry."""
    folder, path = place_of(run)
    return read_entries(folder).get(path, {}).get("tags", [])


def place_of(run: Path) -> tuple[Path, str]:
    """Return the folder in whose registry a run is, and its path there; a stage is in that of its pipeline."""
    run = Path(os.path.abspath(run))
    if run.parent.name == "stages" and is_run(run.parent.parent):
        folder = run.parents[2]
        return folder, run.relative_to(folder).as_posix()
    return run.parent, run.name


def read_entries(folder: Path) -> Entries:
    """Return the entries of a folder's registry, {} without one; each has a list of tags. Raises DataError."""
    return _known(folder)[0]


def read_promotions(folder: Path) -> Promotions:
    """Return the promotions in a folder, [] without a registry. Raises DataError."""
    return _known(folder)[1]


def _known(folder: Path) -> tuple[Entries, Promotions]:
    path = folder / NAME
    if not path.is_file():
        return {}, []
    try:
        return _read(path)
    except Unreadable as error:
        raise DataError(
            f"{path}: is damaged: {error}. Restore it from a backup; or `foretrain runs list {folder}` moves it aside "
            "and writes a new one, without its tags and promotions."
        ) from None


def _read(path: Path) -> tuple[Entries, Promotions]:
    """Return the entries and promotions of a registry.

    Raises Unreadable for a damaged one, DataError for one of a newer format.
    """
    tree = read_object(path)
    number = tree.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise DataError(f"{path}: has format {number}, and this foretrain knows {FORMAT}. Update foretrain.")
    entries = tree.get("runs")
    if number != FORMAT or not isinstance(entries, dict):
        raise Unreadable("no registry of runs")
    for name, entry in entries.items():
        tags = entry.get("tags") if isinstance(entry, dict) else None
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise Unreadable(f"no list of tags of {name[:60]!r}")
    promotions = tree.get("promotions", [])
    if not isinstance(promotions, list) or not all(map(_is_promotion, promotions)):
        raise Unreadable("no list of promotions")
    return entries, promotions


def _is_promotion(value: Any) -> bool:
    texts = ("action", "run", "sha256", "time")
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in texts)


def _put_aside(folder: Path) -> list[str]:
    """Give a damaged registry another name; return the line that says so."""
    path = folder / NAME
    if not path.is_file():
        return []
    try:
        _read(path)
        return []
    except Unreadable as error:
        reason = error
    kept = next(
        file for k in range(1, 10**6) if not (file := folder / f"checkpoint_registry.damaged-{k}.json").exists()
    )
    path.rename(kept)
    return [f"{path}: is damaged: {reason}. It is kept as {kept.name}, and the new one has no tags and promotions"]


def _by_path(folder: Path, records: Sequence[RunRecord]) -> Iterator[tuple[str, RunRecord]]:
    for record in records:
        yield record.folder.relative_to(folder).as_posix(), record
        yield from _by_path(folder, record.stages)


def _entry(record: RunRecord, old: Mapping[str, Any]) -> dict[str, Any]:
    facts = record.facts()
    kept = ("family", "start", "state", "step", "total_steps", "best", "metrics", "metrics_step", "started", "ended",
            "trained_s")  # fmt: skip
    known = old.get("release")
    return {
        "tags": old.get("tags", []),
        **{key: facts[key] for key in kept},
        "release": _release(record.folder / "release", known if isinstance(known, dict) else {}),
    }


def _release(release: Path, known: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return hash and files of a release, None without one; the known hash if no file changed in size or time."""
    try:
        files = {path.name: path.stat() for path in (release / "config.json", *sorted(release.glob("*.safetensors")))}
        stamps = {name: [found.st_size, found.st_mtime_ns] for name, found in files.items()}
        if known.get("files") == stamps and isinstance(known.get("sha256"), str):
            return dict(known)
        return {"sha256": release_hash(release), "files": stamps}
    except (OSError, ModelError):  # none yet, or one that its run replaces just now
        return None


def _write(folder: Path, entries: Entries, promotions: Promotions) -> None:
    updated = datetime.now(UTC).isoformat(timespec="seconds")
    with replacing_file(folder / NAME) as scratch:
        write_json(scratch, {"format": FORMAT, "updated": updated, "runs": entries, "promotions": promotions})


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's registry; waits PATIENCE for another process. Raises DataError after that."""
    lock, end = FileLock(folder / LOCK, folder / NAME, "is writing it", DataError), time.monotonic() + PATIENCE
    while True:
        try:
            lock.__enter__()
            break
        except DataError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.__exit__()
