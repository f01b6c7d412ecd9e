"""Releases of Toto 2.0: a folder with config.json and model.safetensors, readable by us and by upstream's loader."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from foretrain.models.toto2.config import Toto2Config
from foretrain.models.toto2.layers import residual_tau
from foretrain.models.toto2.model import Toto2Network
from foretrain.models.weights import read_weights, write_weights


def empty_network(config: Toto2Config, device: str | torch.device = "cpu") -> Toto2Network:
    """The network with uninitialised weights; on "meta" it costs nothing."""
    with torch.device("meta"):
        network = Toto2Network(config)
    return network if str(device) == "meta" else network.to_empty(device=device)


def initialise(network: Toto2Network, seed: int) -> None:
    """Random weights as u-muP has them (arXiv 2407.17465, table 2), drawn on the CPU so that the seed alone decides.

    Weights N(0, 1), those of the head too; biases 0; norms 1; query scales at their neutral 0. How the published models
    were initialised is not known.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.empty(parameter.shape).normal_(generator=generator))
            else:
                parameter.fill_(float("norm" in name))
        for name, tau in network.named_buffers():
            index = 2 * int(name.split(".")[2]) + name.endswith("mlp_tau")
            tau.fill_(residual_tau(network.config, index))


def read_release(folder: Path, config: Toto2Config | None = None) -> Toto2Network:
    """The network of a release folder, float32 on the CPU; `config`, if given, replaces the folder's own.

    Raises ModelError when files are missing or damaged, or when the weights do not fit the configuration.
    """
    network = empty_network(config or Toto2Config.read(folder / "config.json"))
    read_weights(folder, network)
    return network


def write_release(network: Toto2Network, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write config.json and model.safetensors into an existing folder; `state` instead of the network's own weights."""
    config = json.dumps(network.config.to_json(), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    write_weights(network.state_dict() if state is None else state, folder)
