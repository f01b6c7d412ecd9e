"""Functions of the user as contestants: what they are given, and what of their results is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tests.suites.tasks import LEVELS, series, task

from foretrain.errors import ConfigError, DataError
from foretrain.suites.rows import TaskRows
from foretrain.suites.scoring import forecast_batch, score_task
from foretrain.suites.user_function import UserFunction, is_function_name

MODULE = """
import numpy as np
given = {}

def everything(**arguments):
    given.update(arguments)
    count = sum(len(values) for values in arguments["histories"])
    return np.arange(count * 3 * 2.0).reshape(count, 3, 2)

def some(horizon, histories, *, freq="x", unused=3):
    given.update(horizon=horizon, freq=freq)
    for values in histories:
        values[:] = 0
    return np.zeros((len(histories), 3, horizon))

def text(histories): return "none"
def ragged(histories): return [[1.0], [1.0, 2.0]]

class Model:
    def forecast(self, histories, horizon): return np.ones((len(histories), 3, horizon))

model = Model()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"given_{abs(hash(tmp_path)) % 10**12}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def rows():
    stamps = np.datetime64("2024-01-01", "us") + np.arange(8) * np.timedelta64(1, "D")
    items = [series(np.arange(16.0).reshape(2, 8), variates=("x", "y"), stamps=stamps), series(np.ones(6), item="b")]
    return TaskRows(task(), items)


def test_names_of_functions_are_told_from_folders_and_hub_ids():
    assert is_function_name("a.b:c") and is_function_name("mine:Model.forecast")
    assert not any(map(is_function_name, ("tiny", "owner/name", "C:/x", "a:b:c", "runs/x:y", ":f", "m:")))


def test_all_arguments_have_their_shapes_and_the_median_is_the_point(module):
    found = UserFunction.find(f"{module}:everything")
    given = rows()
    forecasts = forecast_batch(found, given, np.array([0, 1]))
    seen = found.function.__globals__["given"]
    assert [values.shape for values in seen["histories"]] == [(2, 6), (1, 4)]
    assert (seen["horizon"], seen["quantile_levels"], seen["freq"], seen["seasonality"]) == (2, list(LEVELS), "D", 1)
    assert seen["item_ids"] == ["a", "b"] and seen["targets"] == [("x", "y"), ("target",)]
    assert seen["stamps"][0].shape == (6,) and seen["future_stamps"][0].shape == (2,) and seen["stamps"][1] is None
    assert forecasts.shape == (3, 4, 2)
    np.testing.assert_array_equal(forecasts[:, 0], forecasts[:, 2])
    np.testing.assert_array_equal(forecasts[:, 1:].ravel(), np.arange(18.0))


def test_a_function_is_given_what_it_names_and_cannot_change_the_data(module):
    found = UserFunction.find(f"{module}:some")
    given = TaskRows(task(), [series(np.arange(1.0, 9))])
    first = score_task(found, given.task, given.series, rows=given)
    assert found.function.__globals__["given"] == {"horizon": 2, "freq": "D"} and not found.takes_covariates
    assert first.metrics["MASE"] == pytest.approx(7.5)  # of 7 and 8, forecast as 0; the steps of the history are 1
    assert given.series[0].values[0, 0] == 1


def test_a_method_of_an_object_forecasts_too(module):
    found = UserFunction.find(f"{module}:model.forecast")
    assert forecast_batch(found, rows(), np.array([1])).shape == (1, 4, 2)


@pytest.mark.parametrize(
    ("name", "match"),
    [("text", "it returned a str, no array of numbers"), ("ragged", "it returned a list, no array of numbers")],
)
def test_results_that_are_no_arrays_are_refused(module, name, match):
    with pytest.raises(DataError, match=match):
        forecast_batch(UserFunction.find(f"{module}:{name}"), rows(), np.array([0]))


def test_a_module_that_fails_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "failing_module_of_a_user.py").write_text("raise ValueError('first\\nsecond')\n")
    (tmp_path / "needing_module_of_a_user.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(ConfigError, match="importing failing_module_of_a_user raised ValueError: first second"):
        UserFunction.find("failing_module_of_a_user:f")
    with pytest.raises(ConfigError, match="there is no module no_such_package_at_all"):
        UserFunction.find("needing_module_of_a_user:f")
