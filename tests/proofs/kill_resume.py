"""Kill a run with SIGKILL at random moments, resume it each time, and compare it with an uninterrupted one.

    python tests/proofs/kill_resume.py [--kills 20] [--steps 300] [--seed 0] [--background]

Loss curve, released weights, retained checkpoints and validations must be identical, bit for bit. The model is small,
so that many kills happen while a checkpoint is saved. Dropout, accumulation, averaged weights, a plateau schedule,
validation with best checkpoints and a rollback past a bad batch are all on. With --background the killed runs write
their checkpoints while training goes on, the uninterrupted one does not. If anything differs, a line lists it and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import torch.distributed.checkpoint  # so that forks need not import it
from curves import loss_curve_hash
from safetensors.torch import load_file

from conftest import Kit
from foretrain.training.journal import read_journal
from foretrain.training.trainer import ValidationResult


def run(out: Path, steps: int, prefetch: int, background: bool = False) -> None:
    """Start or resume the run and train it to its end."""

    def evaluate(model, step):
        return ValidationResult({"loss": sum(p.double().abs().sum().item() for p in model.parameters()) % 7})

    optimizer = Kit.Optimizer(learning_rate=1e-2, schedule=Kit.Schedule(kind="plateau", patience=3, warmup_steps=5))
    Kit.trainer(
        out,
        model=Kit.Model(dropout=0.2),
        source=Kit.Source(poison={8 * (steps // 2): math.inf}),
        optimizer=optimizer,
        evaluate=evaluate,
        resume="auto",
        max_steps=steps,
        micro_batch_size=3,
        ema_decay=0.99,
        on_nonfinite="rollback",
        validate_every=7,
        keep_best=3,
        checkpoint_every=10,
        prefetch=prefetch,
        checkpoint_in_background=background,
    ).fit()


def start(out: Path, steps: int, prefetch: int = 0, background: bool = False) -> int:
    """Run it in a forked process; this one must not have used torch yet."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        run(out, steps, prefetch, background)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(code)


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


def traces(out: Path, root: Path | None = None) -> dict[str, str]:
    """Return {name: hash} of everything in a run folder that must be equal; paths inside root count as equal."""
    digests = {"loss curve": loss_curve_hash(out / "metrics.jsonl")}
    facts = (out / "release" / "release.json").read_text().replace(str(root or out), "root")
    digests["release/release.json"] = hashlib.sha256(facts.encode()).hexdigest()
    for path in sorted((out / "release").rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            digests[f"{path.relative_to(out)}/{name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    for path in [*sorted((out / "checkpoints").glob("step-*/*.safetensors")), *out.glob("*.safetensors")]:
        digests[str(path.relative_to(out))] = tensors_hash(path)
    digests["files"] = " ".join(sorted(str(path.relative_to(out)) for path in out.rglob("*")))
    records = read_journal(out / "metrics.jsonl")
    digests["validations"] = str([r for r in records if r["kind"] == "validation"])
    return digests


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--background", action="store_true")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-resume-"))
    began = time.monotonic()
    if wait(start(folder / "whole", options.steps)) != 0:
        return 1
    seconds, expected = time.monotonic() - began, traces(folder / "whole")
    kills, finished, in_save = 0, 0, 0
    while kills < options.kills or not finished:
        out = folder / f"killed-{finished}"
        pid = start(out, options.steps, prefetch=draw.choice([0, 2]), background=options.background)
        if kills < options.kills:
            code = wait(pid, draw.uniform(0, 3 * seconds / (options.kills + 1)))
            while code is None and kills % 3 == 0 and not saving(out):  # every third waits for a save to begin
                code = wait(pid, 0.001)
            code = wait(pid, draw.uniform(0, 0.01)) if code is None else code
        else:
            code = wait(pid)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            in_save += saving(out)
            continue
        found = traces(out) if code == 0 else {}
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if different:
            print(f"after {kills} kills these differ: {', '.join(sorted(different))}; kept in {folder}")
            return 1
        finished += 1
    print(f"{kills} kills ({in_save} of them while saving) in {finished} runs of {options.steps} steps: all identical")
    print(f"loss curve sha256 {expected['loss curve']}")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
