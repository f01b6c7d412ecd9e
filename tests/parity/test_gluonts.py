"""Metrics and seasonalities compared with gluonts, on random cases with missing values, zeros and short series."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from foretrain.evaluation import metrics
from foretrain.evaluation.scored import Scored, seasonal_errors
from foretrain.timeaxis.frequency import seasonality

pytestmark = pytest.mark.parity
gluonts = pytest.importorskip("gluonts")

LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))


def _case(seed: int, *, missing: float, season: int, horizon: int = 7, rows: int = 12):
    """Whole series (past + future), forecasts, and our metrics of them."""
    rng = np.random.default_rng(seed)
    series, forecasts, errors = [], [], []
    for row in range(rows):
        length = int(rng.integers(2, 4 * season + 3))
        values = np.cumsum(rng.standard_normal(length + horizon)).astype(np.float32).astype(np.float64)
        if row % 4 == 1:
            values = np.maximum(np.round(values), 0.0)  # counts, many of them zero
        if row % 4 == 2:
            values[:length] = 3.0  # no seasonal error
        values[rng.random(len(values)) < missing] = np.nan
        if missing and row == 4:
            values[-horizon:] = np.nan  # nothing to score
        series.append(values)
        forecasts.append(np.sort(rng.standard_normal((horizon, len(LEVELS))), axis=1) * 2)
        errors.append(seasonal_errors(values[None], [length], season)[0, 0])
    target = np.stack([values[-horizon:] for values in series])
    forecasts[1][0] = 0.0
    scored = Scored(
        target=target,
        quantiles=np.stack(forecasts),
        levels=LEVELS,
        last=np.zeros(rows),
        seasonal_error=np.array(errors),
        item=np.arange(rows),
        items=tuple(str(row) for row in range(rows)),
        unit=("value",) * rows,
        price=np.zeros(rows, bool),
        cutoff=np.zeros(rows, np.int64),
        rank=np.zeros(rows, np.int64),
        start=np.zeros(rows, np.int64),
        end=np.zeros(rows, np.int64),
        stride=horizon,
    )
    return series, scored


def _gluonts(series, scored: Scored, season: int):
    import pandas as pd
    from gluonts.evaluation import Evaluator
    from gluonts.model.forecast import QuantileForecast

    horizon = scored.horizon
    frames, forecasts = [], []
    for values, quantiles in zip(series, scored.quantiles, strict=True):
        index = pd.period_range("2020-01-01", periods=len(values), freq="h")
        frames.append(pd.Series(values, index=index))
        forecasts.append(
            QuantileForecast(
                forecast_arrays=quantiles.T,
                forecast_keys=[str(level) for level in LEVELS],
                start_date=index[-horizon],
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of masked elements, and of gluonts' choice of JSON library
        return Evaluator(LEVELS, seasonality=season, num_workers=0)(frames, forecasts)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_metrics_agree_with_gluonts(seed, missing):
    season = (1, 3, 24)[seed % 3]
    series, scored = _case(seed, missing=missing, season=season)
    totals, rows = _gluonts(series, scored, season)
    ours = metrics.pooled(scored)
    assert ours["wql"] == pytest.approx(totals["mean_wQuantileLoss"], rel=1e-6)
    assert ours["smape_pct"] == pytest.approx(100 * totals["sMAPE"], rel=1e-6)
    single = metrics.per_item(scored)
    defined = np.isfinite(single["mase"])
    theirs = rows["MASE"].to_numpy(np.float64)
    assert np.array_equal(defined, np.isfinite(theirs) & (rows["seasonal_error"].to_numpy(np.float64) > 0))
    assert defined.any() and not defined.all()
    np.testing.assert_allclose(single["mase"][defined], theirs[defined], rtol=1e-6)
    assert ours["mase"] == pytest.approx(theirs[defined].mean(), rel=1e-6)
    losses = sum(rows[f"QuantileLoss[{level}]"].to_numpy(np.float64) for level in LEVELS)
    size = rows["abs_target_sum"].to_numpy(np.float64)
    some = np.isfinite(size) & (size > 0)
    np.testing.assert_allclose(single["wql"][some], losses[some] / size[some] / len(LEVELS), rtol=1e-6)
    if not missing:
        assert ours["rmse"] == pytest.approx(totals["RMSE"], rel=1e-6)
        shares = metrics.calibration(scored)
        np.testing.assert_allclose(shares, [totals[f"Coverage[{level}]"] for level in LEVELS], rtol=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_seasonal_error_agrees_with_gluonts_at_every_cutoff(missing):
    from gluonts.evaluation.metrics import calculate_seasonal_error

    rng = np.random.default_rng(5)
    values = rng.standard_normal((1, 40))
    values[rng.random(values.shape) < missing] = np.nan
    cutoffs = np.arange(2, 41)
    for season in (1, 4, 30):
        ours = seasonal_errors(values, cutoffs, season)[:, 0]
        theirs = [
            np.ma.filled(calculate_seasonal_error(np.ma.masked_invalid(values[0, :c]), None, season), np.nan)
            for c in cutoffs
        ]
        np.testing.assert_allclose(ours, np.array(theirs, np.float64), rtol=1e-9)


@pytest.mark.parametrize("freq", ["h", "2h", "5h", "15min", "30min", "D", "B", "W-SUN", "MS", "ME", "QS", "QE", "YS"])
def test_seasonality_is_gluonts(freq):
    from gluonts.time_feature import get_seasonality

    assert seasonality(freq) == get_seasonality(freq)
