"""Files of a hub repository of data sets: its commit, what a data set has, and one file fetched and checked.

huggingface_hub asks, with the user's token, proxies and certificates; a name, a size or a content that a server sends
is believed only as far as it is checked here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.atomic import remove
from foretrain.errors import DataError
from foretrain.models.hub_errors import hub_says
from foretrain.printing import printable

# Names of files that a layout reads; scripts and all else of a repository are never fetched
LAYOUTS = {"parquet": (".parquet",), "arrow": (".arrow", "state.json", "dataset_info.json")}
MOST_FILES = 10_000  # of a data set
LARGEST_FILE = 50 * 10**9  # bytes: the hub serves no larger file by plain HTTP
_CHUNK = 1 << 20
_NO_RANGE = 416  # HTTP status: the range begins behind the end
Progress = Callable[[int], None]  # bytes that arrived; negative: those that are fetched anew


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it."""

    path: str  # in the repository
    size: int  # bytes
    sha256: str | None  # of its content, where the hub states it (large files)
    blob: str  # git's hash of it, or of a pointer to it if sha256 is there

    @property
    def identity(self) -> str:
        """A name that no other content has."""
        return self.sha256 or self.blob


def commit_of(repository: str, revision: str) -> str:
    """Return the commit that a revision of a repository of data sets is. Raises DataError."""
    import huggingface_hub as hub

    with hub_errors(f"{repository} (revision {revision})"):
        commit = hub.HfApi().dataset_info(repository, revision=revision).sha
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise DataError(f"{repository} (revision {revision}): the hub names no commit. Check the connection.")
    return commit


def files_of(repository: str, commit: str, dataset: str, layout: str) -> list[HubFile]:
    """Return the files of a data set that its layout reads, sorted. Raises DataError, also if there are none."""
    import huggingface_hub as hub
    from huggingface_hub.hf_api import RepoFile

    label = f"{repository}/{dataset}"
    found: list[HubFile] = []
    with hub_errors(label):
        api = hub.HfApi()
        for entry in api.list_repo_tree(repository, dataset, recursive=True, revision=commit, repo_type="dataset"):
            if not isinstance(entry, RepoFile):
                continue
            found.append(_checked(entry, dataset))
            if len(found) > MOST_FILES:
                raise DataError(f"{label}: the hub lists more than {MOST_FILES:,} files.")
    found = sorted((file for file in found if is_read(file.path, layout)), key=lambda file: file.path)
    if not found:
        raise DataError(f"{label}: the hub has no such data set ({' or '.join(LAYOUTS[layout])}) in commit {commit}.")
    return found


def is_read(path: str, layout: str) -> bool:
    """Return whether a layout reads a file of this name."""
    return path.endswith(LAYOUTS[layout])


def _checked(entry: Any, dataset: str) -> HubFile:
    """Return a listed file. Raises DataError for a name outside its folder, a hash or a size that is none."""
    path, size, blob = entry.path, entry.size, entry.blob_id
    inside = isinstance(path, str) and path.startswith(f"{dataset}/") and printable(path) == path
    if not inside or "\\" in path or any(part in ("", ".", "..") or len(part) > 200 for part in path.split("/")):
        raise DataError(
            f"{dataset}: the hub lists {str(path)[:80]!r}, which is no file of its folder. None is fetched."
        )
    sha256 = entry.lfs.sha256 if entry.lfs is not None else None
    hashes = re.fullmatch("[0-9a-f]{40}", str(blob)) and (sha256 is None or re.fullmatch("[0-9a-f]{64}", str(sha256)))
    if not hashes or not isinstance(size, int) or not 0 <= size <= LARGEST_FILE:
        raise DataError(
            f"{path}: the hub lists it with {str(size)[:30]} bytes, or a hash that is none. None is fetched."
        )
    return HubFile(path, size, sha256, blob)


def differs(path: Path, file: HubFile) -> str | None:
    """Return in which way a local file is not the listed one; None if it has the same size and content."""
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes, and the hub lists {file.size:,}"
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == file.identity:
        return None
    return f"has the hash {digest.hexdigest()[:12]}, and the hub lists {file.identity[:12]}"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class _Bounded:
    """A file that takes no more bytes than were announced, and tells of those that it takes."""

    def __init__(self, opened: Any, label: str, limit: int, progress: Progress) -> None:
        self._opened, self._label, self._limit, self._progress = opened, label, limit, progress

    def write(self, chunk: bytes) -> int:
        """Write. Raises DataError for more bytes than the hub lists."""
        if self._opened.tell() + len(chunk) > self._limit:
            raise DataError(f"{self._label}: the server sends more than the {self._limit:,} bytes that the hub lists.")
        self._progress(len(chunk))
        return self._opened.write(chunk)

    def seek(self, place: int, whence: int = 0) -> int:
        """Move to a place."""
        return self._opened.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._opened.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut the file, as when a server answers with the whole file and not with the rest."""
        kept = self._opened.tell() if size is None else size
        place, end = self._opened.tell(), self._opened.seek(0, 2)
        self._opened.seek(place)
        self._progress(kept - end)
        return self._opened.truncate(kept)


def fetch(repository: str, commit: str, file: HubFile, partial: Path, progress: Progress) -> None:
    """Fetch a file into `partial`, from where an earlier call was cut, and check it.

    Raises DataError: a connection that is cut leaves what arrived, for the next call; a wrong content is deleted.
    """
    import huggingface_hub as hub
    from huggingface_hub.file_download import http_get

    label = f"{repository}/{file.path}"
    cached = hub.try_to_load_from_cache(repository, file.path, revision=commit, repo_type="dataset")
    if isinstance(cached, str) and not differs(Path(cached), file):
        copy_file(Path(cached), partial)
        progress(file.size)
        return
    there = partial.stat().st_size if partial.is_file() else 0
    if there > file.size:
        remove(partial)
        there = 0
    if there:
        progress(there)
    url = hub.hf_hub_url(repository, file.path, repo_type="dataset", revision=commit)
    with partial.open("ab") as opened:
        opened.seek(there)
        try:
            with hub_errors(label):
                target: Any = _Bounded(opened, label, file.size, progress)
                headers = hub.utils.build_hf_headers() | {"Accept-Encoding": "identity"}
                http_get(url, target, resume_size=there, headers=headers, expected_size=file.size)
        except Unreachable as error:
            opened.flush()
            arrived = opened.tell()
            response = getattr(error.__context__, "response", None)
            if getattr(response, "status_code", None) == _NO_RANGE:  # the server's file is shorter than what is here
                remove(partial)
            raise DataError(
                f"{error}. {arrived:,} of {file.size:,} bytes arrived; repeat the command to go on."
            ) from None
    if reason := differs(partial, file):
        remove(partial)
        raise DataError(f"{label}: what arrived {reason}; it was deleted. Repeat the command, or try another network.")


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file; reads links."""
    import shutil

    with source.open("rb") as opened, target.open("wb") as out:
        shutil.copyfileobj(opened, out, _CHUNK)


class Unreachable(DataError):
    """The hub did not answer, or not to the end."""


@contextmanager
def hub_errors(label: str) -> Iterator[None]:
    """While entered, raise errors of the hub library as a DataError in one line without secrets."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # any: the library's are of many types
        kind, text = hub_says(error, "data set")
        if kind in ("uncached", "unreachable"):
            raise Unreachable(f"{label}: {text}") from None
        raise DataError(f"{label}: {text}.") from None
