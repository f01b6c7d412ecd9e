"""The contract between models and everything else: what the trainer, the evaluator and the forecaster may call.

docs/adding-a-family.md lists the members with who calls them. A family whose weights are one network beside one
config.json takes ReleaseModel (release.py), which has most of them written.
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

__all__ = ["Batch", "Columns", "Embedding", "Embeds", "Family", "Forecast", "ForecastOptions", "ForecastRequest",
           "Forecaster", "Loss", "NoOptions", "ParameterRole", "Stream", "Streams", "Trainable", "TrainingPrediction",
           "move"]  # fmt: skip


class Trainable(nn.Module, ABC):
    """Everything that the trainer knows of a model."""

    # What a family declares

    family: str  # key of the family in foretrain.models.FAMILIES
    network: nn.Module  # the tensor-level module, with upstream's names: users get it, adapters go into it
    validation_names: tuple[str, ...] = ("loss",)  # keys of validation_losses
    # dotted names of the lists of repeated blocks within the network, in order
    block_lists: tuple[str, ...] = ()
    # parts of parameters' dotted names, such as ".head.": what holds them has that role (parameter_role)
    head_parts: tuple[str, ...] = ()
    embedding_parts: tuple[str, ...] = ()
    # what predict says besides a point: these quantile levels, and whether a standard deviation
    predicted_levels: tuple[float, ...] = ()
    predicts_sigma: bool = False
    # parts of names of the linear layers that low-rank adapters go to where nobody chose any
    adapter_targets: tuple[str, ...] = ()
    # (module, class) of upstream's network, which an adapter's folder names so that upstream's loader finds it
    upstream_class: tuple[str, str] | None = None

    # What a model as built says of itself; Family.build sets it

    # what it was made from: role ("model", "tokenizer") to models.hub.release_hash of that release
    parents: Mapping[str, str] = MappingProxyType({})
    # parameters that were made anew, as what it was built of lacks them: trained whatever else an adapter leaves frozen
    newly_initialized: frozenset[str] = frozenset()

    # What a run puts into it after building; no family sets these

    # a loss of predictions in place of the family's own (objective.objective_for)
    objective: PredictionLoss | None = None
    # what adapt() of training/adapters.py did to it: what is frozen then is known from what it was built of
    adapter: AttachedAdapter | None = None

    @abstractmethod
    def collate(self, windows: Windows) -> Batch:
        """CPU tensors of one micro-batch, of windows.context (R, C), windows.future (R, F) and the rows' roles.

        Four duties, each of which the contract suite tests:

        - Padding. Contexts are padded on the left with NaN, up to the longest of the batch; a context longer than
          max_context_length is cut to its newest steps. A family that reads patches pads on to whole patches. What a
          window gives depends neither on its padding nor on its neighbours.
        - Covariates. Rows have a role: TARGET, PAST or KNOWN. Nothing after the cutoff enters an input, but the future
          of KNOWN rows; of TARGET rows the future is the label, of PAST rows it is not looked at. A family that reads
          covariates ahead of the token that they inform shifts them here, so that position t holds what is known of
          t + 1. A family that cannot use covariates leaves their rows out, or raises DataError, as its README says.
        - Absent unless static. An entry that says nothing in this batch (a mask of what is all observed) may be left
          out, for the faster path without it. Where windows.static_shapes is set every entry is there, and shapes and
          types follow from the windows' shapes and roles alone: compiled code is never recompiled over what values are
          there.
        - Filling. A window without any value, in context and future, fills a batch up to its shape: it adds nothing to
          loss or weight, and changes nothing for the others.
        """

    def forward(self, batch: Batch) -> Loss:
        """Training loss of a batch as a sum and its weight: the objective's if there is one, else the native_loss."""
        return self.native_loss(batch) if self.objective is None else self.objective(self.predict(batch))

    @abstractmethod
    def native_loss(self, batch: Batch) -> Loss:
        """The loss that the family is trained with, as a sum and its weight."""

    def predict(self, batch: Batch) -> TrainingPrediction:
        """What the model says of the values that it is trained on, for losses of predictions.

        Every trainable parameter is in the graph of `point` and of `quantiles`, if need be by nn.unused.attach: a loss
        may use one of them alone. Families whose output is no forecast of values have none of it.
        """
        raise ConfigError(f"{self.family} predicts no values while it trains, so it takes no loss but its own.")

    @property
    def predicts_values(self) -> bool:
        """Whether the family has a predict."""
        return type(self).predict is not Trainable.predict

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """What validation reports of a batch as val_<name>, each a sum and its weight; "loss" is among them.

        Called in eval mode without gradients; keys are validation_names.
        """
        return {"loss": self(batch)}

    def check(self, source: WindowSource) -> None:
        """Raise DataError or ConfigError where a run's source is none that can be learned from.

        Called before anything is written; the weights may be on "meta". Most families take any source.
        """

    def prepare(self, source: WindowSource, folder: Path) -> None:
        """Whatever a run needs before its first step, such as a table of tokens; may write into folder.

        Called with the run's source, on rank 0 first and then on all ranks, also on resume: what is there already is
        used. Most families need nothing.
        """

    def parameter_groups(self) -> dict[str, ParameterRole]:
        """Name of every trainable parameter to its role."""
        trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        if self.adapter is not None:
            return self.adapter.parameter_groups(trained)
        return {name: self.parameter_role(name, parameter) for name, parameter in trained.items()}

    def parameter_role(self, name: str, parameter: Tensor) -> ParameterRole:
        """The role of a parameter, named from this module on: norms and biases are vectors, the rest goes by the parts
        that the family declares."""
        if parameter.ndim == 1:
            return ParameterRole("vector")
        if any(part in name for part in self.embedding_parts):
            return ParameterRole("embedding")
        return ParameterRole("head" if any(part in name for part in self.head_parts) else "matrix")

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks, in order: the unit of sharding, compilation and activation checkpointing."""
        return [block for name in self.block_lists for block in self.network.get_submodule(name).children()]

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
    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Quantile forecasts of the batch's target rows; request.options_of(...) gives the options of Family.options.

        The batch was collated for request.prediction_length and cut to request.context_length.
        """


class Embeds(Forecaster):
    """A Forecaster that gives embeddings. A family that has none is no Embeds."""

    @abstractmethod
    def embed(self, batch: Batch) -> Embedding:
        """Hidden states of the batch's target rows, in the windows' order."""


class Stream(Protocol):
    """A batch of growing series and what a model remembers of them."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Forecast options where they differ from the family's own defaults."""
        ...

    def append(self, bars: Windows, *, counts: Sequence[int]) -> None:
        """Take over the newest counts[n] steps of each window's context."""
        ...

    def forecast(self, request: ForecastRequest, *, future_times: IntArray | None = None) -> Forecast:
        """As Forecaster.forecast, with sample paths, of what follows; the stream stays as it is.

        future_times: (N, H) microseconds; None = spaced as the newest steps.
        """
        ...


class Streams(Forecaster):
    """A Forecaster that follows growing series without reading them again. A family that cannot is no Streams."""

    @abstractmethod
    def stream(self, windows: Windows, *, max_context: int | None = None, re_anchor_every: int | None = None) -> Stream:
        """A stream of the windows' contexts.

        max_context: steps that the model goes on looking at; None = its own. re_anchor_every: read the newest
        max_context steps anew after so many appended ones; None = never.
        """


class Build(Protocol):
    """Family.build."""

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
        """The model that a run trains, of its `model:` section.

        Random weights follow from the seed alone; on device "meta" no weights are made or read. Raises ConfigError for
        keys that contradict each other, ModelError where a checkpoint cannot be read or contradicts the keys given.
        """
        ...


class Load(Protocol):
    """Family.load."""

    def __call__(self, folder: Path, /, *, origin: str | None = None, offline: bool = False, **parts: str) -> Trainable:
        """The model of a release folder, in float32 on the CPU and in eval mode.

        origin is the name it was asked by, parts what it is made of besides (Kronos: tokenizer="folder or hub id").
        Raises ModelError.
        """
        ...


@dataclass(frozen=True)
class Family:
    """One model family; models/__init__.py lists them, and no code outside models/ asks which one it has."""

    name: str
    config: Callable[[], type[Section]]  # the `model:` section of a run
    options: Callable[[], type]  # dataclass of forecast options, a ForecastOptions
    build: Build
    matches: Callable[[dict[str, Any]], bool]  # does this config.json belong to the family?
    load: Load
    columns: Callable[[Sequence[str]], Columns | None] = lambda names: None  # its own choice among a data set's columns
    # (section, whether the run has covariates known ahead) -> the section with what that decides filled in
    resolve_defaults: Callable[[Any, bool], Any] = lambda section, known: section
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
