from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fake_market import HOUR, at

from foretrain.data.importers import import_corpus
from foretrain.data.market.bars import CANDLE, DAY, Bars, csv_text, ends, read_bars, stamps
from foretrain.data.store import Corpus
from foretrain.errors import DataError

cells = st.one_of(st.just(float("nan")), st.floats(min_value=-1e300, max_value=1e300))


def bars_of(times: list[int], values: list[list[float]]) -> Bars:
    return Bars.of(np.array(times), CANDLE, np.array(values))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-(10**7), 10**7), *[cells] * 5), min_size=1, max_size=20), st.booleans())
def test_a_file_gives_back_the_same_bars_bit_for_bit(tmp_path_factory, rows, daily):
    times = [row[0] * (DAY if daily else 1000) for row in rows]
    bars = bars_of([time % 10**14 for time in times], [list(row[1:]) for row in rows])
    path = tmp_path_factory.getbasetemp() / "bars.csv"
    path.write_text(csv_text(bars))
    found = read_bars(path)
    assert found.columns == bars.columns and found.times.tolist() == bars.times.tolist()
    np.testing.assert_array_equal(found.values, bars.values)
    assert csv_text(found) == path.read_text()


def test_bars_are_in_order_and_the_last_of_one_stamp_stays():
    bars = bars_of([2 * DAY, DAY, 2 * DAY], [[1] * 5, [2] * 5, [3] * 5])
    assert bars.times.tolist() == [DAY, 2 * DAY] and bars.column("close").tolist() == [2, 3]


def test_days_are_dates_and_other_stamps_are_utc():
    assert stamps(np.array([0, DAY])) == ["1970-01-01", "1970-01-02"]
    assert stamps(np.array([0, HOUR])) == ["1970-01-01T00:00:00Z", "1970-01-01T01:00:00Z"]


@pytest.mark.parametrize(
    ("interval", "start", "end"),
    [("1h", "2024-01-31 23:00", "2024-02-01"), ("1w", "2024-02-26", "2024-03-04"), ("1mo", "2024-02-01", "2024-03-01")],
)
def test_the_end_of_a_bar_follows_the_calendar(interval, start, end):
    assert ends(np.array([at(start)]), interval).tolist() == [at(end)]


@pytest.mark.parametrize("text", ["", "\0", "{head}\n", "{head}\nx,1,1,1,1,1\n", "{head}\n2024-01-01,1\n"])
def test_a_file_that_is_none_is_named(tmp_path, text):
    (tmp_path / "A.csv").write_text(text.format(head=",".join(["timestamp", *CANDLE])))
    with pytest.raises(DataError, match=r"A\.csv: cannot be read as bars .* Delete it, and download it again\."):
        read_bars(tmp_path / "A.csv")


@pytest.mark.parametrize(("step", "freq"), [(DAY, "1d"), (HOUR, "1h")])
def test_an_import_reads_the_files(tmp_path, step, freq):
    (tmp_path / "library").mkdir()
    bars = bars_of([at("2024-01-01") + step * k for k in range(40)], [[10, 11, 9, 10 + k / 8, 1e-5] for k in range(40)])
    (tmp_path / "library" / "BTC-USDT.csv").write_text(csv_text(bars))
    (tmp_path / "library" / "ETH-USDT.csv").write_text(csv_text(bars))
    (tmp_path / "library" / "provenance.json").write_text("{}")
    import_corpus([tmp_path / "library"], tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus")
    assert sorted(corpus.item_ids()) == ["BTC-USDT", "ETH-USDT"] and corpus.manifest.num_rows == 80
    assert [column.name for column in corpus.manifest.columns] == list(CANDLE)
    assert corpus.manifest.timezone == (None if step == DAY else "UTC")
