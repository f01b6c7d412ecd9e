"""The tokenizer's network beyond the recorded numbers: causality, and one pass for two reconstructions."""

from __future__ import annotations

import pytest
import torch

from foretrain.models.kronos.tokenizer import TokenizerNetwork

BARS, CUT = 12, 7


@pytest.fixture
def network(kit) -> TokenizerNetwork:
    return kit.tokenizer(n_enc_layers=3, n_dec_layers=3, s1_bits=5, s2_bits=3).network.eval()


@pytest.fixture
def bars() -> torch.Tensor:
    return torch.randn(2, BARS, 6, generator=torch.Generator().manual_seed(0))


def changed(bars: torch.Tensor) -> torch.Tensor:
    return torch.cat((bars[:, :CUT], -bars[:, CUT:]), 1)


@torch.no_grad()
def test_a_token_knows_no_later_bar(network, bars):
    before, after = network.encode(bars), network.encode(changed(bars))
    assert torch.equal(before[:, :CUT], after[:, :CUT])
    assert not torch.equal(before[:, CUT:], after[:, CUT:])


@torch.no_grad()
def test_a_decoded_bar_knows_no_later_token(network, bars):
    ids = network.encode(bars)
    other = torch.cat((ids[:, :CUT], (ids[:, CUT:] + 1) % 256), 1)
    before, after = network.decode(ids), network.decode(other)
    assert torch.equal(before[:, :CUT], after[:, :CUT])
    assert not torch.allclose(before[:, CUT:], after[:, CUT:])


@torch.no_grad()
def test_both_reconstructions_of_one_pass_are_those_of_two(network, bars):
    found = network.reconstruct(bars)
    torch.testing.assert_close(found.full, network.decode(network.encode(bars)))
    pre = network.post_quant_embed_pre(found.code[..., :5])
    torch.testing.assert_close(found.coarse, network.decode_hidden(pre))


@torch.no_grad()
def test_the_coarse_reconstruction_knows_the_first_token_alone(network, bars):
    s1, _ = network.pair(bars)
    hidden = network.post_quant_embed_pre(network.codes([s1, torch.zeros_like(s1)], half=True)[..., :5])
    torch.testing.assert_close(network.decode_hidden(hidden), network.reconstruct(bars).coarse)


@torch.no_grad()
def test_a_pair_of_unequal_widths_decodes_as_the_whole_id(network, bars):
    torch.testing.assert_close(network.decode(network.pair(bars), half=True), network.decode(network.encode(bars)))


@torch.no_grad()
def test_ids_stay_within_their_bits(network, bars):
    s1, s2 = network.pair(10 * bars)
    assert s1.dtype == s2.dtype == torch.int64
    assert int(s1.min()) >= 0 and int(s1.max()) < 32 and int(s2.max()) < 8
