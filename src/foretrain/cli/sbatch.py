"""The sbatch file of `foretrain launch slurm`: a job that saves a checkpoint before its time is up, and goes on."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.atomic import create_text, replacing_file, write_text
from foretrain.errors import ConfigError

LEAD = 120  # seconds before the end of its time at which a job is told to save a checkpoint
LEAST = 300  # seconds of a job; SLURM may tell it 60 s too early
_TIMES = (r"(?P<m>\d+)(:(?P<s>\d+))?", r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)")  # SLURM's forms
_TIMES += (r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?",)
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

_SCRIPT = """\
#!/bin/bash
{options}

cd {folder} || exit 2
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{threads}}}"

# SLURM sends USR1 to this script {lead} s before the time is up. srun passes it on, and each process ends with code 143
# once a checkpoint is saved; then the job goes on in a new start. After a failure it does not.
stopped= run=
trap 'stopped=yes; [ -z "$run" ] || kill -USR1 "$run"' USR1
srun --kill-on-bad-exit=1{srun} {command} &
run=$!
[ -z "$stopped" ] || kill -USR1 "$run"  # told before srun had started
wait "$run"
code=$?
while kill -0 "$run" 2>/dev/null; do  # a signal ends wait, and not srun
    wait "$run"
    code=$?
done
if [ -n "$stopped" ] && [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclass(frozen=True)
class BatchJob:
    """A job of SLURM: nodes, tasks and gpus per node, cpus per task, and the words after `foretrain train`."""

    nodes: int
    tasks: int
    time: str
    gpus: int
    cpus: int | None
    partition: str | None
    account: str | None
    name: str
    extra: tuple[str, ...]
    words: tuple[str, ...]

    def text(self) -> str:
        """Return the sbatch file. Raises ConfigError for options that SLURM could not read."""
        options = [f"#SBATCH {option}" for option in (*self._options(), *self._extra())]
        return _SCRIPT.format(
            options="\n".join(options),
            folder=shlex.quote(str(Path.cwd())),
            threads=self.cpus or 1,
            lead=LEAD,
            srun=f" --cpus-per-task={self.cpus}" if self.cpus else "",  # which srun does not take over from sbatch
            command=shlex.join([sys.executable, "-m", "foretrain.cli", "train", *self.words]),
        )

    def short_name(self) -> str:
        """Return the job's name: a config's without folder and ending, with what a file's name may hold."""
        return re.sub(r"[^\w.-]+", "-", Path(self.name).name.removesuffix(".yaml")).strip("-.") or "train"

    def _options(self) -> list[str]:
        if _seconds(self.time) < LEAST:
            raise ConfigError(
                f"--time {self.time}: a job saves its checkpoint {LEAD} to {LEAD + 60} s before its end, and starting "
                f"takes time too. Give at least {LEAST // 60} minutes."
            )
        given = {
            "job-name": self.short_name(),
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks,
            "gpus-per-node": self.gpus or None,
            "cpus-per-task": self.cpus,
            "time": self.time,
            "partition": _one_word("--partition", self.partition),
            "account": _one_word("--account", self.account),
            "output": "%x-%j.out",
            "open-mode": "append",
            "signal": f"B:USR1@{LEAD}",
        }
        return [f"--{key}={value}" for key, value in given.items() if value is not None] + ["--requeue"]

    def _extra(self) -> tuple[str, ...]:
        """Return the further options. Raises ConfigError for one that is none, or that the file has already."""
        taken = {option.partition("=")[0] for option in self._options()} | {"--no-requeue"}
        taken |= {"--partition", "--account", "--gpus-per-node", "--cpus-per-task"}
        for option in self.extra:
            if not re.fullmatch(r"--[a-z][a-z-]*(=[^\n\r]+)?", option):
                raise ConfigError(f"--sbatch {option!r}: give an option of sbatch with its value: --sbatch=--qos=high.")
            if (name := option.partition("=")[0]) in taken:
                raise ConfigError(f"--sbatch {option}: the file has {name} already, from options of launch slurm.")
        return self.extra


def write_job(job: BatchJob, out: Path | None, *, overwrite: bool) -> Path:
    """Write the file of a job and say so; return its path. Raises ConfigError, also if it exists, unless told to."""
    path, text = out or Path(f"{job.short_name()}.sbatch"), job.text()
    try:
        if overwrite and path.is_file():
            with replacing_file(path) as scratch:
                write_text(scratch, text)
        else:
            create_text(path, text)
    except FileExistsError:
        raise ConfigError(f"{path}: exists. Name another file with --out, or give --overwrite to replace it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}). Name another with --out.") from None
    what = f"{job.nodes} nodes x {job.tasks} processes, at most {_seconds(job.time) / 3600:g} hours a start"
    print(f"wrote {path}: {what}. To submit it: sbatch {shlex.quote(str(path))}", flush=True)
    return path


def submit_job(file: Path) -> None:
    """Submit a file by sbatch and print what that says. Raises ConfigError if sbatch is missing or refuses it."""
    program = shutil.which("sbatch")
    if program is None:
        raise ConfigError(f"--submit: sbatch is not found in PATH. On a login node: sbatch {shlex.quote(str(file))}")
    done = subprocess.run([program, str(file)], capture_output=True, text=True, check=False)
    print(done.stdout.strip(), flush=True)
    if done.returncode:
        raise ConfigError(f"--submit: sbatch refused {file}: {' '.join(done.stderr.split()) or done.returncode}")


def check_resume(parsed: dict[str, Any]) -> None:
    """Raise ConfigError for options of train under which a job that is started again would not go on."""
    if parsed["resume_from_checkpoint"] is not None:
        raise ConfigError(
            "--resume-from-checkpoint: each start of the job would go back to it. Leave it out: the job resumes from "
            "the newest checkpoint."
        )
    if parsed["dry_run"]:
        raise ConfigError("--dry-run: a job trains. For a dry run: foretrain train ... --dry-run.")


def _one_word(flag: str, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[\w.,@:/+-]+", value):
        raise ConfigError(f"{flag} {value!r}: a name without blanks is needed.")
    return value


def _seconds(text: str) -> int:
    """Return the seconds of a time as SLURM writes it. Raises ConfigError."""
    for form in _TIMES:
        if len(text) < 30 and (found := re.fullmatch(form, text, re.ASCII)):
            return sum(int(value) * _SECONDS[unit] for unit, value in found.groupdict().items() if value)
    raise ConfigError(
        f"--time {text[:40]!r}: give hours:minutes:seconds (24:00:00), days-hours (2-12), days-hours:minutes:seconds, "
        "or minutes."
    )
