"""Hours that clocks repeat."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.timeaxis.clock_changes import may_repeat


@pytest.mark.parametrize(
    ("stamp", "repeats"),
    [
        ("2023-10-29T02:30", True),  # Berlin
        ("2023-11-05T01:00", True),  # New York
        ("2024-04-07T02:00", True),  # Sydney
        ("2023-10-28T02:30", False),  # a Saturday
        ("2023-10-29T04:00", False),
        ("2023-07-02T02:30", False),
    ],
)
def test_clocks_repeat_hours_on_sunday_nights_of_autumn(stamp: str, repeats: bool) -> None:
    autumn = np.datetime64("2022-10-30T02:00", "us")
    assert may_repeat(np.array([autumn, np.datetime64(stamp, "us")]).astype(np.int64)) == repeats
