"""Words that tables of benchmark figures share."""

from __future__ import annotations

import pytest

from foretrain.suites.results import TaskResult
from foretrain.suites.tables import in_unit_of_data, unit_lines, unit_of


@pytest.mark.parametrize(
    ("metric", "unit", "expected"),
    [
        ("MAE[0.5]", "kW", "kW"), ("MSE[mean]", "kW", "squared kW"), ("RMSE[mean]", "kW", "kW"),
        ("MSE", "kW", "squared kW"),
        ("MSE[mean]", "mixed", "mixed"), ("MAE", "unknown", "unknown"), ("price_mse", "USD", "squared USD"),
        ("price_mae", "USD", "USD"), ("pct_mse", "USD", "squared percent"), ("pct_mae", "USD", "percent"),
        ("pct_r2", "USD", ""), ("MASE[0.5]", "kW", ""), ("NRMSE[mean]", "kW", ""), ("sMAPE[0.5]", "kW", ""),
        ("mean_weighted_sum_quantile_loss", "kW", ""), ("MSIS", "kW", ""),
    ],
)  # fmt: skip
def test_a_metric_has_the_unit_of_the_data_its_square_percent_or_none(metric, unit, expected):
    assert unit_of(metric, unit) == expected
    assert in_unit_of_data(metric) is (expected not in ("", "percent", "squared percent"))


def result(task: str, unit: str, **metrics: float) -> TaskResult:
    named = ("model", "hash", "suite", task, "set", "identity")
    return TaskResult(*named, state="done", metrics=dict(metrics), unit=unit)


def test_metrics_in_the_unit_of_the_data_are_named_with_it():
    (line,) = unit_lines([result("a", "kW", MASE=1.0, MSE=4.0, MAE=2.0)], ["MASE"])
    assert line == "MSE, MAE: in the unit of the data, squared in MSE: kW."
    both = unit_lines([result("a", "kW", RMSE=2.0), result("b", "unknown", RMSE=1.0)], ["RMSE"])
    assert " ".join(both) == "RMSE: in the unit of the data: kW: a; unknown: b."
    assert unit_lines([result("a", "kW", MASE=1.0)], ["MASE"]) == []
