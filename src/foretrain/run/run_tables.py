"""What `foretrain runs list`, `show` and `compare` print, and the comparison of runs as data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from foretrain.errors import DataError
from foretrain.models.checkpoints import MANIFEST, STATE, is_checkpoint, step_of, steps_in
from foretrain.printing import duration, printable
from foretrain.reading import Unreadable, believing, read_object, resolved
from foretrain.training.health import health, sparkline, thinned
from foretrain.training.journal import read_journal
from foretrain.training.run_record import CONFIG, JOURNAL, LOG, RunRecord, is_higher_better, measure, number

WIDTH = 60  # bars of a sparkline
# What decides which windows a validation scores, and how: values of runs that differ there cannot be ranked
_SCORED = (
    "data.corpora", "data.prediction_length", "data.target", "data.validation_steps", "data.test_steps",
    "data.validation_from", "data.test_from", "data.embargo", "data.min_context",
    "data.min_rows", "data.max_train_series", "data.holdout_fraction", "evaluation.",
)  # fmt: skip
_NOT_SCORED = ("evaluation.batch_size", "evaluation.promotion", "evaluation.require_significance",
               "evaluation.promote_over", "evaluation.clusters")  # fmt: skip


def columns(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> list[str]:
    """Return rows as aligned lines; `numbers` are the columns that are aligned to the right."""
    shown = [[in_a_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(c.rjust(w) if k in numbers else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        .rstrip()
        for row in shown
    ]  # fmt: skip


def in_a_line(text: str) -> str:
    """Return a text as printable() does, and without line breaks and tabs."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


# list


def list_lines(records: Sequence[RunRecord], tags: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the table of runs in the order of their starts, stages below their pipeline. tags: of each folder."""
    if not records:
        return []
    rows: list[tuple[str, ...]] = [("run", "model", "state", "step", "best", "at step", "started", "trained", "tags")]
    for record in by_time(records):
        rows.append(_row(record, record.folder.name, tags))
        rows += [_row(stage, f"  {stage.folder.name}", tags) for stage in record.stages]
    return columns(rows, numbers=(3, 5, 7))


def by_time(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records in the order of their starts, those without one first."""
    return sorted(records, key=lambda record: (record.started or "", record.folder.name))


def _row(record: RunRecord, name: str, tags: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    best, steps = record.best, _steps(record)
    if record.pipeline:
        best, steps = None, f"stage {len(record.stages)}/{record.planned_stages}"
    return (
        name,
        model_text(record),
        record.state,
        steps,
        "-" if best is None else f"{best['name']} {figure(best['value'])}",
        "-" if best is None else f"{best['step']:,}",
        local(record.started),
        "-" if record.trained_s is None else duration(record.trained_s),
        ", ".join(tags.get(str(record.folder), ())),
    )


def model_text(record: RunRecord) -> str:
    """Return a run's family, and the weights that it starts from if they are others' or a release."""
    return f"{record.family or '-'}{f' from {record.start}' if record.start else ''}"


def _steps(record: RunRecord) -> str:
    return f"{record.step:,}" + ("" if record.total_steps is None else f"/{record.total_steps:,}")


def local(stamp: str | None) -> str:
    """Return a stamp as local time; "-" for None or what is no stamp."""
    try:
        return "-" if stamp is None else datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "-"


def figure(value: float | None) -> str:
    """Return a metric in four digits; "-" for None."""
    return "-" if value is None else f"{value:.4g}"


# show


def show_facts(record: RunRecord, tags: Sequence[str]) -> dict[str, Any]:
    """Return what is known of a run as JSON data; of a pipeline with those of its stages."""
    stages = [show_facts(stage, ()) for stage in record.stages]
    facts = {**record.facts(), "tags": list(tags), "stages": stages}
    if record.pipeline:
        return {**facts, "next": next_commands_of(record)}
    report = _health(record)
    release = record.folder / "release"
    return {
        **facts,
        "config": {key: value for key, value in flattened(record.config) if key in _SUMMARY},
        "last_line": record.course.lines[-1] if record.course.lines else None,
        "trend": None if report is None else report["loss"]["trend"],
        "validations": [
            {"step": line["step"], "value": number(line.get(record.best_metric))}
            for line in record.course.validations
            if record.best_metric is not None
        ],
        "checkpoints": checkpoints_of(record),
        "release": str(release) if (release / "config.json").is_file() else None,
        "next": next_commands_of(record),
    }


def _health(record: RunRecord) -> dict[str, Any] | None:
    """Return the newest report on a run's health; None without a training line, or of a damaged journal."""
    file = record.folder / JOURNAL
    if not record.course.lines or any(problem.startswith(f"{file}:") for problem in record.problems):
        return None
    with believing(file, DataError, "Repair its lines."):
        return health(read_journal(file))


_SUMMARY = (
    "data.context_length", "data.prediction_length", "training.batch_size", "training.dtype", "training.max_steps",
    "training.epochs", "optimizer.name", "optimizer.learning_rate", "optimizer.schedule.kind", "adapter.rank", "seed",
)  # fmt: skip


def show_lines(record: RunRecord, facts: Mapping[str, Any]) -> list[str]:
    """Return what is known of a run as text; facts are those of show_facts."""
    tags = f", tags: {', '.join(facts['tags'])}" if facts["tags"] else ""
    head = f"{in_a_line(str(record.folder))}: {model_text(record)}, {record.state}{tags}"
    if record.pipeline:
        lines = [f"{head}, {len(record.stages)} of {record.planned_stages} stages"]
        for stage, own in zip(record.stages, facts["stages"], strict=True):
            lines += ["", *show_lines(stage, own)]
        return [*lines, "", *(f"next: {command}" for command in facts["next"])]
    return [head, *columns([(f"  {name}", text) for name, text in _show_rows(record, facts)])]


def _show_rows(record: RunRecord, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    settings = [f"{key.removeprefix('training.').removeprefix('data.')} {value}" for key, value in
                facts["config"].items() if value is not None]  # fmt: skip
    yield "settings", ", ".join(settings) or "-"
    starts = "" if (record.starts or 1) == 1 else f", {record.starts} starts"
    trained = "-" if record.trained_s is None else duration(record.trained_s)
    yield "time", f"started {local(record.started)}{starts}, newest line {local(record.ended)}, {trained} of training"
    yield "step", _steps(record)
    if line := facts["last_line"]:
        names = ("loss", "loss_mean", "lr", "grad_norm", "steps_per_s", "windows_per_s")
        found = [(name, number(line.get(name))) for name in names]
        said = ", ".join(f"{name} {value:.4g}" for name, value in found if value is not None)
        yield "last line", f"step {line['step']:,}: {said}"
        losses = [number(one.get("loss_mean", one.get("loss"))) for one in record.course.lines]
        yield "loss", f"{sparkline(thinned(losses, WIDTH))}  {facts['trend'] or ''}"
    values = [one["value"] for one in facts["validations"]]
    if any(value is not None for value in values):
        direction = "higher" if record.higher_is_better else "lower"
        yield str(record.best_metric), f"{sparkline(thinned(values, WIDTH))}  {direction} is better"
    if record.best is not None:
        yield "best", f"{_with_unit(record.best['name'], record.best)} at step {record.best['step']:,}"
    for name, entry in record.metrics.items():
        if record.best is None or name != record.best["name"]:
            yield "", f"{_with_unit(name, entry)} at step {record.metrics_step:,}"
    if record.promotion is not None:
        promoted = "promoted" if record.promotion["promoted"] else "NOT PROMOTED"
        yield "gate", f"{promoted}: {record.promotion['reason'] or '-'}"
        for name, entry in record.test.items():
            yield "", f"test {_with_unit(name, entry)}"
    for one in facts["checkpoints"]:
        value = "" if one["metric"] is None else f"  {record.best_metric or 'metric'} {figure(one['metric'])}"
        yield "checkpoint", f"{one['path']}{value}{'  best' if one['best'] else ''}"
    yield "release", facts["release"] or "none"
    for command in facts["next"]:
        yield "next", command


def _with_unit(name: str, entry: Mapping[str, Any]) -> str:
    unit = f" ({entry['unit']})" if entry.get("unit") else ""
    return f"{name} {figure(entry['value'])}{unit}"


def checkpoints_of(record: RunRecord) -> list[dict[str, Any]]:
    """Return step, path, metric and whether it is the best, of each whole checkpoint, in the order of steps."""
    found = []
    for path in steps_in(record.folder / "checkpoints"):
        if not is_checkpoint(path):
            continue
        try:
            value = number(read_object(path / MANIFEST).get("metric"))
        except (OSError, Unreadable):  # deleted by its run meanwhile, or damaged, which a resume says
            continue
        best = record.best is not None and record.best["step"] == step_of(path)
        found.append({"step": step_of(path), "path": str(path), "metric": value, "best": best})
    return found


def next_commands_of(record: RunRecord) -> list[str]:
    """Return commands that a run may go on with: of a finished one those that it named at its end, or a forecast if it
    makes any; another one is continued."""
    folder = shlex.quote(str(record.folder))
    if record.state.startswith("training"):
        return [f"foretrain runs health {folder}"]
    if record.state in _FINISHED:
        forecasts = any(name.endswith("skill") for name in record.metrics)
        return _said_next(record.folder / LOG) or ([f"foretrain forecast {folder} DATA"] if forecasts else [])
    if not (record.folder / CONFIG).is_file():
        return []
    saved, place = Path(str(record.config.get("output_dir"))), record.folder
    moved = resolved(saved) != resolved(place)
    if place.parent.name == "stages" and record.config.get("stage"):  # its pipeline is what is continued
        place = place.parent.parent
    command = f"foretrain train {shlex.quote(str(place / CONFIG))} --resume"
    return [f"{command} output_dir={shlex.quote(str(place))}" if moved else command]


_FINISHED = ("finished", "stopped by patience", "stopped by evaluation")


def _said_next(log: Path) -> list[str]:
    """Return the commands that a run logged at its end."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    found = [line.partition(" next: ")[2] for line in lines[-8:]]
    return [command for command in found if command.startswith("foretrain ")]


# compare


def flattened(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of the leaves of a config; items of lists of mappings have their numbers as keys."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for number_of, item in enumerate(tree):
            yield from flattened(item, f"{prefix}.{number_of}")
    else:
        yield prefix, tree


def compare_facts(records: Sequence[RunRecord], metric: str | None = None) -> dict[str, Any]:
    """Return how runs differ as JSON data: settings, metrics of their best or released weights, and a ranking.

    metric: the one to rank by; None = the one that chose the weights of all of them. Without a common one, and if the
    runs were not scored on the same windows, `ranking` is None and `why` says why.
    """
    names = [str(record.folder) for record in records]
    trees = [dict(flattened({k: v for k, v in record.config.items() if k != "output_dir"})) for record in records]
    keys = list(dict.fromkeys(key for tree in trees for key in tree))
    settings = {
        key: {name: tree.get(key) for name, tree in zip(names, trees, strict=True)}
        for key in keys
        if any(_set(tree.get(key)) != _set(trees[0].get(key)) for tree in trees)
    }
    units: dict[str, Any] = {}
    for record in records:
        for key, entry in record.metrics.items():
            units[key] = units.get(key) or entry["unit"]
    metrics = {key: {"unit": unit, "values": _values(records, key)} for key, unit in units.items()}
    facts = {
        "runs": {name: _compared(record) for name, record in zip(names, records, strict=True)},
        "settings": settings,
        "metrics": metrics,
    }
    return {**facts, **_ranking(records, settings, metric)}


def _set(value: Any) -> Any:
    """Return a setting; None for what is empty, since another version or family may not have the key at all."""
    return None if value in ({}, []) else value


def _compared(record: RunRecord) -> dict[str, Any]:
    keys = ("family", "start", "state", "step", "total_steps", "best", "metrics_step", "trained_s")
    return {key: getattr(record, key) for key in keys}


def _ranking(records: Sequence[RunRecord], settings: Mapping[str, Any], metric: str | None) -> dict[str, Any]:
    """Return the runs from the best to the worst by one metric; {"ranking": None, "why": ...} if there is no order."""

    def none(why: str) -> dict[str, Any]:
        return {"ranking": None, "metric": metric, "why": why}

    chosen = {str(record.folder): record.best_metric for record in records}
    if metric is None:
        if len(set(chosen.values())) > 1:
            told = ", ".join(f"{name} by {by or 'none'}" for name, by in chosen.items())
            return none(f"metrics of different names choose their weights ({told}); --metric ranks by one of them")
        metric = next(iter(chosen.values()))
    if metric is None:
        return none("none of them validates")
    values = _values(records, metric)
    known = {name: value for name, value in values.items() if value is not None}
    if missing := values.keys() - known.keys():
        return none(f"{', '.join(sorted(missing))}: no {metric}")
    if "coverage" in measure(metric):
        return none(f"{metric} is best at its nominal share, neither lowest nor highest")
    if metric == "val_loss" and any(key.startswith(("model.family", "loss.")) for key in settings):
        return none("val_loss is another function in each of them")
    if differing := [key for key in settings if key.startswith(_SCORED) and not key.startswith(_NOT_SCORED)]:
        return none(f"they were not scored on the same windows or alike ({', '.join(differing[:4])})")
    if "seed" in settings and any(_sampled(record) for record in records):
        return none("they were scored on different samples of evaluation.max_items items, drawn by their seeds")
    if len({data for record in records if (data := _data_of(record)) is not None}) > 1:
        return none("the content of their corpora differs")
    higher = records[0].higher_is_better if metric == records[0].best_metric else is_higher_better(metric)
    order = sorted(known, key=lambda name: known[name], reverse=higher)
    return {"ranking": order, "metric": metric, "higher_is_better": higher, "why": None}


def _values(records: Sequence[RunRecord], metric: str) -> dict[str, float | None]:
    return {str(record.folder): record.metrics.get(metric, {}).get("value") for record in records}


def _sampled(record: RunRecord) -> bool:
    evaluation = record.config.get("evaluation")
    return isinstance(evaluation, dict) and evaluation.get("max_items") is not None


def _data_of(record: RunRecord) -> str | None:
    """Return what a run's release or newest checkpoint says of the content of its corpora; None if neither does."""
    places = [(record.folder / "release" / "release.json", ("corpora",))]
    places += [(path / STATE, ("facts", "corpora")) for path in steps_in(record.folder / "checkpoints")[-1:]]
    for path, keys in places:
        try:
            found: Any = read_object(path)
        except (OSError, Unreadable):
            continue
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return json.dumps(found, sort_keys=True)
    return None


def compare_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return a comparison as text."""
    names = list(facts["runs"])
    rows = [("", *names)]
    for label, key in (("model", "family"), ("from", "start"), ("state", "state"), ("step", "step")):
        rows.append((label, *(_cell(run[key]) for run in facts["runs"].values())))
    lines = columns(rows)
    if facts["settings"]:
        rows = [(f"  {key}", *(_cell(value) for value in values.values())) for key, values in facts["settings"].items()]
        lines += ["", "settings that differ:", *columns(rows)]
    else:
        lines += ["", "no setting differs but output_dir"]
    if facts["metrics"]:
        rows = [("  at step", "", *(_cell(run["metrics_step"]) for run in facts["runs"].values()))]
        for name, entry in facts["metrics"].items():
            values = [figure(entry["values"][run]) for run in names]
            rows.append((f"  {name}", entry["unit"] or "unit not recorded", *values))
        lines += ["", "validation metrics of their best weights:", *columns(rows, numbers=range(2, 2 + len(names)))]
    if facts["ranking"] is None:
        return [*lines, "", f"not ranked: {facts['why']}"]
    which = "higher" if facts["higher_is_better"] else "lower"
    order = ", ".join(f"{place}. {name}" for place, name in enumerate(facts["ranking"], 1))
    return [*lines, "", f"ranked by {facts['metric']} ({which} is better): {order}"]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
