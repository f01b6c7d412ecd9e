"""Every script in examples/ runs offline on data that it makes itself, and shows what it says."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import foretrain

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Function that runs a script with arguments and gives what it printed; all it writes goes to tmp_path."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def errors(text: str) -> list[float]:
    """The numbers of the lines on errors."""
    return [float(number) for line in text.splitlines() if "error" in line for number in re.findall(r"\d+\.\d+", line)]


def test_a_csv_is_forecast_into_a_csv_beside_it(example, tmp_path):
    example("forecast_csv.py")
    (written,) = tmp_path.glob("*/history.forecast.csv")
    forecast = pd.read_csv(written, parse_dates=["timestamp"])
    history = pd.read_csv(written.with_name("history.csv"), parse_dates=["timestamp"])
    assert forecast.groupby("item_id").size().to_dict() == {"north": 24, "south": 24}
    assert forecast["timestamp"].min() > history["timestamp"].max()
    wave = 10 * np.sin(2 * np.pi * forecast["timestamp"].dt.hour / 24)
    truth = wave + forecast["item_id"].map({"north": 100, "south": 50})
    assert (forecast["predictions"] - truth).abs().mean() < 2  # the noise has a deviation of 1
    other = tmp_path / "other.csv"
    history[history["item_id"] == "north"].to_csv(other, index=False)
    foretrain.load("tiny", device="cpu").save(tmp_path / "copy")
    assert "24 rows" in example("forecast_csv.py", str(other), "--model", str(tmp_path / "copy"))


def test_an_adapter_improves_the_model_that_it_began_with(example):
    before, after = errors(example("finetune_lora.py"))
    assert after < before / 2


def test_candles_are_forecast_as_quantiles_and_as_candles(example):
    text = example("kronos_candles.py")
    quantiles, candles = (block.splitlines() for block in text[text.index("item_id") :].strip().split("\n\n"))
    assert quantiles[0].split()[-3:] == ["0.1", "0.5", "0.9"] and len(quantiles) == 13
    assert candles[0].split()[2:] == ["open", "high", "low", "close", "volume"] and len(candles) == 13


def test_covariates_help_to_beat_naive(example):
    returns, naive_returns, sales, naive_sales = errors(example("covariates.py"))
    assert returns < naive_returns and sales < naive_sales


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(
        re.findall(r"example\(\"(\w+\.py)", Path(__file__).read_text())
    )
