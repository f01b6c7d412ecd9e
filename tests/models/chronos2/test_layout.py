"""Groups as blocks: the same rows attend to each other for any order, sizes and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.models.chronos2.layout import GroupLayout, arrange


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_arranged_rows_share_a_group_exactly_if_they_share_an_id(ids):
    given_ids = np.array(ids)
    order, layout = arrange(given_ids)
    arranged = given_ids if order is None else given_ids[order]
    found = layout.ids(torch.device("cpu")).numpy()
    assert layout.rows == len(ids)
    assert ((found[:, None] == found) == (arranged[:, None] == arranged)).all()


def test_single_variate_rows_and_equal_groups_need_no_padding():
    order, layout = arrange(np.array([5, 5, 7, 9, 9, 8]))
    assert layout.singles == 2
    assert [(b.count, b.size, b.gather) for b in layout.buckets] == [(2, 2, None)]
    assert order is not None and sorted(order[:2]) == [2, 5]


def test_rows_already_in_order_are_not_reordered():
    order, layout = arrange(np.repeat(np.arange(4), 3))
    assert order is None and layout.singles == 0
    assert arrange(np.arange(7)) == (None, GroupLayout(7))


def test_many_sizes_are_padded_to_a_few_classes():
    ids = np.repeat(np.arange(9), np.arange(2, 11))
    _, layout = arrange(ids)
    assert len(layout.buckets) < 7
    padded = [b for b in layout.buckets if b.gather is not None]
    assert padded and all(b.count * b.size < 2 * b.rows for b in padded)
    for bucket in padded:
        slots = bucket.gather[bucket.scatter]
        assert torch.equal(slots, torch.arange(bucket.rows))
        assert int(bucket.valid.sum()) == bucket.rows


@pytest.mark.parametrize("sizes", [[1, 1], [1, 3, 3, 2], list(range(1, 12))])
def test_a_layout_survives_a_batch(sizes):
    _, layout = arrange(np.repeat(np.arange(len(sizes)), sizes))
    back = GroupLayout.from_tensors(layout.to_tensors(), sum(sizes))
    assert (back.singles, len(back.buckets)) == (layout.singles, len(layout.buckets))
    assert torch.equal(back.ids(torch.device("cpu")), layout.ids(torch.device("cpu")))
    for ours, theirs in zip(layout.buckets, back.buckets, strict=True):
        assert (ours.rows, ours.count, ours.size) == (theirs.rows, theirs.count, theirs.size)
        assert (ours.gather is None) == (theirs.gather is None)
