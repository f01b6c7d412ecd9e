"""Layers without torch's initial weights, for networks that draw or read their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_INITIALISERS = (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)  # what torch's layers call
_DRAWS = (Tensor.uniform_, Tensor.normal_)


class Undrawn(TorchFunctionMode):
    """While entered, new layers have weights of any value, and a draw into a tensor on "meta" does nothing.

    On "meta" torch decomposes a draw in Python, for which it imports its compiler (torch._dynamo and sympy, a second
    of CPU), although there is no storage to fill.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        tensor = args[0] if args else given.get("tensor")
        if func in _INITIALISERS or (func in _DRAWS and isinstance(tensor, Tensor) and tensor.is_meta):
            return tensor
        return func(*args, **given)


def table(make: Callable[[], Tensor]) -> Tensor:
    """Return a constant tensor on the default device, made on the CPU: on "meta" torch would import its compiler."""
    place = torch.get_default_device()
    with torch.device("cpu"):
        return make().to(place)
