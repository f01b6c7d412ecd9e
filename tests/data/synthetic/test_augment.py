"""What each augmentation does to series."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.synthetic import augment as changes
from foretrain.data.synthetic.augment import Augment, augment, leave_gaps

RNG = np.random.default_rng


def block(rows: int = 1, count: int = 40, length: int = 60) -> np.ndarray:
    return RNG(0).standard_normal((count, rows, length)).cumsum(axis=-1) + 3.0


def only(name: str, **settings) -> Augment:
    return Augment(**{name: {"share": 1.0, **settings}})


def changed(name: str, values: np.ndarray, **settings) -> np.ndarray:
    return augment(only(name, **settings), RNG(1), values.copy())


@pytest.mark.parametrize("name", [name for name in Augment.model_fields if name != "stride"])  # taken in a stream
def test_the_share_of_windows_is_changed_and_no_other(name):
    values = block(count=800).astype(np.float32 if name == "gaps" else np.float64)
    found = values.copy()
    if name == "gaps":
        leave_gaps(Augment(gaps={"share": 0.3}).gaps, RNG(1), found)
    else:
        found = augment(Augment(**{name: {"share": 0.3}}), RNG(1), found)
    share = np.any(found != values, axis=(1, 2)).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 800)


def test_without_a_share_nothing_is_drawn_and_nothing_changes():
    values, rng = block(), RNG(5)
    assert np.array_equal(augment(Augment(), rng, values.copy()), values)
    assert rng.random() == RNG(5).random()


def test_tsmixup_is_a_convex_combination_of_up_to_k_series_scaled_by_their_mean_size():
    values = np.abs(block(count=12, length=200)) + 1.0
    found = changed("tsmixup", values, most=3)[:, 0]
    parts = (values / np.abs(values).mean(axis=-1, keepdims=True))[:, 0]
    weights = np.linalg.lstsq(parts.T, found.T, rcond=None)[0].T  # (12, 12): what each is made of
    used = weights > 1e-9
    assert np.allclose(weights @ parts, found)
    assert np.allclose(weights.sum(axis=1), 1.0)
    assert set(used.sum(axis=1)) == {2, 3}
    assert used.diagonal().all()


def test_the_weights_of_mixup_are_mostly_near_0_and_1():
    values = np.stack([np.full((1, 4), 1.0), np.array([[4.0, 0.0, 4.0, 0.0]])])
    many = np.concatenate([changed_with(seed, values)[0, 0, :1] for seed in range(400)])
    weight = 2.0 - many  # of the constant series, which is 1 where the other is 2
    assert ((weight >= 0) & (weight <= 1)).all()
    assert ((weight < 0.1) | (weight > 0.9)).mean() > 0.6


def changed_with(seed: int, values: np.ndarray) -> np.ndarray:
    return augment(only("mixup"), RNG(seed), values.copy())


def test_flips_turn_time_and_sign():
    values = block()
    assert np.array_equal(changed("time_flip", values), values[:, :, ::-1])
    assert np.array_equal(changed("sign_flip", values), -values)


def test_rows_of_a_window_change_sign_together_and_keep_their_time_and_their_parts():
    values = block(rows=3)
    half = augment(Augment(sign_flip={"share": 0.5}), RNG(1), values.copy())
    assert set(np.round((half / values).mean(axis=-1).sum(axis=1)).tolist()) == {-3.0, 3.0}
    for name in ("tsmixup", "mixup", "time_flip", "modulation"):
        assert np.array_equal(changed(name, values), values), name


def test_a_series_without_its_past_is_not_turned():
    values = block()
    values[0, 0, :5] = np.nan
    found = changed("time_flip", values)
    assert np.array_equal(found[0], values[0], equal_nan=True)
    assert np.array_equal(found[1:], values[1:, :, ::-1])


def test_modulation_keeps_the_mean_level_and_bounds_the_amplitude():
    values = block()
    middle = values.mean(axis=-1, keepdims=True)
    ratio = (changed("modulation", values, depth=[0.5, 0.5]) - middle) / (values - middle)
    assert 0.5 - 1e-9 < ratio.min() < 0.6 and 1.4 < ratio.max() < 1.5 + 1e-9


def test_censored_values_stop_at_a_quantile_on_one_side():
    values = block()
    found = changed("censor", values, fraction=[0.25, 0.25])
    equal = (found == values).mean(axis=-1)[:, 0]
    assert (np.abs(equal - 0.75) < 0.03).all()
    above = (found <= values).all(axis=-1)[:, 0]
    assert above.any() and not above.all()
    assert ((found >= values).all(axis=-1)[:, 0] | above).all()


def test_quantised_series_have_as_many_levels_as_asked_and_keep_their_range():
    values = block()
    found = changed("quantise", values, levels=[5.0, 5.0])
    assert all(len(np.unique(np.round(row, 9))) <= 5 for row in found[:, 0])
    assert np.allclose(found.max(axis=-1), values.max(axis=-1)) and np.allclose(found.min(axis=-1), values.min(axis=-1))


def test_gaps_are_blocks_and_each_row_has_its_own():
    values = block(rows=2).astype(np.float32)
    leave_gaps(changes.Gaps(share=1.0, blocks=(1, 1), fraction=(0.1, 0.1)), RNG(1), values)
    gone = np.isnan(values)
    assert (gone.sum(axis=-1) == 6).all()
    assert (np.diff(gone.astype(int), axis=-1) == 1).sum(axis=-1).max() == 1
    assert (gone[:, 0] != gone[:, 1]).any(axis=-1).mean() > 0.8


@pytest.mark.parametrize("name", ["tsmixup", "mixup", "modulation", "censor", "quantise", "sign_flip"])
def test_missing_values_stay_missing_and_constants_and_empty_series_are_accepted(name):
    values = block()
    values[0], values[1], values[2, 0, 10:20] = np.nan, 0.0, np.nan
    found = changed(name, values)
    assert np.isnan(found[0]).all() and np.isnan(found[2, 0, 10:20]).all()
    if name not in ("tsmixup", "mixup"):  # there a partner's are missing too
        assert np.isfinite(found[1]).all() and np.isfinite(found[3:]).all()


def test_a_block_of_one_series_has_no_partner_and_is_left_as_it_is():
    values = block(count=1)
    for name in ("tsmixup", "mixup"):
        assert np.array_equal(changed(name, values), values)
