"""Script of test_distributed.py for torchrun: every case in one pair of processes. Arguments: folder, result file."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
import budget_run

from conftest import Kit
from foretrain.distributed.world import World
from foretrain.errors import DataError, ForetrainError
from foretrain.models.objective import LossConfig, Objective
from foretrain.run.train import train_run
from foretrain.training import micro_batch
from foretrain.training.interrupt import Interrupted
from foretrain.training.trainer import ValidationResult

UNEVEN = {"micro_batch_size": 3, "ema_decay": 0.9}  # 3 + 3 + 2 windows: in the second round rank 1 is idle
MUON = Kit.Optimizer(name="muon", learning_rate=1e-2)
BAD = 8 * 6 + 4  # in the micro-batch that rank 1 runs


def result_of(action: Any) -> Any:
    """Return the result of an action, or type, message and exit code of its error."""
    try:
        return action()
    except (ForetrainError, Interrupted) as error:
        return [type(error).__name__, str(error), getattr(error, "exit_code", None)]


class SelfTerminating(Kit.Source):
    """A source that sends SIGTERM to its own process when a certain window is read."""

    def __init__(self, deadly: int = 8 * 4 + 3) -> None:
        super().__init__()
        self.deadly = deadly

    def windows(self, first: int, count: int) -> Any:
        if first <= self.deadly < first + count:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().windows(first, count)


def disk_of_rank_1_is_full(world: World, out: Path, **settings: Any) -> Any:
    real = os.fsync

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if world.rank == 1:
        os.fsync = refuse
    try:
        return result_of(lambda: Kit.trainer(out, world=world, **settings).fit().step)
    finally:
        os.fsync = real


def least_room(world: World, out: Path) -> Any:
    """Train with micro_batch_size: auto where rank 1 has the memory of 16 windows, and rank 0 of all 32."""
    settings = {"batch_size": 64, "max_steps": 2, "micro_batch_size": "auto"}
    trainer = Kit.trainer(out, world=world, **settings)
    besides = micro_batch._kept(trainer.model, trainer.config, trainer.optimizer_config, world)
    with micro_batch._Trial(trainer.model.train(), trainer.source, trainer.config, world.device) as trial:
        taken = 1.3 * trial.elsewhere(32 if world.is_main else 16) + besides
        left = taken * world.size / micro_batch.SHARE["cpu"]
    with mock.patch.object(micro_batch, "available", lambda device: left):
        trainer.fit()
    return trainer.plan.micro_batch_size


def main() -> None:
    out = Path(sys.argv[1])
    world = World.start("cpu", threads=1)
    poison = Kit.Source(poison={BAD: math.inf})

    huber = Kit.Model()
    huber.objective = Objective(LossConfig(name="huber", space="scaled", delta=0.3))

    def fail() -> None:
        raise DataError("torn")

    def fit(name: str, **settings: Any) -> int:
        return Kit.trainer(out / name, world=world, **settings).fit().step

    results = {
        "train": fit("train", **UNEVEN),
        "accumulate": fit("accumulate", micro_batch_size=1),
        "profile": fit("profile", **UNEVEN, profile={"start": 3, "steps": 4}),
        "resume": fit("elastic", **UNEVEN, max_steps=8, resume="auto"),
        "skip": fit("skip", **UNEVEN, source=poison, on_nonfinite="skip"),
        "rollback": fit("rollback", **UNEVEN, source=poison, on_nonfinite="rollback"),
        "stop": result_of(lambda: fit("stop", **UNEVEN, source=poison)),
        "held": result_of(lambda: fit("train", **UNEVEN)),
        "term": result_of(lambda: fit("term", **UNEVEN, source=SelfTerminating(), prefetch=0, checkpoint_every=None)),
        "full": disk_of_rank_1_is_full(world, out / "full"),
        "huber": fit("huber", **UNEVEN, model=huber),
        "muon": fit("muon", **UNEVEN, optimizer=MUON),
        "muon resumed": [fit("muon parts", **UNEVEN, optimizer=MUON, max_steps=n, resume="auto") for n in (5, 12)],
        "budget": train_run(
            budget_run.config(out / "budget", max_steps=5, budget={"warmup": True}),
            corpora=[budget_run.corpus()],
            world=world,
            resume="auto",
        )[1].step,
        "float16": fit("float16", **UNEVEN, dtype="float16"),
        "validated": fit(
            "validated", validate_every=5, evaluate=lambda model, step: ValidationResult({"loss": 1.0 / step})
        ),
        "auto": least_room(world, out / "auto"),
        "sum": world.all_reduce_sum(__import__("torch").ones(2) * (world.rank + 1)).tolist(),
        "broadcast": world.broadcast_object(f"from {world.rank}"),
        "gather": world.gather_objects(world.rank),
        "error on rank 0": result_of(lambda: world.on_main(fail)),
        "error on rank 1": result_of(lambda: world.all_agree(DataError("torn") if world.rank else None)),
    }
    Path(f"{sys.argv[2]}.{world.rank}").write_text(json.dumps(results))
    world.barrier()
    world.close()
    sys.stdout.flush()
    os._exit(0)  # as tests/waiting.py says of end()


if __name__ == "__main__":
    main()
