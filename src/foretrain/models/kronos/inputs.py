"""Convert windows to batches of candles: columns by name, gaps filled forward, statistics of the context, time stamps.

Entries of a batch (Batch):

context           (B, C, 6) float32 normalised bars, left-aligned, 0 beyond a window's length
lengths           (B,) bars of each context; absent if all have C, unless the windows are static
context_observed  (B, C) bool, False if a price was missing (filled forward) or beyond the length
loc, scale        (B, 6) float32: a bar is normalised * scale + loc; NaN if no bar was observed
future_target     (B, F, 6) float32 normalised bars after the cutoff; absent unless every candle column is a target
future_observed   (B, F) bool, False if a price is missing or no bar of the context was observed; with future_target
context_stamps    (B, C, 5) int64 minute, hour, weekday, day, month; absent without a calendar
future_stamps     (B, F, 5) int64
key               (B,) int64 seed of a window's draws
positive          (B,) bool, False if a price at or below 0 was observed, in the context or before; absent if not known
target_window     (M,) window of each target row, in the windows' order
target_column     (M,) its column of a bar

# B windows, C context bars, F bars after the cutoff, W = C + F
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foretrain.data.windows import KNOWN, TARGET, FloatArray, IntArray, Windows, lowest_values
from foretrain.errors import DataError
from foretrain.models.base import Batch, Columns
from foretrain.models.kronos.config import COLUMNS, PRICES
from foretrain.nn.scaling import RELATIVE, ZERO_SCALE

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
EPS = 1e-5  # added to the standard deviation, as upstream; less for small deviations, see statistics
SHARE = 0.01  # of a small deviation, which is added instead
NEEDS = f"candles ({', '.join(PRICES)}; volume and amount if available)"
ALIASES = {"vol": "volume", "amt": "amount", "turnover": "amount"}
MINUTE = 60_000_000  # microseconds
DAY = 1440 * MINUTE
VOLUME, AMOUNT = COLUMNS.index("volume"), COLUMNS.index("amount")
LARGEST = float(np.finfo(np.float32).max)


def candle_column(name: str) -> str | None:
    """Return the candle column that a name or alias refers to, None for other names."""
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    return key if key in COLUMNS else None


def choose_columns(names: Sequence[str]) -> Columns | None:
    """Return the candle columns among a data set's columns, in the order of COLUMNS; None if a price is missing."""
    found = {candle_column(name): name for name in reversed(names)}
    if not all(price in found for price in PRICES):
        return None
    # an amount without volume is not used (upstream sets both to 0)
    chosen = [column for column in COLUMNS if column in found and (column != "amount" or "volume" in found)]
    return Columns(tuple(found[column] for column in chosen), (found["close"],))


def collate(windows: Windows, clip: float, *, relative: bool = False) -> Batch:
    """Return the batch of candle windows; see the entries above. Raises DataError for windows without candles.

    relative: see statistics.
    """
    raw, targets, labelled = candles_of(windows)
    filled, steps = complete(fill_forward(raw)), windows.context.shape[1]
    calendar = windows.context_times is not None and windows.future_times is not None
    times = windows.context_times if calendar else None
    contexts = prepare_contexts(
        raw[:, :steps], filled[:, :steps], times, clip, relative=relative, static=windows.static_shapes
    )
    batch: Batch = {
        **contexts.entries,
        "key": torch.from_numpy(np.ascontiguousarray(windows.key).view(np.int64)),
        "target_window": torch.from_numpy(targets[0]),
        "target_column": torch.from_numpy(targets[1]),
    }
    if labelled:
        observed = ~np.isnan(raw[:, steps:, :4]).any(-1) & ~contexts.empty[:, None]
        batch["future_target"] = torch.from_numpy(normalise(filled[:, steps:], contexts.loc, contexts.scale, clip))
        batch["future_observed"] = torch.from_numpy(observed)
    if windows.parts is not None:
        batch["positive"] = torch.from_numpy(positive_prices(windows))
    if calendar:
        batch["future_stamps"] = torch.from_numpy(stamps_of(windows.future_times))  # type: ignore[arg-type]
    return batch


class ContextTensors(NamedTuple):
    """Batch entries of the contexts, and their statistics."""

    entries: Batch  # context, context_observed, loc, scale; lengths if they differ; context_stamps with times
    loc: Float64Array  # (B, 6)
    scale: Float64Array  # (B, 6)
    empty: BoolArray  # (B,) windows without an observed bar


def prepare_contexts(
    raw: Float64Array,
    filled: Float64Array,
    times: IntArray | None,
    clip: float,
    frozen: tuple[Float64Array, Float64Array] | None = None,
    *,
    relative: bool = False,
    static: bool = False,
) -> ContextTensors:
    """Left-align and normalise the contexts of a batch; leading bars that cannot be filled are cut.

    Args:
        raw: (B, C, 6) bars with NaN where a value is missing.
        filled: (B, C, 6) the same bars with gaps filled.
        times: (B, C) microseconds; None = no calendar.
        clip: normalised values are cut at +-clip.
        frozen: loc and scale (B, 6) to use; None = computed from the bars.
        relative: see statistics.
        static: keep the width C, even if every row is shorter after the cut.
    """
    count, steps = raw.shape[:2]
    ready = np.asarray(~np.isnan(filled).any(-1))
    empty = np.asarray(~ready.any(1))
    start = np.where(empty, steps - 1, ready.argmax(1))
    lengths = steps - start
    longest = steps if static else int(lengths.max())
    index = np.minimum(start[:, None] + np.arange(longest), steps - 1)  # (B, longest) from the left
    rows = np.arange(count)[:, None]
    valid = np.arange(longest) < lengths[:, None]
    bars = filled[rows, index]
    loc, scale = frozen or statistics(bars, valid, relative=relative)
    if frozen is None:
        loc[empty] = scale[empty] = np.nan
    observed = np.asarray(~np.isnan(raw[..., :4]).any(-1))
    entries: Batch = {
        "context": torch.from_numpy(normalise(bars, loc, scale, clip, valid)),
        "context_observed": torch.from_numpy(observed[rows, index] & valid),
        "loc": torch.from_numpy(loc.astype(np.float32)),
        "scale": torch.from_numpy(scale.astype(np.float32)),
    }
    if static or int(lengths.min()) < longest:
        entries["lengths"] = torch.from_numpy(lengths)
    if times is not None:
        entries["context_stamps"] = torch.from_numpy(stamps_of(times[rows, index]))
    return ContextTensors(entries, loc, scale, empty)


def sequence(batch: Batch) -> tuple[Tensor, Tensor]:
    """Concatenate context and future of a training batch: normalised bars (B, T, 6) and an observed mask (B, T).

    Windows are left-aligned; padding is 0 and not observed. Raises DataError without labels.
    """
    if "future_target" not in batch:
        raise DataError(
            "Kronos trains on whole candles, but some columns of these windows are covariates without a known future. "
            "Name open, high, low, close (and volume, amount) in data.target."
        )
    parts = ("context", "future_target"), ("context_observed", "future_observed")
    bars, observed = (torch.cat([batch[name] for name in pair], 1) for pair in parts)
    if "lengths" not in batch:
        return bars, observed
    index, valid = _joined_index(batch)
    return (
        bars.gather(1, index[..., None].expand(-1, -1, bars.shape[-1])) * valid[..., None],
        observed.gather(1, index) & valid,
    )


def sequence_stamps(batch: Batch) -> Tensor | None:
    """Return stamps (B, T, 5) of the bars of `sequence`, None without a calendar."""
    if "context_stamps" not in batch:
        return None
    stamps = torch.cat((batch["context_stamps"], batch["future_stamps"]), 1)
    if "lengths" not in batch:
        return stamps
    index, _ = _joined_index(batch)
    return stamps.gather(1, index[..., None].expand(-1, -1, stamps.shape[-1]))


def _joined_index(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the index (B, T) of each bar in the concatenated context and future, and a mask (B, T) of real bars."""
    longest, future = batch["context"].shape[1], batch["future_target"].shape[1]
    step = torch.arange(longest + future, device=batch["lengths"].device)
    lengths = batch["lengths"][:, None]
    index = torch.where(step < lengths, step, step - lengths + longest)
    return index.clamp(max=longest + future - 1), step < lengths + future


def statistics(
    bars: Float64Array, valid: BoolArray | None = None, *, relative: bool = False
) -> tuple[Float64Array, Float64Array]:
    """Return mean and (population standard deviation + eps), (B, 6) each, of bars (B, C, 6) where `valid` (B, C).

    eps is upstream's 1e-5 for deviations of 1e-3 or more, and a hundredth of smaller ones, but at least 1e-5 of the
    mean: 1e-5 would hide the moves of a coin that costs 5e-5. A column of zeros has 1e-5. Computed in float64:
    upstream's float32 sums are off by tens of per cent for volumes of 1e9.

    relative: instead of eps, the square of RELATIVE times the root mean square is added to the variance, so that c
    times a column has c times the scale. A column of zeros has ZERO_SCALE.
    """
    weight = np.ones(bars.shape[:2]) if valid is None else valid.astype(np.float64)
    count = weight.sum(1)[:, None]
    values = np.where(weight[..., None] > 0, bars, 0.0)
    loc = values.sum(1) / count
    spread = np.where(weight[..., None] > 0, bars - loc[:, None], 0.0)
    deviation = np.sqrt((spread**2).sum(1) / count)
    if relative:
        scale = np.hypot(deviation, RELATIVE * np.hypot(loc, deviation))
        return loc, np.where(scale > 0, scale, ZERO_SCALE)
    eps = np.minimum(EPS, np.maximum(SHARE * deviation, EPS * np.abs(loc)))
    return loc, deviation + np.where(eps > 0, eps, EPS)


def normalise(
    bars: Float64Array, loc: Float64Array, scale: Float64Array, clip: float, valid: BoolArray | None = None
) -> FloatArray:
    """Return (bars - loc) / scale (B, T, 6), cut at +-clip; 0 where not `valid` or NaN."""
    scaled = np.clip((bars - loc[:, None]) / scale[:, None], -clip, clip)
    known = ~np.isnan(scaled) if valid is None else valid[..., None] & ~np.isnan(scaled)
    return np.where(known, scaled, 0.0).astype(np.float32)


def fill_forward(bars: Float64Array) -> Float64Array:
    """Replace missing values of bars (B, W, 6) by the column's previous value; leading NaN remain."""
    known = ~np.isnan(bars)
    if known.all():
        return bars
    last = np.where(known, np.arange(bars.shape[1])[None, :, None], 0)
    return np.take_along_axis(bars, np.maximum.accumulate(last, axis=1), axis=1)


def stamps_of(times: IntArray) -> IntArray:
    """Return minute, hour, weekday (Monday 0), day of month and month (..., 5) of microsecond times (...)."""
    days = times // DAY
    date = days.astype("M8[D]")
    month = date.astype("M8[M]")
    fields = (
        times // MINUTE % 60,
        times // (60 * MINUTE) % 24,
        (days + 3) % 7,  # 1970 began on a Thursday
        (date - month.astype("M8[D]")).astype(np.int64) + 1,
        month.astype(np.int64) % 12 + 1,
    )
    return np.stack(fields, -1)


def complete(bars: Float64Array) -> Float64Array:
    """Fill missing volume with 0 and missing amount with volume times the mean price; bars are (..., 6)."""
    bars = bars.copy()
    volume, amount = bars[..., VOLUME], bars[..., AMOUNT]
    volume[np.isnan(volume)] = 0.0
    missing = np.isnan(amount)
    if missing.any():
        product = volume[missing] * bars[..., :4][missing].mean(-1)
        amount[missing] = np.clip(product, -LARGEST, LARGEST)  # amounts from the data are float32 too
    return bars


def candles_of(windows: Windows) -> tuple[Float64Array, tuple[IntArray, IntArray], bool]:
    """Return bars (B, W, 6), NaN if missing; (window, column) of target rows; True if all rows are targets."""
    if (windows.role == KNOWN).any():
        raise DataError(
            "Kronos takes only candles, and no covariates known ahead. Leave out data.known_covariates (in a frame: "
            "future_df)."
        )
    count = len(windows)
    rows_of = np.bincount(windows.window, minlength=count)
    first = np.cumsum(rows_of) - rows_of
    names = windows.names or ((),) * count
    joined = np.concatenate([windows.context, windows.future], axis=1)
    bars = np.full((count, joined.shape[1], len(COLUMNS)), np.nan)
    column = np.zeros(len(joined), np.int64)
    kinds: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for b, kind in enumerate(zip(names, rows_of.tolist(), strict=True)):
        kinds.setdefault(kind, []).append(b)
    for kind, chosen in kinds.items():
        columns = _columns_of(*kind)
        for row, k in enumerate(columns):
            column[first[chosen] + row] = k
            if k != AMOUNT or VOLUME in columns:  # as upstream, which needs both
                bars[chosen, :, k] = joined[first[chosen] + row]
    bars[np.isinf(bars)] = np.nan  # no price is infinite
    target = np.flatnonzero(windows.role == TARGET)
    return bars, (windows.window[target], column[target]), len(target) == len(joined)


def positive_prices(windows: Windows) -> BoolArray:
    """Return (B,) False for windows with a price at or below 0, in the context or (if known) before it."""
    rows = (lowest_values(windows) <= 0) & (row_columns(windows) < len(PRICES))
    return np.bincount(windows.window[rows], minlength=len(windows)) == 0


def row_columns(windows: Windows) -> IntArray:
    """Return the candle column (R,) of each row of windows. Raises DataError if the rows are not candles."""
    counts = np.bincount(windows.window, minlength=len(windows)).tolist()
    names = windows.names or ((),) * len(windows)
    return np.array([k for own, count in zip(names, counts, strict=True) for k in _columns_of(own, count)], np.int64)


def shared_factors(windows: Windows, factors: Tensor) -> Tensor:
    """Return the factors (R, 1) of rows so that a candle keeps its shape: its four prices share their largest.

    That of an amount is the price's times the volume's.
    """
    column, window = torch.from_numpy(row_columns(windows)), torch.from_numpy(windows.window)

    def of_windows(rows: Tensor) -> Tensor:  # (R,) largest factor among these rows of each row's window, at least 1
        largest = factors.new_ones(len(windows))
        return largest.scatter_reduce(0, window[rows], factors[rows, 0], "amax")[window]

    prices, volumes = of_windows(column < len(PRICES)), of_windows(column == VOLUME)
    shared = torch.where(column == VOLUME, volumes, prices) * torch.where(column == AMOUNT, volumes, 1.0)
    return shared[:, None]


def _columns_of(names: tuple[str, ...], rows: int) -> list[int]:
    """Return the candle column of each row of a window. Raises DataError if the rows are not a candle."""
    columns = [candle_column(name) for name in names] if names else list(COLUMNS[:rows])
    unknown = [name for name, column in zip(names, columns, strict=False) if column is None]
    missing = [price for price in PRICES if price not in columns]
    twice = [column for column in COLUMNS if columns.count(column) > 1]
    if not unknown and not missing and not twice and rows == len(columns):
        return [COLUMNS.index(column) for column in columns if column is not None]
    what = f"{rows} rows are more than a candle has; rows without names are {', '.join(COLUMNS)}, in this order"
    if unknown:
        what = f"column {unknown[0]!r} is not a candle column; leave it out"
    elif twice:
        what = f"{' and '.join(n for n in names if candle_column(n) == twice[0])} are the same column; keep one"
    elif missing:
        given = ", ".join(names) or f"{rows} rows without names"
        what = (
            f"of {given}: there is no {', '.join(missing)}. Add or rename columns, or, where targets and past "
            "covariates were chosen, choose all four prices"
        )
    raise DataError(f"Kronos reads candles, open, high, low, close and where there are volume and amount; {what}.")
