"""`foretrain.fit`: training from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.run.test_pipeline import facts

import foretrain
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError, TrainingError


def frame() -> pd.DataFrame:
    stamps = pd.date_range("2024-01-01", periods=120, freq="h")
    return pd.concat(
        pd.DataFrame({"item_id": f"00{i}", "timestamp": stamps, "target": np.sin(np.arange(120) / 4 + i)})
        for i in range(3)
    )


SMALL = {"random_init": True, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1, "patch_size": 8}
BRIEF: dict[str, Any] = {
    "data__context_length": 32,
    "data__prediction_length": 8,
    "training__max_steps": 2,
    "training__batch_size": 4,
}


def test_fit_trains_from_a_frame_and_forecasts(tmp_path: Path):
    predictor = foretrain.fit(frame(), SMALL, output_dir=str(tmp_path / "fit"), **BRIEF)
    forecast = predictor.forecast_df(frame(), 8, [0.1, 0.5, 0.9])
    assert list(forecast["item_id"].unique()) == ["000", "001", "002"] and len(forecast) == 24
    assert (tmp_path / "fit" / "corpus" / "manifest.json").exists()


def test_fit_runs_stages_on_data_in_memory_and_returns_the_last(tmp_path: Path):
    values = np.sin(np.arange(120, dtype=np.float32) / 4)[None]
    corpus = Corpus.from_arrays("waves", [("a", values, None), ("b", values + 1, None)], ["target"])
    stages = [
        {"name": "one", "model": {"family": "chronos2", **SMALL}},
        {"name": "two", "model": {"model_id": "stage:one"}, "data": {"context_length": 64}},
    ]
    predictor = foretrain.fit(corpus, stages=stages, output_dir=str(tmp_path / "fit"), **BRIEF)
    assert predictor.model.max_context_length == 64
    assert facts(tmp_path / "fit" / "release")["stage"] == "two"


def test_a_fit_that_cannot_begin_leaves_its_folder_to_the_next_call(tmp_path: Path):
    where = {"output_dir": str(tmp_path / "fit"), **BRIEF}
    with pytest.raises(DataError, match="can be trained on"):
        foretrain.fit(frame().head(9), SMALL, **where)
    with pytest.raises(ConfigError, match="unknown key"):
        foretrain.fit(frame(), {**SMALL, "depth": 3}, **where)
    foretrain.fit(frame(), SMALL, **where)
    with pytest.raises(TrainingError, match="already holds a run"):
        foretrain.fit(frame(), SMALL, **where)
    assert (tmp_path / "fit" / "corpus" / "manifest.json").exists()


def test_fit_without_output_dir_says_what_to_give():
    with pytest.raises(ConfigError, match="output_dir: required"):
        foretrain.fit("corpus", "chronos2")
