"""Files of results: their names, and which of them are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.suites.tasks import series, task

from foretrain.errors import DataError
from foretrain.suites.results import (
    TaskResult,
    folder_name,
    hash_of_data,
    identity_of,
    kept_result,
    result_file,
    write_result,
)

RESULT = TaskResult("m", "h", "s", "t", "d", "identity", "done", metrics={"MASE": 1.5}, baseline={"MASE": None})


@pytest.mark.parametrize(
    ("model", "folder"),
    [("owner/name", "owner--name"), ("/a/b/", "a--b"), ("..", "model.."), ("m:f", "m:f"), ("naive", "naive")],
)
def test_a_model_has_a_folder_of_its_own_below_the_results(model, folder):
    assert folder_name(model) == folder
    assert result_file(Path("out"), model, task()) == Path("out") / folder / "test" / "small.json"


def test_long_names_stay_apart():
    first, second = (folder_name("x" * 300 + end) for end in "ab")
    assert first != second and len(first) < 255


def test_what_was_written_is_kept_under_its_identity_alone(tmp_path):
    path = tmp_path / "m" / "t.json"
    write_result(path, RESULT)
    assert kept_result(path, "identity") == RESULT
    assert kept_result(path, "another") is None and kept_result(tmp_path / "none.json", "identity") is None
    assert [entry.name for entry in path.parent.iterdir()] == ["t.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1, "identity": "identity", "state": "done"}'])
def test_a_damaged_file_is_not_kept(tmp_path, text):
    path = tmp_path / "t.json"
    path.write_text(text)
    assert kept_result(path, "identity") is None


def test_failures_and_other_schemas_are_not_kept(tmp_path):
    for changes in ({"state": "failed"}, {"schema": 2}):
        write_result(tmp_path / "t.json", replace(RESULT, **changes))
        assert kept_result(tmp_path / "t.json", "identity") is None


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "t.json"
    write_result(path, RESULT)
    (tmp_path / ".tmp-t.json").mkdir()  # what the new file is first written to
    with pytest.raises(DataError, match="cannot be written"):
        write_result(path, replace(RESULT, model="other"))
    assert json.loads(path.read_text())["model"] == "m"


def test_the_identity_is_of_everything_that_decides_figures():
    def of(one=None, data="d", model="m", **options):
        return identity_of(one or task(), data, model, options)

    others = [
        of(task(horizon=3)),
        of(task(baseline="statsforecast-normal")),
        of(data="e"),
        of(model="n"),
        of(dtype="x"),
    ]
    assert len({of(), *others}) == 6 and of() == of(task())


def test_the_hash_of_data_is_of_values_names_and_stamps():
    stamps = np.array(["2024-01-01", "2024-01-02"], "datetime64[us]")
    kinds = [series([1.0, 2.0]), series([1.0, 2.5]), series([1.0, 2.0], item="b"), series([1.0, 2.0], stamps=stamps)]
    hashes = [hash_of_data([kind], None) for kind in kinds]
    assert len(set(hashes)) == 4 and hashes[0] == hash_of_data([series([1.0, 2.0])], None)
