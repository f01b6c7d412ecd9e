"""Reading shards in order: every window once an epoch, as the mapped reader gives it, in an order of (seed, epoch)."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from foretrain.data import sequential
from foretrain.data.config import DataConfig
from foretrain.data.manifest import Adjustment
from foretrain.data.order import ShardOrder, ShardPiece
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.data.windows import Windows
from foretrain.errors import ConfigError, DataError

SMALL = {"batch_bytes": 2000, "shard_bytes": 5000}  # several record batches a shard, several shards


def config(*corpora: Corpus, reader: str = "sequential", **changes: Any) -> DataConfig:
    tree = {
        "corpora": [{"path": str(corpus.path)} for corpus in corpora],
        "context_length": 24, "prediction_length": 6, "min_context": 6, "stride": 5,
        "validation_steps": 4, "test_steps": 4, "sampling": "epoch", "reader": reader,
    }  # fmt: skip
    return DataConfig.model_validate(tree | changes)


@pytest.fixture
def little(monkeypatch) -> None:
    """Megabytes of 8 kB, so that small corpora have several groups."""
    monkeypatch.setattr(sequential, "MB", 8_000)


@pytest.fixture
def source(little, tmp_path, random_items, write_corpus) -> TrainingSource:
    """Two corpora of stamps in many pieces and groups."""
    corpora = [
        write_corpus(tmp_path / f"c{k}", random_items(k, 30, 3, 20, 90, times="stamps"), list("abc"), "stamps", **SMALL)
        for k in range(2)
    ]
    roles = {"target": ["a"], "past_covariates": ["c"], "known_covariates": ["b"], "with_times": True}
    return TrainingSource(config(*corpora, read_buffer_mb=2, **roles), seed=3)


def mapped(source: TrainingSource) -> TrainingSource:
    tree = source.config.model_dump() | {"reader": "mapped", "read_buffer_mb": None}
    return TrainingSource(DataConfig.model_validate(tree), source.seed)


def windows_of(source: TrainingSource, first: int, last: int, size: int) -> list[Windows]:
    return [source.windows(n, min(size, last - n)) for n in range(first, last, size)]


def places(batches: list[Windows]) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in batch.source.tolist()]


def assert_equal(left: Windows, right: Windows) -> None:
    for field in dataclasses.fields(Windows):
        pair = getattr(left, field.name), getattr(right, field.name)
        if isinstance(pair[0], np.ndarray):
            np.testing.assert_array_equal(*pair, err_msg=field.name)
        else:
            assert pair[0] == pair[1], field.name


def as_mapped(source: TrainingSource, count: int, size: int = 7) -> None:
    """Compare windows with those that the mapped reader cuts at the same places."""
    other = mapped(source)
    for first in range(0, count, size):
        assert_equal(source.windows(first, size), other._gather(*source._plan.draw(first, size)))


# -- the order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_an_order_visits_each_window_once_and_stays_inside_its_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pieces, first = [], 0
    for _ in range(int(rng.integers(1, 40))):
        pieces.append(ShardPiece(int(rng.integers(1, 100)), first, int(rng.integers(1, 50))))
        first += pieces[-1].windows
    order = ShardOrder(pieces, seed=seed, buffer_bytes=200)
    orders = []
    for epoch in range(2):
        index = order.index(epoch, np.arange(first))
        assert sorted(index.tolist()) == list(range(first))
        position, seen = 0, []
        for group in range(len(order.groups(epoch).ends)):
            here = order.pieces_of(epoch, group)
            seen += here
            assert sum(pieces[k].bytes for k in here) <= 200
            assert order.group_of(epoch, position)[0] == group
            end = order.group_of(epoch, position)[1]
            allowed = {w for k in here for w in range(pieces[k].first, pieces[k].first + pieces[k].windows)}
            assert set(index[position:end].tolist()) == allowed
            position = end
        assert position == first and sorted(seen) == list(range(len(pieces)))
        orders.append(index.tolist())
    again = ShardOrder(pieces, seed=seed, buffer_bytes=200)
    assert again.index(1, np.arange(first)).tolist() == orders[1]
    if first > 20:
        assert orders[0] != orders[1] != list(range(first))
        assert ShardOrder(pieces, seed=seed + 99, buffer_bytes=200).index(0, np.arange(first)).tolist() != orders[0]


# -- windows ---------------------------------------------------------------------------------------------------------


def test_windows_are_those_of_the_map_each_once_an_epoch(source: TrainingSource) -> None:
    reader, length = source.reader, source.epoch_length
    assert reader is not None and len(reader.order.groups(0).ends) > 2
    as_mapped(source, length + 20)
    orders = [places(windows_of(source, epoch * length, (epoch + 1) * length, 11)) for epoch in range(2)]
    expected = Counter(places(windows_of(mapped(source), 0, length, 50)))
    assert max(expected.values()) == 1
    assert Counter(orders[0]) == Counter(orders[1]) == expected
    assert orders[0] != orders[1]


def test_any_batches_ranks_and_starts_give_the_same_windows(source: TrainingSource) -> None:
    length = source.epoch_length
    whole = places(windows_of(source, 0, length, length))
    assert places(windows_of(source, 0, length, 3)) == whole
    again = TrainingSource(source.config, source.seed)
    middle = length // 2 + 1
    assert places(windows_of(again, middle, length, 4)) == whole[middle:]  # a resumed run
    for ranks in (2, 3):  # each step is divided into slices, one a rank
        found = []
        for rank in range(ranks):
            own = TrainingSource(source.config, source.seed)
            steps = range(rank * 2, length - length % (2 * ranks), 2 * ranks)
            found.append(places([own.windows(first, 2) for first in steps]))
        assert not set.intersection(*map(set, found))
        assert sorted(place for own in found for place in own) == sorted(whole[: length - length % (2 * ranks)])


def test_each_piece_is_read_once_a_group_and_only_the_next_group_ahead(source: TrainingSource) -> None:
    reader = source.reader
    assert reader is not None
    sizes = {str(f.path): f.buffer.size for corpus in source.corpora for f in corpus.watch.files}
    windows_of(source, 0, source.epoch_length, 5)
    (key,) = [key for key in reader._loading if key[0] == 1]
    reader._loading[key].wait()
    epoch = {file: count for (number, file), count in reader.bytes_read.items() if number == 0}
    assert sum(epoch.values()) == reader.order.epoch_bytes
    assert all(0 < epoch[file] <= size for file, size in sizes.items())  # but for headers and ends of shards
    ahead = sum(reader._places[k].bytes for k in reader.order.pieces_of(*key))
    assert sum(count for (number, _), count in reader.bytes_read.items() if number == 1) == ahead
    assert f"{len(reader._places):,} pieces of shards" in source.lines()[-1] == source.reading()[0]


def test_each_kind_of_series_and_selection_is_read_as_by_the_map(little, tmp_path, random_items, write_corpus) -> None:
    steps = write_corpus(tmp_path / "s", random_items(1, 25, 2, 20, 80), ["a", "b"], **SMALL)
    regular = write_corpus(
        tmp_path / "r", random_items(2, 25, 2, 20, 80, times="regular"), ["a", "b"], "regular", freq="h", **SMALL
    )
    for corpora, changes in (
        ((steps,), {"target": ["b"]}),
        ((steps, regular), {"max_train_series": 17}),
        ((regular,), {"with_times": True, "validation_steps": None, "test_steps": None,
                      "validation_from": "1970-01-02", "test_from": "1970-01-03", "min_context": 4}),
        ((regular,), {"holdout_fraction": 0.4, "min_prediction_length": 2}),
    ):  # fmt: skip
        found = TrainingSource(config(*corpora, read_buffer_mb=3, **changes), seed=1)
        as_mapped(found, found.epoch_length + 9)
        assert len(places(windows_of(found, 0, found.epoch_length, 40))) == found.epoch_length


def test_prices_are_scaled_and_codes_encoded_as_by_the_map(little, tmp_path, random_items, write_corpus) -> None:
    factors = Adjustment(price="f", volume="g", prices=("a",), volumes=("b",))
    items = [(name, np.abs(values) + 1, times) for name, values, times in random_items(3, 20, 4, 20, 60, missing=0)]
    corpus = write_corpus(tmp_path / "c", items, ["a", "b", "f", "g"], adjustment=factors, **SMALL)
    found = TrainingSource(config(corpus, target=["a", "b"], read_buffer_mb=2), seed=1)
    as_mapped(found, found.epoch_length)


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_folders_of_other_programs_are_read_too(tmp_path, kind: str) -> None:
    rows = [{"target": np.arange(60.0) + k, "id": str(k)} for k in range(5)]
    table = pa.Table.from_pylist([{**row, "target": row["target"].tolist()} for row in rows])
    (tmp_path / "c").mkdir()
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with new(str(tmp_path / "c" / "data.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (tmp_path / "c" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    found = TrainingSource(config(Corpus.open(tmp_path / "c")), seed=1)
    as_mapped(found, found.epoch_length)  # float64, so row by row


def test_a_dictionary_of_another_program_is_refused(tmp_path) -> None:
    table = pa.table({"target": [[float(k)] * 60 for k in range(4)], "id": pa.array(list("abab")).dictionary_encode()})
    (tmp_path / "c").mkdir()
    with pa.ipc.new_stream(str(tmp_path / "c" / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "c" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(ConfigError, match=r"has a dictionary.* too. Import it"):
        TrainingSource(config(Corpus.open(tmp_path / "c")), seed=1)


def test_values_are_aligned_as_in_their_files(source: TrainingSource) -> None:
    places = source.reader._places
    for place, memory in zip(places, sequential._memory_of(places), strict=True):
        assert len(memory) == place.bytes
        assert memory.ctypes.data % 64 == place.ranges[0][0] % 64


# -- what ends it ----------------------------------------------------------------------------------------------------


def test_the_pieces_are_part_of_the_data(little, tmp_path, random_items, write_corpus) -> None:
    items = random_items(0, 30, 1, 20, 90)
    first = write_corpus(tmp_path / "a", items, ["a"], **SMALL)
    other = write_corpus(tmp_path / "b", items, ["a"], **SMALL | {"batch_bytes": 1000})
    assert first.fingerprint == other.fingerprint
    prints = [TrainingSource(config(c, read_buffer_mb=2), 0).fingerprint for c in (first, other)]
    assert prints[0] != prints[1]
    moved = Path(shutil.copytree(first.path, tmp_path / "moved"))
    assert TrainingSource(config(Corpus.open(moved), read_buffer_mb=2), 0).fingerprint == prints[0]
    maps = [TrainingSource(config(c, reader="mapped"), 0).fingerprint for c in (first, other)]
    assert maps[0] == maps[1]


def test_what_cannot_be_read_in_order_is_refused_with_the_way_out(tmp_path, random_items, write_corpus, little) -> None:
    corpus = write_corpus(tmp_path / "c", random_items(0, 60, 1, 60, 90), ["a"], batch_bytes=40_000)
    with pytest.raises(ConfigError, match=r"read_buffer_mb: 1 MB do not hold a record batch of c, .* Raise it to"):
        TrainingSource(config(corpus, read_buffer_mb=1), 0)
    whole = TrainingSource(config(corpus), 0)
    with pytest.raises(ConfigError, match=r"a bucket takes its windows from all shards.* or remove the budget"):
        whole.in_buckets([12], [6], 1000)
    memory = Corpus.from_arrays("mine", random_items(0, 3, 1, 60, 90), ["a"])
    with pytest.raises(ConfigError, match="sequential reads shards, and mine is in memory"):
        TrainingSource(config(corpus), 0, [memory])
    for changes, message in (
        ({"sampling": "random"}, "set sampling=epoch, or reader=mapped"),
        ({"corpora": [{"synthetic": {"kind": "seasonal"}}]}, "corpora.0 is synthetic"),
        ({"reader": "mapped", "read_buffer_mb": 5}, "read_buffer_mb: no effect beside reader=mapped"),
        ({"series_weighting": "length"}, "series_weighting cannot take effect"),
        ({"corpora": [{"path": "a", "weight": 2}, {"path": "b"}]}, "unequal corpus weights cannot take effect"),
    ):
        with pytest.raises(ValueError, match=message):
            config(corpus, **changes)


def test_a_shard_that_is_cut_replaced_or_cannot_be_read_is_named(source: TrainingSource, tmp_path) -> None:
    length = source.epoch_length
    corpus = source.corpora[0]
    shard = corpus.watch.files[0].path

    def ends(message: str, change: Callable[[], Any]) -> None:
        fresh = TrainingSource(source.config, source.seed, [Corpus.open(c.path) for c in source.corpora])
        windows_of(fresh, 0, 5, 5)
        change()
        with pytest.raises(DataError, match=message):
            windows_of(fresh, 5, 3 * length, 5)

    whole, other = shard.read_bytes(), tmp_path / "other"
    ends(f"{shard.name}: became shorter while it was read", lambda: shard.write_bytes(whole[: len(whole) // 4]))
    shard.write_bytes(whole)
    other.write_bytes(whole)
    ends(f"{shard.name}: was deleted or replaced while it was read", lambda: other.replace(shard))

    def refuse(*given: Any) -> int:
        raise OSError(5, "Input/output error")

    found = TrainingSource(source.config, source.seed)
    assert found.reader is not None
    found.reader._read = refuse
    with pytest.raises(DataError, match="cannot be read: Input/output error"):
        found.windows(0, 3)
    found.reader._read = sequential.read_range
    assert places([found.windows(0, 3)]) == places([source.windows(0, 3)])


def test_short_reads_and_a_kept_older_version_are_followed(source: TrainingSource) -> None:
    expected = windows_of(source, 0, 40, 8)
    found = TrainingSource(source.config, source.seed)
    assert found.reader is not None
    found.reader._read = lambda descriptor, into, offset: sequential.read_range(descriptor, into[:777], offset)
    for corpus in found.corpora:  # as an update leaves it
        kept = corpus.path.with_name(f".{corpus.path.name}.old")
        corpus.path.rename(kept)
        shutil.copytree(kept, corpus.path)
    for ours, theirs in zip(windows_of(found, 0, 40, 8), expected, strict=True):
        assert_equal(ours, theirs)
