"""Tolerances that follow from the arithmetic, so that a test holds on every CPU.

A float32 sum depends on the order of its terms, and the order depends on the CPU, the number of threads and the shapes.
Bits are compared only where the same code runs in the same order on the same data. Everywhere else a test does one of
these, the first that applies:

1. runs both sides in float64, where another order moves the twelfth digit, and compares them to `WIDE`;
2. emulates the rounding of float32 in float64 and measures what it does to the result: `rounding`;
3. repeats a training run with its sums in other orders and measures how far that takes it: `assert_another_order`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

EPS = torch.finfo(torch.float32).eps  # 1.2e-7, twice the largest relative error of one rounding
WIDE = 1e-9  # of float64 results: 4e6 of its eps, which leaves room for networks that amplify, and none for a mistake
LARGEST = 1e30  # what is larger stands for infinity in a mask, and is not rounded
SAFETY = 4  # times what `rounding` found: random errors of some draws are not the worst ones


class _RoundingEmulated(TorchDispatchMode):
    """Inside, each float64 result of an operation, in backward passes too, has a relative error of up to EPS."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.Tag.inplace_view in func.tags or func.is_view or func._schema.is_mutable:
            return out
        return tree_map_only(Tensor, self._rounded, out)

    def _rounded(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            return x
        error = EPS * (2 * torch.rand(x.shape, dtype=x.dtype, generator=self.generator) - 1)
        return torch.where(x.abs() < LARGEST, x * (1 + error), x)


def _formula_of_float32():
    """Inside, what asks for a type's epsilon or largest number, and puts it into its formula, gets those of float32."""
    numbers = torch.finfo(torch.float32)
    return mock.patch("torch.finfo", lambda _dtype=None: numbers)


def rounding(
    run: Callable[[nn.Module], Mapping[str, Tensor]], network: nn.Module, draws: int = 4
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Exact results of a float32 network, and how far the rounding of float32 can move each of them.

    run: from a float64 copy of the network to named results, which it computes in float64. It runs once as it is, and
    `draws` times with a random relative error of up to EPS in the result of every operation. What the network amplifies
    and sums that cancel are so taken into account, operation by operation.

    Returns: the results in float64, and for each the largest deviation of an element.
    """
    wide = copy.deepcopy(network).double()
    with _formula_of_float32():
        exact = {name: value.detach().clone() for name, value in run(wide).items()}
        moved = dict.fromkeys(exact, 0.0)
        for seed in range(draws):
            with _RoundingEmulated(seed):
                found = {name: value.detach().clone() for name, value in run(wide).items()}
            for name, value in found.items():
                away = (value - exact[name]).abs().max().item()
                assert math.isfinite(away), f"{name}: the emulated rounding gives no number"
                moved[name] = max(moved[name], away)
    return exact, moved


def assert_near(found: Tensor, exact: Tensor, moved: float, what: str = "") -> None:
    """A float32 result is as near to the exact one as `rounding` says."""
    away = (found.detach().double() - exact).abs().max().item()
    assert away <= SAFETY * moved, f"{what}: {away:.2g} from the float64 result, of which rounding explains {moved:.2g}"


Curves = Mapping[str, Sequence[Any]]  # numbers or tensors by name, in the order of a run's steps

ORDERS = 8  # times what other orders of a run's sums differ from it: of few orders none is the farthest one
MOST = 1e-4  # of a value's size: a run that rounding moves farther compares nothing


def assert_another_order(found: Curves, run: Curves, orders: Sequence[Curves]) -> None:
    """Found curves are those of the run up to the order of its sums.

    In a training run every step adds rounding errors and amplifies those before it. `orders` are curves of the same run
    whose sums came in other orders, such as from micro-batches of another size in one process. Up to each step, found
    values may be ORDERS times as far away as the farthest of these, and a few last digits.
    """
    assert orders and all(found.keys() == run.keys() == order.keys() for order in orders)
    for name, values in run.items():
        moved = 0.0
        for k, (value, ours, *others) in enumerate(
            zip(values, found[name], *(order[name] for order in orders), strict=True)
        ):
            size = float(torch.as_tensor(value).abs().max())
            moved = max(moved, *(_away(other, value) for other in others))
            assert moved <= MOST * size, f"{name}[{k}]: other orders of the same sums are {moved:.2g} away from {size}"
            away = _away(ours, value)
            assert away <= ORDERS * moved + 4 * EPS * size, f"{name}[{k}]: {away:.2g} away; other orders {moved:.2g}"


def _away(a: Any, b: Any) -> float:
    a, b = (torch.as_tensor(x).double() for x in (a, b))
    assert a.shape == b.shape
    return (a - b).abs().max().item()


class InFloat64(TorchFunctionMode):
    """Inside, torch computes in float64 where code asks for float32: each tensor of that type is made one of float64.

    Backward passes have the types of their forward passes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        wide = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        result = func(*wide, **named)
        return result.double() if type(result) is Tensor and result.dtype == torch.float32 else result


@contextmanager
def training_in_float64() -> Iterator[None]:
    """Inside, trainers of one process use float64 for weights and all arithmetic; their data stay what they are."""
    from foretrain.training.trainer import Trainer  # a second, for this alone

    real = Trainer.fit

    def fit(trainer: Any) -> Any:
        tokenizer = getattr(trainer.model, "tokenizer", None)  # of Kronos: no part of the model that it trains
        for module in (trainer.model, *([] if tokenizer is None else [tokenizer])):
            module.double()
        with InFloat64():
            result = real(trainer)
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float64}
        return result

    with mock.patch.object(Trainer, "fit", fit):
        yield
