"""Pieces cover every index once and hold no more units than asked for."""

from __future__ import annotations

import pytest

from foretrain.nn.pieces import pieces


@pytest.mark.parametrize(("count", "units", "at_once"), [(10, 3, 7), (10, 3, 3), (1, 5, 100), (7, 1, 7), (9, 2, 11)])
def test_pieces_cover_all_indices_in_order_within_the_limit(count, units, at_once):
    found = list(pieces(count, units, at_once))
    assert [k for part in found for k in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in found]
    assert max(sizes) * units <= at_once and max(sizes) - min(sizes) <= max(sizes) - sizes[-1]


def test_an_index_with_more_units_than_the_limit_is_a_piece_of_its_own():
    assert list(pieces(3, 100, 7)) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_without_a_limit_or_an_index_there_is_one_piece():
    assert list(pieces(5, 100, None)) == [slice(0, 5)]
    assert list(pieces(0, 4, 8)) == list(pieces(0, 4, None)) == [slice(0, 0)]
