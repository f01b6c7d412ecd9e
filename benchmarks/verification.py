"""Rate of comparing corpora with their hashes, against this machine's hashlib on the same files.

    python -m benchmarks.verification [--megabytes 256] [--rounds 9] [--json FILE]

Two corpora of equal size, in a few large and in many small shards. In each round every way reads them once, in turn:
hashlib.file_digest on every shard; `verify_folder`, which `data verify` calls; and `Verification`, which every command
that reads a corpus calls, without records of earlier comparisons. The files lie in memory (page cache). Seconds are
CPU time of this process, user and system; a ratio is that of the least seconds, hashlib / other, since other work on
the machine only adds to them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

from foretrain.data.manifest import MANIFEST_NAME, read_manifest
from foretrain.data.verification import Verification, verify_folder
from foretrain.data.writer import CorpusWriter

CASES = {"large shards": 64 << 20, "small shards": 256 << 10}  # bytes of a shard


def written(folder: Path, megabytes: int, shard_bytes: int) -> Path:
    """Write a corpus of random values."""
    rows = 32_768  # 128 KiB an item
    with CorpusWriter(folder, ["target"], time="steps", batch_bytes=rows * 4, shard_bytes=shard_bytes) as writer:
        rng = np.random.default_rng(0)
        for k in range(megabytes * 8):
            writer.append(f"i{k}", rng.random((1, rows), np.float32))
    return folder


def by_hashlib(folder: Path) -> None:
    """Hash every shard, and nothing else."""
    for path in sorted(folder.glob("*.arrow")):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256").hexdigest()


def by_a_command(folder: Path) -> None:
    """Compare as a command does before it reads a corpus."""
    check = Verification([folder], "start")
    check.start()
    check.finish()


WAYS: dict[str, Callable[[Path], object]] = {
    "hashlib": by_hashlib,
    "data verify": verify_folder,
    "Verification": by_a_command,
}


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="size of each corpus")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        for case, size in CASES.items():
            folder = written(Path(name, case), options.megabytes, size)
            shards = read_manifest(folder / MANIFEST_NAME).shards
            total = sum(shard["bytes"] for shard in shards)
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(options.rounds + 1):
                for way, compare in WAYS.items():
                    began = time.process_time()
                    compare(folder)
                    if turn:  # the first one fills the page cache
                        seconds[way].append(time.process_time() - began)
            for way, taken in seconds.items():
                rates = [total / 1e9 / taken_s for taken_s in (max(taken), statistics.median(taken), min(taken))]
                ratio = min(seconds["hashlib"]) / min(taken)
                cases.append({"case": f"{case}, {way}", "shards": len(shards), "bytes": total})
                cases[-1] |= {"gb_per_s": rates, "ratio": ratio}  # least, median and most of the rates
                print(
                    f"{case} ({len(shards):,})  {way:<14}"
                    f"{rates[0]:6.2f} {rates[1]:6.2f} {rates[2]:6.2f} GB/s (least, median, most)  {ratio:.3f}",
                    flush=True,
                )
    if options.json:
        facts = {
            "machine": harness.describe("cpu"),
            "commit": harness.commit(),
            "rounds": options.rounds,
            "cases": cases,
        }
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
