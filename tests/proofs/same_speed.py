"""Time two checkouts of foretrain in turn by their own benchmarks, and compare the medians.

    python tests/proofs/same_speed.py OLD NEW [--alternations 5] [--only TEXT] [--json FILE]

For a change of structure that must not cost speed. OLD and NEW are folders with a checkout each; both run with this
interpreter and its packages. Each alternation runs `python -m benchmarks.chronos2 --quick` and
`python -m benchmarks.data --quick` of one checkout and then of the other. Printed is, for each case, the median of both
sides and old / new (above 1 = the new one is faster), and the median of these ratios. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

BENCHMARKS = ("benchmarks.chronos2", "benchmarks.data")


def measured(checkout: Path, module: str, only: str | None) -> dict[str, float]:
    """Seconds of every timed case of one run of a benchmark, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        words = [sys.executable, "-m", module, "--quick", "--json", str(result)]
        environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(
            words + (["--only", only] if only else []), cwd=checkout, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{checkout}: {module} failed:\n{done.stderr[-2000:]}")
        return {line["case"]: line["ours_s"] for line in json.loads(result.read_text()) if line["unit"] == "s"}


def main() -> None:
    """Alternate, print a table, write the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("old", type=Path)
    options.add_argument("new", type=Path)
    options.add_argument("--alternations", type=int, default=5)
    options.add_argument("--only", metavar="TEXT", help="only cases whose name contains this")
    options.add_argument("--json", type=Path, metavar="FILE")
    chosen = options.parse_args()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"old": [], "new": []})
    for turn in range(chosen.alternations):
        for module in BENCHMARKS:
            for side in ("old", "new") if turn % 2 == 0 else ("new", "old"):
                for case, seconds in measured(getattr(chosen, side).resolve(), module, chosen.only).items():
                    figures[case][side].append(seconds)
    rows = []
    for case, sides in figures.items():
        old, new = (statistics.median(sides[side]) for side in ("old", "new"))
        rows.append({"case": case, "old_s": old, "new_s": new, "ratio": old / new, **sides})
        print(f"{case:<56} {old * 1e3:>12,.2f} ms {new * 1e3:>12,.2f} ms {old / new:>7.3f}")
    overall = statistics.median(row["ratio"] for row in rows)
    print(f"median of the ratios old / new: {overall:.3f} ({chosen.alternations} alternations)")
    if chosen.json:
        chosen.json.write_text(json.dumps({"median_ratio": overall, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
