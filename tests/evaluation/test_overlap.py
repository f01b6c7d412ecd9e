from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretrain.data.manifest import Earlier
from foretrain.data.splits import Origin, held_out
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.gate import judge
from foretrain.evaluation.overlap import check_overlap
from foretrain.evaluation.reference import OTHER, ReferenceModel
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.ancestry import Ancestry, Seen
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
    assert result.overlaps_training and Code.VALIDATION_SAW_WINDOWS in codes(result.warnings)
    assert result.alarms[0].startswith(" ".join(note.text for note in found))
    assert result.to_dict()["warnings"][0] == result.alarms[0]


# -- ancestors -------------------------------------------------------------------------------------------------------


def _child(corpus, *seen, unknown=(), **data):
    """A release whose ancestors saw what is given, with the corpus' fingerprint unless they have another one."""
    rules = tuple(replace(rule, fingerprint=rule.fingerprint or corpus.fingerprint) for rule in seen)
    parents = {"model": {"hash": "0", "asked": "runs/base"}}
    return _release(corpus, **data) | {"parents": parents, "ancestry": Ancestry(rules, unknown).to_json()}


def test_windows_that_an_ancestor_s_training_saw_are_reported_with_its_name(hourly):
    corpus = hourly(2, 100)
    release = _child(corpus, Seen("", by="model", validation_steps=10, test_steps=5))
    (found,) = check_overlap(release, [corpus], [[Origin(0, 80), Origin(0, 90), Origin(1, 80)]])
    assert found.code == Code.TRAINING_SAW_WINDOWS
    assert found.counts == {"windows": 1, "scored": 3, "test_steps_needed": 20, "generation": 1}
    assert "data that its parent model (runs/base) was trained on" in found.text
    (chosen,) = check_overlap(release, [corpus], [[Origin(0, 90), Origin(0, 95)]])
    assert (chosen.code, chosen.counts) == (Code.VALIDATION_SAW_WINDOWS, {"windows": 1, "scored": 2, "generation": 1})
    assert "the validation part that chose the weights of its parent model (runs/base)" in chosen.text
    assert check_overlap(release, [corpus], [[Origin(0, 95), Origin(1, 88)]]) == []


def test_what_one_training_held_out_another_may_have_seen_step_by_step_and_item_by_item(hourly):
    corpus = hourly(30, 300)
    out, inside = (np.flatnonzero(held_out(corpus, 0.3) == flag) for flag in (True, False))
    release = _child(
        corpus,
        Seen("", by="model", test_steps=200, holdout_fraction=0.0),
        Seen("", by="model.model", test_steps=5, holdout_fraction=0.3),
        test_steps=300,
    )

    def windows_seen(series):
        origins = [Origin(int(series), corpus.length(int(series)) - back) for back in (3, 100, 203)]
        notes = check_overlap(release, [corpus], [origins])
        return [note.counts["windows"] for note in notes if note.code == Code.TRAINING_SAW_WINDOWS]

    assert windows_seen(out[0]) == [1] and windows_seen(inside[0]) == [2]


def test_an_older_generation_is_named_by_its_way(hourly):
    corpus = hourly(1, 100)
    release = _child(corpus, Seen("", by="model.tokenizer"), Seen("", by="model", test_steps=30))
    (found,) = check_overlap(release, [corpus], [[Origin(0, 90)]])
    assert "that its parent model's tokenizer was trained on" in found.text and found.counts["generation"] == 2


def test_a_sample_of_series_counts_as_all_of_them_and_the_text_says_so(hourly):
    corpus = hourly(2, 100)
    (found,) = check_overlap(_child(corpus, Seen("", by="model", max_train_series=1)), [corpus], [[Origin(0, 90)]])
    assert found.code == Code.TRAINING_SAW_WINDOWS
    assert "(Training drew 1 series, and these may not be among them.)" in found.text


def test_the_dates_of_an_ancestor_s_other_corpora_count(hourly):
    corpus, other = hourly(2, 100), hourly(2, 150, seed=1)
    dates = (other.manifest.first_time, other.manifest.last_time)
    release = _child(corpus, Seen("x", by="model", date_range=dates))
    (found,) = check_overlap(release, [corpus], [[Origin(0, 85)]])
    assert found.code == Code.TRAINING_MAY_HAVE_SEEN_DAYS
    assert found.text.startswith("Its parent model (runs/base) was trained on other data up to 1970-01-07T05:00:00")
    assert check_overlap(release, [hourly(2, 200, seed=2)], [[Origin(0, 151)]]) == []
    generated = _child(corpus, Seen("x", by="model", date_range=dates, provenance="synthetic"))
    assert check_overlap(generated, [corpus], [[Origin(0, 85)]]) == []


def test_an_ancestor_s_corpus_without_dates_cannot_be_compared(hourly):
    corpus = hourly(1, 100)
    found = check_overlap(_child(corpus, Seen("x", by="model")), [corpus], [[Origin(0, 85)]])
    assert codes(found) == {Code.TRAINING_CANNOT_BE_COMPARED}


def test_an_ancestor_without_a_record_gives_a_note_and_no_alarm(hourly, persistence):
    corpus = hourly(2, 300)
    (found,) = check_overlap(_child(corpus, unknown=("model",)), [corpus], [[Origin(0, 285)]])
    assert (found.code, found.counts) == (Code.ANCESTRY_UNKNOWN, {"ancestors": 1})
    assert "its parent model (runs/base) was trained on" in found.text
    older = _child(corpus)
    del older["ancestry"]
    assert codes(check_overlap(older, [corpus], [[Origin(0, 285)]])) == {Code.ANCESTRY_UNKNOWN}
    result = evaluate(persistence(), corpus, prediction_length=5, release=older)
    assert not result.overlaps_training and result.headline.startswith("model: ")
    assert {"code": "ancestry_unknown", "counts": {"ancestors": 1}} in result.to_dict()["codes"]


def test_an_ancestry_is_judged_also_if_the_release_s_own_training_is_not_recorded(hourly):
    corpus = hourly(1, 100)
    release = _child(corpus, Seen("", by="model")) | {"corpora": []}
    found = [note.code for note in check_overlap(release, [corpus], [[Origin(0, 90)]])]
    assert found == [Code.TRAINING_SAW_WINDOWS, Code.TRAINING_UNKNOWN]


def test_the_default_windows_are_those_that_all_ancestors_held_out(hourly, persistence):
    corpus = hourly(2, 300)
    release = _child(corpus, Seen("", by="model", validation_steps=5, test_steps=10), test_steps=100)
    result = evaluate(persistence(), corpus, prediction_length=5, release=release)
    assert result.counts["windows"] == 2 * 2 and not result.overlaps_training
    assert Code.VALIDATION_SAW_WINDOWS not in codes(result.warnings)
    (note,) = (note for note in result.warnings if note.code == Code.FEWER_WINDOWS)
    assert note.counts == {"windows": 2, "asked": 20, "ancestor": 1}
    assert "the training of its parent model (runs/base) held out the newest 10 steps" in note.text


def test_an_ancestor_that_held_out_less_than_a_window_leaves_no_fair_test(hourly, persistence):
    corpus = hourly(2, 300)
    release = _child(corpus, Seen("", by="tokenizer", test_steps=4), test_steps=100)
    result = evaluate(persistence(), corpus, prediction_length=5, release=release)
    assert result.headline.startswith("NO FAIR TEST, the training of its tokenizer saw these windows. model: ")
    assert result.to_dict()["codes"][0]["code"] == "training_saw_windows"
    assert result.to_dict()["codes"][0]["counts"]["generation"] == 1


def test_the_default_validation_windows_are_the_release_s_own_as_far_as_ancestors_held_them_out(hourly, persistence):
    corpus = hourly(2, 300)
    release = _child(corpus, Seen("", by="model", validation_steps=20, test_steps=10), test_steps=10)
    release["data"]["validation_steps"] = 60
    result = evaluate(persistence(), corpus, prediction_length=5, split="validation", release=release)
    assert result.counts["windows"] == 2 * 4 and not result.overlaps_training
    assert (result.scored.cutoff >= corpus.lengths[result.scored.item] - 30).all()


# -- updates ---------------------------------------------------------------------------------------------------------


def _grown(corpus, later):
    """The corpus as it is after an update: the last `later` of its rows (of every item) came with it."""
    ends = [int(corpus.times(k)[-1]) for k in range(corpus.num_series)]
    cut = str(np.datetime64(max(ends) - later * 3_600_000_000, "us"))
    earlier = Earlier(fingerprint="before", last_time=cut, lengths={"item-1": 60, "item-2": 0, "item-3": None})
    corpus.manifest = corpus.manifest.model_copy(update={"earlier": (earlier,)})
    return corpus


def test_a_release_trained_before_an_update_is_judged_by_what_it_saw_then(hourly):
    corpus = _grown(hourly(4, 200), later=80)  # item-0 had 120 rows
    release = _release(corpus) | {"corpora": [{"name": "walks", "fingerprint": "before"}]}

    def seen(series, cutoff):
        return codes(check_overlap(release, [corpus], [[Origin(series, cutoff)]])) & {
            Code.TRAINING_SAW_WINDOWS,
            Code.VALIDATION_SAW_WINDOWS,
        }

    assert seen(0, 89) == {Code.TRAINING_SAW_WINDOWS} and seen(0, 99) == {Code.VALIDATION_SAW_WINDOWS}
    assert seen(0, 100) == seen(0, 150) == set()
    assert seen(1, 29) == {Code.TRAINING_SAW_WINDOWS} and seen(1, 40) == set()
    assert seen(2, 5) == set(), "it came later"
    assert seen(3, 98) == {Code.TRAINING_SAW_WINDOWS} and seen(3, 99) == set(), "its rows got other places"


def test_windows_that_came_with_an_update_are_scored_by_default(hourly, persistence):
    corpus = _grown(hourly(1, 400), later=80)
    release = _release(corpus) | {"corpora": [{"name": "walks", "fingerprint": "before"}]}
    result = evaluate(persistence(), corpus, prediction_length=5, num_windows=50, release=release)
    assert result.counts["windows"] == (80 + 20) // 5 and not result.overlaps_training
    assert Code.VALIDATION_SAW_WINDOWS not in codes(result.warnings)


# -- generated series ------------------------------------------------------------------------------------------------


def test_series_of_a_generator_are_no_values_of_a_real_corpus_and_may_be_those_of_a_synthetic_one(hourly):
    made, real = hourly(2, 150, seed=1, provenance="synthetic"), hourly(2, 100)
    other = hourly(2, 100, provenance="synthetic")
    own = _release(made)
    own["corpora"][0] |= {"provenance": "synthetic", "generated": True}
    origins = [[Origin(0, 85)]]
    assert check_overlap(own, [real], origins) == []
    assert codes(check_overlap(own, [other], origins)) == {Code.TRAINING_MAY_HAVE_SEEN_DAYS}
    assert codes(check_overlap(own, [made], origins)) == {Code.TRAINING_SAW_WINDOWS}
    imported = {**own, "corpora": [own["corpora"][0] | {"generated": False}]}
    assert codes(check_overlap(imported, [real], origins)) == {Code.TRAINING_MAY_HAVE_SEEN_DAYS}


def test_what_ancestors_saw_of_generators_is_apart_and_of_imported_synthetic_files_is_not(hourly):
    corpus, origins = hourly(1, 100), [[Origin(0, 85)]]
    for generated, expected in ((True, set()), (False, {Code.TRAINING_CANNOT_BE_COMPARED})):
        seen = Seen("x", by="model", provenance="synthetic", generated=generated)
        release = _child(corpus, seen)
        assert Ancestry.read(release).seen == (seen,)
        assert codes(check_overlap(release, [corpus], origins)) == expected


def test_series_that_made_a_model_in_the_box_are_in_no_file(hourly):
    imported, origins = hourly(1, 100, provenance="synthetic"), [[Origin(0, 95)]]
    provenance = {**imported.manifest.provenance, "sources": [{"path": "made.csv"}]}
    imported.manifest = imported.manifest.model_copy(update={"provenance": provenance})
    seen = Seen("x", by="model", provenance="synthetic", generated=True)
    for asked, expected in (("tiny", set()), ("runs/base", {Code.TRAINING_CANNOT_BE_COMPARED})):
        release = _child(imported, seen) | {"parents": {"model": {"hash": "0", "asked": asked}}}
        assert codes(check_overlap(release, [imported], origins)) == expected


# -- published weights -----------------------------------------------------------------------------------------------

KRONOS = "NeoQuasar/Kronos-base"  # trained on data up to 29 February 2024, chosen on data up to 31 May


def _prices(first="2024-05-27", count=10, column="close"):
    days = np.arange(np.datetime64(first, "us"), np.datetime64(first, "us") + np.timedelta64(count, "D"),
                     np.timedelta64(1, "D")).astype(np.int64)  # fmt: skip
    values = np.linspace(100, 101, count, dtype=np.float32)[None]
    return Corpus.from_arrays("shares", [("a", values, days)], [column], time="regular", freq="D")


def test_windows_of_prices_before_the_cut_off_of_published_weights_are_reported():
    release = {"published": KRONOS}
    found = check_overlap(release, [_prices()], [[Origin(0, 4), Origin(0, 5), Origin(0, 3)]])
    assert [note.code for note in found] == [Code.BEFORE_TRAINING_CUTOFF, Code.TRAINING_UNKNOWN]
    assert found[0].counts == {"windows": 2, "scored": 3}
    assert "2 of 3 windows of shares start before 2024-06-01" in found[0].text
    assert "up to 2024-02-29, and chosen on data up to 2024-05-31" in found[0].text and "issue 204" in found[0].text
    assert "candles of more than 45 exchanges" in found[1].text
    # one step later is clean, and so is what is no market
    assert codes(check_overlap(release, [_prices()], [[Origin(0, 5)]])) == {Code.TRAINING_UNKNOWN}
    rain = _prices(column="rain")
    assert codes(check_overlap(release, [rain], [[Origin(0, 4)]])) == {Code.TRAINING_UNKNOWN}


def test_what_was_made_from_published_weights_inherits_their_cut_off_by_whatever_way():
    corpus = _prices(count=20)
    direct = _child(corpus, unknown=("model",), test_steps=12) | {"parents": {"model": {"hash": "0", "asked": KRONOS}}}
    found = check_overlap(direct, [corpus], [[Origin(0, 8)]])
    assert codes(found) == {Code.ANCESTRY_UNKNOWN}
    found = check_overlap(direct, [_prices("2024-05-01")], [[Origin(0, 8)]])
    assert Code.BEFORE_TRAINING_CUTOFF in codes(found)
    farther = _child(corpus, test_steps=18)
    farther["ancestry"] = Ancestry(unknown=("model.model",), published=(("model.model", KRONOS),)).to_json()
    first, *_ = check_overlap(farther, [corpus], [[Origin(0, 4)]])
    assert first.code == Code.BEFORE_TRAINING_CUTOFF
    assert first.counts == {"windows": 1, "scored": 1, "generation": 2}
    assert "which is its parent model's parent model" in first.text


def test_such_windows_are_refused_before_any_forecast_unless_they_are_asked_for(persistence):
    model, corpus = persistence(), _prices(count=40, first="2024-04-20")
    how = {"prediction_length": 2, "num_windows": 2, "release": {"published": KRONOS}}
    with pytest.raises(ConfigError, match=r"2 of 2 windows of shares start before 2024-06-01.*--score-seen-dates"):
        evaluate(model, corpus, score_seen_dates=False, **how)
    assert not model.seen
    result = evaluate(model, corpus, **how)
    assert "before 2024-06-01" in result.alarms[0] and Code.BEFORE_TRAINING_CUTOFF in codes(result.warnings)
    later = _prices(count=40, first="2024-06-01")
    assert not evaluate(model, later, score_seen_dates=False, **how).alarms


def test_a_model_with_such_windows_is_not_promoted(persistence):
    corpus = _prices(count=40, first="2024-04-20")
    against = ReferenceModel(OTHER, "other", persistence(bias=1.0))
    how = {"prediction_length": 2, "num_windows": 2, "against": against, "test_steps": 4}
    seen = judge(evaluate(persistence(), corpus, release={"published": KRONOS}, **how), require_significance=False)
    assert Code.BEFORE_TRAINING_CUTOFF in codes(seen.objections)
    fresh = judge(evaluate(persistence(), corpus, release={}, **how), require_significance=False)
    assert Code.BEFORE_TRAINING_CUTOFF not in codes(fresh.objections)


# -- dates -----------------------------------------------------------------------------------------------------------

DAY = 24 * 3_600_000_000
CUTS = {"validation_from": "1970-02-01", "test_from": "1970-02-11", "embargo": "2D"}  # days 31 and 41


def _daily(*spans, name="shares"):
    """Daily series from and to a day after 1970-01-01, each with values of its own."""
    items = []
    for k, (start, end) in enumerate(spans):
        days = np.arange(start, end)
        items.append((f"item {k}", (days + np.sin(days * (k + 1)))[None].astype(np.float32), days * DAY))
    return Corpus.from_arrays(name, items, ["x"], time="regular", freq="D")


def _dated(corpus, *seen, **cuts):
    release = _child(corpus, *seen)
    release["data"] = {**CUTS, **cuts}
    release["corpora"][0]["date_range"] = release["date_range"]
    return release


def _flag(release, corpus, *origins):
    return [(note.code, note.counts.get("windows")) for note in check_overlap(release, [corpus], [list(origins)])]


def test_windows_are_compared_with_the_dates_that_cut_training():
    """Also where items end at different times: no day of a test part was seen in another item."""
    corpus = _daily((0, 60), (0, 47), (20, 60))
    release = _dated(corpus)
    assert _flag(release, corpus, Origin(0, 41), Origin(1, 41), Origin(2, 21), Origin(0, 55)) == []
    assert _flag(release, corpus, Origin(0, 40), Origin(2, 21)) == [(Code.VALIDATION_SAW_WINDOWS, 1)]
    for embargo in (29, 30):  # its future reaches into the validation part
        assert _flag(release, corpus, Origin(0, embargo)) == [(Code.VALIDATION_SAW_WINDOWS, 1)]
    assert _flag(release, corpus, Origin(0, 28), Origin(2, 8), Origin(2, 9)) == [(Code.TRAINING_SAW_WINDOWS, 2)]
    (note,) = check_overlap(release, [corpus], [[Origin(0, 28)]])
    assert note.text.endswith("Train again with data.test_from 1970-01-29T00:00:00 or earlier, or score fewer windows.")
    (note,) = check_overlap(release, [corpus], [[Origin(0, 40)]])
    assert "1 of 1 windows of shares start before 1970-02-11, in or beside the validation part that chose" in note.text


def test_another_corpus_is_clean_from_the_date_of_the_test_part_on():
    trained, other = _daily((0, 60)), _daily((0, 60), (5, 60), name="unseen")
    assert _flag(_dated(trained), other, Origin(0, 41), Origin(1, 36)) == []
    assert _flag(_dated(trained), other, Origin(0, 40)) == [(Code.TRAINING_MAY_HAVE_SEEN_DAYS, None)]
    without = _dated(trained)
    del without["data"]["test_from"]  # validation reaches to the end
    assert _flag(without, other, Origin(0, 59)) == [(Code.TRAINING_MAY_HAVE_SEEN_DAYS, None)]


def test_what_ancestors_saw_by_dates_is_found_and_an_update_moves_no_cut():
    corpus = _daily((0, 60), (0, 60), (0, 60))
    parent = Seen("", by="model", test_from="1970-02-21")
    assert _flag(_dated(corpus, parent), corpus, Origin(0, 50)) == [(Code.TRAINING_SAW_WINDOWS, 1)]
    assert _flag(_dated(corpus, parent), corpus, Origin(0, 51)) == []
    release = _dated(corpus)
    release["corpora"][0]["fingerprint"] = "before"
    cut = str(np.datetime64(49 * DAY, "us"))
    earlier = Earlier(fingerprint="before", last_time=cut, lengths={"item 1": 0, "item 2": None})
    corpus.manifest = corpus.manifest.model_copy(update={"earlier": (earlier,)})
    assert _flag(release, corpus, Origin(0, 28)) == [(Code.TRAINING_SAW_WINDOWS, 1)]
    assert _flag(release, corpus, Origin(2, 28)) == [(Code.TRAINING_SAW_WINDOWS, 1)], "its rows got other places"
    assert _flag(release, corpus, Origin(0, 41), Origin(2, 41)) == []
    assert _flag(release, corpus, Origin(1, 20)) == [(Code.TRAINING_SAW_DAYS, None)], "in others, as it came later"


def test_an_evaluation_scores_the_part_that_training_held_out_by_date(persistence):
    corpus = _daily((0, 60), (0, 47), (0, 30))
    how = {"prediction_length": 4, "num_windows": 20}
    for scored, expected in ((corpus, [4, 1]), (_daily((0, 60), (30, 50), name="unseen"), [4, 2])):
        result = evaluate(persistence(), scored, release=_dated(corpus), **how)
        assert np.bincount(result.scored.item).tolist() == expected
        assert not result.overlaps_training and not codes(result.warnings) & {
            Code.VALIDATION_SAW_WINDOWS,
            Code.TRAINING_SAW_DAYS,
            Code.TRAINING_MAY_HAVE_SEEN_DAYS,
        }
        (note,) = (note for note in result.warnings if note.code == Code.FEWER_WINDOWS)
        assert note.counts == {"windows": 4, "asked": 20} and "the test part from 1970-02-11 on" in note.text
    validation = evaluate(persistence(), corpus, split="validation", release=_dated(corpus), **how)
    assert sorted(zip(validation.scored.item.tolist(), validation.scored.cutoff.tolist(), strict=True)) == [
        (0, 31), (0, 35), (1, 31), (1, 35),
    ]  # fmt: skip


def test_an_evaluation_without_a_fair_window_says_so_and_dates_of_the_caller_win(persistence):
    corpus = _daily((0, 40), (0, 40))
    assert evaluate(persistence(), corpus, prediction_length=4, release=_dated(corpus)).overlaps_training
    whole = _daily((0, 60), (0, 60))
    asked = {"prediction_length": 4, "num_windows": 2, "release": _dated(whole)}
    assert evaluate(persistence(), whole, **asked, test_from="1970-01-05").scored.cutoff.tolist() == [52, 56] * 2
    both = {"validation_from": "1970-01-20", "test_from": "1970-01-28", "split": "validation"}
    assert evaluate(persistence(), whole, **asked, **both).scored.cutoff.tolist() == [19, 23] * 2
    early = evaluate(persistence(), whole, **asked | {"num_windows": 50}, test_from="1970-01-05")
    assert early.overlaps_training
    for wrong, why in (
        ({"test_from": "1970-01-05", "test_steps": 4}, "test_from: cuts by date, and test_steps by steps"),
        ({"validation_from": "1970-01-05"}, "validation_from: of no use with split test, whose"),
        ({"test_from": "1970-02-11", "split": "validation"}, "with split validation alone; give validation_from"),
        ({"test_from": "1970-01-05", "split": "all"}, "test_from: of no use with split all."),
        ({"test_from": "1970-13-05"}, "test_from: is no date"),
        ({"test_from": "2070-01-05"}, "from 2070-01-05 on, a series has at most 0 rows"),
    ):
        with pytest.raises((ConfigError, DataError), match=why):
            evaluate(persistence(), whole, **asked | wrong)


def test_corpora_that_end_before_the_test_part_are_left_out_beside_others(persistence):
    old, new = _daily((0, 30), name="old"), _daily((0, 60), name="new")
    release = _dated(old)
    release["corpora"].append({"name": "new", "fingerprint": new.fingerprint})
    result = evaluate(persistence(), [old, new], prediction_length=4, release=release)
    assert result.counts["windows"] == 4 and not result.overlaps_training
    assert any("of old without room" in left.reason for left in result.left_out)
