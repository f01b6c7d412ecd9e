"""The tokenizer as a trainable model: its loss and its construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foretrain.config import build as build_section
from foretrain.data.windows import stack_windows
from foretrain.models import family
from foretrain.models.hub import release_hash
from foretrain.models.kronos.trainable import KronosTokenizer


def batch_of(model, *windows) -> dict[str, torch.Tensor]:
    return model.collate(stack_windows(windows, len(windows[0].future[0])))


def built(section: dict, **rest) -> KronosTokenizer:
    chosen = family("kronos_tokenizer")
    return chosen.build(build_section(chosen.config(), section), context_length=16, prediction_length=5, seed=0, **rest)


@torch.no_grad()
def test_the_loss_is_half_the_sum_of_both_errors_and_the_quantisers(kit):
    model = kit.tokenizer().eval()
    batch = batch_of(model, kit.window(1), kit.window(2))
    bars = torch.cat((batch["context"], batch["future_target"]), 1)
    (coarse, full), quantiser, _, _ = model.network(bars)
    found = {name: (part.total / part.weight).item() for name, part in model.validation_losses(batch).items()}
    assert found["reconstruction_mse"] == pytest.approx((full - bars).square().mean().item(), rel=1e-5)
    assert found["coarse_mse"] == pytest.approx((coarse - bars).square().mean().item(), rel=1e-5)
    assert found["quantiser_loss"] == pytest.approx(quantiser.item(), rel=1e-5)
    parts = found["coarse_mse"] + found["reconstruction_mse"] + found["quantiser_loss"]
    assert found["loss"] == pytest.approx(parts / 2, rel=1e-5)


@torch.no_grad()
def test_bars_that_were_not_observed_are_inputs_and_no_targets(kit):
    model = kit.tokenizer().eval()
    window = kit.window()
    assert window.future is not None
    holed = replace(window, context=window.context.copy(), future=window.future.copy())
    holed.context[2, 7] = holed.future[0, 4] = np.nan
    filled = replace(holed, context=holed.context.copy(), future=holed.future.copy())
    filled.context[2, 7], filled.future[0, 4] = holed.context[2, 6], holed.future[0, 3]
    whole, found = (model.validation_losses(batch_of(model, w)) for w in (filled, holed))
    assert (whole["loss"].weight.item(), found["loss"].weight.item()) == (21, 19)
    bars = torch.cat([batch_of(model, filled)[name] for name in ("context", "future_target")], 1)
    kept = [k for k in range(21) if k not in (7, 20)]
    error = (model.network.reconstruct(bars).full - bars)[0, kept].square().mean()
    assert (found["reconstruction_mse"].total / 19).item() == pytest.approx(error.item(), rel=1e-5)


@torch.no_grad()
def test_padding_does_not_change_the_loss(kit):
    model = kit.tokenizer().eval()
    long, short = kit.window(1), kit.window(2, steps=9)
    together = model.validation_losses(batch_of(model, long, short))
    alone = [model.validation_losses(batch_of(model, window)) for window in (long, short)]
    assert together["loss"].weight.item() == 21 + 14
    for name in ("reconstruction_mse", "coarse_mse"):
        assert together[name].total.item() == pytest.approx(sum(a[name].total.item() for a in alone), rel=1e-5)


def test_half_precision_products_give_nearly_the_same_loss(kit):
    model = kit.tokenizer().train()
    batch = batch_of(model, kit.window(1), kit.window(2))
    plain = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(batch)
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(plain.total.item(), rel=0.05)
    found.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_random_start_takes_its_shape_from_the_preset_changed_by_the_keys_given():
    config = built({"random_init": True, "d_model": 32, "clip": 3.0}, device="meta").network.config
    assert (config.d_model, config.clip, config.n_enc_layers, config.s1_bits) == (32, 3.0, 4, 10)


def test_a_random_start_may_take_the_shape_of_a_release(kit, tmp_path):
    kit.tokenizer(clip=3.0, s1_bits=5, s2_bits=3).save_release(tmp_path)
    model = built({"random_init": True, "architecture_of": str(tmp_path), "ff_dim": 24})
    config = kit.tokenizer(clip=3.0, s1_bits=5, s2_bits=3, ff_dim=24).network.config
    assert model.network.config == config and not model.parents


def test_fine_tuning_starts_from_the_releases_weights_and_names_it(kit):
    model = built({"model_id": str(kit.tokenizer_folder), "ffn_dropout_p": 0.1})
    assert torch.equal(model.network.embed.weight, kit.tokenizer().network.embed.weight)
    assert model.network.config.ffn_dropout_p == 0.1
    assert model.parents == {"model": release_hash(kit.tokenizer_folder)}


@pytest.mark.parametrize("section", [{"random_init": True}, {"model_id": "NeoQuasar/Kronos-Tokenizer-base"}])
def test_a_published_size_is_sized_without_weights_or_network(section):
    model = built(section, device="meta", offline=True)
    assert sum(p.numel() for p in model.parameters()) == 3_958_042
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_release_on_the_meta_device_reads_no_weights(kit, tmp_path):
    kit.tokenizer().save_release(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    model = built({"model_id": str(tmp_path)}, device="meta")
    assert model.network.config == kit.tokenizer().network.config
