"""What a user may have meant by a name that is not known here, for the end of an error's text."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

_ACCUMULATION = (
    "training.batch_size divided by training.micro_batch_size and processes, or the flag --gradient-accumulation-steps"
)
# Names of settings in Hugging Face's TrainingArguments and peft, in TSM-Trainer, Kronos and trainers on bars -> ours
NAMES_ELSEWHERE = {
    "gradient_checkpointing": "training.activation_checkpointing",
    "save_steps": "training.checkpoint_every",
    "save_strategy": "training.checkpoint_every (in steps) or training.checkpoint_minutes",
    "save_total_limit": "training.keep_last (and training.keep_best)",
    "benchmark_top_k_checkpoints": "training.keep_best",
    "metric_for_best_model": "training.best_metric",
    "greater_is_better": "training.best_mode",
    "load_best_model_at_end": "what release/ is anyway: the best weights of training.best_metric",
    "early_stopping_patience": "training.patience",
    "eval_steps": "training.validate_every",
    "eval_strategy": "training.validate_every (in steps)",
    "evaluation_strategy": "training.validate_every (in steps)",
    "benchmark_eval_steps": "training.validate_every",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "logging_steps": "training.log_every",
    "log_steps": "training.log_every",
    "log_interval": "training.log_every",
    "report_to": "training.tensorboard (true or false)",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.micro_batch_size (training.batch_size counts windows over all processes), "
    "or the flag --per-device-train-batch-size",
    "train_batch_size": "training.batch_size (windows of a step, over all processes)",
    "global_batch": "training.batch_size (windows of a step, over all processes)",
    "gradient_accumulation_steps": _ACCUMULATION,
    "grad_accum_steps": _ACCUMULATION,
    "grad_accum": _ACCUMULATION,
    "accumulation_steps": _ACCUMULATION,
    "max_grad_norm": "training.clip_norm",
    "grad_clip_norm": "training.clip_norm",
    "clip_grad": "training.clip_norm",
    "gradient_clip_val": "training.clip_norm",
    "bf16": "training.dtype: bfloat16 (or auto)",
    "fp16": "training.dtype: float16",
    "precision": "training.dtype",
    "torch_dtype": "training.dtype",
    "torch_compile": "training.compile",
    "torch_compile_mode": "training.compile_mode",
    "ema": "training.ema_decay",
    "length_bucketing": "training.token_budget.length_buckets",
    "horizon_bucketing": "training.token_budget.horizon_buckets",
    "bucket_warmup_steps": "training.token_budget.warmup",
    "resume_from_checkpoint": "the flag --resume, or --resume-from-checkpoint FOLDER",
    "resume": "the flag --resume, or --resume-from-checkpoint FOLDER",
    "optim": "optimizer.name",
    "lr": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule.kind",
    "lr_scheduler": "optimizer.schedule.kind",
    "scheduler": "optimizer.schedule.kind",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "adam_epsilon": "optimizer.eps",
    "lora_r": "adapter.rank",
    "adapter_r": "adapter.rank",
    "adapter_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "adapter_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "adapter_dropout": "adapter.dropout",
    "target_modules": "adapter.targets",
    "adapter_targets": "adapter.targets",
    "pretrained_model_name_or_path": "model.model_id",
    "model_name": "model.model_id",
    "model_name_or_path": "model.model_id",
    "tokenizer_name": "model.tokenizer",
    "training_data_paths": "data.corpora",
    "data_path": "data.corpora (of folders that `foretrain data import` wrote)",
    "probability": "data.corpora.*.weight",
    "lookback_window": "data.context_length",
    "predict_window": "data.prediction_length",
    "horizon": "data.prediction_length",
    "min_past": "data.min_context",
    "validation_days": "data.validation_steps (in steps), or data.validation_from (a date)",
    "test_split_days": "data.test_steps (in steps), or data.test_from (a date)",
    "train_time_range": "data.validation_from (the date that ends training)",
    "val_time_range": "data.validation_from and data.test_from (dates)",
    "test_time_range": "data.test_from (a date)",
    "train_end_date": "data.validation_from (the date that ends training)",
    "val_start_date": "data.validation_from",
    "test_start_date": "data.test_from",
    "cv_gap": "data.embargo (a span of time, such as 5D)",
    "purge": "data.embargo (a span of time, such as 5D)",
    "embargo_days": "data.embargo (such as 5D)",
    "min_symbol_length": "data.min_rows",
    "symbols": "data.items (names, patterns or file:PATH)",
    "tickers": "data.items (names, patterns or file:PATH)",
    "instruments": "data.items (names, patterns or file:PATH)",
    "exclude_symbols": "data.holdout_items (names, patterns or file:PATH)",
    "holdout_symbols": "data.holdout_items (names, patterns or file:PATH)",
    "window_stride": "data.stride",
}


def elsewhere(word: str, keys: Iterable[str] = ()) -> str:
    """Return which of our settings a name stands for in other projects or, of the given dotted keys, in another
    section; "" if none."""
    if word in NAMES_ELSEWHERE:
        return f"Here that is {NAMES_ELSEWHERE[word]}."
    places = [key for key in keys if key.rpartition(".")[2] == word]
    return f"It belongs elsewhere: {' or '.join(places)}." if 0 < len(places) <= 3 else ""


def nearest(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to `most` known names similar to a word, nearest first; cutoff is the least similarity, 0..1."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", *, most: int = 1, cutoff: float = 0.6) -> str:
    """Return "Did you mean 'a' or 'b'?" with the nearest known names; `otherwise` if none is similar."""
    close = nearest(word, known, most=most, cutoff=cutoff)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else otherwise


def missing_text(path: Path) -> str:
    """Return the error of a file or folder that does not exist, with what is called alike in its folder."""
    beside = path.parent if os.path.isdir(path.parent) else None
    names = [] if beside is None else [entry.name for entry in beside.iterdir() if not entry.name.startswith(".")]
    close = [str(path.with_name(name)) for name in nearest(path.name, names, cutoff=0.75)]
    folder = "" if beside is not None else f" Its folder {path.parent} does not exist either."
    return f"{path}: no such file or folder.{folder}" + "".join(f" Did you mean {name!r}?" for name in close)
