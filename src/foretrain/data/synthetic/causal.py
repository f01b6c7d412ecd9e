"""Temporal causal graphs: every variate is a function of its parents, now or earlier, of its own past and of noise.

Chronos-2's report names such a generator (temporal causal models) without its distributions; the ranges are our own.

Values stay bounded by construction. Edges from a variate to one later in the order of its graph may have any mechanism,
since a chain of stable processes is stable. Edges back to an earlier one, always lagged, have bounded mechanisms. The
absolute weights of a variate's own lags sum to less than 1.

# N graphs, V variates, T steps, E edges of all graphs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.data.synthetic.base import (
    Counts,
    Floats,
    Ints,
    PositiveRange,
    Range,
    Share,
    between,
    chance,
    log_between,
    whole_between,
)
from foretrain.data.synthetic.trend_season import irregular

# mechanisms, functions of a parent x or of two parents x and z
MECHANISMS: tuple[tuple[str, Callable[[Floats, Floats], Floats]], ...] = (
    ("linear", lambda x, z: x),
    ("relu", lambda x, z: np.maximum(x, 0.0)),
    ("limited", lambda x, z: np.minimum(np.maximum(x, -2.0), 2.0)),  # the first of the bounded ones
    ("tanh", lambda x, z: np.tanh(1.5 * x)),
    ("sine", lambda x, z: np.sin(2.0 * x)),
    ("square", lambda x, z: 2.0 * x * x / (1.0 + x * x)),
    ("threshold", lambda x, z: np.where(x > 0.5, 1.0, -1.0)),
    ("product", lambda x, z: np.tanh(x * z)),
)
LINEAR, RELU, LIMITED, PRODUCT = 0, 1, 2, len(MECHANISMS) - 1


class Edges(NamedTuple):
    """Edges of N graphs, as arrays (E,)."""

    group: Ints  # number of the graph
    parent: Ints  # variate
    other: Ints  # second parent of a product, else the parent again; at the same lag
    child: Ints  # variate
    lag: Ints  # steps
    mechanism: Ints  # place in MECHANISMS
    weight: Floats

    def take(self, chosen: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Edges:
        """Return some of the edges, by numbers or by a mask (E,)."""
        return Edges._make(array[chosen] for array in self)


@dataclass(frozen=True)
class Graph:
    """N graphs over V variates.

    In the order of a graph, a parent at lag 0 comes before its child, so edges at lag 0 have no cycle.
    """

    order: Ints  # (N, V) variates
    gain: Floats  # (N, V) what a variate's noise and parents are multiplied with; weights of edges include it
    edges: Edges

    @property
    def rank(self) -> Ints:
        """(N, V) place of each variate in the order."""
        return np.argsort(self.order, axis=1)

    @property
    def roots(self) -> npt.NDArray[np.bool_]:
        """(N, V) true for variates without a parent that comes before them."""
        group, parent, _, child, *_ = self.edges
        rank = self.rank
        forward = rank[group, parent] < rank[group, child]
        found = np.ones(self.order.shape, bool)
        found[group[forward], child[forward]] = False
        return found


class Causal(Section):
    """Ranges of the graphs.

    Attributes:
        longest_lag: of an edge, in steps; at most a quarter of the series.
        parents: fewest and most parents of a variate that is no root.
        roots: share of variates without parents, beside the first one of each graph.
        instant: share of edges without a lag.
        linear: share of graphs whose mechanisms are all linear.
        feedback: share of graphs with lagged edges back to earlier variates.
        own_lag: share of variates that depend on their own past.
        memory: weight of a variate's own past, in (-1, 1).
        strength: sum of the absolute weights of a variate's parents; log-uniform.
        noise: standard deviation of a variate's noise; log-uniform.
        driven: share of roots that follow a base series; the others are noise with memory.
        own_series: share of other variates to which a base series is added.
    """

    longest_lag: int = Field(default=12, ge=1)
    parents: Counts = (1, 3)
    roots: Share = 0.2
    instant: Share = 0.5
    linear: Share = 0.4
    feedback: Share = 0.25
    own_lag: Share = 0.6
    memory: Range = (-0.3, 0.95)
    strength: PositiveRange = (0.4, 2.0)
    noise: PositiveRange = (0.02, 0.7)
    driven: Share = 0.8
    own_series: Share = 0.3

    @model_validator(mode="after")
    def _stable(self) -> Causal:
        if self.memory[0] <= -1.0 or self.memory[1] >= 1.0:
            raise ValueError(f"memory {list(self.memory)} must lie in (-1, 1); beyond it values grow without bound")
        return self

    def draw(self, rng: np.random.Generator, series: Floats) -> tuple[Floats, Graph]:
        """Return values (N, V, T) and their graphs; series (N, V, T), of unit deviation, drive the roots."""
        count, variates, length = series.shape
        graph = self.graph(rng, count, variates, max(1, min(self.longest_lag, length // 4)))
        noise = irregular(rng, count * variates, length).reshape(series.shape)
        level = log_between(rng, self.noise, count, variates, 1)
        driven, roots = chance(rng, self.driven, count, variates), graph.roots
        share = np.where(chance(rng, self.own_series, count, variates), rng.uniform(0.2, 1.0, (count, variates)), 0.0)
        share = np.where(roots, np.where(driven, 1.0, 0.0), share)[:, :, None]
        level = np.where((roots & ~driven)[:, :, None], 1.0, level)
        return simulate(graph, graph.gain[:, :, None] * (share * series + level * noise)), graph

    def graph(self, rng: np.random.Generator, count: int, variates: int, longest_lag: int) -> Graph:
        """Return N graphs over V variates."""
        order = rng.random((count, variates)).argsort(axis=1)
        linear = chance(rng, self.linear, count)
        own = self._own_lags(rng, order, linear, longest_lag)
        total = np.zeros((count, variates))
        unbounded = own.mechanism == LINEAR
        np.add.at(total, (own.group[unbounded], own.child[unbounded]), np.abs(own.weight[unbounded]))
        gain = (1.0 - total) ** 0.6  # between 1 - w, for slow input, and its root, for noise
        parts = [own, *self._forward(rng, order, linear, longest_lag), *self._back(rng, order, linear, longest_lag)]
        edges = _joined(parts)
        scale = np.where(edges.parent == edges.child, 1.0, gain[edges.group, edges.child])
        return Graph(order, gain, edges._replace(weight=edges.weight * scale))

    def _own_lags(self, rng: np.random.Generator, order: Ints, linear: np.ndarray, longest_lag: int) -> Edges:
        """Return edges from variates to themselves: the step before, and for half of them a second lag."""
        count, variates = order.shape
        first = between(rng, self.memory, count, variates)
        second = rng.uniform(-0.7, 0.7, (count, variates)) * (1.0 - np.abs(first))
        has = chance(rng, self.own_lag, count, variates)
        also = has & chance(rng, 0.5, count, variates) & (longest_lag > 1)
        mechanism = np.where(
            linear[:, None] | chance(rng, 0.7, count, variates), LINEAR, rng.integers(LIMITED, PRODUCT, order.shape)
        )
        lag = rng.integers(2, max(longest_lag, 2), (count, variates), endpoint=True)
        found = []
        for weight, steps, mask in ((first, np.ones_like(lag), has), (second, lag, also)):
            group, child = np.nonzero(mask)
            found.append(Edges(group, child, child, child, steps[mask], mechanism[mask].astype(np.int64), weight[mask]))
        return _joined(found)

    def _forward(self, rng: np.random.Generator, order: Ints, linear: np.ndarray, longest_lag: int) -> list[Edges]:
        """Return edges from earlier to later variates."""
        count, variates = order.shape
        found = []
        for rank in range(1, variates):
            most = min(self.parents[1], rank)
            wanted = np.minimum(whole_between(rng, self.parents, count), rank) * ~chance(rng, self.roots, count)
            parents = rng.random((count, rank)).argsort(axis=1)[:, :most]
            parts = rng.uniform(0.2, 1.0, (count, most)) * (np.arange(most) < wanted[:, None])
            parts /= np.maximum(parts.sum(axis=1, keepdims=True), 1e-9)
            weight = parts * log_between(rng, self.strength, count, 1) * rng.choice((-1.0, 1.0), (count, most))
            lag = np.where(
                chance(rng, self.instant, count, most), 0, rng.integers(1, longest_lag, (count, most), endpoint=True)
            )
            mechanism = np.where(linear[:, None], LINEAR, rng.integers(0, len(MECHANISMS), (count, most)))
            group, slot = np.nonzero(np.arange(most) < wanted[:, None])
            parent, kind = order[group, parents[group, slot]], mechanism[group, slot]
            other = np.where(kind == PRODUCT, order[group, rng.integers(0, rank, len(group))], parent)
            found.append(Edges(group, parent, other, order[group, rank], lag[group, slot], kind, weight[group, slot]))
        return found

    def _back(self, rng: np.random.Generator, order: Ints, linear: np.ndarray, longest_lag: int) -> list[Edges]:
        """Return lagged edges with bounded mechanisms from later to earlier variates."""
        count, variates = order.shape
        chosen = chance(rng, self.feedback, count)
        found = []
        for rank in range(variates - 1):
            group = np.flatnonzero(chosen & chance(rng, 0.5, count))
            size = len(group)
            parent = order[group, rng.integers(rank + 1, variates, size)]
            mechanism = np.where(linear[group], LIMITED, rng.integers(LIMITED, PRODUCT, size))
            weight = log_between(rng, self.strength, size) * rng.choice((-0.5, 0.5), size)
            lag = rng.integers(1, longest_lag, size, endpoint=True)
            found.append(Edges(group, parent, parent, order[group, rank], lag, mechanism, weight))
        return found


def _joined(parts: list[Edges]) -> Edges:
    return Edges._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


class _Pass:
    """Edges whose parents are all known at one point of a step, with addresses into the flat values (T, V * N)."""

    def __init__(self, edges: Edges, count: int, width: int) -> None:
        edges = edges.take(np.argsort(edges.mechanism, kind="stable"))  # a mechanism is one call on a slice
        base = edges.group - edges.lag * width
        self.source, self.weight = edges.parent * count + base, edges.weight
        self.columns, self.place = np.unique(edges.child * count + edges.group, return_inverse=True)
        ends = np.searchsorted(edges.mechanism, np.arange(len(MECHANISMS) + 1))
        pieces = [(slice(ends[k], ends[k + 1]), MECHANISMS[k][1]) for k in range(RELU, len(MECHANISMS))]
        self.pieces = [(piece, mechanism) for piece, mechanism in pieces if piece.stop > piece.start]
        self.products = slice(ends[PRODUCT], ends[PRODUCT + 1])
        self.other = (edges.other * count + base)[self.products]

    def add(self, flat: Floats, start: int, row: Floats) -> None:
        """Add what the parents do to the step `row`, which begins at `start` of the flat values."""
        values = flat.take(self.source + start)
        for piece, mechanism in self.pieces:
            second = flat.take(self.other + start) if piece == self.products else values[piece]
            values[piece] = mechanism(values[piece], second)
        values *= self.weight
        row[self.columns] += np.bincount(self.place, values, len(self.columns))


def simulate(graph: Graph, drive: Floats) -> Floats:
    """Return values (N, V, T): drive plus the sum of weight * mechanism(parent), with 0 before the first step."""
    count, variates, length = drive.shape
    edges, width = graph.edges, count * variates
    reach = int(edges.lag.max(initial=1))
    held = np.zeros((length + reach, width))  # time first, so that a step is contiguous
    held[reach:] = drive.transpose(2, 1, 0).reshape(length, width)
    flat = held.reshape(-1)
    now = np.where(edges.lag > 0, 0, graph.rank[edges.group, edges.child])  # parents at lag 0 are computed before
    passes = [_Pass(edges.take(now == place), count, width) for place in range(variates) if (now == place).any()]
    for t in range(reach, length + reach):
        for step in passes:
            step.add(flat, t * width, held[t])
    return np.ascontiguousarray(held[reach:].reshape(length, variates, count).transpose(2, 1, 0))
