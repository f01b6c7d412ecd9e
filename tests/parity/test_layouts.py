"""Releases of runs in several processes, opened by the official chronos-forecasting package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models import layouts
from tests.waiting import run_command, torchrun

from foretrain.forecasting.predictor import load

pytestmark = [pytest.mark.parity, pytest.mark.processes, pytest.mark.filterwarnings("ignore")]
chronos = pytest.importorskip("chronos")

ROOT = Path(__file__).parents[2]
LEVELS = [0.1, 0.5, 0.9]
FORECAST = 5e-5  # largest |a - b| / (|b| + 1) of forecasts


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for processes in (2, 4):
        done = run_command(torchrun(processes, "-m", "tests.models.layouts", folder, 3, "chronos2"), cwd=ROOT)
        assert done.returncode == 0, done.stdout[-3000:]
    return folder


@pytest.mark.parametrize("kind", layouts.KINDS)
@pytest.mark.parametrize("layout", [layout for layout in layouts.LAYOUTS if layout != "one"])
def test_the_release_of_a_layout_forecasts_the_same_there(runs, layout, kind):
    count = layouts.micro_batches(layouts.LAYOUTS[layout][0], 3)
    release = runs / layout / layouts.folder_of("chronos2", kind, count) / "release"
    series = np.sin(np.arange(24) / 3).astype(np.float32)
    theirs = chronos.BaseChronosPipeline.from_pretrained(str(release), device_map="cpu")
    found, _ = theirs.predict_quantiles(
        [torch.from_numpy(series)], prediction_length=6, quantile_levels=LEVELS, unrolled_quantiles=LEVELS
    )
    expected = np.asarray(load(release, device="cpu").forecast([series], 6, LEVELS)[0]).reshape(-1)
    found = np.asarray(found[0]).reshape(-1)
    assert (np.abs(found - expected) / (np.abs(expected) + 1)).max() < FORECAST
