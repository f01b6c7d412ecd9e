"""What lies below a folder, as values to compare: exactly, or without what differs from run to run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

OWN = ("cache", "tmp")  # folders of the user's cache and of temporary files
_EVENTS = re.compile(r"events\.out\.tfevents\.[^/]*")  # TensorBoard's: one a start, named by time and process
_DURATIONS = ("training.log", "trial.log")
_NUMBERS = re.compile(rb"[0-9a-f]{6,}|[0-9.]+")


def snapshot(folder: Path) -> dict[str, str]:
    """Return {path: sha256, or the target of a link, or "" of a folder} of everything below a folder.

    Times of this day in JSON and HTML, the lines of training.log, the order of the tensors in a file, hashes of such
    files, and the number of TensorBoard's files of events do not count.
    """
    found: dict[str, str] = {}
    days = {time.strftime("%Y-%m-%d", moment) for moment in (time.localtime(), time.gmtime())}
    now = re.compile(rf"({'|'.join(days)})[T ][0-9:.]+(Z|[+-][0-9:]+)?".encode())
    for path in sorted(folder.rglob("*")):
        name = lasting(str(path.relative_to(folder)))
        if name.split("/")[0] not in OWN:
            is_file = path.is_file() and not path.is_symlink()
            raw = path.read_bytes() if is_file else b""
            raw = now.sub(b"", raw) if path.suffix in (".json", ".html") else raw
            raw = b"" if path.name in _DURATIONS else raw  # which may be equal in two clean runs
            raw = _tensors(raw) if path.suffix == ".safetensors" else raw
            raw = b"" if path.name == "manifest.json" and "checkpoints" in name else raw  # compared by `damages`
            content = hashlib.sha256(raw).hexdigest() if is_file else ""
            found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else content
    return found


def _tensors(raw: bytes) -> bytes:
    """Return the content of a whole safetensors file in an order of its own; torch's varies."""
    try:
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        parts = {}
        for name, entry in header.items():
            first, last = entry.pop("data_offsets", (0, 0))
            parts[name] = json.dumps(entry, sort_keys=True).encode() + raw[8 + size + first : 8 + size + last]
        parts.pop("__metadata__", None)
        return b"".join(name.encode() + parts[name] for name in sorted(parts))
    except (ValueError, AttributeError):
        return raw  # cut


def lasting(name: str) -> str:
    """Return the name of a file without what changes from run to run."""
    return _EVENTS.sub("events", name)


def hidden(name: str) -> bool:
    """Return True for scratch files, and what is in scratch folders."""
    return any(part.startswith(".") for part in name.split("/"))


def part(tree: dict[str, str], unit: str) -> dict[str, str]:
    return {path: content for path, content in tree.items() if path == unit or path.startswith(f"{unit}/")}


def kind_of(folder: Path, state: dict[str, str], volatile: Collection[str]) -> str:
    """Return a hash that trees have in common in which the next run finds the same: those whose snapshots are equal but
    for numbers in names of scratch files, in what they hold, in what changes from run to run (volatile), and in OWN."""
    parts = [(name, content) for name, content in state.items() if not hidden(name) and name not in volatile]
    others = [name for name in state if hidden(name) or name in volatile]
    others += [str(path.relative_to(folder)) for own in OWN for path in (folder / own).rglob("*")]
    for name in others:
        path = folder / name
        raw = path.read_bytes() if path.is_file() else b""  # TensorBoard's files have another name: by name alone
        text = raw if b"\0" in raw else _NUMBERS.sub(b"#", raw)
        parts.append((_NUMBERS.sub(b"#", os.fsencode(name)).decode(), hashlib.sha256(text).hexdigest()))
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()[:16]
