"""Summary of a corpus as text and as a figure: `foretrain data inspect`.

# N series, V columns, T steps of a series
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foretrain.atomic import files_together
from foretrain.data.finding_pictures import draw, findings
from foretrain.data.store import Column, Corpus, Manifest
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.notes import counted
from foretrain.printing import SALT, UNDATED, printable
from foretrain.reading import read_object

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLE = 2_000  # most series read for statistics of values, sampled evenly
_HEAD = 8
_SHOWN = 4  # series drawn as curves
_BINS = 120
_NAMED = 12  # most series that are named in the small figures


def inspect_rows(corpus: Corpus) -> list[tuple[str, str]]:
    """Return (name, value) lines about a corpus: size, time axis, columns, lengths, missing share, provenance."""
    manifest, lengths = corpus.manifest, corpus.lengths
    source = manifest.provenance
    axis = {"regular": "regular", "stamps": "stamps", "steps": "steps, no calendar"}[manifest.time]
    rows = [
        ("series", f"{corpus.num_series:,}"),
        ("rows", f"{int(lengths.sum()):,}"),
        ("columns", ", ".join(_column_text(column, manifest) for column in manifest.columns)),
        ("time", f"{axis}, {manifest.freq}" if manifest.freq else axis),
    ]
    if manifest.first_time:
        zone = manifest.timezone or manifest.timezone_note or "naive"
        rows.append(("range", f"{_short(manifest.first_time)} .. {_short(manifest.last_time)} ({zone})"))
    if manifest.seasonality:
        session = f", {manifest.bars_per_session} bars a session" if manifest.bars_per_session else ""
        rows.append(("seasonality", f"{manifest.seasonality} steps{session}"))
    if manifest.price_columns:
        rows.append(("prices", f"{', '.join(manifest.price_columns)} ({'adjusted' if manifest.adjusted else 'raw'})"))
    quartiles = np.percentile(lengths, [0, 25, 50, 75, 100]).astype(int)
    rows.append(
        ("lengths", "min {:,} | quarter {:,} | median {:,} | three quarters {:,} | max {:,}".format(*quartiles))
    )
    share, sampled = _missing(corpus)
    text = ", ".join(f"{name} {part:.2%}" for name, part in zip(corpus.columns, share, strict=True) if part > 0)
    of = "" if sampled == corpus.num_series else f" (of {sampled:,} sampled series)"
    rows.append(("missing", (text or "nothing") + of))
    rows.append(("provenance", f"{source['kind']}, {counted(len(source['sources']), 'source')}"))
    if source["command"]:
        rows.append(("command", source["command"]))
    rows.append(("content hash", manifest.content_hash[:16]))
    return rows


def quality_rows(corpus: Corpus) -> list[tuple[str, str, str, str, str]]:
    """Return (rule, severity, items, rows, action) of every rule with findings at import; [] without a report."""
    found = _quality(corpus).get("rules", {})
    return [
        (name, entry["severity"], f"{entry['items']:,}", f"{entry['rows']:,}", entry.get("action", ""))
        for name, entry in found.items()
        if entry["items"]
    ]


def head_rows(corpus: Corpus, count: int = _HEAD) -> list[tuple[str, str, str, str, str]]:
    """Return (item, rows, first, last, missing) of the first items."""
    rows = []
    for k in range(min(count, corpus.num_series)):
        times = corpus.times(k)
        first, last = ("", "") if times is None else (_stamp(times[0]), _stamp(times[-1]))
        missing = f"{np.isnan(corpus.values(k)).mean():.2%}"
        rows.append((corpus.item_id(k), f"{corpus.length(k):,}", first, last, missing))
    return rows


def inspect_text(corpus: Corpus) -> str:
    """Return the summary of a corpus as plain text tables."""
    lines = [corpus.name, *_aligned(inspect_rows(corpus), indent="  ")]
    rules = quality_rows(corpus)
    if rules:
        lines += [
            "",
            "quality rules",
            *_aligned([("rule", "severity", "items", "rows", "action"), *rules], indent="  "),
        ]
    elif corpus.path is not None:
        clean = bool(_quality(corpus))
        lines += ["", "quality rules: nothing found" if clean else "quality rules: no report (not made by data import)"]
    left_out = _quality(corpus).get("left_out", {})
    if left_out:
        shown = "; ".join(f"{item} ({why})" for item, why in list(left_out.items())[:5])
        lines.append(f"left out {counted(len(left_out), 'item')}: {shown}{' ...' if len(left_out) > 5 else ''}")
    table = [("item", "rows", "first", "last", "missing"), *head_rows(corpus)]
    lines += ["", f"first {len(table) - 1} of {corpus.num_series:,} items", *_aligned(table, indent="  ")]
    return "\n".join(lines)


def _column_text(column: Column, manifest: Manifest) -> str:
    if column.categories is not None:
        return f"{column.name} (categories: {len(column.categories)})"
    if column.name in manifest.past_covariates:
        return f"{column.name} (past covariate)"
    return f"{column.name} (known covariate)" if column.name in manifest.known_covariates else column.name


def _short(text: str | None) -> str:
    return (text or "").removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")


def _stamp(time: Any) -> str:
    return _short(str(np.datetime64(int(time), "us")))


def _aligned(rows: list[tuple[str, ...]], indent: str) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _sample(corpus: Corpus) -> npt.NDArray[np.int64]:
    count = min(corpus.num_series, _SAMPLE)
    return np.linspace(0, corpus.num_series - 1, count).astype(np.int64)


def _missing(corpus: Corpus) -> tuple[npt.NDArray[np.float64], int]:
    """Return (V,) share of NaN in each column over sampled series, and the number of series read."""
    chosen = _sample(corpus)
    missing, total = np.zeros(len(corpus.columns)), 0
    for k in chosen:
        values = corpus.values(int(k))
        missing += np.isnan(values).sum(axis=1)
        total += values.shape[1]
    return missing / max(total, 1), len(chosen)


def _quality(corpus: Corpus) -> dict[str, Any]:
    path = corpus.path / "quality.json" if corpus.path is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        found = read_object(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Import the data again.") from None
    rules, left_out = found.get("rules", {}), found.get("left_out", {})
    if not isinstance(rules, dict) or not isinstance(left_out, dict) or not all(map(_is_rule, rules.values())):
        raise DataError(f"{path}: is no report of an import any more. Import the data again.")
    return found


def _is_rule(entry: Any) -> bool:
    """Return True for what an import records of a rule."""
    kinds = {"severity": str, "items": int, "rows": int}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())


# The figure

_INK, _MUTED, _GRID = "#222222", "#6b7280", "#e5e7eb"
_LINES = ("#2563eb", "#d97706", "#059669", "#be185d", "#7c3aed", "#0e7490")


def plot_corpus(corpus: Corpus, path: str | Path) -> None:
    """Draw a PNG of a few series, lengths, missing values and findings of the rules for markets.

    DataError if saving fails.
    """
    from matplotlib import rc_context

    try:
        with (
            rc_context({"text.parse_math": False, "svg.hashsalt": SALT}),
            files_together([Path(path)], _unwritten) as scratch,
        ):
            kind = Path(path).suffix[1:] or "png"  # without one matplotlib would add it to the name
            picture = io.BytesIO()  # on a full disk some of matplotlib's writers raise errors of their own
            _figure(corpus).savefig(picture, dpi=110, format=kind, metadata=UNDATED.get(kind.lower()))
            scratch[Path(path)].write_bytes(picture.getvalue())
    except ValueError as error:
        raise DataError(f"{path}: cannot write the picture: {error}.") from None


def _figure(corpus: Corpus) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _spread(corpus)
    found = findings(corpus, _quality(corpus).get("rules", {}))
    more = -(-len(found) // 2)  # rows of pictures of findings, two a row
    figure = Figure(figsize=(13, 2.1 * len(shown) + 4.2 + 2.5 * more), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(shown) + 1 + more, 2, height_ratios=[1] * len(shown) + [1.7] + [1.2] * more)
    for row, k in enumerate(shown):
        _draw_series(figure.add_subplot(grid[row, :]), corpus, k)
    _draw_lengths(figure.add_subplot(grid[len(shown), 0]), corpus)
    _draw_missing(figure.add_subplot(grid[len(shown), 1]), corpus)
    for number, one in enumerate(found):
        draw(figure.add_subplot(grid[len(shown) + 1 + number // 2, number % 2]), corpus, one)
    manifest = corpus.manifest
    span = f", {_short(manifest.first_time)} to {_short(manifest.last_time)}" if manifest.first_time else ""
    freq = f", {manifest.freq}" if manifest.freq else ""
    figure.suptitle(
        f"{printable(corpus.name)}: {corpus.num_series:,} series, {corpus.num_rows:,} rows{freq}{span} "
        f"({manifest.provenance['kind']} data)",
        color=_INK,
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return figure


def _unwritten(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot write the picture: {error.strerror or error}. Free space or name another file.")


def _spread(corpus: Corpus) -> list[int]:
    """Return the indices of a few evenly spaced series, including the longest."""
    spread = np.linspace(0, corpus.num_series - 1, min(_SHOWN, corpus.num_series)).astype(int).tolist()
    longest = int(corpus.lengths.argmax())
    return spread if longest in spread else sorted([longest, *spread[1:]])


def _draw_series(axes: Any, corpus: Corpus, k: int) -> None:
    """Draw close and volume of a price series, else every numeric column, standardised if scales differ a lot."""
    values, times = corpus.values(k), corpus.times(k)
    session = corpus.manifest.time == "stamps" and times is not None
    # bars are evenly spaced: nights and weekends would otherwise be long straight lines
    at = np.arange(values.shape[1]) if times is None or session else times.astype("M8[us]")
    names = list(corpus.columns)
    prices = corpus.manifest.price_columns
    if prices:
        close = next((name for name in prices if name.endswith("close") and "adj" not in name), prices[0])
        axes.plot(at, values[names.index(close)], color=_LINES[0], linewidth=0.9, label=printable(close))
        if "volume" in names:
            _draw_volume(axes, at, values[names.index("volume")])
    else:
        chosen = [v for v, column in enumerate(corpus.manifest.columns) if column.kind == "numeric"][: len(_LINES)]
        scaled = len(chosen) > 1 and _differ(values[chosen])
        for line, v in enumerate(chosen):
            curve = _standard(values[v]) if scaled else values[v]
            axes.plot(at, curve, color=_LINES[line], linewidth=0.8, label=printable(names[v]))
        if scaled:
            axes.set_ylabel("standardised", color=_MUTED, fontsize=8)
    axes.legend(loc="upper left", fontsize=7, frameon=False, ncols=6)
    axes.set_title(f"{printable(corpus.item_id(k))}  ({values.shape[1]:,} rows)", loc="left", fontsize=10, color=_INK)
    _plain(axes)
    if session and times is not None:
        _bar_labels(axes, times)
    axes.set_xlim(at[0], at[-1] if len(at) > 1 else None)


def _draw_volume(axes: Any, at: Any, volume: npt.NDArray[np.float32]) -> None:
    """Draw the mean volume of each segment along the bottom quarter."""
    groups = np.array_split(np.arange(len(volume)), min(len(volume), 4 * _BINS))
    heights = np.array([np.nanmean(volume[g]) if np.isfinite(volume[g]).any() else 0.0 for g in groups])
    below = axes.twinx()
    starts = [g[0] for g in groups]
    below.fill_between(at[starts], heights, step="post", color="#9ca3af", alpha=0.5, linewidth=0)
    below.set_ylim(0, 4 * max(float(heights.max()), 1e-12))
    below.set_yticks([])
    for side in below.spines.values():
        side.set_visible(False)
    below.text(0.995, 0.06, "volume", transform=below.transAxes, ha="right", fontsize=7, color=_MUTED)


def _bar_labels(axes: Any, times: npt.NDArray[np.int64]) -> None:
    """Label an axis that counts bars with dates."""
    at = np.linspace(0, len(times) - 1, min(8, len(times))).astype(int)
    axes.set_xticks(at)
    axes.set_xticklabels([str(times[k].astype("M8[us]").astype("M8[D]")) for k in at])


def _differ(values: npt.NDArray[np.float32]) -> bool:
    spread = np.nanpercentile(values, [5, 95], axis=1) if np.isfinite(values).any(axis=1).all() else np.zeros((2, 1))
    sizes = np.abs(spread).max(axis=0)
    return bool(sizes.max() > 10 * max(float(sizes.min()), 1e-12))


def _standard(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    scale = np.nanstd(values, dtype=np.float64) if np.isfinite(values).any() else 1.0
    centre = np.nanmean(values, dtype=np.float64) if np.isfinite(values).any() else 0.0
    return np.asarray((values - centre) / (scale or 1.0), np.float64)


def _draw_lengths(axes: Any, corpus: Corpus) -> None:
    """Draw the length of each series if there are few, else a histogram."""
    lengths = corpus.lengths
    axes.set_title("Length of the series (rows)", loc="left", fontsize=10, color=_INK)
    _plain(axes)
    if corpus.num_series <= _NAMED:
        at = np.arange(corpus.num_series)
        axes.barh(at, lengths, color=_LINES[0], alpha=0.85, height=0.6)
        axes.set_yticks(at, [printable(corpus.item_id(int(k)))[:16] for k in at])
        axes.set_ylim(corpus.num_series - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        return
    bins: Any = min(40, max(10, int(np.sqrt(len(lengths)))))
    if lengths.min() == lengths.max():
        bins = np.array([lengths[0] * 0.95, lengths[0] * 1.05])
        axes.set_xlim(0, 1.3 * lengths[0])
    axes.hist(lengths, bins=bins, color=_LINES[0], alpha=0.85)
    axes.set_ylabel("series", color=_MUTED, fontsize=8)


def _draw_missing(axes: Any, corpus: Corpus) -> None:
    """Draw the share of missing cells by sampled series (down) and time or step (across); grey without rows."""
    chosen = _sample(corpus)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), 200)).astype(int)]
    series = [corpus.times(int(k)) for k in chosen]
    steps = [
        np.arange(corpus.length(int(k)), dtype=np.int64) if t is None else t
        for k, t in zip(chosen, series, strict=True)
    ]
    low, high = min(int(t[0]) for t in steps), max(int(t[-1]) for t in steps)
    shares = np.full((len(chosen), _BINS), np.nan)
    for row, (k, times) in enumerate(zip(chosen, steps, strict=True)):
        held = times != NO_TIME
        bins = ((times[held] - low) / max(high - low, 1) * (_BINS - 1)).astype(int)
        count = np.bincount(bins, minlength=_BINS)
        missing = np.bincount(bins, np.isnan(corpus.values(int(k))[:, held]).mean(axis=0), minlength=_BINS)
        shares[row, count > 0] = missing[count > 0] / count[count > 0]
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("missing", ["#bfdbfe", "#f59e0b", "#b91c1c"]).with_extremes(
        bad="#f3f4f6"
    )
    image = axes.imshow(shares, aspect="auto", interpolation="nearest", cmap=colours, vmin=0, vmax=1)
    total = f"{np.nanmean(shares):.2%} of cells"
    axes.set_title(f"Missing values: {total}; pale grey = no rows", loc="left", fontsize=10, color=_INK)
    at = np.linspace(0, _BINS - 1, 5)
    labels = low + at / (_BINS - 1) * (high - low)
    timed = series[0] is not None
    axes.set_xticks(at)
    axes.set_xticklabels([_stamp(v)[:10] if timed else f"{int(v):,}" for v in labels])
    if corpus.num_series <= _NAMED:
        axes.set_yticks(np.arange(len(chosen)), [printable(corpus.item_id(int(k)))[:16] for k in chosen])
    else:
        rows = np.linspace(0, len(chosen) - 1, 5).astype(int)
        axes.set_yticks(rows, [f"{chosen[row]:,}" for row in rows])
        axes.set_ylabel("series", color=_MUTED, fontsize=8)
    axes.figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01, format=lambda v, _: f"{v:.0%}")
    _plain(axes, grid=False)


def _plain(axes: Any, *, grid: bool = True) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    if grid:
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
