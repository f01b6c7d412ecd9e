"""Checkpoints of runs as models: the release of a checkpoint is written into its folder when it is first asked for."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.errors import ModelError
from foretrain.forecasting import predictor
from foretrain.models.checkpoints import checkpoint_at, describe_checkpoint
from foretrain.notes import Code, Note, warn

if TYPE_CHECKING:
    from foretrain.distributed.world import World
    from foretrain.run.config import RunConfig

_log = logging.getLogger(__name__)


@functools.wraps(predictor.load)
def load(path_or_hub_id: str | os.PathLike[str], **how: Any) -> predictor.Predictor:
    """foretrain.load: forecasting.predictor.load, which a checkpoint of a run may be given too."""
    if "tokenizer" in how:
        how = {**how, "tokenizer": openable(how["tokenizer"])}
    return predictor.load(openable(path_or_hub_id), **how)


def openable(asked: str | os.PathLike[str]) -> str:
    """Return what was asked for or, if it names a checkpoint, that folder, in which a release then lies; log which
    checkpoint it is.

    Raises TrainingError if it is damaged, ModelError if the release cannot be written.
    """
    checkpoint = checkpoint_at(str(asked))
    if checkpoint is None:
        return str(asked)
    write_release_of(checkpoint)
    warn(_log, Note(Code.CHECKPOINT_OPENED, f"{asked} is a checkpoint: {describe_checkpoint(checkpoint)}."))
    return str(checkpoint)


def write_release_of(checkpoint: Path) -> None:
    """Write the release of a checkpoint, as its run would have released it, to its subfolder release, if it has none.

    That is with averaged weights if the run averages them, and with an adapter merged. Raises TrainingError if the
    checkpoint is damaged, ModelError if its folder cannot be written.
    """
    release = checkpoint / "release"
    if (release / "config.json").is_file():
        return
    from foretrain.run.export import export_checkpoint

    try:
        export_checkpoint(checkpoint, release, ema=None)
    except OSError as error:
        if (release / "config.json").is_file():  # another process was faster
            return
        raise ModelError(
            f"{release}: cannot be written ({error.strerror or error}), and a checkpoint is used by its release. Write "
            f"it elsewhere: foretrain export {checkpoint} --out FOLDER."
        ) from None


def with_checkpoints(config: RunConfig, world: World, saved: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the config with each checkpoint that its model section names as a folder in which a release lies.

    saved: the config of the run that is resumed, which began from the checkpoint that a name such as `latest` meant
    then. Every rank calls it. Raises TrainingError if a checkpoint is damaged, ModelError if no release can be written.
    """
    before, changes = (saved or {}).get("model") or {}, dict[str, str]()
    for key in ("model_id", "tokenizer", "architecture_of"):
        asked = getattr(config.model, key, None)
        if not asked or (found := checkpoint_at(asked)) is None:
            continue
        earlier = checkpoint_at(before.get(key) or asked)
        if not Path(asked).expanduser().exists() and earlier is not None and earlier.parent == found.parent:
            found = earlier
        world.on_main(lambda checkpoint=found: write_release_of(checkpoint))
        changes[key] = str(found)
    return config.model_copy(update={"model": config.model.model_copy(update=changes)}) if changes else config
