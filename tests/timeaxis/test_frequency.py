"""Names of frequencies and their seasons."""

from __future__ import annotations

import pytest

from foretrain.errors import DataError
from foretrain.timeaxis.frequency import Freq, seasonality

# what gluonts.time_feature.get_seasonality answers (0.16)
GLUONTS = {
    "s": 3600, "10s": 360, "min": 1440, "5min": 288, "10min": 144, "15min": 96, "30min": 48, "7min": 1, "h": 24,
    "2h": 12, "5h": 1, "D": 1, "2D": 1, "B": 5, "W": 1, "W-TUE": 1, "MS": 12, "ME": 12, "2MS": 6, "3MS": 4, "6MS": 2,
    "12MS": 1, "QS": 4, "QE": 4, "QS-FEB": 4, "2QS": 2, "YS": 1, "YE": 1, "YS-JUL": 1, "ms": 1,
}  # fmt: skip


@pytest.mark.parametrize("freq", GLUONTS)
def test_seasonality_is_what_gluonts_says(freq: str) -> None:
    assert seasonality(freq) == GLUONTS[freq]


@pytest.mark.parity
def test_the_table_of_seasonalities_is_gluonts_own() -> None:
    get_seasonality = pytest.importorskip("gluonts.time_feature").get_seasonality
    assert {freq: get_seasonality(freq) for freq in GLUONTS} == GLUONTS


def test_a_session_has_its_own_season() -> None:
    assert seasonality("min", bars_per_session=390) == 390
    assert seasonality(None) is None


def test_old_spellings_are_understood_and_nonsense_is_not() -> None:
    assert [Freq.parse(text).alias for text in ("H", "15T", "M", "A-DEC", "w-sun")] == [
        "h",
        "15min",
        "MS",
        "YS-DEC",
        "W-SUN",
    ]
    with pytest.raises(DataError, match="'fortnight' is not known"):
        Freq.parse("fortnight")
