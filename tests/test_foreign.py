"""`foretrain config import` as a user meets it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.cli.test_app import foretrain
from tests.foreign.test_kronos import FULL as KRONOS
from tests.foreign.test_tsm_trainer import FULL as TSM_TRAINER

from foretrain.foreign import refuse_foreign
from foretrain.models.kronos.config import PREDICTOR_PRESETS, TOKENIZER_PRESETS
from foretrain.run.config import load_config
from foretrain.run.stages import StagesConfig, load_any


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with both foreign files and the CSV that Kronos' names."""
    rows = "".join(f"2024/1/{1 + k // 288} {k // 12 % 24}:{k % 12 * 5:02d},1,2,0.5,1.5,10,0\n" for k in range(1000))
    (tmp_path / "bars.csv").write_text(f"timestamps,open,high,low,close,volume,amount\n{rows}")
    (tmp_path / "kronos.yaml").write_text(KRONOS)
    (tmp_path / "tsm.yaml").write_text(yaml.safe_dump(TSM_TRAINER))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_written_is_a_config_of_ours(folder: Path):
    foretrain("config", "import", "--from", "tsm-trainer", "tsm.yaml", "--out", "ours.yaml")
    config = load_config(Path("ours.yaml"))
    assert (config.training.max_steps, config.model.family) == (500, "chronos2")


@pytest.mark.parametrize(("source", "name"), [("tsm-trainer", "tsm"), ("kronos", "kronos")])
@pytest.mark.parametrize("verb", [["train"], ["config", "show"]])
def test_a_foreign_file_as_a_config_is_refused_in_one_line_with_the_command_that_translates_it(
    folder: Path, capsys, verb, source, name
):
    foretrain(*verb, f"{name}.yaml", "training.max_steps=5", code=2)
    line = capsys.readouterr().err.strip()
    command = f"foretrain config import --from {source} {name}.yaml --out {name}-foretrain.yaml"
    assert line.startswith("error: ") and line.endswith(f"Translate it first: {command}") and "\n" not in line
    foretrain(*shlex.split(command)[1:])
    foretrain("config", "show", f"{name}-foretrain.yaml")


def test_no_config_of_ours_is_taken_for_a_foreign_one(pytestconfig):
    for path in (pytestconfig.rootpath / "configs").rglob("*.yaml"):
        refuse_foreign(path)


def test_the_report_goes_to_stderr_and_the_config_to_stdout(folder: Path, capsys):
    foretrain("config", "import", "--from", "tsm-trainer", "tsm.yaml")
    printed = capsys.readouterr()
    assert printed.out.startswith("# Translated from tsm.yaml")
    assert yaml.safe_load(printed.out)["training"]["max_steps"] == 500
    assert "not carried over (" in printed.err
    assert yaml.safe_load(printed.out)["training"]["parallel"] == "fsdp"
    assert "fsdp_config: " in printed.err


def test_an_existing_file_is_never_overwritten(folder: Path, capsys):
    Path("ours.yaml").write_text("mine\n")
    foretrain("config", "import", "--from", "tsm-trainer", "tsm.yaml", "--out", "ours.yaml", code=2)
    assert Path("ours.yaml").read_text() == "mine\n"
    assert "ours.yaml: exists already" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("context_length: [1, 2\n", "not valid YAML"),
        ("- a list\n", "a config is a mapping"),
        ("max_steps: 3\nmax_steps: 4\n", "given twice"),
        ("max_steps: many\n", "required by TSM-Trainer"),
        ("colour: red\n", "none of its keys"),
    ],
)
def test_a_malformed_file_is_one_line_and_exit_code_2(folder: Path, capsys, text: str, message: str):
    Path("bad.yaml").write_text(text)
    foretrain("config", "import", "--from", "tsm-trainer", "bad.yaml", "--out", "ours.yaml", code=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("ours.yaml").exists()


def test_a_missing_file_is_named(folder: Path, capsys):
    foretrain("config", "import", "--from", "kronos", "gone.yaml", code=2)
    assert "gone.yaml: no such" in capsys.readouterr().err


def test_values_that_no_run_can_have_are_refused_before_anything_is_written(folder: Path, capsys):
    Path("bad.yaml").write_text(yaml.safe_dump({**TSM_TRAINER, "learning_rate": -1.0}))
    foretrain("config", "import", "--from", "tsm-trainer", "bad.yaml", "--out", "ours.yaml", code=2)
    assert "optimizer.learning_rate" in capsys.readouterr().err
    assert not Path("ours.yaml").exists()


@pytest.mark.processes
def test_an_unknown_project_is_refused_with_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "foretrain.cli", "config", "import", "--from", "other", "f.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "kronos" in done.stderr
    assert "tsm-trainer" in done.stderr


def test_a_kronos_file_becomes_a_pipeline_that_our_loader_reads_as_it_was_written(folder: Path):
    foretrain("config", "import", "--from", "kronos", "kronos.yaml", "--out", "ours.yaml")
    config = load_any(Path("ours.yaml"))
    assert isinstance(config, StagesConfig)
    tokenizer, predictor = config.stages
    assert (tokenizer.model.model_id, predictor.model.tokenizer) == ("weights/tokenizer", "stage:tokenizer")
    assert (tokenizer.training.epochs, predictor.training.epochs) == (7, 5)
    assert (tokenizer.training.clip_norm, predictor.training.clip_norm) == (2.0, 3.0)
    assert tokenizer.training.batch_size == predictor.training.batch_size == 48
    assert tokenizer.optimizer.betas == predictor.optimizer.betas == (0.8, 0.9)
    assert predictor.optimizer.schedule.kind == "one_cycle"


@pytest.mark.parametrize(
    "experiment",
    [
        {"train_tokenizer": False},
        {"train_basemodel": False},
        {"pre_trained": False},
        {"skip_existing": True},
    ],
)
def test_every_switch_of_kronos_gives_a_config_that_loads(folder: Path, experiment):
    tree = yaml.safe_load(KRONOS)
    tree["experiment"] = experiment
    Path("kronos.yaml").write_text(yaml.safe_dump(tree))
    foretrain("config", "import", "--from", "kronos", "kronos.yaml", "--out", "ours.yaml")
    assert isinstance(load_any(Path("ours.yaml")), StagesConfig)


def test_a_kronos_file_that_trains_nothing_is_refused(folder: Path, capsys):
    tree = yaml.safe_load(KRONOS)
    tree["experiment"] = {"train_tokenizer": False, "train_basemodel": False}
    Path("kronos.yaml").write_text(yaml.safe_dump(tree))
    foretrain("config", "import", "--from", "kronos", "kronos.yaml", code=2)
    assert "nothing to run" in capsys.readouterr().err


def test_the_commands_of_the_report_import_the_csv_and_train_from_random_weights(folder: Path, capsys):
    tiny = {"d_model": 16, "n_heads": 2, "ff_dim": 16, "s1_bits": 4, "s2_bits": 4}
    architectures = {
        "tokenizer": {**TOKENIZER_PRESETS["base"], **tiny, "n_enc_layers": 2, "n_dec_layers": 2},
        "predictor": {**PREDICTOR_PRESETS["small"], **tiny, "n_layers": 1},
    }
    for name, architecture in architectures.items():  # of a random start: no weights beside it
        (folder / "weights" / name).mkdir(parents=True)
        (folder / "weights" / name / "config.json").write_text(json.dumps(architecture))
    tree = yaml.safe_load(KRONOS)
    tree["experiment"] = {"pre_trained": False}
    tree["training"] |= {"tokenizer_epochs": 0.02, "basemodel_epochs": 0.02, "accumulation_steps": 1}
    tree["data"] |= {"lookback_window": 20, "predict_window": 4, "max_context": 512, "clip": 5.0}
    Path("kronos.yaml").write_text(yaml.safe_dump(tree))
    foretrain("config", "import", "--from", "kronos", "kronos.yaml", "--out", "ours.yaml")
    report = capsys.readouterr().err
    for command in re.findall(r"^  foretrain (.+)$", report.partition("\nnext\n")[2], flags=re.M):
        foretrain(*shlex.split(command))
    assert (folder / "elsewhere" / "HK_5min" / "release" / "tokenizer" / "config.json").is_file()
