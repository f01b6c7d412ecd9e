"""Score models on the panels of benchmarks/panels.yaml with `foretrain benchmark --suite local`, a call for each panel.

    python -m benchmarks.local_panels MODEL ... --data FOLDER --work DIR [--out RESULTS] [--group all] [--panel NAME]

DIR gets a NAME.npz for each panel, whose arrays are the windows that benchmarks.panels scores: each ends with the
values to forecast, so one window an item is scored. RESULTS has MODEL/local/NAME.json afterwards, which `foretrain
compare --from RESULTS` reads. Finished results are kept by a later call. Options after `--` go to `foretrain
benchmark`. The exit code is 1 if a call fails; the others are made all the same.

Each result's seasonal naive is held against the reference of benchmarks.panels, computed here from the float64 values:
the largest relative difference of WQL is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import panels

import numpy as np  # isort: skip  (after the harness, which sets the threads)

from foretrain.suites.results import folder_name


def main() -> None:
    """Write the panels, score every model on them, and check the reference."""
    own, passed = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="what `foretrain benchmark` takes")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the panels")
    parser.add_argument("--work", type=Path, required=True, help="folder for the windows of the panels")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--group", choices=("short", "long", "all"), default="all")
    parser.add_argument("--panel", action="append", default=[], metavar="NAME", help="panels by name; repeatable")
    args = parser.parse_args(own)
    args.work.mkdir(parents=True, exist_ok=True)
    codes, worst = [], 0.0
    for panel in panels.read_panels(panels.PANELS, args.data, args.group):
        if args.panel and panel.name not in args.panel:
            continue
        file = args.work / f"{panel.name}.npz"
        write(panel, file)
        command = [sys.executable, "-m", "foretrain", "benchmark", *args.models, "--suite", "local"]
        command += ["--data", str(file), "--horizon", str(panel.horizon), "--seasonality", str(panel.season)]
        codes.append(subprocess.run([*command, "--out", str(args.out), *passed], check=False).returncode)
        if codes[-1] == 0:
            worst = max(worst, difference(panel, args.models[0], args.out))
    print(f"{len(codes)} panels, {sum(code != 0 for code in codes)} with an error")
    print(f"seasonal naive beside the reference of benchmarks.panels: WQL differs by {worst:.1e} at most (relative)")
    raise SystemExit(1 if any(codes) else 0)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after `--`."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def write(panel: panels.Panel, file: Path) -> None:
    """Write each window of a panel, with the values to forecast at its end, as an array."""
    both = zip(panel.histories, panel.truths, strict=True)
    np.savez_compressed(file, **{f"w{k:05}": np.concatenate(pair) for k, pair in enumerate(both)})


def difference(panel: panels.Panel, model: str, out: Path) -> float:
    """Return how far the seasonal naive beside a result is from the reference, relative."""
    result = json.loads((out / folder_name(model) / "local" / f"{panel.name}.json").read_text(encoding="utf-8"))
    expected = panels.score(panel, panels.reference(panel)).wql
    return abs(result["baseline"]["WQL"] / expected - 1)


if __name__ == "__main__":
    main()
