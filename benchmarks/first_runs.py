"""CPU time of what a newcomer starts first, in fresh processes: configs that generate their data, and examples.

    python -m benchmarks.first_runs [--only TEXT] [--json FILE]

The figure is user and system time of the whole command, from the start of Python to its end, with one thread: the least
of two runs (one with --quick). On an idle machine it is the time that the command takes on one core.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import harness

ROOT = Path(__file__).parents[1]
CASES = (
    *(
        f"{name}.yaml"
        for name in ("debug", "linear/quick", "kronos/debug", "toto/quick", "toto2/quick", "chronos2/test")
    ),
    *sorted(f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")),
)


def command(case: str, scratch: str) -> list[str]:
    """Return the arguments of Python for a config or an example."""
    if case.endswith(".py"):
        return [case]
    return ["-m", "foretrain.cli", "train", f"configs/{case}", "--threads", "1", f"output_dir={scratch}/run"]


def cpu_seconds(case: str) -> float:
    """Run a config or an example; return the CPU seconds of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, *command(case, scratch)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure every case that was asked for."""
    options = harness.parser(__doc__ or "").parse_args()
    chosen = [case for case in CASES if options.only is None or options.only in case]
    runs = 1 if options.quick else 2
    harness.finish(
        [harness.result(case, min(cpu_seconds(case) for _ in range(runs)), None) for case in chosen], options.json
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
