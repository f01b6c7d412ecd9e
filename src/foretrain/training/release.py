"""Results of a finished run: the release under all its names, final_metrics.json and best_records.json."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from foretrain.adapters.files import write_adapter
from foretrain.adapters.layers import merged
from foretrain.atomic import copy_folder, remove, replace_folder, replacing_file, replacing_folder, write_json
from foretrain.errors import TrainingError
from foretrain.models.base import Trainable
from foretrain.models.checkpoints import is_checkpoint
from foretrain.reading import Unreadable, read_json, read_object
from foretrain.training.evaluators import newest_evaluations
from foretrain.training.journal import read_journal
from foretrain.training.manifest import CheckpointInfo
from foretrain.training.run_record import METRICS, RECORDS

ALIASES = ("best_model", "hf_export")
NAMES = ("release", *ALIASES)
EVALUATION = "evaluation"  # folder of the report of the gate at the end of a run


def write_release(output_dir: Path, model: Trainable, state: dict[str, Tensor] | None, facts: dict[str, Any]) -> Path:
    """Write release/ (the family's files and release.json) and hard links to it under the names of ALIASES.

    The release of a model with an adapter is merged; a portable adapter is also written to adapters/NAME. An earlier
    release is replaced by a rename, so that at any moment there is a complete one or none.
    """
    target = output_dir / "release"
    try:
        with replacing_folder(target) as scratch:
            with merged(model):
                model.save_release(scratch, state)
            write_json(scratch / "release.json", facts)
        _link_folder(target, output_dir, ALIASES)
        if model.adapter is not None and model.adapter.portable:
            folder = output_dir / "adapters" / model.adapter.name
            with replacing_folder(folder, scratch=output_dir / ".tmp-adapter") as scratch:
                write_adapter(scratch, model)
                write_json(scratch / "release.json", facts)
    except OSError as error:
        raise TrainingError(
            f"{target}: the release could not be written: {error.strerror or error}. The checkpoints are intact; free "
            "some space and resume, or export a checkpoint to another disk."
        ) from error
    return target


def write_records(
    output_dir: Path,
    step: int,
    best: Sequence[CheckpointInfo],
    *,
    metric: str,
    units: Mapping[str, str],
    facts: dict[str, Any],
    by_evaluator: Mapping[str, Sequence[CheckpointInfo]],
) -> None:
    """Write final_metrics.json and best_records.json of a run whose release holds the weights of `step`.

    The first holds facts, the best value of `metric` and its step, the validation metrics of those weights with their
    units, the newest validation, and the newest evaluation of each evaluator, all from metrics.jsonl. The second lists
    the best checkpoints by `metric`, best first, then those by the scores of each evaluator; paths are relative to the
    run folder.
    """
    lines = [line for line in read_journal(output_dir / "metrics.jsonl") if line.get("kind") == "validation"]
    metrics = {
        line["step"]: {k: v for k, v in line.items() if k not in ("step", "kind", "epoch", "best")} for line in lines
    }

    def with_units(at: int) -> dict[str, Any]:
        return {name: {"value": value, "unit": units.get(name)} for name, value in metrics.get(at, {}).items()}

    newest = max(metrics, default=None)
    last = None if newest is None else {"step": newest, "metrics": with_units(newest)}
    rows = [(metric, info.metric, info) for info in best]
    rows += [(name, info.scores[name].value, info) for name, found in by_evaluator.items() for info in found]
    records = [
        {"step": info.step, "metric": name, "value": value, "path": f"checkpoints/{info.path.name}"}
        for name, value, info in rows
    ]
    chosen = [{"metric": metric, "unit": units.get(metric), "value": info.metric, "step": info.step} for info in best]
    evaluations = newest_evaluations(output_dir)
    _replace_json(
        [output_dir / METRICS],
        {
            **facts,
            "step": step,
            **({"best": chosen[0]} if chosen else {}),
            "metrics": with_units(step),
            "last_validation": last,
            **({"evaluations": evaluations} if evaluations else {}),
        },
    )
    _replace_json([output_dir / RECORDS], records)


def link_release(release: Path, output_dir: Path) -> None:
    """Link the results of a stage into the folder of its pipeline, by hard links (copies if these are impossible)."""
    stage = release.parent
    try:
        if not (stage / EVALUATION).is_dir():
            drop_evaluation(output_dir / "release")
        _link_folder(release, output_dir, NAMES)
        if (stage / "adapters").is_dir():
            _link_folder(stage / "adapters", output_dir, ("adapters",))
        if (stage / EVALUATION).is_dir():
            _link_folder(stage / EVALUATION, output_dir, (EVALUATION,))
        for name in (METRICS, "training.log"):
            if (stage / name).is_file():
                _link_file(stage / name, output_dir / name)
        if (stage / RECORDS).is_file():
            records = read_json(stage / RECORDS)
            prefix = stage.relative_to(output_dir).as_posix()
            _replace_json([output_dir / RECORDS], [{**r, "path": f"{prefix}/{r['path']}"} for r in records])
    except OSError as error:
        raise TrainingError(
            f"{output_dir / 'release'}: the release could not be written there: {error.strerror or error}. It is "
            f"complete in {release}; free some space and resume."
        ) from error


def run_folder(release: Path) -> Path:
    """Return the run folder of a release, of an adapter, or of the release in a checkpoint."""
    if is_checkpoint(release.parent):
        return release.absolute().parents[2]
    return release.parent.parent if release.parent.name == "adapters" else release.parent


def pipeline_folder(release: Path) -> Path:
    """Return the folder of the pipeline that a release belongs to; for a run without stages its run folder."""
    run = run_folder(release.absolute())
    return run.parent.parent if run.parent.name == "stages" else run


def mark_promotion(release: Path, promotion: dict[str, Any]) -> None:
    """Write whether a release was promoted to every copy of its release.json and of the run's final_metrics.json.

    Every file is replaced by a rename. The names of the release in its run folder and in the folder of the pipeline
    stay links to one file. Raises OSError if a file cannot be written.
    """
    facts, root = _without_promotion(release / "release.json"), pipeline_folder(release)
    runs = [root, *sorted((root / "stages").glob("*"))]
    folders = [folder for run in runs for folder in (*(run / name for name in NAMES), *run.glob("adapters/*"))]
    paths = [folder / "release.json" for folder in folders]
    same = [path for path in paths if _without_promotion(path) == facts]
    own = release / "release.json"
    _replace_json([own, *(path for path in same if path != own)], {**facts, "promotion": promotion})
    metrics = [run / METRICS for run in runs if run / "release" / "release.json" in same]
    if existing := [path for path in metrics if path.is_file()]:
        _replace_json(existing, {**_without_promotion(existing[0]), "promotion": promotion})


def saved_promotion(release: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return {"promotion": ...} of an existing release if its other facts equal `facts`, else {}."""
    path = release / "release.json"
    if _without_promotion(path) != json.loads(json.dumps(facts)):
        return {}
    return {key: value for key, value in read_release(release).items() if key == "promotion"}


def drop_evaluation(release: Path) -> None:
    """Delete the report of a gate on a release that is about to be replaced, as the new one will have no mark of it.

    A folder of that name beside a release that no gate has marked is the user's, and stays.
    """
    if (release / "release.json").is_file() and "promotion" in read_release(release):
        remove(release.parent / EVALUATION)


def read_release(folder: Path) -> dict[str, Any]:
    """Read the release.json of a release; {} if it is damaged, so that it counts as of another release."""
    return _readable(folder / "release.json")


def _without_promotion(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run without its key "promotion"; {} if there is no file."""
    if not path.is_file():
        return {}
    return {key: value for key, value in _readable(path).items() if key != "promotion"}


def _readable(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; {} if it is damaged: the next release replaces it."""
    try:
        return read_object(path)
    except Unreadable:
        return {}


def _replace_json(paths: Sequence[Path], data: Any) -> None:
    """Replace the first file by data, and the others by hard links to it, each by a rename."""
    with replacing_file(paths[0]) as scratch:
        write_json(scratch, data)
    for path in paths[1:]:
        _link_file(paths[0], path)


def _link_file(source: Path, target: Path) -> None:
    with replacing_file(target) as scratch:
        _link(source, scratch)


def _link_folder(source: Path, output_dir: Path, names: tuple[str, ...]) -> None:
    for name in names:
        scratch = output_dir / f".tmp-{name}"
        remove(scratch)
        # not synced, since the release itself is: a kill before the last link would leave a finished run without them
        try:
            copy_folder(source, scratch, _link)
            replace_folder(scratch, output_dir / name)
        finally:
            remove(scratch)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
