"""Names of frequencies and their seasons."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.timeaxis.frequency import MONTH_NAMES, Frequency, seasonality, to_offset
from foretrain.timeaxis.grid import ordinals

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


def test_every_frequency_has_a_usual_horizon() -> None:
    steps = {"YE": 6, "QS": 8, "MS": 18, "W-TUE": 13, "D": 14, "B": 10, "h": 48, "15min": 60, "s": 60, "bh": 24}
    assert {freq: Frequency.parse(freq).usual_horizon for freq in steps} == steps


# older spelling: today's, where the last day of a period stands for what names no edge of it
OLD = {
    "U": "us", "L": "ms", "S": "s", "sec": "s", "T": "min", "H": "h", "d": "D", "b": "B", "c": "C", "w": "W",
    "w-sun": "W-SUN", "M": "ME", "Q": "QE", "A": "YE", "Y": "YE", "AS": "YS", "Q-feb": "QE-FEB", "A-DEC": "YE-DEC",
    "AS-JUL": "YS-JUL", "N": "ns", "BM": "BME", "SM": "SME", "SM-10": "SME-10", "CBM": "CBME", "BQ": "BQE",
    "BQ-JAN": "BQE-JAN", "BA": "BYE", "BA-MAR": "BYE-MAR", "BY": "BYE", "BAS": "BYS", "BH": "bh", "CBH": "cbh",
}  # fmt: skip


@pytest.mark.parametrize("multiple", ["", "1", "2", "15", " 3 "])
@pytest.mark.parametrize("old", OLD)
def test_spellings_of_older_pandas_are_equal_to_todays(old: str, multiple: str) -> None:
    found, wanted = Frequency.parse(multiple + old), Frequency.parse(multiple + OLD[old])
    assert found == wanted
    assert Frequency.parse(found.alias) == found
    assert found.offset == to_offset(wanted.alias)


def _read_by_pandas(old: str) -> bool:
    try:
        return to_offset(old) is not None
    except ValueError:
        return False


@pytest.mark.parametrize("old", [*filter(_read_by_pandas, OLD)])  # most of them before pandas 3, letter case since
def test_an_older_spelling_means_what_this_pandas_says(old: str) -> None:
    assert Frequency.parse(old).offset == to_offset(old)


def test_a_period_without_an_edge_has_the_one_that_the_reader_names() -> None:
    assert [Frequency.parse(text, edge="S").alias for text in ("H", "15T", "M", "3Q", "A-DEC", "w-sun", "ME")] == [
        "h",
        "15min",
        "MS",
        "3QS",
        "YS",
        "W-SUN",
        "ME",
    ]
    assert Frequency.parse("M", edge="E") == Frequency.parse("M") == Frequency.parse("ME")


@pytest.mark.parametrize("month", MONTH_NAMES)
@pytest.mark.parametrize("old, period", [("Q", "Q"), ("A", "Y"), ("Y", "Y")])
def test_periods_named_by_their_last_month_start_where_those_of_pandas_do(old: str, period: str, month: str) -> None:
    periods = pd.period_range("2000-06", periods=9, freq=f"{period}-{month}")
    by_start, by_end = (Frequency.parse(f"{old}-{month}", edge=edge) for edge in ("S", "E"))
    for frequency, times in ((by_start, periods.start_time), (by_end, periods.end_time.normalize())):
        number, exact = ordinals(times.as_unit("us").asi8, frequency)
        assert exact and number.tolist() == list(range(9)), frequency
        assert pd.date_range(times[0], periods=9, freq=frequency.offset).equals(times), frequency


def test_sums_of_spans_are_one_span() -> None:
    for text, alias in {"1h30min": "90min", "1H30T": "90min", "1.5h": "90min", "1D12h": "36h", "3000ns": "3us"}.items():
        assert Frequency.parse(text).alias == alias


@pytest.mark.parametrize(
    "bad", ["fortnight", "", "1", "D1", "0h", "-1D", "0BME", "-2W", "MS-JAN", "QS-XYZ", "W-JAN", "WOM", "h,min", "M-S"]
)
def test_what_is_no_forward_alias_is_refused(bad: str) -> None:
    with pytest.raises(DataError, match=f"freq={bad!r} is not a forward pandas frequency alias"):
        Frequency.parse(bad)


@pytest.mark.parametrize("fine", ["ns", "N", "500ns", "1.5us"])
def test_a_corpus_takes_no_step_below_a_microsecond(fine: str) -> None:
    assert Frequency.parse(fine).seasonality == 1
    with pytest.raises(DataError, match=f"freq={fine!r} is finer than a microsecond"):
        Frequency.storable(fine)


@pytest.mark.processes
def test_common_names_are_read_without_pandas() -> None:
    code = (
        "import sys; from foretrain.timeaxis.frequency import Frequency\n"
        "for text in 'us 5ms s 15min T H D 2W W-SUN B C M ME MS Q QS-FEB A-DEC YE'.split(): Frequency.parse(text)\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
