"""Folders of studies as subjects of fuzzing: one with a trial that was killed after its fold, and one with an adviser.

Workers run in the process of the command (in_process), so that what they read counts as the command's own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from fuzzing import mutations as change
from fuzzing.mutations import Mutate
from fuzzing.subjects import Command, Run, Subject

KEY = "optimizer.learning_rate"
RATE = {KEY: {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True}}
SERIES = {"kind": "seasonal", "num_series": 2, "length": 160, "seed": 0, "freq": "h"}
SET = {
    "data.corpora": [{"synthetic": SERIES}],
    "data.context_length": 32,
    "data.prediction_length": 8,
    "data.validation_steps": 16,
    "data.test_steps": 16,
    "training.max_steps": 2,
    "training.batch_size": 4,
    "training.validate_every": 2,
    "training.checkpoint_every": 2,
    "training.health_every": None,
    "optimizer.schedule": {"kind": "constant"},
    "evaluation.num_windows": 2,
}
TREE: dict[str, Any] = {"run": "linear/quick", "set": SET, "space": RATE, "trials": 2, "output_dir": "study"}
ADVISER = {"provider": "replay", "replay_from": "recorded.jsonl", "batch": 2}
SHOW: tuple[Command, ...] = (
    ("tune", "show", "study"),
    ("tune", "show", "study", "--json"),
    ("tune", "best", "study"),
    ("tune", "best", "study", "--out", "best.yaml"),
)
RESUME: tuple[Command, ...] = (("tune", "resume", "study", "--trials", "2"),)
ADVISED: tuple[Command, ...] = (("tune", "resume", "advised", "--trials", "2"),)
BYTES, TREES, LINES = change.bytes_damaged, change.json_damaged, change.lines_damaged


def in_process() -> None:
    """Let a crew be one worker in its own process, whose errors are the command's."""
    from foretrain.tuning import crew, study, trial, worker

    def run(self: crew.Crew) -> None:
        worker.TuneWorker(study.open_study(self.folder.path), trial.run_trial).run()

    crew.Crew.run = run  # type: ignore[method-assign]


def subjects(base: Path, run: Run) -> Iterator[Subject]:
    """Write the template; yield its subjects."""
    in_process()
    root = base / "studies"
    root.mkdir(parents=True)
    lines = exchange({KEY: 0.001}, {KEY: 0.002})
    (root / "recorded.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (root / "tune.yaml").write_text(yaml.safe_dump(TREE, sort_keys=False))
    asked = {**TREE, "output_dir": "advised", "trials": 1, "sampler": {"kind": "adviser"}, "adviser": ADVISER}
    (root / "asked.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    run(["tune", "tune.yaml"], root)
    run(["tune", "asked.yaml"], root)
    _unfinish(root / "study", 1)
    yield from _configs(root)
    yield from _records(root)
    for name in ("adviser.jsonl", "study.yaml", "journal.jsonl"):
        ways = (BYTES, change.yaml_damaged) if name.endswith("yaml") else (BYTES, LINES, LINES)
        yield Subject(f"study/advised {name}", "studies", f"advised/{name}", ways, ADVISED)
    yield Subject("study/recorded.jsonl", "studies", "recorded.jsonl", (BYTES, LINES, LINES), ADVISED)


def _configs(root: Path) -> Iterator[Subject]:
    texts: tuple[Mutate, ...] = (BYTES, change.yaml_damaged, change.yaml_damaged)
    for name in ("tune.yaml", "asked.yaml"):
        yield Subject(f"study/{name}", "studies", name, texts, (("tune", "{file}", "--dry-run"),), weight=2)
    resumed = ("tune", "tune.yaml", "--resume")
    yield Subject("study/study.yaml", "studies", "study/study.yaml", texts, (*SHOW, *RESUME, resumed), weight=2)
    yield Subject("study/study.json", "studies", "study/study.json", (BYTES, TREES, TREES), (*SHOW, *RESUME, resumed))


def _records(root: Path) -> Iterator[Subject]:
    trees: tuple[Mutate, ...] = (BYTES, TREES, TREES)
    for name in ("default", "0000"):
        file = f"study/trials/{name}/result.json"
        yield Subject(f"study/{name}/result.json", "studies", file, trees, (*SHOW, *RESUME), weight=2)
    journal = "study/journal.jsonl"
    yield Subject("study/journal.jsonl", "studies", journal, (BYTES, LINES, LINES), RESUME, weight=5)
    for name in ("trial.json", "fold-0/fold.json"):
        yield Subject(f"study/{name}", "studies", f"study/trials/0001/{name}", trees, RESUME)
    losses = "fold-0/losses.parquet"
    yield Subject(f"study/{losses}", "studies", f"study/trials/0001/{losses}", (BYTES,), RESUME, weight=2)
    leases = (*SHOW[:2], *RESUME)
    yield Subject("study/leases/1.json", "studies", "study/leases/1.json", trees, leases, weight=1.5)
    for name in ("claims.lock", "journal.jsonl.lock"):
        yield Subject(f"study/{name}", "studies", f"study/{name}", trees, RESUME, weight=0.2)


def _unfinish(study: Path, number: int) -> None:
    """Put a study back to where a worker was killed after the fold of its last trial."""
    folder = study / "trials" / f"{number:04d}"
    for name in ("result.json", "losses.parquet"):
        (folder / name).unlink()
    lines = (study / "journal.jsonl").read_text().splitlines(keepends=True)
    (study / "journal.jsonl").write_text("".join(lines[:-1]))  # the last one tells the trial's end
    dead = {"host": os.uname().nodename, "pid": 2**22, "boot": "before", "started": "1"}
    holder = {**dead, "worker": "w", "step": 2, "value": 0.5}
    (study / "leases" / f"{number}.json").write_text(json.dumps({"holder": holder, "attempts": 1, "deaths": 0}))
    for name in ("claims.lock", "journal.jsonl.lock"):
        (study / name).write_text(json.dumps({**dead, "token": "x"}))
    shutil.rmtree(study / "workers", ignore_errors=True)


def exchange(*candidates: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of an exchange that proposed candidates, and of one that proposed none."""
    request = {
        "hyperparam_schema": {}, "scales": {}, "conditions": {}, "history": [], "history_limit": 100, "n": 2,
        "objectives": [{"name": "val_wql", "direction": "minimize"}], "guidance": "", "model": "m",
    }  # fmt: skip
    asked = {"kind": "request", "worker": "h:1", "provider": "openai", "reserve": {}, "request": request}
    contents = (json.dumps({"suggestions": candidates}), "nothing")
    lines = []
    for number, content in enumerate(contents):
        both = {"exchange": number, "time": "2026-01-01T00:00:00+00:00"}
        answered = {"kind": "response", "seconds": 1.0, "response": {"content": content, "retry_after_s": 1.0}}
        lines += [asked | both, answered | both]
    return lines
