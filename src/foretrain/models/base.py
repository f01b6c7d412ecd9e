"""The model contract: everything that the trainer, the evaluator and the forecaster may call on a model.

docs/adding-a-family.md lists the members and their callers. A family with one network and one config.json derives from
ReleaseModel (release.py), which implements most of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foretrain.config import Section
from foretrain.data.windows import IntArray, Windows
from foretrain.errors import ConfigError, DataError
from foretrain.models.memory import TOKENS_ON_CPU, TOKENS_ON_GPU, BatchSize, Phase, units_at_once
from foretrain.models.request import ForecastRequest
from foretrain.models.types import (
    AttachedAdapter,
    Batch,
    Columns,
    Embedding,
    Forecast,
    ForecastOptions,
    Loss,
    NoOptions,
    ParameterRole,
    PredictionLoss,
    TrainingPrediction,
    WindowSource,
)
from foretrain.nn.scaling import LIFT, deviations, lifting_factors
from foretrain.notes import Note

__all__ = ["Batch", "Columns", "Embedding", "Embeds", "Family", "Forecast", "ForecastOptions", "ForecastRequest",
           "Forecaster", "Loss", "NoOptions", "ParameterRole", "Stream", "Streams", "Trainable", "TrainingPrediction",
           "move"]  # fmt: skip


class Trainable(nn.Module, ABC):
    """A model that can be trained: the interface that the trainer uses."""

    # Declared by the family

    family: str  # key of the family in foretrain.models.FAMILIES
    network: nn.Module  # tensor-level module with upstream's names: exposed to users, and adapters are inserted into it
    validation_names: tuple[str, ...] = ("loss",)  # keys of validation_losses
    # dotted names, within the network, of the lists of repeated blocks, in order
    block_lists: tuple[str, ...] = ()
    # parameters whose dotted name contains one of these parts, such as ".head.", have that role (parameter_role)
    head_parts: tuple[str, ...] = ()
    embedding_parts: tuple[str, ...] = ()
    # what predict returns besides a point forecast: these quantile levels, a standard deviation if predicts_sigma, and
    # a distribution if predicts_distribution
    predicted_levels: tuple[float, ...] = ()
    predicts_sigma: bool = False
    predicts_distribution: bool = False
    # parts of the names of the linear layers that low-rank adapters wrap by default
    adapter_targets: tuple[str, ...] = ()
    # (module, class) of upstream's network, written into an adapter's folder so that upstream's loader finds it
    upstream_class: tuple[str, str] | None = None

    # Set by Family.build

    # releases that the model was built from: role ("model", "tokenizer") to their models.hub.release_hash
    parents: Mapping[str, str] = MappingProxyType({})
    # parameters that the loaded release lacks: they are trained even if an adapter freezes the others
    newly_initialized: frozenset[str] = frozenset()
    # settings of the release it was built from that the run's lengths and keys changed: name -> (there, here)
    adapted: Mapping[str, tuple[Any, Any]] = MappingProxyType({})

    # Set by a run after building, never by a family

    # loss of predictions that replaces the family's own (objective.objective_for)
    objective: PredictionLoss | None = None
    # set by adapters.layers.adapt; checkpoints then lack the frozen parameters, which the base release has
    adapter: AttachedAdapter | None = None

    @abstractmethod
    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of one micro-batch, from windows.context (R, C), windows.future (R, F) and row roles.

        Four duties, each tested by the contract suite:

        - Padding. Contexts are left-padded with NaN to the longest of the batch; a context longer than
          max_context_length is cut to its newest steps. A family that reads patches pads to whole patches. The result
          for a window depends neither on its padding nor on the other windows.
        - Covariates. A row's role is TARGET, PAST or KNOWN. No value after the cutoff enters an input, except the
          future of KNOWN rows; the future of TARGET rows is the label, that of PAST rows is ignored. A family that
          reads covariates ahead of the token that they inform shifts them here, so that position t holds what is known
          of t + 1. A family that cannot use covariates drops their rows or raises DataError, as its README says.
        - Optional entries. An entry that carries no information in this batch (an observation mask that is all True)
          may be left out, which selects a faster path. If windows.static_shapes is set, every entry is present, and
          shapes and types depend on the windows' shapes and roles alone, so that values never cause a recompilation.
        - Padding windows. A window without any value, in context and future, only fills a batch up to its shape: it
          adds nothing to loss or weight and does not affect the other windows.
        """

    def forward(self, batch: Batch) -> Loss:
        """Return the training loss of a batch as a sum and its weight: of the objective if set, else native_loss."""
        return self.native_loss(batch) if self.objective is None else self.objective(self.predict(batch))

    @abstractmethod
    def native_loss(self, batch: Batch) -> Loss:
        """Return the family's own training loss, as a sum and its weight."""

    def predict(self, batch: Batch) -> TrainingPrediction:
        """Return predictions of the values that the model is trained on, for losses of predictions.

        Every trainable parameter must be in the graph of `point` and in that of `quantiles`, if necessary through
        nn.unused.attach: a loss may use only one of them. Families whose output is not a forecast of values do not
        implement this method.
        """
        raise ConfigError(f"{self.family} predicts no values while it trains, so it takes no loss but its own.")

    @property
    def predicts_values(self) -> bool:
        """True if the family implements predict."""
        return type(self).predict is not Trainable.predict

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """Return the losses that validation reports as val_<name>, each as a sum and its weight; "loss" is one of them.

        Called in eval mode without gradients; the keys are validation_names.
        """
        return {"loss": self(batch)}

    def check(self, source: WindowSource) -> None:
        """Raise DataError or ConfigError if the model cannot learn from a run's source.

        Called before anything is written; the weights may be on "meta". Most families accept any source.
        """

    def prepare(self, source: WindowSource, folder: Path) -> None:
        """Prepare what a run needs before its first step, such as a token table; may write into `folder`.

        Called with the run's source, on rank 0 first and then on all ranks, also on resume: existing results are
        reused. Most families need nothing.
        """

    def parameter_groups(self) -> dict[str, ParameterRole]:
        """Return the role of every trainable parameter, by name."""
        trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        if self.adapter is not None:
            return self.adapter.parameter_groups(trained)
        return {name: self.parameter_role(name, parameter) for name, parameter in trained.items()}

    def parameter_role(self, name: str, parameter: Tensor) -> ParameterRole:
        """Return the role of a parameter; `name` starts at this module.

        Norms and biases are vectors; the other roles follow from head_parts and embedding_parts.
        """
        if parameter.ndim == 1:
            return ParameterRole("vector")
        if any(part in name for part in self.embedding_parts):
            return ParameterRole("embedding")
        return ParameterRole("head" if any(part in name for part in self.head_parts) else "matrix")

    @property
    def other_weights(self) -> int:
        """Bytes of weights that a process holds beside this module's, such as those of a frozen tokenizer."""
        return 0

    def blocks(self) -> list[nn.Module]:
        """Return the repeated blocks in order: the unit of sharding, compilation and activation checkpointing."""
        return [block for name in self.block_lists for block in self.network.get_submodule(name).children()]

    @abstractmethod
    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder, in upstream's layout.

        `state`, if given, replaces the model's weights. Values are float32 unless the model was loaded in another type.
        """

    def release_notes(self) -> list[Note]:
        """Return what a user of upstream's library must know of a release of this model; [] = it computes the same."""
        return []

    @abstractmethod
    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Return the forward floating-point operations of one window (a multiply-add counts 2), for the mfu metric."""

    def step_flops(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Return the floating-point operations of a forward and backward pass of one window."""
        return sum(self.pass_flops(context_length, prediction_length, variates))

    def pass_flops(self, context_length: int, prediction_length: int, variates: int = 1) -> tuple[float, float]:
        """Return those of the forward pass and of the backward pass of one window in training.

        A backward pass takes a forward pass' for the gradients of inputs, and as much for those of all weights: of an
        adapter's run, for the share of the parameters that is trained.
        """
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        share = sum(size for size, trained in sizes if trained) / max(sum(size for size, _ in sizes), 1)
        forward = self.flops_per_window(context_length, prediction_length, variates)
        return forward, (1.0 + share) * forward


class Forecaster(Trainable):
    """A Trainable that forecasts."""

    # number of sample paths if a request asks for paths without a number; None in families that always draw paths or
    # never do
    default_samples: int | None = None
    # Magnitudes that the model's arithmetic can scale: the smallest deviation of a row that is not constant, and the
    # largest value. The default is that of statistics in float32, which squares of values must not leave.
    value_range: tuple[float, float] = (1e-17, 1e17)

    @property
    def smallest_deviation(self) -> float | None:
        """Standard deviation of a row below which a constant of the model changes its scale by more than 1%.

        None = there is none: the forecast of c times the data is c times the forecast.
        """
        return None

    def row_factors(self, values: Tensor, observed: Tensor) -> Tensor | None:
        """Return powers of two (R, 1) that lift the moves of rows (R, T) out of reach of the model's constant.

        None if the model has no such constant. Constant rows are not lifted.
        """
        if self.smallest_deviation is None:
            return None
        return lifting_factors(values, observed, LIFT * self.smallest_deviation)

    def window_factors(self, windows: Windows) -> Tensor | None:
        """Return row_factors of all rows of windows, from their contexts; rows that are read together may share one."""
        context = torch.from_numpy(windows.context)
        return self.row_factors(context, context.isfinite())

    def floored(self, values: Tensor, observed: Tensor) -> Tensor:
        """Return the mask (R,) of rows (R, T) that move, but so little that a constant widens their scale by over 1%.

        None is below a smallest_deviation of None.
        """
        deviation = deviations(values, observed).squeeze(1)
        return (deviation > 0) & (deviation < (self.smallest_deviation or 0.0))

    @property
    def rescales(self) -> bool:
        """True if it was trained on rescaled rows (forecasting/scaling.py), which forecasts then read too."""
        return False

    @property
    @abstractmethod
    def max_context_length(self) -> int:
        """Maximum number of history steps that the model reads."""

    @property
    @abstractmethod
    def bucket_length(self) -> int:
        """Contexts whose lengths round up to the same multiple of this can share a batch without extra padding."""

    @abstractmethod
    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Quantile forecasts of the batch's target rows; request.options_of(...) gives the options of Family.options.

        The batch was collated for request.prediction_length and cut to request.context_length. Of the request's output
        settings only repair_candles is the family's, since it takes all columns of sampled candles. With
        request.max_memory it computes at_once's units at a time, and its result is the same up to rounding.
        """

    @abstractmethod
    def memory_phases(self, size: BatchSize, request: ForecastRequest) -> Sequence[Phase]:
        """Return what the phases of a forecast of such a batch take besides the weights, and their pieces.

        An upper limit: a bound that the smallest pieces keep must hold for what the process takes.
        """

    def at_once(self, size: BatchSize, request: ForecastRequest) -> dict[str, int]:
        """Return the units of each kind of piece that keep request.max_memory; {} without a bound. Raises ConfigError
        if none do."""
        if request.max_memory is None:
            return {}
        return units_at_once(self.memory_phases(size, request), request.max_memory)

    @property
    def usual_tokens(self) -> int:
        """Most tokens of a piece that are of use on the model's device."""
        return TOKENS_ON_CPU if next(self.parameters()).device.type == "cpu" else TOKENS_ON_GPU

    @property
    def element_size(self) -> int:
        """Bytes of a weight."""
        return next(self.parameters()).element_size()


class Embeds(Forecaster):
    """A Forecaster with embeddings. Families without embeddings do not derive from it."""

    @abstractmethod
    def embed(self, batch: Batch) -> Embedding:
        """Return the hidden states of the batch's target rows, in the windows' order."""


class Stream(Protocol):
    """A batch of series that steps are appended to, with the model's cached state of them."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Forecast options that differ from the family's defaults."""
        ...

    def append(self, bars: Windows, *, counts: Sequence[int]) -> None:
        """Append the newest counts[n] steps of each window's context."""
        ...

    def forecast(self, request: ForecastRequest, *, future_times: IntArray | None = None) -> Forecast:
        """As Forecaster.forecast, with sample paths, of what follows; the stream stays as it is.

        future_times: (N, H) microseconds; None = spaced as the newest steps.
        """
        ...


class Streams(Forecaster):
    """A Forecaster that follows growing series without recomputing their history.

    Families that cannot do this do not derive from it.
    """

    @abstractmethod
    def stream(self, windows: Windows, *, max_context: int | None = None, re_anchor_every: int | None = None) -> Stream:
        """Return a stream that starts with the windows' contexts.

        Args:
            windows: the series so far.
            max_context: history steps that the model reads; None = max_context_length.
            re_anchor_every: appended steps after which the newest max_context steps are recomputed; None = never.
        """


class Build(Protocol):
    """Signature of Family.build."""

    def __call__(
        self,
        config: Any,
        /,
        *,
        context_length: int,
        prediction_length: int,
        seed: int,
        device: str | torch.device = "cpu",
        offline: bool = False,
    ) -> Trainable:
        """Build the model that a run trains from its `model:` section.

        Random weights depend on the seed alone; on device "meta" weights are neither drawn nor read. Raises ConfigError
        if keys contradict each other, ModelError if a checkpoint cannot be read or contradicts the given keys.
        """
        ...


class Load(Protocol):
    """Signature of Family.load."""

    def __call__(self, folder: Path, /, *, origin: str | None = None, offline: bool = False, **parts: str) -> Trainable:
        """Load a release folder, in float32 on the CPU and in eval mode.

        `origin` is the name that the user gave; `parts` are other releases that the model needs (Kronos:
        tokenizer="folder or hub id"). Raises ModelError.
        """
        ...


@dataclass(frozen=True)
class Family:
    """One model family. models/__init__.py lists them; no code outside models/ depends on which one it has."""

    name: str
    config: Callable[[], type[Section]]  # the `model:` section of a run
    options: Callable[[], type]  # dataclass of forecast options, a ForecastOptions
    build: Build
    matches: Callable[[dict[str, Any]], bool]  # True if a config.json belongs to the family
    load: Load
    columns: Callable[[Sequence[str]], Columns | None] = lambda names: None  # its default columns of a data set
    # ModelSection.resolve_defaults: (section, whether the run has covariates known ahead, the section as saved before)
    resolve_defaults: Callable[[Any, bool, Mapping[str, Any] | None], Any] = lambda section, known, saved: section
    needs: str = ""  # description of the columns that it requires; "" = none in particular
    reads_covariates: bool = True  # False if it drops their rows
    published: frozenset[str] = frozenset()  # its known hub ids
    with_times: bool = False  # True if windows need timestamps when the data have a calendar

    def columns_of(self, names: Sequence[str], source: str) -> Columns | None:
        """Return the family's default columns of a source. Raises DataError if required columns are missing."""
        choice = self.columns(names)
        if choice is None and self.needs:
            raise DataError(
                f"{source}: {self.name} reads {self.needs}, and it has {', '.join(names) or 'none'}. "
                "Add or rename columns."
            )
        return choice


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device; the copy is asynchronous if the tensors are pinned."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
