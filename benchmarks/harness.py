"""Shared code of the benchmarks: paired timing, the machine's state, the table and the JSON.

Import this module before torch: it sets the number of threads, which OpenMP reads once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a spinning thread would steal the other side's core

Action = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of the table. ratio = reference / ours, in time or in bytes: above 1 we need less."""

    case: str
    ours_s: float
    reference_s: float | None
    ratio: float | None
    equal: float | None  # largest relative difference between the two sides, checked before timing
    threads: int
    load: float
    device: str
    commit: str
    unit: str = "s"


def compare(
    case: str,
    ours: Action,
    reference: Action | None,
    *,
    equal: float | None = None,
    alternations: int = 5,
    device: str = "cpu",
    unit: str = "s",
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Result:
    """Run both sides in turn, once to warm up and then `alternations` times; the best of each side counts.

    clock time.process_time counts CPU seconds, which other work on the machine disturbs less.
    """
    sides = [ours] if reference is None else [ours, reference]
    if warm_up:
        for side in sides:
            side()
    best = [float("inf")] * len(sides)
    for _ in range(alternations):
        for k, side in enumerate(sides):
            start = clock()
            side()
            best[k] = min(best[k], clock() - start)
    return result(case, best[0], best[1] if len(best) > 1 else None, equal=equal, device=device, unit=unit)


def result(
    case: str,
    ours: float,
    reference: float | None,
    *,
    equal: float | None = None,
    device: str = "cpu",
    unit: str = "s",
) -> Result:
    """Return and print a result from given measurements, with the machine's state."""
    ratio = None if reference is None else reference / ours
    line = Result(case, ours, reference, ratio, equal, THREADS, os.getloadavg()[0], describe(device), commit(), unit)
    print(row(line), flush=True)
    return line


def subprocess_figure(module: str, arguments: Sequence[str]) -> float:
    """Run `python -m module arguments` in a new process (for peak memory); return the number it prints last."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def peak_growth(action: Action) -> float:
    """Return the growth of peak resident memory from an action, in bytes (Linux; call it once, early)."""
    import resource

    before = _resident()
    action()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(peak - before)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def difference(a: Sequence[object], b: Sequence[object]) -> float:
    """Return the largest |a - b| / (|b| + 1) over pairs of tensors."""
    return max(float(((x - y).abs() / (y.abs() + 1)).max()) for x, y in zip(a, b, strict=True))  # type: ignore


def describe(device: str) -> str:
    """Return the name of the processor or accelerator."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({os.cpu_count()} cores)"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def commit() -> str:
    """Return the short commit hash, with + if the working tree differs."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def row(line: Result) -> str:
    """Return a line of the table."""

    def figure(value: float | None) -> str:
        if value is None:
            return "-"
        if line.unit == "parameters":
            return f"{value:,.0f}"
        return f"{value / 2**20:,.0f} MiB" if line.unit == "bytes" else f"{value * 1e3:,.2f} ms"

    ratio = "-" if line.ratio is None else f"{line.ratio:.2f}x"
    equal = "-" if line.equal is None else f"{line.equal:.1e}"
    return f"{line.case:<44} {figure(line.ours_s):>14} {figure(line.reference_s):>14} {ratio:>8}   equal to {equal}"


def parser(description: str, references: Sequence[str] = ("upstream",)) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--against", choices=references, help="measure this beside ours (needs its package)")
    parser.add_argument("--quick", action="store_true", help="fewer alternations: shows that it runs")
    parser.add_argument("--only", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as a JSON list")
    parser.add_argument("--device", default="cpu")
    return parser


def finish(results: Sequence[Result], path: Path | None) -> None:
    """Print the conditions and write the JSON."""
    if not results:
        raise SystemExit("no case matches; drop --only to see their names.")
    last = results[-1]
    print(f"threads {THREADS}, load {last.load:.2f}, {last.device}, commit {last.commit}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(line) for line in results], indent=1) + "\n", encoding="utf-8")
