"""Results of ours beside the figures that suites published for other models, over the same tasks.

Ours appear only from result files that are there. A result that failed, was imputed or scored on a part of its items is
named and counts nowhere; so does one whose seasonal naive is not the published one, as its data are others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import new_folder, write_json, write_text
from foretrain.errors import DataError
from foretrain.evaluation.page import esc, page, section
from foretrain.suites.aggregate import Interval, fev_standings
from foretrain.suites.definition import BenchmarkTask, own_suites, tasks_of
from foretrain.suites.published import PublishedModel, published_figures, published_models
from foretrain.suites.results import TaskResult
from foretrain.suites.self_check import TOLERANCE
from foretrain.suites.tables import Table, label_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
RESAMPLES = 1000
_NAIVE = "seasonal naive, as published"
_NAMED = 6  # tasks of a line


@dataclass(frozen=True)
class BesideRow:
    """A model over the common tasks."""

    model: str
    ours: bool
    ratios: dict[str, float]  # metric -> geometric mean of the errors relative to the published seasonal naive
    skill: float  # of the suite's own metric: 1 - ratio, each clipped to 0.01..100
    skill_interval: Interval  # 95%, bootstrap over tasks
    win_rate: float  # against each other model of the table
    parameters: int | None
    seconds: float | None  # over all common tasks
    seconds_on: str  # the device; "" = not known
    seen: int  # tasks whose data are counted as seen in training
    unknown: int  # tasks for which that is not known
    source: str


@dataclass(frozen=True)
class SuiteBeside:
    """The models of a suite over the tasks that all of ours were scored on."""

    suite: str
    tasks: tuple[str, ...]  # common to all of ours
    of_tasks: int
    items: int
    windows: int
    metric: str  # the suite's own, of skill and win rate
    rows: tuple[BesideRow, ...]  # best skill first
    left_out: tuple[str, ...]  # what counts nowhere, and why: a line each


def beside(results: Sequence[TaskResult]) -> list[SuiteBeside]:
    """Return our results beside the published ones, for each suite with published models.

    Raises DataError if no suite has a task that all of our models in it were scored on.
    """
    found, why = list[SuiteBeside](), list[str]()
    for suite in dict.fromkeys(result.suite for result in results):
        if suite not in own_suites() or not published_models(suite):
            why.append(f"{suite}: no published figures of models are known")
            continue
        one = _beside(suite, [result for result in results if result.suite == suite])
        if one.tasks:
            found.append(one)
        else:
            why.append(f"{suite}: no task that all of its models have a whole score of ({'; '.join(one.left_out)})")
    if not found:
        raise DataError(f"nothing to put beside published figures. {'. '.join(why)}.")
    return found


def _beside(suite: str, results: Sequence[TaskResult]) -> SuiteBeside:
    tasks = {task.name: task for task in tasks_of(suite)}
    left_out: list[str] = []
    whole: dict[str, dict[str, TaskResult]] = {result.model: {} for result in results}
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in results:
        reason = _unusable(result, tasks)
        if reason:
            reasons[result.model, reason].append(result.task)
        else:
            whole[result.model][result.task] = result
    left_out += [f"{model}: {_listed(names)} ({reason})" for (model, reason), names in reasons.items()]
    common = [name for name in tasks if all(name in of for of in whole.values())]
    for model, of in whole.items():
        more = [name for name in of if name not in common]
        if more:
            left_out.append(f"{model}: {_listed(more)} (another of these models has no whole score there)")
    models = [model for model in published_models(suite) if all(task in model.scores for task in common)]
    for model in published_models(suite):
        lacking = [task for task in common if task not in model.scores]
        if lacking:
            left_out.append(f"{model.name}, published: no row, as {_listed(lacking)} of these tasks have no figure")
    metric = next(iter(tasks.values())).suite.eval_metric
    some = list(next(iter(whole.values())).values()) if common else []
    chosen = [result for result in some if result.task in common]
    return SuiteBeside(
        suite,
        tuple(common),
        len(tasks),
        sum(result.series for result in chosen),
        sum(result.windows for result in chosen),
        label_of(metric),
        tuple(_rows(whole, models, [tasks[name] for name in common], metric)) if common else (),
        tuple(left_out),
    )


def _unusable(result: TaskResult, tasks: dict[str, BenchmarkTask]) -> str:
    """Return why a result cannot stand beside published ones; "" if it can."""
    if result.task not in tasks:
        return "no such task of the suite"
    if result.imputed:
        return "failed, imputed with seasonal naive"
    if result.state != "done":
        return "failed"
    if result.max_items is not None:
        return f"a sample of {result.max_items:,} items"
    published = published_figures(tasks[result.task])
    for name, value in published.items():
        own = result.baseline.get(name)
        if own is None or not abs(own - value) <= TOLERANCE * abs(value):
            return f"its seasonal naive is not the published one within {TOLERANCE:g}: other data"
        if name in _metrics(tasks[result.task], result.suite) and result.metrics.get(name) is None:
            return f"{name} is undefined"
    return ""


def _metrics(task: BenchmarkTask, suite: str) -> list[str]:
    """Return the metrics that are published of models."""
    first = published_models(suite)[0]
    return [name for name in task.suite.metrics if name in next(iter(first.scores.values())).metrics]


def _rows(
    whole: dict[str, dict[str, TaskResult]],
    models: Sequence[PublishedModel],
    tasks: Sequence[BenchmarkTask],
    metric: str,
) -> list[BesideRow]:
    names, suite = [task.name for task in tasks], tasks[0].suite_name
    metrics = _metrics(tasks[0], suite)
    figures: dict[str, dict[str, dict[str, float]]] = {
        _NAIVE: {task.name: {m: published_figures(task)[m] for m in metrics} for task in tasks}
    }
    for model, of in whole.items():
        figures[_ours(model)] = {name: {m: float(of[name].metrics[m] or 0.0) for m in metrics} for name in names}
    for model in models:
        figures[model.name] = {name: model.scores[name].metrics for name in names}
    standing = {row.model: row for row in fev_standings(figures, metric, baseline=_NAIVE, resamples=RESAMPLES)}
    facts = {_ours(model): _our_facts([of[name] for name in names]) for model, of in whole.items()}
    facts |= {model.name: _published_facts(model, names) for model in models}
    facts[_NAIVE] = {"ours": False, "parameters": None, "seconds": None, "seconds_on": "", "seen": 0, "unknown": 0,
                     "source": "the suite's table of seasonal naive"}  # fmt: skip
    rows = [
        BesideRow(
            model=model,
            ratios={label_of(m): _ratio(of, figures[_NAIVE], m) for m in metrics},
            skill=standing[model].skill,
            skill_interval=standing[model].skill_interval or (math.nan, math.nan),
            win_rate=standing[model].win_rate,
            **facts[model],
        )
        for model, of in figures.items()
    ]
    return sorted(rows, key=lambda row: -row.skill)


def _ours(model: str) -> str:
    return f"{model} (here)"


def _ratio(own: dict[str, dict[str, float]], naive: dict[str, dict[str, float]], metric: str) -> float:
    logs = [math.log(own[task][metric] / naive[task][metric]) if own[task][metric] > 0 else -math.inf for task in own]
    return math.exp(sum(logs) / len(logs))


def _our_facts(results: Sequence[TaskResult]) -> dict[str, Any]:
    devices = sorted({f"{r.processes} x {r.device}" if r.processes > 1 else r.device for r in results})
    return {
        "ours": True, "parameters": results[0].num_parameters, "seconds": sum(result.seconds for result in results),
        "seconds_on": ", ".join(devices), "seen": sum(bool(result.trained_on) for result in results),
        "unknown": sum(result.trained_on is None for result in results), "source": "results of this folder",
    }  # fmt: skip


def _published_facts(model: PublishedModel, names: Sequence[str]) -> dict[str, Any]:
    scores = [model.scores[name] for name in names]
    seconds = [score.seconds for score in scores if score.seconds is not None]
    return {
        "ours": False, "parameters": model.parameters, "seconds": sum(seconds) if len(seconds) == len(scores) else None,
        "seconds_on": "", "seen": sum(score.seen for score in scores), "unknown": 0, "source": model.source,
    }  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def table_of(found: SuiteBeside) -> Table:
    """Return the table of a suite."""
    metrics = list(found.rows[0].ratios)
    rows = [
        [
            row.model, *(f"{row.ratios[m]:.4f}" for m in metrics), f"{row.skill:+.3f}",
            f"{row.skill_interval[0]:+.3f} to {row.skill_interval[1]:+.3f}", f"{100 * row.win_rate:.1f}%",
            _count(row.parameters), "-" if row.seconds is None else f"{row.seconds:,.1f} {row.seconds_on}".rstrip(),
            f"{row.seen}{f', {row.unknown} unknown' if row.unknown else ''}", row.source,
        ]
        for row in found.rows
    ]  # fmt: skip
    header = ("model", *(f"{m} ratio" for m in metrics), f"skill ({found.metric})", "95%", "win rate", "parameters",
              "seconds", "tasks seen in training", "figures from")  # fmt: skip
    notes = [
        f"{len(found.tasks)} of the suite's {found.of_tasks} tasks: {found.items:,} items and {found.windows:,} "
        f"windows. Every row is over these tasks: {', '.join(found.tasks)}.",
        "ratio: geometric mean of the metric relative to the published seasonal naive, without unit, lower is better; "
        "skill: 1 - ratio, each clipped to 0.01..100; its interval: bootstrap over tasks; win rate: share of the "
        "comparisons with each other row.",
        "seconds: over these tasks; those of others as they published them, on hardware of theirs. parameters: as the "
        "sources state; - = not stated there. here: scored by the commands of this folder.",
        *(f"Left out: {line}." for line in found.left_out),
    ]
    return Table(f"{found.suite}, beside published models", header, rows, tuple(notes), words=("figures from",))


def _count(parameters: int | None) -> str:
    return "-" if parameters is None else f"{parameters:,}"


def draw_against(found: SuiteBeside, what: str) -> Figure | None:
    """Draw the ratio of the suite's metric against "parameters" or "seconds"; None if no model of ours has them."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    from foretrain.evaluation.plots import COLORS, INK, figure, short

    rows = [row for row in found.rows if getattr(row, what)]
    if not any(row.ours for row in rows):
        return None
    drawn, axes = figure(8.5, 5.2)
    ax = axes[0, 0]
    for ours, marker, who, label in ((False, "o", "historical_mean", "published"), (True, "D", "model", "here")):
        chosen = [row for row in rows if row.ours == ours]
        if chosen:
            x, y = [getattr(row, what) for row in chosen], [row.ratios[found.metric] for row in chosen]
            ax.scatter(x, y, s=44 if ours else 30, marker=marker, color=COLORS[who], label=label, zorder=3)
    for row in rows:
        seen = f" ({row.seen} seen)" if row.seen else ""
        at = (getattr(row, what), row.ratios[found.metric])
        ax.annotate(f"{short(row.model, 28)}{seen}", at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.axhline(1.0, color=INK, lw=1, ls=":")
    ax.set(
        xscale="log", xlabel="parameters" if what == "parameters" else "seconds over these tasks, different hardware"
    )
    ax.margins(x=0.2)
    ax.set_ylabel(f"{found.metric} relative to seasonal naive (dotted)")
    ax.set_title(f"{found.suite}: {len(found.tasks)} of {found.of_tasks} tasks", loc="left")
    ax.legend(loc="best")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10M, 500m
    ax.xaxis.set_minor_formatter(NullFormatter())
    return drawn


def write_report(found: Sequence[SuiteBeside], folder: Path) -> list[Path]:
    """Write report.md, report.html, report.json and the pictures into a new folder; returns the files, sorted."""
    from foretrain.evaluation.plots import png

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists already. Name a new folder.")
    pictures = {
        f"{one.suite}-{what}.png": png(draw_against, one, what) for one in found for what in ("parameters", "seconds")
    }
    title = "Beside published models"
    lines, body = [f"# {title}", ""], [f"<h1>{esc(title)}</h1>"]
    for one in found:
        table = table_of(one)
        lines.append(table.markdown())
        body.append(table.html())
        for what in ("parameters", "seconds"):
            name = f"{one.suite}-{what}.png"
            picture, heading = pictures[name], f"{one.suite}: quality against {what}"
            absent = f"No picture against {what}: no model here has them."
            lines += [f"![{heading}]({name})" if picture else absent, ""]
            body.append(section(heading, picture, heading) or f"<p>{esc(absent)}</p>")
    with new_folder(folder) as scratch:
        write_text(scratch / "report.md", "\n".join(lines))
        write_text(scratch / "report.html", page(title, body))
        write_json(scratch / "report.json", {"schema": SCHEMA, "suites": [asdict(one) for one in found]})
        for name, picture in pictures.items():
            if picture is not None:
                (scratch / name).write_bytes(picture)
    files = ["report.md", "report.html", "report.json", *(name for name, one in pictures.items() if one is not None)]
    return sorted(folder / name for name in files)
