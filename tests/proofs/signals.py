"""Send signals to `foretrain train ... --resume` at random moments, restart the same command each time, and compare its
results with those of the same command without interruption.

    python tests/proofs/signals.py [--processes 1|2] [--signals 50] [--steps 240] [--seed 0] [--fork]
                             [--json benchmarks/results/signals.json]

Three of five signals are SIGTERM, one is SIGINT, one SIGUSR1. They come at any moment of the start (imports of torch,
the joining of a process group), of the warm-up, of training, of a validation and of a save, which is in the background
in every second start; with two processes they go to one of them or, in the start always,
to both. After each signal

- every process has ended within 20 s and a step, with exit code 143 or 130,
- the newest checkpoint is intact and is that of the last step that was logged, if a step had ended,
- nothing is left: no process, no lock, no scratch file in the run folder or among the temporary files.

A run that is continued to its end must have the loss curve, validations, release and last checkpoint of the run without
interruption, bit for bit. In its first 0.3 s, before it has handlers, the system ends a process: 128 + the number of
the signal is then what a shell says, which the counts list as "before". What differs is printed; the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as the command sets it before it imports torch
import kill_resume
from kill_cli import CASES, ROOT, TRAINING, VALIDATE_EVERY
from kill_resume import wait
from safetensors.torch import load_file

from foretrain import cli
from foretrain.training import checkpoint
from foretrain.training.journal import read_journal
from foretrain.training.manifest import damage

MARK = "FORETRAIN_PROOF"  # a variable that every process of a start has
MOMENTS = ("start", "train", "save", "validation", "warm-up")
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM)
PATIENCE = 20.0  # seconds
SETTINGS = [
    *(item for item in TRAINING if "batch_size" not in item),
    *CASES["chronos2"].settings,
    "training.token_budget={max_tokens_per_batch: 300, length_buckets: [32], horizon_buckets: [4], warmup: true}",
    "training.token_budget.micro_batches_per_step=3",
    "data.sampling=epoch",
]


class Start:
    """The processes of one start of the command."""

    def __init__(self, out: Path, options: argparse.Namespace, draw: random.Random, background: bool) -> None:
        self.out, self.scratch = out, out.with_name(f"{out.name}.tmp")
        self.scratch.mkdir(exist_ok=True)
        self.mark = f"{os.getpid()}-{draw.getrandbits(64):x}"
        words = ["train", str(ROOT / "configs/debug.yaml"), "--resume", "--threads", "1", *SETTINGS]
        words += ["--max-steps", str(options.steps), f"training.prefetch={draw.choice([0, 2])}"]
        words += [f"training.checkpoint_in_background={str(background).lower()}", f"output_dir={out}"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pids, self.codes = list[int](), dict[int, int]()
        for rank in range(options.processes):
            where = {MARK: self.mark, "TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            if options.processes > 1:
                where |= {"RANK": str(rank), "WORLD_SIZE": str(options.processes)}
                where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self.pids.append(self._start(words, where, options.fork))

    def _start(self, words: list[str], where: dict[str, str], fork: bool) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        if not fork:
            log = [(os.POSIX_SPAWN_OPEN, n, f"{self.out}.log", flags, 0o644) for n in (1, 2)]
            command = [sys.executable, "-m", "foretrain.cli", *words]
            return os.posix_spawn(sys.executable, command, os.environ | where, file_actions=log)
        pid = os.fork()
        if not pid:
            log = os.open(f"{self.out}.log", flags, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ |= where
            tempfile.tempdir = str(self.scratch)
            sys.argv[1:] = words
            code: object = 1
            try:
                cli.main()
                code = 0
            except SystemExit as left:
                code = left.code or 0
            finally:
                sys.stdout.flush()
                os._exit(code if isinstance(code, int) else 1)
        return pid

    def ended(self, seconds: float) -> bool:
        """Return True once all processes have ended, False if some still run after so many seconds."""
        end = time.monotonic() + seconds
        for pid in self.pids:
            if pid not in self.codes:
                code = wait(pid, max(end - time.monotonic(), 0.001))
                if code is not None:
                    self.codes[pid] = code
        return len(self.codes) == len(self.pids)

    def steps(self) -> list[dict]:
        path = self.out / "metrics.jsonl"
        return [r for r in read_journal(path) if r["kind"] in ("train", "validation")] if path.exists() else []

    def is_at(self, moment: str, began: int) -> bool:
        """Return True if it is at a moment; began: the inode of the journal before this start, which replaces it."""
        path = self.out / "metrics.jsonl"
        started = path.exists() and path.stat().st_ino != began
        if moment == "warm-up":
            return started
        if not started or not (records := self.steps()):
            return False
        if moment == "save":
            return kill_resume.saving(self.out)
        newest = records[-1]
        return moment == "train" or (newest["kind"] == "train" and newest["step"] % VALIDATE_EVERY == 0)

    def interrupt(self, moment: str, number: int, seconds: float, draw: random.Random) -> str | None:
        """Wait for a moment, send a signal, and wait for the end; return what is wrong, "" for nothing, None if all had
        ended before the moment came."""
        path = self.out / "metrics.jsonl"
        began = path.stat().st_ino if path.exists() else 0
        while moment != "start" and not self.is_at(moment, began):
            if self.ended(0.001):
                return None
        if self.ended(draw.uniform(0, seconds if moment in ("start", "train") else 0.02)):
            return None
        before = self.steps()
        # of a start that has not joined yet the others know nothing, and would wait for it by deadlines.start
        for pid in self.pids if moment == "start" else draw.choice([self.pids, self.pids[:1], self.pids[-1:]]):
            if pid not in self.codes:
                os.kill(pid, number)
        began_to_end = time.monotonic()
        if not self.ended(PATIENCE):
            return f"still runs after {PATIENCE:.0f} s"
        self.seconds = time.monotonic() - began_to_end
        return self._wrong(number, before)

    def _wrong(self, number: int, before: list[dict]) -> str:
        expected = 130 if number == signal.SIGINT else 143
        codes = list(self.codes.values())
        self.early = all(code == -number for code in codes) and not before
        if codes == [0] * len(codes):
            return ""  # it had ended
        if set(codes) != {expected} and not self.early:
            return f"exit codes {codes}, not {expected}"
        end = time.monotonic() + 5
        while (left := processes(self.mark)) and time.monotonic() < end:  # those that saw their pipe close
            time.sleep(0.05)
        if left:
            return f"left processes {left}"
        names = [path.name for path in self.out.rglob(".*")] + [path.name for path in self.scratch.iterdir()]
        names += [path.name for path in self.out.glob("run.lock")]
        if names:
            return f"left {names}"
        kept, done = checkpoint.steps_in(self.out / "checkpoints"), [r["step"] for r in self.steps()]
        if kept and (problem := damage(kept[-1])):
            return f"{kept[-1].name} {problem}"
        newest = int(kept[-1].name.removeprefix("step-")) if kept else 0
        if len(done) > len(before) + 1 and newest != done[-1]:
            return f"step {done[-1]} is logged, and the newest checkpoint is of step {newest}"
        return ""


def processes(mark: str) -> list[str]:
    """Return the command lines of the processes that have a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def traces(out: Path, steps: int) -> dict[str, str]:
    """Return {name: hash} of what must be equal: not the checkpoints that signals left."""
    found = kill_resume.traces(out)
    last = {
        k: v
        for path in (out / "checkpoints" / f"step-{steps:08d}").glob("*.safetensors")
        for k, v in load_file(path).items()
    }  # which rank wrote which of them may differ
    digests = {f"last checkpoint/{k}": hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in last.items()}
    return digests | {k: v for k, v in found.items() if k != "files" and not k.startswith("checkpoints")}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--signals", type=int, default=50)
    parser.add_argument("--each", type=int, default=5, help="signals of one run")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="quicker: without the start of Python and its imports")
    parser.add_argument("--json", type=Path, help="file of records, to which one is added")
    options = parser.parse_args()
    draw, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="signals-"))
    began, whole = time.monotonic(), Start(folder / "whole", options, draw, background=False)
    while not whole.steps() and not whole.ended(0.01):
        pass
    start_up = time.monotonic() - began
    if not whole.ended(600) or set(whole.codes.values()) != {0}:
        print(Path(f"{whole.out}.log").read_text())
        return 1
    training = time.monotonic() - began - start_up
    expected, counts, longest, finished, sent, here = traces(whole.out, options.steps), Counter[str](), 0.0, 0, 0, 0
    while sent < options.signals or here or not finished:
        out = folder / f"run-{finished}"
        start = Start(out, options, draw, background=draw.random() < 0.5)
        if here < options.each and sent < options.signals:
            moment, number = MOMENTS[sent % len(MOMENTS)], NUMBERS[(sent // len(MOMENTS) + sent) % len(NUMBERS)]
            wrong = start.interrupt(moment, number, start_up if moment == "start" else training / options.each, draw)
            if wrong:
                print(f"signal {sent} ({signal.Signals(number).name}, {moment}): {wrong}; see {folder} {out}")
                return 1
            if wrong == "" and set(start.codes.values()) != {0}:
                counts[f"{'before' if start.early else moment} {signal.Signals(number).name}"] += 1
                longest, here, sent = max(longest, start.seconds), here + 1, sent + 1
                continue
        elif not start.ended(600):
            print(f"the run does not end; see {folder}")
            return 1
        found = traces(out, options.steps) if set(start.codes.values()) == {0} else {}
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if different:
            print(f"after {sent} signals these differ: {', '.join(sorted(different))}; see {folder} {out}")
            return 1
        here, finished = 0, finished + 1
    at = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(
        f"{sent} signals ({at}) in {finished} runs of {options.steps} steps, processes: {options.processes}: all right"
    )
    print(f"at most {longest:.1f} s from a signal to the end; {time.monotonic() - began:.0f} s in all")
    shutil.rmtree(folder)
    if options.json:
        record = {"processes": options.processes, "signals": sent, "runs": finished, "steps": options.steps}
        record |= {"seed": options.seed, "at": counts, "longest_s": round(longest, 1), "wrong": 0}
        kept = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps([*kept, record], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
