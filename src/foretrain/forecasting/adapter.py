"""LoRA adapter folders in PEFT's format, merged into the weights of their base: W += scaling * B @ A.

Facts from PEFT's file format: adapter_config.json, and adapter_model.safetensors with keys
base_model.model.<module>.lora_A.weight (r, in) and .lora_B.weight (out, r).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from foretrain.errors import ModelError

ADAPTER_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern")


def base_of(folder: Path) -> str:
    """The base model an adapter folder names: a folder (relative to the adapter or to here) or a hub id."""
    base = _read(folder).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder / ADAPTER_FILE}: names no base model (base_model_name_or_path).")
    beside = folder / str(base)
    return str(beside) if beside.is_dir() else str(base)


def merge_adapter(network: nn.Module, folder: Path) -> None:
    """Add an adapter's low-rank updates to the network's weights, in place. Raises ModelError when they do not fit."""
    config = _read(folder)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: an adapter of type {config.get('peft_type')!r}; only LORA can be merged.")
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if unsupported or config.get("bias", "none") != "none":
        raise ModelError(f"{folder}: adapters with {(*unsupported, 'bias')[0]} cannot be merged.")
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    try:
        updates = load_file(folder / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: cannot read adapter_model.safetensors ({error}).") from None
    parameters = dict(network.named_parameters())
    downs = [key for key in updates if key.endswith(".lora_A.weight")]
    if len(updates) != 2 * len(downs):
        raise ModelError(f"{folder}: adapter_model.safetensors holds tensors that are not pairs of lora_A and lora_B.")
    for key in downs:
        name = key.removeprefix(_PREFIX).removesuffix("lora_A.weight") + "weight"
        _add(parameters.get(name), name, updates[key], updates.get(key.replace("lora_A", "lora_B")), scaling, folder)


def _add(weight: Tensor | None, name: str, down: Tensor, up: Tensor | None, scaling: float, folder: Path) -> None:
    if weight is None or up is None or weight.shape != (up.shape[0], down.shape[1]):
        raise ModelError(f"{folder}: the adapter's update of {name} does not fit its base model.")
    with torch.no_grad():
        weight += (scaling * (up.float() @ down.float())).to(weight)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / ADAPTER_FILE}: cannot be read as JSON ({' '.join(str(error).split())}).") from None
