from __future__ import annotations

from pathlib import Path

import pytest

from foretrain.errors import ConfigError
from foretrain.foreign.ledger import Entry, Key, Ledger

KNOWN = {
    "training.epochs": Key("whole", 3),
    "training.rate": Key("number", 0.1),
    "data.path": Key("text"),
    "data.shuffle": Key("flag", True),
}


def ledger(**values) -> Ledger:
    return Ledger(Path("file.yaml"), {key.replace("__", "."): value for key, value in values.items()}, KNOWN)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("training__epochs", "three", "'three' is not a whole number"),
        ("training__epochs", True, "true is not a whole number"),
        ("training__epochs", 2.5, "2.5 is not a whole number"),
        ("training__rate", "1e-4?", "is not a number"),
        ("data__path", 7, "7 is not text"),
        ("data__shuffle", "yes", "'yes' is not true or false"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_file_and_key(key, value, wanted):
    dotted = key.replace("__", ".")
    with pytest.raises(ConfigError, match=f"file.yaml: {dotted}: .*") as caught:
        ledger(**{key: value}).get(dotted)
    assert wanted in str(caught.value)


def test_a_whole_float_counts_as_a_whole_number():
    found = ledger(training__epochs=5.0).get("training.epochs")
    assert found == 5
    assert isinstance(found, int)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("training.epoch", "did you mean 'training.epochs'?"),
        ("data.epochs", "did you mean 'training.epochs'?"),
        ("date.path", "did you mean 'data.path'?"),
        ("training.colour", "upstream does not read it"),
    ],
)
def test_an_unknown_key_is_reported_with_the_key_that_was_meant(key, hint):
    assert Ledger(Path("f"), {key: 1}, KNOWN).entries == [Entry("unknown", key, hint)]


def test_a_default_of_upstream_is_reported_as_filled_in():
    book = ledger()
    book.carried("training.epochs", "training.epochs")
    assert [entry.verdict for entry in book.entries] == ["filled"]
    assert "3, upstream's training.epochs" in book.report("a title", [])


def test_null_counts_as_not_given():
    book = ledger(data__path=None)
    assert book.get("data.path") is None
    assert "data.path: null" in book.report("a title", [])


def test_a_key_that_is_not_settled_is_our_mistake():
    with pytest.raises(AssertionError, match=r"data\.path"):
        ledger(data__path="x").report("a title", [])


def test_a_key_settled_twice_is_our_mistake():
    book = ledger(data__path="x")
    book.equal("data.path", "so it is")
    with pytest.raises(AssertionError, match="settled twice"):
        book.dropped("data.path", "for a reason")
