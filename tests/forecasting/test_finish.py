"""The output settings: sorted quantiles, repaired candles, NaN for series without a value; alike in every verb."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tests.models.zoo import CANDLE, CONTEXT, HORIZON, ZOO, windows_of

from foretrain import load
from foretrain.data.frames import corpus_frame
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.evaluation.candles import plot_candles
from foretrain.evaluation.plots import plot_forecast
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.finish import finished
from foretrain.forecasting.predictor import Predictor
from foretrain.models.base import Forecaster
from foretrain.models.output import RAW, OutputSettings
from foretrain.models.request import ForecastRequest
from foretrain.notes import Code

FAMILIES = [name for name, entry in ZOO.items() if entry.forecasts]
HOUR = 3_600_000_000
ALL = OutputSettings().model_dump()
every_family = pytest.mark.parametrize("name", FAMILIES)


def request(levels=(0.9, 0.1, 0.5), **settings) -> ForecastRequest:
    return ForecastRequest(prediction_length=2, quantile_levels=levels, **settings)


def test_quantiles_are_sorted_in_the_order_of_the_levels_and_crossings_are_marked():
    crossing = np.array([[[9.0, 1.0, 5.0], [5.0, 9.0, 1.0]]], np.float32)
    found = finished({"quantiles": crossing}, np.array([False]), request(**ALL))
    assert found["quantiles"].tolist() == [[[9, 1, 5], [9, 1, 5]]]
    assert found["crossed"].tolist() == [[False, True]]
    raw = finished({"quantiles": crossing}, np.array([True]), request())
    assert raw["quantiles"].tolist() == crossing.tolist() and raw["crossed"].tolist() == [[False, True]]


def test_a_step_with_a_quantile_that_is_not_finite_is_sorted_to_no_other_level():
    broken = np.array([[[np.inf, 1.0, 5.0], [9.0, 1.0, 5.0]]], np.float32)
    found = finished({"quantiles": broken}, np.array([False]), request(sort_quantiles=True))
    np.testing.assert_array_equal(found["quantiles"], [[[np.nan] * 3, [9, 1, 5]]])


def test_every_part_of_an_empty_target_is_nan():
    parts = {"quantiles": np.ones((2, 2, 3)), "mean": np.ones((2, 2)), "samples": np.ones((2, 4, 2))}
    found = finished({k: v.astype(np.float32) for k, v in parts.items()}, np.array([True, False]), request(**ALL))
    for name in parts:
        assert np.isnan(found[name][0]).all() and (found[name][1] == 1).all() and found[name].dtype == np.float32


@every_family
def test_arrays_are_forecast_as_the_model_gives_them_unless_asked_otherwise(zoo, name):
    predictor, kind = Predictor(zoo.shared(name)), next(iter(ZOO[name].kinds))
    first, *others = windows_of(name, kind)
    empty = first.context.copy()
    empty[first.num_targets - 1] = np.nan  # of candles the amount
    windows, levels = [replace(first, context=empty), *others], (0.9, 0.1, 0.5)
    few = {"num_samples": 3} if ZOO[name].samples else {}
    raw = predictor.forecast(windows, HORIZON, levels, **few)
    found = predictor.forecast(windows, HORIZON, levels, sort_quantiles=True, blank_missing=True, **few)
    assert np.isnan(found[0][-1]).all() and np.isfinite(raw[0][-1]).all()
    for own, given in zip(found, raw, strict=True):
        kept = np.isfinite(own).all(axis=(1, 2))
        np.testing.assert_array_equal(own[kept], np.sort(given[kept], axis=-1)[..., [2, 0, 1]])


def corpus_of(name: str) -> Corpus:
    """Two uneven items of one column or of candles. The first one's oldest rows, before the context, are below 0."""
    columns, series = CANDLE if ZOO[name].candles else ("load",), []
    for k in range(2):
        rng, rows = np.random.default_rng(k), 4 * CONTEXT + HORIZON
        close, volume = np.exp(rng.standard_normal((2, rows)))
        close[:3] *= -1 if k == 0 else 1
        bars = [close, close + 0.1, close - 0.01 * np.abs(close), close, volume, volume * close]
        values = np.array(bars if len(columns) > 1 else [close], np.float32)
        series.append((f"item-{k}", values, HOUR * np.arange(rows, dtype=np.int64)))
    return Corpus.from_arrays("walks", series, list(columns), freq="h", time="regular")


def sinking(zoo, name: str) -> Forecaster:
    """A small model of a family; candles fall two standard deviations, below 0."""
    model = zoo.built(name).eval()
    if ZOO[name].candles:
        with torch.no_grad():
            model.tokenizer.head.bias -= 2
    return model


@every_family
@pytest.mark.parametrize("recorded", [{}, RAW.model_dump()], ids=["default", "raw"])
def test_forecast_and_evaluation_apply_the_settings_of_the_release(zoo, name, recorded):
    model, corpus, facts = sinking(zoo, name), corpus_of(name), {"output": recorded}
    few = {"num_samples": 8} if ZOO[name].samples else {}
    lengths = {"prediction_length": HORIZON, "context_length": CONTEXT}
    scored = evaluate(model, corpus, num_windows=1, min_context=1, release=facts, **few, **lengths)
    frame = corpus_frame(corpus)
    history = frame.groupby("item_id", sort=False).head(4 * CONTEXT)
    table = Predictor(model, facts).forecast_df(history, target=list(corpus.columns), **few, **lengths)
    levels = [str(level) for level in scored.levels]
    given = table[levels].to_numpy().reshape(-1, HORIZON, len(levels))
    np.testing.assert_array_equal(given, scored.scored.quantiles)
    assert scored.settings | {**ALL, **recorded} == scored.settings
    ordered = (np.diff(given, axis=-1) >= 0).all()
    assert ordered or recorded or scored.settings["crossed_share"] == 0
    if not ZOO[name].candles:
        return
    by_column = table.groupby(["item_id", "target_name"])["0.1"].min()
    assert (by_column["item-1"].min() >= 0) == (not recorded)  # prices and volumes
    assert by_column["item-0"][["volume", "amount"]].min() >= 0 or recorded
    assert by_column["item-0"]["low"] < 0  # its history had such prices
    assert (Code.CANDLES_REPAIRED in {note.code for note in scored.warnings}) == (not recorded)


def test_the_tables_of_one_forecast_agree_after_repair(zoo):
    corpus = corpus_of("kronos")
    how = {"prediction_length": HORIZON, "num_samples": 5, "target": list(CANDLE)}
    predictor, frame = Predictor(sinking(zoo, "kronos")), corpus_frame(corpus)
    long, candles, paths = (
        predictor.forecast_df(frame, output=output, **how) for output in ("long", "candles", "paths")
    )
    for table in (candles, paths):
        assert (table["high"] >= table[["open", "close", "low"]].max(axis=1)).all()
        assert (table["low"] <= table[["open", "close"]].min(axis=1)).all()
        assert (table[["volume", "amount"]] >= 0).all(axis=None)
    means = paths.groupby(["item_id", "timestamp"], sort=False)[list(CANDLE)].mean().to_numpy()
    np.testing.assert_allclose(candles[list(CANDLE)], means, rtol=1e-5)
    low = long[long.target_name == "low"]
    drawn = paths["low"].to_numpy().reshape(2, 5, HORIZON)
    np.testing.assert_allclose(low["predictions"], np.median(drawn, axis=1).ravel(), rtol=1e-5)
    np.testing.assert_allclose(low["mean"], candles["low"], rtol=1e-6)


def test_a_stream_repairs_by_the_whole_history_of_an_item(zoo):
    frame = corpus_frame(corpus_of("kronos"))
    newest = frame.groupby("item_id", sort=False).tail(20)
    predictor, how = Predictor(sinking(zoo, "kronos")), {"num_samples": 5}

    def lowest(stream, **more) -> list[bool]:
        paths = stream.forecast_df(HORIZON, output="paths", **how, **more)
        return [bool(part["low"].min() < 0) for _, part in paths.groupby("item_id")]

    opened = predictor.stream(newest)  # without the rows below 0
    assert lowest(opened) == [False, False] and lowest(opened, repair_candles=False) == [True, True]
    assert lowest(predictor.stream(frame, context_length=20)) == [True, False]
    later = newest.groupby("item_id").tail(1)
    later = later.assign(timestamp=later.timestamp + pd.Timedelta("1h"), low=[0.2, -0.2])
    opened.append(later)
    assert lowest(opened) == [False, True]


def test_a_stream_has_no_forecast_of_a_column_until_it_has_a_value(zoo, logged_notes):
    frame = corpus_frame(corpus_of("kronos")).assign(amount=1.0)
    start = frame.assign(volume=frame.volume.where(frame.item_id == "item-0"))
    stream = Predictor(zoo.shared("kronos")).stream(start)
    how = {"prediction_length": 2, "num_samples": 2, "output": "candles"}
    assert stream.forecast_df(**how)["volume"].isna().tolist() == [False, False, True, True]
    note = next(note for note in logged_notes() if note.code == Code.NOTHING_TO_FORECAST_FROM)
    assert note.text == "1 item(s), first 'item-1', have no value of 'volume' so far; the forecast is NaN."
    later = frame.groupby("item_id").tail(1)
    stream.append(later.assign(timestamp=later.timestamp + pd.Timedelta("1h")))
    assert stream.forecast_df(**how)["volume"].notna().all()
    assert Code.NOTHING_TO_FORECAST_FROM not in {note.code for note in logged_notes()}


def test_an_item_without_a_value_is_nan_in_every_table_and_picture(zoo, tmp_path, logged_notes):
    frame = corpus_frame(corpus_of("kronos"))
    frame.loc[frame.item_id == "item-1", list(CANDLE)] = np.nan
    predictor, how = Predictor(zoo.shared("kronos")), {"num_samples": 3, "prediction_length": HORIZON}
    tables = {output: predictor.forecast_df(frame, output=output, **how) for output in ("long", "candles", "paths")}
    for table in tables.values():
        numbers = table.select_dtypes("number").drop(columns="sample", errors="ignore")
        empty = table["item_id"] == "item-1"
        assert numbers[empty].isna().all(axis=None) and numbers[~empty].notna().all(axis=None)
    assert Code.NOTHING_TO_FORECAST_FROM in {note.code for note in logged_notes()}
    assert plot_candles(frame, tables["candles"], tables["long"], tmp_path / "candles.png") == 2
    walk = corpus_frame(corpus_of("linear"))
    walk.loc[walk.item_id == "item-1", "load"] = np.nan
    table = Predictor(zoo.shared("linear")).forecast_df(walk, HORIZON, target="load")
    assert table[table.item_id == "item-1"].iloc[:, 3:].isna().all(axis=None)
    assert plot_forecast(walk, table, tmp_path / "fan.png") == 2


def test_a_candle_without_a_volume_has_no_forecast_of_it(zoo, logged_notes):
    frame = corpus_frame(corpus_of("kronos")).assign(volume=np.nan, amount=np.nan)
    found = Predictor(zoo.shared("kronos")).forecast_df(frame, HORIZON, num_samples=3, output="candles")
    assert found[["volume", "amount"]].isna().all(axis=None) and found[["open", "low"]].notna().all(axis=None)
    text = next(note.text for note in logged_notes() if note.code == Code.NOTHING_TO_FORECAST_FROM)
    assert "'volume'" in text and text.endswith("the forecast is NaN.")


def test_settings_come_from_the_record_and_each_argument_overrides_its_own(zoo, tmp_path):
    zoo.built("chronos2").save_release(tmp_path)
    frame, how = corpus_frame(corpus_of("chronos2")), {"prediction_length": HORIZON, "target": "load"}
    frame.loc[frame.item_id == "item-1", "load"] = np.nan
    without = load(tmp_path)
    assert without.output == OutputSettings()
    (tmp_path / "release.json").write_text(json.dumps({"output": {**ALL, "sort_quantiles": False}}))
    opened = load(tmp_path)
    assert opened.output == OutputSettings(sort_quantiles=False)
    pd.testing.assert_frame_equal(
        opened.forecast_df(frame, sort_quantiles=True, **how), without.forecast_df(frame, **how)
    )
    plain, both = opened.forecast_df(frame, **how), opened.forecast_df(frame, blank_missing=False, **how)
    quantiles = plain[plain.item_id == "item-0"].iloc[:, 4:].to_numpy()
    assert (np.diff(quantiles, axis=1) < 0).any()
    assert plain[plain.item_id == "item-1"]["predictions"].isna().all() and both["predictions"].notna().all()
    (tmp_path / "release.json").write_text(json.dumps({"output": {"sorted": True}}))
    with pytest.raises(ConfigError, match=r"release.json: output: 1 problem\n  sorted: unknown key"):
        load(tmp_path).forecast_df(frame, **how)


def test_a_decile_does_not_depend_on_the_levels_asked_for_beside_it(zoo):
    predictor, frame = Predictor(zoo.shared("chronos2")), corpus_frame(corpus_of("chronos2"))
    every, few, none = (
        predictor.forecast_df(frame, HORIZON, levels, target="load")
        for levels in ([round(0.1 * k, 1) for k in range(1, 10)], [0.9, 0.2], [0.25])
    )
    assert list(few.columns[3:]) == ["predictions", "0.9", "0.2"]
    pd.testing.assert_frame_equal(few, every[few.columns])
    np.testing.assert_array_equal(every["predictions"], every["0.5"])
    raw = predictor.forecast_df(frame, HORIZON, [0.25], target="load", sort_quantiles=False)
    assert (every["predictions"] != raw["predictions"]).any() and list(none.columns) == list(raw.columns)


def test_the_reference_model_is_scored_by_the_same_settings(zoo):
    from foretrain.evaluation.reference import OTHER, ReferenceModel

    model, corpus = zoo.shared("chronos2"), corpus_of("chronos2")
    for settings in (ALL, RAW.model_dump()):
        against = ReferenceModel(OTHER, "itself", model)
        found = evaluate(
            model, corpus, prediction_length=HORIZON, num_windows=2, against=against, release={"output": settings}
        )
        assert found.pooled["model"] == found.pooled[OTHER]
