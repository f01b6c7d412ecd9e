"""Pictures of a study: history, importance, parallel coordinates, slices, Pareto front and learning curves.

# K trials
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.errors import ForetrainError
from foretrain.evaluation.plots import INK, PAST, figure, one_legend, png, short
from foretrain.run.curves import COLORS, label_panel, logarithmic
from foretrain.tuning.candidates import run_config
from foretrain.tuning.records import DEFAULT_TRIAL, TrialRecord
from foretrain.tuning.report_axes import KeyAxis, axes_of
from foretrain.tuning.space import SearchSpace, Value
from foretrain.tuning.study import StudyFolder, front
from foretrain.tuning.tables import last_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, BLACK = COLORS[0], COLORS[1], INK
_PRUNED = "#9aa5b1"
_MOST_SLICES = 24  # keys that have a panel
_FEW_STEPS = 8  # validations, each of which has a tick
_WIDEST = 3  # panels side by side


@dataclass(frozen=True)
class StudyPictures:
    """What pictures are drawn of. facts: those of report.study_facts. best: the trials that won.

    defaults: the values that the run as it stands has at the keys of the space, as far as they are known.
    """

    facts: dict[str, Any]
    search: Sequence[TrialRecord]
    default: TrialRecord | None
    best: Sequence[TrialRecord]
    axes: dict[str, KeyAxis]
    defaults: dict[str, Value]

    @classmethod
    def of(cls, study: StudyFolder, records: Sequence[TrialRecord], facts: dict[str, Any]) -> StudyPictures:
        """Gather what pictures of a study need."""
        default = next((record for record in records if record.number == DEFAULT_TRIAL), None)
        search = [record for record in records if record.number != DEFAULT_TRIAL]
        space, defaults = SearchSpace(study.config.space), _defaults(study)
        return cls(facts, search, default, front(records, study.directions), axes_of(space, defaults), defaults)

    @property
    def metrics(self) -> list[str]:
        """The objectives."""
        return [one["metric"] for one in self.facts["study"]["objectives"]]

    def label(self, column: int) -> str:
        """Return the label of an objective's axis."""
        way = self.facts["study"]["objectives"][column]["direction"]
        return f"{short(self.metrics[column], 40)} ({'higher' if way == 'maximize' else 'lower'} is better)"

    def complete(self) -> list[TrialRecord]:
        """Return the trials with values, which may be drawn on an axis of an objective."""
        return [record for record in self.search if record.state == "complete" and record.values]


def pictures(study: StudyFolder, records: Sequence[TrialRecord], facts: dict[str, Any]) -> dict[str, bytes]:
    """Return the pictures of a study by name, as PNG; those for which there is nothing to draw are left out."""
    of = StudyPictures.of(study, records, facts)
    found = {name: png(draw, of) for name, draw in PICTURES.items()}
    return {name: with_palette(data) for name, data in found.items() if data is not None}


def with_palette(data: bytes) -> bytes:
    """Return a PNG with a palette of 128 colours, which is a quarter of the size. Pillow comes with matplotlib."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _defaults(study: StudyFolder) -> dict[str, Value]:
    """Return what the run as it stands has at the keys of the space; keys that it does not tell are left out."""
    if study.config.task == "forecast":
        return {}
    try:
        tree: Any = run_config(study.config, {}, Path(study.path)).model_dump(mode="json")
    except ForetrainError:  # its config is gone, and the pictures are not worth less
        return {}
    found = dict[str, Value]()
    for key in study.config.space:
        value = tree
        for part in key.split("."):
            if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = value.get(part) if isinstance(value, dict) else None
        if value is None or isinstance(value, bool | int | float | str):
            found[key] = value
    return found


def draw_history(of: StudyPictures) -> Figure | None:
    """Draw each trial's value in the order of trials, and the best so far."""
    if not of.complete() and all(last_value(one) is None for one in of.search):
        return None
    count = len(of.metrics)
    drawn, axes = figure(8.6, 3.3 * count + 0.9, count)
    for column, ax in enumerate(axes[:, 0]):
        values = _history_panel(ax, of, column)
        label_panel(ax, "Value of each trial" if not column else "", of.label(column))
        logarithmic(ax, values)
    axes[-1, 0].set_xlabel("trial")
    one_legend(drawn, list(axes.flat), {}, most=4)
    return drawn


def _history_panel(ax: Axes, of: StudyPictures, column: int) -> list[float]:
    """Draw the trials of one objective; return the values that are drawn."""
    complete = of.complete()
    able = [record for record in complete if record.feasible]
    beyond = [record for record in complete if not record.feasible]
    kinds = [("complete", able, "o", BLUE, BLUE), ("beyond a constraint", beyond, "X", COLORS[3], COLORS[3])]
    drawn = list[float]()
    for label, records, marker, color, face in kinds:
        if records:
            values = [_value(record, column) for record in records]
            ax.scatter([r.number for r in records], values, s=28, marker=marker, color=color, fc=face, label=label)
            drawn += values
    if not column:
        ended = [(r.number, v) for r in of.search if r.state == "pruned" and (v := last_value(r)) is not None]
        if ended:
            ax.scatter(*zip(*ended, strict=True), s=26, marker="v", fc="none", ec=_PRUNED, lw=1.2,
                       label="pruned, at its last validation")  # fmt: skip
            drawn += [value for _, value in ended]
        failed = [record.number for record in of.search if record.state == "failed"]
        if failed:  # at the lower edge, as they have no value
            ax.plot(failed, [0.02] * len(failed), ls="", marker="x", ms=5, color=COLORS[3],
                    transform=ax.get_xaxis_transform(), label="failed", clip_on=False)  # fmt: skip
    if able:
        better = np.maximum if of.facts["study"]["objectives"][column]["direction"] == "maximize" else np.minimum
        best = better.accumulate([_value(record, column) for record in able])
        x = [*(record.number for record in able), max(record.number for record in of.search)]
        ax.step(x, [*best, best[-1]], where="post", color=ORANGE, lw=1.8, label="best so far", zorder=1)
    if of.default is not None and of.default.values:
        level = of.default.values[column]
        ax.axhline(level, color=BLACK, lw=1.2, ls=(0, (5, 2)), label="the run as it stands", zorder=1)
        drawn.append(level)
    return drawn


def draw_importance(of: StudyPictures) -> Figure | None:
    """Draw the share of each key, one panel for each objective; None if no objective has one."""
    told = [(k, found) for k, found in enumerate(of.facts["importance"]) if found["keys"]]
    if not told:
        return None
    keys = max(len(found["keys"]) for _, found in told)
    drawn, axes = figure(4.4 * len(told) + 2.6, 1.7 + 0.36 * keys, 1, len(told))
    for ax, (column, found) in zip(axes[0], told, strict=True):
        names = list(found["keys"])[::-1]
        shares = [100 * found["keys"][name]["share"] for name in names]
        colors = [BLUE if found["keys"][name]["above_chance"] else _PRUNED for name in names]
        ax.barh(range(len(names)), shares, color=colors, height=0.66)
        for y, share in enumerate(shares):
            ax.annotate(f"{share:.0f}%", (share, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set_yticks(range(len(names)), [short(name, 34) for name in names])
        ax.set_xlim(0, 1.14 * max(shares))
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("share of what separates them, percent")
        ax.set_title(
            f"{short(of.metrics[column], 24)}: the best {found['best']} of {found['trials']} trials", loc="left"
        )
    from matplotlib.patches import Patch

    keys_of = {"more than chance gives": Patch(color=BLUE), "within chance": Patch(color=_PRUNED)}
    drawn.legend(list(keys_of.values()), list(keys_of), loc="outside lower center", ncols=2)
    return drawn


def draw_slices(of: StudyPictures) -> Figure | None:
    """Draw the first objective against each key."""
    complete = of.complete()
    if not complete:
        return None
    keys = list(of.axes)[:_MOST_SLICES]
    wide = 2 if len(keys) == 4 else min(_WIDEST, len(keys))
    rows = -(-len(keys) // wide)
    drawn, axes = figure((4.4 if wide < _WIDEST else 3.6) * wide + 0.8, 2.9 * rows + 0.8, rows, wide)
    for place, (key, ax) in enumerate(zip(keys, axes.flat, strict=False)):
        _slice(ax, of, key, complete)
        if place % wide == 0:
            ax.set_ylabel(of.label(0))
        else:
            ax.sharey(axes.flat[place - place % wide])
            ax.tick_params(labelleft=False)
    for ax in list(axes.flat)[len(keys) :]:
        ax.set_visible(False)
    axes.flat[0].set_title("Value against each key", loc="left")
    ended = [value for record in of.search if record.state == "pruned" and (value := last_value(record)) is not None]
    for ax in axes.flat:
        logarithmic(ax, [*(_value(record, 0) for record in complete), *ended])
    one_legend(drawn, list(axes.flat), {}, most=4)
    return drawn


def _slice(ax: Axes, of: StudyPictures, key: str, complete: Sequence[TrialRecord]) -> None:
    axis, winners = of.axes[key], {record.number for record in of.best}
    several = len(of.metrics) > 1
    ended = [(at, last_value(r)) for r in of.search if r.state == "pruned" and key in r.params
             and (at := axis.at(r.params[key], r.number)) is not None and last_value(r) is not None]  # fmt: skip
    if ended:
        ax.scatter(*zip(*ended, strict=True), s=22, marker="v", fc="none", ec=_PRUNED, lw=1.1, zorder=1,
                   label="pruned, at its last validation")  # fmt: skip
    kinds: list[tuple[str, list[TrialRecord], dict[str, Any]]] = [
        ("complete", [r for r in complete if r.number not in winners], {"s": 24, "color": BLUE, "alpha": 0.75}),
        ("Pareto front" if several else "best", [r for r in complete if r.number in winners],
         {"s": 150, "color": ORANGE, "marker": "*", "zorder": 4, "ec": "white", "lw": 0.6}),
    ]  # fmt: skip
    for label, records, look in kinds:
        points = [(axis.at(r.params[key], r.number), _value(r, 0)) for r in records if key in r.params]
        if points:
            ax.scatter(*zip(*points, strict=True), label=label, **look)
    value = of.defaults.get(key)
    if of.default is not None and of.default.values and (at := axis.at(value)) is not None and key in of.defaults:
        ax.scatter([at], [of.default.values[0]], s=48, marker="D", fc="none", ec=BLACK, lw=1.4, zorder=5,
                   label="the run as it stands")  # fmt: skip
    axis.apply(ax)
    ax.set_xlabel(short(key, 40))


def draw_parallel(of: StudyPictures) -> Figure | None:
    """Draw each trial as a line across the keys to its value, with the best and the default drawn above."""
    complete = of.complete()
    if len(complete) < 2 or len(of.axes) < 2:
        return None
    from matplotlib.cm import ScalarMappable

    values = np.array([_value(record, 0) for record in complete])
    drawn, axes = figure(max(7.6, 1.75 * (len(of.axes) + 1) + 1.2), 4.9)
    ax, norm, cmap = axes[0, 0], _norm(of, values), _colors(of)
    last = len(of.axes)
    scale = _objective_scale(values, [] if of.default is None else list(of.default.values or ())[:1])
    for record in of.search:
        if record.state == "pruned":
            ax.plot(range(last), _heights(of, record.params), color=_PRUNED, lw=0.9, alpha=0.55, zorder=1,
                    label="pruned, without a value")  # fmt: skip
    for record in sorted(complete, key=lambda one: _value(one, 0), reverse=not _higher(of)):
        heights = [*_heights(of, record.params), scale(_value(record, 0))]
        ax.plot(range(last + 1), heights, color=cmap(norm(_value(record, 0))), lw=1.3, alpha=0.75)
    name = f"best {of.metrics[0]}" if len(of.metrics) > 1 else "best"
    leaders = sorted(of.best, key=lambda one: _value(one, 0), reverse=_higher(of))
    for record in leaders[:1]:
        ax.plot(range(last + 1), [*_heights(of, record.params), scale(_value(record, 0))], color=ORANGE, lw=2.8,
                marker="*", ms=11, mec="white", mew=0.6, zorder=5, label=f"{name}: trial {record.number}")  # fmt: skip
    if of.default is not None and of.default.values and of.defaults:
        ax.plot(range(last + 1), [*_heights(of, of.defaults), scale(of.default.values[0])], color=BLACK, lw=1.8,
                ls=(0, (5, 2)), marker="D", ms=5, mfc="white", zorder=6, label="the run as it stands")  # fmt: skip
    _parallel_axes(ax, of, values, scale)
    bar = drawn.colorbar(ScalarMappable(norm, cmap), ax=ax, pad=0.01, aspect=30, extend=_extend(of, norm, values))
    bar.set_label(of.label(0))
    bar.outline.set_visible(False)
    one_legend(drawn, [ax], {}, most=4)
    return drawn


def _parallel_axes(ax: Axes, of: StudyPictures, values: np.ndarray, scale: Callable[[float], float]) -> None:
    """Draw an axis for each key and for the objective, with its ends and choices written beside it."""
    box: dict[str, Any] = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8}
    for place, axis in enumerate(of.axes.values()):
        ax.axvline(place, color="#9aa5b1", lw=1.0, zorder=0)
        for height, text in axis.ticks():
            ax.text(place + 0.06, height, short(text, 14), fontsize=8.5, va="center", bbox=box, zorder=7)
    last = len(of.axes)
    ax.axvline(last, color="#9aa5b1", lw=1.0, zorder=0)
    for value in (values.min(), values.max()):
        ax.text(last + 0.06, scale(value), f"{value:.4g}", fontsize=8.5, va="center", bbox=box, zorder=7)
    names = [_broken(key) for key in of.axes]
    ax.set_xticks(range(last + 1), [*names, short(of.metrics[0], 24)], fontsize=9)
    ax.set_yticks([])
    ax.set_xlim(-0.1, last + 0.35)
    ax.set_ylim(-0.12 if any(axis.has_gap for axis in of.axes.values()) else -0.04, 1.04)
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_title("Candidates, coloured by their value", loc="left")


def _heights(of: StudyPictures, params: dict[str, Value]) -> list[float]:
    return [axis.height(params[key]) if key in params else axis.absent for key, axis in of.axes.items()]


def _objective_scale(values: np.ndarray, more: Sequence[float]) -> Callable[[float], float]:
    """Return heights from 0 to 1 of values, logarithmic where they are positive and spread far."""
    known = np.array([*values, *more])
    wide = known.min() > 0 and known.max() > 20 * known.min()
    low, high = (math.log(known.min()), math.log(known.max())) if wide else (known.min(), known.max())
    return lambda value: ((math.log(value) if wide else value) - low) / ((high - low) or 1.0)


def _norm(of: StudyPictures, values: np.ndarray) -> Any:
    """Return the colours' scale: the worst tenth beyond its end, so that one bad trial does not take all colours."""
    from matplotlib.colors import LogNorm, Normalize

    low, high = values.min(), values.max()
    if len(values) >= 10:
        low, high = (np.quantile(values, 0.1), high) if _higher(of) else (low, np.quantile(values, 0.9))
    high = high if high > low else low + 1.0
    return LogNorm(low, high, clip=True) if low > 0 and high > 20 * low else Normalize(low, high, clip=True)


def _extend(of: StudyPictures, norm: Any, values: np.ndarray) -> str:
    if _higher(of):
        return "min" if values.min() < norm.vmin else "neither"
    return "max" if values.max() > norm.vmax else "neither"


def _colors(of: StudyPictures) -> Any:
    """Return the colour map, whose dark end is the good one."""
    from matplotlib import colormaps

    return colormaps["viridis_r" if _higher(of) else "viridis"]


def draw_pareto(of: StudyPictures) -> Figure | None:
    """Draw pairs of objectives with the trials that no other one beats in all; None for a single objective."""
    complete, count = of.complete(), len(of.metrics)
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    if not pairs or not complete:
        return None
    wide = min(_WIDEST, len(pairs))
    rows = -(-len(pairs) // wide)
    drawn, axes = figure(max(6.4, 4.4 * wide), 4.3 * rows + 0.7, rows, wide)
    for ax, (a, b) in zip(axes.flat, pairs, strict=False):
        _pareto_panel(ax, of, complete, (a, b))
    for ax in list(axes.flat)[len(pairs) :]:
        ax.set_visible(False)
    one_legend(drawn, list(axes.flat), {}, most=2 if len(pairs) == 1 else 4)
    return drawn


def _pareto_panel(ax: Axes, of: StudyPictures, complete: Sequence[TrialRecord], pair: tuple[int, int]) -> None:
    a, b = pair
    winners = {record.number for record in of.best}
    kinds: list[tuple[str, list[TrialRecord], dict[str, Any]]] = [
        ("complete", [r for r in complete if r.feasible and r.number not in winners], {"color": BLUE, "s": 26}),
        ("beyond a constraint", [r for r in complete if not r.feasible], {"color": COLORS[3], "marker": "X", "s": 30}),
    ]
    for label, records, look in kinds:
        if records:
            ax.scatter([_value(r, a) for r in records], [_value(r, b) for r in records], label=label, **look)
    points = sorted((_value(record, a), _value(record, b), record.number) for record in of.best)
    joined: dict[str, Any] = {"ls": "--" if len(of.metrics) == 2 else "", "lw": 1.0}
    ax.plot([x for x, *_ in points], [y for _, y, _ in points], color=ORANGE, marker="*", ms=13, mec="white",
            label="Pareto front", zorder=4, **joined)  # fmt: skip
    for x, y, number in points[:20]:
        ax.annotate(str(number), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8.5)
    if of.default is not None and of.default.values:
        ax.scatter([of.default.values[a]], [of.default.values[b]], s=48, marker="D", fc="none", ec=BLACK, lw=1.4,
                   zorder=5, label="the run as it stands")  # fmt: skip
    ax.set_xlabel(of.label(a))
    ax.set_ylabel(of.label(b))
    if pair == (0, 1):
        ax.set_title("Pareto front, with the numbers of its trials", loc="left")


def draw_learning_curves(of: StudyPictures) -> Figure | None:
    """Draw the first objective of every trial after each validation; None if none has two points."""
    shown = [record for record in of.search if record.curve]
    if all(len(record.curve) < 2 for record in shown):
        return None
    drawn, axes = figure(8.6, 4.6)
    ax, winners, values = axes[0, 0], {record.number for record in of.best}, list[float]()
    for record in shown:
        if record.number in winners:
            continue
        pruned = record.state == "pruned"
        look: dict[str, Any] = {"color": _PRUNED if pruned else BLUE, "lw": 1.0, "alpha": 0.8 if pruned else 0.55}
        values += _curve(ax, record, {**look, "label": record.state if record.state != "failed" else None})
        if pruned and (end := _end(record)) is not None:
            ax.plot(*end, ls="", marker="v", ms=6, mfc="white", mec=PAST, mew=1.2, zorder=3, label="pruned here")
    if of.default is not None:
        values += _curve(ax, of.default, {"color": BLACK, "lw": 1.8, "ls": (0, (5, 2)), "zorder": 4,
                                          "label": "the run as it stands"})  # fmt: skip
    for record in of.best:
        name = "Pareto front" if len(of.metrics) > 1 else f"best: trial {record.number}"
        look = {"color": ORANGE, "lw": 2.4, "zorder": 5, "label": name}
        values += _curve(ax, record, {**look, **({"marker": "o", "ms": 4} if len(record.curve) < 12 else {})})
    folds = of.facts["study"]["folds"]
    title = "Learning curves" + (f": {folds} folds, one after the other" if folds > 1 else "")
    label_panel(ax, title, of.label(0))
    logarithmic(ax, values)
    steps = sorted({point.step for record in shown for point in record.curve})
    if len(steps) <= _FEW_STEPS:
        ax.set_xticks(steps)
    ax.set_xlabel("optimizer step")
    one_legend(drawn, [ax], {}, most=4)
    return drawn


def _curve(ax: Axes, record: TrialRecord, look: dict[str, Any]) -> list[float]:
    """Draw the curve of a trial, each fold apart; return the values that are drawn."""
    known = [(point.fold, point.step, point.value) for point in record.curve if point.value is not None]
    for fold in dict.fromkeys(fold for fold, _, _ in known):
        own = [(step, value) for of, step, value in known if of == fold]
        single = {"marker": "o", "ms": 3} if len(own) == 1 else {}
        ax.plot([step for step, _ in own], [value for _, value in own], **{**look, **single})
    return [value for _, _, value in known]


def _end(record: TrialRecord) -> tuple[list[int], list[float]] | None:
    known = [(point.step, point.value) for point in record.curve if point.value is not None]
    return ([known[-1][0]], [known[-1][1]]) if known else None


def _value(record: TrialRecord, column: int) -> float:
    return (record.values or (math.nan,))[column]


def _higher(of: StudyPictures) -> bool:
    return of.facts["study"]["objectives"][0]["direction"] == "maximize"


def _broken(key: str) -> str:
    """Return a dotted key in lines, as labels of neighbouring axes would overlap."""
    head, _, tail = key.rpartition(".")
    return f"{short(head, 20)}\n{short(tail, 20)}" if head else short(tail, 20)


PICTURES: dict[str, Callable[[StudyPictures], Figure | None]] = {
    "history": draw_history,
    "importance": draw_importance,
    "parallel": draw_parallel,
    "slices": draw_slices,
    "pareto": draw_pareto,
    "curves": draw_learning_curves,
}
