from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.data.test_store import save

from foretrain.config import build
from foretrain.errors import ConfigError
from foretrain.foreign.ledger import Translation
from foretrain.foreign.tsm_trainer import KNOWN, QUANTILES, translate
from foretrain.notes import Code, codes
from foretrain.run.build import open_source
from foretrain.run.config import RunConfig

SHARED = {"batch_size": 64, "data_root": "/data/benchmarks", "max_minutes": 10.0}  # of both evaluators below
REQUIRED = {
    "context_length": 2048,
    "prediction_length": 64,
    "training_data_paths": ["/data/mixup", "/data/synth"],
    "max_steps": 500,
    "per_device_train_batch_size": 12,
}
FULL = {
    **REQUIRED,
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 3,
    "num_heads": 4,
    "dropout_rate": 0.2,
    "layer_norm_epsilon": 1e-5,
    "initializer_factor": 0.1,
    "feed_forward_proj": "relu",
    "dense_act_fn": "relu",
    "rope_theta": 5000.0,
    "attn_implementation": "sdpa",
    "input_patch_size": 8,
    "input_patch_stride": 8,
    "output_patch_size": 8,
    "max_output_patches": 32,
    "use_reg_token": True,
    "use_arcsinh": False,
    "time_encoding_scale": 8192,
    "quantiles": [0.1, 0.5, 0.9],
    "random_init": True,
    "model_id": "somewhere",
    "probability": [0.75, 0.25],
    "max_train_series": 1000,
    "min_past": 60,
    "validation_data_paths": ["/data/val"],
    "max_val_series": 77,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.02,
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 0.5,
    "optim": "adamw_torch_fused",
    "seed": 7,
    "output_dir": "./outputs/x",
    "save_steps": 200,
    "log_steps": 20,
    "save_total_limit": 4,
    "report_to": "none",
    "health_report_interval": 200,
    "benchmark_config": "lite.yaml",
    "benchmark_eval_steps": 250,
    "benchmark_tier2_config": "extended.yaml",
    "benchmark_tier2_eval_steps": 20000,
    "benchmark_top_k_checkpoints": 2,
    "benchmark_batch_size": 64,
    "benchmark_checkpoint_metric": "mase",
    "benchmark_composite_weights": {"wql": 0.6, "mase": 0.4},
    "benchmark_datasets_root": "/data/benchmarks",
    "benchmark_eval_timeout": 600,
    "dataloader_num_workers": 8,
    "torch_compile": True,
    "gradient_checkpointing": True,
    "ddp_bucket_cap_mb": 25,
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {"fsdp_use_orig_params": True},
    "resume_from_checkpoint": "./outputs/x/checkpoint-100",
}


def translated(**values) -> Translation:
    return translate(Path("x/base.yaml"), {**REQUIRED, **values})


def verdicts(found: Translation) -> dict[str, str]:
    return {entry.key: entry.verdict for entry in found.ledger.entries}


def test_a_full_file_becomes_a_chronos2_run():
    assert translated(**FULL).tree == {
        "model": {
            "family": "chronos2",
            "random_init": True,
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_layers": 3,
            "num_heads": 4,
            "dropout_rate": 0.2,
            "layer_norm_epsilon": 1e-5,
            "initializer_factor": 0.1,
            "rope_theta": 5000.0,
            "patch_size": 8,
            "quantiles": [0.1, 0.5, 0.9],
            "use_arcsinh": False,
            "time_encoding_scale": 8192,
            "max_output_patches": 32,
        },
        "data": {
            "corpora": [{"path": "/data/mixup", "weight": 0.75}, {"path": "/data/synth", "weight": 0.25}],
            "context_length": 2048,
            "prediction_length": 64,
            "min_context": 60,
            "max_train_series": 1000,
        },
        "training": {
            "max_steps": 500,
            "batch_size": 24,
            "micro_batch_size": 12,
            "dtype": "auto",
            "tf32": True,
            "checkpoint_every": 200,
            "keep_last": 4,
            "log_every": 20,
            "health_every": 200,
            "clip_norm": 0.5,
            "compile": True,
            "activation_checkpointing": True,
            "parallel": "fsdp",
            "tensorboard": False,
            "validate_every": 200,
        },
        "optimizer": {
            "learning_rate": 3e-4,
            "weight_decay": 0.1,
            "betas": [0.8, 0.95],
            "eps": 1e-6,
            "schedule": {"kind": "linear", "warmup_ratio": 0.02},
        },
        "evaluation": {"max_items": 77},
        "evaluators": [
            {"name": "lite", "suite": "chronos-lite", "every": 250, "keep_best": 2, "metric": "avg_mase", **SHARED},
            {"name": "extended", "suite": "chronos-extended", "every": 20000, **SHARED},
        ],
        "output_dir": "./outputs/x",
        "seed": 7,
    }


def test_every_key_of_a_full_file_is_reported_once():
    assert set(FULL) == set(KNOWN), "the file above has every key"
    reported = [entry.key for entry in translated(**FULL).ledger.entries if entry.verdict != "filled"]
    assert sorted(reported) == sorted(FULL)


@pytest.mark.parametrize("key", sorted(set(KNOWN) - set(REQUIRED)))
def test_a_key_left_out_is_upstream_s_default_and_the_run_can_be_built(key: str):
    found = translate(
        Path("f.yaml"), {name: value for name, value in FULL.items() if name != key} | _equal_patches(key)
    )
    build(RunConfig, found.tree)
    found.ledger.report("a title", [])  # fails where a key is not settled


def _equal_patches(key: str) -> dict[str, int]:
    """Upstream's default patch for all three, where one of them is left out."""
    names = ("input_patch_size", "input_patch_stride", "output_patch_size")
    return {name: 16 for name in names if name != key} if key in names else {}


@pytest.mark.parametrize("key", sorted(REQUIRED))
def test_a_required_key_left_out_is_named(key: str):
    with pytest.raises(ConfigError, match=f"f.yaml: {key}: required"):
        translate(Path("f.yaml"), {name: value for name, value in REQUIRED.items() if name != key})


def test_a_file_that_says_little_gets_upstream_s_defaults():
    found = translated()
    config = build(RunConfig, found.tree)
    assert (config.model.d_model, config.model.num_layers, config.model.time_encoding_scale) == (768, 12, 2048)
    assert config.optimizer.schedule.kind == "cosine"
    assert config.optimizer.schedule.warmup_ratio == 0.01
    assert config.training.validate_every is None
    assert config.output_dir == "runs/base"
    architecture = config.model.architecture(2048, 64)
    assert list(architecture.quantiles) == QUANTILES
    assert architecture.dropout_rate == 0.1


def test_a_checkpoint_brings_its_architecture():
    found = translated(random_init=False, model_id="amazon/chronos-2", d_model=768, max_output_patches=64)
    assert found.tree["model"] == {"family": "chronos2", "model_id": "amazon/chronos-2", "max_output_patches": 64}
    assert verdicts(found)["d_model"] == "dropped"


def test_a_model_id_without_random_init_false_is_ignored_as_upstream_does_and_reported():
    found = translated(model_id="amazon/chronos-2")
    assert found.tree["model"]["random_init"] is True
    assert "model_id" not in found.tree["model"]
    assert Code.MODEL_ID_IGNORED in codes(found.ledger.notes)


def test_no_weights_and_no_random_start_is_refused():
    with pytest.raises(ConfigError, match="no model_id"):
        translated(random_init=False)


def test_the_batch_of_several_processes_is_reported():
    found = translated(gradient_accumulation_steps=3)
    assert (found.tree["training"]["batch_size"], found.tree["training"]["micro_batch_size"]) == (36, 12)
    (note,) = (note for note in found.ledger.notes if note.code == Code.BATCH_OF_ALL_PROCESSES)
    assert note.counts == {"batch_size": 36, "micro_batch_size": 12, "pieces": 3}


@pytest.mark.parametrize(
    ("values", "schedule", "dropped"),
    [
        ({"warmup_steps": 9, "warmup_ratio": 0.5}, {"kind": "cosine", "warmup_steps": 9}, {"warmup_ratio"}),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.5}, {"kind": "constant"}, {"warmup_ratio"}),
        (
            {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.5},
            {"kind": "constant", "warmup_ratio": 0.5},
            set(),
        ),
        (
            {"lr_scheduler_type": "polynomial", "warmup_ratio": 0.5},
            {"kind": "cosine", "warmup_ratio": 0.5},
            {"lr_scheduler_type"},
        ),
    ],
)
def test_schedules(values, schedule, dropped):
    found = translated(**values)
    assert found.tree["optimizer"]["schedule"] == schedule
    assert {key for key, verdict in verdicts(found).items() if verdict == "dropped"} == dropped


def test_validation_paths_alone_make_validation_as_often_as_upstream_saves():
    found = translated(validation_data_paths=["/data/val"], save_steps=300)
    assert found.tree["training"]["validate_every"] == 300
    assert found.tree["evaluation"] == {"max_items": 10000}


def test_both_benchmarks_become_evaluators():
    found = translated(**FULL)
    benchmark = {key for key in FULL if key.startswith("benchmark_")}
    assert {key: verdict for key, verdict in verdicts(found).items() if key in benchmark} == {
        key: "dropped" if key == "benchmark_composite_weights" else "carried" for key in benchmark
    }
    config = build(RunConfig, found.tree)
    assert [one.label for one in config.evaluators] == ["lite", "extended"]
    assert "what it counts is not (1)" in found.ledger.report("a title", [])  # max_val_series


def test_a_composite_metric_keeps_its_weights():
    weights = {"wql": 0.6, "mase": 0.4}
    found = translated(
        benchmark_config="configs/chronos_lite.yaml",
        benchmark_checkpoint_metric="composite",
        benchmark_composite_weights=weights,
    )
    assert found.tree["evaluators"] == [
        {"name": "lite", "suite": "chronos-lite", "every": 10000, "keep_best": 3, "metric": "composite",
         "weights": weights, "batch_size": 32}
    ]  # fmt: skip
    assert build(RunConfig, found.tree).evaluators[0].weights.wql == 0.6
    with pytest.raises(ConfigError, match=r"benchmark_checkpoint_metric is 'mae'; TSM-Trainer knows wql, mase, compo"):
        translated(benchmark_config="lite.yaml", benchmark_checkpoint_metric="mae")


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("chronos-extended.yaml", "chronos-extended"),
        ("a/chronos_ii.yaml", "chronos-zero-shot"),
        ("chronos-i.yaml", "chronos-in-domain"),
        ("gift_eval.yaml", "gift-eval"),
        ("my-own.yaml", None),
    ],
)
def test_a_benchmark_file_is_known_by_its_name(name, suite):
    found = translated(benchmark_config=name, benchmark_batch_size=16)
    assert [entry["suite"] for entry in found.tree.get("evaluators", [])] == ([suite] if suite else [])
    assert verdicts(found)["benchmark_config"] == ("carried" if suite else "dropped")
    assert verdicts(found)["benchmark_batch_size"] == ("carried" if suite else "dropped")


def test_benchmark_keys_without_a_benchmark_have_no_effect():
    found = translated(benchmark_eval_steps=200)
    assert "validate_every" not in found.tree["training"] and "evaluators" not in found.tree
    assert verdicts(found)["benchmark_eval_steps"] == "dropped"


def test_what_is_done_in_one_way_only_is_equal_or_left_behind():
    one, other = translated(optim="adamw_torch", feed_forward_proj="relu"), translated(optim="adafactor")
    assert (verdicts(one)["optim"], verdicts(one)["feed_forward_proj"]) == ("equal", "equal")
    assert verdicts(other)["optim"] == "dropped"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training_data_paths": []}, "training_data_paths: a list of folders"),
        ({"probability": [0.9]}, "probability: 2 positive numbers"),
        ({"probability": [0.9, -0.1]}, "probability: 2 positive numbers"),
        ({"output_patch_size": 8}, "output_patch_size is 8 and input_patch_size 16"),
        ({"max_steps": "many"}, "max_steps: 'many' is not a whole number"),
    ],
)
def test_what_upstream_could_not_run_either_is_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        translated(**values)
    assert message in str(caught.value)


def test_another_project_s_file_is_refused():
    with pytest.raises(ConfigError, match="none of its keys is one of TSM-Trainer"):
        translate(Path("f.yaml"), {"data": {"data_path": "x"}})


def test_an_unknown_key_is_reported():
    found = translated(warmup_step=3)
    assert [(entry.key, entry.text) for entry in found.ledger.entries if entry.verdict == "unknown"] == [
        ("warmup_step", "did you mean 'warmup_steps'?")
    ]


def test_features_of_the_folders_are_covariates_if_every_folder_has_them(tmp_path: Path, logged_notes):
    rows = pa.array([np.sin(np.arange(90) / k).tolist() for k in (3, 5, 7, 9)])
    features = pa.ListArray.from_arrays(pa.array(range(5), pa.int32()), rows)
    plain = save(tmp_path / "plain", pa.table({"target": rows}))
    with_past = save(tmp_path / "with_past", pa.table({"target": rows, "past_feat_dynamic_real": features}))
    lengths = {"context_length": 32, "prediction_length": 8}

    def opened(*folders: Path):
        tree = translated(**lengths, training_data_paths=[str(folder) for folder in folders]).tree
        return open_source(build(RunConfig, tree))

    config, source = opened(with_past)
    assert (config.data.past_covariates, source.selections[0].targets) == (("past_feat_0",), (0,))
    config, source = opened(with_past, plain)
    assert (config.data.past_covariates, [chosen.columns for chosen in source.selections]) == ((), [(0,), (0,)])
    found = [note for note in logged_notes() if note.code == Code.COVARIATES_BY_NAME]
    assert [note.counts["past_covariates"] for note in found] == [1, 0] and "past_feat_0" in found[1].text


@pytest.mark.parametrize(
    ("asked", "verdict", "training"),
    [
        ("", "equal", {}),
        ("full_shard auto_wrap", "carried", {"parallel": "fsdp"}),
        (["shard_grad_op"], "carried", {"parallel": "fsdp", "reshard_after_forward": False}),
        ("hybrid_shard", "carried", {"parallel": "hsdp"}),
        ("full_shard offload", "carried", {"parallel": "fsdp", "offload_optimizer": True}),
        ("full_shard hybrid_shard", "dropped", {}),
    ],
)
def test_what_splits_the_model_there_splits_it_here(asked, verdict, training):
    found = translated(fsdp=asked)
    assert verdicts(found)["fsdp"] == verdict
    keys = ("parallel", "reshard_after_forward", "offload_optimizer")
    assert {key: found.tree["training"][key] for key in keys if key in found.tree["training"]} == training
