"""The values of `auto` in the training section: what the devices of a run allow.

A rule reads the type of the device, and facts of it: whether a GPU computes in bfloat16, whether torch.compile works
there, and its memory; of a CPU its kind, for which processors.py records whether bfloat16 pays. Processes of a run take
what all of their devices allow, so that they train alike.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.training.processors import RECORDS, kind_of, record_of, this_processor
from foretrain.training.settings import TrainingConfig

TOKENS = 262_144  # of a micro-batch on a GPU with the memory below; kronostraining's and tototraining's default
TOKENS_MEMORY = 22 * 2**30  # bytes; what a GPU sold with 24 GB reports is more
TOKENS_ON_CPU = 32_768


class DeviceFacts(NamedTuple):
    """What the rules of `auto` know of a device."""

    name: str
    type: str  # cpu, cuda or mps
    bfloat16: bool = False  # computes in it, without emulation
    no_compiler: str = ""  # why torch.compile does not work; "" if it does, or if the rule does not ask
    memory: int | None = None  # bytes of a GPU
    kind: str = ""  # of a CPU, of which there are records


class ModelFacts(NamedTuple):
    """What the rules of `auto` know of a model."""

    family: str
    width: int  # of its hidden states; 0 = not known


def settle(
    config: TrainingConfig,
    world: World,
    *,
    window: int = 1,
    saved: Mapping[str, Any] | None = None,
    model: Callable[[], ModelFacts] | None = None,
) -> tuple[TrainingConfig, list[str]]:
    """Return the config with every `auto` replaced by a value, and the line of the log that names these values.

    A micro_batch_size that is not saved stays auto: micro_batch.find tries the model for it.
    A collective if a value is auto. window: (context + horizon) steps x variates of the largest window, which a
    micro-batch must hold. saved: the training section of the run that is resumed, whose values that determine the
    weights stay. model is asked for its facts if there are records of the CPU's kind. Raises ConfigError for a dtype
    that the device does not compute in, and for compile: true without a compiler.
    """
    if config.compile is True and (missing := missing_compiler(world.device)):
        raise ConfigError(
            f"training.compile: {missing}. Install it, or choose auto, which leaves compilation out here."
        )
    before, budget = saved or {}, config.token_budget
    changes, words, kept = dict[str, Any](), list[str](), list[str]()
    if config.micro_batch_size == "auto" and isinstance(size := before.get("micro_batch_size"), int):
        changes["micro_batch_size"] = size
        kept.append(f"auto: training.micro_batch_size {size:,} as the run began")
    if "auto" in (config.dtype, config.compile, budget and budget.max_tokens_per_batch):
        device = _common(world.gather_objects(examine(world.device, compiler=config.compile == "auto")))
        if config.dtype == "auto":
            found, why = _dtype(device, model)
            changes["dtype"] = before.get("dtype", found)
            words.append(f"training.dtype {changes['dtype']}{' as the run began' if 'dtype' in before else why}")
        if config.compile == "auto":
            on = device.type == "cuda" and not device.no_compiler
            changes |= {"compile": on, "compile_mode": config.compile_mode if on else "default"}
            why = f" ({device.no_compiler})" if device.no_compiler else ""
            words.append(f"training.compile {f'true, {config.compile_mode}' if on else f'false{why}'}")
        if budget is not None and budget.max_tokens_per_batch == "auto":
            earlier = (before.get("token_budget") or {}).get("max_tokens_per_batch")
            tokens = earlier or max(tokens_for(device), window)
            changes["token_budget"] = budget.model_copy(update={"max_tokens_per_batch": tokens})
            words.append(f"training.token_budget.max_tokens_per_batch {tokens:,}{' as the run began' * bool(earlier)}")
        words = [f"auto on {device.name}: {'; '.join(words)}"]
    config = config.model_copy(update=changes)
    return config, [*words, *kept, *check_dtype(world.device, config.dtype)]


def _dtype(device: DeviceFacts, model: Callable[[], ModelFacts] | None) -> tuple[str, str]:
    """Return the type for a device, and in words the record that says so."""
    if device.type != "cpu" or not device.kind or model is None:
        return ("bfloat16" if device.bfloat16 else "float32"), ""
    facts = model()
    record = record_of(device.kind, facts.family, facts.width)
    if record is None:
        return "float32", f" (no record of {facts.family} of width {facts.width} on {device.kind})"
    why = f" (bfloat16 trained {facts.family} {record.ratio:.2g} times as fast on {device.kind})"
    return ("bfloat16" if record.ratio > 1 else "float32"), why


def tokens_for(device: DeviceFacts) -> int:
    """Return the tokens of a micro-batch: TOKENS on a GPU of 24 GB, halved for each halving of it; less on a CPU."""
    if device.type != "cuda" or device.memory is None:
        return TOKENS_ON_CPU
    tokens, memory = TOKENS, device.memory
    while memory < TOKENS_MEMORY and tokens > TOKENS_ON_CPU // 8:
        tokens, memory = tokens // 2, memory * 2
    return tokens


def check_dtype(device: torch.device, dtype: str) -> list[str]:
    """Return a note if a device emulates a dtype, or is slower in it than in float32.

    Raises ConfigError if autocast has no such type there.
    """
    if dtype == "float32":
        return []
    problem = _autocast_problem(device, dtype)
    if problem:
        raise ConfigError(
            f"training.dtype: {dtype} does not work on {_name(device)} ({problem}). Choose float32, or auto, which "
            "takes bfloat16 where the device has it."
        )
    if dtype == "bfloat16" and device.type == "cuda" and not _has_bfloat16(device):
        return [f"warning: {_name(device)} emulates bfloat16, slowly; float32 or float16 may be faster there"]
    if dtype == "bfloat16" and device.type == "cpu":
        return slower_in_bfloat16()
    return []


def slower_in_bfloat16() -> list[str]:
    """Return a warning if all that is recorded of this kind of CPU is slower in bfloat16 than in float32."""
    kind = kind_of(this_processor())
    ratios = [record.ratio for record in RECORDS if record.kind == kind]
    if not ratios or max(ratios) >= 1:
        return []
    return [
        f"warning: this CPU ({kind}) trains at {max(ratios):.2g} times the speed in bfloat16; a new run is faster "
        "with training.dtype=float32, or auto"
    ]


@functools.cache
def examine(device: torch.device, *, compiler: bool) -> DeviceFacts:
    """Return what a device can do; compiler: also try torch.compile, which takes seconds on a GPU."""
    if device.type != "cuda":
        return DeviceFacts(_name(device), device.type, kind=kind_of(this_processor()) if device.type == "cpu" else "")
    trouble = compiler_trouble(device) if compiler else ""
    memory = torch.cuda.get_device_properties(device).total_memory
    return DeviceFacts(_name(device), device.type, _has_bfloat16(device), trouble, memory)


def compiler_trouble(device: torch.device) -> str:
    """Return why torch.compile does not work for a device; "" if it compiled a small function."""
    if missing := missing_compiler(device):
        return missing
    try:
        found = torch.compile(_probe)(torch.ones(8, device=device))
        return "" if bool((found == 3).all()) else "it gave a wrong result"
    except Exception as error:  # whatever a compiler, a driver or a missing header raises
        return f"it fails: {' '.join(str(error).split())[:120] or type(error).__name__}"


def missing_compiler(device: torch.device) -> str:
    """Return what torch.compile needs for a device and this host lacks: triton on a GPU, a C compiler; else ""."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    own = [name.split()[0] for name in (os.environ.get("CC"), os.environ.get("CXX")) if name and name.strip()]
    if device.type != "mps" and not any(map(shutil.which, (*own, "cc", "gcc", "clang", "c++", "g++", "clang++"))):
        return "there is no C compiler"
    return ""


def _probe(x: torch.Tensor) -> torch.Tensor:
    return 2 * x + 1


def _common(devices: Sequence[DeviceFacts]) -> DeviceFacts:
    """Return what all devices allow, by the name of the first one."""
    memory = [device.memory for device in devices if device.memory is not None]
    return devices[0]._replace(
        bfloat16=all(device.bfloat16 for device in devices),
        no_compiler=next((device.no_compiler for device in devices if device.no_compiler), ""),
        memory=min(memory, default=None),
        kind=devices[0].kind if len({device.kind for device in devices}) == 1 else "",
    )


def _name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _autocast_problem(device: torch.device, dtype: str) -> str:
    """Return torch's own reason why it has no autocast to a dtype; otherwise it would compute in float32, warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with torch.autocast(device.type, getattr(torch, dtype)):
                return "" if torch.is_autocast_enabled(device.type) else "torch turns it off"
    except (RuntimeError, UserWarning) as error:
        return " ".join(str(error).split())
