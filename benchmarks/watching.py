"""Measure what watching a run costs a step: the sums, the lines of metrics.jsonl, the alarms and the health reports.

    python -m benchmarks.watching [--steps 50000] [--log-every 10] [--health-every 1000] [--json FILE]

Makes up the numbers of a run of four processes and passes them to a Monitor as training does, TensorBoard left out,
with and without the parts that watch: lines as of before there were aggregates have a step's loss, rate and norm. The
difference is in CPU microseconds a step; --step is a step's seconds to hold it against (default: that of configs/debug,
the shortest of all that are shipped).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

from foretrain.atomic import write_json
from foretrain.training.alarms import Watcher
from foretrain.training.health import Health, render
from foretrain.training.journal import Journal
from foretrain.training.line_stats import LineStats

DEBUG_STEP = 0.024  # seconds of a step of configs/debug.yaml on this machine, by its dry run


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--health-every", type=int, default=1000)
    parser.add_argument("--step", type=float, default=DEBUG_STEP, help="seconds of a step")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = run(Path(folder), args.steps, args.log_every, None, watch=False)
    with tempfile.TemporaryDirectory() as folder:
        watched = run(Path(folder), args.steps, args.log_every, args.health_every, watch=True)
        size = (Path(folder) / "metrics.jsonl").stat().st_size
    cost = (watched - plain) / args.steps
    found = {
        "machine": harness.describe("cpu"),
        "commit": harness.commit(),
        "steps": args.steps,
        "log_every": args.log_every,
        "health_every": args.health_every,
        "microseconds_a_step": 1e6 * cost,
        "without_watching_microseconds_a_step": 1e6 * plain / args.steps,
        "step_s": args.step,
        "share_of_a_step": cost / args.step,
        "journal_bytes": size,
    }
    for name, value in found.items():
        print(f"{name}: {value}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run(folder: Path, steps: int, log_every: int, health_every: int | None, *, watch: bool) -> float:
    """Return the CPU seconds of a run's records."""
    draw = np.random.default_rng(0)
    losses = (3 * np.exp(-np.arange(steps) / 5000) + 0.1 * draw.standard_normal(steps)).tolist()
    norms, seconds = draw.lognormal(0, 0.3, steps).tolist(), draw.lognormal(-3, 0.1, steps).tolist()
    journal, watcher, health, line = Journal(folder / "metrics.jsonl"), Watcher(), Health(), LineStats()
    start = {"step": 0, "kind": "start", "total_steps": steps, "processes": 4, "log_every": log_every, "clip_norm": 1.0}
    journal.write(start)
    watcher.see(start)
    health.see(start)
    began = time.process_time()
    for k in range(steps):
        if watch:
            line.add(
                losses[k], norms[k], seconds[k], applied=True, clipped=norms[k] > 1, windows=64, flops=1e9,
                data_wait=1e-4, work=(0.01, 0.011, 0.012, 0.013), waits=(1e-4,) * 4,
            )  # fmt: skip
        step = k + 1
        if step % log_every == 0:
            record = {"step": step, "kind": "train", "loss": losses[k], "lr": 1e-3, "grad_norm": norms[k]}
            record |= line.record() | {"memory_gb": 1.0, "memory_total_gb": 80.0, "bad_batches": 0, "time": time.time()}
            journal.write(record)
            if watch:
                watcher.see(record)
                health.see(record)
                line = LineStats()
        if watch and health_every is not None and step % health_every == 0:
            report = health.report()
            render(report)
            write_json(folder / "health.json", report)
    spent = time.process_time() - began
    journal.close()
    return spent


if __name__ == "__main__":
    main()
