"""Releases of Chronos-2: a folder with config.json and model.safetensors, readable by us and by upstream's loader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.model import Chronos2Network
from foretrain.models.weights import read_weights, write_weights


def empty_network(config: Chronos2Config, device: str | torch.device = "cpu") -> Chronos2Network:
    """The network with uninitialised weights; on "meta" it costs nothing."""
    with torch.device("meta"):
        network = Chronos2Network(config)
    return network if str(device) == "meta" else network.to_empty(device=device)


def initialise(network: Chronos2Network, seed: int) -> None:
    """Upstream's random init, drawn on the CPU so that the seed alone decides the weights.

    With f = initializer_factor: norms f; q ~ N(0, f (D d)^-1/2); tokens N(0, f); other weights N(0, f fan_in^-1/2);
    biases 0.
    """
    config = network.config
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if "layer_norm" in name:
                parameter.fill_(config.initializer_factor)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                values = torch.empty(parameter.shape).normal_(generator=generator)
                parameter.copy_(values * _init_std(name, parameter, config))


def _init_std(name: str, weight: Tensor, config: Chronos2Config) -> float:
    factor = config.initializer_factor
    if name == "shared.weight":
        return factor
    fan_in = weight.shape[1] * (config.d_kv if name.endswith("attention.q.weight") else 1)
    return factor * fan_in**-0.5


def read_release(folder: Path, config: Chronos2Config | None = None) -> Chronos2Network:
    """The network of a release folder, float32 on the CPU; `config`, if given, replaces the folder's own.

    Raises ModelError when files are missing or damaged, or when the weights do not fit the configuration.
    """
    network = empty_network(config or Chronos2Config.read(folder / "config.json"))
    read_weights(folder, network)
    return network


def write_release(network: Chronos2Network, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write config.json and model.safetensors into an existing folder; `state` instead of the network's own weights."""
    weights = network.state_dict() if state is None else state
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    config = json.dumps(replace(network.config, dtype=dtype).to_json(), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    write_weights(weights, folder)
