"""Forecasts with the Toto 2.0 network: all patches in one pass, or autoregressively by blocks with medians fed back.

Facts from DataDog/toto, commit 46bd92a.

# R rows, M wanted rows (targets), C context patches, N patches ahead, P patch size, Q levels, b patches of a block
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foretrain.errors import ConfigError
from foretrain.models.toto2.config import LEVELS
from foretrain.models.toto2.layers import KVCache
from foretrain.models.toto2.model import Toto2Network
from foretrain.models.toto2.scaler import PrefixSums, Scaled, scale_patches
from foretrain.models.types import ForecastOptions
from foretrain.nn.layout import RowLayout
from foretrain.nn.pieces import pieces

MIN_OBSERVED = 8
_MEDIAN = LEVELS.index(0.5)


@dataclass(frozen=True)
class Toto2Options(ForecastOptions):
    """Forecast options of Toto 2.0.

    Attributes:
        decode_block_size: steps of one block, whole patches; the medians of a block are input of the next, as if
            observed. None = all steps in one pass.
        scaler_fallback_min_obs: minimum number of observed steps to scale a patch by; patches with fewer up to their
            end use this number of the series' first observed steps. 0 = no minimum. Training uses the default.
        quantile_real_cap_k: maximum distance of quantiles from the smallest and largest value of the context, in
            standard deviations; 0 = no limit.
        imputation: missing steps after a row's first value: "none" passes them to the model as missing; "ffill" and
            "linear" fill them and count them as observed.
        compat: reproduce upstream's behaviour, for comparisons. The last patch of the context counts as observed, with
            0 for missing steps. In blocks after the first, positions are scaled from another centre, and a variate is
            excluded where the first patches of its context are empty. Known covariates are read at their own time, so
            that none reaches the patch it is known for, and count as observed wherever medians do.
    """

    decode_block_size: int | None = None
    scaler_fallback_min_obs: int = MIN_OBSERVED
    quantile_real_cap_k: float = 1e4
    imputation: Literal["none", "ffill", "linear"] = "none"
    compat: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)!r}, {what}"
            for name, fits, what in (
                ("decode_block_size", self.decode_block_size is None or self.decode_block_size >= 1, "it counts steps"),
                ("scaler_fallback_min_obs", self.scaler_fallback_min_obs >= 0, "it counts steps, 0 for none"),
                ("quantile_real_cap_k", self.quantile_real_cap_k >= 0, "it counts deviations, 0 for no cap"),
                ("imputation", self.imputation in ("none", "ffill", "linear"), "choose none, ffill or linear"),
            )
            if not fits
        ]
        if problems:
            raise ConfigError("Toto 2.0 options: " + "; ".join(problems) + ".")

    def block_patches(self, patch_size: int) -> int | None:
        """Return decode_block_size in patches. Raises ConfigError if it is not a whole number of them."""
        if self.decode_block_size is None:
            return None
        patches, rest = divmod(self.decode_block_size, patch_size)
        if rest:
            near = [str(count * patch_size) for count in (patches, patches + 1) if count]
            raise ConfigError(
                f"decode_block_size is {self.decode_block_size}, but this model forecasts patches of {patch_size} "
                f"steps: choose {' or '.join(near)}."
            )
        return patches


@dataclass(frozen=True)
class Toto2Prompt:
    """Input of a forecast; steps after the context are allocated, to be filled in."""

    values: Tensor  # (R, (C + N) * P) in the units of the data
    observed: Tensor  # (R, (C + N) * P) bool
    context: int  # C
    layout: RowLayout
    groups: Tensor | None = None  # (R, C + N), see Toto2Network.forward
    known: Tensor | None = None  # rows with covariates known ahead, which are never overwritten
    wanted: Tensor | None = None  # (M,) rows to forecast; None = all


def decode(network: Toto2Network, prompt: Toto2Prompt, options: Toto2Options, at_once: int | None = None) -> Tensor:
    """Return float32 quantiles (M, N * P, Q) of the wanted rows in the units of the data, ascending over levels.

    at_once: tokens that a layer computes at a time; None = all.
    """
    return _BlockDecoder(network, prompt, options, at_once).run()


class _BlockDecoder:
    """Decodes one batch; lives for one call of decode."""

    def __init__(self, network: Toto2Network, prompt: Toto2Prompt, options: Toto2Options, at_once: int | None) -> None:
        self.network, self.prompt, self.options, self.at_once = network, prompt, options, at_once
        self.size = network.config.patch_size
        self.values, self.observed = prompt.values, prompt.observed
        self.tokens = self.values.shape[1] // self.size
        ahead = self.tokens - prompt.context
        self.block = min(options.block_patches(self.size) or ahead, ahead)
        self.caches: list[KVCache] | None = None
        if self.block < ahead:
            self.values, self.observed = self.values.clone(), self.observed.clone()
            self.caches = [KVCache(self.tokens) for _ in range(network.config.num_layers)]

    def run(self) -> Tensor:
        """Return the quantiles (M, N * P, Q)."""
        context, wanted = self.prompt.context, self.prompt.wanted
        outputs, start, sums, bounds = [], 0, None, None
        for first in range(context, self.tokens, self.block):
            end = min(first + self.block, self.tokens)
            last = end == self.tokens
            rows = wanted if last else None
            hidden, scaled = self.one_pass(start, first, end, sums, rows)
            if bounds is None:
                bounds = self.bounds(scaled.scale[:, context - 1])
            values = self.quantiles(hidden, scaled, bounds, rows)
            outputs.append(values if last or wanted is None else values[wanted])
            if not last:
                self.feed_back(values[..., _MEDIAN], first)
                sums = scaled.sums.at(first - 1 - start)
                start = first
        return torch.cat(outputs, dim=1).float()

    def one_pass(
        self, start: int, first: int, end: int, sums: PrefixSums | None, rows: Tensor | None
    ) -> tuple[Tensor, Scaled]:
        """Run the tokens from start to end - 1 (the token of the last patch is not needed).

        Returns the hidden states (rows, n, D) that predict the patches from first to end, and the scaled patches.
        """
        network, prompt = self.network, self.prompt
        steps = slice(start * self.size, (end - 1) * self.size)
        observed = self.observed[:, steps]
        scaled = scale_patches(
            self.values[:, steps],
            observed,
            self.size,
            self.options.scaler_fallback_min_obs,
            before=sums,
            relative=network.config.relative,
        )
        compat, groups = self.options.compat, None if prompt.groups is None else prompt.groups[:, : end - 1]
        ctx = network.attention_context(
            prompt.layout,
            end - 1 - start,
            groups,
            start=start,
            centre=(end if compat else self.tokens) // 2,
            over_variates=groups[:, : end - 1 - start] if compat and groups is not None else None,
        )
        hidden = network.embed_in_pieces(scaled.values, observed, self.at_once)
        hidden = network.transformer(hidden, ctx, caches=self.caches, keep=end - first, rows=rows, at_once=self.at_once)
        return hidden, scaled

    def quantiles(self, hidden: Tensor, scaled: Scaled, bounds: tuple[Tensor, Tensor], rows: Tensor | None) -> Tensor:
        """Return quantiles (rows, n * P, Q) of hidden states (rows, n, D), see unscaled."""
        whole = torch.arange(len(hidden), device=hidden.device) if rows is None else rows
        if self.at_once is None:
            return self.unscaled(self.network.output_head(hidden), scaled, bounds, rows)
        parts = pieces(len(hidden), hidden.shape[1], self.at_once)
        head = self.network.output_head
        return torch.cat([self.unscaled(head(hidden[part]), scaled, bounds, whole[part]) for part in parts])

    def unscaled(self, quantiles: Tensor, scaled: Scaled, bounds: tuple[Tensor, Tensor], rows: Tensor | None) -> Tensor:
        """Return quantiles (rows, n * P, Q) in the units of the data, in the wide type, sorted and finite in float32.

        They are scaled by the statistics at the last token of the pass, which cover all observed steps.
        """
        chosen = slice(None) if rows is None else rows
        loc, scale = (x[chosen, -1, None, None, None] for x in (scaled.loc, scaled.scale))
        values = (quantiles.to(scale.dtype).sinh() * scale + loc).flatten(1, 2)
        values = torch.clamp(values, *(limit[chosen, None, None] for limit in bounds))
        return values.sort(-1).values

    def bounds(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest value (R,) that a forecast may have."""
        largest = torch.finfo(torch.float32).max
        high = torch.full_like(scale, largest)
        if not self.options.quantile_real_cap_k:
            return -high, high
        steps = slice(self.prompt.context * self.size)
        observed, values = self.observed[:, steps], self.values[:, steps].to(scale.dtype)
        margin = self.options.quantile_real_cap_k * scale
        low = torch.where(observed, values, largest).amin(1) - margin
        high = torch.where(observed, values, -largest).amax(1) + margin
        empty = ~observed.any(1)
        return (
            torch.where(empty, -largest, low).clamp(min=-largest),
            torch.where(empty, largest, high).clamp(max=largest),
        )

    def feed_back(self, medians: Tensor, first: int) -> None:
        """Write medians (R, n * P) from patch `first` on as observed values, except over covariates known ahead."""
        steps = slice(first * self.size, first * self.size + medians.shape[1])
        known = self.prompt.known
        values, observed = medians.to(self.values.dtype), torch.ones_like(self.observed[:, steps])
        if known is not None:
            values[known] = self.values[known, steps]
            if not self.options.compat:
                observed[known] = self.observed[known, steps]
        self.values[:, steps], self.observed[:, steps] = values, observed
