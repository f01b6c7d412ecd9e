"""Adapter folders in PEFT's format: written, and merged into the weights of their base: W += scaling * B @ A.

Facts from PEFT's file format: adapter_config.json, and adapter_model.safetensors with keys
base_model.model.<module>.lora_A.weight (r, in) and .lora_B.weight (out, r); layers that were trained whole
(modules_to_save) are there under their plain names. Folders written here also have a release.json, which says how the
base was built: with the run's lengths, with which parts, from weights of which hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foretrain.adapters.layers import Adapter, adapter_of, peft_config
from foretrain.config import build as build_section
from foretrain.errors import ModelError
from foretrain.models import family
from foretrain.models.base import Trainable
from foretrain.models.hub import release_in
from foretrain.models.weights import disk_errors

ADAPTER_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in peft's files
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern")


def write_adapter(folder: Path, model: Trainable) -> None:
    """Write an adapted model's adapter into an existing folder as peft's own save does: opened with its base by peft,
    by the official package and by foretrain.load.

    A head that was trained whole is among its modules_to_save; parameters that the base lacks are there by their plain
    names, which peft passes over. Raises OSError as any writer does.
    """
    from peft.utils.constants import DUMMY_TARGET_MODULES

    adapter = adapter_of(model)
    assert adapter is not None
    network = model.network
    tensors = dict[str, Tensor]()
    for layer in adapter.layers:
        tensors[f"{PREFIX}{layer.name}.lora_A.weight"] = layer.down
        tensors[f"{PREFIX}{layer.name}.lora_B.weight"] = layer.up
    for name in adapter.heads:
        own = network.get_submodule(name).named_parameters(recurse=False)
        tensors |= {f"{PREFIX}{name}.{key}": parameter for key, parameter in own}
    tensors |= {f"{PREFIX}{name}": network.get_parameter(name) for name in adapter.fresh}
    section = adapter.base.get("model") or {}
    origin = section.get("model_id")
    made = peft_config(
        adapter.config,
        _as_peft_matches(network, adapter) if adapter.layers else DUMMY_TARGET_MODULES,
        modules_to_save=list(adapter.heads) or None,
        base_model_name_or_path=str(release_in(Path(origin))) if origin and Path(origin).is_dir() else origin,
        revision=section.get("revision"),
        inference_mode=True,
    ).to_dict()
    if model.upstream_class is not None:
        library, name = model.upstream_class
        made["auto_mapping"] = {"base_model_class": name, "parent_library": library}
    made["init_lora_weights"] = True  # of whoever trains on from the file
    text = json.dumps(made, indent=2, sort_keys=True, default=sorted)  # sets of names
    (folder / ADAPTER_FILE).write_text(text + "\n", encoding="utf-8")
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with disk_errors(folder / WEIGHTS_FILE):
        save_file(plain, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _as_peft_matches(network: nn.Module, adapter: Adapter) -> list[str]:
    """target_modules: the parts where peft, which compares the ends of names, finds by them what was found here; else
    every name in full."""
    names = {layer.name for layer in adapter.layers}
    every = [name.replace(".base_layer", "") for name, _ in network.named_modules() if ".lora_" not in name]
    ends = tuple(f".{part}" for part in adapter.parts)
    found = {name for name in every if name in adapter.parts or name.endswith(ends)}
    return list(adapter.parts) if found == names else sorted(names)


def open_adapter(
    folder: Path, offline: bool, parts: Mapping[str, str], open_base: Callable[..., Trainable]
) -> Trainable:
    """The model of an adapter folder: its base with the adapter merged into it, in float32 on the CPU.

    The base of an adapter that was trained here is built as the run built it; another's is what open_base(place,
    revision, offline, parts) makes of the place that its config names. Raises ModelError where the base is not to be
    had, is not the one that the adapter was trained on, or does not fit.
    """
    config = _read(folder / ADAPTER_FILE)
    facts = _read(folder / "release.json") if (folder / "release.json").is_file() else {}
    told = facts.get("adapter") or {}
    made = told.get("base")
    if made is None:
        model = open_base(_base_of(folder, config), config.get("revision"), offline, dict(parts))
    else:
        model = _rebuild(folder, config, made, offline, parts)
    _merge(model.network, folder, config, told.get("fresh") or ())
    return model.eval()


def _base_of(folder: Path, config: Mapping[str, Any]) -> str:
    """The base model an adapter names: a folder (relative to the adapter or to here) or a hub id."""
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder / ADAPTER_FILE}: names no base model (base_model_name_or_path).")
    beside = folder / str(base)
    return str(beside) if beside.is_dir() else str(base)


def _rebuild(
    folder: Path, config: Mapping[str, Any], made: Mapping[str, Any], offline: bool, parts: Mapping[str, str]
) -> Trainable:
    """The base as the run built it, from the place that adapter_config.json names, and with other parts if given."""
    kind = family(made["model"]["family"])
    section = {**made["model"], **parts}
    if section.get("model_id"):
        section["model_id"] = _base_of(folder, config)
    model = kind.build(
        build_section(kind.config(), section, source=str(folder / "release.json")),
        context_length=made["context_length"],
        prediction_length=made["prediction_length"],
        seed=made["seed"],
        offline=offline,
    )
    for role, known in made["parents"].items():
        if role not in parts and model.parents.get(role) != known:
            place = section.get("model_id" if role == "model" else role)
            raise ModelError(
                f"{folder}: the adapter was trained on a {role} of the hash {known}, and {place or 'its base'} holds "
                f"{model.parents.get(role, 'none')}. Restore it, or name its place in {ADAPTER_FILE} "
                "(base_model_name_or_path)."
            )
    return model


def _merge(network: nn.Module, folder: Path, config: Mapping[str, Any], fresh: Sequence[str] = ()) -> None:
    """Add an adapter's low-rank updates to the network's weights, in place, and replace those that were trained whole.

    fresh are parameters that the base lacks. Raises ModelError when they do not fit.
    """
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: an adapter of type {config.get('peft_type')!r}; only LORA can be merged.")
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if unsupported or config.get("bias", "none") != "none":
        raise ModelError(f"{folder}: adapters with {(*unsupported, 'bias')[0]} cannot be merged.")
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    try:
        updates = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: cannot read {WEIGHTS_FILE} ({error}).") from None
    parameters = dict(network.named_parameters())
    downs = [key for key in updates if key.endswith(".lora_A.weight")]
    pairs = {key.replace("lora_A", "lora_B") for key in downs} | {*downs}
    whole = [key for key in updates if key not in pairs]
    if not config.get("modules_to_save") and {*whole} - {f"{PREFIX}{name}" for name in fresh}:
        raise ModelError(f"{folder}: {WEIGHTS_FILE} holds tensors that are not pairs of lora_A and lora_B.")
    for key in downs:
        name = key.removeprefix(PREFIX).removesuffix("lora_A.weight") + "weight"
        _add(parameters.get(name), name, updates[key], updates.get(key.replace("lora_A", "lora_B")), scaling, folder)
    for key in whole:
        name = key.removeprefix(PREFIX)
        weight = parameters.get(name)
        if weight is None or weight.shape != updates[key].shape:
            raise ModelError(f"{folder}: the adapter's {name} does not fit its base model.")
        with torch.no_grad():
            weight.copy_(updates[key])


def _add(weight: Tensor | None, name: str, down: Tensor, up: Tensor | None, scaling: float, folder: Path) -> None:
    if weight is None or up is None or weight.shape != (up.shape[0], down.shape[1]):
        raise ModelError(f"{folder}: the adapter's update of {name} does not fit its base model.")
    with torch.no_grad():
        weight += (scaling * (up.float() @ down.float())).to(weight)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())}).") from None
