"""Kinds of CPUs, and whether training in bfloat16 pays there: records of measurements, by which `dtype: auto` decides.

Nothing is timed when a run starts: another choice would change the last bits of a resumed run, and a busy machine
chooses otherwise than a quiet one. A CPU or a width that no record covers trains in float32.

An instruction set alone says too little: with avx512_bf16 training was faster on AMD's Zen 4, and is slower on an Intel
Xeon whose matrix unit (AMX) the virtual machine hides; its instruction does half of float32's operations a second.
`python -m benchmarks.bf16` measures a record.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_CPUINFO = Path("/proc/cpuinfo")


class Processor(NamedTuple):
    """What Linux says of a CPU; empty elsewhere."""

    vendor: str = ""
    family: int = 0
    flags: frozenset[str] = frozenset()


class Record(NamedTuple):
    """A measurement of training steps, from this width up; both types alternated in one process, on one thread."""

    kind: str  # of CPU
    family: str  # of models
    width: int  # of the hidden states, the smallest that was measured
    ratio: float  # seconds of float32 / seconds of bfloat16


KINDS: dict[str, Callable[[Processor], bool]] = {
    "AMD Zen 4": lambda cpu: cpu.vendor == "AuthenticAMD" and cpu.family == 25 and "avx512_bf16" in cpu.flags,
    "Intel with avx512_bf16 and without amx_bf16": lambda cpu: (
        cpu.vendor == "GenuineIntel" and "avx512_bf16" in cpu.flags and "amx_bf16" not in cpu.flags
    ),
}
RECORDS = (
    # chronos2/small at context 2048 on one Zen 4 core, before there were hand-written passes in bfloat16
    Record("AMD Zen 4", "chronos2", 512, 1.55),
    # context 2048 on one core of an Emerald Rapids Xeon: benchmarks/results/bf16-cpu.json
    Record("Intel with avx512_bf16 and without amx_bf16", "chronos2", 256, 0.72),
    Record("Intel with avx512_bf16 and without amx_bf16", "chronos2", 512, 0.63),
)


def kind_of(cpu: Processor) -> str:
    """Return the name of a CPU's kind; "" if there is no record of such a one."""
    return next((kind for kind, holds in KINDS.items() if holds(cpu)), "")


def record_of(kind: str, family: str, width: int) -> Record | None:
    """Return the record that covers a model of this family and width on a kind of CPU; None if there is none."""
    found = [r for r in RECORDS if (r.kind, r.family) == (kind, family) and r.width <= width]
    return max(found, key=lambda record: record.width, default=None)


@functools.cache
def this_processor() -> Processor:
    """Return what Linux says of this machine's first CPU."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor()
    return processor_in(text)


def processor_in(text: str) -> Processor:
    """Return the first CPU in the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    family = found.get("cpu family", "")
    return Processor(
        found.get("vendor_id", ""), int(family) if family.isdigit() else 0, frozenset(found.get("flags", "").split())
    )
