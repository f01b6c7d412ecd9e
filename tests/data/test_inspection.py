"""What `data inspect` prints and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.inspection import head_rows, inspect_rows, inspect_text, plot_corpus, quality_rows
from foretrain.data.store import Column, Corpus
from foretrain.errors import DataError


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)
    days = np.busday_offset(np.datetime64("2021-01-04"), np.arange(300), roll="forward")
    for symbol in ("AAA", "BBB", "CCC"):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, 300)))
        rows = [
            f"{d},{c:.4f},{c * 1.01:.4f},{c * 0.99:.4f},{c:.4f},{k}"
            for k, (d, c) in enumerate(zip(days, close, strict=True))
        ]
        (folder / f"{symbol}.csv").write_text("\n".join(["date,open,high,low,close,volume", *rows]))
    import_corpus([folder], folder / "corpus")
    return Corpus.open(folder / "corpus")


def test_size_time_axis_columns_and_provenance_are_listed(market: Corpus) -> None:
    facts = dict(inspect_rows(market))
    assert facts["series"] == "3"
    assert facts["rows"] == "900"
    assert facts["time"] == "regular, B"
    assert facts["range"] == "2021-01-04 .. 2022-02-25 (dates without time of day)"
    assert facts["prices"] == "open, high, low, close (raw)"
    assert facts["missing"] == "nothing"
    assert facts["provenance"] == "real, 3 sources"


def test_rules_and_first_items_are_listed(market: Corpus) -> None:
    assert quality_rows(market) == [("zero_volume", "note", "3", "3", "reported")]
    assert head_rows(market)[1] == ("BBB", "300", "2021-01-04", "2022-02-25", "0.00%")
    text = inspect_text(market)
    assert "zero_volume" in text
    assert "first 3 of 3 items" in text


def test_a_corpus_without_report_calendar_or_prices_is_described_too() -> None:
    values = np.array([[1.0, np.nan, 3.0, 4.0], [0, 1, 1, 0]], np.float32)
    columns = [Column(name="load"), Column(name="day", kind="categorical", categories=("work", "rest"))]
    corpus = Corpus.from_arrays("memory", [("x", values, None)], columns)
    facts = dict(inspect_rows(corpus))
    assert facts["columns"] == "load, day (categories: 2)"
    assert facts["time"] == "steps, no calendar"
    assert facts["missing"] == "load 25.00%"
    assert quality_rows(corpus) == []
    assert "first 1 of 1 items" in inspect_text(corpus)


def test_the_picture_is_a_png_of_some_size(market: Corpus, tmp_path: Path) -> None:
    plot_corpus(market, tmp_path / "prices.png")
    data = (tmp_path / "prices.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert width > 1000
    assert height > 700


def test_any_corpus_can_be_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = [(f"s{k}", rng.normal(size=(2, 30 + k)).astype(np.float32), None) for k in range(20)]
    items[3][1][:, 5:9] = np.nan
    items[4][1][0] = np.nan
    plot_corpus(Corpus.from_arrays("steps", items, ["a", "b"]), tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 10_000
    one = Corpus.from_arrays("one", [("x", np.full((1, 1), np.nan, np.float32), None)], ["a"])
    plot_corpus(one, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5_000


def test_a_picture_that_cannot_be_written_is_one_line(market: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the picture"):
        plot_corpus(market, tmp_path / "file" / "x.png")


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"rules": []}', '{"left_out": 3}', '{"rules": {"gap": {"severity": "note", "rows": 1}}}',
     '{"rules": {"gap": null}}', '{"rules": {"gap": {"severity": "note", "items": "1", "rows": 1}}}'],
)  # fmt: skip
def test_a_damaged_report_of_an_import_is_one_line(market: Corpus, text: str) -> None:
    assert market.path is not None
    (market.path / "quality.json").write_text(text)
    with pytest.raises(DataError, match=r"quality\.json: .*Import the data again\."):
        inspect_text(market)
