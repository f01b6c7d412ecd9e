"""The picture of a health report: loss with its alarms, gradient norms, the wait for data and the slowest rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from foretrain.errors import ConfigError
from foretrain.printing import printable
from foretrain.run.curves import COLORS, label_panel, logarithmic
from foretrain.training.health import FAST, averages, with_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]
_MOST_ALARMS = 40  # lines of alarms in a picture, the newest


def draw_health(records: Iterable[Record], name: str, step: int | None = None) -> Figure:
    """Draw what the training lines of a metrics.jsonl tell up to a step (None: all). Call it inside plots.style().

    Raises ConfigError if no training line is there.
    """
    from foretrain.evaluation.plots import figure, short

    known = [record for record in records if step is None or record["step"] <= step]
    lines, start = list[Record](), Record()
    for record in known:
        if record.get("kind") == "train":
            lines.append(with_steps(record, lines[-1] if lines else None))
        elif record.get("kind") == "start":
            start = record
    if not lines:
        where = "" if step is None else f" up to step {step:,}"
        raise ConfigError(f"{name}: has no training line{where}, so there is nothing to draw.")
    alarms = [record for record in known if record.get("kind") == "alarm"][-_MOST_ALARMS:]
    ranks = any(line.get("slowest_rank_s") is not None for line in lines)
    drawn, axes = figure(7.6, 5.2 if ranks else 4.4, 3 + ranks)
    panels = list(axes[:, 0])
    _draw_loss(panels[0], lines, start, f"{short(printable(name), 60)}, to step {lines[-1]['step']:,}")
    _draw_norms(panels[1], lines, start)
    _draw_wait(panels[2], lines)
    if ranks:
        _draw_ranks(panels[3], lines)
    for k, panel in enumerate(panels):
        _draw_alarms(panel, alarms)
        panel.sharex(panels[0])
        if k < len(panels) - 1:
            panel.tick_params(labelbottom=False)
    panels[-1].set_xlabel("step")
    entries = {
        name: handle for panel in panels for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3, fontsize=9)
    return drawn


def _draw_loss(ax: Axes, lines: Sequence[Record], start: Record, title: str) -> None:
    known = [(one["step"], loss, one["steps"]) for one in lines if (loss := one.get("loss_mean", one.get("loss")))
             is not None]  # fmt: skip
    period = start.get("log_every") or max((steps for *_, steps in known), default=1)
    spread = [one for one in lines if one.get("loss_min") is not None and one.get("loss_max") is not None]
    low, high = ([one[end] for one in spread] for end in ("loss_min", "loss_max"))
    ax.fill_between(
        [one["step"] for one in spread],
        low,
        high,
        color=COLORS[0],
        alpha=0.15,
        lw=0,
        label="its lowest to highest step",
    )
    ax.plot(*_points(lines, "loss_mean", "loss"), color=COLORS[0], lw=0.9, label="mean of a line")
    ax.plot(
        [at for at, *_ in known],
        averages(known, FAST * period),
        color="#1f2933",
        lw=1.5,
        label="fast average of the loss",
    )
    label_panel(ax, title, "loss")
    logarithmic(ax, [value for _, value, _ in known] + low + high)


def _draw_norms(ax: Axes, lines: Sequence[Record], start: Record) -> None:
    ax.plot(*_points(lines, "grad_norm_mean", "grad_norm"), color=COLORS[0], lw=0.9)
    highest = _points(lines, "grad_norm_max")
    ax.plot(*highest, ls="", marker=".", ms=2.5, color=COLORS[3], label="highest norm of a line")
    if start.get("clip_norm") is not None:
        ax.axhline(start["clip_norm"], color=COLORS[2], lw=1.0, ls="--", label="clip_norm")
    label_panel(ax, "", "gradient\nnorm")
    logarithmic(ax, [*_points(lines, "grad_norm_mean", "grad_norm")[1], *highest[1]])


def _draw_wait(ax: Axes, lines: Sequence[Record]) -> None:
    steps, shares = _points(lines, "data_share")
    ax.plot(steps, [100 * share for share in shares], color=COLORS[0], lw=0.9)
    ax.set_ylim(-3, 103)
    label_panel(ax, "", "waits for\ndata (%)")


def _draw_ranks(ax: Axes, lines: Sequence[Record]) -> None:
    named = [one["slowest_rank"] for one in lines if one.get("slowest_rank") is not None]
    rank = max(sorted(set(named)), key=named.count)
    ax.plot(*_points(lines, "slowest_rank_s"), color=COLORS[3], lw=1.5,
            label=f"slowest rank: {rank} in {100 * named.count(rank) / len(named):.0f}% of lines")  # fmt: skip
    ax.plot(*_points(lines, "median_rank_s"), color=COLORS[0], lw=0.9, ls="--", label="middle rank")
    ax.set_ylim(bottom=0)
    label_panel(ax, "", "computes\n(s a step)")


def _draw_alarms(ax: Axes, alarms: Sequence[Record]) -> None:
    """Mark alarms by lines across a panel, of a colour for each code."""
    codes = list(dict.fromkeys(str(alarm.get("code")) for alarm in alarms))
    shown = set[str]()
    for alarm in alarms:
        code = str(alarm.get("code"))
        label: dict[str, Any] = {} if code in shown else {"label": f"ALARM {printable(code)}"}
        color = (COLORS[1], COLORS[4], COLORS[5], COLORS[3])[codes.index(code) % 4]
        ax.axvline(alarm["step"], color=color, lw=1.4, ls=(0, (4, 2)), zorder=1, **label)
        shown.add(code)


def _points(lines: Sequence[Record], name: str, instead: str = "") -> tuple[list[int], list[float]]:
    """Return steps and values of a figure of lines, where they tell it."""
    found = [(one["step"], value) for one in lines if (value := one.get(name, one.get(instead))) is not None]
    return [at for at, _ in found], [value for _, value in found]
