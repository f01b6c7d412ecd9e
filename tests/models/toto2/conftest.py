"""Recorded tiny models and numbers, and prompts built from the reference's arguments."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from foretrain.models.toto2.decode import Toto2Prompt
from foretrain.models.toto2.model import Toto2Network
from foretrain.nn.layout import RowLayout

PATCH = 8
Given = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One recorded model with its inputs and outputs: tensors (B, V, ...) of B windows of V variates each."""

    network: Toto2Network
    inputs: Given
    expected: Given
    grads: Given
    facts: dict

    @property
    def plain(self) -> Given:
        """The recorded series, as forecast's arguments."""
        return {name: self.inputs[name] for name in ("target", "target_mask", "series_ids")}

    @property
    def clean(self) -> Given:
        """The recorded series without gaps, all in one group."""
        whole = torch.ones_like(self.inputs["target_mask"])
        return {
            "target": self.inputs["clean_target"],
            "target_mask": whole,
            "series_ids": torch.zeros_like(self.inputs["series_ids"]),
        }

    def forward(self, hidden: Tensor | None = None, keep: int | None = None):
        """Run the network with the steps in hidden (B, V, T) masked."""
        target, mask, ids = (self.plain[name].flatten(0, 1) for name in ("target", "target_mask", "series_ids"))
        count, variates = self.inputs["series_ids"].shape
        layout = RowLayout.of(np.arange(count).repeat(variates))
        hidden = torch.zeros_like(mask) if hidden is None else hidden.flatten(0, 1)
        observed = mask & ~hidden
        groups = torch.where(patches(observed).any(-1) | patches(hidden).all(-1), ids[:, None], -1)
        return self.network(target, observed, layout, groups, keep=keep)

    def back(self, quantiles: Tensor) -> Tensor:
        """(R, n, P, Q) as (Q, B, V, n, P)."""
        return quantiles.permute(3, 0, 1, 2).unflatten(1, tuple(self.inputs["series_ids"].shape))


def patches(steps: Tensor) -> Tensor:
    return steps.unflatten(-1, (-1, PATCH))


def reference_prompt(
    target: Tensor,
    target_mask: Tensor,
    series_ids: Tensor,
    *,
    horizon: int,
    known_dynamic: Tensor | None = None,
    known_dynamic_mask: Tensor | None = None,
    known_dynamic_series_ids: Tensor | None = None,
) -> Toto2Prompt:
    """Build the prompt as the reference does from the arguments of its forecast (B, V, ...): the last patch of the
    context counts as observed, covariates follow the variates of their window."""
    count, variates, context = target.shape[0], target.shape[1], target.shape[2] // PATCH
    ahead = -(-horizon // PATCH)
    mask = target_mask.clone()
    mask[..., -PATCH:] = True
    values, observed = (F.pad(x, (0, ahead * PATCH)) for x in (target, mask))
    if known_dynamic is not None:
        right = values.shape[-1] - known_dynamic.shape[-1]
        values = torch.cat((values, F.pad(known_dynamic, (0, right))), 1)
        observed = torch.cat((observed, F.pad(known_dynamic_mask, (0, right))), 1)
        series_ids = torch.cat((series_ids, known_dynamic_series_ids), 1)
    rows = torch.arange(count * values.shape[1]).view(count, -1)
    filled = patches(observed).any(-1)
    filled[..., context:] = True
    return Toto2Prompt(
        values=values.flatten(0, 1),
        observed=observed.flatten(0, 1),
        context=context,
        layout=RowLayout.of(np.arange(count).repeat(values.shape[1])),
        groups=torch.where(filled, series_ids[..., None], -1).flatten(0, 1),
        known=None if known_dynamic is None else rows[:, variates:].flatten(),
        wanted=rows[:, :variates].flatten(),
    )


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of numbers recorded from the reference code."""
    return Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[2] / "golden") / "toto2"


@pytest.fixture(scope="session", params=["like4m", "other"])
def case(request, recorded) -> Case:
    folder = recorded / request.param
    inputs, expected, grads = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "expected", "grads"))
    return Case(
        Toto2Network.read_release(folder).eval(),
        inputs,
        expected,
        grads,
        json.loads((folder / "info.json").read_text()),
    )


@pytest.fixture(scope="session")
def parts(recorded) -> Given:
    return load_file(recorded / "parts.safetensors")


@pytest.fixture(scope="session")
def prompt():
    """reference_prompt."""
    return reference_prompt


@pytest.fixture(scope="session")
def apart():
    """Largest |a - b| over the largest |b|; shapes must be equal."""

    def measured(a: Tensor, b: Tensor) -> float:
        assert a.shape == b.shape
        a, b = a.detach().double(), b.detach().double()
        return float((a - b).abs().max() / b.abs().max())

    return measured
