"""Column roles, windows cut at a cutoff, forecast origins in the parts of series, and held-out items.

# V variates, T steps of a series, C context steps, H horizon steps

Every series is split by time (parts.py). Training windows, futures included, are inside the first part. The future of a
validation or test window is inside its part, its context may start earlier. Held-out items are never trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from foretrain.data.asof import as_of
from foretrain.data.encoding import encode_codes, recorded_codes
from foretrain.data.parts import Region
from foretrain.data.store import Column, Corpus
from foretrain.data.windows import FloatArray, IntArray, Window
from foretrain.errors import ConfigError, DataError
from foretrain.hints import did_you_mean

_MOST_STEPS = 10**12  # of a horizon, a stride or a part

SplitName = Literal["validation", "test", "all"]
Items = Literal["all", "held_out", "trained"]


@dataclass(frozen=True)
class Selection:
    """Column indices by role, in the order of a window's rows.

    categories: of categorical columns, those of the corpus that a model was trained on, in the order of their codes,
    which windows with several targets then have, whatever the corpus. A column without an entry has the corpus' own.
    """

    targets: tuple[int, ...]
    past: tuple[int, ...] = ()
    known: tuple[int, ...] = ()
    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def columns(self) -> tuple[int, ...]:
        """Column indices of targets, past-only covariates and known-future covariates, in this order."""
        return self.targets + self.past + self.known

    def categorical(self, corpus: Corpus) -> list[tuple[int, int]]:
        """Return (row of the window, number of categories) of each categorical covariate."""
        columns = [corpus.manifest.columns[k] for k in self.columns]
        return [(row, len(column.categories)) for row, column in enumerate(columns) if column.categories is not None]

    def recorded(self, codes: FloatArray, column: Column) -> FloatArray:
        """Return a column's codes as those of training, NaN as NaN."""
        order = dict(self.categories).get(column.name)
        if order is None or column.categories is None or order == column.categories:
            return codes
        places = {category: k for k, category in enumerate(order)}
        table = recorded_codes(np.array([places.get(name, -1) for name in column.categories], np.int64), len(order))
        return np.where(np.isnan(codes), codes, table[np.nan_to_num(codes).astype(np.int64)])


class Origin(NamedTuple):
    """One forecast origin: steps [0, cutoff) of a series are known."""

    series: int
    cutoff: int


class Origins(Sequence[Origin]):
    """Forecast origins as two arrays: a corpus may have one in each of millions of series."""

    def __init__(self, series: IntArray, cutoff: IntArray) -> None:
        self.series, self.cutoff = series, cutoff

    @classmethod
    def of(cls, origins: Sequence[Origin]) -> Origins:
        """Return other origins as these, in their order."""
        if isinstance(origins, Origins):
            return origins
        pairs = np.array(origins, np.int64).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1])

    def __len__(self) -> int:
        return len(self.series)

    @overload
    def __getitem__(self, index: int) -> Origin: ...
    @overload
    def __getitem__(self, index: slice) -> Origins: ...
    def __getitem__(self, index: int | slice) -> Origin | Origins:
        if isinstance(index, slice):
            return Origins(self.series[index], self.cutoff[index])
        return Origin(int(self.series[index]), int(self.cutoff[index]))

    def __iter__(self) -> Iterator[Origin]:
        return map(Origin._make, zip(self.series.tolist(), self.cutoff.tolist(), strict=True))


def select(
    corpus: Corpus,
    target: Sequence[str] | None = None,
    past_covariates: Sequence[str] = (),
    known_covariates: Sequence[str] = (),
    *,
    key: str = "data",
) -> Selection:
    """Return the columns of the given names; target None means every numeric column that is not a covariate, neither
    by the caller's word nor by the corpus' manifest. key: the section of a config that names them, for errors.

    Raises ConfigError for unknown names (with a suggestion), names in two roles, no target, and categorical targets.
    """
    names = corpus.columns
    for role, chosen in (
        ("target", target or ()),
        ("past_covariates", past_covariates),
        ("known_covariates", known_covariates),
    ):
        for name in chosen:
            if name not in names:
                hint = did_you_mean(name, names, cutoff=0.5)
                message = f"{key}.{role}: {corpus.name} has no column {name!r} (has {', '.join(names)}). {hint}"
                raise ConfigError(message.rstrip())
    kinds = {column.name: column.kind for column in corpus.manifest.columns}
    if target is None:
        covariates = {*past_covariates, *known_covariates}
        target = [name for name in corpus.manifest.default_targets if name not in covariates]
    chosen = [*target, *past_covariates, *known_covariates]
    duplicates = sorted({name for name in chosen if chosen.count(name) > 1})
    if duplicates:
        raise ConfigError(f"{key}.target: column {duplicates[0]!r} has two roles. Give each column one.")
    if not target:
        raise ConfigError(f"{key}.target: no column of {corpus.name} is left to forecast. Name at least one.")
    categorical = [name for name in target if kinds[name] == "categorical"]
    if categorical:
        raise ConfigError(f"{key}.target: column {categorical[0]!r} is categorical; only numbers can be forecast.")
    index = {name: k for k, name in enumerate(names)}
    return Selection(
        targets=tuple(index[name] for name in target),
        past=tuple(index[name] for name in past_covariates),
        known=tuple(index[name] for name in known_covariates),
    )


def window_key(item_id: str, cutoff: int) -> int:
    """Return a 64-bit hash of an item and a cutoff: it seeds a window's random draws, independent of its batch."""
    digest = hashlib.blake2b(item_id.encode() + b"\0" + str(cutoff).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def cut(
    corpus: Corpus,
    selection: Selection,
    series: int,
    cutoff: int,
    *,
    context_length: int | None = None,
    prediction_length: int,
    with_future: bool = True,
) -> Window:
    """Cut a series at a cutoff: the context is the newest context_length steps of [0, cutoff), or all of them.

    The future (V, H) holds the targets only if with_future, known covariates as far as the series reaches, and NaN
    elsewhere. Categorical covariates are encoded from all steps before the cutoff (see encoding.encode_codes). The
    cutoff may be the series' end. No value at or after the cutoff influences the context. Raises DataError for a cutoff
    outside the series.
    """
    length = corpus.length(series)
    if not 1 <= cutoff <= length:
        raise DataError(
            f"item {corpus.item_id(series)!r}: cutoff {cutoff} is outside its {length} rows. Choose 1 to {length}."
        )
    first = 0 if context_length is None else max(0, cutoff - context_length)
    rows = list(selection.columns)
    values = as_of(corpus, corpus.values(series), cutoff)
    future_end = min(cutoff + prediction_length, length)
    future = np.full((len(rows), prediction_length), np.nan, np.float32)
    visible = (list(range(len(selection.targets))) if with_future else []) + list(
        range(len(rows) - len(selection.known), len(rows))
    )
    for row in visible:
        future[row, : future_end - cutoff] = values[rows[row], cutoff:future_end]
    context = values[rows, first:cutoff]
    for row, count in selection.categorical(corpus):
        target = values[rows[:1], :cutoff] if len(selection.targets) == 1 else None
        codes = np.concatenate([values[[rows[row]], :cutoff], future[[row]]], axis=1)
        encoded = encode_codes(codes, np.zeros(1, np.int64), count, target, cutoff)[0]
        if target is None:
            encoded = selection.recorded(encoded, corpus.manifest.columns[rows[row]])
        context[row] = encoded[first:cutoff]
        if row in visible:
            future[row, : future_end - cutoff] = encoded[cutoff:future_end]
    context_times = corpus.times_slice(series, first, cutoff)
    future_times = None
    if context_times is not None:
        future_times = _times_after(corpus, series, cutoff, future_end, prediction_length)
    item_id = corpus.item_id(series)
    return Window(
        context=context,
        num_targets=len(selection.targets),
        num_past=len(selection.past),
        future=future,
        context_times=context_times,
        future_times=future_times,
        item_id=item_id,
        key=window_key(item_id, cutoff),
        names=tuple(corpus.columns[k] for k in selection.columns),
        lowest_before=np.fmin.reduce(values[rows, :first], axis=1) if first else None,
    )


def _times_after(corpus: Corpus, series: int, cutoff: int, future_end: int, prediction_length: int) -> IntArray | None:
    """Return the stamps of the horizon: the series' own ones, then their continuation beyond its end."""
    own = corpus.times_slice(series, cutoff, future_end)
    missing = prediction_length - (future_end - cutoff)
    if own is None or not missing:
        return own
    beyond = corpus.future_times(series, missing)
    assert beyond is not None
    return np.concatenate([own, beyond])


def held_out(corpus: Corpus, fraction: float) -> npt.NDArray[np.bool_]:
    """Return an (N,) mask of held-out items, chosen by a hash of their ids: the same in every corpus and run."""
    if fraction <= 0:
        return np.zeros(corpus.num_series, bool)
    begun = hashlib.blake2b(digest_size=8, person=b"holdout").copy  # copies take half the time of new ones
    limit, found = np.uint64(min(int(fraction * 2**64), 2**64 - 1)), []
    for ids in corpus.parts_of_ids():
        digests = list[bytes]()
        for item_id in ids:
            state = begun()
            state.update(item_id.encode())
            digests.append(state.digest())
        found.append(np.frombuffer(b"".join(digests), "<u8") < limit)
    return np.concatenate(found)


def rolling_origins(
    corpus: Corpus,
    *,
    split: SplitName = "test",
    prediction_length: int,
    num_windows: int = 1,
    stride: int | None = None,
    validation_steps: int | None = None,
    test_steps: int | None = None,
    region: Region | None = None,
    min_context: int | None = None,
    items: Items = "all",
    holdout_fraction: float = 0.0,
    among: npt.NDArray[np.bool_] | None = None,
    too_long: str = "prediction_length or min_context",
) -> Origins:
    """Return forecast origins with futures inside the split, the newest num_windows a series, by (series, cutoff).

    The newest future ends at the end of the split, each earlier one `stride` (default prediction_length) steps before.
    validation_steps and test_steps default to prediction_length; a region takes the place of both; "all" ignores the
    split and uses the whole series. A window needs min_context (default 1) rows before its cutoff; series that are too
    short have none, and so have series outside the (N,) mask `among`. `too_long` names the lengths that the caller's
    user can shorten. Raises ConfigError if the split is shorter than a horizon, DataError if no series has a window.
    """
    v = prediction_length if validation_steps is None else validation_steps
    t = prediction_length if test_steps is None else test_steps
    stride = prediction_length if stride is None else stride
    if min(prediction_length, num_windows, stride) < 1 or min(v, t) < 0:
        raise ConfigError(
            "prediction_length, num_windows and stride must be positive, validation and test steps not negative."
        )
    if max(prediction_length, num_windows, stride, v, t) > _MOST_STEPS:
        raise ConfigError(f"prediction_length, num_windows, stride and steps of parts are at most {_MOST_STEPS:,}.")
    oldest: int | IntArray = max(1, 1 if min_context is None else min_context)
    least = oldest
    if split == "all":
        ends, max_windows = corpus.lengths, num_windows
    elif region is not None:
        ends, max_windows = region.end, num_windows
        oldest = np.maximum(region.begin, oldest)
    else:
        ends, steps = (corpus.lengths, t) if split == "test" else (corpus.lengths - t, v)
        if steps < prediction_length:
            raise ConfigError(
                f"data.{split}_steps: {steps} steps hold no window of prediction_length {prediction_length}. "
                f"Set {split}_steps to at least {prediction_length}."
            )
        max_windows = min(num_windows, (steps - prediction_length) // stride + 1)
    newest = ends - prediction_length
    counts = np.clip((newest - oldest) // stride + 1, 0, max_windows)
    if items != "all":
        out = held_out(corpus, holdout_fraction)
        counts = np.where(out if items == "held_out" else ~out, counts, 0)
    if among is not None:
        counts = np.where(among, counts, 0)
    if not counts.sum():
        of = corpus.num_series if among is None else int(among.sum())
        head = f"{corpus.name}: no {split} window in {of:,} series (items: {items if among is None else 'chosen'}): "
        region = None if region is None else region.only(among)
        if region is not None and split != "all":
            raise DataError(f"{head}{_no_room(corpus, region, least, prediction_length)} Shorten {too_long}.")
        lengths = corpus.lengths if among is None else corpus.lengths[among]
        longest = int(lengths.max(initial=0))
        later = f", {t:,} of the test part" if split == "validation" else ""
        raise DataError(
            f"{head}the longest has "
            f"{longest:,} rows; needed are {least + prediction_length + (t if split == 'validation' else 0):,} "
            f"({least:,} before the cutoff, {prediction_length:,} after it{later}). Shorten {too_long}."
        )
    series = np.repeat(np.arange(len(counts)), counts)
    last = np.cumsum(counts)
    back = (np.repeat(last, counts) - 1 - np.arange(last[-1])) * stride
    return Origins(series, newest[series] - back)


def _no_room(corpus: Corpus, region: Region, min_context: int, prediction_length: int) -> str:
    """Return why no series has a window in a region."""
    most = int((region.end - region.begin).max(initial=0))
    first, last = corpus.manifest.first_time, corpus.manifest.last_time
    dates = f" (the corpus reaches from {first} to {last})" if first and last else ""
    return (
        f"{region.words}, a series has at most {most:,} rows{dates}; needed are {prediction_length:,}, and "
        f"{min_context:,} rows before the cutoff. Choose other dates."
    )
