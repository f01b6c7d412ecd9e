"""Which release of a folder of runs is in use: promotions, and the way back.

A promotion names a run and the hash of its release, so that one that was trained anew in place is not taken for what
was promoted. The newest is in use. A rollback takes it back, and that before it is in use again; both stay in the
history. The gate of a run (release.json) decides whether it may be promoted, unless a person does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foretrain.errors import ConfigError, DataError, ModelError
from foretrain.models.hub import release_hash
from foretrain.run.registry import Promotions, changing_promotions, place_of, read_promotions
from foretrain.training.release import read_release
from foretrain.training.run_record import RunRecord

PROMOTE, ROLLBACK = "promote", "rollback"


def promote(record: RunRecord, *, force: bool = False, note: str | None = None) -> dict[str, Any]:
    """Put the release of a run in use in the folder that holds the run; return the promotion.

    Raises ConfigError for a run without a release, one that its gate did not promote (unless force is given), and one
    that is in use already; DataError for a damaged registry.
    """
    release = record.folder / "release"
    if not (release / "config.json").is_file():
        raise ConfigError(f"{record.folder}: has no release to promote. It is {record.state}.")
    gate = _gate(release)
    if gate.get("promoted") is not True and not force:
        raise ConfigError(_refused(record.folder, gate))
    folder, path = place_of(record.folder)
    hashed = _hash(release)
    with changing_promotions(folder) as promotions:
        current = _stack(promotions)[-1:]
        if current and (current[0]["run"], current[0]["sha256"]) == (path, hashed):
            raise ConfigError(f"{record.folder}: is in use already, since {current[0]['time']}.")
        promotions.append(_entry(PROMOTE, path, hashed, forced=gate.get("promoted") is not True, gate=gate, note=note))
        return promotions[-1]


def rollback(folder: Path, *, note: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the promotion in use back; return it, and that which is in use again.

    Raises ConfigError if there is none before it, or its release is gone or changed; DataError for a damaged registry.
    """
    with changing_promotions(folder) as promotions:
        stack = _stack(promotions)
        if len(stack) < 2:
            what = "no promotion" if not stack else f"no promotion before that of {stack[0]['run']}"
            raise ConfigError(f"{folder}: has {what}, so there is none to go back to.")
        left, back = stack[-1], stack[-2]
        _check(folder, back)
        promotions.append(_entry(ROLLBACK, back["run"], back["sha256"], back_from=left["run"], note=note))
        return left, back


def in_use(folder: Path) -> Path:
    """Return the release in use in a folder of runs.

    Raises ConfigError if none was promoted; DataError if it is gone or has changed, or for a damaged registry.
    """
    stack = _stack(read_promotions(folder))
    if not stack:
        raise ConfigError(f"{folder}: no run was promoted. `foretrain runs promote {folder}/RUN` promotes one.")
    return _check(folder, stack[-1])


def run_in_use(folder: Path) -> str | None:
    """Return the path of the run whose release is in use, relative to the folder. Raises DataError."""
    stack = _stack(read_promotions(folder))
    return stack[-1]["run"] if stack else None


def history_lines(folder: Path) -> list[str]:
    """Return a line for each promotion and rollback, the oldest first. Raises DataError."""
    lines = []
    for one in read_promotions(folder):
        words = f"{one['time']}  {one['action']:8}  {one['run']}  {one['sha256'][:12]}"
        words += "  forced" if one.get("forced") is True else ""
        words += f"  back from {one['back_from']}" if one["action"] == ROLLBACK else ""
        lines.append(words + (f"  {one['note']}" if isinstance(one.get("note"), str) else ""))
    return lines


def _stack(promotions: Promotions) -> Promotions:
    """Return the promotions that were not taken back, the one in use last."""
    stack: Promotions = []
    for one in promotions:
        if one["action"] == PROMOTE:
            stack.append(one)
        elif stack:
            stack.pop()
    return stack


def _check(folder: Path, promotion: Mapping[str, Any]) -> Path:
    """Return the release of a promotion. Raises DataError if it is gone or has changed."""
    release = folder / promotion["run"] / "release"
    again = f"Restore it, or promote another run: foretrain runs promote {shlex.quote(str(folder))}/RUN"
    if not (release / "config.json").is_file():
        raise DataError(f"{release}: was promoted at {promotion['time']} and is gone. {again}")
    if _hash(release) != promotion["sha256"]:
        raise DataError(f"{release}: has changed since it was promoted at {promotion['time']}. {again}")
    return release


def _hash(release: Path) -> str:
    try:
        return release_hash(release)
    except ModelError as error:
        raise DataError(str(error)) from None


def _gate(release: Path) -> dict[str, Any]:
    found = read_release(release).get("promotion")
    return {"promoted": found.get("promoted"), "reason": str(found.get("reason"))} if isinstance(found, dict) else {}


def _refused(run: Path, gate: Mapping[str, Any]) -> str:
    if gate:
        return f"{run}: its gate did not promote it: {gate['reason'].rstrip('.')}. --force promotes it all the same."
    command = shlex.join(["foretrain", "evaluate", str(run), "--data", "CORPUS", "--against", "zero-shot"])
    return f"{run}: no gate has judged its release. `{command}` does, or --force promotes it without."


def _entry(action: str, run: str, hashed: str, **more: Any) -> dict[str, Any]:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    known = {name: value for name, value in more.items() if value not in (None, {})}
    return {"action": action, "run": run, "sha256": hashed, "time": time, **known}
