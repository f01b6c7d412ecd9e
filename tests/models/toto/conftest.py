"""Recorded tiny models and numbers, and small random networks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foretrain.models.toto.config import TotoConfig, preset
from foretrain.models.toto.model import TotoNetwork
from foretrain.nn.layout import RowLayout

CONTEXT = 48


@dataclass(frozen=True)
class Case:
    """A recorded model and its numbers, batch and variates as rows."""

    folder: Path
    network: TotoNetwork
    series: Tensor  # (R, 56)
    observed: Tensor
    layout: RowLayout
    exogenous: Tensor | None
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]

    @property
    def context(self) -> tuple[Tensor, Tensor, RowLayout]:
        """Series, observed mask and layout of the context of forecasts."""
        return self.series[:, :CONTEXT], self.observed[:, :CONTEXT], self.layout


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of numbers recorded from the reference code."""
    return Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[2] / "golden") / "toto"


@pytest.fixture(params=["base", "exog", "spacefirst"])
def case(request, recorded) -> Case:
    """Each of the recorded models."""
    return read_case(recorded / request.param)


@pytest.fixture
def case_of(recorded):
    """The recorded model of a name."""
    return lambda name: read_case(recorded / name)


def read_case(folder: Path) -> Case:
    inputs, expected = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "expected"))
    items, variates, _ = inputs["series"].shape
    ids = inputs["id_mask"][..., 0] + 100 * torch.arange(items)[:, None]
    known = inputs["future_exogenous"].shape[1] if "future_exogenous" in inputs else 0
    exogenous = torch.tensor([False] * (variates - known) + [True] * known).repeat(items) if known else None
    return Case(
        folder,
        TotoNetwork.read_release(folder).eval(),
        inputs["series"].flatten(0, 1),
        inputs["padding_mask"].flatten(0, 1),
        RowLayout.of(ids.flatten().numpy()),
        exogenous,
        inputs,
        {name: value.flatten(0, 1) if value.ndim > 1 else value for name, value in expected.items()},
    )


@pytest.fixture
def small_config() -> TotoConfig:
    """Three layers, the last over variates; patches of 4, a mixture of 3."""
    return preset("debug", patch_size=4, embed_dim=16, num_layers=3, num_heads=2, mlp_hidden_dim=24, k_components=3,
                  spacewise_every_n_layers=3)  # fmt: skip


@pytest.fixture
def network_of():
    """A seeded random network of a configuration, in eval mode."""

    def made(config: TotoConfig, seed: int = 0, *, labels: bool = False) -> TotoNetwork:
        network = TotoNetwork.empty(config, labels=labels)
        network.initialise(seed)
        return network.eval()

    return made


@pytest.fixture(scope="session")
def apart():
    """Largest |a - b| / largest |b|; shapes must be equal."""

    def measured(a: Tensor, b: Tensor) -> float:
        assert a.shape == b.shape, (a.shape, b.shape)
        a, b = a.detach().double(), b.detach().double()
        return float((a - b).abs().max() / b.abs().max())

    return measured
