"""Compare the memory that `train --dry-run` says of a run with what runs of every family take, over five contexts.

    python -m benchmarks.memory [--only FAMILY] [--json benchmarks/results/memory.json] [--table docs/results/memory.md]

Each run is a process of its own that first imports what runs of any family import, notes its resident memory, and
trains for a few steps from random weights on generated series (foretrain.run.train.train_run, without validation).
"measured" is the peak of its resident memory over these steps less the note, "with checkpoint" that of the whole run,
whose checkpoint and release are written at its end. "estimated" is the figure of the run's context in the line "memory
by context" of a dry run: of the first context in its own, of the others in that of the third, which says them for half
its context, for its own, and for two and four times as many steps. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness

from foretrain.config import build  # isort: skip  (after the harness, which sets the threads)
from foretrain.run.config import RunConfig
from foretrain.training.memory import ResidentGrowth

STEPS, HORIZON, MIB = 4, 64, 2**20
LONG, TOKENS = (512, 1024, 2048, 4096, 8192), (128, 256, 512, 1024, 2048)  # Kronos has a token for every step
# {family: (model, windows of a step, contexts)}
CASES: dict[str, tuple[dict[str, Any], int, tuple[int, ...]]] = {
    "linear": ({"d_model": 256}, 64, LONG),
    "chronos2": ({"preset": "test"}, 16, LONG),
    "kronos_tokenizer": ({"preset": "2k"}, 2, TOKENS),
    "kronos": ({"preset": "mini", "max_context": 4096}, 2, TOKENS),
    "toto": (
        {"patch_size": 32, "embed_dim": 256, "num_layers": 4, "num_heads": 4, "mlp_hidden_dim": 1024,
         "spacewise_every_n_layers": 4, "k_components": 8}, 8, LONG,
    ),
    "toto2": ({"patch_size": 32, "d_model": 256, "num_heads": 4, "num_layers": 4}, 8, LONG),
}  # fmt: skip


def config_of(family: str, context: int, folder: Path, steps: int = STEPS) -> RunConfig:
    """Return the config of a run in a folder, which holds a tokenizer for Kronos."""
    model, windows, _ = CASES[family]
    series: dict[str, Any] = {"kind": "mixed", "num_series": 16, "length": 2 * (context + HORIZON), "seed": 0}
    if family.startswith("kronos"):
        series |= {"kind": "ohlcv", "freq": "30min"}
    tokenizer = {"tokenizer": str(folder / "tokenizer/release")} if family == "kronos" else {}
    tree = {
        "model": {"family": family, "random_init": True, **model, **tokenizer},
        "data": {"corpora": [{"synthetic": series}], "context_length": context, "prediction_length": HORIZON,
                 "min_context": context},
        "training": {"max_steps": steps, "batch_size": windows, "validate_every": None, "checkpoint_every": steps},
        "output_dir": str(folder / f"{family}-{context}"),
        "device": "cpu",
        "threads": 1,
    }  # fmt: skip
    return build(RunConfig, tree)


def train(family: str, context: int, folder: Path) -> dict[str, int]:
    """Train in this process and return its growth in bytes: until the last step has ended, and in all."""
    from foretrain.run.train import train_run
    from foretrain.training.step import Updater

    for name in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        with contextlib.suppress(Exception):  # not all modules can be imported by name
            importlib.import_module(name)
    config = config_of(family, context, folder)
    growth, found, step = ResidentGrowth(), dict[str, int](), Updater.step

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        found["measured"] = growth.bytes() or 0
        return result

    Updater.step = noted
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config)
    return {**found, "with_checkpoint": growth.bytes() or 0}


def estimates(family: str, folder: Path) -> dict[str, int]:
    """Return what the dry runs of the first and of the third context say: {context: bytes}, the latter's first."""
    from foretrain.distributed.world import World
    from foretrain.run.dry_run import describe_run

    world, found = World.start("cpu", 1, None), dict[str, int]()
    for context in CASES[family][2][:3:2]:
        lines = describe_run(config_of(family, context, folder), world)
        text = next((line for line in lines if line.startswith("memory by context")), "")
        units = {"KiB": 2**10, "MiB": MIB, "GiB": 2**30}
        pairs = re.findall(r"([\d,]+) steps ([\d.,]+) (\w+)", text)
        found |= {
            steps.replace(",", ""): round(float(number.replace(",", "")) * units[unit]) for steps, number, unit in pairs
        }
    return found


def prepare(folder: Path) -> None:
    """Train a tokenizer for a step, and note the modules that this imported."""
    from foretrain.run.train import train_run

    config = config_of("kronos_tokenizer", TOKENS[0], folder, steps=1)
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config.model_copy(update={"output_dir": str(folder / "tokenizer")}))
    (folder / "modules.json").write_text(json.dumps(sorted(sys.modules)), encoding="utf-8")


def in_process(*arguments: str) -> Any:
    """Return what a part of this program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(families: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for every context and family."""
    in_process("--part", "prepare", str(folder))
    told = {family: in_process("--part", "estimates", str(folder), family) for family in families}
    for k in range(len(LONG)):
        for family in families:
            _, windows, contexts = CASES[family]
            taken = in_process("--part", "train", str(folder), family, str(contexts[k]))
            estimated = told[family].get(str(contexts[k]))
            yield {"family": family, "context": contexts[k], "windows": windows, "estimated": estimated, **taken}


def text_of(row: dict[str, Any]) -> str:
    """Return a row of the table in Markdown."""

    def cell(value: int | None) -> str:
        return "-" if value is None else f"{value / MIB:,.0f}"

    ratio = "-" if row["estimated"] is None else f"{row['estimated'] / row['measured']:.2f}"
    estimated, taken, all_ = (cell(row[name]) for name in ("estimated", "measured", "with_checkpoint"))
    return f"| {row['family']} | {row['context']:,} | {row['windows']} | {estimated} | {taken} | {ratio} | {all_} |"


def page(facts: dict[str, Any]) -> str:
    """Return docs/results/memory.md."""
    ratios = [row["estimated"] / row["measured"] for row in facts["cases"] if row["estimated"]]
    lines = [
        "# Memory: dry run and runs",
        "",
        "```",
        "python -m benchmarks.memory --json benchmarks/results/memory.json --table docs/results/memory.md",
        "```",
        "",
        f"MiB beyond the imports, one process and one thread on a shared {facts['machine']}, torch {facts['torch']}, "
        "float32,",
        f"AdamW, a horizon of {HORIZON}, {STEPS} steps from random weights. Estimated / measured is from "
        f"{min(ratios):.2f} to {max(ratios):.2f}.",
        "",
        "| family | context | windows | dry run | measured | ratio | with checkpoint |",
        "|---|---|---|---|---|---|---|",
        *(text_of(row) for name in CASES for row in facts["cases"] if row["family"] == name),
        "",
        "The dry run of a family's first context says its figure, that of its third context the others. Measured is",
        "the peak of resident memory during the steps; the last column is that of the whole run, whose checkpoint and",
        "release are written at its end. What the figures consist of: [distributed](../distributed.md#what-it-needs);",
        "two constants in them were fitted on this machine, the factor of 1.17 to such runs as these.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="one family")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--part", nargs="+", help="(internal) one process' part")
    args = parser.parse_args()
    if args.part:
        part, folder, *rest = args.part
        if part == "prepare":
            prepare(Path(folder))
            print("{}")
        elif part == "estimates":
            print(json.dumps(estimates(rest[0], Path(folder))))
        else:
            print(json.dumps(train(rest[0], int(rest[1]), Path(folder))))
        return
    import torch

    cases = list[dict[str, Any]]()
    facts = {"machine": harness.describe("cpu"), "torch": torch.__version__, "commit": harness.commit(), "cases": cases}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows([args.only] if args.only else list(CASES), Path(folder)):
            cases.append(row)
            print(text_of(row), flush=True)
            if args.json is not None:  # as far as it has come
                args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            if args.table is not None:
                args.table.write_text(page(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
