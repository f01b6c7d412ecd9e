"""The predictor against numbers recorded from the reference code."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from foretrain.models.kronos.model import summed_cross_entropy

pytestmark = pytest.mark.golden

NAMES = ("predictor_te", "predictor_fixed_te", "predictor_s5_3")
EXACT = 1e-5


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(recorded, name) -> dict[str, torch.Tensor]:
    return load_file(recorded / name / "io.safetensors")


@pytest.fixture
def network(recorded_predictor, name):
    return recorded_predictor(name)


def inputs(case: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return case["s1_ids"], case["s2_ids"], case["stamp"]


def loss_of(network, case, logits) -> tuple[torch.Tensor, ...]:
    return losses_where(torch.ones_like(case["s1_targets"]), case, logits)


def losses_where(scored: torch.Tensor, case, logits) -> tuple[torch.Tensor, ...]:
    """Upstream's loss, the mean of both cross-entropies, and each of them, as means over what is scored."""
    targets = case["s1_targets"], case["s2_targets"]
    s1, s2 = (summed_cross_entropy(x, y, scored) / scored.sum() for x, y in zip(logits, targets, strict=True))
    return (s1 + s2) / 2, s1, s2


@torch.no_grad()
def test_embeddings_are_the_recorded_ones(network, case, apart):
    assert apart(network.embedding(case["s1_ids"], case["s2_ids"]), case["embed"]) < EXACT
    assert apart(network.time_emb(case["stamp"]), case["time_emb"]) < EXACT


@torch.no_grad()
def test_the_first_tokens_logits_and_the_hidden_states_are_the_recorded_ones(network, case, apart):
    for prefix, stamp in (("eval", case["stamp"]), ("nostamp", None)):
        logits, hidden = network.decode_s1(case["s1_ids"], case["s2_ids"], stamp)
        assert apart(logits, case[f"{prefix}_s1_logits"]) < EXACT
        assert apart(hidden, case[f"{prefix}_context"]) < EXACT


@torch.no_grad()
def test_one_query_over_all_bars_gives_the_recorded_logits_of_the_second_token(network, case, apart):
    found = network.decode_s2(case["eval_context"], case["decode_s2_q1_ids"])
    assert apart(found, case["eval_s2_logits_q1"]) < EXACT


@torch.no_grad()
def test_compat_looks_at_all_bars_in_eval_mode_as_recorded(network, case, apart):
    found = network.decode_s2(case["eval_context"], case["s1_targets"], compat=True)
    assert apart(found, case["eval_s2_logits_full"]) < EXACT
    s1, s2 = network(*inputs(case), use_teacher_forcing=True, s1_targets=case["s1_targets"], compat=True)
    assert apart(s1, case["eval_tf_s1_logits"]) < EXACT
    assert apart(s2, case["eval_tf_s2_logits"]) < EXACT


@torch.no_grad()
def test_without_compat_eval_mode_gives_what_was_recorded_in_training_mode(network, case, apart):
    given = {"use_teacher_forcing": True, "s1_targets": case["s1_targets"]}
    found = network(*inputs(case), **given)
    assert apart(found[1], case["train_tf_s2_logits"]) < EXACT
    assert apart(found[1], case["eval_tf_s2_logits"]) > 0.01


def test_teacher_forced_training_gives_the_recorded_losses_and_gradients(recorded, name, network, case, apart):
    network.train()
    logits = network(*inputs(case), use_teacher_forcing=True, s1_targets=case["s1_targets"])
    check_logits_and_losses(network, case, "train_tf", logits, apart)
    check_gradients(recorded / name, network, "teacher_forced", apart)


def test_sampled_training_draws_the_recorded_tokens_and_gives_their_gradients(recorded, name, network, case, apart):
    given: list[torch.Tensor] = []
    network.train().dep_layer.register_forward_pre_hook(lambda _, call: given.append(call[1]))
    torch.manual_seed(7)
    logits = network(*inputs(case))
    assert torch.equal(given[0], network.embedding.emb_s1(case["train_sampled_s1"]))
    check_logits_and_losses(network, case, "train_sampled", logits, apart)
    check_gradients(recorded / name, network, "sampled", apart)


def test_replaying_the_drawn_tokens_gives_the_same_gradients(recorded, name, network, case, apart):
    network.train()
    logits = network(*inputs(case), use_teacher_forcing=True, s1_targets=case["train_sampled_s1"])
    check_logits_and_losses(network, case, "train_sampled", logits, apart)
    check_gradients(recorded / name, network, "sampled", apart)


def test_a_padding_mask_leaves_positions_out_as_recorded(network, case, apart):
    logits = case["train_sampled_s1_logits"], case["train_sampled_s2_logits"]
    found = losses_where(1 - case["padding_mask"], case, logits)
    for key, value in zip(("masked_loss", "masked_ce_s1", "masked_ce_s2"), found, strict=True):
        assert apart(value.reshape(1), case[key]) < EXACT, key


def check_logits_and_losses(network, case, prefix, logits, apart) -> None:
    """Compare, then go backward from the loss."""
    for part, found in zip(("s1", "s2"), logits, strict=True):
        assert apart(found, case[f"{prefix}_{part}_logits"]) < EXACT
    losses = loss_of(network, case, logits)
    for part, found in zip(("loss", "ce_s1", "ce_s2"), losses, strict=True):
        assert apart(found.reshape(1), case[f"{prefix}_{part}"]) < EXACT, part
    losses[0].backward()


def check_gradients(folder, network, how, apart) -> None:
    norms = load_file(folder / f"grad_norms_{how}.safetensors")
    whole = load_file(folder / "grads_full.safetensors") if how == "teacher_forced" else {}
    parameters = dict(network.named_parameters())
    assert norms.keys() == parameters.keys() and whole.keys() < parameters.keys()
    for key, parameter in parameters.items():
        if float(norms[key]) == -1:
            assert parameter.grad is None and not parameter.requires_grad, key
            continue
        assert float(parameter.grad.norm()) == pytest.approx(float(norms[key]), rel=1e-5, abs=1e-7), key
        if key in whole:
            assert apart(parameter.grad, whole[key]) < EXACT, key
