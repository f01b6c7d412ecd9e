"""The course of runs: training loss and a validation metric by step, as bars for a terminal and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foretrain.errors import ConfigError, DataError
from foretrain.hints import did_you_mean
from foretrain.printing import printable
from foretrain.run.run_tables import WIDTH, columns, figure, flattened
from foretrain.training.health import FAST, averages, sparkline, thinned
from foretrain.training.run_record import RunRecord, is_higher_better, measure, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, as in other pictures, and dashes; more runs could not be told apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1f2933")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), "--")
MOST = len(COLORS)
_LONGEST = 40  # characters of a run's name in a legend
_WIDE = 20.0  # a loss whose highest value is so many times the lowest has a logarithmic axis


@dataclass(frozen=True)
class Curves:
    """The curves of one run: (step, value) each, in the order of steps."""

    name: str
    loss: list[tuple[int, float]]  # mean of the steps of a line
    fast: list[tuple[int, float]]  # its moving average, that of the health report
    half_life: int  # steps in which the weights of the average halve
    scores: list[tuple[int, float]]  # the validation metric; [] without one
    best: tuple[int, float] | None
    unit: str | None  # of the metric

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.loss and not self.scores


def chosen_metric(records: Sequence[RunRecord], metric: str | None) -> str | None:
    """Return the metric that curves of runs show: the given one, else the one that chooses the weights of all of them;
    None if they do not validate. Raises ConfigError for one that no run has, and if the runs have none in common."""
    known = list(dict.fromkeys(name for record in records for name in record.course.metric_names()))
    if metric is not None:
        if metric not in known:
            hint = did_you_mean(metric, known, f"There are {', '.join(known)}." if known else "None validates.")
            raise ConfigError(f"--metric {metric!r}: none of the runs has it. {hint}")
        return metric
    validated = [record for record in records if record.course.validations and record.best_metric is not None]
    chosen = {record.best_metric: record for record in validated}
    if len(chosen) > 1:
        told = ", ".join(f"{record.folder} {name}" for name, record in chosen.items())
        raise ConfigError(f"different metrics choose the weights of these runs ({told}). Name one with --metric.")
    return next(iter(chosen), None)


def curves_of(record: RunRecord, metric: str | None) -> Curves:
    """Return the curves of a run."""
    lines = [(one["step"], number(one.get("loss_mean", one.get("loss"))), one["steps"]) for one in record.course.lines]
    known = [(step, loss, steps) for step, loss, steps in lines if loss is not None]
    period = record.course.log_every or max((steps for *_, steps in known), default=1)
    fast = averages(known, FAST * period)
    scores = [] if metric is None else record.course.values(metric)
    chosen = max if _is_higher(record, metric) else min
    ranked = scores if "coverage" not in measure(str(metric)) else []  # which is best at its nominal share
    return Curves(
        name=str(record.folder),
        loss=[(step, loss) for step, loss, _ in known],
        fast=[(step, value) for (step, *_), value in zip(known, fast, strict=True)],
        half_life=FAST * period,
        scores=scores,
        best=chosen(ranked, key=lambda one: one[1], default=None),
        unit=None if metric is None else record.metrics.get(metric, {}).get("unit"),
    )


def _is_higher(record: RunRecord, metric: str | None) -> bool:
    if metric is not None and metric == record.best_metric:
        return record.higher_is_better
    return metric is not None and is_higher_better(metric)


def curve_facts(curves: Sequence[Curves], metric: str | None) -> dict[str, Any]:
    """Return curves as JSON data; each point is [step, value]."""
    runs = {
        one.name: {"loss": one.loss, "fast_average": one.fast, "metric": one.scores, "best": one.best, "unit": one.unit}
        for one in curves
    }
    return {"metric": metric, "runs": runs}


def curve_lines(curves: Sequence[Curves], metric: str | None) -> list[str]:
    """Return curves as bars, each between its own lowest and highest value."""
    lines = []
    for one in curves:
        rows = []
        for name, points in (("loss", one.loss), (metric or "", one.scores)):
            if points:
                values = [value for _, value in points]
                extent = f"{figure(values[0])} -> {figure(values[-1])}, {figure(min(values))} to {figure(max(values))}"
                rows.append((f"  {name}", sparkline(thinned(values, WIDTH)), f"steps {points[0][0]:,} to "
                             f"{points[-1][0]:,}: {extent}"))  # fmt: skip
        lines += [one.name, *(columns(rows) if rows else ["  no line yet"])]
    return lines


def draw_curves(records: Sequence[RunRecord], curves: Sequence[Curves], metric: str | None) -> Figure:
    """Draw the training loss of runs, its average over the means of lines, and below it the validation metric, if there
    is one. Call it inside plots.style(). Raises DataError if there is nothing to draw."""
    from foretrain.evaluation.plots import figure as new_figure
    from foretrain.evaluation.plots import one_legend, short

    if all(one.empty for one in curves):
        raise DataError(f"{curves[0].name}: has no training line yet; there is nothing to draw.")
    panels = 1 + any(one.scores for one in curves)
    drawn, axes = new_figure(9.5, 3.4 * panels + 0.6, panels)
    top = axes[0, 0]
    for k, (one, name) in enumerate(zip(curves, _labels(records), strict=True)):
        kind: dict[str, Any] = {"color": COLORS[k], "ls": DASHES[k]}
        alone = len(curves) == 1
        if one.loss:
            raw: dict[str, Any] = {"label": "mean of the steps of a line"} if alone else {}
            top.plot(*_split(one.loss), color=COLORS[k], lw=0.9, alpha=0.35, **raw)
            label = f"moving average, half-life {one.half_life:,} steps" if alone else name
            top.plot(*_split(one.fast), lw=1.9, label=label, **kind)
        if one.scores:
            _scores(axes[1, 0], one, k, kind, "" if one.loss or alone else name)
    title = short(curves[0].name, 60) if len(curves) == 1 else f"{len(curves)} runs"
    what = "training loss" if len(curves) == 1 else "training loss, moving averages over the means of lines"
    label_panel(top, f"{title}: {what}", f"loss{'' if _alike(records) else ', each its own'}")
    logarithmic(top, [value for one in curves for _, value in one.loss])
    if panels > 1:
        units = {one.unit for one in curves if one.unit}
        unit = f"\n({units.pop()})" if len(units) == 1 else ""
        label_panel(axes[1, 0], f"validation: {metric}", f"{metric}{unit}")
        axes[1, 0].sharex(top)
    axes[-1, 0].set_xlabel("step")
    one_legend(drawn, list(axes.flat), {})
    return drawn


def _scores(ax: Axes, one: Curves, k: int, kind: dict[str, Any], name: str) -> None:
    """Draw the metric of the k-th run; its name is given if no other curve of it has one."""
    label: dict[str, Any] = {"label": name} if name else {}
    ax.plot(*_split(one.scores), lw=1.6, marker="o", ms=3.2, **kind, **label)
    if one.best is not None:
        label = {"label": "best validation"} if k == 0 else {}
        ax.plot(*_split([one.best]), ls="", marker="*", ms=13, color=COLORS[k], mec="white", mew=0.8, zorder=5, **label)


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """Return a different name for each run: that of its folder, or its path, whose end tells most."""
    names = [record.folder.name for record in records]
    if len(set(names)) < len(names):
        names = [str(record.folder) for record in records]
    shown = [printable(name) for name in names]
    cut = [name if len(name) <= _LONGEST else f"...{name[-_LONGEST:]}" for name in shown]
    return cut if len(set(cut)) == len(cut) else [f"{k}. {name}" for k, name in enumerate(cut, 1)]


def _split(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def label_panel(ax: Axes, title: str, y: str) -> None:
    """Give a panel over steps its title and the label of its axis."""
    from matplotlib import ticker

    ax.set_title(title, loc="left")
    ax.set_ylabel(y)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(7, integer=True))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda step, _: f"{step:,.0f}"))


def logarithmic(ax: Axes, values: Sequence[float]) -> None:
    """Give an axis of positive values that spread far a logarithmic scale, with plain numbers."""
    from matplotlib import ticker

    if not values or min(values) <= 0 or max(values) < _WIDE * min(values):
        return
    ax.set_yscale("log")
    decades = math.log10(max(values) / min(values))
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def _alike(records: Sequence[RunRecord]) -> bool:
    """Return whether runs have the same training loss, by family and objective."""
    losses = [{key: value for key, value in flattened(record.config) if key == "model.family" or
               key.startswith("loss.")} for record in records]  # fmt: skip
    return all(loss == losses[0] for loss in losses)
