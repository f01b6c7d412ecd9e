"""Studies of forecast options: what a release scores under other options, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tuning.needs_optuna import optuna  # noqa: F401

from foretrain.config import build
from foretrain.errors import ForetrainError
from foretrain.models import family
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.options import KronosOptions
from foretrain.tuning.checks import check_study
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.losses import read_losses
from foretrain.tuning.study import create_study
from foretrain.tuning.trial import run_trial
from foretrain.tuning.worker import TuneWorker

SIZES = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16}
CONTEXT, HORIZON = 32, 4
SET: dict[str, Any] = {
    "data.corpora": [{"synthetic": {"kind": "ohlcv", "num_series": 3, "length": 300, "seed": 0, "freq": "D"}}],
    "data.context_length": CONTEXT,
    "data.min_context": CONTEXT,
    "data.prediction_length": HORIZON,
    "data.validation_steps": 12,
    "data.test_steps": 12,
    "evaluation.num_windows": 3,
    "evaluation.target": ["close"],
    "evaluation.num_samples": 3,
    "evaluation.options": {},
}
TEMPERATURE = {"kind": "float", "low": 0.1, "high": 2.0}
SPACE = {
    "options.temperature": TEMPERATURE,
    "options.top_p": {"kind": "float", "low": 0.2, "high": 1.0},
    "options.top_k": {"kind": "int", "low": 0, "high": 8},
    "num_samples": {"kind": "int", "low": 1, "high": 8, "log": True},
    "context_length": {"kind": "int", "low": 8, "high": CONTEXT, "step": 8},
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small Kronos from random weights, with its tokenizer."""
    folder = tmp_path_factory.mktemp("kronos")
    chosen = family("kronos_tokenizer")
    wanted = {**SIZES, "n_enc_layers": 2, "n_dec_layers": 2, "s1_bits": 4, "s2_bits": 4}
    lengths = {"context_length": CONTEXT, "prediction_length": HORIZON, "seed": 0}
    (folder / "tokenizer").mkdir()
    (folder / "release").mkdir()
    chosen.build(build(chosen.config(), wanted), **lengths).save_release(folder / "tokenizer")
    chosen = family("kronos")
    wanted = {**SIZES, "n_layers": 1, "tokenizer": str(folder / "tokenizer")}
    chosen.build(build(chosen.config(), wanted), **lengths).save_release(folder / "release")
    return str(folder / "release")


def study(folder: Path, release: str, *, change: dict[str, Any] | None = None, **more: Any) -> TuneConfig:
    tree = {"output_dir": str(folder), "run": "kronos/stock", "task": "forecast", "model": release, "space": SPACE}
    return build(TuneConfig, {**tree, "set": {**SET, **(change or {})}, **more}, source="a test")


def losses(config: TuneConfig, candidate: dict[str, Any], folder: Path) -> np.ndarray:
    record = run_trial(config, 0, candidate, folder, source="sampler", report=lambda step, value: False)
    assert record.state == "complete" and record.values is not None, record.message
    return np.array(read_losses(folder / "losses.parquet").column("loss"))


def test_every_option_reaches_the_forecasts(tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Any, Any]] = []
    usual = Kronos.forecast

    def spy(self: Kronos, batch: Any, request: Any) -> Any:
        asked.append((batch, request))
        return usual(self, batch, request)

    monkeypatch.setattr(Kronos, "forecast", spy)
    config = study(tmp_path / "study", release)
    candidate = {
        "options.temperature": 0.5, "options.top_p": 0.7, "options.top_k": 5, "num_samples": 2, "context_length": 16
    }  # fmt: skip
    default, changed = losses(config, {}, tmp_path / "default"), losses(config, candidate, tmp_path / "changed")
    assert len(default) == len(changed) == 9 and not np.array_equal(default, changed)
    (batch, request), (shorter, other) = asked[0], asked[-1]
    assert request.num_samples == 3 and request.options_of(KronosOptions) == KronosOptions()
    options = other.options_of(KronosOptions)
    assert (options.temperature, options.top_p, options.top_k, other.num_samples) == (0.5, 0.7, 5, 2)
    assert [_steps(batch), _steps(shorter)] == [32, 16]


def _steps(batch: Any) -> int:
    """The most steps of history that a row has a value of."""
    return int(torch.isfinite(batch["context"]).all(dim=2).sum(dim=1).max())


@pytest.mark.parametrize("key", list(SPACE))
def test_each_option_alone_changes_the_losses(tmp_path: Path, release: str, key: str):
    config = study(tmp_path / "study", release)
    value = {"options.temperature": 0.2, "options.top_p": 0.3, "options.top_k": 1, "num_samples": 7}.get(key, 8)
    default, changed = losses(config, {}, tmp_path / "default"), losses(config, {key: value}, tmp_path / "changed")
    assert not np.array_equal(default, changed)


def test_a_study_of_options_is_searched_on_folds_without_training(tmp_path: Path, release: str):
    config = study(tmp_path / "study", release, trials=3, folds={"count": 2})
    assert len(check_study(config)) == 2
    TuneWorker(create_study(config, resume=False), run_trial).run()
    records = create_study(config, resume=True).records()
    assert [record.number for record in records] == [-1, 0, 1, 2]
    for record in records:
        assert record.state == "complete" and record.steps == 0 and len(record.folds) == 2
        assert record.constraints["seconds_per_forecast"] > 0
    assert not list((tmp_path / "study").rglob("checkpoints"))


def test_a_candidate_beyond_the_windows_has_failed(tmp_path: Path, release: str):
    config = study(tmp_path / "study", release, space={"context_length": {"kind": "int", "low": 8, "high": 64}})
    record = run_trial(config, 0, {"context_length": 64}, tmp_path / "t", source="sampler", report=lambda *_: False)
    assert record.state == "failed" and "context_length: 64 is more than the 32 steps" in record.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"space": {"options.temprature": TEMPERATURE}}, "no forecast option 'temprature'. Did you mean"),
        ({"space": {"optimizer.learning_rate": TEMPERATURE}}, "a trial of task: forecast trains nothing"),
        ({"run": "linear/quick", "space": {"context_length": {"kind": "int", "low": 8, "high": 32}},
          "change": {"evaluation.target": None}}, "is a kronos, and linear/quick is the config of a linear"),
        ({"objectives": [{"metric": "lite/avg_wql"}]}, "no evaluator of the run is called lite"),
        ({"model": "nowhere"}, "nowhere: no such"),
    ],
)  # fmt: skip
def test_a_study_of_options_that_cannot_run_is_refused(tmp_path: Path, release: str, more: dict, said: str):
    with pytest.raises(ForetrainError, match=said):
        check_study(study(tmp_path / "study", release, **more))
