from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foretrain.errors import ConfigError
from foretrain.evaluation.gate import judge
from foretrain.evaluation.reference import OTHER, ZERO_SHOT, ReferenceModel
from foretrain.evaluation.report import format_table, render, write_report
from foretrain.evaluation.result import differences
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes


@pytest.fixture(scope="module")
def climbing():
    """Prices that rise by 1 an hour, on which a forecaster with a bias beats naive."""
    from foretrain.data.store import Corpus

    rng = np.random.default_rng(1)
    series = []
    for k in range(4):
        values = 100.0 + np.arange(260) + rng.standard_normal(260) * 0.3
        series.append((f"item-{k}", values[None].astype(np.float32), (np.arange(260) * 3_600_000_000).astype(np.int64)))
    return Corpus.from_arrays("climb", series, ["close"], freq="h", time="regular", price_columns=("close",))


@pytest.fixture(scope="module")
def compared(climbing, persistence):
    """Evaluate a model with one bias and a reference model with another one."""

    def run(bias: float, reference: float, key: str = ZERO_SHOT, **settings):
        against = ReferenceModel(key, "the-base", persistence(reference), "abc123")
        settings = {"prediction_length": 4, "num_windows": 12, **settings}
        return evaluate(persistence(bias), climbing, against=against, name="mine", **settings)

    return run


def test_a_model_that_beats_both_is_promoted(compared):
    found = judge(compared(2.5, 1.0))
    assert found.promoted
    assert found.metric == "pct_mae" and found.unit == "percent of the last close"
    assert found.figures["model"] < found.figures["zero_shot"] < found.figures["naive"]
    assert found.verdicts == {
        who: f"better than {who.replace('_', ' ')}, p<0.001 (weak test, 12 origins)" for who in ("zero_shot", "naive")
    }
    assert found.headline.startswith("Promoted: its pct_mae ")


@pytest.mark.parametrize(
    ("bias", "reference", "who"),
    [
        (1.0, 2.5, "zero shot"),
        (-1.0, -2.5, "naive"),
        (1.0, 1.0, "zero shot"),
        (float("nan"), 1.0, "zero shot"),
    ],
)
def test_a_model_that_does_not_beat_both_is_not_promoted(compared, bias, reference, who):
    found = judge(compared(bias, reference))
    objections = [note.text for note in found.objections if note.code == Code.NOT_BELOW]
    assert not found.promoted and any(f"is not below {who}'s" in text for text in objections)
    assert found.reason == "; ".join(note.text for note in found.objections)
    assert found.headline.startswith("NOT PROMOTED: ")


def test_an_insignificant_difference_promotes_only_without_require_significance(compared):
    result = compared(2.5, 1.0, num_windows=5)
    found = judge(result)
    assert not found.promoted and codes(found.objections) == {Code.NOT_SIGNIFICANT}
    assert {note.counts["origins"] for note in found.objections} == {5}
    assert "but too few windows to tell (5 origins, 10 needed)" in found.reason
    assert judge(result, require_significance=False).promoted


def test_windows_that_training_saw_prevent_promotion(compared, climbing):
    release = {"corpora": [{"fingerprint": climbing.fingerprint}], "data": {"validation_steps": 4, "test_steps": 4}}
    found = judge(compared(2.5, 1.0, test_steps=48, release=release))
    assert not found.promoted and found.objections[0].code == Code.TRAINING_SAW_WINDOWS
    assert found.warnings[0].startswith("WINDOWS OVERLAP")


def test_windows_that_chose_the_weights_prevent_promotion(compared, climbing):
    release = {"corpora": [{"fingerprint": climbing.fingerprint}], "data": {"validation_steps": 48, "test_steps": 4}}
    found = judge(compared(2.5, 1.0, split="validation", release=release))
    assert not found.promoted and found.objections[0].code == Code.VALIDATION_SAW_WINDOWS


def test_the_record_says_what_was_scored(compared, climbing):
    found = judge(compared(2.5, 1.0, command="foretrain evaluate mine")).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["against"] == {"key": "zero_shot", "name": "the-base", "hash": "abc123"}
    assert (found["windows"], found["origins"], found["command"]) == (48, 12, "foretrain evaluate mine")
    assert found["data"] == [{"name": "climb", "fingerprint": climbing.fingerprint, "provenance": "real"}]
    assert found["date_range"] == ["1970-01-09T20:00:00", "1970-01-11T19:00:00"]


def test_the_record_of_a_diverged_reference_is_valid_json(compared):
    found = judge(compared(2.5, float("nan"))).to_dict()
    assert found["figures"]["zero_shot"] is None and not found["promoted"]
    json.dumps(found, allow_nan=False)


def test_items_without_prices_are_judged_by_mase(hourly, persistence):
    result = evaluate(
        persistence(9.0),
        hourly(4, 200),
        prediction_length=4,
        num_windows=12,
        against=ReferenceModel(OTHER, "another", persistence(12.0)),
    )
    found = judge(result)
    assert found.metric == "mase" and found.figures["model"] == result.pooled["model"]["mase"]
    assert not found.promoted and Code.NOT_BELOW in codes(found.objections) and "zero_shot" not in found.figures


def test_the_metrics_of_the_reference_equal_those_of_evaluating_it_alone(compared, climbing, persistence):
    alone = evaluate(persistence(1.0), climbing, prediction_length=4, num_windows=12)
    beside = compared(2.5, 1.0)
    assert beside.pooled["zero_shot"] == alone.pooled["model"]
    assert beside.pooled["model"] == compared(2.5, 9.0).pooled["model"]
    assert list(beside.pooled)[:3] == ["model", "zero_shot", "naive"]


def test_differences_are_model_minus_reference(compared):
    result = compared(2.5, 1.0)
    table = differences(result)
    assert set(table) == set(result.pooled["model"])
    row = table["pct_mae"]
    assert row["difference"] == row["model"] - row["zero_shot"] < 0 and row["naive"] > row["zero_shot"]


def test_a_reference_with_a_shorter_context_sees_less_and_the_report_says_so(compared, climbing, persistence):
    class ShortContext(persistence):
        max_context_length = 8

    against = ReferenceModel(OTHER, "small", ShortContext(1.0))
    found = evaluate(persistence(2.5), climbing, prediction_length=4, num_windows=12, against=against)
    (note,) = (note for note in found.warnings if note.code == Code.SHORTER_CONTEXT)
    assert note.counts == {"context_length": 8, "asked": 64} and note.text in found.remarks
    assert Code.SHORTER_CONTEXT not in codes(compared(2.5, 1.0).warnings)


def test_a_reference_that_learns_across_series_is_refused(climbing, persistence):
    from foretrain.models import family, forecast_options

    options = forecast_options(family("chronos2"), {"cross_learning": True})
    with pytest.raises(ConfigError, match="cross_learning"):
        evaluate(
            persistence(),
            climbing,
            prediction_length=4,
            against=ReferenceModel(OTHER, "x", persistence(), options=options),
        )


def test_reports_show_outcome_difference_and_reference(compared, tmp_path):
    result = compared(1.0, 2.5)
    result = replace(result, promotion=judge(result))
    text = format_table(result)
    assert "NOT PROMOTED: its pct_mae" in text.splitlines()[1]
    assert [line.split("  ")[0] for line in text.splitlines()[6:8]] == ["mine", "zero shot"]
    assert any(line.startswith("difference of the first two") for line in text.splitlines())
    page = render(result)
    assert "NOT PROMOTED" in page and "Against the weights it started from" in page and "the-base (hash abc123)" in page
    write_report(result, tmp_path / "report")
    saved = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert saved["promotion"]["promoted"] is False
    assert saved["comparison"]["metrics"]["pct_mae"]["unit"] == "percent of the last close"
    assert "zero_shot" in (tmp_path / "report" / "metrics.csv").read_text()


def test_another_model_is_shown_by_its_name(compared):
    result = compared(1.0, 2.5, OTHER)
    assert "the-base" in format_table(result) and "Against the other model" in render(result)


def test_an_evaluation_without_a_reference_has_no_comparison(climbing, persistence):
    result = evaluate(persistence(1.0), climbing, prediction_length=4, num_windows=12)
    assert not {"comparison", "promotion", "reference"} & set(result.to_dict())
    assert "difference" not in format_table(result) and "romoted" not in render(result)
