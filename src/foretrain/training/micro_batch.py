"""`training.micro_batch_size: auto`: as many windows of a forward pass as the memory of the devices holds.

Found before the first step. On a GPU micro-batches of 1, 2, 4, ... windows are tried, forward and backward; elsewhere,
where too large ones would not fail but swap, a few small ones are measured and the rest is calculated. What a run takes
besides (gradients that accumulate, the optimizer's state, the average) is added. The model is tried as it is: neither
compiled nor split over processes, which takes as much memory or more. Nothing is left behind: no weight, gradient,
buffer or random state changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from foretrain.adapters.layers import parameter_counts
from foretrain.data.source import TrainingSource
from foretrain.data.windows import Windows
from foretrain.distributed.world import World
from foretrain.errors import TrainingError, out_of_memory
from foretrain.models.base import Batch, Trainable, move
from foretrain.training.loader import prefetch_depth
from foretrain.training.memory import PeakOfTensors, available
from foretrain.training.offload import could_offload, offloads, on_device
from foretrain.training.optimizer import OptimizerConfig, state_size
from foretrain.training.parallel import checkpoint_activations, local_size, parallelism, shards, unwrap
from foretrain.training.precision import autocast
from foretrain.training.settings import TrainingConfig

SHARE = {"cuda": 0.9, "mps": 0.8, "cpu": 0.8}  # of the memory that is left: the rest is for fragments and others
REFINEMENTS = 3  # trials between the largest size that fits and the doubled one that does not
CLEAR = 4  # as many times the gradients as a measured micro-batch takes before its growth is taken to be its own
STEEPER = 1.25  # growth beyond the measurements, compared with theirs; no family's grew by more than 1.2
MOST = 64  # windows that are measured where they are not tried


class Found(NamedTuple):
    """The micro-batch of a run, and the words on how it was found."""

    windows: int
    how: str


class _Needs(NamedTuple):
    """What one process found: windows that fit (0 = not even one), bytes of these, bytes that may be taken."""

    windows: int
    bytes: int
    room: int


def find(
    model: Trainable,
    source: Any,
    config: TrainingConfig,
    optimizer: OptimizerConfig,
    world: World,
    *,
    alone: bool = False,
) -> Found:
    """Return the largest micro-batch that every process holds, in as few and equal rounds of a step as possible.

    A collective, unless this process is asked alone. The model is on its device, in training mode, and neither compiled
    nor split. Raises TrainingError if not even one window fits, unless the model is to be split.
    """
    limit, split = -(-config.batch_size // world.size), parallelism(config, model, world) in ("fsdp", "hsdp")
    error, own = None, _Needs(0, 0, 0)
    try:
        own = _of_process(model, source, config, optimizer, world, limit)
    except Exception as problem:  # any: the other processes wait for the result, or for this error
        error = problem
    together = World() if alone else world
    together.all_agree(error)
    least = min(together.gather_objects(own))
    if least.windows == 0 and not split:
        apart = " or training.offload_optimizer=true" * could_offload(config, world.device)
        raise TrainingError(
            f"training.micro_batch_size: auto: not even one window fits into the {_gb(least.room)} left on "
            f"{world.device}. Set training.activation_checkpointing=full{apart}, lower data.context_length, or split "
            "the model over processes (training.parallel=fsdp)."
        )
    windows = _balanced(limit, max(least.windows, 1))
    what = f"{_gb(least.bytes)} of the {_gb(least.room)} left"
    if least.windows == 0:
        what = "one window, since whole weights leave no room here, and split ones may"
    elif least.windows == limit:
        what = f"all windows that a step has for a process; {what}"
    return Found(windows, what)


def _of_process(
    model: Trainable, source: Any, config: TrainingConfig, optimizer: OptimizerConfig, world: World, limit: int
) -> _Needs:
    """Return what this process finds."""
    device, besides = world.device, _kept(model, config, optimizer, world)
    trial = _Trial(model, source, config, device)
    with trial:
        room = int(SHARE.get(device.type, 0.8) * available(device))
        if device.type == "cuda":
            need = trial.on_gpu
        else:
            room //= local_size(world)
            need = _calculated(trial.elsewhere, limit, room - besides, 4 * parameter_counts(model)[0])
        size, taken = _largest(limit, need, room - besides)
    return _Needs(size, taken + besides, room)


def _kept(model: Trainable, config: TrainingConfig, optimizer: OptimizerConfig, world: World) -> int:
    """Return the bytes that a process keeps beside the weights: gradients, optimizer state and average.

    Of state that is offloaded, what is on the device at once.
    """
    trained, _ = parameter_counts(model)
    processes = shards(config, model, world)
    average, state = (trained if config.ema_decay else 0), 4 * state_size(model, optimizer) // processes
    if offloads(config, world.device):
        state = on_device(state, model, processes)
    return 4 * trained + 4 * average // processes + state


def _largest(limit: int, need: Callable[[int], int | None], room: int) -> tuple[int, int]:
    """Return the largest size up to a limit whose need is within the room, and that need; (0, 0) if none is.

    Sizes are doubled. Between the last one that fits and the first that does not, those are tried that make a step of
    `limit` windows in fewer rounds. need returns bytes, or None if there are not as many.
    """

    def fits(size: int) -> bool:
        taken = need(size)
        if taken is None or taken > room:
            return False
        best.append((size, taken))
        return True

    best, size = [(0, 0)], 1
    while fits(size):
        if size == limit:
            return best[-1]
        size = min(2 * size, limit)
    if best[-1][0]:
        enough, few = -(-limit // best[-1][0]), -(-limit // size)  # rounds that fit, and that do not
        for _ in range(REFINEMENTS):
            rounds = (enough + few) // 2
            if rounds in (enough, few):
                break
            if fits(-(-limit // rounds)):
                enough = rounds
            else:
                few = rounds
    return best[-1]


def _balanced(limit: int, windows: int) -> int:
    """Return the smallest micro-batch that makes a step of `limit` windows in as few rounds as `windows` does."""
    return -(-limit // -(-limit // windows))


def _calculated(measure: Callable[[int], int], limit: int, room: int, gradients: int) -> Callable[[int], int]:
    """Return a function that says what a micro-batch needs, from measurements of small ones.

    They end once a micro-batch takes several times the gradients, which do not grow with it, and a window as much as
    before; or before one that might exceed the room. Larger sizes lie on a line steeper than the last measurements or,
    if those bend upwards still, on the parabola through them.
    """
    found, size, slope, bend, settled = dict[int, int](), 1, 0.0, 0.0, False
    while True:
        found[size] = measure(size)
        if len(found) > 2 and found[size] >= CLEAR * gradients:
            (a, fa), (b, fb), (c, fc) = list(found.items())[-3:]
            before, slope = (fb - fa) / (b - a), (fc - fb) / (c - b)
            settled = slope <= STEEPER * before
            bend = 0.0 if settled else (slope - before) / (c - a)
        if settled or size >= min(limit, MOST) or 2 * STEEPER * found[size] > room:
            break
        size = min(2 * size, limit)
    last, taken = size, found[size]
    slope = STEEPER * max(slope, taken / last if not settled and not bend else 0.0)

    def need(size: int) -> int:
        if size <= last:
            return min(bytes_ for measured, bytes_ in found.items() if measured >= size)
        return math.ceil(taken + slope * (size - last) + bend * (size - last) * (size - last / 2))

    return need


class _Trial:
    """Forward and backward passes of micro-batches, after which the model is as it was. A context manager."""

    def __init__(self, model: Trainable, source: Any, config: TrainingConfig, device: torch.device) -> None:
        self.model, self.source, self.config, self.device = model, source, config, device
        self.ahead = prefetch_depth(config, device) + 1  # batches on the device besides the one in use

    def __enter__(self) -> _Trial:
        self._buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        checkpoint_activations(self.model, self.config)
        return self

    def __exit__(self, *error: object) -> None:
        unwrap(self.model)
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)  # the log shows the run's peak

    def on_gpu(self, size: int) -> int | None:
        """Return the bytes that a micro-batch took at its peak; None if they were not there."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        if not self._fits(size):
            return None
        return torch.cuda.max_memory_allocated(self.device) - before

    def elsewhere(self, size: int) -> int:
        """Return the bytes of the tensors that a micro-batch made at its peak."""
        with PeakOfTensors() as tensors:
            self._run(size)
        return tensors.peak

    def _fits(self, size: int) -> bool:
        try:
            self._run(size)
        except RuntimeError as error:
            if out_of_memory(error) is None:
                raise
            return False
        return True

    def _run(self, size: int) -> None:
        """Run one micro-batch, of which no result is kept."""
        batch = self._batch(size)
        held = [move(batch, self.device)]
        held += [{name: value.clone() for name, value in held[0].items()} for _ in range(self.ahead)]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            with autocast(self.device, self.config.dtype):
                total = self.model(held[0]).total
            torch.autograd.grad(total, parameters, allow_unused=True)  # unlike backward(), sets no .grad

    def _batch(self, size: int) -> Batch:
        """Return a micro-batch of the run's widest windows, with every entry that a batch may have."""
        if isinstance(self.source, TrainingSource):
            windows: Windows = self.source.widest_windows(size)
        else:
            windows = self.source.windows(0, size)
        return self.model.collate(replace(windows, static_shapes=True))


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
