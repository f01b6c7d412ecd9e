"""The `loss:` section: losses of predictions on a declared target space, in place of a family's own.

Every loss is a SUM over elements and their count, so that accumulation and any number of processes give one gradient.
Errors are formed from the scaled difference of forecast and target, never from two nearly equal prices.

# (...) rows and steps, Q levels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from foretrain.config import Section
from foretrain.errors import ConfigError
from foretrain.models.base import Trainable
from foretrain.models.types import Loss, TrainingPrediction
from foretrain.nn.quantiles import check_levels, constant

# Forecasts below this share of the truth leave the logarithm along its tangent, which has values and a gradient for
# prices of zero and less, where the logarithm has neither.
LOG_FLOOR = 0.1
SIGMA_FLOOR = 1e-3  # scaled: the smallest standard deviation that the likelihood believes
DECILES_APART = 2.5631031310892007  # standard normal: its 0.9 quantile less its 0.1 quantile


class Space(NamedTuple):
    """Where a loss measures errors."""

    suffix: str  # of metrics' names
    unit: str  # in words
    delta: float | None  # where Huber's loss turns linear unless told otherwise; None = there is no sensible default
    relative: bool  # to the last value, and so undefined where there is none


SPACES = {
    "scaled": Space("scaled", "the family's scaled units", 1.0, False),
    "price": Space("price", "the units of the data", None, False),
    "pct_return": Space("pct", "percent return from the last close", 1.0, True),
    "log_return": Space("log_return", "log return from the last close", 0.01, True),
}
SQUARED = {"mse", "huber"}  # losses whose unit is the square of the space's


class LossConfig(Section):
    """What a run minimises: the family's own loss, or one of its predictions in a space. What is left out is filled in
    when it takes effect, so that a printed and a saved config say which."""

    name: Literal["own", "huber", "mse", "mae", "gaussian_nll", "pinball"] = "own"
    # scaled: as the family scales its targets; price: the units of the data; pct_return: 100 x (value - last) / |last|;
    # log_return: log(value / last), last being the newest value before the forecast begins
    space: Literal["scaled", "price", "pct_return", "log_return"] | None = None  # None = pct_return; own has none
    delta: float | None = Field(default=None, gt=0)  # huber: where it turns linear, in the space's unit
    levels: tuple[float, ...] | None = None  # pinball: of the model's quantile levels; None = all of them

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or tree.get("name", "own") == "own":
            return tree
        filled = {**tree, "space": "pct_return" if tree.get("space") is None else tree["space"]}
        if filled["name"] == "huber" and filled.get("delta") is None and filled["space"] in SPACES:
            filled["delta"] = SPACES[filled["space"]].delta
        return filled

    @model_validator(mode="after")
    def _only_what_counts(self) -> LossConfig:
        for key, users in (("space", set(LOSSES)), ("delta", {"huber"}), ("levels", {"pinball"})):
            if getattr(self, key) is not None and self.name not in users:
                others = " or ".join(name for name in LOSSES if name in users)
                raise ValueError(f"{key} has no effect on loss {self.name!r}; remove it, or choose name: {others}")
        if self.name == "huber" and self.delta is None:
            raise ValueError("delta: a price has no usual error; say from which one on huber is to be linear")
        if self.levels is not None:
            try:
                check_levels(self.levels)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def metric(self) -> str | None:
        """Name of the loss among validation's metrics, with its unit; None for own."""
        if self.space is None:
            return None
        squared = "_squared" if self.name in SQUARED else "_nats" if self.name == "gaussian_nll" else ""
        return f"{self.name}_{SPACES[self.space].suffix}{squared}"

    @property
    def unit(self) -> str:
        """The loss's unit in words."""
        if self.space is None:
            return "its own unit"
        if self.name == "gaussian_nll":
            return f"nats, of a density per {SPACES[self.space].unit}"
        return f"squared {SPACES[self.space].unit}" if self.name in SQUARED else SPACES[self.space].unit

    def describe(self) -> str:
        """The loss in words."""
        if self.space is None:
            return "loss: the family's own"
        settings = f" with delta {self.delta:g}" if self.delta is not None else ""
        settings += f" of the levels {', '.join(map(str, self.levels))}" if self.levels is not None else ""
        return f"loss: {self.name}{settings} in {self.unit} (val_{self.metric})"


@dataclass(frozen=True)
class Objective:
    """A loss of predictions, ready to be called; objective_for says whether a model can have it."""

    config: LossConfig

    @property
    def space(self) -> Space:
        """Where it measures errors."""
        assert self.config.space is not None
        return SPACES[self.config.space]

    @property
    def units(self) -> dict[str, str]:
        """Keys of metrics() with their units in words."""
        found = {"loss": self.config.unit, str(self.config.metric): self.config.unit}
        found[f"mae_{self.space.suffix}"] = self.space.unit
        return found | ({"left_out_share": "share of observed values"} if self.space.relative else {})

    def __call__(self, predicted: TrainingPrediction) -> Loss:
        """The sum of the loss over the elements that count, and how many these are.

        An element counts where it was observed and the space is defined: returns need a last value other than 0, log
        returns a last value and a truth above 0.
        """
        return self._sum(LOSSES[self.config.name], predicted)

    def metrics(self, predicted: TrainingPrediction) -> dict[str, Loss]:
        """By names: "loss", the same under a name that says its unit, the mean absolute error in the space's unit, and
        of returns the share of observed elements that were left out since they have none."""
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
    """The loss of a model's predictions that a run asks for; None for the family's own.

    Raises ConfigError where the model does not predict what the loss needs, with the losses that it can have.
    """
    if config.name == "own":
        return None
    if not model.predicts_values:
        raise ConfigError(
            f"loss.name: {model.family} predicts no values while it trains, so {config.name} has nothing to act on; it "
            "takes only its own loss. Remove the loss section."
        )
    levels = model.predicted_levels
    spread = model.predicts_sigma or all(any(abs(known - x) < 1e-6 for known in levels) for x in (0.1, 0.9))
    possible = ["own", "huber", "mse", "mae", *["gaussian_nll"] * spread, *["pinball"] * bool(levels)]
    if config.name not in possible:
        needs = "quantiles" if config.name == "pinball" else "a standard deviation or the quantiles 0.1 and 0.9"
        raise ConfigError(
            f"loss.name: {config.name} needs {needs}, which this {model.family} does not predict (quantile levels: "
            f"{', '.join(map(str, levels)) or 'none'}). Choose one of {', '.join(possible)}."
        )
    for level in config.levels or ():
        _index(levels, level)
    return Objective(config)


class _Errors:
    """Forecast minus truth in a space's unit; finite, and of no meaning, where it does not count."""

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
        """(...) of the point forecast."""
        return self.of(self.predicted.point)

    def quantiles(self, levels: tuple[float, ...] | None) -> tuple[Tensor, Tensor]:
        """(..., Q) of the quantiles of some levels, None = all, and these levels (Q,)."""
        p = self.predicted
        assert p.quantiles is not None
        chosen = p.quantiles
        if levels is not None:
            chosen = torch.stack([chosen[..., _index(p.levels, level)] for level in levels], dim=-1)
        wide = {name: getattr(p, name)[..., None] for name in ("target", "observed", "loc", "scale", "last")}
        errors = _Errors(self.space, replace(p, **wide)).of(chosen)
        return errors, constant(levels or p.levels, errors.device, errors.dtype)

    def of(self, forecast: Tensor) -> Tensor:
        """(...) of a scaled forecast (...)."""
        difference = torch.where(self.counts, forecast - self.predicted.target, 0.0)
        if self.space == "log_return":  # log(forecast / last) - log(truth / last)
            return _log1p(difference * self.scale / self.truth)
        return difference * self.unit

    @property
    def unit(self) -> Tensor | float:
        """What a scaled unit is in the space's; of log returns near the last value, to first order."""
        if self.space == "scaled":
            return 1.0
        if self.space == "price":
            return self.scale
        return self.scale / self.last.abs() * (100 if self.space == "pct_return" else 1)

    @property
    def sigma(self) -> Tensor:
        """(...) predicted standard deviation, at least the floor. Below the floor the gradient goes on as if there were
        none, so that a spread that has collapsed or crossed is still pushed apart."""
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
    """Mean over levels of twice the pinball loss: of the median alone, the absolute error."""
    error, levels = errors.quantiles(config.levels)
    return 2 * torch.maximum((1 - levels) * error, -levels * error).mean(-1)


_Formula = Callable[[_Errors, LossConfig], Tensor]
LOSSES: dict[str, _Formula] = {
    "huber": _huber, "mse": _mse, "mae": _mae, "gaussian_nll": _gaussian_nll, "pinball": _pinball
}  # fmt: skip


def _index(levels: tuple[float, ...], level: float) -> int:
    """Place of a level among others. Raises ConfigError where it is none of them."""
    for place, known in enumerate(levels):
        if abs(known - level) < 1e-6:
            return place
    raise ConfigError(f"loss.levels: {level} is none of the model's quantile levels, {', '.join(map(str, levels))}.")
