"""Counter-based random numbers and permutations."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data.permutation import below, derive, hash64, permute, permute_blocks, uniform

quick = settings(max_examples=60, deadline=None)


@quick
@given(key=st.integers(0, 2**64 - 1), size=st.integers(1, 5000))
def test_a_permutation_visits_every_index_once(key, size):
    assert sorted(permute(key, np.arange(size), size).tolist()) == list(range(size))


@quick
@given(
    key=st.integers(0, 2**64 - 1), size=st.integers(1, 3000), block=st.integers(1, 70), blocks_mixed=st.integers(1, 9)
)
def test_a_blockwise_permutation_visits_every_index_once(key, size, block, blocks_mixed):
    found = permute_blocks(key, np.arange(size), size, block=block, blocks_mixed=blocks_mixed)
    assert sorted(found.tolist()) == list(range(size))


def test_a_permutation_of_any_position_is_computed_alone():
    whole = permute_blocks(7, np.arange(1000), 1000, block=16, blocks_mixed=4)
    assert [
        int(permute_blocks(7, np.array([k]), 1000, block=16, blocks_mixed=4)[0]) for k in range(1000)
    ] == whole.tolist()


def test_nearby_positions_are_in_few_blocks():
    size, block, mixed = 100_000, 64, 8
    order = permute_blocks(3, np.arange(size), size, block=block, blocks_mixed=mixed)
    pools = order[: size // (block * mixed) * block * mixed].reshape(-1, block * mixed)
    touched = [len(np.unique(pool // block)) for pool in pools]
    assert np.mean(touched) < mixed + 1  # walking the cycle moves the few indices of the last, shorter block
    assert len(np.unique(order[: block * mixed] // block)) > 1


def test_permutations_are_spread_evenly():
    counts = Counter(tuple(permute(derive(k), np.arange(4), 4).tolist()) for k in range(4800))
    assert len(counts) == 24
    assert min(counts.values()) > 100
    assert max(counts.values()) < 320


def test_random_numbers_are_uniform_and_unrelated_between_keys():
    n = np.arange(200_000)
    a, b = uniform(derive(1, 2), n), uniform(derive(1, 3), n)
    assert a.min() >= 0
    assert a.max() < 1
    histogram = np.histogram(a, bins=50, range=(0, 1))[0]
    assert ((histogram - 4000) ** 2 / 4000).sum() < 95  # chi-square, 49 degrees of freedom, p = 1e-4
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.01
    assert len(np.unique(hash64(5, n))) == len(n)


@quick
@given(bound=st.integers(1, 2**53), key=st.integers(0, 2**64 - 1))
def test_bounded_draws_stay_inside(bound, key):
    drawn = below(key, np.arange(200), bound)
    assert drawn.min() >= 0
    assert drawn.max() < bound
