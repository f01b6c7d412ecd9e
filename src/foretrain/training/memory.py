"""Memory of a training: what a device has left, what tensors take, and what to lower if it does not suffice."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from foretrain.distributed.world import World
from foretrain.errors import TrainingError, out_of_memory
from foretrain.training.offload import could_offload
from foretrain.training.settings import StepPlan, TrainingConfig

_CGROUPS = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self")
# by version of control groups: the files of a group's limit and use, and the entry of memory.stat for cached files
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(device: torch.device) -> int:
    """Return the bytes that tensors of this process may still take on a device; on a CPU without any swapping."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    return host_memory()


def host_memory(proc: Path = Path("/proc"), groups: Path = _CGROUPS) -> int:
    """Return the bytes of RAM that processes can still take: what is free or only caches files, within the limits of
    all control groups above this process, and within its limit of addresses."""
    found = [_free_memory(proc)]
    for folder in _groups(proc, groups):
        found += [room for names in _GROUP_FILES if (room := _room_of_group(folder, *names)) is not None]
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int((proc / "self" / "statm").read_text().split()[0])
            found.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(min(found), 0)


def _free_memory(proc: Path) -> int:
    """Return the bytes of the host that are free or can be freed; without Linux's count half of all."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _groups(proc: Path, mount: Path) -> Iterator[Path]:
    """Yield the folders of this process' control groups and of all above them.

    A container may not see its own group at the path that /proc names; then its root stands for it.
    """
    text = ""
    with suppress(OSError):
        text = (proc / "self" / "cgroup").read_text()
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        kind, _, path = rest.partition(":")
        if kind not in ("", "memory"):
            continue
        root = mount / kind
        folder = root / path.lstrip("/")
        yield from (place for place in (folder, *folder.parents) if place == root or root in place.parents)


def _room_of_group(folder: Path, limit: str, used: str, cached: str) -> int | None:
    """Return the bytes that a control group has left; None without a limit. Cached files make room when needed."""
    with suppress(OSError, ValueError):
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())
        with suppress(OSError, ValueError, KeyError):
            lines = (folder / "memory.stat").read_text().splitlines()
            now -= int(dict(line.split(maxsplit=1) for line in lines)[cached])
        return most - now
    return None


class PeakOfTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside, on any device.

    Attributes:
        live: bytes of those that still exist.
        peak: the most that existed at once. What kernels allocate for themselves is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        kwargs = kwargs or {}
        for value in tree_iter((args, kwargs)):
            self._meet(value, made=False)
        result = func(*args, **kwargs)
        for value in tree_iter(result):
            self._meet(value, made=True)
        self.peak = max(self.peak, self.live)
        return result

    def _meet(self, value: Any, *, made: bool) -> None:
        """Count the storage of a tensor that is met for the first time, until it is freed."""
        if not isinstance(value, torch.Tensor):
            return
        storage = value.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes() if made else 0
        self._known.add(address)
        self.live += size
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


class ResidentGrowth:
    """How much more of the host's memory this process takes at its peak from now on: of Linux with glibc."""

    def __init__(self) -> None:
        self._before: int | None = None
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # or the heap would give memory that the process has already
            (_SELF / "clear_refs").write_text("5")  # forgets the earlier peak
            self._before = _status("VmRSS")

    def bytes(self) -> int | None:
        """Return the growth; None where it is not known."""
        peak = None if self._before is None else _status("VmHWM")
        return None if peak is None or self._before is None else peak - self._before


def _status(name: str) -> int | None:
    """Return bytes that the kernel tells of this process."""
    with suppress(OSError, ValueError, IndexError):
        for line in (_SELF / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


@contextmanager
def naming_what_to_lower(world: World, ways: Callable[[], Iterable[str]], doing: str = "") -> Iterator[None]:
    """Raise a TrainingError in place of any error of memory inside: what to lower, in the order of its effect."""
    try:
        yield
    except Exception as error:  # libraries raise errors of memory of many types
        if (said := out_of_memory(error)) is None:
            raise
        text = "; ".join(ways())
        raise TrainingError(
            f"out of memory{doing} on {world.device} ({said}). What takes less, in the order of effect: {text}. Then "
            "--resume."
        ) from error


def ways_of_training(
    config: TrainingConfig, plan: StepPlan, settings: Mapping[str, Any], world: World
) -> Iterator[str]:
    """Yield what makes a step take less memory than now, the most effective first. settings: the run's whole config,
    dumped, as far as it is known."""
    data = settings.get("data") or {}
    if plan.unit == "windows":
        if plan.micro_batch_size > 1:
            yield f"a lower training.micro_batch_size (now {plan.micro_batch_size:,}; the result differs by rounding)"
    elif (budget := config.token_budget) is not None:
        yield f"in a new run a lower training.token_budget.max_tokens_per_batch (now {budget.max_tokens_per_batch:,})"
    else:
        tokens = (data.get("generated") or {}).get("max_tokens")
        yield f"in a new run a lower data.generated.max_tokens (now {tokens:,})"
    if config.activation_checkpointing != "full":
        yield f"training.activation_checkpointing=full (now {config.activation_checkpointing})"
    if could_offload(config, world.device):
        yield "training.offload_optimizer=true (now false)"
    now = f" (now {data['context_length']:,})" if "context_length" in data else ""
    yield f"in a new run a lower data.context_length{now}"
    if world.size == 1:
        yield "several processes with training.parallel=fsdp"
    elif config.parallel not in ("fsdp", "hsdp"):
        yield f"training.parallel=fsdp (now {config.parallel})"


def ways_of_validation(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what makes a validation take less memory than now; settings as of ways_of_training."""
    evaluation = settings.get("evaluation") or {}
    now = f" (now {evaluation['batch_size']:,} rows)" if "batch_size" in evaluation else ""
    yield f"a lower evaluation.batch_size{now}"
    if evaluation.get("num_samples") is not None:
        yield f"in a new run a lower evaluation.num_samples (now {evaluation['num_samples']:,})"
