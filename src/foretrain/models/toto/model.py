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
from foretrain.models.weights import fill_network, read_tensors
from foretrain.nn.layout import RowLayout
from foretrain.nn.unused import attach

PREFIX = "model."  # of every published name
_IGNORED = re.compile(r"rotary_emb\.(freqs|scale)$")  # constants that older files hold
_UNFUSED = ((re.compile(r"\.mlp\.0\.(weight|bias)$"), r".mlp.0.w12.\1"),  # written where xformers was absent
            (re.compile(r"\.mlp\.2\.(weight|bias)$"), r".mlp.0.w3.\1"))  # fmt: skip
LABELS = ("target_variate_label", "exogenous_variate_label")


class PatchEmbedding(nn.Module):
    """A linear layer over the steps of a patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(patch_size, width)

    def forward(self, patches: Tensor) -> Tensor:
        """(R, S, P) -> (R, S, D)."""
        return self.projection(patches)


class TotoNetwork(Network):
    """Toto 1.0's tensor-level model: scaled patches in, hidden states and mixtures out."""

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
        """Upstream's random init, drawn on the CPU so that the seed alone decides the weights.

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
        """The network of a release folder on "meta"; whether it has labels is for the file to say."""
        return cls.read_release(folder, config, **parts).to("meta")

    @classmethod
    def read_release(
        cls, folder: Path, config: TotoConfig | None = None, *, seed: int = 0, labels: bool | None = None
    ) -> TotoNetwork:
        """The network of a release folder, float32 on the CPU; `config`, if given, replaces the folder's own.

        It has variate labels where the file has them; with labels=True they are made where it has none, drawn from the
        seed, with False those in the file are left out. Raises ModelError when files are missing or damaged, or when
        the weights do not fit the configuration.
        """
        config = config or TotoConfig.read(folder / "config.json")
        found = cls.own_names(read_tensors(folder))
        stored = any(name in found for name in LABELS)
        if labels is False:
            found = {name: tensor for name, tensor in found.items() if name not in LABELS}
        network = cls.empty(config, labels=stored if labels is None else labels)
        if labels and not stored:
            found |= new_labels(config.embed_dim, seed)
            network.newly_initialized = LABELS
        fill_network(network, found, folder)
        return network

    @classmethod
    def own_names(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """By the network's names, from fused or plain ones; constants are left out."""
        found = {}
        for name, tensor in tensors.items():
            if _IGNORED.search(name):
                continue
            name = name.removeprefix(PREFIX)
            for pattern, ours in _UNFUSED:
                name = pattern.sub(ours, name)
            found[name] = tensor
        return found

    @staticmethod
    def published_name(name: str) -> str:
        """The name that a published file gives to a parameter of the network."""
        return PREFIX + name

    @property
    def labels(self) -> int:
        """Tokens in front of a row's patches that say what it is: 1 or 0."""
        return int(hasattr(self, "target_variate_label"))

    @property
    def layers_over_time(self) -> int:
        """How many layers attend over time, each of which may have a KVCache."""
        return self.config.num_layers - sum(self.config.spacewise)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights; values are scaled in their own type."""
        return next(self.transformer.parameters()).dtype

    def read(
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
    ) -> Tensor:
        """Hidden states (R, S, D) of scaled patches, with newest_only (R, 1, D) of the last one.

        Args:
            scaled: (R, T) normalised values, finite everywhere.
            layout: which rows share a window.
            exogenous: (R,) rows that are covariates known ahead; None = none is.
            empty: (R, S) patches in front of a row's first observation, a prefix of every row; no later patch sees
                them. None = upstream's way, to which every patch counts.
            caches: of each layer over time; what they hold already is attended to as well.
            first: patches read before into these caches.
            recentre: with caches, decay positions around the middle of what has been read, as upstream does anew
                in every call, so that later patches see keys of earlier calls slightly off.
        """
        patches = scaled.to(self._dtype).unflatten(-1, (-1, self.config.patch_size))
        hidden = self.patch_embed(patches).to(patches.dtype)  # the stream keeps its precision under autocast
        count, begin, device = hidden.shape[1], first, hidden.device
        lead = None if empty is None else empty.sum(-1)
        if self.labels:
            begin = first + 1 if first else 0
            if not first:
                hidden = torch.cat((self._labels(len(hidden), exogenous)[:, None], hidden), dim=1)
        new = hidden.shape[1]
        positions = torch.arange(begin, begin + new, device=device, dtype=torch.float32)
        centre = float((begin + new - 1) // 2) if recentre else 0.0
        if lead is not None:  # a row's positions count from its first patch, with its label in front
            positions = positions - lead[:, None, None]
            if self.labels and not first:
                positions[..., 0] = 0.0
        ctx = AttentionContext(
            layout,
            rotary_tables(positions, self.config.head_dim, centre),
            self._mask(lead, begin, new, device),
            caches,
        )
        return self.transformer(hidden, ctx, newest_only)[:, -count:]

    def mixtures(self, hidden: Tensor) -> StudentTMixture:
        """Mixtures (..., P, K) of the steps after the patches with these hidden states (..., D), in scaled space."""
        features = self.unembed(hidden).unflatten(-1, (self.config.patch_size, -1))
        return self.output_distribution(features)

    def folds_head(self, count: int) -> bool:
        """Whether the head of so many patches is cheaper as one linear map with the unembedding.

        A layer that something is wrapped around (an adapter) has a forward of its own that must be called.
        """
        parts = [self.unembed, *self.output_distribution.projections]
        plain = all(type(part) is nn.Linear and not part._forward_hooks for part in parts)
        outputs = len(self.output_distribution.projections) * (self.config.components or 1)
        return plain and 3 * count >= 5 * outputs

    def mixture_head(self, count: int) -> Callable[[Tensor], StudentTMixture]:
        """`mixtures` for so many patches in all, by the cheaper way.

        Unembedding and head are linear one after the other; as one, from D to 4 K numbers a step, they cost a fraction.
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
        """(R, D) unit vectors that say what each row is."""
        target, known = (
            F.normalize(label, dim=0) for label in (self.target_variate_label, self.exogenous_variate_label)
        )
        if exogenous is None:
            return attach(target, [self.exogenous_variate_label]).expand(rows, -1)
        return torch.where(exogenous[:, None], known, target)

    def _mask(self, lead: Tensor | None, begin: int, new: int, device: torch.device) -> Tensor | None:
        """(R, 1, n, m) True where a new slot sees one of all m slots; None = all up to itself."""
        if lead is None and (begin == 0 or new == 1):
            return None
        slot = torch.arange(begin + new, device=device)
        query = slot[begin:, None]
        seen = slot <= query
        if lead is None:
            return seen
        beginning = self.labels + lead[:, None, None, None]  # slot of a row's first patch that counts
        # empty patches see themselves alone: how far their label is would tell when the row begins
        counts = (slot >= beginning) | (slot == query) | ((slot < self.labels) & (query >= beginning))
        return seen & counts


def new_labels(width: int, seed: int) -> dict[str, Tensor]:
    """New variate labels by name, N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.empty(width).normal_(generator=generator) for name in LABELS}
