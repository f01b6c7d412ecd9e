"""Optimizer state for checkpoints: tensors by name for safetensors files, numbers for JSON.

Keys are the optimizer's own (exp_avg, momentum_buffer, step, ...), names those of the model's parameters.
optimizer.check_optimizer tests before a run that the state of its optimizer survives this format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foretrain.training.offload import OffloadedOptimizer, host_like

RESERVED = {"model", "ema"}  # prefixes of the other tensors of a checkpoint
# Kind of a number that is not a tensor ("float" for NaN and infinities, which JSON lacks); of tensors it is the dtype.
PLAIN = "plain"


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the state tensors of one dimension or more as {"<key>.<name>": tensor}, without copying."""
    return {
        f"{key}.{name}": value
        for name, key, value in _entries(model, optimizer)
        if isinstance(value, Tensor) and value.dim() > 0
    }


def state_numbers(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return the rest for JSON: {"state": {key: {kind: {name: number}}}, "groups": [{key: [kind, number]}]}.

    "groups" holds the numbers and small tensors in the parameter groups, such as a step count that an optimizer writes.
    """
    state: dict[str, dict[str, dict[str, Any]]] = {}
    for name, key, value in _entries(model, optimizer):
        if not isinstance(value, Tensor):
            state.setdefault(key, {}).setdefault(PLAIN, {})[name] = value
        elif value.dim() == 0:
            state.setdefault(key, {}).setdefault(_kind(value), {})[name] = value
    for kinds in state.values():
        for kind, values in kinds.items():
            if kind != PLAIN:  # stacked: one device sync instead of one per parameter
                kinds[kind] = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
    groups = []
    for group in optimizer.param_groups:
        groups.append({key: _to_json(value) for key, value in group.items() if _is_number(value)})
    return {"state": state, "groups": groups}


def allocate_state(
    model: nn.Module,
    optimizer: Optimizer,
    numbers: Mapping[str, Any],
    tensors: Mapping[str, tuple[torch.Size, torch.dtype]],
) -> None:
    """Replace the state of an optimizer by `numbers` (of state_numbers) and by uninitialised tensors.

    tensors: {"<key>.<name>": (size, dtype)}; the caller fills them through state_tensors. They are in the host's memory
    if the optimizer keeps them there.
    """
    at_home = isinstance(optimizer, OffloadedOptimizer)
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for key, kinds in numbers["state"].items():
        for kind, values in kinds.items():
            for name, value in values.items():
                if name not in parameters:
                    continue
                # torch keeps step counts on the CPU unless a fused kernel reads them
                device = "cpu" if key == "step" and not fused else parameters[name].device
                optimizer.state[parameters[name]][key] = _number(kind, value, device)
    for entry, (size, dtype) in tensors.items():
        key, _, name = entry.partition(".")
        if name in parameters:
            optimizer.state[parameters[name]][key] = _empty(parameters[name], size, dtype, at_home)
    for group, saved in zip(optimizer.param_groups, numbers["groups"], strict=False):
        for key in [key for key, value in group.items() if _is_number(value) and key not in saved]:
            del group[key]  # such as a step count that did not exist yet when the state was saved
        group |= {key: _number(kind, value, group["params"][0].device) for key, (kind, value) in saved.items()}


def _entries(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, key, value) of every parameter's state."""
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield name, key, value


def _is_number(value: Any) -> bool:
    """Return True for a number or a (small) tensor in a group, False for names, pairs of rates and parameters."""
    return isinstance(value, (bool, int, float, Tensor))


def _to_json(value: Any) -> list[Any]:
    """Return [kind, number] of an entry of a group."""
    if isinstance(value, Tensor):
        return [_kind(value), value.tolist()]
    return ["float", repr(value)] if isinstance(value, float) and not math.isfinite(value) else [PLAIN, value]


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _number(kind: str, value: Any, device: torch.device | str) -> Any:
    if kind in (PLAIN, "float"):
        return value if kind == PLAIN else float(value)
    return torch.tensor(value, dtype=getattr(torch, kind), device=device)


def _empty(parameter: Tensor, size: torch.Size, dtype: torch.dtype, at_home: bool) -> Tensor:
    """Allocate a state tensor as optimizers do, in the memory layout of the parameter if the sizes agree.

    at_home: in the host's memory.
    """
    if size != parameter.shape:
        value = torch.empty(size, dtype=dtype, device=parameter.device)
        return host_like(value) if at_home else value
    if not at_home:
        return torch.empty_like(parameter, dtype=dtype, memory_format=torch.preserve_format).detach()
    return host_like(parameter, dtype)
