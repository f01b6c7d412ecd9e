"""Sharded data parallelism (torch's FSDP2): weights, gradients, optimizer state and averages are split over processes.

A sharded model keeps its parameters' names; they are DTensors, of which each process holds a part of the rows. In
training each block gathers its weights for its forward and backward pass. Everything else that reads weights
(validation by any method, adapters' merged weights, releases) runs inside unsharded() or after gather(), where the
weights are plain tensors again. So no forward outside of training communicates, and processes need not make equal
numbers of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from foretrain.distributed.world import World, local
from foretrain.models.base import Trainable


@dataclass(frozen=True)
class _Before:
    """What a module was before it was sharded."""

    kind: type[nn.Module]
    attributes: dict[str, Any]
    hooks: dict[str, dict[Any, Any]]


class Sharded:
    """A model whose parameters are split over processes, in place.

    shard_size: processes that hold one copy of the model between them; all of them, or a divisor of their number, of
    which each group then holds a copy (HSDP). reshard: free a block's gathered weights after its forward pass, and
    gather them again for its backward pass.
    """

    def __init__(self, model: Trainable, world: World, shard_size: int, reshard: bool = True) -> None:
        self.model, self.copies = model, world.size // shard_size
        self._before = {module: _before(module) for module in model.modules()}
        mesh = device_mesh(world, shard_size)
        # A block may return a view of what it computed. An operation in place on it would be lost; no family has one,
        # as tests of all their gradients show.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
        for block in model.blocks():
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        self.modules = [module for module in model.modules() if isinstance(module, FSDPModule)]

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Gather all weights into plain tensors inside the block. A collective: all processes call it.

        FSDP's own hooks are off, so that any number of forward passes, by any method, leaves nothing behind that the
        next training step would find, and state_dict() has whole weights. The weights must not be changed inside.
        """
        for module in self.modules:
            module.unshard()
        hooks = [(entries, dict(entries)) for entries, _ in self._hooks()]
        for entries, own in self._hooks():
            for key in own:
                del entries[key]
        try:
            yield
        finally:
            for entries, all_of_them in hooks:
                entries.clear()
                entries.update(all_of_them)
            for module in self.modules:
                module.reshard()

    def _hooks(self) -> Iterator[tuple[dict[int, Any], set[int]]]:
        """Yield FSDP's hooks around forward passes, and those by which state_dict() splits weights again: (a module's
        hooks, keys of FSDP's). The latter exist after the first unshard()."""
        for module, before in self._before.items():
            for name in ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks"):
                entries = vars(module)[name]
                if own := set(entries) - set(before.hooks[name]):
                    yield entries, own

    def gather(self) -> None:
        """Make the model an ordinary one again, with all weights on every process. A collective.

        A process holds at most one copy and its part of another.
        """
        whole: dict[nn.Parameter, nn.Parameter] = {}
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if isinstance(parameter, DTensor):
                    if parameter not in whole:
                        values = parameter.full_tensor().detach()
                        whole[parameter] = nn.Parameter(values, requires_grad=parameter.requires_grad)
                    module._parameters[name] = whole[parameter]
        for module, before in self._before.items():
            _restore(module, before)
            _module_state_mapping.pop(module, None)  # else FSDP refuses to shard the module again

    def sum_of_squares(self, gradients: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return this process' share () of the sum of squares of gradients; its sum over processes is that of all."""
        shares = [torch.linalg.vector_norm(local(gradient)).to(dtype) ** 2 for gradient in gradients]
        return torch.stack(shares).sum() / self.copies


class ShardedMuon(torch.optim.Muon):
    """Muon on matrices that are split over processes: the step of the whole matrix, which each process computes.

    Torch's own step would orthogonalise products of parts that were rounded to bfloat16 before they were added.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update the parameters that have a gradient. A collective; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert isinstance(parameter, DTensor) and isinstance(gradient, DTensor)
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
        momentum = local(state["momentum_buffer"]).lerp_(local(gradient), 1 - group["momentum"])
        ahead = local(gradient).lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        whole = DTensor.from_local(ahead, gradient.device_mesh, gradient.placements, run_check=False,
                                   shape=gradient.shape, stride=gradient.stride()).full_tensor()  # fmt: skip
        # a Muon without momentum moves a matrix of zeros by the orthogonal step alone
        step = nn.Parameter(torch.zeros_like(whole))
        step.grad = whole
        settings = {key: group[key] for key in ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")}
        torch.optim.Muon([step], **settings, weight_decay=0.0, momentum=0.0, nesterov=False).step()
        copies = [Replicate()] * gradient.device_mesh.ndim
        own = DTensor.from_local(step.detach(), gradient.device_mesh, copies, run_check=False)
        part = local(own.redistribute(placements=gradient.placements))
        local(parameter).mul_(1 - group["lr"] * group["weight_decay"]).add_(part)


def device_mesh(world: World, shard_size: int) -> DeviceMesh:
    """Return the mesh of processes: (all,) or (copies, processes of a copy), neighbours holding one copy."""
    if shard_size == world.size:
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    shape = (world.size // shard_size, shard_size)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def _before(module: nn.Module) -> _Before:
    attributes = dict(vars(module))
    hooks = {name: dict(value) for name, value in attributes.items() if name.endswith("_hooks") and value is not None}
    return _Before(type(module), attributes, hooks)


def _restore(module: nn.Module, before: _Before) -> None:
    """Give a module its class, attributes and hooks back; parameters, buffers and its mode stay as they are."""
    module.__class__ = before.kind
    for name in set(vars(module)) - set(before.attributes):
        delattr(module, name)
    for name, entries in before.hooks.items():
        hooks = vars(module)[name]
        for key in set(hooks) - set(entries):
            del hooks[key]
