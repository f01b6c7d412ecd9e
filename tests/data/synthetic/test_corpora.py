from __future__ import annotations

import numpy as np
import pytest

from foretrain.config import build
from foretrain.data.synthetic import OHLCV, SyntheticSpec, generate
from foretrain.errors import ConfigError

KINDS = ["seasonal", "trend", "random_walk", "ohlcv", "kernel", "mixed"]


def spec(**options) -> SyntheticSpec:
    return build(SyntheticSpec, {"num_series": 6, "length": 120, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_a_synthetic_corpus_is_marked_and_finite(kind):
    corpus = generate(spec(kind=kind))
    assert corpus.manifest.provenance["kind"] == "synthetic"
    assert corpus.num_series == 6
    assert corpus.lengths.tolist() == [120] * 6
    assert len(set(corpus.item_ids())) == 6
    for k in range(6):
        values = corpus.values(k)
        assert np.isfinite(values).all()
        assert values.std(axis=1).min() > 0
        assert len(corpus.times(k)) == 120


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_does_not_depend_on_the_number_of_series(kind):
    few = generate(spec(kind=kind, num_series=4, length=60, missing_fraction=0.2))
    many = generate(spec(kind=kind, num_series=9, length=60, missing_fraction=0.2))
    for k in range(4):
        assert np.array_equal(few.values(k), many.values(k), equal_nan=True)
    assert not np.array_equal(few.values(0), few.values(3), equal_nan=True)
    other = generate(spec(kind=kind, num_series=4, length=60, missing_fraction=0.2, seed=1))
    assert not np.array_equal(few.values(0), other.values(0), equal_nan=True)


def test_bars_are_consistent_and_on_business_days():
    corpus = generate(spec(kind="ohlcv", length=600, num_series=20))
    assert corpus.columns == OHLCV
    assert corpus.manifest.price_columns == OHLCV[:4]
    for k in range(20):
        opened, high, low, close, volume = corpus.values(k)
        assert (high >= np.maximum(opened, close)).all()
        assert (low <= np.minimum(opened, close)).all()
        assert low.min() > 0
        assert volume.min() > 0
        assert (volume == np.round(volume)).all()
    assert np.is_busday(corpus.times(0).astype("M8[us]").astype("M8[D]")).all()


def test_intraday_bars_are_inside_the_session():
    corpus = generate(spec(kind="ohlcv", freq="30min", num_series=1))
    clock = corpus.times(0).astype("M8[us]") - corpus.times(0).astype("M8[us]").astype("M8[D]")
    minutes = clock.astype("m8[m]").astype(int)
    assert (corpus.manifest.time, corpus.manifest.bars_per_session) == ("stamps", 13)
    assert (minutes.min(), minutes.max()) == (9 * 60 + 30, 15 * 60 + 30)
    assert np.is_busday(corpus.times(0).astype("M8[us]").astype("M8[D]")).all()


def test_missing_values_have_the_requested_share_and_whole_bars_are_missing():
    values = generate(spec(kind="seasonal", missing_fraction=0.3, num_series=50, num_variates=2)).values(0)
    assert values.shape == (2, 120)
    share = np.mean([np.isnan(generate(spec(missing_fraction=0.3, num_series=50)).values(k)).mean() for k in range(50)])
    assert abs(share - 0.3) < 0.03
    bars = generate(spec(kind="ohlcv", missing_fraction=0.3)).values(0)
    assert np.isnan(bars).any()
    assert (np.isnan(bars).all(axis=0) == np.isnan(bars).any(axis=0)).all()


def test_variates_of_a_series_share_a_component():
    corpus = generate(spec(kind="random_walk", num_variates=3, num_series=200, length=50))
    assert corpus.columns == ("target_0", "target_1", "target_2")
    steps = np.stack([np.diff(corpus.values(k)) for k in range(200)])
    scaled = steps / steps.std(axis=2, keepdims=True)
    assert 0.1 < (scaled[:, 0] * scaled[:, 1]).mean() < 0.4


def test_seasonal_series_repeat_by_their_frequency():
    corpus = generate(spec(kind="seasonal", length=480, freq="h"))
    for k in range(6):
        x = corpus.values(k)[0] - corpus.values(k)[0].mean()
        spectrum = np.abs(np.fft.rfft(x))
        daily = spectrum[480 // 24]
        assert daily > 3 * np.median(spectrum)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ohlcv", "num_variates": 2}, "num_variates cannot take effect"),
        ({"kind": "kernel", "length": 5000}, "at most 2048 steps"),
        ({"freq": "fortnight"}, "freq='fortnight'"),
        ({"kind": "noise"}, "kind"),
        ({"missing_fraction": 1.0}, "missing_fraction"),
    ],
)
def test_specs_that_cannot_take_effect_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        spec(**options)
