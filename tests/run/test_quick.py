from __future__ import annotations

import numpy as np
import pandas as pd

from foretrain.evaluation.baselines import baselines
from foretrain.forecasting.frame import open_frame
from foretrain.forecasting.request import FrameRequest
from foretrain.models import family
from foretrain.run.quick import naive_table


def test_the_naive_forecast_reads_the_history_that_it_was_scored_with():
    values = np.concatenate([np.zeros(100), np.random.default_rng(0).normal(0, 9, 50).cumsum()])  # calm, then not
    frame = pd.DataFrame({"item_id": "a", "timestamp": pd.date_range("2024-01-01", periods=150), "target": values})
    task = open_frame(frame, FrameRequest(prediction_length=3), family("chronos2"))
    rows = pd.DataFrame(
        {"item_id": "a", "timestamp": [0, 1, 2], "target_name": "target", "predictions": 0.0, "0.9": 0.0}
    )
    found = naive_table(task, rows, "naive", None, context_length=50)
    expected = baselines(("naive",), [np.float32(values[-50:])], 3, [0.5, 0.9])["naive"][0]
    np.testing.assert_allclose(found[["predictions", "0.9"]], expected, rtol=1e-6)
    assert (naive_table(task, rows, "naive", None, context_length=150)["0.9"] < found["0.9"]).all()
