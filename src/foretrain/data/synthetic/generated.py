"""Training windows that are generated: micro-batch m of a run is a pure function of (settings, seed, m).

# N windows of a micro-batch, V rows of a window, T = C + H steps, C context steps, H horizon steps

Every micro-batch has a random generator of its own, seeded by (seed, m). It draws a width of contexts, a layout of rows
and a horizon by their shares, then series, augmentations, missing values and, for each window, how much of the width
its context fills. So the number of processes, of workers, and interruptions cannot change what is trained on.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.config import DataConfig
from foretrain.data.market.subsets import refuse_unseen
from foretrain.data.parts import DateCuts, clock_of
from foretrain.data.permutation import derive, hash64
from foretrain.data.source import TrainingSource
from foretrain.data.splits import Selection, select
from foretrain.data.store import Corpus
from foretrain.data.synthetic.augment import augment, leave_gaps
from foretrain.data.synthetic.base import Floats, chance, pick_by, provenance, whole_between
from foretrain.data.synthetic.contamination import Benchmark
from foretrain.data.synthetic.mixture import draw_series, remove_values
from foretrain.data.synthetic.stored import StoredPool
from foretrain.data.synthetic.stream import GenerationConfig, Width
from foretrain.data.windows import KNOWN, PAST, TARGET, Windows

_STREAM, _STORED, _VALIDATION = 11, 12, 13  # streams of random numbers; buckets.py and those it names use 1 to 8
_LENGTHS = (16, 64)  # lengths of series are multiples of these, up to 128 steps and beyond: few kernels are factored
_TOGETHER = 4  # windows of validation that share a shape
_VERSION = 1  # of the way in which micro-batches are drawn


class Shape(NamedTuple):
    """The shape of a micro-batch."""

    context: int
    horizon: int
    layout: int  # place in the layouts


class GeneratedStream:
    """The micro-batches of a run on generated series, by number: a training source whose unit is the micro-batch."""

    epoch_length = 0  # there is no end

    def __init__(self, config: DataConfig, seed: int) -> None:
        """Raises DataError or ConfigError for corpora that cannot be used."""
        assert config.generated is not None
        self.config, self.settings, self.seed = config, config.generated, seed
        self._widths = self.settings.widths(config.context_length)
        self._horizons = self.settings.resolved_horizons(config.prediction_length)
        self._benchmark = Benchmark.read(self.settings.exclude)
        self.corpora = tuple(Corpus.open(entry.path, staged=config.stage_to) for entry in self.settings.corpora)
        for corpus in self.corpora:
            refuse_unseen(corpus)
        self.items = config.choose_items(self.corpora) if self.corpora else []
        self.pools = self._pools()

    def __reduce__(self) -> tuple[Any, ...]:
        return GeneratedStream, (self.config, self.seed)  # a worker opens the corpora itself

    def _pools(self) -> list[StoredPool]:
        single = [shape for shape in self._shapes() if self.settings.layouts[shape.layout].rows == 1]
        weights = sum(g.weight for g in self.settings.generators) + sum(c.weight for c in self.settings.corpora)
        return [
            StoredPool(
                spec,
                corpus,
                self._benchmark,
                key=derive(self.seed, _STORED, k),
                share=spec.weight / weights,
                most_windows=max(self.size(shape) for shape in single),
                reserved=self.config.cuts.reserved(corpus),
                holdout_fraction=self.config.holdout_fraction,
                used=items.used,
                horizon=min(self._horizons),
            )
            for k, (spec, corpus, items) in enumerate(zip(self.settings.corpora, self.corpora, self.items, strict=True))
        ]

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that determine the series, and of the stored ones."""
        settings = self.settings.model_dump(mode="json", exclude={"workers", "exclude", "validation_windows"})
        for entry, corpus in zip(settings["corpora"], self.corpora, strict=True):
            entry["path"] = corpus.fingerprint
        lengths = [self.config.context_length, self.config.prediction_length]
        kept_out = hashlib.sha256(self._benchmark.hashes.tobytes()).hexdigest()
        items = [[one.fingerprint for one in self.items]] if any(one.used is not None for one in self.items) else []
        text = json.dumps([_VERSION, self.seed, lengths, settings, kept_out, *items], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def per_step(self) -> int | None:
        """Number of micro-batches of a step, over all processes."""
        return self.settings.micro_batches_per_step

    @property
    def workers(self) -> int:
        """Number of processes per rank that draw ahead."""
        return self.settings.workers

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Every shape of a micro-batch, as padding_batch takes them."""
        return [tuple(shape) for shape in self._shapes()]

    def _shapes(self) -> list[Shape]:
        layouts, widths = range(len(self.settings.layouts)), dict.fromkeys(entry.width for entry in self._widths)
        return [Shape(width, h, k) for width in widths for h in sorted(self._horizons) for k in layouts]

    def size(self, shape: Shape) -> int:
        """Return the number of windows of a micro-batch."""
        steps = (shape.context + shape.horizon) * self.settings.layouts[shape.layout].rows
        return min(self.settings.max_windows, self.settings.max_tokens // steps)

    def windows(self, first: int, count: int = 1) -> Windows:
        """Return the windows of micro-batch `first` of the run; count must be 1, since shapes differ."""
        assert first >= 0 and count == 1, (first, count)
        rng, width, shape = self._opened(first)
        return self._drawn(rng, width, shape, first)

    def padding_batch(self, context: int, horizon: int, layout: int) -> Windows:
        """Return a micro-batch of a shape that is made of padding windows only."""
        shape = Shape(context, horizon, layout)
        count = self.size(shape)
        values = np.full((count, self.settings.layouts[layout].rows, context + horizon), np.nan, np.float32)
        return self._stacked(values, shape, np.zeros(count, np.uint64), None, padding=count)

    def longest(self, number: int) -> Windows:
        """Return micro-batch `number` with the longest horizon instead of the one that it drew."""
        rng, width, shape = self._opened(number)
        return self._drawn(rng, width, shape._replace(horizon=max(self._horizons)), number)

    def _opened(self, number: int) -> tuple[np.random.Generator, Width, Shape]:
        """Return the random generator of a micro-batch, of which its shape is drawn."""
        rng = np.random.Generator(np.random.PCG64DXSM(derive(self.seed, _STREAM, number)))
        width = self._widths[int(pick_by(rng, [entry.share for entry in self._widths]))]
        horizon = list(self._horizons)[int(pick_by(rng, list(self._horizons.values())))]
        layout = int(pick_by(rng, [entry.share for entry in self.settings.layouts]))
        return rng, width, Shape(width.width, horizon, layout)

    def _drawn(self, rng: np.random.Generator, width: Width, shape: Shape, number: int) -> Windows:
        """Return the windows of a micro-batch: series, changed, with missing values and contexts of their lengths."""
        settings, layout = self.settings, self.settings.layouts[shape.layout]
        values = augment(settings.augment, rng, self._series(rng, shape, number))
        with np.errstate(over="ignore"):
            found = values.astype(np.float32)
        found[~np.isfinite(found)] = np.nan
        complete = found.copy()
        leave_gaps(settings.augment.gaps, rng, found)
        remove_values(settings, rng, found.reshape(-1, found.shape[-1]))
        steps = whole_between(rng, (width.low + 1, width.width), len(found))
        found[np.arange(found.shape[-1]) < (shape.context - steps)[:, None, None].repeat(layout.rows, 1)] = np.nan
        _give_back(found, complete, shape.context)
        key = hash64(derive(self.seed, _STREAM, number), np.arange(len(found)))
        source = np.stack(np.broadcast_arrays(-1, number, np.arange(len(found))), axis=1).astype(np.int64)
        return self._stacked(found, shape, key, source)

    def _series(self, rng: np.random.Generator, shape: Shape, number: int) -> Floats:
        """Return (N, V, T) series, stored ones last, with the stride of the micro-batch taken."""
        settings, layout = self.settings, self.settings.layouts[shape.layout]
        count, steps = self.size(shape), shape.context + shape.horizon
        stride = settings.augment.stride
        factor = int(whole_between(rng, stride.factor)) if stride.share else 1
        stored = list[Floats]()
        if layout.rows == 1:
            for pool in self.pools:
                room = min(pool.count(rng, count), count - len(stored))
                strides = np.where(chance(rng, stride.share, room), factor, 1)
                for window in pool.draw(rng, number, strides, shape.context, shape.horizon):
                    stored.append(window[None].astype(np.float64))
        new = count - len(stored)
        strided = chance(rng, stride.share, new)
        out = np.empty((count, layout.rows, steps))
        for chosen, every in ((np.flatnonzero(~strided), 1), (np.flatnonzero(strided), factor)):
            if chosen.size:
                multiple = _LENGTHS[steps * every > 128]
                length = -(-steps * every // multiple) * multiple
                out[chosen] = self._generated(rng, shape, len(chosen), length)[:, :, -steps * every :][:, :, ::every]
        if stored:
            out[new:] = np.stack(stored)
        return out

    def _generated(self, rng: np.random.Generator, shape: Shape, count: int, length: int) -> Floats:
        """Return (count, V, length) series of the generators."""
        layout = self.settings.layouts[shape.layout]
        if layout.rows == 1:
            return self._base(rng, count, length)[:, None]
        roles = layout.targets, layout.past, layout.known
        found = self.settings.multivariate.draw(rng, count, length, *roles, self._base)
        assert found.shape == (count, layout.rows, length), found.shape
        return found

    def _base(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        return draw_series(self.settings, rng, count, length)[0].astype(np.float64)

    def _stacked(
        self, values: np.ndarray, shape: Shape, key: np.ndarray, source: np.ndarray | None, padding: int = 0
    ) -> Windows:
        count, rows = values.shape[:2]
        role = np.tile(self.settings.layouts[shape.layout].roles, count)
        flat = values.reshape(count * rows, -1)
        future = flat[:, shape.context :].copy()
        future[role == PAST] = np.nan
        return Windows(
            context=np.ascontiguousarray(flat[:, : shape.context]),
            future=future,
            window=np.repeat(np.arange(count), rows),
            role=role,
            key=key,
            source=np.full((count, 3), -1, np.int64) if source is None else source,
            num_padding_windows=padding,
            static_shapes=True,
        )

    def part_lines(self) -> list[str]:
        """Return a line for each stored corpus on the date that cuts it; none if steps do."""
        cuts = self.config.cuts
        if not isinstance(cuts, DateCuts):
            return []
        return [
            f"{pool.corpus.name}: only what lies before {cuts.end_of_training} is used, by {clock_of(pool.corpus)}"
            for pool in self.pools
        ]

    def describe(self) -> list[str]:
        """Return lines on the shares, the shapes and the series."""
        settings, shapes = self.settings, self._shapes()
        total = sum(g.weight for g in settings.generators) + sum(c.weight for c in settings.corpora)
        kinds = ", ".join(f"{g.kind} {g.weight / total:.1%}" for g in settings.generators)
        lines = [
            f"generated: {kinds}",
            *(
                f"  {pool.corpus.name}: {pool.share:.1%}, {pool.num_series:,} series"
                + ("" if pool.spec.cap is None else f", at most {pool.spec.cap:,} windows of each")
                for pool in self.pools
            ),
            *(f"  {line}" for line in self.part_lines()),
            *([f"  kept out: {len(self._benchmark.hashes):,} runs"] if settings.exclude else []),
            f"  missing values in {settings.missing:.0%}; augmented: {settings.augment.describe() or 'none'}",
        ]
        shares = sum(self._horizons.values())
        lines.append("  horizons " + ", ".join(f"{h} {s / shares:.0%}" for h, s in sorted(self._horizons.items())))
        contexts = settings.resolved_contexts(self.config.context_length)
        shares = sum(entry.share for entry in contexts)
        ranges = (f"{entry.shortest:,} to {entry.longest:,} {entry.share / shares:.0%}" for entry in contexts)
        lines.append(f"  contexts {', '.join(ranges)}, in {len(self._widths)} widths")
        shares = sum(entry.share for entry in settings.layouts)
        for k, layout in enumerate(settings.layouts):
            of = [self.size(shape) for shape in shapes if shape.layout == k]
            lines.append(
                f"  {layout.targets} + {layout.past} + {layout.known} rows (targets, past, known) in "
                f"{layout.share / shares:.0%} of the micro-batches, {min(of):,} to {max(of):,} windows each"
            )
        return lines


class GeneratedSource:
    """The source of a run on generated series, in the place of a TrainingSource."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.stream = GeneratedStream(config, seed)
        assert config.generated is not None
        self.settings: GenerationConfig = config.generated
        self.corpora = self.stream.corpora
        self.selections = tuple(Selection(select(corpus).targets) for corpus in self.corpora)
        self.num_series = None  # without end
        self.epoch_length = 0

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that determine the series, and of the stored ones."""
        return self.stream.fingerprint

    @property
    def rows_per_window(self) -> int:
        """Rows of the largest layout."""
        return max(layout.rows for layout in self.settings.layouts)

    def windows(self, first: int, count: int) -> Windows:
        """Return up to `count` windows of micro-batch `first`: a sample to look at before the first step."""
        found = self.stream.windows(first)
        return found if len(found) <= count else _first(found, count)

    def reading(self) -> list[str]:
        """Return no line: no shards are read in an order of their own."""
        return []

    def lines(self) -> list[str]:
        """Return a line on the data, for dry runs; those on the shares are the stream's."""
        workers = self.settings.workers
        by = f"by {workers} process{'es' * (workers > 1)} per rank" if workers else "by the training process"
        return [f"data: series are generated while the model is trained, without end, {by}"]

    def left_out(self) -> list[str]:
        """Return lines on the dates that cut stored series; series that are generated are all trained on."""
        return self.stream.part_lines()

    def validation_data(self) -> tuple[DataConfig, list[Corpus], list[Selection]]:
        """Return windows of another stream as corpora, one a layout, with the section that has all of them scored."""
        few = {"corpora": (), "exclude": (), "max_windows": _TOGETHER}
        every = {"items": None, "holdout_items": None}  # what is generated has no names
        config = self.config.model_copy(update={"generated": self.settings.model_copy(update=few), **every})
        held, layouts = GeneratedStream(config, derive(self.seed, _VALIDATION)), self.settings.layouts
        items: list[list[tuple[str, np.ndarray, None]]] = [[] for _ in layouts]
        number = 0
        while sum(map(len, items)) < self.settings.validation_windows:
            found = held.longest(number)
            rows = int(np.searchsorted(found.window, 1))
            k = next(k for k, layout in enumerate(layouts) if np.array_equal(layout.roles, found.role[:rows]))
            whole = np.concatenate([found.context, found.future], axis=1).reshape(len(found), rows, -1)
            for values in whole[: self.settings.validation_windows - sum(map(len, items))]:
                start = int((~np.isnan(values)).any(axis=0).argmax())
                items[k].append((f"{number}-{len(items[k])}", values[:, start:], None))
            number += 1
        corpora, selections = list[Corpus](), list[Selection]()
        for k, (layout, found) in enumerate(zip(layouts, items, strict=True)):
            if found:
                names = [f"row_{row}" for row in range(layout.rows)]
                corpora.append(Corpus.from_arrays(f"generated-{k}", found, names, provenance=provenance()))
                targets, past, known = (
                    tuple(np.flatnonzero(layout.roles == role).tolist()) for role in (TARGET, PAST, KNOWN)
                )
                selections.append(Selection(targets, past, known))
        lengths = {"validation_steps": self.config.prediction_length, "test_steps": 0, "min_context": 1}
        lengths |= {"validation_from": None, "test_from": None, "embargo": None}  # these series have no calendar
        lengths |= every
        return self.config.model_copy(update=lengths), corpora, selections

    def part_records(self) -> list[dict[str, Any]]:
        """Return what the entry of each stored corpus in release.json says of its items: nothing if all are used."""
        return [items.rule.record() for items in self.stream.items]

    def records(self) -> list[dict[str, Any]]:
        """Return the entry of the generated series in the `corpora` of release.json."""
        facts = {"fingerprint": self.fingerprint, "provenance": "synthetic", "generated": True, "date_range": None}
        return [{"name": f"generated series ({', '.join(g.kind for g in self.settings.generators)})", **facts}]


AnySource = TrainingSource | GeneratedSource


def _give_back(found: np.ndarray, complete: np.ndarray, context: int) -> None:
    """Give contexts (N, V, C) without any value, which teach nothing, their newest one back, in place.

    Rows that had none, of stored series with missing values, lose their labels: there is nothing to scale those by.
    """
    empty = np.nonzero(np.isnan(found[:, :, :context]).all(axis=-1))
    seen = ~np.isnan(complete[*empty][:, :context])
    newest = context - 1 - seen[:, ::-1].argmax(axis=-1)
    found[*empty, newest] = complete[*empty, newest]
    without = ~seen.any(axis=-1)
    found[empty[0][without], empty[1][without]] = np.nan


def _first(windows: Windows, count: int) -> Windows:
    """Return the first windows of a batch."""
    rows = int(np.searchsorted(windows.window, count))
    assert windows.source is not None
    return Windows(
        context=windows.context[:rows],
        future=windows.future[:rows],
        window=windows.window[:rows],
        role=windows.role[:rows],
        key=windows.key[:count],
        source=windows.source[:count],
        static_shapes=True,
    )
