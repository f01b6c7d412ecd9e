"""Kill `foretrain train ... --resume` with SIGKILL at random moments, start the same command again each time, and
compare what it leaves with what the same command leaves undisturbed.

    python tests/proofs/kill_cli.py [--kills 20] [--steps 300] [--seed 0]

kill_resume.py does this to the engine alone, with a model so small that most time goes into saving; here it is the
command that users type, with Chronos-2: dropout, accumulation in uneven micro-batches, averaged weights, validation,
best checkpoints and a cosine schedule are on. A third of the kills comes at any moment from the launch on, a third
waits for a save and a third for a validation. Loss curve, validations, kept checkpoints and released weights
(tensor by tensor) must be identical. Exit code 1 and a line naming what differs when they are not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kill_resume import saving, traces, wait

from foretrain.training.journal import read_journal

ROOT = Path(__file__).parents[2]
VALIDATE_EVERY = 15
SETTINGS = [
    "data.corpora.0.synthetic.num_series=16",
    "data.corpora.0.synthetic.length=256",
    "data.context_length=64",
    "data.prediction_length=8",
    "data.validation_steps=16",
    "data.test_steps=16",
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.patch_size=8",
    "model.dropout_rate=0.1",
    "training.batch_size=8",
    "training.micro_batch_size=3",
    "training.ema_decay=0.99",
    f"training.validate_every={VALIDATE_EVERY}",
    "training.checkpoint_every=20",
    "training.keep_best=3",
    "training.log_every=1",
    "training.tensorboard=false",
]


def start(out: Path, steps: int) -> int:
    """The command in a process of its own; what it says goes to a file beside its run folder."""
    command = [sys.executable, "-m", "foretrain.cli", "train", str(ROOT / "configs" / "debug.yaml"), "--resume"]
    command += ["--threads", "1", *SETTINGS, f"training.max_steps={steps}", f"output_dir={out}"]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log = [(os.POSIX_SPAWN_OPEN, n, str(out) + ".log", flags, 0o644) for n in (1, 2)]
    return os.posix_spawn(sys.executable, command, os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, file_actions=log)


def journal(out: Path) -> int | None:
    """Which file metrics.jsonl is: every start puts another in its place, cut back to where it goes on."""
    path = out / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def validating(out: Path) -> bool:
    """Whether the newest line is of a step that is to be validated and its validation is not there yet."""
    path = out / "metrics.jsonl"
    newest = list(read_journal(path))[-1:] if path.exists() else []
    return any(r["kind"] == "train" and r["step"] % VALIDATE_EVERY == 0 for r in newest)


def kill(pid: int, out: Path, moment: str, start_up: float, longest: float, draw: random.Random) -> str | int:
    """Wait for a moment and kill; what the run was doing, or its exit code when it ended before."""
    before = journal(out)
    if moment == "any":
        code = wait(pid, draw.uniform(0, start_up + longest))
    else:
        code = None
        while code is None and journal(out) == before:
            code = wait(pid, 0.002)
        code = wait(pid, draw.uniform(0, longest)) if code is None else code
        while code is None and not (saving if moment == "save" else validating)(out):
            code = wait(pid, 0.001)
        code = wait(pid, draw.uniform(0, 0.01)) if code is None else code
    if code is not None:
        return code
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if journal(out) == before:
        return "starting"
    return "saving" if saving(out) else "validating" if validating(out) else "training"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-cli-"))
    began, whole = time.monotonic(), folder / "whole"
    pid = start(whole, options.steps)
    while journal(whole) is None and wait(pid, 0.01) is None:
        pass
    start_up = time.monotonic() - began
    if journal(whole) is None or wait(pid) != 0:
        print(Path(f"{whole}.log").read_text())
        return 1
    training = time.monotonic() - began - start_up
    longest, expected = 2 * training / (options.kills + 1), traces(whole)
    finished, hit = 0, Counter[str]()
    while hit.total() < options.kills or not finished:
        out = folder / f"killed-{finished}"
        pid = start(out, options.steps)
        if hit.total() < options.kills:
            moment = ("any", "save", "validation")[hit.total() % 3]
            ended = kill(pid, out, moment, start_up, longest, draw)
            if isinstance(ended, str):
                hit[ended] += 1
                continue
        else:
            ended = wait(pid)
        if ended != 0:
            print(Path(f"{out}.log").read_text()[-3000:])
            return 1
        found = traces(out)
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if different:
            print(f"after {hit.total()} kills these differ: {', '.join(sorted(different))}; kept in {folder}")
            return 1
        finished += 1
    told = ", ".join(f"{count} {what}" for what, count in sorted(hit.items()))
    print(f"{hit.total()} kills ({told}) in {finished} runs of {options.steps} steps: all identical")
    print(f"loss curve sha256 {expected['loss curve']}")
    print(f"{start_up:.1f} s to start, {training:.1f} s for the rest; {time.monotonic() - began:.0f} s in all")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
