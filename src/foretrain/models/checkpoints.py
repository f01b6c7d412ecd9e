"""Checkpoint folders of runs: which one a path names, and what it is among those of its run.

Their contents are training/checkpoint.py's; here only their JSON files are read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from foretrain.errors import ModelError, UnreadableError
from foretrain.reading import read_object, resolved

STATE, MANIFEST = "state.json", "manifest.json"
NAME = re.compile(r"step-(\d{8,})")
NEWEST = ("latest", "last", "final-checkpoint")  # names of the newest checkpoint of a run
BEST = "best"


def steps_in(folder: Path) -> list[Path]:
    """Return the folders with the name of a checkpoint in the order of their steps, also damaged ones."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if NAME.fullmatch(p.name) and p.is_dir()), key=step_of)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, by the name of its folder."""
    return int(path.name.removeprefix("step-"))


def is_checkpoint(folder: Path) -> bool:
    """Return True if a folder is a checkpoint that was written to its end."""
    is_corpus = (folder / "dataset_info.json").is_file()  # it has files of these names too
    return (folder / MANIFEST).is_file() and (folder / STATE).is_file() and not is_corpus


def checkpoint_at(path: str | Path) -> Path | None:
    """Return the checkpoint folder that a path names, None if it names none.

    If nothing is there, its last part may be step-N without leading zeros, latest, last, final-checkpoint (the newest)
    or best, in a run folder or its checkpoints/; in a pipeline those of its last stage.
    """
    path = Path(path).expanduser()
    if path.exists():
        return path if is_checkpoint(path) else None
    folder = _folder_of(path)
    if number := re.fullmatch(r"(?:step|checkpoint)-(\d+)", path.name):
        named = folder / f"step-{int(number[1]):08d}"
        return named if is_checkpoint(named) else None
    found = [step for step in steps_in(folder) if is_checkpoint(step)]
    if not found or path.name not in (*NEWEST, BEST):
        return None
    return (_best_of(found) if path.name == BEST else None) or found[-1]


def checkpoints_beside(path: str | Path) -> list[Path]:
    """Return the checkpoints of the run in which a path that does not exist would lie; [] if that is no run."""
    return [step for step in steps_in(_folder_of(Path(path).expanduser())) if is_checkpoint(step)]


def _folder_of(path: Path) -> Path:
    """Return the checkpoints/ that a name such as RUN/latest is about; in a pipeline that of its last stage."""
    folder = path.parent if path.parent.name == "checkpoints" else path.parent / "checkpoints"
    if folder.is_dir():
        return folder
    return next(reversed(sorted((folder.parent / "stages").glob("*/checkpoints"))), folder)


def read_checkpoint_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state.json of a checkpoint.

    Raises ModelError if it is missing or malformed, UnreadableError if the system fails to read it.
    """
    try:
        return read_object(checkpoint / STATE)
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ModelError(f"{checkpoint / STATE}: cannot be read ({error}).") from None
    except OSError as error:
        raise UnreadableError(f"{checkpoint / STATE}: cannot be read ({error.strerror or error}).") from None


def checkpoint_family(checkpoint: Path) -> str | None:
    """Return the name of the family of a checkpoint's model; None if its state does not tell."""
    try:
        return str(read_checkpoint_state(checkpoint)["config"]["model"]["family"])
    except UnreadableError:
        raise
    except (ModelError, KeyError, TypeError):
        return None


def what_instead(path: str | Path) -> str | None:
    """Return what a path is that names no checkpoint, and which are near it; None if it has the name of a checkpoint,
    which may be damaged.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return "is a file. A checkpoint is a folder: runs/NAME/checkpoints/step-00000200, runs/NAME/best."
    if path.is_dir() and NAME.fullmatch(path.name):
        return None
    if path.is_dir() and any(map(steps_in, (path, path / "checkpoints"))):
        return f"is a run. Name one of its checkpoints: {path / 'best'} or {path / 'latest'}."
    if (path / "config.json").is_file():
        return "is a release or another model, no checkpoint of a run (runs/NAME/checkpoints/step-00000200)."
    if path.exists():
        return "is no checkpoint of a run (runs/NAME/checkpoints/step-00000200, runs/NAME/best)."
    folder = path.parent if path.parent.name == "checkpoints" else path.parent / "checkpoints"
    found = [step.name for step in steps_in(folder) if is_checkpoint(step)]
    return f"no such folder. {folder} has {', '.join(found[-5:])}." if found else "no such folder."


def describe_checkpoint(checkpoint: Path) -> str:
    """Describe a checkpoint among those of its run: "step 500, the best and the last of its run, val_wql 0.12"."""
    found = [step for step in steps_in(checkpoint.parent) if is_checkpoint(step)]
    roles = [("the best", _best_of(found)), ("the last", found[-1] if found else None)]
    held = [role for role, path in roles if path is not None and resolved(path) == resolved(checkpoint)]
    place = f"{' and '.join(held)} of its run" if held else "neither the best nor the last of its run"
    return (
        f"step {step_of(checkpoint):,}, {place}" if NAME.fullmatch(checkpoint.name) else f"{checkpoint.name}, {place}"
    )


def _best_of(found: list[Path]) -> Path | None:
    """Return the best of a run's checkpoints, by the newest record that can be read; None without a validation or if it
    is gone."""
    for newest in reversed(found):
        try:
            step = read_checkpoint_state(newest)["progress"]["best_step"]
        except UnreadableError:  # an older record may name another
            raise
        except (ModelError, KeyError, TypeError):  # damaged, or deleted by its run meanwhile
            continue
        return next((path for path in found if step_of(path) == step), None)
    return None
