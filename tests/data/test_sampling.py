from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data.sampling import SEGMENT, SamplingPlan

quick = settings(max_examples=60, deadline=None)


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
