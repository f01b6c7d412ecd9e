"""Hostfiles, and the command of Open MPI's mpirun that trains on their hosts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from foretrain.distributed.interfaces import is_own
from foretrain.errors import ConfigError
from foretrain.reading import read_text

_LINE = re.compile(r"([^\s=#,:]+)(?:\s+slots\s*=\s*(\S+))?(?:\s+max[-_]slots\s*=\s*\d+)?")
_LOCAL = {"localhost", "127.0.0.1", "::1"}
# what processes of other hosts are to have too; by name, so that the command shows no value
_EXPORTED = re.compile(r"(OMP|MKL|NCCL|GLOO|TORCH|CUBLAS)_\w+|PYTORCH_\w*ALLOC_CONF|PYTHONPATH|LD_LIBRARY_PATH|HF_HOME")
_KILL_AFTER = 30  # seconds for a step and a checkpoint after Ctrl-C, as torchrun gives; Open MPI gives 1


def read_hostfile(path: Path) -> dict[str, int | None]:
    """Return the slots of each host of a file in its order, None where they are not given. Raises ConfigError."""
    try:
        lines = read_text(path, 10**7).splitlines()
    except OSError as error:
        raise ConfigError(f"--hostfile {path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise ConfigError(f"--hostfile {path}: {error}") from None
    hosts: dict[str, int | None] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found, where = _LINE.fullmatch(text), f"--hostfile {path}, line {number}"
        if found is None:
            raise ConfigError(f"{where}: {text[:60]!r} is not HOST or HOST slots=N.")
        host, slots = found.groups()
        if slots is not None and not re.fullmatch(r"0*[1-9]\d{0,5}", slots, re.ASCII):
            raise ConfigError(f"{where}: slots={slots[:20]}; give at least 1, or delete the line.")
        if host in hosts:
            raise ConfigError(f"{where}: host {host} is listed twice. Give it one line with all its slots.")
        hosts[host] = None if slots is None else int(slots)
    if not hosts:
        raise ConfigError(f"--hostfile {path}: names no host. Give a line for each: HOST slots=N.")
    if len(hosts) > 1 and (local := _LOCAL & hosts.keys()):
        raise ConfigError(
            f"--hostfile {path}: {min(local)} means another machine on each host. Name it as the others know it."
        )
    return hosts


def places(hosts: dict[str, int | None], path: Path, np: int | None, per_node: int | None) -> dict[str, int]:
    """Return the number of processes of each host that has any. Raises ConfigError for more than their slots."""
    if np is not None and per_node is not None:
        raise ConfigError("--np and --ranks-per-node: give one of them.")
    unknown = next((host for host, slots in hosts.items() if slots is None), None)
    if per_node is not None:
        short = next((host for host, slots in hosts.items() if slots is not None and slots < per_node), None)
        if short is not None:
            raise ConfigError(
                f"--ranks-per-node {per_node}: {short} has {hosts[short]} slots in {path}. Change one of them."
            )
        return dict.fromkeys(hosts, per_node)
    if unknown is not None:
        raise ConfigError(f"--hostfile {path}: {unknown} has no slots=N. Give them, or --ranks-per-node.")
    counts, left = {}, sum(slots or 0 for slots in hosts.values()) if np is None else np
    for host, slots in hosts.items():
        counts[host] = min(slots or 0, left)
        left -= counts[host]
    if left:
        raise ConfigError(f"--np {np}: {path} has {sum(counts.values())} slots. Raise them there, or lower it.")
    return {host: count for host, count in counts.items() if count}


def compose(counts: dict[str, int], words: list[str]) -> list[str]:
    """Return the command of Open MPI's mpirun that trains with so many processes on each host.

    Open MPI puts rank 0 on this host if it is one of them, else on the first.
    """
    counts = dict(sorted(counts.items(), key=lambda each: not _is_here(each[0]))) if len(counts) > 1 else counts
    first = next(iter(counts))
    command = ["mpirun", "--host", ",".join(f"{host}:{count}" for host, count in counts.items())]
    command += ["-np", str(sum(counts.values())), "--map-by", "slot", "--bind-to", "none", "--wdir", os.getcwd()]
    if "OMPI_MCA_odls_base_sigkill_timeout" not in os.environ:
        command += ["--mca", "odls_base_sigkill_timeout", str(_KILL_AFTER)]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    if len(counts) > 1 or os.environ.get("MASTER_ADDR"):
        command += ["-x", f"MASTER_ADDR={os.environ.get('MASTER_ADDR') or first}"]
    names = sorted(name for name in os.environ if _EXPORTED.fullmatch(name) or name == "MASTER_PORT")
    if "OMP_NUM_THREADS" not in names:
        command += [
            "-x",
            "OMP_NUM_THREADS=1",
        ]  # as torchrun: processes with a thread a core block each other
    for name in names:
        command += ["-x", name]
    return [*command, sys.executable, "-m", "foretrain.cli", "train", *words]


def _is_here(host: str) -> bool:
    """Return whether a host of several is this one; one whose name is not known here is not."""
    try:
        return is_own(host)
    except OSError:
        return False


def run(command: list[str], *, dry_run: bool) -> None:
    """Become mpirun, or print the command. Raises ConfigError if mpirun is missing or not Open MPI's."""
    if dry_run:
        print(shlex.join(command))
        return
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(
            "mpirun: not found in PATH. Load or install Open MPI (on Debian: apt install openmpi-bin); --dry-run "
            "prints the command."
        )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    if not re.search("Open ?MPI|Open ?RTE|PRTE|PRRTE", version, re.IGNORECASE):
        raise ConfigError(
            f"{program}: is not Open MPI's ({(version.strip() or 'no version').splitlines()[0][:60]}). With MPICH or "
            "Intel MPI: mpiexec -f HOSTFILE -ppn N -n N -genv MASTER_ADDR HOST foretrain train ..."
        )
    sys.stdout.flush()
    try:
        os.execv(program, command)
    except OSError as error:
        raise ConfigError(f"{program}: cannot be started ({error.strerror}).") from None
