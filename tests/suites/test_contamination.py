from __future__ import annotations

import numpy as np
import pytest
from tests.suites.tasks import series, task

from foretrain.data.store import Corpus
from foretrain.forecasting.ancestry import Ancestry
from foretrain.suites.contamination import FLAGS, OwnData, SeenValues, counts_as_seen, flag_lines, flags_of
from foretrain.suites.definition import tasks_of
from foretrain.suites.seen_values import compare_all, training_parts

SEEN_TEST, SEEN, PERHAPS, UNKNOWN = FLAGS


def of(suite: str, name: str):
    return next(task for task in tasks_of(suite) if task.name == name)


def published(name: str) -> dict:
    return {"published": name}


@pytest.mark.parametrize(
    ("name", "suite", "which", "code", "seen"),
    [
        ("amazon/chronos-2", "chronos-in-domain", "m4_hourly", SEEN, True),
        ("amazon/chronos-2", "chronos-zero-shot", "m5", None, False),
        ("amazon/chronos-2", "gift-eval", "m4_hourly/H/short", SEEN, False),  # not its test windows
        ("amazon/chronos-2", "gift-eval", "solar/H/short", PERHAPS, False),
        ("autogluon/chronos-2-synth", "chronos-in-domain", "m4_hourly", None, False),
        ("Datadog/Toto-Open-Base-1.0", "fev-bench", "m5_1D", SEEN_TEST, True),
        ("Datadog/Toto-Open-Base-1.0", "fev-bench", "m5_1W", None, False),
        ("Datadog/Toto-Open-Base-1.0", "chronos-zero-shot", "m5", UNKNOWN, False),
        ("Datadog/Toto-2.0-4m", "gift-eval", "m4_hourly/H/short", None, False),
        ("NeoQuasar/Kronos-mini", "fev-bench", "m5_1D", UNKNOWN, False),
    ],
)
def test_published_weights_are_flagged_by_name_and_counted_as_the_suite_does(name, suite, which, code, seen):
    task = of(suite, which)
    flags = flags_of(task, published(name))
    assert [note.code for note in flags] == ([code] if code else [])
    assert counts_as_seen(task, flags) is seen
    assert all(name in note.text and task.definition.dataset in note.text for note in flags)


def test_fev_s_own_eight_tasks_of_toto_are_flagged_and_no_others():
    toto = published("Datadog/Toto-Open-Base-1.0")
    flagged = [task.name for task in tasks_of("fev-bench") if counts_as_seen(task, flags_of(task, toto))]
    assert sorted(flagged) == [
        "favorita_transactions_1D", "fred_md_2025/cee", "fred_md_2025/macro", "kdd_cup_2022_10T", "m5_1D",
        "proenfo_gfc12", "proenfo_gfc14", "proenfo_gfc17",
    ]  # fmt: skip


def test_what_is_made_from_published_weights_inherits_their_flags():
    task = of("chronos-in-domain", "m4_hourly")
    own = {"corpora": [{"name": "mine", "fingerprint": "f", "provenance": "synthetic", "generated": True}]}
    parent = own | {"parents": {"model": {"hash": "0", "asked": "amazon/chronos-2"}}}
    parent["ancestry"] = Ancestry(unknown=("model",)).to_json()
    grandparent = Ancestry(unknown=("model.model",), published=(("model.model", "amazon/chronos-2"),))
    farther = own | {"ancestry": grandparent.to_json()}
    for facts, generation in ((parent, 1), (farther, 2)):
        (flag,) = flags_of(task, facts)
        assert (flag.code, flag.counts) == (SEEN, {"generation": generation})
    assert flag_lines(task, [flag])[1] == "So this is an in-domain score, no zero-shot one."


def test_a_baseline_saw_nothing_and_a_model_without_a_record_may_have_seen_all():
    task = of("chronos-in-domain", "m4_hourly")
    assert flags_of(task, None) == []
    (flag,) = flags_of(task, {})
    assert flag.code == UNKNOWN and flag_lines(task, [flag]) == [f"unknown: {flag.text}"]


def days(first: str, count: int) -> np.ndarray:
    return np.datetime64(first, "us") + np.arange(count) * np.timedelta64(1, "D")


def recorded(**entry) -> dict:
    return {"corpora": [{"name": "mine", "fingerprint": "f", "provenance": "real"} | entry], "data": {}}


def test_recorded_corpora_are_compared_by_the_days_of_the_scored_windows():
    small, one = task(), [series(np.arange(40.0), stamps=days("2024-01-01", 40))]  # scored from 8 February on
    before, until = ["2020-01-01T00:00:00", "2024-02-07T00:00:00"], ["2020-01-01T00:00:00", "2024-02-08T00:00:00"]
    assert flags_of(small, recorded(date_range=before), one) == []
    (flag,) = flags_of(small, recorded(date_range=until), one)
    assert flag.code == PERHAPS and "2024-02-08" in flag.text and not counts_as_seen(small, [flag])
    assert [note.code for note in flags_of(small, recorded(date_range=until))] == [UNKNOWN]
    assert [note.code for note in flags_of(small, recorded(), one)] == [UNKNOWN]
    assert flags_of(small, recorded(generated=True, provenance="synthetic"), one) == []


def walk(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).cumsum()


def corpus(*values: np.ndarray) -> Corpus:
    items = [(str(k), one[None].astype(np.float32), None) for k, one in enumerate(values)]
    return Corpus.from_arrays("mine", items, ["target"])


def test_scored_windows_in_a_corpus_of_training_are_found_by_their_values():
    small, mine = task(horizon=4), [series(walk(300, k), item=str(k)) for k in range(5)]
    held = corpus(walk(300, 0) * 3 - 7, walk(300, 1), walk(300, 77))
    (flag,) = flags_of(small, {}, mine, corpora=[held])
    assert flag.code == SEEN_TEST
    assert flag.counts == {"windows": 2, "scored": 5, "left_out": 0, "values": 900}
    assert "up to scale and offset" in flag.text and counts_as_seen(small, [flag])
    assert flags_of(small, {}, mine, corpora=[corpus(walk(300, 77))]) == []


def test_history_in_a_corpus_is_told_apart_from_the_scored_windows():
    small, mine = task(horizon=4), [series(walk(300, 0))]
    (flag,) = flags_of(small, {}, mine, corpora=[corpus(walk(300, 0)[:296])])
    assert flag.code == SEEN and "no scored one" in flag.text
    gift = task(rule="gift-eval", horizon=4)
    (flag,) = flags_of(gift, {}, mine, corpora=[corpus(walk(300, 0)[:260])])
    assert flag.code == SEEN and not counts_as_seen(gift, [flag])


def test_what_training_held_out_for_test_of_a_recorded_corpus_is_not_seen():
    small, mine, held = task(horizon=4), [series(walk(300, 0))], corpus(walk(300, 0))
    facts = {"corpora": [{"name": "mine", "fingerprint": held.fingerprint}], "data": {"test_steps": 4}}
    assert [note.code for note in flags_of(small, facts, mine, corpora=[held])] == [SEEN]
    facts["data"] = {"test_steps": 0}
    assert [note.code for note in flags_of(small, facts, mine, corpora=[held])] == [SEEN_TEST]


def test_windows_that_cannot_be_told_are_counted_and_said():
    small, flat = task(), [series(np.ones(50)), series(np.arange(10.0))]
    (flag,) = flags_of(small, {}, flat, corpora=[corpus(np.ones(60))])
    assert flag.code == UNKNOWN and "no window of 32 steps" in flag.text
    short = [series(walk(100, 0)), *(series(np.arange(10.0), item=str(k)) for k in range(2))]
    (flag,) = flags_of(small, {}, short, corpora=[corpus(walk(100, 7))])
    assert flag.code == UNKNOWN and "only 1 of 3 scored windows of 32 steps" in flag.text
    assert flags_of(small, {}, short[:2], corpora=[corpus(walk(100, 7))]) == []


def test_of_too_many_windows_it_is_said_how_many_were_looked_for():
    small, mine = task(rule="gift-eval", horizon=4), [series(walk(300, 0))]
    held = corpus(walk(300, 0))
    parts = training_parts({}, [held])
    some = compare_all([(small, mine)], {"": parts}, most_windows=8)["", ("test", "small")]
    (flag,) = flags_of(small, {}, mine, seen=SeenValues(parts, some))
    assert flag.code == SEEN_TEST and "scored windows that were looked for (of 8)" in flag.text
    assert 0 < some.found == some.scored < 8


def test_data_of_the_user_are_compared_step_by_step_with_what_training_held_out():
    mine = Corpus.from_arrays(
        "mine", [(str(k), walk(60, k)[None].astype(np.float32), None) for k in range(3)], ["target"]
    )
    small = task(rule="fev", horizon=4, num_windows=2)
    small = type(small)("mine", "local", small.suite.model_copy(update={"published": ""}), small.definition)
    items = [series(walk(60, k), item=str(k)) for k in (2, 0)]
    own = OwnData(mine, (2, 0))

    def codes(test_steps: int, of: Corpus = mine) -> list[str]:
        facts = {"corpora": [{"name": "mine", "fingerprint": of.fingerprint}], "data": {"test_steps": test_steps}}
        return [note.code for note in flags_of(small, facts, items, own=own)]

    assert [codes(steps) for steps in (0, 7, 8)] == [[SEEN_TEST], [SEEN_TEST], []]
    assert codes(8, corpus(walk(60, 9))) == [UNKNOWN]  # of other data, and without dates
    assert [note.code for note in flags_of(small, {}, items, own=own)] == [UNKNOWN]
    assert flags_of(small, None, items, own=own) == []
    (flag,) = flags_of(small, {}, items, own=own, corpora=[corpus(walk(60, 0)[:52])])
    assert flag.code == SEEN and not counts_as_seen(small, [flag])  # models are trained on what comes before
    (flag,) = flags_of(small, {}, items, own=own, corpora=[corpus(walk(60, 0))])
    assert counts_as_seen(small, [flag]) and flag_lines(small, [flag])[1].endswith("training never saw.")
