"""The record of what the ancestors of a release saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foretrain.errors import UnreadableError
from foretrain.evaluation.overlap import check_overlap
from foretrain.forecasting.ancestry import LIMIT, Ancestry, Seen, ancestor, most_seen, own_training
from foretrain.forecasting.parents import ancestry_of, published_among, recorded
from foretrain.notes import Code

DATES = ("2020-01-01T00:00:00.000000", "2024-12-31T00:00:00.000000")


def seen(number: int, **rule) -> Seen:
    """A rule about corpus `number`."""
    fields = {"name": f"corpus-{number}", "provenance": "real", "date_range": DATES, "test_steps": 20}
    return Seen(f"{number:064x}"[::-1], **{**fields, **rule})


def stored(ancestry: Ancestry) -> dict:
    """The record as it lies in a release.json."""
    return json.loads(json.dumps(ancestry.to_json()))


def size(record: dict) -> int:
    return len(json.dumps({"ancestry": record}, indent=1))


def test_a_record_is_read_as_it_was_written():
    found = Ancestry((seen(1, by="model", max_train_series=5), seen(2, by="model.tokenizer")), ("tokenizer",))
    record = stored(found)
    assert Ancestry.read({"ancestry": record, "parents": {}}) == found
    assert record["known"] is False and record["unknown"] == ["tokenizer"]


def test_a_model_inherits_what_its_parents_and_their_ancestors_saw():
    tokenizer, parent = Ancestry((seen(1),)), Ancestry((seen(2), seen(3, by="model")), ("model.model",))
    found = Ancestry.joined({"tokenizer": tokenizer, "model": parent})
    assert [(rule.by, rule.name) for rule in found.seen] == [
        ("tokenizer", "corpus-1"),
        ("model", "corpus-2"),
        ("model.model", "corpus-3"),
    ]
    assert found.unknown == ("model.model.model",)
    assert found.through("tokenizer") == tokenizer and found.through("model") == parent


def test_equal_rules_of_one_line_are_kept_once_for_the_nearest_ancestor():
    parent = Ancestry((seen(1, by="model"), seen(1), seen(1, by="model.model", test_steps=5)))
    found = Ancestry.joined({"model": parent, "tokenizer": Ancestry((seen(1),))})
    steps = [(rule.by, rule.test_steps) for rule in found.seen]
    assert steps == [("model", 20), ("tokenizer", 20), ("model.model.model", 5)]


def test_a_release_of_an_older_version_has_an_ancestry_only_if_it_started_from_random_weights():
    assert Ancestry.read({"parents": {"model": {"hash": "x"}}}) is None
    assert Ancestry.read({"parents": {}}) == Ancestry()
    with pytest.raises(ValueError, match="malformed"):
        Ancestry.read({"ancestry": {"corpora": [{}]}})


@pytest.mark.parametrize("facts", [{"corpora": ["a"]}, {"data": 3, "corpora": []}, {"data": {"test_steps": "many"}}])
def test_a_release_json_of_another_program_is_no_record(facts):
    with pytest.raises(ValueError):
        own_training(facts)
    assert [note.code for note in check_overlap(facts, [], [])] == [Code.TRAINING_UNKNOWN]


def test_the_own_training_of_an_older_release_has_the_dates_of_all_its_corpora():
    facts = {"corpora": [{"name": "a", "fingerprint": "f"}], "date_range": list(DATES), "data": {"test_steps": 7}}
    (found,) = own_training(facts)
    assert (found.by, found.date_range, found.test_steps, found.validation_steps) == ("", DATES, 7, 0)


def test_one_rule_covers_all_that_several_saw():
    found = most_seen(
        [
            seen(1, validation_steps=10, test_steps=0, holdout_fraction=0.2, max_train_series=7),
            seen(1, validation_steps=0, test_steps=5, holdout_fraction=0.1, max_train_series=9),
        ]
    )
    assert (found.validation_steps, found.test_steps, found.holdout_fraction, found.max_train_series) == (5, 0, 0.1, 9)


def test_a_record_of_hundreds_of_corpora_is_shortened_below_the_limit_and_still_knows_each():
    rules = [seen(k, by=by, test_steps=steps) for k in range(800) for by, steps in (("model", 30), ("model.model", 10))]
    rules += [seen(k, by="tokenizer", validation_steps=3) for k in range(40)]
    record = stored(Ancestry(tuple(rules)))
    assert size(record) <= LIMIT and record["known"] and record["shortened"]
    found = Ancestry.read({"ancestry": record})
    for k in (0, 39, 799):
        matching = [rule for rule in found.seen if rule.is_of(rules[2 * k].fingerprint)]
        assert [rule.test_steps for rule in matching] == ([10, 20] if k < 40 else [10])
    assert not any(rule.is_of(seen(800).fingerprint) for rule in found.seen)
    assert ancestor(found.seen[0].by) == "its parent model, or one of its ancestors,"


def test_a_child_of_a_shortened_record_shortens_again_and_loses_nothing():
    record = stored(Ancestry(tuple(seen(k, by="model") for k in range(900))))
    parent = Ancestry.read({"ancestry": record})
    again = stored(Ancestry.joined({"model": Ancestry((seen(900), *parent.seen))}))
    assert size(again) <= LIMIT
    found = Ancestry.read({"ancestry": again})
    assert all(any(rule.is_of(seen(k).fingerprint) for rule in found.seen) for k in (0, 450, 899, 900))


def test_what_does_not_fit_even_shortened_is_counted_and_makes_the_ancestry_unknown():
    record = stored(Ancestry(tuple(seen(k, by="model") for k in range(9_000))))
    assert size(record) <= LIMIT and not record["known"]
    found = Ancestry.read({"ancestry": record})
    assert len(found.seen) + record["left_out"] == 9_000 and len(found.seen) > 5_000


@pytest.mark.parametrize(
    ("by", "text"),
    [
        ("model", "its parent model (runs/base)"),
        ("tokenizer", "its tokenizer"),
        ("model.model", "its parent model's parent model"),
        ("model.tokenizer", "its parent model's tokenizer"),
    ],
)
def test_an_ancestor_is_named_by_the_way_that_leads_to_it(by: str, text: str):
    assert ancestor(by, {"model": {"asked": "runs/base"}}) == text


def test_a_parent_that_the_system_fails_to_read_is_an_error_and_one_that_is_gone_or_malformed_is_unknown(
    tmp_path: Path,
):
    (tmp_path / "config.json").write_text("{}")
    record, parent = tmp_path / "release.json", {"model": {"asked": str(tmp_path), "hash": "0"}}
    for said in (None, "{"):
        if said is not None:
            record.write_text(said)
        assert ancestry_of(parent).unknown == ("model",)
    record.unlink()
    record.symlink_to(record.name)  # ELOOP, also for root
    with pytest.raises(UnreadableError, match=r"release\.json: cannot be read \(Too many levels"):
        ancestry_of(parent)


def test_an_ancestry_names_the_published_weights_in_it_through_every_generation(tmp_path):
    weights = tmp_path / "hub" / "models--NeoQuasar--Kronos-base" / "snapshots" / "0123"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    child = ancestry_of({"model": {"asked": str(weights), "hash": "0"}})
    assert child == Ancestry(unknown=("model",), published=(("model", "NeoQuasar/Kronos-base"),))
    assert child.to_json()["published"] == {"model": "NeoQuasar/Kronos-base"}
    facts = {"corpora": [{"fingerprint": "f"}], "parents": {"model": {}}, "ancestry": child.to_json()}
    grandchild = Ancestry.joined({"model": recorded(facts, child)})
    assert grandchild.published == (("model.model", "NeoQuasar/Kronos-base"),)
    assert Ancestry.read({"ancestry": grandchild.to_json()}) == grandchild
    assert grandchild.through("model").published == child.published
    assert grandchild.without("model") == Ancestry()
    assert grandchild.and_also(child).published == grandchild.published + child.published
    assert published_among({"published": "a/b", **facts}) == (("", "a/b"), ("model", "NeoQuasar/Kronos-base"))
    # the hub id counts where its folder is gone, and a record that a hand has changed says nothing
    gone = ancestry_of({"tokenizer": {"asked": "NeoQuasar/Kronos-Tokenizer-2k", "hash": "0"}}, unchanged=False)
    assert gone.published == (("tokenizer", "NeoQuasar/Kronos-Tokenizer-2k"),)
    assert published_among({"parents": {"model": "text"}}) == ()
