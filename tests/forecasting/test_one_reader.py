"""Every way from a file to a forecast gives the same bits. tests/proofs/one_reader.py tries many more files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.dialects import SUITE, draw, file_columns, write
from tests.forecasting.readings import Ways


@pytest.mark.parametrize("seed", list(SUITE)[::4])
def test_a_file_a_table_and_a_corpus_give_the_same_forecast(seed: int, tmp_path: Path) -> None:
    table, dialect = draw(seed)
    file = write(tmp_path / "in", table, dialect)[0]
    assert Ways(file, dialect.options, dialect.target(table), tmp_path).disagreement() is None, str(dialect)


@pytest.mark.parametrize("seed", list(SUITE)[1::4])
def test_a_frame_of_read_csv_gives_that_forecast_too_or_is_refused(seed: int, tmp_path: Path) -> None:
    table, dialect = draw(seed)
    file = write(tmp_path / "in", table, dialect)[0]
    ways = Ways(file, dialect.options, dialect.target(table), tmp_path)
    assert ways.careless(file_columns(table, dialect)) is None, str(dialect)
