"""Running statistics: the same in one pass as patch by patch, and only of observed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.models.toto.config import SCALERS
from foretrain.models.toto.scaler import Scaler

every_scaler = pytest.mark.parametrize("kind", SCALERS)


def rows(seed: int = 0, steps: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor([1.0, 1e-3, 1e6, 1.0])[:, None]
    values = (torch.randn(4, steps, generator=g).cumsum(1) + 5) * size
    observed = torch.rand(4, steps, generator=g) < 0.8
    observed[3, :13] = False
    return values, observed


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 9), max_size=3),
    seed=st.integers(0, 99),
    stabilize=st.booleans(),
    relative=st.booleans(),
)
@every_scaler
def test_running_statistics_equal_those_of_one_pass(kind, cuts, seed, stabilize, relative):
    values, observed = rows(seed)
    scaler = Scaler(kind, 4, stabilize=stabilize, exponent=0.5, relative=relative)
    ends = sorted({4, *(4 * cut for cut in cuts), 40})
    whole = scaler(values, observed, prefix_length=ends[0])
    parts, stream = [], None
    for begin, end in zip([0, *ends], ends, strict=False):
        if stream is None:
            found, stream = scaler.start(values[:, :end], observed[:, :end])
        else:
            found = stream.extend(values[:, begin:end], observed[:, begin:end])
        parts.append([x.expand(-1, end - begin) for x in found])
    for one, other in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.allclose(torch.cat(one, 1), other.expand(-1, 40), rtol=1e-6)


@every_scaler
def test_values_that_were_not_observed_have_no_effect(kind):
    values, observed = rows()
    scaler = Scaler(kind, 4)
    other = torch.where(observed, values, torch.tensor([torch.nan, torch.inf, -1e30, 3.0])[:, None])
    for one, two in zip(scaler(values, observed), scaler(other, observed), strict=True):
        assert torch.equal(one, two)


def test_a_step_has_the_mean_and_deviation_of_what_came_before_and_itself():
    values, observed = rows()
    loc, scale = Scaler("CausalStdMeanScaler", 4, stabilize=False)(values, observed)
    for row in range(4):
        for step in (3, 17, 39):
            seen = values[row, : step + 1][observed[row, : step + 1]].double().numpy()
            if len(seen) > 1:
                assert loc[row, step].item() == pytest.approx(seen.mean(), rel=1e-5)
                assert scale[row, step].item() == pytest.approx(np.sqrt(seen.var(ddof=1) + 0.1), rel=1e-5)


def test_a_patch_has_the_statistics_of_its_last_step():
    values, observed = rows()
    step, patch = (Scaler(kind, 4, stabilize=False) for kind in ("CausalStdMeanScaler", "CausalPatchStdMeanScaler"))
    for one, other in zip(step(values, observed), patch(values, observed), strict=True):
        assert torch.equal(one[:, 3::4].repeat_interleave(4, 1), other)


def test_nothing_observed_gives_zero_and_the_root_of_the_minimum():
    values = torch.full((1, 8), torch.nan)
    for kind, minimum in (("CausalPatchStdMeanScaler", 0.1), ("StdMeanScaler", 1e-3)):
        loc, scale = Scaler(kind, 4)(values, torch.zeros(1, 8, dtype=torch.bool))
        assert (loc == 0).all() and torch.allclose(scale, torch.tensor(minimum).sqrt())


@every_scaler
def test_the_relative_floor_is_a_millionth_of_the_rows_size_and_grows_with_its_unit(kind):
    values = torch.tensor([[3.0] * 8, [0.0] * 8, [1.0, 2.0] * 4])
    seen = torch.ones_like(values, dtype=torch.bool)
    scaler = Scaler(kind, 4, relative=True)
    loc, scale = scaler(values, seen)
    assert scale[0, -1].item() == pytest.approx(3e-6) and 0 < scale[1, -1] < 1e-12
    assert scale[2, -1].item() == pytest.approx(values[2].std(correction=kind != "StdMeanScaler").item())
    other = scaler(2.0**-40 * values, seen)
    assert torch.equal(other.loc, 2.0**-40 * loc) and torch.equal(other.scale[[0, 2]], 2.0**-40 * scale[[0, 2]])


def test_a_row_moves_once_its_deviation_exceeds_the_relative_floor():
    values = torch.tensor([[2.0] * 8 + [3.0] * 4, [0.0] * 4 + [1e-9] * 8])
    scaler = Scaler("CausalPatchStdMeanScaler", 4, relative=True)
    moves = scaler.moves(scaler(values, torch.ones_like(values, dtype=torch.bool)))
    assert moves is not None and moves[:, 3::4].tolist() == [[False, False, True], [False, True, True]]


def test_the_running_scale_stays_within_the_prefixs_limits():
    values = torch.cat((torch.randn(1, 8), 1e4 * torch.randn(1, 8)), 1)
    observed = torch.ones_like(values, dtype=torch.bool)
    held = Scaler("CausalPatchStdMeanScaler", 4, exponent=0.5)(values, observed, 8).scale
    free = Scaler("CausalPatchStdMeanScaler", 4, stabilize=False)(values, observed, 8).scale
    assert free[0, -1] > 100 * held[0, -1]
    assert torch.equal(held[0, 4], free[0, 4])


def test_selected_rows_continue_independently():
    values, observed = rows()
    scaler = Scaler("CausalPatchStdMeanScaler", 4)
    _, stream = scaler.start(values[:, :20], observed[:, :20])
    index = torch.tensor([2, 0, 2])
    chosen = stream.select(index)
    found = chosen.extend(values[index, 20:], observed[index, 20:])
    expected = stream.extend(values[:, 20:], observed[:, 20:])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other[index])


def test_statistics_have_no_gradient():
    values, observed = rows()
    assert not any(x.requires_grad for x in Scaler("CausalPatchStdMeanScaler", 4)(values.requires_grad_(), observed))
