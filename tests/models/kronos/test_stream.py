"""Streams: bars appended to the KV caches against full passes over all bars with the same statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.kronos import plain
from tests.tolerance import WIDE

from foretrain.data.windows import Window, Windows, stack_windows
from foretrain.errors import ConfigError, DataError
from foretrain.models.kronos import inputs, stream
from foretrain.models.kronos.config import COLUMNS
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.generate import CandlePrompt, generate
from foretrain.models.kronos.options import KronosOptions
from foretrain.models.kronos.stream import KronosStream
from foretrain.models.request import ForecastRequest
from foretrain.notes import Code

MINUTE = 60_000_000
HORIZON = 6
TOTAL = 60
GREEDY = KronosOptions(top_k=1)


@pytest.fixture
def model() -> Kronos:
    return Kronos(*plain.networks())


@pytest.fixture
def wide() -> Kronos:
    """The model in float64: a stream and a full pass make the same sums in different orders."""
    network, tokenizer = plain.networks(dtype=torch.float64)
    tokenizer.embed.register_forward_pre_hook(lambda layer, given: (given[0].to(layer.weight.dtype),))  # float32 bars
    return Kronos(network, tokenizer)


def series(seed: int) -> np.ndarray:
    """(TOTAL, 6) candles."""
    rng = np.random.default_rng(seed)
    close = 100 + rng.standard_normal(TOTAL).cumsum()
    opened = close + 0.3 * rng.standard_normal(TOTAL)
    edge = rng.uniform(0.1, 0.5, TOTAL)
    volume = rng.uniform(1e3, 1e4, TOTAL)
    bars = [opened, np.maximum(opened, close) + edge, np.minimum(opened, close) - edge, close, volume, volume * close]
    return np.stack(bars, 1).astype(np.float32).astype(np.float64)


def times(seed: int) -> np.ndarray:
    return (28_487_460 + seed * 777 + 5 * np.arange(TOTAL)) * MINUTE


def windows_of(lengths: list[int], *, begin: int = 0, timed: bool = True, rows: int = 6) -> Windows:
    """Series 0, 1, ... from `begin` to their lengths."""
    made = [
        Window(
            series(seed)[begin:length, :rows].T.astype(np.float32),
            rows,
            context_times=times(seed)[begin:length] if timed else None,
            future_times=times(seed)[length : length + HORIZON] if timed else None,
            key=seed + 5,
            names=COLUMNS[:rows],
        )
        for seed, length in enumerate(lengths)
    ]
    return stack_windows(made, HORIZON)


def bars_between(first: list[int], last: list[int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Bars, times and counts to append."""
    counts = [b - a for a, b in zip(first, last, strict=True)]
    parts = [slice(a, a + max(counts)) for a in first]
    return (
        np.stack([series(seed)[part] for seed, part in enumerate(parts)]),
        np.stack([times(seed)[part] for seed, part in enumerate(parts)]),
        counts,
    )


def full_pass(model: Kronos, lengths: list[int], statistics, *, max_context: int) -> torch.Tensor:
    """Greedy candles (N, H, 6) of a fresh pass over all bars of each series, normalised with given statistics."""
    found = []
    for seed, length in enumerate(lengths):
        loc, scale = (x[seed : seed + 1] for x in statistics)
        bars = inputs.normalise(series(seed)[None, :length], loc, scale, model.config.clip)
        clocks = times(seed)[:length], times(seed)[length : length + HORIZON]
        stamps = [inputs.stamps_of(clock)[None] for clock in clocks]
        prompt = CandlePrompt(torch.from_numpy(bars), torch.tensor([0]), None, *(torch.from_numpy(x) for x in stamps))
        drawn = generate(
            model.network, model.tokenizer, prompt, HORIZON, num_samples=1, seed=0,
            options=KronosOptions(top_k=1, max_context=max_context),
        )  # fmt: skip
        found.append(drawn.bars[0, 0] * torch.from_numpy(scale).float() + torch.from_numpy(loc).float())
    return torch.stack(found)


def assert_candles(found: torch.Tensor, expected: torch.Tensor, scale: np.ndarray):
    """Float64 (N, S, H, 6) of one sample against (N, H, 6), in normalised units."""
    assert found.dtype == expected.dtype == torch.float64 and found.shape[1] == 1
    apart = (found[:, 0] - expected) / torch.from_numpy(scale)[:, None]
    assert float(apart.abs().max()) < WIDE


WAYS = {
    "bar by bar": ([12, 12], [[13, 13], [14, 14], [15, 15], [16, 16]]),
    "several at once": ([12, 12], [[15, 15], [16, 16], [22, 22]]),
    "different lengths": ([12, 7], [[13, 8], [16, 11]]),
    "different counts": ([12, 7, 12], [[12, 9, 13], [14, 10, 13], [14, 10, 20], [15, 18, 21]]),
    "different counts of even ones": ([9, 9], [[10, 12], [13, 12]]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_forecasts_as_a_full_pass_with_the_first_statistics(wide, way):
    lengths, steps = WAYS[way]
    growing = KronosStream(wide, windows_of(lengths), max_context=32)
    frozen = growing.statistics
    for new in steps:
        bars, clock, counts = bars_between(lengths, new)
        growing.append(bars, clock, counts)
        lengths = new
        expected = full_pass(wide, lengths, growing.statistics, max_context=32)
        assert_candles(growing.candles(HORIZON, options=GREEDY), expected, growing.statistics[1])
    assert all(np.array_equal(a, b) for a, b in zip(frozen, growing.statistics, strict=True))


def test_a_stream_has_the_scales_of_its_model(kit):
    windows, scales = windows_of([12, 9]), []
    for floor in ("upstream", "relative"):
        model = kit.predictor(scale_floor=floor)
        scales.append(KronosStream(model, windows).statistics[1].astype(np.float32))
        np.testing.assert_array_equal(scales[-1], model.collate(windows)["scale"].numpy())
    assert (scales[0] != scales[1]).any()


def test_appended_bars_have_the_tokens_of_a_full_pass(wide):
    growing = KronosStream(wide, windows_of([12, 7]), max_context=32)
    for first, last in (([12, 7], [14, 12]), ([14, 12], [20, 13])):
        growing.append(*bars_between(first, last))
    for seed, length in enumerate([20, 13]):
        loc, scale = (x[seed : seed + 1] for x in growing.statistics)
        bars = inputs.normalise(series(seed)[None, :length], loc, scale, wide.config.clip)
        s1, s2 = wide.tokenizer.pair(torch.from_numpy(bars))
        tokens = growing._series[seed].tokens
        assert np.array_equal(tokens[:, 0], s1[0]) and np.array_equal(tokens[:, 1], s2[0])


def test_right_after_opening_a_stream_draws_what_the_model_draws(wide):
    windows = windows_of([12, 7])
    batch = wide.collate(windows)
    growing, options = KronosStream(wide, windows, max_context=24), KronosOptions(max_context=24)
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=(0.1, 0.5), num_samples=3, seed=4)
    expected = wide.forecast(batch, request.changed(options=options))
    found = growing.forecast(request)
    torch.testing.assert_close(found.samples, expected.samples, rtol=WIDE, atol=WIDE)
    torch.testing.assert_close(found.quantiles, expected.quantiles, rtol=WIDE, atol=WIDE)


def test_forecasts_do_not_change_the_stream(model):
    asked, silent = (KronosStream(model, windows_of([12, 7]), max_context=16) for _ in range(2))
    for first, last in (([12, 7], [13, 9]), ([13, 9], [20, 18])):
        asked.candles(HORIZON, num_samples=3)
        asked.candles(20, num_samples=2, options=KronosOptions(mode="exact"))
        for growing in (asked, silent):
            growing.append(*bars_between(first, last))
    assert torch.equal(asked.candles(HORIZON, num_samples=3), silent.candles(HORIZON, num_samples=3))


def test_draws_change_with_every_bar(model):
    growing = KronosStream(model, windows_of([12]), max_context=32)
    keys = []
    for length in (12, 13, 14):
        growing.append(*bars_between([length], [length + 1]))
        keys.append(growing.candles(HORIZON, num_samples=4, seed=1))
    assert not torch.equal(keys[0], keys[1]) and not torch.equal(keys[1], keys[2])
    assert torch.equal(keys[2], growing.candles(HORIZON, num_samples=4, seed=1))


def test_in_a_rolled_stream_every_bar_attends_to_its_window(wide):
    """Against one pass over all tokens with a band in its mask."""
    growing = KronosStream(wide, windows_of([12, 12]), max_context=12)
    tokens, length = [series.tokens for series in growing._series], 12
    for count in (1, 5, 1, 11, 1, 1):
        growing.append(*bars_between([length] * 2, [length + count] * 2))
        tokens = [np.concatenate((a, b.tokens[-count:])) for a, b in zip(tokens, growing._series, strict=True)]
        length += count
        assert growing.rolled
        with torch.inference_mode():
            logits = growing._cache.first_logits()
        for seed in range(2):
            s1, s2 = torch.from_numpy(tokens[seed]).unbind(-1)
            stamps = torch.from_numpy(inputs.stamps_of(times(seed)[:length]))
            expected = plain.rolled_logits(wide.network, s1, s2, stamps, 12)[-1]
            torch.testing.assert_close(logits[seed, 0], expected, rtol=WIDE, atol=WIDE)


@pytest.mark.parametrize("counts", [[(1, 1)], [(3, 3)], [(1, 0), (0, 2), (1, 1)]])
def test_a_rolled_series_does_not_depend_on_the_batch_or_on_how_bars_are_appended(wide, counts):
    together = KronosStream(wide, windows_of([12, 9]), max_context=10)
    lengths = [12, 9]
    for step in range(12):
        new = [length + count for length, count in zip(lengths, counts[step % len(counts)], strict=True)]
        together.append(*bars_between(lengths, new))
        lengths = new
    single = KronosStream(wide, windows_of([12]), max_context=10)
    for last in range(12, lengths[0]):
        single.append(*bars_between([last], [last + 1]))
    found, expected = (x.candles(HORIZON, options=KronosOptions(top_k=1, mode="rolling")) for x in (together, single))
    assert_candles(found[:1], expected[:, 0], single.statistics[1])


def test_the_cache_of_a_rolled_stream_has_at_most_twice_its_window(model):
    growing = KronosStream(model, windows_of([12, 9]), max_context=10)
    lengths = [12, 9]
    for step in range(40):
        new = [lengths[0] + 1, lengths[1] + step % 2]
        growing.append(*bars_between(lengths, new))
        lengths = new
        assert max(growing._encoder.length, growing._cache.transformer.length) <= 2 * 12
    assert {len(series.tokens) for series in growing._series} == {
        12
    }  # the bars of the first context, the encoder's window


def test_exact_forecasts_of_a_rolled_stream_recompute_the_window(wide):
    growing = KronosStream(wide, windows_of([12]), max_context=12)
    growing.append(*bars_between([12], [30]))
    tokens = torch.from_numpy(growing._series[0].tokens[-12:])[None]
    stamps = torch.from_numpy(inputs.stamps_of(times(0)[18:30]))[None]
    logits, hidden = wide.network.decode_s1(tokens[..., 0], tokens[..., 1], stamps)
    s1 = logits[:, -1:].argmax(-1)
    s2 = wide.network.decode_s2(hidden, s1)[:, -1:].argmax(-1)
    both = torch.cat((tokens, torch.stack((s1, s2), -1)), 1)[:, 1:]
    bar = wide.tokenizer.decode((both[..., 0], both[..., 1]), half=True)[0, -1]
    loc, scale = (torch.from_numpy(x[0]).float() for x in growing.statistics)
    found = growing.candles(1, options=GREEDY)
    assert_candles(found, (bar.detach() * scale + loc)[None, None], growing.statistics[1])


def test_an_anchored_stream_equals_one_opened_at_the_newest_bars(wide):
    growing = KronosStream(wide, windows_of([12, 9]), max_context=10, re_anchor_every=6)
    frozen = growing.statistics[0].copy()
    lengths = [12, 9]
    for new in ([14, 11], [17, 14], [18, 15]):
        assert np.array_equal(growing.statistics[0], frozen)
        growing.append(*bars_between(lengths, new))
        lengths = new
    assert not np.array_equal(growing.statistics[0], frozen)
    made = [
        Window(series(n)[k - 10 : k].T.astype(np.float32), 6, context_times=times(n)[k - 10 : k], key=n, names=COLUMNS)
        for n, k in enumerate(lengths)
    ]
    fresh = KronosStream(wide, stack_windows(made, 1), max_context=10)
    np.testing.assert_allclose(growing.statistics, fresh.statistics, rtol=1e-12)
    found, expected = (x.candles(HORIZON, options=GREEDY) for x in (growing, fresh))
    assert_candles(found, expected[:, 0], fresh.statistics[1])


def test_caches_are_recomputed_after_max_position_bars_with_unchanged_statistics(model, monkeypatch):
    monkeypatch.setattr(stream, "MAX_POSITION", 8)
    growing = KronosStream(model, windows_of([12]), max_context=12)
    frozen = growing.statistics[0].copy()
    for last in range(12, 20):
        growing.append(*bars_between([last], [last + 1]))
    assert not growing.rolled and np.array_equal(growing.statistics[0], frozen)
    assert growing._cache.transformer.next_position == 12


def test_missing_values_are_filled_forward(model):
    holed, whole = (KronosStream(model, windows_of([12]), max_context=32) for _ in range(2))
    bars, clock, _ = bars_between([12], [15])
    filled = bars.copy()
    filled[0, 0, 1], filled[0, 1:, 3] = series(0)[11, 1], bars[0, 0, 3]
    bars[0, 0, 1], bars[0, 1, 3], bars[0, 2, 3] = np.nan, np.inf, np.nan
    holed.append(bars, clock)
    whole.append(filled, clock)
    assert torch.equal(holed.candles(HORIZON, num_samples=2), whole.candles(HORIZON, num_samples=2))


@pytest.mark.parametrize("timed", [True, False])
def test_windows_can_be_appended(model, timed):
    plainly, as_windows = (KronosStream(model, windows_of([12, 8], timed=timed), max_context=32) for _ in range(2))
    bars, clock, counts = bars_between([12, 8], [15, 9])
    plainly.append(bars, clock if timed else None, counts)
    new = [
        Window(series(n)[a:b].T.astype(np.float32), 6, context_times=times(n)[a:b] if timed else None, names=COLUMNS)
        for n, (a, b) in enumerate(((12, 15), (8, 9)))
    ]
    as_windows.append(stack_windows(new, 1))
    assert torch.equal(plainly.candles(HORIZON, num_samples=2), as_windows.candles(HORIZON, num_samples=2))


def test_prices_alone_stay_without_volume(model):
    growing = KronosStream(model, windows_of([12], rows=4), max_context=32)
    bars, clock, _ = bars_between([12], [14])
    bars[..., 4:] = np.nan
    growing.append(bars, clock)
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=(0.5,), num_samples=2)
    assert growing.forecast(request).quantiles.shape == (4, HORIZON, 1)
    assert np.isnan(growing._series[0].bars[:, 4:]).all()  # stored as NaN, filled with 0 when they are normalised


def test_future_times_are_spaced_like_the_newest_bars_unless_given(model):
    growing = KronosStream(model, windows_of([12]), max_context=32)
    growing.append(*bars_between([12], [14]))
    ahead = times(0)[None, 14 : 14 + HORIZON]
    found, given, other = (
        growing.candles(HORIZON, options=GREEDY, future_times=x) for x in (None, ahead, ahead + 999 * MINUTE)
    )
    assert torch.equal(found, given) and not torch.equal(found, other)


def test_an_empty_append_changes_nothing(model):
    growing = KronosStream(model, windows_of([12]), max_context=32)
    before = growing.candles(HORIZON, num_samples=2)
    growing.append(np.empty((1, 0, 6)), np.empty((1, 0), np.int64))
    growing.append(*bars_between([12], [13])[:2], counts=[0])
    assert torch.equal(before, growing.candles(HORIZON, num_samples=2))


@pytest.mark.parametrize(
    ("bars", "clock", "counts", "said"),
    [
        (np.zeros((2, 6)), times(0)[12:14], None, "shape"),
        (np.zeros((1, 2, 5)), times(0)[None, 12:14], None, "shape"),
        (np.zeros((1, 6)), None, None, "need times"),
        (np.zeros((1, 2, 6)), times(0)[None, 12:13], None, "1 times"),
        (np.zeros((1, 6)), times(0)[11:12], None, "come after"),
        (np.zeros((1, 2, 6)), times(0)[None, [13, 12]], None, "come after"),
        (np.zeros((1, 2, 6)), times(0)[None, 12:14], [3], "counts"),
    ],
)
def test_invalid_bars_to_append_are_refused(model, bars, clock, counts, said):
    growing = KronosStream(model, windows_of([12]))
    with pytest.raises(DataError, match=said):
        growing.append(bars, clock, counts)


def test_invalid_settings_are_refused(model):
    with pytest.raises(ConfigError, match="re_anchor_every is 0"):
        KronosStream(model, windows_of([12]), re_anchor_every=0)
    growing = KronosStream(model, windows_of([12]), max_context=16)
    with pytest.raises(ConfigError, match="opened with 16"):
        growing.candles(3, options=KronosOptions(max_context=8))
    with pytest.raises(DataError, match="future_times"):
        growing.candles(3, future_times=times(0)[None, :2])
    with pytest.raises(DataError, match="had none"):
        KronosStream(model, windows_of([12], timed=False)).append(np.zeros((1, 6)), times(0)[12:13])


def test_candles_are_repaired_on_request(model):
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=(0.5,), num_samples=4, repair_candles=True)
    found = KronosStream(model, windows_of([12])).forecast(request)
    (tally,) = found.notes
    assert tally.code == Code.CANDLES_REPAIRED
    assert tally.counts["candles"] == 4 * HORIZON and tally.counts["repaired candles"] > 0
