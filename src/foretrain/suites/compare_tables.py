"""A comparison of models as tables, CSV, JSON, a picture and an HTML page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from foretrain.evaluation.page import esc, page, section
from foretrain.evaluation.significance import ITEMS, LEVEL, origins_needed
from foretrain.printing import for_spreadsheet
from foretrain.suites.aggregate import Interval
from foretrain.suites.compare import (
    TESTED,
    Group,
    ModelStanding,
    PairTest,
    TaskComparison,
    check_same_windows,
    groups,
    pair_tests,
    standings,
)
from foretrain.suites.contestants import OWN
from foretrain.suites.results import TaskResult
from foretrain.suites.tables import Table, number, remark_of, unit_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
_FIRST = ("WQL", "MASE", "SQL", "WAPE")  # metrics of the table of tasks, as far as there are
_MOST_PAIRS = 60  # rows of the table of tests; JSON has all
_MOST_PANELS = 9


@dataclass(frozen=True)
class ModelComparison:
    """Models on tasks, with all that is said of them."""

    tasks: tuple[TaskComparison, ...]
    standings: tuple[ModelStanding, ...]
    tests: tuple[PairTest, ...]
    groups: tuple[Group, ...]

    @property
    def models(self) -> list[str]:
        """The models in the order in which they were asked for, then seasonal naive."""
        return list(dict.fromkeys((*(model for task in self.tasks for model in task.results), OWN)))


def compared(tasks: Sequence[TaskComparison]) -> ModelComparison:
    """Return the comparison. Raises DataError for models that were scored on other windows of a task."""
    check_same_windows(tasks)
    return ModelComparison(tuple(tasks), tuple(standings(tasks)), tuple(pair_tests(tasks)), tuple(groups(tasks)))


def tables(found: ModelComparison) -> list[Table]:
    """Return all tables that have rows."""
    made = [_task_table(found), *_standing_tables(found), _test_table(found), *_group_tables(found)]
    return [table for table in made if table.rows]


def flag_notes(found: ModelComparison) -> list[str]:
    """Return what training saw, or may have seen, of the tasks: a line a model, flag and text."""
    lines: dict[str, None] = {}
    for task in found.tasks:
        for model, result in task.results.items():
            lines |= {f"{task.name}, {model}: {flag['text']}": None for flag in result.flags}
    return list(lines)


def _task_table(found: ModelComparison) -> Table:
    metrics = [m for m in _FIRST if any(m in of for task in found.tasks for of in task.figures().values())]
    header = ["task", "model", "items", "windows"]
    header += [part for metric in metrics for part in (metric, "ratio")]
    rows = []
    for task in found.tasks:
        figures = task.figures()
        for model in dict.fromkeys((*task.results, OWN)):
            result = task.results.get(model)
            cells = [task.name, model, f"{task.first.series:,}", f"{task.first.windows:,}"]
            for metric in metrics:
                own, naive = figures[model].get(metric), figures[OWN].get(metric)
                cells += [number(own), number(None if own is None or not naive else own / naive, 3)]
            cells += ["-", "-", ""] if result is None else [_seconds(result), _parameters(result), remark_of(result)]
            rows.append(cells)
    notes = [
        f"{', '.join(metrics)}: without unit, lower is better. ratio: to the suite's seasonal naive, same windows.",
        "windows: of all items together. seconds: of the forecasts. parameters: - = none, or not known.",
    ]
    results = [result for task in found.tasks for result in task.results.values()]
    if any(result.max_items is not None for result in results):
        notes.append("SAMPLE: figures of a part of the items, which compare with no published figure.")
    if any(result.flags for result in results):
        notes.append(
            "TRAINING: whether the model's training saw the task's data; a line for each says how it is known."
        )
    return Table("Figures", (*header, "seconds", "parameters", ""), rows, tuple(notes), left=2)


def _seconds(result: TaskResult) -> str:
    where = result.device if result.processes == 1 else f"{result.processes} x {result.device}"
    return f"{result.seconds:,.2f} {where}"


def _parameters(result: TaskResult) -> str:
    return "-" if result.num_parameters is None else f"{result.num_parameters:,}"


def _standing_tables(found: ModelComparison) -> Iterator[Table]:
    for metric in dict.fromkeys(one.metric for one in found.standings):
        own = [one for one in found.standings if one.metric == metric]
        first = own[0]
        rows = [
            [
                one.model, f"{1 - one.skill:.4f}", f"{one.skill:+.3f}", _interval(one.skill_interval, "+.3f"),
                f"{100 * one.win_rate:.1f}%", _interval(tuple(100 * x for x in one.win_rate_interval), ".1f"),
                str(one.imputed or "-"), str(one.seen or "-"),
            ]
            for one in own
        ]  # fmt: skip
        counted = _over(found, first)
        notes = [
            f"Over {counted}. ratio: geometric mean of {metric} relative to seasonal naive, each clipped to 0.01..100; "
            f"skill: 1 - ratio; win rate: share of the comparisons with each other model. Intervals: 95%, "
            f"bootstrap over {first.over}.",
        ]
        if first.left_out:
            notes.append(
                f"Left out: {first.left_out:,} {first.over} on which a model has no {metric}, or seasonal naive's is 0."
            )
        failed = sorted({m for task in found.tasks for m, r in task.results.items() if r.state == "failed"})
        if failed:
            notes.append(f"FAILED on a task: {', '.join(failed)}; imputed: tasks where seasonal naive stands for that.")
        header = ("model", "ratio", "skill", "95%", "win rate", "95%", "imputed", "seen in training")
        yield Table(f"{metric}, relative to seasonal naive", header, rows, tuple(notes))


def _over(found: ModelComparison, first: ModelStanding) -> str:
    if first.over == "items":
        return f"{first.count:,} items of {found.tasks[0].name}, the mean over an item's windows each"
    windows = sum(task.first.windows for task in found.tasks)
    items = sum(task.first.series for task in found.tasks)
    return f"{first.count:,} of {len(found.tasks):,} tasks ({items:,} items and {windows:,} windows in all of them)"


def _interval(interval: Interval | tuple[float, ...], form: str) -> str:
    low, high = interval
    return f"{low:{form}} to {high:{form}}"


def _test_table(found: ModelComparison) -> Table:
    rows = [
        [
            one.task, one.model, one.other, _verdict(one), _over_what(one),
            number(one.test.statistic, 3), number(one.test.p_value, 3), number(one.p_adjusted, 3), _by_item(one),
        ]
        for one in found.tests[:_MOST_PAIRS]
    ]  # fmt: skip
    notes = [
        f"The loss is {TESTED}: 2 * pinball loss over the seasonal error, mean over steps and levels. Negative "
        "statistics favour the model. adjusted: Benjamini-Hochberg, over all rows.",
        f"Diebold-Mariano on a loss per origin where there are {origins_needed(0)} origins or more; else a paired t "
        "test over items, if there are 30: it takes items for independent and says nothing about other origins.",
        f"item by item: Diebold-Mariano on the windows of each item; better and worse at a false discovery rate of "
        f"{LEVEL:.0%} over the items. An item with fewer than {origins_needed(0)} windows has too few.",
    ]
    if any(one.test.over == ITEMS for one in found.tests):
        notes.append("Items that share shocks, as prices do, make tests over items too sure.")
    if len(found.tests) > _MOST_PAIRS:
        notes.append(f"The first {_MOST_PAIRS} of {len(found.tests):,} pairs are shown; JSON has all.")
    header = ("task", "model", "against", "verdict", "over", "statistic", "p", "adjusted", "item by item")
    return Table("Is a difference more than chance?", header, rows, tuple(notes), left=4, words=("item by item",))


def _verdict(one: PairTest) -> str:
    """Return the verdict of a test, which names p; with a word where many tests make it a matter of chance."""
    lost = one.test.p_value < LEVEL <= one.p_adjusted
    return f"{one.test.verdict}; not after adjustment" if lost else one.test.verdict


def _over_what(one: PairTest) -> str:
    return f"{one.test.count:,} {one.test.over.removesuffix('s') if one.test.count == 1 else one.test.over}"


def _items_text(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"


def _by_item(one: PairTest) -> str:
    few = one.items_with_too_few_windows
    if not one.items_tested:
        return f"{_items_text(few)}: too few windows"
    text = f"{one.items_better:,} better, {one.items_worse:,} worse of {_items_text(one.items_tested)}"
    return f"{text}; {_items_text(few)}: too few windows" if few else text


def _group_tables(found: ModelComparison) -> Iterator[Table]:
    models = found.models
    for by in dict.fromkeys(one.by for one in found.groups):
        own = [one for one in found.groups if one.by == by]
        unit = own[0].unit
        header = (by, unit, *(part for model in models for part in (f"{model} wins", "ratio")))
        rows = [
            [
                one.name, f"{one.count:,}",
                *(part for m in models for part in (f"{100 * one.won[m]:.1f}%", number(one.relative[m], 3))),
            ]
            for one in own
        ]  # fmt: skip
        notes = [
            f"wins: share of the {unit} on which the model has the least {_measure(unit)}, equal ones shared; ratio: "
            "geometric mean of it relative to seasonal naive, each clipped to 0.01..100. "
            f"Only {unit} on which every model has a figure and seasonal naive's is above 0.",
        ]
        if unit == "tasks" and any(r.imputed for task in found.tasks for r in task.results.values()):
            notes.append("A task that is imputed counts with seasonal naive's figure.")
        yield Table(f"Where each wins, by {by}", header, rows, tuple(notes))


def _measure(unit: str) -> str:
    return (
        f"{TESTED} (mean over its windows)" if unit == "items" else f"{TESTED}, or WQL where the suite has no {TESTED}"
    )


def csv_of(found: ModelComparison) -> str:
    """Return every figure as CSV, a line for each model, task and metric, in full precision."""
    out = io.StringIO()
    names = (
        "model", "suite", "task", "metric", "unit", "value", "seasonal_naive", "ratio", "items", "windows", "seconds",
        "device", "processes", "parameters", "state", "imputed", "max_items", "flags",
    )  # fmt: skip
    writer: csv.DictWriter[str] = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for task in found.tasks:
        figures = task.figures()
        for model, result in task.results.items():
            for metric, naive in figures[OWN].items():
                own = figures[model].get(metric)
                row = {
                    "model": for_spreadsheet(model), "suite": task.suite, "task": for_spreadsheet(task.task),
                    "metric": metric, "unit": unit_of(metric, result.unit), "value": own, "seasonal_naive": naive,
                    "ratio": own / naive if own is not None and naive else None, "items": result.series,
                    "windows": result.windows, "seconds": result.seconds, "device": result.device,
                    "processes": result.processes, "parameters": result.num_parameters, "state": result.state,
                    "imputed": result.imputed, "max_items": result.max_items,
                    "flags": " ".join(flag["code"] for flag in result.flags),
                }  # fmt: skip
                writer.writerow(row)
    return out.getvalue()


def document(found: ModelComparison) -> dict[str, Any]:
    """Return the comparison as JSON data; None for what is undefined."""
    data = {
        "schema": SCHEMA,
        "models": found.models,
        "tasks": [
            {
                "suite": task.suite,
                "task": task.task,
                "freq": task.freq,
                "figures": task.figures(),
                "results": {model: asdict(result) for model, result in task.results.items()},
                "losses_per_item": _items(task),
            }
            for task in found.tasks
        ],
        "standings": [asdict(one) for one in found.standings],
        "tests": [asdict(one) for one in found.tests],
        "groups": [asdict(one) for one in found.groups],
    }
    return _plain(data)


def _items(task: TaskComparison) -> dict[str, Any] | None:
    """Return the items of a task, and SQL and MASE of each model on each; None if they are not known."""
    if not task.losses:
        return None
    first = task.losses[OWN] if OWN in task.losses else next(iter(task.losses.values()))
    losses = {model: {name: one.by_item(name).tolist() for name in one.sums} for model, one in task.losses.items()}
    return {"items": list(first.items), "history": first.history.tolist(), "losses": losses}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown_of(found: ModelComparison) -> str:
    """Return all tables as a markdown page."""
    flags = flag_notes(found)
    said = ["## What training saw", "", *(f"* {line}" for line in flags), ""] if flags else []
    return "\n".join([f"# {title_of(found)}", "", *(table.markdown() for table in tables(found)), *said])


def title_of(found: ModelComparison) -> str:
    """Return what is compared on what."""
    tasks = found.tasks[0].name if len(found.tasks) == 1 else f"{len(found.tasks)} tasks"
    return f"{', '.join(model for model in found.models if model != OWN) or OWN} on {tasks}"


def html_of(found: ModelComparison) -> str:
    """Return a page that stands alone: all tables, and a scatter plot if losses per item are known."""
    from foretrain.evaluation.plots import png

    body = [f"<h1>{esc(title_of(found))}</h1>"]
    body += [f'<p class="warning">{esc(line)}</p>' for line in flag_notes(found)]
    body += [table.html() for table in tables(found)]
    note = f"{TESTED} of every item, the mean over its windows. Below the line the first model is better."
    body.append(section("Item by item", png(draw_items, found), "Losses of pairs of models on every item", note))
    return page(title_of(found), body)


def draw_items(found: ModelComparison) -> Figure | None:
    """Draw the losses per item of the first model against each other one, all tasks together; None if none is known."""
    import numpy as np

    from foretrain.evaluation.plots import figure, scatter, short

    models = [model for model in found.models if any(model in task.losses for task in found.tasks)]
    if len(models) < 2:
        return None
    first, *others = models
    others = others[:_MOST_PANELS]
    columns = min(len(others), 3)
    lines = -(-len(others) // columns)
    drawn, axes = figure(5.6 * columns, 5.0 * lines, lines, columns)
    for ax, other in zip(axes.flat, others, strict=False):
        both = [task.losses for task in found.tasks if first in task.losses and other in task.losses]
        ours, theirs = (np.concatenate([one[m].by_item(TESTED) for one in both]) if both else np.empty(0)
                        for m in (first, other))  # fmt: skip
        scatter(ax, ours, theirs, (short(first, 24), short(other, 24)), TESTED)
        ax.set_title(f"{short(first, 24)} against {short(other, 24)}", loc="left")
    for ax in list(axes.flat)[len(others) :]:
        ax.set_visible(False)
    return drawn
