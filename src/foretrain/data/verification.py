"""Compare the shards of corpora with the hashes in their manifests, before they are read or while they are.

Nothing is opened as Arrow here, so that a damaged file cannot do harm. A file that was found intact is not hashed again
while it has the same size, time of change and inode: they are recorded in the user's cache folder. An update that
exchanges the folder meanwhile does no harm either: the files of before are followed to where it keeps them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from foretrain.data.cuts import read_cuts
from foretrain.data.exclusive import kept_folder, target
from foretrain.data.manifest import MANIFEST_NAME, read_manifest
from foretrain.data.records import CacheRecord
from foretrain.errors import DataError

T = TypeVar("T")
Verify = Literal["auto", "start", "off"]
AT_ONCE = 10 * 10**9  # bytes that `auto` hashes before a run starts, about ten seconds of a core
_INTACT = CacheRecord("verified.json")


@dataclass(frozen=True)
class _ShardFile:
    """A shard, the state that it is in, and the hash that it should have."""

    path: Path
    key: str  # in the record: its path, links followed
    sha256: str
    bytes: int
    state: tuple[int, ...]  # size, time of change in ns, inode

    @property
    def record(self) -> list[object]:
        return [*self.state, self.sha256]

    def check(self) -> None:
        """Raise DataError unless the file has the hash that its manifest states, wherever an update has put it."""
        try:
            check_file(self.path, self.sha256)
        except DataError:
            if _inode(self.path) == self.state[2]:
                raise
            kept = kept_folder(target(self.path.parent)) / self.path.name
            if _inode(kept) != self.state[2]:
                raise DataError(
                    f"{self.path}: was replaced while it was compared with its hash, as by an update, and what it held "
                    "is gone. Repeat the command (a run: --resume)."
                ) from None
            check_file(kept, self.sha256)


class Verification:
    """The check of some corpus folders; those without a manifest have no hashes and are passed over.

    mode: `auto` hashes up to AT_ONCE bytes in `start`, and more of them in a thread until `finish`; files that the
    record knows are not hashed. `start` hashes all files in `start`. `off` does nothing.
    """

    def __init__(self, folders: Iterable[str | Path], mode: Verify = "auto") -> None:
        found = (
            [] if mode == "off" else [file for folder in dict.fromkeys(map(str, folders)) for file in _files(folder)]
        )
        known = _INTACT.read() if mode == "auto" else {}
        self._files = [file for file in found if known.get(file.key) != file.record]
        self.bytes = sum(file.bytes for file in self._files)
        self._later = mode == "auto" and self.bytes > AT_ONCE
        self._thread: threading.Thread | None = None
        self._error: DataError | None = None

    def start(self) -> None:
        """Hash the files, or begin to. Raises DataError naming the first one that differs."""
        if self._later:
            self._thread = threading.Thread(target=self._try, daemon=True)
            self._thread.start()
        else:
            self._hash()

    def finish(self) -> None:
        """Wait until all files are hashed. Raises DataError naming the first one that differs."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _try(self) -> None:
        try:
            self._hash()
        except DataError as error:
            self._error = error

    def _hash(self) -> None:
        for file in self._files:
            file.check()
        _record(self._files)


def check_file(path: Path, sha256: str) -> None:
    """Raise DataError unless a shard has the hash that its manifest states."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if found != sha256:
        raise differs(path)


def differs(path: Path) -> DataError:
    """Return the error about a shard that has another hash than its manifest states."""
    return DataError(
        f"{path}: its content differs from the hash in {MANIFEST_NAME}. The disk or a copy damaged it, or it was "
        "changed by hand: copy the corpus again, whole, or import the data again."
    )


def verify_folder(folder: Path, progress: Callable[[int, int, str], None] | None = None) -> int:
    """Hash every shard of a corpus folder, and its cuts, and return the number of bytes of shards. Raises DataError for
    the first that differs.

    progress is called with (bytes done, all, file). The record of intact files is not looked at, and gains these.
    """
    files = _files(folder)
    if not files:
        raise DataError(f"{folder}: has no {MANIFEST_NAME} with hashes, so nothing can be compared.")
    read_cuts(folder, read_manifest(folder / MANIFEST_NAME).cuts)
    total, done = sum(file.bytes for file in files), 0
    for file in files:
        if progress is not None:
            progress(done, total, file.path.name)
        file.check()
        done += file.bytes
    if progress is not None:
        progress(total, total, "done")
    _record(files)
    return total


def _files(folder: str | Path) -> list[_ShardFile]:
    """Return the shards of a folder by its manifest. Raises DataError for one that is missing or has another size."""
    folder = Path(folder)
    return of_one_version(folder, _listed) if (folder / MANIFEST_NAME).is_file() else []


def _listed(folder: Path) -> list[_ShardFile]:
    found, place = [], os.path.realpath(folder)
    for shard in read_manifest(folder / MANIFEST_NAME).shards:
        path = folder / shard["file"]
        about = _stat(path, shard["bytes"])
        state = (about.st_size, about.st_mtime_ns, about.st_ino)
        found.append(_ShardFile(path, f"{place}/{shard['file']}", shard["sha256"], shard["bytes"], state))
    return found


def of_one_version(folder: Path, read: Callable[[Path], T]) -> T:
    """Return read(folder), all of one version of a corpus: it is read again if an update exchanges it meanwhile."""
    while True:
        before = version(folder)
        try:
            found = read(folder)
        except DataError:
            if version(folder) == before:
                raise
        else:
            if version(folder) == before:
                return found


def version(folder: Path) -> tuple[int, int] | None:
    """Return what differs once an update has exchanged a corpus folder; None for a folder without a manifest."""
    try:
        about = os.stat(os.path.join(folder, MANIFEST_NAME))
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def shard_file(folder: Path, name: str, size: int) -> Path:
    """Return the path of a shard. Raises DataError if it is missing, or is not a plain file of the given size."""
    path = folder / name
    _stat(path, size)
    return path


def _stat(path: Path, size: int) -> os.stat_result:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: missing, though the manifest lists it. Copy the corpus again, whole.")
    if found.st_size != size:
        raise DataError(f"{path}: {found.st_size:,} bytes, the manifest says {size:,}. Copy the corpus again, whole.")
    return found


def _record(files: Sequence[_ShardFile]) -> None:
    """Add files that were found intact; without a place to write, they are hashed again next time."""
    if files:
        _INTACT.add({file.key: file.record for file in files})
