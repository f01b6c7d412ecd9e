"""Every way from a file to a forecast gives the same bits. tests/proofs/one_reader.py tries many more files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.data.importers.dialects import SUITE, draw, file_columns, write
from tests.forecasting.readings import Ways

from foretrain.data.frames import open_input, read_future
from foretrain.data.importers import import_corpus
from foretrain.forecasting.frame import read_frame


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


FLAG = np.arange(46) % 4 == 0
SPELLINGS = {
    "boolean": FLAG,
    "number": FLAG.astype(int),
    "fraction": FLAG.astype(float),
    "text": np.where(FLAG, "true", "FALSE"),
}


@pytest.mark.parametrize("past", list(SPELLINGS))
def test_spellings_of_a_flag_known_ahead_match_between_files_of_any_kind(tmp_path, past):
    """Of a history file and of the corpus that it becomes; what is known ahead comes as CSV and as Parquet."""
    hours = pd.date_range("2024-01-01", periods=46, freq="h")
    target = np.arange(40) % 7 + 5.0 * FLAG[:40]
    history = pd.DataFrame({"timestamp": hours[:40], "target": target, "promo": SPELLINGS[past][:40]})
    history.to_parquet(tmp_path / "h.parquet")
    import_corpus([tmp_path / "h.parquet"], tmp_path / "corpus")
    expected = None
    for ahead, values in SPELLINGS.items():
        future = pd.DataFrame({"timestamp": hours[40:], "promo": values[40:]})
        future.to_csv(tmp_path / "f.csv", index=False)
        future.to_parquet(tmp_path / "f.parquet")
        for opened in (open_input(tmp_path / "h.parquet"), open_input(tmp_path / "corpus")):
            for name in ("f.csv", "f.parquet"):
                task = read_frame(opened.frame(), 6, future_df=read_future(tmp_path / name, opened))
                row = task.windows[0].future[-1]
                expected = row if expected is None else expected
                assert row[0] > row[1] and np.array_equal(row, expected), (ahead, name)
