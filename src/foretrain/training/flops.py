"""Executed floating-point operations: counted from the shapes of what torch runs, and compared with what is needed.

Matrix products, convolutions and attention are counted, a multiply-add as 2; element-wise operations are not. torch has
formulas for most of them (torch.utils.flop_counter); those for attention on a CPU and for in-place products are here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.flop_counter import flop_registry

from foretrain.models.base import Trainable
from foretrain.training.step import LocalStepStats

_ATTENTION = ("flash", "efficient", "cudnn")  # kernels whose backward pass computes the scores again
PHASES = ("forward", "backward", "optimizer")


def _product(a: Tensor, b: Tensor) -> int:
    """Return the operations of a (..., m, k) times b (..., k) or (..., k, n)."""
    return 2 * a.numel() * (b.shape[-1] if b.ndim > 1 else 1)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Return the operations of both products; masked positions count like others."""
    *rows, width = query.shape
    return 2 * math.prod(rows) * key.shape[-2] * (width + value.shape[-1])


def _scores(query: Tensor, key: Tensor) -> int:
    return 2 * query.numel() * key.shape[-2]


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return torch's formulas, and ours for operations that it counts as none on a CPU."""
    aten = torch.ops.aten
    own: dict[str, Callable[..., int]] = {
        "addmm_": lambda total, a, b, **_: _product(a, b),
        "baddbmm_": lambda total, a, b, **_: _product(a, b),
        "addbmm": lambda total, a, b, **_: _product(a, b),
        "addbmm_": lambda total, a, b, **_: _product(a, b),
        "_addmm_activation": lambda total, a, b, **_: _product(a, b),
        "mv": lambda a, b, **_: _product(a, b),
        "addmv": lambda total, a, b, **_: _product(a, b),
        "addmv_": lambda total, a, b, **_: _product(a, b),
        "dot": lambda a, b, **_: _product(a, b),
        "_scaled_dot_product_flash_attention_for_cpu": lambda q, k, v, *_, **__: _attention(q, k, v),
        # the gradients of both products, and the scores again
        "_scaled_dot_product_flash_attention_for_cpu_backward": lambda g, q, k, v, *_, **__: (
            2 * _attention(q, k, v) + _scores(q, k)
        ),
    }
    return {**flop_registry, **{getattr(aten, name): formula for name, formula in own.items() if hasattr(aten, name)}}


class FlopCounter(TorchDispatchMode):
    """Counts the operations that torch runs inside, by the part of a step (`mark`) and by why they are run.

    Results are the same as outside. Compiled code is not counted: it would run uncompiled inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.micro_batches: list[dict[str, int]] = []  # forward and backward of each
        self.recomputed = 0  # of activations, in backward passes
        self.scores = 0  # of attention, computed again by its backward kernels
        self.total = 0
        self._formulas = _formulas()
        self._before = 0  # total at the last mark
        self._optimizer = 0
        self._part = ""  # the one that ended last
        self._recomputing = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            count = int(formula(*args, **(kwargs or {}), out_val=out))
            self.total += count
            if self._recomputing:
                self.recomputed += count
            name = func._overloadpacket.__name__
            if name.endswith("_backward") and any(f"{kind}_attention" in name for kind in _ATTENTION):
                self.scores += _scores(*args[1:3])
        return out

    def mark(self, part: str) -> None:
        """End a part of the step (Updater.mark)."""
        count, self._before, self._part = self.total - self._before, self.total, part
        if part == "data":
            self.micro_batches.append(dict.fromkeys(PHASES[:2], 0))
        elif part == "forward":
            self.micro_batches[-1]["forward"] += count
        elif part.endswith("backward"):
            self.micro_batches[-1]["backward"] += count
        else:
            self._optimizer += count

    @property
    def optimizer(self) -> int:
        """Operations after the last backward pass."""
        return self._optimizer

    @contextmanager
    def watching(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """Tell activations that the blocks compute again from the rest of a backward pass, inside the block."""
        found = [(block, vars(block).get("forward")) for block in blocks]
        try:
            for block, forward in found:
                if isinstance(forward, functools.partial) and forward.func is recompute:
                    again = functools.partial(self._watched, forward.args[0])
                    block.forward = functools.partial(recompute, again, **forward.keywords)
            yield
        finally:
            for block, forward in found:
                if forward is not None:
                    block.forward = forward

    def _watched(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        again = self._part == "forward"  # the backward pass is under way
        self._recomputing += again
        try:
            return forward(*args, **kwargs)
        finally:
            self._recomputing -= again


@dataclass(frozen=True)
class FlopReport:
    """Operations of a step on one rank: those needed, by the family's own count, and those executed."""

    needed: float  # of both passes of the step's windows
    executed: int
    differences: dict[str, float] = field(default_factory=dict)  # why -> operations; needed + their sum = executed


def compare(counter: FlopCounter, model: Trainable, stats: LocalStepStats) -> FlopReport:
    """Return what a counted step needed and executed, with the reasons of their difference. The last two hold the rest.

    Both counts are of the lengths that a micro-batch was padded to, and take attention as full, also over masked steps.
    """
    count = model.pass_flops
    per_window = [count(*size) for _, *size in stats.sizes]
    needed = [sum(n * one[k] for (n, *_), one in zip(stats.sizes, per_window, strict=True)) for k in (0, 1)]
    padding = [sum(n * one[k] for n, one in zip(stats.padding_windows, per_window, strict=True)) for k in (0, 1)]
    pairs = list(zip(stats.micro_batches, counter.micro_batches, strict=True))
    idle = sum(sum(found.values()) for micro_batch, found in pairs if micro_batch.idle)
    forward, backward = (
        sum(found[name] for micro_batch, found in pairs if not micro_batch.idle) for name in PHASES[:2]
    )
    found = {
        "windows that only fill a batch": sum(padding),
        "passes of an idle rank": float(idle),
        "activations computed again": float(counter.recomputed),
        "scores of attention computed again": float(counter.scores),
        "optimizer": float(counter.optimizer),
        "forward, beside the family's count": forward - needed[0] - padding[0],
        "backward, beside the family's count": backward - counter.recomputed - counter.scores - needed[1] - padding[1],
    }
    return FlopReport(sum(needed), counter.total, {name: value for name, value in found.items() if value})


def needed_flops(model: Trainable, stats: LocalStepStats) -> float:
    """Return the operations that both passes of this rank's windows of a step need."""
    return sum(windows * model.step_flops(*size) for windows, *size in stats.sizes)
