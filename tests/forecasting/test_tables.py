"""Tables of forecasts."""

from __future__ import annotations

import numpy as np

from foretrain.forecasting.frame import read_frame
from foretrain.forecasting.rows import Names
from foretrain.forecasting.tables import candle_table, long_table, path_table

H = 4


def test_the_forecast_frame_has_one_row_an_item_target_and_step(frame):
    names = Names(target=("target", "temp"))
    task = read_frame(frame, H, names=names)
    count = len(task.windows)
    quantiles = np.arange(count * 2 * H * 2, dtype=np.float32).reshape(count, 2, H, 2)
    out = long_table(task, list(quantiles), list(quantiles[..., 0]), (0.1, 0.9))
    assert list(out.columns) == ["item_id", "timestamp", "target_name", "predictions", "0.1", "0.9"]
    assert len(out) == count * 2 * H
    np.testing.assert_array_equal(out["0.9"], quantiles[..., 1].ravel())
    second = out.iloc[2 * H : 4 * H]
    assert set(second["item_id"]) == {task.item_ids[1]}
    assert second["target_name"].tolist() == ["target"] * H + ["temp"] * H
    assert second["timestamp"].tolist() == list(task.stamps[H : 2 * H]) * 2


def test_a_mean_stands_beside_the_median_where_there_is_one(frame):
    task = read_frame(frame, H)
    values = [np.full((1, H), k, np.float32) for k in range(len(task.windows))]
    out = long_table(task, [v[..., None] for v in values], values, (0.5,), {"mean": [v + 10 for v in values]})
    assert list(out.columns) == ["item_id", "timestamp", "target_name", "predictions", "mean", "0.5"]
    np.testing.assert_array_equal(out["mean"], out["predictions"] + 10)


def test_candles_have_a_row_a_step_and_a_column_a_target(frame):
    task = read_frame(frame, H, names=Names(target=("target", "temp")))
    mean = [np.arange(2 * H, dtype=np.float32).reshape(2, H) + 100 * k for k in range(len(task.windows))]
    out = candle_table(task, mean, ("temp", "target"))
    assert list(out.columns) == ["item_id", "timestamp", "temp", "target"]
    assert out["timestamp"].tolist() == list(task.stamps)
    assert out["item_id"].tolist() == list(np.repeat(task.item_ids, H))
    np.testing.assert_array_equal(out["target"].to_numpy().reshape(-1, H), [m[0] for m in mean])
    np.testing.assert_array_equal(out["temp"].to_numpy().reshape(-1, H), [m[1] for m in mean])


def test_paths_have_a_row_a_sample_and_step(frame):
    task = read_frame(frame, H, names=Names(target=("target", "temp")))
    count = len(task.windows)
    samples = np.arange(count * 2 * 3 * H, dtype=np.float32).reshape(count, 2, 3, H)
    out = path_table(task, list(samples), ("target",))
    assert list(out.columns) == ["item_id", "timestamp", "sample", "target"]
    assert (
        out["sample"].tolist()
        == [0] * H + [1] * H + [2] * H + [0] * H + [1] * H + [2] * H + [0] * H + [1] * H + [2] * H
    )
    assert out["timestamp"][: 3 * H].tolist() == list(task.stamps[:H]) * 3
    np.testing.assert_array_equal(out["target"].to_numpy().reshape(count, 3, H), samples[:, 0])
    second = out[(out.item_id == task.item_ids[1]) & (out["sample"] == 2)]
    np.testing.assert_array_equal(second["target"], samples[1, 0, 2])
    assert second["timestamp"].tolist() == list(task.stamps[H : 2 * H])
