"""The manifest of a corpus, and the hash of its content."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foretrain.data.manifest import ContentHash, make_manifest, read_manifest
from foretrain.data.store import Column, Corpus, CorpusWriter
from foretrain.errors import DataError

SMALL = {"batch_bytes": 2_000, "shard_bytes": 9_000}  # several batches a shard, several shards
FIELDS = {
    "columns": [{"name": "a"}],
    "time": "steps",
    "num_series": 1,
    "num_rows": 3,
    "provenance": {"kind": "real", "sources": [], "command": None},
    "content_hash": "0" * 64,
}
SHARD = {"file": "data.arrow", "series": 1, "rows": 3, "values": 3, "bytes": 100, "sha256": "0" * 64}


def test_the_content_hash_depends_on_content_only(tmp_path, random_items, write_corpus):
    items = random_items(4, 12, 2, 5, 30, times="stamps")

    def content_hash(name, changed=items, columns=("a", "b"), **options):
        return write_corpus(tmp_path / name, changed, list(columns), "stamps", **options).fingerprint

    first = content_hash("one")
    assert content_hash("two", **SMALL, provenance={"kind": "synthetic"}) == first
    item_id, values, times = items[5]
    other_value = values.copy()
    other_value[1, 2] += 1
    other_time = times.copy()
    other_time[-1] += 1
    changes = [("x", values, times), (item_id, other_value, times), (item_id, values, other_time)]
    others = {content_hash(f"changed {k}", [*items[:5], item, *items[6:]]) for k, item in enumerate(changes)}
    others.add(content_hash("renamed", columns=("a", "c")))
    assert len(others | {first}) == 5


def test_the_manifest_says_what_was_given(tmp_path, random_items):
    columns = ["close", Column(name="day", kind="categorical", categories=("mon", "tue"))]
    provenance = {"kind": "synthetic", "sources": [{"name": "f.csv", "sha256": "0" * 64, "rows": 3}], "command": "x"}
    options = {"timezone": "UTC", "price_columns": ("close",), "bars_per_session": 7, "provenance": provenance}
    with CorpusWriter(tmp_path / "c", columns, time="regular", freq="D", **options) as writer:
        writer.append("a", np.array([[1.0, 2.0], [0, 1]]), times=np.array(["2020-01-01", "2020-01-02"], "M8[D]"))
        writer.extra_file("data_summary.csv", "item_id\na\n")
    manifest = Corpus.open(tmp_path / "c").manifest
    assert manifest == writer.manifest
    assert manifest.provenance == provenance
    assert (manifest.first_time, manifest.last_time) == ("2020-01-01T00:00:00.000000", "2020-01-02T00:00:00.000000")
    assert (manifest.num_series, manifest.num_rows, manifest.shards[0]["values"]) == (1, 2, 4)
    assert manifest.columns[1].categories == ("mon", "tue")
    assert (tmp_path / "c" / "data_summary.csv").read_text() == "item_id\na\n"


def test_the_content_hash_does_not_depend_on_how_series_are_grouped():
    ids, shapes = ["x", "y"], np.array([[1, 3], [1, 2]])
    values, times = np.arange(5, dtype=np.float32), np.arange(5)
    together, apart = (ContentHash((Column(name="a"),), "stamps", None) for _ in range(2))
    together.update(ids, shapes, values, times)
    apart.update(ids[:1], shapes[:1], values[:3], times[:3])
    apart.update(ids[1:], shapes[1:], values[3:], times[3:])
    assert together.hexdigest() == apart.hexdigest()


def test_a_manifest_comes_back_from_its_file(tmp_path):
    manifest = make_manifest({**FIELDS, "shards": [SHARD], "a field of a later version": 1}, source="here")
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    assert read_manifest(tmp_path / "manifest.json") == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": [{"name": "a"}, {"name": "a"}]}, "column names given twice: a"),
        ({"columns": [{"name": "a", "kind": "categorical"}]}, "column 'a': categories belong to categorical columns"),
        ({"columns": [{"name": "a", "categories": ["x"]}]}, "column 'a': categories belong to categorical columns"),
        ({"price_columns": ["close"]}, "price_columns names no column: close"),
        ({"time": "regular"}, "a regular time axis needs a freq"),
        ({"num_series": None}, "num_series: "),
        ({"content_hash": "x"}, "content_hash: "),
        ({"cuts": "\ud800"}, "cuts: "),
        ({"num_series": True}, "num_series: "),
        ({"num_rows": 3.5}, "num_rows: "),
        ({"seasonality": -24}, "seasonality: "),
        ({"seasonality": 10**15}, "seasonality: "),
        ({"step": 0}, "step: "),
        ({"shards": [SHARD | {"file": "../out.arrow"}]}, "'../out.arrow' is not the name of a file"),
        ({"shards": [SHARD | {"file": "/etc/passwd"}]}, "'/etc/passwd' is not the name of a file"),
        ({"shards": [SHARD, SHARD]}, "shards names a file twice"),
        ({"shards": [SHARD | {"series": -1}]}, "shards.0.series: "),
        ({"shards": [SHARD | {"rows": 4}]}, "num_rows is 3, and its shards have 4"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_with_its_source(change, message):
    with pytest.raises(DataError, match=f"^here: .*{message}"):
        make_manifest({**FIELDS, **change}, source="here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a manifest"),
        ("[1]", "not a JSON object, but a list"),
        ("[" * 5000, "nested more than 100 deep"),
        (json.dumps(FIELDS | {"format_version": True}), "no format_version"),
        (json.dumps(FIELDS | {"format_version": 1}), "names no shards"),
        (json.dumps(FIELDS | {"format_version": 1, "shards": [SHARD], "freq": "5 apples"}), "apples"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=rf"manifest\.json: .*{message}"):
        read_manifest(tmp_path / "manifest.json")
