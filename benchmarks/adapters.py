"""Low-rank adapters beside full fine-tuning, in every family, on real daily bars.

    foretrain data import $MARKET_DATA/ohlcv_daily/us_google_1987_2017.parquet --out corpora/pretraining
    foretrain data import $MARKET_DATA/ohlcv_daily/us_stocknet_2012_2017.parquet --out corpora/stocks --adjust
    python -m benchmarks.adapters --data corpora [--family NAME] [--base FOLDER] [--work FOLDER] [--quick] [--json FILE]

No published weights are needed: a small base model of each family is first trained on older daily bars of other stocks.
It is fine-tuned on the 35 stocks twice, with a LoRA adapter (shipped settings) and fully, with the same steps, batches
and windows and separate learning rates; both are scored on the newest 200 bars beside naive and the base ("zero-shot").
Everything runs through `foretrain train` and `foretrain evaluate`; configs, runs and reports are stored in --work, and
finished runs there are reused.

Costs are those of a training step: the best time, with both sides alternating in one process on one batch, and the
memory growth of a new process from before the model is built until after two steps; for the small base and, with random
weights, a published size. Before timing, the losses of both sides are compared: an adapter starts as its base.

    .venv-parity/bin/python -m benchmarks.adapters --data corpora --official WORK/chronos2/lora/release

opens a Chronos-2 release with the official package and prints the largest difference of the forecasts of all stocks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)

from foretrain.config import build as build_section
from foretrain.config import dump_yaml
from foretrain.evaluation.metrics import METRICS
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig, load_config
from foretrain.training.optimizer import build_optimizer

torch.set_num_threads(harness.THREADS)

Tree = dict[str, Any]
HORIZON, TEST_STEPS, VALIDATION_STEPS = 10, 200, 100
SIDES = ("lora", "full")
SHOWN = ("pct_mae", "mase", "wql")
CLOSE = {"target": ["close"], "past_covariates": ["open", "high", "low", "volume"]}


@dataclass(frozen=True)
class Case:
    """Settings of a family's benchmark."""

    small: Tree  # `model:` section of the base model trained here
    published: Tree  # `model:` of a published size
    published_name: str
    rates: dict[str, float]  # peak learning rate of base, lora and full
    columns: Tree = field(default_factory=lambda: CLOSE)
    context: int = 256
    steps: int = 500  # of the base
    samples: int | None = None  # paths of a forecast that is scored
    first: Tree | None = None  # a stage that comes before: its config, named as the key of `model:` that reads it
    published_context: int = 512
    published_horizon: int = 64
    published_batch: int = 2


CASES = {
    "chronos2": Case(
        small={"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 3, "num_heads": 4, "initializer_factor": 1.0},
        published={"preset": "base"},
        published_name="chronos-2",
        rates={"base": 1e-3, "lora": 3e-3, "full": 5e-4},
    ),
    "kronos": Case(
        small={"d_model": 96, "n_layers": 3, "n_heads": 4, "ff_dim": 192},
        published={"preset": "small"},
        published_name="Kronos-small",
        rates={"base": 1e-3, "lora": 3e-3, "full": 5e-4},
        columns={"min_context": 64},  # its windows are full, its columns those of a candle
        context=64,
        samples=20,
        first={
            "model": {"family": "kronos_tokenizer", "random_init": True, "d_model": 64, "n_heads": 4, "ff_dim": 128,
                      "n_enc_layers": 3, "n_dec_layers": 3, "s1_bits": 8, "s2_bits": 8},
            "training": {"clip_norm": 2.0, "best_metric": "val_reconstruction_mse"},
            "optimizer": {"learning_rate": 2e-3},
        },
        published_context=64,
        published_horizon=30,
        published_batch=8,
    ),
    "toto": Case(
        small={"patch_size": 16, "embed_dim": 128, "num_layers": 4, "num_heads": 4, "mlp_hidden_dim": 256,
               "spacewise_every_n_layers": 4, "k_components": 8},
        published={"preset": "base"},
        published_name="Toto-Open-Base-1.0",
        rates={"base": 1e-3, "lora": 3e-3, "full": 5e-4},
    ),
    "toto2": Case(
        small={"patch_size": 16, "d_model": 128, "num_heads": 4, "num_layers": 4},
        published={"preset": "22m"},
        published_name="Toto-2.0-22m",
        rates={"base": 1e-2, "lora": 3e-3, "full": 5e-3},  # whole models: to be divided by widths (u-muP)
    ),
}  # fmt: skip


def base_tree(name: str, case: Case, args: argparse.Namespace) -> Tree:
    """Return the config of the run that trains the base model, with stages if the family has two models."""
    steps = 20 if args.quick else case.steps
    tree: Tree = {
        "data": {
            "corpora": [{"path": str(args.data / "pretraining")}],
            **lengths(case),
            "validation_steps": VALIDATION_STEPS,
            "test_steps": 300,  # they go on for 70 bars after the stocks: what those are tested on comes later here too
        },
        "training": training(every=100),
        "optimizer": optimizer(case.rates["base"]),
        "evaluation": {"num_windows": 4, "forecasts": False},
    }
    model = {"family": name, "random_init": True, **case.small}
    if case.first is None:
        tree["training"]["max_steps"] = steps
        return {"model": model, **tree}
    first = {"name": "tokenizer", **case.first}
    first["training"] = {**case.first["training"], "max_steps": steps}
    last = {"name": "predictor", "model": {**model, "tokenizer": "stage:tokenizer"}, "training": {"max_steps": steps}}
    return {**tree, "stages": [first, last]}


def tuned_tree(name: str, case: Case, side: str, base: Path, args: argparse.Namespace) -> Tree:
    """Return the config that fine-tunes a base model; the sides differ only in adapter and learning rate."""
    tree = {
        "model": {"family": name, "model_id": str(base)},
        "data": {
            "corpora": [{"path": str(args.data / "stocks")}],
            **lengths(case),
            "validation_steps": VALIDATION_STEPS,
            "test_steps": TEST_STEPS,
        },
        "training": {"max_steps": 10 if args.quick else 200, **training(every=5 if args.quick else 25)},
        "optimizer": optimizer(case.rates[side]),
        "evaluation": {"num_windows": 10, "forecasts": False},
    }
    return {**tree, "adapter": {}} if side == "lora" else tree


def published_tree(name: str, case: Case, side: str, parts: Tree, args: argparse.Namespace) -> Tree:
    """Return the config for measuring a step of the published model size."""
    tree = tuned_tree(name, case, side, Path(), args)
    lengths = {"context_length": case.published_context, "prediction_length": case.published_horizon}
    tree["model"] = {"family": name, "random_init": True, **case.published, **parts}
    tree["data"] |= {**lengths, "min_context": case.published_context}
    tree["training"]["batch_size"] = case.published_batch
    return tree


def lengths(case: Case) -> Tree:
    """Return the `data:` settings shared by base training and fine-tuning."""
    return {"context_length": case.context, "prediction_length": HORIZON, "min_context": 64, **case.columns}


def training(every: int) -> Tree:
    """Return the `training:` section without max_steps; the weights with the lowest validation loss are released."""
    return {"batch_size": 32, "validate_every": every, "checkpoint_every": None, "log_every": 25, "tensorboard": False}


def optimizer(rate: float) -> Tree:
    """Return the `optimizer:` section."""
    return {"learning_rate": rate, "schedule": {"kind": "cosine", "warmup_ratio": 0.1}}


def foretrain(log: Path, *arguments: str) -> None:
    """Run a foretrain command; append its output to a log file."""
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ foretrain {' '.join(arguments)}\n")
        out.flush()
        done = subprocess.run([sys.executable, "-m", "foretrain.cli", *arguments], stdout=out, stderr=out, check=False)
    if done.returncode:
        raise SystemExit(f"foretrain {' '.join(arguments)} failed: see {log}")


def trained(tree: Tree, folder: Path) -> Path:
    """Return the release of a run, training it first if the folder has none."""
    if not (folder / "release").exists():
        config = write_config(tree, folder)
        print(f"training {folder}", flush=True)
        foretrain(folder.with_suffix(".log"), "train", str(config))
    return folder / "release"


def write_config(tree: Tree, folder: Path) -> Path:
    """Write a config file beside its run folder."""
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml({**tree, "output_dir": str(folder), "threads": harness.THREADS, "device": "cpu"}))
    return path


def evaluated(release: Path, against: str, out: Path, case: Case, args: argparse.Namespace) -> Tree:
    """Return evaluation.json of a release on the newest bars of the stocks."""
    if not out.exists():
        arguments = [
            "--num-windows",
            "4" if args.quick else str(TEST_STEPS // HORIZON),
            "--threads",
            str(harness.THREADS),
        ]
        arguments += ["--num-samples", str(case.samples)] if case.samples else []
        arguments += ["--data", str(args.data / "stocks"), "--against", against, "--out", str(out)]
        foretrain(out.with_suffix(".log"), "evaluate", str(release), *arguments)
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def held_out(name: str, case: Case, work: Path, args: argparse.Namespace) -> Tree:
    """Train base, LoRA and full fine-tuning; return their parameters, bytes, metrics and verdicts."""
    base = args.base or trained(base_tree(name, case, args), work / "base")
    runs = {side: trained(tuned_tree(name, case, side, base, args), work / side) for side in SIDES}
    found = {side: evaluated(runs[side], "zero-shot", work / f"{side}-evaluation", case, args) for side in SIDES}
    between = evaluated(runs["lora"], str(runs["full"]), work / "between-evaluation", case, args)
    facts = json.loads((runs["lora"] / "release.json").read_text(encoding="utf-8"))["adapter"]
    counts = {"lora": facts["trainable_parameters"], "full": whole_parameters(work / "full.yaml")}
    record: Tree = {
        "case": f"{name} held out",
        "units": {key: METRICS[key].unit for key in SHOWN},
        "windows": found["lora"]["counts"]["windows"],
        "origins": found["lora"]["counts"]["origins"],
        "naive": figures(found["lora"], "naive"),
        "zero_shot": figures(found["lora"], "zero_shot"),
        "lora_against_full": verdict(between, "other_model"),
        "commit": harness.commit(),
    }
    for side in SIDES:
        promotion = found[side]["promotion"]
        record[side] = {
            **figures(found[side], "model"),
            "trainable_parameters": counts[side],
            "learning_rate": case.rates[side],
            "checkpoint_bytes": size_of(max((work / side / "checkpoints").glob("step-*"))),
            "release_bytes": size_of(runs[side]),
            "against_naive": verdict(found[side], "naive"),
            "against_zero_shot": verdict(found[side], "zero_shot"),
            "promoted": promotion["promoted"],
            "reason": promotion["reason"],
        }
    record["lora"] |= {
        "rank": facts["rank"],
        "alpha": facts["alpha"],
        "targets": facts["targets"],
        "alarm": facts["alarm"],
        "adapter_bytes": size_of(work / "lora" / "adapters" / facts["name"]),
    }
    return record


def figures(evaluation: Tree, who: str) -> Tree:
    """Return the metrics of the table."""
    return {key: evaluation["pooled"][who][key] for key in SHOWN}


def verdict(evaluation: Tree, against: str) -> str:
    """Return the verdict of the Diebold-Mariano test."""
    return next(c["verdict"] for c in evaluation["comparisons"] if c["against"] == against)


def size_of(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def whole_parameters(config: Path) -> int:
    """Return the number of trainable parameters of a run."""
    model = build_model(load_config(config), device="meta")
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class Stepper:
    """A run's model and optimizer, and one batch of its windows."""

    def __init__(self, config: RunConfig) -> None:
        config, source = open_source(config)
        self.model = build_model(config).train()
        self.clip = config.training.clip_norm or float("inf")
        self.batch = self.model.collate(source.windows(0, config.training.batch_size))
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def loss(self) -> float:
        """Return the loss of the batch, without dropout."""
        with torch.no_grad():
            total, weight = self.model.eval()(self.batch)
        self.model.train()
        return float(total / weight)

    def step(self) -> None:
        """Forward, backward, clip, optimizer."""
        total, weight = self.model(self.batch)
        (total / weight).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def costs(label: str, configs: dict[str, Path], alternations: int) -> list[harness.Result]:
    """Measure memory and time of a step, LoRA ("ours") against full fine-tuning ("reference")."""
    peaks = [harness.subprocess_figure("benchmarks.adapters", ["--peak-of", str(configs[side])]) for side in SIDES]
    sides = [Stepper(load_config(configs[side])) for side in SIDES]
    first = [side.loss() for side in sides]
    equal = abs(first[0] - first[1]) / (abs(first[1]) + 1)
    done = harness.compare(
        f"{label} step, LoRA against full", sides[0].step, sides[1].step, equal=equal, alternations=alternations
    )
    counts = [float(sum(p.numel() for p in side.trained)) for side in sides]
    return [
        harness.result(f"{label} trainable parameters", counts[0], counts[1], unit="parameters"),
        harness.result(f"{label} peak memory", peaks[0], peaks[1], unit="bytes"),
        done,
    ]


def peak_of(config: Path) -> float:
    """Return the growth of resident memory, in bytes, from building a run's model and two steps."""

    def action() -> None:
        stepper = Stepper(load_config(config))
        stepper.step()
        stepper.step()

    return harness.peak_growth(action)


def published_costs(name: str, case: Case, work: Path, args: argparse.Namespace) -> list[harness.Result]:
    """Measure the costs of the published model size with random weights."""
    parts = {} if case.first is None else {"tokenizer": published_tokenizer(work)}
    configs = {
        side: write_config(published_tree(name, case, side, parts, args), work / f"published-{side}") for side in SIDES
    }
    return costs(f"{name} {case.published_name}", configs, 3)


def published_tokenizer(work: Path) -> str:
    """Write a tokenizer of the published size with random weights; return its folder."""
    from foretrain.models.kronos.config import KronosTokenizerModelConfig
    from foretrain.models.kronos.trainable import KronosTokenizer

    folder = work / "published-tokenizer"
    if not folder.exists():
        folder.mkdir(parents=True)
        section = build_section(KronosTokenizerModelConfig, {"random_init": True})
        KronosTokenizer.build(section, context_length=64, prediction_length=30, seed=0).save_release(folder)
    return str(folder)


def table(record: Tree) -> str:
    """Return a family's held-out metrics as a Markdown table."""
    head = ["", *(f"{key}, {unit}" for key, unit in record["units"].items())]
    lines = [[who.replace("_", "-"), *(f"{record[who][key]:.4f}" for key in SHOWN)] for who in ("naive", "zero_shot")]
    lines = [[*line, "", "", ""] for line in lines]
    for side in SIDES:
        verdicts = [record[side][key] for key in ("against_naive", "against_zero_shot")]
        gate = "promoted" if record[side]["promoted"] else "not promoted"
        lines.append([side, *(f"{record[side][key]:.4f}" for key in SHOWN), *verdicts, gate])
    rows = [[*head, "against naive", "against zero-shot", "gate"], ["---"] * (len(head) + 3), *lines]
    title = f"{record['case']}: {record['windows']} windows, {record['origins']} origins"
    return "\n".join(
        [title, *(f"| {' | '.join(row)} |" for row in rows), f"LoRA: {record['lora_against_full']} (full)"]
    )


def official(release: Path, data: Path) -> float:
    """Return the largest |a - b| / (|b| + 1) between our forecasts and the official package's, over all stocks."""
    from chronos import Chronos2Pipeline

    from foretrain import load
    from foretrain.data.store import Corpus

    corpus = Corpus.open(data / "stocks")
    column = corpus.columns.index("close")
    series = [corpus.values(k)[column, -256:] for k in range(corpus.num_series)]
    levels = [0.1, 0.5, 0.9]
    ours = load(release, device="cpu").forecast(series, HORIZON, levels)
    pipeline = Chronos2Pipeline.from_pretrained(str(release), device_map="cpu")
    theirs, _ = pipeline.predict_quantiles([x[None] for x in series], HORIZON, levels)
    return harness.difference([torch.as_tensor(x) for x in ours], theirs)


@contextmanager
def work_folder(asked: Path | None) -> Iterator[Path]:
    """Yield the requested folder, or a temporary one."""
    if asked is not None:
        yield asked
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def main() -> None:
    """Run the families selected on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds the corpora pretraining and stocks")
    parser.add_argument("--family", choices=list(CASES), help="only this family")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="start from this release; with --family")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep configs, runs and reports here")
    parser.add_argument("--quick", action="store_true", help="a few steps, no published sizes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as a JSON list")
    parser.add_argument("--official", type=Path, metavar="RELEASE", help="compare with chronos-forecasting instead")
    parser.add_argument("--peak-of", type=Path, help="(internal) print the memory of a config's step")
    args = parser.parse_args()
    if args.peak_of:
        print(peak_of(args.peak_of))
        return
    if args.data is None or (args.base and not args.family):
        parser.error("--data says where the corpora are, and --base is the base of one --family")
    if args.official:
        print(f"largest difference of forecasts: {official(args.official, args.data):.1e}")
        return
    args.data = args.data.absolute()
    results, records = [], []
    with work_folder(args.work) as work:
        for name, case in CASES.items():
            if args.family not in (None, name):
                continue
            place = work.absolute() / name
            records.append(held_out(name, case, place, args))
            print(table(records[-1]), flush=True)
            configs = {side: place / f"{side}.yaml" for side in SIDES}
            results += costs(f"{name} small base", configs, 1 if args.quick else 5)
            if not args.quick:
                results += published_costs(name, case, place, args)
    harness.finish(results, None)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([*map(asdict, results), *records], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
