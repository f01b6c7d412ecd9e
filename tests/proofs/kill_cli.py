"""Kill `foretrain train ... --resume` with SIGKILL at random moments, restart the same command each time, and compare
its results with those of the same command without interruption.

    python tests/proofs/kill_cli.py [--case chronos2|kronos|adapter] [--kills 20] [--steps 300] [--seed 0] [--fork]
                             [--json benchmarks/results/kills.json]

kill_resume.py tests the training loop alone, with a model so small that most time is spent on saving. This script tests
the command that users type, with Chronos-2, with an adapter, or with Kronos in its two stages (--steps counts per
stage). Dropout, accumulation in uneven micro-batches, averaged weights, validation, best checkpoints and a schedule are
on; Kronos has gaps, uneven contexts and a token table as well. Some kills happen at any moment after the launch, some
during a save, some during a validation and, in a pipeline, some between stages. Loss curves, validations, retained
checkpoints, the token table and released weights (tensor by tensor) must be identical. If anything differs, a line
lists it and the exit code is 1. --json adds the counts of a run that found no difference to a file of such records.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import kill_resume
import torch._dynamo  # noqa: F401  # so that forks need not import it
from kill_resume import wait

import foretrain.run.pipeline  # noqa: F401  # as above
from foretrain import cli
from foretrain.training.journal import read_journal

ROOT = Path(__file__).parents[2]
VALIDATE_EVERY = 15
TRAINING = [
    "training.batch_size=8",
    "training.micro_batch_size=3",
    "training.ema_decay=0.99",
    f"training.validate_every={VALIDATE_EVERY}",
    "training.checkpoint_every=20",
    "training.keep_best=3",
    "training.log_every=1",
    "training.tensorboard=false",
]


def _forked(words: list[str], log: int) -> int:
    """Run the command in a fork of this process, which has imported everything and computed nothing yet."""
    pid = os.fork()
    if not pid:
        code: object = 1
        try:
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv[1:] = words
            cli.main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        finally:
            os._exit(code if isinstance(code, int) else 1)
    os.close(log)
    return pid


@dataclass(frozen=True)
class Case:
    """A command to kill, and how to observe its state from its files."""

    config: str
    settings: list[str]
    runs: tuple[str, ...] = (".",)  # its run folders inside output_dir, in order
    # The moments of the kills of each run, in turn; after the last kill a run continues to its end.
    moments: tuple[tuple[str, ...], ...] = (("any", "save", "validation") * 10,)

    def start(self, out: Path, steps: int, fork: bool = False) -> int:
        """Start the command in a new process, with its output in OUT.log; return the pid."""
        words = ["train", str(ROOT / "configs" / self.config), "--resume", "--threads", "1", "--max-steps", str(steps)]
        words += [*TRAINING, *self.settings, f"output_dir={out}"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        if fork:
            return _forked(words, os.open(f"{out}.log", flags, 0o644))
        log = [(os.POSIX_SPAWN_OPEN, n, f"{out}.log", flags, 0o644) for n in (1, 2)]
        command, environment = (
            [sys.executable, "-m", "foretrain.cli", *words],
            os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )
        return os.posix_spawn(sys.executable, command, environment, file_actions=log)

    def journals(self, out: Path) -> list[int]:
        """Return the inodes of the metrics.jsonl files: every start replaces the file that it continues."""
        paths = [out / run / "metrics.jsonl" for run in self.runs]
        return [path.stat().st_ino for path in paths if path.exists()]

    def saving(self, out: Path) -> bool:
        """Return True while a checkpoint is being written or deleted."""
        return any(kill_resume.saving(out / run) for run in self.runs)

    def validating(self, out: Path) -> bool:
        """Return True if the newest line is of a step with validation, and the validation is not logged yet."""
        path = out / self.runs[max(len(self.journals(out)) - 1, 0)] / "metrics.jsonl"
        newest = list(read_journal(path))[-1:] if path.exists() else []
        return any(r["kind"] == "train" and r["step"] % VALIDATE_EVERY == 0 for r in newest)

    def changing(self, out: Path) -> bool:
        """Return True between two stages: one is released, and the next has no journal yet."""
        reached = len(self.journals(out))
        return 0 < reached < len(self.runs) and (out / self.runs[reached - 1] / "release").exists()

    def kill(self, pid: int, out: Path, moment: str, start_up: float, longest: float, draw: random.Random) -> str | int:
        """Wait for a moment and kill; return what the command was doing, or its exit code if it ended before."""
        before, code = self.journals(out), None
        if moment == "change" and len(before) == len(self.runs):
            moment = "any"  # all stages have begun
        if moment == "any":
            code = wait(pid, draw.uniform(0, start_up + longest))
        else:
            seen = {"save": self.saving, "validation": self.validating, "change": self.changing}[moment]
            while code is None and moment != "change" and self.journals(out) == before:
                code = wait(pid, 0.002)
            if moment != "change":
                code = wait(pid, draw.uniform(0, longest)) if code is None else code
            while code is None and not seen(out):
                code = wait(pid, 0.001)
            code = wait(pid, draw.uniform(0, 0.05 if moment == "change" else 0.01)) if code is None else code
        if code is not None:
            return code
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return self._doing(out, before)

    def _doing(self, out: Path, before: list[int]) -> str:
        if self.changing(out):
            return "changing stages"
        if self.journals(out) == before:
            return "starting"
        what = "saving" if self.saving(out) else "validating" if self.validating(out) else "training"
        return what if len(self.runs) == 1 else f"{what} in stage {len(self.journals(out))}"

    def traces(self, out: Path) -> dict[str, str]:
        """Return {name: hash} of everything that must be equal."""
        found = {run: kill_resume.traces(out / run, out) for run in self.runs}
        if len(found) == 1:
            return found["."]
        whole = {"files": " ".join(sorted(str(path.relative_to(out)) for path in out.rglob("*")))}
        same = os.path.samefile(out / "release" / "config.json", out / self.runs[-1] / "release" / "config.json")
        return {f"{run}: {name}": value for run, part in found.items() for name, value in part.items()} | {
            **whole,
            "release": str(same),
        }


CASES = {
    "chronos2": Case(
        "debug.yaml",
        [
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
        ],
    ),
    "kronos": Case(
        "kronos/debug.yaml",
        [
            "data.corpora.0.synthetic.num_series=16",
            "data.corpora.0.synthetic.length=256",
            "data.corpora.0.synthetic.missing_fraction=0.05",
            "data.context_length=32",
            "data.prediction_length=8",
            "data.min_context=16",
            "data.validation_steps=24",
            "data.test_steps=16",
            "data.sampling=epoch",
            "evaluation.num_windows=2",
            "stages.tokenizer.model.d_model=16",
            "stages.tokenizer.model.resid_dropout_p=0.1",
            "stages.predictor.model.d_model=16",
            "stages.predictor.model.n_layers=1",
            "stages.predictor.model.ff_dim=32",
            "stages.predictor.model.token_cache=true",
            "stages.predictor.evaluation.num_samples=2",
        ],
        ("stages/01-tokenizer", "stages/02-predictor"),
        (
            ("save", "change", "validation"),
            ("any", "validation", "save", "any", "change", "save", "validation", "any"),
        ),
    ),
}
CASES["adapter"] = Case("debug.yaml", [*CASES["chronos2"].settings, "adapter={rank: 4, dropout: 0.1}"])


def _record(options: argparse.Namespace, kills: Counter[str], runs: int) -> None:
    """Put the counts of a run without a difference into the file of records, in place of those of the same case."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.harness import commit, describe

    record = {"case": options.case, "kills": kills.total(), "steps": options.steps, "runs": runs, "at": kills}
    record |= {"different": 0, "device": describe("cpu"), "commit": commit()}
    kept = json.loads(options.json.read_text()) if options.json.exists() else []
    others = [other for other in kept if other["case"] != options.case]
    options.json.write_text(json.dumps([*others, record], indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, default="chronos2")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="quicker: without the start of Python and its imports")
    parser.add_argument("--json", type=Path, help="file of records, one a case: this run replaces that of its case")
    options = parser.parse_args()
    case, draw = CASES[options.case], random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-cli-"))
    began, whole = time.monotonic(), folder / "whole"
    pid = case.start(whole, options.steps, options.fork)
    while not case.journals(whole) and wait(pid, 0.01) is None:
        pass
    start_up = time.monotonic() - began
    if not case.journals(whole) or wait(pid) != 0:
        print(Path(f"{whole}.log").read_text())
        return 1
    training = time.monotonic() - began - start_up
    most = min(options.kills, max(map(len, case.moments)))  # kills of one run
    longest, expected = 2 * training / len(case.runs) / (most + 1), case.traces(whole)
    finished, kills, moments = 0, Counter[str](), list(case.moments[0])
    while kills.total() < options.kills or moments is not None:
        out = folder / f"killed-{finished}"
        pid = case.start(out, options.steps, options.fork)
        if kills.total() < options.kills and moments:
            ended = case.kill(pid, out, moments[0], start_up, longest, draw)
            if isinstance(ended, str):
                kills[ended] += 1
                moments = moments[1:]
                continue
        else:
            ended = wait(pid)
        if ended != 0:
            print(Path(f"{out}.log").read_text()[-3000:])
            return 1
        found = case.traces(out)
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if different:
            print(f"after {kills.total()} kills these differ: {', '.join(sorted(different))}; see {folder}")
            return 1
        finished += 1
        moments = list(case.moments[finished % len(case.moments)]) if kills.total() < options.kills else None
    counts = ", ".join(f"{count} {what}" for what, count in sorted(kills.items()))
    print(f"{kills.total()} kills ({counts}) in {finished} runs of {options.steps} steps: all identical")
    for name, value in expected.items():
        if name.endswith("loss curve"):
            print(f"{name} sha256 {value}")
    print(f"{start_up:.1f} s to start, {training:.1f} s for the rest; {time.monotonic() - began:.0f} s in all")
    shutil.rmtree(folder)
    if options.json:
        _record(options, kills, finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
