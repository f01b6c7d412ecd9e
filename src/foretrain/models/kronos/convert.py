"""Releases of Kronos' networks: config.json and model.safetensors, readable by us and by upstream's loader."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from foretrain.models.kronos.config import KronosConfig, TokenizerConfig, read_config, to_json
from foretrain.models.kronos.model import KronosNetwork, sinusoid
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.weights import read_weights, write_weights


def empty_network(config: TokenizerConfig | KronosConfig, device: str = "cpu") -> TokenizerNetwork | KronosNetwork:
    """The network with its buffers and torch's own initial weights; on "meta" it costs nothing."""
    kind = TokenizerNetwork if isinstance(config, TokenizerConfig) else KronosNetwork
    with torch.device(device):
        return kind(config)  # type: ignore[arg-type]


def initialise(network: TokenizerNetwork | KronosNetwork, seed: int) -> None:
    """Upstream's random init, drawn on the CPU so that the seed alone decides the weights.

    Norms 1. Tokenizer: torch's defaults, U(+-fan_in^-1/2) for weights and biases. Predictor: Xavier-normal matrices,
    zero biases, tables N(0, d_model^-1/2); fixed time tables are sines and cosines.
    """
    generator = torch.Generator().manual_seed(seed)
    modules = dict(network.named_modules())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            owner = modules[name.rpartition(".")[0]]
            if isinstance(owner, nn.Linear):
                _linear(parameter, owner, generator, default=isinstance(network, TokenizerNetwork))
            elif name.endswith("_embed.emb.weight"):
                parameter.copy_(sinusoid(*parameter.shape))
            elif isinstance(owner, nn.Embedding):
                parameter.normal_(0.0, network.config.d_model**-0.5, generator=generator)
            else:
                parameter.fill_(1.0)


def _linear(parameter: Tensor, owner: nn.Linear, generator: torch.Generator, *, default: bool) -> None:
    if default:
        bound = owner.in_features**-0.5
        parameter.uniform_(-bound, bound, generator=generator)
    elif parameter.ndim == 1:
        parameter.zero_()
    else:
        std = math.sqrt(2.0 / (owner.in_features + owner.out_features))
        parameter.normal_(0.0, std, generator=generator)


def read_tokenizer(folder: Path, config: TokenizerConfig | None = None) -> TokenizerNetwork:
    """A tokenizer's network, float32 on the CPU; `config` replaces the folder's own. Raises ModelError."""
    network = TokenizerNetwork(config or read_config(TokenizerConfig, folder / "config.json"))
    read_weights(folder, network)
    return network


def read_predictor(folder: Path, config: KronosConfig | None = None) -> KronosNetwork:
    """A predictor's network, float32 on the CPU; `config` replaces the folder's own. Raises ModelError."""
    network = KronosNetwork(config or read_config(KronosConfig, folder / "config.json"))
    read_weights(folder, network)
    return network


def write_release(
    network: TokenizerNetwork | KronosNetwork, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Write config.json, byte for byte as upstream's own writer, and model.safetensors into an existing folder.

    `state` is written instead of the network's own weights.
    """
    (folder / "config.json").write_text(json.dumps(to_json(network.config), indent=2), encoding="utf-8")
    write_weights(network.state_dict() if state is None else state, folder)
