"""Groups of series that depend on each other: targets, covariates of the past, and covariates known ahead.

Chronos-2's report makes multivariate series of univariate ones by cotemporaneous (linear, nonlinear) and sequential
(lead-lag, cointegration) multivariatizers, without distributions; the ranges are our own.

# N groups, V variates (rows) of a group, T steps
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.data.synthetic.base import (
    Floats,
    Ints,
    PositiveRange,
    Range,
    Share,
    autoregression,
    between,
    chance,
    deviation,
    log_between,
    pick_by,
)
from foretrain.data.synthetic.causal import Causal
from foretrain.data.synthetic.covariates import Known
from foretrain.data.synthetic.trend_season import irregular

Base = Callable[[np.random.Generator, int, int], Floats]  # (rng, count, length) -> (count, length) univariate series
KINDS = ("independent", "linear", "nonlinear", "lead_lag", "cointegrated", "causal")
_FEWEST_BEFORE = 4  # steps that are simulated before the first one, at least
_WIDEST = 8  # steps over which a driver acts
_MOST_VALUES = 1 << 23  # that are computed at once, so that memory stays small


class Weights(Section):
    """Shares of groups by the way in which their rows depend on each other, relative to one another.

    Attributes:
        independent: not at all, so that a model learns to ignore covariates.
        linear, nonlinear: mixtures of base series at the same step.
        lead_lag: moved copies of a common driver.
        cointegrated: common random walks with stationary errors.
        causal: temporal causal graphs.
    """

    independent: float = Field(default=0.1, ge=0.0)
    linear: float = Field(default=0.2, ge=0.0)
    nonlinear: float = Field(default=0.1, ge=0.0)
    lead_lag: float = Field(default=0.2, ge=0.0)
    cointegrated: float = Field(default=0.15, ge=0.0)
    causal: float = Field(default=0.25, ge=0.0)

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not np.isfinite(self.all).all() or not self.all.any():
            raise ValueError("give at least one kind a weight above 0, and none an infinite one")
        return self

    @property
    def all(self) -> Floats:
        """The weights in the order of KINDS."""
        return np.array([getattr(self, kind) for kind in KINDS])


class Multivariate(Section):
    """Multivariatizers and what they have in common.

    Attributes:
        weights: of the kinds of groups.
        noise: standard deviation of a row's own noise, relative to what it shares with others; log-uniform.
        leading: share of past covariates that run ahead of the targets, and of groups in which targets come last.
        longest_lead: of those and of lead-lag groups, in steps; at most a quarter of the series.
        exogenous: share of known covariates with patterns of their own (`known`) that act on the targets; the others
            are rows like the targets.
        exponential: share of groups whose targets are exponentiated, so that effects multiply; a third of these become
            counts.
        scale: of a row; log-uniform.
        level: added to a row, in units of scale.
        causal, known: ranges of causal graphs, and of covariates known ahead.
    """

    weights: Weights = Weights()
    noise: PositiveRange = (0.02, 1.0)
    leading: Share = 0.7
    longest_lead: int = Field(default=24, ge=1)
    exogenous: Share = 0.75
    exponential: Share = 0.2
    scale: PositiveRange = (0.1, 100.0)
    level: Range = (-10.0, 10.0)
    causal: Causal = Causal()
    known: Known = Known()

    def draw(
        self, rng: np.random.Generator, count: int, length: int, targets: int, past: int, known: int, base: Base
    ) -> Floats:
        """Return (count, V, length) finite values, rows ordered targets, past, known; a single row is a base series."""
        return self.draw_named(rng, count, length, targets, past, known, base)[0]

    def draw_named(
        self, rng: np.random.Generator, count: int, length: int, targets: int, past: int, known: int, base: Base
    ) -> tuple[Floats, Ints]:
        """Return the same values, and (count,) each group's place in KINDS."""
        assert targets >= 1, targets
        variates = targets + past + known
        if variates == 1:
            return np.asarray(base(rng, count, length), np.float64)[:, None], np.zeros(count, np.int64)
        lead = max(1, min(self.longest_lead, length // 4))
        before = max(_FEWEST_BEFORE, min(lead + _WIDEST, length))
        roles = _Roles(targets, past, known, lead, before)
        most = max(1, _MOST_VALUES // (variates * (before + length + lead)))
        parts = [self._part(rng, min(most, count - done), length, roles, base) for done in range(0, count, most)]
        return np.concatenate([values for values, _ in parts]), np.concatenate([kinds for _, kinds in parts])

    def _part(
        self, rng: np.random.Generator, count: int, length: int, roles: _Roles, base: Base
    ) -> tuple[Floats, Ints]:
        """Return groups of all kinds, and (count,) each one's place in KINDS."""
        variates, full = roles.variates, roles.before + length + roles.lead
        kinds = np.sort(pick_by(rng, self.weights.all, count))
        needed = np.flatnonzero(kinds != KINDS.index("cointegrated"))
        series = _unit(np.asarray(base(rng, len(needed) * variates, full), np.float64)).reshape(-1, variates, full)
        out = np.empty((count, variates, length))
        for number, kind in enumerate(KINDS):
            rows = np.flatnonzero(kinds == number)
            if not rows.size:
                continue
            chosen = series[np.searchsorted(needed, rows)] if kind != "cointegrated" else np.empty((len(rows), 0, full))
            out[rows] = self._group(rng, kind, chosen, roles, length)
        order = rng.permutation(count)
        return out[order], kinds[order]

    def _group(self, rng: np.random.Generator, kind: str, series: Floats, roles: _Roles, length: int) -> Floats:
        """Return (n, V, length) of one kind."""
        count, full = len(series), series.shape[2]
        makers = {"linear": self.mixed, "nonlinear": self.bent, "lead_lag": self.led, "causal": self.caused}
        if kind == "cointegrated":
            values, early = self.cointegrated(rng, count, roles.variates, full)
        elif kind == "independent":
            values, early = series, None
        else:
            values, early = makers[kind](rng, series, roles.lead)
        values = np.take_along_axis(values, roles.rows(rng, count, early, self.leading)[:, :, None], axis=1)
        if kind in ("linear", "nonlinear", "cointegrated"):
            values = roles.ahead(rng, values, self.leading)
        values = _unit(values[:, :, roles.before : roles.before + length])
        exogenous = np.zeros((count, roles.known), bool)
        if roles.known:
            exogenous = chance(rng, self.exogenous, count, roles.known)
            own = self.known.draw(rng, count * roles.known, roles.before + length).reshape(count, roles.known, -1)
            own = np.where(exogenous[:, :, None], own, 0.0)
            if kind != "independent":
                effects = self.known.effects(rng, own, roles.targets)[:, :, roles.before :]
                values[:, : roles.targets] += effects
            mask = np.concatenate([np.zeros((count, roles.variates - roles.known), bool), exogenous], axis=1)
            values = np.where(mask[:, :, None], 0.0, values)
            values[:, roles.variates - roles.known :] += own[:, :, roles.before :]
        return self._finished(rng, values, roles, exogenous)

    def _finished(self, rng: np.random.Generator, values: Floats, roles: _Roles, exogenous: npt.NDArray) -> Floats:
        """Return values in the units of their rows: exponentiated, counted, at a level and a scale."""
        count, variates, _ = values.shape
        level = between(rng, self.level, count, variates, 1)
        scale = log_between(rng, self.scale, count, variates, 1)
        if roles.known:
            own = np.zeros((count, variates, 1), bool)
            own[:, variates - roles.known :, 0] = exogenous
            level, scale = np.where(own, 0.0, level), np.where(own, 1.0, scale)
        out = (values + level) * scale
        rows = np.flatnonzero(chance(rng, self.exponential, count))
        chosen = _unit(values[rows, : roles.targets])
        grown = np.exp(np.clip(chosen * rng.uniform(0.1, 0.8, (len(rows), 1, 1)), -4.0, 4.0))
        grown *= scale[rows, : roles.targets]
        counted = np.flatnonzero(chance(rng, 1 / 3, len(rows)))
        grown[counted] = rng.poisson(grown[counted])
        out[rows, : roles.targets] = grown
        return out

    def mixed(self, rng: np.random.Generator, series: Floats, lead: int = 0) -> tuple[Floats, None]:
        """Return weighted sums of one to V base series of the group, with noise."""
        return self._noisy(rng, _sums(rng, series)), None

    def bent(self, rng: np.random.Generator, series: Floats, lead: int = 0) -> tuple[Floats, None]:
        """Return nonlinear functions of such sums, some of two of them, with noise."""
        z = _sums(rng, series)
        other = np.roll(z, 1, axis=1)
        forms = (
            np.tanh(2.0 * z),
            z * np.abs(z),
            np.exp(np.minimum(z, 2.0)),
            np.abs(z),
            np.sin(2.0 * z),
            z * other,
            np.maximum(z, other),
        )
        return self._noisy(rng, _unit(np.choose(rng.integers(0, len(forms), (*z.shape[:2], 1)), forms))), None

    def led(self, rng: np.random.Generator, series: Floats, lead: int) -> tuple[Floats, Ints]:
        """Return rows that follow the group's first series at a lag of up to `lead` steps, and (N, V) the lags.

        Half of the rows follow it at one lag, the others over several steps from their lag on.
        """
        count, variates, length = series.shape
        lags = rng.integers(0, lead, (count, variates), endpoint=True)
        widths = np.where(chance(rng, 0.5, count, variates), 1, rng.integers(2, _WIDEST, lags.shape, endpoint=True))
        fading = rng.uniform(0.4, 1.0, lags.shape)
        out = np.zeros(series.shape)
        steps = np.arange(length)
        for k in range(_WIDEST):
            group, row = np.nonzero(widths > k)
            at = np.maximum(steps - lags[group, row, None] - k, 0)
            out[group, row] += fading[group, row, None] ** k * series[group[:, None], 0, at]
        out = _unit(out) * rng.choice((-1.0, 1.0, 1.0), (count, variates, 1))
        own = rng.uniform(0.0, 0.7, lags.shape) * chance(rng, 0.5, count, variates)
        own[:, 0] = 0.0  # the first series drives all
        return self._noisy(rng, out + own[:, :, None] * series), lags

    def cointegrated(
        self, rng: np.random.Generator, count: int, variates: int, length: int
    ) -> tuple[Floats, Ints | None]:
        """Return random walks with drift that one to V - 1 trends drive, and (N, V) rows' places in time.

        Half of the groups are weighted sums of the trends with stationary errors. In the others the rows correct their
        distance from the first row, the leader: y += -a (y - b leader) + e.
        """
        moves = irregular(rng, count * variates, length).reshape(count, variates, length)
        walks = np.cumsum(moves + rng.normal(0.0, 0.08, (count, variates, 1)), axis=2)
        number = rng.integers(1, max(variates - 1, 1), (count, 1, 1), endpoint=True)
        weights = rng.standard_normal((count, variates, variates)) * (np.arange(variates) < number)
        memory = rng.uniform(0.0, 0.9, (count * variates, 1))
        level = log_between(rng, (0.1, 3.0), count, variates, 1)
        errors = irregular(rng, count * variates, length)
        wanders = level * autoregression(errors, memory).reshape(walks.shape)
        common = np.einsum("nvk,nkt->nvt", weights, walks) + wanders
        pull = rng.uniform(0.05, 0.7, (count, variates, 1))
        slope = rng.uniform(0.3, 1.5, pull.shape) * rng.choice((-1.0, 1.0, 1.0), pull.shape)
        leader = walks[:, :1]
        behind = np.concatenate([np.zeros((count, 1, 1)), leader[:, :, :-1]], axis=2)
        push = pull * slope * behind + level * errors.reshape(walks.shape)
        follow = autoregression(push.reshape(-1, length), (1.0 - pull).reshape(-1, 1)).reshape(walks.shape)
        follow[:, 0] = leader[:, 0]
        correcting = chance(rng, 0.5, count, 1)
        early = np.where(correcting, np.minimum(np.arange(variates), 1), 0)
        return np.where(correcting[:, :, None], follow, common), early

    def caused(self, rng: np.random.Generator, series: Floats, lead: int = 0) -> tuple[Floats, Ints]:
        """Return the variates of causal graphs, and (N, V) their places in the order of the graph."""
        values, graph = self.causal.draw(rng, series)
        return values, graph.rank

    def _noisy(self, rng: np.random.Generator, values: Floats) -> Floats:
        count, variates, length = values.shape
        noise = irregular(rng, count * variates, length).reshape(values.shape)
        return values + log_between(rng, self.noise, count, variates, 1) * noise


class _Roles:
    """Numbers of rows by role, and the steps around the ones that are returned."""

    def __init__(self, targets: int, past: int, known: int, lead: int, before: int) -> None:
        self.targets, self.past, self.known, self.lead, self.before = targets, past, known, lead, before
        self.variates = targets + past + known

    def rows(self, rng: np.random.Generator, count: int, early: Ints | None, leading: float) -> Ints:
        """Return (N, V) the row that each variate becomes: covariates first in time and targets last in a share."""
        key = rng.random((count, self.variates))
        if early is not None:
            key = np.where(chance(rng, leading, count, 1), early + key, key)
        ordered = key.argsort(axis=1)
        return np.concatenate([ordered[:, self.past + self.known :], ordered[:, : self.past + self.known]], axis=1)

    def ahead(self, rng: np.random.Generator, values: Floats, leading: float) -> Floats:
        """Return values with a share of the past covariates moved ahead by 1 to `lead` steps."""
        if not self.past:
            return values
        count, _, length = values.shape
        steps = rng.integers(1, self.lead, (count, self.past, 1), endpoint=True)
        steps = steps * chance(rng, leading, count, self.past, 1)
        rows = slice(self.targets, self.targets + self.past)
        values[:, rows] = np.take_along_axis(values[:, rows], np.minimum(np.arange(length) + steps, length - 1), axis=2)
        return values


def _sums(rng: np.random.Generator, series: Floats) -> Floats:
    """Return (N, V, T) weighted sums of one to V base series, of unit deviation."""
    count, variates, _ = series.shape
    number = rng.integers(1, variates, (count, 1, 1), endpoint=True)
    weights = rng.standard_normal((count, variates, variates)) * (np.arange(variates) < number)
    return _unit(np.einsum("nvk,nkt->nvt", weights, series))  # not BLAS, whose sums depend on threads


def _unit(values: Floats) -> Floats:
    """Return rows (..., T) with mean 0 and deviation 1; constant ones are 0."""
    flat = values.reshape(-1, values.shape[-1])
    return ((flat - flat.mean(axis=1, keepdims=True)) / deviation(flat)).reshape(values.shape)
