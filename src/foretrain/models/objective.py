"""The `loss:` section: losses of predictions in a chosen target space, which replace a family's own loss.

Every loss is a SUM over elements and their count, so that the gradient does not depend on accumulation or on the number
of processes. Errors are computed from the scaled difference of forecast and target, never from two nearly equal prices.

# (...) rows and steps, Q levels
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from foretrain.config import Section
from foretrain.errors import ConfigError
from foretrain.models.base import Trainable
from foretrain.models.types import Loss, TrainingPrediction
from foretrain.nn.quantiles import check_levels, constant

# For forecasts below this share of the truth the logarithm is continued by its tangent, which has values and a gradient
# for prices of zero and less, where the logarithm has neither.
LOG_FLOOR = 0.1
SIGMA_FLOOR = 1e-3  # scaled: the smallest standard deviation in the likelihood
DECILES_APART = 2.5631031310892007  # standard normal: its 0.9 quantile minus its 0.1 quantile


class Space(NamedTuple):
    """A space in which a loss measures errors."""

    suffix: str  # of the metrics' names
    unit: str  # description
    delta: float | None  # default error at which the Huber loss turns linear; None = there is no sensible default
    relative: bool  # to the last value; undefined without one


SPACES = {
    "scaled": Space("scaled", "the family's scaled units", 1.0, False),
    "price": Space("price", "the units of the data", None, False),
    "pct_return": Space("pct", "percent return from the last close", 1.0, True),
    "log_return": Space("log_return", "log return from the last close", 0.01, True),
}
DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # default levels of pinball for a distribution
NODES = 16  # levels by which the CRPS of a distribution is integrated in log returns
SQUARED = {"mse", "huber"}  # losses whose unit is the square of the space's


class LossConfig(Section):
    """The loss of a run: the family's own, or a loss of predictions in a space.

    Omitted settings that have an effect get their defaults on construction, so that printed and saved configs show
    them.
    """

    name: Literal["own", "huber", "mse", "mae", "gaussian_nll", "pinball", "crps"] = "own"
    # scaled: as the family scales its targets; price: the units of the data; pct_return: 100 x (value - last) / |last|;
    # log_return: log(value / last); last is the newest value before the forecast starts
    space: Literal["scaled", "price", "pct_return", "log_return"] | None = None  # None = pct_return; own has none
    delta: float | None = Field(default=None, gt=0)  # huber: error at which it turns linear, in the space's unit
    # pinball: of the model's quantile levels, any levels of a distribution; None = all of the model's, or deciles
    levels: tuple[float, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _set_defaults(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or tree.get("name", "own") == "own":
            return tree
        filled = {**tree, "space": "pct_return" if tree.get("space") is None else tree["space"]}
        if filled["name"] == "huber" and filled.get("delta") is None and filled["space"] in SPACES:
            filled["delta"] = SPACES[filled["space"]].delta
        return filled

    @model_validator(mode="after")
    def _reject_unused_keys(self) -> LossConfig:
        for key, users in (("space", set(LOSSES)), ("delta", {"huber"}), ("levels", {"pinball"})):
            if getattr(self, key) is not None and self.name not in users:
                others = " or ".join(name for name in LOSSES if name in users)
                raise ValueError(f"{key} has no effect on loss {self.name!r}; remove it, or choose name: {others}")
        if self.name == "huber" and self.delta is None:
            raise ValueError("delta: prices have no typical error; set the error at which huber turns linear")
        if self.levels is not None:
            try:
                check_levels(self.levels)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def metric(self) -> str | None:
        """Name of the loss among the validation metrics, unit included; None for own."""
        if self.space is None:
            return None
        squared = "_squared" if self.name in SQUARED else "_nats" if self.name == "gaussian_nll" else ""
        return f"{self.name}_{SPACES[self.space].suffix}{squared}"

    @property
    def unit(self) -> str:
        """Description of the loss's unit."""
        if self.space is None:
            return "its own unit"
        if self.name == "gaussian_nll":
            return f"nats, of a density per {SPACES[self.space].unit}"
        return f"squared {SPACES[self.space].unit}" if self.name in SQUARED else SPACES[self.space].unit

    def describe(self) -> str:
        """Return a one-line description of the loss."""
        if self.space is None:
            return "loss: the family's own"
        settings = f" with delta {self.delta:g}" if self.delta is not None else ""
        settings += f" of the levels {', '.join(map(str, self.levels))}" if self.levels is not None else ""
        return f"loss: {self.name}{settings} in {self.unit} (val_{self.metric})"


@dataclass(frozen=True)
class Objective:
    """A loss of predictions, ready to be called; objective_for checks that a model supports it."""

    config: LossConfig

    @property
    def space(self) -> Space:
        """Space in which errors are measured."""
        assert self.config.space is not None
        return SPACES[self.config.space]

    @property
    def units(self) -> dict[str, str]:
        """Keys of metrics() with descriptions of their units."""
        found = {"loss": self.config.unit, str(self.config.metric): self.config.unit}
        found[f"mae_{self.space.suffix}"] = self.space.unit
        return found | ({"left_out_share": "share of observed values"} if self.space.relative else {})

    def __call__(self, predicted: TrainingPrediction) -> Loss:
        """Return the sum of the loss over the elements that count, and their number.

        An element counts if it is observed and the space is defined: returns need a last value other than 0, log
        returns a last value and a truth above 0.
        """
        return self._sum(LOSSES[self.config.name], predicted)

    def metrics(self, predicted: TrainingPrediction) -> dict[str, Loss]:
        """Return the metrics by name: "loss", the same loss under a name with its unit, the mean absolute error in the
        space's unit and, for returns, the share of observed elements that are left out because they have no return."""
        loss, mae = self(predicted), self._sum(_mae, predicted)
        observed = predicted.observed.sum().float()
        left_out = Loss(observed - loss.weight, observed)
        found = {"loss": loss, self.config.metric: loss, f"mae_{self.space.suffix}": mae, "left_out_share": left_out}
        return {str(name): found[name] for name in self.units}

    def _sum(self, loss: _Formula, predicted: TrainingPrediction) -> Loss:
        errors = _Errors(self.config.space, predicted)
        values = torch.where(errors.counts, loss(errors, self.config), 0.0)
        return Loss(values.sum(), errors.counts.sum().float())


def objective_for(config: LossConfig, model: Trainable) -> Objective | None:
    """Return the loss of predictions that a run's config selects; None for the family's own loss.

    Raises ConfigError, which lists the possible losses, if the model does not predict what the loss needs.
    """
    if config.name == "own":
        return None
    if not model.predicts_values:
        raise ConfigError(
            f"loss.name: {model.family} predicts no values while it trains, so {config.name} has nothing to act on; it "
            "takes only its own loss. Remove the loss section."
        )
    levels, distribution = model.predicted_levels, model.predicts_distribution
    spread = model.predicts_sigma or all(any(abs(known - x) < 1e-6 for known in levels) for x in (0.1, 0.9))
    possible = ["own", "huber", "mse", "mae", *["gaussian_nll"] * spread]
    possible += ["pinball", "crps"] if levels or distribution else []
    if config.name not in possible:
        needs = "a standard deviation or the quantiles 0.1 and 0.9" if config.name == "gaussian_nll" else "quantiles"
        raise ConfigError(
            f"loss.name: {config.name} needs {needs}, which this {model.family} does not predict (quantile levels: "
            f"{', '.join(map(str, levels)) or 'none'}). Choose one of {', '.join(possible)}."
        )
    for level in (not distribution and config.levels) or ():
        _index(levels, level)
    return Objective(config)


class _Errors:
    """Forecast minus truth in a space's unit; finite but meaningless where an element does not count."""

    def __init__(self, space: str | None, predicted: TrainingPrediction) -> None:
        self.space, self.predicted = space, predicted
        counts, last = predicted.observed, predicted.last
        if space in ("pct_return", "log_return"):
            counts = counts & last.isfinite() & (last != 0)
        if space == "log_return":
            truth = predicted.target * predicted.scale + predicted.loc
            counts = counts & (last > 0) & (truth > 0)
            self.truth = torch.where(counts, truth, 1.0)
        self.counts = counts
        self.scale = torch.where(counts, predicted.scale, 1.0)
        self.last = torch.where(counts, last, 1.0)

    @property
    def point(self) -> Tensor:
        """Errors (...) of the point forecast."""
        return self.of(self.predicted.point)

    def quantiles(self, levels: tuple[float, ...] | None) -> tuple[Tensor, Tensor]:
        """Return the errors (..., Q) of quantiles at levels (None = all, or deciles), and the levels (Q,)."""
        p = self.predicted
        if p.distribution is not None:
            levels = levels or DECILES
            chosen = p.distribution.quantiles(levels)
        else:
            assert p.quantiles is not None
            chosen = p.quantiles
            if levels is not None:
                chosen = torch.stack([chosen[..., _index(p.levels, level)] for level in levels], dim=-1)
        wide = {name: getattr(p, name)[..., None] for name in ("target", "observed", "loc", "scale", "last")}
        errors = _Errors(self.space, replace(p, **wide)).of(chosen)
        return errors, constant(levels or p.levels, errors.device, errors.dtype)

    def of(self, forecast: Tensor) -> Tensor:
        """Return the errors (...) of a scaled forecast (...)."""
        difference = torch.where(self.counts, forecast - self.predicted.target, 0.0)
        if self.space == "log_return":  # log(forecast / last) - log(truth / last)
            return _log1p(difference * self.scale / self.truth)
        return difference * self.unit

    @property
    def unit(self) -> Tensor | float:
        """Size of one scaled unit in the space's unit; for log returns near the last value, to first order."""
        if self.space == "scaled":
            return 1.0
        if self.space == "price":
            return self.scale
        return self.scale / self.last.abs() * (100 if self.space == "pct_return" else 1)

    @property
    def sigma(self) -> Tensor:
        """Predicted standard deviation (...), at least the floor.

        Below the floor the gradient passes as if there were no floor, so that a collapsed or crossed spread still
        widens.
        """
        found = self.predicted.sigma
        if found is None:
            quantiles, levels = self.predicted.quantiles, self.predicted.levels
            assert quantiles is not None
            found = (quantiles[..., _index(levels, 0.9)] - quantiles[..., _index(levels, 0.1)]) / DECILES_APART
        found = torch.where(self.counts, found, 1.0)
        return (found + (found.clamp(min=SIGMA_FLOOR) - found).detach()) * self.unit


def _log1p(ratio: Tensor) -> Tensor:
    """log(1 + ratio), continued below LOG_FLOOR by its tangent there."""
    edge = LOG_FLOOR - 1
    inside = torch.log1p(ratio.clamp(min=edge))
    return inside + (ratio.clamp(max=edge) - edge) / LOG_FLOOR


def _huber(errors: _Errors, config: LossConfig) -> Tensor:
    """e^2 / 2 up to delta, delta * (|e| - delta / 2) beyond."""
    assert config.delta is not None
    error = errors.point
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=config.delta)


def _mse(errors: _Errors, config: LossConfig) -> Tensor:
    """e^2."""
    return errors.point.square()


def _mae(errors: _Errors, config: LossConfig) -> Tensor:
    """|e|."""
    return errors.point.abs()


def _gaussian_nll(errors: _Errors, config: LossConfig) -> Tensor:
    """-log of the normal density around the point in nats, the density being one per unit of the space."""
    sigma = errors.sigma
    return sigma.log() + (errors.point / sigma).square() / 2 + math.log(2 * math.pi) / 2


def _pinball(errors: _Errors, config: LossConfig) -> Tensor:
    """Mean over levels of twice the pinball loss; for the median alone this is the absolute error."""
    error, levels = errors.quantiles(config.levels)
    return 2 * torch.maximum((1 - levels) * error, -levels * error).mean(-1)


def _crps(errors: _Errors, config: LossConfig) -> Tensor:
    """Integral over levels of twice the pinball loss.

    Of a distribution as the family computes it, in log returns by Gauss-Legendre's rule; of quantiles by the
    trapezoidal rule over all levels, the integrand being 0 at the levels 0 and 1.
    """
    p = errors.predicted
    if p.distribution is not None and errors.space != "log_return":
        return p.distribution.crps() * errors.unit
    nodes, weights = _trapezoidal(p.levels) if p.distribution is None else _gauss_legendre()
    error, levels = errors.quantiles(nodes)
    loss = torch.maximum((1 - levels) * error, -levels * error)
    return 2 * (loss * constant(weights, error.device, error.dtype)).sum(-1)


def _trapezoidal(levels: tuple[float, ...]) -> tuple[tuple[float, ...], list[float]]:
    edges = np.array([0.0, *levels, 1.0])
    return levels, (0.5 * (edges[2:] - edges[:-2])).tolist()


@functools.cache
def _gauss_legendre() -> tuple[tuple[float, ...], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return tuple((0.5 + 0.5 * nodes).tolist()), (0.5 * weights).tolist()


_Formula = Callable[[_Errors, LossConfig], Tensor]
LOSSES: dict[str, _Formula] = {
    "huber": _huber, "mse": _mse, "mae": _mae, "gaussian_nll": _gaussian_nll, "pinball": _pinball, "crps": _crps
}  # fmt: skip


def _index(levels: tuple[float, ...], level: float) -> int:
    """Return the index of a level. Raises ConfigError if it is not among the levels."""
    for index, known in enumerate(levels):
        if abs(known - level) < 1e-6:
            return index
    raise ConfigError(f"loss.levels: {level} is not among the model's quantile levels, {', '.join(map(str, levels))}.")
