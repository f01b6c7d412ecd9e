"""Covariates of tasks from each kind of data, cut to windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.suites.tasks import series, task

from foretrain.errors import DataError
from foretrain.suites.covariates import covariates_of, parquet_covariates
from foretrain.suites.rows import TaskRows
from foretrain.suites.score import load_data

STEPS = 12
DAYS = np.datetime64("2024-01-01", "us") + np.arange(STEPS) * np.timedelta64(1, "D")
RULE = {"targets": ("y",), "past_covariates": ("seen",), "known_covariates": ("open", "kind", "heat")}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A suite's own files: two items, out of order, with numbers, truth values and text."""
    folder = tmp_path / "sets" / "small"
    folder.mkdir(parents=True)
    columns = {
        "id": ["b", "a"],
        "timestamp": [DAYS] * 2,
        "y": [[float(k) for k in range(STEPS)], [10.0 * k for k in range(STEPS)]],
        "seen": [[k for k in range(STEPS)], [None, *range(1, STEPS)]],
        "open": [[k % 2 == 0 for k in range(STEPS)], [None, *[True] * (STEPS - 1)]],
        "kind": [["x" if k < 6 else "z" for k in range(STEPS)], ["y"] * STEPS],
        "heat": [[0.5] * STEPS, [1.5] * STEPS],
        "country": ["DE", "FR"],
    }
    pq.write_table(pa.table(columns), folder / "train.parquet")
    return tmp_path


def test_a_suite_s_own_files_give_numbers_truth_values_and_text_of_each_item(hub: Path):
    values, categories = parquet_covariates(hub / "sets" / "small", ("seen", "open", "kind", "heat", "country"))
    assert categories == {"open": 2, "kind": 3}
    first, second = values
    np.testing.assert_array_equal(first["seen"], [np.nan, *range(1, STEPS)])
    np.testing.assert_array_equal(second["kind"], [0] * 6 + [2] * 6)
    np.testing.assert_array_equal(first["open"], [np.nan, *[1] * (STEPS - 1)])
    assert "country" not in first and first["heat"][0] == 1.5


def test_windows_have_past_covariates_up_to_the_cutoff_and_known_ones_beyond_it(hub: Path):
    one = task(rule="fev", baseline="statsforecast-normal", metrics_of="fev", metrics={"SQL": "SQL"}, **RULE)
    data = load_data(one, hub, with_covariates=True)
    assert data.covariates is not None and not data.covariates.absent
    rows = TaskRows(one, data.series, data.covariates)
    given = rows.window(1, with_covariates=True).covariates  # of item b
    np.testing.assert_array_equal(given.past["seen"], np.arange(10.0))
    np.testing.assert_array_equal(given.known["heat"], [0.5] * 12)
    # means of the ten targets of the history in a category, shrunk towards the mean of all, 4.5
    x, z = (4.5 + sum(range(6))) / 7, (4.5 + sum(range(6, 10))) / 5
    np.testing.assert_allclose(given.known["kind"], [x] * 6 + [z] * 6, rtol=1e-6)
    assert not rows.window(1, with_covariates=False).covariates.known


def test_tasks_of_several_targets_have_categories_by_number():
    one = task(rule="fev", targets=("y", "w"), known_covariates=("kind",))
    items = [series([np.arange(6.0), np.arange(6.0)], variates=("y", "w"))]
    found = covariates_of(one.definition, items, [{"kind": np.array([0.0, 1, 1, 0, 1, 2])}], {"kind": 3})
    assert found is not None
    given = found.of(0, 0, 4, 6, items[0].values[0]).known["kind"]
    np.testing.assert_array_equal(given, [0, 1, 1, 0, 1, np.nan])  # 2 is not in the history


def test_another_number_of_steps_is_an_error():
    one = task(rule="fev", targets=("y",), known_covariates=("heat",))
    with pytest.raises(DataError, match="item 'a': 'heat' has 5 steps"):
        covariates_of(one.definition, [series(np.arange(6.0))], [{"heat": np.zeros(5)}], {})


def test_tasks_without_covariates_have_none(hub: Path):
    one = task(rule="fev", targets=("y",))
    assert load_data(one, hub, with_covariates=True).covariates is None
    assert load_data(task(rule="fev", **RULE), hub).covariates is None


STATIC = {"static_covariates": ("country", "size", "open", "gone")}


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """A suite's own files, one with two items and one with one: a value an item, some missing."""
    folder = tmp_path / "sets" / "small"
    folder.mkdir(parents=True)
    country = pa.array(["DE", None], pa.string()).dictionary_encode()
    first = {"id": ["c", "a"], "size": [1.5, float("nan")], "country": country, "open": [True, None], "gone": [1, 2]}
    second = {"id": ["b"], "size": [2.0], "country": ["FR"], "open": [False]}
    for name, columns in (("one", first), ("two", second)):
        count = len(columns["id"])
        lists = {"timestamp": [DAYS] * count, "y": [np.arange(STEPS) + 1.0] * count}
        pq.write_table(pa.table({**columns, **lists}), folder / f"{name}.parquet")
    return tmp_path


def test_static_covariates_are_a_value_an_item_and_none_where_it_is_missing(items: Path):
    one = task(rule="fev", targets=("y",), num_windows=2, **STATIC)
    data = load_data(one, items, with_covariates=True)
    assert data.covariates is not None
    assert data.covariates.static == ("country", "size", "open") and data.covariates.static_absent == ("gone",)
    rows = TaskRows(one, data.series, data.covariates, max_items=2)
    assert rows.sample is not None and len(rows.cuts) == 4
    expected = {
        "a": {"country": None, "size": None, "open": None},
        "b": {"country": "FR", "size": 2.0, "open": False},
        "c": {"country": "DE", "size": 1.5, "open": True},
    }
    windows = [rows.window(k, with_covariates=True) for k in range(4)]
    assert len({window.item_id for window in windows}) == 2
    assert all(window.covariates.static == expected[window.item_id] for window in windows)
    assert rows.window(0, with_covariates=False).covariates.static == {}
    assert load_data(one, items).covariates is None


def test_static_covariates_of_a_corpus_are_its_columns_that_do_not_change(tmp_path: Path):
    from foretrain.data.importers import import_corpus

    rows = [f"{item},{day},{k},{item * 2},{item}" for item in "ab" for k, day in enumerate(DAYS.astype("M8[D]"))]
    (tmp_path / "x.csv").write_text("item_id,timestamp,y,country,open\n" + "\n".join(rows) + "\n")
    import_corpus([tmp_path / "x.csv"], tmp_path / "test" / "small")
    one = task(rule="fev", targets=("y",), static_covariates=("country", "y", "size"))
    found = load_data(one, tmp_path, with_covariates=True).covariates
    assert found is not None and found.static == ("country",) and found.static_absent == ("y", "size")
    assert [own["country"] for own in found.of_items] == ["aa", "bb"]


def test_static_covariates_of_other_items_are_an_error():
    one = task(rule="fev", targets=("y",), **STATIC)
    with pytest.raises(DataError, match="1 series, and static covariates of 2 items"):
        covariates_of(one.definition, [series(np.arange(6.0))], [], {}, [{}, {}])
