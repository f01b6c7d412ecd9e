"""Checkpoints of runs as models: the release of a checkpoint is written into its folder when it is first asked for."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import remove
from foretrain.errors import ForetrainError, ModelError
from foretrain.forecasting import predictor
from foretrain.models.checkpoints import checkpoint_at, describe_checkpoint, is_checkpoint
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

    Raises TrainingError if it is damaged, ModelError if the release cannot be written or the run deletes it meanwhile.
    """
    checkpoint = _with_release(str(asked))
    if checkpoint is None:
        return str(asked)
    warn(_log, Note(Code.CHECKPOINT_OPENED, f"{asked} is a checkpoint: {describe_checkpoint(checkpoint)}."))
    return str(checkpoint)


def write_release_of(checkpoint: Path) -> None:
    """Write the release of a checkpoint, as its run would have released it, to its subfolder release, if it has none.

    That is with averaged weights if the run averages them, and with an adapter merged. Raises TrainingError if the
    checkpoint is damaged, ModelError if its folder cannot be written or is deleted meanwhile, as a run that trains does
    with all but its newest and best.
    """
    release = checkpoint / "release"
    if (release / "config.json").is_file():
        return
    from foretrain.run.export import export_checkpoint

    gone = ModelError(f"{checkpoint}: its run deleted it meanwhile (training.keep_last, keep_best). Name another one.")
    try:
        export_checkpoint(checkpoint, release, ema=None)
    except (OSError, ForetrainError) as error:
        if not is_checkpoint(checkpoint):
            raise gone from None
        if (release / "config.json").is_file():  # another process was faster
            return
        if isinstance(error, ForetrainError):
            raise
        raise ModelError(
            f"{release}: cannot be written ({error.strerror or error}), and a checkpoint is used by its release. Write "
            f"it elsewhere: foretrain export {checkpoint} --out FOLDER."
        ) from None
    if not is_checkpoint(checkpoint):  # what was written created its folder anew
        remove(release)
        with suppress(OSError):
            checkpoint.rmdir()
        raise gone


def _with_release(asked: str, find: Callable[[str], Path | None] = checkpoint_at) -> Path | None:
    """Return the checkpoint that `find` gives for what was asked for, in which a release then lies; None if it gives
    none. If it is deleted meanwhile, a name such as `latest` means another one; raises as write_release_of."""
    while (checkpoint := find(asked)) is not None:
        try:
            write_release_of(checkpoint)
            return checkpoint
        except ModelError:
            if is_checkpoint(checkpoint) or find(asked) is None:
                raise
    return None


def with_checkpoints(config: RunConfig, world: World, saved: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the config with each checkpoint that its model section names as a folder in which a release lies.

    saved: the config of the run that is resumed, which began from the checkpoint that a name such as `latest` meant
    then. Every rank calls it. Raises TrainingError if a checkpoint is damaged, ModelError if no release can be written.
    """
    before, changes = (saved or {}).get("model") or {}, dict[str, str]()
    for key in ("model_id", "tokenizer", "architecture_of"):
        if not (asked := getattr(config.model, key, None)):
            continue
        find = functools.partial(_found, earlier=before.get(key))
        # rank 0 finds it for all: the run that writes the checkpoints may be training
        if (found := world.on_main(lambda asked=asked, find=find: _with_release(asked, find))) is not None:
            changes[key] = str(found)
    return config.model_copy(update={"model": config.model.model_copy(update=changes)}) if changes else config


def _found(asked: str, earlier: str | None) -> Path | None:
    """Return the checkpoint that a name means; of a resumed run the one of the same folder that it meant earlier."""
    found = checkpoint_at(asked)
    if found is None or Path(asked).expanduser().exists() or not earlier:
        return found
    before = checkpoint_at(earlier)
    return before if before is not None and before.parent == found.parent else found
