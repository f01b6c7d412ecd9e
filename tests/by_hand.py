"""Processes of a run started by hand, without torchrun: forks of one that has imported everything.

usage: python -m tests.by_hand FOLDER   prints {case: {rank: [exit code, stderr, seconds until its end]}} as JSON
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretrain import cli
from foretrain.cli import benchmark_models, train  # noqa: F401  # imported once, before the forks
from foretrain.distributed import watch as watches
from foretrain.distributed.watch import Deadlines
from foretrain.distributed.world import World
from foretrain.errors import DataError, ForetrainError, Interrupted
from foretrain.training.checkpoint import CheckpointManager

TINY = [
    "data.context_length=64",
    "data.prediction_length=8",
    "data.validation_steps=16",
    "data.test_steps=16",
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.patch_size=8",
    "training.batch_size=8",
    "training.checkpoint_every=null",
    "training.log_every=1",
    "training.tensorboard=false",
    "training.max_steps=100000",
]


def killed(world: World) -> None:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.all_reduce_sum(torch.ones(3))


def first_killed(world: World) -> None:
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    world.gather_objects("here")


def fails(world: World) -> None:
    if world.rank == 1:
        raise DataError("item 'a' has 3 rows; needs 9.")
    world.barrier()


def first_fails(world: World) -> None:
    if world.rank == 0:
        raise DataError("item 'a' has 3 rows; needs 9.")
    world.barrier()


def dies_in_a_save(world: World, folder: Path, background: bool) -> None:
    """Rank 2 is killed when it is to write its part: rank 0 notices, while its neighbours 1 and 3 still wait for it."""
    store = CheckpointManager(folder, world, background=background)
    world.on_main(store.clean)
    if world.rank == 2:
        store._write_tensors = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
    store.save(1, {"model.a": torch.zeros(3)}, {}, metric=None)
    store.wait()


def first_stopped(world: World) -> None:
    if world.rank == 0:
        raise Interrupted(143, "terminated")
    world.barrier()


def hangs(world: World) -> None:
    world.watch.step = 8
    with world.phase("step"):
        if world.rank == 1:
            world.watch.tick("reading data")
            time.sleep(3600)
        world.watch.tick("computing")
        world.all_reduce_sum(torch.ones(3))


def freezes(world: World) -> None:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.barrier()


def waits(world: World) -> None:
    """Longer than a step may take, but not in a step."""
    if world.rank == 1:
        time.sleep(4)
    world.barrier()
    with world.phase("step"):
        world.barrier()


def alone(folder: Path, **minutes: float) -> None:
    """A single process whose disk hangs: it goes on only where no deadline is given."""
    watches._USUAL = {"step": 1 / 60, "evaluation": 1 / 60}
    world = World.start("cpu", 1, Deadlines(**minutes))
    world.watch.folder = folder
    with world.watch.running(), world.phase("step"):
        world.watch.tick("reading data")
        time.sleep(4)


def in_world(work: Callable[[World], None], folder: Path | None = None, **minutes: float) -> None:
    try:
        with World.start("cpu", 1, Deadlines(**minutes)) as world:
            world.watch.folder = folder
            world.barrier()
            work(world)
    except ForetrainError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    except Interrupted as stop:
        os._exit(stop.exit_code)


def run_command(folder: Path, *settings: str) -> None:
    sys.argv = ["foretrain", "train", "debug", "--threads", "1", *TINY, *settings, f"output_dir={folder / 'run'}"]
    cli.main()


def of_rank_0(histories: Sequence[Any], horizon: int, quantile_levels: Sequence[float]) -> Any:
    """A forecaster that comes to no end in rank 1."""
    if os.environ["RANK"] == "1":
        Path("scoring").touch()
        time.sleep(3600)
    return np.zeros((sum(len(values) for values in histories), len(quantile_levels), horizon))


def run_benchmark(folder: Path) -> None:
    os.chdir(folder)
    rows = [f"{np.datetime64('2024-01-01') + step},{step % 7},{step % 5}" for step in range(60)]
    Path(f"{os.environ['RANK']}.csv").write_text("\n".join(["timestamp,a,b", *rows]) + "\n")
    words = ["benchmark", "tests.by_hand:of_rank_0", "--suite", "local", "--horizon", "2", "--windows", "7"]
    words += ["--batch-size", "4"]  # a batch for each rank
    sys.argv = ["foretrain", *words, "--data", f"{os.environ['RANK']}.csv", "--threads", "1", "--out", "results"]
    cli.main()


def start(size: int, ranks: list[int], folder: Path, work: Callable[[], None]) -> dict[int, int]:
    """Fork a process for each rank; return their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = {}
    for rank in ranks:
        if process := os.fork():
            found[rank] = process
            continue
        where = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in where.items()}
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{kind}", os.O_WRONLY | os.O_CREAT), number)
        code = 1
        try:
            work()
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        except BaseException:  # any: this process must not go on in its parent's place
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return found


def ends(name: str, processes: dict[int, int], folder: Path) -> dict[int, list]:
    began, found = time.monotonic(), {}
    for rank, process in processes.items():
        if name.endswith("freezes") and rank == 1:  # which nothing but this ends
            os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        found[rank] = [code, (folder / f"{rank}.err").read_text(), time.monotonic() - began]
    return found


def main(folder: Path) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1"}
    results = {}
    cases = {
        "killed": (3, [0, 1, 2], lambda: in_world(killed)),
        "first killed": (3, [0, 1, 2], lambda: in_world(first_killed)),
        "fails": (3, [0, 1, 2], lambda: in_world(fails)),
        "first fails": (3, [0, 1, 2], lambda: in_world(first_fails)),
        "first stopped": (3, [0, 1, 2], lambda: in_world(first_stopped)),
        "hangs": (2, [0, 1], lambda: in_world(hangs, folder / "hangs", step=1 / 60)),
        "freezes": (2, [0, 1], lambda: in_world(freezes, evaluation=1 / 20)),
        "waits": (2, [0, 1], lambda: in_world(waits, step=1 / 20)),
        "never starts": (3, [0, 2], lambda: in_world(killed, start=1 / 60)),
        "alone": (1, [0], lambda: alone(folder / "alone")),
        "alone and told": (1, [0], lambda: alone(folder / "alone and told", step=1 / 60)),
        "saves": (4, [0, 1, 2, 3], lambda: in_world(lambda world: dies_in_a_save(world, folder / "a", False))),
        "saves meanwhile": (4, [0, 1, 2, 3], lambda: in_world(lambda world: dies_in_a_save(world, folder / "b", True))),
        "train": (2, [0, 1], lambda: run_command(folder / "train")),
        "train freezes": (2, [0, 1], lambda: run_command(folder / "train freezes", "deadlines.step=0.2")),
        "benchmark": (2, [0, 1], lambda: run_benchmark(folder / "benchmark")),
    }
    for name, (size, ranks, work) in cases.items():
        place = folder / name
        place.mkdir(parents=True)
        processes = start(size, ranks, place, work)
        journal = place / "run" / "metrics.jsonl"
        while name.startswith("train") and not (journal.exists() and '"kind": "train"' in journal.read_text()):
            time.sleep(0.02)
        while name == "benchmark" and not (place / "scoring").exists():
            time.sleep(0.02)
        if name == "benchmark":
            held = json.loads((place / "results" / "tests.by_hand:of_rank_0" / ".benchmark.lock").read_text())
            (place / "held.json").write_text(json.dumps([held["pid"], processes[0]]))
        if name.startswith("train") or name == "benchmark":
            os.kill(processes[1], signal.SIGSTOP if name == "train freezes" else signal.SIGKILL)
        results[name] = ends(name, processes, place)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
