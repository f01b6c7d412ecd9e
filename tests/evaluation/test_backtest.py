from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.splits import Origin, select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.backtest import Backtest, with_needed
from foretrain.evaluation.panel import make_panel
from foretrain.evaluation.scored import seasonal_errors


def _panel(corpus, origins, **more):
    settings = {"prediction_length": 4, "context_length": 32, "stride": 4, **more}
    return make_panel([corpus], [select(corpus)], [origins], **settings)


def test_rows_hold_the_truth_the_last_value_and_the_seasonal_error_of_the_whole_past(hourly):
    corpus = hourly(3, 120)
    backtest = Backtest(_panel(corpus, [Origin(2, 100), Origin(0, 90), Origin(0, 110)], seasonality=6))
    scored = backtest.naive
    assert scored.items == ("item-0", "item-2")
    assert scored.cutoff.tolist() == [90, 110, 100] and scored.rank.tolist() == [1, 0, 0]
    for row, (series, cutoff) in enumerate([(0, 90), (0, 110), (2, 100)]):
        values = corpus.values(series)[0].astype(np.float64)
        np.testing.assert_array_equal(scored.target[row], values[cutoff : cutoff + 4])
        seen = values[cutoff - 32 : cutoff]
        assert scored.last[row] == seen[np.isfinite(seen)][-1]
        assert scored.seasonal_error[row] == seasonal_errors(values[None], [cutoff], 6)[0, 0]
        assert scored.start[row] == corpus.times(series)[cutoff]
        assert scored.end[row] == corpus.times(series)[cutoff + 3]


def test_a_model_never_sees_the_truth(hourly, persistence):
    """The model of these tests repeats the truth if it gets it."""
    backtest = Backtest(_panel(hourly(2, 100), [Origin(0, 60), Origin(1, 50)]))
    found = backtest.forecast(persistence()).quantiles[:, :, backtest.levels.index(0.5)]
    np.testing.assert_allclose(found, np.repeat(backtest.naive.last[:, None], 4, 1), rtol=1e-6)


def test_known_covariates_reach_the_model_and_truth_does_not(persistence):
    rng = np.random.default_rng(0)
    corpus = Corpus.from_arrays(
        "c", [("a", rng.standard_normal((3, 60)).astype(np.float32), None)], ["y", "past", "known"]
    )
    selection = select(corpus, ["y"], ["past"], ["known"])
    panel = make_panel([corpus], [selection], [[Origin(0, 40)]], prediction_length=4, context_length=32, stride=4)
    seen = []

    class Spy(persistence):
        def collate(self, windows):
            seen.append(windows.future.copy())
            return super().collate(windows)

    Backtest(panel).forecast(Spy())
    assert np.isnan(seen[0][:2]).all()
    np.testing.assert_array_equal(seen[0][2], corpus.values(0)[2, 40:44])


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_forecasts_are_in_row_order_for_any_batch_size(hourly, persistence, batch_size):
    corpus = hourly(7, 150)
    origins = [Origin(i, c) for i in range(7) for c in (20, 40, 90)]
    whole = Backtest(_panel(corpus, origins))
    model = persistence(noise=1.0)  # different for every window
    small = Backtest(_panel(corpus, origins[::-1]), batch_size=batch_size)
    np.testing.assert_array_equal(small.forecast(model).quantiles, whole.forecast(model).quantiles)
    np.testing.assert_array_equal(small.naive.target, whole.naive.target)
    np.testing.assert_array_equal(small.naive.quantiles, whole.naive.quantiles)
    assert max(model.seen) > 1


def test_rows_with_nothing_to_start_from_or_to_score_are_left_out_and_counted(persistence):
    values = np.ones((3, 40), np.float32) * np.arange(40, dtype=np.float32)
    values[1, :30] = np.nan  # no history
    values[2, 30:] = np.nan  # no truth
    corpus = Corpus.from_arrays("c", [("a", values, None)], ["x", "y", "z"])
    backtest = Backtest(_panel(corpus, [Origin(0, 30)]))
    assert backtest.naive.items == ("a x",)
    assert backtest.forecast(persistence()).quantiles.shape == (1, 4, 9)
    assert {(left.reason, left.count, left.examples) for left in backtest.left_out} == {
        ("without a value to start from", 1, ("a y",)),
        ("without a value to score", 1, ("a z",)),
    }
    ref, target = backtest.row_ref(0)
    assert (ref.series, ref.cutoff, target) == (0, 30, 0)


def test_nothing_to_score_at_all_is_an_error(persistence):
    corpus = Corpus.from_arrays("c", [("a", np.full((1, 40), np.nan, np.float32), None)], ["x"])
    with pytest.raises(DataError, match="no window to score: 1 rows without a value to start from"):
        Backtest(_panel(corpus, [Origin(0, 30)]))
    with pytest.raises(DataError, match="no window to score"):
        _panel(corpus, [])


def test_several_corpora_are_pooled_and_their_items_stay_apart(hourly, persistence):
    corpora = [hourly(2, 100), hourly(2, 100, seed=1)]
    panel = make_panel(
        corpora,
        [select(c) for c in corpora],
        [[Origin(0, 50)], [Origin(0, 50)]],
        prediction_length=4,
        context_length=32,
        stride=4,
    )
    scored = Backtest(panel).naive
    assert len(scored) == 2 and len(scored.items) == 2
    np.testing.assert_array_equal(scored.target[1], corpora[1].values(0)[0, 50:54].astype(np.float64))


def test_levels_that_every_report_needs_are_added_and_impossible_ones_refused():
    assert with_needed([0.25, 0.30000000000000004]) == (0.1, 0.25, 0.3, 0.5, 0.9)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        with_needed([0.5, 1.0])


def test_an_unknown_baseline_is_refused(hourly):
    with pytest.raises(ConfigError, match=r"'arima' is not a baseline\. Did you mean 'auto_arima'"):
        Backtest(_panel(hourly(1, 60), [Origin(0, 40)]), baselines=["arima"])
