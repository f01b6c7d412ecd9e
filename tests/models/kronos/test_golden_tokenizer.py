"""The tokenizer against numbers recorded from the reference code."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from foretrain.models.kronos.quantiser import to_ids, to_signs
from foretrain.models.kronos.trainable import KronosTokenizer

pytestmark = pytest.mark.golden

NAMES = ("tokenizer", "tokenizer_s5_3")
EXACT = 1e-5


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(recorded, name) -> dict[str, torch.Tensor]:
    return load_file(recorded / name / "io.safetensors")


@pytest.fixture
def network(recorded_tokenizer, name):
    return recorded_tokenizer(name)


@pytest.fixture
def model(network) -> KronosTokenizer:
    return KronosTokenizer(network)


def as_batch(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Normalised bars (B, T, F) as a batch whose last two bars lie after the cutoff."""
    seen = torch.ones(x.shape[:2], dtype=torch.bool)
    return {
        "context": x[:, :-2],
        "context_observed": seen[:, :-2],
        "future_target": x[:, -2:],
        "future_observed": seen[:, -2:],
    }


@torch.no_grad()
def test_every_step_up_to_the_sphere_is_the_recorded_one(network, case, apart):
    found: dict[str, torch.Tensor] = {}
    network.embed.register_forward_hook(lambda *call: found.update(enc_embed=call[-1]))
    for i, block in enumerate(network.encoder):
        block.register_forward_hook(lambda *call, key=f"enc_layer_{i}": found.update({key: call[-1]}))
    found["z_pre_norm"] = network.latent(case["x"])
    found["z_unit"] = network.bsq.unit(found["z_pre_norm"])
    assert {key for key in case if key.startswith(("enc_", "z_"))} == found.keys()
    for key, value in found.items():
        assert apart(value, case[key]) < EXACT, key


@torch.no_grad()
def test_ids_are_the_recorded_ones(network, case):
    assert torch.equal(network.encode(case["x"]), case["idx_full"])
    s1, s2 = network.encode(case["x"], half=True)
    assert torch.equal(s1, case["idx_s1"]) and torch.equal(s2, case["idx_s2"])
    assert torch.equal(s1 + 2**network.config.s1_bits * s2, case["idx_full"])


@torch.no_grad()
def test_ids_turn_back_into_the_recorded_codes(network, case):
    pair = (case["idx_s1"], case["idx_s2"])
    assert torch.equal(network.codes(case["idx_full"]), case["bits_full"])
    # the recording of unequal widths took D // 2 for both: upstream cannot decode those
    if network.config.s1_bits == network.config.s2_bits:
        assert torch.equal(network.codes(pair, half=True), case["bits_half"])
    assert torch.equal(network.codes(pair, half=True), case["bits_full"])
    assert torch.equal(to_ids(to_signs(case["idx_full"], 8)), case["idx_full"])


@torch.no_grad()
def test_ids_decode_into_the_recorded_bars(network, case, apart):
    assert apart(network.decode(case["idx_full"]), case["decode_full"]) < EXACT
    assert apart(network.decode([case["idx_s1"], case["idx_s2"]], half=True), case["decode_full"]) < EXACT
    if "decode_half" in case:
        assert apart(case["decode_half"], case["decode_full"]) == 0.0


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_pass_gives_the_recorded_reconstructions_and_loss(network, case, mode, apart):
    (coarse, full), loss, code, ids = network.train(mode == "train")(case["x"])
    assert apart(coarse, case[f"{mode}_recon_pre"]) < EXACT
    assert apart(full, case[f"{mode}_recon_full"]) < EXACT
    assert apart(loss.reshape(1), case[f"{mode}_bsq_loss"]) < EXACT
    assert apart(code, case[f"{mode}_quantized"]) < EXACT
    assert torch.equal(ids, case["eval_indices"])


@torch.no_grad()
def test_the_parts_of_the_quantisers_loss_are_the_recorded_ones(network, case, apart):
    found = network.quantiser_loss(network.reconstruct(case["x"]))
    assert apart(found.commit.reshape(1), case["commit_loss"]) < EXACT
    assert apart(found.per_sample_entropy.reshape(1), case["per_sample_entropy"]) < EXACT
    assert apart(found.codebook_entropy.reshape(1), case["codebook_entropy"]) < EXACT
    average = case["avg_prob"].double()  # (D, 2): entropies of single bits, summed
    assert float(found.codebook_entropy) == pytest.approx(float(-(average * average.log()).sum()), abs=1e-4)


@torch.no_grad()
def test_the_models_losses_are_the_recorded_ones_times_the_bars(model, case):
    found = model.validation_losses(as_batch(case["x"]))
    bars = case["x"].shape[0] * case["x"].shape[1]
    assert {name: float(part.weight) for name, part in found.items()} == dict.fromkeys(model.validation_names, bars)
    expected = {
        "loss": case["loss_total"],
        "reconstruction_mse": case["loss_recon_full"],
        "coarse_mse": case["loss_recon_pre"],
        "quantiser_loss": case["eval_bsq_loss"],
        "codebook_entropy": case["codebook_entropy"],
    }
    for key, value in expected.items():
        assert float(found[key].total) / bars == pytest.approx(float(value), abs=EXACT), key


def test_gradients_are_the_recorded_ones(recorded, name, model, case, apart):
    total, weight = model.train()(as_batch(case["x"]))
    (total / weight).backward()
    norms = load_file(recorded / name / "grad_norms.safetensors")
    whole = load_file(recorded / name / "grads_full.safetensors")
    parameters = dict(model.network.named_parameters())
    assert norms.keys() == parameters.keys() and whole.keys() < parameters.keys()
    for key, parameter in parameters.items():
        assert float(parameter.grad.norm()) == pytest.approx(float(norms[key]), rel=1e-5, abs=1e-7), key
        if key in whole:
            assert apart(parameter.grad, whole[key]) < EXACT, key
