"""The grid of a given frequency: rows of NaN between, rows off it refused; months that keep their day."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.notes import Code
from foretrain.timeaxis.grid import iso


def series(path: Path, stamps: Iterable[pd.Timestamp], left_out: tuple[int, ...] = ()) -> Path:
    rows = [f"{t},{k}" for k, t in enumerate(stamps) if k not in left_out]
    path.write_text("\n".join(["timestamp,y", *rows]) + "\n")
    return path


def values(corpus: Corpus) -> list[float]:
    return np.asarray(corpus.values(0))[0].tolist()


def days(corpus: Corpus) -> list[str]:
    times = corpus.times(0)
    assert times is not None
    return [iso(int(time)) for time in times]


@pytest.mark.parametrize(
    ("freq", "rows"),
    [("h", "h"), ("H", "h"), ("5T", "5min"), ("D", "D"), ("B", "B"), ("W", "W"), ("W-MON", "W-MON"), ("M", "MS"),
     ("M", "ME"), ("MS", "MS"), ("Q", "QE"), ("A", "YE"), ("BM", "BME"), ("QS-FEB", "QS-FEB")],
)  # fmt: skip
def test_a_hole_becomes_rows_of_nan_that_are_counted(tmp_path: Path, freq: str, rows: str) -> None:
    stamps = pd.date_range("2021-01-04", periods=40, freq=rows)
    holes = tuple(range(10, 30))  # half of the rows: too many to fill unasked
    report = import_corpus([series(tmp_path / "x.csv", stamps, holes)], tmp_path / "out", freq=freq)
    corpus = Corpus.open(tmp_path / "out")
    assert days(corpus) == [iso(int(t)) for t in stamps.to_numpy().astype("M8[us]").astype(np.int64)]
    assert np.flatnonzero(np.isnan(values(corpus))).tolist() == list(holes)
    assert [(note.code, dict(note.counts)) for note in report.notes] == [(Code.ROWS_ADDED, {"rows": 20})]


def test_rows_without_a_hole_stay_as_they_are(tmp_path: Path) -> None:
    path = series(tmp_path / "x.csv", pd.date_range("2021-01-04", periods=40, freq="h"))
    report = import_corpus([path], tmp_path / "out", freq="h")
    assert (report.time, report.freq, report.rows, report.notes) == ("regular", "h", 40, [])


@pytest.mark.parametrize(
    ("rows", "freq", "fitting"),
    [("MS", "ME", "MS"), ("ME", "MS", "ME"), ("W-MON", "W", "W-MON"), ("QS-FEB", "QS", "QS-FEB"), ("D", "B", "D")],
)
def test_rows_off_the_grid_are_refused_with_the_alias_that_fits(
    tmp_path: Path, rows: str, freq: str, fitting: str
) -> None:
    path = series(tmp_path / "x.csv", pd.date_range("2021-01-01", periods=40, freq=rows))
    with pytest.raises(DataError, match=f"item 'x': the row of 2021-.* not on the grid of freq='{freq}'.*'{fitting}'"):
        import_corpus([path], tmp_path / "out", freq=freq)
    assert not (tmp_path / "out").exists()


def test_one_row_off_the_grid_is_named(tmp_path: Path) -> None:
    stamps = [*pd.date_range("2021-01-04", periods=40, freq="h"), pd.Timestamp("2021-01-05 20:00:07")]
    with pytest.raises(DataError, match="the row of 2021-01-05 20:00:07 is not on the grid of freq='h'"):
        import_corpus([series(tmp_path / "x.csv", stamps)], tmp_path / "out", freq="h")


def test_a_step_that_would_leave_nearly_all_rows_empty_is_refused(tmp_path: Path) -> None:
    stamps = pd.Timestamp("2021-01-04") + pd.to_timedelta(np.cumsum(np.arange(1, 41) ** 3) * 60, unit="s")
    with pytest.raises(DataError, match=r"--freq s would put .* rows of NaN between 40 rows"):
        import_corpus([series(tmp_path / "x.csv", stamps)], tmp_path / "out", freq="s")


def test_items_on_different_edges_cannot_share_a_spelling_without_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for rows in ("MS", "ME"):
        series(tmp_path / "in" / f"{rows}.csv", pd.date_range("2021-01-01", periods=40, freq=rows))
    with pytest.raises(DataError, match=r"--freq M: the items fit ME \(first item 'ME'\) and MS"):
        import_corpus([tmp_path / "in"], tmp_path / "out", freq="M")


def kept(day: int, start: str = "2021-02-01") -> list[pd.Timestamp]:
    """40 months on a day, or on their last one where they are shorter."""
    return [t + pd.Timedelta(days=min(day, t.days_in_month) - 1) for t in pd.date_range(start, periods=41, freq="MS")]


@pytest.mark.parametrize("freq", [None, "M"])
@pytest.mark.parametrize("day", [2, 15, 28])
def test_months_go_on_on_the_day_that_they_keep(tmp_path: Path, day: int, freq: str | None) -> None:
    *stamps, following = kept(day)
    import_corpus([series(tmp_path / "x.csv", stamps, (7,))], tmp_path / "out", freq=freq)
    corpus = Corpus.open(tmp_path / "out")
    assert days(corpus) == [str(t.date()) for t in stamps]
    assert np.isnan(values(corpus)[7])
    future = corpus.future_times(0, 1)
    assert future is not None and iso(int(future[0])) == str(following.date())


def test_months_that_are_cut_short_keep_their_day(tmp_path: Path) -> None:
    *stamps, following = kept(30)  # the first one is 28 February
    import_corpus([series(tmp_path / "x.csv", stamps, (7,))], tmp_path / "out", freq="M")
    corpus = Corpus.open(tmp_path / "out")
    assert days(corpus) == [str(t.date()) for t in stamps]
    future = corpus.future_times(0, 1)
    assert future is not None and iso(int(future[0])) == str(following.date())
