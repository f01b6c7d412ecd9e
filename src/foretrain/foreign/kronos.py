"""Translates Kronos' finetune_csv YAML (one CSV, tokenizer then predictor) into a run of two stages.

Upstream's defaults and what its training code fixes (one-cycle schedule, clip norms, decay of every parameter, windows
one row apart) are written out, so that the run follows upstream's recipe.
"""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from foretrain.errors import ConfigError
from foretrain.foreign.ledger import Key, Ledger, Translation
from foretrain.notes import Code

KNOWN = {
    "data.data_path": Key("text"),
    "data.lookback_window": Key("whole", 512),
    "data.predict_window": Key("whole", 48),
    "data.max_context": Key("whole", 512),
    "data.clip": Key("number", 5.0),
    "data.train_ratio": Key("number", 0.9),
    "data.val_ratio": Key("number", 0.1),
    "data.test_ratio": Key("number", 0.0),
    "training.tokenizer_epochs": Key("number", 30),
    "training.basemodel_epochs": Key("number", 30),
    "training.epochs": Key("number", 30),
    "training.batch_size": Key("whole", 160),
    "training.log_interval": Key("whole", 50),
    "training.num_workers": Key("whole", 6),
    "training.seed": Key("whole", 100),
    "training.tokenizer_learning_rate": Key("number", 2e-4),
    "training.predictor_learning_rate": Key("number", 4e-5),
    "training.adam_beta1": Key("number", 0.9),
    "training.adam_beta2": Key("number", 0.95),
    "training.adam_weight_decay": Key("number", 0.1),
    "training.accumulation_steps": Key("whole", 1),
    "model_paths.exp_name": Key("text", "default_experiment"),
    "model_paths.pretrained_tokenizer": Key("text"),
    "model_paths.pretrained_predictor": Key("text"),
    "model_paths.base_path": Key("text", ""),
    "model_paths.base_save_path": Key("text", ""),
    "model_paths.finetuned_tokenizer": Key("text", ""),
    "model_paths.tokenizer_save_name": Key("text", "tokenizer"),
    "model_paths.basemodel_save_name": Key("text", "basemodel"),
    "experiment.name": Key("text", ""),
    "experiment.description": Key("text", ""),
    "experiment.use_comet": Key("flag", False),
    "experiment.train_tokenizer": Key("flag", True),
    "experiment.train_basemodel": Key("flag", True),
    "experiment.skip_existing": Key("flag", False),
    "experiment.pre_trained": Key("flag", True),
    "experiment.pre_trained_tokenizer": Key("flag", True),
    "experiment.pre_trained_predictor": Key("flag", True),
    "device.use_cuda": Key("flag", True),
    "device.device_id": Key("whole", 0),
    "distributed.use_ddp": Key("flag", False),
    "distributed.backend": Key("text", "nccl"),
}
SECTIONS = {key.partition(".")[0] for key in KNOWN}
COLUMNS = "open,high,low,close,volume,amount"  # upstream requires all six
DEFAULT_VALIDATE_EVERY = 500  # steps between validations if the length of an epoch is unknown


class _Parts(NamedTuple):
    """Numbers of rows of the three parts of the CSV, oldest first."""

    train: int
    validation: int
    test: int


def recognises(raw: Mapping[Any, Any]) -> bool:
    """Return True if a file looks like a finetune_csv config: a section that only Kronos has, and known keys in it."""
    own = {key: raw.get(key) for key in ("model_paths", "experiment")}
    found = [f"{section}.{key}" for section, values in own.items() if isinstance(values, dict) for key in values]
    return "model" not in raw and "stages" not in raw and any(key in KNOWN for key in found)


def translate(path: Path, raw: Mapping[Any, Any]) -> Translation:
    """Translate a finetune_csv config. Raises ConfigError for a section that is not a mapping and for wrong values."""
    ledger = Ledger(path, _flatten(path, raw), KNOWN)
    output = _output(ledger)
    name = ledger.get("model_paths.exp_name") or "kronos"
    data, csv_path, parts = _data(ledger, path, f"corpora/{name}")
    training = _training(ledger, parts, data["context_length"], data["prediction_length"])
    clip = _clip(ledger)
    _pre_trained(ledger)
    tree: dict[str, Any] = {
        "data": data,
        "training": training,
        "optimizer": _optimizer(ledger),
        "evaluation": _evaluation(ledger, parts, data["prediction_length"]),
        "stages": [_tokenizer_stage(ledger, clip), _predictor_stage(ledger, clip, output["output_dir"])],
        **output,
    }
    command = f"foretrain data import {shlex.quote(csv_path or 'YOUR.csv')} --out {shlex.quote(f'corpora/{name}')}"
    return Translation(tree, ledger, [f"{command} --timestamp-column timestamps --target {COLUMNS}"], _comments(ledger))


def _flatten(path: Path, raw: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values by section.key. Raises ConfigError if the file is not a finetune_csv config."""
    flat: dict[str, Any] = {}
    for section, values in raw.items():
        if section in SECTIONS and not isinstance(values, (dict, type(None))):
            raise ConfigError(
                f"{path}: {section}: a section of keys is expected here, found {type(values).__name__}. Is this a "
                "finetune_csv config of Kronos?"
            )
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        elif section not in SECTIONS:
            flat[str(section)] = values
    if not any(key in KNOWN for key in flat):
        raise ConfigError(
            f"{path}: none of its keys is one of Kronos' finetune_csv (sections {', '.join(sorted(SECTIONS))}). Is it "
            "another project's file? See --from."
        )
    return flat


def _output(ledger: Ledger) -> dict[str, Any]:
    """Return output_dir, seed and device."""
    base, name = ledger.get("model_paths.base_path").rstrip("/"), ledger.get("model_paths.exp_name")
    save = ledger.get("model_paths.base_save_path").replace("{exp_name}", name)
    if save:
        ledger.carried("model_paths.base_save_path", "output_dir")
        if ledger.given("model_paths.base_path"):
            ledger.dropped("model_paths.base_path", "base_save_path decides where results go")
    else:
        ledger.equal("model_paths.base_save_path", "empty means base_path/exp_name, which is output_dir")
        if base:
            ledger.carried("model_paths.base_path", "output_dir", "base_path/exp_name")
        else:
            ledger.equal("model_paths.base_path", "empty, so results go to runs/exp_name")
            ledger.filled("output_dir", f"runs/{name}, as neither base_save_path nor base_path says where results go")
    ledger.carried("model_paths.exp_name", f"data.corpora.0.path{'' if save else ' and output_dir'}")
    for key, stage in (("tokenizer_save_name", "01-tokenizer"), ("basemodel_save_name", "02-predictor")):
        ledger.dropped(f"model_paths.{key}", f"the best weights of that stage are in output_dir/stages/{stage}/release")
    ledger.carried("training.seed", "seed")
    cuda, number = ledger.get("device.use_cuda"), ledger.get("device.device_id")
    device = "cpu" if not cuda else "auto" if number == 0 else f"cuda:{number}"
    ledger.carried("device.use_cuda", "device", device)
    if cuda:
        ledger.carried("device.device_id", "device", device)
    else:
        ledger.dropped("device.device_id", "use_cuda is false")
    if ledger.get("distributed.use_ddp"):
        ledger.dropped("distributed.use_ddp", "upstream ignores it too; start with torchrun to use several processes")
    else:
        ledger.equal("distributed.use_ddp", "torchrun decides, as upstream")
    ledger.equal("distributed.backend", "upstream ignores it; nccl on GPUs and gloo on CPUs are chosen here")
    output = save or f"{base or 'runs'}/{name}"
    return {"output_dir": output, "seed": ledger.get("training.seed"), "device": device}


def _data(ledger: Ledger, path: Path, corpus: str) -> tuple[dict[str, Any], str | None, _Parts | None]:
    """Return the data section, the path of the CSV as given or found, and its parts; None if it cannot be read."""
    lookback, predict = ledger.get("data.lookback_window"), ledger.get("data.predict_window")
    ledger.carried("data.lookback_window", "data.context_length and data.min_context")
    ledger.carried("data.predict_window", "data.prediction_length", "one more: upstream's window is lookback+predict+1")
    ledger.filled("data.sampling and data.stride", "epoch and 1: upstream visits every window once an epoch")
    data: dict[str, Any] = {
        "corpora": [{"path": corpus}],
        "context_length": lookback,
        "prediction_length": predict + 1,
        "min_context": lookback,
        "sampling": "epoch",
        "stride": 1,
    }
    given = ledger.get("data.data_path")
    file = _find(path, given)
    if given is None:
        ledger.filled("data.corpora.0.path", f"{corpus}; the file names no data_path")
    else:
        ledger.carried("data.data_path", "data.corpora.0.path", "import it by the command below")
    parts = _parts(ledger, file)
    if parts is None:
        where = "no data_path is given" if given is None else f"{given} cannot be read from here"
        for key in ("train_ratio", "val_ratio", "test_ratio"):
            ledger.dropped(f"data.{key}", f"{where}, so its rows are unknown; set validation_steps and test_steps")
        text = (
            f"{where}: data.validation_steps and data.test_steps (upstream's ratios times the rows of the CSV) stay at "
            "their default, prediction_length, which makes one validation window. Set them, and evaluation.num_windows."
        )
        ledger.note(Code.RATIOS_LEFT_BEHIND, text)
        return data, given, None
    data |= {"validation_steps": parts.validation, "test_steps": parts.test}
    split = f"{parts.train:,} + {parts.validation:,} + {parts.test:,} rows"
    ledger.carried("data.train_ratio", "data.validation_steps and data.test_steps", f"what they leave: {split}")
    ledger.carried("data.val_ratio", "data.validation_steps", f"{parts.validation:,} rows")
    ledger.carried("data.test_ratio", "data.test_steps", f"{parts.test:,} rows: all that is neither train nor val")
    _note_small_parts(ledger, parts, lookback, predict + 1)
    return data, str(file), parts


def _note_small_parts(ledger: Ledger, parts: _Parts, context: int, horizon: int) -> None:
    """Add notes on parts that are too small for a window or a horizon."""
    if parts.train < context + horizon:
        text = f"the train part ({parts.train:,} rows) holds no window of {context + horizon:,} rows."
        ledger.note(Code.TRAIN_PART_TOO_SMALL, text, rows=parts.train, needed=context + horizon)
    if parts.validation < horizon:
        text = f"the validation part ({parts.validation:,} rows) holds no horizon of {horizon:,} rows."
        ledger.note(Code.VALIDATION_PART_TOO_SMALL, text, rows=parts.validation, needed=horizon)
    if parts.test < horizon:
        ledger.note(
            Code.TEST_PART_TOO_SMALL,
            f"the test part ({parts.test:,} rows) holds no horizon of {horizon:,} rows: `foretrain evaluate` will have "
            "nothing unseen to score. Lower data.validation_steps or reserve data.test_steps.",
            rows=parts.test,
            needed=horizon,
        )


def _find(path: Path, given: str | None) -> Path | None:
    """Return the path of the CSV, relative to the current or to the config's folder; None if there is none."""
    if not given:
        return None
    return next((file for file in (Path(given), path.parent / given) if file.is_file()), None)


def _parts(ledger: Ledger, file: Path | None) -> _Parts | None:
    """Return the parts that the ratios give, rounded as upstream does; None without a file, or for one that is no CSV.

    Raises ConfigError for a file that is there and cannot be read: without it the ratios would be lost.
    """
    if file is None:
        return None
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            rows = sum(1 for row in csv.reader(lines) if any(row)) - 1
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{file}: cannot be read ({why}), and data's ratios count its rows. Read it again.") from None
    except csv.Error:
        return None
    if rows < 1:
        return None
    train, validation = ledger.get("data.train_ratio"), ledger.get("data.val_ratio")
    if not (0 < train <= 1 and 0 <= validation <= 1):
        raise ConfigError(
            f"{ledger.path}: data.train_ratio {train} and data.val_ratio {validation} must be shares between 0 and 1."
        )
    if train + validation > 1 + 1e-9:
        text = "train_ratio and val_ratio exceed one whole; validation gets what training leaves, as upstream."
        ledger.note(Code.RATIOS_EXCEED_ONE, text)
    end = math.floor(rows * train + 1e-9)
    middle = min(math.floor(rows * (train + validation) + 1e-9), rows)
    return _Parts(end, middle - end, rows - middle)


def _training(ledger: Ledger, parts: _Parts | None, context: int, horizon: int) -> dict[str, Any]:
    """Return the training section that both stages share."""
    batch = ledger.get("training.batch_size")
    ledger.carried(
        "training.batch_size", "training.batch_size", "upstream's is per GPU, ours is of all: multiply by processes"
    )
    ledger.carried("training.log_interval", "training.log_every")
    ledger.dropped("training.num_workers", "windows are cut from a memory map, without worker processes")
    every = DEFAULT_VALIDATE_EVERY
    if parts is not None:
        every = max((parts.train - context - horizon + 1) // max(batch, 1), 1)
        ledger.filled("training.validate_every", f"{every:,}, the steps of about one epoch, as upstream")
    else:
        ledger.filled("training.validate_every", f"{every:,} steps; upstream's one epoch is unknown without the CSV")
    return {"batch_size": batch, "log_every": ledger.get("training.log_interval"), "validate_every": every}


def _optimizer(ledger: Ledger) -> dict[str, Any]:
    """Return the optimizer section that both stages share: upstream's recipe."""
    aim = "optimizer.betas of both stages"
    ledger.carried("training.adam_beta1", aim, "in effect here; upstream cycles it, as schedule.cycle_momentum would")
    ledger.carried("training.adam_beta2", aim, "upstream's tokenizer stage ignores it and takes .999")
    ledger.carried("training.adam_weight_decay", "optimizer.weight_decay", "of every parameter, as upstream: decay_all")
    ledger.filled("optimizer.schedule", "one_cycle, pct_start 0.03, div_factor 10, as upstream's code has it")
    return {
        "weight_decay": ledger.get("training.adam_weight_decay"),
        "betas": [ledger.get("training.adam_beta1"), ledger.get("training.adam_beta2")],
        "decay_all": True,
        "schedule": {"kind": "one_cycle", "pct_start": 0.03, "div_factor": 10.0},
    }


def _evaluation(ledger: Ledger, parts: _Parts | None, horizon: int) -> dict[str, Any]:
    """Return the evaluation section: losses of every window of the validation part, as upstream."""
    ledger.filled("evaluation.forecasts", "false: upstream validates by losses alone")
    if parts is None:
        return {"forecasts": False}
    windows = max(parts.validation - horizon + 1, 1)
    ledger.filled("evaluation.num_windows and evaluation.stride", f"{windows:,} and 1: every window, as upstream")
    return {"num_windows": windows, "stride": 1, "forecasts": False}


def _tokenizer_stage(ledger: Ledger, clip: dict[str, float]) -> dict[str, Any]:
    """Return the tokenizer stage."""
    batch, accumulation = ledger.get("training.batch_size"), ledger.get("training.accumulation_steps")
    training: dict[str, Any] = {"epochs": _epochs(ledger, "tokenizer_epochs")}
    if accumulation == 1:
        ledger.equal("training.accumulation_steps", "the batch is one micro-batch")
    else:
        training["micro_batch_size"] = max(1, batch // max(accumulation, 1))
        ledger.carried(
            "training.accumulation_steps",
            "training.micro_batch_size of the tokenizer stage",
            "upstream splits the given batch into micro-batches: "
            f"{batch} / {accumulation} = {training['micro_batch_size']}",
        )
    rate = "training.tokenizer_learning_rate"
    ledger.carried(rate, "optimizer.learning_rate of the tokenizer stage")
    ledger.filled("training.clip_norm", "2.0 in the tokenizer stage and 3.0 in the predictor stage, as upstream's code")
    ledger.filled("training.best_metric", "val_reconstruction_mse in the tokenizer stage, as upstream")
    return {
        "name": "tokenizer",
        **_skips(ledger, "train_tokenizer", "tokenizer"),
        "model": {
            "family": "kronos_tokenizer",
            **_start(
                ledger, "pretrained_tokenizer", "pre_trained_tokenizer", "train_tokenizer", "Kronos-Tokenizer-base"
            ),
            **clip,
        },
        "training": {**training, "clip_norm": 2.0, "best_metric": "val_reconstruction_mse"},
        "optimizer": {"learning_rate": ledger.get(rate)},
    }


def _predictor_stage(ledger: Ledger, clip: dict[str, float], output: str) -> dict[str, Any]:
    """Return the predictor stage; output is output_dir."""
    rate = "training.predictor_learning_rate"
    ledger.carried(rate, "optimizer.learning_rate of the predictor stage")
    return {
        "name": "predictor",
        **_skips(ledger, "train_basemodel", "predictor"),
        "model": {
            "family": "kronos",
            **_start(ledger, "pretrained_predictor", "pre_trained_predictor", "train_basemodel", "Kronos-base"),
            "tokenizer": _tokenizer(ledger, output),
            **clip,
            **_max_context(ledger),
        },
        "training": {"epochs": _epochs(ledger, "basemodel_epochs"), "clip_norm": 3.0},
        "optimizer": {"learning_rate": ledger.get(rate)},
    }


def _epochs(ledger: Ledger, key: str) -> float:
    """Return the epochs of a stage: its own key, else the older key `epochs` of both."""
    stage = "tokenizer" if key == "tokenizer_epochs" else "predictor"
    own, old = f"training.{key}", "training.epochs"
    aim = f"training.epochs of the {stage} stage"
    if ledger.given(own) or not ledger.given(old):
        ledger.carried(own, aim)
        if ledger.given(old) and stage == "predictor" and ledger.given("training.tokenizer_epochs"):
            ledger.dropped(old, "tokenizer_epochs and basemodel_epochs decide")
        return ledger.get(own)
    if stage == "predictor" or ledger.given("training.basemodel_epochs"):
        both = not ledger.given("training.tokenizer_epochs") and not ledger.given("training.basemodel_epochs")
        ledger.carried(old, "training.epochs of both stages" if both else aim)
    return ledger.get(old)


def _skips(ledger: Ledger, key: str, stage: str) -> dict[str, bool]:
    """Return skip and skip_existing of a stage."""
    found: dict[str, bool] = {}
    if ledger.get(f"experiment.{key}"):
        ledger.equal(f"experiment.{key}", "a stage runs unless it says skip")
    else:
        ledger.carried(f"experiment.{key}", f"skip: true of the {stage} stage")
        found["skip"] = True
    if ledger.get("experiment.skip_existing"):
        if stage == "tokenizer":
            ledger.carried("experiment.skip_existing", "skip_existing: true of both stages")
        found["skip_existing"] = True
    elif stage == "tokenizer":
        ledger.equal("experiment.skip_existing", "a stage whose output exists is not skipped")
    return found


def _start(ledger: Ledger, path_key: str, flag: str, train: str, published: str) -> dict[str, Any]:
    """Return model_id of the starting weights or, for random weights, architecture_of. Raises ConfigError."""
    key, flag = f"model_paths.{path_key}", f"experiment.{flag}"
    chosen = flag if ledger.given(flag) or not ledger.given("experiment.pre_trained") else "experiment.pre_trained"
    origin = ledger.get(key)
    if not origin:
        if ledger.get(f"experiment.{train}"):
            raise ConfigError(
                f"{ledger.path}: {key}: not given, but required by upstream. Name a folder or a hub id such as "
                f"NeoQuasar/{published}."
            )
        origin = f"NeoQuasar/{published}"
        ledger.filled("model.model_id", f"{origin}, for {key}, which is not given and whose stage is skipped")
    pretrained = ledger.get(chosen)
    ledger.carried(key, "model.model_id" if pretrained else "model.architecture_of")
    if ledger.given(flag):
        if pretrained:
            ledger.equal(flag, "model_id loads weights")
        else:
            ledger.carried(flag, "model.random_init: true and model.architecture_of")
    return {"model_id": origin} if pretrained else {"random_init": True, "architecture_of": origin}


def _tokenizer(ledger: Ledger, output: str) -> str:
    """Return the predictor's tokenizer: that of the first stage, or a finished one if that stage is skipped."""
    key = "model_paths.finetuned_tokenizer"
    name, base = ledger.get("model_paths.exp_name"), ledger.get("model_paths.base_path").rstrip("/")
    made = f"{base}/{name}/tokenizer/best_model" if base else f"{output}/tokenizer/best_model"
    given = ledger.get(key).replace("{exp_name}", name)
    if ledger.get("experiment.train_tokenizer"):
        if given in ("", made):
            ledger.equal(key, "the predictor uses the tokenizer that the first stage trains")
        else:
            ledger.dropped(
                key,
                'the predictor uses the tokenizer that the first stage trains, "stage:tokenizer"; write this path '
                "instead to use it",
            )
        return "stage:tokenizer"
    if given:
        ledger.carried(key, "model.tokenizer of the predictor stage")
    else:
        ledger.equal(key, "empty means base_path/exp_name/tokenizer/best_model, written to model.tokenizer")
        ledger.filled("model.tokenizer of the predictor stage", f"{made}, where upstream leaves its tokenizer")
    return given or made


def _clip(ledger: Ledger) -> dict[str, float]:
    """Return the models' clip if it is not our default."""
    clip = ledger.get("data.clip")
    if clip == 5:
        ledger.equal("data.clip", "model.clip")
        return {}
    ledger.carried("data.clip", "model.clip of both stages")
    return {"clip": clip}


def _pre_trained(ledger: Ledger) -> None:
    """Settle the key that applies to the models without a key of their own."""
    key, models = "experiment.pre_trained", ("tokenizer", "predictor")
    affected = [model for model in models if not ledger.given(f"experiment.pre_trained_{model}")]
    if not affected:
        ledger.dropped(key, "pre_trained_tokenizer and pre_trained_predictor decide")
    elif ledger.get(key):
        ledger.equal(key, "model_id loads weights")
    else:
        ledger.carried(key, f"model.random_init: true and model.architecture_of ({' and '.join(affected)})")


def _max_context(ledger: Ledger) -> dict[str, int]:
    """Return max_context, which has no effect on upstream's training, if a window fits into it."""
    key, rows = "data.max_context", ledger.get("data.lookback_window") + ledger.get("data.predict_window")
    given = ledger.get(key)
    if given == 512:
        ledger.equal(key, "the published models', which a longer window extends")
        return {}
    if given < rows:
        ledger.dropped(key, f"upstream ignores it in training too, and a window has {rows} inputs")
        return {}
    ledger.carried(key, "model.max_context of the predictor stage")
    return {"max_context": given}


def _comments(ledger: Ledger) -> list[str]:
    """Return the experiment's name and description, for comments at the head of the file."""
    found: list[str] = []
    for key in ("experiment.name", "experiment.description"):
        text = ledger.get(key).strip()
        if text:
            ledger.carried(key, "the head of the file, as a comment")
            found += text.splitlines()
        else:
            ledger.equal(key, "empty")
    if ledger.get("experiment.use_comet"):
        ledger.dropped("experiment.use_comet", "without effect upstream; see metrics.jsonl and TensorBoard")
    else:
        ledger.equal("experiment.use_comet", "metrics go to metrics.jsonl and TensorBoard")
    return found
