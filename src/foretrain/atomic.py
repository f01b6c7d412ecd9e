"""Files and folders that appear whole under their name or not at all, also after a kill or a power cut.

Everything is written under a scratch name in the same folder (names begin with a dot), synced, and renamed. The
functions raise OSError; callers turn it into an error for users.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk that takes no more
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


def sync(path: Path) -> None:
    """Sync a file's content or a folder's entries to disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise  # some network file systems have nothing to sync of a folder
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync a folder with all files and folders in it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in place and sync it: for scratch files and for files in scratch folders."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file in place and sync it. Raises ValueError for NaN and infinities."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False))


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A scratch file to write, which takes the place of `path` when the block ends and vanishes where it fails.

    For one writer at a time: the scratch name is `.tmp-NAME`, so that the next write removes what a kill left.
    """
    scratch = path.with_name(f".tmp-{path.name}")
    scratch.unlink(missing_ok=True)
    try:
        yield scratch
        sync(scratch)  # else a power cut after the rename can leave it empty
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    sync(path.parent)


def create_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that does not exist yet, and its parent folders. Raises FileExistsError where it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    try:
        write_text(scratch, text)
        try:
            os.link(scratch, path)  # unlike a rename, fails where the file exists
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def files_together(
    paths: Sequence[Path], unwritable: Callable[[Path, OSError], Exception]
) -> Iterator[dict[Path, Path]]:
    """Scratch files to write, with their paths' suffixes; when the block ends they take the places of the paths.

    Where the block fails none does, and parent folders that were made for them go. Raises unwritable(path, error) at
    once for a place where nothing can be written, and for what the disk refuses later.
    """
    scratch: dict[Path, Path] = {}
    made: list[Path] = []  # folders, outermost first
    done = False
    try:
        for path in paths:
            with _raise_unwritable(path, unwritable):
                lacking = [folder for folder in path.parents if not folder.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
                made += reversed(lacking)
                place = _beside(path)
                place.touch(exist_ok=False)
                scratch[path] = place
        try:
            yield scratch
        except OSError as error:
            path = next((p for p, place in scratch.items() if str(place) == str(error.filename)), None)
            if path is None and error.errno not in FULL:
                raise
            raise unwritable(path or paths[0], error) from None
        for path, place in scratch.items():
            with _raise_unwritable(path, unwritable):
                sync(place)
        for path, place in scratch.items():
            with _raise_unwritable(path, unwritable):
                place.replace(path)
        done = True
    finally:
        for place in scratch.values():
            place.unlink(missing_ok=True)
        for folder in [] if done else reversed(made):
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A scratch folder to fill, which becomes `path` when the block ends and vanishes where it fails.

    Parent folders are made. Raises OSError where something else than an empty folder has that name by then.
    """
    scratch = scratch_folder(path)
    try:
        yield scratch
        sync_tree(scratch)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync(path.parent)


@contextmanager
def replacing_folder(path: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """A scratch folder to fill, which takes the place of `path` when the block ends and vanishes where it fails.

    For one writer at a time: its name is `scratch`, by default `.tmp-NAME` beside `path`, so that the next write
    removes what a kill left.
    """
    scratch = scratch or path.with_name(f".tmp-{path.name}")
    empty_folder(scratch)
    try:
        yield scratch
        sync_tree(scratch)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(scratch, path)
    finally:
        remove(scratch)


def replace_folder(new: Path, path: Path) -> None:
    """Put a finished folder in the place of another, if there is one, in one step where the system can; delete that.

    Where it cannot, the old folder is `.old-NAME` between two renames, so that a kill leaves both folders whole.
    """
    aside = path.with_name(f".old-{path.name}")
    if not _exchange(new, path):
        if path.exists():
            remove(aside)
            path.rename(aside)
        try:
            new.rename(path)
        except OSError:
            if aside.exists() and not path.exists():
                aside.rename(path)
            raise
        new = aside
    for former in {new, aside}:
        remove(former)


def scratch_folder(path: Path) -> Path:
    """Make an empty folder beside `path` under a name that no other writer has, and its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    scratch.mkdir()
    return scratch


def empty_folder(path: Path) -> None:
    """Make a folder and its parents; what was there goes."""
    remove(path)
    path.mkdir(parents=True)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, as far as the disk lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")


@contextmanager
def _raise_unwritable(path: Path, unwritable: Callable[[Path, OSError], Exception]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from None


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders atomically (Linux renameat2); False where the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0
