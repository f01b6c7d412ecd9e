from __future__ import annotations

import numpy as np

from foretrain.suites.known_windows import LENGTH, TOLERANCE, KnownWindows


def walks(count: int, length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, length)).cumsum(1)


def test_windows_are_found_at_any_position_scale_and_offset_in_float32():
    series = walks(20, 200, 0)
    known = KnownWindows(series[:, 101 : 101 + LENGTH])
    for row, one in enumerate(series[:10]):
        known.look_into((one * (row + 0.5) * 10.0 - 300.0).astype(np.float32))
    assert known.telling.all()
    assert known.found.tolist() == [True] * 10 + [False] * 10


def test_other_series_of_the_same_kind_hold_none_of_them():
    steps = np.arange(400)
    rng = np.random.default_rng(1)
    seasonal = np.sin(steps / 12 * np.pi) + 0.1 * rng.standard_normal((30, 400))
    counts = rng.poisson(3.0, (30, 400)).astype(float)
    for kind in (walks(30, 400, 2), seasonal, counts):
        known = KnownWindows(kind[:15, :320].reshape(-1, LENGTH))
        for one in kind[15:]:
            known.look_into(one.astype(np.float32))
        assert known.telling.mean() > 0.3 and not known.found.any()  # few counts differ in a window
        known.look_into(kind[0])
        assert known.found[:10].sum() == known.telling[:10].sum() > 2


def test_windows_that_equal_many_others_do_not_count():
    """Constants, ramps, single pulses, two lines, windows of few values or with a hole, and nearly constants."""
    steps = np.arange(float(LENGTH))
    hole = walks(1, LENGTH, 3)[0]
    hole[5] = np.nan
    shapes = [
        np.full(LENGTH, 7.0), 3 * steps + 1, (steps == 9) * 5.0, np.abs(steps - 10), steps % 2, hole,
        1e9 + 1e-3 * walks(1, LENGTH, 4)[0],
    ]  # fmt: skip
    known = KnownWindows(np.array(shapes))
    assert not known.telling.any()
    for shape in shapes:
        known.look_into(shape)
    assert not known.found.any()


def test_a_changed_step_or_sign_hides_a_window_and_short_series_hold_none():
    series = walks(1, 100, 5)[0]
    known = KnownWindows(series[None, 40 : 40 + LENGTH])
    changed = series.copy()
    changed[55] += 0.1 * series[40 : 40 + LENGTH].std()
    for other in (changed, -series, series[45:], series[: LENGTH - 1], np.full(100, np.nan)):
        known.look_into(other)
    assert not known.found.any()
    known.look_into(series)
    assert known.found.all()


def test_nothing_to_look_for_finds_nothing():
    known = KnownWindows(np.empty((0, LENGTH)))
    known.look_into(walks(1, 100, 0)[0])
    assert len(known.found) == 0 == len(known.telling)


def test_many_equal_windows_are_all_found():
    """As of a task with overlapping windows: candidates of one hash are compared in blocks."""
    series = walks(1, 64, 6)[0]
    known = KnownWindows(np.repeat(series[None, :LENGTH], 3_000, 0))
    known.look_into(np.tile(series, 30))
    assert known.found.all()


def test_readers_know_the_oldest_steps_of_a_series():
    series = walks(1, 100, 7)[0]
    known = KnownWindows(np.stack([series[start : start + LENGTH] for start in (0, 20, 60)]), readers=3)
    known.look_into(series, [LENGTH - 1, 52, 100])
    assert known.found_by.tolist() == [[False, False, False], [True, True, False], [True, True, True]]
    assert known.found.all()


def test_what_is_found_is_what_a_search_by_brute_force_finds_in_double_precision():
    """Copies at other scales, rounded to so many digits or with so much noise: nearer than the tolerance or not."""
    rng = np.random.default_rng(8)
    base = walks(60, 64, 9)
    noise = np.repeat([0.0, 1e-6, 1e-3, 0.004, 0.02, 0.1], 10)[:, None]  # of a standard deviation of the window
    deviation = base[:, 16:48].std(1, keepdims=True)
    copies = (base + noise * deviation * rng.uniform(-1, 1, base.shape)) * rng.uniform(0.05, 3000, (60, 1)) + 7
    copies[::2] = copies[::2].round(2)
    known = KnownWindows(base[:, 16:48])
    for one in copies:
        known.look_into(one)
    places = np.lib.stride_tricks.sliding_window_view(copies, LENGTH, axis=1).reshape(-1, LENGTH)
    shapes = (places - places.mean(1, keepdims=True)) / places.std(1, keepdims=True)
    wanted = (base[:, 16:48] - base[:, 16:48].mean(1, keepdims=True)) / deviation
    nearest = np.array([np.abs(shapes - one).max(1).min() for one in wanted])
    near, far = nearest < 1e-5, nearest > TOLERANCE
    assert known.found[near].all() and not known.found[far].any() and near.sum() >= 10 and far.sum() >= 20
    missed = ~known.found & ~near & ~far
    assert missed.sum() <= 12  # a step that lies on the edge of two cells of the grid has another hash
