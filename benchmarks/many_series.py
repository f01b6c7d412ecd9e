"""How long one of many ranks takes from its start to its first batch with millions of series, and what it then holds.

    python -m benchmarks.many_series [--series N ...] [--folder FOLDER] [--runs K] [--only TEXT] [--json FILE]

A corpus of N hourly series of 24 to 40 steps is written to FOLDER (or found there), in shards as an import writes them.
Each case is the start of rank 0 of 512 in a new process, K times, of which the best time counts: from the end of
`import torch` until its first micro-batch is collated, foretrain's imports included. The digest of that micro-batch
tells whether two versions read the same. Memory is what that grew by: "anonymous" is the
process' own, "file" are pages of the corpus that are mapped and that all processes of a machine share; "peak" is the
most of both together (VmHWM). What a checkpoint holds of the loader is counted in bytes of its JSON. The page cache is
warm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

RANKS = 512
SHARD = 1_000_000  # series
CASES: dict[str, dict[str, Any]] = {
    "random": {},
    "epoch": {"sampling": "epoch"},
    "by length": {"series_weighting": "length"},
    "token budget": {"sampling": "epoch"},
    "held out": {"holdout_fraction": 0.01},
    "part of the series": {"max_train_series": 1000, "min_rows": 30},
}
MODEL = {"family": "chronos2", "random_init": True, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1,
         "num_heads": 2, "patch_size": 4, "quantiles": [0.1, 0.5, 0.9]}  # fmt: skip


def write_corpus(folder: Path, count: int) -> Path:
    """Write a corpus of short series, as CorpusWriter lays it out, by whole shards."""
    import pyarrow as pa

    from foretrain.data.manifest import MANIFEST_NAME, make_manifest

    if (folder / MANIFEST_NAME).exists():
        return folder
    folder.mkdir(parents=True)
    rng, shards, rows = np.random.default_rng(0), [], 0
    for number, first in enumerate(range(0, count, SHARD)):
        series = min(SHARD, count - first)
        lengths = rng.integers(24, 41, series)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = rng.standard_normal(int(offsets[-1]), dtype=np.float32)
        inner = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([f"series {k}" for k in range(first, first + series)]),
                pa.ListArray.from_arrays(pa.array(np.arange(series + 1, dtype=np.int32)), inner),
                pa.array(rng.integers(0, 10**5, series) * 3_600_000_000).view(pa.timestamp("us")),
            ],
            names=["item_id", "target", "start"],
        )
        path = folder / f"data-{number:05d}-of-{-(-count // SHARD):05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
            for part in parts_of(batch):
                writer.write_batch(part)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shards.append({"file": path.name, "series": series, "rows": len(values), "values": len(values),
                       "bytes": path.stat().st_size, "sha256": digest})  # fmt: skip
        rows += len(values)
    facts = {"columns": [{"name": "value"}], "time": "regular", "freq": "h", "num_series": count, "num_rows": rows,
             "provenance": {"kind": "synthetic", "sources": [], "command": None}, "shards": shards,
             "content_hash": hashlib.sha256(json.dumps(shards).encode()).hexdigest()}  # fmt: skip
    manifest = make_manifest(facts, source=str(folder))
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def parts_of(batch: Any) -> list[Any]:
    """Divide a batch as a writer does, which begins a new one every 32 MiB."""
    per_part = 250_000
    return [batch.slice(first, per_part) for first in range(0, batch.num_rows, per_part)]


def memory(field: str) -> int:
    """Return a field of /proc/self/status in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}; this benchmark needs Linux.")


def probe(path: str, case: str) -> dict[str, Any]:
    """Start rank 0 of 512 in this process up to its first batch, and return what that took."""
    import torch  # noqa: F401

    start, cpu, before = (
        time.perf_counter(),
        time.process_time(),
        {name: memory(name) for name in ("RssAnon", "RssFile", "VmRSS")},
    )
    from foretrain.config import build
    from foretrain.distributed.world import World
    from foretrain.run.build import build_model, open_source
    from foretrain.run.config import RunConfig
    from foretrain.training.loader import BatchLoader, plan_of

    budget = {"max_tokens_per_batch": 1024, "length_buckets": [8], "horizon_buckets": [4]}
    batches = {"token_budget": budget | {"micro_batches_per_step": RANKS}} if case == "token budget" else {}
    tree = {
        "model": MODEL,
        "data": {"corpora": [{"path": path}], "context_length": 16, "prediction_length": 4, "stride": 1, **CASES[case]},
        "training": {"max_steps": 10, **(batches or {"batch_size": 8 * RANKS})},
        "output_dir": "unused",
        "device": "cpu",
    }
    if CASES[case].get("sampling") != "epoch":
        del tree["data"]["stride"]
    imported = time.perf_counter()
    config, source = open_source(build(RunConfig, tree))
    opened = time.perf_counter()
    loader = BatchLoader(build_model(config), source, config.training, World(rank=0, size=RANKS))
    plan = plan_of(loader.stream, config.training, RANKS)
    batches = loader.iterate(plan, 0, 0)
    first = next(batches)
    end = time.perf_counter()
    digest = hashlib.sha256()
    for name, tensor in sorted(first.batch.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    after = {name: memory(name) for name in ("RssAnon", "RssFile", "VmHWM")}
    state = {"step": 0, "offset": 0, "batch_size": plan.batch_size, "micro_batch_size": plan.micro_batch_size}
    return {
        "seconds": end - start,
        "cpu_s": time.process_time() - cpu,
        "imports_s": imported - start,
        "open_s": opened - imported,
        "batch_s": end - opened,
        "windows": first.windows,
        "digest": digest.hexdigest()[:16],
        "anonymous": after["RssAnon"] - before["RssAnon"],
        "file": after["RssFile"] - before["RssFile"],
        "peak": after["VmHWM"] - before["VmRSS"],
        "loader_state": len(json.dumps(state)),
    }


def measured(path: Path, case: str, runs: int) -> dict[str, Any]:
    """Return the start of the least time of several new processes."""
    found = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.many_series", "--probe", case, str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{case} failed:\n{done.stderr[-2000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert len({one["digest"] for one in found}) == 1
    return min(found, key=lambda one: one["seconds"])


def main() -> None:
    """Measure every case and number of series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, help="for the corpora, which are kept there; else a temporary one")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--probe", nargs=2, metavar=("CASE", "CORPUS"), help="(internal) print one start")
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(probe(args.probe[1], args.probe[0])))
        return
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in args.series:
            path = write_corpus((args.folder or Path(scratch)) / f"series-{count}", count)
            for case in CASES:
                name = f"{count:,} series, {case}"
                if args.only in name:
                    results.append({"case": name, **measured(path, case, args.runs)})
                    print(line(results[-1]), flush=True)
    if args.json is not None:
        command = f"python -m benchmarks.many_series --runs {args.runs}"
        facts = {"machine": harness.describe("cpu"), "commit": harness.commit(), "command": command}
        args.json.write_text(json.dumps({**facts, "ranks": RANKS, "cases": results}, indent=1) + "\n", encoding="utf-8")


def line(result: dict[str, Any]) -> str:
    """Return a line of the table."""
    mib = {name: result[name] / 2**20 for name in ("anonymous", "file", "peak")}
    return (
        f"{result['case']:<38} {result['seconds']:6.2f} s ({result['cpu_s']:.2f} of CPU) = imports "
        f"{result['imports_s']:.2f} + open {result['open_s']:.2f} + batch {result['batch_s']:.2f}; anonymous "
        f"{mib['anonymous']:,.0f} MiB, file {mib['file']:,.0f}, peak {mib['peak']:,.0f}; loader state "
        f"{result['loader_state']} bytes; {result['digest']}"
    )


if __name__ == "__main__":
    main()
