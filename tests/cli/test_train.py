"""`foretrain train` at the command line: what it prints, what it refuses and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.test_app import foretrain
from tests.run.test_train import TINY

from foretrain.cli.train import BatchFlags, train_command
from foretrain.config import apply_overrides, dump_yaml, read_yaml
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.run.config import load_config, shipped_config
from foretrain.run.waiting import announced

SHORT = [*TINY, "training.max_steps=2", "training.validate_every=2", "threads=1"]


def written(path: Path, *overrides: Any, data: bool = True) -> Path:
    """A config file of a tiny run, which takes a second; data=False names a corpus that is not there."""
    more = [] if data else ["data.corpora=[{path: corpora/absent}]"]
    tree = load_config(shipped_config("debug.yaml"), [*SHORT, *more, ("output_dir", str(path.parent / "run"))])
    path.write_text(
        "# made by: foretrain data import x --out y\n"
        + dump_yaml(apply_overrides(tree.model_dump(mode="json"), overrides))
    )
    return path


def test_a_run_prints_a_summary_and_its_whole_config_only_with_verbose(tmp_path: Path, capsys):
    config = written(tmp_path / "a.yaml")
    foretrain("train", config)
    out = capsys.readouterr().out
    for part in (
        f"config: {config}; resolved, with all defaults: {tmp_path / 'run' / 'config.yaml'}",
        "model: chronos2 with ", "starts from random weights", "data: 6 series, ", "from synthetic-seasonal",
        "context 32, horizon 8", "run: 2 steps in float32 on cpu (1 threads)", "batch: 4 windows a step",
        f"output in {tmp_path / 'run'}",
    ):  # fmt: skip
        assert part in out, part
    assert "clip_norm" not in out and len(out.splitlines()) < 20
    assert read_yaml(tmp_path / "run" / "config.yaml")["training"]["clip_norm"] == 1.0
    foretrain("train", config, "--resume", "--verbose")
    assert "clip_norm: 1.0" in capsys.readouterr().out


def test_an_automatic_micro_batch_by_flag_is_found_once_and_kept_on_resume(tmp_path: Path, capsys):
    config = written(tmp_path / "a.yaml")
    flag = ("--per-device-train-batch-size", "auto")
    foretrain("train", config, *flag)
    assert "auto: training.micro_batch_size 4 (all windows that a step has" in capsys.readouterr().out
    assert read_yaml(tmp_path / "run" / "config.yaml")["training"]["micro_batch_size"] == 4
    foretrain("train", config, *flag, "--resume", "training.max_steps=4")
    assert "auto: training.micro_batch_size 4 as the run began" in capsys.readouterr().out
    foretrain("train", config, "--per-device-train-batch-size", "some", code=2)
    assert "'some' is neither a number of windows, 1 or more, nor auto" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "key"), [("auto", None), (None, "auto")])
def test_an_automatic_micro_batch_is_refused_beside_an_accumulation_given_by_hand(flag, key):
    with pytest.raises(ConfigError, match=r"--gradient-accumulation-steps: training.micro_batch_size: auto chooses"):
        BatchFlags(flag, 4).overrides({"training": {"batch_size": 64, "micro_batch_size": key}}, 1)
    assert BatchFlags(8, 4).overrides({"training": {"micro_batch_size": "auto"}}, 1)  # a number takes its place


def test_a_step_that_finds_no_memory_is_one_line_and_exit_code_2(tmp_path: Path, capsys, monkeypatch):
    def forward(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("foretrain.models.base.Trainable.forward", forward)
    foretrain("train", written(tmp_path / "a.yaml"), code=2)
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory on cpu (CUDA out of memory") and line.count("\n") == 1
    assert "training.micro_batch_size (now 4;" in line and "data.context_length (now 32)" in line
    assert "evaluation.batch_size" not in line and "Traceback" not in line


def test_an_error_is_all_that_is_printed(tmp_path: Path, capsys):
    generated = "{generators: [{kind: arma}], max_tokens: 400, max_windows: 8}"
    foretrain("train", written(tmp_path / "a.yaml"), f"data.generated={generated}", "data.target=null",
              "data.validation_steps=null", "data.test_steps=null", code=2)  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out == "" and "error: training.batch_size: no effect beside data.generated" in printed.err


def test_a_dry_run_gives_the_summary_first_and_measures_a_step(tmp_path: Path, capsys):
    foretrain("train", written(tmp_path / "a.yaml"), "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0].partition(" ")[0] for line in lines[:9]] == [
        "model", "data", "steps", "memory", "memory", "time", "compute", "disk", "device"
    ]  # fmt: skip
    assert "measured on the first micro-batch" in lines[5] and "without start, validation" in lines[5]
    assert "activations of a micro-batch " in lines[3] and " at most " not in lines[3]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_without_data_says_what_can_be_known_then_what_is_missing(tmp_path: Path, capsys):
    config = written(tmp_path / "a.yaml", data=False)
    foretrain("train", config, "--dry-run", code=2)
    printed = capsys.readouterr()
    for part in ("model: chronos2 with ", "steps: 2 of 4 windows", "memory: ", "at most ", "time: about ", "estimated"):
        assert part in printed.out, part
    assert printed.err.startswith("error: corpora/absent: no such corpus folder (data.corpora.0.path).")
    assert printed.err.rstrip().endswith(f"The first lines of {config} have the import that it was made for.")


def test_a_dry_run_of_what_would_be_refused_exits_with_2(tmp_path: Path, capsys):
    config = written(tmp_path / "a.yaml")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    foretrain("train", config, "--dry-run", code=2)
    assert "refused: " in capsys.readouterr().out


@pytest.mark.parametrize("family", ["chronos2", "toto2"])
def test_a_dry_run_asks_for_the_weights_that_the_run_starts_from(tmp_path: Path, family, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    series = "[{synthetic: {kind: seasonal, num_series: 2, length: 2000, freq: h}}]"
    lengths = ("data.context_length=128", "data.min_context=128", "data.prediction_length=16", "data.test_steps=16")
    flags = (f"data.corpora={series}", *lengths, f"output_dir={tmp_path / 'run'}", "training.micro_batch_size=1")
    flags = flags if family == "chronos2" else (*flags[:-1], "evaluation.promotion=false")
    foretrain("train", shipped_config(f"{family}/finetune.yaml"), *flags, "--dry-run", code=2)
    text = capsys.readouterr().out
    assert "memory: " in text and "its weights are needed to measure it" in text
    assert ": no such folder, and not downloaded before; check the connection, or give a local folder." in text


def test_a_folder_without_weights_is_refused_by_a_dry_run_too(tmp_path: Path, capsys):
    foretrain("train", written(tmp_path / "a.yaml"))
    (tmp_path / "run" / "release" / "model.safetensors").unlink()
    foretrain("train", written(tmp_path / "a.yaml"), "--dry-run", "--model-id", tmp_path / "run" / "release",
              "--output-dir", tmp_path / "b", "model.random_init=false", code=2)  # fmt: skip
    assert "release: holds no weights (*.safetensors)." in capsys.readouterr().out


def test_fewer_steps_than_the_warm_up_train_and_resume(tmp_path: Path, capsys):
    """A debug run of four steps, continued: the schedule that it began with may not change."""
    config = written(tmp_path / "a.yaml", "optimizer.schedule.warmup_steps=20", "training.max_steps=300")
    foretrain("train", config, "--max-steps", 4)
    assert "note: optimizer.schedule.warmup_steps 20 -> 1, since " in capsys.readouterr().err
    foretrain("train", config, "--max-steps", 6, "--resume")
    printed = capsys.readouterr()
    assert "warmup_steps 20 -> 1, as the run began" in printed.err and "finished at step 6" in printed.out
    foretrain("train", config, "--resume", "--max-steps", 7)
    assert "finished at step 7" in capsys.readouterr().out


def test_a_token_budget_can_be_asked_for_of_a_config_with_a_batch_size(tmp_path: Path, capsys):
    config = written(tmp_path / "a.yaml", "data.sampling=epoch", "training.micro_batch_size=2")
    foretrain("train", config, "--token-budget", 160, "--gradient-accumulation-steps", 2)
    printed = capsys.readouterr()
    assert "takes the place of the config's training.batch_size 4 and training.micro_batch_size 2" in printed.err
    training = read_yaml(tmp_path / "run" / "config.yaml")["training"]
    assert training["token_budget"]["max_tokens_per_batch"] == 160 and training["micro_batch_size"] is None
    assert training["token_budget"]["micro_batches_per_step"] == 2
    foretrain("train", config, "--token-budget", 160, "--gradient-accumulation-steps", 2, "--resume")
    foretrain("train", config, "--resume", code=2)
    assert "training.token_budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --max-stesp 4 x.yaml", "No such option: --max-stesp. Did you mean '--max-steps' or"),
        ("trian", "No such command 'trian'. Did you mean 'train'? `foretrain -h` shows"),
        ("evaluate", "Missing argument 'model'. `foretrain evaluate -h` shows how to call it."),
        ("train x.yaml --device tpu", "Invalid value for '--device': 'tpu' is not one of 'auto', 'cpu'"),
        ("train x.yaml --max-steps", "Option '--max-steps' requires an argument. `foretrain train -h` shows"),
    ],
)
def test_a_command_that_is_not_understood_is_one_line(command, message, capsys):
    foretrain(*command.split(), code=2)
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1


def test_no_command_at_all_prints_the_help(capsys):
    foretrain(code=2)
    printed = capsys.readouterr()
    assert "Usage: foretrain" in printed.out + printed.err and "evaluate" in printed.out + printed.err


@pytest.mark.processes
def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "foretrain", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("foretrain ")


def test_what_takes_long_before_the_first_step_is_said_while_it_lasts(capsys):
    with announced("opening 3 corpora", World(), patience=0.0):
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    with announced("never", World(), patience=60.0):
        pass
    assert capsys.readouterr().out == "opening 3 corpora ...\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"token_budget": {"micro_batches_per_stepx": 2}}, "token_budget.micro_batches_per_stepx"),
        ({"batch_size": "x"}, "training.batch_size"),
        ({"dtype": 3}, "training.dtype"),
    ],
)
def test_a_damaged_saved_config_is_named_on_resume(tmp_path: Path, damage, message):
    config, saved = written(tmp_path / "a.yaml"), tmp_path / "run" / "config.yaml"
    train_command(config, [], batch=BatchFlags())
    tree = read_yaml(saved)
    tree["training"] |= damage
    saved.write_text(json.dumps(tree))
    settings = ["training.token_budget={max_tokens_per_batch: 500}"] if "token_budget" in damage else []
    with pytest.raises(ConfigError, match=rf"config\.yaml: is damaged: .*{message}"):
        train_command(config, settings, batch=BatchFlags(), resume="auto")
