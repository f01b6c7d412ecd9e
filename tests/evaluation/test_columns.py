from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.evaluation.columns import evaluation_columns, scored_columns
from foretrain.models import family
from foretrain.notes import Code


@pytest.fixture(scope="module")
def corpus():
    values = np.ones((6, 20), np.float32)
    return Corpus.from_arrays("c", [("a", values, None)], ["open", "high", "low", "close", "volume", "other"])


def _names(corpus, selection):
    return tuple(
        tuple(corpus.columns[k] for k in part) for part in (selection.targets, selection.past, selection.known)
    )


OHLC = ["open", "high", "low", "close"]


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [
        ({}, {}, (("close",), ("open", "high", "low", "volume"), ())),  # the family's own
        ({"target": OHLC, "scored": ["close"]}, {}, (("close",), ("open", "high", "low"), ())),  # as validated
        ({"target": OHLC}, {}, (tuple(OHLC), (), ())),  # as trained
        ({}, {"target": ["low", "high"]}, (("low", "high"), ("open", "close", "volume"), ())),
        (
            {"target": OHLC, "scored": ["close"], "past_covariates": ["other"]},
            {"target": ["low"]},
            (("low",), ("other", "open", "high", "close"), ()),
        ),
        ({"target": OHLC}, {"target": ["close"], "past_covariates": []}, (("close",), (), ())),
        ({}, {"known_covariates": ["volume"]}, (("close",), ("open", "high", "low"), ("volume",))),
        ({"target": OHLC, "known_covariates": ["other"]}, {}, (tuple(OHLC), (), ("other",))),
    ],
)
def test_a_family_with_a_choice_gets_whole_candles(corpus, candle_family, trained, given, expected):
    assert _names(corpus, evaluation_columns(corpus, candle_family, trained, **given)[0]) == expected


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [
        ({}, {}, ((*OHLC, "volume", "other"), (), ())),  # every numeric column
        ({}, {"target": ["close"]}, (("close",), (), ())),
        ({"target": ["close"], "past_covariates": ["open"]}, {}, (("close",), ("open",), ())),
        ({"target": OHLC}, {"target": ["close"]}, (("close",), (), ())),
        ({"target": OHLC, "scored": ["close"]}, {}, (("close",), ("open", "high", "low"), ())),
        ({"scored": ["close"], "known_covariates": ["other"]}, {}, (("close",), (*OHLC[:3], "volume"), ("other",))),
    ],
)
def test_a_family_without_a_choice_takes_the_named_or_trained_columns(corpus, trained, given, expected):
    assert _names(corpus, evaluation_columns(corpus, family("chronos2"), trained, **given)[0]) == expected


def test_a_column_that_the_corpus_lacks_is_named(corpus, candle_family):
    with pytest.raises(ConfigError, match="no column 'amount'"):
        evaluation_columns(corpus, candle_family, {"target": [*OHLC, "amount"], "scored": ["amount"]})
    with pytest.raises(ConfigError, match="no column 'amount'"):
        evaluation_columns(corpus, family("chronos2"), {"target": [*OHLC, "amount"], "scored": ["close"]})


def test_a_corpus_that_lacks_a_candle_column_of_training_is_scored_without_it(corpus, candle_family):
    found, (note,) = evaluation_columns(corpus, candle_family, {"target": [*OHLC, "amount"], "scored": ["close"]})
    assert note.code == Code.COLUMNS_UNLIKE_TRAINING and "amount" in note.text
    assert _names(corpus, found) == (("close",), ("open", "high", "low"), ())


def test_scored_columns_are_the_wanted_else_the_familys_else_all(candle_family):
    assert scored_columns(["low"], OHLC, candle_family) == ("low",)
    assert scored_columns(None, OHLC, candle_family) == ("close",)
    assert scored_columns(None, ["close"], candle_family) == ("close",)
    assert scored_columns(None, ["x", "y"], None) == ("x", "y")
    with pytest.raises(ConfigError, match="names no column"):
        scored_columns([], OHLC, None)


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [
        ({}, {}, (("target",), ("past_feat_0",), ("feat_0",))),
        ({}, {"target": ["target", "feat_0"]}, (("target", "feat_0"), ("past_feat_0",), ())),
        ({}, {"past_covariates": [], "known_covariates": []}, (("target",), (), ())),
        ({"target": None, "past_covariates": [], "known_covariates": []}, {}, (("target",), (), ())),  # as trained
        ({"target": ["past_feat_0"]}, {}, (("past_feat_0",), (), ())),
    ],
)
def test_columns_that_the_corpus_calls_covariates_are_no_targets(trained, given, expected):
    marked = {"past_covariates": ("past_feat_0",), "known_covariates": ("feat_0",)}
    columns = ["target", "past_feat_0", "feat_0"]
    corpus = Corpus.from_arrays("c", [("a", np.ones((3, 20), np.float32), None)], columns, **marked)
    assert _names(corpus, evaluation_columns(corpus, family("chronos2"), trained, **given)[0]) == expected


def test_recorded_covariates_that_the_corpus_lacks_are_told_and_others_found_by_the_rules_of_imports(corpus):
    trained = {"target": ["Close/Last"], "past_covariates": ["OPEN", "wind"], "known_covariates": ["promo", "other"]}
    found, (note,) = evaluation_columns(corpus, family("chronos2"), trained)
    assert _names(corpus, found) == (("close",), ("open",), ("other",))
    assert note.code == Code.COLUMNS_UNLIKE_TRAINING and "'promo', 'wind'" in note.text and note.counts["columns"] == 2


def test_a_target_that_is_named_is_no_covariate(corpus):
    trained = {"target": ["close"], "past_covariates": ["open", "high"], "known_covariates": ["other"]}
    found, notes = evaluation_columns(corpus, family("chronos2"), trained, target=["open", "other"])
    assert _names(corpus, found) == (("open", "other"), ("high",), ()) and notes == []
