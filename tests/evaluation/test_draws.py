from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.manifest import Column
from foretrain.data.splits import select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.draws import can_test_items
from foretrain.evaluation.gate import judge
from foretrain.evaluation.reference import OTHER, ReferenceModel
from foretrain.evaluation.report import render
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes

SECTORS = tuple(f"sector-{k}" for k in range(12))


def climbing(items=48, *, column="sales", sector=lambda k: k % 12, name="climb", **fields):
    """Series that rise by 1 a step, with a category of the item beside them: a biased forecaster beats naive."""
    rng = np.random.default_rng(1)
    columns = [Column(name=column), Column(name="sector", kind="categorical", categories=SECTORS)]
    series = []
    for k in range(items):
        values = np.arange(40) + rng.standard_normal(40) * 0.3 + 100.0
        rows = np.stack([values, np.broadcast_to(sector(k), 40)]).astype(np.float32)
        series.append((f"item-{k:02d}", rows, None))
    return Corpus.from_arrays(name, series, columns, **fields)


def scored(persistence, corpus, bias=2.5, **settings):
    """An evaluation on the newest window of every item, beside a worse reference model."""
    corpora = corpus if isinstance(corpus, list) else [corpus]
    settings = {"prediction_length": 4, "num_windows": 1, **settings}
    settings.setdefault("selection", [select(c, [c.columns[0]]) for c in corpora])
    against = ReferenceModel(OTHER, "another", persistence(1.0))
    return evaluate(persistence(bias), corpora, against=against, **settings)


def test_one_window_of_many_items_has_a_verdict_over_items(persistence):
    found = scored(persistence, climbing())
    assert found.verdict == "better than naive over items, at this one origin, p<0.001"
    assert {c.over for c in found.comparisons} == {"items"} and found.counts["origins"] == 1
    tree = next(c for c in found.to_dict()["comparisons"] if c["against"] == "naive")
    assert (tree["over"], tree["count"], tree["degrees_of_freedom"]) == ("items", 48, 47)
    assert "Paired t test over items" in render(found)
    assert found.settings["clusters"] is None


def test_it_promotes_only_if_that_is_asked_for(persistence):
    result = scored(persistence, climbing())
    found = judge(result)
    assert not found.promoted and codes(found.objections) == {Code.OVER_ITEMS_ONLY}
    assert {tuple(note.counts.items()) for note in found.objections} == {(("origins", 1), ("items", 48))}
    asked = judge(result, promote_over="items")
    assert asked.promoted and asked.to_dict()["promote_over"] == "items"
    assert "better than naive over items, at this one origin, p<0.001" in asked.headline
    assert asked.to_dict()["tests"]["naive"]["over"] == "items"
    assert judge(result, require_significance=False).promoted


def test_a_worse_model_is_not_promoted_over_items_either(persistence):
    found = judge(scored(persistence, climbing(), bias=-1.0), promote_over="items")
    assert not found.promoted and codes(found.objections) == {Code.NOT_BELOW}


def test_with_enough_origins_the_option_changes_nothing(persistence):
    result = scored(persistence, climbing(), num_windows=10, prediction_length=2)
    assert {c.over for c in result.comparisons} == {"origins"}
    assert judge(result, promote_over="items").verdicts == judge(result).verdicts


@pytest.mark.parametrize("prices", [{"price_columns": ("sales",)}, {"column": "close", "price_columns": ("close",)}])
def test_prices_have_no_verdict_over_items_without_clusters(persistence, prices):
    found = scored(persistence, climbing(**prices))
    assert found.verdict == "too few windows to tell (1 origin, 10 needed)"
    (note,) = (note for note in found.warnings if note.code == Code.CLUSTERS_NEEDED)
    assert note.counts == {"items": 48} and "--clusters COLUMN" in note.text
    clustered = scored(persistence, climbing(**prices), clusters="sector")
    assert clustered.verdict == "better than naive over 12 clusters of items, at this one origin, p<0.001 (weak test)"
    assert Code.CLUSTERS_NEEDED not in codes(clustered.warnings) and clustered.settings["clusters"] == "sector"


def test_candles_are_prices_though_nothing_says_so(persistence):
    rng = np.random.default_rng(0)
    series = [(f"{k}", (100 + rng.standard_normal((4, 40)).cumsum(1)).astype(np.float32), None) for k in range(40)]
    corpus = Corpus.from_arrays("bars", series, ["Open", "High", "Low", "Close"])
    assert Code.CLUSTERS_NEEDED in codes(scored(persistence, corpus).warnings)


@pytest.mark.parametrize("column", ["Close", "Adj Close", "vwap"])
def test_so_are_columns_with_the_name_of_a_price(persistence, column):
    found = scored(persistence, climbing(column=column))
    assert found.verdict == "too few windows to tell (1 origin, 10 needed)"
    assert Code.CLUSTERS_NEEDED in codes(found.warnings)


def test_few_items_are_too_few_windows_and_nothing_more(persistence):
    found = scored(persistence, climbing(29))
    assert found.verdict == "too few windows to tell (1 origin, 10 needed)"
    assert Code.CLUSTERS_NEEDED not in codes(found.warnings)


def test_whether_items_can_be_tested_is_known_before():
    assert can_test_items([climbing(30)], None) and not can_test_items([climbing(29)], None)
    assert can_test_items([climbing(15), climbing(15)], None)
    assert not can_test_items([climbing(30, price_columns=("sales",))], None)
    assert can_test_items([climbing(10, price_columns=("sales",))], "sector")
    assert not can_test_items([climbing(30, sector=lambda k: k % 9)], "sector")
    assert not can_test_items([climbing(48)], None, 29) and not can_test_items([climbing(48)], "sector", 9)


def test_a_model_that_equals_naive_needs_no_clusters(persistence):
    found = scored(persistence, climbing(), bias=0.0)
    assert "identical losses" in found.verdict and Code.CLUSTERS_NEEDED not in codes(found.warnings)


def test_numbers_name_clusters_by_all_their_digits(persistence):
    rng = np.random.default_rng(0)
    series = [
        (f"{k}", np.stack([rng.standard_normal(40), np.full(40, 1234560 + k % 12)]).astype(np.float32), None)
        for k in range(48)
    ]
    corpus = Corpus.from_arrays("stores", series, ["sales", "store"])
    assert scored(persistence, corpus, clusters="store").comparisons[0].count == 12


def test_the_columns_of_an_item_are_one_draw(persistence):
    rng = np.random.default_rng(0)
    series = [(f"{k}", rng.standard_normal((2, 40)).cumsum(1).astype(np.float32), None) for k in range(20)]
    found = scored(persistence, Corpus.from_arrays("pairs", series, ["x", "y"]), selection=None)
    assert len(found.items) == 40 and found.verdict.startswith("too few windows to tell")


def test_equal_clusters_of_two_corpora_are_one(persistence):
    found = scored(persistence, [climbing(24, name="a"), climbing(36, name="b")], clusters="sector")
    assert found.comparisons[0].count == 12


def test_clusters_without_effect_are_said(persistence):
    found = scored(persistence, climbing(), num_windows=10, prediction_length=2, clusters="sector")
    (note,) = (note for note in found.warnings if note.code == Code.SETTING_UNUSED)
    assert note.counts == {"origins": 10}
    assert Code.SETTING_UNUSED not in codes(scored(persistence, climbing(), clusters="sector").warnings)


def test_a_cluster_may_be_given_on_some_rows_only(persistence):
    corpus = climbing(sector=lambda k: np.where(np.arange(40) < 5, k % 12, np.nan))
    assert scored(persistence, corpus, clusters="sector").comparisons[0].count == 12


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda k: np.nan if k == 7 else 1, "'item-07' of climb has no value in column 'sector'"),
        (
            lambda k: np.arange(40) % 2,
            r"'item-00' of climb has several values \(sector-0, sector-1\) in column 'sector'",
        ),
    ],
)
def test_an_item_without_one_cluster_is_named(persistence, broken, message):
    corpus = climbing(sector=broken)
    with pytest.raises(DataError, match=message):
        scored(persistence, corpus, clusters="sector")
    with pytest.raises(DataError, match=message):
        can_test_items([corpus], "sector")


def test_a_column_that_does_not_exist_or_is_forecast_is_refused(persistence):
    with pytest.raises(ConfigError, match=r"climb has no column 'secto' \(has sales, sector\)\. Did you mean"):
        scored(persistence, climbing(), clusters="secto")
    with pytest.raises(ConfigError, match="column 'sales' would be forecast"):
        scored(persistence, climbing(), clusters="sales")
