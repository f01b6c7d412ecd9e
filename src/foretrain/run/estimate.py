"""What a run will take: memory of weights, optimizer and activations, and time. Measured where that is cheap."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from foretrain.adapters.layers import parameter_counts
from foretrain.data.buckets import Buckets, MicroBatches
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.models import family
from foretrain.models.base import Trainable
from foretrain.run.build import build_model
from foretrain.run.config import RunConfig
from foretrain.run.counting import Passes, Size, TooLong, count_passes, passes
from foretrain.training.loader import BatchLoader, plan_of, stream_of
from foretrain.training.memory import ResidentGrowth
from foretrain.training.micro_batch import Found, find
from foretrain.training.offload import offloads, on_device
from foretrain.training.optimizer import build_optimizer, state_size
from foretrain.training.parallel import checkpoint_activations, shards, unwrap
from foretrain.training.precision import autocast
from foretrain.training.settings import MicroBatch

LONGEST = 4.0  # seconds that a measured micro-batch may take
COUNTING = 1.5  # seconds that a forward pass may take whose activations are counted: a model may have 1,000 layers
TRIED = 0.3  # seconds for which a shorter one is repeated
SHARE = 0.3  # of the speed of one matrix product that a model is assumed to reach
_MOST = 2**22  # values of a micro-batch that is built to count its activations: some 200 MB in its preparation
PRICES = ("open", "high", "low", "close", "volume")  # columns of blank windows, for families that read prices


@dataclass(frozen=True)
class Memory:
    """Bytes of a run's tensors on the device of one process, without activations."""

    weights: int
    gradients: int
    optimizer: int
    shards: int = 1  # processes that the three are split over
    gathered: int = 0  # of split weights: what a process has whole while it trains
    whole: int = 0  # of split weights: all of them, which each process holds in validation and at the end
    host: int = 0  # of the optimizer: what stays in the host's memory, of which `visiting` is on the device at once
    visiting: int = 0

    @property
    def total(self) -> int:
        """Their sum in training."""
        return self.weights + self.gradients + self.optimizer + self.visiting + self.gathered

    def checkpoint(self, model: Trainable) -> int:
        """Bytes of a checkpoint: no gradients and, of a model with an adapter, no frozen weights."""
        return self.optimizer + self.host + (self.weights if model.adapter is None else self.gradients)

    @property
    def most(self) -> int:
        """The most that a process holds: in training, or in validation and at the end."""
        return max(self.total, self.weights + self.optimizer + self.whole)


@dataclass(frozen=True)
class Measured:
    """What one micro-batch of a run took."""

    seconds: float  # loading, forward and backward pass
    update: float  # seconds of an optimizer step
    passes: Passes
    flops: float
    # bytes of memory that the process took for one of its tensors, since a heap has gaps; 1 where it is not known
    heap: float = 1.0


def memory_of(config: RunConfig, model: Trainable, world: World | None = None, accumulates: bool = False) -> Memory:
    """Return the memory of a model's weights, which stay float32, their gradients and the optimizer.

    world: the processes that may share it; None = one, with all on its device. accumulates: a step has several
    micro-batches a process.
    """
    trained, count = parameter_counts(model)
    n = 1 if world is None else shards(config.training, model, world)
    state, average = state_size(model, config.optimizer), (trained if config.training.ema_decay else 0)
    away = state if world is not None and offloads(config.training, world.device) else 0
    each = (math.ceil(4 * part / n) for part in (count, trained, state + average - away, away))
    weights, gradients, optimizer, host = each
    alone = Memory(weights, gradients, optimizer, host=host, visiting=on_device(host, model, n))
    if n == 1:
        return alone
    return replace(alone, shards=n, gathered=_gathered(config, model, accumulates), whole=4 * count)


def _gathered(config: RunConfig, model: Trainable, accumulates: bool) -> int:
    """Return the bytes of what FSDP holds whole in a backward pass.

    The weights outside of blocks, two blocks (the one in use and the next), and the gradients of one block; while they
    accumulate, those of the whole model.
    """
    (trained, count), blocks = parameter_counts(model), [parameter_counts(block) for block in model.blocks()]
    inside = sum(all_ for _, all_ in blocks)
    kept = min(2 * max((all_ for _, all_ in blocks), default=0), inside)
    if not config.training.reshard_after_forward:
        kept = inside
    return 4 * (count - inside + kept + (trained if accumulates else max((one for one, _ in blocks), default=0)))


def sizes_of(config: RunConfig, source: AnySource | None, world: World) -> list[Size]:
    """Return the sizes of a run's micro-batches; of unknown data those that the config tells."""
    data, training = config.data, config.training
    stream = None if source is None else stream_of(source, training)
    if isinstance(stream, Buckets):
        return [Size(b.micro_batches, b.micro_batch, b.context_length, b.prediction_length, b.variates)
                for b in stream.buckets]  # fmt: skip
    if isinstance(stream, MicroBatches):
        made = [stream.padding_batch(*shape) for shape in stream.shapes]
        return [Size(1, len(w), w.context.shape[1], w.future.shape[1], len(w.context) // len(w)) for w in made]
    rows = max(len([*(data.target or ()), *data.past_covariates, *data.known_covariates]), 1)
    rows = rows if source is None else source.rows_per_window
    windows = training.given_micro_batch or -(-training.batch_size // world.size)
    if training.token_budget is not None:
        assert training.token_budget.max_tokens_per_batch != "auto", "auto.settle comes first"
        tokens = (data.context_length + data.prediction_length) * rows
        windows = max(training.token_budget.max_tokens_per_batch // tokens, 1)
    return [Size(1, windows, data.context_length, data.prediction_length, rows)]


def mean_flops(model: Trainable, sizes: Sequence[Size]) -> float:
    """Return the FLOPs of forward and backward pass of a micro-batch, on average."""
    total = sum(s.weight * s.windows * model.step_flops(s.context_length, s.horizon, s.rows) for s in sizes)
    return total / sum(s.weight for s in sizes)


def most_activations(config: RunConfig, model: Trainable, sizes: Sequence[Size]) -> int | None:
    """Return the bytes that the forward pass of the largest micro-batch keeps for the backward pass, at most.

    In float32 and without fused attention; None as of most_passes.
    """
    found = most_passes(config, model, sizes, torch.device("cuda"), time.thread_time() + COUNTING)
    return None if found is None else found.kept


def most_passes(
    config: RunConfig, model: Trainable, sizes: Sequence[Size], device: torch.device, until: float
) -> Passes | None:
    """Return what the passes of the largest micro-batch take; device and until as of count_passes.

    The model is on "meta", so nothing is computed. None for a model that needs values, if four windows have more than
    _MOST values, and if it takes too long. A larger micro-batch is counted by two to four windows: from two on the
    bytes are a polynomial of their number, of degree 2 where windows attend to each other.
    """
    names = PRICES if family(config.model.family).needs else ()
    size = max(sizes, key=lambda size: size.values)
    size = size._replace(rows=len(names) or size.rows)
    few = [size] if size.values <= _MOST else [size._replace(windows=count) for count in (2, 3, 4)]
    if few[-1].values > _MOST:
        return None
    found = list[Passes]()
    for one in few:
        try:
            counted = count_passes(model, one, names, config.training, device, until)
        except TooLong:
            return None
        if counted is None:
            return None
        found.append(counted)
    if len(found) == 1:
        return found[0]
    more = size.windows - 2
    return Passes(*(_continued(of_few, more) for of_few in zip(*found, strict=True)))


def _continued(found: tuple[int, ...], more: int) -> int:
    """Return the value of a polynomial of degree 2 `more` places after the first of three of its values."""
    curve = found[2] - 2 * found[1] + found[0]
    return found[0] + more * (found[1] - found[0]) + more * (more - 1) // 2 * curve


def device_speed(device: torch.device, dtype: str) -> float:
    """Return the FLOP/s of a matrix product on a device, in a tenth of a second."""
    kind = getattr(torch, dtype)
    a = torch.ones(512, 512, device=device, dtype=kind)
    best, end = 0.0, time.perf_counter() + 0.1
    while time.perf_counter() < end:
        start = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        best = max(best, 2 * 512**3 / (time.perf_counter() - start))
    return best


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory that a device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure(config: RunConfig, source: AnySource, world: World) -> Measured:
    """Run the first micro-batch of a new model again and again, on this rank alone, and return the least that it took.

    Reads the weights; writes nothing. Raises TooLong, and the errors of build_model and of the device.
    """
    taken = ResidentGrowth()
    model = build_model(config).to(world.device).train()
    loader = BatchLoader(model, source, config.training, World(device=world.device))
    plan = plan_of(loader.stream, config.training, world.size)
    first = MicroBatch(0, 0, 0, plan.micro_batches(0)[0][1], idle=False, last=True)
    with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        update = _time_of_update(config, model)
        prepared = loader.prepare(first)
        batch = prepared.to(world.device)
        now = time.thread_time()
        found = passes(model, batch, config.training, config.training.dtype, now + COUNTING, now + 3 * COUNTING)
        checkpoint_activations(model, config.training)
        seconds, end = math.inf, time.perf_counter() + TRIED
        while seconds == math.inf or time.perf_counter() < end:
            start = time.perf_counter()
            if plan.unit == "windows":  # others are drawn by processes of their own, or are of one shape each
                batch = loader.prepare(first).to(world.device)
            with autocast(world.device, config.training.dtype):
                loss = model(batch)
            loss.total.backward()
            _wait(world.device)
            seconds = min(seconds, time.perf_counter() - start)
            del loss
            model.zero_grad(set_to_none=True)
        unwrap(model)
    lengths = prepared.context_length, prepared.prediction_length
    flops = prepared.windows * model.step_flops(*lengths, prepared.rows)
    heap = 1.0
    if world.device.type == "cpu" and (bytes_ := taken.bytes()) is not None:
        weights, state = 4 * parameter_counts(model)[1], 4 * state_size(model, config.optimizer)
        heap = max(bytes_ / (weights + model.other_weights + state + found.peak), 1.0)
    return Measured(seconds, update, found, flops, heap)


def _time_of_update(config: RunConfig, model: Trainable) -> float:
    """Return the seconds of an optimizer step, whose state stays in memory: gradients of zero are as good as others."""
    device = next(model.parameters()).device
    optimizer = build_optimizer(model, config.optimizer, offloads(config.training, device))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()  # makes its state
    start = time.perf_counter()
    optimizer.step()
    _wait(device)
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds


def micro_batch_of(config: RunConfig, source: AnySource, world: World) -> Found:
    """Return what training.micro_batch_size: auto becomes, as this process alone finds it; raises as measure."""
    model = build_model(config).to(world.device).train()
    return find(model, source, config.training, config.optimizer, world, alone=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
