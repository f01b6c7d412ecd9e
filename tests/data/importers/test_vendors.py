"""Files of vendors, agencies and programs are read right, or refused with a reason. docs/field-log.md lists them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.importers import vendor_agencies, vendor_energy, vendor_markets, vendor_programs
from tests.data.importers.samples import SAMPLES, Read

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError

FILES = (vendor_agencies, vendor_energy, vendor_markets, vendor_programs)  # each adds its samples
READ = {name: sample for name, sample in SAMPLES.items() if isinstance(sample.outcome, Read)}
REFUSED = {name: sample for name, sample in SAMPLES.items() if isinstance(sample.outcome, str)}


@pytest.mark.parametrize("name", READ)
def test_a_vendor_s_file_is_read(name: str, tmp_path: Path) -> None:
    sample = READ[name]
    wanted = sample.outcome
    assert isinstance(wanted, Read)
    (tmp_path / sample.file).write_text(sample.text, encoding="utf-8")
    import_corpus([tmp_path / sample.file], tmp_path / "out", **sample.options)
    corpus = Corpus.open(tmp_path / "out")
    assert tuple(corpus.item_id(k) for k in range(corpus.num_series)) == wanted.items
    assert corpus.columns == wanted.columns
    assert corpus.manifest.freq == wanted.freq
    times = corpus.times(0)
    start = None if times is None else np.int64(times[0]).astype("M8[us]")
    assert start == (None if wanted.start is None else np.datetime64(wanted.start, "us"))
    for (item, column, row), number in wanted.values.items():
        at = wanted.columns.index(column)
        cell = np.asarray(corpus.values(wanted.items.index(item)))[at, row]
        if isinstance(number, str):
            categories = corpus.manifest.columns[at].categories
            assert categories is not None and categories[int(cell)] == number
        else:
            np.testing.assert_allclose(cell, number, rtol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_a_vendor_s_file_that_needs_an_option_is_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    sample = REFUSED[name]
    assert isinstance(sample.outcome, str)
    (tmp_path / sample.file).write_text(sample.text, encoding="utf-8")
    with pytest.raises(DataError, match=sample.outcome):
        import_corpus([tmp_path / sample.file], tmp_path / "out", **sample.options)
    assert not (tmp_path / "out").exists()


def test_the_field_log_has_a_line_for_every_sample() -> None:
    text = (Path(__file__).parents[3] / "docs" / "field-log.md").read_text(encoding="utf-8").replace("\\|", "\0")
    rows = [[cell.strip().replace("\0", "|") for cell in line.split("|")] for line in text.splitlines() if "|" in line]
    logged = {row[4]: row[3].partition(":")[0] for row in rows[2:]}
    assert logged == {name: "read" if name in READ else "refused" for name in SAMPLES}
