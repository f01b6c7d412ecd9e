"""Tune a linear model on prices that hold nothing, and on prices that hold something, and test the best of the trials.

    python tests/proofs/selection_end_to_end.py [--repeats 10] [--trials 12] [--validations 2]
                                                [--origins 60] [--items 6] [--memory 0.6] [--only noise,planted]
                                                [--log FILE] [--json benchmarks/results/selection-end-to-end.json]

As selection_noise.py, but with trained models: each repeat makes a corpus of new series, and a worker of `foretrain
tune` in this process searches which of twelve models to fine-tune, with which learning rate and weight decay. The
models are linear, and forecast no change but for small weights of chance, each others. Prices of `noise` are random
walks; in `planted` a return is --memory times the one before it plus noise. Each trial validates --validations times,
and keeps the weights that did best, as every run does.

The best trial is that of the search, by its skill against no change on the validation part. It is called better if
selected_edge, over the losses of all trials, gives p <= 0.05. What it is worth is measured on the test part, which is
as long, and which no trial has read. The exit code is 1 if noise is called an edge more often than a rate of 5% makes
credible, or the planted one in less than 80% of repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from foretrain import load
from foretrain.config import build
from foretrain.data.importers import import_corpus
from foretrain.distributed.world import World
from foretrain.evaluation.significance import lag_in_origins
from foretrain.models.linear.ridge import Examples, fit_linear
from foretrain.reading import read_object
from foretrain.run.build import open_source
from foretrain.run.train import build_validation
from foretrain.tuning.candidates import fold_configs
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.losses import loss_matrix, matrix_of
from foretrain.tuning.records import TrialRecord
from foretrain.tuning.selection import SelectedEdge, selected_edge
from foretrain.tuning.study import create_study, ranked
from foretrain.tuning.trial import FOLD, run_trial, scored_losses
from foretrain.tuning.worker import TuneWorker

LEVEL = 0.05
SETTINGS = ("repeats", "trials", "validations", "memory", "origins", "items")
CONTEXT, HORIZON, TRAINED = 32, 2, 400  # steps
STEPS = 40  # of a trial
MODELS, WALKS = 12, 2_000  # models to start from; random walks whose errors give their quantiles
CHANCE = 0.004  # size of the weights that tell them apart: their forecasts differ by a 20th of a return or so
SPACE = {
    "optimizer.learning_rate": {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "optimizer.weight_decay": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True},
}


def prices(draws: np.random.Generator, memory: float, asked: argparse.Namespace) -> pd.DataFrame:
    """Return daily prices of some items, a row each; memory: share of a return that the next one repeats."""
    length, parts = TRAINED + 2 * asked.origins * HORIZON, []
    for item in range(asked.items):
        returns = draws.standard_normal(length)
        for step in range(1, length):
            returns[step] += memory * returns[step - 1]
        days = pd.date_range("2020-01-01", periods=length, freq="D")
        parts.append(pd.DataFrame({"item_id": f"i{item}", "timestamp": days, "target": 1000 + returns.cumsum()}))
    return pd.concat(parts)


def start_models(folder: Path) -> list[str]:
    """Write linear models that forecast no change but for weights of chance; return their folders."""
    walks = np.random.default_rng(0).standard_normal((WALKS, CONTEXT + HORIZON)).cumsum(axis=1)
    old, found = np.arange(WALKS) < WALKS * 3 // 4, list[str]()
    for number in range(MODELS):
        model = fit_linear(Examples(walks[:, :CONTEXT], walks[:, CONTEXT:], old, ~old))
        weight = model.network.head.weight  # of all levels of a step, one step after the other
        chance = CHANCE * torch.randn(HORIZON, weight.shape[1], generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            weight.copy_(chance.repeat_interleave(len(weight) // HORIZON, dim=0))
            weight[:, -1] += 1  # of the last value
        (folder / f"start-{number}").mkdir()
        model.save_release(folder / f"start-{number}")
        found.append(str(folder / f"start-{number}"))
    return found


def config_of(folder: Path, models: list[str], seed: int, asked: argparse.Namespace) -> TuneConfig:
    """Return the study of a repeat."""
    every, part = max(1, STEPS // asked.validations), asked.origins * HORIZON
    settings = {
        "model": {"model_id": models[0]},
        "training.batch_size": 32,
        "data.corpora": [{"path": str(folder / "corpus")}],
        "data.context_length": CONTEXT,
        "data.prediction_length": HORIZON,
        "data.validation_steps": part,
        "data.test_steps": part,
        "training.max_steps": STEPS,
        "training.validate_every": every,
        "training.checkpoint_every": every,
        "training.best_metric": "val_skill",
        "optimizer.schedule": {"kind": "constant"},
        "evaluation.num_windows": asked.origins,
        "evaluation.seasonality": 1,
        "seed": seed,
    }
    space = {**SPACE, "model.model_id": {"kind": "categorical", "choices": models}}
    tree = {
        "output_dir": str(folder / "study"), "run": "linear/quick", "set": settings, "space": space,
        "trials": asked.trials, "objectives": [{"metric": "val_skill"}],
        "sampler": {"kind": "tpe", "startup_trials": 6}, "seed": seed,
    }  # fmt: skip
    return build(TuneConfig, tree, source="this script")


def repeat(seed: int, memory: float, models: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Return what one search comes to."""
    block = lag_in_origins(HORIZON, HORIZON) + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = prices(np.random.default_rng([seed, memory > 0]), memory, asked)
        table.to_csv(folder / "prices.csv", index=False)
        import_corpus([folder / "prices.csv"], folder / "corpus")
        study = create_study(config_of(folder, models, seed, asked), resume=False)
        TuneWorker(study, run_trial).run()
        complete = [one for one in study.records() if one.state == "complete" and one.number >= 0]
        assert len(complete) == asked.trials, [one.message for one in study.records()]
        winner = ranked(complete, study.directions)[0]
        matrix = loss_matrix({one.number: study.trial(one.number) for one in complete})
        assert len(matrix.values) == asked.origins
        best = matrix.trials.index(winner.number)
        found = selected_edge(matrix.values, matrix.naive, best, block=block, seed=seed)
        assert winner.values is not None and abs(found.edge - winner.values[0]) < 1e-6
        later = later_edge(study.config, winner, study.trial(winner.number) / "fold-0", block)
    assert found.p_value is not None and found.p_single is not None
    return {
        "looks": found.edge > 0,
        "called_alone": found.p_single <= LEVEL,
        "called": found.p_value <= LEVEL,
        "called_later": later.p_value is not None and later.p_value <= LEVEL,
        "edge": found.edge,
        "edge_later": later.edge,
        "p_value": found.p_value,
    }


def later_edge(config: TuneConfig, winner: TrialRecord, run: Path, block: int) -> SelectedEdge:
    """Return the edge of a trial's chosen weights on the test part, which lies behind the part that chose them."""
    later = config.model_copy(update={"set": {**config.set, "data.test_steps": 0}})
    ((fold, own),) = fold_configs(later, winner.params, run.with_name("later"))
    own, source = open_source(own)
    model = load(run / "checkpoints" / f"step-{read_object(run / FOLD)['step']:08d}").model
    validation = build_validation(own, source, model, World.start("cpu", 1, own.deadlines))
    assert validation is not None
    matrix = matrix_of({winner.number: scored_losses(validation, model, fold)[0]})
    return selected_edge(matrix.values, matrix.naive, 0, block=block)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts, and medians of the edges."""
    counts = {name: sum(row[name] for row in rows) for name in ("looks", "called_alone", "called", "called_later")}
    edges = {name: float(np.median([row[name] for row in rows])) for name in ("edge", "edge_later")}
    return {"repeats": len(rows), **counts, **edges, "p_values": sorted(round(row["p_value"], 4) for row in rows)}


def kept(log: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the repeats of a log."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    found = [json.loads(line) for line in lines]
    return {(row.pop("kind"), row.pop("seed")): row for row in found}


def keep(log: Path | None, row: dict[str, Any]) -> None:
    """Print a repeat, and append it to a log."""
    print(text := json.dumps(row), flush=True)
    if log is not None:
        with log.open("a") as file:
            file.write(f"{text}\n")


def main() -> int:
    """Run the repeats, print counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--validations", type=int, default=2)
    parser.add_argument("--memory", type=float, default=0.6)
    parser.add_argument("--origins", type=int, default=60, help="of the validation part, and of the test part")
    parser.add_argument("--items", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="repeat to begin with")
    parser.add_argument("--log", type=Path, help="file of JSON lines, one a repeat; those in it are not done again")
    parser.add_argument("--only", default="noise,planted")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    told: dict[str, Any] = {
        "machine": f"{platform.machine()} ({os.cpu_count()} cores)",
        "settings": {name: value for name, value in vars(args).items() if name in SETTINGS},
    }
    with tempfile.TemporaryDirectory() as name:
        models, known = start_models(Path(name)), kept(args.log)
        for kind in args.only.split(","):
            memory = args.memory if kind == "planted" else 0.0
            for seed in range(args.first, args.repeats):
                if (kind, seed) not in known:
                    known[kind, seed] = row = repeat(seed, memory, models, args)
                    keep(args.log, {"kind": kind, "seed": seed, **row})
            told[kind] = found = summary([row for (of, _), row in sorted(known.items()) if of == kind])
            print(
                f"{kind}: of {found['repeats']} repeats the best of {args.trials} trials looks better than no change "
                f"in {found['looks']}, is called better as if it were the only trial in {found['called_alone']}, "
                f"corrected for the choice in {found['called']}; median edge {100 * found['edge']:.2f}%, on the test "
                f"part {100 * found['edge_later']:.2f}% (called better there: {found['called_later']})",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    # as many as a rate of 5% gives in one of 100 tries
    most = int(stats.binom.ppf(0.99, args.repeats, LEVEL))
    too_many = told.get("noise", {"called": 0})["called"] > most
    return int(too_many or told.get("planted", {"called": args.repeats})["called"] < 0.8 * args.repeats)


if __name__ == "__main__":
    raise SystemExit(main())
