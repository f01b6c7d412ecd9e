"""Which checkpoint a run continues from, and whether it may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from foretrain.atomic import remove_leftovers
from foretrain.config import Section
from foretrain.errors import TrainingError
from foretrain.models.checkpoints import steps_in
from foretrain.reading import resolved
from foretrain.training.checkpoint import CheckpointManager
from foretrain.training.manifest import damage
from foretrain.training.settings import check_resumable


def checkpoint_to_resume(
    resume: Literal["auto"] | str | Path | None,
    output_dir: Path,
    checkpoints: CheckpointManager,
    log: Callable[[str], None],
) -> Path | None:
    """Return the checkpoint to resume from, verified; None for a new run. Runs on rank 0.

    resume: as of Trainer. What a killed process left incomplete is removed. Raises TrainingError for a damaged
    checkpoint, and for a folder that holds a run if that is not to be resumed.
    """
    existing = steps_in(checkpoints.folder)
    if resume is None:
        if existing or (output_dir / "metrics.jsonl").exists():
            raise TrainingError(
                f"{output_dir} already holds a run. Continue it with --resume, or choose another output_dir."
            )
        checkpoints.clean()
        return None
    checkpoints.clean()
    remove_leftovers(output_dir / "nonfinite")
    if resume == "auto":
        path = checkpoints.newest_intact(log)
        if path:
            log(f"resuming from {path}")
        return path
    path = Path(resume)
    if problem := damage(path):
        raise TrainingError(f"{path}: cannot be resumed from: {problem}")
    if resolved(path).parent != resolved(checkpoints.folder) and existing:
        raise TrainingError(
            f"{output_dir} already holds a run, and {path} belongs to another. Choose another output_dir."
        )
    log(f"resuming from {path}")
    return path


def changes_since(
    path: Path,
    saved: dict[str, Any],
    config: dict[str, Any],
    schema: type[Section],
    *,
    data: str,
    seed: int,
    batch_size: int,
) -> list[str]:
    """Return notes on what changed since a checkpoint was written. Raises TrainingError for what may not change.

    saved: its state; config: a dump of `schema`; data: the fingerprint of the source; batch_size: of the plan.
    """
    notes = check_resumable(saved["config"], config, schema)
    if saved["data_fingerprint"] != data:
        raise TrainingError(
            f"{path}: was trained on other data (fingerprint {saved['data_fingerprint']}, now {data}). Restore the "
            f"corpus{_lists_of(config)}, or start a new run in another output_dir."
        )
    for name, current in (("seed", seed), ("batch_size", batch_size)):
        if saved[name] != current:
            raise TrainingError(
                f"{path}: was trained with {name} {saved[name]}, not {current}. Restore {name}, or start a new run in "
                "another output_dir."
            )
    if saved["threads"] != torch.get_num_threads():
        notes.append(
            f"warning: {torch.get_num_threads()} threads now, {saved['threads']} before: sums may differ in their last "
            "bits"
        )
    return notes


def _lists_of(config: dict[str, Any]) -> str:
    """Return the keys of a config that name lists outside of it, which are part of the data, in words; "" for none."""
    data = config.get("data") or {}
    given = [key for key in ("items", "holdout_items") if data.get(key)]
    outside = [key for key in given if any(entry.startswith(("file:", "subset:")) for entry in data[key])]
    return "".join(f", and what data.{key} names" for key in outside)
