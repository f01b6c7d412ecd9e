"""Fast forecasts: one prefill that all samples share, then patch after patch from a key-value cache.

Upstream repeats the context for every sample, keeps every step's hidden state, and draws all components of every step.
Here the context is read once; its last layers, the unembedding and the head run on the newest patch alone; samples
attend to the context's keys and values without copies of them; a step draws one component and one value; statistics go
on from running sums. Rows of samples are sample-major: row s * R + r is sample s of row r.

# R rows (variates of all windows), S samples, C context steps, P patch size, H horizon, D width, K components
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from foretrain.nn.quantiles import constant

MAX_SAMPLE_BYTES = 2**30  # of what samples hold at a time; more samples are drawn one lot after the other
DEFAULTS = TotoOptions()


@dataclass(frozen=True)
class TotoPrompt:
    """Rows up to the cutoff."""

    series: Tensor  # (R, C) in the units of the data, C a multiple of the patch size
    observed: Tensor | None  # (R, C) bool; None = everything
    layout: RowLayout
    exogenous: Tensor | None = None  # (R,) rows that are covariates known ahead
    known: Tensor | None = None  # (R, H or more) what is read after the cutoff, NaN = the forecast


class Context(NamedTuple):
    """A context that has been read."""

    first: StudentTMixture  # (R, P, K) mixtures of the first patch, scaled
    statistics: Statistics  # (R, P) or (R, 1): what un-scales them
    stream: CausalStatistics
    empty: Tensor | None
    caches: list[GrowingKVCache]  # of each layer over time; empty where nobody goes on from here


class Sampled(NamedTuple):
    """Paths, and the distribution of the first patch."""

    paths: Tensor  # (R, S, H) in the units of the data
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
) -> Forecast:
    """Quantiles, mean and (where any are drawn) paths of the target rows (indices; None = every row).

    See TotoOptions for when paths are drawn, DEFAULT_SAMPLES of them where num_samples leaves it open. keys (R,) int64
    and seed decide the draws.
    """
    levels = tuple(quantile_levels)
    size = network.config.patch_size

    def chosen(x: Tensor) -> Tensor:
        return x if targets is None else x[targets]

    def closed(context: Context) -> tuple[StudentTMixture, Tensor, Tensor]:
        loc, scale = (chosen(x)[:, :prediction_length] for x in context.statistics)
        return context.first.map(lambda x: chosen(x)[:, :prediction_length]), loc, scale

    if num_samples is None and prediction_length <= size and options.closed_form:
        mixtures, loc, scale = closed(prefill(network, prompt, use_cache=False))
        quantiles = mixtures.quantiles(levels) * scale[..., None] + loc[..., None]
        return Forecast(quantiles, levels, mean=mixtures.mean * scale + loc)
    count = num_samples or DEFAULT_SAMPLES
    found = sample(network, prompt, prediction_length, num_samples=count, keys=keys, seed=seed, options=options)
    paths = chosen(found.paths)
    quantiles = _empirical(paths, levels)
    if options.closed_form:
        mixtures, loc, scale = closed(found.context)
        quantiles[:, :size] = mixtures.quantiles(levels) * scale[..., None] + loc[..., None]
    return Forecast(quantiles, levels, samples=paths, mean=paths.mean(1))


def _empirical(paths: Tensor, levels: Sequence[float]) -> Tensor:
    """(R, H, Q) quantiles of paths (R, S, H), linear between two of them."""
    ordered = paths.sort(dim=1).values
    place = constant(levels, paths.device, paths.dtype) * (paths.shape[1] - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=paths.shape[1] - 1)
    share = (place - low)[None, :, None]
    return torch.lerp(ordered[:, low], ordered[:, high], share).transpose(1, 2)


def prefill(
    network: TotoNetwork, prompt: TotoPrompt, options: TotoOptions = DEFAULTS, *, use_cache: bool = True
) -> Context:
    """Read a prompt once, whatever will be asked about it; remember what later patches attend to."""
    size, steps = network.config.patch_size, prompt.series.shape[1]
    caches = [GrowingKVCache() for _ in range(network.layers_over_time)] if use_cache else []
    inputs = prepare(network.scaler, prompt.series, prompt.observed, prefix_length=steps, compat=options.compat)
    hidden = network.read(
        inputs.scaled,
        prompt.layout,
        exogenous=prompt.exogenous,
        empty=inputs.empty,
        caches=caches or None,
        recentre=options.reference_cache,
        newest_only=True,
    )
    statistics = Statistics(*(x[:, -size:] for x in inputs.statistics))
    return Context(network.mixtures(hidden[:, -1]), statistics, inputs.stream, inputs.empty, caches)


def sample(
    network: TotoNetwork,
    prompt: TotoPrompt,
    prediction_length: int,
    *,
    num_samples: int,
    keys: Tensor,
    seed: int,
    options: TotoOptions = DEFAULTS,
) -> Sampled:
    """Draw num_samples continuations of every row, those of a window's rows jointly.

    keys (R,) int64 name the rows: a path depends on its window's values, keys, the seed and the number of the sample,
    and not on the batch, up to rounding.
    """
    context, keys = prefill(network, prompt, options), keys.cpu()
    patches = -(-prediction_length // network.config.patch_size)
    chunk = _samples_per_chunk(network, len(keys), patches)
    head = network.mixture_head(len(keys) * num_samples * (patches - 1))
    parts = [
        _SampleDecoder(
            network, prompt, context, range(begin, min(begin + chunk, num_samples)), keys, seed, options
        ).run(patches, head)
        for begin in range(0, num_samples, chunk)
    ]
    return Sampled(torch.cat(parts, 1)[..., :prediction_length], context)


def _samples_per_chunk(network: TotoNetwork, rows: int, patches: int) -> int:
    """Samples that are drawn at a time."""
    c = network.config
    element = network.unembed.weight.element_size()
    cache = 2 * network.layers_over_time * patches * c.embed_dim
    wide = c.patch_size * max(c.embed_dim, 8 * (c.components or 1))
    return max(1, MAX_SAMPLE_BYTES // (rows * element * (cache + wide)))


class _SampleDecoder:
    """Some samples of every row, from the context on."""

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
        self.stream = context.stream.select(repeated)
        self.empty = None if context.empty is None else context.empty[repeated]
        self.caches = [SharedContextCache(cache, len(samples)) for cache in context.caches]
        known = prompt.known
        self.known = None if known is None else known[repeated]

    def run(self, patches: int, head: Callable[[Tensor], StudentTMixture]) -> Tensor:
        """(R, S, patches * P) in the units of the data; head gives the mixtures of hidden states."""
        values = torch.stack([drawn for _, drawn in self.decode(patches, head)], 1)  # (S * R, patches, P)
        return values.flatten(1).unflatten(0, (len(self.samples), -1)).transpose(0, 1)

    def decode(
        self, patches: int, head: Callable[[Tensor], StudentTMixture]
    ) -> Iterator[tuple[StudentTMixture, Tensor]]:
        """Mixtures (S * R, P, K), scaled, and the values (S * R, P) taken, of one patch after the other."""
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
        """(S * R, P) one value of each mixture."""
        size = self.network.config.patch_size
        numbers = uniform_draws(self.seed, self.keys, self.samples, patch * size, size).flatten(0, 1)
        numbers = numbers.to(mixtures.df.device, mixtures.df.dtype, non_blocking=True)
        component = choose_component(mixtures.log_weights, numbers[..., 0])[..., None]
        df, loc, scale = (x.gather(-1, component)[..., 0] for x in (mixtures.df, mixtures.loc, mixtures.scale))
        return student_t(df, numbers[..., 1:]) * scale + loc

    def _append(self, values: Tensor, patch: int) -> tuple[Tensor, Statistics]:
        """Read the patch just drawn: hidden states (S * R, D) and the statistics that un-scale what comes next."""
        statistics = self.stream.extend(values, torch.ones_like(values, dtype=torch.bool))
        hidden = self.network.read(
            (values - statistics.loc) / statistics.scale,
            self.layout,
            empty=self.empty,
            caches=self.caches,
            first=self.prompt.series.shape[1] // self.network.config.patch_size + patch,
            recentre=self.options.reference_cache,
        )
        return hidden[:, -1], statistics


def zero_nonfinite(values: Tensor) -> Tensor:
    """Values that are not finite, or nearly too large for their type, become 0, as upstream has it."""
    return torch.where(values.abs() < torch.finfo(values.dtype).max / 2, values, 0.0)
