"""Plant faults in training runs and tell whether the alarm of each is raised, and which report the run then has.

    python tests/proofs/planted_faults.py --work DIR [--config debug] [--steps 500] [--only NAME,...] [--json FILE]
                                          [--pictures DIR]

Each run is one of a shipped config with one fault from the middle on: a spike of the loss in five steps, a loss that
rises, gradients of a million times and of none, batches that are not finite, a loader that takes as long as four steps,
one of four processes that computes three times as long, and validations that come out a tenth worse each time. The run
without any must raise none. --json has the alarms, and the texts of the health reports of the last training line;
--pictures has what `runs health --out` draws of each, in 64 colours; the exit code is 1 if an alarm is missing, or one
was raised that another fault explains.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from foretrain.evaluation.plots import save, style
from foretrain.evaluation.validation import Validation
from foretrain.models.base import Loss
from foretrain.run.config import load_config
from foretrain.run.health_picture import draw_health
from foretrain.run.shipped import shipped_config
from foretrain.run.train import train_run
from foretrain.training.health import health, render
from foretrain.training.journal import read_journal
from foretrain.training.loader import BatchLoader
from foretrain.training.step import Updater

FAULTS = {  # the alarms of each: the first must be raised, the others may be
    "none": (),
    "spike": ("loss_spike",),
    "rising": ("divergence", "loss_spike"),
    "explosion": ("gradients_explode",),
    "dead": ("gradients_dead", "divergence"),  # moments of the optimizer move the weights on
    "nonfinite": ("nonfinite_skipped",),
    "starved": ("data_starved",),
    "straggler": ("rank_straggles",),
    "worsening": ("validation_worsens",),
}
RANKS = {"straggler": 4}


def main() -> None:
    """Train with each fault in a process of its own, or in this one with the fault that --plant names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--config", default="debug")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--plant", choices=tuple(FAULTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plant is not None:
        train(args.plant, args.config, args.steps, args.work / args.plant)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    found, wrong = {}, 0
    for fault, expected in FAULTS.items():
        if args.only and fault not in args.only.split(","):
            continue
        if not (args.work / fault / "release").is_dir():
            start(fault, args)
        records = list(read_journal(args.work / fault / "metrics.jsonl"))
        alarms = [f"{one['step']}: {one['code']}" for one in records if one["kind"] == "alarm"]
        codes = {alarm.partition(": ")[2] for alarm in alarms}
        right = codes <= set(expected) and (not expected or expected[0] in codes)
        wrong += not right
        found[fault] = {"alarms": alarms, "report": render(health(records)).splitlines()}
        if args.pictures is not None:
            picture(args.work / fault, args.pictures / f"health-{fault}.png")
        print(f"{fault:10} {'as expected' if right else 'WRONG':12} {', '.join(alarms) or 'none'}", flush=True)
    if args.json is not None:
        facts = {"config": args.config, "steps": args.steps, "faults": found}
        args.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    raise SystemExit(1 if wrong or not found else 0)


def picture(run: Path, target: Path) -> None:
    """Draw the health of a run into a small PNG."""
    from PIL import Image

    target.parent.mkdir(parents=True, exist_ok=True)
    with style():
        save(draw_health(read_journal(run / "metrics.jsonl"), run.name), target)
    with Image.open(target) as drawn:
        small = drawn.convert("RGB").quantize(64)
    small.save(target, optimize=True)


def start(fault: str, args: argparse.Namespace) -> None:
    """Run this script with a fault, under torchrun where several processes are needed."""
    words = [__file__, "--work", str(args.work), "--config", args.config, "--steps", str(args.steps), "--plant", fault]
    ranks = RANKS.get(fault)
    launcher = [] if ranks is None else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with (args.work / f"{fault}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run([sys.executable, *launcher, *words], stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"{fault}: exit code {done.returncode}, see {log.name}")


def train(fault: str, config: str, steps: int, out: Path) -> None:
    """Train a shipped config with a fault from the middle on."""
    from foretrain.distributed.world import World

    settings: list[tuple[str, Any]] = [
        ("output_dir", str(out)), ("training.max_steps", steps), ("training.log_every", 5),
        ("training.tensorboard", False), ("training.validate_every", steps // 20), ("training.checkpoint_every", steps),
        ("training.health_every", steps), ("training.on_nonfinite", "skip"),
    ]  # fmt: skip
    tree = load_config(shipped_config(config), settings)
    plant(fault, steps // 2)
    world = World.start(tree.device, 1) if "RANK" in os.environ else None
    if world is None:
        train_run(tree)
        return
    with world:
        train_run(tree, world=world)


def plant(fault: str, middle: int) -> None:
    """Change the training code of this process."""
    if fault in ("spike", "rising", "explosion", "dead", "nonfinite"):
        _plant_in_losses(fault, middle)
    elif fault == "starved":
        _slow(BatchLoader, "prepare", lambda: time.sleep(0.3))
    elif fault == "worsening":
        whole_validation = Validation.__call__

        def worse(self: Validation, model: Any, step: int) -> Any:
            found = whole_validation(self, model, step)
            factor = 1 + 0.1 * max(0, step - middle) / (2 * middle / 20)
            return replace(found, metrics={name: factor * value for name, value in found.metrics.items()})

        Validation.__call__ = worse
    elif fault == "straggler" and os.environ.get("RANK") == "2":
        whole = Updater._accumulate

        def slow(self: Updater, batches: Any) -> Any:
            network, forward = self.network, self.network.forward

            def later(*batch: Any) -> Any:
                time.sleep(0.3)
                return forward(*batch)

            network.forward = later
            try:
                return whole(self, batches)
            finally:
                network.forward = forward

        Updater._accumulate = slow


def _plant_in_losses(fault: str, middle: int) -> None:
    """Change the losses of the steps from the middle on; those that are shown, and gradients where these are meant."""
    whole = Updater._accumulate

    def changed(self: Updater, batches: Any) -> Any:
        number = self.train_state.step + 1 - middle
        forward = self.network.forward

        def later(*batch: Any) -> Loss:
            found = forward(*batch)
            if number < 0:
                return found
            shown = found.total.detach()
            if fault == "spike":
                return Loss(found.total + (20.0 * found.weight if number < 5 else 0.0), found.weight)
            if fault == "rising":
                return Loss(found.total + 0.05 * number * found.weight, found.weight)
            if fault == "nonfinite":
                return Loss(found.total * (float("nan") if number in (0, 7) else 1.0), found.weight)
            factor = 0.0 if fault == "dead" else 1e6 if number % 5 == 0 else 1.0
            return Loss(shown + factor * (found.total - shown), found.weight)

        self.network.forward = later
        try:
            return whole(self, batches)
        finally:
            self.network.forward = forward

    Updater._accumulate = changed


def _slow(owner: type, name: str, pause: Callable[[], None]) -> None:
    whole = getattr(owner, name)

    def slow(*arguments: Any) -> Any:
        pause()
        return whole(*arguments)

    setattr(owner, name, slow)


if __name__ == "__main__":
    main()
