"""The predictor's network: a causal decoder over pairs of tokens. Parameter and method names are upstream's.

# B sequences, T bars, D width, V1 = 2^s1_bits, V2 = 2^s2_bits; decoding axes as in layers.py
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.kronos.config import KronosConfig
from foretrain.models.kronos.layers import EPS, Attention, Block, rotary_tables
from foretrain.models.release import Network
from foretrain.nn.dropout import drop
from foretrain.nn.rms_norm import RMSNorm
from foretrain.nn.rope import rotate

STAMPS = {"minute": 60, "hour": 24, "weekday": 7, "day": 32, "month": 13}  # columns of a stamp: number of embeddings
DEPENDENCY_HEADS = 4  # fixed by upstream, independent of n_heads


class PairEmbedding(nn.Module):
    """Embeddings of both tokens of a bar, concatenated and projected."""

    def __init__(self, config: KronosConfig) -> None:
        super().__init__()
        self.emb_s1 = nn.Embedding(2**config.s1_bits, config.d_model)
        self.emb_s2 = nn.Embedding(2**config.s2_bits, config.d_model)
        self.fusion_proj = nn.Linear(2 * config.d_model, config.d_model)
        self.scale = math.sqrt(config.d_model)

    def forward(self, s1_ids: Tensor, s2_ids: Tensor) -> Tensor:
        """Token ids (...) and (...) -> (..., D)."""
        both = torch.cat((self.emb_s1(s1_ids), self.emb_s2(s2_ids)), -1)
        return self.fusion_proj(both * self.scale)


class FixedTable(nn.Module):
    """Frozen sinusoidal embedding."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(rows, width)
        self.emb.weight.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return self.emb(ids)


def sinusoid(rows: int, width: int) -> Tensor:
    """Sinusoidal table (rows, width): sin in even and cos in odd columns of row * 10000^(-2i/width)."""
    angles = torch.arange(rows, dtype=torch.float32)[:, None] * torch.exp(
        torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10000.0) / width)
    )
    table = torch.empty(rows, width)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


class TimeEmbedding(nn.Module):
    """Sum of the embeddings of minute, hour, weekday, day and month."""

    def __init__(self, config: KronosConfig) -> None:
        super().__init__()
        kind = nn.Embedding if config.learn_te else FixedTable
        for name, rows in STAMPS.items():
            setattr(self, f"{name}_embed", kind(rows, config.d_model))

    def forward(self, stamp: Tensor) -> Tensor:
        """stamp (..., 5) minute, hour, weekday (Monday 0), day, month -> (..., D)."""
        stamp = stamp.long()
        parts = [getattr(self, f"{name}_embed")(stamp[..., k]) for k, name in enumerate(STAMPS)]
        return parts[1] + parts[2] + parts[3] + parts[4] + parts[0]


class DependencyLayer(nn.Module):
    """Conditions the second token on the first: attention from the first token's embedding to the hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross_attn = Attention(width, DEPENDENCY_HEADS)
        self.norm = RMSNorm(width, EPS)

    def forward(self, hidden: Tensor, sibling: Tensor, *, causal: bool = True) -> Tensor:
        """hidden (B, T, D), first tokens' embeddings sibling (B, T, D) -> (B, T, D), with rotary positions."""
        attention = self.cross_attn
        table = rotary_tables(hidden.shape[1], attention.width, hidden.device)
        query = rotate(attention.split(attention.q_proj(sibling)), table)
        key = rotate(attention.split(attention.k_proj(hidden)), table)
        value = attention.split(attention.v_proj(hidden))
        return self.norm(hidden + attention.merge(attention.attend(query, key, value, causal=causal)))

    def last(self, hidden: Tensor, sibling: Tensor) -> Tensor:
        """One query (B, 1, D) over all of hidden (B, T, D) without rotary positions, as in generation; returns
        (B, T, D), of which only the last row is meaningful."""
        attention = self.cross_attn
        query, key, value = (
            attention.split(p(x))
            for p, x in ((attention.q_proj, sibling), (attention.k_proj, hidden), (attention.v_proj, hidden))
        )
        return self.norm(hidden + attention.merge(attention.attend(query, key, value, causal=False)))


class DualHead(nn.Module):
    """Output projections for the two tokens of a bar."""

    def __init__(self, config: KronosConfig) -> None:
        super().__init__()
        self.proj_s1 = nn.Linear(config.d_model, 2**config.s1_bits)
        self.proj_s2 = nn.Linear(config.d_model, 2**config.s2_bits)


def summed_cross_entropy(logits: Tensor, tokens: Tensor, scored: Tensor) -> Tensor:
    """Sum of the cross-entropies of tokens (B, T) under logits (B, T, n), weighted by scored (B, T) of 0 and 1."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return (losses.view_as(scored) * scored).sum()


class KronosNetwork(Network):
    """Embedding, causal blocks, head of the first token, dependency layer and head of the second token."""

    architecture = KronosConfig

    def __init__(self, config: KronosConfig) -> None:
        super().__init__()
        self.config: KronosConfig = config
        c = config
        self.embedding = PairEmbedding(c)
        self.time_emb = TimeEmbedding(c)
        self.transformer = nn.ModuleList(
            Block(
                c.d_model,
                c.n_heads,
                c.ff_dim,
                ffn_dropout=c.ffn_dropout_p,
                attn_dropout=c.attn_dropout_p,
                resid_dropout=c.resid_dropout_p,
            )
            for _ in range(c.n_layers)
        )
        self.norm = RMSNorm(c.d_model, EPS)
        self.dep_layer = DependencyLayer(c.d_model)
        self.head = DualHead(c)

    def initialise(self, seed: int) -> None:
        """Initialise the weights as upstream does; drawn on the CPU, so that they depend only on the seed.

        Norms 1, Xavier-normal matrices, zero biases, embeddings N(0, d_model^-1/2), fixed time embeddings sinusoidal.
        """
        generator = torch.Generator().manual_seed(seed)
        modules = dict(self.named_modules())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                owner = modules[name.rpartition(".")[0]]
                if isinstance(owner, nn.Linear) and parameter.ndim == 1:
                    parameter.zero_()
                elif isinstance(owner, nn.Linear):
                    std = math.sqrt(2.0 / (owner.in_features + owner.out_features))
                    parameter.normal_(0.0, std, generator=generator)
                elif name.endswith("_embed.emb.weight"):
                    parameter.copy_(sinusoid(*parameter.shape))
                elif isinstance(owner, nn.Embedding):
                    parameter.normal_(0.0, self.config.d_model**-0.5, generator=generator)
                else:
                    parameter.fill_(1.0)

    @property
    def head_width(self) -> int:
        """Width of the blocks' attention heads."""
        return self.config.d_model // self.config.n_heads

    def embed(self, s1_ids: Tensor, s2_ids: Tensor, stamp: Tensor | None) -> Tensor:
        """Return inputs (..., D) of the first block, with token dropout in training mode."""
        x = self.embedding(s1_ids, s2_ids)
        if stamp is not None:
            x = x + self.time_emb(stamp)
        return drop(x, self.config.token_dropout_p, self.training)

    def hidden(self, s1_ids: Tensor, s2_ids: Tensor, stamp: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, D) after the final norm; position t depends on tokens 0 .. t."""
        x = self.embed(s1_ids, s2_ids, stamp)
        table = rotary_tables(x.shape[1], self.head_width, x.device)
        for block in self.transformer:
            x = block(x, table)
        return self.norm(x)

    def decode_s1(self, s1_ids: Tensor, s2_ids: Tensor, stamp: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V1) of the next bar's first token, and hidden states (B, T, D).

        s1_ids, s2_ids (B, T) int64; stamp (B, T, 5) of the same bars, None = no time embedding.
        """
        hidden = self.hidden(s1_ids, s2_ids, stamp)
        return self.head.proj_s1(hidden), hidden

    def decode_s2(self, context: Tensor, s1_ids: Tensor, *, compat: bool = False) -> Tensor:
        """Return logits (B, T, V2) of the second token, given the first one.

        s1_ids (B, T): all bars at once, causal in training and eval mode. s1_ids (B, 1): the query of one generation
        step, which attends to all of context (B, T, D) without positions, as published weights are used; only the last
        row is meaningful. compat: full-length queries in eval mode attend to all bars, as upstream's do.
        """
        sibling = self.embedding.emb_s1(s1_ids)
        if s1_ids.shape[1] == 1 and context.shape[1] > 1:
            return self.head.proj_s2(self.dep_layer.last(context, sibling))
        return self.head.proj_s2(self.dep_layer(context, sibling, causal=self.training or not compat))

    def forward(
        self,
        s1_ids: Tensor,
        s2_ids: Tensor,
        stamp: Tensor | None = None,
        *,
        use_teacher_forcing: bool = False,
        s1_targets: Tensor | None = None,
        compat: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V1) and (B, T, V2) of the next bar at every position.

        With use_teacher_forcing the second head gets s1_targets (B, T), else first tokens sampled from this pass's
        logits (torch's generator; no gradient flows through the draw).
        """
        s1_logits, hidden = self.decode_s1(s1_ids, s2_ids, stamp)
        if use_teacher_forcing:
            assert s1_targets is not None, "teacher forcing needs s1_targets"
            given = s1_targets
        else:
            probabilities = s1_logits.detach().float().softmax(-1)
            given = torch.multinomial(probabilities.flatten(0, 1), 1).view(s1_logits.shape[:2])
        return s1_logits, self.decode_s2(hidden, given, compat=compat)
