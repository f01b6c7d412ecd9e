"""Candles drawn one after the other: one prefill a series, shared by its samples, and a key-value cache.

The predictor looks at the newest M = max_context tokens, whose positions count from 0 at the first of them; the
tokenizer's encoder has looked at the whole context. Tokens turn into candles at the end, in a window of M tokens that
ends with the last one, as upstream. Upstream returns M candles where more are asked for; here a longer horizon is
decoded in windows that overlap by half, so that every candle has M / 2 tokens or more before it, where there are any.

# N series, S samples of each, C context bars, H horizon, F features of a bar, D width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from foretrain.models.kronos.cache import CachedBlocks, PredictorCache
from foretrain.models.kronos.model import KronosNetwork
from foretrain.models.kronos.options import KronosOptions
from foretrain.models.kronos.sampling import TokenSampler, uniform_draws
from foretrain.models.kronos.tokenizer import TokenizerNetwork

MAX_CACHE_BYTES = 2**31  # size of the samples' keys and values; more samples are drawn in chunks


class CandlePrompt(NamedTuple):
    """What is known at the cutoff."""

    bars: Tensor  # (N, C, F) normalised, every series from the left, 0 beyond its own length
    keys: Tensor  # (N,) int64 seeds a series' draws
    lengths: Tensor | None = None  # (N,) bars of each series; None = all C
    stamps: Tensor | None = None  # (N, C, 5); None = no calendar
    future_stamps: Tensor | None = None  # (N, H or H - 1, 5), the last bar's is never looked at


class Generated(NamedTuple):
    """Sampled continuations."""

    s1: Tensor  # (N, S, H) int64
    s2: Tensor  # (N, S, H)
    bars: Tensor  # (N, S, H, F) normalised
    s1_logits: Tensor | None = None  # (N, S, H, V1) before temperature and filters, where they were asked for
    s2_logits: Tensor | None = None  # (N, S, H, V2)


@dataclass(frozen=True)
class TokenizedPrompt:
    """Series as the networks read them, each row from the left."""

    s1: Tensor  # (N, C) int64
    s2: Tensor  # (N, C)
    inputs: Tensor | None  # (N, C, D) of the predictor's first block; None where a cache stands for them
    keys: Tensor  # (N,)
    future_time_emb: Tensor | None = None  # (N, H, D) time embeddings of the bars to come; None = no calendar
    lengths: list[int] | None = None  # (N,) bars of each row where they differ, the longest C; None = all C

    def take(self, rows: list[int]) -> TokenizedPrompt:
        """Some of the series."""
        index = torch.tensor(rows).to(self.s1.device, non_blocking=True)
        future_time_emb = None if self.future_time_emb is None else self.future_time_emb[index]
        lengths = None if self.lengths is None else [self.lengths[row] for row in rows]
        keys = self.keys[index]
        return replace(
            self._map(lambda x: x[index]), keys=keys, future_time_emb=future_time_emb, lengths=lengths
        )._trim()

    def newest(self, limit: int) -> TokenizedPrompt:
        """The newest `limit` bars of each series."""
        width = self.s1.shape[1]
        if limit >= width:
            return self
        if self.lengths is None:
            return self._map(lambda x: x[:, width - limit :])
        first = [max(length - limit, 0) for length in self.lengths]
        place = torch.tensor(first)[:, None] + torch.arange(limit)
        place = place.clamp(max=width - 1).to(self.s1.device, non_blocking=True)
        rows = torch.arange(len(place), device=place.device)[:, None]
        lengths = [min(length, limit) for length in self.lengths]
        return replace(self._map(lambda x: x[rows, place]), lengths=lengths)._trim()

    def lengths_tensor(self) -> Tensor | None:
        """lengths as a tensor (N,) beside the others."""
        return None if self.lengths is None else torch.tensor(self.lengths).to(self.s1.device, non_blocking=True)

    def cache(self, network: KronosNetwork, window: int) -> PredictorCache:
        """The predictor after reading the newest `window` bars."""
        recent = self.newest(window)
        assert recent.inputs is not None
        return PredictorCache.of(network, recent.inputs, recent.lengths_tensor(), window)

    def _map(self, change: Callable[[Tensor], Tensor]) -> TokenizedPrompt:
        """With other bars."""
        inputs = None if self.inputs is None else change(self.inputs)
        return replace(self, s1=change(self.s1), s2=change(self.s2), inputs=inputs)

    def _trim(self) -> TokenizedPrompt:
        """Without columns that no row fills, and without lengths where all are the same."""
        if self.lengths is None:
            return self
        longest = max(self.lengths)
        lengths = self.lengths if min(self.lengths) < longest else None
        return replace(self._map(lambda x: x[:, :longest]), lengths=lengths)


def generate(
    network: KronosNetwork,
    tokenizer: TokenizerNetwork,
    prompt: CandlePrompt,
    prediction_length: int,
    *,
    num_samples: int,
    seed: int,
    options: KronosOptions,
    keep_logits: bool = False,
) -> Generated:
    """Draw num_samples continuations of every series, in eval mode whatever mode the networks are in.

    A series' result depends on (its bars, its key, seed, sample) and not on the batch, up to rounding; with compat on
    all of it, and bars are max_context at most.
    """
    with eval_inference(network, tokenizer):
        source = tokenise(network, tokenizer, prompt)
        return generate_from_tokens(
            network,
            tokenizer,
            source,
            prediction_length,
            num_samples=num_samples,
            seed=seed,
            options=options,
            keep_logits=keep_logits,
        )


@contextmanager
def eval_inference(*networks: torch.nn.Module) -> Iterator[None]:
    """Eval mode and no autograd; the modes are restored."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


def tokenise(network: KronosNetwork, tokenizer: TokenizerNetwork, prompt: CandlePrompt) -> TokenizedPrompt:
    """The prompt's tokens and what the predictor reads of them; the padding of shorter series is tokens of 0."""
    weight = tokenizer.embed.weight
    with torch.autocast(weight.device.type, enabled=False):
        s1, s2 = tokenizer.pair(prompt.bars.to(weight.dtype))
    lengths = None if prompt.lengths is None else prompt.lengths.tolist()
    future_time_emb = None
    if prompt.stamps is not None:
        assert prompt.future_stamps is not None, "stamps of the context need those of the horizon"
        future_time_emb = network.time_emb(prompt.future_stamps)
    return TokenizedPrompt(s1, s2, network.embed(s1, s2, prompt.stamps), prompt.keys, future_time_emb, lengths)._trim()


def generate_from_tokens(
    network: KronosNetwork,
    tokenizer: TokenizerNetwork,
    source: TokenizedPrompt,
    steps: int,
    *,
    num_samples: int,
    seed: int,
    options: KronosOptions,
    keep_logits: bool = False,
    cache: PredictorCache | None = None,
) -> Generated:
    """generate from tokens. cache: what has read exactly the source's newest bars; it is left as it is.

    Rows that share a pass either never need their window computed anew, or all need it at the same steps.
    """
    window = options.max_context or network.config.max_context
    every = 1 if options.mode == "exact" else options.re_anchor_every
    source = source.newest(window)  # nothing here looks further back
    groups = _row_groups(source, steps, window, every)
    found: list[Generated] = []
    for rows in groups:
        part = source if len(groups) == 1 else source.take(rows)
        read = cache if cache is not None and len(groups) == 1 else part.cache(network, window)
        decoding = _DecodingPass(network, tokenizer, part, steps, window, every, seed, options, keep_logits)
        limit = num_samples if options.compat else _samples_at_once(network, len(rows), steps)
        chunks = [range(first, min(first + limit, num_samples)) for first in range(0, num_samples, limit)]
        found.append(_concatenate([decoding.run(read, chunk) for chunk in chunks], 1))
    if len(found) == 1:
        return found[0]
    place = torch.tensor([row for rows in groups for row in rows]).argsort().to(source.s1.device)
    return _concatenate(found, 0, place)


def _row_groups(source: TokenizedPrompt, steps: int, window: int, every: int | None) -> list[list[int]]:
    """Rows that can share a pass: those whose window is never computed anew, and the others by their length in it."""
    rows = range(len(source.s1))
    if source.lengths is None or every is None:
        return [list(rows)]
    groups: dict[int, list[int]] = {}
    for row in rows:
        anew = source.lengths[row] + steps - 1 - window >= every
        groups.setdefault(source.lengths[row] if anew else 0, []).append(row)
    return list(groups.values())


def _samples_at_once(network: KronosNetwork, rows: int, steps: int) -> int:
    c = network.config
    each = rows * steps * 2 * (c.n_layers + 1) * c.d_model * network.norm.weight.element_size()
    return max(1, MAX_CACHE_BYTES // each)


def _concatenate(parts: Sequence[Generated], axis: int, order: Tensor | None = None) -> Generated:
    """Parts side by side, then their rows in that order."""

    def join(column: Sequence[Tensor]) -> Tensor:
        joined = column[0] if len(column) == 1 else torch.cat(list(column), axis)
        return joined if order is None else joined[order]

    columns = zip(*parts, strict=True)
    return Generated(*(None if column[0] is None else join(column) for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _DecodingPass:
    """One pass over rows that overflow together."""

    network: KronosNetwork
    tokenizer: TokenizerNetwork
    source: TokenizedPrompt
    steps: int
    window: int
    every: int | None  # steps beyond the window after which it is computed anew; None = never
    seed: int
    options: KronosOptions
    keep_logits: bool

    def run(self, read: PredictorCache, samples: range) -> Generated:
        """The samples of those numbers, from what was read of the context."""
        device, options = self.source.s1.device, self.options
        numbers = None
        if not options.greedy and not options.compat:
            numbers = uniform_draws(self.seed, self.source.keys, samples, self.steps)
            if device.type == "mps":
                numbers = numbers.float()
            numbers = numbers.to(device, non_blocking=True)
        s1, s2, *logits = self._generate_tokens(read, TokenSampler(options, numbers, len(samples)), len(samples))
        bars = decode(self.tokenizer, self.source, s1, s2, self.window, all_bars=not options.compat)
        return Generated(s1, s2, bars, *logits)

    def _generate_tokens(self, read: PredictorCache, choose: TokenSampler, samples: int) -> tuple[Tensor, ...]:
        """s1 and s2 (N, S, H), and on request both logits (N, S, H, V)."""
        network, count, steps = self.network, len(self.source.s1), self.steps
        future_time_emb = self.source.future_time_emb
        s1, s2 = self.source.s1.new_empty(2, count, samples, steps)
        inputs = network.norm.weight.new_empty(0)
        if self.every is not None:  # what windows are computed anew from
            assert self.source.inputs is not None
            inputs = self.source.inputs.new_empty(count, samples, steps, network.config.d_model)
        kept: tuple[list[Tensor], list[Tensor]] = [], []
        cache = read.fork(samples, steps)
        for step in range(steps):
            first = cache.first_logits().view(count, -1, 2**network.config.s1_bits)
            s1[..., step] = choose(first, step, 0)
            second = cache.second_logits(s1[..., step].reshape(len(cache.hidden), -1)).view(count, samples, -1)
            s2[..., step] = choose(second, step, 1)
            if self.keep_logits:
                kept[0].append(first.expand(-1, samples, -1))
                kept[1].append(second)
            if step + 1 == steps:
                break
            x = network.embedding(s1[..., step], s2[..., step])
            x = x if future_time_emb is None else x + future_time_emb[:, None, step]
            made = step + 1
            if self.every is not None:
                inputs[:, :, step] = x
            if self._must_recompute(made):
                cache = self._recompute(inputs[:, :, :made])
            else:
                cache.extend(x.view(len(cache.hidden), -1, 1, x.shape[-1]))
        return (s1, s2, *(torch.stack(x, 2) for x in kept)) if self.keep_logits else (s1, s2)

    def _must_recompute(self, made: int) -> bool:
        """Whether the window is computed anew after so many generated tokens."""
        if self.every is None or self.source.lengths is not None:  # rows of different lengths: none overflows
            return False
        beyond = self.source.s1.shape[1] + made - self.window
        return beyond > 0 and beyond % self.every == 0

    def _recompute(self, inputs: Tensor) -> PredictorCache:
        """The predictor after reading the newest tokens alone, `inputs` (N, S, made, D) the generated ones among them.

        It has room for the tokens until its successor. Its rows are N, or N S where the samples of a series have no
        context left to share.
        """
        _, samples, made, _ = inputs.shape
        kept, room = self.window - made, min(self.every or 0, self.steps - made)
        context = self.source.newest(kept).inputs if kept > 0 else None
        if samples > 1 and context is not None:
            cache = PredictorCache.of(self.network, context, None, self.window).fork(samples, made + room)
            cache.extend(inputs)
            return cache
        recent = inputs[:, :, -self.window :].flatten(0, 1)
        if context is not None:
            recent = torch.cat((context, recent), 1)
        if self.every == 1:
            return PredictorCache.of(self.network, recent, None, self.window, use_cache=False)
        return PredictorCache.of(self.network, recent, None, self.window).fork(1, room)


def decode(
    tokenizer: TokenizerNetwork, source: TokenizedPrompt, s1: Tensor, s2: Tensor, window: int, *, all_bars: bool = True
) -> Tensor:
    """Bars (N, S, H, F) of generated tokens (N, S, H); without all_bars of the last window alone."""
    steps = s1.shape[2]
    spans = [(max(steps - window, 0), steps)]
    if all_bars and steps > window:
        half = max(window // 2, 1)
        spans = [(first, min(first + half, steps)) for first in range(0, steps, half)]
    parts = []
    with torch.autocast(s1.device.type, enabled=False):
        for first, last in spans:
            begin = max(last - window, 0)
            known = source.newest(window - (last - begin))
            decoder = CachedBlocks(tokenizer.decoder, None)  # type: ignore[arg-type]
            decoder.prefill(
                tokenizer.post_quant_embed(tokenizer.codes((known.s1, known.s2), half=True)), known.lengths_tensor()
            )
            own = tokenizer.post_quant_embed(tokenizer.codes((s1[:, :, begin:last], s2[:, :, begin:last]), half=True))
            hidden = decoder.fork(s1.shape[1], last - begin).extend(own)
            parts.append(tokenizer.head(hidden[:, :, first - begin :]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
