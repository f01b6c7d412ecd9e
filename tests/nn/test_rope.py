"""Rotary positions: scores depend on distance alone."""

from __future__ import annotations

import torch

from foretrain.nn.rope import rope_table, rotate

CPU = torch.device("cpu")


def test_scores_depend_on_the_distance_of_two_tokens_alone():
    table = rope_table(12, 8, 10000.0, CPU)
    q, k = torch.randn(8), torch.randn(8)
    scores = rotate(q.expand(12, 8), table) @ rotate(k.expand(12, 8), table).T
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


def test_angles_fall_geometrically_from_one_to_theta():
    cos, sin = rope_table(2, 4, 100.0, CPU)
    assert torch.allclose(torch.atan2(sin[1], cos[1]), torch.tensor([1.0, 0.1]))


def test_the_first_half_pairs_with_the_second():
    table = rope_table(2, 4, 100.0, CPU)
    turned = rotate(torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0]]), table)[1]
    assert torch.allclose(turned, torch.tensor([torch.cos(torch.tensor(1.0)), 0, torch.sin(torch.tensor(1.0)), 0]))
