"""Single blocks against numbers recorded from the reference code, on random data."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from foretrain.models.kronos.layers import EPS, FeedForward, Rotary, rotary_tables, rotary_tables_at
from foretrain.models.kronos.model import sinusoid
from foretrain.nn.rms_norm import RMSNorm
from foretrain.nn.rope import rotate

pytestmark = pytest.mark.golden

EXACT = 1e-5
CPU = torch.device("cpu")


@pytest.fixture
def pieces(recorded) -> dict[str, torch.Tensor]:
    return load_file(recorded / "pieces.safetensors")


@torch.no_grad()
def test_the_norm_is_the_recorded_one(pieces, apart):
    norm = RMSNorm(32, EPS)
    norm.weight.copy_(pieces["norm_weight"])
    assert apart(norm(pieces["x"]), pieces["rmsnorm"]) < EXACT


@torch.no_grad()
def test_the_feed_forward_is_the_recorded_one(pieces, apart):
    block = FeedForward(32, 64)
    block.load_state_dict({f"{part}.weight": pieces[f"ffn_{part}"] for part in ("w1", "w2", "w3")})
    assert apart(block(pieces["x"]), pieces["ffn_out"]) < EXACT


def test_positions_are_turned_as_recorded(pieces, apart):
    table = rotary_tables(7, 8, CPU)
    assert apart(rotate(pieces["q"], table), pieces["q_rot"]) < EXACT
    assert apart(rotate(pieces["k"], table), pieces["k_rot"]) < EXACT
    assert torch.equal(Rotary(8).inv_freq, pieces["inv_freq"])


def test_a_single_query_turns_neither_side_as_recorded(pieces, apart):
    table = rotary_tables(1, 8, CPU)
    assert apart(rotate(pieces["q"][:, :, -1:], table), pieces["q1_rot"]) < EXACT
    assert apart(rotate(pieces["k"], table), pieces["k_rot_with_q1"]) < EXACT
    assert apart(pieces["k"], pieces["k_rot_with_q1"]) < EXACT


def test_positions_may_be_given_one_by_one(pieces):
    for ours, theirs in zip(rotary_tables_at(torch.tensor([4, 2]), 8), rotary_tables(7, 8, CPU), strict=True):
        assert torch.equal(ours, theirs[[4, 2]])


def test_fixed_time_tables_are_the_sines_and_cosines_recorded(pieces, apart):
    assert apart(sinusoid(13, 32), pieces["fixed_embedding_13x32_as_constructed"]) < EXACT
