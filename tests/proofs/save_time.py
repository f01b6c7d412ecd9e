"""Seconds that a checkpoint of a config's model takes: written and synced, verified by its hashes, read back.

    python tests/proofs/save_time.py [CONFIG.yaml] [--folder FOLDER]

Training waits while a checkpoint is written. Best of three, with AdamW's two moments and without averaged weights. The
folder should be on the disk that runs will use.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from foretrain.distributed.world import World
from foretrain.run.build import build_model
from foretrain.run.config import load_config
from foretrain.training.checkpoint import CheckpointManager, collect, load_tensors
from foretrain.training.manifest import damage


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    configs = Path(__file__).parents[2] / "configs"
    parser.add_argument("config", type=Path, nargs="?", default=configs / "chronos2" / "small.yaml")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    model = build_model(load_config(options.config))
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {"step": torch.tensor(1.0), "exp_avg": p.detach() * 0, "exp_avg_sq": p.detach() * 0}
    tensors, world = collect(model, optimizer, None), World()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = CheckpointManager(Path(folder), world)
        path = Path(folder) / "step-00000001"
        saved = min(timed(lambda: store.save(1, tensors, {}, metric=None)) for _ in range(3))
        verified = min(timed(lambda: damage(path)) for _ in range(3))
        loaded = min(timed(lambda: load_tensors(path, world, tensors)) for _ in range(3))
        size = sum(file.stat().st_size for file in path.iterdir())
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{count:,} parameters, {size / 1e6:,.0f} MB: saved in {saved:.2f} s ({size / saved / 1e6:,.0f} MB/s), ", end=""
    )
    print(f"verified in {verified:.2f} s, read in {loaded:.2f} s")


if __name__ == "__main__":
    main()
