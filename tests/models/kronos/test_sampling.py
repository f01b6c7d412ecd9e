"""Top-k and top-p filters, inverse-CDF draws, and what a draw depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foretrain.models.kronos.options import KronosOptions
from foretrain.models.kronos.sampling import TokenSampler, filter_logits, sample_tokens, uniform_draws

INF = float("inf")
LOGITS = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2]).log()


def kept(logits: torch.Tensor, **options) -> list[int]:
    """Tokens that are not filtered out."""
    return torch.nonzero(filter_logits(logits, KronosOptions(**options)) > -INF)[:, 0].tolist()


@pytest.mark.golden
@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("name", ["topk_1", "topk_3", "topk_100", "topp_0.1", "topp_0.5", "topp_0.9", "topp_0.999"])
def test_one_filter_leaves_what_the_reference_leaves(recorded, name, compat):
    cases = load_file(recorded / "generate" / "logit_filters.safetensors")
    kind, value = name.split("_")
    chosen = {"top_k": int(value), "top_p": 1.0} if kind == "topk" else {"top_p": float(value)}
    assert torch.equal(filter_logits(cases["logits"], KronosOptions(**chosen, compat=compat)), cases[name])


@pytest.mark.golden
def test_compat_ignores_top_p_beside_top_k_and_otherwise_both_count(recorded):
    cases = load_file(recorded / "generate" / "logit_filters.safetensors")
    both = {"top_k": 3, "top_p": 0.5}
    assert torch.equal(filter_logits(cases["logits"], KronosOptions(**both, compat=True)), cases["topk3_topp0.5"])
    found = filter_logits(cases["logits"], KronosOptions(**both)) > -INF
    assert (found.sum(-1) < (cases["topk3_topp0.5"] > -INF).sum(-1)).any()


def test_top_p_counts_shares_of_what_top_k_left():
    assert kept(LOGITS, top_k=3, top_p=1.0) == [1, 3, 4]
    assert kept(LOGITS, top_k=0, top_p=0.7) == [1, 3, 4]  # .4 + .25 < .7
    assert kept(LOGITS, top_k=3, top_p=0.7) == [1, 3]  # (.4 + .25) / .85 > .7


def test_the_token_that_crosses_top_p_is_kept_and_at_least_one():
    assert kept(LOGITS, top_p=0.41) == [1, 3]
    assert kept(LOGITS, top_p=0.01) == [1]


def test_tokens_tied_with_the_last_of_top_k_are_kept():
    assert kept(torch.tensor([1.0, 0.0, 1.0, 1.0]), top_k=2, top_p=1.0) == [0, 2, 3]


def test_temperature_divides_the_logits():
    options = KronosOptions(temperature=0.5, top_p=1.0)
    assert torch.allclose(filter_logits(LOGITS, options), LOGITS * 2)


def test_logits_of_minus_infinity_are_never_kept():
    logits = torch.tensor([-INF, 0.0, -INF, 1.0])
    assert kept(logits, top_p=0.999) == [1, 3]
    assert kept(logits, top_k=3, top_p=0.999) == [1, 3]


@pytest.mark.parametrize("draw", [0.0, 0.3, 1 - 2.0**-53])
def test_a_token_without_probability_is_never_drawn(draw):
    logits = torch.tensor([-INF, 2.0, -INF, 1.0, -200.0, -INF])
    assert sample_tokens(logits.view(1, 1, -1), torch.tensor([[draw]], dtype=torch.float64)).item() in (1, 3)


def test_draws_follow_the_probabilities():
    count = 200_000
    numbers = uniform_draws(5, torch.tensor([11]), range(count), 1)[:, :, 0, 0]
    found = torch.bincount(sample_tokens(LOGITS.view(1, 1, -1), numbers).flatten(), minlength=5) / count
    assert float((found - LOGITS.exp()).abs().max()) < 4 * (0.25 / count) ** 0.5  # 4 standard errors


def test_numbers_are_uniform_and_unrelated():
    numbers = uniform_draws(0, torch.arange(20), range(50), 40).flatten(0, 1).flatten(1).numpy()  # (paths, draws)
    assert numbers.min() >= 0 and numbers.max() < 1
    histogram = np.histogram(numbers, bins=20, range=(0, 1))[0] / numbers.size
    assert np.abs(histogram - 0.05).max() < 5 * (0.05 / numbers.size) ** 0.5
    between = np.corrcoef(numbers.T)[np.triu_indices(80, 1)]  # neighbouring steps, s1 with s2
    across = np.corrcoef(numbers[:100])[np.triu_indices(100, 1)]  # samples of a series, neighbouring keys
    assert np.abs(between).max() < 6 / 1000**0.5 and np.abs(across).max() < 6 / 80**0.5


def test_numbers_belong_to_seed_key_sample_and_step_alone():
    whole = uniform_draws(7, torch.tensor([5, -9, 3]), range(6), 8)
    assert torch.equal(uniform_draws(7, torch.tensor([-9]), range(2, 4), 3), whole[1:2, 2:4, :3])
    assert not torch.equal(uniform_draws(8, torch.tensor([5, -9, 3]), range(6), 8), whole)
    assert len(whole.unique()) == whole.numel()


def test_greedy_takes_the_likeliest_for_all_samples():
    logits = torch.stack([LOGITS, LOGITS.flip(0)])[:, None]
    for options in ({"top_k": 1}, {"temperature": 0}, {"temperature": 0, "compat": True}, {"top_k": 1, "compat": True}):
        assert TokenSampler(KronosOptions(**options), None, 3)(logits, 0, 0).tolist() == [[1] * 3, [3] * 3]


def test_compat_draws_all_rows_jointly_from_the_global_generator():
    logits = torch.randn(2, 3, 7)
    torch.manual_seed(4)
    found = TokenSampler(KronosOptions(top_p=1.0, compat=True), None, 3)(logits, 0, 0)
    torch.manual_seed(4)
    assert torch.equal(found.flatten(), torch.multinomial(logits.flatten(0, 1).softmax(-1), 1)[:, 0])
