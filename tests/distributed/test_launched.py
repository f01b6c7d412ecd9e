"""One run under several launchers: the job of `launch slurm`, mpirun of Open MPI, and torchrun on two hosts.

The job begins the run; the others continue it from a checkpoint. All of them are two processes with gloo, so the
losses and metrics after it are bit for bit those of the job.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.test_world import DEBUG, TINY, leave, losses, metrics, records
from tests.waiting import run_command, start_command, torchrun

from foretrain.cli.sbatch import BatchJob

pytestmark = pytest.mark.processes

STEPS, SAVED = 6, 4
SETTINGS = [*TINY, f"training.max_steps={STEPS}", "training.checkpoint_every=2", "training.validate_every=3"]
WORDS = ["train", str(DEBUG), "--threads", "1", *SETTINGS]
# as srun, for two tasks on this host
SRUN = """\
#!/bin/sh
shift
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=here SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0 SLURM_STEP_ID=0
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!
"""


def outcome(run: Path) -> dict[str, object]:
    return {"loss": losses(run), "validation": [(r["step"], metrics(r)) for r in records(run, "validation")]}


def starts(run: Path) -> list[dict]:
    return json.loads((run / "environment.json").read_text())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as the script of a job leaves it, with a folder that has a blank."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "srun").write_text(SRUN)
    (folder / "srun").chmod(0o755)
    words = (*WORDS[1:], f"output_dir={folder / 'the run'}", "--resume")
    (folder / "job.sh").write_text(BatchJob(1, 2, "1:00:00", 0, None, None, None, "debug", (), words).text())
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid())}
    done = run_command(["bash", str(folder / "job.sh")], environment=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder / "the run"


@pytest.fixture
def half(begun: Path, tmp_path: Path) -> Path:
    """A copy of the run that has no checkpoint after that of step 4."""
    copy = shutil.copytree(begun, tmp_path / "the run", symlinks=True)
    for folder in (copy / "checkpoints").iterdir():
        if not folder.name.endswith(f"{SAVED:08}"):
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    return copy


def assert_continued(half: Path, begun: Path, launcher: str) -> dict:
    *_, last = starts(half)
    assert (last["step"], last["launcher"]) == (SAVED, launcher)
    assert [process["rank"] for process in last["processes"]] == [0, 1]
    assert outcome(half) == outcome(begun)
    return last


def test_the_job_of_launch_slurm_is_one_run_of_two_tasks(begun):
    (start,) = starts(begun)
    assert start["launcher"] == "srun" and [process["rank"] for process in start["processes"]] == [0, 1]
    assert sorted(losses(begun)) == list(range(1, STEPS + 1))
    assert [step for step, _ in outcome(begun)["validation"]] == [3, 6]  # type: ignore[attr-defined]


def test_mpirun_continues_it(begun, half):
    if shutil.which("mpirun") is None:
        pytest.skip("mpirun is not installed (on Debian: apt install openmpi-bin)")
    (half / "hosts").write_text("127.0.0.1 slots=2\n")
    launch = ["launch", "mpirun", "--hostfile", str(half / "hosts"), *WORDS[1:], f"output_dir={half}", "--resume"]
    done = run_command([sys.executable, "-m", "foretrain.cli", *launch])
    assert done.returncode == 0, done.stdout[-3000:]
    assert_continued(half, begun, "mpirun")


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Names of two network namespaces with one link between them, at 10.213.7.1 and 10.213.7.2."""
    names = [f"foretrain-{os.getpid()}-{number}" for number in (1, 2)]
    with ExitStack() as ends:
        for name in names:
            made = ip("netns", "add", name)
            if made:
                pytest.skip(f"no network namespaces here ({made})")
            ends.callback(ip, "netns", "del", name)
        made = ip("link", "add", "leads-on", "netns", names[0], "type", "veth", "peer", "leads-back", "netns", names[1])
        if made:
            pytest.skip(f"no virtual links here ({made})")
        for number, (name, link) in enumerate(zip(names, ("leads-on", "leads-back"), strict=True), 1):
            assert not ip("-n", name, "addr", "add", f"10.213.7.{number}/24", "dev", link)
            for interface in (link, "lo"):
                assert not ip("-n", name, "link", "set", interface, "up")
        yield names


def ip(*words: str) -> str:
    """What `ip` said if it failed, else nothing."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "ip is not installed"
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def test_torchrun_on_two_hosts_continues_it_over_the_link_between_them(begun, half, two_hosts):
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=10.213.7.1:29431", "--rdzv-id=run", "--nnodes=2"]
    processes = []
    for number, name in enumerate(two_hosts, 1):
        # torchrun tells whether it is the host of the rendezvous by names, which these hosts share
        options = [*rendezvous, f"--local-addr=10.213.7.{number}", f"--rdzv-conf=is_host={number == 1}"]
        words = ["-m", "foretrain.cli", *WORDS, f"output_dir={half}", "--resume"]
        command = ["ip", "netns", "exec", name, *torchrun(1, *words, options=options)]
        processes.append(start_command(command, output=half / f"said.{number}"))
    for number, process in enumerate(processes, 1):
        assert leave(process) == 0, (half / f"said.{number}").read_text()[-3000:]
    last = assert_continued(half, begun, "torchrun")
    assert last["variables"]["GLOO_SOCKET_IFNAME"] in ("leads-on", "leads-back")
    assert last["variables"]["NCCL_SOCKET_IFNAME"] == f"={last['variables']['GLOO_SOCKET_IFNAME']}"
