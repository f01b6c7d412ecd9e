"""Building and loading start quickly: what is imported for it, which no load of the machine changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.models.zoo import CONTEXT, HORIZON, ZOO
from tests.waiting import DEADLINE
from torch import nn

from foretrain.models import family
from foretrain.nn.undrawn import Undrawn

ROOT = Path(__file__).parents[2]
COMPILER = ("torch._dynamo", "torch._inductor", "sympy")  # a second of CPU, of use to compiled models alone
USE_ALL = f"""
import sys
from pathlib import Path
from tests.models.zoo import HORIZON, ZOO, Zoo, kinds_of, windows_of
from foretrain import load
from foretrain.data.windows import stack_windows
from foretrain.models.request import ForecastRequest

def forecast(name, family):
    model = load(name).model
    kind = next(kind for found, kind in kinds_of(forecasts=True) if found == family)
    request = ForecastRequest(prediction_length=4, num_samples=2 if ZOO[family].samples else None)
    model.forecast(model.collate(stack_windows(windows_of(family, kind, 2), HORIZON)), request)
    heavy = [module for module in {COMPILER!r} if module in sys.modules]
    assert not heavy, f"{{name}} imports {{heavy}}"

forecast("tiny", "chronos2")
zoo = Zoo(Path(sys.argv[1]) / "parts")
for name in (name for name, entry in ZOO.items() if entry.forecasts):
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    zoo.built(name).save_release(folder)
    forecast(str(folder), name)
"""


@pytest.mark.processes
def test_no_family_needs_the_compiler_to_be_built_loaded_and_forecast_with(tmp_path: Path):
    command = [sys.executable, "-c", USE_ALL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ZOO)
def test_a_network_of_a_family_takes_no_draw_of_torch_s_own(name: str, zoo):
    """So weights depend on their seed alone, and what torch draws next does not depend on models."""
    before = torch.random.get_rng_state()
    weights = [{key: value.clone() for key, value in zoo.built(name, seed).state_dict().items()} for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(value.isfinite().all() for value in weights[0].values())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("name", ZOO)
def test_a_network_on_meta_has_the_parameters_of_one_on_the_cpu(name: str, zoo):
    model = zoo.built(name)
    parts = {key: zoo._part(part) for key, part in ZOO[name].parts.items()}
    section = family(name).config()(family=name, **ZOO[name].section, **parts)
    outline = family(name).build(section, context_length=CONTEXT, prediction_length=HORIZON, seed=0, device="meta")
    found = {key: (value.shape, value.dtype) for key, value in outline.named_parameters()}
    assert found == {key: (value.shape, value.dtype) for key, value in model.named_parameters()}
    assert all(parameter.is_meta for parameter in outline.network.parameters())


def test_only_initial_weights_and_draws_on_meta_are_left_out():
    with Undrawn():
        assert nn.Linear(3, 2, device="meta").weight.is_meta
        assert torch.empty(2, device="meta").normal_().is_meta
        assert nn.LayerNorm(3).weight.tolist() == [1.0, 1.0, 1.0]
        drawn = torch.zeros(100).normal_(generator=torch.Generator().manual_seed(0))
        assert nn.Embedding(2, 3, padding_idx=1).weight[1].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(drawn, torch.zeros(100).normal_(generator=torch.Generator().manual_seed(0)))
    assert nn.Linear(3, 2).weight.abs().max() <= 3**-0.5
