"""Streaming forecasts: new bars are appended to the KV caches, without another pass over the context.

The statistics stay those of the first context. While a series fits max_context, tokens and forecasts equal those of a
full pass over all its bars. A longer series rolls: the predictor's states depend on bars that have left its window, and
so do the encoder's, whose window has as many bars, or as many as the first context if that was longer.
re_anchor_every recomputes caches and statistics from the newest max_context bars after that many appended bars.

# N series, C bars of the first context, k new bars, M = max_context, H horizon, S samples, Q levels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from foretrain.data.permutation import hash64
from foretrain.data.windows import NO_TIME, IntArray, Windows
from foretrain.errors import ConfigError, DataError
from foretrain.models.kronos import inputs
from foretrain.models.kronos.cache import CachedBlocks
from foretrain.models.kronos.config import COLUMNS, PRICES
from foretrain.models.kronos.generate import Generated, TokenizedPrompt, eval_inference, generate_from_tokens
from foretrain.models.kronos.inputs import Float64Array
from foretrain.models.kronos.model import KronosNetwork
from foretrain.models.kronos.options import KronosOptions, sample_counts
from foretrain.models.kronos.paths import summarise
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.request import ForecastRequest
from foretrain.models.types import Forecast
from foretrain.timeaxis.future import continue_stamps

# Rotary angles are float32, whose rounding error at 2^14 radians is 0.001. After this many bars the caches are
# recomputed, with the statistics unchanged.
MAX_POSITION = 2**14


@dataclass
class _Series:
    """The newest bars of one series."""

    bars: Float64Array  # (k, 6) with gaps filled; NaN before the first value
    times: IntArray | None  # (k,) microseconds
    tokens: IntArray  # (k, 2)

    def append(self, bars: Float64Array, times: IntArray | None, tokens: IntArray, limit: int) -> None:
        """Append bars; only the newest `limit` are stored."""
        self.bars = np.concatenate((self.bars, bars))[-limit:]
        self.tokens = np.concatenate((self.tokens, tokens))[-limit:]
        if self.times is not None and times is not None:
            self.times = np.concatenate((self.times, times))[-limit:]


class TokenPredictor(Protocol):
    """A predictor network with its frozen tokenizer."""

    network: KronosNetwork

    @property
    def tokenizer(self) -> TokenizerNetwork:
        """The frozen tokenizer."""
        ...


class KronosStream:
    """A batch of growing series with the model's KV caches."""

    def __init__(
        self,
        model: TokenPredictor,
        windows: Windows,
        *,
        max_context: int | None = None,
        re_anchor_every: int | None = None,
    ) -> None:
        """Fill the caches from the windows' contexts, with time stamps if the windows have times.

        max_context: bars the predictor attends to; None = the model's own. Raises DataError for windows without
        candles, ConfigError for a max_context or re_anchor_every below 1.
        """
        for name, value in (("max_context", max_context), ("re_anchor_every", re_anchor_every)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it counts bars and is at least 1.")
        self.model = model
        self.max_context = max_context or model.network.config.max_context
        self.re_anchor_every = re_anchor_every
        raw, self._targets, _ = inputs.candles_of(windows)
        filled = inputs.fill_forward(raw[:, : windows.context.shape[1]])
        self._encoder_window = max(self.max_context, filled.shape[1])  # bars
        self._keys = windows.key
        self._appended = np.zeros(len(windows), np.int64)  # bars of each series, since the start
        self._bars_since_anchor = 0  # most bars appended to a series since the statistics were computed
        self._positive = inputs.positive_prices(windows)
        self._prefill(filled, windows.context_times, frozen=False)

    @property
    def defaults(self) -> dict[str, Any]:
        """Default forecast options that differ from those of KronosOptions."""
        return {"mode": "rolling"}

    def __len__(self) -> int:
        """Number of series (N)."""
        return len(self._keys)

    @property
    def rolled(self) -> bool:
        """True if a series has exceeded max_context since the last prefill."""
        return int(self._cache_lengths.max()) > self.max_context

    @property
    def statistics(self) -> tuple[Float64Array, Float64Array]:
        """loc and scale (N, 6) in use: a bar is normalised * scale + loc."""
        return self._loc, self._scale

    def append(
        self, bars: np.ndarray | Windows, times: IntArray | None = None, counts: Sequence[int] | None = None
    ) -> None:
        """Append new bars to the series and the KV caches.

        Args:
            bars: (N, 6) or (N, k, 6) open, high, low, close, volume, amount; NaN = the column's previous value. Or
                windows whose contexts are the new bars, with their times.
            times: (N,) or (N, k) microseconds; required if the first windows had times, else None.
            counts: (N,) number of the k bars that are real, the first ones (for windows the last ones); None = all
                (for windows all that are not padding).

        Raises DataError for wrong shapes and for times that do not increase.
        """
        if isinstance(bars, Windows):
            bars, times, counts = _from_windows(bars, counts)
        raw, new_times, count = self._checked(bars, times, counts)
        if not count.any():
            return
        last = np.stack([series.bars[-1] for series in self._series])
        filled = inputs.fill_forward(np.concatenate((last[:, None], raw), 1))[:, 1:]
        new = np.arange(raw.shape[1]) < count[:, None]
        self._positive &= ~((raw[..., : len(PRICES)] <= 0) & new[..., None]).any((1, 2))
        self._appended += count
        self._bars_since_anchor += int(count.max())
        self._bars_since_prefill += int(count.max())
        if self.re_anchor_every is not None and self._bars_since_anchor >= self.re_anchor_every:
            self._store(filled, new_times, np.zeros((*raw.shape[:2], 2), np.int64), count)
            self._prefill(*self._last_bars(self.max_context), frozen=False)
            return
        self._store(filled, new_times, self._extend(filled, new_times, count), count)
        if self._bars_since_prefill >= MAX_POSITION:
            self._prefill(*self._last_bars(self._encoder_window), frozen=True)

    def forecast(self, request: ForecastRequest, *, future_times: IntArray | None = None) -> Forecast:
        """As Kronos.forecast, of the target rows of the first windows; see candles."""
        options = request.options_of(KronosOptions) if request.options else KronosOptions(**self.defaults)
        candles = self.candles(
            request.prediction_length,
            num_samples=request.num_samples,
            seed=request.seed,
            options=options,
            future_times=future_times,
        )
        window, column = (torch.from_numpy(x).to(candles.device) for x in self._targets)
        positive = torch.from_numpy(self._positive).to(candles.device)
        repairs = bool(request.repair_candles)
        return summarise(candles, (window, column), request.quantile_levels, repairs=repairs, positive=positive)

    def candles(
        self,
        prediction_length: int,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        options: KronosOptions | None = None,
        future_times: IntArray | None = None,
    ) -> Tensor:
        """Sample candles (N, S, H, 6) after the newest bars, from the KV caches; the stream does not change.

        options: None = mode "rolling". With mode "exact" the predictor recomputes its window if the stream has rolled,
        and for every bar beyond max_context. future_times: (N, H) microseconds; None = spaced as the newest bars. Draws
        depend on the seed, the first window's key and the number of appended bars.
        """
        options = options or KronosOptions(**self.defaults)
        if options.max_context not in (None, self.max_context):
            raise ConfigError(
                f"max_context is {options.max_context}, but this stream was opened with {self.max_context}."
            )
        drawn, asked = sample_counts(num_samples, options)
        options = replace(options, max_context=self.max_context)
        bars = self._generate(prediction_length, drawn, seed, options, future_times).bars
        loc, scale = (self._tensor(x.astype(np.float32))[:, None, None] for x in self.statistics)
        return (bars * scale + loc).expand(-1, asked, -1, -1)

    def _generate(
        self, steps: int, samples: int, seed: int, options: KronosOptions, future_times: IntArray | None
    ) -> Generated:
        network, tokenizer = self.model.network, self.model.tokenizer
        tokens = _from_left([series.tokens[-self.max_context :] for series in self._series])
        s1, s2 = self._tensor(tokens).unbind(-1)
        lengths = [min(len(series.tokens), self.max_context) for series in self._series]
        keys = np.where(self._appended > 0, hash64(self._keys, self._appended), self._keys)
        with eval_inference(network, tokenizer):
            ahead, known = None, None
            if self._timed:
                ahead = network.time_emb(self._tensor(inputs.stamps_of(self._future_times(steps, future_times))))
            if options.mode == "exact" or options.re_anchor_every is not None:
                context_times = [x.times[-self.max_context :] for x in self._series if x.times is not None]
                known = network.embed(
                    s1, s2, self._tensor(inputs.stamps_of(_from_left(context_times))) if context_times else None
                )
            ragged = min(lengths) < max(lengths)
            source = TokenizedPrompt(
                s1, s2, known, self._tensor(keys.view(np.int64)), ahead, lengths if ragged else None
            )
            cache = None if self.rolled and options.mode == "exact" else self._cache
            return generate_from_tokens(
                network, tokenizer, source, steps, num_samples=samples, seed=seed, options=options, cache=cache
            )

    def _prefill(self, filled: Float64Array, times: IntArray | None, *, frozen: bool) -> None:
        """Recompute the caches from bars (N, C, 6), left-padded with NaN; the statistics too unless frozen."""
        statistics = self.statistics if frozen else None
        config = self.model.network.config
        contexts = inputs.prepare_contexts(
            filled, inputs.complete(filled), times, config.clip, statistics, relative=config.relative
        )
        self._loc, self._scale = contexts.loc, contexts.scale
        network, tokenizer, context = self.model.network, self.model.tokenizer, contexts.entries["context"]
        stamps, lengths = contexts.entries.get("context_stamps"), contexts.entries.get("lengths")
        count = [context.shape[1]] * len(self) if lengths is None else lengths.tolist()
        self._encoder = CachedBlocks(tokenizer.encoder, self._encoder_window)  # type: ignore[arg-type]
        with eval_inference(network, tokenizer):
            with torch.autocast(self._device.type, enabled=False):
                x = tokenizer.embed(context.to(self._device))
                hidden = self._encoder.prefill(x, None if lengths is None else lengths.to(self._device))
                s1, s2 = tokenizer.to_tokens(tokenizer.quant_embed(hidden), half=True)
            known = network.embed(s1, s2, None if stamps is None else stamps.to(self._device))
            source = TokenizedPrompt(s1, s2, known, s1[:, 0], None, None if lengths is None else count)
            self._cache = source.cache(network, self.max_context)
        tokens = torch.stack((s1, s2), -1).cpu().numpy()
        self._series = [
            _Series(filled[n, -length:], None if times is None else times[n, -length:], tokens[n, :length])
            for n, length in enumerate(count)
        ]
        self._cache_lengths = np.minimum(count, self.max_context)  # positions used in the cache
        self._bars_since_prefill = 0
        self._bars_since_anchor = self._bars_since_anchor if frozen else 0

    def _extend(self, filled: Float64Array, new_times: IntArray | None, count: IntArray) -> IntArray:
        """Append new bars (N, k, 6) to the caches, count[n] of them in row n; returns their tokens (N, k, 2)."""
        network, tokenizer = self.model.network, self.model.tokenizer
        bars = self._tensor(
            inputs.normalise(inputs.complete(filled), self._loc, self._scale, self.model.network.config.clip)
        )
        counts = None if (count == bars.shape[1]).all() else self._tensor(count)
        with eval_inference(network, tokenizer):
            with torch.autocast(self._device.type, enabled=False):
                hidden = self._encoder.extend(tokenizer.embed(bars)[:, None], counts)
                s1, s2 = tokenizer.to_tokens(tokenizer.quant_embed(hidden[:, 0]), half=True)
            known = network.embed(s1, s2, None if new_times is None else self._tensor(inputs.stamps_of(new_times)))
            self._cache.extend(known[:, None], counts)
            self._encoder.evict()
            self._cache.evict()
        self._cache_lengths = self._cache_lengths + count
        return torch.stack((s1, s2), -1).cpu().numpy()

    def _store(self, filled: Float64Array, new_times: IntArray | None, tokens: IntArray, count: IntArray) -> None:
        for n, series in enumerate(self._series):
            new = slice(0, int(count[n]))
            series.append(
                filled[n, new],
                None if new_times is None else new_times[n, new],
                tokens[n, new],
                self._encoder_window,
            )

    def _last_bars(self, limit: int) -> tuple[Float64Array, IntArray | None]:
        """Return the newest `limit` bars (N, C, 6) and times (N, C), padded on the left."""
        bars = _from_right([series.bars[-limit:] for series in self._series], np.nan)
        times = [series.times[-limit:] for series in self._series if series.times is not None]
        return bars, _from_right(times, NO_TIME) if times else None

    def _future_times(self, steps: int, given: IntArray | None) -> IntArray:
        if given is None:
            return np.stack([continue_stamps(x.times, None, steps) for x in self._series if x.times is not None])
        if given.shape != (len(self), steps):
            raise DataError(f"future_times has shape {given.shape}, must be ({len(self)}, {steps}): series, bars.")
        return given

    def _checked(
        self, bars: np.ndarray, times: IntArray | None, counts: Sequence[int] | None
    ) -> tuple[Float64Array, IntArray | None, IntArray]:
        """Return bars (N, k, 6) with NaN for values that are not finite, times (N, k) and counts (N,), at most k."""
        raw = np.array(bars, np.float64)
        raw = raw[:, None] if raw.ndim == 2 else raw
        if raw.ndim != 3 or raw.shape[0] != len(self) or raw.shape[2] != len(COLUMNS):
            raise DataError(f"bars to append have shape {np.shape(bars)}, not ({len(self)}, bars, {len(COLUMNS)}).")
        raw[~np.isfinite(raw)] = np.nan
        count = np.full(len(self), raw.shape[1]) if counts is None else np.asarray(counts, np.int64)
        if count.shape != (len(self),) or count.min() < 0 or count.max() > raw.shape[1]:
            raise DataError(
                f"counts are {list(count)}; give {len(self)} numbers of bars, one per series, from 0 to {raw.shape[1]}."
            )
        if (times is not None) != self._timed:
            raise DataError(
                "bars to append need times, since the first windows had times." if self._timed else
                "bars to append have times, but the first windows had none."
            )  # fmt: skip
        width = int(count.max())
        if times is None:
            return raw[:, :width], None, count
        new_times = np.asarray(times, np.int64).reshape(len(self), -1)
        if new_times.shape[1] != raw.shape[1]:
            raise DataError(f"there are {raw.shape[1]} bars to append per series, but {new_times.shape[1]} times.")
        for n, series in enumerate(self._series):
            assert series.times is not None
            if (np.diff(new_times[n, : count[n]], prepend=series.times[-1]) <= 0).any():
                raise DataError(f"series {n}: bars to append must come after the previous bars, at increasing times.")
        return raw[:, :width], new_times[:, :width], count

    @property
    def _timed(self) -> bool:
        return self._series[0].times is not None

    @property
    def _device(self) -> torch.device:
        return self.model.network.norm.weight.device

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _from_windows(
    windows: Windows, counts: Sequence[int] | None
) -> tuple[Float64Array, IntArray | None, Sequence[int]]:
    """Return bars (N, k, 6), times (N, k) and counts (N,) of left-padded contexts."""
    steps = windows.context.shape[1]
    raw = inputs.candles_of(windows)[0][:, :steps]
    times = windows.context_times
    absent = np.isnan(raw).all(-1) if times is None else times == NO_TIME
    first = np.where(np.logical_and.reduce(absent, axis=1), steps, absent.argmin(1))
    if counts is not None:
        first = steps - np.asarray(counts, np.int64)
    index = np.minimum(first[:, None] + np.arange(steps), steps - 1)
    rows = np.arange(len(raw))[:, None]
    return raw[rows, index], None if times is None else times[rows, index], (steps - first).tolist()


def _from_left(parts: list[Any]) -> Any:
    """Stack arrays (k, ...) of different lengths, padded with 0 on the right."""
    table = np.zeros((len(parts), max(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(table, parts, strict=True):
        row[: len(part)] = part
    return table


def _from_right(parts: list[Any], blank: float) -> Any:
    """Stack arrays (k, ...) of different lengths, padded with `blank` on the left."""
    table = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), blank, parts[0].dtype)
    for row, part in zip(table, parts, strict=True):
        row[len(row) - len(part) :] = part
    return table
