from __future__ import annotations

from dataclasses import replace

import numpy as np

from foretrain.data.splits import Origin, held_out
from foretrain.data.store import Corpus
from foretrain.evaluation.overlap import check_overlap
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes


def _release(corpus, **data):
    return {
        "corpora": [{"name": corpus.name, "fingerprint": corpus.fingerprint}],
        "date_range": [corpus.manifest.first_time, corpus.manifest.last_time],
        "data": {"validation_steps": 10, "test_steps": 20, **data},
    }


def test_windows_in_the_test_part_are_clean(hourly):
    corpus = hourly(2, 100)
    assert check_overlap(_release(corpus), [corpus], [[Origin(0, 80), Origin(1, 73)]]) == []


def test_windows_in_the_training_part_are_reported(hourly):
    corpus = hourly(2, 100)
    (found,) = check_overlap(_release(corpus), [corpus], [[Origin(0, 80), Origin(0, 69), Origin(1, 62)]])
    assert found.code == Code.TRAINING_SAW_WINDOWS
    assert found.counts == {"windows": 2, "scored": 3, "test_steps_needed": 31}
    assert found.text.startswith("WINDOWS OVERLAP TRAINING DATA: 2 of 3 windows of walks")


def test_windows_in_the_part_that_chose_the_weights_are_reported(hourly):
    corpus = hourly(2, 100)
    (found,) = check_overlap(_release(corpus), [corpus], [[Origin(0, 75), Origin(0, 80)]])
    assert (found.code, found.counts) == (Code.VALIDATION_SAW_WINDOWS, {"windows": 1, "scored": 2})


def test_held_out_items_were_never_trained_on(hourly):
    corpus = hourly(30, 300)
    out = np.flatnonzero(held_out(corpus, 0.3))
    inside = np.flatnonzero(~held_out(corpus, 0.3))
    release = _release(corpus, holdout_fraction=0.3)
    held, trained = (check_overlap(release, [corpus], [[Origin(int(rows[0]), 5)]]) for rows in (out, inside))
    assert Code.TRAINING_SAW_WINDOWS not in codes(held)
    assert codes(trained) == {Code.TRAINING_SAW_WINDOWS}


def test_another_corpus_of_the_same_days_is_reported_and_one_of_later_days_is_not(hourly):
    trained, other = hourly(2, 100), hourly(2, 150, seed=1)
    found = check_overlap(_release(trained), [other], [[Origin(0, 90)]])
    assert codes(found) == {Code.TRAINING_MAY_HAVE_SEEN_DAYS}
    assert check_overlap(_release(trained), [other], [[Origin(0, 120)]]) == []


def test_a_window_that_starts_right_after_training_is_clean_and_one_step_earlier_is_not(hourly):
    trained, other = hourly(1, 100), hourly(1, 150, seed=1)
    assert check_overlap(_release(trained), [other], [[Origin(0, 100)]]) == []
    assert check_overlap(_release(trained), [other], [[Origin(0, 99)]])


def test_a_release_without_records_gives_a_note(hourly):
    found = check_overlap({}, [hourly(1, 60)], [[Origin(0, 40)]])
    assert codes(found) == {Code.TRAINING_UNKNOWN}


def test_another_corpus_without_dates_cannot_be_compared(hourly):
    values = np.arange(60, dtype=np.float32)[None]
    steps = Corpus.from_arrays("steps", [("a", values, None)], ["x"])
    found = check_overlap(_release(hourly(1, 100)), [steps], [[Origin(0, 40)]])
    assert codes(found) == {Code.TRAINING_CANNOT_BE_COMPARED}


def test_items_that_end_earlier_than_training_on_others_are_reported():
    """Their test part is the training part of the others, on the same days."""
    values = np.arange(100, dtype=np.float32)[None]
    hours = np.arange(100) * 3_600_000_000
    corpus = Corpus.from_arrays("uneven", [("delisted", values, hours), ("listed", values, hours + 50 * 3_600_000_000)],
                                ["x"], time="regular", freq="h")  # fmt: skip
    (found,) = check_overlap(_release(corpus), [corpus], [[Origin(0, 80), Origin(0, 90), Origin(1, 80), Origin(1, 90)]])
    assert (found.code, found.counts) == (Code.TRAINING_SAW_DAYS, {"share": 0.5})
    assert check_overlap(_release(corpus), [corpus], [[Origin(1, 80), Origin(1, 90)]]) == []


def test_notes_of_several_corpora_are_sorted_by_severity_in_one_paragraph_of_the_report(hourly, persistence):
    seen, chosen = hourly(2, 100), hourly(2, 100, seed=1)
    release = _release(seen)
    release["corpora"] += _release(chosen)["corpora"]
    origins = [[Origin(0, 75)], [Origin(0, 69)]]
    found = check_overlap(release, [chosen, seen], origins)
    assert [note.code for note in found] == [Code.TRAINING_SAW_WINDOWS, Code.VALIDATION_SAW_WINDOWS]
    result = evaluate(persistence(), [chosen, seen], prediction_length=5, split="all", num_windows=1, release={})
    result = replace(result, warnings=[*found, *result.warnings])
    assert result.overlaps_training and result.chose_the_weights
    assert result.alarms[0].startswith(" ".join(note.text for note in found))
    assert result.to_dict()["warnings"][0] == result.alarms[0]
