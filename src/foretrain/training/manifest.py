"""Manifests of checkpoints: what a folder says of itself, whether its files are those of its hashes, its state.json."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foretrain.errors import TrainingError
from foretrain.models.checkpoints import MANIFEST, STATE
from foretrain.reading import Unreadable, read_object
from foretrain.training.ranking import EvaluatorScore
from foretrain.training.saved_state import OTHER_CHECKPOINT, check_manifest, check_state

FORMAT = 1


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint as its manifest describes it."""

    path: Path
    step: int
    metric: float | None  # best_metric of its weights; None if they were not validated
    final: bool
    scores: dict[str, EvaluatorScore] = field(default_factory=dict)  # by evaluator


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint. Raises TrainingError if it is missing or invalid."""
    try:
        manifest = read_object(path / MANIFEST)
        if manifest["format"] != FORMAT:
            raise TrainingError(
                f"{path}: checkpoint format {manifest['format']} is not {FORMAT}; use the version of foretrain that "
                "wrote it."
            )
        expected = manifest.pop("sha256")
        if expected != _digest(manifest):
            raise ValueError("its own sha256 differs")
        check_manifest(manifest)
    except FileNotFoundError:
        raise TrainingError(f"{path}: no {MANIFEST}; not a complete checkpoint of a run.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path / MANIFEST}: cannot be read ({error}).") from None
    return manifest


def read_info(path: Path) -> CheckpointInfo:
    """Read what the manifest of a checkpoint says of it. Raises TrainingError as read_manifest does."""
    manifest = read_manifest(path)
    scores = {name: EvaluatorScore(**entry) for name, entry in manifest.get("metrics", {}).items()}
    return CheckpointInfo(path, manifest["step"], manifest["metric"], bool(manifest["final"]), scores)


def make_manifest(
    step: int,
    metric: float | None,
    final: bool,
    files: dict[str, Any],
    scores: Mapping[str, EvaluatorScore] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a checkpoint: step, metric, files with their hashes, and a hash over all of these; of
    weights that evaluators have scored their scores too."""
    number = None if metric is None or not math.isfinite(metric) else metric
    manifest: dict[str, Any] = {"format": FORMAT, "step": step, "metric": number, "final": final, "files": files}
    if scores:
        manifest["metrics"] = {name: asdict(score) for name, score in scores.items()}
    return manifest | {"sha256": _digest(manifest)}


def read_state(path: Path) -> dict[str, Any]:
    """Read state.json of a checkpoint: train state, config, batch sizes, data fingerprint."""
    try:
        return read_object(path / STATE)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path / STATE}: cannot be read ({error}).") from None


def read_run_state(path: Path) -> dict[str, Any]:
    """Read the state.json that a run has written, with every key that a resume reads. Raises TrainingError."""
    state = read_state(path)
    try:
        check_state(state)
    except Unreadable as error:
        raise TrainingError(f"{path / STATE}: cannot be used ({error}). {OTHER_CHECKPOINT}") from None
    return state


def damage(path: Path) -> str | None:
    """Describe the damage of a checkpoint; None if every file has the hash that the manifest states."""
    try:
        files = read_manifest(path)["files"]
        for name, entry in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if file_entry(file)["sha256"] != entry["sha256"]:
                return f"the contents of {name} have changed (sha256 differs)"
    except (TrainingError, OSError) as error:
        return str(error)
    return None


def file_entry(file: Path) -> dict[str, Any]:
    """Return what a manifest says of a file: its sha256 and size."""
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint. It is renamed first, so that an interrupted deletion does not look like damage."""
    trash = path.with_name(f".trash-{path.name}")
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
