"""Adds parameters that a batch does not use to its autograd graph."""

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
    """Return x with the parameters attached to its graph: they get a zero gradient.

    An optimizer then treats them alike in every batch, and DistributedDataParallel receives all gradients it waits for.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return _Attach.apply(x, *trainable) if trainable and torch.is_grad_enabled() else x
