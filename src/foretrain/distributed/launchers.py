"""How this process was started: its rank, the number of ranks and where they meet, as torchrun, mpirun or srun say it.

Functions of the environment alone. Imports no torch: the command line asks before it imports anything heavy.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from foretrain.errors import ConfigError

_RANGE = r"[0-9]{1,9}(?:-[0-9]{1,9})?"
_HOST = rf"(?:[^\[\],\s]|\[{_RANGE}(?:,{_RANGE})*\])+"  # of a node list of SLURM
LOCALHOST = "127.0.0.1"
PORTS = range(20_000, 30_000)  # below those that systems give to clients
_DEFAULT_PORT = 29_500  # torchrun's, where nothing tells one job from another
_Environment = Mapping[str, str]


@dataclass(frozen=True)
class Launch:
    """One process of a start."""

    launcher: str | None = (
        None  # torchrun, mpirun (Open MPI), mpiexec (MPICH, Intel MPI), srun; None = by hand or alone
    )
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int | None = 1  # processes on this host; None = not known
    address: str = LOCALHOST  # of the host of rank 0
    port: int = _DEFAULT_PORT
    found: bool = False  # True if the address follows from the launcher; False if MASTER_ADDR or one host gives it


@dataclass(frozen=True)
class _Variables:
    """The names under which a launcher says what it started; of several names the first that is set counts."""

    launcher: str
    rank: str
    size: str
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()
    job: tuple[tuple[str, ...], ...] = ()  # what tells its starts apart


_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
_SLURM_JOB = ("SLURM_JOB_ID", "SLURM_STEP_ID")
_OTHERS = (
    _Variables(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
        (("PMIX_NAMESPACE",), ("OMPI_MCA_ess_base_jobid",)),
    ),
    _Variables(
        "mpiexec",
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
        (("SLURM_JOB_ID",), ("PBS_JOBID",), ("LSB_JOBID",)),
    ),
    _Variables("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_LOCALID",), (), (_SLURM_JOB,)),
)
_RANK_AND_SIZE = [(each.rank, each.size) for each in _OTHERS if each.launcher in ("mpiexec", "srun")]
_WITHOUT_SIZE = {"PMIX_RANK": "a PMIx launcher", "PMI_ID": "mpiexec -pmi-port"}  # ranks that come without a size


def find_launch(environment: _Environment) -> Launch:
    """Return how a process with these variables was started: by torchrun, else mpirun, else mpiexec, else srun.

    RANK and WORLD_SIZE set by hand must agree with those of another launcher; WORLD_SIZE=1 without RANK asks for a run
    of its own. MASTER_ADDR and MASTER_PORT always count where they are set. Raises ConfigError for variables that are
    incomplete or contradict each other, and where ranks that belong together could not find each other.
    """
    others = [each for each in _OTHERS if environment.get(each.size)]
    if "TORCHELASTIC_RUN_ID" in environment:
        return _of_torchrun(environment, others)
    alone = _number(environment, "WORLD_SIZE") == 1 and "RANK" not in environment
    if alone or not others:
        _refuse_rank_without_size(environment)
        return _by_hand(environment)
    if [each.launcher for each in others] == ["mpiexec", "srun"] and _is_of_srun(environment):
        others = others[1:]
    top = others[0]
    _compare(environment, top)
    sizes = {each.size: _number(environment, each.size) or 0 for each in others}
    if sizes[top.size] == 1 and (more := [name for name, count in sizes.items() if count > 1]):
        raise ConfigError(
            f"{top.size} is 1 and {more[0]} is {sizes[more[0]]} in the environment, so it is not clear whether this "
            f"process belongs to {sizes[more[0]]}. Unset the one that is left from another launcher, or set "
            "WORLD_SIZE=1 for a run in one process."
        )
    return _of_launcher(environment, top)


def count_of_several(environment: _Environment) -> tuple[str, str] | None:
    """Return the variable that says that there are several processes, and its value; None if there is one process."""
    if environment.get("WORLD_SIZE") in ("1", None):
        if "WORLD_SIZE" in environment and "RANK" not in environment:
            return None
        names = [each.size for each in _OTHERS]
    else:
        names = ["WORLD_SIZE"]
    found = ((name, environment.get(name, "1")) for name in names)
    return next(((name, text) for name, text in found if text.isdecimal() and text.lstrip("0") not in ("", "1")), None)


def gpu_index(environment: _Environment, launch: Launch) -> int:
    """Return which of the visible GPUs is this process': srun and mpirun may show each process only its own."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    alone = launch.launcher not in (None, "torchrun") and shown and "," not in shown
    return 0 if alone else launch.local_rank


def speaks(environment: _Environment) -> bool:
    """Return whether this process prints what is to be said once: rank 0, or one that no launcher started."""
    names = ("RANK", *(each.rank for each in _OTHERS))
    return next((environment[name] for name in names if environment.get(name)), "0") == "0"


def expand_hosts(text: str, variable: str = "SLURM_STEP_NODELIST") -> Iterator[str]:
    """Yield the hosts of a node list of SLURM, in its order: `a[01-03,7],b` is a01, a02, a03, a7, b.

    Raises ConfigError, which names the variable, for a list that is none.
    """
    hosts = re.findall(rf"{_HOST}(?=,|$)", text)
    if ",".join(hosts) != text or not text:
        raise ConfigError(f"{variable} is {text[:80]!r} in the environment, no list of hosts. Set MASTER_ADDR.")
    for host in hosts:
        yield from _names(re.split(r"\[(.*?)\]", host))


def refuse_changing_size(environment: _Environment, command: Sequence[str]) -> None:
    """Raise ConfigError if torchrun, started by a command, may change the number of its processes and cannot do so.

    With a store that torchrun shares over all of them, processes of torch 2.13 get different MASTER_PORTs after a
    change, and wait for each other until they give up.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    words = [word.partition("=")[::2] for word in command]
    given = [value or "".join(command[place : place + 1]) for place, (name, value) in enumerate(words, 1)
             if name in ("--nnodes", "--nnode")]  # fmt: skip
    found = re.fullmatch(r"(\d+):(\d+)", (given or [environment.get("PET_NNODES", "")])[0])
    if found and found[1] != found[2]:
        raise ConfigError(
            f"torchrun --nnodes {found[0]} may change the number of processes, and its shared store would lead them to "
            "different ports. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for each torchrun, or a fixed --nnodes."
        )


def _of_torchrun(environment: _Environment, others: list[_Variables]) -> Launch:
    """Return what torchrun says. Raises ConfigError if several torchruns train a run each where one was meant."""
    found = _by_hand(environment)
    agents = _number(environment, "GROUP_WORLD_SIZE")
    for each in others:
        tasks = _number(environment, each.size) or 0
        if agents == 1 and tasks > 1:
            raise ConfigError(
                f"{each.launcher} started {tasks} torchruns ({each.size}), each of which would train alone "
                f"(GROUP_WORLD_SIZE is 1). Give torchrun --nnodes {tasks} --rdzv-backend c10d --rdzv-endpoint "
                f"HOST:PORT, or start the command by {each.launcher} without torchrun, or unset {each.size}."
            )
    return replace(found, launcher="torchrun")


def _by_hand(environment: _Environment) -> Launch:
    """Return what RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE say, set by torchrun or by hand."""
    rank, size = _number(environment, "RANK") or 0, _number(environment, "WORLD_SIZE")
    local_rank = _number(environment, "LOCAL_RANK")
    if size is not None and size > 1 and not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        raise ConfigError(
            f"WORLD_SIZE is {size}, but RANK, MASTER_ADDR and MASTER_PORT are not all set. Start with torchrun, or "
            "unset WORLD_SIZE for one process."
        )
    size = 1 if size is None else size
    _check_rank("RANK", rank, "WORLD_SIZE", size)
    if size == 1:
        return Launch(local_rank=local_rank or 0)
    local_rank = rank if local_rank is None else local_rank
    local_size = _number(environment, "LOCAL_WORLD_SIZE") or None
    address = environment["MASTER_ADDR"]
    if not address:
        raise ConfigError("MASTER_ADDR is empty in the environment. Set it to the host of rank 0.")
    return Launch(None, rank, size, local_rank, local_size, address, _port(environment, None))


def _of_launcher(environment: _Environment, names: _Variables) -> Launch:
    """Return what a launcher other than torchrun says."""
    size = _number(environment, names.size)
    rank = _number(environment, names.rank)
    if size is None or rank is None:
        raise ConfigError(
            f"{names.size} is {size} in the environment, but {names.rank} is not set. Start with {names.launcher}, or "
            "set WORLD_SIZE=1 for a run in one process."
        )
    _check_rank(names.rank, rank, names.size, size)
    local_rank = _first_number(environment, names.local_rank)
    if size == 1:
        return Launch(names.launcher, local_rank=local_rank or 0)
    local_size = _first_number(environment, names.local_size)
    if names.launcher == "srun":
        local_size = _tasks_of_node(environment) or (size if len(_two_hosts(environment)) == 1 else None)
    if local_rank is None:
        raise ConfigError(
            f"{names.launcher} started {size} processes ({names.size}), but {' or '.join(names.local_rank)}, the rank "
            "within the host, is not set. Use the launcher's own process manager, or torchrun on each host."
        )
    address, found = _address(environment, names, rank, size, local_size)
    return Launch(
        names.launcher, rank, size, local_rank, local_size, address, _port(environment, _job(environment, names)), found
    )


def _address(
    environment: _Environment, names: _Variables, rank: int, size: int, local_size: int | None
) -> tuple[str, bool]:
    """Return the address of rank 0's host, and whether it was found rather than given."""
    if address := environment.get("MASTER_ADDR"):
        return address, False
    if local_size == size:
        return LOCALHOST, False
    if listed := _two_hosts(environment, _LISTS if names.launcher == "srun" else _LISTS[1:]):
        _check_first_host(environment, names, rank, listed[0])
        return listed[0], True
    hosts = re.findall(r";tcp://([^;:,]+)", environment.get("OMPI_MCA_orte_hnp_uri", ""))
    if hosts and names.launcher == "mpirun":  # mpirun's own host, where it starts rank 0 unless told otherwise
        return hosts[0], True
    ways = {
        "mpirun": "mpirun -x MASTER_ADDR=HOST, or foretrain launch mpirun, which finds it in the hostfile",
        "mpiexec": "mpiexec -genv MASTER_ADDR HOST",
        "srun": "export MASTER_ADDR=HOST before srun",
    }
    raise ConfigError(
        f"{names.launcher} started {size} processes ({names.size}), and no variable says on which host rank 0 is. Set "
        f"MASTER_ADDR to it ({ways[names.launcher]})."
    )


def _two_hosts(environment: _Environment, variables: tuple[str, ...] = _LISTS) -> list[str]:
    """Return the first two hosts of a step or job of SLURM; one or none if there are no more."""
    variable = next((name for name in variables if environment.get(name)), None)
    return [] if variable is None else list(itertools.islice(expand_hosts(environment[variable], variable), 2))


def _check_first_host(environment: _Environment, names: _Variables, rank: int, first: str) -> None:
    """Raise ConfigError on rank 0 of srun if it is not on the first host, where the others would look for it."""
    here = environment.get("SLURMD_NODENAME")
    if names.launcher == "srun" and rank == 0 and here not in (None, "", first):
        raise ConfigError(
            f"srun put rank 0 on {here} (SLURMD_NODENAME), and the others look for it on {first}, the first host of "
            f"the step. Set MASTER_ADDR={here} before srun."
        )


def _port(environment: _Environment, job: str | None) -> int:
    """Return MASTER_PORT, else a port that follows from the job."""
    if not environment.get("MASTER_PORT"):
        return _DEFAULT_PORT if job is None else PORTS[zlib.crc32(job.encode()) % len(PORTS)]
    port = _number(environment, "MASTER_PORT")
    if port is None or not 0 < port < 2**16:
        raise ConfigError(
            f"MASTER_PORT is {port} in the environment. Ports are 1 to 65535; unset it to have one chosen."
        )
    return port


def _job(environment: _Environment, names: _Variables) -> str | None:
    """Return what tells this start from others on the same host; None if nothing does."""
    for group in names.job:
        if all(environment.get(name) for name in group):
            return ".".join(environment[name] for name in group)
    return None


def _tasks_of_node(environment: _Environment) -> int | None:
    """Return the number of tasks of this step on this node, of such as `2(x3),1`; None if that is not said."""
    text, node = environment.get("SLURM_STEP_TASKS_PER_NODE", ""), _number(environment, "SLURM_NODEID")
    if node is None or not re.fullmatch(r"\d{1,6}(\(x\d{1,6}\))?(,\d{1,6}(\(x\d{1,6}\))?)*", text):
        return None
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        node -= int(times or 1)
        if node < 0:
            return int(count)
    return None


def _compare(environment: _Environment, names: _Variables) -> None:
    """Raise ConfigError if RANK, WORLD_SIZE, LOCAL_RANK or LOCAL_WORLD_SIZE differ from what a launcher says."""
    pairs = {"RANK": (names.rank,), "WORLD_SIZE": (names.size,)}
    pairs |= {"LOCAL_RANK": names.local_rank, "LOCAL_WORLD_SIZE": names.local_size}
    for ours, theirs in pairs.items():
        value, other = _number(environment, ours), _first_number(environment, theirs)
        if value is not None and other is not None and value != other:
            name = next(name for name in theirs if environment.get(name))
            raise ConfigError(
                f"{ours} is {value} and {name}, of {names.launcher}, is {other} in the environment. Unset {ours}, "
                f"which {names.launcher} does not need; with WORLD_SIZE=1 and no RANK each process trains a run of its "
                "own."
            )


def _is_of_srun(environment: _Environment) -> bool:
    """Return whether the PMI variables are those that srun itself sets (--mpi=pmi2): without a rank on the host."""
    same = all(environment.get(a) == environment.get(b) for a, b in zip(*_RANK_AND_SIZE, strict=True))
    return same and _first_number(environment, _OTHERS[1].local_rank) is None


def _refuse_rank_without_size(environment: _Environment) -> None:
    """Raise ConfigError if a launcher says a rank, but not of how many: each process would train alone."""
    if "WORLD_SIZE" in environment:
        return
    ranks = {each.rank: each.launcher for each in _OTHERS if each.launcher != "srun"} | _WITHOUT_SIZE
    for name, launcher in ranks.items():
        if environment.get(name):  # SLURM_PROCID stands in batch scripts too
            raise ConfigError(
                f"{name} is {environment[name][:20]}, so {launcher} started this process, but no variable says of how "
                "many. Start with mpirun of Open MPI, mpiexec of MPICH or Intel MPI, srun or torchrun, or set "
                "WORLD_SIZE=1 if each process is to train a run of its own."
            )


def _check_rank(rank_name: str, rank: int, size_name: str, size: int) -> None:
    if not size:
        raise ConfigError(f"{size_name} is 0 in the environment; it counts the processes of a run. Unset it.")
    if rank >= size:
        raise ConfigError(
            f"{rank_name} is {rank} in the environment and {size_name} {size}; ranks count from 0 to {size - 1}. Start "
            "with torchrun, or unset both for one process."
        )


def _first_number(environment: _Environment, names: tuple[str, ...]) -> int | None:
    return next((_number(environment, name) for name in names if environment.get(name)), None)


def _number(environment: _Environment, name: str) -> int | None:
    """Return a variable's number; None if it is not set."""
    text = environment.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(f"{name} is {text[:40]!r} in the environment, not a number. Unset it or start with torchrun.")
    return int(text)


def _names(parts: list[str]) -> Iterator[str]:
    """Yield the names of a host whose parts are texts and ranges such as `01-03,7` in turn."""
    head, *rest = parts
    if not rest:
        yield head
        return
    for part in rest[0].split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for tail in _names(rest[1:]):
                yield f"{head}{number:0{len(first)}}{tail}"
