"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in any family's linear layers, by way of peft.

A layer of weight W computes W x + alpha / rank * B A x; W is left as it is, A and B are learned, and B begins at zero.

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

KEY = "default"  # peft's name of the adapter in memory; the folder may have another


class AdapterConfig(Section):
    """What is trained in place of all weights: low-rank updates of some linear layers, the head, or both."""

    # of its folder in adapters/
    name: Annotated[str, FieldRule(identity=False, on_resume="refused")] = Field(
        default="default", pattern=r"^[A-Za-z0-9][\w-]*$"
    )
    rank: int = Field(default=8, ge=0)  # 0 = no low-rank updates: the head alone is trained
    alpha: int = Field(default=16, ge=1)  # updates are scaled by alpha / rank
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of the input of A
    # Whole parts of dotted names, * and ? allowed, such as self_attention.q; None = the family's own choice.
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    freeze_backbone: bool = True  # false: every other weight is trained as well, and no adapter can be saved apart
    train_head: bool = False  # train the layers of the family's head whole

    @model_validator(mode="after")
    def _only_what_counts(self) -> AdapterConfig:
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
    wrapped: Any  # peft's layer, which holds the linear one as base_layer

    @property
    def down(self) -> Tensor:
        """A (r, in)."""
        return self.wrapped.lora_A[KEY].weight

    @property
    def up(self) -> Tensor:
        """B (out, r)."""
        return self.wrapped.lora_B[KEY].weight

    def plain(self) -> nn.Linear:
        """A linear layer with the update in its weight, which is new; the bias is shared."""
        base = self.wrapped.base_layer
        with torch.no_grad():
            weight = base.weight + ((self.up @ self.down) * self.wrapped.scaling[KEY]).to(base.weight.dtype)
        layer = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = base.bias
        return layer.train(self.wrapped.training)


@dataclass(frozen=True)
class Adapter:
    """What adapt() did to a model."""

    config: AdapterConfig
    parts: tuple[str, ...]  # the targets in use
    layers: tuple[LoraLayer, ...]
    heads: tuple[str, ...]  # layers trained whole, within the model's network
    fresh: tuple[str, ...]  # parameters of the network that the base lacks
    base: Mapping[str, Any]  # how to build the model that was adapted: see run.base_of
    roles: Mapping[str, ParameterRole]  # of the model's parameters before its layers were wrapped

    @property
    def name(self) -> str:
        """Name of its folder in a run's adapters/."""
        return self.config.name

    @property
    def portable(self) -> bool:
        """Whether the base and what is trained make the model: not so where the base is trained too."""
        return self.config.freeze_backbone

    def parameter_groups(self, trained: Iterable[str]) -> dict[str, ParameterRole]:
        """Roles of these parameters: a family knows the names of its own layers alone; A and B are matrices."""
        return {name: self.roles.get(name.replace(".base_layer.", "."), ParameterRole("matrix")) for name in trained}


def adapter_of(model: nn.Module) -> Adapter | None:
    """What adapt() did to a model; None where it did nothing."""
    found = model.adapter if isinstance(model, Trainable) else None
    assert found is None or isinstance(found, Adapter)
    return found


def adapt(model: Trainable, config: AdapterConfig, seed: int, base: Mapping[str, Any] | None = None) -> None:
    """Put low-rank layers into a model as built, in place, and leave only what the config trains trainable.

    Names in parameter_groups() become those of the wrapped layers; A and B are matrices. The seed alone decides A.

    Raises:
        ConfigError: a target that matches no linear layer, a family without a preset or without a head, peft missing.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("adapter: needs the package peft; pip install 'foretrain[lora]'.")
    network = model.network
    roles = model.parameter_groups()
    heads = _heads(model, roles) if config.train_head else ()
    parts = (config.targets if config.targets is not None else model.adapter_targets) if config.rank else ()
    names = _matched(network, parts, heads, model.family) if config.rank else ()
    layers = _inject(network, names, config, seed) if names else ()
    whole = {f"network.{name}" for name in heads}
    for name, parameter in model.named_parameters():
        known = name.replace(".base_layer.", ".")
        chosen = not config.freeze_backbone or known.rpartition(".")[0] in whole or known in model.newly_initialized
        parameter.requires_grad_(".lora_" in name or (chosen and known in roles))
    fresh = tuple(sorted(name.removeprefix("network.") for name in model.newly_initialized))
    model.adapter = Adapter(config, tuple(parts), layers, heads, fresh, dict(base or {}), roles)


def _heads(model: Trainable, roles: Mapping[str, ParameterRole]) -> tuple[str, ...]:
    """Layers of the network that hold a parameter with the role of a head."""
    owners = [name.rpartition(".")[0].removeprefix("network.") for name, role in roles.items() if role.role == "head"]
    if not owners:
        raise ConfigError(f"adapter.train_head: {model.family} has no layer that counts as its head; leave it out.")
    return tuple(dict.fromkeys(owners))


def _matched(network: nn.Module, parts: Sequence[str], heads: Iterable[str], family: str) -> tuple[str, ...]:
    """Names of the linear layers that the parts mean, in the network's order, without those that are trained whole."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not parts:
        raise ConfigError(
            f"adapter.targets: {family} has no choice of its own; name parts of its linear layers: {_listed(linear)}."
        )
    found = {part: [name for name in linear if fnmatch.fnmatchcase(f".{name}.", f"*.{part}.*")] for part in parts}
    for part, names in found.items():
        if not names:
            known = {piece.lower(): piece for piece in sorted(_pieces(linear))}
            close = [known[near] for near in nearest(part.lower(), known, most=3)]
            hint = f"Near: {', '.join(close)}. " if close else ""
            raise ConfigError(
                f"adapter.targets: {part!r} matches no linear layer of {family}. {hint}Its layers, of which whole "
                f"parts between dots are compared: {_listed(linear)}."
            )
    whole, wanted = set(heads), {name for names in found.values() for name in names}
    chosen = tuple(name for name in linear if name in wanted and name not in whole)
    if not chosen:
        raise ConfigError(
            "adapter.targets: all of these layers are in the head, which train_head trains whole; name others, or set "
            "rank: 0."
        )
    return chosen


def _pieces(names: Iterable[str]) -> set[str]:
    """Every run of whole parts of dotted names, positions in lists left out at the ends."""
    found = set[str]()
    for name in names:
        words = name.split(".")
        for first in range(len(words)):
            found |= {".".join(words[first:last]) for last in range(first + 1, len(words) + 1)}
    return {piece for piece in found if not piece.split(".")[0].isdigit() and not piece.split(".")[-1].isdigit()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(patterns(names))


def patterns(names: Iterable[str]) -> list[str]:
    """Names that differ in nothing but their positions in lists, once: encoder.block.*.mlp."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names))


def _inject(network: nn.Module, names: Sequence[str], config: AdapterConfig, seed: int) -> tuple[LoraLayer, ...]:
    """Wrap linear layers by peft's; A ~ U(+-in^-1/2), peft's own law, drawn from the seed on the CPU; B = 0."""
    from peft import inject_adapter_in_model

    holder = nn.Module()  # peft looks into a model's own config and leaves a mark on the model; this one is ours
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


def peft_config(config: AdapterConfig, targets: Sequence[str] | str, **more: Any) -> Any:
    """peft's LoraConfig of an adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank or 1,  # peft knows no rank of 0; with nothing targeted it means nothing
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        init_lora_weights=False,  # they are drawn here
        **more,
    )


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, every layer with a low-rank update is a plain nn.Linear of the summed weight; the layers come back after.

    So whatever reads a weight (inference, releases) sees what was trained, and the base's own weights are never
    touched. Without an adapter, and inside another merged(), it does nothing.
    """
    adapter = adapter_of(model)
    layers = [x for x in adapter.layers if x.parent._modules[x.child] is x.wrapped] if adapter else []
    for layer in layers:
        layer.parent._modules[layer.child] = layer.plain()
    try:
        yield
    finally:
        for layer in layers:
            stand_in = layer.parent._modules[layer.child]
            assert stand_in is not None
            layer.parent._modules[layer.child] = layer.wrapped.train(stand_in.training)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(count for count, trained in sizes if trained), sum(count for count, _ in sizes)


def describe_adapter(model: Trainable) -> str:
    """An adapted model in words: what is trained, and how much of it all; "" without an adapter."""
    adapter = adapter_of(model)
    if adapter is None:
        return ""
    config, (trained, total) = adapter.config, parameter_counts(model)
    what = []
    if adapter.layers:
        names = ", ".join(patterns(layer.name for layer in adapter.layers))
        what.append(f"rank {config.rank}, alpha {config.alpha} in {len(adapter.layers):,} layers ({names})")
    if adapter.heads:
        what.append(f"the head ({', '.join(patterns(adapter.heads))}) whole")
    if adapter.fresh:
        what.append(f"{', '.join(adapter.fresh)}, which the base lacks")
    if not config.freeze_backbone:
        what.append("every other weight")
    return f"adapter: {'; '.join(what)}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})"


def adapter_facts(model: Trainable) -> dict[str, Any]:
    """What release.json says of an adapted model as it stands: {"adapter": ...}; nothing without an adapter.

    alarm is a sentence where every B is still zero, so that nothing was learned in any adapted layer.
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
            "name": config.name,
            "rank": config.rank,
            "alpha": config.alpha,
            "dropout": config.dropout,
            "targets": list(adapter.parts),
            "matched": patterns(layer.name for layer in adapter.layers),
            "layers": len(adapter.layers),
            "idle_layers": idle,  # of them, those whose B is zero
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
        f"the adapter has learned nothing: B is zero in all {layers:,} layers, so the released weights are those it "
        "began with. Look at the learning rate, at adapter.targets and at whether the data reach these layers."
    )
