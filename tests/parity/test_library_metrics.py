"""The metrics that are named after gluonts, and the seasonal naive of mode `point`, beside gluonts itself."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.evaluation.library_metrics import Instances, gluonts_metrics, gluonts_seasonal_error
from foretrain.suites.naive import POINT, seasonal_naive

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
gluonts = pytest.importorskip("gluonts")

LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))


def _case(seed: int, season: int, missing: float, horizon: int = 6, rows: int = 14):
    """Series (past + future, with holes, constant and short ones) and random forecasts of their futures."""
    rng = np.random.default_rng(seed)
    series = []
    for row in range(rows):
        length = int(rng.integers(2, 3 * season + 4))
        values = np.cumsum(rng.standard_normal(length + horizon)).astype(np.float32).astype(np.float64)
        if row % 5 == 1:
            values = np.maximum(np.round(values), 0.0)
        if row % 5 == 2:
            values[:length] = 3.0
        values[rng.random(len(values)) < missing] = np.nan
        series.append(values)
    return series, np.sort(rng.standard_normal((rows, horizon, len(LEVELS))), axis=2)


def _theirs(series, quantiles, season: int) -> dict[str, float]:
    import pandas as pd
    from gluonts.dataset.split import split
    from gluonts.ev import metrics as ev
    from gluonts.model.evaluation import evaluate_forecasts
    from gluonts.model.forecast import QuantileForecast

    horizon = quantiles.shape[1]
    data = [{"start": pd.Period("2020-01-01", "h"), "target": values} for values in series]
    _, template = split(data, offset=-horizon)
    forecasts = [
        QuantileForecast(
            forecast_arrays=np.vstack([rows.T, rows[:, 4]]),
            forecast_keys=[*map(str, LEVELS), "mean"],
            start_date=pd.Period("2020-01-01", "h") + len(values) - horizon,
        )
        for values, rows in zip(series, quantiles, strict=True)
    ]
    wanted = [
        ev.MSE(forecast_type="mean"), ev.MSE(forecast_type=0.5), ev.MAE(), ev.MASE(), ev.MAPE(), ev.SMAPE(), ev.MSIS(),
        ev.RMSE(), ev.NRMSE(), ev.ND(), ev.MeanWeightedSumQuantileLoss(quantile_levels=list(LEVELS)),
    ]  # fmt: skip
    found = evaluate_forecasts(
        forecasts, test_data=template.generate_instances(horizon), metrics=wanted, seasonality=season, batch_size=5
    )
    return found.iloc[0].to_dict()


@pytest.mark.parametrize("season", [1, 5])
@pytest.mark.parametrize("missing", [0.0, 0.15])
@pytest.mark.parametrize("seed", range(3))
def test_all_metrics_of_gift_eval_s_table_equal_those_of_gluonts(seed: int, missing: float, season: int):
    series, quantiles = _case(seed, season, missing)
    horizon = quantiles.shape[1]
    rows = Instances(
        target=np.stack([values[-horizon:] for values in series]),
        point=quantiles[:, :, 4],
        quantiles=quantiles,
        levels=LEVELS,
        seasonal_error=np.array([gluonts_seasonal_error(values[:-horizon], season) for values in series]),
        variate=np.zeros(len(series), np.int64),
        window=np.zeros(len(series), np.int64),
    )
    theirs = _theirs(series, quantiles, season)
    ours = gluonts_metrics(rows)
    assert set(ours) == set(theirs)
    assert ours == pytest.approx(theirs, rel=1e-6)  # gluonts extrapolates tails with 1e-8 in its logarithms


@pytest.mark.parametrize("season", [1, 4, 30])
def test_the_seasonal_naive_of_chronos_tables_is_that_of_gluonts(season: int):
    import pandas as pd
    from gluonts.model.seasonal_naive import SeasonalNaivePredictor

    history = np.random.default_rng(season).standard_normal(17)
    predictor = SeasonalNaivePredictor(prediction_length=9, season_length=season)
    theirs = next(iter(predictor.predict([{"start": pd.Period("2020-01", "M"), "target": history}])))
    ours = seasonal_naive(history, season, 9, LEVELS, POINT)
    np.testing.assert_allclose(ours, np.tile(theirs.quantile(0.5), (1 + len(LEVELS), 1)), rtol=1e-6)
