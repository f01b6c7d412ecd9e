"""Windows a second of an epoch, from a memory map, shard by shard, and from a copy, on a local and on a slow disk.

    python -m benchmarks.reader [--megabytes 256] [--rounds 5] [--json FILE]

A corpus of one column, series of 2,200 to 6,000 steps; windows of 2,112 steps, 512 apart; batches of 64; a buffer of
64 MB; one thread of computation. Every round reads a whole epoch in each way, in turn; the best round counts. The files
lie in the page cache: "local" is the cost of reading without that of a disk.

A slow disk is one on which every request takes some milliseconds, and bytes come at a bounded rate. Of the sequential
reader both are injected: its function that reads sleeps, and seconds are those of the wall clock, other work of the
machine included. The page faults of a map cannot be delayed in this way. So all ways are also modelled alike: the CPU
seconds of the local case, and the time of each request, one after the other. Of a map there is a request for each block
of 128 KiB (the default read-ahead of Linux) that the windows of the epoch touch, for a page cache that keeps all it has
read, and for one that keeps only the blocks of a batch. Of a copy there are requests of 16 MiB, and then the local map.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

from foretrain.data.config import DataConfig
from foretrain.data.sequential import REQUEST, read_range
from foretrain.data.source import TrainingSource
from foretrain.data.staging import BLOCK, Staging
from foretrain.data.writer import CorpusWriter

CONTEXT, HORIZON, STRIDE, BATCH = 2048, 64, 512, 64
BUFFER_MB = 64
FAULT = 128 << 10  # bytes that a page fault reads, with the default read-ahead of Linux
LATENCIES = (1, 5, 20)  # milliseconds of a request
RATE = 500e6  # bytes a second
MILLION = 10**6


def written(folder: Path, megabytes: int) -> Path:
    """Write a corpus of random values in record batches of 4 MB and shards of 32 MB."""
    rng, done = np.random.default_rng(0), 0
    with CorpusWriter(folder, ["target"], time="steps", batch_bytes=4 * MILLION, shard_bytes=32 * MILLION) as writer:
        while done < megabytes * MILLION:
            values = rng.standard_normal((1, int(rng.integers(2200, 6001))), dtype=np.float32)
            writer.append(f"series {done}", values)
            done += values.nbytes
    return folder


def source_of(folder: Path, **data: Any) -> TrainingSource:
    """Return the windows of an epoch."""
    tree = {"corpora": [{"path": str(folder)}], "context_length": CONTEXT, "prediction_length": HORIZON}
    tree |= {"min_context": CONTEXT, "stride": STRIDE, "sampling": "epoch", "validation_steps": 0, "test_steps": 0}
    return TrainingSource(DataConfig.model_validate(tree | data), seed=0)


class Epochs:
    """Reads one epoch after the other; each call is one."""

    def __init__(self, source: TrainingSource) -> None:
        self.source, self._number = source, 0

    def __call__(self) -> None:
        """Read every window once."""
        begin, end = (self.source.epoch_length * (self._number + k) for k in range(2))
        for first in range(begin, end, BATCH):
            self.source.windows(first, min(BATCH, end - first))
        self._number += 1


def slow(latency: float) -> Callable[[int, memoryview, int], int]:
    """Return a function that reads as a slow disk does; latency in seconds."""

    def read(descriptor: int, into: memoryview, offset: int) -> int:
        time.sleep(latency + len(into) / RATE)
        return read_range(descriptor, into, offset)

    return read


def best(rounds: int, act: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the least seconds of some rounds."""
    found = []
    for _ in range(rounds):
        begun = clock()
        act()
        found.append(clock() - begun)
    return min(found)


def touched(source: TrainingSource) -> tuple[int, int]:
    """Return the blocks that an epoch reads from a map: with a page cache that keeps all, and one of a batch."""
    starts = np.concatenate([chunk.blocks[0].start.astype(np.int64) for chunk in source.corpora[0].chunks])
    shard = np.concatenate([np.full(len(chunk), k) for k, chunk in enumerate(source.corpora[0].chunks)])
    every, alone = set[tuple[int, int]](), 0
    for first in range(0, source.epoch_length, BATCH):
        places = source.windows(first, min(BATCH, source.epoch_length - first)).source
        assert places is not None
        begin = 4 * (starts[places[:, 1]] + places[:, 2] - CONTEXT)
        end = begin + 4 * (CONTEXT + HORIZON) - 1
        blocks = {
            (int(file), block)
            for file, low, high in zip(shard[places[:, 1]], begin // FAULT, end // FAULT, strict=True)
            for block in range(low, high + 1)
        }
        every |= blocks
        alone += len(blocks)
    return len(every), alone


def case(name: str, how: str, windows: int, seconds: float, requests: int, read: int) -> dict[str, Any]:
    """Return and print a line of the table."""
    line = {"case": name, "how": how, "seconds": seconds, "windows_per_s": windows / seconds}
    line |= {"requests": requests, "bytes": read}
    print(
        f"{name:48} {how:22} {windows / seconds:12,.0f} windows/s {requests:9,} requests {read:15,} bytes", flush=True
    )
    return line


def measured(folder: Path, megabytes: int, rounds: int) -> list[dict[str, Any]]:
    """Return the lines of the table."""
    corpus = written(folder / "corpus", megabytes)
    mapped, cases = source_of(corpus), list[dict[str, Any]]()
    size = sum(shard["bytes"] for shard in mapped.corpora[0].manifest.shards)
    staging = Staging([str(corpus)], str(folder / "local"))
    begun = time.process_time()
    staging.copy()
    copying = time.process_time() - begun
    staged = source_of(corpus, stage_to=str(folder / "local"))
    shards = source_of(corpus, reader="sequential", read_buffer_mb=BUFFER_MB)
    assert shards.reader is not None and staged.corpora[0].shards != staged.corpora[0].path
    count, requests = mapped.epoch_length, -(-size // BLOCK)
    kept, alone = touched(mapped)
    ways = [Epochs(source) for source in (mapped, shards, staged)]
    for read_epoch in ways:
        read_epoch()  # to warm up
    own = [best(rounds, read_epoch, time.process_time) for read_epoch in ways]
    read = shards.reader.order.epoch_bytes
    counted = sum(count for (number, _), count in shards.reader.bytes_read.items() if number == rounds)
    assert counted == read, "an epoch reads every piece once"
    reads = sum(-(-place.bytes // REQUEST) for place in shards.reader._places)
    for name, seconds, of, total in (
        ("local, mapped", own[0], kept, kept * FAULT),
        ("local, sequential", own[1], reads, read),
        ("local, staged", own[2], kept, kept * FAULT),
    ):
        cases.append(case(name, "measured, CPU", count, seconds, of, total))
    cases.append(case("local, copying once", "measured, CPU", count, copying, requests, size))
    for milliseconds in LATENCIES:
        latency, label = milliseconds / 1000, f"{milliseconds} ms a request"
        shards.reader._read = slow(latency)
        seconds = best(max(rounds // 2, 1), ways[1], time.perf_counter)
        cases.append(case(f"{label}, sequential, injected", "measured, wall clock", count, seconds, reads, read))
        seconds = own[1] + reads * latency + read / RATE
        cases.append(case(f"{label}, sequential", "modelled", count, seconds, reads, read))
        for cache, blocks in (("all is kept", kept), ("a batch is kept", alone)):
            seconds = own[0] + blocks * (latency + FAULT / RATE)
            cases.append(case(f"{label}, mapped, {cache}", "modelled", count, seconds, blocks, blocks * FAULT))
        copy = copying + requests * latency + size / RATE
        cases.append(case(f"{label}, staged, first epoch", "modelled", count, copy + own[2], requests, size))
    return cases


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = measured(Path(folder), args.megabytes, args.rounds)
    facts = {
        "machine": harness.describe("cpu"),
        "commit": harness.commit(),
        "load": round(os.getloadavg()[0], 1),
        "settings": {"megabytes": args.megabytes, "rounds": args.rounds, "context": CONTEXT, "horizon": HORIZON,
                     "stride": STRIDE, "batch": BATCH, "buffer_mb": BUFFER_MB, "bytes_per_s": RATE},
        "cases": cases,
    }  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
