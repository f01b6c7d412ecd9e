"""Candles are consistent, and move, trade and pause as markets do."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.config import build, read_yaml
from foretrain.data.store import Corpus
from foretrain.data.synthetic.candles import COLUMNS, SESSIONS, Candles
from foretrain.data.synthetic.mixture import Lengths, Mixture, draw_block
from foretrain.data.synthetic.to_disk import write_corpus
from foretrain.errors import ConfigError
from foretrain.timeaxis.frequency import Frequency

ONE = (1.0, 1.0)
# constant volatility, no jumps, fine ticks, trade in every bar
CALM = {
    "wild": ONE, "clustering": (0.0, 0.0), "trend": (0.0, 0.0), "jumps": (1e-9, 1e-9), "smile": (0.0, 0.0),
    "digits": (8, 8), "idle": 0.0, "halted": 0.0, "volatility": (0.01, 0.01),
}  # fmt: skip


def bars(freq: str, length: int, count: int, **options) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return columns (N, T) by name, and times."""
    values, times = Candles(**options).bars(np.random.default_rng(4), count, Frequency.parse(freq), length)
    assert values.dtype == np.float32
    return dict(zip(COLUMNS, values.astype(np.float64).swapaxes(0, 1), strict=True)), times


def neighbours(values: np.ndarray) -> np.ndarray:
    """Return the autocorrelation of rows at lag 1."""
    centred = values - values.mean(axis=1, keepdims=True)
    return (centred[:, 1:] * centred[:, :-1]).mean(axis=1) / values.var(axis=1)


@pytest.mark.parametrize("freq", ["5min", "h", "D", "B", "W", "ME"])
def test_candles_are_consistent_in_float32(freq):
    found, times = bars(freq, 300, 150, digits=(1, 7), price=(1e-6, 1e6), halted=0.5, idle=0.5, volume=(1.0, 1e9))
    low, high, volume, amount = (found[name] for name in ("low", "high", "volume", "amount"))
    for price in ("open", "close"):
        assert (low <= found[price]).all()
        assert (found[price] <= high).all()
    assert (low > 0).all()
    assert (volume >= 0).all()
    traded = volume > 0
    paid = amount[traded] / volume[traded]
    assert (paid >= low[traded] * (1 - 1e-6)).all()
    assert (paid <= high[traded] * (1 + 1e-6)).all()
    assert (amount[~traded] == 0).all()
    assert (np.diff(times, axis=1) > 0).all()
    assert found["open"][:, 0].max() / found["open"][:, 0].min() > 1e9


def test_bars_without_trade_repeat_the_close_before():
    found, _ = bars("B", 400, 100, halted=1.0, halt=(20, 20), idle=0.5)
    still = found["volume"][:, 1:] == 0
    assert (still.sum(axis=1) > 0).all()
    for price in COLUMNS[:4]:
        assert (found[price][:, 1:][still] == found["close"][:, :-1][still]).all()
    found, _ = bars("B", 400, 100, halted=0.0, idle=0.0, volume=(1e6, 1e6))
    assert (found["volume"] > 0).all()


def test_high_and_low_are_the_extremes_of_a_continuous_path():
    found, _ = bars("B", 500, 100, **CALM)
    move, reach = np.log(found["close"] / found["open"]), np.log(found["high"] / found["low"])
    # the range of a Brownian path is sqrt(8 / pi) deviations of its move on average (Feller 1951)
    assert reach.mean() / move.std() == pytest.approx(np.sqrt(8 / np.pi), rel=0.01)
    assert move.std() == pytest.approx(0.01, rel=0.02)


def test_volatility_clusters_where_it_is_stochastic_and_returns_do_not():
    still, _ = bars("D", 800, 100, **CALM)
    moving, _ = bars("D", 800, 100, **(CALM | {"clustering": (0.6, 0.6), "wild": (2.0, 2.0)}))
    for found, low, high in ((still, -0.01, 0.01), (moving, 0.1, 0.4)):
        returns = np.diff(np.log(found["close"]), axis=1)
        assert abs(neighbours(returns).mean()) < 0.01
        assert low < neighbours(np.abs(returns)).mean() < high


def test_falls_raise_the_volatility_where_there_is_leverage():
    found, _ = bars("D", 800, 150, **(CALM | {"clustering": (0.5, 0.5), "leverage": (-0.6, -0.6)}))
    returns = np.diff(np.log(found["close"]), axis=1)
    later = np.abs(returns[:, 1:])
    fell = returns[:, :-1] < 0
    assert later[fell].mean() > 1.02 * later[~fell].mean()


def test_jumps_are_as_frequent_as_asked():
    found, _ = bars("D", 500, 100, **(CALM | {"jumps": (0.02, 0.02), "jump": (8.0, 8.0)}))
    moves = np.abs(np.diff(np.log(found["close"]), axis=1)) / 0.01
    assert (moves > 5).mean() == pytest.approx(0.02, rel=0.15)
    still, _ = bars("D", 500, 100, **CALM)
    assert (np.abs(np.diff(np.log(still["close"]), axis=1)) < 0.06).all()


def test_sessions_have_busy_ends_and_gaps_between_them():
    options = CALM | {"smile": (1.0, 1.0), "gap": (0.5, 0.5), "markets": ("one_session",), "volume": (1e6, 1e6)}
    found, times = bars("30min", 13 * 60, 100, **options)
    stamps = times.astype("M8[us]")
    minute = (stamps - stamps.astype("M8[D]")).astype("m8[m]").astype(int)
    moves = np.abs(np.log(found["close"] / found["open"]))
    for values in (moves, found["volume"]):
        opening, middle, closing = (values[minute == at].mean() for at in (570, 750, 930))
        assert opening > 1.2 * middle
        assert closing > 1.1 * middle
    gap = np.abs(np.log(found["open"][:, 1:] / found["close"][:, :-1]))
    night = np.diff(stamps.astype("M8[D]"), axis=1).astype(int) > 0
    assert gap[night].mean() > 10 * gap[~night].mean()


@pytest.mark.parametrize("market", SESSIONS)
def test_bars_lie_in_the_hours_of_their_market(market):
    _, times = bars("30min", 1000, 20, markets=(market,))
    stamps = times.astype("M8[us]")
    minute = (stamps - stamps.astype("M8[D]")).astype("m8[m]").astype(int)
    hours = [range(opening, closing, 30) for opening, closing in SESSIONS[market]]
    allowed = sorted(m for part in hours for m in part)
    assert sorted(set(minute.ravel())) == allowed
    if market == "always":
        assert (np.diff(times, axis=1) == 30 * 60_000_000).all()
        return
    assert np.is_busday(stamps.astype("M8[D]")).all()
    for row in stamps.astype("M8[D]"):  # every business day has all of its bars
        first, last = row[0], row[-1]
        assert len(set(row)) == np.busday_count(first, last + 1)
        assert set(np.unique(row, return_counts=True)[1][1:-1]) == {len(allowed)}


def test_volume_rises_with_the_move_of_its_bar():
    found, _ = bars("D", 400, 100, volume=(1e5, 1e5), idle=0.0, halted=0.0)
    move = np.abs(np.log(found["close"] / found["open"]))
    related = [np.corrcoef(a, b)[0, 1] for a, b in zip(move, np.log(found["volume"]), strict=True)]
    assert np.median(related) > 0.25
    assert np.mean(np.array(related) > 0) > 0.9


def test_trends_make_spells_of_one_direction():
    found, _ = bars("D", 600, 100, **(CALM | {"trend": (0.5, 0.5), "regime": (100.0, 100.0)}))
    months = np.diff(np.log(found["close"][:, ::30]), axis=1)
    still, _ = bars("D", 600, 100, **CALM)
    assert neighbours(months).mean() > neighbours(np.diff(np.log(still["close"][:, ::30]), axis=1)).mean() + 0.2


def mixture(**options) -> Mixture:
    chosen = {"generators": [{"kind": "candles"}], "lengths": [{"shortest": 60, "longest": 80}]} | options
    return build(Mixture, chosen)


@pytest.mark.parametrize(
    ("freq", "markets", "axis", "session"),
    [
        ("B", None, "regular", 1),
        ("W", None, "regular", 1),
        ("30min", ["always"], "regular", 48),
        ("30min", ["two_sessions"], "stamps", 8),
        ("30min", None, "stamps", None),
    ],
)
def test_a_corpus_of_candles_has_their_columns_and_stamps(tmp_path, freq, markets, axis, session):
    generator = {"kind": "candles"} | ({"markets": markets} if markets else {})
    chosen = mixture(columns="candles", freq=freq, generators=[generator], missing=0.3)
    written = write_corpus(chosen, tmp_path / "out", 600)
    assert (written.time, written.freq, written.bars_per_session) == (axis, Frequency.parse(freq).alias, session)
    assert written.provenance["kind"] == "synthetic"
    assert written.price_columns == COLUMNS[:4]
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.columns == COLUMNS
    block = draw_block(chosen, 1)
    assert block.times is not None
    assert np.array_equal(corpus.values(540), block.values[28], equal_nan=True)
    assert np.array_equal(corpus.times(540), block.times[28])
    missing = np.isnan(block.values)
    assert missing.any()
    assert (missing.any(axis=1) == missing.all(axis=1)).all()  # bars are missing whole


def test_the_shipped_config_makes_candles_of_every_market(pytestconfig):
    shipped = build(Mixture, read_yaml(pytestconfig.rootpath / "configs" / "synthetic" / "candles.yaml"))
    block = draw_block(shipped, 0, 64)
    assert block.values.shape[1] == len(COLUMNS)
    assert block.values.shape[2] >= 512
    assert block.times is not None
    steps = np.diff(block.times, axis=1) // 60_000_000
    assert 0.1 < (steps == 30).all(axis=1).mean() < 0.5  # those around the clock
    assert np.isfinite(block.values).all()


def test_a_mixture_of_one_column_takes_the_closes():
    block = draw_block(mixture(generators=[{"kind": "candles"}, {"kind": "arma"}], freq="D"), 0)
    assert block.values.ndim == 2
    assert (block.values[block.generator == 0] > 0)[~np.isnan(block.values[block.generator == 0])].all()
    assert draw_block(mixture(), 0).times is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"columns": "candles"}, "needs a freq"),
        ({"columns": "candles", "freq": "B", "generators": [{"kind": "candles"}, {"kind": "arma"}]}, "candles alone"),
        ({"columns": "candles", "freq": "30s"}, "whole minutes"),
        ({"columns": "candles", "freq": "B", "generators": [{"kind": "candles", "markets": ["always"]}]}, "markets"),
        ({"freq": "h", "generators": [{"kind": "candles", "markets": ["always"]}]}, "markets"),
        ({"generators": [{"kind": "candles", "markets": ["night"]}]}, "markets"),
        ({"freq": "fortnight"}, "fortnight"),
        ({"freq": "WOM-3FRI"}, "WOM-3FRI"),
        ({"freq": "YE", "lengths": [{"shortest": 2, "longest": 300}]}, "300 years"),
        ({"freq": "D", "generators": [{"kind": "calendar", "frequencies": {"D": 1.0}}]}, "no effect"),
        ({"columns": "ohlc"}, "columns"),
    ],
)
def test_settings_that_cannot_take_effect_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        mixture(**options)


def test_candles_of_long_series_are_simulated_in_pieces():
    block = draw_block(mixture(lengths=[Lengths(shortest=16_384, longest=16_384)], freq="B", columns="candles"), 0, 40)
    assert np.isfinite(block.values[:, :, 0]).all()
    assert len(np.unique(block.values[:, 0, 0])) == 40
