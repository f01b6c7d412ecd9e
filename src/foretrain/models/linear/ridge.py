"""The linear model in closed form: ridge regression of a few steps on those before them, in place of training.

The projections of patches are identities, so that the head sees the scaled context itself, with a local mean where
nothing was observed. All levels have the weights of the point forecast; their biases differ by quantiles of its errors.

# N examples, C context steps, H horizon, Q levels
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foretrain.models.linear.config import LEVELS, LinearConfig
from foretrain.models.linear.forecaster import Linear
from foretrain.models.linear.model import LinearNetwork, moving_average, scale

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # per example; the least error on held-out examples chooses
_UNCHOSEN = 1e-1  # without held-out examples
_EACH_STEP = 100  # held-out examples from which on each step has quantiles of its own
_PATCH = 16
_LARGEST = 10.0  # standard deviations of a context, to which values to forecast are clipped in the fit

Array = NDArray[np.float64]


class Examples(NamedTuple):
    """Windows to fit to."""

    contexts: Array  # (N, C) NaN = not observed
    futures: Array  # (N, H) all observed
    old: NDArray[np.bool_]  # (N,) fitted to where the penalty is chosen
    held_out: NDArray[np.bool_]  # (N,) whose errors choose it, and give the quantiles


def fit_linear(examples: Examples) -> Linear:
    """Return the linear model of C steps and H that fits examples, in eval mode on the CPU.

    Without old or held-out ones the penalty is fixed, and quantiles are those of the fit's own errors.
    """
    network = LinearNetwork.empty(
        LinearConfig(examples.contexts.shape[1], examples.futures.shape[1], patch_size=_PATCH, d_model=_PATCH)
    )
    features, targets = _scaled(network.config, examples)
    if examples.old.any() and examples.held_out.any():
        before = [_solve(features[examples.old], targets[examples.old], penalty) for penalty in PENALTIES]
        errors = [targets[examples.held_out] - _apply(one, features[examples.held_out]) for one in before]
        chosen = int(np.argmin([np.abs(one).mean() for one in errors]))
        fitted, left = _solve(features, targets, PENALTIES[chosen]), errors[chosen]
    else:
        fitted = _solve(features, targets, _UNCHOSEN)
        left = targets - _apply(fitted, features)
    _write(network, fitted, _error_quantiles(left))
    return Linear(network).eval()


class _Ridge(NamedTuple):
    weights: Array  # (D, H)
    bias: Array  # (H,)


def _scaled(config: LinearConfig, examples: Examples) -> tuple[Array, Array]:
    """Return what the head sees (N, D), and the values to forecast (N, H) in the same units, clipped."""
    missing = config.patches * config.patch_size - examples.contexts.shape[1]
    contexts = torch.from_numpy(np.pad(examples.contexts, ((0, 0), (missing, 0)), constant_values=np.nan))
    scaled = scale(contexts)
    trend = moving_average(scaled.values, scaled.observed, config.trend_kernel)
    features = torch.where(scaled.observed, scaled.values, trend).numpy()
    targets = (examples.futures - scaled.loc.numpy()) / scaled.scale.numpy()
    return features, np.clip(targets, -_LARGEST, _LARGEST)


def _solve(features: Array, targets: Array, penalty: float) -> _Ridge:
    middle, mean = features.mean(axis=0), targets.mean(axis=0)
    centred = features - middle
    gram = centred.T @ centred + penalty * len(features) * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (targets - mean))
    return _Ridge(weights, mean - middle @ weights)


def _apply(ridge: _Ridge, features: Array) -> Array:
    return features @ ridge.weights + ridge.bias


def _error_quantiles(errors: Array) -> Array:
    """Return the quantiles (H, Q) of errors (N, H): of each step, or of all steps together if there are few."""
    if len(errors) >= _EACH_STEP:
        return np.quantile(errors, LEVELS, axis=0).T
    return np.tile(np.quantile(errors, LEVELS), (errors.shape[1], 1))


def _write(network: LinearNetwork, ridge: _Ridge, quantiles: Array) -> None:
    """Put a ridge's weights into a network, with a bias (H, Q) for each step and level."""
    identity = torch.eye(_PATCH)
    with torch.no_grad():
        for layer in network.components.values():
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(identity)
            layer.bias.zero_()
        weights = np.repeat(ridge.weights.T, len(LEVELS), axis=0)  # of a step's levels, one after the other
        network.head.weight.copy_(torch.from_numpy(weights))
        network.head.bias.copy_(torch.from_numpy((ridge.bias[:, None] + quantiles).reshape(-1)))
