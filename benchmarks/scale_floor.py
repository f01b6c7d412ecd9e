"""The scale floor of Toto 1.0 and 2.0: upstream's constant beside the floor relative to a row's own size.

    python -m benchmarks.scale_floor --data $MARKET_DATA [--family NAME] [--seeds N] [--steps N] [--work FOLDER]
        [--json FILE]

Small models of each family are trained from random weights with either floor, with the same seeds, batches and windows,
on real series of unlike scales together (deviations of a window from 0.001 to 10,000), and scored on the newest steps
of each corpus, which were not trained on. Models with upstream's floor are also scored with `rescale`. Corpora and runs
are kept in --work, and finished ones there are used again.

For each corpus the table has MASE and WQL as means over seeds. The last row of a family is the geometric mean, over
corpora and seeds, of each side's figure over that of upstream's floor: below 1 is better than upstream's.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)

from foretrain.config import build
from foretrain.data.store import Corpus
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.predictor import load
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run

torch.set_num_threads(harness.THREADS)

CONTEXT, HORIZON, WINDOWS = 256, 16, 10
CORPORA = {
    "hourly": ("benchmarks/m4_hourly.parquet", []),
    "etth1": ("benchmarks/ETTh1.csv", []),
    "taxi": ("benchmarks/taxi_new_york_passengers.csv", []),
    "eurusd": ("ohlcv_intraday/raw/FOREX_EURUSD_1H_ASK.csv.gz", []),
    "rates": ("benchmarks/exchange_rate.txt.gz", ["--no-header"]),
}
MODELS: dict[str, tuple[dict[str, Any], float]] = {
    "toto": (
        {"patch_size": 16, "embed_dim": 64, "num_layers": 4, "num_heads": 4, "mlp_hidden_dim": 128, "dropout": 0.0,
         "spacewise_every_n_layers": 4, "k_components": 4},
        2e-3,
    ),
    "toto2": ({"patch_size": 16, "d_model": 64, "num_heads": 4, "num_layers": 4}, 0.2),
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """Figures of one model on one corpus."""

    family: str
    side: str  # "upstream", "upstream, rescale" or "relative"
    seed: int
    corpus: str
    mase: float
    wql: float
    coverage_80_share: float


def import_corpora(data: Path, work: Path) -> dict[str, Path]:
    """Import the files into corpora below `work`; return their folders by name."""
    found = {}
    for name, (file, options) in CORPORA.items():
        found[name] = work / "corpora" / name
        if found[name].exists():
            continue
        command = [sys.executable, "-m", "foretrain.cli", "data", "import", str(data / file), *options]
        subprocess.run([*command, "--out", str(found[name])], check=True, capture_output=True)
    return found


def train(family: str, floor: str, seed: int, steps: int, corpora: dict[str, Path], out: Path) -> Path:
    """Train a model from random weights; return its release."""
    section, rate = MODELS[family]
    if (out / "release").exists():
        return out / "release"
    tree = {
        "model": {"family": family, "random_init": True, "scale_floor": floor, **section},
        "data": {
            "corpora": [{"path": str(path)} for path in corpora.values()],
            "context_length": CONTEXT,
            "prediction_length": HORIZON,
            "min_context": CONTEXT,
            "validation_steps": HORIZON,
            "test_steps": HORIZON * WINDOWS,
        },
        "training": {"max_steps": steps, "batch_size": 32, "validate_every": steps, "checkpoint_every": steps},
        "optimizer": {"learning_rate": rate, "schedule": {"kind": "cosine", "warmup_steps": steps // 20}},
        "evaluation": {"forecasts": False},
        "output_dir": str(out),
        "seed": seed,
        "device": "cpu",
        "threads": harness.THREADS,
    }
    train_run(build(RunConfig, tree))
    return out / "release"


def scores(release: Path, side: str, family: str, seed: int, corpora: dict[str, Path], **settings: Any) -> list[Score]:
    """Score a release on the test part of each corpus."""
    model, found = load(release, device="cpu").model, []
    for name, path in corpora.items():
        result = evaluate(
            model,
            Corpus.open(path),
            prediction_length=HORIZON,
            num_windows=WINDOWS,
            test_steps=HORIZON * WINDOWS,
            validation_steps=HORIZON,
            context_length=CONTEXT,
            max_items=40,
            compare=(),
            **settings,
        )
        pooled = result.pooled["model"]
        found.append(Score(family, side, seed, name, *(pooled[key] for key in ("mase", "wql", "coverage_80_share"))))
    return found


def table(found: list[Score]) -> str:
    """Return the means over seeds of each corpus, and the geometric means of the ratios to upstream's floor."""
    lines, sides = [], list(dict.fromkeys(score.side for score in found))
    figures = defaultdict(list)
    for score in found:
        figures[score.family, score.corpus, score.side].append(score)
    lines.append("| family | corpus | " + " | ".join(f"{side}: MASE / WQL" for side in sides) + " |")
    lines.append("|---" * (2 + len(sides)) + "|")
    for family in dict.fromkeys(score.family for score in found):
        ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for corpus in CORPORA:
            cells, base = [], figures[family, corpus, sides[0]]
            for side in sides:
                own = figures[family, corpus, side]
                mase, wql = (sum(getattr(s, key) for s in own) / len(own) for key in ("mase", "wql"))
                cells.append(f"{mase:.3f} / {wql:.4f}")
                ratios[side] += [(s.mase / b.mase, s.wql / b.wql) for s, b in zip(own, base, strict=True)]
            lines.append(f"| {family} | {corpus} | " + " | ".join(cells) + " |")
        means = [[math.exp(sum(math.log(x[k]) for x in r) / len(r)) for k in (0, 1)] for r in ratios.values()]
        cells = [f"{mase:.3f} / {wql:.3f}" for mase, wql in means]
        lines.append(f"| {family} | geometric mean of ratios | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train and score every side; print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with benchmarks/ and ohlcv_intraday/")
    parser.add_argument("--family", choices=[*MODELS], help="one family only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--work", type=Path, help="folder for corpora and runs; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write every score to this file")
    args = parser.parse_args()
    found: list[Score] = []
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        corpora = import_corpora(args.data, work)
        for family in [args.family] if args.family else MODELS:
            for seed in range(args.seeds):
                for floor in ("upstream", "relative"):
                    release = train(family, floor, seed, args.steps, corpora, work / f"{family}-{floor}-{seed}")
                    found += scores(release, floor, family, seed, corpora)
                    if floor == "upstream":
                        found += scores(release, "upstream, rescale", family, seed, corpora, rescale=True)
    print(table(found))
    if args.json:
        entry = {
            "commit": harness.commit(),
            "device": harness.describe("cpu"),
            "threads": harness.THREADS,
            "steps": args.steps,
            "scores": [score.__dict__ for score in found],
        }
        args.json.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
