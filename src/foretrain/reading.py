"""Readers of small files from outside: bounded in size, depth and numbers, and of plain files only.

Whatever is wrong is an OSError, or an Unreadable that says why in one line; callers add which file it is and what to
do. A pipe, device or folder in place of a file is refused at once, where opening it could wait for ever.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretrain.errors import ForetrainError

LARGEST = 64 << 20  # bytes of a JSON or YAML file; the largest written here, a manifest with many shards, has 1 MB
DEEPEST = 100  # nested lists and objects
LARGEST_NUMBER = 2**64  # of whole numbers in JSON; seeds and hashes are below it
MOST_BITS = 4096  # of those in YAML, of which each key has bounds of its own; Python prints no more than 4,300 digits


# What code raises that takes a value from outside for what it should be, where it is missing or of another type
_LIES = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, RuntimeError, MemoryError)


class Unreadable(ValueError):
    """The content of a file cannot be used; the message says why."""


@contextmanager
def believing(file: Path, error: type[ForetrainError], remedy: str) -> Iterator[None]:
    """While entered, raise what values of a file cause that are missing, out of range or of another type as `error`.

    For code that only interprets the file, as its own faults would be taken for the file's. remedy: what to do.
    """
    try:
        yield
    except _LIES as problem:
        reason = " ".join(str(problem).split())[:200]
        what = f"no {reason}" if isinstance(problem, KeyError) else f"{type(problem).__name__}: {reason}"
        raise error(f"{file}: holds values that cannot be used ({what}). {remedy}") from problem


@contextmanager
def unpacking() -> Iterator[None]:
    """While entered, raise what the content of an archive causes as Unreadable; for code that only unpacks.

    zipfile and what it decompresses with raise errors of many kinds, an IndexError for a member without a name.
    """
    try:
        yield
    except (OSError, MemoryError, ForetrainError, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(" ".join(str(error).split())[:120] or type(error).__name__) from error


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """Return the content of a plain file of at most `limit` bytes. Raises OSError or Unreadable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("not a plain file")
        if found.st_size > limit:
            raise Unreadable(f"{found.st_size:,} bytes, more than {limit:,}")
        return file.read(found.st_size or limit)  # not the limit for all: as many bytes would be allocated first


def read_text(path: Path, limit: int = LARGEST) -> str:
    """Return the UTF-8 text of a plain file. Raises OSError or Unreadable."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text, from byte {error.start:,}") from None


def read_json(path: Path) -> Any:
    """Return the value in a JSON file. Raises OSError or Unreadable."""
    return parse_json(read_text(path))


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises OSError or Unreadable."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise Unreadable(f"not a JSON object, but {_kind(found)}")
    return found


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises Unreadable, also for NaN and infinities, which JSON has not and
    write_json() refuses."""
    try:
        found = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise Unreadable(f"nested more than {DEEPEST} deep") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg}, line {error.lineno}") from None
    check_bounds(found)
    return found


def check_bounds(value: Any) -> None:
    """Raise Unreadable for lists and dicts nested beyond DEEPEST, and for whole numbers beyond MOST_BITS."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise Unreadable(f"nested more than {DEEPEST} deep")
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        found = [item for items in inner for item in items]
        if any(isinstance(item, int) and item.bit_length() > MOST_BITS for item in [*level, *found]):
            raise Unreadable(f"a whole number has more than {MOST_BITS:,} bits")
        level = [item for item in found if isinstance(item, dict | list)]


def _whole(text: str) -> int:
    if len(text) > 21 or abs(int(text)) > LARGEST_NUMBER:
        raise Unreadable(f"the number {text[:12]}... has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unreadable(f"the number {text[:12]} is not finite")
    return number


def _kind(value: Any) -> str:
    return "null" if value is None else "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def resolved(path: Path) -> Path:
    """Return the absolute path with all links followed; of links in a circle the path as far as it leads.

    Path.resolve raises RuntimeError for a circle; whoever opens the path reports that as an error of the file.
    """
    return Path(os.path.realpath(path))
