"""Training windows of one or several corpora; window n of a run is a pure function of (seed, n).

# B windows, R rows, V variates, C context steps, H horizon steps
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from foretrain.data.buckets import Buckets, choices
from foretrain.data.chunks import Counts, compact
from foretrain.data.config import DataConfig
from foretrain.data.items import ChosenItems
from foretrain.data.lengths import no_window, rows_needed
from foretrain.data.market.subsets import refuse_unseen
from foretrain.data.parts import DateCuts, part_counts, part_lines
from foretrain.data.permutation import derive, hash64
from foretrain.data.sampling import Gather, Pool, SamplingPlan, all_reserved
from foretrain.data.sequential import BUFFER_MB, SequentialReader
from foretrain.data.splits import Selection, held_out
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray, Windows
from foretrain.errors import ConfigError


class TrainingSource:
    """Training windows by number.

    Raises DataError if a corpus has no series that is long enough, ConfigError for settings that cannot take effect.
    """

    def __init__(self, config: DataConfig, seed: int, corpora: list[Corpus] | None = None) -> None:
        """corpora: open or in-memory corpora that replace those of the config, in its order."""
        self.config = config
        self.seed = seed
        opened = config.open() if corpora is None else corpora
        if len(opened) != len(config.corpora):
            raise ConfigError(f"data.corpora: {len(config.corpora)} configured, {len(opened)} given.")
        self.corpora: tuple[Corpus, ...] = tuple(opened)
        self.selections: tuple[Selection, ...] = config.select(opened)
        if config.with_times:
            _require_times(self.corpora)
        for corpus in opened:
            refuse_unseen(corpus)
        self._items = config.choose_items(opened)
        self._counts: list[dict[str, int]] = []
        reserved = [config.cuts.reserved(corpus) for corpus in opened]
        selected = [self._trainable(*triple) for triple in zip(opened, reserved, self._items, strict=True)]
        if config.max_train_series is not None:
            selected = _subset(selected, config.max_train_series, seed)
        pools = [
            Pool(corpus, selection, series, spec.weight, after if isinstance(after, int) else compact(after[series]))
            for corpus, selection, series, spec, after in zip(
                opened, self.selections, selected, config.corpora, reserved, strict=True
            )
        ]
        self._pools = pools
        self._plan = SamplingPlan(
            [pool.lengths for pool in pools],
            [pool.weight for pool in pools],
            seed=seed,
            reserved=all_reserved(pools),
            min_context=config.resolved_min_context,
            min_prediction_length=config.resolved_min_prediction_length,
            stride=config.resolved_stride,
            epoch=config.sampling == "epoch",
            by_length=config.series_weighting == "length",
        )
        how = {"context_length": config.context_length, "prediction_length": config.prediction_length}
        self._how = {**how, "with_times": bool(config.with_times)}
        self.reader: SequentialReader | None = None
        if config.reader == "sequential":
            buffer = config.read_buffer_mb or BUFFER_MB
            self.reader = SequentialReader(pools, self._plan, seed=seed, buffer_mb=buffer, **self._how)

    @functools.cached_property
    def _gather(self) -> Gather:
        """Reads windows from the memory maps."""
        return Gather(self._pools, self._plan.lengths, reserved=self._plan.reserved, **self._how)

    def _trainable(self, corpus: Corpus, reserved: int | IntArray, items: ChosenItems) -> Counts:
        """Return the series of a corpus that the run uses, not held out and long enough for a training window.

        What lies after a date decides nothing: of series that dates cut, only the rows before count.
        """
        config = self.config
        lengths = corpus.lengths if isinstance(reserved, int) else corpus.lengths - reserved
        long_enough = (lengths >= rows_needed(config)) & (lengths >= (config.min_rows or 0))
        by_hash = held_out(corpus, config.holdout_fraction)
        out = by_hash if items.used is None else by_hash | ~items.used
        series = compact(np.flatnonzero(long_enough & ~out))
        by_name = items.counts()
        self._counts.append(
            {
                "series": len(lengths),
                "held_out": int(out.sum()) - sum(by_name.values()),  # by hash alone
                "too_short": int((~long_enough & ~out).sum()),
                **by_name,
            }
            | ({} if isinstance(reserved, int) else {"start_after": int(((lengths == 0) & ~out).sum())})
        )
        if not len(series):
            raise no_window(
                corpus.name, config, lengths[~out], by_hash=int(out.sum()) - sum(by_name.values()), **by_name
            )
        return series

    def windows(self, first: int, count: int) -> Windows:
        """Return windows first .. first + count - 1 of the run, (R, C) and (R, H) float32.

        Steps outside a series' training part are NaN. The key is a hash of the corpus' fingerprint, the series' number
        and the cutoff (cheaper than splits.cut's hash of the item's id, and as independent of batch and order).
        """
        if self.reader is not None:
            return self.reader.windows(first, count)
        return self._gather(*self._plan.draw(first, count))

    def widest_windows(self, count: int) -> Windows:
        """Return the newest window of the first series with the most columns, `count` times, to learn what it takes."""
        rows = [len(pool.selection.columns) for pool in self._pools]
        slot = sum(len(pool.series) for pool in self._pools[: int(np.argmax(rows))])
        slots = np.full(count, slot, np.int64)
        return self._gather(slots, self._plan.newest(slots))

    def in_buckets(
        self,
        lengths: Sequence[int],
        horizons: Sequence[int],
        max_tokens: int,
        *,
        max_windows: int | None = None,
        draw_horizons: bool = False,
    ) -> Buckets:
        """Return the same windows, each once an epoch, in micro-batches of one shape each; see buckets.py.

        Raises ConfigError unless data.sampling is epoch, and those of Buckets.
        """
        config = self.config
        if config.sampling != "epoch":
            raise ConfigError(
                "training.token_budget: buckets are filled with the windows of an epoch, and data.sampling is "
                f"{config.sampling!r}. Set data.sampling: epoch, or remove the budget."
            )
        if self.reader is not None:
            raise ConfigError(
                "training.token_budget: a bucket takes its windows from all shards, so data.reader: sequential cannot "
                "read them. Set data.reader: mapped (data.stage_to helps with a network file system), or remove the "
                "budget."
            )
        edges, notes = [], []
        for key, full, given in (
            ("context_length", config.context_length, lengths),
            ("prediction_length", config.prediction_length, horizons),
        ):
            chosen, dropped = choices(full, given)
            edges.append(chosen)
            if dropped:
                notes.append(f"buckets longer than data.{key} {full} dropped: {', '.join(map(str, dropped))}")
            if full not in given:
                notes.append(f"bucket {full} added, data.{key}")
        return Buckets(
            self._plan,
            self._gather,
            self._pools,
            seed=self.seed,
            lengths=edges[0],
            horizons=edges[1],
            max_tokens=max_tokens,
            fingerprint=self.fingerprint,
            max_windows=max_windows,
            draw_horizons=draw_horizons,
            notes=notes,
        )

    @property
    def epoch_length(self) -> int:
        """Number of windows in an epoch: all windows of all training series, stride apart."""
        return self._plan.epoch_length

    @property
    def num_series(self) -> int:
        """Number of series trained on."""
        return sum(len(pool.series) for pool in self._pools)

    @property
    def fingerprint(self) -> str:
        """Hash of the content of all corpora, in order, of which of their items are used, if not all are, and of the
        pieces that a sequential reader reads."""
        parts = [corpus.fingerprint for corpus in self.corpora]
        if any(items.used is not None for items in self._items):
            parts += ["items", *(items.fingerprint for items in self._items)]
        if self.reader is not None:
            parts += ["pieces", self.reader.fingerprint]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def rows_per_window(self) -> int:
        """Rows of a window of the first corpus."""
        return len(self._pools[0].selection.columns)

    def lines(self) -> list[str]:
        """Return lines on the data, for dry runs."""
        facts = self.describe()
        return [
            f"data: {facts['series']:,} series, {facts['windows_per_epoch']:,} windows an epoch",
            *(
                f"  {c['name']}: {c['used']:,} of {c['series']:,} series ({c['provenance']}; {c['held_out']:,} held "
                f"out, {c['too_short']:,} too short{_by_name(c)})"
                + (f", share {c['share']:.1%}" if c["share"] is not None else "")
                for c in facts["corpora"]
            ),
            *(f"  {line}" for line in self._part_lines()),
            *self.reading(),
        ]

    def reading(self) -> list[str]:
        """Return the line on how shards are read; none if they are mapped."""
        return [] if self.reader is None else self.reader.describe()

    def _part_lines(self) -> list[str]:
        """Return lines on the dates that cut the corpora; none if steps do."""
        cuts, config = self.config.cuts, self.config
        if not isinstance(cuts, DateCuts):
            return []
        lengths = config.resolved_min_context, config.prediction_length
        pairs = zip(self.corpora, self._items, strict=True)
        return [line for corpus, items in pairs for line in part_lines(corpus, cuts, *lengths, items.used)]

    @property
    def series_counts(self) -> dict[str, int]:
        """How many series are trained on, and how many are too short for it."""
        return {"series": self.num_series, "short_series": sum(counts["too_short"] for counts in self._counts)}

    def left_out(self) -> list[str]:
        """Return a line for each corpus of which series are not trained on: how many, and why."""
        needed, lines = max(rows_needed(self.config), self.config.min_rows or 0), list[str]()
        cuts = self.config.cuts
        before = f" before {cuts.end_of_training}" if isinstance(cuts, DateCuts) else ""
        for pool, counts in zip(self._pools, self._counts, strict=True):
            short, held, late = counts["too_short"], counts["held_out"], counts.get("start_after", 0)
            named, others = counts.get("held_out_by_name", 0), counts.get("not_among_items", 0)
            missing = counts["series"] - len(pool.series)
            reasons = (
                (late, f"without a row{before}"),
                (short - late, f"too short (fewer than {needed:,} rows{before})"),
                (held, "held out (data.holdout_fraction)"),
                (named, "held out (data.holdout_items)"),
                (others, "not among data.items"),
                (missing - short - held - named - others, "beyond data.max_train_series"),
            )
            if missing:
                why = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
                of = f"{missing:,} of {counts['series']:,} series"
                lines.append(f"{pool.corpus.name}: {of} are not trained on: {why}")
        return [*lines, *self._part_lines()]

    def validation_data(self) -> tuple[DataConfig, Sequence[Corpus], Sequence[Selection]]:
        """Return what validation scores: the section `data`, corpora and columns."""
        return self.config, self.corpora, self.selections

    def records(self) -> list[dict[str, Any]]:
        """Return entries of the `corpora` of release.json that stand beside those of the stored corpora: none."""
        return []

    def part_records(self) -> list[dict[str, Any]]:
        """Return what the entry of each stored corpus in release.json says of its items, nothing if all are used, and
        of its parts, nothing if steps cut them."""
        cuts, config = self.config.cuts, self.config
        found = [items.rule.record() for items in self._items]
        if not isinstance(cuts, DateCuts):
            return found
        lengths = config.resolved_min_context, config.prediction_length
        for record, pool, items, counts in zip(found, self._pools, self._items, self._trained_counts(), strict=True):
            parts = part_counts(pool.corpus, cuts, *lengths, items.used)
            record["parts"] = {"train": {"series": len(pool.series), **counts}, **parts}
        return found

    def _trained_counts(self) -> list[dict[str, int]]:
        """Return why series of each corpus are not trained on."""
        return [
            {
                "start_after_it": counts.get("start_after", 0),
                "too_short": counts["too_short"] - counts.get("start_after", 0),
                "held_out": counts["held_out"],
                **{key: counts[key] for key in ("held_out_by_name", "not_among_items") if key in counts},
            }
            for counts in self._counts
        ]

    def describe(self) -> dict[str, Any]:
        """Return counts of series used and excluded, windows, and each corpus' share, for dry runs and reports."""
        total = sum(pool.weight for pool in self._pools)
        return {
            "series": self.num_series,
            "windows_per_epoch": self.epoch_length,
            "fingerprint": self.fingerprint,
            "corpora": [
                {
                    "name": pool.corpus.name,
                    "path": None if pool.corpus.path is None else str(pool.corpus.path),
                    "provenance": pool.corpus.manifest.provenance["kind"],
                    "fingerprint": pool.corpus.fingerprint,
                    **counts,
                    "used": len(pool.series),
                    "rows_per_window": len(pool.selection.columns),
                    # an epoch has every window once, so weights have no effect
                    "share": pool.weight / total if self.config.sampling == "random" else None,
                }
                for pool, counts in zip(self._pools, self._counts, strict=True)
            ],
        }


def _by_name(counts: dict[str, int]) -> str:
    """Return how many series are left out by name; "" where none can be."""
    if "held_out_by_name" not in counts:
        return ""
    held, others = counts["held_out_by_name"], counts["not_among_items"]
    return f", {held:,} held out by name, {others:,} not among data.items"


def _require_times(corpora: tuple[Corpus, ...]) -> None:
    for corpus in corpora:
        if corpus.manifest.time == "steps":
            raise ConfigError(f"data.with_times: {corpus.name} has steps without a calendar. Set it to false.")


def _subset(selected: list[Counts], limit: int, seed: int) -> list[Counts]:
    """Return at most `limit` series, in proportion to each corpus' number (at least one), chosen by a keyed hash."""
    sizes = np.array([len(series) for series in selected])
    if limit >= sizes.sum():
        return selected
    if limit < len(selected):
        raise ConfigError(f"data.max_train_series: {limit} is fewer than the {len(selected)} corpora. Raise it.")
    shares = np.minimum(np.maximum(1, (limit * sizes) // sizes.sum()), sizes)
    while shares.sum() < limit:
        shares[np.argmax(limit * sizes / sizes.sum() - shares)] += 1
    while shares.sum() > limit:
        shares[np.argmax(shares)] -= 1
    result = []
    for k, (series, share) in enumerate(zip(selected, shares, strict=True)):
        order = np.argsort(hash64(derive(seed, 5, k), series), kind="stable")
        result.append(np.sort(series[order[:share]]))
    return result
