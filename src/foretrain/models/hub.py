"""Locating a release: a local folder, a model in the box, or a repository on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

from foretrain.errors import ModelError, UnreadableError
from foretrain.models.checkpoints import checkpoint_at, checkpoints_beside, is_checkpoint, steps_in
from foretrain.models.hub_errors import hub_says, reason
from foretrain.models.shipped import shipped
from foretrain.notes import Code, Note, warn
from foretrain.reading import read_object

# Files of a release that are downloaded; pickled weights never are.
_FILES = ["*.json", "*.safetensors"]
_log = logging.getLogger(__name__)
_SHOWN = 4  # checkpoints that an error names
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(id_or_path: str | Path, revision: str | None = None, offline: bool = False) -> Path:
    """Return the folder of a release: the path itself if it exists, else that of a model in the box, else a cached
    download of the hub repository. Logs a note if a folder has the name of a model in the box.

    Args:
        id_or_path: a release folder, a run folder or a checkpoint (its release/ is used), the name of a model in the
            box ("tiny"), or "organisation/name".
        revision: branch, tag or commit on the hub.
        offline: use earlier downloads only, never the network.

    Raises:
        ModelError: no such folder or repository, or the hub cannot be reached.
        OSError: the disk failed, or is full, during a download.
    """
    path, name = Path(id_or_path).expanduser(), str(id_or_path)
    if not name.strip():
        names = " or ".join(shipped())
        raise ModelError(f"no model is named ({name!r}): give a release or run folder, a hub id, or {names}.")
    folder = local_folder(id_or_path)
    if folder is not None:
        if name in shipped() and folder != shipped()[name]:
            text = f"{name} is a folder here, which is used, and not the model in the box of that name."
            warn(_log, Note(Code.FOLDER_NAMED_AS_SHIPPED, text))
        if not (folder / "config.json").exists() and any(map(steps_in, (folder, folder / "checkpoints"))):
            raise ModelError(
                f"{folder}: holds checkpoints and no release. Name one: {folder / 'best'} or {folder / 'latest'}."
            )
        if is_checkpoint(folder):
            raise ModelError(
                f"{folder}: is a checkpoint, and no release of it was written yet: foretrain export {folder} --out "
                "FOLDER writes one."
            )
        return folder
    if path.exists():
        raise ModelError(f"{path}: is a file; a model is a folder with config.json and model.safetensors.")
    if found := checkpoints_beside(path):
        names = ", ".join(step.name for step in found[-_SHOWN:])
        more = f"{len(found) - _SHOWN:,} older ones, " if len(found) > _SHOWN else ""
        raise ModelError(f"{path}: no such folder or checkpoint; its run has {more}{names} (also: best, latest).")
    if not _HUB_ID.fullmatch(name):
        box = f"a model in the box ({', '.join(shipped())})"
        raise ModelError(f"{name}: no such folder, and neither {box} nor a hub id like 'amazon/chronos-2'.")
    return _download(name, revision, offline)


def local_folder(id_or_path: str | Path) -> Path | None:
    """Return the folder of a release that needs no download: a path that is a folder, else a model in the box.

    None for anything else.
    """
    path = Path(id_or_path).expanduser()
    if (found := checkpoint_at(path) or path).is_dir():
        return release_in(found)
    return None if path.exists() else shipped().get(str(id_or_path))


def release_in(folder: Path) -> Path:
    """Return the release/ inside a run folder or a checkpoint; any other folder is returned unchanged."""
    inside = folder / "release"
    is_run = not (folder / "config.json").exists() and (inside / "config.json").exists()
    return inside if is_run else folder


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the release.json of a release, run or adapter folder; {} if there is none.

    Raises ModelError if it cannot be read (UnreadableError if the system fails to), or says of its parents what no
    release says.
    """
    path = release_in(folder) / "release.json"
    try:
        facts = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UnreadableError(
            f"{path}: cannot be read ({error.strerror or error}). Restore it, or remove it."
        ) from None
    except ValueError as error:
        raise ModelError(f"{path}: cannot be read ({error}). Restore it, or remove it.") from None
    parents = facts.get("parents")
    if parents is not None and not (isinstance(parents, dict) and all(isinstance(p, dict) for p in parents.values())):
        raise ModelError(f"{path}: parents is {str(parents)[:60]!r}, not facts by role. Restore it, or remove it.")
    return facts


def release_hash(folder: Path) -> str:
    """Return the sha256 over names and bytes of a release's config.json and weights; it identifies the content.

    Raises ModelError if a file is missing, UnreadableError if the system fails to read it.
    """
    digest = hashlib.sha256()
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    for path in files:
        digest.update(path.name.encode() + b"\0")
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}).") from None
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read ({error.strerror or error}).") from None
    return digest.hexdigest()


def _download(name: str, revision: str | None, offline: bool) -> Path:
    import huggingface_hub as hub

    label = f"{name} (revision {revision})" if revision else name
    try:
        folder = hub.snapshot_download(name, revision=revision, allow_patterns=_FILES, local_files_only=offline)
    except Exception as error:  # any: the library's are of many types
        says = hub_says(error, "model")
        text = says.text
        if says.kind == "repository":
            text = f"no such folder, and {text}"
        elif says.kind == "uncached":
            remedy = "run once without offline" if offline else "check the connection, or give a local folder"
            why = "" if offline or error.__cause__ is None else f" ({reason(error.__cause__)})"
            text = f"no such folder, and not downloaded before{why}; {remedy}"
        elif says.kind == "unreachable":
            text = f"{text}; check the connection, or give a folder"
        raise ModelError(f"{label}: {text}.") from None
    return Path(folder)
