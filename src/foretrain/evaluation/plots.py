"""Plots of forecasts and of an evaluation, drawn with matplotlib's Agg canvas and without global state.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; lines also differ in dash.

# H horizon, Q levels
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.metrics import METRICS
from foretrain.printing import SALT, UNDATED, printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foretrain.evaluation.result import EvaluationResult

INK, GRID, PAST = "#1f2933", "#d9dee3", "#5f6b76"
COLORS = {
    "model": "#0072B2",
    "zero_shot": "#E69F00",
    "other_model": "#E69F00",
    "naive": "#D55E00",
    "drift": "#009E73",
    "seasonal_naive": "#CC79A7",
    "seasonal_naive_found": "#56B4E9",
    "historical_mean": "#707a85",
}
DASHES: dict[str, Any] = {
    "model": "-",
    "zero_shot": (0, (8, 2)),
    "other_model": (0, (8, 2)),
    "naive": (0, (5, 2)),
    "drift": (0, (1, 1.2)),
    "seasonal_naive": (0, (6, 2, 1, 2)),
    "seasonal_naive_found": (0, (6, 2, 1, 2, 1, 2)),
    "historical_mean": (0, (2, 2)),
}
MAX_FANS = 6
BAND = 0.15  # opacity of one quantile band; inner bands are drawn over outer ones


@dataclass(frozen=True)
class Fan:
    """One forecast to draw."""

    title: str
    history: np.ndarray  # (C,)
    quantiles: np.ndarray  # (H, Q)
    levels: Sequence[float]
    truth: np.ndarray | None = None  # (H,)
    naive: np.ndarray | None = None  # (H,)
    times: np.ndarray | None = None  # (C + H,) microseconds; None counts steps
    unit: str = ""
    labels: tuple[str, str] = ("median forecast", "naive")  # of the two lines


_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.hashsalt": SALT,
    "text.parse_math": False,  # a $ in an item's name is a dollar
}


@contextmanager
def style() -> Iterator[None]:
    """Apply our matplotlib style. Ticks and texts are created late, so draw and save both inside the context."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """Return a figure of a size in inches and its axes (rows, columns); made without pyplot's global state."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def png(draw: Callable[..., Figure | None], *arguments: Any) -> bytes | None:
    """Return the figure of draw(*arguments) as PNG bytes; None if it draws nothing."""
    with style():
        drawn = draw(*arguments)
        if drawn is None:
            return None
        return _bytes(drawn, "png")


def save(drawn: Figure, path: Path) -> None:
    """Write a figure to a file of the kind that its suffix names. Raises OSError; matplotlib would raise others too."""
    path.write_bytes(_bytes(drawn, path.suffix[1:]))


def _bytes(drawn: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=kind, facecolor="white", metadata=UNDATED.get(kind.lower()))
    return buffer.getvalue()


def draw_fans(fans: Sequence[Fan]) -> Figure:
    """Draw history, quantile bands and median, and if given the truth and the naive forecast."""
    columns = 1 if len(fans) == 1 else min(3, len(fans)) if len(fans) != 4 else 2
    rows = math.ceil(len(fans) / columns)
    width = 9.5 if columns == 1 else 4.9 * columns
    drawn, axes = figure(width, (4.3 if rows == 1 else 3.5) * rows + 0.5, rows, columns)
    for ax, fan in zip(axes.flat, fans, strict=False):
        _fan(ax, fan)
    for ax in list(axes.flat)[len(fans) :]:
        ax.set_visible(False)
    one_legend(drawn, list(axes.flat), _band_keys(fans[0].levels))
    return drawn


def one_legend(drawn: Figure, axes: Sequence[Axes], more: dict[str, Any], most: int = 6) -> None:
    """Draw one legend below the figure: every label of the panels once, then `more` (label -> handle).

    most: entries of a row.
    """
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    entries |= more
    drawn.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=min(most, len(entries)))


def _band_keys(levels: Sequence[float]) -> dict[str, Any]:
    """Return legend entries of the outermost and of a middle band, with the opacity of the stacked bands."""
    from matplotlib.patches import Patch

    ordered = sorted(levels)
    keys = {}
    for k in sorted({0, (len(ordered) // 2 - 1 + 1) // 2}):
        share = ordered[-1 - k] - ordered[k]
        if share > 0:
            keys[f"{100 * share:.0f}% interval"] = Patch(color=COLORS["model"], alpha=1 - (1 - BAND) ** (k + 1), lw=0)
    return keys


def _fan(ax: Axes, fan: Fan) -> None:
    steps = len(fan.history)
    ahead = len(fan.quantiles)
    x = np.arange(-steps + 1, ahead + 1)
    stamps = None if fan.times is None else np.asarray(fan.times).astype("datetime64[us]")
    closed = stamps is not None and _has_closed_hours(stamps)
    if stamps is not None and not closed:
        x = stamps
    past, future = x[:steps], x[steps:]
    ax.plot(past, fan.history, color=PAST, lw=1.3, label="history")
    isolated = _isolated(fan.history)
    ax.plot(past[isolated], fan.history[isolated], color=PAST, ls="", marker=".", ms=4)
    order = np.argsort(fan.levels)
    levels, quantiles = np.asarray(fan.levels)[order], fan.quantiles[:, order]
    for k in range(len(levels) // 2):
        ax.fill_between(future, quantiles[:, k], quantiles[:, -1 - k], color=COLORS["model"], alpha=BAND, lw=0)
    middle = quantiles[:, int(np.argmin(np.abs(levels - 0.5)))]
    dot = "o" if ahead == 1 else None
    ax.plot(future, middle, color=COLORS["model"], lw=2, label=fan.labels[0], marker=dot)
    if fan.naive is not None:
        ax.plot(future, fan.naive, color=COLORS["naive"], lw=1.4, ls=DASHES["naive"], label=fan.labels[1], marker=dot)
    if fan.truth is not None:
        ax.plot(future, fan.truth, color="black", lw=1.3, marker="o", ms=2.6, label="truth")
    ax.axvline(past[-1], color="#9aa5b1", lw=0.9, ls=":")
    ax.set_title(short(fan.title, 46), loc="left")
    ax.set_ylabel(short(fan.unit, 30))
    _time_axis(ax, stamps, closed)


def _has_closed_hours(stamps: np.ndarray) -> bool:
    """Return True if bars are to be drawn side by side instead of on a time axis.

    That is if nights and weekends would take up much of the axis, or if the bars span less than a day, for which
    matplotlib finds no round dates.
    """
    steps = np.diff(stamps.astype(np.int64))
    if len(steps) and stamps[-1] - stamps[0] < np.timedelta64(1, "D"):
        return True
    return len(steps) > 2 and float(steps.sum()) > 1.3 * len(steps) * float(np.median(steps))


def _isolated(values: np.ndarray) -> np.ndarray:
    """Return a mask (C,) of observed values without an observed neighbour, which a line would not show."""
    seen = np.concatenate([[False], np.isfinite(values), [False]])
    return seen[1:-1] & ~seen[:-2] & ~seen[2:]


def _time_axis(ax: Axes, stamps: np.ndarray | None, closed: bool) -> None:
    from matplotlib import dates

    if stamps is None or closed:
        first, last = ax.dataLim.intervalx
        dated_ticks(ax, np.linspace(first, last, 1 if stamps is None else len(stamps)), stamps)
        return
    # with fewer than 7 ticks it warns at 60 to 72 hours, and at 30 to 36 months: too few days, too many half days
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def dated_ticks(ax: Axes, positions: np.ndarray, stamps: np.ndarray | None) -> None:
    """Label bars drawn side by side at the positions: dates, or times within a day; step counts if stamps is None."""
    from matplotlib import ticker

    if stamps is None:
        ax.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        return
    days = np.concatenate([[True], np.diff(stamps.astype("datetime64[D]").astype(np.int64)) > 0])
    starts = np.flatnonzero(days) if 3 <= days.sum() < len(days) else np.arange(len(stamps))
    if len(starts) > 2 and starts[1] - starts[0] < len(stamps) / 8:
        starts = starts[1:]  # an incomplete first day has no room for its label
    chosen = starts[:: max(1, -(-len(starts) // 4))]
    text = np.datetime_as_string(stamps[chosen], unit="m")
    labels = [stamp[:10] for stamp in text]
    if days.sum() < 3:  # times of day, with the date below the first of each day
        labels = [stamp[11:] + (f"\n{stamp[:10]}" if k == 0 or stamp[:10] != text[k - 1][:10] else "")
                  for k, stamp in enumerate(text)]  # fmt: skip
    ax.set_xticks(positions[chosen], labels, fontsize=9)


def draw_horizon(result: EvaluationResult) -> Figure:
    """Draw error and coverage of every forecaster at each step of the horizon."""
    from matplotlib import ticker

    metric = "pct_mae" if result.prices else "mase"
    drawn, axes = figure(10.5, 4.1, 1, 2)
    for ax, name in zip(axes[0], (metric, "coverage_80_share"), strict=True):
        for who, values in result.per_horizon.items():
            heights = np.array(values[name], float)
            ax.plot(
                np.arange(1, len(heights) + 1),
                heights,
                color=color(who),
                ls=DASHES.get(who, "-"),
                lw=2.4 if who == "model" else 1.6,
                marker="o" if len(heights) == 1 else None,
                zorder={"model": 3, "naive": 4}.get(who, 2),  # the model's wider line would hide naive's
                label=display_name(result, who),
            )
        label = METRICS[name]
        ax.set_title(f"{label.label[0].upper() + label.label[1:]} ({label.unit})", loc="left")
        ax.set_xlabel("steps ahead")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes[0, 0].set_ylim(bottom=0)
    _clip_to_relevant(axes[0, 0], result, metric)
    axes[0, 1].axhline(0.8, color=INK, lw=1, ls=":")
    axes[0, 1].set_ylim(0, 1.02)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawn


def _clip_to_relevant(ax: Axes, result: EvaluationResult, metric: str) -> None:
    """Limit the y axis, so that a very poor baseline (the historical mean of a price) does not flatten the others."""
    tops = {who: np.nanmax(np.array([*values[metric], 0.0], float)) for who, values in result.per_horizon.items()}
    relevant = max(tops["model"], tops["naive"])
    if relevant > 0 and max(tops.values()) > 3 * relevant:
        ax.set_ylim(0, 1.6 * relevant)
        beyond = [display_name(result, who) for who, top in tops.items() if top > 1.6 * relevant]
        ax.annotate(
            f"above the picture: {', '.join(beyond)}",
            (0.02, 0.97),
            xycoords="axes fraction",
            va="top",
            fontsize=9,
            color=PAST,
        )


def draw_items(result: EvaluationResult) -> Figure | None:
    """Draw the model against naive per item: bars of skill for few items, a scatter for many; None without items."""
    skill = np.array(result.per_item["model"]["skill_vs_naive"], float)
    known = np.flatnonzero(np.isfinite(skill))
    if not len(known):
        return None
    if len(known) <= 24:
        return _item_bars(result, skill, known)
    return _item_scatter(result, known)


def _item_bars(result: EvaluationResult, skill: np.ndarray, known: np.ndarray) -> Figure:
    order = known[np.argsort(skill[known])]
    drawn, axes = figure(8.5, 1.3 + 0.3 * len(order))
    ax = axes[0, 0]
    values = 100 * skill[order]
    colors = [COLORS["model"] if value >= 0 else COLORS["naive"] for value in values]
    ax.barh(np.arange(len(order)), values, color=colors, height=0.68)
    ax.set_yticks(np.arange(len(order)), [short(result.items[k], 28) for k in order])
    ax.axvline(0, color=INK, lw=1)
    span = max(np.abs(values).max(), 1.0)
    for y, value in enumerate(values):
        ax.annotate(
            f"{value:+.1f}%",
            (value, y),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=9,
        )
    left, right = min(values.min(), 0.0), max(values.max(), 0.0)
    ax.set_xlim(left - (0.18 * span if left < 0 else 0.03 * span), right + (0.18 * span if right > 0 else 0.03 * span))
    ax.grid(axis="y", visible=False)
    ax.set_title("Mean absolute error against naive, item by item (right of 0: better)", loc="left")
    ax.set_xlabel("skill against naive, percent")
    return drawn


def _item_scatter(result: EvaluationResult, known: np.ndarray) -> Figure:
    metric = "pct_mae" if result.prices else "mase"
    ours, theirs = (np.array(result.per_item[who][metric], float)[known] for who in ("model", "naive"))
    drawn, axes = figure(6.6, 5.8)
    scatter(axes[0, 0], ours, theirs, ("model", "naive"), f"{METRICS[metric].label}, {METRICS[metric].unit}")
    axes[0, 0].set_title("Every item: below the line the model is better", loc="left")
    return drawn


def scatter(ax: Axes, ours: np.ndarray, theirs: np.ndarray, names: tuple[str, str], unit: str) -> None:
    """Draw errors (K,) of two forecasters on items, on logarithmic axes; pairs with a 0 or NaN are left out."""
    shown = np.isfinite(ours) & np.isfinite(theirs) & (ours > 0) & (theirs > 0)
    ours, theirs = ours[shown], theirs[shown]
    first, second = names
    sides = ((f"{first} better", ours < theirs, "model", "o"), (f"{second} better", ours > theirs, "naive", "^"))
    for label, chosen, who, marker in (*sides, ("equal", ours == theirs, "historical_mean", "s")):
        if chosen.any() or label != "equal":
            text = f"{label}: {int(chosen.sum())} of {len(ours)} items"
            ax.scatter(
                theirs[chosen], ours[chosen], s=20, alpha=0.65, color=color(who), marker=marker, lw=0, label=text
            )
    if len(ours):
        low, high = min(ours.min(), theirs.min()) * 0.85, max(ours.max(), theirs.max()) * 1.18
        ax.plot([low, high], [low, high], color=INK, lw=1, ls=":")
        ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    _log_ticks(ax)
    ax.set(xlabel=f"{second} ({unit})", ylabel=f"{first} ({unit})")
    ax.legend(loc="upper left")


def _log_ticks(ax: Axes) -> None:
    from matplotlib import ticker

    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        decades = math.log10(high / low) if low > 0 else 9
        steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
        axis.set_major_locator(ticker.LogLocator(base=10, subs=steps))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(ticker.NullLocator())


def draw_calibration(result: EvaluationResult) -> Figure:
    """Draw the share of the truth at or below each quantile level; calibrated quantiles are on the diagonal."""
    drawn, axes = figure(6.2, 5.2)
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls=":", label="calibrated")
    for who, shares in result.calibration.items():
        if who in ("drift", "historical_mean"):
            continue
        ax.plot(
            result.levels,
            shares,
            color=color(who),
            ls=DASHES.get(who, "-"),
            lw=2.2 if who == "model" else 1.5,
            marker="o",
            ms=4 if who == "model" else 3,
            label=display_name(result, who),
        )
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="quantile level", ylabel="share of the truth at or below it")
    ax.set_title("Calibration", loc="left")
    ax.legend(loc="upper left")
    return drawn


def example_fans(result: EvaluationResult) -> list[Fan]:
    """Return the examples of an evaluation (best, median and worst forecast) as fans."""
    return [
        Fan(e.title, e.history, e.quantiles, result.levels, truth=e.truth, naive=e.naive, times=e.times, unit=e.unit)
        for e in result.examples
    ]


def plot_forecast(
    history: pd.DataFrame,
    forecast: pd.DataFrame,
    path: str | Path,
    *,
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    max_items: int = 4,
    name: str = "median forecast",
    beside: tuple[pd.DataFrame, str] | None = None,
) -> int:
    """Draw a fan chart of forecasts in long format, one panel per item and target (the first max_items of them).

    Args:
        history: id, time and the target columns.
        forecast: id, time, target_name, predictions, and one column per quantile level named str(level).
        path: where to write; .png, .svg or .pdf.
        id_column, timestamp_column: their names, in both frames.
        max_items: most panels, up to 6.
        name: of the median in the legend.
        beside: another forecast with the same rows, of which the median is drawn, and its name.

    Returns the number of panels. Raises DataError if the forecast is empty or the file type is unknown.
    """
    path = check_picture(path)
    names = levels_of(forecast)
    levels = list(names)
    ids = history[id_column].astype(str).to_numpy()
    single = len(set(forecast["target_name"])) == 1
    groups = forecast.groupby([id_column, "target_name"], sort=False)
    fans = []
    for key, rows in islice(groups, min(max_items, MAX_FANS)):
        item, target = (str(part) for part in tuple(key))  # type: ignore[arg-type]
        past = history.iloc[np.flatnonzero(ids == item)]
        past = past.iloc[np.argsort(past[timestamp_column].to_numpy(), kind="stable")].tail(max(3 * len(rows), 48))
        other = None if beside is None else beside[0].loc[rows.index, "predictions"].to_numpy(np.float64)
        fans.append(
            Fan(
                title=item if single else f"{item} {target}",
                history=past[target].to_numpy(np.float64),
                quantiles=rows[[names[level] for level in levels]].to_numpy(np.float64),
                levels=levels,
                times=joined_times(past[timestamp_column], rows[timestamp_column]),
                unit=target,
                naive=other,
                labels=(name, "naive" if beside is None else beside[1]),
            )
        )
    if not fans:
        raise DataError("the forecast is empty; there is nothing to draw.")
    with style():
        save(draw_fans(fans), Path(path))
    return len(fans)


def check_picture(path: str | Path) -> Path:
    """Return the path of a picture. Raises DataError if its type is not supported."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise DataError(f"{path}: pictures are written as .png, .svg or .pdf; choose one of these.")
    return path


def levels_of(forecast: pd.DataFrame) -> dict[float, Any]:
    """Return {level: column name} of a long forecast, levels ascending; the median alone if it has no levels."""
    names = {float(name): name for name in forecast.columns if _is_level(name)} or {0.5: "predictions"}
    return dict(sorted(names.items()))


def joined_times(past: Any, future: Any) -> np.ndarray | None:
    """Return two columns of time stamps as microseconds, joined, in local time; None for step numbers."""
    import pandas as pd

    joined: Any = pd.concat([pd.Series(past), pd.Series(future)], ignore_index=True)
    if pd.api.types.is_numeric_dtype(joined):
        return None
    stamps = pd.to_datetime(joined)
    if stamps.dt.tz is not None:
        stamps = stamps.dt.tz_localize(None)
    return stamps.to_numpy("datetime64[us]").astype(np.int64)


def _is_level(name: Any) -> bool:
    try:
        return 0.0 < float(name) < 1.0
    except (TypeError, ValueError):
        return False


def color(who: str) -> str:
    """Return the colour of a forecaster."""
    return COLORS.get(who, PAST)


def display_name(result: EvaluationResult, who: str) -> str:
    """Return a forecaster's name in pictures; models, whose names may be paths, are named by their part."""
    return result.labels.get(who, who.replace("_", " "))


def short(text: str, length: int) -> str:
    """Return a text truncated to a length, of characters that pictures can hold."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
