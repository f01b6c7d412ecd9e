"""The tokenizer's network: encodes candles as pairs of tokens and decodes them. Names are upstream's.

# B sequences, T bars, F = d_in features of a bar, D = s1_bits + s2_bits
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from foretrain.models.kronos.config import TokenizerConfig
from foretrain.models.kronos.layers import Block, rotary_tables
from foretrain.models.kronos.quantiser import Quantiser, QuantiserLoss, to_ids, to_signs
from foretrain.models.release import Network


class Reconstruction(NamedTuple):
    """Outputs of encoder, quantiser and decoder."""

    coarse: Tensor  # (B, T, F) from the first s1_bits alone
    full: Tensor  # (B, T, F)
    unit: Tensor  # (B, T, D) on the unit sphere
    code: Tensor  # (B, T, D) of +-1/sqrt(D)


class _QuantiserModule(nn.Module):
    """Wrapper that gives the quantiser upstream's parameter path, tokenizer.bsq."""

    def __init__(self, bsq: Quantiser) -> None:
        super().__init__()
        self.bsq = bsq


class TokenizerNetwork(Network):
    """Causal encoder, binary spherical quantiser, causal decoder.

    Encoder and decoder have one block fewer than the configuration says, as upstream builds them.
    """

    architecture = TokenizerConfig

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config: TokenizerConfig = config
        c = config
        bits = c.s1_bits + c.s2_bits

        def stack(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(
                    c.d_model,
                    c.n_heads,
                    c.ff_dim,
                    ffn_dropout=c.ffn_dropout_p,
                    attn_dropout=c.attn_dropout_p,
                    resid_dropout=c.resid_dropout_p,
                )
                for _ in range(count - 1)
            )

        self.embed = nn.Linear(c.d_in, c.d_model)
        self.encoder = stack(c.n_enc_layers)
        self.quant_embed = nn.Linear(c.d_model, bits)
        self.tokenizer = _QuantiserModule(
            Quantiser(bits, beta=c.beta, gamma0=c.gamma0, gamma=c.gamma, zeta=c.zeta, group_size=c.group_size)
        )
        self.post_quant_embed_pre = nn.Linear(c.s1_bits, c.d_model)
        self.post_quant_embed = nn.Linear(bits, c.d_model)
        self.decoder = stack(c.n_dec_layers)
        self.head = nn.Linear(c.d_model, c.d_in)

    def initialise(self, seed: int) -> None:
        """Initialise as torch does by default; drawn on the CPU, so that the weights depend only on the seed.

        Norms 1, U(+-fan_in^-1/2) for weights and biases.
        """
        generator = torch.Generator().manual_seed(seed)
        modules = dict(self.named_modules())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                owner = modules[name.rpartition(".")[0]]
                if isinstance(owner, nn.Linear):
                    bound = owner.in_features**-0.5
                    parameter.uniform_(-bound, bound, generator=generator)
                else:
                    parameter.fill_(1.0)

    @property
    def bsq(self) -> Quantiser:
        """The binary spherical quantiser."""
        return self.tokenizer.bsq

    @property
    def head_width(self) -> int:
        """Width of every attention head."""
        return self.config.d_model // self.config.n_heads

    def latent(self, x: Tensor) -> Tensor:
        """Normalised bars (B, T, F) -> latents (B, T, D), not yet of unit length."""
        table = rotary_tables(x.shape[1], self.head_width, x.device)
        hidden = self.embed(x.to(self.embed.weight.dtype))
        for block in self.encoder:
            hidden = block(hidden, table)
        return self.quant_embed(hidden)

    def encode(self, x: Tensor, half: bool = False) -> Tensor | list[Tensor]:
        """Encode normalised bars (B, T, F) to int64 ids (B, T), s1 + 2^s1_bits * s2; with half to the pair [s1, s2]."""
        return self.to_tokens(self.latent(x), half)

    def to_tokens(self, latent: Tensor, half: bool = False) -> Tensor | list[Tensor]:
        """Return ids of latents (..., D); normalising them first would not change their signs."""
        if not half:
            return to_ids(latent)
        return [to_ids(latent[..., : self.config.s1_bits]), to_ids(latent[..., self.config.s1_bits :])]

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return encode(x, half=True) as a tuple."""
        s1, s2 = self.encode(x, half=True)
        return s1, s2

    def codes(self, ids: Tensor | list[Tensor] | tuple[Tensor, Tensor], half: bool = False) -> Tensor:
        """Return codes (..., D) of +-1/sqrt(D) from ids, with half from the pair."""
        c, bits = self.config, self.config.s1_bits + self.config.s2_bits
        if half:
            signs = torch.cat((to_signs(ids[0], c.s1_bits), to_signs(ids[1], c.s2_bits)), -1)
        else:
            assert isinstance(ids, Tensor)
            signs = to_signs(ids, bits)
        return (signs * bits**-0.5).to(self.post_quant_embed.weight.dtype)

    def decode(self, ids: Tensor | list[Tensor] | tuple[Tensor, Tensor], half: bool = False) -> Tensor:
        """Decode ids (B, T), with half the pair, to normalised bars (B, T, F)."""
        return self.decode_hidden(self.post_quant_embed(self.codes(ids, half)))

    def decode_hidden(self, hidden: Tensor) -> Tensor:
        """Run the decoder: (B, T, d_model) -> (B, T, F)."""
        table = rotary_tables(hidden.shape[1], self.head_width, hidden.device)
        for block in self.decoder:
            hidden = block(hidden, table)
        return self.head(hidden)

    def reconstruct(self, x: Tensor) -> Reconstruction:
        """Return both reconstructions, computed in one decoder pass of twice the batch size."""
        unit = self.bsq.unit(self.latent(x))
        code = self.bsq.quantise(unit)
        pre = self.post_quant_embed_pre(code[..., : self.config.s1_bits])
        both = self.decode_hidden(torch.cat((pre, self.post_quant_embed(code))))
        coarse, full = both.chunk(2)
        return Reconstruction(coarse, full, unit, code)

    def quantiser_loss(self, outputs: Reconstruction, valid: Tensor | None = None) -> QuantiserLoss:
        """Return the quantiser's loss over the positions in valid (B, T) bool, None = all."""
        return self.bsq.loss(outputs.unit, outputs.code, valid)

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
        """Return ((coarse, full), quantiser loss, codes, full ids), as upstream's forward does."""
        outputs = self.reconstruct(x)
        return (outputs.coarse, outputs.full), self.quantiser_loss(outputs).total, outputs.code, to_ids(outputs.code)
