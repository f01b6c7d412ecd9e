"""Causal graphs and the series that they make."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from foretrain.data.synthetic.causal import LINEAR, MECHANISMS, Causal, Edges, Graph, simulate

RNG = np.random.default_rng


def one_edge(mechanism: int, lag: int, weight: float = 0.7) -> Graph:
    """Variates 0 and 1 act on variate 2: variate 0 by the mechanism, and variate 1 where it is a product."""
    edges = Edges(*(np.array([value]) for value in (0, 0, 1, 2, lag, mechanism)), np.array([weight]))
    return Graph(np.array([[0, 1, 2]]), np.ones((1, 3)), edges)


def descendants(graph: Graph, group: int, variate: int) -> set[int]:
    """Return a variate and all that it acts on, at any lag."""
    edges = graph.edges.take(graph.edges.group == group)
    found = {variate}
    for _ in range(graph.order.shape[1]):
        found |= {
            int(c) for p, o, c in zip(edges.parent, edges.other, edges.child, strict=True) if p in found or o in found
        }
    return found


@pytest.mark.parametrize("variates", [1, 2, 5, 12])
def test_edges_without_a_lag_have_no_cycle(variates):
    graph = Causal(feedback=1.0).graph(RNG(1), 200, variates, 12)
    now = graph.edges.take(graph.edges.lag == 0)
    links = np.zeros((200, variates, variates))
    links[now.group, now.child, now.parent] = links[now.group, now.child, now.other] = 1.0
    assert not np.linalg.matrix_power(links, variates).any()  # no path of V edges
    assert (graph.edges.lag >= 0).all() and (graph.edges.lag <= 12).all()
    if variates > 1:
        assert now.lag.size and (graph.edges.lag > 1).any()
        assert graph.roots.any(axis=1).all() and not graph.roots.all()


def test_a_variate_has_several_parents_some_at_a_lag_and_its_own_past():
    graph = Causal(parents=(2, 3), roots=0.0).graph(RNG(2), 100, 6, 12)
    edges = graph.edges
    apart = edges.parent != edges.child
    parents = np.bincount((edges.group * 6 + edges.child)[apart], minlength=600).reshape(100, 6)
    assert (np.take_along_axis(parents, graph.order, axis=1)[:, 2:] >= 2).all()
    assert 0.3 < (edges.lag[apart] == 0).mean() < 0.6
    assert {*np.unique(edges.mechanism)} == {*range(len(MECHANISMS))}
    assert (edges.lag[~apart] >= 1).all() and (~apart).any()


@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("number", range(len(MECHANISMS)), ids=[name for name, _ in MECHANISMS])
def test_a_child_is_its_noise_and_the_mechanism_of_its_parents(number, lag):
    drive = RNG(3).standard_normal((1, 3, 40))
    values = simulate(one_edge(number, lag), drive)[0]
    x, z = np.pad(drive[0, :2], ((0, 0), (lag, 0)))[:, :40]
    expected = drive[0, 2] + 0.7 * MECHANISMS[number][1](x, z if MECHANISMS[number][0] == "product" else x)
    np.testing.assert_allclose(values[2], expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(values[:2], drive[0, :2])


def test_without_an_edge_its_child_and_the_child_s_descendants_change_and_nothing_else():
    graph = Causal(feedback=0.5).graph(RNG(4), 12, 5, 6)
    drive = RNG(5).standard_normal((12, 5, 80))
    before, changed_some = simulate(graph, drive), 0
    for number in range(0, len(graph.edges.lag), 3):
        group, child = int(graph.edges.group[number]), int(graph.edges.child[number])
        mask = np.arange(len(graph.edges.lag)) != number
        without = Graph(graph.order, graph.gain, graph.edges.take(mask))
        changed = (simulate(without, drive) != before).any(axis=2)
        assert changed[group, child]
        assert {*np.flatnonzero(changed[group])} <= descendants(graph, group, child)
        assert not np.delete(changed, group, axis=0).any()
        changed_some += 1
    assert changed_some > 20


def test_coefficients_of_linear_graphs_are_recovered_by_least_squares():
    chosen = Causal(linear=1.0, feedback=0.0)
    graph = chosen.graph(RNG(6), 10, 4, 5)
    assert (graph.edges.mechanism == LINEAR).all()
    steps, reach = 4000, 5
    values = simulate(graph, RNG(7).standard_normal((10, 4, steps)))
    for group in range(10):
        edges = graph.edges.take(graph.edges.group == group)
        for child in range(4):
            mine = edges.take(edges.child == child)
            pairs = sorted({*zip(mine.parent.tolist(), mine.lag.tolist(), strict=True)})
            if not pairs:
                continue
            truth = [mine.weight[(mine.parent == p) & (mine.lag == lag)].sum() for p, lag in pairs]
            columns = np.stack([values[group, p, reach - lag : steps - lag] for p, lag in pairs], axis=1)
            found, *_ = np.linalg.lstsq(columns, values[group, child, reach:], rcond=None)
            error = np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))  # the noise has deviation 1
            assert (np.abs(found - truth) < 5.0 * error).all()


@pytest.mark.parametrize("length", [16, 4096])
def test_values_stay_bounded_with_strong_feedback_and_long_memory(length):
    wild = Causal(feedback=1.0, own_lag=1.0, memory=(0.9, 0.95), strength=(2.0, 2.0), roots=0.0, parents=(3, 3))
    count = 60 if length < 100 else 6
    values, _ = wild.draw(RNG(8), RNG(9).standard_normal((count, 6, length)))
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 1e4
    if length > 100:
        early, late = np.abs(values[:, :, 200:2000]).max(), np.abs(values[:, :, 2000:]).max()
        assert late < 3.0 * early


def test_draws_follow_their_seed():
    series = RNG(0).standard_normal((8, 3, 50))
    first, again, other = (Causal().draw(RNG(seed), series)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_roots_follow_the_base_series_unless_they_are_noise():
    series = RNG(0).standard_normal((40, 4, 300))
    plain = {"own_lag": 0.0, "feedback": 0.0, "noise": (0.02, 0.02)}
    for driven, least, most in ((1.0, 0.99, 1.0), (0.0, 0.0, 0.25)):
        values, graph = Causal(driven=driven, **plain).draw(RNG(1), series)
        found = [
            abs(np.corrcoef(values[n, v], series[n, v])[0, 1]) for n, v in zip(*np.nonzero(graph.roots), strict=True)
        ]
        assert min(found) >= least and max(found) <= most


def test_a_memory_without_bound_is_refused():
    with pytest.raises(ValidationError, match="grow without bound"):
        Causal(memory=(0.0, 1.0))
