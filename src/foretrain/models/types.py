"""The records that a model family exchanges with the rest of the package; base.py is the contract that uses them.

# R rows, H horizon, Q levels, S sample paths
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.notes import Tally

Batch = dict[str, Tensor]  # returned by collate: flat and of tensors only, so that any batch can be moved or saved


class Loss(NamedTuple):
    """A rank's SUM of losses and its weight, such as the number of summed elements; only the trainer divides."""

    total: Tensor  # scalar, differentiable
    weight: Tensor  # scalar, no gradient; 0 for an empty micro-batch


class PredictedDistribution(Protocol):
    """Distributions of a prediction's values in scaled space, of which a loss takes what it needs, with gradients."""

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return quantiles (..., Q)."""
        ...

    def crps(self) -> Tensor:
        """Return the continuous ranked probability score (...) of the targets; arbitrary where not observed."""
        ...


@dataclass(frozen=True)
class TrainingPrediction:
    """A model's predictions of the values it is trained on, with gradients, in its scaled space.

    value = scaled * scale + loc. The shape (...) is that of target, a family's choice of (rows, steps); the other
    tensors broadcast to it.
    """

    target: Tensor  # (...) scaled; arbitrary where not observed
    observed: Tensor  # (...) bool, True = counts
    point: Tensor  # (...) scaled: the mean of a distribution, the median of quantiles
    loc: Tensor  # (...) in the units of the data
    scale: Tensor  # (...) > 0, in the units of the data
    last: Tensor  # (...) newest value observed before the forecast starts, in the units of the data; NaN if none
    sigma: Tensor | None = None  # (...) scaled standard deviation, if the family predicts a distribution
    quantiles: Tensor | None = None  # (..., Q) scaled, if the family predicts quantiles
    levels: tuple[float, ...] = ()  # (Q,) levels of the quantiles
    distribution: PredictedDistribution | None = None  # if the family predicts one with quantiles at any level


class WindowSource(Protocol):
    """The windows of a run: unit n, a window or a micro-batch, is a pure function of (seed, n)."""

    def windows(self, first: int, count: int) -> Windows:
        """Return the windows of units [first, first + count)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of the way in which windows are sampled."""
        ...

    @property
    def epoch_length(self) -> int:
        """Number of units in one pass over the data."""
        ...


class PredictionLoss(Protocol):
    """A loss of predictions that replaces a family's own; objective.py implements it."""

    @property
    def units(self) -> dict[str, str]:
        """Keys of metrics() with descriptions of their units."""
        ...

    def __call__(self, predicted: TrainingPrediction) -> Loss:
        """Return the sum over the elements that count, and their number."""
        ...

    def metrics(self, predicted: TrainingPrediction) -> dict[str, Loss]:
        """Return the validation metrics of predictions by name; "loss" is one of them."""
        ...


@dataclass(frozen=True)
class ParameterRole:
    """Facts that the optimizer needs about a parameter: role decides weight decay, lr_factor scales its rate."""

    role: Literal["matrix", "embedding", "head", "vector"]
    lr_factor: float = 1.0


class AttachedAdapter(Protocol):
    """The low-rank adapter of a model, as far as the model needs to know it."""

    @property
    def name(self) -> str:
        """Name of the adapter's folder in a run's adapters/."""
        ...

    @property
    def portable(self) -> bool:
        """True if the base release and the trained parameters together define the model."""
        ...

    def parameter_groups(self, trained: Iterable[str]) -> dict[str, ParameterRole]:
        """Return the roles of the trainable parameters, by their names in the wrapped layers."""
        ...


@dataclass(frozen=True)
class ForecastOptions:
    """Base of a family's forecast options: a frozen dataclass whose fields all have defaults."""

    @property
    def mixes_items(self) -> bool:
        """True if items of a batch inform each other, so that a forecast depends on the batch."""
        return False


@dataclass(frozen=True)
class NoOptions(ForecastOptions):
    """Forecast options of a family that has none."""


@dataclass(frozen=True)
class Forecast:
    """Forecasts of a batch, in the units of the data."""

    quantiles: Tensor  # (R_targets, H, Q) target rows only, in the batch's order; not sorted
    levels: tuple[float, ...]  # (Q,)
    samples: Tensor | None = None  # (R_targets, S, H) sample paths, for families that draw them
    mean: Tensor | None = None  # (R_targets, H) of the sample paths
    notes: tuple[Tally, ...] = ()  # counts to report to the user, such as repaired candles


class Embedding(NamedTuple):
    """Hidden states of target rows, and the loc and scale that their inputs were normalised by."""

    hidden: Tensor  # (R_targets, tokens, width)
    loc: Tensor  # (R_targets, 1) in the units of the data
    scale: Tensor  # (R_targets, 1) in the units of the data


class Columns(NamedTuple):
    """Default columns of a family, used if the config names none."""

    targets: tuple[str, ...]  # to train on and forecast
    scored: tuple[str, ...]  # those of the targets that an evaluation scores; there the others are past covariates
