"""The Toto 1.0 network, with upstream's parameter names and numbers.

Facts from DataDog/toto (toto/model/backbone.py and its parts) and the Toto report (arXiv 2407.07874).

# R rows (variates of all windows), T steps, P patch size, S = T / P patches, D width, K components
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.release import Network
from foretrain.models.toto.config import TotoConfig
from foretrain.models.toto.distribution import MixtureHead, StudentTMixture
from foretrain.models.toto.layers import AttentionContext, KVCache, Transformer
from foretrain.models.toto.rotary import rotary_tables
from foretrain.models.toto.scaler import Scaler
from foretrain.models.weights import check_shapes, fill_network, read_tensors
from foretrain.nn.layout import RowLayout
from foretrain.nn.unused import attach

PREFIX = "model."  # of every published name
_IGNORED = re.compile(r"rotary_emb\.(freqs|scale)$")  # constants in older files
_UNFUSED = ((re.compile(r"\.mlp\.0\.(weight|bias)$"), r".mlp.0.w12.\1"),  # written without xformers
            (re.compile(r"\.mlp\.2\.(weight|bias)$"), r".mlp.0.w3.\1"))  # fmt: skip
LABELS = ("target_variate_label", "exogenous_variate_label")


class PatchEmbedding(nn.Module):
    """Linear embedding of the steps of a patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(patch_size, width)

    def forward(self, patches: Tensor) -> Tensor:
        """(R, S, P) -> (R, S, D)."""
        return self.projection(patches)


class TotoNetwork(Network):
    """The Toto 1.0 network: scaled patches in, hidden states and mixtures out."""

    architecture = TotoConfig

    def __init__(self, config: TotoConfig, *, labels: bool | None = False) -> None:
        super().__init__()
        self.config: TotoConfig = config
        self.scaler = Scaler.of(config)
        self.patch_embed = PatchEmbedding(config.patch_size, config.embed_dim)
        if labels:
            self.target_variate_label = nn.Parameter(torch.empty(config.embed_dim))
            self.exogenous_variate_label = nn.Parameter(torch.empty(config.embed_dim))
        self.transformer = Transformer(config)
        self.unembed = nn.Linear(config.embed_dim, config.embed_dim * config.patch_size)
        self.output_distribution = MixtureHead(config.embed_dim, config.components)

    def initialise(self, seed: int) -> None:
        """Initialise the weights as upstream does; drawn on the CPU, so that they depend only on the seed.

        torch's defaults: U(+-fan_in^-1/2) for weights and biases; norms 1; labels N(0, 1).
        """
        generator = torch.Generator().manual_seed(seed)
        modules = dict(self.named_modules())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                owner = modules[name.rpartition(".")[0]]
                if isinstance(owner, nn.Linear):
                    bound = math.sqrt(1.0 / owner.in_features)
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
                elif name not in LABELS:
                    parameter.fill_(1.0)
            if self.labels:
                for name, label in new_labels(self.config.embed_dim, seed).items():
                    getattr(self, name).copy_(label)

    @classmethod
    def outline(cls, folder: Path, config: TotoConfig, **parts: Any) -> TotoNetwork:
        """Return the network of a release folder on the meta device; its files are read to know if it has labels."""
        return cls.read_release(folder, config, **parts).to("meta")

    @classmethod
    def read_release(
        cls, folder: Path, config: TotoConfig | None = None, *, seed: int = 0, labels: bool | None = None
    ) -> TotoNetwork:
        """Read the network of a release folder, float32 on the CPU; `config`, if given, replaces the folder's own.

        labels: None = variate labels if the file has them; True = initialise missing ones from the seed; False = ignore
        those in the file. Raises ModelError if files are missing or damaged, or if the weights do not fit the config.
        """
        config = config or TotoConfig.read(folder / "config.json")
        tensors = cls.own_names(read_tensors(folder))
        stored = any(name in tensors for name in LABELS)
        if labels is False:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in LABELS}
        has_labels = stored if labels is None else labels
        if has_labels and not stored:
            tensors |= new_labels(config.embed_dim, seed)
        check_shapes(cls.empty(config, "meta", labels=has_labels), tensors, folder)
        network = cls.empty(config, labels=has_labels)
        if has_labels and not stored:
            network.newly_initialized = LABELS
        fill_network(network, tensors, folder)
        return network

    @classmethod
    def own_names(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors to the network's names, from fused or unfused MLPs; positional constants are dropped."""
        renamed = {}
        for name, tensor in tensors.items():
            if _IGNORED.search(name):
                continue
            name = name.removeprefix(PREFIX)
            for pattern, ours in _UNFUSED:
                name = pattern.sub(ours, name)
            renamed[name] = tensor
        return renamed

    @staticmethod
    def published_name(name: str) -> str:
        """Return the name of a network parameter in published files."""
        return PREFIX + name

    @property
    def labels(self) -> int:
        """Number of label tokens before a row's patches (target or exogenous): 1 or 0."""
        return int(hasattr(self, "target_variate_label"))

    @property
    def layers_over_time(self) -> int:
        """Number of time-attention layers, each of which may have a KVCache."""
        return self.config.num_layers - sum(self.config.spacewise)

    @property
    def _dtype(self) -> torch.dtype:
        """Dtype of the weights; values are scaled in their own dtype before the cast."""
        return next(self.transformer.parameters()).dtype

    def hidden_states(
        self,
        scaled: Tensor,
        layout: RowLayout,
        *,
        exogenous: Tensor | None = None,
        empty: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        first: int = 0,
        recentre: bool = False,
        newest_only: bool = False,
        at_once: int | None = None,
    ) -> Tensor:
        """Return hidden states (R, S, D) of scaled patches, with newest_only (R, 1, D) of the last one.

        Args:
            scaled: (R, T) normalised values, finite everywhere.
            layout: which rows share a window.
            exogenous: (R,) rows that are covariates known ahead; None = no row.
            empty: (R, S) patches before a row's first observation, a prefix of every row; later patches do not attend
                to them. None = attend to every patch, as upstream does.
            caches: one per time-attention layer; patches already cached are attended to as well.
            first: number of patches already cached.
            recentre: with caches, centre the decay of positions on the middle of all patches so far, as upstream does
                in every call, so that keys of earlier calls are slightly off.
            newest_only: see above.
            at_once: tokens that a layer computes at a time, for a prefill without a gradient; None = all.
        """
        patches = scaled.to(self._dtype).unflatten(-1, (-1, self.config.patch_size))
        hidden = self.patch_embed(patches).to(patches.dtype)  # the residual stream keeps its dtype under autocast
        count, start, device = hidden.shape[1], first, hidden.device
        lead = None if empty is None else empty.sum(-1)
        if self.labels:
            start = first + 1 if first else 0
            if not first:
                hidden = torch.cat((self._labels(len(hidden), exogenous)[:, None], hidden), dim=1)
        new = hidden.shape[1]
        positions = torch.arange(start, start + new, device=device, dtype=torch.float32)
        centre = float((start + new - 1) // 2) if recentre else 0.0
        if lead is not None:  # a row's label has position 0, its first patch the next one
            positions = positions - lead[:, None, None]
            if self.labels and not first:
                positions[..., 0] = 0.0
        ctx = AttentionContext(
            layout,
            rotary_tables(positions, self.config.head_dim, centre),
            self._mask(lead, start, new, device),
            caches,
        )
        return self.transformer(hidden, ctx, newest_only, at_once)[:, -count:]

    def mixtures(self, hidden: Tensor) -> StudentTMixture:
        """Return mixtures (..., P, K) of the patches after hidden states (..., D), in scaled space."""
        features = self.unembed(hidden).unflatten(-1, (self.config.patch_size, -1))
        return self.output_distribution(features)

    def folds_head(self, count: int) -> bool:
        """Return True if folding the head into the unembedding is cheaper for `count` patches.

        Layers wrapped by an adapter are not folded, since the adapter's forward must be called.
        """
        parts = [self.unembed, *self.output_distribution.projections]
        plain = all(type(part) is nn.Linear and not part._forward_hooks for part in parts)
        outputs = len(self.output_distribution.projections) * (self.config.components or 1)
        return plain and 3 * count >= 5 * outputs

    def mixture_head(self, count: int) -> Callable[[Tensor], StudentTMixture]:
        """Return the cheaper implementation of `mixtures` for `count` patches in total.

        Unembedding and head are consecutive linear maps; folded into one, from D to 4 K numbers per step, they cost a
        fraction.
        """
        if not self.folds_head(count):
            return self.mixtures
        head = self.output_distribution
        weights, biases = zip(*((part.weight, part.bias) for part in head.projections), strict=True)
        weight, bias = torch.cat(weights), torch.cat(biases)  # (4 K, D), (4 K,)
        size, width = self.config.patch_size, self.config.embed_dim
        outer = torch.matmul(weight, self.unembed.weight.view(size, width, width)).flatten(0, 1)  # (P * 4 K, D)
        shift = (F.linear(self.unembed.bias.view(size, width), weight) + bias).flatten()

        def mixtures(hidden: Tensor) -> StudentTMixture:
            raw = F.linear(hidden, outer, shift).unflatten(-1, (size, len(head.projections), -1))
            return head.shape(*raw.unbind(-2))

        return mixtures

    def _labels(self, rows: int, exogenous: Tensor | None) -> Tensor:
        """Return the label (R, D) of each row, of unit length."""
        target, known = (
            F.normalize(label, dim=0) for label in (self.target_variate_label, self.exogenous_variate_label)
        )
        if exogenous is None:
            return attach(target, [self.exogenous_variate_label]).expand(rows, -1)
        return torch.where(exogenous[:, None], known, target)

    def _mask(self, lead: Tensor | None, start: int, new: int, device: torch.device) -> Tensor | None:
        """Return the mask (R, 1, n, m) of n new slots over all m slots, True = visible; None = causal."""
        if lead is None and (start == 0 or new == 1):
            return None
        slot = torch.arange(start + new, device=device)
        query = slot[start:, None]
        seen = slot <= query
        if lead is None:
            return seen
        first = self.labels + lead[:, None, None, None]  # slot of a row's first patch that is not empty
        # empty patches attend only to themselves: the distance to their label would reveal when the row starts
        valid = (slot >= first) | (slot == query) | ((slot < self.labels) & (query >= first))
        return seen & valid


def new_labels(width: int, seed: int) -> dict[str, Tensor]:
    """Return new variate labels by name, drawn from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.empty(width).normal_(generator=generator) for name in LABELS}
