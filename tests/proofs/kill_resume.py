"""Kill a run with SIGKILL at random moments, resume it each time, and compare it with an uninterrupted one.

    python tests/proofs/kill_resume.py [--kills 20] [--steps 300] [--seed 0] [--background]
                                       [--layout ddp|fsdp] [--ranks 4] [--json FILE]

Loss curve, released weights, retained checkpoints and validations must be identical, bit for bit. The model is small,
so that many kills happen while a checkpoint is saved. Dropout, accumulation, averaged weights, a plateau schedule,
validation with best checkpoints and a rollback past a bad batch are all on. With --background the killed runs write
their checkpoints while training goes on, the uninterrupted one does not.

With --layout one of several processes is killed, any of them; the uninterrupted run has the same layout. Each other
one must end within BOUND seconds, with exit code 2 and one line that says that the killed one is gone, or, if it was
killed before all had met, that they did not. Before that they wait for PATIENCE, where the command waits for minutes.

If anything differs, a line lists it and the exit code is 1. --json adds the counts of a run that found no difference
to a file of such records.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
sys.path.insert(0, str(Path(__file__).parents[2]))
import torch._dynamo
import torch.distributed.checkpoint
import torch.distributed.fsdp  # noqa: F401  # all so that forks need not import them
from curves import loss_curve_hash
from safetensors.torch import load_file

from conftest import Kit
from foretrain.distributed import world as worlds
from foretrain.distributed.world import World
from foretrain.training.journal import read_journal
from foretrain.training.trainer import ValidationResult

BOUND = 60.0  # seconds in which the others of a killed process must have ended
PATIENCE = timedelta(seconds=BOUND / 4)  # for processes to meet, for an answer of one, and to connect
GONE = re.compile(r"error: (?:rank|one of ranks) ([\d, ]+) of \d+ is gone: .* Start all again with --resume.*\n")
NOT_MET = re.compile(r"error: rank \d+ of \d+ cannot join the others .*\n")


def run(out: Path, steps: int, world: World, **settings: Any) -> None:
    """Start or resume the run and train it to its end."""

    def evaluate(model, step):
        return ValidationResult({"loss": sum(p.double().abs().sum().item() for p in model.parameters()) % 7})

    optimizer = Kit.Optimizer(learning_rate=1e-2, schedule=Kit.Schedule(kind="plateau", patience=3, warmup_steps=5))
    Kit.trainer(
        out,
        world=world,
        model=Kit.Model(dropout=0.2),
        source=Kit.Source(poison={8 * (steps // 2): math.inf}),
        optimizer=optimizer,
        evaluate=evaluate,
        resume="auto",
        max_steps=steps,
        micro_batch_size=3 if world.size == 1 else 1,
        ema_decay=0.99,
        on_nonfinite="rollback",
        validate_every=7,
        keep_best=3,
        checkpoint_every=10,
        **settings,
    ).fit()


@dataclass
class Start:
    """The processes of one start of a run: forks of this one, which must not have used torch yet."""

    pids: dict[int, int]  # by rank
    errors: Path  # a folder of what each has said
    codes: dict[int, int] = field(default_factory=dict)  # of those that have ended

    @classmethod
    def begin(cls, out: Path, steps: int, layout: str, ranks: int, **settings: Any) -> Start:
        """Fork the processes."""
        from tests import by_hand  # imports every command, which takes seconds

        worlds.START_TIMEOUT = PATIENCE
        errors = Path(tempfile.mkdtemp(prefix="said-", dir=out.parent))
        settings |= {"parallel": layout} if ranks > 1 else {}

        def work() -> None:
            faulthandler.register(signal.SIGUSR1)  # to say where it hangs
            by_hand.in_world(lambda world: run(out, steps, world, **settings), PATIENCE.total_seconds())

        return cls(by_hand.start(ranks, list(range(ranks)), errors, work), errors)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all have ended; return False if some still run after `seconds`."""
        end = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            for rank, pid in self.pids.items():
                if rank not in self.codes:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    self.codes |= {rank: os.waitstatus_to_exitcode(status)} if done else {}
            if len(self.codes) == len(self.pids):
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)

    def kill(self, rank: int) -> list[str]:
        """Kill one process; return what is wrong about the ends of the others.

        They name it or rank 0, whose end takes the store with it in which they would find who it was.
        """
        if rank not in self.codes:
            os.kill(self.pids[rank], signal.SIGKILL)
        if not self.wait(BOUND):
            left = [other for other in self.pids if other not in self.codes]
            for end in (signal.SIGUSR1, signal.SIGKILL):
                for other in left:
                    os.kill(self.pids[other], end)
                self.wait(5)
            return [f"rank {other} did not end in {BOUND:g} s: {self.said(other)}" for other in left]
        wrong = []
        for other, code in self.codes.items():
            said = self.said(other)
            named = GONE.fullmatch(said)
            known = NOT_MET.fullmatch(said) or (named and {str(rank), "0"} & {*named[1].split(", ")})
            if other != rank and code and not (code == 2 and known):
                wrong.append(f"rank {other}, of a run whose rank {rank} was killed, ended with {code}: {said!r}")
        return wrong

    def said(self, rank: int) -> str:
        """Return what a process has written to stderr."""
        return (self.errors / f"{rank}.err").read_text()


def wait(pid: int, seconds: float | None = None) -> int | None:
    """Return the exit code of a process, None if it still runs after `seconds`."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def saving(out: Path) -> bool:
    """Return True while a checkpoint is being written or deleted."""
    return any((out / "checkpoints").glob(".t*-step-*"))


def tensors_hash(path: Path) -> str:
    """Hash names and values, not the file: safetensors writes the metadata of a file in any order."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def parts_hash(checkpoint: Path) -> str:
    """Hash names and values of a checkpoint's tensors and parts; which process writes a whole one is torch's choice."""
    parts = [
        f"{name} {tuple(value.shape)} {hashlib.sha256(value.numpy().tobytes()).hexdigest()}"
        for path in checkpoint.glob("*.safetensors")
        for name, value in load_file(path).items()
    ]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def traces(out: Path, root: Path | None = None) -> dict[str, str]:
    """Return {name: hash} of everything in a run folder that must be equal; paths inside root count as equal."""
    digests = {"loss curve": loss_curve_hash(out / "metrics.jsonl")}
    facts = (out / "release" / "release.json").read_text().replace(str(root or out), "root")
    digests["release/release.json"] = hashlib.sha256(facts.encode()).hexdigest()
    for path in sorted((out / "release").rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            digests[f"{path.relative_to(out)}/{name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    for path in out.glob("*.safetensors"):
        digests[path.name] = tensors_hash(path)
    for path in (out / "checkpoints").glob("step-*"):
        digests[str(path.relative_to(out))] = parts_hash(path)
    files = {re.sub(r"shard-[^/]*", "shards", str(path.relative_to(out))) for path in out.rglob("*")}
    digests["files"] = " ".join(sorted(files))
    records = read_journal(out / "metrics.jsonl")
    digests["validations"] = str([r for r in records if r["kind"] == "validation"])
    return digests


def starts(out: Path) -> int:
    """Return how often a run has got so far as to begin its training."""
    path = out / "environment.json"
    return len(json.loads(path.read_text())) if path.exists() else 0


def ended_before(start: Start, out: Path, moment: int, before: int, seconds: float, draw: random.Random) -> bool:
    """Wait for a moment to kill; return True if all processes have ended by themselves before it.

    moment: 0 is any since the start, 1 while it trains, 2 during a save; before: its starts so far; seconds: the most
    to wait.
    """
    while moment and starts(out) == before:
        if start.wait(0.002):
            return True
    ended = start.wait(draw.uniform(0, seconds))
    while moment == 2 and not ended and not saving(out):
        ended = start.wait(0.001)
    return ended or start.wait(draw.uniform(0, 0.01))


def record(path: Path, options: argparse.Namespace, counts: dict[str, Any]) -> None:
    """Put the counts of a run without a difference into a file of records, in place of those of the same case."""
    from benchmarks.harness import commit, describe

    processes = f"{options.ranks} processes, {options.layout}" if options.layout else "one process"
    case = f"{processes}, {'in the background' if options.background else 'at once'}"
    kept = json.loads(path.read_text()) if path.exists() else []
    others = [other for other in kept if other["case"] != case]
    new = {"case": case, **counts, "different": 0, "device": describe("cpu"), "commit": commit()}
    path.write_text(json.dumps([*others, new], indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--background", action="store_true")
    parser.add_argument("--layout", choices=("ddp", "fsdp"), help="of several processes; default: one process")
    parser.add_argument("--ranks", type=int, default=4, help="processes, with --layout")
    parser.add_argument("--json", type=Path, help="file of records, one a case: this run replaces that of its case")
    options = parser.parse_args()
    if os.environ.get("TORCH_CPP_LOG_LEVEL") != "FATAL":  # as the command sets it, before torch is imported
        os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    folder = Path(tempfile.mkdtemp(prefix="kill-resume-"))
    counts = trials(options, folder)
    if isinstance(counts, str):
        print(f"{counts}\nkept in {folder}")
        return 1
    print(
        f"{counts['kills']} kills ({counts['saving']} of them while saving) in {counts['runs']} runs of "
        f"{options.steps} steps: all identical\nloss curve sha256 {counts.pop('loss curve')}"
    )
    if options.layout:
        by_rank = ", ".join(f"{count} of rank {rank}" for rank, count in enumerate(counts["by_rank"]))
        print(f"killed: {by_rank}; the others had ended after {counts['slowest_s']} s at the latest,")
        print(f"before the run had begun after {counts['slowest_before_s']} s")
    shutil.rmtree(folder)
    if options.json:
        record(options.json, options, counts)
    return 0


def trials(options: argparse.Namespace, folder: Path) -> dict[str, Any] | str:
    """Train the run once, then kill and resume it; return counts, or what was wrong."""
    draw, layout, ranks = random.Random(options.seed), options.layout or "one", options.ranks if options.layout else 1
    whole = Start.begin(folder / "whole", options.steps, layout, ranks, prefetch=0)
    began = time.monotonic()
    while not starts(folder / "whole") and not whole.wait(0.01):
        pass
    start_up = time.monotonic() - began
    whole.wait()
    training = time.monotonic() - began - start_up
    if any(whole.codes.values()):
        return f"the uninterrupted run ended with {whole.codes}: {whole.said(0)}"
    expected, longest = traces(folder / "whole"), 3 * training / (options.kills + 1)
    kills, finished, in_save, victims, seconds = 0, 0, 0, Counter[int](), {False: [0.0], True: [0.0]}
    while kills < options.kills or not finished:
        out = folder / f"killed-{finished}"
        how = {"prefetch": draw.choice([0, 2]), "checkpoint_in_background": options.background}
        before, moment = starts(out), kills % 3
        start, victim = Start.begin(out, options.steps, layout, ranks, **how), draw.randrange(ranks)
        if kills < options.kills:
            ended = ended_before(start, out, moment, before, longest + start_up * (moment == 0), draw)
        else:
            ended = start.wait()
        if not ended:
            in_save, began, met = in_save + saving(out), time.monotonic(), starts(out) > before
            if wrong := start.kill(victim):
                return "\n".join([f"after {kills} kills:", *wrong])
            seconds[met].append(time.monotonic() - began)
            victims[victim] += 1
            kills += 1
            continue
        failed = {rank: code for rank, code in start.codes.items() if code}
        found = {} if failed else traces(out)
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if different:
            said = "".join(start.said(rank) for rank in failed)
            return f"after {kills} kills these differ: {', '.join(sorted(different))}\n{said}"
        finished += 1
    counts = {"kills": kills, "saving": in_save, "runs": finished, "steps": options.steps, "seed": options.seed}
    if ranks > 1:
        slowest = {"slowest_s": round(max(seconds[True]), 1), "slowest_before_s": round(max(seconds[False]), 1)}
        counts |= {"by_rank": [victims[rank] for rank in range(ranks)], **slowest}
    return {**counts, "loss curve": expected["loss curve"]}


if __name__ == "__main__":
    sys.exit(main())
