"""Run states on disk: atomic, hashed, verified before use.

checkpoints/step-00000100/ holds tensors as safetensors shards (torch.distributed.checkpoint with its Hugging Face
storage, since its default reader unpickles), state.json (everything that is not a tensor) and, written last,
manifest.json with the sha256 of every file. A folder is written under a temporary name, synced and renamed, so what
bears a step's name is complete; what disk or file system did to it later is found by its hashes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foretrain.atomic import empty_folder, sync, write_json
from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.models.base import Trainable
from foretrain.training.ema import Ema
from foretrain.training.optimizer_state import RESERVED, allocate_state, state_tensors

FORMAT = 1
STATE, MANIFEST = "state.json", "manifest.json"
NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint as its manifest describes it."""

    path: Path
    step: int
    metric: float | None  # of the weights inside, where they were validated
    final: bool


class CheckpointManager:
    """The checkpoints folder of a run: last N, best K by a metric, and the final one."""

    def __init__(
        self, folder: Path, world: World, *, keep_last: int = 2, keep_best: int = 1, mode: Literal["min", "max"] = "min"
    ) -> None:
        self.folder, self.world = folder, world
        self.keep_last, self.keep_best, self.mode = keep_last, keep_best, mode

    def save(
        self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], *, metric: float | None, final: bool = False
    ) -> Path:
        """Write a checkpoint, then delete those that no rule keeps. Entered by all ranks together.

        Raises TrainingError when the disk refuses (full, read-only); what was there before stays intact.
        """
        path = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-{path.name}"
        self.world.on_main(lambda: _guarded(path, lambda: empty_folder(temporary)))
        error: Exception | None = None
        try:
            files = _guarded(path, lambda: self._write_tensors(temporary, tensors))
        except TrainingError as problem:
            files, error = {}, problem
        try:
            self.world.all_agree(error)
        except TrainingError:
            self.world.on_main(lambda: shutil.rmtree(temporary, ignore_errors=True))
            raise
        shards = {name: entry for part in self.world.gather_objects(files) for name, entry in part.items()}

        def complete() -> None:
            write_json(temporary / STATE, state)
            files = shards | {STATE: _entry(temporary / STATE)}
            self._complete(temporary, path, make_manifest(step, metric, final, files))

        self.world.on_main(lambda: _guarded(path, complete))
        return path

    def _write_tensors(self, folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Write this rank's shards; {file: {sha256, bytes}} of them."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        # A file per kind of tensor: the writer holds one file's bytes in memory while it writes it.
        kinds = {kind: i for i, kind in enumerate(sorted({name.partition(".")[0] for name in tensors}), 1)}
        writer = HuggingFaceStorageWriter(
            str(folder),
            fqn_to_index_mapping={name: kinds[name.partition(".")[0]] for name in tensors},
            save_distributed=True,  # each rank a share, so that no two write one file
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one process saves alone is intended
            save(dict(tensors), storage_writer=writer, no_dist=self.world.size == 1)
        mine = f"shard-{self.world.rank + 1:05d}-"
        return {file.name: _entry(file) for file in sorted(folder.iterdir()) if file.name.startswith(mine)}

    def _complete(self, temporary: Path, path: Path, manifest: dict[str, Any]) -> None:
        try:
            write_json(temporary / MANIFEST, manifest)
            sync(temporary)
            # A step is saved again after a validation that a signal had put off: one of the two must always be there.
            if path.exists():
                shutil.rmtree(_former(path), ignore_errors=True)
                path.rename(_former(path))
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            self._recover_replaced()
            raise
        sync(self.folder)
        self._recover_replaced()
        self.prune()

    def _recover_replaced(self) -> None:
        """Put a checkpoint back whose replacement did not come; delete those whose replacement is there."""
        for former in self.folder.glob(".former-step-*"):
            path = former.with_name(former.name.removeprefix(".former-"))
            if path.exists():
                shutil.rmtree(former, ignore_errors=True)
            else:
                former.rename(path)

    def prune(self) -> None:
        """Delete what no rule keeps."""
        kept = self.kept()
        keep = {item.path for item in kept[-self.keep_last :]} | {item.path for item in kept if item.final}
        keep |= {item.path for item in self.best(kept)}
        for item in kept:
            if item.path not in keep:
                discard(item.path)

    def kept(self) -> list[CheckpointInfo]:
        """Complete checkpoints in the order of their steps, by their manifests alone (nothing is hashed)."""
        found = []
        for path in steps_in(self.folder):
            try:
                manifest = read_manifest(path)
            except TrainingError:
                continue
            metric = manifest["metric"]
            found.append(CheckpointInfo(path, manifest["step"], metric, bool(manifest["final"])))
        return found

    def best(self, kept: list[CheckpointInfo] | None = None) -> list[CheckpointInfo]:
        """The best K that were validated, best first; the earlier of equals; only finite metrics are among them."""
        scored = [item for item in (self.kept() if kept is None else kept) if item.metric is not None]
        sign = 1 if self.mode == "min" else -1
        return sorted(scored, key=lambda item: (sign * (item.metric or 0.0), item.step))[: self.keep_best]

    def best_good(self, say: Callable[[str], None]) -> CheckpointInfo | None:
        """The best checkpoint whose hashes hold; damaged ones are named through say."""
        for item in self.best():
            problem = damage(item.path)
            if problem is None:
                return item
            say(f"checkpoint {item.path.name}, better than others, is damaged and is passed over: {problem}")
        return None

    def enters_best(self, metric: float | None) -> bool:
        """Whether a checkpoint with this metric would be among the best K."""
        if metric is None or not math.isfinite(metric):
            return False
        best = self.best()
        worst = best[-1].metric if len(best) == self.keep_best else None
        return worst is None or (metric < worst if self.mode == "min" else metric > worst)

    def clean(self) -> None:
        """Create the folder; remove what a killed process left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._recover_replaced()
        for leftover in [*self.folder.glob(".tmp-*"), *self.folder.glob(".trash-*")]:
            shutil.rmtree(leftover, ignore_errors=True)

    def newest_good(self, say: Callable[[str], None]) -> Path | None:
        """The newest checkpoint whose hashes hold, None when there is none at all.

        Damaged ones are named through say and passed over. Raises TrainingError when all are damaged.
        """
        paths = steps_in(self.folder)
        for path in reversed(paths):
            problem = damage(path)
            if problem is None:
                return path
            say(f"checkpoint {path.name} is damaged and is passed over: {problem}")
        if paths:
            raise TrainingError(
                f"{self.folder}: none of the {len(paths)} checkpoints is intact. Restore one from a backup, or delete "
                "the folder to start from the beginning."
            )
        return None

    def quarantine_after(self, step: int, say: Callable[[str], None]) -> None:
        """Move checkpoints of later steps, damaged or of an abandoned course, to where no rule counts them."""
        for path in steps_in(self.folder):
            if _step_of(path) <= step:
                continue
            n, kind = 1, "abandoned" if damage(path) is None else "damaged"
            while (aside := self.folder / f"{kind}-{path.name}-{n}").exists():
                n += 1
            path.rename(aside)
            say(f"checkpoint {path.name} is later than the one resumed from and is set aside as {aside.name}")


def collect(model: nn.Module, optimizer: torch.optim.Optimizer | None, ema: Ema | None) -> dict[str, Tensor]:
    """Every tensor of a run state by a name that says its kind, without copying: model.*, ema.*, <state>.*."""
    tensors = {f"model.{name}": tensor for name, tensor in _weights(model).items()}
    if optimizer is not None:
        tensors |= state_tensors(model, optimizer)
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.weights.items()}
    return tensors


def restore(
    path: Path, world: World, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, state: dict[str, Any]
) -> None:
    """Read a checkpoint's tensors into a model, its optimizer and its average, in place."""
    numbers = state.get("optimizer")
    if numbers is None:  # as written before other optimizers than AdamW were to be had
        numbers = {"state": {"step": {"float32": state["optimizer_steps"]}}, "groups": []}
    allocate_state(model, optimizer, numbers, _optimizer_tensors(path))
    load_tensors(path, world, collect(model, optimizer, ema))


def _optimizer_tensors(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and type of each of the optimizer's tensors in a checkpoint."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    held = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {name: entry for name, entry in held.items() if name.partition(".")[0] not in RESERVED}
    return {name: (entry.size, entry.properties.dtype) for name, entry in tensors.items()}


def load_tensors(path: Path, world: World, into: dict[str, Tensor]) -> None:
    """Fill tensors in place from a checkpoint, however many ranks wrote it. Raises TrainingError on a mismatch."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(dict(into), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=world.size == 1)
    except BaseException as error:
        if not _ordinary(error):
            raise
        raise TrainingError(f"{path}: its tensors do not fit this model: {_reason(error)}") from error


def release_weights(path: Path, world: World, model: nn.Module, averaged: bool) -> dict[str, Tensor]:
    """The weights that a checkpoint stands for, as far as it holds them: its averaged ones where they are kept, else
    its own."""
    state = {name: torch.empty_like(tensor) for name, tensor in _weights(model).items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    wanted = {f"{'ema' if averaged and name in trained else 'model'}.{name}": t for name, t in state.items()}
    load_tensors(path, world, wanted)
    return state


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; a tied parameter once. Of a model with an adapter only what is trained: the
    rest is what it was built of."""
    adapted = isinstance(model, Trainable) and model.adapter is not None
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad or not adapted}
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: t for name, t in model.state_dict().items() if name not in every}
    return parameters | buffers


def steps_in(folder: Path) -> list[Path]:
    """Folders that bear the name of a checkpoint, in the order of their steps, complete or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if NAME.fullmatch(p.name) and p.is_dir()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises TrainingError when it is missing or not one."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise TrainingError(f"{path}: checkpoint format {manifest['format']} is not {FORMAT}; use its own version.")
        stated = manifest.pop("sha256")
        if stated != _digest(manifest):
            raise ValueError("its own sha256 differs")
    except FileNotFoundError:
        raise TrainingError(f"{path}: no {MANIFEST}; not a complete checkpoint of a run.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path / MANIFEST}: cannot be read ({error}).") from None
    return manifest


def make_manifest(step: int, metric: float | None, final: bool, files: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a checkpoint: its files with their hashes, and a hash of the rest of itself."""
    number = None if metric is None or not math.isfinite(metric) else metric
    manifest = {"format": FORMAT, "step": step, "metric": number, "final": final, "files": files}
    return manifest | {"sha256": _digest(manifest)}


def read_state(path: Path) -> dict[str, Any]:
    """The state.json of a checkpoint: progress, config, plan, data fingerprint."""
    try:
        return json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path / STATE}: cannot be read ({error}).") from None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None when every file is there with the hash that its manifest states."""
    try:
        files = read_manifest(path)["files"]
        for name, entry in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if _entry(file)["sha256"] != entry["sha256"]:
                return f"the contents of {name} have changed (sha256 differs)"
    except (TrainingError, OSError) as error:
        return str(error)
    return None


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}


def discard(path: Path) -> None:
    """Delete a checkpoint: renamed first, so that a half deleted one never looks like a damaged one."""
    trash = path.with_name(f".trash-{path.name}")
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _former(path: Path) -> Path:
    return path.with_name(f".former-{path.name}")


def _guarded(path: Path, action: Callable[[], Any]) -> Any:
    """Run a part of a save; whatever the disk or the library throws becomes one clear error."""
    try:
        return action()
    except TrainingError:
        raise
    except BaseException as error:
        if not _ordinary(error):
            raise
        raise TrainingError(
            f"{path}: the checkpoint could not be written: {_reason(error)}. Nothing half written was left and earlier "
            "checkpoints are intact; free some space or choose another output_dir, then resume."
        ) from error


def _ordinary(error: BaseException) -> bool:
    """Whether an error is one. torch's CheckpointException, with each rank's failure, derives from BaseException."""
    return isinstance(error, Exception) or hasattr(error, "failures")


def _reason(error: BaseException) -> str:
    """The words that help, from inside torch.distributed.checkpoint's wrapper."""
    inner = next(iter(getattr(error, "failures", {}).values()), None)
    if inner is not None:
        error = inner[0] if isinstance(inner, tuple) else inner
    return (error.strerror or str(error)) if isinstance(error, OSError) else " ".join(str(error).split())


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
