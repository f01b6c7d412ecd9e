from __future__ import annotations

import json
import math

import numpy as np
import pytest

from foretrain.data.splits import select
from foretrain.data.store import Corpus
from foretrain.evaluation.symbols import MIXED, errors_by_symbol
from foretrain.evaluation.tasks import evaluate


@pytest.fixture(scope="module")
def found(bars, persistence):
    corpus = bars()
    return evaluate(persistence(0.1), corpus, selection=select(corpus, ["close"]), prediction_length=6, num_windows=11)


def test_errors_of_a_symbol_are_those_of_the_stock_layout(make_scored):
    truth = np.array([[10.0, 20.0], [np.nan, 40.0], [-1.0, 4.0]])
    forecast = np.array([[11.0, 18.0], [0.0, 44.0], [-1.0, 3.0]])
    errors = errors_by_symbol(make_scored(truth, forecast, item=[0, 0, 1], last=[10.0, 50.0, 2.0], price=True))
    assert errors["mae"] == pytest.approx([7 / 3, 0.5])
    assert errors["rmse"] == pytest.approx([math.sqrt(21 / 3), math.sqrt(0.5)])
    assert errors["mape"] == pytest.approx([10.0, 12.5], rel=1e-5)
    assert errors["mae_percent"] == pytest.approx([100 * (7 / 3) / (70 / 3), 20.0])
    assert errors["pct_mae"] == pytest.approx([100 * (0.1 + 0.2 + 0.08) / 3, 25.0])


def test_a_truth_of_zero_keeps_mape_finite(make_scored):
    errors = errors_by_symbol(make_scored([[0.0, 0.0]], [[1.0, 1.0]]))
    assert errors["mape"] == pytest.approx([1e7]) and math.isnan(errors["mae_percent"][0])


def test_the_aggregate_is_the_plain_mean_over_symbols(found):
    for name in ("mae", "rmse", "mape", "mae_percent", "naive_mae", "naive_mape"):
        assert found.aggregate[name] == pytest.approx(np.mean([entry[name] for entry in found.per_symbol]))
    assert found.aggregate["symbols_evaluated"] == len(found.per_symbol) == 3
    assert [entry["windows"] for entry in found.per_symbol] == [11, 11, 11]


def test_the_aggregate_also_has_the_pooled_metrics(found):
    assert found.aggregate["pct_mae"] == found.pooled["model"]["pct_mae"]
    assert found.aggregate["naive_pct_mae"] == found.pooled["naive"]["pct_mae"]
    assert found.aggregate["skill"] == found.pooled["model"]["skill_vs_naive"]
    assert 0 < found.aggregate["pct_mae"] ** 2 <= found.aggregate["pct_mse"] and found.aggregate["pct_r2"] < 1
    against = next(c for c in found.comparisons if c.against == "naive")
    assert found.aggregate["dm"] == {
        "statistic": against.statistic,
        "p_value": against.p_value,
        "verdict": found.verdict,
    }


def test_means_that_mix_currencies_say_so(found, bars, persistence):
    assert found.aggregate["note"].endswith(MIXED)
    alone = bars(items=1)
    one = evaluate(persistence(), alone, selection=select(alone, ["close"]), prediction_length=6, num_windows=3)
    assert "median" in one.aggregate["note"] and MIXED not in one.aggregate["note"]


def test_symbols_name_their_column_where_several_are_scored(bars, persistence):
    corpus = bars()
    found = evaluate(
        persistence(), corpus, selection=select(corpus, ["close", "low"]), prediction_length=6, num_windows=2
    )
    keys = [(entry["symbol"], entry["column"]) for entry in found.per_symbol]
    assert keys == [(f"bar-{k}", column) for k in range(3) for column in ("close", "low")]
    assert found.aggregate["symbols_evaluated"] == 3


def test_symbols_name_their_corpus_where_there_are_several(hourly, persistence):
    corpora = [hourly(1, 90), hourly(1, 90, seed=1)]
    found = evaluate(persistence(), corpora, prediction_length=4, num_windows=2)
    assert [entry["corpus"] for entry in found.per_symbol] == ["walks#1", "walks#2"]
    assert found.aggregate["symbols_evaluated"] == 2


def test_a_symbol_whose_truth_is_zero_has_no_percentage_and_is_left_out_of_its_mean(persistence):
    values = np.random.default_rng(0).standard_normal((1, 60)).astype(np.float32)
    corpus = Corpus.from_arrays("c", [("a", values, None), ("zero", values * 0, None)], ["x"])
    found = evaluate(persistence(1.0), corpus, prediction_length=4, num_windows=2)
    assert math.isnan(found.per_symbol[1]["mae_percent"])
    assert found.aggregate["mae_percent"] == found.per_symbol[0]["mae_percent"]


def test_a_forecast_that_is_not_finite_makes_the_means_nan(bars, persistence):
    corpus = bars()
    found = evaluate(
        persistence(float("nan")), corpus, selection=select(corpus, ["close"]), prediction_length=6, num_windows=2
    )
    assert math.isnan(found.aggregate["mae"]) and math.isnan(found.aggregate["mae_percent"])


def test_evaluation_json_holds_the_layout(found, tmp_path):
    found.save(tmp_path)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["aggregate"] == found.aggregate and saved["per_symbol"] == found.per_symbol
    skills = [entry["skill"] for entry in saved["ranking"]["symbols"]]
    assert skills == sorted(entry["skill"] for entry in found.per_symbol)
    assert saved["pooled"]["model"]["pct_mae"] == found.aggregate["pct_mae"]  # the other contents remain
