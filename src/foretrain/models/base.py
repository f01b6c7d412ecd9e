"""The contract between models and everything else: what the trainer, the evaluator and the forecaster may call.

# R rows, H horizon, Q levels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from foretrain.config import Section
from foretrain.data.windows import Windows
from foretrain.errors import ConfigError, DataError
from foretrain.notes import Tally

if TYPE_CHECKING:
    from foretrain.models.objective import Objective

Batch = dict[str, Tensor]  # what collate returns: flat and of tensors only, so that any batch can be moved or saved


class Loss(NamedTuple):
    """A rank's SUM of losses and what it was summed over; the trainer divides, families never do."""

    total: Tensor  # scalar, differentiable
    weight: Tensor  # scalar, no gradient; 0 for an empty micro-batch


@dataclass(frozen=True)
class Predicted:
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


@dataclass(frozen=True)
class ParameterRole:
    """What the optimizer needs to know of a parameter: its role rules weight decay, lr_factor scales its rate."""

    role: Literal["matrix", "embedding", "head", "vector"]
    lr_factor: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """Forecasts of a batch, in the units of the data."""

    quantiles: Tensor  # (R_targets, H, Q) rows of targets only, in the batch's order; not sorted
    levels: tuple[float, ...]  # (Q,)
    samples: Tensor | None = None  # (R_targets, S, H) sample paths, for families that draw them
    mean: Tensor | None = None  # (R_targets, H) of the sample paths
    notes: tuple[Tally, ...] = ()  # counts that a user must hear of, such as repaired candles


class Trainable(nn.Module, ABC):
    """Everything that the trainer knows of a model."""

    family: str  # key of the family in foretrain.models.FAMILIES
    validation_names: tuple[str, ...] = ("loss",)  # keys of validation_losses
    # what it was made from: role ("model", "tokenizer") to models.hub.release_hash of that release; build sets it
    parents: Mapping[str, str] = MappingProxyType({})
    # a loss of predictions in place of the family's own (objective.py); whoever builds a run's model sets it
    objective: Objective | None = None
    # what predict says besides a point: these quantile levels, and whether a standard deviation
    predicted_levels: tuple[float, ...] = ()
    predicts_sigma: bool = False
    # parts of names of the linear layers that low-rank adapters go to where nobody chose any
    adapter_targets: tuple[str, ...] = ()
    # (module, class) of upstream's network, which an adapter's folder names so that upstream's loader finds it
    upstream_class: tuple[str, str] | None = None
    # parameters that were made anew, as what it was built of lacks them: trained whatever else an adapter leaves frozen
    fresh: frozenset[str] = frozenset()
    # what adapt() of adapters/layers.py did to it: what is frozen then is known from what it was built of
    adapter: Any = None

    @abstractmethod
    def collate(self, windows: Windows) -> Batch:
        """CPU tensors of one micro-batch. Looks at nothing after the cutoff except labels and known covariates.

        A window without any value, in context and future, fills a batch up to its shape: it adds nothing to loss or
        weight. What a batch holds, shapes and types, follows of `static` windows from their shapes and roles alone.
        """

    def forward(self, batch: Batch) -> Loss:
        """Training loss of a batch as a sum and its weight: the objective's where there is one, else the own_loss."""
        return self.own_loss(batch) if self.objective is None else self.objective(self.predict(batch))

    @abstractmethod
    def own_loss(self, batch: Batch) -> Loss:
        """The loss that the family is trained with, as a sum and its weight."""

    def predict(self, batch: Batch) -> Predicted:
        """What the model says of the values that it is trained on, for losses of predictions.

        Every trainable parameter is in the graph of `point` and of `quantiles`, if need be by nn.unused.attach: a loss
        may use one of them alone. Families whose output is no forecast of values have none of it.
        """
        raise ConfigError(f"{self.family} predicts no values while it trains, so it takes no loss but its own.")

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """What validation reports of a batch as val_<name>, each a sum and its weight; "loss" is among them.

        Called in eval mode without gradients; keys are validation_names.
        """
        return {"loss": self(batch)}

    def check(self, source: Any) -> None:
        """Raise DataError or ConfigError where a run's TrainingSource is none that can be learned from.

        Called before anything is written; the weights may be on "meta". Most families take any source.
        """

    def prepare(self, source: Any, folder: Path) -> None:
        """Whatever a run needs before its first step, such as a table of tokens; may write into folder.

        Called with the run's TrainingSource, on rank 0 first and then on all ranks, also on resume: what is there
        already is used. Most families need nothing.
        """

    @abstractmethod
    def parameter_groups(self) -> dict[str, ParameterRole]:
        """Name of every trainable parameter to its role."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated blocks, in order: the unit of sharding, compilation and activation checkpointing."""

    @abstractmethod
    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors (state, if given, instead of the model's own weights) into an
        existing folder, in upstream's layout. Values are saved in float32 unless the model was loaded otherwise."""

    @abstractmethod
    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Forward floating point operations of one window (multiply-add = 2), for the mfu figure."""


class Forecaster(Trainable):
    """A Trainable that forecasts."""

    # paths drawn where they are wanted and their number is left open, of families that else draw some only where needed
    default_samples: int | None = None

    @property
    @abstractmethod
    def max_context_length(self) -> int:
        """Steps of history the model looks at."""

    @property
    @abstractmethod
    def bucket_length(self) -> int:
        """Contexts whose lengths round up to the same multiple of this can share a batch without extra padding."""

    @abstractmethod
    def forecast(
        self,
        batch: Batch,
        prediction_length: int,
        quantile_levels: Sequence[float],
        *,
        num_samples: int | None = None,
        seed: int = 0,
        options: Any = None,
    ) -> Forecast:
        """Quantile forecasts of the batch's target rows; options is the family's own frozen dataclass."""


@dataclass(frozen=True)
class NoOptions:
    """Forecast options of a family that has none."""


class Columns(NamedTuple):
    """Columns that a family takes where nobody chose any."""

    targets: tuple[str, ...]  # to train on and forecast
    scored: tuple[str, ...]  # of these, what an evaluation looks at; the others are past covariates there


@dataclass(frozen=True)
class Family:
    """One model family; models/__init__.py lists them, and no code outside models/ asks which one it has."""

    name: str
    config: Callable[[], type[Section]]  # the `model:` section of a run
    options: Callable[[], type]  # dataclass of forecast options
    build: Callable[..., Trainable]  # (config, *, context_length, prediction_length, seed, device="cpu") -> model
    matches: Callable[[dict[str, Any]], bool]  # does this config.json belong to the family?
    load: Callable[..., Trainable]  # (folder, *, origin=None, offline=False, **parts) -> model in float32 on the CPU;
    # origin is the name it was asked by, parts what it is made of besides (Kronos: tokenizer="folder or hub id")
    columns: Callable[[Sequence[str]], Columns | None] = lambda names: None  # its own choice among a data set's columns
    # (section, whether the run has covariates known ahead) -> the section with what that decides filled in
    settled: Callable[[Any, bool], Any] = lambda section, known: section
    needs: str = ""  # in words, the columns without which it does nothing; "" where it takes any
    published: frozenset[str] = frozenset()  # hub ids known to belong to it
    with_times: bool = False  # whether windows need time stamps where the data have a calendar

    def columns_of(self, names: Sequence[str], source: str) -> Columns | None:
        """Its own choice among a source's columns. Raises DataError where those that it needs are not there."""
        choice = self.columns(names)
        if choice is None and self.needs:
            raise DataError(
                f"{source}: {self.name} reads {self.needs}, and it has {', '.join(names) or 'none'}. "
                "Add or rename columns."
            )
        return choice


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; asynchronous where the tensors are pinned."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
