"""Releases of Chronos-2: a folder with config.json and model.safetensors, readable by us and by upstream's loader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foretrain.errors import ModelError
from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.model import Chronos2Network


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
    config = config or Chronos2Config.read(folder / "config.json")
    network = empty_network(config)
    expected = dict(network.state_dict())
    found = _read_weights(folder)
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    if missing or unknown:
        facts = [f"lacks {_some(missing)}" if missing else "", f"has unknown {_some(unknown)}" if unknown else ""]
        raise ModelError(f"{folder}: the weights do not fit config.json: {', '.join(filter(None, facts))}.")
    for name, parameter in expected.items():
        if found[name].shape != parameter.shape:
            raise ModelError(
                f"{folder}: {name} has shape {tuple(found[name].shape)}, config.json needs {tuple(parameter.shape)}."
            )
        parameter.copy_(found[name])
    return network


def write_release(network: Chronos2Network, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write config.json and model.safetensors into an existing folder; `state` instead of the network's own weights."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in (state or network.state_dict()).items()}
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    config = json.dumps(replace(network.config, dtype=dtype).to_json(), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _read_weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    try:
        files = [folder / "model.safetensors"]
        if not files[0].exists() and index.exists():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / Path(name).name for name in sorted(set(names))]
        weights: dict[str, Tensor] = {}
        for file in files:
            if not file.exists():
                raise ModelError(f"{file}: no such file; a release holds config.json and model.safetensors.")
            with safe_open(file, framework="pt") as tensors:
                weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        return weights
    except (SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise ModelError(f"{folder}: cannot read the weights ({error}); the file is damaged or incomplete.") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
