from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.splits import Origin, select
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.panel import corpus_season, make_panel, newest_origins, open_ends
from foretrain.notes import Code


def _panel(corpus, origins, **more):
    settings = {"prediction_length": 4, "context_length": 32, "stride": 4, **more}
    return make_panel([corpus], [select(corpus)], [origins], **settings)


def test_max_items_draws_the_same_items_every_time(hourly):
    corpus = hourly(9, 100)
    origins = [Origin(i, c) for i in range(9) for c in (30, 40)]
    first, again = (_panel(corpus, origins, max_items=4) for _ in range(2))
    assert first.refs == again.refs and len({ref.series for ref in first.refs}) == 4
    assert len(first.refs) == 8
    assert ("not drawn (max_items 4)", 5) in {(left.reason, left.count) for left in first.left_out}
    other = _panel(corpus, origins, max_items=4, seed=1)
    assert {ref.series for ref in other.refs} != {ref.series for ref in first.refs}


def test_max_items_draws_from_the_items_of_all_corpora_in_their_order(hourly):
    corpora = [hourly(5, 100), hourly(7, 100, seed=1)]
    origins = [[Origin(i, c) for c in (40, 30) for i in (4, 0, 2)], [Origin(i, 30) for i in range(6)]]
    settings = {"prediction_length": 4, "context_length": 32, "stride": 4}
    panel = make_panel(corpora, [select(c) for c in corpora], origins, max_items=3, seed=5, **settings)
    refs = sorted((k, *origin) for k, found in enumerate(origins) for origin in found)
    items = sorted({ref[:2] for ref in refs})
    drawn = {items[k] for k in np.random.default_rng(5).choice(len(items), 3, replace=False)}
    assert list(panel.refs) == [ref for ref in refs if ref[:2] in drawn]
    assert [(left.count, left.examples) for left in panel.left_out] == [
        (2, (corpora[0].item_id(1), corpora[0].item_id(3))), (1, (corpora[1].item_id(6),)), (6, ()),
    ]  # fmt: skip


def test_the_season_comes_from_the_manifest_then_the_session_then_the_frequency(hourly):
    assert corpus_season(hourly(1, 50)) == 24
    items = [("a", np.ones((1, 9), np.float32), np.arange(9, dtype=np.int64) * 3_600_000_000)]
    session = Corpus.from_arrays("s", items, ["close"], freq="h", time="stamps", bars_per_session=7)
    assert corpus_season(session) == 7
    own = Corpus.from_arrays("s", items, ["close"], freq="h", time="stamps", bars_per_session=7, seasonality=35)
    assert corpus_season(own) == 35
    assert corpus_season(Corpus.from_arrays("s", [("a", np.ones((1, 9), np.float32), None)], ["x"])) == 1


def test_windows_without_truth_are_told_where_the_newest_rows_have_no_target():
    def found(*targets):
        items = [
            (str(k), np.array([target, np.ones(len(target))], np.float32), None) for k, target in enumerate(targets)
        ]
        corpus = Corpus.from_arrays("c", items, ["target", "promo"])
        origins = [Origin(k, len(target) - back) for k, target in enumerate(targets) for back in (8, 6, 4)]
        panel = make_panel(
            [corpus], [select(corpus, ["target"])], [origins], prediction_length=4, context_length=32, stride=2
        )
        return [(note.code, note.counts) for note in open_ends(panel)]

    whole, few, many = np.ones(40), np.r_[np.ones(38), [np.nan] * 2], np.r_[np.ones(36), [np.nan] * 4]
    assert found(whole, many) == [
        (Code.NEWEST_ROWS_WITHOUT_TARGET, {"items": 1, "rows": 4, "windows": 1, "windows_in_part": 1})
    ]
    assert found(whole, few) == []
    assert [counts["windows_in_part"] for _, counts in found(few, few)] == [2]
    assert [counts["windows"] for _, counts in found(many, np.full(40, np.nan))] == [4]


def test_a_series_too_short_is_told_by_lengths_that_an_evaluation_has(hourly):
    for given, advice in ((None, "prediction_length or context_length"), (90, "prediction_length or min_context")):
        with pytest.raises(DataError, match=rf"no test window .*before the cutoff, 60 after it\). Shorten {advice}\.$"):
            newest_origins(hourly(1, 100), "test", 60, 1, 60, None, None, given, 512)
