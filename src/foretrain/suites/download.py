"""Data sets of a suite's repository on the hub, fetched into the data root.

A data set appears whole or not at all: its files are fetched beside it, from where an earlier call was cut, compared
with the hashes that the hub states, and exchanged for its folder in one step. download.json in the repository's folder
says which commit they are of, with size and sha256 of each file. Later calls keep that commit unless they name another
revision, and fetch what is missing or differs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foretrain.atomic import remove, remove_empty, replacing_file, replacing_folder, write_json
from foretrain.errors import DataError
from foretrain.locks import FileLock
from foretrain.reading import read_object
from foretrain.suites.definition import Hub
from foretrain.suites.hub_files import (
    LAYOUTS,
    HubFile,
    Unreachable,
    commit_of,
    copy_file,
    differs,
    fetch,
    files_of,
    is_read,
    sha256_of,
)

RECORD, SCHEMA = "download.json", 1
RESERVE = 256 << 20  # bytes of the disk that are left free
_PARTIAL = ".download"  # in the repository's folder: what was fetched of data sets that are not complete
Meter = Callable[[int, int, str], None]  # bytes that arrived, 0 before the first; of how many; of what


@dataclass(frozen=True)
class Obtained:
    """What became of one data set, or of one task."""

    name: str
    state: Literal["fetched", "converted", "kept", "missing"]
    text: str


def size_text(count: int) -> str:
    """Return a number of bytes in words: 1.2 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def check_space(folder: Path, needed: int) -> None:
    """Raise DataError if the disk of a folder, or of its first parent that exists, has not as many bytes free."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed + RESERVE:
        raise DataError(
            f"{folder}: needs {size_text(needed)} and {size_text(RESERVE)} of reserve; the disk has {size_text(free)} "
            "free. Make room, or name another --data-root."
        )


class Repository:
    """The copy of a suite's repository below the data root. Use as a context manager: it is its only writer."""

    def __init__(self, hub: Hub, root: Path, *, revision: str | None = None, offline: bool = False) -> None:
        self._hub, self._revision, self._offline = hub, revision, offline
        self.folder = root / hub.folder
        self.commit: str | None = None  # that data sets are fetched from
        self._record: dict[str, Any] = {}

    def __enter__(self) -> Repository:
        """Read the record, and ask the hub for the commit. Raises DataError."""
        self._created = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self._lock = FileLock(self.folder / ".download.lock", self.folder, "is downloading into this folder", DataError)
        with _disk_errors(self.folder):
            self._lock.__enter__()
        try:
            self._record = self._read_record()
            asked = self._revision or self._record.get("commit") or "main"
            if self._offline:
                self.commit = self._record.get("commit")
            else:
                self.commit = self._resolve(asked)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__()
        with _disk_errors(self.folder):
            remove_empty([self.folder / _PARTIAL, *self._created])

    def _resolve(self, asked: str) -> str:
        try:
            return commit_of(self._hub.repository, asked)
        except DataError as error:
            if self._revision is None and self._record.get("commit") and "no such revision" in str(error):
                way = f"It is the one that {self.folder / RECORD} names; --revision main takes the newest."
                raise DataError(f"{error} {way}") from None
            if isinstance(error, Unreachable):
                raise DataError(f"{error}. Check the connection and --proxy; --offline uses what is here.") from None
            raise

    def obtain(self, dataset: str, meter: Meter) -> Obtained:
        """Fetch what a data set lacks. What cannot be had is an outcome, not an error."""
        try:
            with _disk_errors(self.folder):
                if self._offline:
                    return self._offline_outcome(dataset)
                return self._online_outcome(dataset, meter)
        except DataError as error:
            return Obtained(dataset, "missing", str(error))

    # -- with the hub ------------------------------------------------------------------------------------------------

    def _online_outcome(self, dataset: str, meter: Meter) -> Obtained:
        assert self.commit is not None
        files = files_of(self._hub.repository, self.commit, dataset, self._hub.layout)
        present = {file.path for file in files if self._is_there(file)}
        lacking = [file for file in files if file.path not in present]
        surplus = self._surplus(dataset, {file.path for file in files})
        total = size_text(sum(file.size for file in files))
        if not lacking and not surplus:
            self._note(dataset, files)
            return Obtained(dataset, "kept", f"{_count(files)}, {total}, all as the hub lists them")
        needed = sum(file.size for file in lacking)
        check_space(self.folder, needed)
        meter(0, needed, dataset)
        partials = self._fetch_all(lacking, needed, meter)
        self._install(dataset, {file.path: self.folder / file.path for file in files} | partials)
        self._note(dataset, files)
        for path in partials.values():
            remove(path)
        kept = f"; {len(present)} were there" if present else ""
        return Obtained(dataset, "fetched", f"{_count(lacking)}, {size_text(needed)}{kept}")

    def _fetch_all(self, files: Sequence[HubFile], total: int, meter: Meter) -> dict[str, Path]:
        """Return where each file was fetched to, by its path. Files have the name of their content, so that what is
        left of a call that was cut is never taken for another version."""
        assert self.commit is not None
        (self.folder / _PARTIAL).mkdir(exist_ok=True)
        found: dict[str, Path] = {}
        done = 0
        for file in files:

            def advance(count: int, file: HubFile = file) -> None:
                nonlocal done
                done += count
                meter(done, total, file.path)

            partial = self.folder / _PARTIAL / f"{file.identity}.part"
            fetch(self._hub.repository, self.commit, file, partial, advance)
            found[file.path] = partial
        return found

    def _is_there(self, file: HubFile) -> bool:
        path = self.folder / file.path
        return path.is_file() and differs(path, file) is None

    def _surplus(self, dataset: str, names: set[str]) -> bool:
        """Return whether the folder holds files that the data set has no more; they would be read with the others.

        Raises DataError if they were not downloaded.
        """
        recorded = self._files(dataset)
        surplus = [name for name in self._local_files(dataset) if name not in names]
        for name in surplus:
            if name not in recorded and is_read(name, self._hub.layout):
                raise DataError(
                    f"{self.folder / name}: is no file of {dataset} in commit {str(self.commit)[:12]} and would be "
                    "read with it. Move it away."
                )
        return any(name in recorded for name in surplus)

    def _local_files(self, dataset: str) -> list[str]:
        folder = self.folder / dataset
        return sorted(path.relative_to(self.folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def _install(self, dataset: str, sources: dict[str, Path]) -> None:
        """Exchange the folder of a data set for one with these files, in one step; other files of it stay."""
        recorded = self._files(dataset)
        others = [name for name in self._local_files(dataset) if name not in sources and name not in recorded]
        with replacing_folder(self.folder / dataset) as scratch:
            for name, source in {**{name: self.folder / name for name in others}, **sources}.items():
                target = scratch / Path(name).relative_to(dataset)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(os.path.realpath(source), target)
                except OSError:  # a file system without hard links, or another one
                    copy_file(source, target)

    # -- without -----------------------------------------------------------------------------------------------------

    def _offline_outcome(self, dataset: str) -> Obtained:
        recorded = self._files(dataset)
        commit = str(self._record.get("datasets", {}).get(dataset, {}).get("commit", ""))
        wanted = self._revision in (None, commit, self._record.get("revision"))
        if recorded and wanted:
            wrong = [name for name, facts in recorded.items() if not self._as_recorded(name, facts)]
            if not wrong:
                return Obtained(dataset, "kept", f"{_count(recorded)}, all as recorded of commit {commit[:12]}")
        else:
            wrong = []
        if cached := self._cached(dataset, commit if wrong else self._revision or "main"):
            self._surplus(dataset, set(cached[1]))
            self._install(dataset, cached[1])
            self._note(dataset, list(cached[1]), cached[0])
            return Obtained(dataset, "fetched", f"{_count(cached[1])} from the hub's cache, commit {cached[0][:12]}")
        repository = self._hub.repository
        if wrong:
            facts = recorded[wrong[0]]
            raise DataError(
                f"put {wrong[0]} of {repository}, commit {commit} ({facts['bytes']:,} bytes, sha256 "
                f"{facts['sha256']}), into {self.folder / wrong[0]}: it is missing or differs from the record."
            )
        if recorded:
            raise DataError(f"{self.folder / dataset}: is of commit {commit}, not of {self._revision}.")
        kinds = " and ".join(f"*{ending}" if ending.startswith(".") else ending for ending in LAYOUTS[self._hub.layout])
        there = [name for name in self._local_files(dataset) if is_read(name, self._hub.layout)]
        if there and self._revision is None:
            return Obtained(dataset, "kept", f"{_count(there)} without a record of where they are from: not checked")
        revision = f", revision {self._revision}," if self._revision else ""
        raise DataError(f"put {kinds} of {dataset}/ in {repository}{revision} into {self.folder / dataset}")

    def _as_recorded(self, name: str, facts: dict[str, Any]) -> bool:
        path = self.folder / name
        return path.is_file() and path.stat().st_size == facts["bytes"] and sha256_of(path) == facts["sha256"]

    def _cached(self, dataset: str, revision: str) -> tuple[str, dict[str, Path]] | None:
        """Return commit and files of a data set in the hub library's cache, if all of its parts are there, as they
        were downloaded: the cache names contents by the hub's hashes."""
        import huggingface_hub as hub

        try:
            found = hub.snapshot_download(
                self._hub.repository, repo_type="dataset", revision=revision, local_files_only=True
            )
        except Exception:  # any: not there, or not as the library left it
            return None
        folder = Path(found)
        paths = [path for path in (folder / dataset).rglob("*") if is_read(path.name, self._hub.layout)]
        files = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
        for name, path in files.items():
            blob = Path(os.path.realpath(path)).name
            if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob):
                continue  # a cache without links, on file systems that have none
            if differs(path, HubFile(name, path.stat().st_size, blob if len(blob) == 64 else None, blob)):
                return None
        return (folder.name, files) if files and _complete(files) else None

    # -- the record --------------------------------------------------------------------------------------------------

    def _files(self, dataset: str) -> dict[str, dict[str, Any]]:
        return self._record.get("datasets", {}).get(dataset, {}).get("files", {})

    def _read_record(self) -> dict[str, Any]:
        path = self.folder / RECORD
        if not path.is_file():
            return {}
        try:
            found = read_object(path)
            schema = found["schema"]
            for entry in found["datasets"].values():
                _ = [(facts["bytes"] + 0, facts["sha256"].lower()) for facts in entry["files"].values()]
                _ = entry["commit"].lower()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise DataError(
                f"{path}: cannot be read as a record ({reason}). Delete it: files are hashed anew."
            ) from None
        if schema != SCHEMA:
            raise DataError(f"{path}: is of schema {schema}; this version reads {SCHEMA}. Upgrade foretrain.")
        return found

    def _note(self, dataset: str, files: Sequence[HubFile] | Sequence[str], commit: str | None = None) -> None:
        """Write down what a data set consists of now."""
        commit = commit or self.commit
        entries: dict[str, dict[str, Any]] = {}
        for file in files:
            name, known = (file, None) if isinstance(file, str) else (file.path, file.sha256)
            path = self.folder / name
            entries[name] = {"bytes": path.stat().st_size, "sha256": known or sha256_of(path)}
        datasets = {**self._record.get("datasets", {}), dataset: {"commit": commit, "files": entries}}
        record = {
            "schema": SCHEMA,
            "repository": self._hub.repository,
            "revision": self._revision or self._record.get("revision", "main"),
            "commit": commit,
            "datasets": datasets,
        }
        if record == self._record:
            return
        with replacing_file(self.folder / RECORD) as scratch:
            write_json(scratch, record)
        self._record = record


def _complete(files: dict[str, Path]) -> bool:
    """Return whether no part of a data set is lacking: train-00000-of-00002.parquet is one of two, and state.json of an
    Arrow folder names its files."""
    parts: dict[tuple[str, int], int] = {}
    for name, path in files.items():
        if found := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.\w+", name):
            key = (found[1], int(found[2]))
            parts[key] = parts.get(key, 0) + 1
        if path.name == "state.json":
            try:
                members = [entry["filename"] for entry in read_object(path)["_data_files"]]
            except (OSError, ValueError, LookupError, TypeError):
                return False
            if any(f"{name.removesuffix('state.json')}{member}" not in files for member in members):
                return False
    whole = all(count == number for (_, number), count in parts.items())
    stated = any(name.endswith("state.json") for name in files)
    return whole and (stated or not any(name.endswith(".arrow") for name in files))


def _count(files: Sequence[Any] | dict[str, Any]) -> str:
    return f"{len(files)} file{'' if len(files) == 1 else 's'}"


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """While entered, raise an OSError of the disk as a DataError."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise DataError(f"{place}: cannot be read or written: {error.strerror or error}.") from None
