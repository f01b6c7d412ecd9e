"""Checkpoints: written atomically, hashed, and verified before use.

checkpoints/step-00000100/ holds tensors as safetensors shards (torch.distributed.checkpoint with its Hugging Face
storage, since its default reader unpickles), state.json (everything that is not a tensor) and, written last,
manifest.json with the sha256 of every file. A folder is written under a temporary name, synced and renamed, so a folder
with a step's name is complete; its hashes reveal later damage by the disk or file system.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foretrain.atomic import empty_folder, sync, write_json
from foretrain.distributed.world import World, of_lost_ranks
from foretrain.errors import TrainingError
from foretrain.models.base import Trainable
from foretrain.models.checkpoints import MANIFEST, STATE, step_of, steps_in
from foretrain.notes import Code, Note, warn
from foretrain.reading import believing
from foretrain.training.background import Background, HostCopy
from foretrain.training.ema import Ema
from foretrain.training.manifest import CheckpointInfo, damage, delete_checkpoint, file_entry, make_manifest, read_info
from foretrain.training.optimizer_state import RESERVED, allocate_state, state_tensors
from foretrain.training.ranking import EvaluatorScore, Mode, Ranking, enters, ranked
from foretrain.training.saved_state import OTHER_CHECKPOINT

_log = logging.getLogger(__name__)

ASIDE = 5  # checkpoints of each kind that were set aside on a resume


class CheckpointManager:
    """Manages the checkpoints folder of a run. Retains the last N, the best K by a metric and by the scores of each
    evaluator, and final ones."""

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        keep_every: int | None = None,
        mode: Literal["min", "max"] = "min",
        rankings: Mapping[str, Ranking] | None = None,
        background: bool = False,
    ) -> None:
        self.folder, self.rankings = folder, dict(rankings or {})
        self.keep_last, self.keep_best, self.keep_every = keep_last, keep_best, keep_every
        self.mode: Mode = mode
        # a thread's collectives must not meet those of the loop
        self.world = world.with_own_group() if background else world
        self._stage = HostCopy() if background else None
        self._pending: Background | None = None
        self._skipped = set[Path]()  # checkpoints that a warning has named

    @property
    def under_way(self) -> bool:
        """True while a save goes on in the background."""
        return self._pending is not None and not self._pending.ended

    @property
    def failed(self) -> bool:
        """True if a save that went on in the background has failed; wait() then raises its error."""
        return self._pending is not None and self._pending.failed

    def wait(self) -> None:
        """Wait until the newest save is durable. Raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.wait()

    def abandon(self, patience: float) -> str | None:
        """Wait for a save in the background, where the run has failed already; return what became of it, if not well.

        patience: seconds.
        """
        pending, self._pending = self._pending, None
        if pending is None or pending.abandon(patience):
            return None
        error = pending.error
        if error is None or of_lost_ranks(error):
            return "the checkpoint that was being written is incomplete"
        return _reason(error)

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        state: dict[str, Any],
        *,
        metric: float | None,
        scores: Mapping[str, EvaluatorScore] | None = None,
        final: bool = False,
    ) -> None:
        """Write a checkpoint, then delete those that are no longer retained. A collective: all ranks call it.

        In the background it returns once the tensors are copied; one save at a time: the next one waits for it.
        Raises TrainingError if the disk is full or read-only, also for the save before; earlier checkpoints stay
        intact.
        """
        self.wait()
        info = CheckpointInfo(self.folder / f"step-{step:08d}", step, metric, final, dict(scores or {}))
        if self._stage is None:
            self._save(info, tensors, None, state)
            return
        parts = self._stage.copy(tensors)
        self._pending = Background(lambda: self._save(info, tensors, parts, state))

    def _save(
        self,
        info: CheckpointInfo,
        tensors: dict[str, Tensor],
        parts: dict[str, Tensor] | None,
        state: dict[str, Any],
    ) -> None:
        path = info.path
        temporary = self.folder / f".tmp-{path.name}"
        self.world.on_main(lambda: _convert_errors(path, lambda: empty_folder(temporary)))
        error: Exception | None = None
        try:
            files = _convert_errors(path, lambda: self._write_tensors(temporary, tensors, parts))
        except TrainingError as problem:
            files, error = {}, problem
        try:
            self.world.all_agree(error)
        except TrainingError:
            self.world.on_main(lambda: shutil.rmtree(temporary, ignore_errors=True))
            raise
        shards = {name: entry for part in self.world.gather_objects(files) for name, entry in part.items()}

        def complete() -> None:
            try:
                write_json(temporary / STATE, state)
                files = shards | {STATE: file_entry(temporary / STATE)}
                self._complete(temporary, path, make_manifest(info.step, info.metric, info.final, files, info.scores))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

        self.world.on_main(lambda: _convert_errors(path, complete))

    def _write_tensors(
        self, folder: Path, tensors: dict[str, Tensor], parts: dict[str, Tensor] | None
    ) -> dict[str, Any]:
        """Write this rank's shards and return their entries of the manifest: {file: {sha256, bytes}}.

        parts: what this rank's parts of the tensors hold, if that is not what they hold now.
        """
        from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        class Planner(DefaultSavePlanner):
            """Plans by the shapes of the tensors, and writes the copies."""

            def resolve_data(self, write_item: Any) -> Any:
                return super().resolve_data(write_item) if parts is None else parts[write_item.index.fqn]

        # one file per kind of tensor, because the writer holds the bytes of a whole file in memory
        kinds = {kind: i for i, kind in enumerate(sorted({name.partition(".")[0] for name in tensors}), 1)}
        writer = HuggingFaceStorageWriter(
            str(folder),
            fqn_to_index_mapping={name: kinds[name.partition(".")[0]] for name in tensors},
            save_distributed=True,  # files per rank, so that no two ranks write the same one
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # saving from a single process is intended
            save(
                dict(tensors),
                storage_writer=writer,
                planner=Planner(),
                process_group=self.world.group,
                no_dist=self.world.size == 1,
            )
        prefix = f"shard-{self.world.rank + 1:05d}-"
        return {file.name: file_entry(file) for file in sorted(folder.iterdir()) if file.name.startswith(prefix)}

    def _complete(self, temporary: Path, path: Path, manifest: dict[str, Any]) -> None:
        """Write the manifest and rename the folder to its final name."""
        try:
            write_json(temporary / MANIFEST, manifest)
            sync(temporary)
            # A step is saved twice if a signal postponed its validation: one of the two must exist at any moment.
            if path.exists():
                shutil.rmtree(_replaced(path), ignore_errors=True)
                path.rename(_replaced(path))
            temporary.rename(path)
        except BaseException:  # a signal too must leave the previous checkpoint in place
            self._recover_replaced()
            raise
        sync(self.folder)
        self._recover_replaced()
        try:
            self.prune()
        except OSError as error:
            raise TrainingError(
                f"{path}: is complete, but an earlier checkpoint could not be deleted: {_reason(error)}. Mend what "
                f"prevents it in {self.folder}, then resume."
            ) from error

    def _recover_replaced(self) -> None:
        """Restore replaced checkpoints whose replacement was not completed; delete the others."""
        for replaced in self.folder.glob(".former-step-*"):
            path = replaced.with_name(replaced.name.removeprefix(".former-"))
            if path.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                replaced.rename(path)

    def prune(self) -> None:
        """Delete checkpoints that are neither among the last N, the best K, the best of an evaluator or those of every
        M steps nor final.

        What an earlier deletion has left is deleted too. Raises OSError.
        """
        self._empty_trash()
        found = self.list_complete()
        keep = {item.path for item in found[-self.keep_last :]} | {item.path for item in found if item.final}
        keep |= {item.path for item in self.best(found)}
        keep |= {item.path for name in self.rankings for item in self.best_by(name, found)}
        keep |= {item.path for item in found if self.keep_every and item.step % self.keep_every == 0}
        for item in found:
            if item.path not in keep:
                delete_checkpoint(item.path)

    def list_complete(self) -> list[CheckpointInfo]:
        """Return the checkpoints that have a valid manifest, in the order of their steps. Hashes are not checked.

        The others are skipped, with a warning the first time.
        """
        found = []
        for path in steps_in(self.folder):
            try:
                found.append(read_info(path))
            except TrainingError as error:
                if path not in self._skipped:
                    self._skipped.add(path)
                    text = f"checkpoint {path.name} is damaged and is skipped: {error}"
                    warn(_log, Note(Code.CHECKPOINT_SKIPPED, text, {"step": step_of(path)}))
        return found

    def best(self, found: list[CheckpointInfo] | None = None) -> list[CheckpointInfo]:
        """Return the best K checkpoints with a finite metric, best first; of equal ones the earlier comes first."""
        items = self.list_complete() if found is None else found
        return ranked([(item.metric, item.step, item) for item in items], self.mode)[: self.keep_best]

    def best_by(self, evaluator: str, found: list[CheckpointInfo] | None = None) -> list[CheckpointInfo]:
        """Return the best K checkpoints by the scores of an evaluator, in the order of best()."""
        ranking, items = self.rankings[evaluator], self.list_complete() if found is None else found
        rows = [(ranking.value(evaluator, item.scores), item.step, item) for item in items]
        return ranked(rows, ranking.mode)[: ranking.keep]

    def best_intact(self, log: Callable[[str], None]) -> CheckpointInfo | None:
        """Return the best checkpoint whose hashes are correct; damaged ones are logged and skipped."""
        for item in self.best():
            problem = damage(item.path)
            if problem is None:
                return item
            log(f"checkpoint {item.path.name}, better than others, is damaged and is skipped: {problem}")
        return None

    def is_among_best(self, metric: float | None, scores: Mapping[str, EvaluatorScore] | None = None) -> bool:
        """Return True if a checkpoint with this metric, and these scores, would be among the best by one of them."""
        found = self.list_complete()
        if enters(metric, [item.metric for item in self.best(found)], self.keep_best, self.mode):
            return True
        for name, ranking in self.rankings.items():
            others = [ranking.value(name, item.scores) for item in self.best_by(name, found)]
            if enters(ranking.value(name, scores or {}), others, ranking.keep, ranking.mode):
                return True
        return False

    def clean(self) -> None:
        """Create the folder and remove incomplete files of a killed process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._recover_replaced()
        for leftover in self.folder.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._empty_trash()

    def _empty_trash(self) -> None:
        for leftover in self.folder.glob(".trash-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def newest_intact(self, log: Callable[[str], None]) -> Path | None:
        """Return the newest checkpoint whose hashes are correct, None if there are no checkpoints.

        Damaged ones are logged and skipped. Raises TrainingError if all are damaged.
        """
        paths = steps_in(self.folder)
        for path in reversed(paths):
            problem = damage(path)
            if problem is None:
                return path
            log(f"checkpoint {path.name} is damaged and is skipped: {problem}")
        if paths:
            raise TrainingError(
                f"{self.folder}: none of the {len(paths)} checkpoints is intact. Restore one from a backup, or delete "
                "the folder to start from the beginning."
            )
        return None

    def quarantine_after(self, step: int, log: Callable[[str], None]) -> None:
        """Rename checkpoints of later steps to abandoned-* or damaged-*, of which the newest ASIDE each are kept.

        So are those of earlier steps whose manifest cannot be read: no rule would ever delete them.
        """
        known = {item.path for item in self.list_complete()}
        for path in steps_in(self.folder):
            if step_of(path) <= step and path in known:
                continue
            problem = damage(path)
            if step_of(path) <= step and problem is None:  # it could be read the second time
                continue
            n, kind = 1, "abandoned" if problem is None else "damaged"
            while (target := self.folder / f"{kind}-{path.name}-{n}").exists():
                n += 1
            path.rename(target)
            why = "is later than the one resumed from" if step_of(path) > step else "has no manifest that can be read"
            log(f"checkpoint {path.name} {why} and is renamed to {target.name}")
        for kind in ("abandoned", "damaged"):
            found = sorted(self.folder.glob(f"{kind}-step-*"), key=lambda path: (path.stat().st_ctime_ns, path.name))
            for path in found[:-ASIDE]:
                delete_checkpoint(path)
                log(f"{path.name} is deleted: {ASIDE} newer ones of its kind are kept")


def collect(model: nn.Module, optimizer: torch.optim.Optimizer | None, ema: Ema | None) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint by name, without copying: model.*, ema.*, and <key of the state>.*."""
    tensors = {f"model.{name}": tensor for name, tensor in _weights(model).items()}
    if optimizer is not None:
        tensors |= state_tensors(model, optimizer)
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.weights.items()}
    return tensors


def restore(
    path: Path, world: World, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, state: dict[str, Any]
) -> None:
    """Read a checkpoint's tensors into a model, its optimizer and its weight average, in place."""
    tensors = _optimizer_tensors(path)
    with believing(path / STATE, TrainingError, OTHER_CHECKPOINT):
        numbers = state.get("optimizer")
        if numbers is None:  # the format from when AdamW was the only optimizer
            numbers = {"state": {"step": {"float32": state["optimizer_steps"]}}, "groups": []}
        allocate_state(model, optimizer, numbers, tensors)
    load_tensors(path, world, collect(model, optimizer, ema))


def _optimizer_tensors(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the size and dtype of each of the optimizer's tensors in a checkpoint."""
    tensors: dict[str, Any] = {
        name: entry for name, entry in _headers(path).items() if name.partition(".")[0] not in RESERVED
    }
    return {name: (entry.size, entry.properties.dtype) for name, entry in tensors.items()}


def _headers(path: Path) -> dict[str, Any]:
    """Return what the headers of a checkpoint's shards say of each tensor. Raises TrainingError.

    torch would log a traceback on headers that it cannot read.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        return HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except Exception as error:
        raise TrainingError(f"{path}: the headers of its shards cannot be read: {_reason(error)}") from error


def load_tensors(path: Path, world: World, into: dict[str, Tensor]) -> None:
    """Fill tensors in place from a checkpoint written by any number of ranks. Raises TrainingError on a mismatch."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _headers(path)
    root = logging.getLogger()
    disabled = root.disabled
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root.disabled = True  # torch logs there, with a traceback, that a file cannot be read
            load(dict(into), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=world.size == 1)
    except BaseException as error:  # torch's CheckpointException is one; others are raised again
        if not _is_error(error):
            raise
        raise TrainingError(
            f"{path}: its tensors cannot be read, or do not fit this model: {_reason(error)}"
        ) from error
    finally:
        root.disabled = disabled


def release_weights(path: Path, world: World, model: nn.Module, averaged: bool) -> dict[str, Tensor]:
    """Read the weights of a checkpoint for a release; with averaged=True the EMA of the trainable ones.

    A model with an adapter gets only the tensors that are in the checkpoint, see _weights.
    """
    state = {name: torch.empty_like(tensor) for name, tensor in _weights(model).items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    wanted = {f"{'ema' if averaged and name in trained else 'model'}.{name}": t for name, t in state.items()}
    load_tensors(path, world, wanted)
    return state


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters (tied ones once) and persistent buffers; of a model with an adapter only trainable parameters
    and buffers, since its other weights are those of the base."""
    adapted = isinstance(model, Trainable) and model.adapter is not None
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad or not adapted}
    all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: t for name, t in model.state_dict().items() if name not in all_names}
    return parameters | buffers


def _replaced(path: Path) -> Path:
    return path.with_name(f".former-{path.name}")


def _convert_errors(path: Path, action: Callable[[], Any]) -> Any:
    """Run a part of a save. Errors of the disk and of torch are raised as TrainingError, those of lost ranks as they
    are: the others are to be asked no more."""
    try:
        return action()
    except TrainingError:
        raise
    except BaseException as error:  # torch's CheckpointException is one; others are raised again
        if not _is_error(error) or of_lost_ranks(error):
            raise
        raise TrainingError(
            f"{path}: the checkpoint could not be written: {_reason(error)}. Its incomplete files were deleted and "
            "earlier checkpoints are intact; free some space or choose another output_dir, then resume."
        ) from error


def _is_error(error: BaseException) -> bool:
    """Return True for errors, False for KeyboardInterrupt and the like.

    torch's CheckpointException, which holds each rank's failure, is an error but derives from BaseException.
    """
    return isinstance(error, Exception) or hasattr(error, "failures")


def _reason(error: BaseException) -> str:
    """Return the message of an error, unwrapped from torch's CheckpointException."""
    inner = next(iter(getattr(error, "failures", {}).values()), None)
    if inner is not None:
        error = inner[0] if isinstance(inner, tuple) else inner
    return (error.strerror or str(error)) if isinstance(error, OSError) else " ".join(str(error).split())
