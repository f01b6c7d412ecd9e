from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data.permutation import below, derive, hash64, permute, permute_blocks, uniform
from foretrain.data.sampling import SEGMENT, SamplingPlan

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


def test_nearby_positions_touch_few_blocks():
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


def plan(lengths, weights=(1.0,), **options) -> SamplingPlan:
    settings = dict(seed=0, reserved=0, min_context=1, min_prediction_length=1, stride=1)
    modes = {"epoch": False, "by_length": False}
    return SamplingPlan([np.array(pool) for pool in lengths], list(weights), **{**settings, **modes, **options})


@quick
@given(
    first=st.integers(0, 5 * SEGMENT), counts=st.lists(st.integers(1, 700), min_size=1, max_size=5), epoch=st.booleans()
)
def test_a_draw_depends_on_its_number_alone(first, counts, epoch):
    drawn = plan([[30, 50, 9], [100]], (1.0, 1.0), epoch=epoch)
    other = plan([[30, 50, 9], [100]], (1.0, 1.0), epoch=epoch)
    whole = np.stack(drawn.draw(first, sum(counts)))
    starts = first + np.cumsum([0, *counts[:-1]])
    pieces = [
        np.stack(other.draw(int(start), count)) for start, count in reversed(list(zip(starts, counts, strict=True)))
    ]
    assert np.array_equal(np.concatenate(pieces[::-1], axis=1), whole)


@pytest.mark.parametrize("by_length", [False, True])
def test_series_are_drawn_evenly_or_by_their_number_of_windows(by_length):
    slot, cutoff = plan([[11, 101, 31]], by_length=by_length).draw(0, 40_000)
    share = np.bincount(slot, minlength=3) / 40_000
    expected = np.array([10, 100, 30]) / 140 if by_length else np.full(3, 1 / 3)
    assert np.abs(share - expected).max() < 0.015
    first = cutoff[slot == 0]
    assert np.array_equal(np.unique(first), np.arange(1, 11))
    assert np.abs(np.bincount(first)[1:] / len(first) - 0.1).max() < 0.03


def test_corpora_are_drawn_by_weight_whatever_their_size():
    slot, _ = plan([[50] * 99, [50]], (1.0, 3.0)).draw(0, 20_000)
    assert abs((slot == 99).mean() - 0.75) < 0.015
    assert len(np.unique(slot)) == 100


def test_an_epoch_visits_each_strided_window_once_and_the_next_one_in_another_order():
    drawn = plan([[23, 10], [17]], (1.0, 1.0), epoch=True, min_context=4, min_prediction_length=3, stride=2, reserved=1)
    expected = [(s, c) for s, rows in enumerate((22, 9, 16)) for c in range(rows - 3, 3, -2)]
    size = drawn.epoch_length
    assert size == len(expected)
    epochs = [list(zip(*(part.tolist() for part in drawn.draw(k * size, size)), strict=True)) for k in range(3)]
    assert all(sorted(epoch) == sorted(expected) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_seed_gives_other_windows():
    assert not np.array_equal(plan([[500]]).draw(0, 50)[1], plan([[500]], seed=1).draw(0, 50)[1])
