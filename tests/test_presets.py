"""The configs of Toto and of the linear model that ship: short runs of the quick ones, and what the others do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import foretrain
from foretrain.distributed.world import World
from foretrain.errors import DataError
from foretrain.run.config import load_config, shipped_config
from foretrain.run.dry_run import describe_run
from foretrain.run.train import train_run

FAMILIES = ("toto", "toto2")
DRAWN = {"toto": ["evaluation.num_samples=8"], "toto2": [], "linear": []}  # fewer sample paths, where there are any
SMALL = "{synthetic: {kind: ohlcv, num_series: 12, length: LENGTH, seed: 3, freq: B}}"


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in found if record["kind"] == kind]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The run folder of a quick config, a tenth as long, by its family; trained when it is first asked for."""
    held: dict[str, Path] = {}

    def run(family: str) -> Path:
        if family not in held:
            folder = tmp_path_factory.mktemp(family) / "run"
            shorter = ["training.max_steps=40", "training.validate_every=20", "training.log_every=1",
                       "optimizer.schedule.warmup_steps=4", "evaluation.max_items=16", "training.tensorboard=false",
                       "threads=1", ("output_dir", str(folder)), *DRAWN[family]]  # fmt: skip
            train_run(load_config(shipped_config(f"{family}/quick.yaml"), shorter))
            held[family] = folder
        return held[family]

    return run


# The table of TSM-Trainer's README: layers, width, context, windows a GPU, GPUs, steps. Where ours is another, the file
# says why: small has the layers that its number of parameters means.
TSM = {
    "test": (2, 256, 512, 16, 1, 200),
    "base": (12, 768, 2048, 12, 64, 200_000),
    "base-stage2": (12, 768, 8192, 4, 64, 50_000),
    "small": (6, 512, 2048, 16, 64, 200_000),
    "finetune": (12, 768, 2048, 8, 8, 50_000),
}


@pytest.mark.parametrize("name", TSM)
def test_the_configs_of_chronos2_have_the_numbers_of_tsm_trainer_s_table(name):
    layers, width, context, per_gpu, gpus, steps = TSM[name]
    config = load_config(shipped_config(f"chronos2/{name}.yaml"))
    section, training = config.model, config.training
    if section.model_id is None or name == "base-stage2":  # which starts from the release of base
        random = section if section.random_init else load_config(shipped_config("chronos2/base.yaml")).model
        architecture = random.architecture(context, config.data.prediction_length)
        assert (architecture.num_layers, architecture.d_model) == (layers, width)
    else:
        assert section.model_id == "amazon/chronos-2"
    assert (config.data.context_length, training.max_steps, training.keep_best) == (context, steps, 3)
    assert (training.micro_batch_size or training.batch_size, training.batch_size) == (per_gpu, per_gpu * gpus)
    assert name == "test" or (training.dtype, training.compile) == ("auto", "auto")


@pytest.mark.parametrize("name", ["kronos/stock", "kronos/lora", "toto/finetune", "toto/lora"])
def test_the_configs_of_the_stock_trainers_take_their_settings_where_the_device_allows(name):
    training = load_config(shipped_config(f"{name}.yaml")).training
    assert (training.dtype, training.compile, training.compile_mode) == ("auto", "auto", "max-autotune")
    budget = training.token_budget
    assert budget is not None and budget.horizon_buckets == (20, 32, 64)
    if name != "toto/finetune":
        assert budget.length_buckets == (128, 256, 512)
    assert training.keep_best == (4 if name.startswith("toto") else 1)


def test_a_stock_config_trains_here_on_a_cpu_in_batches_of_its_own_size(tmp_path):
    corpora = f"data.corpora=[{SMALL.replace('LENGTH', '300')}]"

    def lines(*more: str) -> str:
        config = load_config(shipped_config("kronos/stock.yaml"), [corpora, ("output_dir", str(tmp_path)), *more])
        return "\n".join(describe_run(config, World()))

    found = lines()
    # a CPU that computes in bfloat16 is said to have no record of Kronos there
    assert re.search(
        r"auto on cpu: training\.dtype float32( \(no record of [^()]*\))?; training\.compile false; ", found
    )
    assert "training.token_budget.max_tokens_per_batch 32,768\n" in found
    assert "context 64 + horizon 30, variates 5: 96 windows = 6 x 16" in found
    longer = lines("data.context_length=128")
    assert "context 128 + horizon 30, variates 5: " in longer


@pytest.mark.parametrize("family", DRAWN)
def test_a_quick_run_learns_and_is_better_than_naive_and_the_weights_that_it_began_with(quick, family):
    """A tenth of the steps is too few for the last condition of a promotion, to beat the seasons of the data."""
    losses = [record["loss"] for record in records(quick(family), "train")]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    metrics = records(quick(family), "validation")[-1]
    assert metrics["val_skill"] > 0.2  # better than naive
    verdicts = json.loads((quick(family) / "release" / "release.json").read_text())["promotion"]["verdicts"]
    assert all(verdicts[who].startswith("better than ") for who in ("zero_shot", "naive"))
    assert set(verdicts) > {"zero_shot", "naive"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finetune_config_on_a_thousand_rows_names_the_lengths_that_would_work(family, tmp_path):
    def describe(*more: Any) -> str:
        corpora = f"data.corpora=[{SMALL.replace('LENGTH', '1000')}]"
        overrides = [corpora, ("output_dir", str(tmp_path / "run")), *more]
        return "\n".join(describe_run(load_config(shipped_config(f"{family}/finetune.yaml"), overrides), World()))

    with pytest.raises(DataError, match=r"the longest has 1,000 rows; needed are 4,528 \(min_context 4,096 ") as error:
        describe()
    _, *ways = str(error.value).splitlines()  # each can be put at the end of the command as it is
    assert {way.partition("#")[2] for way in ways} >= {" whole contexts", " contexts padded to 4,096"}
    for way in ways:
        assert ": 12 windows = " in describe(*way.partition("#")[0].split())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_config_adapts_a_release_and_its_merged_release_forecasts(quick, family, tmp_path):
    base, folder = quick(family) / "release", tmp_path / "run"
    overrides = [
        ("model.model_id", str(base)), f"data.corpora=[{SMALL.replace('LENGTH', '400')}]", "data.context_length=64",
        "data.prediction_length=16", "data.min_context=24", "data.validation_steps=16", "data.test_steps=160",
        "training.token_budget={max_tokens_per_batch: 1024, length_buckets: [32, 64], horizon_buckets: [16]}",
        "training.epochs=1", "training.validate_every=20", "training.tensorboard=false",
        "threads=1", ("output_dir", str(folder)), *DRAWN[family],
    ]  # fmt: skip
    train_run(load_config(shipped_config(f"{family}/lora.yaml"), overrides))
    facts = json.loads((folder / "release" / "release.json").read_text())
    assert facts["adapter"]["alarm"] is None and facts["promotion"]["against"]["name"] == str(base)
    before, after = (load_file(path / "model.safetensors") for path in (base, folder / "release"))
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[key], after[key]) for key in before) == facts["adapter"]["layers"]
    close = 100 + np.random.default_rng(0).standard_normal(80).cumsum()
    frame = pd.DataFrame({"timestamp": pd.bdate_range("2024-01-01", periods=80), "close": close})

    def forecast(path: Path) -> np.ndarray:
        found = foretrain.load(path, device="cpu").forecast_df(frame, 16, target="close", seed=1)
        return found["predictions"].to_numpy()

    merged, apart = forecast(folder), forecast(folder / "adapters" / folder.name)
    np.testing.assert_allclose(merged, apart, rtol=1e-4)
    assert not np.allclose(merged, forecast(base), rtol=1e-4)
