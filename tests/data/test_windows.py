"""Where the windows of a batch begin."""

from __future__ import annotations

import numpy as np

from foretrain.data.windows import Window, stack_windows, window_starts


def test_a_window_starts_where_any_of_its_rows_does():
    short = np.array([[np.nan, np.nan, 3.0], [np.nan, 2.0, np.nan]], np.float32)
    windows = stack_windows([Window(short, 2), Window(np.ones((1, 5), np.float32), 1)], 1)
    assert window_starts(windows.context, windows.window).tolist() == [3, 3, 0]


def test_a_window_without_values_starts_at_the_last_step():
    context = np.full((3, 4), np.nan, np.float32)
    context[0, 1] = 0.0
    assert window_starts(context, np.array([0, 1, 1])).tolist() == [1, 3, 3]
