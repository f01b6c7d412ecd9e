"""A plain patch-by-patch decoder, one path of each row; and the fast decoder along given paths.

# R rows, C context steps (a multiple of the patch size P), K components
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from foretrain.models.toto.distribution import StudentTMixture
from foretrain.models.toto.generate import DEFAULTS, TotoPrompt, _SampleDecoder, prefill, zero_nonfinite
from foretrain.models.toto.inputs import prepare
from foretrain.models.toto.kv_cache import GrowingKVCache
from foretrain.models.toto.model import TotoNetwork
from foretrain.models.toto.options import TotoOptions
from foretrain.models.toto.scaler import Statistics
from foretrain.nn.layout import RowLayout
from foretrain.nn.observed import forward_fill


class Decoder:
    """Reads rows patch by patch and holds the mixtures of the next patch with the statistics to un-scale them."""

    def __init__(
        self,
        network: TotoNetwork,
        series: Tensor,
        observed: Tensor | None,
        layout: RowLayout,
        *,
        exogenous: Tensor | None = None,
        compat: bool = False,
        recentre: bool = False,
    ) -> None:
        """Read contexts (R, C); see TotoNetwork.hidden_states and inputs.prepare for the arguments."""
        self.network, self.layout, self.recentre, self.compat = network, layout, recentre, compat
        self.caches = [GrowingKVCache() for _ in range(network.layers_over_time)]
        inputs = prepare(network.scaler, series, observed, prefix_length=series.shape[1], compat=compat)
        self.running = inputs.running
        self.last = series[:, -1:] if observed is None else forward_fill(series, observed)[:, -1:]
        self.empty, self.patches = inputs.empty, 0
        self._read(inputs.scaled, inputs.statistics, exogenous)

    def append(self, values: Tensor, observed: Tensor | None = None) -> None:
        """Read the next patch (R, P) in data units."""
        seen = torch.ones_like(values, dtype=torch.bool) if observed is None else observed
        statistics = self.running.extend(values, seen)
        if not self.compat:
            values = forward_fill(values, seen, self.last)
        self.last = values[:, -1:]
        scaled = (values - statistics.loc) / statistics.scale
        self._read(scaled if self.compat else scaled.nan_to_num(nan=0.0), statistics, None)

    def _read(self, scaled: Tensor, statistics: Statistics, exogenous: Tensor | None) -> None:
        size = self.network.config.patch_size
        hidden = self.network.hidden_states(
            scaled,
            self.layout,
            exogenous=exogenous,
            empty=self.empty,
            caches=self.caches,
            first=self.patches,
            recentre=self.recentre,
        )
        self.patches += hidden.shape[1]
        self.mixtures: StudentTMixture = self.network.mixtures(hidden[:, -1])  # (R, P, K)
        self.statistics = Statistics(*(x[:, -size:] for x in statistics))  # (R, P) or (R, 1)


@torch.no_grad()
def forecast_mean(decoder: Decoder, steps: int, known: Tensor | None = None) -> Tensor:
    """(R, steps) the mean of each patch, fed back. known (R, steps), NaN where unknown, replaces it."""
    size = decoder.network.config.patch_size
    patches = -(-steps // size)
    if known is not None:
        known = torch.nn.functional.pad(known, (0, patches * size - known.shape[1]), value=torch.nan)
    found = []
    for k in range(patches):
        loc, scale = decoder.statistics
        values = zero_nonfinite(decoder.mixtures.mean * scale + loc)
        if known is not None:
            given = known[:, k * size : (k + 1) * size]
            values = torch.where(given.isnan(), values, given)
        found.append(values)
        if k + 1 < patches:
            decoder.append(values)
    return torch.cat(found, 1)[:, :steps]


def mixtures_along(
    network: TotoNetwork, prompt: TotoPrompt, path: Tensor, num_samples: int, options: TotoOptions = DEFAULTS
) -> list[StudentTMixture]:
    """Scaled mixtures (S * R, P, K) of every patch in the fast decoder when a path (R, H) in data units is fed
    back."""
    prompt = replace(prompt, known=path)
    context, patches = prefill(network, prompt, options), -(-path.shape[1] // network.config.patch_size)
    keys = torch.arange(len(path))
    walk = _SampleDecoder(network, prompt, context, range(num_samples), keys, 0, options).decode(
        patches, network.mixture_head(len(path) * num_samples * (patches - 1))
    )
    return [mixtures for mixtures, _ in walk]
