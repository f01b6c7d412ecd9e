"""What a corpus held before its updates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.data import lineage
from foretrain.data.importers import import_corpus
from foretrain.data.lineage import rows_then
from foretrain.data.store import Corpus


def write(folder: Path, item: str, rows: int, *, first: int = 0, freq: str = "h", start: str = "2024-01-01") -> None:
    """A CSV file with rows first .. rows - 1 of an item's hourly random walk."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(len(item)).standard_normal(500).cumsum()[:rows]
    stamps = pd.date_range(start, periods=rows, freq=freq)
    pd.DataFrame({"timestamp": stamps, "target": values})[first:].to_csv(folder / f"{item}.csv", index=False)


def update(folder: Path, out: Path) -> Corpus:
    import_corpus([folder], out, update=True)
    return Corpus.open(out)


@pytest.fixture
def grown(tmp_path: Path) -> list[Corpus]:
    """A corpus, and after two updates: a is up to date, bb lags, ccc is new, dddd ended."""
    for item, rows in (("a", 100), ("bb", 90), ("dddd", 100)):
        write(tmp_path / "in", item, rows)
    import_corpus([tmp_path / "in"], tmp_path / "out")
    found = [Corpus.open(tmp_path / "out")]
    for sizes in ({"a": 130, "bb": 120, "ccc": 110}, {"a": 150, "bb": 150}):
        for item, rows in sizes.items():
            write(tmp_path / "in", item, rows)
        found.append(update(tmp_path / "in", tmp_path / "out"))
    return found


def test_a_corpus_knows_the_rows_of_every_item_before_each_of_its_updates(grown: list[Corpus]):
    first, second, now = grown
    assert [entry.fingerprint for entry in now.manifest.earlier] == [first.fingerprint, second.fingerprint]
    assert now.item_ids() == ["a", "bb", "dddd", "ccc"]
    found = [rows_then(now, entry) for entry in now.manifest.earlier]
    assert [rows.tolist() for rows, _ in found] == [[100, 90, 100, 0], [130, 120, 100, 110]]
    assert all(exact.all() for _, exact in found)


def test_only_items_whose_rows_the_newest_stamp_does_not_tell_are_named(grown: list[Corpus]):
    assert [entry.lengths for entry in grown[-1].manifest.earlier] == [{"bb": 90, "ccc": 0}, {"bb": 120}]
    assert grown[0].manifest.earlier == ()


def test_copies_and_other_names_are_the_same_corpus(grown: list[Corpus], tmp_path: Path):
    import shutil

    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert Corpus.open(tmp_path / "copy").fingerprint == grown[-1].fingerprint


def test_rows_that_got_other_places_count_by_the_newest_stamp(tmp_path: Path):
    """The axis was hourly; a grid of half hours puts rows of NaN between the old ones."""
    hours = pd.date_range("2024-01-01", periods=100, freq="h")
    later = pd.date_range(hours[-1], periods=120, freq="30min")[1:]
    for stamps, freq in ((hours, "h"), (hours.append(later), "30min")):
        (tmp_path / "in").mkdir(exist_ok=True)
        rows = pd.DataFrame({"timestamp": stamps, "target": np.random.default_rng(0).standard_normal(len(stamps))})
        rows.to_csv(tmp_path / "in" / "a.csv", index=False)
        import_corpus([tmp_path / "in"], tmp_path / "out", update=(tmp_path / "out").exists(), freq=freq)
    now = Corpus.open(tmp_path / "out")
    assert dict(now.manifest.earlier[0].lengths) == {"a": None}
    rows, exact = rows_then(now, now.manifest.earlier[0])
    assert rows.tolist() == [199] and exact.tolist() == [False]


def test_an_item_that_an_earlier_version_left_out_and_took_back_counts_by_the_newest_stamp(tmp_path: Path):
    for item in ("a", "bb"):
        write(tmp_path / "in", item, 100)
    import_corpus([tmp_path / "in"], tmp_path / "out")
    write(tmp_path / "in", "a", 140)
    write(tmp_path / "in", "bb", 150)
    update(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["earlier"][0]["lengths"] = {"bb": None}
    path.write_text(json.dumps(manifest))
    now = Corpus.open(tmp_path / "out")
    rows, exact = rows_then(now, now.manifest.earlier[0])
    assert rows.tolist() == [100, 100] and exact.tolist() == [True, False]


def test_beyond_a_limit_the_newest_stamp_alone_counts(grown: list[Corpus], tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lineage, "MOST_LENGTHS", 1)
    write(tmp_path / "in", "a", 160)
    now = update(tmp_path / "in", tmp_path / "out")
    assert [len(entry.lengths) for entry in now.manifest.earlier] == [0, 1, 0]
    rows, exact = rows_then(now, now.manifest.earlier[0])
    assert rows.tolist() == [100, 100, 100, 100] and exact.all()
    assert len(json.dumps(now.manifest.model_dump(mode="json")["earlier"])) < 1000
