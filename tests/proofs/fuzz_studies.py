"""Damage one file of a study, and let a worker go on with it: accepted, refused by an error of ours, or a fault.

    python tests/proofs/fuzz_studies.py [--count 2000] [--seed 0] [--json benchmarks/results/fuzz-studies.json]

fuzz_files.py gives such files to commands, a process each; here all is in this process, and trials cost nothing, so
that an input takes hundredths of a second. The study has three trials, one of which a worker began and was killed in,
with an adviser whose answers are replayed. What is done with each input: its config is read as one that is to be tuned;
the study is opened, shown, and gone on with to its end; its adviser's log is read, and its test part is opened.

A fault is an exception that is no ForetrainError, and a study that was gone on with to its end and does not hold what
it should: a record for each trial, none running, values of records and journal equal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from fuzzing.mutations import Mutate, bytes_damaged, json_damaged, lines_damaged, yaml_damaged
from fuzzing.studies import exchange
from tests.tuning.fake_worker import fake_trial

from foretrain.errors import ForetrainError
from foretrain.tuning.adviser.log import AdviserLog
from foretrain.tuning.config import load_study_config
from foretrain.tuning.leases import Leases
from foretrain.tuning.ledger import HeldPart, open_part
from foretrain.tuning.study import create_study, open_study
from foretrain.tuning.tables import best_lines, history_lines
from foretrain.tuning.worker import TuneWorker, open_optuna

TRIALS = 3
SPACE = {
    "rate": {"kind": "float", "low": 1e-4, "high": 1.0, "log": True},
    "kind": {"kind": "categorical", "choices": ["a", "b"]},
    "rank": {"kind": "int", "low": 1, "high": 8, "when": {"kind": ["b"]}},
}
TREES, LINES = (bytes_damaged, json_damaged, json_damaged), (bytes_damaged, lines_damaged, lines_damaged)
TEXTS = (bytes_damaged, yaml_damaged, yaml_damaged)
KINDS: dict[str, tuple[tuple[Mutate, ...], float]] = {  # by file: how it is damaged, and how often it is chosen
    "tune.yaml": (TEXTS, 1),
    "study/study.yaml": (TEXTS, 1),
    "study/study.json": (TREES, 1),
    "study/journal.jsonl": (LINES, 4),
    "study/trials/0000/result.json": (TREES, 1),
    "study/trials/default/result.json": (TREES, 0.5),
    "study/leases/2.json": (TREES, 1),
    "study/claims.lock": (TREES, 0.1),
    "study/journal.jsonl.lock": (TREES, 0.1),
    "study/adviser.jsonl": (LINES, 1),
    "recorded.jsonl": (LINES, 1),
    "study/ledger.jsonl": (LINES, 1),
}
PART = HeldPart("abc", ("one",), 100, 200)


def make(folder: Path) -> None:
    """Write the study."""
    lines = exchange({"rate": 0.001, "kind": "a"}, {"rate": 0.002, "kind": "b", "rank": 2})
    (folder / "recorded.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    tree = {
        "output_dir": str(folder / "study"), "run": "debug", "space": SPACE, "trials": TRIALS,
        "sampler": {"kind": "adviser"}, "pruner": {"kind": "median", "startup_trials": 1},
        "adviser": {"provider": "replay", "replay_from": str(folder / "recorded.jsonl"), "batch": 2},
    }  # fmt: skip
    (folder / "tune.yaml").write_text(json.dumps(tree))
    study = create_study(load_study_config(folder / "tune.yaml"), resume=False)

    def dies(config: Any, number: int, *args: Any, **more: Any) -> Any:
        if number == TRIALS - 1:
            raise ForetrainError("killed")
        return fake_trial(config, number, *args, **more)

    try:
        TuneWorker(study, dies).run()
    except ForetrainError:
        dead = {"host": os.uname().nodename, "pid": 2**22, "boot": "before", "started": "1"}
        lease = {"holder": {**dead, "worker": "w", "step": 2, "value": 0.5}, "attempts": 1, "deaths": 0}
        (study.leases / f"{TRIALS - 1}.json").write_text(json.dumps(lease))
        for name in ("claims.lock", "journal.jsonl.lock"):
            (study.path / name).write_text(json.dumps({**dead, "token": "x"}))
    open_part(PART, study.path, study="s", trials=TRIALS).found({"p": 0.5})


def use(folder: Path, kind: str) -> str:
    """Do what the docstring says; return what is wrong, "" if nothing is."""
    if kind == "tune.yaml":
        load_study_config(folder / "tune.yaml")
        return ""
    study = open_study(folder / "study")
    records = study.records()
    history_lines(study, records, Leases(study.leases, "").holders())
    open_part(PART, study.path, study="s", trials=TRIALS)
    list(AdviserLog(study.path / "adviser.jsonl").exchanges())
    config = study.config.model_copy(update={"trials": TRIALS, "workers": 1})
    study.config = config
    TuneWorker(study, fake_trial).run()
    records, told = study.records(), open_optuna(study).get_trials()
    best_lines(study, records)
    if [record.number for record in records if record.number >= 0] != [
        trial.number for trial in told if "refused" not in trial.user_attrs
    ]:
        return f"records {[record.number for record in records]}, storage {[trial.state.name for trial in told]}"
    return "" if all(trial.state.is_finished() for trial in told) else "a trial runs or waits"


def tried(base: Path, seed: int, number: int) -> dict[str, Any]:
    """Try one input."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    here = base / "one"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(base / "template", here)
    raw = (here / kind).read_bytes()
    try:
        damaged = rng.choice(KINDS[kind][0])(raw, rng)
    except (ValueError, RecursionError, OverflowError):
        damaged = bytes_damaged(raw, rng)
    (here / kind).write_bytes(damaged)
    os.chdir(here)
    line: dict[str, Any] = {"seed": seed, "n": number, "kind": kind}
    try:
        wrong = use(here, kind)
    except ForetrainError:
        return line | {"how": "refused"}
    except Exception:
        return line | {"how": "fault", "why": traceback.format_exc(limit=-4)}
    return line | ({"how": "fault", "why": wrong} if wrong else {"how": "accepted"})


def main() -> int:
    """Try the inputs, print counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # of a folder that is deleted
    counts: dict[str, Counter[str]] = {}
    longest = 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-studies-") as name:
        base = Path(name).resolve()
        os.environ["XDG_CACHE_HOME"] = str(base / "cache")
        make_in = base / "one"  # paths in files of the study are those of the folder in which inputs are tried
        make_in.mkdir()
        make(make_in)
        make_in.rename(base / "template")
        for number in range(args.first, args.first + args.count):
            began = time.process_time()
            line = tried(base, args.seed, number)
            longest = max(longest, time.process_time() - began)
            counts.setdefault(line["kind"], Counter())[line["how"]] += 1
            if line["how"] == "fault":
                print(json.dumps(line | {"why": ""}), line["why"], sep="\n", flush=True)
            if number % 100 == 99:
                print(f"{number + 1:,} inputs", flush=True)
        os.chdir("/")
    total = sum(counts.values(), Counter[str]())
    told = {
        "machine": f"{platform.machine()} ({os.cpu_count()} cores)",
        "seed": args.seed, "inputs": total.total(), **{how: total[how] for how in ("accepted", "refused", "fault")},
        "longest_s": round(longest, 2), "kinds": {kind: dict(found) for kind, found in sorted(counts.items())},
    }  # fmt: skip
    print(json.dumps(told))
    if args.json is not None:
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    return int(total["fault"] > 0)


if __name__ == "__main__":
    sys.exit(main())
