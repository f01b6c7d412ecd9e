"""Five steps of the official model under torch's AdamW and clipping, recorded, against the engine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foretrain.distributed.world import World
from foretrain.models.base import Loss, ParameterRole
from foretrain.models.chronos2.forecaster import FAMILY
from foretrain.training.loader import PreparedBatch
from foretrain.training.optimizer import OptimizerConfig, build_optimizer
from foretrain.training.settings import MicroBatch, TrainingConfig
from foretrain.training.step import Updater
from foretrain.training.train_state import TrainState

pytestmark = pytest.mark.golden

GOLDEN = Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[1] / "golden") / "chronos2"


class Recorded(nn.Module):
    """The network on recorded arguments; its loss is a mean, hence of weight 1."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FAMILY.load(GOLDEN / "model").network

    def parameter_groups(self):
        return {name: ParameterRole("matrix") for name, _ in self.named_parameters()}

    def forward(self, batch):
        arguments = {name: int(value) if value.dim() == 0 else value for name, value in batch.items()}
        return Loss(self.network(**arguments).loss.reshape(()), torch.tensor(1.0))


@pytest.mark.parametrize("fused", [True, False])
def test_five_adamw_steps_equal_the_recorded_ones(fused):
    given, recorded = load_file(GOLDEN / "forward.safetensors"), load_file(GOLDEN / "adamw_steps.safetensors")
    batch = {name.removeprefix("grp.in."): value for name, value in given.items() if name.startswith("grp.in.")}
    model = Recorded().train()
    config = OptimizerConfig(learning_rate=1e-3, weight_decay=0.01, decay_all=True, fused=fused)
    training = TrainingConfig(max_steps=5, clip_norm=1.0)
    optimizer = build_optimizer(model, config)
    updater = Updater(model, optimizer, None, TrainState(), training, seed=0, world=World())
    losses, norms = [], []
    bias = model.network.output_patch_embedding.output_layer.bias
    smallest = torch.full_like(bias.detach(), torch.inf)

    def note(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        torch.minimum(smallest, parameter.grad.abs(), out=smallest)

    bias.register_post_accumulate_grad_hook(note)
    for step in range(5):
        prepared = PreparedBatch(MicroBatch(step, 0, 0, 1, idle=False, last=True), batch, 1, 9, 44, 22)
        result, _ = updater.step(iter([prepared]), 1e-3)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    torch.testing.assert_close(torch.tensor(losses), recorded["loss"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(norms), recorded["grad_norm_before_clip"], rtol=1e-5, atol=1e-5)
    model.eval()
    with torch.no_grad():
        arguments = {name: int(value) if value.dim() == 0 else value for name, value in batch.items()}
        found = model.network(**arguments).quantile_preds
    expected = recorded["out.quantile_preds"]
    error = (found - expected).abs() / (expected.abs() + 1)
    # Some output biases have gradients that cancel to rounding noise (3e-10 recorded). Adam divides noise by noise, so
    # float32 and float64 of the same network differ there too (2e-4); every other forecast meets the stated tolerance.
    levels, size = len(model.network.config.quantiles), model.network.config.patch_size
    noisy = (smallest < 1e-6).reshape(levels, size)[:, torch.arange(error.shape[-1]) % size]
    assert noisy.float().mean() < 0.2
    assert float(error[:, ~noisy].max()) <= 5e-5
    assert float(error[:, noisy].max()) <= 1e-3
