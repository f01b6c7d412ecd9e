"""A table is read as itself, whatever dialect its file has. tests/proofs/dialects.py tries hundreds more."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.dialects import FEATURES, SUITE, difference, draw, write

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus


@pytest.mark.parametrize("seed", SUITE)
def test_a_table_in_any_dialect_becomes_the_same_corpus(seed: int, tmp_path: Path) -> None:
    table, dialect = draw(seed)
    write(tmp_path / "in", table, dialect)
    files = sorted((tmp_path / "in").iterdir())
    import_corpus(files if len(files) == 1 else [tmp_path / "in"], tmp_path / "out", **dialect.options)
    assert difference(Corpus.open(tmp_path / "out"), table, dialect) is None, str(dialect)


def test_the_dialects_of_the_suite_meet_every_choice_of_every_feature() -> None:
    met = {choice for seed in SUITE for choice in draw(seed)[1].choices.items()}
    assert met == {(name, value) for name, values in FEATURES.items() for value in values}
