"""The train command under torchrun, with Chronos-2: two gloo processes against one."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.tolerance import assert_another_order
from tests.waiting import DEADLINE, start_command, torchrun, wait_until

from foretrain import cli
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.training import checkpoint
from foretrain.training.journal import read_journal
from foretrain.training.manifest import damage, read_state

pytestmark = pytest.mark.processes

DEBUG = Path(__file__).parents[1] / "configs" / "debug.yaml"
TINY = [
    "data.context_length=64",
    "data.prediction_length=8",
    "data.validation_steps=16",
    "data.test_steps=16",
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.patch_size=8",
    "model.dropout_rate=0",
    "training.batch_size=8",
    "training.micro_batch_size=3",  # 3 + 3 + 2 windows: in the second round rank 1 is idle
    "training.checkpoint_every=null",
    "training.log_every=1",
    "training.tensorboard=false",
    "optimizer.schedule={kind: constant, warmup_steps: 2}",
    # With debug.yaml's rate rounding errors grow tenfold in a few steps, to 5e-4 of the loss in twelve on some CPUs;
    # a busy machine makes more before a signal arrives. With this rate they stay where they began.
    "optimizer.learning_rate=2e-5",
]
GAPS = "{kind: seasonal, num_series: 12, length: 200, num_variates: %d, seed: %d, missing_fraction: 0.3}"
# Lone series beside items of three variates: what one rank's micro-batch leaves unused, another's may use.
MIXED = [
    f"data.corpora=[{{synthetic: {GAPS % (1, 0)}}}, {{synthetic: {GAPS % (3, 1)}}}]",
    "training.validate_every=5",
    "training.ema_decay=0.9",
    "training.max_steps=12",
]
COVARIATES = [
    f"data.corpora=[{{synthetic: {GAPS % (4, 2)}}}]",
    "data.target=[target_0, target_1]",
    "data.past_covariates=[target_2]",
    "data.known_covariates=[target_3]",
    "model.loss_normalisation=observed",
    "training.validate_every=1000",
]
ENDLESS = 100_000
ORDERS = (1, 2, 8)  # micro-batches of these sizes make the sums of a step in other orders


def arguments(out: Path, *settings: str) -> list[str]:
    return ["train", str(DEBUG), "--threads", "1", *TINY, *settings, f"output_dir={out}"]


def alone(*words: str) -> int:
    """The command in this process; its exit code."""
    old, sys.argv = sys.argv, ["foretrain", *words]
    try:
        cli.main()
        return 0
    except SystemExit as leave:
        return int(leave.code or 0)
    finally:
        sys.argv = old


def in_pair(*words: str, output: Path) -> subprocess.Popen[str]:
    """The command in two processes under torchrun, in a process group of its own."""
    return start_command(torchrun(2, "-m", "foretrain.cli", *words), output=output)


def leave(process: subprocess.Popen[Any]) -> int:
    """Its exit code; everything it started is ended when it takes longer than the deadline."""
    try:
        return process.wait(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def records(out: Path, kind: str) -> list[dict]:
    path = out / "metrics.jsonl"
    return [r for r in read_journal(path) if r["kind"] == kind] if path.exists() else []


def metrics(record: dict) -> dict[str, float]:
    return {name: value for name, value in record.items() if name.startswith("val_")}


def losses(out: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in records(out, "train")}


def curves(out: Path) -> dict[str, list[float]]:
    """Losses and validation metrics by name, in the order of their steps.

    The skill is given as the ratio of losses that it is 1 minus: a ratio near 1 is no smaller for rounding.
    """
    found = {"loss": list(losses(out).values())}
    for record in records(out, "validation"):
        for name, value in metrics(record).items():
            found.setdefault(name, []).append(1 - value if name == "val_skill" else value)
    return found


def weights(out: Path) -> dict[str, list[Any]]:
    """Of the release, by name."""
    return {name: [value] for name, value in load_file(out / "release" / "model.safetensors").items()}


def other_orders(folder: Path, *settings: str) -> list[Path]:
    """Run folders of the same command in one process, with its sums in other orders."""
    folders = [folder / f"by-{size}" for size in ORDERS]
    for out, size in zip(folders, ORDERS, strict=True):
        assert alone(*arguments(out, *settings, f"training.micro_batch_size={size}")) == 0
    return folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Run folders of the same command, in two processes and in one."""
    folder = tmp_path_factory.mktemp("world")
    process = in_pair(*arguments(folder / "two", *MIXED), output=folder / "log")
    assert alone(*arguments(folder / "one", *MIXED)) == 0
    assert leave(process) == 0, (folder / "log").read_text()[-3000:]
    return folder / "two", folder / "one"


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> list[Path]:
    """Run folders of that command in one process, with its sums in other orders."""
    return other_orders(tmp_path_factory.mktemp("orders"), *MIXED)


def test_two_processes_have_the_losses_and_validation_metrics_of_one(trained, orders):
    two, one = trained
    assert sorted(losses(one)) == sorted(losses(two)) == list(range(1, 13))
    assert [[r["step"] for r in records(out, "validation")] for out in trained] == [[5, 10, 12]] * 2
    assert {"loss", "val_loss", "val_wql", "val_mase", "val_skill"} < curves(one).keys()
    assert_another_order(curves(two), curves(one), [curves(out) for out in orders])


def test_two_processes_have_the_release_of_one(trained, orders):
    two, one = trained
    assert_another_order(weights(two), weights(one), [weights(out) for out in orders])


def test_two_processes_say_nothing_that_one_would_not(trained):
    assert "Warning" not in (trained[0].parent / "log").read_text()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> dict:
    """4 steps in one process, some more in two until a terminal's Ctrl-C, 4 more in one."""
    folder = tmp_path_factory.mktemp("elastic")
    out, found = folder / "run", {"out": folder / "run"}
    assert alone(*arguments(out, *COVARIATES, "training.max_steps=4")) == 0
    endless = arguments(out, *COVARIATES, f"training.max_steps={ENDLESS}")
    process = in_pair(*endless, "--resume", output=folder / "log")
    try:
        wait_until(lambda: len(losses(out)) >= 8, process)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as output:
            code = alone(*endless, "--resume")
        found["second"] = (code, output.getvalue())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: torchrun and its processes alike
        found["code"] = leave(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    found["log"] = (folder / "log").read_text()
    found["checkpoints"] = checkpoint.steps_in(out / "checkpoints")
    found["steps"] = max(losses(out))
    found["end"] = f"training.max_steps={found['steps'] + 4}"
    found["resumed"] = alone(*arguments(out, *COVARIATES, found["end"]), "--resume")
    return found


def test_ctrl_c_under_torchrun_saves_the_step_that_was_under_way(interrupted):
    assert interrupted["code"] != 0
    newest = interrupted["checkpoints"][-1]
    assert damage(newest) is None
    assert read_state(newest)["progress"]["step"] == interrupted["steps"] >= 8
    assert read_state(newest)["world_size"] == 2
    assert f"stopped at step {interrupted['steps']:,}, checkpoint written" in interrupted["log"]


def test_a_second_writer_is_refused_while_two_processes_write_a_run(interrupted):
    code, output = interrupted["second"]
    assert code == 2
    assert "is writing this run" in output
    assert output.count("\n") == 1


def test_a_resume_from_one_to_two_to_one_process_is_the_run_of_one(interrupted, tmp_path):
    assert interrupted["resumed"] == 0
    assert alone(*arguments(tmp_path / "whole", *COVARIATES, interrupted["end"])) == 0
    whole, found = losses(tmp_path / "whole"), losses(interrupted["out"])
    assert sorted(found) == sorted(whole) == list(range(1, interrupted["steps"] + 5))
    others = other_orders(tmp_path, *COVARIATES, interrupted["end"])

    def ends(out: Path) -> dict[str, list[float]]:
        """All losses, and the metrics of the last validation: the interrupted run has more of these."""
        return {name: values if name == "loss" else values[-1:] for name, values in curves(out).items()}

    assert_another_order(ends(interrupted["out"]), ends(tmp_path / "whole"), [ends(out) for out in others])


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--out", "{}"],
        ["data", "import", "raw", "--out", "{}"],
        ["data", "inspect", "corpus", "--plot", "{}"],
        ["evaluate", "release", "--data", "corpus", "--out", "{}"],
        ["forecast", "release", "history.csv", "--prediction-length", "8", "--out", "{}"],
        ["export", "checkpoint", "--out", "{}"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_verbs_other_than_train_refuse_to_do_the_same_several_times(words, tmp_path, monkeypatch, capsys):
    for variable in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        with monkeypatch.context() as environment:
            environment.setenv(variable, "2")
            assert alone(*(word.format(tmp_path / "out") for word in words)) == 2
        assert f"works in one process, and {variable}=2 says that there are more" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


HERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR and MASTER_PORT are not all set. Start with torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"),
        ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE is '1.5' in the environment"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0 in the environment"),
        ({"RANK": "3"}, "RANK is 3 in the environment and WORLD_SIZE 1"),
        ({"WORLD_SIZE": "2", "RANK": "7", **HERE}, "ranks count from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0", **HERE, "MASTER_PORT": "abc"}, "MASTER_PORT is 'abc' in the environment"),
        ({"WORLD_SIZE": "2", "RANK": "0", **HERE, "MASTER_PORT": "99999"}, "MASTER_PORT is 99999 in the environment"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE is 4 in the environment, but OMPI_COMM_WORLD_RANK"),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            "srun started 2 processes (SLURM_STEP_NUM_TASKS), and no variable says on which host rank 0 is",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "no[1-2]"},
            "and the others look for it at no1, as srun has it, which is not this host. Set MASTER_ADDR",
        ),
    ],
)
def test_an_environment_that_no_launcher_made_is_one_clear_line(environment, message, tmp_path, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert alone(*arguments(tmp_path / "run", "training.max_steps=2")) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_another_program_uses_is_one_clear_line(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name, value in {"WORLD_SIZE": "2", "RANK": "0", **HERE, "MASTER_PORT": taken.getsockname()[1]}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(TrainingError, match=r"Another program listens there: set another MASTER_PORT"):
            World.start("cpu")


def test_processes_of_another_launcher_may_each_train_a_run_of_their_own(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ConfigError, match="PMI_SIZE is 2 in the environment, but PMI_RANK is not set"):
        World.start("cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert World.start("cpu").size == 1


def test_a_network_that_outlives_its_process_group_ends_nothing(tmp_path):
    """Without a reference of leave_process_group's own, one of a few hundred such ends never came."""
    script = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from foretrain.distributed.world import leave_process_group

def train(path):
    dist.init_process_group("gloo", store=dist.FileStore(path, 1), rank=0, world_size=1)
    network = DistributedDataParallel(torch.nn.Linear(4, 4))
    network(torch.ones(2, 4)).sum().backward()
    leave_process_group()

for number in range(400):
    train(f"{sys.argv[1]}/{number}")
sys.stdout.write("all ended")
sys.stdout.flush()
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout == "all ended", done.stderr
