"""The release folder at the end of a run, and its familiar names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from foretrain.errors import TrainingError
from foretrain.models.base import Trainable
from foretrain.training.checkpoint import sync_folder, write_json

ALIASES = ("best_model", "hf_export")


def write_release(output_dir: Path, model: Trainable, state: dict[str, Tensor] | None, facts: dict[str, Any]) -> Path:
    """Write release/ (the family's files and release.json) and hard links to it under its familiar names.

    A release that was there is replaced by a rename, so that at any moment there is a complete one or none.
    """
    target, temporary = output_dir / "release", output_dir / ".tmp-release"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        model.save_release(temporary, state)
        write_json(temporary / "release.json", facts)
        for path in temporary.rglob("*"):  # folders too: both keep what was written from a power cut
            sync_folder(path)
        sync_folder(temporary)
        _replace(temporary, target)
        _link_folder(target, output_dir, ALIASES)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"{target}: the release could not be written: {error.strerror or error}. The checkpoints are intact; free "
            "some space and resume, or export one elsewhere."
        ) from error
    return target


def link_release(release: Path, output_dir: Path) -> None:
    """Make a stage's release that of the whole pipeline, under every name, by hard links (copies where impossible)."""
    try:
        _link_folder(release, output_dir, ("release", *ALIASES))
    except OSError as error:
        raise TrainingError(
            f"{output_dir / 'release'}: the release could not be put there: {error.strerror or error}. It is complete "
            f"in {release}; free some space and resume."
        ) from error


def read_release(folder: Path) -> dict[str, Any]:
    """The release.json of a release."""
    return json.loads((folder / "release.json").read_text(encoding="utf-8"))


def _link_folder(source: Path, output_dir: Path, names: tuple[str, ...]) -> None:
    for name in names:
        copy = output_dir / f".tmp-{name}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy, copy_function=_link)
        _replace(copy, output_dir / name)


def _replace(new: Path, target: Path) -> None:
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target
