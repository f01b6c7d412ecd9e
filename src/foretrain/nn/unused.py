"""Parameters that a batch does not need still take part in its graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def attach(x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """x itself, with a zero gradient for the parameters.

    So an optimizer treats them the same whatever the batch holds, and DistributedDataParallel waits for nobody.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    return _Attach.apply(x, *wanted) if wanted and torch.is_grad_enabled() else x
