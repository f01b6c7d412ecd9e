"""Writing a corpus: all of it or nothing, and no malformed series."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from foretrain import atomic
from foretrain.data.store import Column, Corpus, CorpusWriter
from foretrain.errors import DataError

HOUR = 3_600_000_000
SMALL = {"batch_bytes": 2_000, "shard_bytes": 9_000}  # several batches a shard, several shards


def equal(a, b) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def test_writing_never_changes_an_existing_folder_unless_the_writer_replaces_it(tmp_path, random_items, write_corpus):
    items = random_items(0, 2, 1, 5, 9)
    first = write_corpus(tmp_path / "c", items, ["a"])
    with pytest.raises(DataError, match="never overwritten"):
        CorpusWriter(tmp_path / "c", ["a"], time="steps")
    assert Corpus.open(tmp_path / "c").fingerprint == first.fingerprint
    other = write_corpus(tmp_path / "c", random_items(1, 2, 1, 5, 9), ["a"], replaces=first.manifest)
    assert other.fingerprint != first.fingerprint
    assert equal(first.values(0), items[0][1])  # still mapped
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.old", "c"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, random_items):
    with pytest.raises(RuntimeError, match="half way"), CorpusWriter(tmp_path / "c", ["a"], time="steps", **SMALL) as w:
        for item_id, values, _ in random_items(0, 40, 1, 50, 60):
            w.append(item_id, values)
        raise RuntimeError("half way")
    with pytest.raises(DataError, match="no series"), CorpusWriter(tmp_path / "d", ["a"], time="steps"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(tmp_path, random_items):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # every file stops at 4 KiB, as on a full disk
    try:
        with (
            pytest.raises(DataError, match=r"/c: cannot be written: .*Nothing was created"),
            CorpusWriter(tmp_path / "c", ["a"], time="steps", **SMALL) as writer,
        ):
            for item_id, values, _ in random_items(0, 40, 1, 50, 60):
                writer.append(item_id, values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_whose_entry_the_disk_does_not_confirm_is_not_there_as_the_error_says(
    tmp_path, random_items, write_corpus, monkeypatch
):
    real = atomic.sync

    def refuse(path) -> None:
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error", str(path))
        real(path)

    monkeypatch.setattr(atomic, "sync", refuse)
    with pytest.raises(DataError, match=r"c: cannot be written: Input/output error\. Nothing was created\."):
        write_corpus(tmp_path / "c", random_items(0, 2, 1, 5, 9), ["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_hold_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match="file/c: cannot be written"),
        CorpusWriter(tmp_path / "file" / "c", ["a"], time="steps"),
    ):
        pass


@pytest.mark.parametrize(
    ("time", "values", "times", "message"),
    [
        ("steps", np.ones((1, 3)), None, r"item 'bad': values have shape \(1, 3\), needed \(2, steps\)"),
        ("steps", np.ones((2, 0)), None, "item 'bad': no rows"),
        ("steps", np.array([[1, np.inf], [1, 1]]), None, "item 'bad': infinite value"),
        ("steps", np.array([[1, 1e300], [1, 1]]), None, "item 'bad': infinite value"),
        ("stamps", np.ones((2, 3)), None, "item 'bad': no times"),
        ("stamps", np.ones((2, 3)), np.array([0, "NaT", 5], "M8[us]"), "item 'bad': row 1 has no time"),
        ("stamps", np.ones((2, 3)), np.arange(2), "item 'bad': 2 times for 3 rows"),
        ("stamps", np.ones((2, 3)), np.array([0, 2, 2]), "item 'bad': times are not strictly ascending"),
        ("regular", np.ones((2, 3)), np.array([0, 1, 3]) * HOUR, "item 'bad': row 2 is not one h step"),
    ],
)
def test_a_malformed_series_is_named(time, values, times, message):
    with pytest.raises(DataError, match=message):
        Corpus.from_arrays("m", [("bad", values, times)], ["a", "b"], time=time, freq="h")


@pytest.mark.parametrize("code", [2, -1, 0.5])
def test_a_code_without_a_category_is_refused(code):
    """It would be read as another category, or as another item's."""
    columns = ["close", Column(name="day", kind="categorical", categories=("mon", "tue"))]
    good = np.array([[1, 2, 3], [0, 1, np.nan]], np.float32)
    Corpus.from_arrays("good", [("a", good, None)], columns)
    bad = good.copy()
    bad[1, 1] = code
    with pytest.raises(DataError, match=f"'a': column 'day' holds {code:g}, which is no code of its 2 categories"):
        Corpus.from_arrays("bad", [("a", bad, None)], columns)


def test_an_id_given_twice_is_an_error():
    with pytest.raises(DataError, match="'a': given twice"):
        Corpus.from_arrays("m", [("a", np.ones((1, 3)), None)] * 2, ["x"])


def test_appended_arrays_may_be_reused_by_the_caller(tmp_path):
    scratch = np.zeros((1, 4), np.float32)
    with CorpusWriter(tmp_path / "c", ["a"], time="steps") as writer:
        for k in range(3):
            scratch[:] = k
            writer.append(f"{k}", scratch)
    assert [float(Corpus.open(tmp_path / "c").values(k)[0, 0]) for k in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "dataset_info.json", "../x.csv", "a/b.csv"])
def test_an_extra_file_is_a_plain_name_that_the_corpus_does_not_use(tmp_path, name):
    writer = CorpusWriter(tmp_path / "c", ["a"], time="steps")
    with pytest.raises(DataError, match="cannot be the name of an extra file"):
        writer.extra_file(name, "")


def test_a_field_that_no_manifest_has_is_named(tmp_path):
    with pytest.raises(DataError, match="the manifest has no field 'sesonality'"):
        CorpusWriter(tmp_path / "c", ["a"], time="steps", sesonality=24)
