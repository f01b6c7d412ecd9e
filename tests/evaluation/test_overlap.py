from __future__ import annotations

import numpy as np

from foretrain.data.splits import Origin, held_out
from foretrain.data.store import Corpus
from foretrain.evaluation.overlap import check_overlap


def _release(corpus, **data):
    return {
        "corpora": [{"name": corpus.name, "fingerprint": corpus.fingerprint}],
        "date_range": [corpus.manifest.first_time, corpus.manifest.last_time],
        "data": {"validation_steps": 10, "test_steps": 20, **data},
    }


def test_windows_in_the_test_part_are_clean(hourly):
    corpus = hourly(2, 100)
    assert check_overlap(_release(corpus), [corpus], [[Origin(0, 80), Origin(1, 73)]]) is None


def test_windows_in_the_training_part_are_called_out(hourly):
    corpus = hourly(2, 100)
    found = check_overlap(_release(corpus), [corpus], [[Origin(0, 80), Origin(0, 69), Origin(1, 62)]])
    assert found is not None
    assert found.startswith("WINDOWS OVERLAP TRAINING DATA: 2 of 3 windows of walks")
    assert "data.test_steps of at least 31" in found


def test_windows_in_the_part_that_chose_the_weights_are_mentioned(hourly):
    corpus = hourly(2, 100)
    found = check_overlap(_release(corpus), [corpus], [[Origin(0, 75), Origin(0, 80)]])
    assert found is not None and found.startswith("1 of 2 windows of walks lie in the validation part")


def test_held_out_items_were_never_trained_on(hourly):
    corpus = hourly(30, 300)
    out = np.flatnonzero(held_out(corpus, 0.3))
    kept = np.flatnonzero(~held_out(corpus, 0.3))
    release = _release(corpus, holdout_fraction=0.3)
    held, trained = (check_overlap(release, [corpus], [[Origin(int(rows[0]), 5)]]) for rows in (out, kept))
    assert "TRAINING" not in (held or "")
    assert trained is not None and "TRAINING" in trained


def test_another_corpus_of_the_same_days_is_mentioned_and_one_of_later_days_is_not(hourly):
    trained, other = hourly(2, 100), hourly(2, 150, seed=1)
    found = check_overlap(_release(trained), [other], [[Origin(0, 90)]])
    assert found is not None and "It may have seen the same days" in found
    assert check_overlap(_release(trained), [other], [[Origin(0, 120)]]) is None


def test_a_window_that_begins_right_after_training_is_clean_and_one_step_earlier_is_not(hourly):
    trained, other = hourly(1, 100), hourly(1, 150, seed=1)
    assert check_overlap(_release(trained), [other], [[Origin(0, 100)]]) is None
    assert check_overlap(_release(trained), [other], [[Origin(0, 99)]]) is not None


def test_a_release_without_facts_says_that_nothing_is_known(hourly):
    found = check_overlap({}, [hourly(1, 60)], [[Origin(0, 40)]])
    assert found == "It is not recorded what this model was trained on, so it may have seen these series before."


def test_another_corpus_without_dates_cannot_be_told_apart(hourly):
    values = np.arange(60, dtype=np.float32)[None]
    steps = Corpus.from_arrays("steps", [("a", values, None)], ["x"])
    found = check_overlap(_release(hourly(1, 100)), [steps], [[Origin(0, 40)]])
    assert found is not None and "cannot be told whether training saw the same values" in found


def test_items_that_end_earlier_than_training_on_others_are_mentioned():
    """Their test part is the training part of the others, on the same days."""
    values = np.arange(100, dtype=np.float32)[None]
    hours = np.arange(100) * 3_600_000_000
    corpus = Corpus.from_arrays("uneven", [("delisted", values, hours), ("listed", values, hours + 50 * 3_600_000_000)],
                                ["x"], time="regular", freq="h")  # fmt: skip
    found = check_overlap(_release(corpus), [corpus], [[Origin(0, 80), Origin(0, 90), Origin(1, 80), Origin(1, 90)]])
    assert found is not None and found.startswith("About 50% of the windows of uneven begin on days that training saw")
    assert check_overlap(_release(corpus), [corpus], [[Origin(1, 80), Origin(1, 90)]]) is None
