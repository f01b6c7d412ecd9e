"""The recorded tiny model, recorded tensors, and small random networks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.model import Chronos2Network


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of numbers recorded from the official package."""
    return Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[2] / "golden") / "chronos2"


@pytest.fixture(scope="session")
def recorded_network(recorded) -> Chronos2Network:
    return Chronos2Network.read_release(recorded / "model").eval()


@pytest.fixture(scope="session")
def cases(recorded) -> dict[str, dict[str, torch.Tensor]]:
    """Recorded forward calls: case -> in.*, out.*, mid.*, grad*."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(recorded / "forward.safetensors").items():
        case, rest = name.split(".", 1)
        found.setdefault(case, {})[rest] = tensor
    return found


@pytest.fixture
def small_config() -> Chronos2Config:
    """Two blocks, patches of 4, weights of ordinary size (initializer_factor 1)."""
    return Chronos2Config(
        context_length=48,
        input_patch_size=4,
        output_patch_size=4,
        quantiles=(0.1, 0.5, 0.9),
        use_reg_token=True,
        use_arcsinh=True,
        max_output_patches=4,
        d_model=24,
        d_kv=8,
        d_ff=40,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        initializer_factor=1.0,
    )


@pytest.fixture
def network_of():
    """A seeded random network of a configuration, with changes."""

    def made(config: Chronos2Config, seed: int = 0, **changes) -> Chronos2Network:
        network = Chronos2Network.empty(replace(config, **changes))
        network.initialise(seed)
        return network

    return made


@pytest.fixture(scope="session")
def apart():
    """Largest |a - b| / (|b| + 1)."""

    def measured(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a.detach().double(), b.detach().double()
        return float(((a - b).abs() / (b.abs() + 1)).max())

    return measured
