"""Autoregressive decoding: one prefill shared by all samples, then one patch at a time from a KV cache.

Upstream repeats the context for every sample, stores every step's hidden state, and draws all components of every step.
Here the context has one prefill; its last layers, the unembedding and the head run on the newest patch only; samples
attend to the context's keys and values without copying them; a step draws one component and one value; statistics are
updated from running sums. Rows of samples are sample-major: row s * R + r is sample s of row r.

# R rows (variates of all windows), S samples, C context steps, P patch size, H horizon, D width, K components
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.models.base import Forecast
from foretrain.models.toto.distribution import StudentTMixture
from foretrain.models.toto.draws import choose_component, student_t, uniform_draws
from foretrain.models.toto.inputs import prepare
from foretrain.models.toto.kv_cache import GrowingKVCache, SharedContextCache
from foretrain.models.toto.model import TotoNetwork
from foretrain.models.toto.options import DEFAULT_SAMPLES, TotoOptions
from foretrain.models.toto.scaler import CausalStatistics, Statistics
from foretrain.nn.layout import RowLayout
from foretrain.nn.pieces import pieces
from foretrain.nn.quantiles import constant

MAX_SAMPLE_BYTES = 2**30  # memory of the samples' caches and features; more samples are drawn in chunks
DEFAULTS = TotoOptions()


@dataclass(frozen=True)
class TotoPrompt:
    """Contexts of a batch of rows, and covariates known ahead."""

    series: Tensor  # (R, C) in data units, C a multiple of the patch size
    observed: Tensor | None  # (R, C) bool; None = all
    layout: RowLayout
    exogenous: Tensor | None = None  # (R,) rows that are covariates known ahead
    known: Tensor | None = None  # (R, H or more) values fed back instead of the forecast, NaN = use the forecast


class Context(NamedTuple):
    """State after the prefill of a prompt."""

    first: StudentTMixture  # (R, P, K) mixtures of the first forecast patch, scaled
    statistics: Statistics  # (R, P) or (R, 1) to un-scale them
    running: CausalStatistics  # for the patches that follow
    empty: Tensor | None  # see TotoInputs
    caches: list[GrowingKVCache]  # one per time-attention layer; an empty list without use_cache


class Sampled(NamedTuple):
    """Sample paths and the context that they start from."""

    paths: Tensor  # (R, S, H) in data units
    context: Context


@torch.no_grad()
def forecast(
    network: TotoNetwork,
    prompt: TotoPrompt,
    prediction_length: int,
    quantile_levels: Sequence[float],
    *,
    keys: Tensor,
    targets: Tensor | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    options: TotoOptions = DEFAULTS,
    at_once: Mapping[str, int] | None = None,
) -> Forecast:
    """Return quantiles, mean and, if any are drawn, sample paths of the target rows (indices; None = all rows).

    See TotoOptions for when paths are drawn; num_samples None = DEFAULT_SAMPLES. keys (R,) int64 and seed determine
    the draws. at_once limits what is computed at a time (memory.py).
    """
    levels, at_once = tuple(quantile_levels), at_once or {}
    size = network.config.patch_size

    def of_targets(x: Tensor) -> Tensor:
        return x if targets is None else x[targets]

    def closed_form(context: Context) -> tuple[Tensor, Tensor]:
        loc, scale = (of_targets(x)[:, :prediction_length] for x in context.statistics)
        mixtures = context.first.map(lambda x: of_targets(x)[:, :prediction_length])
        parts = pieces(len(loc), 1, at_once.get("solved rows"))
        quantiles = torch.cat([mixtures[part].quantiles(levels) for part in parts])
        return quantiles * scale[..., None] + loc[..., None], mixtures.mean * scale + loc

    if num_samples is None and prediction_length <= size and options.closed_form:
        context = prefill(network, prompt, use_cache=False, at_once=at_once.get("tokens"))
        quantiles, mean = closed_form(context)
        return Forecast(quantiles, levels, mean=mean)
    count = num_samples or DEFAULT_SAMPLES
    sampled = sample(
        network, prompt, prediction_length, num_samples=count, keys=keys, seed=seed, options=options, at_once=at_once
    )
    paths = of_targets(sampled.paths)
    quantiles = torch.cat(
        [_empirical(paths[part], levels) for part in pieces(len(paths), 1, at_once.get("sorted rows"))]
    )
    if options.closed_form:
        quantiles[:, :size] = closed_form(sampled.context)[0]
    return Forecast(quantiles, levels, samples=paths, mean=paths.mean(1))


def _empirical(paths: Tensor, levels: Sequence[float]) -> Tensor:
    """Return quantiles (R, H, Q) of sample paths (R, S, H), linearly interpolated."""
    ordered = paths.sort(dim=1).values
    index = constant(levels, paths.device, paths.dtype) * (paths.shape[1] - 1)
    low = index.floor().long()
    high = (low + 1).clamp(max=paths.shape[1] - 1)
    fraction = (index - low)[None, :, None]
    return torch.lerp(ordered[:, low], ordered[:, high], fraction).transpose(1, 2)


def prefill(
    network: TotoNetwork,
    prompt: TotoPrompt,
    options: TotoOptions = DEFAULTS,
    *,
    use_cache: bool = True,
    at_once: int | None = None,
) -> Context:
    """Run the network over a prompt; with use_cache fill KV caches for the patches that follow."""
    size, steps = network.config.patch_size, prompt.series.shape[1]
    caches = [GrowingKVCache() for _ in range(network.layers_over_time)] if use_cache else []
    inputs = prepare(network.scaler, prompt.series, prompt.observed, prefix_length=steps, compat=options.compat)
    hidden = network.hidden_states(
        inputs.scaled,
        prompt.layout,
        exogenous=prompt.exogenous,
        empty=inputs.empty,
        caches=caches or None,
        recentre=options.reference_cache,
        newest_only=True,
        at_once=at_once,
    )
    statistics = Statistics(*(x[:, -size:] for x in inputs.statistics))
    return Context(network.mixtures(hidden[:, -1]), statistics, inputs.running, inputs.empty, caches)


def sample(
    network: TotoNetwork,
    prompt: TotoPrompt,
    prediction_length: int,
    *,
    num_samples: int,
    keys: Tensor,
    seed: int,
    options: TotoOptions = DEFAULTS,
    at_once: Mapping[str, int] | None = None,
) -> Sampled:
    """Sample num_samples continuations of every row; the rows of a window are sampled jointly.

    keys: (R,) int64, one per row. A path depends on its window's values and keys, the seed and the sample index, and
    not on the batch, up to rounding.
    """
    limits = at_once or {}
    context, keys = prefill(network, prompt, options, at_once=limits.get("tokens")), keys.cpu()
    patches = -(-prediction_length // network.config.patch_size)
    chunk = _samples_per_chunk(network, len(keys), patches)
    chunk = min(chunk, limits.get("samples", chunk))
    head = network.mixture_head(len(keys) * num_samples * (patches - 1))
    paths: Tensor | None = None
    for start in range(0, num_samples, chunk):
        samples = range(start, min(start + chunk, num_samples))
        found = _SampleDecoder(network, prompt, context, samples, keys, seed, options).run(patches, head)
        paths = found.new_empty(len(keys), num_samples, prediction_length) if paths is None else paths
        paths[:, start : samples.stop] = found[..., :prediction_length]
    assert paths is not None
    return Sampled(paths, context)


def _samples_per_chunk(network: TotoNetwork, rows: int, patches: int) -> int:
    """Return the number of samples that are drawn at once."""
    c = network.config
    element = network.unembed.weight.element_size()
    cache = 2 * network.layers_over_time * patches * c.embed_dim
    wide = c.patch_size * max(c.embed_dim, 8 * (c.components or 1))
    return max(1, MAX_SAMPLE_BYTES // (rows * element * (cache + wide)))


class _SampleDecoder:
    """Decodes some samples of every row, starting from the context."""

    def __init__(
        self,
        network: TotoNetwork,
        prompt: TotoPrompt,
        context: Context,
        samples: range,
        keys: Tensor,
        seed: int,
        options: TotoOptions,
    ) -> None:
        self.network, self.prompt, self.samples, self.keys, self.seed = network, prompt, samples, keys, seed
        self.options, self.context = options, context
        rows = len(prompt.series)
        repeated = torch.arange(rows, device=prompt.series.device).repeat(len(samples))
        self.layout = prompt.layout.repeat(len(samples))
        self.running = context.running.select(repeated)
        self.empty = None if context.empty is None else context.empty[repeated]
        self.caches = [SharedContextCache(cache, len(samples)) for cache in context.caches]
        known = prompt.known
        self.known = None if known is None else known[repeated]

    def run(self, patches: int, head: Callable[[Tensor], StudentTMixture]) -> Tensor:
        """Return values (R, S, patches * P) in data units; head maps hidden states to mixtures."""
        values = torch.stack([drawn for _, drawn in self.decode(patches, head)], 1)  # (S * R, patches, P)
        return values.flatten(1).unflatten(0, (len(self.samples), -1)).transpose(0, 1)

    def decode(
        self, patches: int, head: Callable[[Tensor], StudentTMixture]
    ) -> Iterator[tuple[StudentTMixture, Tensor]]:
        """Yield scaled mixtures (S * R, P, K) and the values (S * R, P) fed back, patch by patch."""
        size, count = self.network.config.patch_size, len(self.samples)
        mixtures = self.context.first.map(lambda x: x.expand(count, *x.shape).flatten(0, 1))
        loc, scale = (x.repeat(count, 1) for x in self.context.statistics)
        for patch in range(patches):
            values = zero_nonfinite(self._draw(mixtures, patch) * scale + loc)
            if self.known is not None:
                given = self.known[:, patch * size : (patch + 1) * size]
                given = F.pad(given, (0, size - given.shape[1]), value=torch.nan)
                values = torch.where(given.isnan(), values, given)
            yield mixtures, values
            if patch + 1 < patches:
                hidden, (loc, scale) = self._append(values, patch)
                mixtures = head(hidden)

    def _draw(self, mixtures: StudentTMixture, patch: int) -> Tensor:
        """Draw one value (S * R, P) from each mixture."""
        size = self.network.config.patch_size
        numbers = uniform_draws(self.seed, self.keys, self.samples, patch * size, size).flatten(0, 1)
        numbers = numbers.to(mixtures.df.device, mixtures.df.dtype, non_blocking=True)
        component = choose_component(mixtures.log_weights, numbers[..., 0])[..., None]
        df, loc, scale = (x.gather(-1, component)[..., 0] for x in (mixtures.df, mixtures.loc, mixtures.scale))
        return student_t(df, numbers[..., 1:]) * scale + loc

    def _append(self, values: Tensor, patch: int) -> tuple[Tensor, Statistics]:
        """Feed back a patch; returns hidden states (S * R, D) and the statistics that un-scale the next patch."""
        statistics = self.running.extend(values, torch.ones_like(values, dtype=torch.bool))
        hidden = self.network.hidden_states(
            (values - statistics.loc) / statistics.scale,
            self.layout,
            empty=self.empty,
            caches=self.caches,
            first=self.prompt.series.shape[1] // self.network.config.patch_size + patch,
            recentre=self.options.reference_cache,
        )
        return hidden[:, -1], statistics


def zero_nonfinite(values: Tensor) -> Tensor:
    """Replace values that are not finite, or near the largest of their dtype, by 0, as upstream does."""
    return torch.where(values.abs() < torch.finfo(values.dtype).max / 2, values, 0.0)
