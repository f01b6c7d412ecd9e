"""`foretrain train`, on every rank."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from foretrain.config import dump_yaml, read_yaml
from foretrain.distributed.watch import Deadlines
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, MissingCorpusError
from foretrain.notes import Note, warn
from foretrain.processes import MOST_THREADS
from foretrain.run.config import RunConfig
from foretrain.run.dry_run import REFUSED, describe_run, describe_stages
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import train_run
from foretrain.training.launch import resume_after_restart
from foretrain.training.monitor import silence_stdout
from foretrain.training.settings import TrainingConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchFlags:
    """--per-device-train-batch-size and --gradient-accumulation-steps, upstream's flags for the batch size."""

    per_device: int | Literal["auto"] | None = None
    accumulation: int | None = None

    def overrides(self, tree: dict[str, Any], world_size: int) -> list[tuple[str, Any]]:
        """Return the overrides of batch_size and micro_batch_size: windows per step = micro x accumulation x processes.

        With auto the batch size stays. With a token budget the accumulation alone is its micro_batches_per_step. Empty
        if neither flag is given; `tree` holds the sections of the run. Raises ConfigError for auto and an accumulation.
        """
        if self.per_device is None and self.accumulation is None:
            return []
        section = tree.get("training") or {}
        if not isinstance(section, dict):
            return []  # building the config reports it
        if self.per_device is None and self.accumulation is not None and section.get("token_budget") is not None:
            return [("training.token_budget.micro_batches_per_step", self.accumulation * world_size)]
        micro = self.per_device or section.get("micro_batch_size")
        batch = section.get("batch_size", TrainingConfig.model_fields["batch_size"].default)
        if micro == "auto":
            if self.accumulation is not None:
                raise ConfigError(
                    "--gradient-accumulation-steps: training.micro_batch_size: auto chooses the accumulation. Give a "
                    "number in place of auto (--per-device-train-batch-size), or leave the flag out."
                )
            return [("training.micro_batch_size", micro)]
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
        if isinstance(section, dict) and bool(section.get("token_budget")) != bool(saved.get("token_budget")):
            return []  # resuming refuses it, and names the key
        if saved.get("token_budget"):
            steps = saved["token_budget"]["micro_batches_per_step"]
            return [] if self.accumulation is None else [("training.token_budget.micro_batches_per_step", steps)]
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
    verbose: bool = False,
) -> bool:
    """Run `foretrain train` on this rank: train a config or a pipeline, or with dry_run describe it.

    verbose: print the resolved config too. Returns False if a dry run found that the run would be refused.
    """
    draft = Draft.read(path, overrides, flags)
    device, threads = draft.merged.get("device", "auto"), draft.merged.get("threads")
    some = threads if isinstance(threads, int) and 0 < threads <= MOST_THREADS else None  # others are refused below
    with World.start(str(device), some, _deadlines(draft.merged.get("deadlines"))) as world:
        world.watch.folder = Path(str(draft.merged["output_dir"])) if draft.merged.get("output_dir") else None
        if not dry_run and (folder := draft.merged.get("output_dir")):
            resume = resume_after_restart(Path(str(folder)), world, resume)
        notes = _apply_batch(draft, batch, world.size, resume)
        config = draft.build()
        for note in notes if world.is_main else ():
            warn(_log, note)
        try:
            return _run(path, config, world, resume=resume, dry_run=dry_run, verbose=verbose)
        except MissingCorpusError as error:
            raise type(error)(f"{error}{_import_hint(path)}") from None


def _run(
    path: Path, config: RunConfig | StagesConfig, world: World, *, resume: str | None, dry_run: bool, verbose: bool
) -> bool:
    """Describe or train a config on this rank; returns as train_command."""

    def say(text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:  # the run continues, and its log is complete
            silence_stdout()

    if dry_run:
        if not world.is_main:
            return True
        staged = isinstance(config, StagesConfig)
        lines = describe_stages(config, world, resume, say) if staged else describe_run(config, world, resume, say)
        if verbose:
            say(f"\n{dump_yaml(config)}")
        return not any(line.startswith(REFUSED) for line in lines)
    if world.is_main and verbose:
        say(dump_yaml(config))
    notes = [f"config: {path}; resolved, with all defaults: {Path(config.output_dir) / 'config.yaml'}"]
    if isinstance(config, StagesConfig):
        run_stages(config, resume=resume, world=world, notes=notes)
    else:
        train_run(config, resume=resume, world=world, notes=notes)
    return True


def _deadlines(tree: Any) -> Deadlines:
    """Return the deadlines of a config; the usual ones where they are wrong, which building the config reports."""
    with suppress(ValidationError):
        return Deadlines.model_validate(tree or {})
    return Deadlines()


def _import_hint(path: Path) -> str:
    """Return where the config says how its corpora are made, if it does."""
    with suppress(OSError, UnicodeDecodeError):
        if any("data import" in line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"):
            return f" The first lines of {path} have the import that it was made for."
    return ""


def _apply_batch(draft: Draft, batch: BatchFlags, world_size: int, resume: str | None) -> list[Note]:
    """Apply the batch flags, or the sizes of a run that is resumed, and settle what the command line replaces."""
    notes = []
    for number, _, folder in list(draft.runs()):
        path = folder / "config.yaml"
        if resume is not None and path.is_file():
            saved = _saved(path)
            notes += draft.settle(number, saved=saved)
            draft.override(number, batch.resumed(saved["training"], _sections(draft, number)))
            continue
        changes = batch.overrides(_sections(draft, number), world_size)
        draft.override(number, changes)
        notes += draft.settle(number, given=[key for key, _ in changes])
    return notes


def _sections(draft: Draft, number: int | None) -> dict[str, Any]:
    return next(sections for k, sections, _ in draft.runs() if k == number)


def _saved(path: Path) -> dict[str, Any]:
    """Return a run folder's config.yaml, its training section complete. Raises ConfigError if that is damaged."""
    saved = read_yaml(path)
    section = saved.get("training")
    if not isinstance(section, dict) or not {"batch_size", "micro_batch_size"} <= section.keys():
        raise ConfigError(f"{path}: is damaged: its training section is incomplete. Restore it, or start a new run.")
    try:
        training = TrainingConfig.model_validate(section).model_dump(mode="json")
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(("training", *map(str, problem["loc"])))
        raise ConfigError(f"{path}: is damaged: {key}: {problem['msg']}. Restore it, or start a new run.") from None
    return {**saved, "training": training}
