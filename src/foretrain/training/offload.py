"""Optimizer state that stays in the memory of the host (`training.offload_optimizer`).

It comes to the device in parts, each for the step of its parameters. The same kernels compute the same numbers there as
without offloading, so weights, state and checkpoints have the same bits, and every optimizer that steps its parameters
independently of each other works. A step on the CPU would move less (gradients there, weights back), but round
otherwise, and Muon's products of matrices would take seconds. FSDP's CPUOffloadPolicy moves weights and gradients too,
and steps on the CPU; here a process offloads its own part of sharded state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foretrain.distributed.world import local
from foretrain.training.combined import CombinedOptimizer
from foretrain.training.settings import TrainingConfig

PART = 2**25  # bytes of a part's weights, whose state takes a millisecond or more to copy: launches cost little then
IN_FLIGHT = 3  # parts on the device at once: one arrives, one is stepped, one leaves
APART = {"cuda"}  # types of devices whose memory is not the host's


def offloads(config: TrainingConfig, device: torch.device) -> bool:
    """Return whether a run keeps the state of its optimizer in the memory of the host, apart from the device's."""
    return config.offload_optimizer and device.type in APART


def could_offload(config: TrainingConfig, device: torch.device) -> bool:
    """Return whether a run has the state of its optimizer on a device and could keep it in the memory of the host."""
    return not config.offload_optimizer and device.type in APART


def offload_note(config: TrainingConfig, device: torch.device) -> list[str]:
    """Return the line of the log that says that offloading has no effect on a device; [] if it has, or is off."""
    if not config.offload_optimizer or device.type in APART:
        return []
    return [f"warning: training.offload_optimizer has no effect on {device.type}, whose memory is the host's"]


def host_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Allocate a tensor like another, sharded or not, in the host's memory; pinned if the other one is on a GPU."""
    pinned, kept = tensor.device.type == "cuda", torch.preserve_format
    return torch.empty_like(tensor, dtype=dtype, device="cpu", pin_memory=pinned, memory_format=kept).detach()


def on_device(state: int, model: nn.Module, shards: int = 1) -> int:
    """Return how many bytes of state a process has on its device at once, at most. state: its bytes of all of it."""
    sizes = [parameter.nbytes for parameter in model.parameters() if parameter.requires_grad]
    own, largest = max(sum(sizes) // shards, 1), max(sizes, default=0) // shards
    return min(state, math.ceil(IN_FLIGHT * state * max(PART, largest) / own))


@dataclass(frozen=True)
class _Part:
    """Parameters of one group that are stepped together."""

    optimizer: Optimizer
    group: dict[str, Any]
    parameters: list[nn.Parameter]


@dataclass(frozen=True)
class _Visit:
    """State of a part on its way to the device: what it is copied from, and when it is there (None: now)."""

    homes: dict[tuple[nn.Parameter, str], Tensor]
    arrived: torch.cuda.Event | None


class OffloadedOptimizer(CombinedOptimizer):
    """An optimizer whose state is in the host's memory between steps; numbers, such as counts of steps, stay.

    most: bytes of the weights that are stepped together, None = PART; a larger parameter is alone.
    """

    def __init__(self, optimizer: Optimizer, most: int | None = None) -> None:
        super().__init__(optimizer.optimizers if isinstance(optimizer, CombinedOptimizer) else [optimizer])
        self._parts = [
            _Part(owner, group, parameters)
            for owner in self.optimizers
            for group in owner.param_groups
            for parameters in _cut(group["params"], PART if most is None else most)
        ]
        device = self._parts[0].parameters[0].device
        self._lanes = _Lanes(device) if device.type == "cuda" else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Step every part while the next one arrives and the one before leaves. All state is home at the end."""
        assert closure is None
        groups = {id(group): dict(group) for group in self.param_groups}
        owned = [list(optimizer.param_groups) for optimizer in self.optimizers]
        try:
            visit = self._fetch(self._parts[0])
            for part, following in zip(self._parts, [*self._parts[1:], None], strict=True):
                coming = self._fetch(following) if following else None
                if self._lanes and visit and visit.arrived:
                    self._lanes.await_arrival(visit.arrived)
                self._step(part, groups[id(part.group)])
                self._store(part, visit)
                visit = coming
        finally:
            for optimizer, its_groups in zip(self.optimizers, owned, strict=True):
                optimizer.param_groups = its_groups
            for group in self.param_groups:
                group["params"] = groups[id(group)]["params"]
        if self._lanes:
            self._lanes.empty()

    def _step(self, part: _Part, before: dict[str, Any]) -> None:
        """Step a part as if its group had no other parameters, from the numbers that the group had before all of it."""
        group = part.group
        for key in group.keys() - before.keys():  # such as a count of steps that the part before it began
            del group[key]
        group |= before | {"params": part.parameters}
        part.optimizer.param_groups = [group]
        part.optimizer.step()

    def _fetch(self, part: _Part) -> _Visit:
        """Put copies on the device in the place of a part's state, and return what they are copied from."""
        if self._lanes:
            self._lanes.make_room()
        homes, copies = dict[tuple[nn.Parameter, str], Tensor](), list[tuple[Tensor, Tensor]]()
        for parameter, key, home in self._tensors(part):
            homes[parameter, key] = home
            copy = torch.empty_like(home, device=parameter.device)
            copies.append((copy, home))
            self.state[parameter][key] = copy
        if self._lanes:
            return _Visit(homes, self._lanes.bring(copies))
        _copy(copies)
        return _Visit(homes, None)

    def _store(self, part: _Part, visit: _Visit | None) -> None:
        """Copy a part's state home, where the first step makes room for it, and let go of that on the device."""
        homes, copies = visit.homes if visit else {}, list[tuple[Tensor, Tensor]]()
        for parameter, key, value in self._tensors(part):
            home = homes.get((parameter, key))
            if home is None or home.shape != value.shape or home.dtype != value.dtype:
                home = host_like(value)
            copies.append((home, value))
            self.state[parameter][key] = home
        if self._lanes:
            self._lanes.take_home(copies)
        else:
            _copy(copies)

    def _tensors(self, part: _Part) -> list[tuple[nn.Parameter, str, Tensor]]:
        """Return (parameter, key, tensor) of what moves: state of one dimension or more."""
        return [
            (parameter, key, value)
            for parameter in part.parameters
            for key, value in self.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.dim() > 0
        ]


class _Lanes:
    """Copies to and from a GPU, each way on a stream of its own, beside the steps on the current stream.

    Tensors are allocated on the current stream and kept until all streams have used them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._leaving: deque[tuple[torch.cuda.Event, Sequence[tuple[Tensor, Tensor]]]] = deque()

    def make_room(self) -> None:
        """Wait until one part at most is leaving, before another one comes beside the one that is stepped next."""
        while len(self._leaving) > IN_FLIGHT - 2:
            event, _ = self._leaving.popleft()
            event.synchronize()

    def bring(self, copies: Sequence[tuple[Tensor, Tensor]]) -> torch.cuda.Event:
        """Copy to the device; return the event of its end."""
        self._up.wait_stream(torch.cuda.current_stream(self._device))  # which may still use the memory otherwise
        with torch.cuda.stream(self._up):
            _copy(copies)
        return _recorded(self._up)

    def await_arrival(self, event: torch.cuda.Event) -> None:
        """Let the current stream wait for copies."""
        torch.cuda.current_stream(self._device).wait_event(event)

    def take_home(self, copies: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy to the host what the current stream has computed."""
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            _copy(copies)
        self._leaving.append((_recorded(self._down), copies))

    def empty(self) -> None:
        """Wait until all copies are complete: the host reads them next, for a checkpoint for example."""
        self._down.synchronize()
        self._leaving.clear()


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(stream)
    return event


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy this process' part of each (to, from)."""
    for to, source in pairs:
        local(to).copy_(local(source), non_blocking=True)


def _cut(parameters: Sequence[nn.Parameter], most: int) -> Iterator[list[nn.Parameter]]:
    """Yield neighbours of up to so many bytes in this process."""
    part, size = list[nn.Parameter](), 0
    for parameter in parameters:
        own = local(parameter).nbytes
        if part and size + own > most:
            yield part
            part, size = [], 0
        part.append(parameter)
        size += own
    if part:
        yield part
