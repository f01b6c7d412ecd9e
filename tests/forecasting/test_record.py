"""Columns and lengths of training as the defaults of forecasts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.models.zoo import CONTEXT, HORIZON

from foretrain import load
from foretrain.errors import ConfigError, DataError, ModelError
from foretrain.forecasting.predictor import Predictor
from foretrain.forecasting.record import (
    beyond_training,
    beyond_window,
    default_horizon,
    recorded_data,
    trained_columns,
    trained_context,
    trained_window,
    with_names,
)
from foretrain.models import family
from foretrain.notes import Code, codes
from foretrain.timeaxis.frequency import Frequency

LENGTHS = {"context_length": CONTEXT, "prediction_length": HORIZON}
DATA = {"target": ["load"], "scored": ["load"], "past_covariates": ["wind"], "known_covariates": ["promo"], **LENGTHS}


def frame(rows: int = 40, **more) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    values = {
        name: rng.standard_normal(rows).cumsum() for name in ("load", "wind", "promo", "coal", "gas", "oil", "sun")
    }
    return pd.DataFrame({"timestamp": pd.date_range("2024-03-04", periods=rows, freq="h"), **values, **more})


def ahead(steps: int = HORIZON, **more) -> pd.DataFrame:
    stamps = pd.date_range("2024-03-05 16:00", periods=steps, freq="h")
    return pd.DataFrame({"timestamp": stamps, "promo": np.arange(float(steps)), **more})


@pytest.fixture
def trained(zoo):
    """A predictor with a record; keywords replace entries of it."""

    def make(**data) -> Predictor:
        return Predictor(zoo.shared("chronos2"), {"data": {**DATA, **data}})

    return make


def test_columns_that_training_did_not_use_are_left_out_and_named(trained, zoo, logged_notes):
    found = trained().forecast_df(frame(), HORIZON, future_df=ahead())
    (note,) = logged_notes()
    assert note.code == Code.COLUMNS_LEFT_OUT and note.counts["columns"] == 4
    assert "4 columns" in note.text and "'coal', 'gas', 'oil', ..." in note.text and "--past-covariates" in note.text
    used = frame()[["timestamp", "load", "wind", "promo"]]
    expected = Predictor(zoo.shared("chronos2")).forecast_df(
        used, HORIZON, future_df=ahead(), target="load", context_length=CONTEXT
    )
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_a_model_without_a_record_takes_every_column(zoo, logged_notes):
    predictor = Predictor(zoo.shared("chronos2"))
    every = predictor.forecast_df(frame(), 3, target="load")
    assert predictor.facts == {} and not logged_notes()
    named = predictor.forecast_df(frame(), 3, target="load", past_covariates=["wind", "sun"])
    some = predictor.forecast_df(frame()[["timestamp", "load", "wind", "sun"]], 3, target="load")
    pd.testing.assert_frame_equal(named, some, check_exact=True)
    assert not every["predictions"].equals(some["predictions"])
    alone = predictor.forecast_df(frame(), 3, target="load", past_covariates=())
    pd.testing.assert_frame_equal(alone, predictor.forecast_df(frame()[["timestamp", "load"]], 3, target="load"))


def test_known_covariates_without_their_values_are_told(trained, logged_notes):
    found = trained().forecast_df(frame()[["timestamp", "load", "wind", "promo"]], HORIZON)
    (note,) = logged_notes()
    assert note.code == Code.KNOWN_COVARIATES_NOT_GIVEN and "'promo'" in note.text and "--future" in note.text
    given = trained().forecast_df(frame()[["timestamp", "load", "wind", "promo"]], HORIZON, future_df=ahead())
    assert not logged_notes() and not found["predictions"].equals(given["predictions"])


def test_values_ahead_of_other_columns_are_used_only_if_they_are_named(trained, logged_notes):
    coming = ahead(gas=np.arange(HORIZON) * 9.0)
    plain = trained().forecast_df(frame(), HORIZON, future_df=coming)
    assert codes(logged_notes()) == {Code.COLUMNS_LEFT_OUT}
    pd.testing.assert_frame_equal(plain, trained().forecast_df(frame(), HORIZON, future_df=ahead()))
    named = trained().forecast_df(frame(), HORIZON, future_df=coming, known_covariates=["promo", "gas"])
    assert not named["predictions"].equals(plain["predictions"])
    logged_notes()
    trained().forecast_df(frame(), HORIZON, future_df=coming, past_covariates=["gas"], known_covariates=["promo"])
    assert not logged_notes()  # who names all covariates knows the others
    with pytest.raises(DataError, match=r"known_covariates: 'gas' needs its values ahead, and there is no future_df"):
        trained().forecast_df(frame(), HORIZON, known_covariates=["gas"])
    with pytest.raises(DataError, match="has no column 'steam'"):
        trained().forecast_df(frame(), HORIZON, past_covariates=["steam"])
    with pytest.raises(DataError, match="'wind' has two roles"):
        trained().forecast_df(frame(), HORIZON, target="wind", past_covariates=["wind"])


def test_names_are_found_by_the_rules_of_imports(trained, logged_notes):
    renamed = frame().rename(columns={"load": " LOAD", "wind": "Wind", "promo": "Promo"})
    found = trained().forecast_df(renamed, HORIZON, future_df=ahead().rename(columns={"promo": "PROMO"}))
    expected = trained().forecast_df(frame(), HORIZON, future_df=ahead())
    assert set(found["target_name"]) == {" LOAD"}
    np.testing.assert_array_equal(found["predictions"], expected["predictions"])
    assert with_names({"data": DATA}, {"load": "Load"}.get)["data"]["target"] == ["Load"]


def test_missing_covariates_are_told_and_a_missing_target_is_an_error(trained, logged_notes):
    trained().forecast_df(frame().drop(columns=["wind", "coal", "gas", "oil", "sun"]), HORIZON, future_df=ahead())
    (note,) = logged_notes()
    assert note.code == Code.COLUMNS_UNLIKE_TRAINING and "'wind'" in note.text
    with pytest.raises(ConfigError, match=r"has no column 'load', a target .* --target, target="):
        trained().forecast_df(frame().drop(columns="load"), HORIZON)
    other = trained().forecast_df(frame().drop(columns="load"), HORIZON, target="coal", future_df=ahead())
    assert set(other["target_name"]) == {"coal"}
    with pytest.raises(DataError, match="add its history"):
        trained().forecast_df(frame().drop(columns="promo"), HORIZON, future_df=ahead())


def test_a_target_that_is_named_may_be_a_recorded_covariate(trained):
    found = trained().forecast_df(frame(), HORIZON, target="wind", future_df=ahead())
    assert set(found["target_name"]) == {"wind"}


def test_a_model_trained_on_every_column_of_numbers_forecasts_them(trained, logged_notes):
    every = {"target": None, "scored": None, "past_covariates": [], "known_covariates": []}
    data = frame(word=["x", "y"] * 20)
    found = trained(**every).forecast_df(data, HORIZON)
    assert found["target_name"].unique().tolist() == ["load", "wind", "promo", "coal", "gas", "oil", "sun"]
    assert codes(logged_notes()) == {Code.COLUMNS_LEFT_OUT}  # the word
    with pytest.raises(DataError, match=r"future_df holds the target 'promo'.*--target.*--known-covariates"):
        trained(**every).forecast_df(data, HORIZON, future_df=ahead())
    named = trained(**every).forecast_df(
        data, HORIZON, future_df=ahead(), target="load", past_covariates=["wind"], known_covariates="promo"
    )
    pd.testing.assert_frame_equal(named, trained().forecast_df(data, HORIZON, future_df=ahead()))


def test_more_steps_than_in_training_are_told_with_both_numbers(trained, logged_notes):
    data = frame()[["timestamp", "load"]]
    alone = {"past_covariates": [], "known_covariates": []}
    trained(**alone).forecast_df(data, HORIZON)
    assert not logged_notes()
    values = data["load"].to_numpy()
    for ask in (
        lambda p: p.forecast_df(data, HORIZON + 3),
        lambda p: p.forecast([values], HORIZON + 3),
    ):
        ask(trained(**alone))
        (note,) = (note for note in logged_notes() if note.code != Code.HORIZON_UNROLLED)
        assert note.code == Code.HORIZON_BEYOND_TRAINING
        assert note.counts == {"prediction_length": HORIZON + 3, "trained": HORIZON} and "steps 7 to 9" in note.text


def test_a_horizon_that_nobody_gave_is_the_trained_one_or_the_frequency_s_usual_one():
    months = Frequency.parse("MS")
    assert default_horizon({"data": {"prediction_length": 5}}, months) == (5, [])
    for facts in ({}, {"data": {"prediction_length": 64, "any_columns": True}}):
        steps, (note,) = default_horizon(facts, months)
        assert steps == note.counts["prediction_length"] == 18 and note.code == Code.DEFAULT_HORIZON
        assert default_horizon(facts, None)[0] == 24  # steps without a calendar


def test_columns_of_a_model_that_knows_no_names_follow_from_what_is_named(trained):
    names, numbers = ["a", "b", "c", "text"], ["a", "b", "c"]

    def chosen(ahead: tuple[str, ...] = (), **given: list[str]) -> tuple:
        rule = {**DATA, "any_columns": True}
        found = trained_columns(names, numbers, family("chronos2"), None, rule, source="df", ahead=ahead, **given)
        return found.targets, found.past, found.known

    assert chosen() == (None, (), ())
    assert chosen(("b",)) == (None, (), ("b",))
    assert chosen(target=["a"]) == (("a",), ("b", "c", "text"), ())
    assert chosen(("b", "text"), target=["a"]) == (("a",), ("c",), ("b", "text"))
    assert chosen(("b",), target=["a"], past_covariates=[]) == (("a",), (), ("b",))
    assert chosen(("b",), target=["a"], known_covariates=[]) == (("a",), ("b", "c", "text"), ())
    names[2] = numbers[2] = "y"
    assert chosen(("b",)) == (("y",), ("a", "text"), ("b",))


def test_paths_and_streams_tell_it_too(zoo, logged_notes):
    rng = np.random.default_rng(0)
    close = 100 + rng.standard_normal(40).cumsum()
    bars = pd.DataFrame({"timestamp": pd.date_range("2024-03-04", periods=40, freq="h"), "close": close})
    bars = bars.assign(open=close, high=close + 1, low=close - 1, note=1.0)
    facts = {"data": {"target": ["open", "high", "low", "close"], "scored": ["close"], **LENGTHS}}
    predictor = Predictor(zoo.shared("kronos"), facts)
    stream = predictor.stream(bars)
    assert codes(logged_notes()) == {Code.COLUMNS_LEFT_OUT}
    first = stream.forecast_df(HORIZON, num_samples=2)
    np.testing.assert_array_equal(
        first["predictions"], predictor.forecast_df(bars, HORIZON, num_samples=2)["predictions"]
    )
    logged_notes()
    stream.forecast_df(HORIZON + 1, num_samples=2)
    assert codes(logged_notes()) == {Code.HORIZON_BEYOND_TRAINING}
    values = bars[["open", "high", "low", "close"]].to_numpy().T[None]
    predictor.forecast_paths(values, HORIZON + 1, num_samples=2)
    assert codes(logged_notes()) == {Code.HORIZON_BEYOND_TRAINING}


def test_a_context_is_that_of_training_unless_one_is_given(trained, zoo, logged_notes):
    alone = {"past_covariates": [], "known_covariates": []}
    data, model = frame()[["timestamp", "load"]], zoo.shared("chronos2")
    short = trained(**alone, context_length=12)
    found = short.forecast_df(data, HORIZON)
    assert not logged_notes()
    pd.testing.assert_frame_equal(found, trained(**alone).forecast_df(data.tail(12), HORIZON))
    longer = short.forecast_df(data, HORIZON, context_length=20)
    (note,) = logged_notes()
    assert note.code == Code.CONTEXT_BEYOND_TRAINING and note.counts == {"context_length": 20, "trained": 12}
    assert not longer["predictions"].equals(found["predictions"])
    short.forecast_df(data.tail(12), HORIZON, context_length=20)  # there are no more rows
    assert not logged_notes()
    whole = trained(**alone, context_length=model.max_context_length)
    whole.forecast_df(frame(80)[["timestamp", "load"]], HORIZON, context_length=70)  # the model reads no more
    assert codes(logged_notes()) == {Code.CONTEXT_CLIPPED}
    assert trained_context({}, model, None) is None and trained_window({}, model) is None
    facts = {"data": {**DATA, "context_length": 12}}
    assert trained_window(facts, model) == 12 + HORIZON and not beyond_window(facts, model, 12 + HORIZON)
    (note,) = beyond_window(facts, model, 12 + HORIZON + 1)
    assert note.counts == {"max_context": 12 + HORIZON + 1, "trained": 12 + HORIZON}


def test_an_earlier_training_for_more_steps_is_named():
    facts = {"data": {**DATA, "longest_trained": {"prediction_length": 64, "context_length": CONTEXT}}}
    (note,) = beyond_training(facts, 10)
    assert "beyond the 6 steps that the model was trained for (an earlier training of it with 64)" in note.text
    assert not beyond_training({}, 1000, 1000) and not beyond_training({"data": {}}, 1000, 1000)


def test_a_saved_model_keeps_its_record(trained, tmp_path):
    trained().save(tmp_path / "saved")
    assert load(tmp_path / "saved").facts == trained().facts
    (tmp_path / "saved" / "release.json").unlink()
    assert load(tmp_path / "saved").facts == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "load"),
        ("target", [1]),
        ("known_covariates", {"promo": 1}),
        ("categories", ["day"]),
        ("categories", {"day": "quiet"}),
        ("context_length", "48"),
        ("prediction_length", -3),
        ("longest_trained", 3),
    ],
)
def test_a_record_of_something_else_is_refused_with_its_key(key, value):
    with pytest.raises(ModelError, match=f"release.json: data.{key} is .* Restore the file"):
        recorded_data({"data": {"target": ["load"], key: value}})


@pytest.mark.parametrize(
    ("generated", "layout", "single"),
    [
        (None, None, True),
        (None, {"targets": 1, "known": 1}, False),
        ({"layouts": [{"targets": 1, "past": 0, "known": 0, "share": 1.0}]}, None, True),
        ({"layouts": [{"targets": 1, "past": 0, "known": 1, "share": 0.1}]}, None, False),
        ({"layouts": None}, {"targets": 3}, True),  # stored groups are used a row at a time beside generated series
    ],
)
def test_a_pretrained_model_that_saw_single_series_alone_is_known_by_its_recipe(generated, layout, single):
    recipe = {"config": {"data": {"generated": generated}}, "mixtures": {"mixture": {"layout": layout}}}
    facts = {"data": {"any_columns": True}, "pretraining": {"recipe": recipe}}
    assert ("single_rows" in recorded_data(facts)) == single
    assert (
        trained_columns(
            ["a", "b"], ["a", "b"], family("chronos2"), None, recorded_data(facts), target=["a"], source="df"
        ).unlearnt
        == single
    )


@pytest.mark.parametrize("about", [None, {}, {"recipe": {}}, {"recipe": "ours"}, {"recipe": {"config": {"data": []}}}])
def test_a_record_of_pretraining_of_another_shape_tells_nothing_about_rows(about):
    assert "single_rows" not in recorded_data({"data": {}, "pretraining": about})


def test_a_horizon_beyond_training_is_told_once_where_the_model_forecasts_as_much_at_once(zoo, logged_notes):
    network = zoo.shared("chronos2").config
    for trained, expected in (
        (network.native_horizon, {Code.HORIZON_BEYOND_TRAINING}),
        (network.native_horizon - 1, {Code.HORIZON_BEYOND_TRAINING, Code.HORIZON_UNROLLED}),  # two facts
    ):
        predictor = Predictor(zoo.shared("chronos2"), {"data": {"prediction_length": trained}})
        predictor.forecast([frame()["load"].to_numpy()], network.native_horizon + 1)
        notes = logged_notes()
        assert codes(notes) == expected and len(notes) == len(expected)


def test_recorded_options_are_the_defaults_and_given_ones_take_precedence(trained, zoo):
    values = [frame()["load"].to_numpy()]
    recorded = Predictor(zoo.shared("chronos2"), {**trained().facts, "options": {"symmetric": True}})
    plain, symmetric = trained().forecast(values, 3), trained().forecast(values, 3, symmetric=True)
    assert not np.array_equal(plain[0], symmetric[0])
    assert np.array_equal(recorded.forecast(values, 3)[0], symmetric[0])
    assert np.array_equal(recorded.forecast(values, 3, symmetric=False)[0], plain[0])


def test_a_record_of_options_that_is_none_is_refused(zoo):
    with pytest.raises(ModelError, match=r"release\.json: options is 'symmetric'"):
        Predictor(zoo.shared("chronos2"), {"options": "symmetric"}).forecast([np.arange(30.0)], 3)


def test_covariates_of_a_family_that_reads_none_are_told(zoo, logged_notes):
    for predictor in (Predictor(zoo.shared("linear")), Predictor(zoo.shared("linear"), {"data": DATA})):
        predictor.forecast_df(frame(), 3, target="load", past_covariates=["wind"], known_covariates=[])
        (note,) = (note for note in logged_notes() if note.code == Code.COVARIATES_UNREAD)
        assert "'wind'" in note.text
        predictor.forecast_df(frame(), 3, target="load", past_covariates=[], known_covariates=[])
        assert Code.COVARIATES_UNREAD not in codes(logged_notes())
