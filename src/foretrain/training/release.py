"""What a run leaves at its end: the release under all its names, its figures and its best checkpoints."""

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
from foretrain.atomic import remove, replace_folder, replacing_file, replacing_folder, write_json
from foretrain.errors import TrainingError
from foretrain.models.base import Trainable
from foretrain.training.checkpoint import CheckpointInfo
from foretrain.training.journal import read_journal

ALIASES = ("best_model", "hf_export")
NAMES = ("release", *ALIASES)
FIGURES, RECORDS = "final_metrics.json", "best_records.json"


def write_release(output_dir: Path, model: Trainable, state: dict[str, Tensor] | None, facts: dict[str, Any]) -> Path:
    """Write release/ (the family's files and release.json) and hard links to it under its familiar names.

    The release of a model with an adapter is merged; the adapter alone goes to adapters/NAME, if it is of any use so.
    What was there is replaced by a rename, so that at any moment there is a complete one or none.
    """
    target = output_dir / "release"
    try:
        with replacing_folder(target) as scratch:
            with merged(model):
                model.save_release(scratch, state)
            write_json(scratch / "release.json", facts)
        _link_folder(target, output_dir, ALIASES)
        if model.adapter is not None and model.adapter.portable:
            named = output_dir / "adapters" / model.adapter.name
            with replacing_folder(named, scratch=output_dir / ".tmp-adapter") as scratch:
                write_adapter(scratch, model)
                write_json(scratch / "release.json", facts)
    except OSError as error:
        raise TrainingError(
            f"{target}: the release could not be written: {error.strerror or error}. The checkpoints are intact; free "
            "some space and resume, or export one elsewhere."
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
) -> None:
    """Write final_metrics.json and best_records.json of a run whose release holds a step's weights.

    The first has facts, the metrics that validation found of those weights, each with its unit, and the newest
    validation, both from metrics.jsonl. The second lists the best checkpoints by `metric`, best first; paths are
    relative to the run folder.
    """
    lines = [line for line in read_journal(output_dir / "metrics.jsonl") if line.get("kind") == "validation"]
    found = {line["step"]: {k: v for k, v in line.items() if k not in ("step", "kind", "best")} for line in lines}

    def figures(at: int) -> dict[str, Any]:
        return {name: {"value": value, "unit": units.get(name)} for name, value in found.get(at, {}).items()}

    newest = max(found, default=None)
    last = None if newest is None else {"step": newest, "metrics": figures(newest)}
    _replace_json([output_dir / FIGURES], {**facts, "step": step, "metrics": figures(step), "last_validation": last})
    records = [
        {"step": kept.step, "metric": metric, "value": kept.metric, "path": f"checkpoints/{kept.path.name}"}
        for kept in best
    ]
    _replace_json([output_dir / RECORDS], records)


def link_release(release: Path, output_dir: Path) -> None:
    """Make what a stage left that of the whole pipeline, under every name, by hard links (copies where impossible)."""
    stage = release.parent
    try:
        _link_folder(release, output_dir, NAMES)
        if (stage / "adapters").is_dir():
            _link_folder(stage / "adapters", output_dir, ("adapters",))
        for name in (FIGURES, "training.log"):
            if (stage / name).is_file():
                _link_file(stage / name, output_dir / name)
        if (stage / RECORDS).is_file():
            records = json.loads((stage / RECORDS).read_text(encoding="utf-8"))
            inside = stage.relative_to(output_dir).as_posix()
            _replace_json([output_dir / RECORDS], [{**r, "path": f"{inside}/{r['path']}"} for r in records])
    except OSError as error:
        raise TrainingError(
            f"{output_dir / 'release'}: the release could not be put there: {error.strerror or error}. It is complete "
            f"in {release}; free some space and resume."
        ) from error


def run_folder(release: Path) -> Path:
    """The run folder that a release or an adapter lies in."""
    return release.parent.parent if release.parent.name == "adapters" else release.parent


def pipeline_folder(release: Path) -> Path:
    """The folder of the run in stages that a release belongs to, of a stage or of the whole; else its run folder."""
    run = run_folder(release.absolute())
    return run.parent.parent if run.parent.name == "stages" else run


def mark_promotion(release: Path, promotion: dict[str, Any]) -> None:
    """Record whether a release was promoted: in its release.json and the run's final_metrics.json, wherever they are.

    Every file is replaced by a rename. The names under which the same release stands in its run folder, and in that of
    the pipeline, stay links to one file. Raises OSError where a file cannot be written.
    """
    known, root = _unmarked(release / "release.json"), pipeline_folder(release)
    homes = [root, *sorted((root / "stages").glob("*"))]
    folders = [folder for home in homes for folder in (*(home / name for name in NAMES), *home.glob("adapters/*"))]
    places = [folder / "release.json" for folder in folders]
    same = [place for place in places if _unmarked(place) == known]
    own = release / "release.json"
    _replace_json([own, *(place for place in same if place != own)], {**known, "promotion": promotion})
    figures = [home / FIGURES for home in homes if home / "release" / "release.json" in same]
    if held := [place for place in figures if place.is_file()]:
        _replace_json(held, {**_unmarked(held[0]), "promotion": promotion})


def mark_of(release: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """{"promotion": ...} of a release that is there, if it says nothing else than facts; {} without one."""
    path = release / "release.json"
    if _unmarked(path) != json.loads(json.dumps(facts)):
        return {}
    return {key: value for key, value in read_release(release).items() if key == "promotion"}


def read_release(folder: Path) -> dict[str, Any]:
    """The release.json of a release."""
    return json.loads((folder / "release.json").read_text(encoding="utf-8"))


def _unmarked(path: Path) -> dict[str, Any]:
    """A JSON file of a run without its mark; {} where there is none."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key != "promotion"}


def _replace_json(places: Sequence[Path], data: Any) -> None:
    """Put data in the place of the first file, and links to it in the place of the others, each by a rename."""
    with replacing_file(places[0]) as scratch:
        write_json(scratch, data)
    for place in places[1:]:
        _link_file(places[0], place)


def _link_file(source: Path, target: Path) -> None:
    with replacing_file(target) as scratch:
        _link(str(source), str(scratch))


def _link_folder(source: Path, output_dir: Path, names: tuple[str, ...]) -> None:
    for name in names:
        scratch = output_dir / f".tmp-{name}"
        remove(scratch)
        # Not synced: the release is, and a kill before the last of its names would leave a finished run without them.
        shutil.copytree(source, scratch, copy_function=_link)
        replace_folder(scratch, output_dir / name)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target
