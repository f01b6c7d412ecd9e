"""The plain algorithm: a full pass over the window for every new bar, each series and sample separately.

# C context bars, H horizon, M window, F features, V vocabulary
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foretrain.models.kronos.config import KronosConfig, TokenizerConfig
from foretrain.models.kronos.generate import CandlePrompt
from foretrain.models.kronos.layers import rotary_tables
from foretrain.models.kronos.model import STAMPS, KronosNetwork
from foretrain.models.kronos.options import KronosOptions
from foretrain.models.kronos.sampling import TokenSampler, uniform_draws
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.nn.rope import rotate


class Path(NamedTuple):
    """One continuation."""

    s1: Tensor  # (H,)
    s2: Tensor
    s1_logits: Tensor  # (H, V)
    s2_logits: Tensor
    bars: Tensor  # (H, F), of M at most as upstream


def networks(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[KronosNetwork, TokenizerNetwork]:
    """Two small networks whose weights are so large that tokens vary and attention is far from uniform."""
    sizes = {"d_model": 16, "n_heads": 2, "ff_dim": 24, "s1_bits": 4, "s2_bits": 4}
    rates = {name: 0.0 for name in ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p")}
    loss = {"beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05, "group_size": 4}
    predictor = KronosConfig(**sizes, **rates, n_layers=3, token_dropout_p=0.0, learn_te=True)
    tokenizer = TokenizerConfig(**sizes, **rates, **loss, d_in=6, n_enc_layers=3, n_dec_layers=4)
    made = KronosNetwork(predictor), TokenizerNetwork(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    for network in made:
        for name, parameter in network.named_parameters():
            norm = "norm" in name
            parameter.data.normal_(1.0 if norm else 0.0, 0.1 if norm else 0.3, generator=generator)
        network.to(dtype).eval()
    return made


def prompt_of(
    count: int, context: int, steps: int, *, lengths: list[int] | None = None, stamps: bool = True, seed: int = 0
) -> CandlePrompt:
    """Random normalised bars and stamps."""
    generator = torch.Generator().manual_seed(seed)

    def clock(length: int) -> Tensor:
        columns = [torch.randint(0, rows, (count, length), generator=generator) for rows in STAMPS.values()]
        return torch.stack(columns, -1)

    bars = torch.randn(count, context, 6, generator=generator).clamp(-5, 5)
    known, ahead = clock(context), clock(steps)
    if lengths is not None:
        inside = torch.arange(context) < torch.tensor(lengths)[:, None]
        bars = bars * inside[..., None]
    return CandlePrompt(
        bars,
        torch.arange(count) + 100,
        None if lengths is None else torch.tensor(lengths),
        known if stamps else None,
        ahead if stamps else None,
    )


def alone(prompt: CandlePrompt, row: int) -> CandlePrompt:
    """One series of a prompt, cut to its own length."""
    length = prompt.bars.shape[1] if prompt.lengths is None else int(prompt.lengths[row])
    stamps = None if prompt.stamps is None else prompt.stamps[row : row + 1, :length]
    ahead = None if prompt.future_stamps is None else prompt.future_stamps[row : row + 1]
    return CandlePrompt(prompt.bars[row : row + 1, :length], prompt.keys[row : row + 1], None, stamps, ahead)


@torch.no_grad()
def run(
    network: KronosNetwork, tokenizer: TokenizerNetwork, prompt: CandlePrompt, steps: int, sample: int,
    *, seed: int, options: KronosOptions, window: int,
) -> Path:  # fmt: skip
    """One sample of a prompt of one series."""
    choose = TokenSampler(options, None if options.greedy else uniform_draws(seed, prompt.keys, [sample], steps), 1)
    s1, s2 = tokenizer.pair(prompt.bars.to(tokenizer.embed.weight.dtype))
    stamps = None
    if prompt.stamps is not None and prompt.future_stamps is not None:
        stamps = torch.cat((prompt.stamps, prompt.future_stamps), 1)
    known = s1.shape[1]
    kept: tuple[list[Tensor], list[Tensor]] = [], []
    for step in range(steps):
        begin = max(known + step - window, 0)
        stamp = None if stamps is None else stamps[:, begin : known + step]
        first, hidden = network.decode_s1(s1[:, begin:], s2[:, begin:], stamp)
        next1 = choose(first[:, -1:], step, 0)
        # in full, since a window of one bar would be taken for a whole sequence
        second = network.head.proj_s2(network.dep_layer.last(hidden, network.embedding.emb_s1(next1)))
        next2 = choose(second[:, -1:], step, 1)
        kept[0].append(first[0, -1])
        kept[1].append(second[0, -1])
        s1, s2 = torch.cat((s1, next1), 1), torch.cat((s2, next2), 1)
    bars = tokenizer.decode((s1[:, -window:], s2[:, -window:]), half=True)[0, -steps:]
    return Path(s1[0, known:], s2[0, known:], torch.stack(kept[0]), torch.stack(kept[1]), bars)


@torch.no_grad()
def rolled_logits(network: KronosNetwork, s1: Tensor, s2: Tensor, stamps: Tensor, window: int) -> Tensor:
    """First logits (T, V) of tokens (T,) in one pass; every token attends to the newest `window` up to itself."""
    x = network.embed(s1[None], s2[None], stamps[None])
    step = torch.arange(len(s1))
    seen = (step <= step[:, None]) & (step > step[:, None] - window)
    table = rotary_tables(len(s1), network.head_width, x.device)
    for block in network.transformer:
        attention, normed = block.self_attn, block.norm1(x)
        query, key, value = (attention.split(p(normed)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        mixed = torch.nn.functional.scaled_dot_product_attention(
            rotate(query, table), rotate(key, table), value, attn_mask=seen
        )
        x = x + attention.merge(mixed)
        x = x + block.ffn(block.norm2(x))
    return network.head.proj_s1(network.norm(x))[0]
