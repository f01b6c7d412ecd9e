"""Time two checkouts of foretrain in turn, case by case, and compare the least CPU time of both.

    python tests/proofs/same_speed.py OLD NEW [--turns 25] [--only TEXT] [--json FILE]

For a change that must not cost speed. OLD and NEW are folders with a checkout each; both run with this interpreter and
its packages, each in a process of its own that has imported everything. They take turns: each forks a process that
prepares a case on files both sides share and then reports the CPU time (user and system) of the case alone. The least
of all turns counts, since other work on the machine only adds to it. Cases are training windows and opening a corpus,
by the functions of benchmarks/data.py, and whole commands; of those that train or forecast, a fifth of the turns are
made. Printed are both figures, and new / old (below 1 = the new one is faster).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS = {  # name: words; RELEASE, CORPUS, FILE and FOLDER are shared inputs, OUT a new path
    "data import FILE": "data import FILE --out OUT",
    "data import FOLDER": "data import FOLDER --out OUT",
    "data inspect CORPUS": "data inspect CORPUS",
    "forecast RELEASE FILE": "forecast RELEASE FILE --prediction-length 24 --out OUT.csv",
    "evaluate RELEASE": "evaluate RELEASE --data CORPUS --num-windows 4 --split all --out OUT",
    "train, 50 steps": "train CONFIG output_dir=OUT training.max_steps=50",
}
RARE = ("forecast", "evaluate", "train")  # these take seconds


def functions(folder: Path) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return the cases that are functions: each prepares itself and returns what is timed."""
    from benchmarks import data

    def windows(corpus: str, size: int, **options: Any) -> Callable[[], Callable[[], Any]]:
        return lambda: data.batches(data.source_of(folder / corpus, **options), size)

    return {
        "4,096 full windows by 256": windows("long", 256, full=True),
        "4,096 padded windows by 256": windows("long", 256, full=False),
        "4,096 padded windows by 1,024": windows("long", 1024, full=False),
        "4,096 padded windows by 256, epochs": windows("long", 256, full=False, sampling="epoch"),
        "4,096 windows of 6 variates by 64": windows("wide", 64, full=False),
        "open 100,000 series": lambda: lambda: data.open_ours(folder / "many"),
        "open 100,000 series to first batch": lambda: lambda: data.first_batch(folder / "many"),
    }


def prepare(folder: Path) -> None:
    """Write the inputs that both sides read."""
    import numpy as np
    from benchmarks import data

    data.write_long_series(folder / "long", 500)
    data.write_long_series(folder / "wide", 100, 6)
    data.write_many_series(folder / "many", 100_000)
    (folder / "files").mkdir()
    days = np.arange("2000-01-01", "2010-01-01", dtype="M8[D]").astype(str)
    values = np.random.default_rng(0).standard_normal((50, len(days))).cumsum(1).round(2)
    for number, row in enumerate(values):
        lines = [f"{day},{value}" for day, value in zip(days, row, strict=True)]
        (folder / "files" / f"{number}.csv").write_text("\n".join(["timestamp,target", *lines, ""]))
    command(["train", "configs/debug.yaml", f"output_dir={folder}/run", "training.max_steps=10"])
    command(["data", "import", str(folder / "files"), "--out", str(folder / "corpus")])


def command(words: list[str]) -> None:
    """Run a command of this side's code here, its output thrown away. SystemExit with what it said if it fails."""
    from foretrain.cli import main

    sys.argv = ["foretrain", *words]
    with tempfile.TemporaryFile("w+") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            if end.code:
                said.seek(0)
                raise SystemExit(f"{' '.join(words)}: {end.code}\n{said.read()[-1000:]}") from None


def action_of(case: str, folder: Path, out: Path) -> Callable[[], Any]:
    """Prepare a case and return what is timed."""
    if case not in COMMANDS:
        action = functions(folder)[case]()
        action()  # pages of the corpus, and what is computed once
        return action
    places = {
        "RELEASE": folder / "run" / "release", "CORPUS": folder / "corpus", "FOLDER": folder / "files",
        "FILE": folder / "files" / "0.csv", "CONFIG": "configs/debug.yaml",
    }  # fmt: skip
    words = [str(places.get(word, word)).replace("OUT", str(out)) for word in COMMANDS[case].split()]
    return lambda: command(words)


def serve(folder: Path) -> None:
    """Answer each case named on stdin with its seconds of CPU, from a fork."""
    import torch
    import torch._dynamo

    import foretrain.cli.commands
    import foretrain.evaluation.plots
    import foretrain.run.pipeline  # noqa: F401

    torch.set_num_threads(1)
    reply = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print("ready", file=reply)
    for case in sys.stdin:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            with tempfile.TemporaryDirectory() as scratch:
                if case.strip() == "prepare":
                    prepare(folder)
                    os.write(write, b"0")
                else:
                    action = action_of(case.strip(), folder, Path(scratch) / "out")
                    began = time.process_time()
                    action()
                    os.write(write, str(time.process_time() - began).encode())
                shutil.rmtree(scratch)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            print(answer.read().decode() or "failed", file=reply)
        os.waitpid(child, 0)


class Side:
    """The process of one checkout."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        path = os.pathsep.join([str(checkout / "src"), str(checkout)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, "--serve", str(folder)]
        self.checkout = checkout
        self.process = subprocess.Popen(
            words, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        if answer in ("", "failed"):
            raise SystemExit(f"{self.checkout}: failed, as its output says")
        return answer

    def seconds(self, case: str) -> float:
        """Run a case once."""
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        return float(self._answer())


def main() -> None:
    """Alternate, print a table, write the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("old", type=Path)
    options.add_argument("new", type=Path)
    options.add_argument("--turns", type=int, default=25)
    options.add_argument("--only", metavar="TEXT", default="", help="only cases whose name contains this")
    options.add_argument("--json", type=Path, metavar="FILE")
    chosen = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = (Side(checkout.resolve(), folder) for checkout in (chosen.old, chosen.new))
        old.seconds("prepare")
        for case in [*functions(folder), *COMMANDS]:
            if chosen.only not in case:
                continue
            turns = max(3, chosen.turns // 5) if case.startswith(RARE) else chosen.turns
            figures: dict[str, list[float]] = {"old": [], "new": []}
            for turn in range(turns):
                for side in ("old", "new") if turn % 2 == 0 else ("new", "old"):
                    figures[side].append((old if side == "old" else new).seconds(case))
            least = {side: min(seconds) for side, seconds in figures.items()}
            rows.append({"case": case, "turns": turns, "ratio": least["new"] / least["old"], **least})
            print(
                f"{case:<40}{least['old'] * 1e3:>12,.2f} ms{least['new'] * 1e3:>12,.2f} ms {rows[-1]['ratio']:>7.3f}",
                flush=True,
            )
        for side in (old, new):
            side.process.communicate()
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"load": os.getloadavg()[0], "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        sys.path.append(str(Path.cwd()))
        serve(Path(sys.argv[2]))
    else:
        sys.path.append(str(Path(__file__).parents[2]))
        main()
