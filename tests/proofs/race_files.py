"""Let commands race for the same corpus, folder, file or cache, and count how they end.

    python tests/proofs/race_files.py [--count 200] [--seed 0] [--kinds updates,trains] [--log FILE] [--keep FOLDER]

Race n is a pure function of (seed, n): a kind in turn, and the moments at which its processes start. Every process is a
fork of this one, which has imported all that the commands need and computed nothing: what races is the commands' own
work, not the seconds of their imports. Afterwards each command must have succeeded, or been refused by one line and
exit code 2; at least one must have succeeded; what they wrote must be whole and of one of them, and hold what every
successful one put there; nothing but that may be left, neither lock nor scratch file. --log appends a line of JSON a
race, and skips the races of this seed that it holds, so that a run that was stopped goes on. --keep copies the folders
of races with a fault. The exit code is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from race_kinds import Kinds
from race_processes import raced

KINDS = [name for name, value in vars(Kinds).items() if not name.startswith("_") and name not in ("corpus", "run")]
KEPT = (".corpus.old",)  # hidden names that may stay: the corpus before its last update


def leftovers(folder: Path, kept: Sequence[str] = ()) -> list[str]:
    """Return the files of a race that no command should have left: hidden ones, locks, reports, scratch data."""
    found = [
        path for path in folder.rglob("*") if path.name.startswith((".", "foretrain-error")) or path.suffix == ".lock"
    ]
    found += list((folder / "tmp").iterdir())
    return sorted({str(path.relative_to(folder)) for path in found if path.name not in (*KEPT, *kept)})


def run(kinds: Kinds, kind: str, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Run one race in an empty folder; return its record."""
    commands, check = getattr(kinds, kind)(folder, rng)
    spread = 0.0 if kind == "shards" else rng.choice((0.0, 0.05, 0.3, 1.0))
    delays = [rng.uniform(0, spread) for _ in commands]
    ended = raced(commands, folder, delays)
    problems = [f"`{' '.join(one.command[:2])}`: {one.fault}" for one in ended if one.fault]
    # a page of memory that cannot be read ends a process as kill -9 does: the next one takes its lock over
    kept = ("run.lock",) if kind == "shards" else ()
    problems += [f"left behind: {', '.join(left)}" for left in [leftovers(folder, kept)] if left]
    if not problems:
        problems = [problem for problem in [check(ended)] if problem]
    refusals = [line for one in ended for line in one.said.splitlines() if line.startswith("error: ")]
    return {
        "kind": kind,
        "delays": [round(delay, 3) for delay in delays],
        "codes": [one.code for one in ended],
        "refusals": refusals,
        "problems": problems,
        **({"said": [one.said[-2000:] for one in ended]} if problems else {}),
    }


def main() -> int:
    """Run the races, print counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help=f"comma-separated (default: all of {', '.join(KINDS)})")
    parser.add_argument("--log", type=Path, help="file of records, one a line, to add to and to go on from")
    parser.add_argument("--keep", type=Path, help="folder for the folders of races that ended in a fault")
    args = parser.parse_args()
    import torch._dynamo  # noqa: F401

    import foretrain.cli.commands
    import foretrain.cli.quick_steps
    import foretrain.cli.train
    import foretrain.data.frames
    import foretrain.data.synthetic.to_disk
    import foretrain.evaluation.plots
    import foretrain.evaluation.report
    import foretrain.forecasting.predictor  # noqa: F401

    chosen, records, began = args.kinds.split(",") if args.kinds else KINDS, list[dict[str, Any]](), time.monotonic()
    if args.log is not None and args.log.exists():
        records = [json.loads(line) for line in args.log.read_text().splitlines()]
        records = [record for record in records if record["seed"] == args.seed and record["kind"] in chosen]
    past = {record["number"] for record in records}
    name = tempfile.mkdtemp(prefix="races-")  # a TemporaryDirectory would be deleted by the first process that ends
    try:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        (base := Path(name, "base")).mkdir()
        kinds = Kinds(base)
        for number in range(args.count):
            if number in past:
                continue
            folder = Path(name, "race", "here")
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            found = run(kinds, chosen[number % len(chosen)], folder, random.Random(f"{args.seed}/{number}"))
            record = {"seed": args.seed, "number": number, **found}
            records.append(record)
            if args.log is not None:
                with args.log.open("a") as log:
                    log.write(json.dumps(record) + "\n")
            if record["problems"]:
                print(f"race {number}, {record['kind']}: {'; '.join(record['problems'])}", flush=True)
                if args.keep is not None:
                    shutil.copytree(folder.parent, args.keep / f"{args.seed}-{number}-{record['kind']}", symlinks=True)
    finally:
        shutil.rmtree(name)
    for kind in chosen:
        own = [record for record in records if record["kind"] == kind]
        codes = Counter(code for record in own for code in record["codes"])
        faults = sum(bool(record["problems"]) for record in own)
        print(f"{kind:22}{len(own):5} races: {codes[0]:4} succeeded, {codes[2]:4} refused, {faults} faults")
    total = Counter(code for record in records for code in record["codes"])
    summary = {"seed": args.seed, "races": len(records), "processes": total.total()}
    summary |= {"succeeded": total[0], "refused": total[2], "faults": sum(bool(r["problems"]) for r in records)}
    print(json.dumps(summary | {"seconds": round(time.monotonic() - began)}))
    return int(summary["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())
