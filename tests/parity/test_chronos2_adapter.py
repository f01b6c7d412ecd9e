"""Round trips of adapters with the official chronos-forecasting package, which reads and writes them with peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretrain.config import build
from foretrain.forecasting.predictor import load
from foretrain.models.chronos2.config import Chronos2ModelConfig
from foretrain.models.chronos2.forecaster import Chronos2
from foretrain.run.config import RunConfig
from foretrain.run.export import export_checkpoint
from foretrain.run.train import train_run

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
chronos = pytest.importorskip("chronos")

LEVELS = [0.1, 0.37, 0.5, 0.9]
FORECAST = 5e-5  # largest |a - b| / (|b| + 1) of forecasts in original units
WEIGHTS = 1e-6
CONTEXT, HORIZON = 60, 24


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A release of a small model with weights of realistic scale."""
    config = Chronos2ModelConfig(
        random_init=True,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        patch_size=8,
        quantiles=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        max_output_patches=3,
        time_encoding_scale=96,
        initializer_factor=1.0,
        dropout_rate=0.0,
    )
    folder = tmp_path_factory.mktemp("base")
    Chronos2.build(config, context_length=CONTEXT, prediction_length=HORIZON, seed=3).save_release(folder)
    return folder


@pytest.fixture(scope="module", params=[{}, {"train_head": True}, {"targets": ["encoder.block.1", "output_layer"]}])
def run(request, base, tmp_path_factory) -> Path:
    """A finished run that trained an adapter."""
    folder = tmp_path_factory.mktemp("run") / "run"
    tree: dict[str, Any] = {
        "model": {"model_id": str(base)},
        "data": {
            "corpora": [{"synthetic": {"kind": "seasonal", "num_series": 8, "length": 200, "num_variates": 2}}],
            "context_length": CONTEXT,
            "prediction_length": HORIZON,
        },
        "training": {"max_steps": 8, "batch_size": 4, "tensorboard": False},
        "optimizer": {"learning_rate": 1e-2, "schedule": {"kind": "constant"}},
        "adapter": {"rank": 4, "alpha": 8, **request.param},
        "output_dir": str(folder),
    }
    train_run(build(RunConfig, tree))
    return folder


def official(folder: Path) -> Any:
    return chronos.Chronos2Pipeline.from_pretrained(str(folder), device_map="cpu")


def inputs() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, steps)).cumsum(1).astype(np.float32) for rows, steps in ((1, 40), (2, 90))]


def assert_equal_forecasts(predictor: Any, pipeline: Any) -> None:
    for horizon in (7, 60):
        found = predictor.forecast(inputs(), horizon, LEVELS)
        expected, _ = pipeline.predict_quantiles(inputs(), horizon, LEVELS)
        for a, b in zip(found, expected, strict=True):
            worst = float(((torch.as_tensor(a) - b).abs() / (b.abs() + 1)).max())
            assert worst <= FORECAST


def assert_equal_weights(predictor: Any, pipeline: Any) -> None:
    theirs = pipeline.model.state_dict()
    ours = predictor.network.state_dict()
    assert theirs.keys() == ours.keys()
    assert max(float((theirs[key] - value).abs().max()) for key, value in ours.items()) <= WEIGHTS


def test_our_adapter_loads_in_the_official_package(run):
    folder = run / "adapters" / run.name
    ours, theirs = load(folder, device="cpu"), official(folder)
    assert_equal_weights(ours, theirs)
    assert_equal_forecasts(ours, theirs)


def test_our_merged_release_loads_in_the_official_package(run, base):
    ours, theirs = load(run, device="cpu"), official(run / "release")
    assert_equal_weights(ours, theirs)
    assert_equal_forecasts(ours, theirs)
    untrained = load(base, device="cpu").network.state_dict()
    assert any(not torch.equal(untrained[key], value) for key, value in ours.network.state_dict().items())


def test_an_exported_checkpoint_loads_in_the_official_package_merged_or_as_an_adapter(run, tmp_path):
    checkpoint = max((run / "checkpoints").glob("step-*"))
    export_checkpoint(checkpoint, tmp_path / "whole")
    export_checkpoint(checkpoint, tmp_path / "adapter", adapter=True)
    assert_equal_weights(load(tmp_path / "whole", device="cpu"), official(tmp_path / "whole"))
    assert_equal_weights(load(tmp_path / "whole", device="cpu"), official(tmp_path / "adapter"))


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["output_patch_embedding"]}, {"use_rslora": True}])
def test_an_adapter_of_the_official_package_loads_here(base, tmp_path, settings):
    from peft import LoraConfig, get_peft_model

    pipeline = official(base)
    targets = ["self_attention.q", "self_attention.v", "self_attention.k", "self_attention.o"]
    pipeline.model = get_peft_model(
        pipeline.model,
        LoraConfig(r=8, lora_alpha=16, target_modules=targets, base_model_name_or_path=str(base), **settings),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in pipeline.model.named_parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape) * (0.1 if "lora_" in name else 0.01)
    pipeline.model.save_pretrained(tmp_path)
    ours, theirs = load(tmp_path, device="cpu"), official(tmp_path)
    assert_equal_weights(ours, theirs)
    assert_equal_forecasts(ours, theirs)
