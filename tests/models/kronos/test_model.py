"""The predictor's network: what each position depends on, in training and eval mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from foretrain.models.kronos.layers import rotary_tables_at
from foretrain.models.kronos.model import KronosNetwork

BARS, CUT = 12, 7  # tokens from CUT on are changed


@pytest.fixture
def network(kit) -> KronosNetwork:
    """Weights large enough for attention to matter."""
    network = kit.predictor(n_layers=2).network.eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(3)
    return network


@pytest.fixture
def ids() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    stamp = torch.stack(
        [torch.randint(low, high, (2, BARS)) for low, high in ((0, 60), (0, 24), (0, 7), (1, 32), (1, 13))], -1
    )
    return torch.randint(0, 16, (2, BARS)), torch.randint(0, 16, (2, BARS)), stamp


def others(ids: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """All three with other valid values from CUT on."""
    s1, s2, stamp = (part.clone() for part in ids)
    s1[:, CUT:], s2[:, CUT:] = (s1[:, CUT:] + 5) % 16, (s2[:, CUT:] + 9) % 16
    stamp[:, CUT:] = torch.tensor([30, 12, 3, 15, 6]) - stamp[:, CUT:] % 2
    return s1, s2, stamp


def position_losses(network, ids, targets, **how) -> torch.Tensor:
    """Cross-entropy of the second token (B, T) at every position, first tokens given."""
    _, logits = network(*ids, use_teacher_forcing=True, s1_targets=targets[0], **how)
    return F.cross_entropy(logits.transpose(1, 2), targets[1], reduction="none")


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_no_logit_depends_on_a_later_bar(network, ids, mode):
    """A target of position t is the first token of bar t + 1, so the second head at t may depend on it."""
    network.train(mode == "train")
    targets, changed = ids[0].roll(-1, 1), others((ids[0].roll(-1, 1), ids[1], ids[2]))[0]
    before = network(*ids, use_teacher_forcing=True, s1_targets=targets)
    after = network(*others(ids), use_teacher_forcing=True, s1_targets=changed)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[:, :CUT], other[:, :CUT])
        assert not torch.allclose(one[:, CUT:], other[:, CUT:])


@torch.no_grad()
def test_validation_losses_do_not_depend_on_later_bars_but_upstreams_do(network, ids):
    """Upstream chooses its checkpoints by a loss whose second head has seen the bars to come: compat shows it."""
    targets = ids[0].roll(-1, 1), ids[1].roll(-1, 1)
    changed = (others((targets[0], *ids[1:]))[0], targets[1])
    honest = [position_losses(network, ids, t)[:, :CUT] for t in (targets, changed)]
    assert torch.equal(honest[0], position_losses(network, others(ids), changed)[:, :CUT])
    assert torch.equal(*honest)
    leaking = position_losses(network, ids, targets, compat=True)[:, :CUT]
    leaked = position_losses(network, others(ids), changed, compat=True)[:, :CUT]
    assert not torch.allclose(leaking, leaked)
    assert not torch.allclose(leaking, honest[0])


@torch.no_grad()
def test_compat_changes_nothing_in_training_mode(network, ids):
    network.train()
    given = {"use_teacher_forcing": True, "s1_targets": ids[0]}
    assert torch.equal(network(*ids, **given)[1], network(*ids, **given, compat=True)[1])


@torch.no_grad()
def test_the_second_token_depends_on_the_first_one_given(network, ids):
    _, hidden = network.decode_s1(*ids)
    before, after = (network.decode_s2(hidden, first) for first in (ids[0], (ids[0] + 1) % 16))
    assert not torch.allclose(before, after)


@torch.no_grad()
def test_one_query_attends_to_all_bars_without_positions(network, ids):
    """As generation uses the published weights: the order of earlier bars does not matter, their content does."""
    _, hidden = network.decode_s1(*ids)
    query = ids[0][:, :1]
    shuffled = torch.cat((hidden[:, :-1].flip(1), hidden[:, -1:]), 1)
    before = network.decode_s2(hidden, query)[:, -1]
    torch.testing.assert_close(network.decode_s2(shuffled, query)[:, -1], before)
    changed = torch.cat((hidden[:, :1] + 1, hidden[:, 1:]), 1)
    assert not torch.allclose(network.decode_s2(changed, query)[:, -1], before)


@torch.no_grad()
def test_both_code_paths_agree_for_a_single_bar(network, ids):
    _, hidden = network.decode_s1(*(part[:, :1] for part in ids))
    found = network.decode_s2(hidden, ids[0][:, :1])
    expected = network.head.proj_s2(network.dep_layer.last(hidden, network.embedding.emb_s1(ids[0][:, :1])))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_first_tokens_are_drawn_from_the_models_own_logits(network, ids):
    """So in 4,000 draws each comes up as often as it is likely."""
    s1, s2, stamp = (part[:1, :1].repeat(4000, *[1] * (part.ndim - 1)) for part in ids)
    given: list[torch.Tensor] = []
    network.dep_layer.register_forward_pre_hook(lambda _, call: given.append(call[1]))
    torch.manual_seed(1)
    logits, _ = network(s1, s2, stamp)
    drawn = (given[0] == network.embedding.emb_s1.weight).all(-1).float().mean(0)
    torch.testing.assert_close(drawn, logits[0, 0].softmax(-1), atol=0.03, rtol=0)


def test_no_gradient_passes_through_the_draw(network, ids):
    network.train()
    s1_logits, s2_logits = network(*ids)
    (grad,) = torch.autograd.grad(s2_logits.sum(), [network.head.proj_s1.weight], allow_unused=True)
    assert grad is None and s1_logits.requires_grad


@torch.no_grad()
def test_stamps_are_looked_up_in_five_tables_and_added(network):
    stamp = torch.tensor([[[7, 8, 2, 30, 11]]])
    tables = network.time_emb
    expected = sum(
        getattr(tables, f"{part}_embed").weight[k]
        for part, k in (("minute", 7), ("hour", 8), ("weekday", 2), ("day", 30), ("month", 11))
    )
    torch.testing.assert_close(tables(stamp)[0, 0], expected)
    assert torch.equal(tables(stamp.float()), tables(stamp))


@torch.no_grad()
def test_positions_are_relative(network):
    """Attention is the same for bars a hundred positions later."""
    block = network.transformer[0].self_attn
    x = torch.randn(1, BARS, 16)
    shifted = rotary_tables_at(torch.arange(100, 100 + BARS), block.width)
    plain = rotary_tables_at(torch.arange(BARS), block.width)
    torch.testing.assert_close(block(x, shifted), block(x, plain), atol=1e-4, rtol=1e-4)
