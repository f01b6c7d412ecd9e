"""Copies of the shards of corpora on a disk of this host (`data.stage_to`), which runs read in the corpora's place.

A copy is a folder named by the content hash of its corpus and by a hash of the list of its shards. It holds the shards,
the manifest and ORIGIN, which says what was copied. It appears by a rename once every shard has the hash that the
manifest states, so a folder of that name is whole. Everything else, as cuts, items and subsets, is read from the corpus
itself, and records name it alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from foretrain.atomic import FULL, new_folder, remove_empty
from foretrain.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from foretrain.data.verification import differs, of_one_version, shard_file
from foretrain.errors import DataError, ForetrainError
from foretrain.locks import FileLock, holder
from foretrain.processes import this_process

ORIGIN = "staged.json"
BLOCK = 16 << 20  # bytes of a read or write
_WAIT = 0.2  # seconds between two looks at a lock
_DIGITS = 32, 8  # of the hashes in a name


class _BeingCopied(ForetrainError):
    """Another process copies the corpus."""


class Staging:
    """The copies of some corpora in one folder. Raises DataError for a corpus that cannot be copied, and for a folder
    that is no place for copies."""

    def __init__(self, folders: Iterable[str], stage_to: str) -> None:
        self.target = Path(stage_to).expanduser()
        self._check_target()
        found = [(Path(name), *of_one_version(Path(name), self._place)) for name in dict.fromkeys(folders)]
        self._all = found
        self._missing = {place: (folder, manifest) for folder, manifest, place in found if not _is_copy(place)}

    @property
    def read_from(self) -> list[Path]:
        """Folders that the shards are read from: those of copies as far as there are some, else of the corpora."""
        return [place if _is_copy(place) else folder for folder, _, place in self._all]

    @property
    def missing_bytes(self) -> int:
        """Bytes of the shards that are to be copied."""
        return sum(_bytes(manifest) for _, manifest in self._missing.values())

    @property
    def free_bytes(self) -> int:
        """Bytes that the disk of the folder has free."""
        there = next(folder for folder in (self.target, *self.target.absolute().parents) if folder.exists())
        return shutil.disk_usage(there).free

    def check_space(self) -> None:
        """Raise DataError if the disk has less free than is to be copied."""
        self._refuse_if_full(self.missing_bytes)

    def copy(self) -> None:
        """Copy what is missing; wait for other processes of this host that copy it. Raises DataError."""
        try:
            for place, (folder, manifest) in self._missing.items():
                self._copy_once(folder, manifest, place)
        except OSError as error:
            if error.errno in FULL:
                self._refuse_if_full(self.missing_bytes, always=True)
            raise DataError(
                f"data.stage_to: {error.filename or self.target}: {error.strerror or error}. Name a folder of a local "
                "disk that can be written, or leave it out (null)."
            ) from None

    def _place(self, folder: Path) -> tuple[Manifest, Path]:
        if not (folder / MANIFEST_NAME).is_file():
            raise DataError(
                f"data.stage_to: {folder} has no {MANIFEST_NAME} with hashes by which a copy can be checked. Import it "
                f"(`foretrain data import {folder} --out CORPUS`), or leave data.stage_to out (null)."
            )
        manifest = read_manifest(folder / MANIFEST_NAME)
        return manifest, copy_of(manifest, self.target)

    def _check_target(self) -> None:
        if (self.target / MANIFEST_NAME).exists():
            raise DataError(
                f"data.stage_to: {self.target} is a corpus, and copies would lie inside it. Name another folder."
            )

    def _refuse_if_full(self, needed: int, *, always: bool = False) -> None:
        free = self.free_bytes
        if always or free < needed:
            raise DataError(
                f"data.stage_to: the disk of {self.target} is too full: {needed:,} bytes are needed and {free:,} are "
                "free. Free space there, name a folder of another disk, or leave it out (null)."
            )

    def _copy_once(self, folder: Path, manifest: Manifest, place: Path) -> None:
        """Copy one corpus, unless another process does so meanwhile."""
        created = [parent for parent in (self.target, *self.target.parents) if not parent.exists()]
        lock = FileLock(place.with_name(f".{place.name}.lock"), place, "is copying a corpus there", _BeingCopied)
        while not _is_copy(place):
            try:
                with lock:
                    if not _is_copy(place):
                        self._refuse_if_full(_bytes(manifest))
                        _copy(folder, manifest, place)
            except _BeingCopied as error:
                other = holder(lock.path)
                if (lock.path.exists() and not lock.path.is_file()) or lock.path.is_symlink():
                    raise DataError(str(error)) from None  # no lock file
                if other is not None and other["host"] != this_process()["host"]:
                    raise DataError(
                        f"data.stage_to: {error} Each host needs a folder of its own: name one of a local disk."
                    ) from None
                time.sleep(_WAIT)
            except BaseException:
                remove_empty(created)
                raise


def copy_of(manifest: Manifest, target: str | Path) -> Path:
    """Return the folder in which a corpus' copy lies, or will lie."""
    shards = json.dumps([[shard["file"], shard["bytes"], shard["sha256"]] for shard in manifest.shards])
    digest = hashlib.sha256(shards.encode()).hexdigest()
    name = f"corpus-{manifest.content_hash[: _DIGITS[0]]}-{digest[: _DIGITS[1]]}"
    return Path(target).expanduser() / name


def shards_of(manifest: Manifest, folder: Path, stage_to: str | None) -> Path:
    """Return the folder from which a corpus' shards are read: that of its copy if there is one, else its own."""
    place = None if stage_to is None else copy_of(manifest, stage_to)
    return place if place is not None and _is_copy(place) else folder


def _is_copy(place: Path) -> bool:
    """Return whether a folder is a copy of a corpus, False if there is none. Raises DataError for anything else."""
    if (place / ORIGIN).is_file() and (place / MANIFEST_NAME).is_file():
        return True
    if place.is_symlink() or place.exists():
        raise DataError(
            f"data.stage_to: {place} is in the place of a copy and is none (it has no {ORIGIN}). Move it away, or name "
            "another folder; nothing in it was touched."
        )
    return False


def _bytes(manifest: Manifest) -> int:
    return sum(shard["bytes"] for shard in manifest.shards)


def _copy(folder: Path, manifest: Manifest, place: Path) -> None:
    """Copy the shards of a corpus. Raises DataError if one is missing or has another hash than the manifest states."""
    with new_folder(place) as scratch:
        for shard in manifest.shards:
            try:
                path = shard_file(folder, shard["file"], shard["bytes"])
                if _copy_file(path, scratch / shard["file"]) != shard["sha256"]:
                    raise differs(path)
            except DataError:
                if read_manifest(folder / MANIFEST_NAME).shards == manifest.shards:
                    raise
                raise DataError(f"{folder}: was updated while it was copied. Repeat the command.") from None
        (scratch / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        facts = {"source": str(folder.absolute()), "content_hash": manifest.content_hash, "bytes": _bytes(manifest)}
        (scratch / ORIGIN).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _copy_file(source: Path, target: Path) -> str:
    """Copy a file by large reads and return the sha256 of what was read."""
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK))
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while count := reader.readinto(block):
            digest.update(block[:count])
            done = 0
            while done < count:
                done += writer.write(block[done:count]) or 0
    return digest.hexdigest()
