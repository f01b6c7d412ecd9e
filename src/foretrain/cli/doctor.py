"""`foretrain doctor`: versions, devices, threads and known traps, to be pasted into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    "torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "datasets", "huggingface_hub", "matplotlib",
    "scipy", "tensorboard", "typer", "rich", "peft", "pytorch_optimizer",
)  # fmt: skip


def examine() -> Iterator[str]:
    """Yield the lines of the report; lines with `trap:` name a setting known to cost time or correctness."""
    from foretrain import __version__
    from foretrain.models.shipped import describe, shipped

    yield f"foretrain {__version__}"
    yield f"python {platform.python_version()} ({sys.executable})"
    yield f"system {platform.platform()}"
    for name in PACKAGES:
        yield f"{name} {_version(name)}"
    for name in shipped():
        yield f"model in the box: {describe(name)}"
    yield from _compute()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield f"disk: {free:,.1f} GiB free in the current folder"
    if free < 1:
        yield "trap: less than 1 GiB free here; checkpoints may not fit."


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _compute() -> Iterator[str]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = _cgroup_cores()
    threads = torch.get_num_threads()
    yield f"cpu: {usable} cores usable, torch uses {threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    if allowed is not None and allowed < threads:
        yield f"trap: this container may use {allowed:.1f} cores but torch starts {threads} threads; use --threads."
    if os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        yield "trap: OMP_WAIT_POLICY is not PASSIVE; two processes on busy cores can be tens of times slower."
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}: {card.name}, {card.total_memory / 2**30:.0f} GiB, compute {card.major}.{card.minor}"
        yield f"cuda {torch.version.cuda}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
    else:
        yield f"cuda: none (torch built {'with CUDA ' + torch.version.cuda if torch.version.cuda else 'for CPU'})"
        if shutil.which("nvidia-smi"):
            yield "trap: nvidia-smi is here but torch sees no GPU; install a CUDA build (TORCH_INDEX_URL in make)."
    if torch.backends.mps.is_available():
        yield "mps: available"
    if not shutil.which("gcc") and not shutil.which("clang"):
        yield "trap: no C compiler; training.compile cannot work on CPU."


def _cgroup_cores() -> float | None:
    """Return the number of cores that the container's quota allows (cgroup v2); None without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
