"""Where raw public files lie: in a folder and those below it, and in git repositories there, bare ones too.

Of a repository the files of its newest commit (HEAD) are read by git, which runs nothing of it and asks no server.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foretrain.atomic import remove
from foretrain.errors import DataError
from foretrain.suites.definition import RawSource
from foretrain.suites.raw_files import LARGEST

_POINTER = b"version https://git-lfs.github.com/spec/"
_QUIET = {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat"}
_REPOSITORY = re.compile(r"github\.com/[\w.-]+/([\w.-]*\w)")  # in the origin of a source


@dataclass(frozen=True)
class RawPlace:
    """A file, in a folder or in a git repository."""

    path: Path  # of the file, or of the repository
    member: str | None = None  # its path in the repository
    blob: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"


@dataclass(frozen=True)
class Staged:
    """The files of a raw source in a folder of their own."""

    folder: Path
    files: dict[str, dict[str, int | str]]  # name -> bytes, sha256


class RawPlaces:
    """Raw files of a folder, found once and staged source by source into a scratch folder."""

    def __init__(self, folder: Path, scratch: Path, sources: Sequence[RawSource]) -> None:
        self._scratch = scratch
        wanted = {name for source in sources for name in _names(source)}
        self._places: dict[str, list[RawPlace]] = {}
        for place in _walk(folder, wanted):
            name = (place.member or place.path.name).rpartition("/")[2]
            self._places.setdefault(name, []).append(place)

    def stage(self, name: str, source: RawSource) -> Staged | None:
        """Return the files of a source; None if one is not there. Raises DataError for those that cannot be read."""
        folder = self._scratch / name
        remove(folder)
        folder.mkdir()
        files: dict[str, dict[str, int | str]] = {}
        for file in source.files:
            forms = (file, f"{file}.gz", source.archive)
            there = [form for form in forms if form and form in self._places]
            if not there:
                return None
            if not any(form in files for form in there):
                form, facts = self._first(there, source, folder)
                files[form] = facts
        return Staged(folder, files)

    def _first(self, forms: Sequence[str], source: RawSource, folder: Path) -> tuple[str, dict[str, int | str]]:
        """Return the first form that can be read. Raises DataError of the first if none can."""
        problem: DataError | None = None
        for form in forms:
            try:
                return form, _stage(self._one(form, source), folder / form)
            except DataError as error:
                remove(folder / form)
                problem = problem or error
        assert problem is not None
        raise problem

    def _one(self, name: str, source: RawSource) -> RawPlace:
        """Return the place of a file. Raises DataError if several differ and none is of the source's repository."""
        places = self._places[name]
        if len(places) > 1 and (repository := _REPOSITORY.search(source.origin)):
            places = [place for place in places if repository[1] in re.split(r"[/+]", str(place))] or places
        by_content = {_sha256(place): place for place in reversed(places)} if len(places) > 1 else {"": places[0]}
        if len(by_content) > 1:
            shown = " and ".join(sorted(map(str, by_content.values()))[:2])
            raise DataError(f"{name}: {shown} differ. Name the folder of one with --from; it is of {source.origin}.")
        return places[0]


def _names(source: RawSource) -> list[str]:
    return [*source.files, *(f"{name}.gz" for name in source.files), *([source.archive] if source.archive else [])]


def _walk(folder: Path, wanted: set[str]) -> list[RawPlace]:
    """Return the wanted files of a folder: those that lie there, then those that only a git repository has."""
    plain: list[RawPlace] = []
    repositories: list[Path] = [folder] if _is_repository(folder) else []
    for here, folders, names in os.walk(folder) if not repositories else ():
        inner = [Path(here, name) for name in folders]
        repositories += [path for path in inner if _is_repository(path)]
        folders[:] = sorted(path.name for path in inner if path not in repositories and not path.name.startswith("."))
        plain += [RawPlace(Path(here, name)) for name in sorted(names) if name in wanted and Path(here, name).is_file()]
    found = plain
    for repository in sorted(repositories):
        above = repository.parent if repository.name == ".git" else None
        packed = [place for place in _committed(repository) if str(place.member).rpartition("/")[2] in wanted]
        found += [place for place in packed if above is None or RawPlace(above / str(place.member)) not in plain]
    return found


def _is_repository(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def _committed(repository: Path) -> list[RawPlace]:
    """Return the files of a repository's newest commit."""
    listing = _git(repository, "ls-tree", "-r", "-z", "--full-tree", "HEAD")
    found = []
    for entry in listing.split(b"\0"):
        facts, _, name = entry.partition(b"\t")
        if name and facts.startswith(b"100"):  # a file, no link and no submodule
            found.append(RawPlace(repository, os.fsdecode(name), facts.split()[2].decode()))
    return found


def _git(repository: Path, *words: str) -> bytes:
    """Return what git says. Raises DataError."""
    command = ["git", f"--git-dir={repository}", *words]
    try:
        done = subprocess.run(command, env=os.environ | _QUIET, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{repository}: is a git repository, and git cannot be run ({reason}). Check it out.") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:150]
        raise DataError(f"{repository}: git {words[0]} failed ({said}). Clone the repository anew.")
    return done.stdout


def _content(place: RawPlace) -> bytes:
    """Return the content of a file in a repository, of at most LARGEST bytes. Raises DataError."""
    blob = str(place.blob)
    if int(_git(place.path, "cat-file", "-s", blob)) > LARGEST:
        raise DataError(f"{place}: has more than {LARGEST:,} bytes.")
    return _git(place.path, "cat-file", "blob", blob)


def _sha256(place: RawPlace) -> str:
    try:
        if place.blob is not None:
            return hashlib.sha256(_content(place)).hexdigest()
        with place.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}.") from None


def _stage(place: RawPlace, target: Path) -> dict[str, int | str]:
    """Put a file at a target, and return its size and hash. Raises DataError for a pointer in its place."""
    if place.blob is None:
        target.symlink_to(place.path.absolute())
    else:
        target.write_bytes(_content(place))
    with target.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise DataError(f"{place}: is a pointer of git LFS, not the file. Run `git lfs pull` there.")
    return {"bytes": target.stat().st_size, "sha256": _sha256(RawPlace(target))}
