from __future__ import annotations

from foretrain.hints import did_you_mean, nearest

KNOWN = ("open", "close", "closed", "volume")


def test_the_nearest_known_name_is_offered():
    assert did_you_mean("clsoe", KNOWN) == "Did you mean 'close'?"
    assert did_you_mean("clse", KNOWN, most=2) == "Did you mean 'close' or 'closed'?"


def test_something_else_is_said_where_none_is_near():
    assert did_you_mean("turnover", KNOWN) == ""
    assert did_you_mean("turnover", KNOWN, "It has 4 columns.") == "It has 4 columns."
    assert did_you_mean("close", []) == ""


def test_the_cutoff_says_how_alike_a_name_must_be():
    assert nearest("vol", KNOWN) == ["volume"]
    assert nearest("vol", KNOWN, cutoff=0.9) == []
