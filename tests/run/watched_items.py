"""Script of test_watched_items.py: runs in forked gloo processes that write down every window that they read.

Argument: a folder with run.json, their config. Prints the exit codes of each start as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed.checkpoint  # noqa: F401  # so that forks need not import it

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.items import ChosenItems
from foretrain.data.sampling import Gather
from foretrain.data.windows import Windows
from foretrain.evaluation.panel import Panel, WindowRef
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run

CODE_OF_FAULT = 3


def write_down(out: Path, name: str, deadly: Path | None) -> None:
    """From now on write a line for each window that is read: what for, corpus, item, newest stamp.

    deadly: a folder; once it is there, this process kills itself before its next batch.
    """
    file, gather, window = (out / f"{name}-{os.getpid()}.jsonl").open("a"), Gather.__call__, Panel.window

    def line(purpose: str, corpus: Any, series: int, newest: int) -> None:
        stamp = int(corpus.times_slice(series, newest, newest + 1)[0])
        file.write(json.dumps([purpose, corpus.name, corpus.item_id(series), stamp]) + "\n")

    def gathered(self: Gather, *arguments: Any, **more: Any) -> Windows:
        if deadly is not None and deadly.exists():
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        found = gather(self, *arguments, **more)
        for row, (pool, series, cutoff) in enumerate(found.source.tolist()):
            rows = ~np.isnan(found.future[found.window == row])
            line("train", self._pools[pool].corpus, series, cutoff + int(np.flatnonzero(rows.any(axis=0))[-1]))
        file.flush()
        return found

    def scored(self: Panel, ref: WindowRef) -> Any:
        line("score", self.corpora[ref.corpus], ref.series, ref.cutoff)
        file.flush()
        return window(self, ref)

    Gather.__call__ = gathered
    Panel.window = scored


def start(config: RunConfig, log: Path, *, ranks: int, deadly: Path | None = None, fault: bool = False) -> list[int]:
    """Run in forked processes; return their exit codes, minus the number of a signal. None outlives another's death."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = list[int]()
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            code = CODE_OF_FAULT
            try:
                where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
                os.environ.update({key: str(value) for key, value in {**where, "WORLD_SIZE": ranks}.items()})
                write_down(log, f"rank-{rank}", deadly)
                if fault:  # all items are chosen, whatever the lists say
                    DataConfig.choose_items = lambda self, corpora: [ChosenItems() for _ in corpora]
                train_run(config, resume="auto")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        pids.append(pid)
    codes = dict[int, int]()
    while len(codes) < ranks:
        for pid in pids:
            ended, status = (0, 0) if pid in codes else os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()):  # the others would wait for it
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def main() -> None:
    root = Path(sys.argv[1])
    tree = json.loads((root / "run.json").read_text())

    def config(name: str) -> RunConfig:
        return build(RunConfig, {**tree, "output_dir": str(root / name)})

    codes = {}
    for name in ("killed", "resumed", "alone", "fault"):
        (root / "logs" / name).mkdir(parents=True)
    first = root / "run" / "checkpoints" / "step-00000004"
    codes["killed"] = start(config("run"), root / "logs" / "killed", ranks=2, deadly=first)
    codes["resumed"] = start(config("run"), root / "logs" / "resumed", ranks=2)
    codes["alone"] = start(config("alone"), root / "logs" / "alone", ranks=1)
    codes["fault"] = start(config("fault"), root / "logs" / "fault", ranks=2, fault=True)
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
