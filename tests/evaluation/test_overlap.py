from __future__ import annotations

import numpy as np

from foretrain.data.splits import Origin, held_out
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


def test_a_release_without_facts_gives_no_warning(hourly):
    assert check_overlap({}, [hourly(1, 60)], [[Origin(0, 40)]]) is None
