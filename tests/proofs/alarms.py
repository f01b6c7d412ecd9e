"""Train healthy models of all families and count the alarms that they raise: none should.

    python tests/proofs/alarms.py --work DIR [--prices FOLDER] [--only NAME,...] [--json FILE]

Twenty runs on generated series, and with --prices (candle files) on real, heavy-tailed ones: pretraining, fine-tuning,
adapters, a tokenizer and its predictor. Lines are of two or four steps, so that there are enough of them; rules know
lines alone. A finished run in DIR is counted again and not repeated. The exit code is 1 if an alarm was raised.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from foretrain.training.alarms import Watcher
from foretrain.training.journal import read_journal

FAST = (
    "training.log_every=2",
    "training.tensorboard=false",
    "evaluation.promotion=false",
    "training.health_every=null",
)
NEW = ("debug", "chronos2/test", "linear/quick", "toto/quick", "toto2/quick", "kronos/debug")
CLOSES = (
    "data.context_length=128", "data.min_context=64", "data.prediction_length=8", "data.validation_steps=16",
    "data.test_steps=16", "training.max_steps=160", "training.batch_size=16", "training.validate_every=20",
    "training.checkpoint_every=80", "training.epochs=null", "training.token_budget=null",
    "training.micro_batch_size=16", "training.patience=null", "training.compile=false",
    "training.compile_mode=default", "training.dtype=float32",
    "data.sampling=random", "data.stride=1", "evaluation.max_items=20",
)  # fmt: skip


def runs(work: Path, prices: Path | None) -> dict[str, list[str]]:
    """Return the words after `foretrain train` of each run."""
    found = {}
    for seed in (1, 2):
        for config in NEW:
            found[f"{config.replace('/', '-')}-{seed}"] = [config, f"seed={seed}", *FAST]
    trained = {"chronos2": "tiny", "toto": "toto-quick-1", "toto2": "toto2-quick-1"}
    for family, start in trained.items():
        model = start if start == "tiny" else str(work / start)
        found[f"{family}-lora"] = [f"{family}/lora", f"model.model_id={model}", *_closes(work, prices), *FAST]
        found[f"{family}-finetune"] = [f"{family}/finetune", f"model.model_id={model}", *_closes(work, prices), *FAST]
    return found


def _closes(work: Path, prices: Path | None) -> list[str]:
    corpora = "[{synthetic: {kind: ohlcv, num_series: 32, length: 1024, seed: 3, freq: D}}]"
    if prices is not None:
        corpora = f"[{{path: {work / 'prices'}}}]"
    return [f"data.corpora={corpora}", "data.target=[close]", *CLOSES]


def main() -> None:
    """Train what is not there, and count alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prices", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if args.prices is not None and not (work / "prices").is_dir():
        _foretrain(["data", "import", str(args.prices), "--out", str(work / "prices")], work / "prices.log")
    counts = {}
    for name, words in runs(work, args.prices).items():
        if args.only and name not in args.only.split(","):
            continue
        began = time.monotonic()
        if not (work / name / "release").is_dir():
            _foretrain(["train", *words, f"output_dir={work / name}"], work / f"{name}.log")
        for journal in sorted((work / name).rglob("metrics.jsonl")):
            label = "/".join([name, *journal.parent.relative_to(work / name).parts[1:]])
            counts[label] = count(journal)
            alarms = counts[label]["alarms"]
            print(f"{label:32} {counts[label]['lines']:4} lines, {time.monotonic() - began:4.0f} s  {alarms or 'none'}")
    raised = sum(len(one["alarms"]) for one in counts.values())
    print(f"{len(counts)} runs, {raised} alarms")
    if args.json is not None:
        command = "python tests/proofs/alarms.py --work DIR" + (" --prices FOLDER" if args.prices else "")
        args.json.write_text(json.dumps({"command": command, "runs": counts}, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(1 if raised or not counts else 0)


def count(journal: Path) -> dict[str, object]:
    """Return the training lines of a run, and its alarms by the rules of now."""
    records, watcher = list(read_journal(journal)), Watcher()
    alarms = [f"{one['step']}: {alarm.code}" for one in records for alarm in watcher.see(one)]
    return {"lines": sum(one["kind"] == "train" for one in records), "alarms": alarms}


def _foretrain(words: list[str], log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", "foretrain", *words], stdout=file, stderr=file, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}, see {log}")


if __name__ == "__main__":
    main()
