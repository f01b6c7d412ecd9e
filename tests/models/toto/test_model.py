"""The network: windows and, without variate layers, rows are independent; padding has no effect; caches are exact."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.models.toto.config import preset
from foretrain.models.toto.kv_cache import GrowingKVCache
from foretrain.models.toto.model import TotoNetwork
from foretrain.nn.layout import RowLayout

CLOSE = {"rtol": 1e-4, "atol": 1e-5}

labelled = pytest.mark.parametrize("labels", [False, True])


@cache
def network(labels: bool) -> TotoNetwork:
    """Two layers, one over time and one over variates."""
    config = preset("debug", patch_size=4, embed_dim=16, num_layers=2, num_heads=2, mlp_hidden_dim=24,
                    spacewise_every_n_layers=2)  # fmt: skip
    made = TotoNetwork.empty(config, labels=labels)
    made.initialise(3)
    return made.eval()


def scaled(rows: int, patches: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 4 * patches, generator=torch.Generator().manual_seed(seed))


def layout(*sizes: int) -> RowLayout:
    return RowLayout.of(np.repeat(np.arange(len(sizes)), sizes))


@torch.no_grad()
@labelled
def test_windows_of_a_batch_do_not_attend_to_each_other(network_of, small_config, labels):
    network = network_of(small_config, labels=labels)
    x = scaled(6, 5)
    together = network.hidden_states(x, layout(3, 1, 2))
    for part, size in ((slice(0, 3), 3), (slice(3, 4), 1), (slice(4, 6), 2)):
        assert torch.allclose(together[part], network.hidden_states(x[part], layout(size)), **CLOSE)


@torch.no_grad()
def test_rows_of_a_window_attend_to_each_other(network_of, small_config):
    network = network_of(small_config)
    x, changed = scaled(4, 5), scaled(4, 5)
    changed[1] += 1
    moved = (network.hidden_states(changed, layout(2, 2)) - network.hidden_states(x, layout(2, 2))).abs().amax((1, 2))
    assert (moved[:2] > 1e-3).all() and (moved[2:] == 0).all()


@torch.no_grad()
def test_windows_are_the_same_among_others_of_any_size(network_of, small_config):
    network, x = network_of(small_config), scaled(7, 5)
    among = network.hidden_states(x, layout(2, 2, 3))[:4]
    assert torch.allclose(among, network.hidden_states(x[:4], layout(2, 2)), **CLOSE)


@torch.no_grad()
@labelled
def test_the_residual_stream_keeps_its_precision_under_autocast(network_of, small_config, labels):
    network, x = network_of(small_config, labels=labels), scaled(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = network.hidden_states(x, layout(3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network.hidden_states(x, layout(3)), rtol=0, atol=0.02)


@torch.no_grad()
@labelled
def test_a_patch_does_not_attend_to_later_ones(network_of, small_config, labels):
    network, x = network_of(small_config, labels=labels), scaled(3, 6)
    later = x.clone()
    later[:, 16:] = 9.0
    one, other = (network.hidden_states(values, layout(3)) for values in (x, later))
    assert torch.equal(one[:, :4], other[:, :4]) and not torch.allclose(one[:, 4:], other[:, 4:])


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(before=st.integers(1, 5), seed=st.integers(0, 99), labels=st.booleans())
def test_empty_patches_in_front_change_nothing(before, seed, labels):
    """So a forecast does not depend on the lengths of others in its batch."""
    x = scaled(3, 4, seed)
    empty = torch.zeros(3, 4, dtype=torch.bool)
    empty[2, :2] = True  # one row starts later than the window
    found = network(labels).hidden_states(x, layout(3), empty=empty)
    padded = F.pad(x, (4 * before, 0)), layout(3)
    longer = network(labels).hidden_states(*padded, empty=F.pad(empty, (before, 0), value=True))
    seen = ~empty
    assert torch.allclose(longer[:, before:][seen], found[seen], **CLOSE)
    assert not torch.allclose(network(labels).hidden_states(*padded)[:, before:][seen], found[seen], **CLOSE)


@torch.no_grad()
def test_without_an_empty_patch_the_mask_of_them_changes_nothing(network_of, small_config):
    network, x = network_of(small_config), scaled(3, 5)
    empty = torch.zeros(3, 5, dtype=torch.bool)
    assert torch.allclose(
        network.hidden_states(x, layout(3), empty=empty), network.hidden_states(x, layout(3)), **CLOSE
    )


@torch.no_grad()
@labelled
@pytest.mark.parametrize("cuts", [(5, 1, 1, 1), (3, 2, 3), (2, 6)])
@pytest.mark.parametrize("late", [0, 2])
def test_patches_read_in_several_calls_are_as_if_read_in_one(network_of, small_config, labels, cuts, late):
    network, x = network_of(small_config, labels=labels), scaled(3, 8)
    empty = torch.zeros(3, 8, dtype=torch.bool)
    empty[1, :late] = True
    begun = empty[:, : cuts[0]] if late else None  # a row starts within the first call
    given = {"layout": layout(3), "exogenous": torch.tensor([False, False, True]) if labels else None}
    caches = [GrowingKVCache() for _ in range(network.layers_over_time)]
    parts, first = [], 0
    for count in cuts:
        values = x[:, 4 * first : 4 * (first + count)]
        parts.append(network.hidden_states(values, **given, empty=begun, caches=caches, first=first))
        first += count
    whole = network.hidden_states(x, **given, empty=empty if late else None)
    assert torch.allclose(torch.cat(parts, 1)[~empty], whole[~empty], **CLOSE)


@torch.no_grad()
def test_only_the_distance_of_positions_matters(network_of, small_config):
    """The centre of the decay may be anywhere, as long as it is one."""
    network, x = network_of(small_config), scaled(2, 5)
    one, other = (network.hidden_states(x, layout(2), recentre=way) for way in (False, True))
    assert torch.allclose(one, other, **CLOSE)


@torch.no_grad()
def test_labels_tell_targets_from_covariates(network_of, small_config):
    network, x = network_of(small_config, labels=True), scaled(2, 5)
    plain = network.hidden_states(x, layout(2))
    marked = network.hidden_states(x, layout(2), exogenous=torch.tensor([False, True]))
    assert torch.equal(network.hidden_states(x, layout(2), exogenous=torch.tensor([False, False])), plain)
    assert not torch.allclose(marked, plain)


def test_both_labels_get_gradients_for_any_rows(network_of, small_config):
    network = network_of(small_config, labels=True)
    network.hidden_states(scaled(2, 3), layout(2)).square().sum().backward()
    assert network.target_variate_label.grad.any() and not network.exogenous_variate_label.grad.any()


@torch.no_grad()
def test_the_length_of_a_label_has_no_effect(network_of, small_config):
    network, x = network_of(small_config, labels=True), scaled(2, 3)
    before = network.hidden_states(x, layout(2))
    network.target_variate_label.mul_(3.0)
    assert torch.allclose(network.hidden_states(x, layout(2)), before, **CLOSE)


@torch.no_grad()
def test_without_layers_over_variates_rows_are_independent(network_of, small_config):
    network = network_of(replace(small_config, spacewise_every_n_layers=-1))
    assert network.layers_over_time == 3
    x = scaled(3, 4)
    assert torch.allclose(network.hidden_states(x, layout(3)), network.hidden_states(x, layout(1, 1, 1)), **CLOSE)


@pytest.mark.parametrize("components", [3, None])
def test_a_head_folded_into_the_unembedding_gives_the_same_mixtures_and_gradients(
    network_of, small_config, components, apart
):
    if components is None:
        name = "<class 'model.distribution.StudentTOutput'>"
        small_config = replace(small_config, output_distribution_classes=(name,), output_distribution_kwargs=None)
    network = network_of(small_config).double()
    hidden = torch.randn(50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert network.folds_head(50) and not network.folds_head(2)
    found = []
    for head in (network.mixture_head(50), network.mixture_head(2)):
        mixtures = head(hidden)
        mixtures.log_prob(torch.ones(50, 4, dtype=torch.float64)).sum().backward()
        ends = [*network.unembed.parameters(), *network.output_distribution.parameters()]
        found.append([mixtures.df, mixtures.loc, mixtures.scale, mixtures.log_weights, *(p.grad.clone() for p in ends)])
        network.zero_grad()
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_wrapped_layer_is_called_instead_of_folded(network_of, small_config):
    network = network_of(small_config)
    network.unembed = torch.nn.Sequential(network.unembed)
    assert not network.folds_head(10_000)
