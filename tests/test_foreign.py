"""`foretrain config import` as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.foreign.test_kronos import FULL as KRONOS
from tests.foreign.test_tsm_trainer import FULL as TSM_TRAINER
from tests.test_cli import foretrain

from foretrain.run import load_config


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


def test_the_report_goes_to_stderr_and_the_config_to_stdout(folder: Path, capsys):
    foretrain("config", "import", "--from", "tsm-trainer", "tsm.yaml")
    printed = capsys.readouterr()
    assert printed.out.startswith("# Translated from tsm.yaml")
    assert yaml.safe_load(printed.out)["training"]["max_steps"] == 500
    assert "not carried over (" in printed.err
    assert "fsdp: 'full_shard auto_wrap': processes share the work by DDP" in printed.err


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
