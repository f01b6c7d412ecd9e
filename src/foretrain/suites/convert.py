"""Tasks whose series are derived from raw public files, converted once into corpora: ROOT/SUITE/TASK.

A corpus has float32 values, as every corpus; series whose mean rounding is more than MOST_LOST of their mean change
from step to step are refused. download.json in the corpus says of which files it was made, and by which derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.exclusive import exclusive
from foretrain.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from foretrain.data.store import Corpus
from foretrain.data.writer import CorpusWriter
from foretrain.errors import DataError
from foretrain.reading import read_object
from foretrain.suites.definition import BenchmarkTask, RawUse, raw_sources, raw_uses
from foretrain.suites.derive import derived
from foretrain.suites.download import RECORD, SCHEMA, Obtained, check_space, size_text
from foretrain.suites.raw_files import BenchmarkSeries, read_raw
from foretrain.suites.raw_places import RawPlaces, Staged
from foretrain.suites.score import find_data, where_to_get
from foretrain.timeaxis import grid

MOST_LOST = 1e-3  # mean rounding over mean change; of errors it has both signs, so figures change by far less


def convert(task: BenchmarkTask, root: Path, places: RawPlaces, command: str) -> Obtained:
    """Make the corpus of a task if it is not there. What cannot be made is an outcome, not an error."""
    try:
        return _convert(task, root, places, command)
    except DataError as error:
        return Obtained(task.name, "missing", str(error))


def _convert(task: BenchmarkTask, root: Path, places: RawPlaces, command: str) -> Obtained:
    out = root / task.suite_name / task.name
    there = find_data(task, root)
    if there == "hub":
        return Obtained(task.name, "kept", "the suite's own data set is there")
    if there == "corpus" and not (out / RECORD).is_file():
        return Obtained(task.name, "kept", "a corpus that another command made is there")
    use, staged = _staged(task, places)
    record = None if use is None or staged is None else _record(task, use, staged)
    if there == "corpus":
        reason = _outdated(out, record)
        if reason is None:
            return Obtained(task.name, "kept", f"converted before, {_totals(read_manifest(out / MANIFEST_NAME))}")
        if record is None:
            raise DataError(f"{out}: {reason}. Put {where_to_get(task, root)}, or delete the folder.")
    if use is None or staged is None or record is None:
        raise DataError(f"put {where_to_get(task, root)}")
    series = read_raw(staged.folder, raw_sources()[use.source], use)
    if use.derive is not None:
        series = [derived(one, use.derive) for one in series]
    items, renamed = _as_items(task, series)
    covariates = (*task.definition.past_covariates, *task.definition.known_covariates)
    lacking = [name for name in covariates if name not in items[0].variates]
    record |= {"values": "float32", "columns": renamed}
    manifest = _write(task, items, out, record, {"sources": _sources(staged, items), "command": command})
    without = f"; without {', '.join(lacking)}, which the raw files do not name" if lacking else ""
    return Obtained(task.name, "converted", f"from {use.source}, {_totals(manifest)}{without}")


def _staged(task: BenchmarkTask, places: RawPlaces) -> tuple[RawUse | None, Staged | None]:
    """Return the first raw source of a task whose files are there, and the files."""
    for use in raw_uses(task.definition):
        if (staged := places.stage(use.source, raw_sources()[use.source])) is not None:
            return use, staged
    return None, None


def _record(task: BenchmarkTask, use: RawUse, staged: Staged) -> dict[str, Any]:
    """Return what decides the content of a corpus."""
    return {
        "schema": SCHEMA,
        "suite": task.suite_name,
        "task": task.name,
        "made_of": use.model_dump(mode="json"),
        "origin": raw_sources()[use.source].origin,
        "files": staged.files,
    }


def _outdated(out: Path, record: dict[str, Any] | None) -> str | None:
    """Return why a corpus has to be made anew; None if it is whole, and made of these files by this rule."""
    try:
        Corpus.open(out).verify()
        found = read_object(out / RECORD)
    except (DataError, OSError, ValueError) as error:
        return str(error).rstrip(".")
    if record is None:
        return None
    differing = [key for key in record if found.get(key) != record[key]]
    return f"was made with other {', '.join(differing)}" if differing else None


def _as_items(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> tuple[list[BenchmarkSeries], dict[str, str]]:
    """Return items that all have the columns of the corpus, and their raw names by column where these differ.

    Tasks without named targets have one column, an item each; others their targets and covariates.
    """
    targets = task.definition.targets
    if targets is None and task.suite.together:
        return list(series), {}
    if targets is None:
        return [part for one in series for part in one.split()], {}
    covariates = (*task.definition.past_covariates, *task.definition.known_covariates)
    if all(set(targets) <= set(one.variates) for one in series):
        names = (*targets, *(name for name in covariates if all(name in one.variates for one in series)))
        return [one.select(names) for one in series], {}
    raw = series[0].variates
    if len(raw) != len(targets) or any(one.variates != raw for one in series):
        raise DataError(f"{task.suite_name}/{task.name}: raw columns {', '.join(raw)[:100]} are not its targets.")
    # target_0, target_1, ... count the raw columns; sorted as texts, target_10 comes before target_2
    columns = tuple(sorted(targets, key=lambda name: (len(name), name)))
    items = [BenchmarkSeries(one.item_id, columns, one.values, one.stamps) for one in series]
    return items, dict(zip(columns, raw, strict=True)) if columns != raw else {}


def _write(
    task: BenchmarkTask, items: Sequence[BenchmarkSeries], out: Path, record: dict[str, Any], provenance: dict[str, Any]
) -> Manifest:
    import json

    for one in items:
        _check_precision(one)
    time, freq = _time_axis(task, items)
    names, rule = items[0].variates, task.definition
    check_space(out, sum(one.values.size * 4 + (one.values.shape[1] * 8 if time == "stamps" else 0) for one in items))
    with exclusive(out) as folder:
        present = (folder / MANIFEST_NAME).is_file()
        with CorpusWriter(
            folder,
            names,
            time=time,
            freq=freq,
            provenance=provenance,
            replaces=read_manifest(folder / MANIFEST_NAME) if present else None,
            locked=True,
            seasonality=rule.seasonality,
            past_covariates=tuple(name for name in rule.past_covariates if name in names),
            known_covariates=tuple(name for name in rule.known_covariates if name in names),
        ) as writer:
            writer.extra_file(RECORD, json.dumps(record, indent=1) + "\n")
            for one in items:
                writer.append(one.item_id, one.values, times=one.stamps)
    assert writer.manifest is not None
    return writer.manifest


def _check_precision(one: BenchmarkSeries) -> None:
    """Raise DataError if float32 rounds away what a series changes by."""
    for name, values in zip(one.variates, one.values, strict=True):
        known = values[np.isfinite(values)]
        changes = np.abs(np.diff(known)).mean() if len(known) > 1 else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            lost = np.abs(known - known.astype(np.float32)).mean() if len(known) else 0.0
        if changes and not lost <= MOST_LOST * changes:
            raise DataError(
                f"item {one.item_id!r}: column {name} would lose {lost / changes:.1g} of its mean change in the 7 "
                "digits of a corpus. Put the raw files into the data root: they are read with all digits."
            )


def _time_axis(task: BenchmarkTask, items: Sequence[BenchmarkSeries]) -> tuple[str, str | None]:
    """Return the axis of a corpus and its frequency: regular if all stamps are on one, so that none need be stored."""
    rule = task.definition
    assert rule.raw is not None
    stamps = [one.stamps for one in items]
    if all(one is None for one in stamps):
        return "steps", None
    freq = rule.raw.derive.every if rule.raw.derive and rule.raw.derive.every else rule.freq
    for one in stamps:
        if one is None:
            raise DataError(f"{task.suite_name}/{task.name}: some items have stamps and others none.")
        times = one.astype("datetime64[us]").astype(np.int64)
        if not np.array_equal(grid.stamps(int(times[0]), freq, np.arange(len(times))), times):
            return "stamps", freq
    return "regular", freq


def _sources(staged: Staged, items: Sequence[BenchmarkSeries]) -> list[dict[str, Any]]:
    """Return the files with the steps that are of them; of several files 0 where item ids do not tell."""
    alone = len(staged.files) == 1
    rows = {
        name: sum(one.values.shape[1] for one in items if alone or one.item_id.startswith(name.partition(".")[0]))
        for name in staged.files
    }
    return [{"name": name, "sha256": facts["sha256"], "rows": rows[name]} for name, facts in staged.files.items()]


def _totals(manifest: Manifest) -> str:
    size, columns = sum(shard["bytes"] for shard in manifest.shards), len(manifest.columns)
    each = "" if columns == 1 else f" of {columns} columns"
    return f"{manifest.num_series:,} series{each}, {manifest.num_rows:,} steps, {size_text(size)}"
