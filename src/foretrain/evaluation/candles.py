"""Candle charts of forecasts: the newest bars, the mean forecast candles after them, and the fan of the close.

Bars are drawn side by side regardless of the time between them, so nights and weekends leave no gap. Rising candles
are hollow, falling ones filled.

# C bars of history shown, H horizon, Q levels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.plots import (
    COLORS,
    MAX_FANS,
    PAST,
    check_picture,
    dated_ticks,
    joined_times,
    levels_of,
    one_legend,
    save,
    short,
    style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 80  # of history
PRICES = ("open", "high", "low", "close")
BANDS = ((0.1, 0.9), (0.25, 0.75))  # of the close, outer and inner
BAND_ALPHA = (0.16, 0.22)
WIDTH = 0.64  # of a candle's body
FEW_BARS = 24  # fewer bars are drawn as narrow as this many
MIN_RANGE = 1e-3  # of a panel, as a share of its prices, so that noise in the last digits is not magnified


@dataclass(frozen=True)
class Chart:
    """One forecast to draw; prices are open, high, low and close."""

    title: str
    history: np.ndarray  # (C, 4)
    forecast: np.ndarray  # (H, 4)
    close: np.ndarray  # (H, Q) quantiles of the close
    levels: Sequence[float]
    volume: np.ndarray | None = None  # (C + H,)
    times: np.ndarray | None = None  # (C + H,) microseconds; None counts steps
    other: np.ndarray | None = None  # (H,) close of another forecast
    label: str = ""  # of that forecast


def candle_columns(names: Sequence[str]) -> dict[str, str] | None:
    """Return {role: name} of open, high, low, close and, if present, volume; None if a price is missing."""
    plain = {str(name).strip().lower(): str(name) for name in reversed(names)}
    found = {role: plain[role] for role in (*PRICES, "volume") if role in plain}
    if "volume" not in found and "vol" in plain:
        found["volume"] = plain["vol"]
    return found if all(price in found for price in PRICES) else None


def plot_candles(
    history: pd.DataFrame,
    candles: pd.DataFrame,
    forecast: pd.DataFrame,
    path: str | Path,
    *,
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    max_items: int = 4,
    beside: tuple[pd.DataFrame, str] | None = None,
) -> int:
    """Draw a candle chart of a forecast, one panel per item (the first max_items of them).

    Args:
        history: id, time, open, high, low, close and, optionally, volume.
        candles: forecast_df's output "candles" of the same columns.
        forecast: its output "long", with the quantiles of the close.
        path: where to write; .png, .svg or .pdf.
        id_column, timestamp_column: their names, in all three frames.
        max_items: most panels, up to 6.
        beside: another forecast in the format of `forecast`, of which the median close is drawn, and its name.

    Returns the number of panels. Raises DataError if the forecast is empty or has no candles, or the file type is
    unknown.
    """
    path = check_picture(path)
    columns = candle_columns(list(candles.columns))
    if columns is None:
        raise DataError(
            f"the forecast has no open, high, low and close (it has {', '.join(map(str, candles.columns))})."
        )
    levels = levels_of(forecast)
    ids = history[id_column].astype(str).to_numpy()
    charts = []
    for item, rows in islice(candles.groupby(id_column, sort=False), min(max_items, MAX_FANS)):
        past = history.iloc[np.flatnonzero(ids == str(item))]
        past = past.iloc[np.argsort(past[timestamp_column].to_numpy(), kind="stable")].tail(MAX_BARS)
        close = forecast.loc[(forecast[id_column] == item) & (forecast["target_name"] == columns["close"])]
        prices = [columns[price] for price in PRICES]
        volume = columns.get("volume")
        charts.append(
            Chart(
                title=str(item),
                history=past[prices].to_numpy(np.float64),
                forecast=rows[prices].to_numpy(np.float64),
                close=close.loc[:, list(levels.values())].to_numpy(np.float64),
                levels=list(levels),
                volume=np.concatenate([part[volume].to_numpy(np.float64) for part in (past, rows)]) if volume else None,
                times=joined_times(past[timestamp_column], rows[timestamp_column]),
                other=None if beside is None else beside[0].loc[close.index, "predictions"].to_numpy(np.float64),
                label="" if beside is None else f"close of {beside[1]}",
            )
        )
    if not charts:
        raise DataError("the forecast is empty; there is nothing to draw.")
    with style():
        save(draw_candles(charts), Path(path))
    return len(charts)


def draw_candles(charts: Sequence[Chart]) -> Figure:
    """Draw each chart in its own panel, with volumes in a strip below the prices."""
    from matplotlib.figure import Figure

    columns = 1 if len(charts) == 1 else 2 if len(charts) in (2, 4) else 3
    rows = math.ceil(len(charts) / columns)
    strip = any(chart.volume is not None for chart in charts)
    size = (10.5, 5.4) if len(charts) == 1 else (6.2 * columns, 4.2 * rows + 0.5)
    drawn = Figure(figsize=size, dpi=110, layout="constrained")
    grid = drawn.add_gridspec(rows * 2 if strip else rows, columns, height_ratios=[4, 1] * rows if strip else None)
    for k, chart in enumerate(charts):
        row, column = divmod(k, columns)
        prices = drawn.add_subplot(grid[2 * row if strip else row, column])
        below = drawn.add_subplot(grid[2 * row + 1, column], sharex=prices) if strip else None
        _chart(prices, below, chart)
    one_legend(drawn, drawn.axes, _legend(charts[0]))
    return drawn


def _chart(prices: Axes, strip: Axes | None, chart: Chart) -> None:
    from matplotlib import ticker

    past, ahead = len(chart.history), len(chart.forecast)
    width = WIDTH * min(1.0, (past + ahead) / FEW_BARS)
    x = np.arange(-past + 1, ahead + 1)
    last = chart.history[-1:, 3]
    future = np.concatenate([[0], x[past:]])  # the fan starts at the last close
    for (low, high), alpha in zip(_bands(chart), BAND_ALPHA, strict=False):
        lower, upper = (np.concatenate([last, chart.close[:, k]]) for k in (low, high))
        prices.fill_between(future, lower, upper, color=COLORS["model"], alpha=alpha, lw=0)
    _candles(prices, x[:past], chart.history, PAST, width)
    _candles(prices, x[past:], chart.forecast, COLORS["model"], width)
    if chart.other is not None:
        prices.plot(x[past:], chart.other, color=COLORS["naive"], ls=(0, (5, 2)), lw=1.5, zorder=4)
    _show_prices(prices)
    prices.set_title(short(chart.title, 46), loc="left")
    prices.set_xlim(x[0] - 1, x[-1] + 1)
    for ax in (prices, strip):
        if ax is not None:
            ax.axvline(0.5, color="#9aa5b1", lw=0.9, ls=":")
            ax.grid(axis="x", visible=False)
    bottom = prices
    if strip is not None:
        bottom = strip
        prices.tick_params(axis="x", bottom=False, labelbottom=False)
        if chart.volume is not None:
            tones = [PAST] * past + [COLORS["model"]] * ahead
            strip.bar(x, np.nan_to_num(chart.volume), width=width, color=tones, alpha=0.75)
            strip.set_ylim(0.0, 1.05 * max(float(np.nanmax(chart.volume, initial=0.0)), 1.0))  # none is negative
        strip.set_ylabel("volume")
        strip.locator_params(axis="y", nbins=2)
        strip.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    dated_ticks(bottom, x, None if chart.times is None else chart.times.astype("datetime64[us]"))


def _show_prices(ax: Axes) -> None:
    """Set the price axis: margins around the bodies, no offset notation, and at least MIN_RANGE of the price."""
    ax.use_sticky_edges = False
    ax.autoscale_view(scalex=False)
    low, high = ax.get_ylim()
    short = MIN_RANGE * max(abs(low), abs(high)) - (high - low)
    if short > 0 and ax.has_data():
        ax.set_ylim(low - short / 2, high + short / 2)
    ax.ticklabel_format(axis="y", useOffset=False)


def _candles(ax: Axes, x: np.ndarray, bars: np.ndarray, tone: str, width: float) -> None:
    """Draw bodies from open to close and wicks from low to high; bars with a missing price are skipped."""
    seen = np.isfinite(bars).all(1)
    x, (opened, high, low, close) = x[seen], bars[seen].T
    bottom, top = np.minimum(opened, close), np.maximum(opened, close)
    ax.vlines(x, top, np.maximum(high, top), color=tone, lw=1)
    ax.vlines(x, np.minimum(low, bottom), bottom, color=tone, lw=1)
    fills = np.where(close >= opened, "white", tone)
    ax.bar(x, top - bottom, bottom=bottom, width=width, color=fills, edgecolor=tone, lw=1, zorder=3)


def _bands(chart: Chart) -> list[tuple[int, int]]:
    """Return the pairs of quantile columns between which the fan is drawn, outer band first."""
    position = {level: k for k, level in enumerate(chart.levels)}
    pairs = [(position[low], position[high]) for low, high in BANDS if low in position and high in position]
    if not pairs and len(position) > 1:
        pairs = [(position[min(position)], position[max(position)])]
    return pairs


def _legend(chart: Chart) -> dict[str, Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {
        "history": Patch(facecolor=PAST, edgecolor=PAST),
        "mean forecast": Patch(facecolor=COLORS["model"], edgecolor=COLORS["model"]),
    }
    if chart.other is not None:
        entries[chart.label] = Line2D([], [], color=COLORS["naive"], ls=(0, (5, 2)), lw=1.5)
    seen = 0.0
    for (low, high), alpha in zip(_bands(chart), BAND_ALPHA, strict=False):
        seen = 1 - (1 - seen) * (1 - alpha)  # bands are drawn over each other
        share = 100 * (chart.levels[high] - chart.levels[low])
        entries[f"{share:.0f}% interval of the close"] = Patch(color=COLORS["model"], alpha=seen, lw=0)
    return entries
