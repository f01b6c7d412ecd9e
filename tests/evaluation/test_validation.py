from __future__ import annotations

import numpy as np
import pytest

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.splits import select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.tasks import evaluate
from foretrain.evaluation.validation import EvaluationConfig, Validation
from foretrain.models import family
from foretrain.notes import Code


@pytest.fixture(scope="module")
def prices(hourly):
    return hourly(5, 260, price=True)


def _config(corpora=1, **data):
    settings = {"context_length": 32, "prediction_length": 6, "validation_steps": 24, "test_steps": 12, **data}
    return DataConfig(corpora=({"path": "unused"},) * corpora, **settings)


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
        "val_pct_mse",
        "val_pct_rmse",
        "val_pct_mape",
        "val_pct_r2",
        "val_direction_accuracy_share",
        "val_skill",
    }
    assert run.units.keys() == result.metrics.keys()
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


def test_errors_in_the_currency_are_there_for_a_single_item_alone(hourly, persistence):
    prices = hourly(1, 260, price=True)
    run = Validation(EvaluationConfig(num_windows=4, loss=False), _config(), model=persistence(1.0), corpora=[prices])
    found = run(persistence(1.0), 1).metrics
    assert run.units["val_price_mae"] == "the item's currency" and run.units["val_price_mse"]
    assert (
        0 < found["val_price_mae"] ** 2 <= found["val_price_mse"] and found["val_pct_mae"] ** 2 <= found["val_pct_mse"]
    )


def test_several_corpora_are_scored_together_and_each_as_if_it_were_alone(hourly, persistence):
    prices, one, counts = hourly(5, 260, price=True), hourly(1, 300, price=True), hourly(3, 280)
    model, config = persistence(1.0, noise=0.5), EvaluationConfig(num_windows=3, loss=False)
    run = Validation(config, _config(3), model=model, corpora=[prices, one, counts])
    found = run(model, 1).metrics
    assert run.names == tuple(found)
    names = [run._backtest.panel.name(k) for k in range(3)]
    assert len(set(names)) == 3 and {name.partition("/")[2] for name in found} == {"", *names}
    alone = [Validation(config, _config(), model=model, corpora=[corpus]) for corpus in (prices, one, counts)]
    for name, single in zip(names, alone, strict=True):
        own = {key.partition("/")[0]: value for key, value in found.items() if key.endswith(f"/{name}")}
        assert own == single(model, 1).metrics
        assert {key: run.units[f"{key}/{name}"] for key in own} == single.units
    assert f"val_price_mae/{names[1]}" in found and "val_price_mae" not in found
    assert "/" not in "".join(alone[0].names)
    low, high = min(found[f"val_wql/{name}"] for name in names), max(found[f"val_wql/{name}"] for name in names)
    assert low < found["val_wql"] < high


def test_a_corpus_of_which_no_item_is_drawn_has_no_metrics_of_its_own(hourly, persistence):
    corpora = [hourly(2, 260), hourly(3, 280)]
    run = Validation(EvaluationConfig(max_items=1), _config(2), model=persistence(), corpora=corpora)
    (ref, *_) = run._backtest.panel.refs
    assert {name.partition("/")[2] for name in run.names} == {"", run._backtest.panel.name(ref.corpus)}
    assert run.names == tuple(run(persistence(), 1).metrics)


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


def test_a_model_that_makes_no_forecasts_is_validated_by_its_losses(prices, reconstruction):
    model = reconstruction()
    run = Validation(EvaluationConfig(num_windows=4), _config(), model=model, corpora=[prices])
    found = run(model, 1).metrics
    assert run.names == tuple(found) == ("val_loss", "val_reconstruction_mse")
    assert found["val_reconstruction_mse"] == 1.5


def test_forecasts_can_be_left_out_if_they_are_expensive(bars, candles):
    model = candles()
    run = Validation(EvaluationConfig(forecasts=False), _config(), model=model, corpora=[bars()])
    assert set(run(model, 1).metrics) == set(run.names) == {"val_loss", "val_width"}
    assert model.asked == []


def test_the_names_are_those_of_the_metrics_of_a_call(bars, hourly, candles, persistence):
    for corpus, model in ((bars(), candles()), (hourly(4, 200), persistence())):
        run = Validation(EvaluationConfig(), _config(), model=model, corpora=[corpus])
        assert run.names == tuple(run(model, 1).metrics)
    assert not [name for name in run.names if name.startswith("val_pct")]  # the last one holds no prices


@pytest.mark.parametrize("forecasts", [False, True])
def test_nothing_left_to_compute_is_refused(prices, reconstruction, persistence, forecasts):
    model, why = (reconstruction(), "is not what reconstruction does") if forecasts else (persistence(), "is off")
    with pytest.raises(ConfigError, match=rf"evaluation\.loss: false leaves nothing to validate, as forecasting {why}"):
        Validation(EvaluationConfig(loss=False, forecasts=forecasts), _config(), model=model, corpora=[prices])


def test_forecasts_score_the_familys_columns_and_losses_use_every_target(bars, candles, candle_family):
    model, corpus = candles(), bars()
    config = EvaluationConfig(num_windows=2)
    run = Validation(config, _config(), model=model, family=candle_family, corpora=[corpus])
    found = run(model, 1).metrics
    assert {(names[:targets], targets) for names, targets, _ in model.rows} == {
        (("open", "high", "low", "close"), 4),  # losses
        (("close",), 1),  # forecasts
    }
    closes = Validation(
        config,
        _config(target=("close",), past_covariates=("open", "high", "low")),
        model=model,
        family=candle_family,
        corpora=[corpus],
    )(model, 1).metrics
    assert found["val_wql"] == closes["val_wql"] and found["val_loss"] != closes["val_loss"]


def test_the_scored_targets_can_be_named(bars, candles, candle_family):
    model, corpus = candles(), bars()
    config = EvaluationConfig(target=("low", "high"), loss=False)
    Validation(config, _config(), model=model, family=candle_family, corpora=[corpus])(model, 1)
    assert {(names, targets) for names, targets, _ in model.rows} == {(("low", "high", "open", "close"), 2)}
    everything = candles()
    Validation(EvaluationConfig(loss=False), _config(), model=everything, corpora=[corpus])(everything, 1)
    assert {targets for _, targets, _ in everything.rows} == {4}  # no family, no choice
    with pytest.raises(ConfigError, match=r"evaluation\.target: 'clos' is not among the targets.*Did you mean 'close'"):
        Validation(EvaluationConfig(target=("clos",)), _config(), model=model, corpora=[corpus])


def test_samples_and_options_reach_the_model(bars, candles, candle_family):
    model = candles()
    config = EvaluationConfig(num_samples=3, options={"temperature": 2})
    Validation(config, _config(), model=model, family=candle_family, corpora=[bars()], seed=5)(model, 1)
    asked = model.asked[0]
    assert (asked["num_samples"], asked["seed"], asked["options"].temperature) == (3, 5, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, r"evaluation\.options: candles has no.*Did you mean 'temperature'"),
        ({"temperature": "hot"}, r"evaluation\.options: candles: forecast option temperature cannot be 'hot'"),
    ],
)
def test_impossible_options_are_refused_before_training(bars, candles, candle_family, options, message):
    with pytest.raises(ConfigError, match=message):
        Validation(
            EvaluationConfig(options=options), _config(), model=candles(), family=candle_family, corpora=[bars()]
        )


def test_the_repair_of_earlier_versions_is_what_every_validation_does(bars, candles, candle_family):
    assert build(EvaluationConfig, {"options": {"repair": True, "temperature": 2}}).options == {"temperature": 2}
    off = build(EvaluationConfig, {"options": {"repair": False}})
    with pytest.raises(ConfigError, match="an output setting of every family: repair_candles"):
        Validation(off, _config(), model=candles(), family=candle_family, corpora=[bars()])


def test_cross_learning_is_refused(bars, candles):
    chronos2 = family("chronos2")
    config = EvaluationConfig(options={"cross_learning": True})
    with pytest.raises(ConfigError, match="cross_learning"):
        Validation(config, _config(), model=candles(), family=chronos2, corpora=[bars()])


@pytest.mark.parametrize("setting", [{"num_samples": 3}, {"target": ("close",)}, {"options": {"temperature": 1.0}}])
def test_forecast_settings_without_forecasts_give_a_warning(prices, reconstruction, setting, logged_notes):
    Validation(EvaluationConfig(**setting), _config(), model=reconstruction(), corpora=[prices])
    (note,) = logged_notes()
    assert note.code == Code.SETTING_UNUSED and f"evaluation.{next(iter(setting))} " in note.text


def test_notes_of_forecasts_are_shown_once(bars, candles, logged_notes):
    model = candles()
    run = Validation(EvaluationConfig(), _config(), model=model, corpora=[bars()])
    run(model, 1)
    run(model, 2)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.CANDLES_REPAIRED, {"repaired candles": 3})


@pytest.mark.parametrize(("asked", "calendars", "stamped"), [(True, 1, True), (False, 1, False), (True, 2, False)])
def test_windows_are_stamped_as_in_training(bars, candles, asked, calendars, stamped):
    """All windows have time stamps or none: one corpus without a calendar removes them from all."""
    corpora = [bars(), bars(with_times=False)][:calendars]
    model = candles()
    Validation(EvaluationConfig(), _config(calendars, with_times=asked), model=model, corpora=corpora)(model, 1)
    assert {found for _, _, found in model.rows} == {stamped}


def test_validation_does_not_depend_on_the_batch_size(bars, candles):
    model = candles()
    whole, small = (
        Validation(EvaluationConfig(num_windows=3, batch_size=size), _config(), model=model, corpora=[bars()])(model, 1)
        for size in (256, 3)
    )
    assert {name: small.metrics[name] for name in ("val_wql", "val_skill")} == {
        name: whole.metrics[name] for name in ("val_wql", "val_skill")
    }
    assert small.metrics["val_loss"] == pytest.approx(whole.metrics["val_loss"], rel=1e-6)
