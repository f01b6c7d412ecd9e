"""Properties of the network beyond the recorded numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

NAN = torch.nan


def rows(count: int, steps: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, steps, generator=torch.Generator().manual_seed(seed)).cumsum(-1)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [2, 2, 1], [3, 3], list(range(1, 9))])
@pytest.mark.parametrize("missing", [False, True])
def test_a_group_is_forecast_as_if_it_were_alone(network_of, small_config, apart, sizes, missing):
    network = network_of(small_config)
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))]
    context = rows(len(ids), 22)
    if missing:
        context[::2, :10] = NAN
        context[1, 15] = NAN
    with torch.no_grad():
        together = network(context, group_ids=ids, num_output_patches=2).quantile_preds
        for group in ids.unique():
            alone = network(context[ids == group], group_ids=ids[ids == group], num_output_patches=2).quantile_preds
            assert apart(together[ids == group], alone) < 5e-5


@pytest.mark.parametrize("cases_of", ["whole", "missing", "grouped", "padded"])
def test_pruning_the_last_block_changes_nothing(network_of, small_config, apart, cases_of):
    network = network_of(small_config)
    context = rows(12, 20)
    if cases_of != "whole":
        context[:5, :9] = NAN
    sizes = {"grouped": [3, 3, 1, 3, 2], "padded": [1, 2, 3, 4, 1, 1]}.get(cases_of, [1] * 12)
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    inputs, _ = network.arranged(context, None, ids, num_output_patches=3)
    wanted = torch.tensor([0, 4, 7])
    with torch.no_grad():
        hidden, ctx = network.embed_tokens(inputs), network.attention_context(inputs)
        full = network.encoder(hidden, ctx)
        assert apart(network.encoder(hidden, ctx, 3), full[:, -3:]) < 1e-5
        assert apart(network.encoder(hidden, ctx, 3, wanted), full[wanted, -3:]) < 1e-5
        assert apart(network.predict(inputs, wanted), network.head(full[wanted, -3:])) < 1e-5


@pytest.mark.parametrize("kind", ["lone", "lone missing", "grouped missing", "covariates", "padded"])
def test_hand_written_passes_equal_the_plain_layers(network_of, small_config, apart, kind):
    """float32 on a CPU takes fused.py; float64 takes the plain layers and autograd."""
    network = network_of(small_config).train()
    plain = copy.deepcopy(network).double()
    sizes = {"grouped missing": [2, 2, 3, 3], "padded": [2, 3, 4, 5, 6, 7, 8, 9]}.get(kind, [1] * 10)
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    context, future = rows(len(ids), 22), rows(len(ids), 7, seed=1)
    if "missing" in kind:
        context[::3, :9] = NAN
        context[1, 14] = NAN
    call = {"group_ids": ids, "num_output_patches": 2, "future_target": future}
    if kind == "covariates":
        known = future.clone()
        known[::2] = NAN
        call |= {"group_ids": ids // 2, "future_covariates": known}
    ours, theirs = network(context, **call), plain(context, **call)
    assert apart(ours.loss, theirs.loss) < 1e-5
    ours.loss.backward()
    theirs.loss.backward()
    for (name, a), b in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert apart(a.grad, b.grad) < 1e-5, name


def test_chunks_of_one_row_give_the_same_gradients(network_of, small_config, apart, monkeypatch):
    from foretrain.models.chronos2 import fused

    network = network_of(small_config).train()
    context, future = rows(8, 22), rows(8, 7, seed=1)
    call = {"group_ids": torch.tensor([0, 0, 1, 2, 3, 3, 4, 5]), "num_output_patches": 2, "future_target": future}
    grads = []
    for chunk in (1 << 21, 1):
        monkeypatch.setattr(fused, "_CHUNK", chunk)
        network.zero_grad()
        network(context, **call).loss.backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    assert max(apart(a, b) for a, b in zip(*grads, strict=True)) < 1e-5


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 0, 1, 1]])
def test_dropout_keeps_the_expected_update(network_of, small_config, ids):
    """Mean over many draws of each layer's output approaches the output without dropout where that is linear in the
    mask: time and group attention."""
    network = network_of(small_config, dropout_rate=0.2).train()
    inputs, _ = network.arranged(rows(4, 12), None, torch.tensor(ids))
    with torch.no_grad():
        hidden, ctx = network.embed_tokens(inputs), network.attention_context(inputs)
        for layer in list(network.encoder.block[0].layer)[:2]:
            exact = layer.eval()(hidden, ctx) - hidden
            layer.train()
            draws = torch.stack([layer(hidden, ctx) - hidden for _ in range(250)])
            error = (draws.mean(0) - exact) / (draws.std(0) / 250**0.5 + 1e-6)
            assert error.abs().mean() < 1.0  # of standard errors; 0.8 is expected of a fair one
            assert error.abs().max() < 6


def test_recomputing_activations_changes_nothing_even_with_dropout(network_of, small_config):
    network = network_of(small_config, dropout_rate=0.3).train()
    inputs, _ = network.arranged(rows(5, 20), None, torch.tensor([0, 0, 1, 2, 3]))
    grads = []
    for wrap in (lambda block, *a: block(*a), lambda block, *a: checkpoint(block, *a, use_reentrant=False)):
        torch.manual_seed(0)
        network.zero_grad()
        hidden, ctx = network.embed_tokens(inputs), network.attention_context(inputs)
        for block in network.encoder.block:
            hidden = wrap(block, hidden, ctx)
        hidden.square().sum().backward()
        grads.append([p.grad.clone() for p in network.encoder.block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_given_layout_leaves_no_graph_break(network_of, small_config, apart):
    network = network_of(small_config)
    inputs, _ = network.arranged(rows(6, 20), None, torch.tensor([0, 0, 1, 2, 3, 3]))
    with torch.no_grad():
        compiled = torch.compile(network.predict, backend="eager", fullgraph=True)
        assert apart(compiled(inputs), network.predict(inputs)) < 1e-5


def test_half_precision_keeps_scale_and_statistics_in_float32(network_of, small_config, apart):
    network = network_of(small_config)
    context = rows(6, 20) + 1e5  # a level that bfloat16 cannot resolve
    with torch.no_grad():
        exact = network(context)
        with torch.autocast("cpu", torch.bfloat16):
            automatic = network(context)
        half = copy.deepcopy(network).bfloat16()(context)
    for out in (automatic, half):
        assert out.quantile_preds.dtype == out.loc.dtype == torch.float32
        assert torch.equal(out.loc, exact.loc) and torch.equal(out.scale, exact.scale)
        spread = (out.quantile_preds - exact.quantile_preds).abs() / exact.scale[..., None]
        assert spread.median() < 0.1


def test_training_in_bfloat16_autocast_reaches_every_parameter(network_of, small_config):
    network = network_of(small_config, dropout_rate=0.1).train()
    context, future = rows(6, 20), rows(6, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(context, group_ids=torch.tensor([0, 0, 1, 2, 2, 2]), num_output_patches=2,
                       future_target=future).loss  # fmt: skip
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_network_works_without_a_reg_token(network_of, small_config):
    network = network_of(small_config, use_reg_token=False).train()
    assert network.shared.weight.shape == (1, 24)
    out = network(rows(3, 20), future_target=rows(3, 4, seed=1))
    out.loss.backward()
    assert out.quantile_preds.shape == (3, 3, 4)
    assert all(p.grad is not None for p in network.parameters())


def test_a_wrapped_projection_is_called_not_bypassed(network_of, small_config):
    """An adapter replaces a linear layer by a module with its own forward."""

    class Adapter(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer, self.calls = base, 0

        def forward(self, x):
            self.calls += 1
            return self.base_layer(x)

    network = network_of(small_config)
    context = rows(3, 20)
    before = network(context).quantile_preds
    attention = network.encoder.block[0].layer[0].self_attention
    attention.q = Adapter(attention.q)
    assert torch.allclose(network(context).quantile_preds, before, rtol=1e-4, atol=1e-4)
    assert attention.q.calls == 1


def test_loss_counts_every_row_and_step_as_upstream(network_of, small_config, apart):
    """Mean over N*P steps and rows, sum over levels; the denominator includes covariate rows and unobserved steps."""
    network = network_of(small_config)
    context, target = rows(2, 20), rows(2, 3, seed=1)
    target[1] = NAN
    with torch.no_grad():
        out = network(context, future_target=target, num_output_patches=2)
        z = ((target[0] - out.loc[0]) / out.scale[0]).arcsinh()
        y = ((out.quantile_preds[0, :, :3] - out.loc[0]) / out.scale[0]).arcsinh()
    levels = torch.tensor([0.1, 0.5, 0.9])[:, None]
    pinball = torch.maximum(levels * (z - y), (levels - 1) * (z - y))
    assert apart(out.loss, 2 * pinball.sum() / 8 / 2) < 1e-5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"context": torch.zeros(3)}, "context"),
        ({"context_mask": torch.ones(2, 8)}, "context_mask"),
        ({"group_ids": torch.zeros(3, dtype=torch.long)}, "group_ids"),
        ({"num_output_patches": 0}, "num_output_patches"),
        ({"future_target": torch.zeros(2, 5)}, "future_target has 5 steps"),
        ({"future_target": torch.zeros(3, 4)}, "future_target has shape"),
        ({"future_target_mask": torch.ones(2, 4)}, "future_target_mask is given without"),
        ({"future_target": torch.zeros(2, 4), "future_covariates": torch.zeros(2, 3)}, "differ in shape"),
        ({"future_covariates": torch.zeros(2, 4), "future_covariates_mask": torch.ones(2, 3)}, "differ in shape"),
        ({"future_covariates": torch.full((2, 4), NAN), "future_covariates_mask": torch.ones(2, 4)}, "NaN"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(network_of, small_config, call, said):
    with pytest.raises(ValueError, match=said):
        network_of(small_config)(**({"context": torch.zeros(2, 9)} | call))


def test_constants_are_no_part_of_the_state(network_of, small_config):
    network = network_of(small_config)
    network(rows(2, 8), future_target=rows(2, 4))
    assert not list(network.buffers())
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()
