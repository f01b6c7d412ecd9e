"""Adjustment as of a date, from the factors of one series to the windows, frames and forecasts of an imported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.forecasting.quantiles import forecast_windows

from foretrain.data.asof import as_of
from foretrain.data.config import CorpusSpec, DataConfig
from foretrain.data.frames import corpus_frame
from foretrain.data.importers import import_corpus
from foretrain.data.market.adjustment import Events, adjusted, evidence, factors, later_splits
from foretrain.data.source import TrainingSource
from foretrain.data.splits import cut, select
from foretrain.data.store import Corpus

DAYS = 140
SPLITS = {40: 2.0, 90: 3.0, 120: 0.5}  # bar -> new shares for an old one
DIVIDENDS = {20: 0.8, 65: 0.5, 110: 1.1}
TARGETS = ("open", "high", "low", "close", "volume")


def bars(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (5, T) bars as traded, with the jumps of SPLITS, and (2, T) dividends and splits."""
    rng = np.random.default_rng(seed)
    close = 60 * np.exp(np.cumsum(rng.normal(0, 0.01, DAYS)))
    shares = np.ones(DAYS)
    for at, ratio in SPLITS.items():
        shares[at:] *= ratio
    opened = close * np.exp(rng.normal(0, 0.003, DAYS))
    prices = np.stack([opened, np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99, close]) / shares
    paid, split = np.zeros(DAYS), np.ones(DAYS)
    paid[list(DIVIDENDS)], split[list(SPLITS)] = list(DIVIDENDS.values()), list(SPLITS.values())
    return np.concatenate([prices, [rng.uniform(1e5, 2e5, DAYS) * shares]]), np.stack([paid, split])


def write(path: Path, *, last: int = DAYS, known: int = DAYS, style: str = "traded", extra: bool = True) -> Path:
    """Write bars up to `last`, with the events before bar `known`.

    style: "traded" has prices as traded and 1 for no split; "divided" what Yahoo gives: earlier prices, volumes and
    dividends in terms of all splits up to the last bar, and 0 for no split.
    """
    values, events = bars()
    values, events = values[:, :last].copy(), events[:, :last].copy()
    events[0, known:], events[1, known:] = 0, 1
    names = "Dividends,Stock Splits"
    if style == "divided":
        later = np.append(np.cumprod(events[1][::-1])[::-1][1:], 1.0)
        values[:4] /= later
        values[4] *= later
        events[0] /= later
        events[1] = np.where(events[1] == 1, 0, events[1])
    else:
        names = "Ex-Dividend,Split Ratio"
    day = np.datetime64("2024-01-01") + np.arange(last)
    lines = [f"Date,Open,High,Low,Close,Volume{',' + names if extra else ''}"]
    for k in range(last):
        cells = [f"{v:.9g}" for v in values[:, k]] + ([f"{v:.9g}" for v in events[:, k]] if extra else [])
        lines.append(",".join([str(day[k]), *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """Corpora of one file as it was at bar 80, and with what came later, in both styles."""
    folder = tmp_path_factory.mktemp("adjusted")
    found = {}
    for name, options in {
        "then": {"last": 80},
        "later": {},
        "without": {"known": 80},
        "divided": {"style": "divided"},
        "plain": {"extra": False},
    }.items():
        (folder / name).mkdir()
        import_corpus([write(folder / name / "A.csv", **options)], folder / name / "out")
        found[name] = Corpus.open(folder / name / "out")
    return found


def test_factors_are_the_product_of_the_events_up_to_a_bar() -> None:
    close = np.array([10, 10, 5, 5, 4.5, 4.5], np.float32)
    splits = np.array([0, 0, 2, np.nan, 0, 1], np.float32)
    price, volume = factors(close, Events.of(splits, np.array([0, 0, 0, 0, 0.5, 0], np.float32), 6))
    np.testing.assert_allclose(volume, [1, 1, 2, 2, 2, 2])
    np.testing.assert_allclose(price, [1, 1, 2, 2, 2 / 0.9, 2 / 0.9], rtol=1e-6)
    np.testing.assert_allclose(adjusted(close, price, 5), [4.5, 4.5, 4.5, 4.5, 4.5, 4.5], rtol=1e-6)
    assert adjusted(close, price, 3)[3] == close[3]


def test_a_dividend_on_the_day_of_a_split_is_paid_on_the_new_shares() -> None:
    close = np.array([100, 49], np.float32)
    price, _ = factors(close, Events.of(np.array([1, 2], np.float32), np.array([0, 1], np.float32), 2))
    np.testing.assert_allclose(price[1], 2 / (1 - 1 / 50), rtol=1e-6)


@pytest.mark.parametrize(("splits", "dividends"), [(1, 40), (1, -1), (-2, 0), (np.inf, 0), (1, np.inf), (2, 19)])
def test_events_that_cannot_be_have_no_effect(splits: float, dividends: float) -> None:
    close = np.full(3, 40, np.float32)
    events = Events.of(np.array([1, splits, 1], np.float32), np.array([0, dividends, 0], np.float32), 3)
    np.testing.assert_array_equal(events.impossible(close), [False, True, False])
    np.testing.assert_array_equal(factors(close, events), np.ones((2, 3)))


def test_prices_say_whether_they_have_been_adjusted_for_a_split() -> None:
    values, events = bars()
    known = Events.of(events[1], events[0], DAYS)
    jumps, flat = evidence(values[3], values[0], known)
    assert (jumps.sum(), flat.sum()) == (3, 0)
    jumps, flat = evidence(values[3] / later_splits(known), values[0] / later_splits(known), known)
    assert (jumps.sum(), flat.sum()) == (0, 3)


def test_a_window_is_bit_identical_whether_later_splits_and_dividends_are_known(corpora: dict[str, Corpus]) -> None:
    for cutoff in (30, 41, 66, 80):
        windows = [
            cut(corpora[name], select(corpora[name]), 0, cutoff, context_length=60, prediction_length=8)
            for name in ("then", "later", "without")
        ]
        assert all(np.array_equal(w.context, windows[0].context) for w in windows)
    assert not np.array_equal(corpora["later"].values(0)[3, :60], windows[0].context[3])  # splits before it count


@pytest.mark.parametrize("family", ["chronos2", "linear"])
def test_a_forecast_is_bit_identical_whether_later_splits_and_dividends_are_known(corpora, zoo, family: str) -> None:
    model = zoo.built(family).eval()
    found = []
    for name in ("then", "later", "without"):
        corpus = corpora[name]
        chosen = select(corpus, ["close"])
        windows = [cut(corpus, chosen, 0, cutoff, context_length=48, prediction_length=8) for cutoff in (60, 80)]
        found.append(forecast_windows(model, windows, 8, [0.1, 0.5, 0.9]))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert np.isfinite(found[0][0]).all()


def test_training_windows_are_those_of_evaluation_and_as_of_their_cutoff(corpora: dict[str, Corpus]) -> None:
    later = corpora["later"]
    config = DataConfig(
        corpora=(CorpusSpec(path=str(later.path)),), context_length=50, prediction_length=6, validation_steps=0,
        test_steps=0,
    )  # fmt: skip
    source = TrainingSource(config, 3)
    found = source.windows(0, 32)
    assert found.source is not None
    seen = 0
    for k, (_, series, cutoff) in enumerate(found.source.tolist()):
        window = cut(later, select(later), series, cutoff, context_length=50, prediction_length=6)
        rows = found.window == k
        have = window.context.shape[1]
        np.testing.assert_array_equal(found.context[rows][:, 50 - have :], window.context)
        np.testing.assert_array_equal(found.future[rows], window.future)
        np.testing.assert_array_equal(window.context[3, -1], later.values(0)[3, cutoff - 1])  # the price of that day
        assert np.abs(np.diff(np.log(window.context[3]))).max() < 0.15  # splits of 2, 3 and 1/2 are none
        seen += have
    assert seen


def test_frames_are_as_of_the_last_row_and_have_no_jumps(corpora: dict[str, Corpus]) -> None:
    close = corpus_frame(corpora["later"])["close"].to_numpy()
    assert close[-1] == corpora["later"].values(0)[3, -1]
    assert np.abs(np.diff(np.log(close))).max() < 0.15


def test_prices_divided_by_later_splits_are_stored_as_traded(corpora: dict[str, Corpus]) -> None:
    divided, traded = corpora["divided"], corpora["later"]
    assert divided.columns == traded.columns == (*TARGETS, "dividends", "stock_splits", "price_factor", "volume_factor")
    np.testing.assert_allclose(divided.values(0), traded.values(0), rtol=1e-6)


def test_events_factors_and_adjusted_prices_are_no_targets_unless_named(corpora: dict[str, Corpus], tmp_path) -> None:
    assert corpora["later"].manifest.default_targets == TARGETS
    assert corpora["plain"].manifest.adjustment is None
    values = corpora["plain"].values(0)
    assert as_of(corpora["plain"], values, 50) is values
    text = (write(tmp_path / "A.csv", extra=False)).read_text().splitlines()
    lines = [f"{text[0]},Adj Close", *(f"{line},{line.split(',')[4]}" for line in text[1:])]
    (tmp_path / "A.csv").write_text("\n".join(lines) + "\n")
    report = import_corpus([tmp_path / "A.csv"], tmp_path / "out")
    assert report.rules["adjusted_prices"]["items"] == 1
    assert Corpus.open(tmp_path / "out").manifest.default_targets == TARGETS
    import_corpus([tmp_path / "A.csv"], tmp_path / "named", target="adj_close")
    assert "adj_close" in Corpus.open(tmp_path / "named").manifest.default_targets


@pytest.mark.parametrize("style", ["traded", "divided"])
def test_an_update_after_a_split_continues_the_prices_as_traded(tmp_path: Path, style: str) -> None:
    import_corpus([write(tmp_path / "A.csv", last=80, style=style)], tmp_path / "out")
    import_corpus([write(tmp_path / "B.csv", style=style)], tmp_path / "whole", id_pattern="^(.)")
    (tmp_path / "new").mkdir()
    report = import_corpus([write(tmp_path / "new" / "A.csv", style=style)], tmp_path / "out", update=True)
    assert not report.rules["revised"]["items"]
    np.testing.assert_allclose(
        Corpus.open(tmp_path / "out").values(0), Corpus.open(tmp_path / "whole").values(0), rtol=2e-6
    )


def test_splits_that_only_some_prices_were_adjusted_for_are_named(tmp_path: Path) -> None:
    lines = write(tmp_path / "A.csv").read_text().splitlines()
    for k in range(1, 41):  # the first split is taken out of the prices, the others stay
        cells = lines[k].split(",")
        lines[k] = ",".join([cells[0], *(f"{float(v) / 2:.9g}" for v in cells[1:5]), *cells[5:]])
    (tmp_path / "A.csv").write_text("\n".join(lines) + "\n")
    report = import_corpus([tmp_path / "A.csv"], tmp_path / "out")
    assert report.rules["corporate_action"]["items"] == 1
    close = corpus_frame(Corpus.open(tmp_path / "out"))["close"].to_numpy()
    assert np.abs(np.diff(np.log(close))).max() < 0.15
