from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fake_market import candles

from foretrain.data.market.bars import ACTIONS, CANDLE, DAY, Bars
from foretrain.data.market.overlap import compare, unadjusted_splits

COLUMNS = (*CANDLE, *ACTIONS)


def bars(count: int = 10, seed: int = 0) -> Bars:
    times = DAY * np.arange(count)
    return Bars.of(times, COLUMNS, np.column_stack([candles(times, seed), np.zeros((count, 2))]))


def changed(held: Bars, row: int, column: str, factor: float) -> Bars:
    values = held.values.copy()
    values[row, held.columns.index(column)] *= factor
    return Bars(held.times, held.columns, values)


@settings(max_examples=40)
@given(st.floats(0.001, 1000).filter(lambda f: abs(f - 1) > 0.01), st.integers(0, 99), st.integers(4, 8))
def test_a_split_is_a_factor_whatever_the_digits_that_its_prices_are_rounded_to(factor, seed, digits):
    held = bars(seed=seed)
    values = held.values.copy()
    values[:, :4] = np.round(values[:, :4] * factor, digits)
    found = compare(held, Bars(held.times, held.columns, values))
    assert found.rebased and found.revised == 10
    assert found.factor == pytest.approx(factor, rel=2e-3)


@settings(max_examples=40)
@given(st.integers(0, 9), st.sampled_from(["open", "high", "low", "close"]), st.floats(1.001, 2.0))
def test_another_price_is_a_revision_unless_it_is_the_oldest(row, column, factor):
    held = bars()
    found = compare(held, changed(held, row, column, factor))
    assert (found.rebased, found.revised) == (row == 0, 1)
    assert found.text() == "1 stored bar revised"


def test_rounding_of_float32_and_volumes_are_no_other_base():
    held = bars()
    single = Bars(held.times, held.columns, held.values.astype(np.float32).astype(float))
    assert compare(held, single).text() == ""
    found = compare(held, changed(held, 0, "volume", 1.1))
    assert (found.rebased, found.revised, found.factor) == (False, 1, None)


def test_bars_that_are_gone_or_added_are_counted():
    held = bars()
    found = compare(held.where(np.arange(10) != 4), held.where(~np.isin(np.arange(10), [6, 7])))
    assert (found.rebased, found.gone, found.added) == (False, 2, 1)
    assert found.text() == "2 stored bars no longer there, 1 stored bar added between"
    assert compare(held, held.where(slice(1, None))).rebased, "the oldest is gone"
    assert compare(held, held.where(slice(0, 0))) is None


def test_a_missing_value_that_stays_missing_is_the_same():
    held = changed(bars(), 3, "close", float("nan"))
    assert compare(held, held).revised == 0
    assert compare(held, bars()).revised == 1


@settings(max_examples=40)
@given(st.sampled_from([2.0, 4.0, 10.0, 1.5, 0.1, 0.5]), st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_a_split_that_older_prices_are_not_adjusted_for_is_found(ratio, row, seed, adjusted):
    held = bars(seed=seed)
    values = held.values.copy()
    values[row, COLUMNS.index("stock_splits")] = ratio
    if not adjusted:
        values[:row, :4] *= ratio
    split = Bars(held.times, COLUMNS, values)
    assert unadjusted_splits(split) == ([] if adjusted else [(row, ratio)])
    assert unadjusted_splits(split, after=int(held.times[row])) == []


def test_splits_of_sources_without_such_a_column_are_none():
    held = bars()
    assert unadjusted_splits(Bars(held.times, CANDLE, held.values[:, :5])) == []
