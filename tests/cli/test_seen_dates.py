"""`foretrain evaluate` of published weights on prices from before their cut-off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain

from foretrain.forecasting.predictor import Predictor, load

CACHED = "hub/models--NeoQuasar--Kronos-small/snapshots/0123"  # trained up to 29 February 2024, chosen up to 31 May


@pytest.fixture
def weights(zoo, tmp_path: Path) -> Path:
    """Weights without a record in a folder of the hub's cache."""
    Predictor(zoo.shared("linear")).save(tmp_path / CACHED)
    return tmp_path / CACHED


def prices(path: Path, first: str) -> Path:
    close = 100 + np.random.default_rng(0).standard_normal(60).cumsum()
    pd.DataFrame({"timestamp": pd.date_range(first, periods=60), "close": close}).to_csv(path, index=False)
    return path


def test_windows_before_the_cut_off_are_refused_and_scored_with_a_warning_if_asked_for(weights, tmp_path, capsys):
    old = prices(tmp_path / "old.csv", "2024-04-20")
    command = ("evaluate", weights, "--data", old, "--prediction-length", 2, "--num-windows", 15)
    foretrain(*command, code=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "--score-seen-dates" in line]
    assert "6 of 15 windows of old start before 2024-06-01" in line and "NeoQuasar/Kronos-small" in line
    foretrain(*command, "--score-seen-dates", "--out", tmp_path / "out")
    assert "before 2024-06-01" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {"code": "before_training_cutoff", "counts": {"windows": 6, "scored": 15}} in found["codes"]
    assert "before 2024-06-01" in (tmp_path / "out" / "report.html").read_text()


def test_a_copy_keeps_the_name_of_published_weights(weights, tmp_path):
    load(weights).save(tmp_path / "copy")
    assert load(tmp_path / "copy").facts == {"published": "NeoQuasar/Kronos-small"}
