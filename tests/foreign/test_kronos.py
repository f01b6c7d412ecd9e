from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from foretrain.errors import ConfigError
from foretrain.foreign.kronos import KNOWN, translate
from foretrain.foreign.ledger import Translation
from foretrain.notes import Code, codes

FULL = """
data:
  data_path: bars.csv
  lookback_window: 100
  predict_window: 20
  max_context: 256
  clip: 4.0
  train_ratio: 0.7
  val_ratio: 0.2
  test_ratio: 0.1
training:
  tokenizer_epochs: 7
  basemodel_epochs: 5
  epochs: 3
  batch_size: 48
  log_interval: 25
  num_workers: 6
  seed: 11
  tokenizer_learning_rate: 0.0003
  predictor_learning_rate: 0.000001
  adam_beta1: 0.8
  adam_beta2: 0.9
  adam_weight_decay: 0.2
  accumulation_steps: 4
model_paths:
  pretrained_tokenizer: weights/tokenizer
  pretrained_predictor: weights/predictor
  exp_name: HK_5min
  base_path: out
  base_save_path: "elsewhere/{exp_name}"
  finetuned_tokenizer: ""
  tokenizer_save_name: tokenizer
  basemodel_save_name: basemodel
experiment:
  name: an experiment
  description: "first line\\nsecond line"
  use_comet: true
  train_tokenizer: true
  train_basemodel: true
  skip_existing: false
  pre_trained: true
  pre_trained_tokenizer: true
  pre_trained_predictor: true
device:
  use_cuda: true
  device_id: 0
distributed:
  use_ddp: true
  backend: nccl
"""
MODELS = {"pretrained_tokenizer": "weights/tokenizer", "pretrained_predictor": "weights/predictor"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with bars.csv, 1,000 bars in the columns that upstream wants."""
    rows = "".join(f"2024/1/{1 + k // 288} {k // 12 % 24}:{k % 12 * 5:02d},1,2,0.5,1.5,10,0\n" for k in range(1000))
    (tmp_path / "bars.csv").write_text(f"timestamps,open,high,low,close,volume,amount\n{rows}")
    return tmp_path


def translated(folder: Path, raw: dict | str, **sections: dict) -> Translation:
    tree = yaml.safe_load(raw) if isinstance(raw, str) else raw
    for name, values in sections.items():
        tree[name] = {**(tree.get(name) or {}), **values}
    return translate(folder / "config.yaml", tree)


def small(folder: Path, **sections: dict) -> Translation:
    """A file that says only what upstream cannot do without, and `sections`."""
    return translated(folder, {"model_paths": MODELS}, **sections)


def stage(found: Translation, name: str) -> dict:
    return next(entry for entry in found.tree["stages"] if entry["name"] == name)


def verdicts(found: Translation) -> dict[str, str]:
    return {entry.key: entry.verdict for entry in found.ledger.entries}


def text_of(found: Translation, key: str) -> str:
    return next(entry.text for entry in found.ledger.entries if entry.key == key)


def test_a_full_file_becomes_a_run_of_two_stages(folder: Path):
    found = translated(folder, FULL)
    shared = {"clip": 4.0}
    assert found.tree == {
        "data": {
            "corpora": [{"path": "corpora/HK_5min"}],
            "context_length": 100,
            "prediction_length": 21,
            "min_context": 100,
            "sampling": "epoch",
            "stride": 1,
            "validation_steps": 200,
            "test_steps": 100,
        },
        "training": {"batch_size": 48, "log_every": 25, "validate_every": (700 - 121 + 1) // 48},
        "optimizer": {
            "weight_decay": 0.2,
            "betas": [0.8, 0.9],
            "decay_all": True,
            "schedule": {"kind": "one_cycle", "pct_start": 0.03, "div_factor": 10.0},
        },
        "evaluation": {"num_windows": 180, "stride": 1, "forecasts": False},
        "stages": [
            {
                "name": "tokenizer",
                "model": {"family": "kronos_tokenizer", "model_id": "weights/tokenizer", **shared},
                "training": {
                    "epochs": 7,
                    "micro_batch_size": 12,
                    "clip_norm": 2.0,
                    "best_metric": "val_reconstruction_mse",
                },
                "optimizer": {"learning_rate": 3e-4},
            },
            {
                "name": "predictor",
                "model": {
                    "family": "kronos",
                    "model_id": "weights/predictor",
                    "tokenizer": "stage:tokenizer",
                    **shared,
                    "max_context": 256,
                },
                "training": {"epochs": 5, "clip_norm": 3.0},
                "optimizer": {"learning_rate": 1e-6},
            },
        ],
        "output_dir": "elsewhere/HK_5min",
        "seed": 11,
        "device": "auto",
    }


def test_every_key_of_a_full_file_is_reported_once(folder: Path):
    found = translated(folder, FULL)
    given = [f"{section}.{key}" for section, values in yaml.safe_load(FULL).items() for key in values]
    assert set(given) == set(KNOWN), "the file above has every key"
    reported = [entry.key for entry in found.ledger.entries if entry.verdict != "filled"]
    assert sorted(reported) == sorted(given)


@pytest.mark.parametrize("key", sorted(set(KNOWN) - {"data.data_path"}))
def test_a_key_left_out_is_upstream_s_default_and_breaks_nothing(folder: Path, key: str):
    tree = yaml.safe_load(FULL)
    section, name = key.split(".")
    del tree[section][name]
    if name in MODELS:
        with pytest.raises(ConfigError, match=f"{key}: not given"):
            translated(folder, tree)
        return
    found = translated(folder, tree)
    found.ledger.report("a title", [])  # fails where a key is not settled
    assert key not in [entry.key for entry in found.ledger.entries if entry.verdict != "filled"]


def test_a_file_that_says_nothing_gets_upstream_s_recipe(folder: Path):
    found = small(folder)
    assert found.tree["training"]["batch_size"] == 160
    assert found.tree["optimizer"]["betas"] == [0.9, 0.95]
    assert (found.tree["seed"], found.tree["output_dir"]) == (100, "runs/default_experiment")
    assert stage(found, "tokenizer")["training"]["epochs"] == stage(found, "predictor")["training"]["epochs"] == 30
    assert stage(found, "predictor")["optimizer"]["learning_rate"] == 4e-5
    assert "160, upstream's training.batch_size" in text_of(found, "training.batch_size")


def test_a_stage_that_is_not_trained_is_skipped_and_its_finished_tokenizer_used(folder: Path):
    found = small(
        folder, experiment={"train_tokenizer": False}, model_paths={**MODELS, "finetuned_tokenizer": "mine/{exp_name}"}
    )
    assert stage(found, "tokenizer")["skip"] is True
    assert "skip" not in stage(found, "predictor")
    assert stage(found, "predictor")["model"]["tokenizer"] == "mine/default_experiment"


def test_without_a_finished_tokenizer_the_place_where_upstream_leaves_it_is_used(folder: Path):
    found = small(folder, experiment={"train_tokenizer": False}, model_paths={**MODELS, "base_path": "out/"})
    assert stage(found, "predictor")["model"]["tokenizer"] == "out/default_experiment/tokenizer/best_model"


def test_a_finished_tokenizer_beside_a_stage_that_trains_one_is_not_carried_over(folder: Path):
    found = small(folder, model_paths={**MODELS, "finetuned_tokenizer": "mine"})
    assert stage(found, "predictor")["model"]["tokenizer"] == "stage:tokenizer"
    assert verdicts(found)["model_paths.finetuned_tokenizer"] == "dropped"


def test_a_skipped_stage_needs_no_weights_to_start_from(folder: Path):
    paths = {"pretrained_tokenizer": "weights/tokenizer"}
    found = translated(folder, {"model_paths": paths, "experiment": {"train_basemodel": False}})
    assert stage(found, "predictor")["skip"] is True
    assert stage(found, "predictor")["model"]["model_id"] == "NeoQuasar/Kronos-base"


def test_skip_existing_holds_for_both_stages(folder: Path):
    found = small(folder, experiment={"skip_existing": True})
    assert [entry["skip_existing"] for entry in found.tree["stages"]] == [True, True]
    assert verdicts(found)["experiment.skip_existing"] == "carried"


@pytest.mark.parametrize(
    ("experiment", "random"),
    [
        ({"pre_trained": False}, (True, True)),
        ({"pre_trained_tokenizer": False}, (True, False)),
        ({"pre_trained_predictor": False}, (False, True)),
        ({"pre_trained": False, "pre_trained_predictor": True}, (True, False)),
        ({"pre_trained": True, "pre_trained_tokenizer": False}, (True, False)),
    ],
)
def test_a_model_that_is_not_pretrained_takes_the_architecture_alone(folder: Path, experiment, random):
    found = small(folder, experiment=experiment)
    for name, expected in zip(("tokenizer", "predictor"), random, strict=True):
        model = stage(found, name)["model"]
        origin = f"weights/{name}"
        start = {"random_init": True, "architecture_of": origin} if expected else {"model_id": origin}
        assert {
            key: value for key, value in model.items() if key in {"random_init", "architecture_of", "model_id"}
        } == (start)
    found.ledger.report("a title", [])


@pytest.mark.parametrize(
    ("training", "epochs"),
    [
        ({"epochs": 4}, (4, 4)),
        ({"epochs": 4, "tokenizer_epochs": 9}, (9, 4)),
        ({"epochs": 4, "basemodel_epochs": 9}, (4, 9)),
        ({"epochs": 4, "tokenizer_epochs": 8, "basemodel_epochs": 9}, (8, 9)),
    ],
)
def test_the_older_epochs_key_fills_what_the_newer_ones_leave_open(folder: Path, training, epochs):
    found = small(folder, training=training)
    assert tuple(entry["training"]["epochs"] for entry in found.tree["stages"]) == epochs
    found.ledger.report("a title", [])


def test_an_accumulated_batch_has_micro_batches_in_the_tokenizer_stage_alone(folder: Path):
    found = small(folder, training={"batch_size": 50, "accumulation_steps": 3})
    assert stage(found, "tokenizer")["training"]["micro_batch_size"] == 16
    assert "micro_batch_size" not in stage(found, "predictor")["training"]


@pytest.mark.parametrize(
    ("device", "expected"), [({"use_cuda": False}, "cpu"), ({"device_id": 2}, "cuda:2"), ({"device_id": 0}, "auto")]
)
def test_the_device_is_carried_over(folder: Path, device, expected):
    assert small(folder, device=device).tree["device"] == expected


def test_a_max_context_shorter_than_a_window_is_not_carried_over(folder: Path):
    found = small(folder, data={"max_context": 300})
    assert "max_context" not in stage(found, "predictor")["model"]
    assert verdicts(found)["data.max_context"] == "dropped"


def test_ratios_become_rows_of_the_csv(folder: Path):
    found = small(folder, data={"data_path": "bars.csv", "lookback_window": 20, "predict_window": 5})
    assert (found.tree["data"]["validation_steps"], found.tree["data"]["test_steps"]) == (100, 0)
    assert Code.TEST_PART_TOO_SMALL in codes(found.ledger.notes)
    assert f"{folder / 'bars.csv'} --out corpora/default_experiment" in found.commands[0]


def test_parts_too_small_for_a_window_are_reported(folder: Path):
    notes = small(folder, data={"data_path": "bars.csv", "train_ratio": 0.4, "val_ratio": 0.01}).ledger.notes
    counts = {note.code: note.counts for note in notes}
    assert counts[Code.TRAIN_PART_TOO_SMALL] == {"rows": 400, "needed": 561}
    assert counts[Code.VALIDATION_PART_TOO_SMALL] == {"rows": 10, "needed": 49}


@pytest.mark.parametrize("path", [None, "gone.csv", "empty.csv"])
def test_without_a_readable_csv_the_ratios_are_left_behind_and_reported(folder: Path, path: str | None):
    (folder / "empty.csv").write_text("")
    found = small(folder, data={"data_path": path, "train_ratio": 0.8})
    assert not {"validation_steps", "test_steps"} & found.tree["data"].keys()
    assert verdicts(found)["data.train_ratio"] == "dropped"
    assert Code.RATIOS_LEFT_BEHIND in codes(found.ledger.notes)


def test_a_csv_that_is_there_and_cannot_be_read_is_an_error(folder: Path, monkeypatch):
    def fails(path: Path, *args, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(ConfigError, match=r"bars\.csv: cannot be read \(Input/output error\), and data's ratios count"):
        small(folder, data={"data_path": "bars.csv"})


def test_ratios_beyond_one_whole_leave_validation_the_rest(folder: Path):
    found = small(folder, data={"data_path": "bars.csv", "train_ratio": 0.9, "val_ratio": 0.2})
    assert (found.tree["data"]["validation_steps"], found.tree["data"]["test_steps"]) == (100, 0)
    assert Code.RATIOS_EXCEED_ONE in codes(found.ledger.notes)


@pytest.mark.parametrize("ratios", [{"train_ratio": 90}, {"val_ratio": -0.1}, {"train_ratio": 0}])
def test_ratios_outside_0_to_1_are_refused(folder: Path, ratios):
    with pytest.raises(ConfigError, match="must be shares between 0 and 1"):
        small(folder, data={"data_path": "bars.csv", **ratios})


def test_name_and_description_become_comments(folder: Path):
    assert translated(folder, FULL).comments == ["an experiment", "first line", "second line"]


def test_unknown_keys_and_sections_are_reported_with_a_hint(folder: Path):
    found = small(folder, training={"epoch": 3}, data={"batch_size": 4}, extras={"colour": "red"})
    assert text_of(found, "training.epoch") == "did you mean 'training.epochs'?"
    assert text_of(found, "data.batch_size") == "did you mean 'training.batch_size'?"
    assert verdicts(found)["extras.colour"] == "unknown"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"data": [1, 2]}, "data: a section of keys is expected here, found list"),
        (
            {"training": {"batch_size": "many"}, "model_paths": MODELS},
            "training.batch_size: 'many' is not a whole number",
        ),
        ({"d_model": 768, "max_steps": 3}, "none of its keys is one of Kronos"),
        ({"data": {"lookback_window": 90}}, "model_paths.pretrained_tokenizer: not given"),
    ],
)
def test_a_file_that_is_no_such_config_is_refused_in_one_line(folder: Path, raw, message):
    with pytest.raises(ConfigError) as caught:
        translated(folder, raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
