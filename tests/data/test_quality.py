"""Quality rules on small bars made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.findings import Findings
from foretrain.data.importers.columns import market_layout
from foretrain.data.quality import ItemRows, clean, observe, order_rows
from foretrain.data.rules import RULES
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import DAY

NAMES = ("open", "high", "low", "close", "volume")
LAYOUT = market_layout(NAMES, [False] * 5)


def bars(count: int = 60, seed: int = 0) -> np.ndarray:
    """(5, T) consistent bars around 100."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    opened = close * np.exp(rng.normal(0, 0.002, count))
    return np.stack(
        [
            opened,
            np.maximum(opened, close) * 1.01,
            np.minimum(opened, close) * 0.99,
            close,
            rng.uniform(1e5, 2e5, count),
        ]
    ).astype(np.float32)


def rows(values: np.ndarray | None = None, times: np.ndarray | None = None) -> ItemRows:
    values = bars() if values is None else values
    if times is None:
        times = np.arange(values.shape[1], dtype=np.int64) * DAY
    return ItemRows("A", values, times, np.arange(values.shape[1]) + 2, "A.csv")


def found(findings: Findings) -> dict[str, tuple[int, int]]:
    return {rule.name: findings.count(rule.name) for rule in RULES if findings.count(rule.name) != (0, 0)}


def test_clean_rows_are_unchanged() -> None:
    findings = Findings("error")
    given = rows()
    kept = clean(given, LAYOUT, findings)
    observe(kept, LAYOUT, findings)
    np.testing.assert_array_equal(kept.values, given.values)
    assert found(findings) == {}
    findings.refuse_if_bad("corpus", min_rows=None)


def test_newest_first_is_sorted_in_every_mode_that_writes() -> None:
    given = rows()
    for mode in ("fix", "drop"):
        findings = Findings(mode)
        kept = order_rows(given.take(np.arange(60)[::-1]), findings)
        np.testing.assert_array_equal(kept.values, given.values)
        assert found(findings) == {"unsorted": (1, 60)}


def test_a_stamp_that_steps_back_is_sorted_in_or_dropped() -> None:
    given = rows()
    shuffled = given.take(np.r_[0:10, 20, 10:20, 21:60])
    fixed, dropped = Findings("fix"), Findings("drop")
    np.testing.assert_array_equal(order_rows(shuffled, fixed).times, given.times)
    assert found(fixed) == {"backward_timestamps": (1, 1)}
    assert len(order_rows(shuffled, dropped)) == 50  # the ten rows behind the early one go


def test_of_a_repeated_stamp_the_last_row_is_kept_or_none() -> None:
    given = rows()
    assert given.times is not None
    times = given.times.copy()
    times[31] = times[30]
    repeated = rows(given.values, times)
    fixed = order_rows(repeated, Findings("fix"))
    assert len(fixed) == 59
    assert fixed.values[3, 30] == given.values[3, 31]
    findings = Findings("drop")
    assert len(order_rows(repeated, findings)) == 58
    assert found(findings) == {"duplicate_timestamp": (1, 1)}


def test_rows_without_a_stamp_are_left_out() -> None:
    given = rows()
    assert given.times is not None
    times = given.times.copy()
    times[[5, 6]] = NO_TIME
    findings = Findings("fix")
    assert len(order_rows(rows(given.values, times), findings)) == 58
    assert found(findings) == {"missing_timestamp": (1, 2)}


@pytest.mark.parametrize(
    ("rule", "row", "value", "repaired"),
    [
        ("non_finite", 3, np.inf, True),
        ("negative_price", 3, -5.0, False),
        ("zero_price", 0, 0.0, True),
        ("negative_volume", 4, -1.0, True),
        ("ohlc_inconsistent", 1, 50.0, False),
        ("ohlc_inconsistent", 2, 500.0, False),
    ],
)
def test_impossible_values_are_repaired_or_reported_and_their_rows_dropped(
    rule: str, row: int, value: float, repaired: bool
) -> None:
    values = bars()
    values[row, 25] = value
    fixed, dropped = Findings("fix"), Findings("drop")
    kept = clean(rows(values), LAYOUT, fixed)
    assert fixed.count(rule) == (1, 1)
    assert len(kept) == 60
    assert np.isnan(kept.values[row, 25]) == repaired
    if not repaired:
        assert kept.values[row, 25] == np.float32(value)
    assert len(clean(rows(values), LAYOUT, dropped)) == 59
    refusing = Findings("error")
    clean(rows(values), LAYOUT, refusing)
    with pytest.raises(DataError, match=rf"(?s)nothing was written.*{rule}: 1 item, 1 row, first item 'A'.*line 27"):
        refusing.refuse_if_bad("corpus", min_rows=None)


def test_an_unrecorded_open_makes_no_bar_inconsistent() -> None:
    values = bars()
    values[0, :30] = 0
    findings = Findings("fix")
    clean(rows(values), LAYOUT, findings)
    assert found(findings) == {"zero_price": (1, 30)}


def test_empty_rows_at_the_ends_go_and_those_inside_stay() -> None:
    values = bars()
    values[:, :3] = np.nan
    values[:, 20] = np.nan
    values[:, 58:] = np.nan
    findings = Findings("fix")
    kept = clean(rows(values), LAYOUT, findings)
    assert len(kept) == 55
    assert findings.count("empty_rows") == (1, 5)
    observe(kept, LAYOUT, findings)
    assert findings.count("missing") == (1, 1)


def test_newest_rows_with_a_category_that_changes_stay_outside_of_market_data() -> None:
    blank, flags = [np.nan] * 3, np.arange(13) % 2.0
    for columns, category, last in (
        (["load", "promo"], flags, 13),
        (["load", "unit"], np.zeros(13), 10),
        (["load", "promo"], np.r_[flags[:12], np.nan], 12),
        (["close", "volume", "session"], flags, 10),
    ):
        numbers = [np.r_[np.arange(10) + 1.0, blank]] * (len(columns) - 1)
        values = np.array([*numbers, category], np.float32)
        layout = market_layout(columns, [*[False] * len(numbers), True])
        findings = Findings("fix")
        cleaned = clean(ItemRows("a", values, np.arange(13) * DAY, np.arange(13)), layout, findings)
        assert (len(cleaned), findings.count("empty_rows")[1]) == (last, 13 - last)


def test_bid_and_ask_sides_are_bars_too_and_general_columns_are_not() -> None:
    sides = [f"{side}_{name}" for side in ("bid", "ask") for name in ("open", "high", "low", "close")]
    layout = market_layout(sides, [False] * 8)
    assert layout.bars == ((4, 5, 6, 7), (0, 1, 2, 3))
    assert market_layout(["load", "open"], [False, False]).prices == ()
