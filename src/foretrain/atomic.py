"""Atomic writes: files and folders appear complete under their name or not at all, also after a kill or a power cut.

Everything is written under a scratch name in the same folder (names begin with a dot), synced, and renamed. The
functions raise OSError; callers turn it into an error for users. Only a name that another process took meanwhile is an
error for users here: DataError. What cannot be replaced, a device, a pipe or /dev/stdout, is written once all is
computed; a broken pipe stays a BrokenPipeError. A scratch name of several writers says which process made it, and the
next write of the same path deletes those of processes of this host that were killed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from foretrain.errors import DataError
from foretrain.processes import TAG, has_ended, tag

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a full disk
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)  # errors of a rename to a name that is there
_RENAME_EXCHANGE = 2  # flag of renameat2(2)
_AT_FDCWD = -100
_LONGEST_STEM = 100  # bytes of a name that its scratch name repeats: names may have 255


def is_stream(path: Path) -> bool:
    """Return whether a path names a device, pipe, socket or open file (/dev/stdout), which no rename replaces."""
    if open_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path such as /dev/stdout or /dev/fd/3 names; None for other paths.

    Such a name is a link to a file, if the shell sent the output there: opening it anew would begin at its start.
    """
    for _ in range(8):
        folder = os.path.realpath(path.parent)
        if re.fullmatch(rf"/dev/fd|/proc/{os.getpid()}(?:/task/\d+)?/fd", folder) and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, os.readlink(path))
    return None


def write_stream(path: Path, content: Path | str) -> None:
    """Write a text, or what a file holds, into a stream."""
    descriptor = open_descriptor(path)
    target = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
    with open(target, "wb") as stream:
        if isinstance(content, str):
            stream.write(content.encode())
            return
        with content.open("rb") as source:
            shutil.copyfileobj(source, stream)


def sync(path: Path) -> None:
    """Sync a file's content or a folder's entries to disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise  # some network file systems cannot sync a folder
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync a folder with all files and folders in it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file and sync it. Not atomic: for scratch files and files in scratch folders."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file and sync it, like write_text. Raises ValueError for NaN and infinities."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False))


@contextmanager
def replacing_file(path: Path, *, in_folder: bool = False) -> Iterator[Path]:
    """Yield a scratch file to write. It replaces `path` when the block ends and is deleted if the block fails.

    For one writer at a time: the scratch name is always `.tmp-NAME`, so that the next write deletes leftovers of a
    kill. in_folder: it is a folder that holds the scratch file, for writers that put scratch files of their own beside
    it.
    """
    if is_stream(path):
        raise OSError(errno.EPERM, "is a device or a pipe, which no file replaces", str(path))
    place = path.with_name(f".tmp-{path.name}")
    if in_folder:
        empty_folder(place)
    else:
        place.unlink(missing_ok=True)
    scratch = place / path.name if in_folder else place
    try:
        yield scratch
        sync(scratch)  # without it, a power cut after the rename can leave the file empty
        scratch.replace(path)
    finally:
        remove(place)
    sync(path.parent)


def remove_leftover(path: Path) -> None:
    """Delete what a kill left of a replacing_file(path), for those who find the file whole and write it no more."""
    remove(path.with_name(f".tmp-{path.name}"))


def remove_leftovers(folder: Path) -> None:
    """Delete what kills left of all replacing_file(folder / ...), for folders whose next files have other names."""
    for leftover in folder.glob(".tmp-*"):
        remove(leftover)


def create_text(path: Path, text: str) -> None:
    """Write a new UTF-8 file and its parent folders, or into a stream; none of them is there after an OSError.

    Raises FileExistsError if the file exists.
    """
    if is_stream(path):
        write_stream(path, text)
        return
    missing = [folder for folder in path.parents if not folder.exists()]
    done, scratch = False, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch_name(path)
        write_text(scratch, text)
        _create(path, scratch)
        sync_new(path)
        done = True
    finally:
        if scratch is not None:
            remove(scratch)
        remove_empty([] if done else missing)


@contextmanager
def files_together(
    paths: Sequence[Path], unwritable: Callable[[Path, OSError], Exception], *, new: Sequence[Path] = ()
) -> Iterator[dict[Path, Path]]:
    """Yield {path: scratch file with the same suffix} to write. The files replace their paths when the block ends, and
    what goes into streams is then copied there.

    If the block fails, no path changes, and parent folders created for them are deleted. Raises unwritable(path, error)
    on entry for a path that cannot be written, and later for errors of the disk. new: those of the paths that are not
    replaced; raises DataError if another process created one meanwhile.
    """
    scratch: dict[Path, Path] = {}
    streams: list[Path] = []
    created: list[Path] = []  # folders, innermost first
    done = False
    try:
        for path in paths:
            with _convert_errors(path, unwritable):
                if is_stream(path):
                    streams.append(path)
                    descriptor, name = tempfile.mkstemp(suffix=path.suffix)
                    os.close(descriptor)
                    scratch[path] = Path(name)
                    continue
                missing = [folder for folder in path.parents if not folder.exists()]
                created[:0] = missing
                path.parent.mkdir(parents=True, exist_ok=True)
                file = _scratch_name(path)
                file.touch(exist_ok=False)
                scratch[path] = file
        try:
            yield scratch
        except OSError as error:
            path = next((p for p, file in scratch.items() if str(file) == str(error.filename)), None)
            if path is None and error.errno not in FULL:
                raise
            raise unwritable(path or paths[0], error) from None
        files = {path: file for path, file in scratch.items() if path not in streams}
        for path, file in files.items():
            with _convert_errors(path, unwritable):
                sync(file)
        _create_all({path: file for path, file in files.items() if path in new}, unwritable)
        for path, file in files.items():
            with _convert_errors(path, unwritable):
                if path not in new:
                    file.replace(path)
        done = True
        for path in streams:
            with _convert_errors(path, unwritable):
                write_stream(path, scratch[path])
    finally:
        for file in scratch.values():
            remove(file)
        remove_empty([] if done else created)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a scratch folder to fill. It becomes `path` when the block ends and is deleted if the block fails.

    Parent folders are created, and deleted if the block fails. Raises DataError if `path` then exists and is not an
    empty folder.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    done, scratch = False, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch_name(path)
        scratch.mkdir()
        yield scratch
        sync_tree(scratch)
        try:
            scratch.rename(path)
        except OSError as error:
            raise _appeared(path) if error.errno in _TAKEN else error from None
        sync_new(path)
        done = True
    finally:
        if scratch is not None:
            remove(scratch)
        remove_empty([] if done else missing)


@contextmanager
def replacing_folder(path: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a scratch folder to fill. It replaces `path` when the block ends and is deleted if the block fails.

    For one writer at a time: its name is `scratch`, by default `.tmp-NAME` in the same folder as `path`, so that the
    next write removes leftovers of a kill.
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


def replace_folder(new: Path, path: Path, *, keep: Path | None = None) -> None:
    """Move a finished folder to `path`, and delete the folder that was there, if any, or move it to `keep`.

    If it cannot be moved there, it stays under a scratch name, since `path` is replaced by then and that is no error.
    This is one atomic step if the system can exchange folders. Otherwise the old folder is named `.old-NAME` between
    two renames, so that a kill leaves both folders complete.
    """
    old = path.with_name(f".old-{path.name}")
    if not _exchange(new, path):
        if path.exists():
            remove(old)
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        new = old
    if keep is not None and new.exists():
        remove(keep)
        try:
            new.rename(keep)
        except OSError:
            return
    for folder in {new, old}:
        remove(folder)


def copy_folder(source: Path, target: Path, copy: Callable[[Path, Path], Any] = shutil.copyfile) -> None:
    """Copy the files of a folder, and of those in it, into another, which is created if it is missing.

    Unlike shutil.copytree, it raises the first OSError as it is, and new files have the usual modes.
    """
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_folder(path, target / path.name, copy)
        else:
            copy(path, target / path.name)


def empty_folder(path: Path) -> None:
    """Create an empty folder and its parents; delete an existing one first."""
    remove(path)
    path.mkdir(parents=True)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its contents; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def tagged_name(folder: Path, stem: str, suffix: str = "") -> Path:
    """Return a new name in a folder that says which process made it; delete what killed processes left under such.

    A writer of the same stem and suffix finds such names again, whatever process it is.
    """
    pattern = re.compile(rf"{re.escape(stem)}\.({TAG})\.[0-9a-f]{{8}}{re.escape(suffix)}")
    with suppress(OSError):
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(stem)]
        for name in names:
            if (found := pattern.fullmatch(name)) and has_ended(found[1]):
                remove(folder / name)
    return folder / f"{stem}.{tag()}.{uuid.uuid4().hex[:8]}{suffix}"


def temporary_folder() -> Path:
    """Create an empty folder among the temporary files; those that killed processes left there are deleted."""
    folder = tagged_name(Path(tempfile.gettempdir()), "foretrain")
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def temporary_files() -> Iterator[Path]:
    """Yield such a folder, which is deleted when the block ends."""
    folder = temporary_folder()
    try:
        yield folder
    finally:
        remove(folder)


def sync_new(path: Path) -> None:
    """Sync the entry of a new file or folder; if the disk refuses that, delete it, as its writer will say it is not."""
    try:
        sync(path.parent)
    except OSError:
        remove(path)
        raise


def remove_empty(folders: Sequence[Path]) -> None:
    """Delete folders, innermost first, as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _create(path: Path, scratch: Path) -> None:
    """Give a finished file a name that nothing has. Raises FileExistsError if something has it."""
    try:
        os.link(scratch, path)  # unlike a rename, fails if the file exists
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        scratch.replace(path)


def _create_all(scratch: dict[Path, Path], unwritable: Callable[[Path, OSError], Exception]) -> None:
    """Give finished files their names, or none of them. Raises DataError if something has one."""
    created: list[Path] = []
    try:
        for path, file in scratch.items():
            with _convert_errors(path, unwritable):
                try:
                    _create(path, file)
                except FileExistsError:
                    raise _appeared(path) from None
            created.append(path)
    except BaseException:
        for path in created:
            path.unlink(missing_ok=True)
        raise


def _appeared(path: Path) -> DataError:
    return DataError(f"{path}: appeared while it was being written, and is not replaced. Choose another name.")


def _scratch_name(path: Path) -> Path:
    stem = path.stem.encode()[:_LONGEST_STEM].decode(errors="ignore")
    return tagged_name(path.parent, f".{stem}", path.suffix)


@contextmanager
def _convert_errors(path: Path, unwritable: Callable[[Path, OSError], Exception]) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has had enough, which is no error of the path
        raise
    except OSError as error:
        raise unwritable(path, error) from None


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders atomically (Linux renameat2); return False if the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0
