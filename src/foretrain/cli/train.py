"""`foretrain train`, on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.config import dump_yaml, read_yaml
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.run.dry_run import describe_run, describe_stages
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import train_run
from foretrain.training.monitor import silence_stdout
from foretrain.training.settings import TrainingConfig


@dataclass(frozen=True)
class BatchFlags:
    """--per-device-train-batch-size and --gradient-accumulation-steps, upstream's flags for the batch size."""

    per_device: int | None = None
    accumulation: int | None = None

    def overrides(self, tree: dict[str, Any], world_size: int) -> list[tuple[str, Any]]:
        """Return the overrides of batch_size and micro_batch_size: windows per step = micro x accumulation x processes.

        Empty if neither flag is given; `tree` holds the sections of the run.
        """
        if self.per_device is None and self.accumulation is None:
            return []
        section = tree.get("training") or {}
        if not isinstance(section, dict):
            return []  # building the config reports it
        micro = self.per_device or section.get("micro_batch_size")
        batch = section.get("batch_size", TrainingConfig.model_fields["batch_size"].default)
        if not isinstance(batch, int) or not isinstance(micro, int | None):
            return []
        if micro is None:
            micro = max(1, batch // ((self.accumulation or 1) * world_size))
        accumulation = self.accumulation or 1
        return [("training.micro_batch_size", micro), ("training.batch_size", micro * accumulation * world_size)]

    def resumed(self, saved: dict[str, Any], tree: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return the overrides for a resumed run: the saved batch size, and the saved micro-batch size unless one is
        given."""
        section = tree.get("training")
        given = self.per_device or (section.get("micro_batch_size") if isinstance(section, dict) else None)
        return [
            ("training.micro_batch_size", given or saved["micro_batch_size"]),
            ("training.batch_size", saved["batch_size"]),
        ]


def train_command(
    path: Path,
    overrides: list[Any],
    *,
    flags: Mapping[str, Any] | None = None,
    batch: BatchFlags,
    resume: str | None = None,
    dry_run: bool = False,
) -> None:
    """Run `foretrain train` on this rank: train a config or a pipeline, or with dry_run describe it."""
    draft = Draft.read(path, overrides, flags)
    device, threads = draft.merged.get("device", "auto"), draft.merged.get("threads")
    with World.start(str(device), threads if isinstance(threads, int) and threads > 0 else None) as world:
        for number, sections, folder in list(draft.runs()):
            saved = folder / "config.yaml"
            if resume is not None and saved.is_file():
                draft.override(number, batch.resumed(_saved_training(saved), sections))
            else:
                draft.override(number, batch.overrides(sections, world.size))
        config = draft.build()
        if dry_run:
            if world.is_main:
                staged = isinstance(config, StagesConfig)
                lines = describe_stages(config, world, resume) if staged else describe_run(config, world, resume)
                print("\n".join(lines))
            return
        if world.is_main:
            try:
                print(dump_yaml(config), end="", flush=True)
            except BrokenPipeError:
                silence_stdout()
        if isinstance(config, StagesConfig):
            run_stages(config, resume=resume, world=world)
        else:
            train_run(config, resume=resume, world=world)


def _saved_training(path: Path) -> dict[str, Any]:
    """Return the training section of a run folder's config.yaml. Raises ConfigError if it is damaged."""
    section = read_yaml(path).get("training")
    if not isinstance(section, dict) or not {"batch_size", "micro_batch_size"} <= section.keys():
        raise ConfigError(f"{path}: is damaged: its training section is incomplete. Restore it, or start a new run.")
    return section
