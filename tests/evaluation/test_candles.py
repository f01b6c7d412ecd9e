"""Candle charts: what is drawn where, judged by the drawn shapes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.evaluation.candles import MAX_BARS, Chart, candle_columns, draw_candles, plot_candles
from foretrain.evaluation.plots import style

H = 5
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]


def bars(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    close = 20 + rng.normal(0, 0.1, count).cumsum()
    opened = close + rng.normal(0, 0.05, count)
    return np.stack([opened, np.maximum(opened, close) + 0.05, np.minimum(opened, close) - 0.05, close], 1)


def chart(**changes) -> Chart:
    history, forecast = bars(30), bars(H, 1)
    close = forecast[:, 3:] + np.array([-0.4, -0.2, 0, 0.2, 0.4])
    fields = {"title": "ACME", "history": history, "forecast": forecast, "close": close, "levels": LEVELS}
    return Chart(**{**fields, **changes})


def drawn(*charts: Chart):
    with style():
        figure = draw_candles(charts)
    return figure


def frames(items: list[str], *, volume: bool = True, close: str = "close", numeric: bool = False):
    """History, candles and quantiles of some items, intraday over a night."""
    columns = ["open", "high", "low", close]
    history, candles, long = [], [], []
    days = [pd.date_range(f"2024-03-0{d} 09:30", periods=78, freq="5min") for d in (4, 5)]
    stamps = days[0].append(days[1])[: 120 + H]
    times = np.arange(len(stamps)) if numeric else stamps.to_numpy()
    for k, item in enumerate(items):
        values = pd.DataFrame(bars(120 + H, k), columns=columns).assign(item_id=item, timestamp=times)
        if volume:
            values["volume"] = np.arange(120.0 + H)
        history.append(values[:120])
        candles.append(values[120:])
        quantiles = {str(level): values[close][120:] + level - 0.5 for level in LEVELS}
        stamps_only = values[120:][["item_id", "timestamp"]]
        long.append(stamps_only.assign(target_name=close, predictions=quantiles["0.5"], **quantiles))
        long.append(stamps_only.assign(target_name="open", predictions=0.0, **dict.fromkeys(quantiles, 0.0)))
    return pd.concat(history), pd.concat(candles), pd.concat(long)


def test_every_bar_is_a_body_and_two_wicks_on_evenly_spaced_positions():
    one = chart()
    figure = drawn(one)
    (prices,) = figure.axes
    past, ahead = prices.containers
    centres = [patch.get_x() + patch.get_width() / 2 for patch in (*past, *ahead)]
    np.testing.assert_allclose(centres, np.arange(-29, H + 1))
    both = np.concatenate([one.history, one.forecast])
    np.testing.assert_allclose([p.get_y() for p in (*past, *ahead)], both[:, [0, 3]].min(1))
    np.testing.assert_allclose([p.get_height() for p in (*past, *ahead)], np.abs(both[:, 3] - both[:, 0]))
    wicks = [segment for lines in prices.collections[-4:] for segment in lines.get_segments()]
    ends = np.array([[segment[:, 1].min(), segment[:, 1].max()] for segment in wicks])
    np.testing.assert_allclose(np.sort(ends[:, 1])[-1], both[:, 1].max())
    np.testing.assert_allclose(ends[:, 0].min(), both[:, 2].min())


def test_rising_candles_are_hollow_and_forecast_has_its_own_tone():
    one = chart()
    past, ahead = drawn(one).axes[0].containers
    rose = one.history[:, 3] >= one.history[:, 0]
    hollow = [patch.get_facecolor()[:3] == (1, 1, 1) for patch in past]
    assert hollow == rose.tolist() and 0 < sum(hollow) < len(hollow)
    assert past[0].get_edgecolor() != ahead[0].get_edgecolor()


def test_the_fan_holds_the_quantiles_of_the_close_and_opens_at_the_last_close():
    one = chart()
    outer, inner = drawn(one).axes[0].collections[:2]
    for band, low, high in ((outer, 0, 4), (inner, 1, 3)):
        outline = band.get_paths()[0].vertices
        for step in range(H):
            heights = outline[outline[:, 0] == step + 1, 1]
            np.testing.assert_allclose([heights.min(), heights.max()], one.close[step, [low, high]])
        np.testing.assert_allclose(outline[outline[:, 0] == 0, 1], one.history[-1, 3])


def test_other_levels_make_one_band():
    figure = drawn(chart(close=chart().close[:, 1:4], levels=[0.3, 0.5, 0.8]))
    assert len(figure.axes[0].collections) == 1 + 4  # and the wicks
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "50% interval of the close"


def test_volumes_are_a_strip_below():
    volume = np.arange(30.0 + H)
    prices, strip = drawn(chart(volume=volume)).axes
    np.testing.assert_allclose([patch.get_height() for patch in strip.patches], volume)
    assert prices.get_position().y0 > strip.get_position().y1
    assert len(drawn(chart()).axes) == 1


def test_bars_without_a_price_are_left_out():
    history = bars(30)
    history[4, 1] = np.nan
    past, _ = drawn(chart(history=history)).axes[0].containers
    assert len(past) == 29


def test_the_newest_bars_are_shown_and_nights_leave_no_gap(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "foretrain.evaluation.candles.draw_candles", lambda charts: seen.extend(charts) or draw_candles(charts)
    )
    history, candles, long = frames(["b", "a"])
    plot_candles(history.sample(frac=1, random_state=0), candles, long, tmp_path / "c.png")
    assert [c.title for c in seen] == ["b", "a"]
    own = history[history.item_id == "a"]
    np.testing.assert_array_equal(seen[1].history[:, 3], own["close"].tail(MAX_BARS))
    np.testing.assert_array_equal(seen[1].volume, np.arange(120.0 + H)[-MAX_BARS - H :])
    np.testing.assert_array_equal(
        seen[1].close[:, 2], long[(long.item_id == "a") & (long.target_name == "close")]["0.5"]
    )
    strip = drawn(seen[0]).axes[1]
    stamps = seen[0].times.astype("datetime64[us]")
    for position, label in zip(strip.get_xticks(), strip.get_xticklabels(), strict=True):
        stamp = str(stamps[int(position) + MAX_BARS - 1])
        assert label.get_text().split("\n")[0] == stamp[11:16]
    assert len(strip.get_xticks()) >= 3


def test_the_close_of_another_forecast_is_a_named_line(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "foretrain.evaluation.candles.draw_candles", lambda charts: seen.extend(charts) or draw_candles(charts)
    )
    history, candles, long = (part.reset_index(drop=True) for part in frames(["a", "b"]))
    other = long.assign(predictions=np.arange(len(long)))
    plot_candles(history, candles, long, tmp_path / "c.png", beside=(other, "naive"))
    for one in seen:
        own = other[(other.item_id == one.title) & (other.target_name == "close")]
        np.testing.assert_array_equal(one.other, own["predictions"])
    figure = drawn(seen[0])
    assert any(np.array_equal(line.get_ydata(), seen[0].other) for line in figure.axes[0].lines)
    assert "close of naive" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("kind", "count"), [(".png", 1), (".png", 5), (".svg", 1), (".pdf", 1)])
def test_charts_are_written(tmp_path, kind, count):
    path = tmp_path / f"candles{kind}"
    plot_candles(*frames([f"item {k}" for k in range(count)], volume=count > 1), path, max_items=6)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_charts_without_a_calendar_and_with_other_spellings_are_written(tmp_path):
    plot_candles(*frames(["a"], close="Close", numeric=True), tmp_path / "candles.png")
    assert (tmp_path / "candles.png").exists()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    history, candles, long = frames(["a"])
    for broken, message in (
        ((history, candles, long, tmp_path / "c.bmp"), r"\.png, \.svg or \.pdf"),
        ((history, candles.iloc[:0], long, tmp_path / "c.png"), "nothing to draw"),
        ((history, candles.drop(columns="low"), long, tmp_path / "c.png"), "no open, high, low and close"),
    ):
        with pytest.raises(DataError, match=message):
            plot_candles(*broken)
    assert not list(tmp_path.iterdir())


def test_candle_columns_are_found_in_any_case():
    assert candle_columns(["Close", "low", "HIGH", "Open", "x", "vol"]) == {
        "open": "Open",
        "high": "HIGH",
        "low": "low",
        "close": "Close",
        "volume": "vol",
    }
    assert candle_columns(["close", "low", "high"]) is None


def test_few_bars_are_narrow_and_stand_off_the_edges():
    one = chart(history=bars(2), forecast=bars(1), close=bars(1)[:, 3:] + np.zeros(len(LEVELS)))
    (prices,) = drawn(one).axes
    bodies = [p for container in prices.containers for p in container.patches]
    assert max(body.get_width() for body in bodies) < 0.1
    low, high = prices.get_ylim()
    assert all(low < body.get_y() and body.get_y() + body.get_height() < high for body in bodies)


def test_a_constant_price_is_a_line_and_not_its_last_digits():
    flat = np.full((30, 4), 10.0)
    noise = 10 + 1e-5 * bars(H)
    one = chart(history=flat, forecast=noise, close=noise[:, 3:] + np.zeros(len(LEVELS)), volume=np.full(30 + H, -1e-6))
    figure = drawn(one)
    prices, strip = figure.axes
    low, high = prices.get_ylim()
    assert high - low >= 0.009 and low < 10 < high
    figure.canvas.draw()
    assert not prices.yaxis.get_major_formatter().get_offset()
    assert strip.get_ylim()[0] == 0 and strip.get_ylim()[1] >= 1, "volumes are not negative"
