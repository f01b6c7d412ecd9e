"""`foretrain doctor`: what the machine and the installation are, and what to fix, with the command that does.

It needs no network and no corpus. States of a finding: "fix" fails, or costs a factor in time; "note" works, but
something that some users want is missing; "ok".
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

PACKAGES = (
    "torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "datasets", "huggingface_hub", "matplotlib",
    "scipy", "tensorboard", "typer", "rich",
)  # fmt: skip
EXTRAS = {  # distribution of an extra -> name of the extra, and what it is for
    "peft": ("lora", "adapters (LoRA)"),
    "exchange_calendars": ("market", "trading hours of exchanges"),
    "openpyxl": ("excel", "workbooks (.xlsx)"),
    "pytorch_optimizer": ("optimizers", "optimizers besides torch's, Muon and Adafactor"),
}
NEWEST_PYTHON = (3, 13)  # that the test suite was run with
LEAST_DISK, LEAST_MEMORY, LEAST_SHARED = 1.0, 2.0, 0.25  # GiB
LEAST_FILES = 1024
TORCH_COMMANDS = "https://pytorch.org/get-started/locally has the command for your system"


@dataclass(frozen=True)
class Finding:
    """What was found about a topic, and what mends it: a command or a setting, "" if nothing needs mending."""

    state: Literal["ok", "note", "fix"]
    topic: str
    fact: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All that was found; `findings` are in the order of the checks."""

    program: str
    python: str
    system: str
    packages: dict[str, str]  # version by distribution, "" = not installed
    findings: list[Finding]

    @property
    def to_fix(self) -> int:
        """Number of findings that must be fixed."""
        return sum(finding.state == "fix" for finding in self.findings)

    def text(self) -> str:
        """Return the report for people: versions, findings by state, a closing line."""
        versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in self.packages.items())
        lines = [self.program, self.python, self.system, versions, ""]
        for finding in sorted(self.findings, key=lambda found: ("ok", "note", "fix").index(found.state)):
            lines.append(f"{finding.state:5} {finding.topic}: {finding.fact}")
            lines += [f"      -> {finding.remedy}"] if finding.remedy else []
        return "\n".join([*lines, "", f"{self.to_fix} to fix" if self.to_fix else "nothing to fix"])

    def json(self) -> str:
        """Return the report for programs."""
        return json.dumps({**asdict(self), "to_fix": self.to_fix}, indent=2)


def examine(folder: Path) -> Report:
    """Examine the installation and the machine; `folder` is where runs are going to be written."""
    from foretrain import __version__

    checks = (_python(), _packages(), _own_files(), _devices(), _compiler(), _threads(), _hub(), _disk(folder),
              _memory(), _limits())  # fmt: skip
    return Report(
        program=f"foretrain {__version__} ({Path(__file__).parents[1]})",
        python=f"python {platform.python_version()} ({sys.executable})",
        system=f"system {platform.platform()}",
        packages={name: _version(name) for name in (*PACKAGES, *EXTRAS)},
        findings=[finding for check in checks for finding in check],
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> Iterator[Finding]:
    newest = ".".join(map(str, NEWEST_PYTHON))
    if sys.version_info[:2] > NEWEST_PYTHON:
        fact = f"{platform.python_version()} is newer than {newest}, the newest that the tests were run with"
        yield Finding("note", "python", fact, f"if something fails, make an environment with Python {newest}")
    else:
        yield Finding("ok", "python", platform.python_version())
    if sys.getfilesystemencoding().lower() != "utf-8":
        fact = f"names of files are read as {sys.getfilesystemencoding()}, so umlauts in them fail"
        yield Finding("fix", "encoding", fact, "export PYTHONUTF8=1")


def _packages() -> Iterator[Finding]:
    bad = list(_unmet())
    if bad:
        names = " ".join(f"'{requirement}'" for requirement, _ in bad)
        yield Finding("fix", "packages", "; ".join(fact for _, fact in bad), f"pip install {names}")
    else:
        yield Finding("ok", "packages", "all that foretrain requires are installed")
    for name, (extra, use) in EXTRAS.items():
        if not _version(name):
            remedy = f"pip install 'foretrain[{extra}]', or pip install {name.replace('_', '-')}"
            yield Finding("note", f"extra {extra}", f"no {name}, so no {use}", remedy)


def _unmet() -> Iterator[tuple[str, str]]:
    """Yield (requirement, what is wrong) of each required package that is missing or too old."""
    try:
        from packaging.requirements import Requirement

        stated = importlib.metadata.requires("foretrain") or []
    except (ImportError, importlib.metadata.PackageNotFoundError):  # a source tree that is not installed
        yield from ((name, f"{name} is not installed") for name in PACKAGES if not _version(name))
        return
    for requirement in map(Requirement, stated):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found, needed = _version(requirement.name), f"{requirement.name}{requirement.specifier}"
        if not found:
            yield needed, f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield needed, f"{requirement.name} {found} is installed, {needed} is required"


def _own_files() -> Iterator[Finding]:
    from foretrain.models.shipped import DEFAULT, describe, shipped
    from foretrain.run.shipped import config_folder, shipped_names

    again = "pip install --force-reinstall --no-deps foretrain, or the file that it was installed from"
    if DEFAULT in shipped():
        yield Finding("ok", "model in the box", "; ".join(map(describe, shipped())))
    else:
        yield Finding("fix", "model in the box", "is missing: forecasts need a model's name", again)
    if shipped_names():
        yield Finding("ok", "configs", f"{len(shipped_names())} shipped in {config_folder()} (foretrain config list)")
    else:
        yield Finding("fix", "configs", f"none in {config_folder()}", again)


def _devices() -> Iterator[Finding]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old driver, which is a finding
        usable = torch.cuda.is_available()
    nvidia = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if usable:
        yield from _cards()
    elif nvidia and not torch.version.cuda:
        fact = f"an NVIDIA driver is here, but torch {torch.__version__} is built for the CPU and sees no GPU"
        yield Finding("fix", "gpu", fact, f"install a CUDA build of torch: {TORCH_COMMANDS}")
    elif nvidia and hidden in ("", "-1"):
        yield Finding("note", "gpu", f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    elif nvidia:
        fact = f"an NVIDIA driver is here, but torch cannot use it: {_cuda_error()}"
        remedy = f"update the driver, or install torch for an older CUDA than {torch.version.cuda}: {TORCH_COMMANDS}"
        yield Finding("fix", "gpu", fact, remedy)
    elif torch.backends.mps.is_available():
        yield Finding("ok", "gpu", "mps; --device mps uses it")
    else:
        built = f"with CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
        yield Finding("ok", "gpu", f"none, so the CPU computes (torch is built {built})")


def _cards() -> Iterator[Finding]:
    import torch

    known = [int(name.removeprefix("sm_").rstrip("af")) for name in torch.cuda.get_arch_list() if name[:3] == "sm_"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        fact = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute {card.major}.{card.minor}"
        if known and card.major * 10 + card.minor < min(known):
            remedy = f"install a torch that still has kernels for it ({TORCH_COMMANDS}), or compute with --device cpu"
            yield Finding("fix", f"cuda:{index}", f"{fact}, for which this torch has no kernels", remedy)
        else:
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
            yield Finding("ok", f"cuda:{index}", f"{fact}, CUDA {torch.version.cuda}, {bf16}")
    shared = Path("/dev/shm")
    if torch.cuda.device_count() > 1 and shared.is_dir():
        size = shutil.disk_usage(shared).total / 2**30
        if size < LEAST_SHARED:
            fact = f"has {size:.2f} GiB, by which NCCL's processes exchange data"
            yield Finding("fix", "/dev/shm", fact, "docker run --shm-size=1g, or mount -o remount,size=1G /dev/shm")


def _cuda_error() -> str:
    """Return the first sentence of why torch cannot use CUDA."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0][:200]
    return "it sees no device"


def _compiler() -> Iterator[Finding]:
    named = os.environ.get("CXX")
    found = next((path for name in (named, "g++", "clang++", "c++", "cl") if name and (path := shutil.which(name))), "")
    use = "training.compile"
    if not found:
        remedy = "apt install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora), xcode-select --install (macOS)"
        yield Finding("note", "compiler", f"no C++ compiler, so {use} cannot work", remedy)
    elif not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        fact = f"{found}, but no headers of Python, so {use} cannot work"
        yield Finding("note", "compiler", fact, "apt install python3-dev (Debian, Ubuntu), or a Python that has them")
    else:
        yield Finding("ok", "compiler", f"{found}, for {use}")


def _threads() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = min(float(cores), _quota() or cores)
    threads, least = torch.get_num_threads(), max(1, int(allowed))
    fact = f"{cores} cores usable, torch uses {threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    if threads > max(1.0, allowed):
        why = f"OMP_NUM_THREADS={set_to}" if (set_to := os.environ.get("OMP_NUM_THREADS")) else "this container's limit"
        remedy = f"export OMP_NUM_THREADS={least}, or give --threads {least}"
        yield Finding("fix", "cpu", f"{fact}, more than the {allowed:g} cores that it may use ({why})", remedy)
    else:
        yield Finding("ok", "cpu", fact)
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.upper() != "PASSIVE":
        fact = f"OMP_WAIT_POLICY={policy}: two processes on busy cores can be tens of times slower"
        yield Finding("fix", "openmp", fact, "unset OMP_WAIT_POLICY; the command then sets PASSIVE")


def _quota() -> float | None:
    """Return the number of cores that the container's quota allows (cgroup v2); None without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    held = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    kept = f"{held} model{'' if held == 1 else 's'} in {cache}"
    existing = next(place for place in (cache, *cache.parents) if place.exists())
    if not os.access(existing, os.W_OK):
        fact = f"{cache} cannot be written, so published weights cannot be downloaded"
        yield Finding("fix", "hub", fact, "export HF_HOME=FOLDER, one that can be written")
    elif constants.HF_HUB_OFFLINE:
        fact = f"HF_HUB_OFFLINE is set: published weights open only if downloaded before ({kept})"
        yield Finding("note", "hub", fact, "unset HF_HUB_OFFLINE to download others; a local folder opens without")
    else:
        yield Finding("ok", "hub", f"published weights are downloaded when first named ({kept}); no network was tried")


def _disk(folder: Path) -> Iterator[Finding]:
    folder = folder.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    other = "FOLDER on another disk, or free space"
    places = {
        "disk": (existing, f"--output-dir or --out {other}"),
        "scratch": (Path(tempfile.gettempdir()), f"export TMPDIR={other}"),
    }
    for topic, (place, remedy) in places.items():
        free = shutil.disk_usage(place).free / 2**30
        fact = f"{free:,.1f} GiB free in {place}"
        use = "checkpoints" if topic == "disk" else "imported files"
        if topic == "disk" and folder.is_file():
            yield Finding("fix", topic, f"{folder} is a file", "name a folder: foretrain doctor FOLDER")
        elif not os.access(place, os.W_OK):
            yield Finding("fix", topic, f"{place} cannot be written", remedy)
        elif free < LEAST_DISK:
            yield Finding("fix", topic, f"{fact}; {use} may not fit", remedy)
        else:
            yield Finding("ok", topic, fact)


def _memory() -> Iterator[Finding]:
    free = _free_memory()
    if free is not None and free < LEAST_MEMORY:
        remedy = "end other programs; smaller training.micro_batch_size (train) or --batch-size (forecast, evaluate)"
        yield Finding("note", "memory", f"{free:.1f} GiB free", remedy)
    elif free is not None:
        yield Finding("ok", "memory", f"{free:.1f} GiB free")


def _free_memory() -> float | None:
    """Return the GiB that processes can still take on Linux, within the container's limit; None elsewhere."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, ValueError, KeyError):
        return None
    try:
        folder = Path("/sys/fs/cgroup")
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, (int(limit) - int(used)) / 2**30)
    except (OSError, ValueError):
        return free


def _limits() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        fact = f"a process may open {files} files; corpora of many shards need more"
        own = most == resource.RLIM_INFINITY or most >= LEAST_FILES
        remedy = (
            f"ulimit -n {LEAST_FILES}" if own else f"as root: ulimit -n {LEAST_FILES}; or docker run --ulimit nofile"
        )
        yield Finding("fix", "open files", fact, remedy)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY:
        fact = f"a file may have {size / 2**30:.2f} GiB; checkpoints and shards can be larger"
        yield Finding("fix", "file size", fact, "ulimit -f unlimited")
