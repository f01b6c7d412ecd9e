"""Autoregressive decoding of candles: one prefill per series, shared by its samples, then steps from a KV cache.

The predictor attends to the newest M = max_context tokens, whose positions count from 0 at the first of them; the
tokenizer's encoder attends to the whole context. Tokens are decoded to candles at the end, in a window of the last M
tokens, as upstream. Upstream returns only M candles for a longer horizon; here such a horizon is decoded in windows
that overlap by half, so that every candle has at least M / 2 tokens before it, if there are as many.

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
    """Contexts of N series, and time stamps of their horizons."""

    bars: Tensor  # (N, C, F) normalised, left-aligned, 0 beyond a series' length
    keys: Tensor  # (N,) int64 seeds a series' draws
    lengths: Tensor | None = None  # (N,) bars of each series; None = all C
    stamps: Tensor | None = None  # (N, C, 5); None = no calendar
    future_stamps: Tensor | None = None  # (N, H or H - 1, 5); the last bar's is not used


class Generated(NamedTuple):
    """Sampled continuations."""

    s1: Tensor  # (N, S, H) int64
    s2: Tensor  # (N, S, H)
    bars: Tensor  # (N, S, H, F) normalised
    s1_logits: Tensor | None = None  # (N, S, H, V1) before temperature and filters, with keep_logits
    s2_logits: Tensor | None = None  # (N, S, H, V2)


@dataclass(frozen=True)
class TokenizedPrompt:
    """Tokens and embedded inputs of N series, left-aligned."""

    s1: Tensor  # (N, C) int64
    s2: Tensor  # (N, C)
    inputs: Tensor | None  # (N, C, D) of the predictor's first block; None if a cache replaces them
    keys: Tensor  # (N,)
    future_time_emb: Tensor | None = None  # (N, H, D) of the horizon; None = no calendar
    lengths: list[int] | None = None  # (N,) bars of each row if they differ, at most C; None = all C

    def take(self, rows: list[int]) -> TokenizedPrompt:
        """Select rows."""
        index = torch.tensor(rows).to(self.s1.device, non_blocking=True)
        future_time_emb = None if self.future_time_emb is None else self.future_time_emb[index]
        lengths = None if self.lengths is None else [self.lengths[row] for row in rows]
        keys = self.keys[index]
        return replace(
            self._map(lambda x: x[index]), keys=keys, future_time_emb=future_time_emb, lengths=lengths
        )._trim()

    def newest(self, limit: int) -> TokenizedPrompt:
        """Keep the newest `limit` bars of each series."""
        width = self.s1.shape[1]
        if limit >= width:
            return self
        if self.lengths is None:
            return self._map(lambda x: x[:, width - limit :])
        first = [max(length - limit, 0) for length in self.lengths]
        index = torch.tensor(first)[:, None] + torch.arange(limit)
        index = index.clamp(max=width - 1).to(self.s1.device, non_blocking=True)
        rows = torch.arange(len(index), device=index.device)[:, None]
        lengths = [min(length, limit) for length in self.lengths]
        return replace(self._map(lambda x: x[rows, index]), lengths=lengths)._trim()

    def lengths_tensor(self) -> Tensor | None:
        """`lengths` as a tensor (N,) on the device of the tokens."""
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
        """Drop columns that are padding in every row, and `lengths` if all rows are equally long."""
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
    at_once: int | None = None,
) -> Generated:
    """Sample num_samples continuations of every series; both networks run in eval mode.

    A series' result depends on its bars, its key, the seed and the sample index, and not on the batch, up to rounding.
    With compat it depends on the whole batch, and at most max_context bars are returned. at_once: most samples that are
    decoded at a time; None = as many as MAX_CACHE_BYTES holds.
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
            at_once=at_once,
        )


@contextmanager
def eval_inference(*networks: torch.nn.Module) -> Iterator[None]:
    """Context manager for eval mode without autograd; restores the modes of the networks."""
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
    """Return the prompt's tokens and embedded inputs; padding bars (0) are tokenised too."""
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
    at_once: int | None = None,
) -> Generated:
    """Like `generate`, but from tokens.

    cache: the cache after a prefill with exactly the source's newest bars; it does not change. Rows are grouped so that
    the rows of a pass recompute their window at the same steps or never.
    """
    window = options.max_context or network.config.max_context
    every = 1 if options.mode == "exact" else options.re_anchor_every
    source = source.newest(window)  # older bars are not used
    groups = _row_groups(source, steps, window, every)
    results: list[Generated] = []
    for rows in groups:
        part = source if len(groups) == 1 else source.take(rows)
        prefilled = cache if cache is not None and len(groups) == 1 else part.cache(network, window)
        decoding = _DecodingPass(network, tokenizer, part, steps, window, every, seed, options, keep_logits)
        limit = num_samples if options.compat else _samples_at_once(network, len(rows), steps)
        limit = limit if at_once is None else min(limit, at_once)
        chunks = [range(first, min(first + limit, num_samples)) for first in range(0, num_samples, limit)]
        results.append(_concatenate([decoding.run(prefilled, chunk) for chunk in chunks], 1))
    if len(results) == 1:
        return results[0]
    order = torch.tensor([row for rows in groups for row in rows]).argsort().to(source.s1.device)
    return _concatenate(results, 0, order)


def _row_groups(source: TokenizedPrompt, steps: int, window: int, every: int | None) -> list[list[int]]:
    """Group rows that can share a pass: those that never recompute their window, and the others by length."""
    rows = range(len(source.s1))
    if source.lengths is None or every is None:
        return [list(rows)]
    groups: dict[int, list[int]] = {}
    for row in rows:
        recomputes = source.lengths[row] + steps - 1 - window >= every
        groups.setdefault(source.lengths[row] if recomputes else 0, []).append(row)
    return list(groups.values())


def _samples_at_once(network: KronosNetwork, rows: int, steps: int) -> int:
    c = network.config
    each = rows * steps * 2 * (c.n_layers + 1) * c.d_model * network.norm.weight.element_size()
    return max(1, MAX_CACHE_BYTES // each)


def _concatenate(parts: Sequence[Generated], axis: int, order: Tensor | None = None) -> Generated:
    """Concatenate parts along an axis, then reorder the rows if `order` is given."""

    def join(column: Sequence[Tensor]) -> Tensor:
        joined = column[0] if len(column) == 1 else torch.cat(list(column), axis)
        return joined if order is None else joined[order]

    columns = zip(*parts, strict=True)
    return Generated(*(None if column[0] is None else join(column) for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _DecodingPass:
    """Autoregressive decoding of rows that recompute their window at the same steps."""

    network: KronosNetwork
    tokenizer: TokenizerNetwork
    source: TokenizedPrompt
    steps: int
    window: int
    every: int | None  # recompute the window after this many steps beyond it; None = never
    seed: int
    options: KronosOptions
    keep_logits: bool

    def run(self, context: PredictorCache, samples: range) -> Generated:
        """Generate the samples with these indices from the context's cache."""
        device, options = self.source.s1.device, self.options
        numbers = None
        if not options.greedy and not options.compat:
            numbers = uniform_draws(self.seed, self.source.keys, samples, self.steps)
            if device.type == "mps":
                numbers = numbers.float()
            numbers = numbers.to(device, non_blocking=True)
        s1, s2, *logits = self._generate_tokens(context, TokenSampler(options, numbers, len(samples)), len(samples))
        bars = decode(self.tokenizer, self.source, s1, s2, self.window, all_bars=not options.compat)
        return Generated(s1, s2, bars, *logits)

    def _generate_tokens(self, context: PredictorCache, choose: TokenSampler, samples: int) -> tuple[Tensor, ...]:
        """Return s1 and s2 (N, S, H), and with keep_logits both logits (N, S, H, V)."""
        network, count, steps = self.network, len(self.source.s1), self.steps
        future_time_emb = self.source.future_time_emb
        s1, s2 = self.source.s1.new_empty(2, count, samples, steps)
        inputs = network.norm.weight.new_empty(0)
        if self.every is not None:  # recomputed windows need the generated tokens' inputs
            assert self.source.inputs is not None
            inputs = self.source.inputs.new_empty(count, samples, steps, network.config.d_model)
        logits: tuple[list[Tensor], list[Tensor]] = [], []
        cache = context.fork(samples, steps)
        for step in range(steps):
            first = cache.first_logits().view(count, -1, 2**network.config.s1_bits)
            s1[..., step] = choose(first, step, 0)
            second = cache.second_logits(s1[..., step].reshape(len(cache.hidden), -1)).view(count, samples, -1)
            s2[..., step] = choose(second, step, 1)
            if self.keep_logits:
                logits[0].append(first.expand(-1, samples, -1))
                logits[1].append(second)
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
        return (s1, s2, *(torch.stack(x, 2) for x in logits)) if self.keep_logits else (s1, s2)

    def _must_recompute(self, made: int) -> bool:
        """Return True if the window must be recomputed after `made` generated tokens."""
        if self.every is None or self.source.lengths is not None:  # see _row_groups: these rows never recompute
            return False
        beyond = self.source.s1.shape[1] + made - self.window
        return beyond > 0 and beyond % self.every == 0

    def _recompute(self, inputs: Tensor) -> PredictorCache:
        """Return a new cache after a prefill with the newest `window` tokens alone.

        inputs: (N, S, made, D) of the generated tokens. The cache has capacity up to the next recomputation. It has N
        rows, or N S if the samples of a series share no context any more.
        """
        _, samples, made, _ = inputs.shape
        shared, room = self.window - made, min(self.every or 0, self.steps - made)
        context = self.source.newest(shared).inputs if shared > 0 else None
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
    """Decode generated tokens (N, S, H) to bars (N, S, H, F); without all_bars only those of the last window."""
    steps = s1.shape[2]
    spans = [(max(steps - window, 0), steps)]
    if all_bars and steps > window:
        half = max(window // 2, 1)
        spans = [(first, min(first + half, steps)) for first in range(0, steps, half)]
    parts = []
    with torch.autocast(s1.device.type, enabled=False):
        for first, last in spans:
            start = max(last - window, 0)
            known = source.newest(window - (last - start))
            decoder = CachedBlocks(tokenizer.decoder, None)  # type: ignore[arg-type]
            decoder.prefill(
                tokenizer.post_quant_embed(tokenizer.codes((known.s1, known.s2), half=True)), known.lengths_tensor()
            )
            own = tokenizer.post_quant_embed(tokenizer.codes((s1[:, :, start:last], s2[:, :, start:last]), half=True))
            hidden = decoder.fork(s1.shape[1], last - start).extend(own)
            parts.append(tokenizer.head(hidden[:, :, first - start :]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
