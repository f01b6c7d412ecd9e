"""Inputs of the network: masks, instance norm, patches, covariates known ahead.

# R rows (variates of all items), T context steps, P patch size, n context patches, N future patches, F future steps
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.layout import GroupLayout


@dataclass(frozen=True)
class Chronos2Inputs:
    """A batch with rows in the order of its layout; patches are normalised, and zero where not observed.

    An absent mask means that everything is observed. No tensor value is read to find out, so no device is synchronised.
    """

    values: Tensor  # (R, n, P)
    loc: Tensor  # (R, 1) float32
    scale: Tensor  # (R, 1) float32
    layout: GroupLayout
    num_output_patches: int
    observed: Tensor | None = None  # (R, n, P) bool
    patches_observed: Tensor | None = None  # (R, n) bool: patches with at least one observed step
    future: Tensor | None = None  # (R, N, P) covariates known ahead, normalised
    future_observed: Tensor | None = None  # (R, N, P) bool

    def of_rows(self, part: slice) -> Chronos2Inputs:
        """Return some rows, for layers that compute each row apart; the layout stays that of all."""
        names = ("values", "loc", "scale", "observed", "patches_observed", "future", "future_observed")
        given = {name: getattr(self, name) for name in names}
        return replace(self, **{name: x[part] for name, x in given.items() if x is not None})

    @property
    def patch_mask(self) -> Tensor:
        """(R, n) bool: context patches that hold data; other hidden states are meaningless."""
        if self.patches_observed is not None:
            return self.patches_observed
        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)


def prepare(
    config: Chronos2Config,
    context: Tensor,
    observed: Tensor | None,
    patches_observed: Tensor | None,
    *,
    layout: GroupLayout,
    num_output_patches: int,
    covariates: Tensor | None = None,
    known: Tensor | None = None,
) -> Chronos2Inputs:
    """Return the network's inputs of rows in the order of their layout.

    Args:
        config: the model's.
        context: (R, n*P) float, NaN = not observed.
        observed: (R, n*P) bool; None asserts that there is no NaN.
        patches_observed: (R, n) bool; None asserts that no patch is empty.
        layout: groups of the rows.
        num_output_patches: N.
        covariates: (R, F <= N*P) values known ahead, in original units.
        known: (R, F) bool, True where they are known; default: not NaN.
    """
    size = config.patch_size
    loc, scale = instance_statistics(context, complete=observed is None)
    values = normalise(config, context, loc, scale)
    if observed is not None:
        values = torch.where(observed, values, 0.0)
    future, future_observed = None, None
    if covariates is not None:
        present = ~covariates.isnan()
        known = present if known is None else known & present
        right = num_output_patches * size - covariates.shape[1]
        future = torch.where(known, normalise(config, covariates, loc, scale), 0.0)
        future, future_observed = (
            to_patches(F.pad(future, (0, right)), size),
            to_patches(F.pad(known, (0, right)), size),
        )
    return Chronos2Inputs(
        values=to_patches(values, size),
        loc=loc,
        scale=scale,
        layout=layout,
        num_output_patches=num_output_patches,
        observed=None if observed is None else to_patches(observed, size),
        patches_observed=patches_observed,
        future=future,
        future_observed=future_observed,
    )


def instance_statistics(context: Tensor, complete: bool = False) -> tuple[Tensor, Tensor]:
    """Return loc and scale (R, 1) of rows (R, T) in float32: mean and population deviation, NaN ignored.

    A row without values gets 0 and 1; a constant row gets scale 1e-5. `complete` asserts that there is no NaN.
    """
    context = context.float()
    if complete:
        loc = context.mean(dim=-1, keepdim=True)
        scale = (context - loc).square().mean(dim=-1, keepdim=True).sqrt()
    else:
        loc = context.nanmean(dim=-1, keepdim=True).nan_to_num(nan=0.0)
        scale = (context - loc).square().nanmean(dim=-1, keepdim=True).sqrt().nan_to_num(nan=1.0)
    return loc, torch.where(scale == 0, 1e-5, scale)


def normalise(config: Chronos2Config, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Convert data units (R, T) to the network's: (x - loc) / scale, then arcsinh if configured, in float32."""
    scaled = (x.float() - loc) / scale
    return scaled.arcsinh() if config.use_arcsinh else scaled


def unscale(config: Chronos2Config, normalised: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Convert the network's units (R, ..., H) to data units in float32; loc and scale are (R, 1)."""
    scaled = linear(config, normalised)
    shape = (-1, *[1] * (scaled.ndim - 1))
    return scaled * scale.view(shape) + loc.view(shape)


def linear(config: Chronos2Config, normalised: Tensor) -> Tensor:
    """Convert the network's units to standard deviations from loc in float32: undo the arcsinh, if configured."""
    wide = normalised.float()
    return wide.sinh() if config.use_arcsinh else wide


def to_patches(x: Tensor, size: int) -> Tensor:
    """(R, n*P) -> (R, n, P)."""
    return x.unflatten(-1, (-1, size))


def check_shapes(
    config: Chronos2Config,
    context: Tensor,
    context_mask: Tensor | None,
    group_ids: Tensor | None,
    covariates: Tensor | None,
    covariates_mask: Tensor | None,
    patches: int,
    target: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> None:
    """Raise ValueError if the arguments of the network's forward do not fit together."""
    if context.ndim != 2 or context.shape[1] < 1:
        raise ValueError(f"context has shape {tuple(context.shape)}, must be (rows, steps) with at least one step.")
    rows, size = len(context), config.patch_size
    if context_mask is not None and context_mask.shape != context.shape:
        raise ValueError(
            f"context_mask {tuple(context_mask.shape)} and context {tuple(context.shape)} differ in shape."
        )
    if group_ids is not None and group_ids.shape != (rows,):
        raise ValueError(f"group_ids has shape {tuple(group_ids.shape)}, must be ({rows},).")
    if patches < 1:
        raise ValueError(f"num_output_patches is {patches}, must be at least 1.")
    for name, x, mask in (("future_covariates", covariates, covariates_mask), ("future_target", target, target_mask)):
        if x is None:
            if mask is not None:
                raise ValueError(f"{name}_mask is given without {name}.")
            continue
        if x.ndim != 2 or len(x) != rows:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, must be ({rows}, steps).")
        if x.shape[1] > patches * size:
            raise ValueError(f"{name} has {x.shape[1]} steps, more than num_output_patches {patches} x {size}.")
        if mask is not None and mask.shape != x.shape:
            raise ValueError(f"{name}_mask {tuple(mask.shape)} and {name} {tuple(x.shape)} differ in shape.")
    if covariates is not None and target is not None and covariates.shape != target.shape:
        raise ValueError(
            f"future_covariates {tuple(covariates.shape)} and future_target {tuple(target.shape)} differ in shape."
        )
    if covariates is None or covariates_mask is None or covariates.is_cuda:  # reading values would synchronise
        return
    if bool((covariates.isnan() & covariates_mask.bool()).any()):
        raise ValueError("future_covariates has NaN where future_covariates_mask says that it is known.")
