from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.waiting import DEADLINE

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.importers import import_corpus
from foretrain.data.source import TrainingSource
from foretrain.data.splits import rolling_origins, select
from foretrain.data.store import Corpus
from foretrain.data.windows import NO_TIME
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.tasks import evaluate
from foretrain.evaluation.validation import EvaluationConfig, Validation
from foretrain.forecasting.frame import read_frame
from foretrain.models import forecast_options
from foretrain.models.chronos2.decode import Chronos2Options
from foretrain.notes import Code, codes
from foretrain.timeaxis.frequency import Frequency


@pytest.fixture(scope="module")
def prices(hourly):
    return hourly(5, 260, price=True)


def test_a_copy_of_naive_has_no_skill_and_no_difference(prices, persistence):
    found = evaluate(persistence(), prices, prediction_length=6, num_windows=12)
    assert found.verdict == "no difference from naive (identical losses)"
    assert found.pooled["model"]["skill_vs_naive"] == 0.0
    assert found.pooled["model"]["pct_mae"] == found.pooled["naive"]["pct_mae"]


def test_a_biased_model_is_called_worse(prices, persistence):
    found = evaluate(persistence(25.0), prices, prediction_length=6, num_windows=12)
    assert found.verdict == "worse than naive, p<0.001 (weak test, 12 origins)"
    assert found.headline.startswith(f"model: {found.verdict}. Its mean absolute error (percent of the last")
    assert found.pooled["model"]["skill_vs_naive"] < -1


def test_the_headline_names_a_baseline_that_naive_loses_to(persistence):
    season = np.tile([0.0, 5.0, 9.0, 3.0], 60).astype(np.float32)
    values = season + np.random.default_rng(0).normal(0, 0.1, 240).astype(np.float32)
    corpus = Corpus.from_arrays("seasonal", [("a", values[None], None)], ["x"], seasonality=4)
    found = evaluate(persistence(), corpus, prediction_length=4, num_windows=12, compare=("seasonal_naive",))
    assert found.headline.endswith(
        "Against seasonal naive, the strongest baseline here: worse than seasonal naive, p<0.001 (weak test, 12 "
        "origins)."
    )


def test_windows_are_the_newest_of_every_item_and_default_to_no_overlap(prices, persistence):
    found = evaluate(persistence(), prices, prediction_length=6, num_windows=12)
    wanted = rolling_origins(prices, prediction_length=6, num_windows=12, test_steps=72)
    assert found.counts == {"items": 5, "windows": 60, "origins": 12, "observed_steps": found.counts["observed_steps"]}
    got = sorted((k, c) for k, c in zip(found.scored.item.tolist(), found.scored.cutoff.tolist(), strict=True))
    assert got == [tuple(origin) for origin in wanted]
    assert all(c.lag == 0 for c in found.comparisons)


def test_overlapping_windows_are_counted_as_such(prices, persistence):
    found = evaluate(persistence(1.0), prices, prediction_length=6, num_windows=20, stride=2)
    assert {c.lag for c in found.comparisons} == {2} and found.counts["origins"] == 20


def test_a_region_smaller_than_asked_gives_fewer_windows(prices, persistence):
    found = evaluate(persistence(), prices, prediction_length=6, num_windows=12, test_steps=18)
    assert found.counts["windows"] == 15
    assert found.verdict == "no difference from naive (identical losses)"
    few = evaluate(persistence(1.0), prices, prediction_length=6, num_windows=12, test_steps=18)
    assert few.verdict == "too few windows to tell (3 origins, 10 needed)"


def test_a_horizon_longer_than_every_item_names_the_longest(prices, persistence):
    with pytest.raises(DataError, match="the longest has 260 rows"):
        evaluate(persistence(), prices, prediction_length=500)


def test_short_items_are_left_out_and_named(hourly, persistence):
    found = evaluate(persistence(), hourly(5, 60), prediction_length=20, num_windows=1)
    assert [(left.what, left.count, left.examples) for left in found.left_out] == [("items", 2, ("item-3", "item-4"))]


def test_rows_that_a_metric_cannot_scale_are_named(persistence):
    values = np.zeros((1, 60), np.float32)
    values[0, 56:] = 1.0
    corpus = Corpus.from_arrays("c", [("flat", values, None)], ["close"], price_columns=("close",))
    found = evaluate(persistence(), corpus, prediction_length=4, num_windows=1)
    assert [(left.reason, left.count, left.examples) for left in found.left_out] == [
        ("left out of MASE and SQL: seasonal error 0 or undefined", 1, ("flat",)),
        ("left out of pct_mae: the last close is 0", 1, ("flat",)),
    ]
    assert np.isnan(found.pooled["model"]["mase"]) and np.isnan(found.pooled["model"]["pct_mae"])
    assert found.pooled["model"]["price_mae"] == 1.0


@pytest.mark.parametrize("setting", ["context_length", "seasonality", "max_items"])
def test_impossible_settings_are_refused(prices, persistence, setting):
    with pytest.raises(ConfigError, match=f"{setting} is 0"):
        evaluate(persistence(), prices, prediction_length=6, **{setting: 0})


def test_a_context_longer_than_the_models_is_cut_with_a_note(prices, persistence, logged_notes):
    model = persistence()
    found = evaluate(model, prices, prediction_length=6, context_length=model.max_context_length + 1)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.CONTEXT_CLIPPED, {"context_length": model.max_context_length})
    assert found.settings["context_length"] == model.max_context_length


def test_results_do_not_depend_on_batch_size_or_on_the_baselines_chosen(prices, persistence):
    whole = evaluate(persistence(noise=1.0), prices, prediction_length=6, num_windows=8)
    small = evaluate(
        persistence(noise=1.0), prices, prediction_length=6, num_windows=8, batch_size=2, compare=["drift"]
    )
    assert small.pooled == {who: whole.pooled[who] for who in ("model", "naive", "drift")}
    assert small.per_item["model"] == whole.per_item["model"]


def _closes(corpus):
    return select(corpus, ["close"], ["open", "high", "low"])


def test_sample_paths_belong_to_their_windows_and_not_to_the_batch(bars, candles):
    corpus = bars()
    settings = {"selection": _closes(corpus), "prediction_length": 6, "num_windows": 5}
    whole = evaluate(candles(), corpus, **settings)
    small = evaluate(candles(), corpus, batch_size=4, **settings)
    assert small.pooled == whole.pooled and small.per_symbol == whole.per_symbol
    assert evaluate(candles(), corpus, seed=1, **settings).pooled["model"] != whole.pooled["model"]


def test_sampling_settings_are_recorded(bars, candles, candle_family):
    corpus, model = bars(), candles()
    options = forecast_options(candle_family, {"temperature": 0.5})
    found = evaluate(
        model,
        corpus,
        selection=_closes(corpus),
        prediction_length=6,
        num_windows=2,
        num_samples=7,
        seed=3,
        options=options,
    )
    assert all(asked == {"num_samples": 7, "seed": 3, "options": options} for asked in model.asked)
    assert found.settings | {"num_samples": 7, "seed": 3, "options": {"temperature": 0.5}} == found.settings


def test_notes_of_a_family_are_remarks_and_in_the_json(bars, candles, persistence):
    corpus = bars()
    settings = {"selection": _closes(corpus), "prediction_length": 6, "num_windows": 2, "batch_size": 4}
    found = evaluate(candles(), corpus, **settings)
    assert found.notes == found.to_dict()["notes"] == {"repaired candles": 6}
    assert "In these forecasts: 6 repaired candles." in found.remarks
    assert Code.CANDLES_REPAIRED in codes(found.warnings)
    silent = evaluate(persistence(), corpus, **settings)
    assert silent.notes == {} and not silent.remarks


def test_cross_learning_is_refused(prices, persistence):
    with pytest.raises(ConfigError, match="cross_learning"):
        evaluate(persistence(), prices, prediction_length=6, options=Chronos2Options(cross_learning=True))


def test_crossed_quantiles_are_sorted_and_counted_unless_sorting_is_off(prices, persistence):
    class Crossed(persistence):
        def forecast(self, batch, request):
            found = super().forecast(batch, request)
            return type(found)(found.quantiles.flip(2), found.levels)

    repaired = evaluate(Crossed(), prices, prediction_length=6, num_windows=4)
    straight = evaluate(persistence(), prices, prediction_length=6, num_windows=4)
    raw = evaluate(Crossed(), prices, prediction_length=6, num_windows=4, sort_quantiles=False)
    assert repaired.pooled["model"] == straight.pooled["model"]
    assert raw.pooled["model"]["wql"] > straight.pooled["model"]["wql"]
    assert repaired.settings["crossed_share"] == 1.0
    assert [note.counts for note in repaired.warnings if note.code == Code.QUANTILES_CROSSED] == [{"share": 1.0}]
    assert Code.QUANTILES_CROSSED not in codes(straight.warnings)


def test_a_model_that_diverged_gets_no_figures_and_no_verdict(prices, persistence):
    found = evaluate(persistence(float("nan")), prices, prediction_length=6, num_windows=12)
    assert all(np.isnan(value) for value in found.pooled["model"].values())
    assert np.isnan(found.calibration["model"]).all()
    assert found.verdict == "no verdict against naive: some forecasts are not finite"
    assert found.headline == f"model: {found.verdict}."


def test_one_level_that_is_not_finite_makes_its_step_nan_and_no_other(prices, persistence):
    """Sorting would move the other levels into the gap, and the median would be scored at another level's value."""

    class Overflowing(persistence):
        def forecast(self, batch, request):
            found = super().forecast(batch, request)
            found.quantiles[:, 2, -1], found.quantiles[:, 3, 0] = float("inf"), -float("inf")
            return found

    found, plain = (
        evaluate(kind(), prices, prediction_length=6, num_windows=12) for kind in (Overflowing, persistence)
    )
    steps, expected = found.per_horizon["model"]["mase"], plain.per_horizon["model"]["mase"]
    assert np.isnan(steps[2:4]).all() and steps[:2] + steps[4:] == expected[:2] + expected[4:]


def test_a_series_that_never_moves_has_no_scale_and_is_not_called_short(persistence):
    corpus = Corpus.from_arrays("still", [("a", np.full((1, 100), 5.0, np.float32), None)], ["x"])
    found = evaluate(persistence(), corpus, prediction_length=4, num_windows=12)
    assert found.verdict == "no verdict against naive: no window has a scale to measure errors by"


def test_a_release_trained_on_the_windows_is_called_out(prices, persistence):
    release = {"corpora": [{"fingerprint": prices.fingerprint}], "data": {"validation_steps": 6, "test_steps": 6}}
    found = evaluate(persistence(), prices, prediction_length=6, num_windows=12, test_steps=72, release=release)
    assert found.warnings[0].code == Code.TRAINING_SAW_WINDOWS
    assert found.warnings[0].text.startswith("WINDOWS OVERLAP TRAINING DATA: 50 of 60 windows")


def _trained_on(corpus, **data):
    return {"corpora": [{"fingerprint": corpus.fingerprint}], "data": {"validation_steps": 6, "test_steps": 18, **data}}


def test_the_test_part_is_what_training_held_out(prices, persistence):
    """The default of 20 windows would reach far into training; only those that training never saw are scored."""
    found = evaluate(persistence(), prices, prediction_length=6, release=_trained_on(prices))
    assert found.counts["windows"] == 3 * 5 and not found.overlaps_training
    assert found.warnings[0].code == Code.FEWER_WINDOWS
    assert found.warnings[0].counts == {"windows": 3, "asked": 20}
    assert (
        evaluate(persistence(), prices, prediction_length=6, num_windows=3, release=_trained_on(prices)).warnings == []
    )
    validation = evaluate(
        persistence(), prices, prediction_length=6, num_windows=1, split="validation", release=_trained_on(prices)
    )
    assert (validation.scored.cutoff == prices.lengths[validation.scored.item] - 18 - 6).all()


@pytest.mark.parametrize("more", [{"split": "all"}, {"test_steps": 120}, {"prediction_length": 20}])
def test_windows_that_training_saw_are_scored_only_on_demand_and_under_an_alarm(prices, persistence, more):
    found = evaluate(persistence(), prices, **{"prediction_length": 6, "release": _trained_on(prices), **more})
    assert found.overlaps_training and found.alarms[0] == found.warnings[0].text
    assert found.headline.startswith("NO FAIR TEST, training saw these windows. model: ")


def test_synthetic_data_is_flagged(hourly, persistence):
    found = evaluate(persistence(), hourly(2, 90, provenance="synthetic"), prediction_length=4, num_windows=3)
    assert found.synthetic and found.warnings[0].code == Code.SYNTHETIC_DATA


def _config(**data):
    settings = {"context_length": 32, "prediction_length": 6, "validation_steps": 24, "test_steps": 12, **data}
    return DataConfig(corpora=({"path": "unused"},), **settings)


_WORKER = """
import json, runpy, sys
import torch
torch.set_num_threads(1)
helpers, test = runpy.run_path(sys.argv[1]), runpy.run_path(sys.argv[2])
from foretrain.distributed.world import World
from foretrain.timeaxis.frequency import Frequency

with World.start("cpu") as world:
    found = test["_figures"](helpers["make_hourly"], helpers["Persistence"], world)
print(json.dumps(found))
"""


def _figures(hourly, persistence, world):
    """Return the metrics of a validation and an evaluation, the rows forecast here, and the error caused by rank 1."""
    corpus, model = hourly(5, 260, price=True), persistence(0.3, noise=1.0)
    settings = {"prediction_length": 6, "num_windows": 7, "batch_size": 4, "world": world}
    run = Validation(
        EvaluationConfig(num_windows=3, batch_size=4), _config(), model=model, corpora=[corpus], world=world
    )
    found = evaluate(model, corpus, **settings)
    figures = [run(model, 0).metrics, found.pooled, found.per_item, found.verdict, sum(model.seen)]

    def fail(count):
        if world.rank == 1:
            raise ZeroDivisionError

    try:
        evaluate(model, corpus, progress=fail, **settings)
    except Exception as error:
        figures.append(type(error).__name__)
    return figures


@pytest.mark.processes
def test_two_processes_give_the_figures_of_one_and_share_the_work(hourly, persistence):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    helpers = str(Path(__file__).with_name("conftest.py"))
    base = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "WORLD_SIZE": "2"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, helpers, __file__],
            cwd=Path(__file__).parents[2],
            env={**base, "RANK": str(k), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    single = _figures(hourly, persistence, World())
    outputs = [json.loads(process.communicate(timeout=DEADLINE)[0].splitlines()[-1]) for process in pair]
    for k, wanted in enumerate(json.loads(json.dumps(single[:4]))):
        assert outputs[0][k] == wanted and outputs[1][k] == wanted
    assert 0 < outputs[0][4] < single[4] and outputs[0][4] + outputs[1][4] == single[4]
    assert [outputs[0][5], outputs[1][5]] == ["TrainingError", "ZeroDivisionError"]


def test_a_world_of_one_is_the_default(prices, persistence):
    with_world = evaluate(persistence(noise=1.0), prices, prediction_length=6, num_windows=4, world=World())
    assert with_world.pooled == evaluate(persistence(noise=1.0), prices, prediction_length=6, num_windows=4).pooled


ONE_OF_EACH_BASE = (
    "7s 15min 2h D 3D W W-WED B 2B C MS ME QS-FEB QE YS-JUL YE BMS BME SMS SME-10 CBMS CBME BQS BQE-JAN BYS BYE "
    "WOM-3FRI bh 2bh cbh RE-N-DEC-MON REQ-N-DEC-MON-1"
)


@pytest.mark.parametrize("freq", ONE_OF_EACH_BASE.split())
def test_a_frequency_that_an_import_takes_is_trained_on_evaluated_and_forecast(freq, tmp_path, persistence):
    times = pd.date_range("2001-01-01 10:00", periods=44, freq=freq)
    rows = "".join(f"{stamp},{k % 7}.5\n" for k, stamp in enumerate(times[:40]))
    (tmp_path / "x.csv").write_text("timestamp,x\n" + rows)
    import_corpus([tmp_path / "x.csv"], tmp_path / "corpus", freq=freq)
    corpus = Corpus.open(tmp_path / "corpus")
    assert (corpus.manifest.time, corpus.length(0)) == ("regular", 40)
    assert corpus.frequency == Frequency.parse(freq)

    tree = {"corpora": [{"path": str(tmp_path / "corpus")}], "context_length": 8, "prediction_length": 2}
    windows = TrainingSource(build(DataConfig, {**tree, "with_times": True}), 0).windows(0, 4)
    known = np.append(corpus.times(0), NO_TIME)  # a short history is padded
    assert np.isin(np.hstack([windows.context_times, windows.future_times]), known).all()
    found = evaluate(persistence(), corpus, prediction_length=2, num_windows=2, context_length=8)
    assert found.counts["windows"] == 2

    frame = pd.DataFrame({"item_id": "x", "timestamp": times[:40], "target": corpus.values(0)[0]})
    assert read_frame(frame, 4, freq=freq).stamps.equals(pd.DatetimeIndex(times[40:]))
    assert corpus.future_times(0, 4).tolist() == times[40:].as_unit("us").asi8.tolist()
