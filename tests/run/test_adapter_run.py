"""Runs that train an adapter, of every family, from a release to the folders that they leave."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.zoo import CONTEXT, HORIZON, ZOO, windows_of
from tests.run.test_train import made_older
from tests.test_world import MIXED, alone, arguments, curves, in_pair, leave, losses, other_orders
from tests.tolerance import assert_another_order

import foretrain
from foretrain.adapters.files import open_adapter
from foretrain.adapters.layers import merged
from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError, ModelError, TrainingError
from foretrain.evaluation.validation import Validation
from foretrain.forecasting.predictor import Predictor
from foretrain.models import FAMILIES, family
from foretrain.models.base import Forecaster, Trainable
from foretrain.models.hub import release_hash
from foretrain.models.shipped import shipped
from foretrain.notes import Code, codes
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig
from foretrain.run.dry_run import describe_run
from foretrain.run.export import export_checkpoint
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import Draft
from foretrain.run.train import train_run

FORECASTERS = [name for name, entry in ZOO.items() if entry.forecasts]


def tree(folder: Path, base: Path, name: str = "chronos2", **sections: Any) -> dict[str, Any]:
    """A run of six steps that fine-tunes an adapter on `base`; sections replace or add to its own."""
    entry = ZOO[name]
    synthetic = {"kind": "ohlcv" if entry.candles else "seasonal", "num_series": 4, "length": 90, "freq": "h"}
    made: dict[str, Any] = {
        "model": {"family": name, "model_id": str(base)},
        "data": {"corpora": [{"synthetic": synthetic}], "context_length": CONTEXT, "prediction_length": HORIZON,
                 "min_context": CONTEXT},
        "training": {"max_steps": 6, "batch_size": 4, "micro_batch_size": 2, "validate_every": 3, "checkpoint_every": 2,
                     "keep_last": 9, "log_every": 1, "tensorboard": False},
        "optimizer": {"learning_rate": 1e-2, "schedule": {"kind": "constant"}},
        "evaluation": {"num_windows": 1, **({"num_samples": 2} if entry.samples else {})},
        "adapter": {"rank": 2, "alpha": 4, "dropout": 0.1},
        "output_dir": str(folder),
        "threads": 1,
    }  # fmt: skip
    for key, value in sections.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return made


def config(*arguments: Any, **sections: Any) -> RunConfig:
    return build(RunConfig, tree(*arguments, **sections))


def base_of(zoo, folder: Path, name: str, **changes: Any) -> Path:
    """A release of the family's small model."""
    folder.mkdir(parents=True)
    zoo.built(name, **changes).save_release(folder)
    return folder


@dataclass(frozen=True)
class Done:
    """A finished run."""

    name: str
    base: Path
    base_hash: str  # of the base's release before the run
    folder: Path
    model: Trainable


@pytest.fixture(scope="module")
def runs(zoo, tmp_path_factory):
    """A finished run of each family, trained when it is first asked for."""
    held: dict[str, Done] = {}

    def of(name: str) -> Done:
        if name not in held:
            root = tmp_path_factory.mktemp(name)
            base = base_of(zoo, root / "base", name)
            known = release_hash(base)
            model, _ = train_run(config(root / "run", base, name, training={"ema_decay": 0.5}))
            held[name] = Done(name, base, known, root / "run", model)
        return held[name]

    return of


@pytest.fixture(params=FAMILIES)
def run(runs, request) -> Done:
    return runs(request.param)


def weights(folder: Path, name: str = "chronos2") -> dict[str, torch.Tensor]:
    """A release's weights under the network's names."""
    return family(name).load(folder).network.state_dict()


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "release.json").read_text())


def frozen(run: Done) -> tuple[Predictor, Predictor]:
    """The model in memory and its release, which make the same sums in the same order.

    torch.matmul folds the batch into rows where the weight needs a gradient. Merged weights and those around them need
    none, so those of the release must not either.
    """
    assert isinstance(run.model, Forecaster)
    loaded = foretrain.load(run.folder, device="cpu")
    loaded.network.requires_grad_(False)
    return Predictor(run.model), loaded


def opened(folder: Path, name: str) -> Trainable:
    """The model of an adapter's folder, of families that make no forecasts too."""
    return open_adapter(folder, True, {})


# What a run leaves


def test_the_release_is_the_base_with_the_adapter_added_to_it(run):
    base, released = weights(run.base, run.name), weights(run.folder / "release", run.name)
    assert released.keys() == base.keys()
    adapter = load_file(run.folder / "adapters" / "run" / "adapter_model.safetensors")
    changed = set()
    for key, value in base.items():
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            value = value + 2 * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
            changed.add(key)
        torch.testing.assert_close(released[key], value, rtol=0, atol=1e-6)
    assert changed and any(not torch.equal(released[key], base[key]) for key in changed)


def test_the_base_stays_as_it_was_on_disk_and_in_memory(run):
    assert release_hash(run.base) == run.base_hash
    base = weights(run.base, run.name)
    held = {key.removeprefix("network.").replace(".base_layer.", "."): p for key, p in run.model.named_parameters()}
    frozen = {key: value for key, value in held.items() if ".lora_" not in key}
    assert frozen and all(torch.equal(value, base[key]) for key, value in frozen.items())


def test_the_adapter_s_folder_opens_with_its_base_as_the_release(run):
    model = opened(run.folder / "adapters" / "run", run.name)
    released = weights(run.folder / "release", run.name)
    found = {key.removeprefix("network."): value for key, value in model.state_dict().items()}
    assert found.keys() == released.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, released[key], rtol=0, atol=1e-6)


def test_release_json_says_what_was_trained(run):
    for folder in (run.folder / "release", run.folder / "adapters" / "run"):
        found = facts(folder)["adapter"]
        assert (found["name"], found["rank"], found["alpha"], found["dropout"]) == ("run", 2, 4, 0.1)
        assert found["targets"] == list(type(run.model).adapter_targets) and found["matched"]
        assert 0 < found["trainable_parameters"] < found["total_parameters"]
        assert found["alarm"] is None
    assert "parameters are trained" in (run.folder / "training.log").read_text()


def test_validation_scored_the_weights_that_are_released(run):
    """The averaged and merged ones: what was found of them is found of the release."""
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    step = facts(run.folder / "release")["step"]
    (record,) = [r for r in records if r["kind"] == "validation" and r["step"] == step]
    released = family(run.name).load(run.folder / "release")
    resolved, source = open_source(config(run.folder, run.base, run.name))
    validation = Validation(
        resolved.evaluation,
        resolved.data,
        model=released,
        family=family(run.name),
        corpora=source.corpora,
        selections=source.selections,
        seed=resolved.seed,
    )
    metrics = validation(released, step).metrics
    compared = [key for key in metrics if key in record]
    assert "val_loss" in compared
    for key in compared:
        assert metrics[key] == pytest.approx(record[key], rel=1e-4, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("name", FORECASTERS)
def test_the_model_in_memory_carries_the_adapter_and_forecasts_as_its_release(runs, name):
    run = runs(name)
    kind = next(kind for kind, facts in ZOO[name].kinds.items() if facts.even)
    windows = windows_of(name, kind)
    samples = 2 if ZOO[name].samples else None
    found, expected = (p.forecast(windows, HORIZON, (0.2, 0.5), num_samples=samples) for p in frozen(run))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(".lora_A." in key for key, _ in Predictor(run.model).network.named_parameters())


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_trained_model_is_saved_merged(runs, name, tmp_path):
    run = runs(name)
    Predictor(run.model).save(tmp_path / "saved")  # type: ignore[arg-type]
    released = weights(run.folder / "release", name)
    assert all(torch.equal(value, released[key]) for key, value in weights(tmp_path / "saved", name).items())


def test_embeddings_in_memory_are_those_of_the_release(runs):
    run = runs("chronos2")
    values = np.random.default_rng(0).standard_normal((2, 1, CONTEXT)).astype(np.float32)
    found, expected = (p.embed(values)[0] for p in frozen(run))
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_a_stream_in_memory_is_that_of_the_release(runs):
    import pandas as pd

    run = runs("kronos")
    draw = np.random.default_rng(0)
    close = 100 + draw.standard_normal(CONTEXT).cumsum()
    df = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=CONTEXT, freq="h"), "close": close})
    df["open"], df["high"], df["low"] = close + 0.1, close + 0.5, close - 0.5

    def forecast(predictor: Predictor) -> pd.DataFrame:
        stream = predictor.stream(df[:-2])
        stream.append(df[-2:])
        return stream.forecast_df(HORIZON, num_samples=2, seed=1)

    found, expected = (forecast(p) for p in frozen(run))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


# Checkpoints, resume and export


def test_a_checkpoint_holds_only_what_is_trained(run):
    tensors: set[str] = set()
    for shard in (run.folder / "checkpoints" / "step-00000006").glob("*.safetensors"):
        tensors |= load_file(shard).keys()
    parameters = {key.partition(".")[2] for key in tensors}
    trained = {key for key, p in run.model.named_parameters() if p.requires_grad}
    buffers = {key for key, _ in run.model.named_buffers()}
    assert trained <= parameters <= trained | buffers
    assert {key.partition(".")[0] for key in tensors} == {"model", "ema", "exp_avg", "exp_avg_sq"}


def test_a_run_that_went_on_from_a_checkpoint_is_the_uninterrupted_one(run, tmp_path):
    """As if killed after step 4: what came later is gone."""
    again = tmp_path / "run"
    shutil.copytree(run.folder, again)
    for gone in ("release", "best_model", "hf_export", "adapters", "checkpoints/step-00000006"):
        shutil.rmtree(again / gone)
    train_run(config(again, run.base, run.name, training={"ema_decay": 0.5}), resume="auto")

    assert losses(again) == losses(run.folder) and len(losses(again)) == 6
    for file in ("release/model.safetensors", "adapters/run/adapter_model.safetensors"):
        one, other = (load_file(folder / file) for folder in (again, run.folder))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def other_base(zoo, tmp_path) -> tuple[Path, Path]:
    """A base that has other weights now, and a run that began from it."""
    base, folder = tmp_path / "base", tmp_path / "run"
    base_of(zoo, base, "chronos2")
    train_run(config(folder, base))
    zoo.built("chronos2", seed=1).save_release(base)
    return base, folder


def test_a_base_with_other_weights_is_refused_by_everything_that_needs_it(other_base, tmp_path):
    base, folder = other_base
    with pytest.raises(TrainingError, match=r"parents\.model: it began from weights with the hash"):
        train_run(config(folder, base, training={"max_steps": 8}), resume="auto")
    with pytest.raises(ModelError, match=r"parents\.model: .* does not hold the weights"):
        export_checkpoint(folder / "checkpoints" / "step-00000006", tmp_path / "out")
    with pytest.raises(ModelError, match=r"trained on a model of the hash .*, and .*base holds"):
        foretrain.load(folder / "adapters" / "run")


def test_a_base_that_has_moved_is_named_in_the_adapter_s_config(other_base, zoo):
    base, folder = other_base
    moved = base_of(zoo, base.parent / "moved", "chronos2")
    path = folder / "adapters" / "run" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(moved)}))
    model = opened(path.parent, "chronos2")
    released = weights(folder / "release")
    assert all(torch.equal(p, released[key.removeprefix("network.")]) for key, p in model.named_parameters())


@pytest.mark.parametrize("ema", [False, True])
def test_a_checkpoint_is_exported_merged_or_as_an_adapter(run, tmp_path, ema):
    checkpoint = run.folder / "checkpoints" / "step-00000006"
    export_checkpoint(checkpoint, tmp_path / "whole", ema=ema)
    export_checkpoint(checkpoint, tmp_path / "adapter", ema=ema, adapter=True)
    exported = weights(tmp_path / "whole", run.name)
    if ema and facts(run.folder / "release")["step"] == 6:
        released = weights(run.folder / "release", run.name)
        assert all(torch.equal(value, released[key]) for key, value in exported.items())
    for key, value in opened(tmp_path / "adapter", run.name).state_dict().items():
        torch.testing.assert_close(value, exported[key.removeprefix("network.")], rtol=0, atol=1e-6)


def test_a_run_without_an_adapter_has_none_to_export(runs, tmp_path):
    run = runs("chronos2")
    made = tree(tmp_path / "run", run.base)
    train_run(build(RunConfig, {key: value for key, value in made.items() if key != "adapter"}))
    with pytest.raises(TrainingError, match="no adapter that can be saved apart"):
        export_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000006", tmp_path / "out", adapter=True)


# Other kinds of runs


def test_a_trained_head_goes_with_the_adapter(runs, tmp_path):
    run = runs("chronos2")
    train_run(config(tmp_path / "run", run.base, adapter={"train_head": True}))
    folder = tmp_path / "run" / "adapters" / "run"
    saved = json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
    assert "output_patch_embedding.output_layer" in saved
    model, released, base = opened(folder, "chronos2"), weights(tmp_path / "run" / "release"), weights(run.base)
    assert not torch.equal(
        released["output_patch_embedding.output_layer.bias"], base["output_patch_embedding.output_layer.bias"]
    )
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, released[key.removeprefix("network.")], rtol=0, atol=1e-6)


def test_a_head_alone_can_be_trained(runs, tmp_path):
    run = runs("kronos")
    train_run(config(tmp_path / "run", run.base, "kronos", adapter={"rank": 0, "train_head": True, "dropout": 0.0}))
    released, base = (weights(folder, "kronos") for folder in (tmp_path / "run" / "release", run.base))
    assert {key.rpartition(".")[0] for key in base if not torch.equal(base[key], released[key])} == {
        "head.proj_s1",
        "head.proj_s2",
    }
    model = opened(tmp_path / "run" / "adapters" / "run", "kronos")
    assert all(torch.equal(p, released[key.removeprefix("network.")]) for key, p in model.named_parameters())


def test_an_adapter_of_a_model_in_the_box_finds_it_where_the_package_lies_elsewhere(tmp_path):
    train_run(config(tmp_path / "run", Path("tiny")))
    folder = tmp_path / "run" / "adapters" / "run"
    path = folder / "adapter_config.json"
    named = json.loads(path.read_text())
    assert Path(named["base_model_name_or_path"]) == shipped()["tiny"]  # PEFT's loader knows folders and hub ids
    path.write_text(json.dumps(named | {"base_model_name_or_path": "/gone/tiny"}))
    series = [np.sin(np.arange(60.0) / 4)]
    found, expected = (foretrain.load(place, device="cpu").forecast(series, 4) for place in (folder, tmp_path / "run"))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_where_the_backbone_is_trained_too_there_is_no_adapter_apart(runs, tmp_path):
    run = runs("chronos2")
    train_run(config(tmp_path / "run", run.base, adapter={"freeze_backbone": False}))
    assert not (tmp_path / "run" / "adapters").exists()
    released, base = weights(tmp_path / "run" / "release"), weights(run.base)
    assert not torch.equal(released["shared.weight"], base["shared.weight"])


def test_an_adapter_of_random_weights_is_rebuilt_from_the_seed(tmp_path):
    section = {"family": "chronos2", "model_id": None, **ZOO["chronos2"].section}
    made = tree(tmp_path / "run", tmp_path, model=section)
    train_run(build(RunConfig, made))
    released = weights(tmp_path / "run" / "release")
    for key, value in opened(tmp_path / "run" / "adapters" / "run", "chronos2").named_parameters():
        torch.testing.assert_close(value, released[key.removeprefix("network.")], rtol=0, atol=1e-6)


def test_the_lengths_of_a_run_hold_for_its_adapter_too(runs, tmp_path):
    run = runs("chronos2")
    train_run(config(tmp_path / "run", run.base, data={"context_length": 16, "min_context": 16}))
    loaded = foretrain.load(tmp_path / "run" / "adapters" / "run", device="cpu")
    assert loaded.model.max_context_length == 16


def test_what_the_base_lacks_is_trained_and_goes_with_the_adapter(zoo, tmp_path):
    """Toto's labels of variates, which a run with covariates known ahead makes."""
    base = base_of(zoo, tmp_path / "base", "toto", variate_labels=None)
    corpora = [{"synthetic": {"kind": "seasonal", "num_series": 4, "length": 90, "num_variates": 2}}]
    data = {"corpora": corpora, "target": ["target_0"], "known_covariates": ["target_1"]}
    train_run(config(tmp_path / "run", base, "toto", data=data))
    released = weights(tmp_path / "run" / "release", "toto")
    model = opened(tmp_path / "run" / "adapters" / "run", "toto")
    made, _ = open_source(config(tmp_path / "other", base, "toto", data=data))
    before = build_model(made).state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, released[key.removeprefix("network.")], rtol=0, atol=1e-6)
    for key in ("network.target_variate_label", "network.exogenous_variate_label"):
        assert key in model.state_dict() and not torch.equal(model.state_dict()[key], before[key])


def test_an_adapter_opens_in_lower_precision(runs):
    loaded = foretrain.load(runs("chronos2").folder / "adapters" / "run", dtype="bfloat16", device="cpu")
    assert {p.dtype for p in loaded.network.parameters()} == {torch.bfloat16}


def test_a_tokenizer_s_adapter_makes_no_forecasts(runs):
    with pytest.raises(ModelError, match="makes no forecasts"):
        foretrain.load(runs("kronos_tokenizer").folder / "adapters" / "run")


def test_layers_that_the_data_never_reach_raise_an_alarm(runs, tmp_path):
    """Series alone attend to nothing but themselves, so what a group's queries and keys are has no effect."""
    run = runs("chronos2")
    targets = ["layer.1.self_attention.q", "layer.1.self_attention.k"]
    train_run(config(tmp_path / "run", run.base, adapter={"targets": targets}))
    assert "B is zero in all 4 layers" in facts(tmp_path / "run" / "release")["adapter"]["alarm"]
    assert "WARNING: the adapter has learned nothing" in (tmp_path / "run" / "training.log").read_text()


def test_a_target_that_matches_nothing_is_reported_before_anything_is_written(runs, tmp_path):
    run = runs("chronos2")
    with pytest.raises(ConfigError, match=r"'atention\.q' matches no linear layer"):
        train_run(config(tmp_path / "run", run.base, adapter={"targets": ["atention.q"]}))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_what_is_trained(runs, tmp_path):
    run = runs("chronos2")
    settings = config(tmp_path / "run", run.base)
    text = "\n".join(describe_run(settings, World()))
    model = build_model(settings)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert f"{trained:,} of {total:,} parameters are trained" in text
    assert f"memory: {4 * (total + 3 * trained) / 1024:,.1f} KiB" in text
    assert f"of {4 * 3 * trained / 1024:,.1f} KiB" in text


def test_the_name_of_an_adapter_is_that_of_its_folder(runs, tmp_path):
    run = runs("chronos2")
    train_run(config(tmp_path / "run", run.base, adapter={"name": "stocks-1"}))
    assert [path.name for path in (tmp_path / "run" / "adapters").iterdir()] == ["stocks-1"]


def test_a_stage_can_train_an_adapter_on_what_an_earlier_one_released(tmp_path):
    made = tree(tmp_path / "run", tmp_path, training={"validate_every": None})
    common = {key: made[key] for key in ("data", "training", "optimizer", "output_dir", "threads")}
    stages = [
        {"name": "first", "model": {"family": "chronos2", **ZOO["chronos2"].section}},
        {"name": "second", "model": {"model_id": "stage:first"}, "adapter": {"rank": 2}},
    ]
    run_stages(Draft.of({**common, "stages": stages}).build())  # type: ignore[arg-type]
    folder = tmp_path / "run" / "stages" / "02-second"
    released = weights(tmp_path / "run" / "release")
    for key, value in opened(folder / "adapters" / "run", "chronos2").named_parameters():
        torch.testing.assert_close(value, released[key.removeprefix("network.")], rtol=0, atol=1e-6)


@pytest.mark.processes
def test_two_processes_train_the_adapter_of_one(tmp_path):
    """Rank 0 has windows alone where rank 1 has groups: each has layers that the other does not need."""
    settings = [*MIXED, "adapter={rank: 2}"]
    process = in_pair(*arguments(tmp_path / "two", *settings), output=tmp_path / "log")
    assert alone(*arguments(tmp_path / "one", *settings)) == 0
    orders = other_orders(tmp_path, *settings)
    assert leave(process) == 0, (tmp_path / "log").read_text()[-3000:]

    def trained(folder: Path) -> dict[str, list[Any]]:
        adapter = load_file(folder / "adapters" / folder.name / "adapter_model.safetensors")
        return {**curves(folder), **{key: [value] for key, value in adapter.items()}}

    assert_another_order(trained(tmp_path / "two"), trained(tmp_path / "one"), [trained(folder) for folder in orders])


def test_fit_trains_an_adapter_from_python(runs, tmp_path):
    import pandas as pd

    run = runs("chronos2")
    values = np.random.default_rng(0).standard_normal(200).cumsum()
    df = pd.DataFrame({"item_id": "a", "timestamp": pd.date_range("2024", periods=200, freq="h"), "target": values})
    predictor = foretrain.fit(
        df,
        str(run.base),
        adapter__rank=2,
        data__context_length=CONTEXT,
        data__prediction_length=HORIZON,
        training__max_steps=2,
        training__tensorboard=False,
        output_dir=str(tmp_path / "run"),
    )
    found = predictor.forecast_df(df, HORIZON)
    expected = foretrain.load(tmp_path / "run" / "adapters" / "run", device="cpu").forecast_df(df, HORIZON)
    np.testing.assert_allclose(found["predictions"], expected["predictions"], rtol=1e-4, atol=1e-4)
    with merged(predictor.model):
        assert not any(".lora_" in key for key, _ in predictor.network.named_parameters())


def test_a_damaged_corpus_leaves_an_exported_adapter_that_still_opens(zoo, tmp_path, logged_notes, monkeypatch):
    base = base_of(zoo, tmp_path / "base", "chronos2")
    train_run(config(tmp_path / "run", base))

    def gone(*_: Any) -> None:
        raise DataError("no such corpus")

    monkeypatch.setattr("foretrain.run.export.open_source", gone)
    checkpoint, released = tmp_path / "run" / "checkpoints" / "step-00000006", weights(tmp_path / "run" / "release")
    for out, note in (("out", set()), ("older", {Code.RELEASE_WITHOUT_FACTS})):
        export_checkpoint(checkpoint, tmp_path / out, adapter=True)
        assert codes(logged_notes()) == note
        assert opened(tmp_path / out, "chronos2").state_dict().keys() == {f"network.{key}" for key in released}
        assert ("corpora" in facts(tmp_path / out)) is (not note)
        if not note:  # an older one does not record its training data itself
            made_older(checkpoint, "facts")
