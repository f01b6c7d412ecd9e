"""One optimizer step over micro-batches and ranks.

A model's loss is a sum and its weight. Both are summed over micro-batches and ranks, and gradients are divided by the
weight once, so that accumulation, uneven masks and any number of ranks give the same gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foretrain.distributed.world import World, local
from foretrain.models.base import Batch, move
from foretrain.training.ema import Ema
from foretrain.training.loader import PreparedBatch
from foretrain.training.optimizer import set_rates
from foretrain.training.parallel import Parallel, gradient_sync
from foretrain.training.precision import LossScaler, autocast, draw_seed, seed_draws
from foretrain.training.settings import MicroBatch, TrainingConfig
from foretrain.training.train_state import TrainState


@dataclass
class StepResult:
    """The result of a step: the same on every rank, except for the micro-batches, which are this rank's."""

    loss: float  # sum / weight over all micro-batches and ranks; NaN when the weight is 0
    weight: float
    grad_norm: float  # before clipping
    lr: float
    windows: int = 0  # over all micro-batches and ranks
    applied: bool = False  # True if the weights changed
    overflow: bool = False  # float16 only: the loss scale was too large and the update is skipped
    nonfinite: str = ""  # "loss" or "gradient" if a value is not finite
    stops: tuple[int, ...] = ()  # number of ranks that ask to stop, per reason
    # seconds of the step before on each rank, () on a single one: its own computing (OwnTime), its waits for data
    rank_work: tuple[float, ...] = ()
    rank_waits: tuple[float, ...] = ()
    # (micro-batch, loss sum, weight) if nonfinite
    micro_batches: list[tuple[MicroBatch, float, float]] = field(default_factory=list)


@dataclass
class LocalStepStats:
    """Statistics of this rank's micro-batches of a step."""

    micro_batches: list[MicroBatch] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # (2,) each: loss sum and weight
    data_wait: float = 0.0  # seconds spent waiting for data
    # (windows, context length, prediction length, rows per window) of each micro-batch that is not idle
    sizes: list[tuple[int, int, int, int]] = field(default_factory=list)
    padding_windows: list[int] = field(default_factory=list)  # of each of these: windows that only fill its shape

    @property
    def windows(self) -> int:
        """Number of windows in this rank's micro-batches."""
        return sum(size[0] for size in self.sizes)


class OwnTime:
    """Seconds that a rank computes before it waits for others: forward, and backward without an exchange.

    The last backward of a step exchanges gradients, so it takes as long as on the slowest rank and is left out. On a
    GPU, events measure the kernels; they are read at the step's host sync, so that watching adds none.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._begun: Any = None
        self._seconds = 0.0

    def begin(self) -> None:
        """Start a span."""
        self._begun = self._event() if self._cuda else time.perf_counter()

    def end(self) -> None:
        """End the span."""
        if self._cuda:
            self._spans.append((self._begun, self._event()))
        else:
            self._seconds += time.perf_counter() - self._begun

    def take(self) -> float:
        """Return the seconds of all spans, and start anew. On a GPU, call it after a host sync."""
        found = self._seconds + sum(first.elapsed_time(last) for first, last in self._spans) / 1e3
        self._seconds, self._spans = 0.0, []
        return found

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def not_profiled(part: str) -> None:
    """Do nothing: the mark of a step that nothing measures."""


class Updater:
    """Runs forward, backward, clipping, optimizer and weight average: the part of the loop that changes weights."""

    def __init__(
        self,
        network: nn.Module | Parallel,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        train_state: TrainState,
        config: TrainingConfig,
        *,
        seed: int,
        world: World,
    ) -> None:
        self.parallel = network if isinstance(network, Parallel) else Parallel(network)
        self.network, self.optimizer, self.ema = self.parallel.network, optimizer, ema
        self.train_state, self.config, self.seed, self.world = train_state, config, seed, world
        self.scaler = LossScaler(train_state, config.dtype)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # In float64 a step's sum of losses is exact enough not to depend on its partition; mps has no float64.
        self.sum_dtype = torch.float32 if world.device.type == "mps" else torch.float64
        self.own_time = OwnTime(world.device)
        self.mark: Callable[[str], object] = not_profiled  # called with the part of a step that ends there (profile.py)
        self._before = (0.0, 0.0)  # seconds of the step before: own computing, waits for data

    def step(
        self,
        batches: Iterator[PreparedBatch],
        lr: float,
        stops: Callable[[], tuple[int, ...]] = tuple,
        beta1: float | None = None,
    ) -> tuple[StepResult, LocalStepStats]:
        """Run one step. Weights, optimizer state and average change only if the loss and all gradients are finite.

        stops: returns 0 or 1 per reason to stop, which are summed over ranks; called late, so that a reason that comes
            during the step stops after it. beta1: Adam's beta1 if the schedule sets it, else None.
        """
        stats = self._accumulate(batches)
        sums = torch.stack(stats.losses).sum(0)
        asked = stops()
        numbers = (stats.windows, *asked, *self._times_of_ranks())
        counts = torch.tensor(numbers, dtype=self.sum_dtype, device=sums.device)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.parallel.sharded is None:
            reduced = self.world.all_reduce_sum(torch.cat([sums, counts]))
            self._mark_exchange()
            raw_norm = torch.nn.utils.get_total_norm(gradients).to(self.sum_dtype)
        else:
            squares = self.parallel.sharded.sum_of_squares(gradients, self.sum_dtype)
            *reduced, raw_norm = self.world.all_reduce_sum(torch.cat([sums, counts, squares.reshape(1)]))
            self._mark_exchange()
            reduced, raw_norm = torch.stack(reduced), raw_norm.sqrt()
        # the step's only host sync
        total, weight, windows, *others, norm = torch.cat([reduced, raw_norm.reshape(1)]).tolist()
        self._before = (0.0 if self.parallel.sharded else self.own_time.take(), stats.data_wait)
        # DDP and FSDP average gradients over ranks; the loss is a sum divided by the weight
        factor = self.world.size / weight / self.scaler.scale if weight else 0.0
        result = StepResult(total / weight if weight else math.nan, weight, norm * factor, lr, round(windows))
        result.stops, times = tuple(round(count) for count in others[: len(asked)]), others[len(asked) :]
        result.rank_work, result.rank_waits = tuple(times[::2]), tuple(times[1::2])
        result.nonfinite, result.overflow = self._check_finite(total + weight, norm)
        result.applied = weight > 0 and not result.nonfinite and not result.overflow
        if result.applied or result.overflow:
            self.scaler.update(result.overflow)
        if result.applied:
            self._apply(gradients, factor, result, beta1)
        self.optimizer.zero_grad(set_to_none=True)
        self.mark("optimizer")
        if result.nonfinite:
            losses = torch.stack(stats.losses).tolist()
            pairs = zip(stats.micro_batches, losses, strict=True)
            result.micro_batches = [(micro_batch, *loss) for micro_batch, loss in pairs if not micro_batch.idle]
        return result, stats

    def warm_up(self, batches: Iterable[Batch]) -> None:
        """Run forward and backward for each batch without side effects on gradients, random state or buffers.

        Ranks exchange nothing, but for the weights of a sharded model.
        """
        saved = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.parallel.unsharded():
            parameters = [p for p in self.network.parameters() if p.requires_grad]
            for batch in batches:
                with gradient_sync(self.network, last=False):
                    with autocast(self.world.device, self.config.dtype):
                        total = self.network(move(batch, self.world.device)).total
                    torch.autograd.grad(total, parameters, allow_unused=True)  # unlike backward(), sets no .grad
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)

    def _mark_exchange(self) -> None:
        """End the part in which ranks wait for each other; in a run of one process there is none."""
        if self.world.size > 1:
            self.mark("exchange")

    def _times_of_ranks(self) -> list[float]:
        """Return own computing and waits of the step before in this rank's place, 0 in those of others; [] alone."""
        if self.world.size == 1:
            return []
        times = [0.0] * (2 * self.world.size)
        times[2 * self.world.rank : 2 * self.world.rank + 2] = self._before
        return times

    def _accumulate(self, batches: Iterator[PreparedBatch]) -> LocalStepStats:
        """Run forward and backward of this rank's micro-batches of one step."""
        stats = LocalStepStats()
        while True:
            start = time.perf_counter()
            self.world.watch.tick("reading data")
            prepared = next(batches)
            stats.data_wait += time.perf_counter() - start
            self.mark("data")
            micro_batch = prepared.micro_batch
            self.world.watch.tick("computing")
            self.own_time.begin()
            batch = prepared.to(self.world.device)
            self.mark("copy")
            seed_draws(draw_seed(self.seed, micro_batch.step, micro_batch.k), self.world.device)
            with gradient_sync(self.network, micro_batch.last):
                with autocast(self.world.device, self.config.dtype):
                    loss = self.network(batch)
                self.mark("forward")
                if micro_batch.last:  # its backward exchanges gradients
                    self.own_time.end()
                if self.scaler.needs_start:
                    self.scaler.start(float(self.world.all_reduce_sum(loss.weight.detach().float().clone())))
                # an idle micro-batch takes part in the all-reduce of gradients and adds nothing to them
                scale = 0.0 if micro_batch.idle else self.scaler.scale
                (loss.total if scale == 1.0 else loss.total * scale).backward()
            if not micro_batch.last:
                self.own_time.end()
            self.mark("last backward" if micro_batch.last else "backward")
            value = torch.stack([loss.total.detach().to(self.sum_dtype), loss.weight.detach().to(self.sum_dtype)])
            stats.micro_batches.append(micro_batch)
            stats.losses.append(torch.zeros_like(value) if micro_batch.idle else value)
            if not micro_batch.idle:
                p = prepared
                stats.sizes.append((p.windows, p.context_length, p.prediction_length, p.rows))
                stats.padding_windows.append(p.padding_windows)
            if micro_batch.last:
                return stats

    def _check_finite(self, loss: float, norm: float) -> tuple[str, bool]:
        """Return ("loss", "gradient" or "" if both are finite, True for an overflow that a lower scale can avoid)."""
        if not math.isfinite(loss):
            return "loss", False
        if math.isfinite(norm):
            return "", False
        return ("gradient", False) if self.scaler.exhausted else ("", True)

    def _apply(self, gradients: list[Tensor], factor: float, result: StepResult, beta1: float | None) -> None:
        """Scale and clip the gradients, then step the optimizer and the weight average."""
        clip = self.config.clip_norm
        if clip is not None:
            factor *= min(1.0, clip / (result.grad_norm + 1e-6))
        if factor != 1.0:
            torch._foreach_mul_([local(gradient) for gradient in gradients], factor)  # pyright: ignore[reportPrivateImportUsage]
        set_rates(self.optimizer, result.lr, beta1)
        # some optimizers draw random numbers: they must be equal on every rank and in a resumed run
        seed_draws(draw_seed(self.seed, self.train_state.updates, -1), self.world.device)
        self.optimizer.step()
        self.mark("optimizer")
        if self.ema is not None:
            self.ema.update(self.train_state.updates)
            self.mark("average")
        self.train_state.updates += 1
