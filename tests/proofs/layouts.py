"""Losses of every family in every layout of processes, beside those of one process in float32 and in float64.

    python tests/proofs/layouts.py [FOLDER] [--steps 20]

Each family (tiny, without dropout) is trained whole and with an adapter: in one process, and with DDP, FSDP and HSDP in
two and in four, with one micro-batch a process and with three, of which one process runs only two. The micro-batches of
a step and their order do not depend on the layout. Of each run the largest relative difference of a loss from that of
the same run in float64 is printed; it must be at most 1e-5, and at most 4 times that of one process in float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.models import layouts  # noqa: E402
from tests.models.zoo import Zoo  # noqa: E402
from tests.waiting import start_command, torchrun  # noqa: E402

from foretrain.distributed.world import World  # noqa: E402

FACTOR, MOST = 4, 1e-5


def run_layouts(processes: int, folder: Path, steps: int) -> None:
    """Run all layouts of a number of processes; however long it takes."""
    with start_command(torchrun(processes, "-m", "tests.models.layouts", folder, steps), cwd=ROOT) as process:
        text, _ = process.communicate()
    assert process.returncode == 0, text[-3000:]


def main() -> int:
    """Train all runs and compare them. Returns 1 if one is too far away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder, began = asked.folder or Path(tempfile.mkdtemp()), time.monotonic()
    zoo, cases = Zoo(folder / "parts"), list(layouts.every())
    for name, kind, accumulation in cases:
        for processes in (2, 4):
            count = layouts.micro_batches(processes, accumulation)
            tree, place = layouts.case(zoo, name, kind, count, asked.steps), layouts.folder_of(name, kind, count)
            layouts.run(tree, folder / "one" / place, World())
            layouts.run_in_float64(tree, folder / "float64" / place)
    for processes in (2, 4):
        run_layouts(processes, folder, asked.steps)
    failed = compare(folder, cases)
    print(f"{failed} too far away; {time.monotonic() - began:.0f} s, torch {torch.__version__}")
    return 1 if failed else 0


def compare(folder: Path, cases: list[tuple[str, str, int]]) -> int:
    """Print a line for each run; return how many are too far from float64."""
    failed, most = 0, {layout: (0.0, 0.0) for layout in layouts.LAYOUTS if layout != "one"}
    for name, kind, accumulation in cases:
        for layout in most:
            processes = layouts.LAYOUTS[layout][0]
            place = layouts.folder_of(name, kind, layouts.micro_batches(processes, accumulation))
            found, one, exact = (layouts.losses(folder / part / place) for part in (layout, "one", "float64"))
            away, alone = layouts.away(found, exact), layouts.away(one, exact)
            bad = away > MOST or away > FACTOR * alone
            failed += bad
            most[layout] = max(most[layout][0], away), max(most[layout][1], away / alone)
            print(
                f"{name:17} {kind:8} accumulation {accumulation} {layout:9} {away:.1e}, one process {alone:.1e}, "
                f"{away / alone:.1f} times{'  TOO FAR' if bad else ''}"
            )
    for layout, (away, ratio) in most.items():
        print(f"{layout:9} at most {away:.1e}, {ratio:.1f} times that of one process")
    return failed


if __name__ == "__main__":
    sys.exit(main())
