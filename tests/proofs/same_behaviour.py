"""Train, forecast and evaluate with two checkouts of foretrain in turn, and compare their results bit for bit.

    python tests/proofs/same_behaviour.py OLD NEW [--steps N] [--case debug ...] [--json FILE]

For a change of structure that must not change behaviour. OLD and NEW are folders with a checkout each. Both run with
this interpreter and its packages, with PYTHONPATH=CHECKOUT/src, on one CPU thread (OMP_WAIT_POLICY=PASSIVE), and with
their own configs (configs/debug.yaml, configs/kronos/debug.yaml, configs/toto/quick.yaml, configs/toto2/quick.yaml).
--steps sets the steps of every run, and of each stage of a pipeline. Compared are, for every config:

    losses      sha256 over (step, loss) of the training lines of metrics.jsonl; of each stage
    weights     sha256 of release/model.safetensors; of each stage
    forecast    sha256 of the CSV that `foretrain forecast` writes for a generated history
    evaluation  sha256 of evaluation.json of `foretrain evaluate` on a generated corpus, without entries that depend on
                path, time, version or machine (name, command, environment) and without sentences (headline, verdict,
                warnings, notes, the verdict of each comparison); all metrics, counts, settings and data are included
    tables      sha256 of metrics.csv, per_item.csv and per_horizon.csv together

Prints a table and exits with 1 if anything differs, with 2 if a command fails. Hashes differ between machines. Nothing
is written to the checkouts. `--steps 24` takes about two minutes of one core for both sides
(warm-ups of the configs are 20 steps, and fewer are refused); the whole configs train for some minutes on each side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LEFT_OUT = ("name", "command", "environment", "headline", "verdict", "warnings", "notes")  # of evaluation.json
TABLES = ("metrics.csv", "per_item.csv", "per_horizon.csv")
ROWS = 640


@dataclass(frozen=True)
class Case:
    """A config, and how its release is used."""

    config: str
    horizon: int
    candles: bool = False
    stages: tuple[str, ...] = (".",)  # run folders inside output_dir
    draws: tuple[str, ...] = ()  # flags of forecasts that are sampled


CASES = {
    "debug": Case("debug.yaml", 24),
    "kronos": Case(
        "kronos/debug.yaml", 12, True, ("stages/01-tokenizer", "stages/02-predictor"), ("--num-samples", "4")
    ),
    "toto": Case("toto/quick.yaml", 24, draws=("--num-samples", "16")),
    "toto2": Case("toto2/quick.yaml", 24),
}


class Failed(Exception):
    """A command failed."""


def python(checkout: Path, folder: Path, *words: object) -> str:
    """Run Python with the code of a checkout in `folder` and return its output. Raises Failed if it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FORETRAIN_")}
    environment |= {
        "PYTHONPATH": str(checkout / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise Failed(f"{checkout}: {' '.join(command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def imported_from(checkout: Path) -> Path:
    """Return the path from which Python imports foretrain with a checkout's PYTHONPATH."""
    return Path(python(checkout, checkout, "-c", "import foretrain; print(foretrain.__file__)").strip())


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, with a + if files differ from it; "unknown" without git."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") or "unknown"


def write_series(folder: Path, candles: bool) -> None:
    """Write raw/ITEM.csv with ROWS hours (half hours for candles), and history.csv with all items in one file."""
    draw = np.random.default_rng(0)
    (folder / "raw").mkdir(parents=True)
    stamps = pd.date_range("2024-01-01", periods=ROWS, freq="30min" if candles else "h")
    frames = []
    for item in "abcd":
        level = draw.uniform(20, 80)
        wave = level * (1 + 0.2 * np.sin(np.arange(ROWS) * np.pi / 12) + 0.03 * draw.standard_normal(ROWS))
        frame = pd.DataFrame({"timestamp": stamps})
        if candles:
            opened, edge = wave * (1 + 0.01 * draw.standard_normal(ROWS)), 0.01 * level
            frame["open"], frame["high"], frame["low"] = (
                opened,
                np.maximum(opened, wave) + edge,
                np.minimum(opened, wave) - edge,
            )
            frame["close"], frame["volume"] = wave, draw.uniform(1e3, 1e4, ROWS)
        else:
            frame["target"] = wave
        frame.to_csv(folder / "raw" / f"{item}.csv", index=False, float_format="%.6f")
        frames.append(frame.assign(item_id=item))
    pd.concat(frames).to_csv(folder / "history.csv", index=False, float_format="%.6f")


def loss_curve(journal: Path) -> str:
    """sha256 over the step and loss of every training line."""
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    kept = [f"{line['step']} {line['loss']!r}\n" for line in lines if line.get("kind", "train") == "train"]
    if not kept:
        raise Failed(f"{journal}: holds no training lines")
    return hashlib.sha256("".join(kept).encode()).hexdigest()


def hash_of(*files: Path) -> str:
    """sha256 of files one after another."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def hash_of_evaluation(file: Path) -> str:
    """sha256 of an evaluation.json without what is LEFT_OUT, keys sorted."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for key in LEFT_OUT:
        found.pop(key, None)
    for comparison in found.get("comparisons", []):
        comparison.pop("verdict", None)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def measure(case: Case, checkout: Path, folder: Path, steps: int | None) -> dict[str, str]:
    """Run a case with the code of a checkout in a new folder; return {name: hash} of everything that is compared."""

    def foretrain(*words: object) -> None:
        python(checkout, folder, "-m", "foretrain.cli", *words)

    write_series(folder, case.candles)
    foretrain("data", "import", "raw", "--out", "corpus", "--provenance", "synthetic")
    length = [] if steps is None else ["--max-steps", steps]
    config, cpu = checkout / "configs" / case.config, ("--device", "cpu", "--threads", "1")
    foretrain("train", config, "output_dir=run", *length, *cpu)
    horizon, use = case.horizon, (*case.draws, *cpu)
    foretrain("forecast", "run/release", "history.csv", "--prediction-length", horizon, "--out", "forecast.csv", *use)
    foretrain("evaluate", "run/release", "--data", "corpus", "--num-windows", 12, "--out", "evaluation", *use)
    found = dict[str, str]()
    for stage in case.stages:
        name = "" if stage == "." else f"{Path(stage).name} "
        found[f"{name}losses"] = loss_curve(folder / "run" / stage / "metrics.jsonl")
        found[f"{name}weights"] = hash_of(folder / "run" / stage / "release" / "model.safetensors")
    found["forecast"] = hash_of(folder / "forecast.csv")
    found["evaluation"] = hash_of_evaluation(folder / "evaluation" / "evaluation.json")
    found["tables"] = hash_of(*(folder / "evaluation" / name for name in TABLES))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The comparison as text."""
    head = ("config", "what", "old", "new", "")
    lines = [
        head,
        *((r["config"], r["what"], r["old"][:12], r["new"][:12], "equal" if r["equal"] else "DIFFERENT") for r in rows),
    ]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--steps", type=int, help="steps of every run in place of the config's")
    parser.add_argument("--case", choices=CASES, action="append", help="one config alone; repeatable")
    parser.add_argument("--json", type=Path, help="write the comparison to this file")
    options = parser.parse_args()
    sides = {"old": options.old.resolve(), "new": options.new.resolve()}
    for side, checkout in sides.items():
        place = imported_from(checkout)
        if not place.is_relative_to(checkout):
            parser.error(f"{side}: {checkout} holds no foretrain; Python finds {place}")
    rows = list[dict[str, Any]]()
    try:
        for name in options.case or CASES:
            found, seconds = dict[str, dict[str, str]](), dict[str, float]()
            for side, checkout in sides.items():
                with tempfile.TemporaryDirectory(prefix="same-behaviour-") as scratch:
                    began = time.monotonic()
                    # the same folder name on both sides: it is part of what some files say
                    found[side] = measure(CASES[name], checkout, Path(scratch) / "work", options.steps)
                    seconds[side] = time.monotonic() - began
            for what, old in found["old"].items():
                new = found["new"].get(what, "")
                rows.append({"config": CASES[name].config, "what": what, "old": old, "new": new, "equal": old == new})
            print(f"{CASES[name].config}: {seconds['old']:.0f} s old, {seconds['new']:.0f} s new", flush=True)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    commits = {side: commit_of(checkout) for side, checkout in sides.items()}
    different = sum(not row["equal"] for row in rows)
    print(f"old {commits['old']}, new {commits['new']}\n{table(rows)}")
    print(f"{len(rows)} compared, {different} different")
    if options.json:
        report = {"commits": commits, "steps": options.steps, "different": different, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
