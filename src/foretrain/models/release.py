"""Models with one network and one config.json: initialisation, reading and writing.

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

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from foretrain.errors import ModelError
from foretrain.models.architecture import Architecture, ModelSection
from foretrain.models.base import Family, ForecastOptions, NoOptions, Trainable
from foretrain.models.config_json import read_config_json
from foretrain.models.hub import release_hash, resolve
from foretrain.models.weights import check_shapes, fill_network, read_tensors, write_weights
from foretrain.nn.undrawn import Undrawn
from foretrain.notes import Code, Note


class Network(nn.Module):
    """Base of a family's tensor-level module: built from its config alone, with upstream's parameter names.

    Its __init__ leaves all parameters to `initialise` or to a file.
    """

    architecture: ClassVar[type[Architecture]]
    config: Any  # an instance of `architecture`
    newly_initialized: tuple[str, ...] = ()  # parameters missing from the file it was read from, drawn from the seed
    # fields of the config that the run changed: name -> (value of the release it was read from, value now)
    adapted: Mapping[str, tuple[Any, Any]] = MappingProxyType({})

    def initialise(self, seed: int) -> None:
        """Draw the weights and set the constants, on the CPU so that the seed alone decides them."""
        raise NotImplementedError

    @classmethod
    def empty(cls, config: Any, device: str | torch.device = "cpu", **parts: Any) -> Self:
        """Return the network before its weights are drawn or read; on "meta" it uses no memory.

        `parts` are further arguments of __init__. Raises ModelError for a network that the memory cannot hold.
        """
        if torch.device(device).type != "meta":
            check_size(cls.empty(config, "meta", **parts), config.title)
        with torch.device(device), Undrawn():
            return cls(config, **parts)

    @classmethod
    def outline(cls, folder: Path, config: Any, **parts: Any) -> Self:
        """Return the network of a release folder on "meta", with the given config."""
        return cls.empty(config, "meta", **parts)

    @classmethod
    def read_release(cls, folder: Path, config: Any = None, *, seed: int = 0, **parts: Any) -> Self:
        """Read a release folder in float32 on the CPU; `config`, if given, replaces the folder's.

        The seed decides parameters that the file lacks, in families that accept such files. Raises ModelError if files
        are missing or damaged, or if the weights do not fit the config.
        """
        config = config or cls.architecture.read(folder / "config.json")
        tensors = cls.own_names(read_tensors(folder))
        check_shapes(cls.empty(config, "meta", **parts), tensors, folder)  # before any memory is taken
        network = cls.empty(config, **parts)
        fill_network(network, tensors, folder)
        return network

    def write_release(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder; `state`, if given, replaces the weights."""
        weights = self.state_dict() if state is None else state
        (folder / "config.json").write_text(self.config_of(weights).text(), encoding="utf-8")
        write_weights({self.published_name(name): tensor for name, tensor in weights.items()}, folder)

    def config_of(self, weights: Mapping[str, Tensor]) -> Architecture:
        """Return the config to write beside these weights."""
        return self.config

    @classmethod
    def own_names(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a file's tensors by the network's names, without constants that the network computes itself."""
        return tensors

    @staticmethod
    def published_name(name: str) -> str:
        """Return the name of a parameter in published files."""
        return name


def check_size(outline: nn.Module, title: str) -> None:
    """Raise ModelError if the weights of a network, given on "meta", are larger than this machine's memory."""
    needed = sum(tensor.nbytes for tensor in (*outline.parameters(), *outline.buffers()))
    if needed > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise ModelError(
            f"{title}: its weights would take {needed / 2**30:,.0f} GiB, and this machine has "
            f"{memory / 2**30:,.0f} GiB of memory. The sizes in its config are wrong, or it needs another machine."
        )


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
    """Build the network that a run starts with, on the CPU or on "meta".

    Args:
        kind: class of the network.
        section: the run's `model:` section.
        seed: decides random weights.
        meta: build on "meta", where weights are neither drawn nor read.
        offline: never download.
        random: returns the config for random initialisation.
        fitted: returns the run's config, given a checkpoint's.
        read_config: reads a checkpoint's config from its folder; None = from config.json.
        parts: further arguments of the network's __init__.

    Returns:
        The network, and {"model": hash} of the release it was read from; {} for random weights, and for a published
        model on "meta", for which no file is read.

    Raises ConfigError, ModelError.
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
        network = kind.empty(config := fitted(known), "meta", **given)
        network.adapted = known.changes(config)
        return network, {}
    folder = resolve(section.model_id, section.revision, offline)
    stored = read_config(folder) if read_config else kind.architecture.read(folder / "config.json")
    config = fitted(stored)
    network = kind.outline(folder, config, **given) if meta else kind.read_release(folder, config, seed=seed, **given)
    network.adapted = stored.changes(config)
    return network, {"model": release_hash(folder)}


class ReleaseModel(Trainable):
    """A Trainable with one Network; the network and the `model:` section define how it is built, loaded and saved."""

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
        """Return the model of a network, with the run's settings besides the architecture."""
        return cls(network)

    @classmethod
    def network_parts(cls, section: Any) -> dict[str, Any]:
        """Return the arguments of the network's __init__ besides its config."""
        return {}

    @classmethod
    def random_config(cls, section: Any, context_length: int, prediction_length: int, offline: bool) -> Any:
        """Return the config for random initialisation."""
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
        """Build the model of a run: randomly initialised (the seed alone decides the weights) or from model_id.

        The section adapts the config to the run's lengths. On device "meta" weights are neither drawn nor read.

        Raises:
            ConfigError: neither or both of model_id and random_init.
            ModelError: the checkpoint cannot be read or contradicts the given architecture keys.
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
        model.parents, model.adapted = parents, dict(network.adapted)
        model.newly_initialized = frozenset(f"network.{name}" for name in network.newly_initialized)
        return model

    @classmethod
    def load(cls, folder: Path, *, origin: str | None = None, offline: bool = False, **parts: str) -> Self:
        """Load a release folder in float32 on the CPU, in eval mode. Raises ModelError."""
        kind = cls.network_class.architecture
        if parts:
            raise ModelError(f"{origin or folder}: a {kind.title} has no {next(iter(parts))}; leave it out.")
        if not kind.matches(read_config_json(folder / "config.json")):
            raise ModelError(f"{folder}: its config.json has no {kind.signature[0]}, so this is not a {kind.title}.")
        return cls(cls.network_class.read_release(folder)).eval()

    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder; `state` has the keys of state_dict()."""
        if state is not None:
            state = {name.removeprefix("network."): tensor for name, tensor in state.items()}
        network: Any = self.network
        network.write_release(folder, state)

    def release_notes(self) -> list[Note]:
        """Return a note if the config has a setting that changes the function and that upstream does not have."""
        settings = {key: getattr(self.config, key, None) for key in ("scale_floor", "rescale")}
        changed = [key for key, value in settings.items() if value in ("relative", True)]
        if not changed:
            return []
        text = (
            f"upstream's library does not know {changed[0]} in config.json of a {self.config.title}: it refuses or "
            "ignores the key, and without it these weights give other forecasts."
        )
        return [Note(Code.NOT_UPSTREAMS_FUNCTION, text)]

    @classmethod
    def as_family(cls, **more: Any) -> Family:
        """Return the record that models.FAMILIES refers to; `more` are further fields of Family."""
        return Family(
            name=cls.family,
            config=lambda: cls.section,
            options=lambda: cls.options,
            build=cls.build,
            load=cls.load,
            matches=cls.network_class.architecture.matches,
            published=frozenset(cls.section.published),
            resolve_defaults=lambda section, known, saved: section.resolve_defaults(known, saved),
            **more,
        )
