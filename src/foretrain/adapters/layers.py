"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) for the linear layers of any family, using peft.

A layer of weight W computes W x + alpha / rank * B A x. W is frozen, A and B are trained, and B is initially zero.

# r rank, in and out: width of a layer's input and output
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from foretrain.config import FieldRule, Section
from foretrain.errors import ConfigError
from foretrain.hints import nearest
from foretrain.models.base import ParameterRole, Trainable
from foretrain.nn.undrawn import Undrawn

KEY = "default"  # peft's name of the adapter in memory; the name of its folder may differ


class AdapterConfig(Section):
    """Parameter-efficient training: low-rank updates of some linear layers, the head, or both."""

    # name of its folder in adapters/; None = that of the run folder
    name: Annotated[str | None, FieldRule(identity=False, on_resume="refused")] = Field(
        default=None, pattern=r"^[A-Za-z0-9][\w-]*$"
    )
    rank: int = Field(default=8, ge=0, le=4096)  # 0 = no low-rank updates: only the head is trained
    alpha: int = Field(default=16, ge=1, le=2**20)  # updates are scaled by alpha / rank
    dropout: float = Field(default=0.0, ge=0, lt=1)  # on the input of A
    # whole parts of dotted names, * and ? allowed, such as self_attention.q; None = the family's default
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    freeze_backbone: bool = True  # false: every other weight is trained as well, and no separate adapter is saved
    train_head: bool = False  # train all weights of the family's head

    @model_validator(mode="after")
    def _reject_unused_keys(self) -> AdapterConfig:
        if not self.freeze_backbone and self.train_head:
            raise ValueError("train_head has no effect with freeze_backbone: false, which trains the head already")
        if self.rank:
            return self
        if not self.train_head:
            raise ValueError("rank: 0 leaves nothing to train; set train_head: true, or a rank")
        if self.targets is not None or self.dropout:
            raise ValueError("targets and dropout are about low-rank updates, and rank: 0 makes none; leave them out")
        return self


@dataclass(frozen=True)
class LoraLayer:
    """A linear layer with a low-rank update."""

    name: str  # within the model's network
    parent: nn.Module
    child: str  # name within its parent
    wrapped: Any  # peft's layer, with the linear layer as base_layer

    @property
    def down(self) -> Tensor:
        """A (r, in)."""
        return self.wrapped.lora_A[KEY].weight

    @property
    def up(self) -> Tensor:
        """B (out, r)."""
        return self.wrapped.lora_B[KEY].weight

    def merged_linear(self) -> nn.Linear:
        """Return a linear layer with a new weight that includes the update; the bias is shared."""
        base = self.wrapped.base_layer
        with torch.no_grad():
            weight = base.weight + ((self.up @ self.down) * self.wrapped.scaling[KEY]).to(base.weight.dtype)
        with Undrawn():
            layer = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = base.bias
        return layer.train(self.wrapped.training)


@dataclass(frozen=True)
class Adapter:
    """The adapter of a model, made by adapt()."""

    config: AdapterConfig
    parts: tuple[str, ...]  # the targets: those of the config or the family's default
    layers: tuple[LoraLayer, ...]
    heads: tuple[str, ...]  # names of fully trained layers of the network
    fresh: tuple[str, ...]  # parameters of the network that the base lacks
    base: Mapping[str, Any]  # settings to build the base: made by run.build
    roles: Mapping[str, ParameterRole]  # of the model's parameters before its layers were wrapped

    @property
    def name(self) -> str:
        """The name of its folder in a run's adapters/."""
        return self.config.name or KEY

    @property
    def portable(self) -> bool:
        """True if base and adapter together make the model: False if the base is trained too."""
        return self.config.freeze_backbone

    def parameter_groups(self, trained: Iterable[str]) -> dict[str, ParameterRole]:
        """Return the roles of trained parameters: those of the family by their names without peft's; A and B are
        matrices."""
        return {name: self.roles.get(name.replace(".base_layer.", "."), ParameterRole("matrix")) for name in trained}


def adapter_of(model: nn.Module) -> Adapter | None:
    """Return the adapter of a model, None if it has none."""
    adapter = model.adapter if isinstance(model, Trainable) else None
    assert adapter is None or isinstance(adapter, Adapter)
    return adapter


def adapt(model: Trainable, config: AdapterConfig, seed: int, base: Mapping[str, Any] | None = None) -> None:
    """Add low-rank layers to a model in place, and freeze every parameter that the config does not train.

    parameter_groups() then has the names of the wrapped layers; A and B are matrices. A depends on the seed alone.

    Raises:
        ConfigError: a target that matches no linear layer, a family without a preset or without a head, peft missing.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("adapter: needs the package peft; pip install 'foretrain[lora]'.")
    network = model.network
    roles = model.parameter_groups()
    heads = _heads(model, roles) if config.train_head else ()
    parts = (config.targets if config.targets is not None else model.adapter_targets) if config.rank else ()
    names = _target_layers(network, parts, heads, model.family) if config.rank else ()
    layers = _inject(network, names, config, seed) if names else ()
    head_layers = {f"network.{name}" for name in heads}
    for name, parameter in model.named_parameters():
        plain = name.replace(".base_layer.", ".")
        in_head = plain.rpartition(".")[0] in head_layers
        trained = not config.freeze_backbone or in_head or plain in model.newly_initialized
        parameter.requires_grad_(".lora_" in name or (trained and plain in roles))
    fresh = tuple(sorted(name.removeprefix("network.") for name in model.newly_initialized))
    model.adapter = Adapter(config, tuple(parts), layers, heads, fresh, dict(base or {}), roles)


def _heads(model: Trainable, roles: Mapping[str, ParameterRole]) -> tuple[str, ...]:
    """Return the names of the layers of the network that have a parameter with the role of a head."""
    owners = [name.rpartition(".")[0].removeprefix("network.") for name, role in roles.items() if role.role == "head"]
    if not owners:
        raise ConfigError(f"adapter.train_head: {model.family} has no layer that counts as its head; leave it out.")
    return tuple(dict.fromkeys(owners))


def _target_layers(network: nn.Module, parts: Sequence[str], heads: Iterable[str], family: str) -> tuple[str, ...]:
    """Return the names of the linear layers that match the parts, in the network's order, except for the heads."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not parts:
        raise ConfigError(
            f"adapter.targets: {family} has no default; name parts of its linear layers: {', '.join(patterns(linear))}."
        )
    matches = {part: [name for name in linear if fnmatch.fnmatchcase(f".{name}.", f"*.{part}.*")] for part in parts}
    for part, names in matches.items():
        if not names:
            known = {candidate.lower(): candidate for candidate in sorted(_possible_targets(linear))}
            close = [known[near] for near in nearest(part.lower(), known, most=3)]
            hint = f"Near: {', '.join(close)}. " if close else ""
            raise ConfigError(
                f"adapter.targets: {part!r} matches no linear layer of {family}. {hint}Its layers, of which whole "
                f"parts between dots are compared: {', '.join(patterns(linear))}."
            )
    excluded, matching = set(heads), {name for names in matches.values() for name in names}
    targets = tuple(name for name in linear if name in matching and name not in excluded)
    if not targets:
        raise ConfigError(
            "adapter.targets: all of these layers are in the head, which train_head trains fully; name others, or set "
            "rank: 0."
        )
    return targets


def _possible_targets(names: Iterable[str]) -> set[str]:
    """Return every sequence of parts of dotted names that neither starts nor ends with a list index."""
    targets = set[str]()
    for name in names:
        parts = name.split(".")
        for first in range(len(parts)):
            targets |= {".".join(parts[first:last]) for last in range(first + 1, len(parts) + 1)}
    return {target for target in targets if not target.split(".")[0].isdigit() and not target.split(".")[-1].isdigit()}


def patterns(names: Iterable[str]) -> list[str]:
    """Replace list indices in dotted names by * and drop duplicates: encoder.block.*.mlp."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names))


def _inject(network: nn.Module, names: Sequence[str], config: AdapterConfig, seed: int) -> tuple[LoraLayer, ...]:
    """Wrap linear layers with peft's LoRA layers.

    A ~ U(-in^-1/2, in^-1/2), peft's own distribution, drawn from the seed on the CPU; B = 0.
    """
    from peft import inject_adapter_in_model

    holder = nn.Module()  # peft reads the config of the model it is given and sets attributes on it
    holder.network = network
    inject_adapter_in_model(peft_config(config, [f"network.{name}" for name in names]), holder, KEY)
    key = hashlib.blake2b(f"adapter {seed}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    layers = []
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = LoraLayer(name, network.get_submodule(parent), child, network.get_submodule(name))
        if not layer.down.is_meta:
            bound = layer.down.shape[1] ** -0.5
            with torch.no_grad():
                layer.down.copy_(torch.empty(layer.down.shape).uniform_(-bound, bound, generator=generator))
                layer.up.zero_()
        layers.append(layer)
    return tuple(layers)


def peft_config(config: AdapterConfig, targets: Sequence[str] | str, **kwargs: Any) -> Any:
    """Return peft's LoraConfig of an adapter; kwargs are further fields of it."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank or 1,  # peft rejects rank 0; without target modules the rank has no effect
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        init_lora_weights=False,  # _inject initialises them
        **kwargs,
    )


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Replace every layer with a low-rank update by a plain nn.Linear of the merged weight inside the block.

    Inference and releases so use the trained weights, while the weights of the base do not change. Without an adapter,
    and inside another merged(), it does nothing.
    """
    adapter = adapter_of(model)
    layers = [x for x in adapter.layers if x.parent._modules[x.child] is x.wrapped] if adapter else []
    for layer in layers:
        layer.parent._modules[layer.child] = layer.merged_linear()
    try:
        yield
    finally:
        for layer in layers:
            linear = layer.parent._modules[layer.child]
            assert linear is not None
            layer.parent._modules[layer.child] = layer.wrapped.train(linear.training)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of (trainable, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(count for count, trained in sizes if trained), sum(count for count, _ in sizes)


def describe_adapter(model: Trainable) -> str:
    """Describe what an adapter trains and its share of all parameters; "" without an adapter."""
    adapter = adapter_of(model)
    if adapter is None:
        return ""
    config, (trained, total) = adapter.config, parameter_counts(model)
    items = []
    if adapter.layers:
        names = ", ".join(patterns(layer.name for layer in adapter.layers))
        items.append(f"rank {config.rank}, alpha {config.alpha} in {len(adapter.layers):,} layers ({names})")
    if adapter.heads:
        items.append(f"the whole head ({', '.join(patterns(adapter.heads))})")
    if adapter.fresh:
        items.append(f"{', '.join(adapter.fresh)}, which the base lacks")
    if not config.freeze_backbone:
        items.append("every other weight")
    return f"adapter: {'; '.join(items)}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})"


def adapter_facts(model: Trainable) -> dict[str, Any]:
    """Return the entry {"adapter": ...} of release.json; {} without an adapter.

    "alarm" is a sentence if every B is still zero, so that no adapted layer has learned anything, else None.
    """
    adapter = adapter_of(model)
    if adapter is None:
        return {}
    trained, total = parameter_counts(model)
    config, idle = adapter.config, 0
    if adapter.layers:
        idle = int(torch.stack([~layer.up.detach().any() for layer in adapter.layers]).sum())
    return {
        "adapter": {
            "name": adapter.name,
            "rank": config.rank,
            "alpha": config.alpha,
            "dropout": config.dropout,
            "targets": list(adapter.parts),
            "matched": patterns(layer.name for layer in adapter.layers),
            "layers": len(adapter.layers),
            "idle_layers": idle,  # number of layers whose B is zero
            "heads": list(adapter.heads),
            "fresh": list(adapter.fresh),
            "freeze_backbone": config.freeze_backbone,
            "trainable_parameters": trained,
            "total_parameters": total,
            "alarm": _alarm(len(adapter.layers), idle),
            "base": dict(adapter.base),
        }
    }


def _alarm(layers: int, idle: int) -> str | None:
    if not layers or idle < layers:
        return None
    return (
        f"the adapter has learned nothing: B is zero in all {layers:,} layers, so the released weights are those of "
        "the base. Check the learning rate, adapter.targets and whether the data reach these layers."
    )
