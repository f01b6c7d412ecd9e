"""load, save and the Predictor; the golden tests check numbers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import foretrain
from foretrain.errors import ConfigError, DataError, ModelError
from foretrain.forecasting.predictor import Predictor, load
from foretrain.forecasting.request import FrameRequest
from foretrain.notes import Code, codes


def test_a_saved_release_forecasts_the_same(predictor, tmp_path):
    predictor.save(tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors"]
    series = [np.sin(np.arange(50))]
    again = load(tmp_path / "copy", device="cpu").forecast(series, 8)
    np.testing.assert_array_equal(again[0], predictor.forecast(series, 8)[0])


def test_save_never_overwrites_and_leaves_no_partial_release(predictor, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        predictor.save(tmp_path / "taken")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        predictor.save(tmp_path / "file" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_a_failed_save_removes_its_scratch_folder(predictor, tmp_path, monkeypatch):
    def full(folder, state=None):
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictor.model, "save_release", full)
    with pytest.raises(ModelError, match="No space left"):
        predictor.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_opens_its_release(golden_folder, tmp_path):
    shutil.copytree(golden_folder / "model", tmp_path / "run" / "release")
    assert foretrain.load(tmp_path / "run").model.family == "chronos2"


def release(golden_folder, folder, **config):
    shutil.copytree(golden_folder / "model", folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    raw = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))
    return folder


def damage(kind, golden_folder, tmp_path):
    folder = tmp_path / "model"
    if kind == "missing folder":
        return folder
    if kind == "a file":
        folder.write_text("")
        return folder
    if kind == "empty folder":
        folder.mkdir()
        return folder
    if kind == "other family":
        return release(golden_folder, folder, chronos_config=None, model_type="bert")
    release(golden_folder, folder)
    weights = folder / "model.safetensors"
    if kind == "broken json":
        (folder / "config.json").write_text("{,")
    if kind == "no weights":
        weights.unlink()
    if kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    if kind == "weights of noise":
        weights.write_bytes(b"\0" * 100)
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing folder", "no such folder"),
        ("a file", "is a file"),
        ("empty folder", "config.json"),
        ("other family", "bert.*chronos2"),
        ("broken json", "JSON"),
        ("no weights", "model.safetensors"),
        ("truncated weights", "cannot read the weights"),
        ("weights of noise", "cannot read the weights"),
    ],
)
def test_a_folder_that_is_no_model_gets_one_clear_line(golden_folder, tmp_path, kind, message):
    with pytest.raises(ModelError, match=message) as caught:
        load(damage(kind, golden_folder, tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("arguments", [{"dtype": "int8"}, {"device": "abacus"}])
def test_impossible_device_or_dtype_is_refused(golden_folder, arguments):
    with pytest.raises(ConfigError):
        load(golden_folder / "model", **arguments)


def test_bfloat16_weights_forecast_near_float32(golden_folder, predictor):
    series = [np.sin(np.arange(60)) * 3 + 10]
    exact = predictor.forecast(series, 8)[0]
    rough = load(golden_folder / "model", device="cpu", dtype="bfloat16").forecast(series, 8)[0]
    assert 0 < np.abs(rough - exact).max() < 0.2 * np.abs(exact).max()


def test_an_unknown_option_names_the_nearest(predictor):
    with pytest.raises(ConfigError, match="Did you mean 'cross_learning'"):
        predictor.forecast([np.zeros(20)], 4, cross_lerning=True)


def test_sorted_quantiles_are_ascending_and_keep_their_columns(predictor, frame):
    levels = [0.9, 0.1, 0.5]
    plain = predictor.forecast_df(frame.drop(columns="kind"), 8, levels, sort_quantiles=False)
    ordered = predictor.forecast_df(frame.drop(columns="kind"), 8, levels)
    assert list(ordered.columns[4:]) == ["0.9", "0.1", "0.5"]
    assert (ordered["0.1"] <= ordered["0.5"]).all() and (ordered["0.5"] <= ordered["0.9"]).all()
    assert not (plain["0.1"] <= plain["0.9"]).all()  # random weights cross, so the sort had work to do
    np.testing.assert_array_equal(ordered["predictions"], ordered["0.5"])


def test_the_median_is_returned_even_if_not_requested(predictor, frame):
    with_median = predictor.forecast_df(frame, 4, [0.1, 0.5])
    without = predictor.forecast_df(frame, 4, [0.1])
    assert "0.5" not in without
    np.testing.assert_array_equal(without["predictions"], with_median["0.5"])


def test_meaningless_forecasts_give_a_warning(predictor, frame, logged_notes):
    plain = frame[["item_id", "timestamp", "target"]]
    predictor.forecast_df(plain, 4)
    assert not logged_notes()
    empty = plain.assign(target=plain.target.where(plain.item_id != "1e5"))
    predictor.forecast_df(empty, 4)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.NOTHING_TO_FORECAST_FROM, {"items": 1})
    assert "'1e5'" in note.text and "'target'" in note.text and "the forecast is NaN" in note.text
    predictor.forecast_df(empty, 4, blank_missing=False)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.COLUMN_EMPTY, {"items": 1})
    predictor.forecast_df(plain.assign(target=plain.target * np.where(plain.item_id == "007", 1e37, 1.0)), 4)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.VALUES_TOO_LARGE, {"items": 1}) and "'007'" in note.text


def test_a_part_that_the_family_does_not_have_is_refused(golden_folder):
    with pytest.raises(ModelError, match="a Chronos-2 model has no tokenizer"):
        load(golden_folder / "model", tokenizer="somewhere")


def test_a_model_loads_with_a_part_from_another_folder(zoo, candles, tmp_path, logged_notes):
    release = tmp_path / "release"
    Predictor(zoo.built("kronos")).save(release)
    shutil.move(release / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(ModelError, match="needs its tokenizer"):
        load(release)
    opened = load(release, device="cpu", tokenizer=tmp_path / "tokenizer")
    own = candles[candles.item_id == "7"]
    pd.testing.assert_frame_equal(
        opened.forecast_df(own, 2, num_samples=2),
        Predictor(zoo.built("kronos")).forecast_df(own, 2, num_samples=2),
    )
    assert codes(logged_notes()) == {Code.COLUMNS_LEFT_OUT, Code.CANDLES_REPAIRED}


def test_a_part_of_a_model_is_no_predictor(zoo, tmp_path):
    zoo.built("kronos_tokenizer").save_release(tmp_path)
    with pytest.raises(ModelError, match=r"holds a kronos_tokenizer, which makes no forecasts; .* Load one of those"):
        load(tmp_path)


def test_candles_are_recognised_and_everything_else_is_left_out(candle_predictor, candles, logged_notes):
    table = candle_predictor.forecast_df(candles, 3, [0.1, 0.9], num_samples=4)
    note, _ = logged_notes()
    assert (note.code, note.counts) == (Code.COLUMNS_LEFT_OUT, {"columns": 1}) and "'exchange'" in note.text
    assert list(table.columns) == ["item_id", "timestamp", "target_name", "predictions", "mean", "0.1", "0.9"]
    assert table["target_name"].unique().tolist() == ["Open", "High", "Low", "Close", "Volume"]
    assert table["item_id"].unique().tolist() == ["ACME", "7"]


def test_outputs_are_views_of_the_same_draws(candle_predictor, candles):
    plain = candles.drop(columns="exchange")
    long, wide, paths = (
        candle_predictor.forecast_df(plain, 3, [0.5], num_samples=4, output=output)
        for output in ("long", "candles", "paths")
    )
    columns = ["Open", "High", "Low", "Close", "Volume"]
    assert list(wide.columns) == ["item_id", "timestamp", *columns]
    assert list(paths.columns) == ["item_id", "timestamp", "sample", *columns]
    for name in columns:
        own = long[long.target_name == name]
        np.testing.assert_array_equal(own["mean"], wide[name])
        drawn = paths[name].to_numpy(np.float64).reshape(2, 4, 3)
        np.testing.assert_allclose(drawn.mean(1).ravel(), wide[name], rtol=1e-5)
        np.testing.assert_allclose(np.median(drawn, 1).ravel(), own["0.5"], rtol=1e-5)
    both = candle_predictor.forecast_tables(
        plain,
        FrameRequest(prediction_length=3, quantile_levels=[0.5], outputs=("paths", "long"), num_samples=4),
    )
    pd.testing.assert_frame_equal(both["paths"], paths)
    pd.testing.assert_frame_equal(both["long"], long)


def test_other_columns_of_a_candle_are_still_read(candle_predictor, candles):
    plain = candles.drop(columns="exchange")
    close = candle_predictor.forecast_df(plain, 3, target="Close", num_samples=4)
    whole = candle_predictor.forecast_df(plain, 3, num_samples=4)
    assert set(close["target_name"]) == {"Close"}
    np.testing.assert_array_equal(close["0.5"], whole[whole.target_name == "Close"]["0.5"])
    assert list(candle_predictor.forecast_df(plain, 3, target="Close", output="candles").columns) == [
        "item_id",
        "timestamp",
        "Close",
    ]


def test_future_bars_follow_trading_hours_or_a_calendar(candle_predictor, candles):
    plain = candles.drop(columns="exchange")
    late = {"ACME": "2024-03-07 14:55", "7": "2024-03-07 10:45"}
    for how in ({}, {"calendar": "NYSE"}):
        table = candle_predictor.forecast_df(plain, 70, [0.5], num_samples=1, output="candles", mode="rolling", **how)
        for name, last in late.items():
            stamps = table[table.item_id == name]["timestamp"]
            assert stamps.iloc[0] == pd.Timestamp(last) + pd.Timedelta("5min")
            assert stamps.iloc[-1] > pd.Timestamp("2024-03-08 09:30")
            assert set(stamps.dt.hour) <= set(range(9, 16)) and (stamps.dt.hour * 60 + stamps.dt.minute >= 570).all()


def test_a_single_frame_needs_no_ids(candle_predictor, candles):
    plain = candles[candles.item_id == "7"].drop(columns=["item_id", "exchange"])
    found = candle_predictor.forecast_df(plain, 2, num_samples=2)
    assert set(found["item_id"]) == {"item"}


def test_paths_of_arrays(candle_predictor, predictor, candles):
    bars = candles[candles.item_id == "7"][["Open", "High", "Low", "Close"]].to_numpy(np.float32).T
    paths = candle_predictor.forecast_paths([bars, bars[:, :30]], 5, num_samples=3, seed=1)
    assert [p.shape for p in paths] == [(4, 3, 5), (4, 3, 5)]
    assert not np.array_equal(paths[0], candle_predictor.forecast_paths([bars], 5, num_samples=3, seed=2)[0])
    with pytest.raises(ConfigError, match="chronos2 draws no sample paths"):
        predictor.forecast_paths([np.zeros(20)], 5)


def test_repaired_candles_are_reported_once(candle_predictor, candles, logged_notes):
    plain = candles.drop(columns="exchange")
    candle_predictor.forecast_df(plain, 3, num_samples=4)
    (note,) = logged_notes()
    assert note.code == Code.CANDLES_REPAIRED and note.counts["candles"] == 24
    assert note.text == f"in these forecasts: {note.counts['repaired candles']} of 24 candles repaired."


def test_outputs_that_a_family_does_not_have_are_refused(predictor, candle_predictor, frame, candles):
    with pytest.raises(ConfigError, match="chronos2 forecasts no candles"):
        predictor.forecast_df(frame, 4, output="candles")
    with pytest.raises(ConfigError, match="choose long, candles, paths"):
        predictor.forecast_df(frame, 4, output="wide")
    with pytest.raises(DataError, match=r"df: kronos reads candles \(open, high, .* and it has Close, Open, High"):
        candle_predictor.forecast_df(candles.drop(columns="Low"), 4)


@pytest.mark.parametrize("what", [{"output": "paths"}, {"aggregate": "trimmed_mean_10"}])
def test_a_family_without_paths_has_neither_them_nor_aggregates(predictor, frame, what):
    with pytest.raises(ConfigError, match=f"{next(iter(what.values()))}: chronos2 draws no sample paths"):
        predictor.forecast_df(frame, 4, **what)


def test_paths_are_drawn_only_if_requested(zoo, frame):
    predictor = Predictor(zoo.shared("toto"))
    assert predictor.forecast_paths([np.arange(20.0)], 2)[0].shape == (1, 128, 2)
    one = frame[frame.item_id == frame.item_id.iloc[0]][["item_id", "timestamp", "target"]]
    assert len(predictor.forecast_df(one, 2, output="paths")) == 128 * 2
    plain, more = (predictor.forecast_df(one, 2, **what) for what in ({}, {"aggregate": "trimmed_mean_10"}))
    assert (more["trimmed_mean_10"] != more["mean"]).all()
    assert np.array_equal(plain["0.1"], more["0.1"])


def test_aggregates_are_columns_beside_the_quantiles(candle_predictor, candles):
    plain = candles.drop(columns="exchange")
    names = ["quantile_0.3", "trimmed_mean_25"]
    long = candle_predictor.forecast_df(plain, 3, [0.1], num_samples=8, aggregate=names)
    assert list(long.columns[3:]) == ["predictions", "mean", *names, "0.1"]
    paths = candle_predictor.forecast_df(plain, 3, output="paths", num_samples=8)
    closes = paths[paths.item_id == "ACME"]["Close"].to_numpy(np.float64).reshape(8, 3)
    found = long[(long.item_id == "ACME") & (long.target_name == "Close")]
    np.testing.assert_allclose(found["trimmed_mean_25"], np.sort(closes, 0)[2:-2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["quantile_0.3"], np.quantile(closes, 0.3, axis=0), rtol=1e-6)


def test_a_single_aggregate_needs_no_list_and_a_wrong_one_is_refused(candle_predictor, candles):
    plain = candles.drop(columns="exchange")
    with pytest.raises(ConfigError, match="aggregate 'trimed_mean_10' is not known"):
        candle_predictor.forecast_df(plain, 3, aggregate="trimed_mean_10")
    long = candle_predictor.forecast_df(plain, 3, num_samples=2, aggregate="mean")
    assert list(long.columns[3:6]) == ["predictions", "mean", "0.1"]


def test_columns_may_have_other_names(predictor, frame):
    usual = predictor.forecast_df(frame, 4, [0.5])
    renamed = frame.rename(columns={"item_id": "id", "timestamp": "when", "target": "sales"})
    found = predictor.forecast_df(renamed, 4, [0.5], id_column="id", timestamp_column="when", target="sales")
    assert list(found.columns) == ["id", "when", "target_name", "predictions", "0.5"]
    assert set(found["target_name"]) == {"sales"}
    np.testing.assert_array_equal(found["0.5"], usual["0.5"])


def test_a_frame_and_the_same_arrays_forecast_alike(predictor, frame, future):
    numbers = frame.drop(columns="kind").sort_values(["item_id", "timestamp"])
    ahead = future.drop(columns="kind")
    table = predictor.forecast_df(numbers, 4, [0.1, 0.5], future_df=ahead, sort_quantiles=False)
    items = [
        {
            "target": own["target"].to_numpy(),
            "past_covariates": {"temp": own["temp"].to_numpy()},
            "future_covariates": {"temp": ahead[ahead["item_id"] == name]["temp"].to_numpy()},
        }
        for name, own in numbers.groupby("item_id", sort=False)
    ]
    arrays = np.concatenate([values[0] for values in predictor.forecast(items, 4, [0.1, 0.5])])
    np.testing.assert_allclose(table[["0.1", "0.5"]], arrays, rtol=1e-5, atol=1e-5)


def test_cross_learning_reaches_the_model(predictor, frame):
    frame = frame[frame["timestamp"] < frame["timestamp"].min() + pd.Timedelta(hours=20)]  # all items end here
    alone = predictor.forecast_df(frame, 4, [0.5])
    joint = predictor.forecast_df(frame, 4, [0.5], cross_learning=True)
    assert not np.allclose(alone["0.5"], joint["0.5"])


def test_embeddings_do_not_depend_on_padding(predictor):
    rng = np.random.default_rng(0)
    short, long = rng.standard_normal(20), rng.standard_normal((2, 60))
    (alone,), ((loc, scale),) = predictor.embed([short])
    (beside, pair), _ = predictor.embed([short, long])
    assert (alone.shape, beside.shape, pair.shape) == ((1, 5, 32), (1, 10, 32), (2, 10, 32))
    torch.testing.assert_close(beside[:, -5:], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([loc.item(), scale.item()], [short.mean(), short.std()], rtol=1e-5)


def test_a_malformed_frame_is_refused_before_the_forecast(predictor):
    with pytest.raises(DataError, match="no column 'timestamp'"):
        predictor.forecast_df(pd.DataFrame({"target": [1.0]}), 4)
    with pytest.raises(DataError, match="no column 'item_id'"):
        predictor.forecast_df(pd.DataFrame({"target": [1.0, 2.0], "timestamp": [3, 3]}), 4)


def test_candles_without_a_price_say_which_column_is_empty(candle_predictor, candles, logged_notes):
    plain = candles.drop(columns="exchange")
    without = plain.assign(High=plain.High.where(plain.item_id != "7"))
    for target in (None, "Close"):  # High is forecast, or only read
        found = candle_predictor.forecast_df(without, 2, num_samples=2, target=target, repair_candles=False)
        (note,) = logged_notes()
        assert note.code == Code.NOTHING_TO_FORECAST_FROM and "'7'" in note.text and "'High'" in note.text
        assert found[found.item_id == "7"]["mean"].isna().all() and found[found.item_id != "7"]["mean"].notna().all()


def test_an_object_that_is_no_frame_of_series_gets_an_error_with_advice(candle_predictor, candles):
    plain = candles.drop(columns=["exchange", "item_id"]).head(20)
    cases = [
        ("prices.csv", {}, "df is a str; give a pandas DataFrame"),
        (plain.rename(columns={"timestamp": "Date"}), {}, "no column 'timestamp'; timestamp_column='Date' would name"),
        (plain.rename(columns={"timestamp": "when"}), {}, "name yours with timestamp_column="),
        (plain.set_index("timestamp"), {}, r"df.rename_axis\('timestamp'\).reset_index\(\)"),
        (candles.set_index(["item_id", "timestamp"]), {}, r"df.reset_index\(\) makes columns of its index"),
        (plain, {"prediction_length": 2.0}, "prediction_length is 2.0; .* a whole number"),
        (plain, {"prediction_length": "2"}, "prediction_length is '2'"),
    ]
    for df, given, message in cases:
        with pytest.raises(DataError, match=message):
            candle_predictor.forecast_df(df, **{"prediction_length": 2, **given})
