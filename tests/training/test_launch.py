"""What a run folder records of its starts, and that a run goes on by itself where torchrun starts it again."""

from __future__ import annotations

import io
import json
import os
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tests.test_world import DEBUG, TINY
from tests.waiting import run_command, torchrun

from foretrain import cli
from foretrain.distributed.world import World, restarts
from foretrain.errors import TrainingError
from foretrain.training.journal import read_journal
from foretrain.training.launch import NAME, record_start, resume_after_restart

SETTINGS = [*TINY, "training.checkpoint_every=4", "training.validate_every=null", "training.best_metric=val_loss"]


def losses(folder: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_journal(folder / "metrics.jsonl") if r["kind"] == "train"}


def train(words: list[str]) -> None:
    with redirect_stdout(io.StringIO()):
        cli.app(["train", str(DEBUG), *SETTINGS, *words], standalone_mode=False)


def killed_once(folder: Path, steps: int = 30) -> subprocess.CompletedProcess[str]:
    words = [Path(__file__).with_name("restarted.py"), folder, DEBUG, *SETTINGS, f"training.max_steps={steps}"]
    return run_command(torchrun(2, *words, options=["--standalone", "--max-restarts=1"]))


@pytest.mark.processes
def test_a_run_whose_rank_was_killed_goes_on_by_itself(tmp_path):
    done = killed_once(tmp_path / "run")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming from" in done.stdout
    assert sorted(losses(tmp_path / "run")) == list(range(1, 31))
    starts = json.loads((tmp_path / "run" / NAME).read_text())
    assert [start["restarts"] for start in starts] == [0, 1] and starts[1]["step"] >= 4
    assert [process["rank"] for process in starts[1]["processes"]] == [0, 1]


def test_a_folder_that_held_another_run_is_refused_also_at_a_restart(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train(["training.max_steps=2", f"output_dir={folder}"])
    starts = json.loads((folder / NAME).read_text())
    starts[-1]["processes"][0]["launcher"]["pid"] += 1
    (folder / NAME).write_text(json.dumps(starts))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(TrainingError, match="already holds a run"):
        train(["training.max_steps=4", f"output_dir={folder}"])
    assert max(losses(folder)) == 2


def test_a_start_is_recorded_with_what_computes_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for step in (0, 8):
        record_start(tmp_path, World(), step=step, seed=3)
    first, second = json.loads((tmp_path / NAME).read_text())
    assert (first["step"], second["step"], second["seed"]) == (0, 8, 3)
    assert second["variables"]["NCCL_SOCKET_IFNAME"] == "eth7"
    assert "hf_secret" not in (tmp_path / NAME).read_text()
    assert second["versions"].keys() >= {"foretrain", "python", "torch"}
    (process,) = second["processes"]
    assert (process["pid"], process["launcher"]["pid"]) == (os.getpid(), os.getppid())


@pytest.mark.parametrize("content", [None, "", "[3]", '[{"processes": [{}]}]', "{}"])
def test_a_record_that_is_missing_or_damaged_resumes_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    if content is not None:
        (tmp_path / NAME).write_text(content)
    assert resume_after_restart(tmp_path, World(), None) is None
    record_start(tmp_path, World())
    assert resume_after_restart(tmp_path, World(), None) == "auto"
    assert resume_after_restart(tmp_path, World(), "a/checkpoint") == "auto"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert resume_after_restart(tmp_path, World(), None) is None


def test_processes_that_torchrun_starts_again_without_counting_it_resume_too(tmp_path):
    assert resume_after_restart(tmp_path, World(launcher="torchrun"), None) is None
    record_start(tmp_path, World())
    assert resume_after_restart(tmp_path, World(launcher="torchrun"), None) == "auto"
    assert resume_after_restart(tmp_path, World(launcher="mpirun"), None) is None


def test_a_record_of_another_launcher_resumes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    record_start(tmp_path, World())
    starts = json.loads((tmp_path / NAME).read_text())
    starts[-1]["processes"][0]["launcher"]["started"] = "1"
    (tmp_path / NAME).write_text(json.dumps(starts))
    assert resume_after_restart(tmp_path, World(), None) is None


def test_the_number_of_restarts_is_torchrun_s(monkeypatch):
    for value, count in (("3", 3), ("", 0), ("many", 0)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", value)
        assert restarts() == count
