"""Draws: from the right distribution, and of nothing but seed, row, sample and step."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from tests.models.toto.test_distribution import mixtures, scipy_cdf

from foretrain.models.toto.sampling import draw, numbers, row_keys


def test_draws_follow_the_mixture():
    m = mixtures(4, 5)
    uniforms = numbers(0, torch.arange(4), range(4000), range(1))[:, :, 0]
    values = draw(m.map(lambda x: x[:, None]), uniforms)
    for k in range(4):
        shares = scipy_cdf(m[k : k + 1].map(lambda x: x[0]), values[k].numpy())
        assert stats.kstest(shares, "uniform").pvalue > 1e-3


def test_a_draw_depends_on_its_row_sample_and_step_alone():
    keys = torch.tensor([7, -3, 2**62])
    whole = numbers(5, keys, range(6), range(8))
    assert torch.equal(numbers(5, keys[[2, 0]], [4, 1], range(3, 6)), whole[[2, 0]][:, [4, 1]][:, :, 3:6])
    assert not torch.equal(numbers(6, keys, range(6), range(8)), whole)
    assert len(whole.unique()) == whole.numel()


def test_rows_of_a_window_have_keys_of_their_own_whatever_else_is_in_the_batch():
    keys = np.array([11, 12, 13], np.uint64)
    whole = row_keys(keys, np.array([0, 0, 1, 2, 2, 2]))
    assert len(np.unique(whole)) == 6
    assert np.array_equal(row_keys(keys[2:], np.array([0, 0, 0])), whole[3:])


def test_the_most_extreme_numbers_give_finite_values():
    m = mixtures(4, 5, dtype=torch.float32)
    for edge in (0.0, 1 - 2.0**-53):
        assert draw(m, torch.full((4, 2), edge, dtype=torch.float64)).isfinite().all()
