"""Windows to candles: names, gaps, statistics and time stamps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foretrain.data.windows import KNOWN, Window, stack_windows
from foretrain.errors import DataError
from foretrain.models.kronos import inputs
from foretrain.models.kronos.inputs import choose_columns, fill_forward, normalise, stamps_of, statistics

CLIP, HORIZON = 5.0, 5


def collate(*windows: Window, clip: float = CLIP) -> dict[str, torch.Tensor]:
    return inputs.collate(stack_windows(windows, HORIZON), clip)


def bars_of(window: Window) -> np.ndarray:
    """(T + H, V) of a window, float64."""
    assert window.future is not None
    return np.concatenate([window.context, window.future], 1).T.astype(np.float64)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, but: tuple[str, ...] = ()) -> None:
    assert one.keys() == other.keys()
    for name in one.keys() - set(but):
        assert torch.equal(one[name], other[name]), name


def rearranged(window: Window, order: list[int], names: tuple[str, ...] | None = None, **changes) -> Window:
    """The window with its rows in another order, by their names."""
    assert window.future is not None
    names = names or tuple(window.names[k] for k in order)
    return replace(window, context=window.context[order], future=window.future[order], names=names, **changes)


# Columns


@pytest.mark.parametrize(
    ("name", "column"),
    [("Close", "close"), (" HIGH ", "high"), ("vol", "volume"), ("Amt", "amount"), ("turnover", "amount"),
     ("adj_close", None), ("target", None)],
)  # fmt: skip
def test_columns_are_found_by_name_in_any_case(name, column):
    assert inputs.candle_column(name) == column


def test_a_family_chooses_the_candle_columns_among_others_in_their_order_and_scores_the_close():
    names = ["Amount", "Sector", "Close", "open", "LOW", "High", "Volume"]
    assert choose_columns(names) == (("open", "High", "LOW", "Close", "Volume", "Amount"), ("Close",))
    assert choose_columns(["open", "high", "low", "close"]) == (("open", "high", "low", "close"), ("close",))


def test_an_amount_without_volume_is_not_chosen():
    assert choose_columns(["open", "high", "low", "close", "amount"]) == (("open", "high", "low", "close"), ("close",))


def test_the_first_of_two_columns_of_one_meaning_is_chosen():
    assert choose_columns(["open", "high", "low", "close", "vol", "volume"]) == (
        ("open", "high", "low", "close", "vol"),
        ("close",),
    )


def test_nothing_is_chosen_where_a_price_is_missing():
    assert choose_columns(["open", "high", "close", "volume"]) is None


@pytest.mark.parametrize("names", [None, ("AMT", "low", "Close", "VOL", "High", "Open")])
def test_rows_are_found_by_name_in_any_order_and_case(kit, names):
    window = kit.window()
    other = rearranged(window, [5, 2, 3, 4, 1, 0], names)
    one, two = collate(window), collate(other)
    same(one, two, but=("target_column",))
    assert one["target_column"].tolist() == [0, 1, 2, 3, 4, 5]
    assert two["target_column"].tolist() == [5, 2, 3, 4, 1, 0]


@pytest.mark.parametrize("rows", [4, 5, 6])
def test_rows_without_names_are_taken_in_the_order_of_a_candle(kit, rows):
    window = kit.window(rows=rows)
    same(collate(window), collate(replace(window, names=())))


def test_windows_of_different_columns_share_a_batch(kit):
    windows = kit.window(1), kit.window(2, rows=4), rearranged(kit.window(3, rows=5), [3, 0, 1, 2, 4])
    batch = collate(*windows)
    for b, window in enumerate(windows):
        for name in ("context", "loc", "scale", "future_target"):
            assert torch.equal(batch[name][b], collate(window)[name][0]), name
    assert batch["target_window"].tolist() == [0] * 6 + [1] * 4 + [2] * 5
    assert batch["target_column"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 3, 0, 1, 2, 4]


def test_a_volume_without_amount_gets_volume_times_the_mean_price(kit):
    window = kit.window(rows=5)
    bars = bars_of(window)[: kit.CONTEXT]
    made = bars[:, 4] * bars[:, :4].mean(1)
    batch = collate(window)
    assert float(batch["loc"][0, 5]) == pytest.approx(made.mean(), rel=1e-6)
    assert float(batch["scale"][0, 5]) == pytest.approx(made.std() + 1e-5, rel=1e-6)


def test_an_amount_without_volume_is_dropped_as_upstream_does(kit):
    with_amount = rearranged(kit.window(), [0, 1, 2, 3, 5], num_targets=5)
    batch, prices_only = collate(with_amount), collate(kit.window(rows=4))
    assert torch.equal(batch["context"], prices_only["context"])
    assert not batch["context"][..., 4:].any() and not batch["loc"][..., 4:].any()


def test_covariates_of_a_candle_are_inputs_without_a_future(kit):
    window = rearranged(kit.window(), [3, 0, 1, 2, 4, 5], num_targets=1, num_past=5)
    batch = collate(window)
    assert torch.equal(batch["context"], collate(kit.window())["context"])
    assert "future_target" not in batch and "future_observed" not in batch
    assert (batch["target_window"].tolist(), batch["target_column"].tolist()) == ([0], [3])
    with pytest.raises(DataError, match=r"Name open, high, low, close .* in data.target"):
        inputs.sequence(batch)


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [
        (1, (), "of 1 rows without names: there is no high, low, close"),
        (1, ("close",), "close: there is no open, high, low"),
        (5, ("open", "high", "low", "volume", "amount"), "there is no close"),
        (5, ("open", "high", "low", "close", "sector"), "column 'sector' is not a candle column"),
        (5, ("open", "high", "low", "close", "Close"), "close and Close are the same column"),
        (6, ("open", "high", "low", "close", "vol", "volume"), "vol and volume are the same column"),
        (7, (), "7 rows are more than a candle has"),
    ],
)
def test_windows_that_hold_no_candles_are_refused_with_the_reason(rows, names, said):
    window = Window(np.ones((rows, 9), np.float32), rows, future=np.ones((rows, 5), np.float32), names=names)
    with pytest.raises(DataError, match=said) as error:
        collate(window)
    assert any(way in str(error.value) for way in ("Add or rename", "leave it out", "keep one", "in this order"))


def test_covariates_known_ahead_are_refused(kit):
    window = replace(kit.window(), num_targets=5)
    assert window.roles.tolist() == [0] * 5 + [KNOWN]
    with pytest.raises(DataError, match="known ahead"):
        collate(window)


# Gaps


def test_gaps_are_filled_from_the_past_alone():
    bars = np.array([np.nan, np.nan, 3.0, np.nan, 5.0, np.nan])[None, :, None]
    assert np.array_equal(fill_forward(bars)[0, :, 0], [np.nan, np.nan, 3, 3, 5, 5], equal_nan=True)


def test_a_column_without_gaps_is_not_copied():
    bars = np.ones((1, 3, 6))
    assert fill_forward(bars) is bars


def holed(window: Window, *holes: tuple[int, int]) -> Window:
    """The window without the values at (row, step); steps from context_length on lie in the future."""
    assert window.future is not None
    context, future = window.context.copy(), window.future.copy()
    steps = context.shape[1]
    for row, step in holes:
        if step < steps:
            context[row, step] = np.nan
        else:
            future[row, step - steps] = np.nan
    return replace(window, context=context, future=future)


def test_a_bar_with_a_missing_price_is_an_input_filled_from_before_and_not_observed(kit):
    window = kit.window()
    assert window.future is not None
    window = holed(window, (3, 7), (0, 18))
    filled_context, filled_future = window.context.copy(), window.future.copy()
    filled_context[3, 7], filled_future[0, 2] = window.context[3, 6], window.future[0, 1]
    batch, filled = collate(window), collate(replace(window, context=filled_context, future=filled_future))
    same(batch, filled, but=("context_observed", "future_observed"))
    assert (~batch["context_observed"][0]).nonzero().flatten().tolist() == [7]
    assert (~batch["future_observed"][0]).nonzero().flatten().tolist() == [2]


def test_a_gap_right_after_the_cutoff_is_filled_with_the_last_bar_before_it(kit):
    batch = collate(holed(kit.window(), *((k, 16) for k in range(6))))
    assert torch.equal(batch["future_target"][0, 0], batch["context"][0, -1])


def test_a_missing_volume_alone_leaves_the_bar_observed(kit):
    batch = collate(holed(kit.window(), (4, 5), (5, 5), (4, 17)))
    assert batch["context_observed"].all() and batch["future_observed"].all()
    assert torch.equal(batch["context"][0, 5, 4], batch["context"][0, 4, 4])


def test_volume_missing_from_the_start_is_none_traded(kit):
    """Prices may begin before volumes do; the bars still count."""
    batch = collate(holed(kit.window(), *((4, step) for step in range(3)), *((5, step) for step in range(3))))
    traded = batch["context"][0, :, 4:] * batch["scale"][0, 4:] + batch["loc"][0, 4:]
    assert "lengths" not in batch
    torch.testing.assert_close(traded[:3], torch.zeros(3, 2), atol=100.0, rtol=0)
    assert (traded[3:] > 9e4).all()


def test_bars_before_the_first_complete_one_are_cut(kit):
    window = holed(kit.window(1), *((3, step) for step in range(5)))
    short = kit.window(1)
    short = replace(short, context=short.context[:, 5:], context_times=short.context_times[5:])
    same(collate(window), collate(short))


def test_shorter_windows_start_at_the_left_and_end_in_zeros(kit):
    short, long = replace(kit.window(1, steps=9), key=1), kit.window(2)
    batch, alone = collate(short, long), collate(short)
    assert batch["lengths"].tolist() == [9, 16] and "lengths" not in alone
    assert torch.equal(batch["context"][0, :9], alone["context"][0]) and not batch["context"][0, 9:].any()
    assert batch["context_observed"].sum(1).tolist() == [9, 16]
    assert torch.equal(batch["context_stamps"][0, :9], alone["context_stamps"][0])


def test_context_and_future_join_without_a_gap_for_any_length(kit):
    short, long = kit.window(1, steps=9), kit.window(2)
    batch = collate(short, long)
    bars, observed = inputs.sequence(batch)
    stamps = inputs.sequence_stamps(batch)
    assert bars.shape == (2, 21, 6) and stamps is not None
    for b, window in enumerate((short, long)):
        count = window.context.shape[1] + HORIZON
        alone = collate(window)
        assert torch.equal(bars[b, :count], inputs.sequence(alone)[0][0])
        assert torch.equal(stamps[b, :count], inputs.sequence_stamps(alone)[0])
        assert not bars[b, count:].any()
        assert observed[b].sum() == count and observed[b, :count].all()


def test_a_window_without_any_bar_has_no_statistics_and_nothing_to_learn(kit):
    void = kit.window(1)
    void = replace(void, context=np.full_like(void.context, np.nan))
    for windows in ((void,), (void, kit.window(2))):
        batch = collate(*windows)
        assert batch["loc"][0].isnan().all() and batch["scale"][0].isnan().all()
        assert not batch["context"][0].any() and not batch["context_observed"][0].any()
        assert not batch["future_target"][0].any() and not batch["future_observed"][0].any()


def test_a_window_without_a_bar_with_all_prices_is_empty_too(kit):
    window = holed(kit.window(), *((0, step) for step in range(16)))
    assert collate(window)["loc"].isnan().all()


# Statistics


def test_statistics_are_those_of_the_context_and_normalised_bars_are_cut(kit):
    window = kit.window()
    bars = bars_of(window)
    past = bars[: kit.CONTEXT]
    batch = collate(window, clip=1.5)
    np.testing.assert_allclose(batch["loc"][0], past.mean(0), rtol=1e-6)
    np.testing.assert_allclose(batch["scale"][0], past.std(0) + 1e-5, rtol=1e-6)
    expected = np.clip((bars - past.mean(0)) / (past.std(0) + 1e-5), -1.5, 1.5)
    found = torch.cat((batch["context"], batch["future_target"]), 1)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert float(found.abs().max()) == 1.5


def test_statistics_of_large_volumes_keep_their_digits():
    rng = np.random.default_rng(0)
    volume = (1e9 + rng.normal(0, 118, 400)).astype(np.float32)  # 1e9 in float32 has steps of 64
    bars = np.ones((1, 400, 6))
    bars[0, :, 4] = volume
    exact = volume.astype(np.longdouble)
    loc, scale = statistics(bars)
    assert float(loc[0, 4]) == pytest.approx(float(exact.mean()), rel=1e-12)
    assert float(scale[0, 4]) == pytest.approx(float(exact.std()) + 1e-5, rel=1e-9)
    assert float(bars.astype(np.float32).std(1)[0, 4]) > 1.1 * float(exact.std())  # what float32 sums give


def test_statistics_ignore_bars_that_are_not_valid():
    rng = np.random.default_rng(1)
    bars, inside = rng.normal(size=(2, 7, 6)), np.arange(7) < np.array([[4], [7]])
    bars[0, 4:] = np.nan
    loc, scale = statistics(bars, inside)
    np.testing.assert_allclose(loc[0], bars[0, :4].mean(0))
    np.testing.assert_allclose(scale[0], bars[0, :4].std(0) + 1e-5)
    assert not normalise(bars, loc, scale, CLIP, inside)[0, 4:].any()


def test_constant_columns_are_zero_and_come_back(kit):
    window = kit.window()
    context = window.context.copy()
    context[4] = 7.0
    batch = collate(replace(window, context=context))
    assert not batch["context"][0, :, 4].any()
    assert float(batch["loc"][0, 4]) == 7.0


def test_infinite_values_count_as_missing(kit):
    window = kit.window()
    assert window.future is not None
    holed_window, infinite = (
        holed(window, (3, 7), (1, 18)),
        replace(window, context=window.context.copy(), future=window.future.copy()),
    )
    infinite.context[3, 7], infinite.future[1, 2] = np.inf, -np.inf
    same(collate(infinite), collate(holed_window))


def test_products_beyond_float32_are_cut_at_its_largest_number():
    window = Window(np.full((5, 4), 3e37, np.float32), 5, future=np.full((5, HORIZON), 3e37, np.float32))
    batch = collate(window)
    assert all(value.isfinite().all() for value in batch.values())


# Stamps and keys


@pytest.mark.parametrize(
    ("when", "stamp"),
    [
        ("1970-01-01T00:00", (0, 0, 3, 1, 1)),  # a Thursday
        ("2024-02-29T23:59:59.999999", (59, 23, 3, 29, 2)),
        ("2024-03-01T00:00", (0, 0, 4, 1, 3)),
        ("2023-12-31T09:35", (35, 9, 6, 31, 12)),
        ("1969-12-31T23:30", (30, 23, 2, 31, 12)),
        ("1900-01-01T16:00", (0, 16, 0, 1, 1)),
    ],
)
def test_stamps_of_known_dates(when, stamp):
    times = np.array([[when]], "M8[us]").astype(np.int64)
    assert stamps_of(times).tolist() == [[list(stamp)]]


def test_a_batch_carries_the_stamps_of_its_bars(kit):
    batch = collate(kit.window())
    assert batch["context_stamps"].dtype == batch["future_stamps"].dtype == torch.int64
    assert batch["context_stamps"][0, 11].tolist() == [55, 23, 3, 29, 2]
    assert batch["context_stamps"][0, 12].tolist() == [0, 0, 4, 1, 3]
    assert batch["future_stamps"][0, 0].tolist() == [20, 0, 4, 1, 3]


def test_without_a_calendar_there_are_no_stamps(kit):
    batch = collate(kit.window(times=False))
    assert not {name for name in batch if "stamps" in name}
    assert inputs.sequence_stamps(batch) is None


def test_keys_keep_all_their_bits(kit):
    windows = [replace(kit.window(), key=key) for key in (0, 2**63 + 5, 2**64 - 1)]
    key = collate(*windows)["key"]
    assert key.dtype == torch.int64
    assert key.numpy().view(np.uint64).tolist() == [0, 2**63 + 5, 2**64 - 1]


def test_types_of_a_batch_are_those_documented(kit):
    batch = collate(kit.window(1, steps=9), kit.window(2))
    kinds = {
        torch.float32: {"context", "loc", "scale", "future_target"},
        torch.bool: {"context_observed", "future_observed", "positive"},
    }
    for name, value in batch.items():
        assert value.dtype == next((kind for kind, names in kinds.items() if name in names), torch.int64), name


@pytest.mark.parametrize("price", [100.0, 1.0, 5e-5])
def test_normalised_bars_do_not_depend_on_the_price_level(price):
    """Upstream's 1e-5 would flatten the cheapest one to a sixth of its deviations."""
    rng = np.random.default_rng(0)
    walk = np.exp(0.02 * rng.standard_normal((1, 50, 1)).cumsum(1)) * np.ones(6)
    loc, scale = statistics(price * walk)
    found = normalise(price * walk, loc, scale, 5.0)
    assert found.std() == pytest.approx(1.0, abs=0.01)
    assert scale[0, 0] - (price * walk).std() == pytest.approx(1e-5 if price >= 1 else 0.01 * (price * walk).std())


@pytest.mark.parametrize("price", [100.0, 4e-5, 0.0])
def test_a_constant_column_is_zero(price):
    bars = np.full((1, 7, 6), np.float32(price), np.float64)
    loc, scale = statistics(bars)
    assert (scale > 0).all()
    assert np.abs(normalise(bars, loc, scale, 5.0)).max() < 1e-6


@pytest.mark.parametrize("unit", [2.0**-40, 1e-12, 1e12])
def test_relative_scales_are_in_the_unit_of_the_column(unit):
    rng = np.random.default_rng(0)
    bars = 1.6 + 3e-4 * rng.standard_normal((2, 50, 6)).cumsum(1)
    bars[1, :, 0] = 1.6  # a column that stands still has a scale too
    loc, scale = statistics(bars, relative=True)
    found = statistics(unit * bars, relative=True)
    np.testing.assert_allclose(found, (unit * loc, unit * scale), rtol=1e-9)
    assert scale[1, 0] == pytest.approx(1.6e-6, rel=1e-6)
    np.testing.assert_allclose(scale[0], bars[0].std(0), rtol=1e-5)


def test_relative_scales_of_ordinary_prices_are_upstreams():
    rng = np.random.default_rng(0)
    for price in (10.0, 300.0, 40_000.0):
        bars = price * np.exp(0.01 * rng.standard_normal((1, 64, 6)).cumsum(1))
        np.testing.assert_allclose(statistics(bars, relative=True), statistics(bars), rtol=1e-4)


def test_a_column_of_zeros_has_a_relative_scale():
    loc, scale = statistics(np.zeros((1, 7, 6)), relative=True)
    assert not loc.any() and (scale > 0).all() and (scale.astype(np.float32) > 0).all()
