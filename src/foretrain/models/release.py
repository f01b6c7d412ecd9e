"""Models whose weights are one network and one config.json: how they start, are read and are written.

class LinearNetwork(Network):
    architecture = LinearConfig
    def __init__(self, config: LinearConfig) -> None: ...
    def initialise(self, seed: int) -> None: ...

class Linear(ReleaseModel, Forecaster):
    family = "linear"
    network: LinearNetwork
    network_class, section = LinearNetwork, LinearModelConfig
    ...

FAMILY = Linear.as_family()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from foretrain.errors import ModelError
from foretrain.models.architecture import Architecture, ModelSection
from foretrain.models.base import Family, ForecastOptions, NoOptions, Trainable
from foretrain.models.config_json import read_config_json
from foretrain.models.hub import release_hash, resolve
from foretrain.models.weights import fill_network, read_tensors, write_weights


class Network(nn.Module):
    """Base of a family's tensor-level module: built of its config alone, with upstream's parameter names."""

    architecture: ClassVar[type[Architecture]]
    fills_buffers: ClassVar[bool] = False  # whether __init__ computes buffers that initialise leaves as they are
    config: Any  # of that architecture
    newly_initialized: tuple[str, ...] = ()  # parameters that the file it was read from lacks, drawn from the seed

    def initialise(self, seed: int) -> None:
        """Random weights and constants, drawn on the CPU so that the seed alone decides them."""
        raise NotImplementedError

    @classmethod
    def empty(cls, config: Any, device: str | torch.device = "cpu", **parts: Any) -> Self:
        """The network before its weights are drawn or read; on "meta" it costs nothing. parts go to __init__."""
        with torch.device(device if cls.fills_buffers else "meta"):
            network = cls(config, **parts)
        return network if cls.fills_buffers or str(device) == "meta" else network.to_empty(device=device)

    @classmethod
    def outline(cls, folder: Path, config: Any, **parts: Any) -> Self:
        """The network of a release folder on "meta", with the given config."""
        return cls.empty(config, "meta", **parts)

    @classmethod
    def read_release(cls, folder: Path, config: Any = None, *, seed: int = 0, **parts: Any) -> Self:
        """The network of a release folder, float32 on the CPU; `config`, if given, replaces the folder's own.

        The seed decides what the file lacks, in families that take such files. Raises ModelError when files are missing
        or damaged, or when the weights do not fit the configuration.
        """
        network = cls.empty(config or cls.architecture.read(folder / "config.json"), **parts)
        fill_network(network, cls.own_names(read_tensors(folder)), folder)
        return network

    def write_release(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder; `state` in place of the own weights."""
        weights = self.state_dict() if state is None else state
        (folder / "config.json").write_text(self.config_of(weights).text(), encoding="utf-8")
        write_weights({self.published_name(name): tensor for name, tensor in weights.items()}, folder)

    def config_of(self, weights: Mapping[str, Tensor]) -> Architecture:
        """The config that is written beside these weights."""
        return self.config

    @classmethod
    def own_names(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A file's tensors by the network's names, constants that the network makes itself left out."""
        return tensors

    @staticmethod
    def published_name(name: str) -> str:
        """The name that a published file gives to a parameter of the network."""
        return name


AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def start_network(
    kind: type[AnyNetwork],
    section: ModelSection,
    *,
    seed: int,
    meta: bool,
    offline: bool,
    random: Callable[[], Any],
    fitted: Callable[[Any], Any],
    read_config: Callable[[Path], Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> tuple[AnyNetwork, dict[str, str]]:
    """The network that a run starts with, on the CPU or on "meta", and the hash of the release it came from, as
    {"model": hash}; {} of a random start or of a published model on "meta", for which nothing is read.

    random() is the config of a random start, fitted(stored) a checkpoint's config for the run; read_config reads the
    stored one from a folder. parts go to the network's __init__. Raises ConfigError, ModelError.
    """
    section.check_start()
    given = dict(parts or {})
    if section.model_id is None:
        network = kind.empty(random(), "meta" if meta else "cpu", **given)
        if not meta:
            network.initialise(seed)
        return network, {}
    known = section.published_architecture(section.model_id)
    if meta and known is not None and not Path(section.model_id).exists():
        return kind.empty(fitted(known), "meta", **given), {}
    folder = resolve(section.model_id, section.revision, offline)
    stored = read_config(folder) if read_config else kind.architecture.read(folder / "config.json")
    config = fitted(stored)
    network = kind.outline(folder, config, **given) if meta else kind.read_release(folder, config, seed=seed, **given)
    return network, {"model": release_hash(folder)}


class ReleaseModel(Trainable):
    """A Trainable around one Network: built, loaded and saved by what the network and the `model:` section say."""

    network_class: ClassVar[type[Network]]
    section: ClassVar[type[ModelSection]]
    options: ClassVar[type[ForecastOptions]] = NoOptions

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def config(self) -> Any:
        """The network's config."""
        return self.network.config

    @classmethod
    def of_run(cls, network: Any, section: Any, prediction_length: int) -> Self:
        """The model around a network, with what a run's section says besides the architecture."""
        return cls(network)

    @classmethod
    def network_parts(cls, section: Any) -> dict[str, Any]:
        """What the network's __init__ takes beside its config."""
        return {}

    @classmethod
    def random_config(cls, section: Any, context_length: int, prediction_length: int, offline: bool) -> Any:
        """The config of a random start."""
        return section.architecture(context_length, prediction_length)

    @classmethod
    def build(
        cls,
        config: Any,
        *,
        context_length: int,
        prediction_length: int,
        seed: int,
        device: str | torch.device = "cpu",
        offline: bool = False,
    ) -> Self:
        """The model a run trains: randomly initialised (the seed alone decides the weights) or from model_id.

        Its config follows the run's lengths as the section says. On device "meta" no weights are made or read.

        Raises:
            ConfigError: neither or both of model_id and random_init.
            ModelError: the checkpoint cannot be read or contradicts the architecture keys given.
        """
        network, parents = start_network(
            cls.network_class,
            config,
            seed=seed,
            meta=str(device) == "meta",
            offline=offline,
            random=lambda: cls.random_config(config, context_length, prediction_length, offline),
            fitted=lambda stored: config.fitted(stored, context_length, prediction_length),
            parts=cls.network_parts(config),
        )
        model = cls.of_run(network.to(device), config, prediction_length)
        model.parents = parents
        model.newly_initialized = frozenset(f"network.{name}" for name in network.newly_initialized)
        return model

    @classmethod
    def load(cls, folder: Path, *, origin: str | None = None, offline: bool = False, **parts: str) -> Self:
        """The model of a release folder in float32 on the CPU, in eval mode. Raises ModelError."""
        kind = cls.network_class.architecture
        if parts:
            raise ModelError(f"{origin or folder}: a {kind.title} has no {next(iter(parts))}; leave it out.")
        if not kind.matches(read_config_json(folder / "config.json")):
            raise ModelError(f"{folder}: its config.json has no {kind.signature[0]}, so this is not a {kind.title}.")
        return cls(cls.network_class.read_release(folder)).eval()

    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder; `state` as from this module's state_dict."""
        if state is not None:
            state = {name.removeprefix("network."): tensor for name, tensor in state.items()}
        network: Any = self.network
        network.write_release(folder, state)

    @classmethod
    def as_family(cls, **more: Any) -> Family:
        """The record that models.FAMILIES asks for; more are further fields of Family."""
        return Family(
            name=cls.family,
            config=lambda: cls.section,
            options=lambda: cls.options,
            build=cls.build,
            load=cls.load,
            matches=cls.network_class.architecture.matches,
            published=frozenset(cls.section.published),
            resolve_defaults=lambda section, known: section.resolve_defaults(known),
            **more,
        )
