from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from foretrain.data.store import Corpus
from foretrain.errors import DataError

HOUR = 3_600_000_000
SMALL = {"batch_bytes": 2_000, "shard_bytes": 9_000}  # several batches a shard, several shards


def equal(a, b) -> bool:
    return np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("time", ["steps", "regular", "stamps"])
def test_what_was_written_is_read_back_over_several_shards_and_batches(tmp_path, random_items, write_corpus, time):
    items = random_items(0, 40, 3, 5, 60, times=None if time == "steps" else time)
    freq = "h" if time == "regular" else None
    corpus = write_corpus(tmp_path / "c", items, ["a", "b", "c"], time, freq=freq, **SMALL)
    assert len(corpus.manifest.shards) > 2
    assert len(corpus.chunks) > len(corpus.manifest.shards)
    assert corpus.item_ids() == [item_id for item_id, _, _ in items]
    assert corpus.lengths.tolist() == [values.shape[1] for _, values, _ in items]
    assert corpus.num_rows == corpus.lengths.sum() == sum(shard["rows"] for shard in corpus.manifest.shards)
    for k, (item_id, values, times) in enumerate(items):
        assert corpus.item_id(k) == item_id
        assert equal(corpus.values(k), values)
        assert corpus.length(k) == values.shape[1]
        assert times is None if corpus.times(k) is None else equal(corpus.times(k), times)
    corpus.verify()


def test_values_are_views_of_the_mapped_file(tmp_path, random_items, write_corpus):
    corpus = write_corpus(tmp_path / "c", random_items(0, 3, 2, 20, 30), ["a", "b"])
    values = corpus.values(1)
    assert np.shares_memory(values, corpus.chunks[0].blocks[0].floats)
    assert not values.flags.writeable
    assert values.dtype == np.float32


@pytest.mark.parametrize("time", ["steps", "regular", "stamps"])
def test_a_corpus_in_memory_equals_the_same_corpus_on_disk(tmp_path, random_items, write_corpus, time):
    items = random_items(3, 10, 2, 5, 20, times=None if time == "steps" else time)
    freq = "h" if time == "regular" else None
    on_disk = write_corpus(tmp_path / "c", items, ["a", "b"], time, freq=freq, **SMALL)
    in_memory = Corpus.from_arrays("m", items, ["a", "b"], time=time, freq=freq)
    assert in_memory.path is None
    assert in_memory.fingerprint == on_disk.fingerprint
    for k in range(len(items)):
        assert equal(in_memory.values(k), on_disk.values(k))
        assert time == "steps" or equal(in_memory.times(k), on_disk.times(k))


def test_steps_keep_their_numbers_and_the_hash_of_steps_without(tmp_path, random_items, write_corpus):
    items = random_items(5, 20, 2, 5, 30)
    numbered = [(item, values, 100 * k + np.arange(values.shape[1])) for k, (item, values, _) in enumerate(items)]
    corpus, plain = (write_corpus(tmp_path / name, given, ["a", "b"], "steps", **SMALL)
                     for name, given in (("n", numbered), ("p", items)))  # fmt: skip
    assert [corpus.first_step(k) for k in range(20)] == [100 * k for k in range(20)]
    assert plain.first_step(3) is None and corpus.times(3) is None
    assert corpus.fingerprint == plain.fingerprint  # windows are the same
    assert Corpus.from_arrays("m", numbered, ["a", "b"]).first_step(4) == 400
    with pytest.raises(DataError, match="step numbers are given for some items only"):
        Corpus.from_arrays("m", [numbered[0], items[1]], ["a", "b"])


def test_the_datasets_library_opens_a_corpus(tmp_path, random_items, write_corpus):
    datasets = pytest.importorskip("datasets")
    items = random_items(1, 25, 2, 5, 60, times="regular")
    write_corpus(tmp_path / "c", items, ["a", "b"], "regular", freq="h", **SMALL)
    opened = datasets.load_from_disk(str(tmp_path / "c")).with_format("numpy")
    assert len(opened) == 25
    assert set(opened.column_names) == {"item_id", "target", "start"}
    for k in (0, 11, 24):
        assert opened[k]["item_id"] == items[k][0]
        assert equal(np.stack(list(opened[k]["target"])), items[k][1])


def test_ids_are_text_for_any_spelling(tmp_path, write_corpus):
    ids = ["007", "1e5", "nan", "6e3760778598fdee5208213d3fce122637307eec", "None", "a b/c", "Ünï", "-1", "1.0"]
    corpus = write_corpus(tmp_path / "c", [(i, np.ones((1, 4)), None) for i in ids], ["a"])
    assert corpus.item_ids() == ids
    assert corpus.item_ids([3, 0]) == [ids[3], ids[0]]


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shard(tmp_path, random_items, write_corpus) -> Path:
    write_corpus(tmp_path / "c", random_items(0, 20, 2, 50, 60), ["a", "b"])
    return tmp_path / "c" / "data-00000-of-00001.arrow"


def test_a_truncated_shard_is_named(shard):
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{shard.name}: .* bytes, .* manifest"):
        Corpus.open(shard.parent)


def test_a_missing_shard_is_named(shard):
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name}: missing"):
        Corpus.open(shard.parent)


def test_a_changed_byte_is_found_by_verify(shard):
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=f"{shard.name}: its content differs from the hash in manifest.json"):
        Corpus.open(shard.parent).verify()


def test_damaged_offsets_are_found_before_any_value_is_read(shard):
    corpus = Corpus.open(shard.parent)
    raw = bytearray(shard.read_bytes())
    offsets = corpus.chunks[0].batch.column("target").offsets.to_numpy().tobytes()
    at = raw.find(offsets)
    raw[at + 40 : at + 44] = (2**31 - 1).to_bytes(4, "little")
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=f"{shard.name}.*offsets point outside"):
        _ = Corpus.open(shard.parent).lengths


def test_a_shard_that_is_no_arrow_stream_is_named(shard):
    shard.write_bytes(b"\x07" * shard.stat().st_size)
    with pytest.raises(DataError, match=f"{shard.name}: not a readable Arrow stream"):
        Corpus.open(shard.parent)


def test_a_manifest_of_a_newer_format_asks_for_an_upgrade(shard):
    path = shard.parent / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(DataError, match="corpus format 99"):
        Corpus.open(shard.parent)


def test_folders_that_are_not_a_corpus_are_named(tmp_path):
    with pytest.raises(DataError, match="no such corpus folder"):
        Corpus.open(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a corpus"):
        Corpus.open(tmp_path)


# -- folders of the datasets library ---------------------------------------------------------------------------------


def save(folder: Path, table: pa.Table) -> Path:
    """A folder as datasets.save_to_disk writes it, from any Arrow table, two batches."""
    folder.mkdir()
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as w:
        for batch in table.to_batches(max_chunksize=-(-len(table) // 2)):
            w.write_batch(batch)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "f", "_indices_files": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0], [6.0], [7.0, 8.0, 9.0, 10.0]]
STACKED = [[row, [value + 0.5 for value in row]] for row in ROWS]
UNLIKE = [[[1.0]], [[1.0], [2.0]]]
FLOATS = [pa.float32(), pa.float64(), pa.float16(), pa.int64()]


@pytest.mark.parametrize("number", FLOATS, ids=str)
@pytest.mark.parametrize("make", [pa.list_, pa.large_list], ids=["list", "large_list"])
def test_foreign_univariate_targets_open(tmp_path, number, make):
    table = pa.table({"id": pa.array(["a", "b", "c", "d"]), "target": pa.array(ROWS).cast(make(number))})
    corpus = Corpus.open(save(tmp_path / "c", table))
    assert corpus.columns == ("target",)
    assert corpus.item_ids() == ["a", "b", "c", "d"]
    assert corpus.lengths.tolist() == [3, 2, 1, 4]
    assert [corpus.values(k).tolist() for k in range(4)] == [[row] for row in ROWS]
    assert all(corpus.values(k).dtype == np.float32 for k in range(4))
    assert corpus.num_rows == 10
    assert corpus.times(0) is None


@pytest.mark.parametrize("number", [pa.float32(), pa.float64()], ids=str)
def test_foreign_covariate_rows_become_columns_after_the_targets(tmp_path, number):
    table = pa.table(
        {
            "target": pa.array(STACKED).cast(pa.list_(pa.list_(number))),
            "past_feat_dynamic_real": pa.array([[[-v for v in row]] for row in ROWS]).cast(pa.list_(pa.list_(number))),
        }
    )
    corpus = Corpus.open(save(tmp_path / "c", table))
    assert corpus.columns == ("target_0", "target_1", "past_feat_0")
    assert corpus.manifest.past_covariates == ("past_feat_0",)
    assert corpus.manifest.default_targets == ("target_0", "target_1")
    assert corpus.item_ids() == ["0", "1", "2", "3"]
    for k, row in enumerate(ROWS):
        assert corpus.values(k).tolist() == [row, [v + 0.5 for v in row], [-v for v in row]]


def test_nulls_become_nan(tmp_path):
    rows = [[1.0, None, 3.0], [4.0, 5.0], None, [7.0, None]]
    table = pa.table({"target": pa.array(rows, pa.list_(pa.float32()))})
    corpus = Corpus.open(save(tmp_path / "c", table))
    assert corpus.lengths.tolist() == [3, 2, 0, 2]
    assert equal(corpus.values(0), [[1, np.nan, 3]])
    assert equal(corpus.values(1), [[4, 5]])
    assert equal(corpus.values(3), [[7, np.nan]])


def test_foreign_start_and_freq_give_regular_times(tmp_path):
    starts = pa.array(np.array(["2020-01-01", "2020-02-01", "2020-03-01", "2021-01-01"], "M8[s]"))
    table = pa.table({"target": pa.array(ROWS), "start": starts, "freq": pa.array(["15min"] * 4)})
    corpus = Corpus.open(save(tmp_path / "c", table))
    assert (corpus.manifest.time, corpus.manifest.freq) == ("regular", "15min")
    assert (
        corpus.times(1).astype("M8[us]").tolist()
        == np.array(["2020-02-01T00:00", "2020-02-01T00:15"], "M8[us]").tolist()
    )


def test_foreign_series_of_several_frequencies_have_steps_only(tmp_path):
    starts = pa.array(np.array(["2020-01-01"] * 4, "M8[s]"))
    table = pa.table({"target": pa.array(ROWS), "start": starts, "freq": pa.array(["h", "D", "h", "D"])})
    corpus = Corpus.open(save(tmp_path / "c", table))
    assert corpus.manifest.time == "steps"
    assert "several frequencies" in corpus.manifest.timezone_note


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_foreign_timestamp_lists_give_stamps(tmp_path, unit):
    stamps = [[1_600_000_000 + 60 * k for k in range(len(row))] for row in ROWS]
    scaled = [[v * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit] for v in row] for row in stamps]
    table = pa.table({"target": pa.array(ROWS), "timestamp": pa.array(scaled).cast(pa.list_(pa.timestamp(unit)))})
    corpus = Corpus.open(save(tmp_path / "c", table))
    assert corpus.manifest.time == "stamps"
    assert [corpus.times(k).tolist() for k in range(4)] == [[v * 10**6 for v in row] for row in stamps]
    assert corpus.times_slice(3, 1, 3).tolist() == [v * 10**6 for v in stamps[3][1:3]]


def test_a_folder_saved_by_the_datasets_library_opens(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"item_id": ["a", "b"], "target": [[[1.0, 2.0], [3.0, 4.0]], [[5.0], [6.0]]]})
    data.save_to_disk(str(tmp_path / "c"))
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.values(0).tolist() == [[1, 2], [3, 4]]
    assert corpus.values(1).tolist() == [[5], [6]]
    data.select([1]).save_to_disk(str(tmp_path / "selected"))
    assert Corpus.open(tmp_path / "selected").item_ids() == ["b"]
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match="several splits; open one of them: train"):
        Corpus.open(tmp_path / "splits")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"value": pa.array(ROWS)}, "no `target` column"),
        ({"target": pa.array(["x"] * 4)}, "not a list of numbers"),
        ({"target": pa.array([["x"]] * 4)}, "not a list of numbers"),
        ({"target": pa.array([[[1.0], [1.0, 2.0]]] * 4)}, "series 0 has variates of different lengths"),
        ({"target": pa.array([*STACKED[:3], STACKED[3][:1]])}, "series 3: target has 1 variates, other series 2"),
        ({"target": pa.array(ROWS), "past_feat_dynamic_real": pa.array([[[1.0]]] * 4)}, "has 1 steps, the target 3"),
        (
            {"target": pa.array(UNLIKE), "past_feat_dynamic_real": pa.array(UNLIKE[::-1])},
            "series 1: target has 2 variates",
        ),
    ],
)
def test_foreign_folders_that_do_not_fit_are_explained(tmp_path, columns, message):
    folder = save(tmp_path / "c", pa.table(columns))
    with pytest.raises(DataError, match=message):
        _ = Corpus.open(folder).lengths


def test_offsets_without_their_bytes_are_refused_when_the_shard_is_opened(tmp_path, random_items, write_corpus):
    """A record batch whose lists are said to be longer than the buffer of their offsets is."""
    write_corpus(tmp_path / "c", random_items(0, 4, 1, 5, 9), ["a"])
    (shard,) = (tmp_path / "c").glob("*.arrow")
    found = 0
    raw = shard.read_bytes()
    for at in range(0, min(len(raw), 3000)):
        shard.write_bytes(raw[:at] + bytes([raw[at] ^ 0x40]) + raw[at + 1 :])
        try:
            corpus = Corpus.open(tmp_path / "c")
            assert len(corpus.lengths) == corpus.num_series
            corpus.item_ids()
        except DataError as error:
            found += 1
            assert "\n" not in str(error)
    assert found > 100
