from __future__ import annotations

import json

import numpy as np
import pytest

from foretrain.evaluation.report import format_table, render
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes

FACTS = {"data": {"target": None, "prediction_length": 4, "context_length": 20}}
LENGTHS = {Code.HORIZON_BEYOND_TRAINING, Code.CONTEXT_BEYOND_TRAINING}


@pytest.fixture(scope="module")
def beyond(hourly, persistence):
    """A model trained for 4 steps, scored on 6."""
    return evaluate(persistence(1.0), hourly(3, 120), prediction_length=6, num_windows=3, release=FACTS)


def test_steps_beyond_the_trained_horizon_are_scored_apart(beyond):
    within, after = beyond.horizon_parts
    assert (within["steps"], within["beyond_training"]) == ([1, 4], False)
    assert (after["steps"], after["beyond_training"]) == ([5, 6], True)
    for part in (within, after):
        assert list(part["pooled"]) == ["model", "naive"]
        first, last = part["steps"]
        steps, counts = beyond.per_horizon["model"]["mae"], np.isfinite(beyond.scored.target).sum(0)
        mean = np.average(steps[first - 1 : last], weights=counts[first - 1 : last])
        assert part["pooled"]["model"]["mae"] == pytest.approx(mean)
        assert part["pooled"]["naive"]["skill_vs_naive"] == 0
    assert within["pooled"]["naive"]["mae"] < after["pooled"]["naive"]["mae"]


def test_the_report_and_the_json_show_both_parts(beyond, tmp_path):
    text, page = format_table(beyond), render(beyond, {})
    for label in ("model, steps 1 to 4 (as trained)", "naive, steps 5 to 6 (beyond training)"):
        assert label in text and label in page
    beyond.save(tmp_path)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert [part["steps"] for part in saved["horizon_parts"]] == [[1, 4], [5, 6]]
    assert any("prediction_length 6 is beyond the 4 steps" in warning for warning in saved["warnings"])


def test_lengths_beyond_training_are_warnings_of_the_result(beyond, hourly, persistence):
    (note,) = (note for note in beyond.warnings if note.code in LENGTHS)
    assert note.code == Code.HORIZON_BEYOND_TRAINING and note.counts == {"prediction_length": 6, "trained": 4}
    assert beyond.settings["context_length"] == 20
    corpus = hourly(3, 120)
    longer = evaluate(persistence(), corpus, prediction_length=4, num_windows=3, context_length=30, release=FACTS)
    assert codes(longer.warnings) & LENGTHS == {Code.CONTEXT_BEYOND_TRAINING} and longer.horizon_parts == []
    assert longer.settings["context_length"] == 30


def test_within_training_and_without_a_record_there_is_one_part(hourly, persistence):
    corpus = hourly(3, 120)
    for horizon, release in ((4, FACTS), (6, {}), (6, None)):
        found = evaluate(persistence(), corpus, prediction_length=horizon, num_windows=3, release=release)
        assert found.horizon_parts == [] and not codes(found.warnings) & LENGTHS
        assert "(as trained)" not in format_table(found)
