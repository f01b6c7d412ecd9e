"""Rows to windows and back, whatever their sizes and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretrain.nn.layout import RowLayout

SIZES = [[2, 2], [1], [1, 1, 3], [3, 1, 2, 3, 1]]


def of(sizes: list[int]) -> RowLayout:
    return RowLayout.of(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize("sizes", SIZES)
def test_windows_are_grouped_by_size_and_rows_are_restored(sizes):
    layout, x = of(sizes), torch.arange(float(sum(sizes)))[:, None].expand(-1, 3)
    parts = layout.spread(x)
    assert [part.shape[:2] for part in parts] == [(sizes.count(size), size) for size in sorted(set(sizes))]
    window = np.repeat(np.arange(len(sizes)), sizes)
    for part in parts:
        assert all(len(set(window[rows.int().numpy()])) == 1 for rows in part[..., 0])
    assert torch.equal(layout.collect(parts), x)
    assert (layout.rows, layout.windows) == (sum(sizes), len(sizes))


def test_rows_may_come_in_any_order():
    layout, x = RowLayout.of(np.array([7, 3, 7, 3, 3])), torch.arange(5.0)[:, None]
    assert [part[..., 0].tolist() for part in layout.spread(x)] == [[[0, 2]], [[1, 3, 4]]]
    assert torch.equal(layout.collect(layout.spread(x)), x)


def test_rows_in_grouped_order_are_split_without_a_copy():
    x = torch.zeros(5, 2)
    assert {part.data_ptr() for part in of([1, 2, 2]).spread(x)} == {x.data_ptr(), x[1:].data_ptr()}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_copies_are_separate_windows(sizes, count):
    """One copy of all rows after the other."""
    rows = sum(sizes)
    window = np.repeat(np.arange(len(sizes)), sizes)
    copies = RowLayout.of((window + len(sizes) * np.arange(count)[:, None]).ravel())
    found, x = of(sizes).repeat(count), torch.randn(count * rows, 2)
    assert all(torch.equal(a, b) for a, b in zip(found.spread(x), copies.spread(x), strict=True))
    assert torch.equal(found.collect(found.spread(x)), x)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_layout_is_restored_from_a_batch(sizes):
    layout, x = of(sizes), torch.randn(sum(sizes), 2)
    again = RowLayout.from_tensors({"other": x, **layout.to_tensors()})
    assert all(torch.equal(a, b) for a, b in zip(layout.spread(x), again.spread(x), strict=True))
    assert torch.equal(again.collect(again.spread(x)), x)
