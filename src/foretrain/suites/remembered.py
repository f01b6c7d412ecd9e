"""Hashes of tasks' data that are remembered, so that a benchmark with finished tasks need not read their data again.

A hash is over the series as they are derived, not over files. It is recorded in the user's cache folder with all that
it follows from: every file of the task (size, times of change, inode), the definitions of task, suite and raw source,
the code of this package, and the versions of what reads files. If any of it differs, the data are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, overload

from foretrain.data.records import CacheRecord
from foretrain.suites.definition import BenchmarkTask, raw_sources
from foretrain.suites.raw_files import BenchmarkSeries

_HASHES = CacheRecord("benchmark-data.json")
_PACKAGE = Path(__file__).parents[1]
_READERS = ("numpy", "pandas", "pyarrow", "datasets")
_SETTLED = 2.0  # seconds since the last change of a file; another change within one tick of a clock would not be seen
_MOST_FILES = 10_000  # of a task


class DataState(NamedTuple):
    """What the series of a task follow from."""

    key: str  # the task in its folder
    state: str  # sha256
    changed: float  # when a file changed last, as time.time()


class KnownData(NamedTuple):
    """What is remembered of a task's data."""

    hash: str  # results.hash_of_data, without covariates
    hash_with_covariates: str | None  # None: they were not read
    covariates: dict[str, list[str]]  # their names, as results state them


def data_state(task: BenchmarkTask, root: Path) -> DataState | None:
    """Return what the series of a task follow from; None if that cannot be said."""
    rule, suite, place = task.definition, task.suite, os.path.realpath(root)
    paths = [root / task.suite_name / task.name]
    paths += [] if suite.hub is None else [root / suite.hub.folder / rule.dataset]
    source = None if rule.raw is None else raw_sources()[rule.raw.source]
    if source is not None:
        names = [part for name in source.files for part in (name, f"{name}.gz")]
        paths += [root / name for name in (*names, *([source.archive] if source.archive else []))]
    try:
        files = [[os.path.relpath(path, root), *facts] for each in paths for path, *facts in _files(each)]
    except OSError:
        return None
    if not files or len(files) > _MOST_FILES:
        return None
    facts = {
        "files": files,
        "task": rule.model_dump(mode="json"),
        "suite": suite.model_dump(mode="json", exclude={"tasks"}),
        "source": None if source is None else source.model_dump(mode="json"),
        "code": _code(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    changed = max(max(fact[2:4]) for fact in files) / 1e9
    return DataState(f"{place}/{task.suite_name}/{task.name}", digest, changed)


def recall(state: DataState | None) -> KnownData | None:
    """Return what is remembered of data in this state; None if nothing is."""
    found = None if state is None else _HASHES.read().get(state.key)
    if state is None or not isinstance(found, dict) or found.get("state") != state.state:
        return None
    try:
        return KnownData(**{name: found[name] for name in KnownData._fields})
    except KeyError:
        return None


def remember(before: DataState | None, after: DataState | None, known: KnownData) -> None:
    """Record what is known of data whose state was the same before and after they were read."""
    if before is None or before != after or time.time() - before.changed < _SETTLED:
        return
    earlier = recall(before)
    if earlier is None or (earlier.hash_with_covariates is None and known.hash_with_covariates is not None):
        _HASHES.add({before.key: {"state": before.state, **known._asdict()}})


class SeriesLater(Sequence[BenchmarkSeries]):
    """Series that are read where the first of them is asked for."""

    def __init__(self, read: Callable[[], list[BenchmarkSeries]]) -> None:
        self._read = cache(read)

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> BenchmarkSeries: ...
    @overload
    def __getitem__(self, index: slice) -> list[BenchmarkSeries]: ...
    def __getitem__(self, index: int | slice) -> BenchmarkSeries | list[BenchmarkSeries]:
        return self._read()[index]


def _files(path: Path) -> Iterator[list[Any]]:
    """Yield name, size, both times of change in ns and inode of a file, or of all in a folder. Raises OSError."""
    if not path.is_dir():
        if path.is_file():
            yield _fact(path)
        return
    count = 0
    for folder, folders, names in os.walk(path, followlinks=True, onerror=_raise):
        folders.sort()
        for name in sorted(names):
            yield _fact(Path(folder) / name)
            count += 1
        if count > _MOST_FILES:  # or links in a circle
            return


def _fact(path: Path) -> list[Any]:
    about = path.stat()
    return [str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def _raise(error: OSError) -> None:
    raise error


@cache
def _code() -> str:
    """Return the sha256 of this package's code, and of the versions of what it reads files with."""
    digest = hashlib.sha256(f"{sys.version} {sys.byteorder}".encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
    for name in _READERS:
        try:
            digest.update(f"{name} {version(name)}".encode())
        except PackageNotFoundError:
            digest.update(name.encode())
    return digest.hexdigest()
