from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.source import DataConfig
from foretrain.data.splits import select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.tasks import evaluate
from foretrain.evaluation.validation import EvaluationConfig, Validation


@pytest.fixture(scope="module")
def prices(hourly):
    return hourly(5, 260, price=True)


def _config(**data):
    settings = {"context_length": 32, "prediction_length": 6, "validation_steps": 24, "test_steps": 12, **data}
    return DataConfig(corpora=({"path": "unused"},), **settings)


def test_validation_scores_the_validation_part_and_nothing_newer(prices, persistence):
    seen = []

    class Spy(persistence):
        def collate(self, windows):
            seen.extend(windows.future_times[:, -1].tolist())
            return super().collate(windows)

    run = Validation(EvaluationConfig(num_windows=4), _config(with_times=True), model=Spy(1.0), corpora=[prices])
    result = run(Spy(1.0), 10)
    assert set(result.metrics) == {
        "val_loss",
        "val_wql",
        "val_mase",
        "val_sql",
        "val_coverage_80_share",
        "val_pct_mae",
        "val_direction_accuracy_share",
        "val_skill",
    }
    assert max(seen) <= max(prices.times(i)[-13] for i in range(prices.num_series))
    assert not result.stop


def test_validation_equals_an_evaluation_of_the_same_windows(prices, persistence):
    model = persistence(1.0)
    run = Validation(
        EvaluationConfig(num_windows=4), _config(), model=model, corpora=[prices], selections=[select(prices)]
    )
    found = run(model, 0).metrics
    whole = evaluate(
        model,
        prices,
        prediction_length=6,
        num_windows=4,
        split="validation",
        validation_steps=24,
        test_steps=12,
        context_length=32,
    )
    assert found["val_wql"] == whole.pooled["model"]["wql"]
    assert found["val_mase"] == whole.pooled["model"]["mase"]
    assert found["val_skill"] == whole.pooled["model"]["skill_vs_naive"]
    assert run(model, 5).metrics == found


def test_validation_follows_the_model_and_not_the_first_call(prices, persistence):
    run = Validation(EvaluationConfig(loss=False), _config(), model=persistence(), corpora=[prices])
    good, bad = run(persistence(), 1).metrics, run(persistence(9.0), 2).metrics
    assert bad["val_wql"] > good["val_wql"] and "val_loss" not in good


def test_an_empty_validation_part_is_an_error(prices, persistence):
    data = _config(validation_steps=0)
    with pytest.raises(ConfigError, match="hold no window"):
        Validation(EvaluationConfig(), data, model=persistence(), corpora=[prices])
    tiny = Corpus.from_arrays("tiny", [("a", np.ones((1, 9), np.float32), None)], ["x"])
    with pytest.raises(DataError, match="the longest has 9 rows"):
        Validation(EvaluationConfig(), _config(), model=persistence(), corpora=[tiny])
