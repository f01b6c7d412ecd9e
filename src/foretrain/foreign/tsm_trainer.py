"""Translates TSM-Trainer's YAML (flat, Chronos-2) into a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretrain.errors import ConfigError
from foretrain.foreign.ledger import Key, Ledger, Translation
from foretrain.notes import Code

QUANTILES = [0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99]
ARCHITECTURE = {  # keys that only random weights use -> ours
    "d_model": "d_model",
    "d_kv": "d_kv",
    "d_ff": "d_ff",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "dropout_rate": "dropout_rate",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "initializer_factor": "initializer_factor",
    "rope_theta": "rope_theta",
    "input_patch_size": "patch_size",
    "quantiles": "quantiles",
    "use_reg_token": "use_reg_token",
    "use_arcsinh": "use_arcsinh",
    "time_encoding_scale": "time_encoding_scale",
}
OURS = {  # our defaults without a preset
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 0.05,
    "rope_theta": 10000.0,
    "input_patch_size": 16,
    "quantiles": QUANTILES,
    "use_reg_token": True,
    "use_arcsinh": True,
}
KNOWN = {
    "d_model": Key("whole", 768),
    "d_kv": Key("whole", 64),
    "d_ff": Key("whole", 3072),
    "num_layers": Key("whole", 12),
    "num_heads": Key("whole", 12),
    "dropout_rate": Key("number", 0.1),
    "layer_norm_epsilon": Key("number", 1e-6),
    "initializer_factor": Key("number", 0.05),
    "feed_forward_proj": Key("text", "relu"),
    "dense_act_fn": Key("text"),
    "rope_theta": Key("number", 10000.0),
    "attn_implementation": Key("text", "sdpa"),
    "context_length": Key("whole"),
    "prediction_length": Key("whole"),
    "input_patch_size": Key("whole", 16),
    "input_patch_stride": Key("whole", 16),
    "output_patch_size": Key("whole", 16),
    "max_output_patches": Key("whole", 64),
    "use_reg_token": Key("flag", True),
    "use_arcsinh": Key("flag", True),
    "time_encoding_scale": Key("whole"),
    "quantiles": Key("any", QUANTILES),
    "random_init": Key("flag", True),
    "model_id": Key("text"),
    "training_data_paths": Key("any"),
    "probability": Key("any"),
    "max_train_series": Key("whole"),
    "min_past": Key("whole"),
    "validation_data_paths": Key("any"),
    "max_val_series": Key("whole", 10000),
    "max_steps": Key("whole"),
    "per_device_train_batch_size": Key("whole"),
    "gradient_accumulation_steps": Key("whole", 1),
    "learning_rate": Key("number", 1e-4),
    "lr_scheduler_type": Key("text", "cosine"),
    "warmup_ratio": Key("number", 0.01),
    "warmup_steps": Key("whole", 0),
    "weight_decay": Key("number", 0.01),
    "adam_beta1": Key("number", 0.9),
    "adam_beta2": Key("number", 0.999),
    "adam_epsilon": Key("number", 1e-8),
    "max_grad_norm": Key("number", 1.0),
    "optim": Key("text", "adamw_torch_fused"),
    "seed": Key("whole", 42),
    "output_dir": Key("text"),
    "save_steps": Key("whole", 5000),
    "log_steps": Key("whole", 100),
    "save_total_limit": Key("whole", 3),
    "report_to": Key("any", "tensorboard"),
    "health_report_interval": Key("whole", 1000),
    "benchmark_config": Key("text"),
    "benchmark_eval_steps": Key("whole", 10000),
    "benchmark_tier2_config": Key("text"),
    "benchmark_tier2_eval_steps": Key("whole", 20000),
    "benchmark_top_k_checkpoints": Key("whole", 3),
    "benchmark_batch_size": Key("whole", 32),
    "benchmark_checkpoint_metric": Key("text", "wql"),
    "benchmark_composite_weights": Key("any"),
    "benchmark_datasets_root": Key("text"),
    "benchmark_eval_timeout": Key("whole", 0),
    "dataloader_num_workers": Key("whole", 0),
    "torch_compile": Key("flag", False),
    "gradient_checkpointing": Key("flag", False),
    "ddp_bucket_cap_mb": Key("whole", 25),
    "fsdp": Key("any", ""),
    "fsdp_config": Key("any"),
    "resume_from_checkpoint": Key("any"),
}
SUITES = {  # what is in the name of a benchmark file -> ours, the first that fits
    "lite": "chronos-lite",
    "extended": "chronos-extended",
    "zero-shot": "chronos-zero-shot",
    "chronos-ii": "chronos-zero-shot",
    "in-domain": "chronos-in-domain",
    "chronos-i": "chronos-in-domain",
    "gift-eval": "gift-eval",
    "fev-bench": "fev-bench",
}
METRICS = {"wql": "avg_wql", "mase": "avg_mase", "composite": "composite"}  # theirs -> ours
SCHEDULES = {  # theirs -> ours
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


def recognises(raw: Mapping[Any, Any]) -> bool:
    """Return True if a file looks like a TSM-Trainer config: flat, and at least three of its keys are in it."""
    return not any(isinstance(value, dict) for key, value in raw.items() if key not in KNOWN) and (
        len([key for key in raw if key in KNOWN and key not in ("seed", "output_dir")]) >= 3
    )


def translate(path: Path, raw: Mapping[Any, Any]) -> Translation:
    """Translate a TSM-Trainer config. Raises ConfigError for missing keys and wrong values."""
    ledger = Ledger(path, {str(key): value for key, value in raw.items()}, KNOWN)
    if not any(ledger.given(key) for key in KNOWN):
        raise ConfigError(
            f"{path}: none of its keys is one of TSM-Trainer's. Is it another project's file? See --from."
        )
    missing = [
        key
        for key in (
            "context_length", "prediction_length", "training_data_paths", "max_steps", "per_device_train_batch_size"
        )
        if not ledger.given(key)
    ]  # fmt: skip
    if missing:
        raise ConfigError(f"{path}: {', '.join(missing)}: required by TSM-Trainer, but not given.")
    model, data, training, optimizer = _model(ledger), _data(ledger), _training(ledger), _optimizer(ledger)
    (validation, evaluation), evaluators = _evaluation(ledger), _evaluators(ledger)
    tree: dict[str, Any] = {
        "model": model,
        "data": data,
        "training": {**training, **validation},
        "optimizer": optimizer,
        **({"evaluation": evaluation} if evaluation else {}),
        **({"evaluators": evaluators} if evaluators else {}),
        **_output(ledger, path),
    }
    ledger.dropped("resume_from_checkpoint", "not a config key here; resume a run of foretrain with --resume")
    return Translation(tree, ledger, [], [])


def _model(ledger: Ledger) -> dict[str, Any]:
    """Return the model section: random weights with their architecture, or a release that brings its own."""
    model: dict[str, Any] = {"family": "chronos2"}
    random = ledger.get("random_init")
    if random:
        if ledger.given("model_id") and not ledger.given("random_init"):
            text = "model_id is ignored, as upstream does while random_init is not false; write random_init: false."
            ledger.note(Code.MODEL_ID_IGNORED, text)
        ledger.carried("random_init", "model.random_init")
        ledger.dropped("model_id", "random_init is true")
        model["random_init"] = True
    else:
        if not ledger.given("model_id"):
            raise ConfigError(f"{ledger.path}: random_init is false, and no model_id is given; set one of them.")
        ledger.equal("random_init", "model_id loads weights")
        ledger.carried("model_id", "model.model_id")
        model["model_id"] = ledger.get("model_id")
    for key, ours in ARCHITECTURE.items():
        if not random:
            ledger.dropped(key, "the architecture is the checkpoint's, upstream as here")
            continue
        if key == "time_encoding_scale" and not ledger.given(key):
            model[ours] = ledger.get("context_length")
            ledger.filled(f"model.{ours}", f"{model[ours]}, the context_length, upstream's default")
        elif key in OURS and ledger.get(key) == OURS[key]:
            ledger.equal(key, f"model.{ours}")
        else:
            model[ours] = ledger.get(key)
            ledger.carried(key, f"model.{ours}")
    _patches(ledger)
    patches = ledger.get("max_output_patches")
    if patches == 64 and random:
        ledger.equal("max_output_patches", "model.max_output_patches")
    else:
        ledger.carried("max_output_patches", "model.max_output_patches")
        model["max_output_patches"] = patches
    _fixed(ledger, "feed_forward_proj", "relu", "only relu is built")
    ledger.dropped("dense_act_fn", "upstream does not read it; it follows from feed_forward_proj")
    _fixed(
        ledger, "attn_implementation", "sdpa", "attention is always torch's scaled_dot_product_attention or equal to it"
    )
    return model


def _patches(ledger: Ledger) -> None:
    """Check that stride and output patch equal the input patch. Raises ConfigError."""
    for key in ("input_patch_stride", "output_patch_size"):
        if ledger.get(key) != ledger.get("input_patch_size"):
            raise ConfigError(
                f"{ledger.path}: {key} is {ledger.get(key)} and input_patch_size {ledger.get('input_patch_size')}; "
                "Chronos-2 needs them equal."
            )
        ledger.equal(key, "one number with input_patch_size, model.patch_size")


def _fixed(ledger: Ledger, key: str, value: Any, why: str) -> None:
    """Settle a key of which foretrain supports one value only."""
    if ledger.get(key) == value:
        ledger.equal(key, why)
    else:
        ledger.dropped(key, why)


def _data(ledger: Ledger) -> dict[str, Any]:
    """Return the data section. Raises ConfigError for wrong paths and shares."""
    paths, shares = ledger.get("training_data_paths"), ledger.get("probability")
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not paths or not all(isinstance(item, str) for item in paths):
        raise ConfigError(f"{ledger.path}: training_data_paths: a list of folders is expected.")
    corpora: list[dict[str, Any]] = [{"path": item} for item in paths]
    ledger.carried(
        "training_data_paths",
        "data.corpora.*.path",
        "folders of datasets.save_to_disk open without an import; past_feat_dynamic_real and feat_dynamic_real are "
        "covariates, and `foretrain data inspect` lists all columns",
    )
    if shares is not None:
        numbers = isinstance(shares, list) and all(isinstance(x, (int, float)) and x > 0 for x in shares)
        if not numbers or len(shares) != len(paths):
            raise ConfigError(
                f"{ledger.path}: probability: {len(paths)} positive numbers are expected, one for each path."
            )
        for corpus, share in zip(corpora, shares, strict=True):
            corpus["weight"] = share
        ledger.carried(
            "probability",
            "data.corpora.*.weight",
            "of every draw; upstream uses it only with max_train_series, and otherwise draws in proportion to size",
        )
    data: dict[str, Any] = {
        "corpora": corpora,
        "context_length": ledger.get("context_length"),
        "prediction_length": ledger.get("prediction_length"),
    }
    ledger.carried("context_length", "data.context_length")
    ledger.carried("prediction_length", "data.prediction_length")
    if ledger.given("min_past"):
        ledger.carried("min_past", "data.min_context")
        data["min_context"] = ledger.get("min_past")
    if ledger.given("max_train_series"):
        ledger.carried("max_train_series", "data.max_train_series")
        data["max_train_series"] = ledger.get("max_train_series")
    return data


def _training(ledger: Ledger) -> dict[str, Any]:
    """Return the training section."""
    micro, accumulation = ledger.get("per_device_train_batch_size"), ledger.get("gradient_accumulation_steps")
    batch = micro * accumulation
    ledger.carried("max_steps", "training.max_steps")
    ledger.carried("per_device_train_batch_size", "training.micro_batch_size")
    if accumulation == 1:
        ledger.equal("gradient_accumulation_steps", "training.batch_size is training.micro_batch_size")
    else:
        ledger.carried("gradient_accumulation_steps", "training.batch_size", f"{micro} x {accumulation}")
    ledger.note(
        Code.BATCH_OF_ALL_PROCESSES,
        f"training.batch_size counts windows over all processes: {batch} for one process. For N of them write N x "
        f"{batch}, or start with --per-device-train-batch-size {micro} --gradient-accumulation-steps {accumulation}.",
        batch_size=batch,
        micro_batch_size=micro,
        pieces=accumulation,
    )
    training = {
        "max_steps": ledger.get("max_steps"),
        "batch_size": batch,
        "micro_batch_size": micro,
        "dtype": "auto",
        "tf32": True,
        "checkpoint_every": ledger.get("save_steps"),
        "keep_last": ledger.get("save_total_limit"),
        "log_every": ledger.get("log_steps"),
        "health_every": ledger.get("health_report_interval"),
    }
    ledger.filled(
        "training.dtype and training.tf32", "auto and true: bfloat16 and tf32 on GPUs that have them, as upstream"
    )
    for key, to in (("save_steps", "checkpoint_every"), ("save_total_limit", "keep_last"), ("log_steps", "log_every")):
        ledger.carried(key, f"training.{to}")
    for key, to, ours in (
        ("max_grad_norm", "clip_norm", 1.0),
        ("torch_compile", "compile", False),
        ("gradient_checkpointing", "activation_checkpointing", False),
    ):
        training |= _unless_default(ledger, key, "training", to, ours)
    ledger.dropped("dataloader_num_workers", "windows are cut from a memory map, without worker processes")
    ledger.carried("health_report_interval", "training.health_every")
    _fixed(ledger, "ddp_bucket_cap_mb", 25, "torch's own bucket size is kept")
    training |= _sharding(ledger)
    loggers = ledger.get("report_to")
    loggers = [loggers] if isinstance(loggers, str) else loggers
    if loggers == ["tensorboard"]:
        ledger.equal("report_to", "training.tensorboard: true")
    elif loggers in (["none"], []):
        ledger.carried("report_to", "training.tensorboard: false")
        training["tensorboard"] = False
    else:
        ledger.dropped("report_to", "metrics go to metrics.jsonl and TensorBoard")
    return training


def _sharding(ledger: Ledger) -> dict[str, Any]:
    """Return the keys of `training:` that split the model over processes as `fsdp` does."""
    asked = ledger.get("fsdp")
    words = set((" ".join(asked) if isinstance(asked, list) else str(asked or "")).split())
    kept: dict[str, Any] = {"reshard_after_forward": False}
    kinds = {"full_shard": ("fsdp", {}), "shard_grad_op": ("fsdp", kept), "hybrid_shard": ("hsdp", {})}
    chosen = [kinds[word] for word in words if word in kinds]
    ledger.dropped("fsdp_config", "blocks of the family are split; weights and sums stay float32")
    if not words or words == {"no_shard"}:
        ledger.equal("fsdp", "training.parallel: auto, DDP below a billion parameters")
        return {}
    if len(chosen) != 1:
        ledger.dropped("fsdp", "of its words full_shard, shard_grad_op, hybrid_shard and offload are known")
        return {}
    parallel, more = chosen[0]
    if "offload" not in words:
        ledger.carried("fsdp", "training.parallel", "the family's blocks are split")
        return {"parallel": parallel, **more}
    where = "training.parallel and training.offload_optimizer"
    ledger.carried("fsdp", where, "of offload the optimizer's state, not weights and gradients, is kept on the host")
    return {"parallel": parallel, **more, "offload_optimizer": True}


def _unless_default(ledger: Ledger, key: str, section: str, to: str, ours: Any) -> dict[str, Any]:
    """Return {to: value} if the value is not our default, else {}."""
    if ledger.get(key) == ours:
        ledger.equal(key, f"{section}.{to}")
        return {}
    ledger.carried(key, f"{section}.{to}")
    return {to: ledger.get(key)}


def _optimizer(ledger: Ledger) -> dict[str, Any]:
    """Return the optimizer section."""
    first, second = ledger.get("adam_beta1"), ledger.get("adam_beta2")
    optimizer: dict[str, Any] = {"learning_rate": ledger.get("learning_rate")}
    ledger.carried("learning_rate", "optimizer.learning_rate")
    optimizer |= _unless_default(ledger, "weight_decay", "optimizer", "weight_decay", 0.01)
    if (first, second) == (0.9, 0.999):
        ledger.equal("adam_beta1", "optimizer.betas")
        ledger.equal("adam_beta2", "optimizer.betas")
    else:
        ledger.carried("adam_beta1", "optimizer.betas")
        ledger.carried("adam_beta2", "optimizer.betas")
        optimizer["betas"] = [first, second]
    optimizer |= _unless_default(ledger, "adam_epsilon", "optimizer", "eps", 1e-8)
    if ledger.get("optim") in ("adamw_torch_fused", "adamw_torch"):
        ledger.equal("optim", "AdamW, fused where torch has a kernel")
    else:
        ledger.dropped("optim", "AdamW is written in its place; optimizer.name has others")
    return {**optimizer, "schedule": _schedule(ledger)}


def _schedule(ledger: Ledger) -> dict[str, Any]:
    """Return the schedule section."""
    name = ledger.get("lr_scheduler_type")
    if name in SCHEDULES:
        ledger.carried("lr_scheduler_type", "optimizer.schedule.kind")
    else:
        ledger.dropped("lr_scheduler_type", f"translated: {', '.join(SCHEDULES)}; cosine is written in its place")
    schedule: dict[str, Any] = {"kind": SCHEDULES.get(name, "cosine")}
    steps = ledger.get("warmup_steps")
    if name == "constant":
        ledger.dropped("warmup_steps", "a constant rate has no warm-up, upstream as here")
        ledger.dropped("warmup_ratio", "a constant rate has no warm-up, upstream as here")
    elif steps > 0:
        ledger.carried("warmup_steps", "optimizer.schedule.warmup_steps")
        ledger.dropped("warmup_ratio", "warmup_steps decides")
        schedule["warmup_steps"] = steps
    else:
        ledger.equal("warmup_steps", "0 means that warmup_ratio decides")
        ledger.carried("warmup_ratio", "optimizer.schedule.warmup_ratio")
        schedule["warmup_ratio"] = ledger.get("warmup_ratio")
    return schedule


def _evaluation(ledger: Ledger) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return keys of the training and evaluation sections. What upstream calls validation scores other series than
    foretrain's, so the number that bounds it is reported as one that counts something else."""
    why = (
        "validation scores data.validation_steps of the training series; score other data by evaluators: {corpus: ...}"
    )
    ledger.dropped("validation_data_paths", why)
    if not ledger.get("validation_data_paths"):
        ledger.dropped("max_val_series", "without validation_data_paths upstream does not read it")
        return {}, {}
    training = {"validate_every": ledger.get("save_steps")}
    ledger.filled("training.validate_every", f"{training['validate_every']}, upstream's save_steps")
    ledger.moved("max_val_series", "evaluation.max_items", "of the validation, which scores the training series")
    return training, {"max_items": ledger.get("max_val_series")}


def _evaluators(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the evaluators section: upstream's benchmark, and its second, rarer one."""
    shared = ("benchmark_top_k_checkpoints", "benchmark_batch_size", "benchmark_checkpoint_metric",
              "benchmark_composite_weights", "benchmark_datasets_root", "benchmark_eval_timeout")  # fmt: skip
    first = _evaluator(ledger, "benchmark_config", "benchmark_eval_steps", "lite")
    second = _evaluator(ledger, "benchmark_tier2_config", "benchmark_tier2_eval_steps", "extended")
    found = [entry for entry in (first, second) if entry]
    if not found:
        for key in shared:
            ledger.dropped(key, "without a benchmark that is carried over there is nothing that it is of")
        return []
    _rank(ledger, first)
    ledger.carried("benchmark_batch_size", "evaluators.*.batch_size")
    if ledger.given("benchmark_datasets_root"):
        ledger.carried(
            "benchmark_datasets_root",
            "evaluators.*.data_root",
            "which holds chronos_datasets/NAME/ or SUITE/TASK/ for upstream's NAME/; --dry-run names what is missing",
        )
    else:
        ledger.filled("evaluators.*.data_root", "benchmark-data; upstream fetches what it lacks, foretrain does not")
    limit = ledger.get("benchmark_eval_timeout")
    if limit > 0:
        ledger.carried(
            "benchmark_eval_timeout", "evaluators.*.max_minutes", "it ends the evaluation; upstream only warns"
        )
    else:
        ledger.equal("benchmark_eval_timeout", "no evaluators.*.max_minutes: no limit")
    for entry in found:
        entry["batch_size"] = ledger.get("benchmark_batch_size")
        entry |= {"data_root": ledger.get("benchmark_datasets_root")} if ledger.given("benchmark_datasets_root") else {}
        entry |= {"max_minutes": limit / 60} if limit > 0 else {}
    return found


def _evaluator(ledger: Ledger, config: str, steps: str, name: str) -> dict[str, Any]:
    """Return an evaluator for a benchmark file of upstream, whose names are those of its sets; {} without one."""
    if not ledger.given(config):
        ledger.dropped(steps, f"without {config} upstream does not read it")
        return {}
    stem = Path(ledger.get(config)).stem.lower().replace("_", "-")
    suite = next((suite for word, suite in SUITES.items() if word in stem), None)
    if suite is None:
        known = ", ".join(SUITES)
        ledger.dropped(config, f"sets are known by the name of their file: one of {known}; write evaluators by hand")
        ledger.dropped(steps, f"{config} is not carried over")
        return {}
    ledger.carried(
        config, "evaluators.*.suite", f"{suite}, the set of that name; entries that were edited are not read"
    )
    ledger.carried(steps, "evaluators.*.every")
    return {"name": name, "suite": suite, "every": ledger.get(steps)}


def _rank(ledger: Ledger, first: dict[str, Any]) -> None:
    """Add to upstream's first benchmark how it ranks checkpoints, which the second does not."""
    keys = ("benchmark_top_k_checkpoints", "benchmark_checkpoint_metric", "benchmark_composite_weights")
    if not first:
        for key in keys:
            ledger.dropped(key, "it is of benchmark_config, which is not carried over")
        return
    ledger.carried(keys[0], "evaluators.*.keep_best", "of whole checkpoints, retained in checkpoints/")
    first["keep_best"] = ledger.get(keys[0])
    metric = ledger.get(keys[1])
    if metric not in METRICS:
        raise ConfigError(f"{ledger.path}: {keys[1]} is {metric!r}; TSM-Trainer knows {', '.join(METRICS)}.")
    ledger.carried(keys[1], "evaluators.*.metric")
    first["metric"] = METRICS[metric]
    weights = ledger.get(keys[2])
    if metric != "composite":
        ledger.dropped(keys[2], "composite does not rank")
    elif weights is not None:
        numbers = isinstance(weights, dict) and weights.keys() <= {"wql", "mase"}
        if not numbers or not all(isinstance(x, (int, float)) and x >= 0 for x in weights.values()):
            raise ConfigError(f"{ledger.path}: {keys[2]}: numbers for wql and mase are expected.")
        ledger.carried(keys[2], "evaluators.*.weights")
        first["weights"] = {"wql": weights.get("wql", 0.7), "mase": weights.get("mase", 0.3)}


def _output(ledger: Ledger, path: Path) -> dict[str, Any]:
    """Return output_dir and seed."""
    ledger.carried("seed", "seed")
    output = ledger.get("output_dir")
    if output is None:
        output = f"runs/{path.stem}"
        ledger.filled("output_dir", f"{output}; upstream makes a name from the time")
    else:
        ledger.carried("output_dir", "output_dir")
    return {"output_dir": output, "seed": ledger.get("seed")}
