"""What was evaluated is what is delivered: for every family, from files, corpora and frames, in any order of columns.

A forecast of the history up to an origin has the quantiles of the evaluation's window at that origin, bit for bit, if
both compute batches of the same windows in as many threads (here the newest window of each item, in one thread).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain
from tests.models.zoo import CONTEXT, HORIZON, ZOO

from foretrain import load
from foretrain.cli.commands import evaluate_model
from foretrain.evaluation.result import EvaluationResult
from foretrain.notes import Code, codes

FAMILIES = [name for name, entry in ZOO.items() if entry.forecasts]
LENGTHS = {"context_length": CONTEXT, "prediction_length": HORIZON, "validation_steps": 6, "test_steps": 6}
WEATHER = {"target": ["load"], "scored": ["load"], "past_covariates": ["wind"], "known_covariates": ["promo", "day"]}
CANDLE = {"target": ["open", "high", "low", "close", "volume"], "scored": ["close"]}


def items() -> list[tuple[str, pd.DatetimeIndex, np.random.Generator]]:
    """Three items; the last one is shorter than a context."""
    lengths = {"north": 70, "south": 64, "west": CONTEXT + HORIZON - 5}
    return [
        (name, pd.date_range("2024-03-04", periods=rows, freq="h"), np.random.default_rng(rows))
        for name, rows in lengths.items()
    ]


def weather() -> pd.DataFrame:
    """Days of "storm" come in the north's newest rows, which its history lacks, and in the south's history."""
    parts = []
    for item, stamps, rng in items():
        rows = len(stamps)
        columns = {
            "load": rng.standard_normal(rows).cumsum().round(3),
            "wind": rng.standard_normal(rows).round(3),
            "promo": rng.integers(0, 4, rows),
            "day": rng.choice(["quiet", "fair", "market"], rows),
            "price of coal": rng.standard_normal(rows).round(3),
        }
        columns["day"][{"north": [-2, -1], "south": [9, -1], "west": []}[item]] = "storm"
        parts.append(pd.DataFrame({"item_id": item, "timestamp": stamps, **columns}))
    return pd.concat(parts, ignore_index=True)


def candles() -> pd.DataFrame:
    parts = []
    for item, stamps, rng in items():
        close = 100 + rng.standard_normal(len(stamps)).cumsum()
        opened, edge = close + rng.normal(0, 0.2, len(stamps)), rng.uniform(0.1, 0.5, len(stamps))
        columns = {"open": opened, "high": np.maximum(opened, close) + edge, "low": np.minimum(opened, close) - edge}
        columns |= {"close": close, "volume": rng.uniform(100, 900, len(stamps)), "spread": edge}
        rounded = {name: values.round(3) for name, values in columns.items()}
        parts.append(pd.DataFrame({"item_id": item, "timestamp": stamps, **rounded}))
    return pd.concat(parts, ignore_index=True)


def released(zoo, folder: Path, name: str, **data) -> Path:
    """A small release with a record of its training."""
    place = folder / "release"
    place.mkdir()
    zoo.shared(name).save_release(place)
    recorded = (CANDLE if ZOO[name].candles else WEATHER) | LENGTHS | data
    (place / "release.json").write_text(json.dumps({"data": recorded, "corpora": []}))
    return place


def mixed(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns in another order."""
    return frame[["timestamp", "item_id", *sorted(set(frame.columns) - {"timestamp", "item_id"}, reverse=True)]]


def cut(frame: pd.DataFrame, steps: int = HORIZON) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows up to the newest origin, and the `steps` after it."""
    newest = frame.groupby("item_id").cumcount(ascending=False) < steps
    return frame[~newest], frame[newest]


def delivered(table: pd.DataFrame, result: EvaluationResult, targets: list[str]) -> np.ndarray:
    """The quantiles (N, H, Q) of a forecast in the order of the evaluation's rows: by item and target."""
    chosen = table[table["target_name"].isin(targets)]
    assert chosen["target_name"].unique().tolist() == targets
    values = chosen[[str(level) for level in result.levels]].to_numpy(np.float32)
    return values.reshape(-1, result.settings["prediction_length"], len(result.levels))


CASES = {
    "as trained": {},
    "several targets": {
        "target": ["wind", "load"],
        "scored": None,
        "past_covariates": ["price of coal"],
        "categories": {"day": ["market", "storm", "quiet", "fair"]},  # by their codes in training
    },
    "part of the targets": {"target": ["wind", "load"], "past_covariates": []},
    "all columns of numbers": {"target": None, "scored": None, "past_covariates": [], "known_covariates": []},
    "no volume": {"target": ["open", "high", "low", "close"]},
}


def cases() -> list[tuple[str, str]]:
    prices = ("as trained", "no volume")
    return [
        (name, case)
        for name in FAMILIES
        for case in CASES
        if (case in prices if ZOO[name].candles else case != prices[1])
    ]


@pytest.mark.parametrize(("name", "case"), cases())
def test_a_forecast_is_the_one_that_is_evaluated(zoo, tmp_path, name, case):
    model, frame = released(zoo, tmp_path, name, **CASES[case]), candles() if ZOO[name].candles else weather()
    data = load(model).facts["data"]
    draws = {"num_samples": 3} if ZOO[name].samples else {}
    flags = [word for key, value in draws.items() for word in (f"--{key.replace('_', '-')}", value)]
    frame.to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1, **draws)
    assert (result.settings["context_length"], result.settings["prediction_length"]) == (CONTEXT, HORIZON)
    assert result.scored is not None
    expected = np.asarray(result.scored.quantiles, np.float32)
    targets = data["scored"] or data["target"] or ["load", "wind", "promo", "price of coal"]
    history, coming = cut(frame)
    ahead = coming[["timestamp", "item_id", *data.get("known_covariates", ())[::-1]]]
    if case != "all columns of numbers":  # whose order is that of the data
        history = mixed(history)
    history.to_csv(tmp_path / "history.csv", index=False)
    ahead.to_csv(tmp_path / "future.csv", index=False)
    known = len(ahead.columns) > 2
    common = ("--prediction-length", HORIZON, "--sort-quantiles", *flags, "--threads", 1)
    future = ("--future", tmp_path / "future.csv") if known else ()
    foretrain("data", "import", tmp_path / "history.csv", "--out", tmp_path / "corpus")
    for source in ("history.csv", "corpus"):
        out = tmp_path / f"{source}.parquet"
        foretrain("forecast", model, tmp_path / source, *common, *future, "--out", out)
        np.testing.assert_array_equal(delivered(pd.read_parquet(out), result, targets), expected, err_msg=source)
    table = load(model).forecast_df(history, HORIZON, future_df=ahead if known else None, sort_quantiles=True, **draws)
    np.testing.assert_array_equal(delivered(table, result, targets), expected)


def test_a_forecast_with_an_option_of_the_family_is_the_one_evaluated_with_it(zoo, tmp_path):
    model, frame = released(zoo, tmp_path, "chronos2", known_covariates=[]), weather()
    frame.to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1, options={"symmetric": True})
    assert result.settings["options"]["symmetric"] is True and result.scored is not None
    expected = np.asarray(result.scored.quantiles, np.float32)
    history = cut(frame)[0]
    history.to_csv(tmp_path / "history.csv", index=False)
    foretrain("forecast", model, tmp_path / "history.csv", "--prediction-length", HORIZON, "--option", "symmetric=true",
              "--sort-quantiles", "--threads", 1, "--out", tmp_path / "out.parquet")  # fmt: skip
    np.testing.assert_array_equal(delivered(pd.read_parquet(tmp_path / "out.parquet"), result, ["load"]), expected)
    for symmetric, same in ((True, True), (False, False)):
        table = load(model).forecast_df(history, HORIZON, sort_quantiles=True, symmetric=symmetric)
        assert np.array_equal(delivered(table, result, ["load"]), expected) == same


def test_recorded_options_hold_for_both_verbs_unless_others_are_given(zoo, tmp_path):
    model, frame = released(zoo, tmp_path, "chronos2", known_covariates=[]), weather()
    facts = json.loads((model / "release.json").read_text())
    (model / "release.json").write_text(json.dumps({**facts, "options": {"symmetric": True}}))
    frame.to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1)
    other = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1, options={"symmetric": False})
    assert [found.settings["options"]["symmetric"] for found in (result, other)] == [True, False]
    assert result.scored is not None and other.scored is not None
    for options, scored in (({}, result.scored), ({"symmetric": False}, other.scored)):
        table = load(model).forecast_df(cut(frame)[0], HORIZON, **options)
        np.testing.assert_array_equal(delivered(table, result, ["load"]), np.asarray(scored.quantiles, np.float32))
    assert not np.array_equal(result.scored.quantiles, other.scored.quantiles)


def test_other_levels_are_sorted_alike_by_both_verbs(zoo, tmp_path):
    """The quantiles of random weights cross; what is sorted along with a level changes its value."""
    model, frame, levels = released(zoo, tmp_path, "chronos2", known_covariates=[]), weather(), (0.05, 0.35, 0.5)
    frame.to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1, quantile_levels=levels)
    assert result.scored is not None and result.settings["crossed_share"] > 0
    table = load(model).forecast_df(cut(frame)[0], HORIZON, quantile_levels=result.levels)
    np.testing.assert_array_equal(delivered(table, result, ["load"]), np.asarray(result.scored.quantiles, np.float32))


@pytest.mark.parametrize(
    "names",
    [
        {"open": "Open", "high": "High", "low": "Low", "close": "Close/Last", "volume": "Volume"},
        {"open": "<OPEN>", "high": "<HIGH>", "low": "<LOW>", "close": "<CLOSE>", "volume": "<VOL>"},
        {"close": "Price", "volume": "Vol."},
    ],
    ids=["close/last", "brackets", "price"],
)
def test_bars_under_a_vendor_s_names_are_candles_in_a_frame_as_in_a_file(zoo, tmp_path, names):
    frame = cut(candles())[0].drop(columns="spread").rename(columns=names)
    zoo.shared("kronos").save_release(tmp_path)
    found = load(tmp_path).forecast_df(frame, 2, num_samples=2)
    assert found["target_name"].unique().tolist() == CANDLE["target"]


def test_a_covariate_that_the_data_lack_is_told_by_both_verbs(zoo, tmp_path, logged_notes):
    model, frame = released(zoo, tmp_path, "chronos2", known_covariates=[]), weather()
    frame[["item_id", "timestamp", "load"]].to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1)
    (note,) = (note for note in result.warnings if note.code == Code.COLUMNS_UNLIKE_TRAINING)
    assert "'wind'" in note.text and result.data[0]["past_covariates"] == []
    logged_notes()
    table = load(model).forecast_df(cut(frame)[0][["item_id", "timestamp", "load"]], HORIZON, sort_quantiles=True)
    assert codes(logged_notes()) == {Code.COLUMNS_UNLIKE_TRAINING}
    assert result.scored is not None
    np.testing.assert_array_equal(delivered(table, result, ["load"]), np.asarray(result.scored.quantiles, np.float32))


def test_a_target_that_the_data_lack_is_an_error_of_both_verbs(zoo, tmp_path, capsys):
    model = released(zoo, tmp_path, "chronos2")
    weather().rename(columns={"load": "demand"}).to_csv(tmp_path / "all.csv", index=False)
    foretrain("evaluate", model, "--data", tmp_path / "all.csv", code=2)
    foretrain("forecast", model, tmp_path / "all.csv", "--prediction-length", 6, "--out", tmp_path / "o.csv", code=2)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 2 and all("no column 'load'" in line and "--target" in line for line in errors)
    foretrain("forecast", model, tmp_path / "all.csv", "--prediction-length", 6, "--target", "demand",
              "--known-covariates", "", "--out", tmp_path / "o.csv")  # fmt: skip
    assert set(pd.read_csv(tmp_path / "o.csv")["target_name"]) == {"demand"}


def test_names_that_the_file_spells_otherwise_are_found_by_both_verbs(zoo, tmp_path):
    model, frame = released(zoo, tmp_path, "kronos"), candles()
    renamed = frame.rename(columns={"close": "Close/Last", "volume": "Vol."})
    renamed.to_csv(tmp_path / "all.csv", index=False)
    cut(renamed)[0].to_csv(tmp_path / "history.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, num_samples=2, threads=1)
    out = tmp_path / "f.parquet"
    foretrain("forecast", model, tmp_path / "history.csv", "--prediction-length", HORIZON, "--num-samples", 2,
              "--sort-quantiles", "--out", out, "--threads", 1)  # fmt: skip
    assert result.scored is not None and result.data[0]["target"] == ["close"]
    found = delivered(pd.read_parquet(out), result, ["close"])
    np.testing.assert_array_equal(found, np.asarray(result.scored.quantiles, np.float32))


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        (["market", "quiet", "fair", "storm"], 0),
        (["market", "quiet", "fair"], 1),
        (["sun", "rain"], 1),
        (None, 1),  # the column had numbers
    ],
)
def test_categories_that_training_lacked_are_told_by_both_verbs(zoo, tmp_path, logged_notes, trained, told):
    categories = {"promo": ["0", "1"]} | ({} if trained is None else {"day": trained})
    columns = {"target": ["load", "wind"], "scored": None, "past_covariates": [], "known_covariates": ["day"]}
    model, frame = released(zoo, tmp_path, "toto2", **columns, categories=categories), weather()
    frame.to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1)
    scored = [note for note in result.warnings if note.code == Code.CATEGORIES_UNLIKE_TRAINING]
    logged_notes()
    load(model).forecast_df(frame, HORIZON)
    found = [note for note in logged_notes() if note.code == Code.CATEGORIES_UNLIKE_TRAINING]
    assert len(scored) == len(found) == told
    assert [note.counts for note in scored] == [note.counts for note in found]


def test_numbers_where_training_had_categories_are_told_by_both_verbs(zoo, tmp_path, logged_notes):
    columns = {"target": ["load", "wind"], "scored": None, "past_covariates": [], "known_covariates": ["promo"]}
    model, frame = released(zoo, tmp_path, "toto2", **columns, categories={"promo": ["a", "b"]}), weather()
    frame.to_csv(tmp_path / "all.csv", index=False)
    result = evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1)
    assert Code.CATEGORIES_UNLIKE_TRAINING in codes(result.warnings)
    logged_notes()
    load(model).forecast_df(frame, HORIZON)
    assert Code.CATEGORIES_UNLIKE_TRAINING in codes(logged_notes())


def test_without_a_record_the_columns_that_a_forecast_reads_besides_are_told(zoo, tmp_path):
    model = tmp_path / "release"
    model.mkdir()
    zoo.shared("chronos2").save_release(model)
    frame = weather()
    frame.to_csv(tmp_path / "all.csv", index=False)

    def scored(**columns) -> EvaluationResult:
        lengths = {"prediction_length": HORIZON, "context_length": CONTEXT}
        return evaluate_model(str(model), tmp_path / "all.csv", num_windows=1, threads=1, **lengths, **columns)

    (note,) = (note for note in scored(target=["load"]).warnings if note.code == Code.COLUMNS_LEFT_OUT)
    assert note.counts["columns"] == 4 and "--past-covariates" in note.text
    result = scored(target=["load"], past_covariates=["wind", "promo", "day", "price of coal"])
    assert Code.COLUMNS_LEFT_OUT not in codes(result.warnings) and result.scored is not None
    table = load(model).forecast_df(cut(frame)[0], HORIZON, target="load", context_length=CONTEXT)
    expected = np.asarray(result.scored.quantiles, np.float32)
    np.testing.assert_allclose(delivered(table, result, ["load"]), expected, rtol=1e-5, atol=1e-5)


def test_notes_on_columns_name_the_file(zoo, tmp_path, capsys):
    model = released(zoo, tmp_path, "chronos2", known_covariates=[])
    weather().to_csv(tmp_path / "all.csv", index=False)
    foretrain("forecast", model, tmp_path / "all.csv", "--prediction-length", 6, "--out", tmp_path / "o.csv")
    assert f"warning: {tmp_path / 'all.csv'} has 3 columns that the model was not trained" in capsys.readouterr().err
