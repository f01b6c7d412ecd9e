"""One optimizer step over micro-batches and ranks.

A family's loss is a sum and its weight. Both are summed over micro-batches and ranks, and gradients are divided by the
weight once, so that accumulation, uneven masks and any number of ranks give the same gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foretrain.distributed.world import World
from foretrain.models.base import Batch, move
from foretrain.training.ema import Ema
from foretrain.training.loader import PreparedBatch
from foretrain.training.optimizer import set_rates
from foretrain.training.parallel import gradient_sync
from foretrain.training.precision import LossScaler, autocast, draw_seed, seed_draws
from foretrain.training.settings import MicroBatch, TrainingConfig
from foretrain.training.train_state import TrainState


@dataclass
class StepResult:
    """What a step did. Pieces are this rank's; everything else is the same on every rank."""

    loss: float  # sum / weight over all micro-batches and ranks; NaN when the weight is 0
    weight: float
    grad_norm: float  # before clipping
    lr: float
    windows: int = 0  # over all micro-batches and ranks
    applied: bool = False  # whether weights changed
    overflow: bool = False  # float16 only: the scale was too large and the update is left out
    nonfinite: str = ""  # "loss" or "gradient" when a value is not finite
    stops: tuple[int, ...] = ()  # how many ranks ask to stop, per reason
    pieces: list[tuple[MicroBatch, float, float]] = field(
        default_factory=list
    )  # (piece, loss sum, weight), if nonfinite


@dataclass
class LocalStepStats:
    """What this rank's micro-batches of a step came to."""

    pieces: list[MicroBatch] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)  # (2,) each: loss sum and weight
    wait: float = 0.0  # seconds spent waiting for data
    sizes: list[tuple[int, int, int, int]] = field(default_factory=list)  # windows, context, horizon, rows of a window

    @property
    def windows(self) -> int:
        """Of this rank's micro-batches."""
        return sum(size[0] for size in self.sizes)


class Updater:
    """Forward, backward, clip, optimizer, average: the part of the loop that touches weights."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        progress: TrainState,
        config: TrainingConfig,
        *,
        seed: int,
        world: World,
    ) -> None:
        self.network, self.optimizer, self.ema = network, optimizer, ema
        self.progress, self.config, self.seed, self.world = progress, config, seed, world
        self.scaler = LossScaler(progress, config.dtype)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # mps has no float64; elsewhere a step's sum of losses is exact enough not to depend on its partition
        self.wide = torch.float32 if world.device.type == "mps" else torch.float64

    def step(
        self, batches: Iterator[PreparedBatch], lr: float, stops: tuple[int, ...], beta1: float | None = None
    ) -> tuple[StepResult, LocalStepStats]:
        """One step. Weights, optimizer state and average stay untouched unless everything is finite.

        beta1: where the schedule rules Adam's; None = as configured.
        """
        share = self._accumulate(batches)
        sums = torch.stack(share.values).sum(0)
        asked = torch.tensor((share.windows, *stops), dtype=self.wide, device=sums.device)
        reduced = self.world.all_reduce_sum(torch.cat([sums, asked]))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        raw_norm = torch.nn.utils.get_total_norm(gradients).to(self.wide)
        total, weight, windows, *counts, norm = torch.cat(
            [reduced, raw_norm.reshape(1)]
        ).tolist()  # the step's one host sync
        # DDP averaged over ranks; the loss is a sum over weight
        factor = self.world.size / weight / self.scaler.scale if weight else 0.0
        outcome = StepResult(total / weight if weight else math.nan, weight, norm * factor, lr, round(windows))
        outcome.stops = tuple(round(count) for count in counts)
        outcome.nonfinite, outcome.overflow = self._judge(total + weight, norm)
        outcome.applied = weight > 0 and not outcome.nonfinite and not outcome.overflow
        if outcome.applied or outcome.overflow:
            self.scaler.observe(outcome.overflow)
        if outcome.applied:
            self._apply(gradients, factor, outcome, beta1)
        self.optimizer.zero_grad(set_to_none=True)
        if outcome.nonfinite:
            values = torch.stack(share.values).tolist()
            outcome.pieces = [(p, *v) for p, v in zip(share.pieces, values, strict=True) if not p.idle]
        return outcome, share

    def warm_up(self, batches: Iterable[Batch]) -> None:
        """One forward and backward pass of each batch that leaves no trace: no gradient, draw, buffer or exchange."""
        kept = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        with torch.random.fork_rng([self.world.device] if self.world.device.type == "cuda" else []):
            for batch in batches:
                with gradient_sync(self.network, last=False):
                    with autocast(self.world.device, self.config.dtype):
                        total = self.network(move(batch, self.world.device)).total
                    torch.autograd.grad(total, self.parameters, allow_unused=True)  # unlike backward(), keeps nothing
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)

    def _accumulate(self, batches: Iterator[PreparedBatch]) -> LocalStepStats:
        share = LocalStepStats()
        while True:
            began = time.perf_counter()
            prepared = next(batches)
            share.wait += time.perf_counter() - began
            piece = prepared.piece
            batch = prepared.on(self.world.device)
            seed_draws(draw_seed(self.seed, piece.step, piece.k), self.world.device)
            with gradient_sync(self.network, piece.last):
                with autocast(self.world.device, self.config.dtype):
                    loss = self.network(batch)
                if self.scaler.needs_start:
                    self.scaler.start(float(self.world.all_reduce_sum(loss.weight.detach().float().clone())))
                # an idle piece takes part in the exchange of gradients and adds nothing to them
                scale = 0.0 if piece.idle else self.scaler.scale
                (loss.total if scale == 1.0 else loss.total * scale).backward()
            value = torch.stack([loss.total.detach().to(self.wide), loss.weight.detach().to(self.wide)])
            share.pieces.append(piece)
            share.values.append(torch.zeros_like(value) if piece.idle else value)
            if not piece.idle:
                p = prepared
                share.sizes.append((p.windows, p.context_length, p.prediction_length, p.rows))
            if piece.last:
                return share

    def _judge(self, loss: float, norm: float) -> tuple[str, bool]:
        """(what is not finite, whether it is float16's ordinary overflow)."""
        if not math.isfinite(loss):
            return "loss", False
        if math.isfinite(norm):
            return "", False
        return ("gradient", False) if self.scaler.exhausted else ("", True)

    def _apply(self, gradients: list[Tensor], factor: float, outcome: StepResult, beta1: float | None) -> None:
        clip = self.config.clip_norm
        if clip is not None:
            factor *= min(1.0, clip / (outcome.grad_norm + 1e-6))
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        set_rates(self.optimizer, outcome.lr, beta1)
        # some optimizers draw; every rank must draw the same, a resumed run too
        seed_draws(draw_seed(self.seed, self.progress.updates, -1), self.world.device)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.progress.updates)
        self.progress.updates += 1
