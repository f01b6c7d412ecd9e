"""Releases of Toto 1.0: config.json and model.safetensors, readable by us and by upstream's loader."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from foretrain.models.toto.config import TotoConfig
from foretrain.models.toto.model import TotoNetwork
from foretrain.models.weights import fill_network, read_tensors, write_weights

PREFIX = "model."  # of every published name
_IGNORED = re.compile(r"rotary_emb\.(freqs|scale)$")  # constants that older files hold
_UNFUSED = ((re.compile(r"\.mlp\.0\.(weight|bias)$"), r".mlp.0.w12.\1"),  # written where xformers was absent
            (re.compile(r"\.mlp\.2\.(weight|bias)$"), r".mlp.0.w3.\1"))  # fmt: skip
LABELS = ("target_variate_label", "exogenous_variate_label")


def empty_network(config: TotoConfig, device: str | torch.device = "cpu", *, labels: bool = False) -> TotoNetwork:
    """The network with uninitialised weights; on "meta" it costs nothing."""
    with torch.device("meta"):
        network = TotoNetwork(config, labels=labels)
    return network if str(device) == "meta" else network.to_empty(device=device)


def initialise(network: TotoNetwork, seed: int) -> None:
    """Upstream's random init, drawn on the CPU so that the seed alone decides the weights.

    torch's defaults: U(+-fan_in^-1/2) for weights and biases; norms 1; labels N(0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    modules = dict(network.named_modules())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            owner = modules[name.rpartition(".")[0]]
            if isinstance(owner, nn.Linear):
                bound = math.sqrt(1.0 / owner.in_features)
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
            elif name not in LABELS:
                parameter.fill_(1.0)
        if network.labels:
            for name, label in fresh_labels(network.config.embed_dim, seed).items():
                getattr(network, name).copy_(label)


def fresh_labels(width: int, seed: int) -> dict[str, Tensor]:
    """New variate labels by name, N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.empty(width).normal_(generator=generator) for name in LABELS}


def published_name(name: str) -> str:
    """The name that a published file gives to a parameter of the network."""
    return PREFIX + name


def read_release(
    folder: Path, config: TotoConfig | None = None, *, labels: bool | None = None, seed: int = 0
) -> TotoNetwork:
    """The network of a release folder, float32 on the CPU; `config`, if given, replaces the folder's own.

    It has variate labels where the file has them; with labels=True they are made where it has none, drawn from the
    seed, with False those in the file are left out. Raises ModelError when files are missing or damaged, or when the
    weights do not fit the configuration.
    """
    config = config or TotoConfig.read(folder / "config.json")
    found = _our_names(read_tensors(folder))
    stored = any(name in found for name in LABELS)
    if labels is False:
        found = {name: tensor for name, tensor in found.items() if name not in LABELS}
    network = empty_network(config, labels=stored if labels is None else labels)
    if labels and not stored:
        found |= fresh_labels(config.embed_dim, seed)
        network.fresh = LABELS
    fill_network(network, found, folder)
    return network


def _our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the network's names, from fused or plain ones; constants are left out."""
    found = {}
    for name, tensor in tensors.items():
        if _IGNORED.search(name):
            continue
        name = name.removeprefix(PREFIX)
        for pattern, ours in _UNFUSED:
            name = pattern.sub(ours, name)
        found[name] = tensor
    return found


def write_release(network: TotoNetwork, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write config.json and model.safetensors into an existing folder; `state` instead of the network's own weights."""
    (folder / "config.json").write_text(json.dumps(network.config.to_json(), indent=2) + "\n", encoding="utf-8")
    weights = network.state_dict() if state is None else state
    write_weights({published_name(name): tensor for name, tensor in weights.items()}, folder)
