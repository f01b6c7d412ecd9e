"""What the trainer offers, with either stage of Kronos: runs of a few steps on candles with gaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import foretrain
from foretrain.config import apply_overrides, build
from foretrain.errors import ModelError
from foretrain.models.hub import release_hash
from foretrain.notes import Code
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig
from foretrain.run.export import export_checkpoint
from foretrain.run.train import train_run
from foretrain.training.checkpoint import steps_in
from foretrain.training.journal import read_journal
from foretrain.training.precision import draw_seed
from foretrain.training.trainer import TrainResult

STEPS = 4
DROPOUT = {"ffn_dropout_p": 0.1, "resid_dropout_p": 0.2}
Train = Callable[..., tuple[Path, TrainResult]]


@pytest.fixture(params=["kronos_tokenizer", "kronos"])
def stage(request, kit) -> dict[str, Any]:
    """The config of a run of either stage."""
    model = {"family": request.param, "random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16, **DROPOUT}
    if request.param == "kronos":
        model |= {"n_layers": 2, "tokenizer": str(kit.tokenizer_folder)}
    else:
        model |= {"n_enc_layers": 2, "n_dec_layers": 2, "s1_bits": 4, "s2_bits": 4}
    candles = {"kind": "ohlcv", "num_series": 4, "length": 100, "freq": "30min", "missing_fraction": 0.1}
    return {
        "model": model,
        "data": {
            "corpora": [{"synthetic": candles}],
            "context_length": 16,
            "prediction_length": 5,
            "min_context": 8,
            "validation_steps": 10,
        },
        "training": {"max_steps": STEPS, "batch_size": 8, "log_every": 1, "tensorboard": False, "validate_every": 2},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": {"forecasts": False},
        "device": "cpu",
        "threads": 1,
    }


@pytest.fixture
def train(stage, tmp_path) -> Train:
    def run(name: str, **changes: Any) -> tuple[Path, TrainResult]:
        return tmp_path / name, train_run(config(stage, tmp_path / name, **changes))[1]

    return run


def config(stage: dict[str, Any], out: Path, **changes: Any) -> RunConfig:
    tree = apply_overrides(stage, [(key.replace("__", "."), value) for key, value in changes.items()])
    return build(RunConfig, {**tree, "output_dir": str(out)})


def logged(out: Path, key: str, kind: str = "train") -> list[float]:
    return [record[key] for record in read_journal(out / "metrics.jsonl") if record["kind"] == kind]


def weights(release: Path) -> dict[str, torch.Tensor]:
    return load_file(release / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_averaged_weights_are_what_is_validated_and_released(train: Train, tmp_path: Path):
    plain, _ = train("plain")
    averaged, _ = train("averaged", training__ema_decay=0.9)
    assert logged(averaged, "loss") == logged(plain, "loss")
    assert logged(averaged, "val_loss", "validation") != logged(plain, "val_loss", "validation")
    newest = steps_in(averaged / "checkpoints")[-1]
    for name, ema in (("trained", False), ("ema", True)):
        export_checkpoint(newest, tmp_path / name, ema=ema)
    assert same(weights(tmp_path / "ema"), weights(averaged / "release"))
    assert same(weights(tmp_path / "trained"), weights(plain / "release"))
    assert not same(weights(tmp_path / "trained"), weights(tmp_path / "ema"))


def test_the_loss_of_a_step_is_that_of_its_micro_batches_together(train: Train, stage, tmp_path: Path):
    out, _ = train("run", training__micro_batch_size=3)
    settled, source = open_source(config(stage, tmp_path / "x"))
    model, total, weight = build_model(settled).train(), 0.0, 0.0
    for k, (first, count) in enumerate([(0, 3), (3, 3), (6, 2)]):
        torch.manual_seed(draw_seed(settled.seed, 0, k))
        loss = model(model.collate(source.windows(first, count)))
        total, weight = total + loss.total.item(), weight + loss.weight.item()
    assert logged(out, "loss")[0] == pytest.approx(total / weight, rel=1e-6)


def test_computing_activations_again_changes_nothing(train: Train):
    plain, again = (train(str(on), training__activation_checkpointing=on)[0] for on in (False, True))
    assert logged(again, "loss") == logged(plain, "loss")
    assert same(weights(again / "release"), weights(plain / "release"))


def test_products_in_bfloat16_train_nearly_alike_and_release_float32(train: Train):
    plain, half = (train(dtype, training__dtype=dtype)[0] for dtype in ("float32", "bfloat16"))
    for key, kind in (("loss", "train"), ("val_loss", "validation")):
        assert logged(half, key, kind) == pytest.approx(logged(plain, key, kind), rel=0.05)
        assert logged(half, key, kind) != logged(plain, key, kind)
    assert {tensor.dtype for tensor in weights(half / "release").values()} <= {torch.float32, torch.int64}


def test_patience_ends_a_run_that_does_not_get_better(train: Train):
    out, result = train("run", training__patience=1, training__validate_every=1, optimizer__learning_rate=1e-30)
    assert (result.stopped_by, result.step, result.release_step) == ("patience", 2, 1)
    first, second = logged(out, "val_loss", "validation")
    assert first == second


def test_a_plateau_lowers_the_rate(train: Train):
    plateau = {"kind": "plateau", "patience": 1, "factor": 0.5}
    out, _ = train("run", training__validate_every=1, optimizer__learning_rate=1e-30, optimizer__schedule=plateau)
    assert logged(out, "lr") == [1e-30, 1e-30, 5e-31, 2.5e-31]


def test_blocks_are_captured_whole_and_train_alike(stage, tmp_path: Path):
    """What training.compile does to them, but for the C++ compiler, which tests/training/test_distributed.py starts."""
    rates = {f"model__{part}_dropout_p": 0.0 for part in ("ffn", "attn", "resid")}
    settled, source = open_source(config(stage, tmp_path, **rates))
    found = []
    for compiled in (False, True):
        model = build_model(settled).train()
        for block in model.blocks() if compiled else ():
            block.compile(fullgraph=True, backend="aot_eager")
        for first, count in ((0, 4), (4, 3)):  # another size of batch is no error either
            torch.manual_seed(0)
            model(model.collate(source.windows(first, count))).total.backward()
        found.append(torch.nn.utils.parameters_to_vector(p.grad for p in model.parameters() if p.grad is not None))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_either_stage_becomes_a_release(train: Train, stage, kit, tmp_path: Path):
    out, _ = train("run")
    export_checkpoint(steps_in(out / "checkpoints")[-1], tmp_path / "out")
    assert same(weights(tmp_path / "out"), weights(out / "release"))
    facts = json.loads((tmp_path / "out" / "release.json").read_text())
    if stage["model"]["family"] == "kronos_tokenizer":
        assert facts["parents"] == {}
        with pytest.raises(ModelError, match="forecasts"):
            foretrain.load(tmp_path / "out")
        return
    assert same(weights(tmp_path / "out" / "tokenizer"), weights(kit.tokenizer_folder))
    assert facts["parents"]["tokenizer"]["hash"] == release_hash(kit.tokenizer_folder)
    assert foretrain.load(tmp_path / "out").model.max_context_length == 20


def test_a_run_records_the_scale_that_it_was_trained_with(train: Train, stage):
    out, _ = train("run", model__scale_floor="relative")
    release = out / "release"
    assert json.loads((release / "config.json").read_text())["scale_floor"] == "relative"
    notes = json.loads((release / "release.json").read_text())["warnings"]
    assert [note["code"] for note in notes] == [Code.NOT_UPSTREAMS_FUNCTION]
    if stage["model"]["family"] == "kronos":
        assert foretrain.load(release).model.config.relative
        assert "scale_floor" not in json.loads((release / "tokenizer" / "config.json").read_text())


def frame(items: int = 3, bars: int = 90) -> pd.DataFrame:
    """Hourly candles; the second item has a gap."""
    parts = []
    for i in range(items):
        rng = np.random.default_rng(i)
        close = 100 + rng.standard_normal(bars).cumsum()
        opened = close + rng.normal(0, 0.1, bars)
        columns = {
            "item_id": f"00{i}",
            "timestamp": pd.date_range("2024-01-01", periods=bars, freq="h"),
            "open": opened,
            "high": np.maximum(opened, close) + 0.1,
            "low": np.minimum(opened, close) - 0.1,
            "close": close,
            "volume": rng.uniform(1e3, 1e4, bars),
        }
        parts.append(pd.DataFrame(columns))
    parts[1].loc[40:43, ["open", "high", "low", "close", "volume"]] = np.nan
    return pd.concat(parts)


def test_fit_trains_both_stages_on_a_frame_of_candles_and_forecasts(tmp_path: Path):
    sizes = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16}
    tokenizer = {
        "family": "kronos_tokenizer",
        **sizes,
        "n_enc_layers": 2,
        "n_dec_layers": 2,
        "s1_bits": 4,
        "s2_bits": 4,
    }
    predictor = foretrain.fit(
        frame(),
        stages=[
            {"name": "tokenizer", "model": tokenizer},
            {
                "name": "predictor",
                "model": {"family": "kronos", **sizes, "n_layers": 1, "tokenizer": "stage:tokenizer"},
            },
        ],
        data__context_length=32,
        data__prediction_length=6,
        training__max_steps=2,
        training__batch_size=4,
        output_dir=str(tmp_path / "fit"),
    )
    found = predictor.forecast_df(frame(), 6, [0.1, 0.5, 0.9], num_samples=4)
    assert len(found) == 3 * 5 * 6 and found["predictions"].notna().all()
    assert set(found["target_name"]) == {"open", "high", "low", "close", "volume"}
    assert found["timestamp"].min() == frame()["timestamp"].max() + pd.Timedelta("1h")
    assert (tmp_path / "fit" / "release" / "tokenizer" / "model.safetensors").exists()
