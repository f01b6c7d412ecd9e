"""The network's layout, masks and positions, and its use with adapters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from foretrain.models.toto2.config import Toto2Config
from foretrain.models.toto2.model import Toto2Network
from foretrain.models.toto2.rotary import rotary_tables, rotate
from foretrain.nn.layout import RowLayout

PATCH = 8


def network_of(recorded, name: str = "like4m", **changes):
    network = Toto2Network.empty(replace(Toto2Config.read(recorded / name / "config.json"), **changes))
    network.initialise(0)
    return network


def series(rows: int, patches: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, patches * PATCH, generator=generator).cumsum(1)
    return x, torch.rand(x.shape, generator=generator) > 0.2


@pytest.mark.parametrize("name", ["like4m", "other"])
@torch.no_grad()
def test_windows_of_any_sizes_share_a_batch(recorded, name):
    network = network_of(recorded, name)
    sizes = [3, 1, 2, 3, 1]
    x, observed = series(sum(sizes))
    observed[4, :PATCH] = False
    groups = torch.where(observed.unflatten(1, (-1, PATCH)).any(-1), 0, -1)
    together = network(x, observed, RowLayout.of(np.repeat(np.arange(5), sizes)), groups).quantiles
    first = 0
    for size in sizes:
        rows = slice(first, first + size)
        alone = network(x[rows], observed[rows], RowLayout.of(np.zeros(size, int)), groups[rows]).quantiles
        torch.testing.assert_close(together[rows], alone, rtol=1e-5, atol=1e-5)
        first += size


@torch.no_grad()
def test_without_groups_everything_in_a_window_is_seen(recorded):
    network = network_of(recorded)
    x, observed = series(6)
    layout = RowLayout.of(np.repeat([0, 1], 3))
    plain = network(x, observed, layout).quantiles
    masked = network(x, observed, layout, torch.zeros(6, 5, dtype=torch.long)).quantiles
    torch.testing.assert_close(plain, masked, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_no_token_sees_a_later_one_and_none_another_window(recorded):
    network = network_of(recorded)
    x, observed = series(4)
    changed = x.clone()
    changed[1, 3 * PATCH :] += 5
    layout = RowLayout.of(np.array([0, 0, 1, 1]))
    one, other = (network(y, observed, layout).quantiles for y in (x, changed))
    same = (one == other).flatten(2).all(-1)
    assert same.tolist() == [[True] * 3 + [False] * 2] * 2 + [[True] * 5] * 2


@torch.no_grad()
def test_empty_patches_on_the_left_change_nothing(recorded):
    """They shift positions, but only distances matter."""
    network = network_of(recorded)
    x, observed = series(2)
    layout = RowLayout.of(np.array([0, 0]))
    alone = network(x, observed, layout, torch.zeros(2, 5, dtype=torch.long)).quantiles
    left = torch.zeros(2, 7 * PATCH)
    groups = torch.tensor([[-1] * 7 + [0] * 5] * 2)
    padded = network(torch.cat((left, x), 1), torch.cat((left.bool(), observed), 1), layout, groups).quantiles
    torch.testing.assert_close(padded[:, 7:], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_some_rows_and_last_tokens_computed_alone_are_the_same(recorded):
    network = network_of(recorded, "other")  # its last layer attends over time
    x, observed = series(4)
    layout, rows = RowLayout.of(np.array([0, 0, 1, 1])), torch.tensor([3, 0])
    whole = network(x, observed, layout).quantiles
    some = network(x, observed, layout, keep=2, rows=rows).quantiles
    torch.testing.assert_close(some, whole[rows, -2:], rtol=1e-5, atol=1e-5)


def test_positions_have_no_maximum_and_only_distances_count():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 16, generator=generator)
    scores = []
    for start in (0, 20_000):
        turn = rotary_tables(start, 4, 8, start, q.device)
        scores.append(rotate(q.expand(4, 16), turn.query) @ rotate(k.expand(4, 16), turn.key).T)
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-2)  # of angles near 20,000 in float32
    assert not torch.allclose(scores[0][0, 0], scores[0][1, 0], atol=1e-2)


class Wrapped(nn.Module):
    """Wraps a layer as an adapter does: its forward does more than the wrapped weight."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + 1


@pytest.mark.parametrize("sizes", [[1, 1], [2], [1, 2]])
@torch.no_grad()
def test_every_linear_layer_can_be_wrapped(recorded, sizes):
    network = network_of(recorded)
    x, observed = series(sum(sizes))
    layout = RowLayout.of(np.repeat(np.arange(len(sizes)), sizes))
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    before = network(x, observed, layout).quantiles
    for name in linear:
        parent, _, child = name.rpartition(".")
        plain = network.get_submodule(name)
        setattr(network.get_submodule(parent), child, Wrapped(plain))
        assert not torch.equal(network(x, observed, layout).quantiles, before), name
        setattr(network.get_submodule(parent), child, plain)


@pytest.mark.parametrize("name", ["like4m", "other"])
def test_single_variate_rows_give_every_parameter_a_gradient(recorded, name):
    network = network_of(recorded, name)
    x, observed = series(3)
    network(x, observed, RowLayout.of(np.arange(3))).quantiles.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
