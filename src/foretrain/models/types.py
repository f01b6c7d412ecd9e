"""The records that a model family exchanges with everything else; base.py is the contract in which they occur.

# R rows, H horizon, Q levels, S sample paths
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.notes import Tally

Batch = dict[str, Tensor]  # what collate returns: flat and of tensors only, so that any batch can be moved or saved


class Loss(NamedTuple):
    """A rank's SUM of losses and what it was summed over; the trainer divides, families never do."""

    total: Tensor  # scalar, differentiable
    weight: Tensor  # scalar, no gradient; 0 for an empty micro-batch


@dataclass(frozen=True)
class TrainingPrediction:
    """What a model says of values it is trained on, with gradients, in its scaled space: value = scaled * scale + loc.

    target decides the shape (...), which is the family's own (rows, steps); the others broadcast to it.
    """

    target: Tensor  # (...) scaled; whatever it is where not observed
    observed: Tensor  # (...) bool, True = counts
    point: Tensor  # (...) scaled: the mean of a distribution, the median of quantiles
    loc: Tensor  # (...) in the units of the data
    scale: Tensor  # (...) > 0, in the units of the data
    last: Tensor  # (...) newest value observed before the forecast begins, in the units of the data; NaN where none is
    sigma: Tensor | None = None  # (...) standard deviation, scaled, of families whose distribution has one
    quantiles: Tensor | None = None  # (..., Q) scaled, of families that have them
    levels: tuple[float, ...] = ()  # (Q,) of these


class WindowSource(Protocol):
    """The windows of a run: unit n, a window or a micro-batch, is a pure function of (seed, n)."""

    def windows(self, first: int, count: int) -> Windows:
        """The windows of units [first, first + count)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of how windows are drawn from it."""
        ...

    @property
    def epoch_length(self) -> int:
        """Units of one pass over the data."""
        ...


class PredictionLoss(Protocol):
    """A loss of predictions in place of a family's own; objective.py has them."""

    @property
    def units(self) -> dict[str, str]:
        """Keys of metrics() with their units in words."""
        ...

    def __call__(self, predicted: TrainingPrediction) -> Loss:
        """The sum over the elements that count, and how many these are."""
        ...

    def metrics(self, predicted: TrainingPrediction) -> dict[str, Loss]:
        """What validation reports of predictions, by name; "loss" is among them."""
        ...


@dataclass(frozen=True)
class ParameterRole:
    """What the optimizer needs to know of a parameter: its role rules weight decay, lr_factor scales its rate."""

    role: Literal["matrix", "embedding", "head", "vector"]
    lr_factor: float = 1.0


class AttachedAdapter(Protocol):
    """What a model knows of the low-rank adapter that was put into it."""

    @property
    def name(self) -> str:
        """Name of its folder in a run's adapters/."""
        ...

    @property
    def portable(self) -> bool:
        """Whether the base and what is trained make the model."""
        ...

    def parameter_groups(self, trained: Iterable[str]) -> dict[str, ParameterRole]:
        """Roles of the trainable parameters, whose names are those of the wrapped layers."""
        ...


@dataclass(frozen=True)
class ForecastOptions:
    """Base of a family's forecast options: a frozen dataclass whose fields all have defaults."""

    @property
    def mixes_items(self) -> bool:
        """Whether items that share a batch inform each other, so that a forecast depends on the batch."""
        return False


@dataclass(frozen=True)
class NoOptions(ForecastOptions):
    """Forecast options of a family that has none."""


@dataclass(frozen=True)
class Forecast:
    """Forecasts of a batch, in the units of the data."""

    quantiles: Tensor  # (R_targets, H, Q) rows of targets only, in the batch's order; not sorted
    levels: tuple[float, ...]  # (Q,)
    samples: Tensor | None = None  # (R_targets, S, H) sample paths, for families that draw them
    mean: Tensor | None = None  # (R_targets, H) of the sample paths
    notes: tuple[Tally, ...] = ()  # counts that a user must hear of, such as repaired candles


class Embedding(NamedTuple):
    """Hidden states of target rows and what undoes the scaling of their inputs."""

    hidden: Tensor  # (R_targets, tokens, width)
    loc: Tensor  # (R_targets, 1) in the units of the data
    scale: Tensor  # (R_targets, 1) in the units of the data


class Columns(NamedTuple):
    """Columns that a family takes where nobody chose any."""

    targets: tuple[str, ...]  # to train on and forecast
    scored: tuple[str, ...]  # of these, what an evaluation looks at; the others are past covariates there
