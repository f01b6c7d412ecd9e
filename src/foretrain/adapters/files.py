"""Adapter folders in PEFT's format: write them, and merge them into the weights of their base: W += scaling * B @ A.

PEFT's file format: adapter_config.json, and adapter_model.safetensors with keys
base_model.model.<module>.lora_A.weight (r, in) and .lora_B.weight (out, r); fully trained layers (modules_to_save) are
stored under their plain names. Folders written here also have a release.json with the settings that built the base:
lengths, parts and hashes of its weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foretrain.adapters.layers import Adapter, adapter_of, peft_config
from foretrain.config import build as build_section
from foretrain.errors import ModelError
from foretrain.models import family, open_release
from foretrain.models.base import Trainable
from foretrain.models.hub import local_folder, resolve
from foretrain.models.shipped import shipped
from foretrain.models.weights import disk_errors, share
from foretrain.reading import believing, read_object

ADAPTER_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's prefix of every tensor name
_RESTORE = "Restore the adapter from a backup, or save it again."
_LARGEST = 2**20  # of an adapter's numbers
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern")


def write_adapter(folder: Path, model: Trainable) -> None:
    """Write the adapter of a model into an existing folder, in the format of PEFT's save_pretrained.

    PEFT, the official package of Chronos-2 and foretrain.load can open it with its base. A fully trained head is in
    modules_to_save; parameters that the base lacks have plain names, which PEFT ignores. Raises OSError.
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
        parameters = network.get_submodule(name).named_parameters(recurse=False)
        tensors |= {f"{PREFIX}{name}.{key}": parameter for key, parameter in parameters}
    tensors |= {f"{PREFIX}{name}": network.get_parameter(name) for name in adapter.fresh}
    section = adapter.base.get("model") or {}
    model_id = section.get("model_id")
    here = local_folder(model_id) if model_id else None
    config = peft_config(
        adapter.config,
        _target_modules(network, adapter) if adapter.layers else DUMMY_TARGET_MODULES,
        modules_to_save=list(adapter.heads) or None,
        base_model_name_or_path=model_id if here is None else str(here),
        revision=section.get("revision"),
        inference_mode=True,
    ).to_dict()
    if model.upstream_class is not None:
        library, name = model.upstream_class
        config["auto_mapping"] = {"base_model_class": name, "parent_library": library}
    config["init_lora_weights"] = True  # PEFT's default, for new adapters made from this config
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)  # default: for sets of names
    (folder / ADAPTER_FILE).write_text(text + "\n", encoding="utf-8")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with disk_errors(folder / WEIGHTS_FILE):
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        share(folder / WEIGHTS_FILE)


def _target_modules(network: nn.Module, adapter: Adapter) -> list[str]:
    """Return target_modules for PEFT: the adapter's parts if they match the same layers there, else full names.

    PEFT compares parts with the ends of names.
    """
    names = {layer.name for layer in adapter.layers}
    all_names = [name.replace(".base_layer", "") for name, _ in network.named_modules() if ".lora_" not in name]
    suffixes = tuple(f".{part}" for part in adapter.parts)
    found = {name for name in all_names if name in adapter.parts or name.endswith(suffixes)}
    return list(adapter.parts) if found == names else sorted(names)


def open_model(path_or_hub_id: str, revision: str | None, offline: bool, parts: Mapping[str, str]) -> Trainable:
    """Open the model of a release folder, a run folder, an adapter folder or a hub id, in float32 on the CPU.

    parts are folders or hub ids of the model's other parts, such as a tokenizer. Raises ModelError if there is no such
    folder, or if it holds no model of a known family.
    """
    return open_folder(resolve(path_or_hub_id, revision, offline), path_or_hub_id, offline, parts)


def open_folder(folder: Path, asked: str, offline: bool, parts: Mapping[str, str]) -> Trainable:
    """Open the model of a release or adapter folder; asked: how the user named it."""
    if folder.is_file():
        raise ModelError(f"{folder}: is a file; give the folder that holds config.json and model.safetensors.")
    if (folder / ADAPTER_FILE).exists():
        return open_adapter(folder, offline, parts)
    return open_release(folder, asked, offline, parts)


def open_adapter(folder: Path, offline: bool, parts: Mapping[str, str]) -> Trainable:
    """Open the model of an adapter folder: its base with the adapter merged into it, in float32 on the CPU.

    The base of an adapter trained by foretrain is rebuilt with the settings of its run; that of another adapter is the
    model that adapter_config.json names. Raises ModelError if the base is missing, is not the one that the adapter was
    trained on, or does not fit.
    """
    config = _read_json(folder / ADAPTER_FILE)
    facts = _read_json(folder / "release.json") if (folder / "release.json").is_file() else {}
    with believing(folder / "release.json", ModelError, _RESTORE):
        adapter = facts.get("adapter") or {}
        base, fresh = adapter.get("base"), frozenset(map(str, adapter.get("fresh") or ()))
    if base is None:
        model = open_model(_base_path(folder, config), _text(folder, config, "revision"), offline, parts)
    else:
        with believing(folder / "release.json", ModelError, _RESTORE):
            model = _rebuild_base(folder, config, base, offline, parts)
    _merge(model.network, folder, config, fresh)
    return model.eval()


def base_of(folder: Path) -> dict[str, str] | None:
    """Return where the base of an adapter folder was found, and its revision if one is named; None for other folders.

    Raises ModelError if adapter_config.json cannot be read or names no base.
    """
    if not (folder / ADAPTER_FILE).is_file():
        return None
    config = _read_json(folder / ADAPTER_FILE)
    revision = _text(folder, config, "revision")
    return {"asked": _base_path(folder, config), **({"revision": revision} if revision else {})}


def _base_path(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the base of an adapter: a folder (relative to the adapter or the current folder) or a hub id."""
    base = _text(folder, config, "base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder / ADAPTER_FILE}: names no base model (base_model_name_or_path).")
    relative = folder / base
    return str(relative) if relative.is_dir() else base


def _text(folder: Path, config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ModelError(f"{folder / ADAPTER_FILE}: {key} is no text. {_RESTORE}")
    return value


def _scaling(folder: Path, config: Mapping[str, Any]) -> float:
    """Return alpha / rank, or alpha / sqrt(rank). Raises ModelError unless both are positive numbers."""
    alpha, rank = (config.get(key) for key in ("lora_alpha", "r"))
    for key, value in (("lora_alpha", alpha), ("r", rank)):
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not 0 < value < _LARGEST:  # type: ignore[operator]
            raise ModelError(f"{folder / ADAPTER_FILE}: {key} is no positive number. {_RESTORE}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)  # type: ignore[arg-type, operator]


def _rebuild_base(
    folder: Path, config: Mapping[str, Any], base: Mapping[str, Any], offline: bool, parts: Mapping[str, str]
) -> Trainable:
    """Rebuild the base with the settings of its run, from the path in adapter_config.json; `parts` override its own."""
    base_family = family(base["model"]["family"])
    section = {**base["model"], **parts}
    if section.get("model_id"):
        path = _base_path(folder, config)
        inside = section["model_id"] in shipped() and not Path(path).is_dir()  # the package lies elsewhere now
        section["model_id"] = section["model_id"] if inside else path
    model = base_family.build(
        build_section(base_family.config(), section, source=str(folder / "release.json")),
        context_length=base["context_length"],
        prediction_length=base["prediction_length"],
        seed=base["seed"],
        offline=offline,
    )
    for role, expected in base["parents"].items():
        if role not in parts and model.parents.get(role) != expected:
            path = section.get("model_id" if role == "model" else role)
            raise ModelError(
                f"{folder}: the adapter was trained on a {role} of the hash {expected}, and {path or 'its base'} holds "
                f"{model.parents.get(role, 'none')}. Restore it, or set its path in {ADAPTER_FILE} "
                "(base_model_name_or_path)."
            )
    return model


def _merge(network: nn.Module, folder: Path, config: Mapping[str, Any], fresh: Collection[str] = ()) -> None:
    """Add an adapter's low-rank updates to the weights of a network, in place, and replace fully trained weights.

    fresh: names of parameters that the base lacks. Raises ModelError if the adapter does not fit.
    """
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: an adapter of type {config.get('peft_type')!r}; only LORA can be merged.")
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if unsupported or config.get("bias", "none") != "none":
        raise ModelError(f"{folder}: adapters with {(*unsupported, 'bias')[0]} cannot be merged.")
    scaling = _scaling(folder, config)
    try:
        updates = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: torch maps the file again
        raise ModelError(f"{folder}: cannot read {WEIGHTS_FILE} ({error}).") from None
    parameters = dict(network.named_parameters())
    if bad := [key for key, tensor in updates.items() if not tensor.isfinite().all()]:
        raise ModelError(f"{folder}: {bad[0]} in {WEIGHTS_FILE} holds values that are not finite. {_RESTORE}")
    lora_a = [key for key in updates if key.endswith(".lora_A.weight")]
    low_rank = {key.replace("lora_A", "lora_B") for key in lora_a} | {*lora_a}
    full = [key for key in updates if key not in low_rank]
    if not config.get("modules_to_save") and {*full} - {f"{PREFIX}{name}" for name in fresh}:
        raise ModelError(f"{folder}: {WEIGHTS_FILE} holds tensors that are not pairs of lora_A and lora_B.")
    for key in lora_a:
        name = key.removeprefix(PREFIX).removesuffix("lora_A.weight") + "weight"
        _add(parameters.get(name), name, updates[key], updates.get(key.replace("lora_A", "lora_B")), scaling, folder)
    for key in full:
        name = key.removeprefix(PREFIX)
        weight = parameters.get(name)
        if weight is None or weight.shape != updates[key].shape:
            raise ModelError(f"{folder}: the adapter's {name} does not fit its base model.")
        with torch.no_grad():
            weight.copy_(updates[key])


def _add(weight: Tensor | None, name: str, down: Tensor, up: Tensor | None, scaling: float, folder: Path) -> None:
    fits = weight is not None and up is not None and up.dim() == down.dim() == 2 and up.shape[1] == down.shape[0]
    if not fits or weight is None or up is None or weight.shape != (up.shape[0], down.shape[1]):
        raise ModelError(f"{folder}: the adapter's update of {name} does not fit its base model.")
    with torch.no_grad():
        weight += (scaling * (up.float() @ down.float())).to(weight)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())}).") from None
