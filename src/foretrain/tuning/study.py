"""The folder of a study: its config, the records of its trials, which of them is best, and the disk that they take.

study.yaml      the config, with all defaults
study.json      the study's name in its storage, and the hash of the config that is tuned
journal.jsonl   Optuna's operations, unless a database holds them
trials/0007/    a trial: result.json, losses.parquet, checkpoints; trials/default the run as it stands
leases/         who works on which trial
trials.jsonl    all records
losses.parquet  losses of all complete trials, as of the newest end of a search or report
workers/        what the workers print
final/          the final table (final.py)
ledger.jsonl    openings of the test part
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from foretrain.atomic import remove, remove_leftovers, replacing_file, write_json, write_text
from foretrain.config import Section, apply_overrides, build, dump_yaml, explained, read_yaml
from foretrain.errors import ConfigError
from foretrain.printing import without_secrets
from foretrain.reading import Unreadable, read_json
from foretrain.run.shipped import find_config
from foretrain.training.run_record import is_higher_better
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.records import DEFAULT_TRIAL, RESULT, TRIALS, TrialRecord, read_saved
from foretrain.tuning.shared_lock import SharedLock

Direction = Literal["minimize", "maximize"]
FREE = ("output_dir", "trials", "workers", "max_minutes", "disk_gb")  # may change when a study is resumed
PARENT = "FORETRAIN_TUNE_PARENT"  # of a worker: the process that started it, without which it stops
STORAGE = "FORETRAIN_TUNE_STORAGE"  # the URL of the database, where study.yaml has it without its account
_CONFIG, _IDENTITY = "study.yaml", "study.json"
COMPARE = "compare.yaml"  # the config of several studies, in the folder that holds theirs


class _Identity(Section):
    format: int = 1
    name: str = Field(pattern=r"^[\w.-]{1,100}$")
    run_hash: str


class StudyFolder:
    """A study that exists. config: as of this start, with output_dir as the folder is named here."""

    def __init__(self, path: Path, config: TuneConfig, name: str, run_hash: str) -> None:
        self.path, self.config, self.name, self.run_hash = path, config, name, run_hash
        self.claims = SharedLock(path / "claims.lock")
        self.leases = path / "leases"

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective: minimize or maximize."""
        return directions(self.config)

    @property
    def hash(self) -> str:
        """The hash of what the study searches, over which run, by which figure."""
        return _hash([_identity(self.config), self.run_hash])

    def trial(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.path / "trials" / ("default" if number == DEFAULT_TRIAL else f"{number:04d}")

    def record(self, number: int) -> TrialRecord | None:
        """Return the record of a trial; None if it has not ended. Raises DataError for a damaged one."""
        return read_saved(TrialRecord, self.trial(number) / RESULT)

    def records(self) -> list[TrialRecord]:
        """Return the records of all trials that ended, by number; that of the default is the first."""
        found = [read_saved(TrialRecord, path) for path in self.path.glob(f"trials/*/{RESULT}")]
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def write(self, record: TrialRecord) -> None:
        """Write the record of a trial, and trials.jsonl of all. Only under the claim lock."""
        folder = self.trial(record.number)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing_file(folder / RESULT) as scratch:
            write_text(scratch, record.model_dump_json(indent=1))
        lines = "".join(f"{one.model_dump_json()}\n" for one in self.records())
        with replacing_file(self.path / TRIALS) as scratch:
            write_text(scratch, lines)

    def remove_leftovers(self) -> None:
        """Delete what kills left of records that were being written. Only under the claim lock."""
        for folder in self.path.glob("trials/*"):
            remove_leftovers(folder)

    def trim(self, running: Iterable[int]) -> int | None:
        """Delete checkpoints of ended trials, the worst first, until all take less than disk_gb.

        Those of the best trial stay. Returns the bytes beyond the bound that are left, None without a bound. Only
        under the claim lock.
        """
        if self.config.disk_gb is None:
            return None
        sizes = {folder: _size(folder) for folder in self.path.glob("trials/*/**/checkpoints") if folder.is_dir()}
        beyond = sum(sizes.values()) - round(self.config.disk_gb * 1e9)
        best_first = [record.number for record in ranked(self.records(), self.directions)]
        ended = [record.number for record in self.records() if record.number not in best_first]
        for number in [*ended, *reversed(best_first[1:])]:
            folder = self.trial(number)
            for checkpoints in [one for one in sizes if one.is_relative_to(folder)]:
                if beyond > 0 and number not in running:
                    remove(checkpoints)
                    beyond -= sizes.pop(checkpoints)
        return max(beyond, 0)

    def check_run(self) -> None:
        """Raise ConfigError if the config of the run says something else than it did when the study began."""
        if _run_hash(self.config) != self.run_hash:
            raise ConfigError(
                f"run: {self.config.run} has changed since the study {self.path} began, so that its trials are of "
                "another run. Undo the change, or begin a new study."
            )

    def run_tree(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config that is tuned, with the keys that all trials share and those of a candidate."""
        path, _ = find_config(Path(self.config.run))
        return apply_overrides(read_yaml(path), [*self.config.set.items(), *values.items()])


def create_study(config: TuneConfig, resume: bool) -> StudyFolder:
    """Create the folder of a study, or with resume open it if it is there.

    Raises ConfigError if there is one and `resume` is not set, or if it searches something else.
    """
    path = Path(config.output_dir)
    path.mkdir(parents=True, exist_ok=True)
    run_hash = _run_hash(config)
    with SharedLock(path / "claims.lock").held():
        if not (path / _CONFIG).is_file():
            if foreign := sorted(one.name for one in path.iterdir() if not one.name.startswith(("claims.lock", "."))):
                raise ConfigError(
                    f"{path}: holds no study, but {foreign[0]}. Name a new folder in output_dir for the study."
                )
            with replacing_file(path / _IDENTITY) as scratch:
                write_json(scratch, {"format": 1, "name": f"foretrain-{uuid.uuid4().hex[:12]}", "run_hash": run_hash})
        elif not resume:
            raise ConfigError(
                f"{path}: holds a study. Go on with it by --resume (or foretrain tune resume {path}), or name a new "
                "folder: output_dir=..."
            )
        else:
            _refuse_another(path, config, run_hash)
        name, run_hash = _read_identity(path)
        shown = config.storage and without_secrets(config.storage)
        with replacing_file(path / _CONFIG) as scratch:
            write_text(scratch, dump_yaml(config.model_copy(update={"storage": shown})))
    return StudyFolder(path, config, name, run_hash)


def open_study(path: Path) -> StudyFolder:
    """Open a study. Raises ConfigError if there is none in the folder."""
    if (path / COMPARE).is_file():
        raise ConfigError(f"{path}: holds a comparison of studies. Name the folder of one of them in it.")
    if not (path / _CONFIG).is_file():
        what = "holds no study" if path.is_dir() else "no such folder"
        raise ConfigError(f"{path}: {what}. Name the output_dir of a `foretrain tune`.")
    config = _saved(path)
    name, run_hash = _read_identity(path)
    storage = os.environ.get(STORAGE) or config.storage
    return StudyFolder(path, config.model_copy(update={"output_dir": str(path), "storage": storage}), name, run_hash)


def directions(config: TuneConfig) -> list[Direction]:
    """Return the direction of each objective: minimize or maximize."""
    return [
        ("maximize" if is_higher_better(objective.metric) else "minimize")
        if objective.direction == "auto"
        else objective.direction
        for objective in config.objectives
    ]


def ranked(records: Sequence[TrialRecord], ways: Sequence[str]) -> list[TrialRecord]:
    """Return the trials that may win, the best first: those that are complete and keep to the constraints.

    Of several objectives, a trial stands before those that more others beat in all of them; front() is the first.
    """
    able = [r for r in records if r.number != DEFAULT_TRIAL and r.state == "complete" and r.feasible and r.values]
    losses = {record.number: _losses(record, ways) for record in able}

    def beaten(record: TrialRecord) -> int:
        mine = losses[record.number]
        return sum(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in losses.values())

    count = {record.number: beaten(record) if len(ways) > 1 else 0 for record in able}
    return sorted(able, key=lambda record: (count[record.number], losses[record.number], record.number))


def front(records: Sequence[TrialRecord], ways: Sequence[str]) -> list[TrialRecord]:
    """Return the trials that no other one beats in all objectives: of one objective, the best alone."""
    order = ranked(records, ways)
    if len(ways) == 1:
        return order[:1]
    losses = [_losses(record, ways) for record in order]
    return [
        record
        for record, mine in zip(order, losses, strict=True)
        if not any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in losses)
    ]


def chosen(study: StudyFolder, number: int | None) -> TrialRecord:
    """Return the trial that a study chooses, or the complete one of a number.

    Raises ConfigError if there is none, and if no trial is best in all objectives and no number says which is meant.
    """
    records = study.records()
    if number is not None:
        found = next((record for record in records if record.number == number and record.state == "complete"), None)
        if found is None:
            raise ConfigError(
                f"--trial {number}: is no complete trial of {study.path}. foretrain tune show lists them."
            )
        return found
    winners = front(records, study.directions)
    if not winners:
        raise ConfigError(f"{study.path}: has no best trial: none is complete and keeps to the constraints.")
    if len(winners) > 1:
        named = ", ".join(str(record.number) for record in winners[:20])
        raise ConfigError(
            f"{study.path}: no trial is best in all objectives; name one of the front by --trial: {named}."
        )
    return winners[0]


def _losses(record: TrialRecord, ways: Sequence[str]) -> tuple[float, ...]:
    return tuple(-v if way == "maximize" else v for v, way in zip(record.values or (), ways, strict=True))


def _read_identity(path: Path) -> tuple[str, str]:
    try:
        found = _Identity.model_validate(read_json(path / _IDENTITY))
    except (OSError, Unreadable) as error:
        raise ConfigError(f"{path / _IDENTITY}: cannot be read ({error}). Restore it, or start a new study.") from None
    except ValidationError as error:
        problem = explained(_Identity, error, str(path / _IDENTITY))
        raise ConfigError(f"{problem}\n  Restore it, or start a new study.") from None
    return found.name, found.run_hash


def _saved(path: Path) -> TuneConfig:
    return build(TuneConfig, read_yaml(path / _CONFIG), source=str(path / _CONFIG))


def _refuse_another(path: Path, config: TuneConfig, run_hash: str) -> None:
    """Raise ConfigError if a study searches something else than this config, naming the fields."""
    before, now = _leaves(_identity(_saved(path))), _leaves(_identity(config))
    changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if not changed and _read_identity(path)[1] != run_hash:
        changed = [f"run (what {config.run} says)"]
    if changed:
        named = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise ConfigError(
            f"{path}: the study there has another {named}, and figures of both would be mixed. Undo the change, or "
            "name a new folder: output_dir=..."
        )


def _identity(config: TuneConfig) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    tree["storage"] = config.storage and without_secrets(config.storage)
    return {key: value for key, value in tree.items() if key not in FREE}


def _run_hash(config: TuneConfig) -> str:
    path, _ = find_config(Path(config.run))
    return _hash(read_yaml(path))


def _hash(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree by dotted key; a list is one value."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in _leaves(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:  # deleted meanwhile, by a run that keeps its newest
                continue
    return total
