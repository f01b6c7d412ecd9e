"""`foretrain launch`: hostfiles, mpirun's command and sbatch files. What they start is tested in test_launched.py."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from foretrain import cli
from foretrain.cli.sbatch import BatchJob

SLURM = ["launch", "slurm", "debug", "--nodes", "2", "--time", "24:00:00"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an environment without variables that are exported."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("OMP_", "MKL_", "NCCL_", "GLOO_", "TORCH_", "MASTER_", "OMPI_")) or name == "PYTHONPATH":
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def foretrain(capsys):
    """A function that runs the command and returns its stdout, or its error if a code is expected."""

    def run(*words: object, code: int = 0) -> str:
        old, sys.argv = sys.argv, ["foretrain", *map(str, words)]
        try:
            with pytest.raises(SystemExit) as left:
                cli.main()
        finally:
            sys.argv = old
        out, err = capsys.readouterr()
        assert (left.value.code or 0) == code, err
        return err if code else out

    return run


def hostfile(text: str) -> Path:
    Path("hosts").write_text(text)
    return Path("hosts")


def program(name: str, text: str) -> None:
    """A program in a folder that is the whole PATH."""
    Path("bin").mkdir(exist_ok=True)
    file = Path("bin") / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("words", "hosts", "count"),
    [
        ([], "a:4,b:2", 6),
        (["--np", "5"], "a:4,b:1", 5),
        (["--np", "3"], "a:3", 3),
        (["--ranks-per-node", "2"], "a:2,b:2", 4),
    ],
)
def test_processes_fill_the_slots_in_order_or_lie_evenly(foretrain, words, hosts, count):
    hostfile("# two nodes\na slots=4  # first\n\nb slots = 2 max_slots=9\n")
    command = foretrain("launch", "mpirun", "--hostfile", "hosts", *words, "--dry-run", "debug").split()
    assert command[command.index("--host") + 1] == hosts
    assert command[command.index("-np") + 1] == str(count)
    assert ("MASTER_ADDR=a" in command) == (hosts != "a:3")


def test_the_command_binds_no_core_and_takes_the_environment_along(foretrain, monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("PYTHONPATH", "/somewhere else")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hostfile("a slots=1\nb slots=1")
    text = foretrain("launch", "mpirun", "--hostfile", "hosts", "--dry-run", "debug", "--resume")
    command = shlex.split(text)
    start = command.index(sys.executable)
    assert command[start:] == [sys.executable, "-m", "foretrain.cli", "train", "debug", "--resume"]
    given = [command[place + 1] for place, word in enumerate(command) if word == "-x"]
    assert {"MASTER_ADDR=a", "NCCL_DEBUG", "GLOO_SOCKET_IFNAME", "PYTHONPATH", "OMP_NUM_THREADS=1"} <= set(given)
    assert "HF_TOKEN" not in given and "hf_secret" not in text
    assert command[command.index("--bind-to") + 1] == "none"
    assert command[command.index("--wdir") + 1] == os.getcwd()
    assert ("--allow-run-as-root" in command) == (os.geteuid() == 0)


def test_the_user_s_address_port_and_threads_win(foretrain, monkeypatch):
    for name, value in {"MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "1234", "OMP_NUM_THREADS": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMPI_MCA_odls_base_sigkill_timeout", "5")
    hostfile("a slots=2")
    command = shlex.split(foretrain("launch", "mpirun", "--hostfile", "hosts", "--dry-run", "debug"))
    given = [command[place + 1] for place, word in enumerate(command) if word == "-x"]
    assert given[0] == "MASTER_ADDR=10.0.0.9" and {"MASTER_PORT", "OMP_NUM_THREADS"} <= set(given)
    assert "odls_base_sigkill_timeout" not in command


def test_ranks_meet_on_this_host_if_it_is_one_of_them_as_open_mpi_puts_rank_0_there(foretrain):
    hostfile("192.0.2.200 slots=1\n127.0.0.2 slots=2\n192.0.2.201 slots=1")
    command = foretrain("launch", "mpirun", "--hostfile", "hosts", "--dry-run", "debug").split()
    assert "MASTER_ADDR=127.0.0.2" in command and "127.0.0.2:2,192.0.2.200:1,192.0.2.201:1" in command


HARD = ["training.max_steps=5", 'data.corpora=[{path: "it\'s here"}]', "--output-dir", "runs/a b; rm -rf $HOME `x`"]


def test_words_with_blanks_and_quotes_arrive_as_they_are(foretrain):
    hostfile("a slots=2")
    command = shlex.split(foretrain("launch", "mpirun", "--hostfile", "hosts", "--dry-run", "debug", *HARD))
    assert command[-len(HARD) :] == HARD


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", [], "names no host. Give a line for each: HOST slots=N."),
        ("# none\n\n", [], "names no host"),
        ("a slots=0", [], "line 1: slots=0; give at least 1"),
        ("a slots=two", [], "line 1: slots=two; give at least 1"),
        ("a slots=2\n a slots=2", [], "line 2: host a is listed twice"),
        ("a slots=2\nb slots 4", [], "line 2: 'b slots 4' is not HOST or HOST slots=N"),
        ("a:4", [], "line 1: 'a:4' is not HOST or HOST slots=N"),
        ("localhost slots=2\nb slots=2", [], "localhost means another machine on each host"),
        ("a\nb slots=4", [], "a has no slots=N. Give them, or --ranks-per-node."),
        ("a slots=2", ["--np", 3], "--np 3: hosts has 2 slots"),
        ("a slots=2", ["--ranks-per-node", 3], "--ranks-per-node 3: a has 2 slots in hosts"),
        ("a slots=2", ["--np", 2, "--ranks-per-node", 2], "--np and --ranks-per-node: give one of them"),
        ("a slots=2", ["--np", 0], "--np"),
    ],
)
def test_a_hostfile_or_number_that_does_not_fit_is_one_line(foretrain, text, words, message):
    hostfile(text)
    error = foretrain("launch", "mpirun", "--hostfile", "hosts", *words, "--dry-run", "debug", code=2)
    assert message in error and error.count("\n") == 1


def test_a_host_without_slots_takes_what_is_asked_for(foretrain):
    hostfile("a\nb slots=4")
    assert "a:3,b:3" in foretrain(
        "launch", "mpirun", "--hostfile", "hosts", "--ranks-per-node", 3, "--dry-run", "debug"
    )


def test_a_missing_hostfile_or_one_that_is_no_text_is_one_line(foretrain):
    assert "cannot be read (No such file" in foretrain("launch", "mpirun", "--hostfile", "none", "debug", code=2)
    Path("hosts").write_bytes(b"\xff\xfe")
    assert "--hostfile hosts: " in foretrain("launch", "mpirun", "--hostfile", "hosts", "debug", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-config"], "no-such-config"),
        (["debug", "training.max_step=5"], "max_step"),
        (["debug", "--max-steps", "many"], "--max-steps"),
        (["debug", "--learning-rat", "0.1"], "--learning-rat"),
        (["debug", "--learning-rate", "-1"], "learning_rate"),
        (["training.max_steps=5"], "no config given"),
    ],
)
@pytest.mark.parametrize("launcher", ["mpirun", "slurm"])
def test_slips_in_the_words_of_train_show_before_anything_starts(foretrain, launcher, words, message):
    hostfile("a slots=2")
    own = ["--hostfile", "hosts", "--dry-run"] if launcher == "mpirun" else ["--nodes", "2", "--time", "1:00:00"]
    assert message in foretrain("launch", launcher, *own, *words, code=2)
    assert [path.name for path in Path().iterdir()] == ["hosts"]


def test_an_mpirun_that_is_missing_or_another_s_is_one_line(foretrain, monkeypatch):
    hostfile("a slots=2")
    monkeypatch.setenv("PATH", "bin")
    assert "mpirun: not found in PATH" in foretrain("launch", "mpirun", "--hostfile", "hosts", "debug", code=2)
    program("mpirun", "echo HYDRA build details:")
    error = foretrain("launch", "mpirun", "--hostfile", "hosts", "debug", code=2)
    assert "is not Open MPI's (HYDRA build details:)" in error and "-genv MASTER_ADDR" in error


def test_a_launch_inside_a_launch_is_refused(foretrain, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    hostfile("a slots=2")
    assert "works in one process" in foretrain("launch", "mpirun", "--hostfile", "hosts", "debug", code=2)
    assert "works in one process" in foretrain(*SLURM, code=2)


def options(file: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in Path(file).read_text().splitlines() if "#SBATCH" in line]
    return dict(line.partition("=")[::2] for line in lines)


def test_an_sbatch_file_asks_for_what_was_given_and_to_be_told_in_time(foretrain):
    flags = [
        "--gpus-per-node",
        8,
        "--cpus-per-task",
        12,
        "--partition",
        "gpu",
        "--account",
        "me",
        "--sbatch=--qos=high",
    ]
    assert "2 nodes x 8 processes, at most 24 hours a start" in foretrain(*SLURM, *flags)
    found = options("debug.sbatch")
    assert found == {
        "job-name": "debug",
        "nodes": "2",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "12",
        "time": "24:00:00",
        "partition": "gpu",
        "account": "me",
        "output": "%x-%j.out",
        "open-mode": "append",
        "signal": "B:USR1@120",
        "requeue": "",
        "qos": "high",
    }
    text = Path("debug.sbatch").read_text()
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=12" in text and "OMP_NUM_THREADS:-12}" in text


def test_an_sbatch_file_of_cpus_asks_for_no_gpus_and_takes_another_name(foretrain):
    foretrain(*SLURM, "--tasks-per-node", 2, "--job-name", "my run", "--out", "there/x.sh")
    found = options("there/x.sh")
    assert found["ntasks-per-node"] == "2" and found["job-name"] == "my-run" and "gpus-per-node" not in found


def test_a_file_is_replaced_only_if_asked_for(foretrain):
    Path("debug.sbatch").write_text("mine")
    assert "exists" in foretrain(*SLURM, code=2) and Path("debug.sbatch").read_text() == "mine"
    foretrain(*SLURM, "--overwrite")
    assert "#SBATCH" in Path("debug.sbatch").read_text()
    foretrain(*SLURM, "--overwrite", "--out", "new.sbatch")
    assert sorted(path.name for path in Path().iterdir()) == ["debug.sbatch", "new.sbatch"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time", "abc"], "--time 'abc': give hours:minutes:seconds"),
        (["--time", "1-"], "--time '1-'"),
        (["--time", "4:59"], "a job saves its checkpoint 120 to 180 s before its end"),
        (["--nodes", "0"], "--nodes"),
        (["--partition", "a b"], "--partition 'a b': a name without blanks"),
        (["--account", "a\nb"], "--account"),
        (["--sbatch=qos=high"], "--sbatch 'qos=high': give an option of sbatch"),
        (["--sbatch=--qos=high\n#SBATCH --x"], "give an option of sbatch"),
        (["--sbatch=--time=1"], "the file has --time already"),
        (["--sbatch=--no-requeue"], "the file has --no-requeue already"),
        (["--resume-from-checkpoint", "runs/x"], "each start of the job would go back to it"),
        (["--dry-run"], "a job trains"),
        (["--out", "/proc/x"], "/proc/x: cannot be written"),
    ],
)
def test_what_slurm_could_not_use_is_one_line_and_writes_nothing(foretrain, words, message):
    error = foretrain(*SLURM, *words, code=2)
    assert message in error and error.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("time", "hours"),
    [("150", 2.5), ("90:00", 1.5), ("24:00:00", 24), ("2-12", 60), ("1-0:30", 24.5), ("0-1:00:00", 1)],
)
def test_times_are_read_as_slurm_reads_them(foretrain, time, hours):
    assert f"at most {hours:g} hours a start" in foretrain(*SLURM[:-1], time)


def test_submit_runs_sbatch_and_says_what_it_said(foretrain, monkeypatch):
    monkeypatch.setenv("PATH", "bin")
    assert "sbatch is not found in PATH. On a login node: sbatch debug.sbatch" in foretrain(*SLURM, "--submit", code=2)
    program("sbatch", 'echo "Submitted batch job 7 of $1"')
    assert "Submitted batch job 7 of debug.sbatch" in foretrain(*SLURM, "--submit", "--overwrite")
    program("sbatch", "echo no such partition >&2; exit 1")
    error = foretrain(*SLURM, "--submit", "--overwrite", code=2)
    assert "sbatch refused debug.sbatch: no such partition" in error


def run_script(tmp_path: Path, srun: str, scontrol: str = "exit 0") -> tuple[int, list[str]]:
    """The code of a job's script, and what its srun and scontrol noted; srun is a script of its own."""
    program("srun", srun)
    program("scontrol", f'echo "scontrol $*" >> noted; {scontrol}')
    job = BatchJob(2, 1, "1:00:00", 0, None, None, None, "debug", (), ("debug", *HARD, "--resume"))
    Path("job.sh").write_text(job.text())
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["/bin/bash", "job.sh"], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    noted = Path("noted")
    return done.returncode, noted.read_text().splitlines() if noted.exists() else []


SIGNALLED = (
    "trap 'echo told >> noted; exit {code}' USR1\nkill -USR1 \"$PPID\"\nfor _ in $(seq 600); do sleep 0.05; done"
)


def test_a_job_that_was_told_and_saved_its_checkpoint_is_queued_again(place):
    assert run_script(place, SIGNALLED.format(code=143)) == (143, ["told", "scontrol requeue 7"])


def test_a_job_that_was_told_and_failed_is_not(place):
    assert run_script(place, SIGNALLED.format(code=1)) == (1, ["told"])


@pytest.mark.parametrize("code", [0, 2, 143])
def test_a_job_that_ends_by_itself_has_its_code_and_ends(place, code):
    assert run_script(place, f"exit {code}") == (code, [])


def test_the_words_reach_srun_as_they_are(place):
    run_script(place, 'printf "%s\\n" "$PWD" "$@" > noted')
    words = Path("noted").read_text().splitlines()
    expected = ["--kill-on-bad-exit=1", sys.executable, "-m", "foretrain.cli", "train", "debug", *HARD, "--resume"]
    assert words == [str(place), *expected]
