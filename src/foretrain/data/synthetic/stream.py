"""The section `data.generated`: series that are drawn while a model is trained on them."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from foretrain.config import FREE, FieldRule, Section
from foretrain.data.synthetic.augment import ONE_ROW, Augment
from foretrain.data.synthetic.mixture import MAX_LENGTH, Blend, Layout
from foretrain.data.synthetic.multivariate import Multivariate

_DATA = FieldRule(identity=False, on_resume="fingerprint", fingerprint="data")
MIN_CONTEXT = 8  # steps of a context
_WIDTHS = 4  # most widths that a share of contexts is divided into

Weight = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Contexts(Section):
    """Context lengths of a share of the micro-batches, uniform between two ends, both included.

    The widths of micro-batches divide the range into up to four, at multiples of `data.generated.patch`; shorter
    contexts of a micro-batch are padded on the left.
    """

    shortest: int = Field(ge=MIN_CONTEXT)
    longest: int = Field(ge=MIN_CONTEXT, le=MAX_LENGTH)
    share: Weight = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Contexts:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} exceeds longest {self.longest}")
        return self


class Horizons(Section):
    """The horizon of a share of the micro-batches; their labels end with it."""

    steps: int = Field(ge=1, le=MAX_LENGTH)
    share: Weight = 1.0


class Rows(Layout):
    """The rows of a window in a share of the micro-batches."""

    share: Weight = 1.0


class StoredSeries(Section):
    """Series of a corpus beside the generators, in windows of one row: each numeric column of an item is a series.

    Attributes:
        path: of the corpus.
        weight: share of the windows, on the scale of the generators' weights.
        cap: at most this many windows of a series in the whole run; then generated ones take their place.
    """

    path: Annotated[str, _DATA]
    weight: Weight = 1.0
    cap: int | None = Field(default=None, ge=1)


class Width(NamedTuple):
    """The width of a micro-batch: contexts of low < steps <= width."""

    low: int
    width: int
    share: float


class GenerationConfig(Blend):
    """Micro-batches of series that are drawn by the generators, each a pure function of (settings, seed, number).

    Attributes:
        contexts: by share of micro-batches; None = the shares 10, 20, 35 and 35 % of 8 to 32, 33 to 96, 97 to 256 and
            257 to 512 steps, as far as data.context_length goes.
        horizons: by share of micro-batches; None = data.prediction_length.
        layouts: rows of a window, by share of micro-batches.
        multivariate: how the rows of windows of several depend on one another.
        patch: widths of contexts are multiples of it, but for the longest.
        max_tokens: most (context + horizon) steps x rows of a micro-batch.
        max_windows: most windows of a micro-batch.
        micro_batches_per_step: over all processes.
        corpora: stored series beside the generators.
        exclude: corpora, or files of hashes, of whose series no window of `corpora` may hold a run of 32 values.
        augment: further series made of those drawn.
        validation_windows: of another stream of series, for training.validate_every.
        workers: processes per rank that draw ahead of the training; 0 = the training process draws.
    """

    contexts: tuple[Contexts, ...] | None = Field(default=None, min_length=1)
    horizons: tuple[Horizons, ...] | None = Field(default=None, min_length=1)
    layouts: tuple[Rows, ...] = Field(default=(Rows(),), min_length=1)
    multivariate: Multivariate = Multivariate()
    patch: int = Field(default=16, ge=1)
    max_tokens: int = Field(default=65_536, gt=0)
    max_windows: int = Field(default=256, ge=1)
    micro_batches_per_step: int = Field(default=1, ge=1)
    corpora: tuple[StoredSeries, ...] = ()
    exclude: Annotated[tuple[str, ...], _DATA] = ()
    augment: Augment = Augment()
    validation_windows: int = Field(default=256, ge=1)
    workers: Annotated[int, FREE] = Field(default=1, ge=0, le=256)

    @model_validator(mode="after")
    def _has_effect(self) -> GenerationConfig:
        if self.exclude and not self.corpora:
            raise ValueError("exclude has no effect without corpora, as generators know no benchmark; leave it out")
        if self.corpora and all(layout.rows > 1 for layout in self.layouts):
            raise ValueError(
                "corpora are used in windows of one row, and no entry of layouts has one row; add {targets: 1}"
            )
        if self.multivariate != Multivariate() and all(layout.rows == 1 for layout in self.layouts):
            raise ValueError("multivariate has no effect on windows of one row; give layouts more, or leave it out")
        alone = [name for name in ONE_ROW if getattr(self.augment, name).share]
        if alone and all(layout.rows > 1 for layout in self.layouts):
            raise ValueError(f"augment.{alone[0]} acts on windows of one row, and no entry of layouts has one row")
        return self

    def check(self, context_length: int, prediction_length: int) -> None:
        """Raise ValueError if the lengths here are not those of the run, or a window is longer than can be drawn."""
        if context_length < MIN_CONTEXT:
            raise ValueError(f"context_length {context_length}: generated contexts have {MIN_CONTEXT} steps at least")
        for key, own, run, name in (
            ("contexts", max(c.longest for c in self.resolved_contexts(context_length)), context_length, "context"),
            ("horizons", max(self.resolved_horizons(prediction_length)), prediction_length, "prediction"),
        ):
            if own != run:
                raise ValueError(f"{key}: the longest is {own} and {name}_length is {run}; make them equal")
        factor = self.augment.stride.factor[1] if self.augment.stride.share else 1
        if (context_length + prediction_length) * factor > MAX_LENGTH:
            raise ValueError(
                f"windows of {context_length} + {prediction_length} steps"
                + (f" at a stride of {factor}" if factor > 1 else "")
                + f" are longer than the {MAX_LENGTH} steps that are drawn at most; shorten them"
            )
        for width in self.widths(context_length):
            for layout in self.layouts:
                needed = (width.width + prediction_length) * layout.rows
                if needed > self.max_tokens:
                    raise ValueError(f"max_tokens {self.max_tokens} holds no window of {needed} steps x rows; raise it")

    def resolved_contexts(self, context_length: int) -> tuple[Contexts, ...]:
        """Return contexts, or their default for a run's context_length."""
        if self.contexts is not None:
            return self.contexts
        edges = ((MIN_CONTEXT, 32, 0.1), (33, 96, 0.2), (97, 256, 0.35), (257, 512, 0.35))
        kept = [edge for edge in edges if edge[0] <= context_length] or [edges[0]]
        ends = [*(high for _, high, _ in kept[:-1]), context_length]
        return tuple(
            Contexts(shortest=low, longest=high, share=share) for (low, _, share), high in zip(kept, ends, strict=True)
        )

    def resolved_horizons(self, prediction_length: int) -> dict[int, float]:
        """Return steps -> share of horizons, or of their default for a run's prediction_length."""
        found = dict[int, float]()
        for entry in self.horizons or (Horizons(steps=prediction_length),):
            found[entry.steps] = found.get(entry.steps, 0.0) + entry.share
        return found

    def widths(self, context_length: int) -> list[Width]:
        """Return the widths of micro-batches with their shares, which add up to 1."""
        contexts = self.resolved_contexts(context_length)
        total, found = sum(entry.share for entry in contexts), list[Width]()
        for entry in contexts:
            first, span = entry.shortest - 1, entry.longest - entry.shortest + 1
            inner = {-(-(first + span * k // _WIDTHS) // self.patch) * self.patch for k in range(1, _WIDTHS)}
            ends = sorted({width for width in inner if first < width < entry.longest} | {entry.longest})
            found += [Width(a, b, entry.share / total * (b - a) / span) for a, b in pairwise([first, *ends])]
        return found
