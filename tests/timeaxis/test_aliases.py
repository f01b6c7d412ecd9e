"""Every alias that pandas knows is taken by the store, evaluation, training windows and forecasts alike, or by none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from pandas._libs.tslibs.offsets import prefix_mapping

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.panel import corpus_season
from foretrain.timeaxis.frequency import DAY_NAMES, MONTH_NAMES, Frequency, to_offset
from foretrain.timeaxis.future import next_stamps
from foretrain.timeaxis.grid import ordinals

MULTIPLES = (1, 2, 3, 15)
ROWS, AHEAD = 12, 4  # from 1700, so that 15 years each end before 2262, where nanoseconds do
WEEKS = [f"{week}{day}" for week in range(1, 5) for day in DAY_NAMES]
YEARS_OF_52_WEEKS = [f"{kind}-{month}-{day}" for kind in "NL" for month in MONTH_NAMES for day in DAY_NAMES]
ANCHORS = {
    "W": ("", *DAY_NAMES),
    "LWOM": DAY_NAMES,
    "WOM": WEEKS,
    "SME": ("", "2", "10", "27"),
    "SMS": ("", "2", "10", "27"),
    "RE": YEARS_OF_52_WEEKS[::13],
    "REQ": [f"{year}-{quarter}" for year, quarter in itertools.product(YEARS_OF_52_WEEKS[::61], range(1, 5))],
} | {base: ("", *MONTH_NAMES) for base in prefix_mapping if base.lstrip("BH") in ("QS", "QE", "YS", "YE")}
# gluonts.time_feature.seasonality (0.16): steps in the next longer cycle by what precedes the anchor, 1 for the rest
GLUONTS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "W": 1, "B": 5, "MS": 12, "ME": 12, "QS": 4, "QE": 4}


def aliases(base: str) -> Iterator[str]:
    """Every alias of a base: the multiples, each with the anchors."""
    for multiple, anchor in itertools.product(MULTIPLES, ANCHORS.get(base, ("",))):
        yield f"{'' if multiple == 1 else multiple}{base}{'-' if anchor else ''}{anchor}"


def gluonts_season(alias: str) -> int:
    offset = to_offset(alias)
    season = GLUONTS.get(offset.rule_code.split("-")[0], 1)
    return season // offset.n if season % offset.n == 0 else 1


def corpus_of(alias: str, times: pd.DatetimeIndex, time: str = "regular") -> Corpus:
    micros = times.to_numpy().astype("M8[us]")
    return Corpus.from_arrays("c", [("a", np.ones((1, len(times))), micros)], ["x"], time=time, freq=alias)


@pytest.mark.parametrize("base", sorted(set(prefix_mapping) - {"ns"}))
def test_store_season_step_numbers_and_forecasts_agree_with_pandas_on_every_alias(base: str) -> None:
    for alias in aliases(base):
        whole = pd.date_range("1700-01-01 10:00", periods=ROWS + AHEAD, freq=to_offset(alias), unit="us")
        times, coming = whole[:ROWS], whole[ROWS:]
        frequency = Frequency.parse(alias)
        assert Frequency.parse(frequency.alias) == frequency, alias
        assert frequency.offset == to_offset(alias), alias
        corpus = corpus_of(alias, times)
        assert corpus.manifest.freq == alias
        assert pd.DatetimeIndex(corpus.times(0).view("M8[us]")).equals(times), alias
        assert pd.DatetimeIndex(corpus.future_times(0, AHEAD).view("M8[us]")).equals(coming), alias
        assert corpus_season(corpus) == gluonts_season(alias), alias
        number, exact = ordinals(np.delete(times.asi8, [3, 4, 9]), alias)
        assert exact and number.tolist() == np.delete(np.arange(ROWS), [3, 4, 9]).tolist(), alias
        found = next_stamps(times, np.zeros(1, np.int64), ["a"], AHEAD, freq=alias)
        assert found.equals(coming), alias


@pytest.mark.parametrize("alias", ["BME", "SMS-10", "WOM-3FRI", "BQE-FEB", "BYS", "REQ-N-DEC-MON-1", "cbh"])
def test_stored_stamps_continue_with_the_next_one_of_their_freq_even_if_the_last_is_off_the_grid(alias: str) -> None:
    uneven = pd.DatetimeIndex(["2020-01-01", "2020-01-02 03:00", "2020-03-14 19:17"])  # Saturday night
    found = corpus_of(alias, uneven, "stamps").future_times(0, 3)
    wanted = pd.date_range(uneven[-1], periods=3, freq=to_offset(alias), unit="us")
    assert pd.DatetimeIndex(found.view("M8[us]")).equals(wanted)


def test_steps_below_a_microsecond_are_refused_at_import() -> None:
    times = pd.date_range("2020-01-01", periods=5, freq="us")
    for alias in ("ns", "15ns"):
        for time in ("regular", "stamps"):
            with pytest.raises(DataError, match=r"finer than a microsecond.* leave freq out"):
                corpus_of(alias, times, time)
    assert corpus_season(corpus_of("3000ns", pd.date_range("2020-01-01", periods=5, freq="3us"))) == 1


def test_a_first_row_off_the_frequency_is_an_error() -> None:
    with pytest.raises(DataError, match="item 'a': its first row, at 2020-01-15, is no stamp of freq 'BME'"):
        corpus_of("BME", pd.DatetimeIndex(["2020-01-15", "2020-01-31", "2020-02-28"]))


def test_a_month_of_older_files_keeps_its_day_in_the_store_and_is_a_month_start_to_an_import(tmp_path) -> None:
    """gluonts' data sets have freq "M" and starts on the first of a month or on the last."""
    for edge in ("MS", "ME"):
        whole = pd.date_range("2020-01-01", periods=12, freq=edge, unit="us")
        for alias in ("M", "1M"):
            corpus = corpus_of(alias, whole[:9])
            assert corpus.future_times(0, 3).tolist() == whole[9:].asi8.tolist()
            assert (corpus.manifest.freq, corpus_season(corpus)) == (alias, 12)
    found = next_stamps(whole[:9], np.zeros(1, np.int64), ["a"], 3, freq="M")
    assert found.equals(whole[9:])  # month ends, as pandas read M

    starts = pd.date_range("2020-01-01", periods=30, freq="MS")
    (tmp_path / "x.csv").write_text("date,x\n" + "".join(f"{day:%Y-%m-%d},{k}\n" for k, day in enumerate(starts)))
    report = import_corpus([tmp_path / "x.csv"], tmp_path / "corpus", freq="M")
    assert (report.time, report.freq) == ("regular", "MS")


@pytest.mark.parametrize(
    ("spelling", "stored"),
    [("A-DEC", "YS"), ("A-JUN", "YS-JUL"), ("Y-DEC", "YS"), ("Q-DEC", "QS"), ("Q-JAN", "QS-FEB"), ("AS-JUL", "YS-JUL")],
)
def test_an_import_of_period_starts_is_regular_under_the_older_spelling_of_the_periods(
    tmp_path, spelling: str, stored: str
) -> None:
    starts = pd.date_range("1990-01-01", periods=30, freq=stored)
    (tmp_path / "x.csv").write_text("date,x\n" + "".join(f"{day:%Y-%m-%d},{k}\n" for k, day in enumerate(starts)))
    report = import_corpus([tmp_path / "x.csv"], tmp_path / "corpus", freq=spelling)
    assert (report.time, report.freq) == ("regular", stored)
    coming = Corpus.open(tmp_path / "corpus").future_times(0, 2)
    assert pd.DatetimeIndex(coming.view("M8[us]")).equals(pd.date_range(starts[-1], periods=3, freq=stored)[1:])
