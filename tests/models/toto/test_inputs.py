"""Network inputs of rows with gaps."""

from __future__ import annotations

import torch

from foretrain.models.toto.inputs import prepare
from foretrain.models.toto.scaler import Scaler
from foretrain.nn.observed import forward_fill

SCALER = Scaler("CausalPatchStdMeanScaler", 4)


def gappy() -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).cumsum(1) + 7
    observed = torch.ones(3, 16, dtype=torch.bool)
    observed[1, 5:7] = False
    observed[2, :9] = False
    return values, observed


def test_a_missing_value_is_filled_with_the_previous_one():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    observed = torch.tensor([[False, True, False, True]])
    assert torch.equal(forward_fill(values, observed).nan_to_num(nan=-1.0), torch.tensor([[-1.0, 2.0, 2.0, 4.0]]))
    assert torch.equal(forward_fill(values, observed, torch.tensor([[9.0]])), torch.tensor([[9.0, 2.0, 2.0, 4.0]]))


def test_values_that_were_not_observed_have_no_effect_bit_for_bit():
    values, observed = gappy()
    found = prepare(SCALER, values, observed)
    for other in (0.0, -1e30, torch.nan, torch.inf):
        again = prepare(SCALER, torch.where(observed, values, other), observed)
        assert torch.equal(again.scaled, found.scaled)


def test_with_compat_they_are_used():
    values, observed = gappy()
    one, other = (prepare(SCALER, torch.where(observed, values, x), observed, compat=True) for x in (0.0, 5.0))
    assert torch.equal(one.scaled[observed], other.scaled[observed])
    assert ((one.scaled - other.scaled)[~observed].abs() > 1).all()
    assert one.empty is None


def test_a_row_before_its_first_observation_is_neutral():
    values, observed = gappy()
    scaled = prepare(SCALER, values, observed).scaled
    assert (scaled[2, :9] == 0).all() and (scaled[:2] != 0).all()


def test_patches_before_a_rows_first_observation_are_empty():
    found = prepare(SCALER, *gappy()).empty
    assert torch.equal(found, torch.tensor([[False] * 4, [False] * 4, [True, True, False, False]]))


def test_a_missing_patch_inside_a_row_is_not_empty():
    values, observed = gappy()
    observed[0, 4:12] = False
    assert not prepare(SCALER, values, observed).empty[0].any()


def test_complete_rows_are_the_same_with_a_mask_of_what_was_observed_and_without():
    values, _ = gappy()
    one, other = prepare(SCALER, values, None), prepare(SCALER, values, torch.ones_like(values, dtype=torch.bool))
    assert torch.equal(one.scaled, other.scaled)


def test_a_row_without_any_observation_is_zero():
    found = prepare(SCALER, torch.full((1, 8), torch.nan), torch.zeros(1, 8, dtype=torch.bool))
    assert (found.scaled == 0).all() and found.empty.all()
