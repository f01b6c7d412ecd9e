"""Shards that shrink, change, go away or are replaced under an open corpus."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foretrain.data import mapped, verification
from foretrain.data.config import DataConfig
from foretrain.data.frames import open_input
from foretrain.data.importers import import_corpus
from foretrain.data.mapped import shortened
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus, CorpusWriter
from foretrain.data.verification import Verification
from foretrain.errors import DataError

ROWS = 20_000  # of each item: a shard of many pages of memory


@pytest.fixture(autouse=True)
def own_record(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch) -> Corpus:
    monkeypatch.setattr(mapped, "INTERVAL", 0.0)
    with CorpusWriter(tmp_path / "c", ["target"], time="regular", freq="h") as writer:
        for k in range(3):
            values = np.random.default_rng(k).normal(size=(1, ROWS))
            writer.append(f"i{k}", values, times=np.datetime64("2020-01-01T00", "h") + np.arange(ROWS))
    return Corpus.open(tmp_path / "c")


def shard(corpus: Corpus) -> Path:
    assert corpus.path is not None
    return corpus.path / "data-00000-of-00001.arrow"


READS: dict[str, Callable[[Corpus], object]] = {
    "values": lambda corpus: corpus.values(1),
    "stamps": lambda corpus: corpus.times(1),
    "an id": lambda corpus: corpus.item_id(0),
    "the last look": lambda corpus: corpus.check_unchanged(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_shard_that_became_shorter_is_named_before_its_values_are_read(corpus: Corpus, read) -> None:
    read(corpus)
    os.truncate(shard(corpus), 100)
    with pytest.raises(DataError, match=r"arrow: became shorter while it was read \(100 of 240,\d+ bytes are left\)"):
        read(corpus)
    assert str(shard(corpus)) in (shortened() or "")


def test_batches_of_a_training_notice_a_shard_that_became_shorter(corpus: Corpus) -> None:
    config = DataConfig.model_validate(
        {"corpora": [{"path": str(corpus.path)}], "context_length": 32, "prediction_length": 8}
    )
    source = TrainingSource(config, 0, [corpus])
    source.windows(0, 8)
    size = shard(corpus).stat().st_size
    os.truncate(shard(corpus), size - 8)  # in its last page, which stays readable: its values would be zeros
    with pytest.raises(DataError, match="became shorter while it was read"):
        source.windows(8, 8)


@pytest.mark.parametrize("end", ["rows", "a result"])
def test_a_shard_that_was_overwritten_ends_what_reads_it(corpus: Corpus, end: str) -> None:
    opened = open_input(corpus.path)  # type: ignore[arg-type]
    with shard(corpus).open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4))
    with pytest.raises(DataError, match="arrow: was overwritten while it was read"):
        opened.frame() if end == "rows" else opened.check_intact()


def test_a_shard_whose_time_alone_changed_is_read_on(corpus: Corpus) -> None:
    before = corpus.values(2).copy()
    os.utime(shard(corpus))
    corpus.check_unchanged()
    np.testing.assert_array_equal(corpus.values(2), before)


@pytest.mark.parametrize("fate", ["deleted", "replaced", "updated", "updated twice"])
def test_what_is_mapped_stays_whole_when_its_shard_is_deleted_or_replaced(
    corpus: Corpus, tmp_path: Path, fate: str
) -> None:
    before = [corpus.values(k).copy() for k in range(3)]
    if fate == "deleted":
        shutil.rmtree(corpus.path)  # type: ignore[arg-type]
    elif fate == "replaced":
        (tmp_path / "other").write_bytes(b"other")
        os.replace(tmp_path / "other", shard(corpus))
    for k in range({"updated": 1, "updated twice": 2}.get(fate, 0)):
        update(corpus, tmp_path, f"x{k}")
    for k, values in enumerate(before):
        np.testing.assert_array_equal(corpus.values(k), values)
    corpus.check_unchanged()


def update(corpus: Corpus, tmp_path: Path, item: str) -> None:
    lines = ["item_id,timestamp,target", *(f"{item},2024-01-0{day},{day}" for day in range(1, 9))]
    (tmp_path / "more.csv").write_text("\n".join(lines))
    import_corpus([tmp_path / "more.csv"], corpus.path, update=True, freq="h")  # type: ignore[arg-type]


def test_hashes_are_compared_with_the_shards_of_before_where_an_update_comes_between(
    corpus: Corpus, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(verification, "AT_ONCE", 0)
    assert corpus.path is not None
    (tmp_path / "link").symlink_to(corpus.path)
    checks = [Verification([folder], "start") for folder in (corpus.path, tmp_path / "link")]
    update(corpus, tmp_path, "x")
    for check in checks:
        check.start()
        check.finish()
    late = Verification([corpus.path], "start")
    update(corpus, tmp_path, "y")
    with (tmp_path / ".c.old" / "data-00000-of-00001.arrow").open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4))
    with pytest.raises(DataError, match="content differs from the hash"):
        late.start()
    update(corpus, tmp_path, "z")
    with pytest.raises(DataError, match="was replaced while it was compared with its hash, as by an update"):
        late.start()


def test_a_corpus_is_opened_in_one_version_where_an_update_comes_between(
    corpus: Corpus, tmp_path: Path, monkeypatch
) -> None:
    from foretrain.data import store

    usual, times = store.read_manifest, []

    def read(path: Path):
        found = usual(path)
        times.append(path)
        if len(times) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(store, "read_manifest", usual)
                update(corpus, tmp_path, "x")
        return found

    monkeypatch.setattr(store, "read_manifest", read)
    assert corpus.path is not None
    opened = Corpus.open(corpus.path)
    assert opened.num_series == 4 and len(times) == 2
    opened.verify()
