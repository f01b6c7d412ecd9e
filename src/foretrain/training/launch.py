"""The starts of a run: from which checkpoint, and in its folder hosts, versions, settings and the launcher."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import foretrain
from foretrain.atomic import replacing_file, write_json
from foretrain.config import dump_yaml
from foretrain.distributed.world import World, restarts
from foretrain.errors import TrainingError
from foretrain.processes import identity
from foretrain.reading import read_json

if TYPE_CHECKING:
    pass

NAME = "environment.json"
_KEPT = 100  # starts
_PACKAGES = ("torch", "numpy", "pyarrow", "safetensors", "peft", "pytorch_optimizer")
# Environment variables that change how processes compute or find each other. None of them is a secret.
_VARIABLES = re.compile(
    r"(NCCL|GLOO|TORCH_NCCL|OMP|MKL|TORCHELASTIC|OMPI_COMM_WORLD|PMI|MPI_LOCAL|SLURM_(JOB_ID|STEP|NNODES|NODEID|NTASKS|PROCID|LOCALID|RESTART_COUNT))_?\w*"
    r"|CUDA_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|PYTORCH_\w*ALLOC_CONF|MASTER_(ADDR|PORT)|(LOCAL_)?WORLD_SIZE"
)


def record_start(folder: Path, world: World, **facts: Any) -> None:
    """Append this start to environment.json of a run folder; facts are further entries. A collective."""
    processes = world.gather_objects(_this_process(world))

    def write() -> None:
        start = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "launcher": world.launcher,
            "restarts": restarts(),
            "versions": {"foretrain": foretrain.__version__, "python": platform.python_version(), **_versions()},
            "commit": _commit(Path(foretrain.__file__)),
            "system": platform.platform(),
            **facts,
            "processes": processes,
            "variables": {key: os.environ[key] for key in sorted(os.environ) if _VARIABLES.fullmatch(key)},
        }
        with replacing_file(folder / NAME) as scratch:
            write_json(scratch, [*_starts(folder), start][-_KEPT:])

    world.on_main(write)


def resume_after_restart(folder: Path, world: World, resume: str | None) -> str | None:
    """Return how to resume: "auto" if torchrun starts the processes again that began the run in `folder`, else resume.

    A folder that already held another run is not continued, nor is one that a checkpoint was named for started from it
    again. torchrun counts no restart where hosts come or go. A collective.
    """
    if not restarts() and world.launcher != "torchrun":
        return resume
    launchers = [process["launcher"] for process in world.gather_objects(_this_process(world))]

    def began() -> bool:
        starts = _starts(folder)
        return bool(starts) and any(process["launcher"] in launchers for process in starts[-1]["processes"])

    return "auto" if world.on_main(began) else resume


def save_config(output_dir: Path, tree: dict[str, Any]) -> None:
    """Write config.yaml of a run folder, from which the run can be repeated."""
    path = output_dir / "config.yaml"
    try:
        with replacing_file(path) as scratch:
            scratch.write_text(dump_yaml(tree), encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror or error}. Free some space.") from None


def _starts(folder: Path) -> list[dict[str, Any]]:
    """Return the starts that are recorded; [] if the file is missing or not as it was written."""
    try:
        starts = read_json(folder / NAME)
        return [start for start in starts if all("launcher" in process for process in start["processes"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _this_process(world: World) -> dict[str, Any]:
    device = str(world.device)
    if world.device.type == "cuda":
        import torch

        device = f"{device}, {torch.cuda.get_device_name(world.device)}"
    return {
        "rank": world.rank,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "device": device,
        "launcher": identity(os.getppid()),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit(file: Path) -> str | None:
    """Return the commit of the git checkout that a source file lies in; None outside of one."""
    for folder in file.parents:
        git = folder / ".git"
        if not git.is_dir():
            continue
        try:
            head = (git / "HEAD").read_text().strip()
            name = head.removeprefix("ref: ")
            if name == head:
                return head
            if (git / name).is_file():
                return (git / name).read_text().strip()
            packed = (git / "packed-refs").read_text().splitlines()
            return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
        except OSError:
            return None
    return None
