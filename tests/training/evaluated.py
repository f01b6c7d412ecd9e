"""Script of test_evaluations.py: toy runs with evaluators. Arguments: folder, `killed` or (torchrun) `pair`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
import torch
import torch.distributed.checkpoint  # so that forks need not import it
from rhythms import Rhythm, digits, two
from signalled import HOUR, start

from conftest import Kit
from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run
from foretrain.training.interrupt import Interrupted

RUN = {"max_steps": 20, "checkpoint_every": 4, "keep_last": 1}


def killed(root: Path) -> None:
    """Kill one run in an evaluation at each step of its rare evaluator, and end another by SIGTERM in its second."""

    def lengthy(name: str, at: int) -> Any:
        def function(model: Any, step: int) -> float:
            if step == at:
                (root / name / f"in-{at}").touch()
                time.sleep(HOUR)
            return digits(model, 1e4)

        return function

    def ended(name: str, at: int, number: int) -> int:
        pid = start(root / name, source=Kit.Source(), evaluators=two(lengthy(name, at)), **RUN)
        while not (root / name / f"in-{at}").exists():
            assert os.waitpid(pid, os.WNOHANG)[0] == 0
            time.sleep(0.01)
        os.kill(pid, number)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    codes = {f"killed {at}": ended("killed", at, signal.SIGKILL) for at in (5, 10, 15, 20)}
    print(json.dumps({**codes, "terminated": ended("terminated", 10, signal.SIGTERM)}))


def pair(root: Path, world: World) -> dict[str, Any]:
    """One rank's error and its signal are those of all; a run of two.json, whose scores are those of one process."""

    def on_rank_1(model: Any, step: int) -> float:
        if step == 4 and world.rank == 1:
            raise ValueError("only here")
        return digits(model)

    def own_work(model: Any, step: int) -> float:
        with world.watch.own_work():
            if step == 4 and world.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(HOUR)
        return digits(model)

    settings = {"max_steps": 8, "checkpoint_every": None, "world": world}
    failing = Rhythm("lite", 4, on_rank_1, keep=1)
    result = Kit.trainer(root / "failing", evaluators=[failing], **settings).fit()
    code = None
    try:
        Kit.trainer(root / "stopped", evaluators=[Rhythm("lite", 4, own_work)], **settings).fit()
    except Interrupted as stop:
        code = stop.exit_code
    train_run(build(RunConfig, json.loads((root / "two.json").read_text())), world=world)
    return {"step": result.step, "code": code}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if sys.argv[2] == "killed":
        killed(folder)
    else:
        with World.start("cpu", 1) as world:
            found = pair(folder, world)
            (folder / f"result.{world.rank}").write_text(json.dumps(found))
