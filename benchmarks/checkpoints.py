"""How long training waits for checkpoints: written at once against in the background, in one run.

    python -m benchmarks.checkpoints [CONFIG.yaml] [--saves N] [--seconds S] [--folder FOLDER] [--json FILE]

The model of the config (Chronos-2 base: 119 million parameters, 1.4 GB with AdamW's two moments) takes steps on one
fixed batch. Saves of both kinds take turns. After each, steps are counted until the checkpoint is durable, for S
seconds at least, and compared with the rate of steps that no save accompanies, which is measured before each pair. The
first save in the background allocates its buffers and is told apart. The folder should be on the disk that runs use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)

from foretrain.data.windows import Window, stack_windows
from foretrain.distributed.world import World
from foretrain.models.base import Trainable, move
from foretrain.run.build import build_model
from foretrain.run.config import load_config
from foretrain.training.checkpoint import CheckpointManager, collect, load_tensors
from foretrain.training.manifest import damage
from foretrain.training.precision import autocast

CONFIG = Path(__file__).parents[1] / "configs" / "chronos2" / "base.yaml"


@dataclass(frozen=True)
class Save:
    """One save. blocked: seconds until training may go on; durable: until it is complete; share: of the usual rate of
    steps, while it was written."""

    kind: str
    first: bool
    blocked: float
    durable: float
    share: float | None


def stepper(
    model: Trainable,
    optimizer: torch.optim.Optimizer,
    *,
    windows: int = 2,
    context_length: int = 256,
    horizon: int = 64,
    dtype: str = "float32",
) -> Callable[[], None]:
    """Return a function that takes a training step on the model's device: a forward and backward pass, and the update.

    On a GPU it does not wait for the step to end.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(windows, 1, context_length + horizon, generator=generator).cumsum(-1).numpy()
    cut = [Window(row[:, :context_length], 1, future=row[:, context_length:]) for row in values]
    device = next(model.parameters()).device
    batch = move(model.collate(stack_windows(cut, horizon)), device)

    def step() -> None:
        with autocast(device, dtype):
            loss = model(batch)
        (loss.total / loss.weight).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rate(step: Callable[[], None], seconds: float, until: Callable[[], bool] = lambda: True) -> float:
    """Return steps a second, over `seconds` at least and until a condition holds."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not until():
        step()
        count += 1
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    return count / (time.perf_counter() - began)


def measured(
    model: Trainable,
    optimizer: torch.optim.Optimizer,
    step: Callable[[], None],
    folder: Path,
    *,
    saves: int,
    seconds: float,
) -> tuple[list[Save], int]:
    """Save in turns at once and in the background; return what each took, and the bytes of a checkpoint.

    What is saved in the background is compared with the weights of its step.
    """
    name = f"model.{next(name for name, _ in model.named_parameters())}"
    found: list[Save] = []
    managers = {
        kind: CheckpointManager(folder / kind, World(), keep_last=1, background=kind == "in the background")
        for kind in ("at once", "in the background")
    }
    for manager in managers.values():
        manager.clean()
    for number in range(saves):
        usual = rate(step, seconds)
        for kind, manager in managers.items():
            tensors = collect(model, optimizer, None)
            expected = tensors[name].detach().to("cpu", copy=True) if kind != "at once" else None
            began = time.perf_counter()
            manager.save(number + 1, tensors, {}, metric=None)
            blocked, share = time.perf_counter() - began, None
            if kind != "at once":
                share = rate(step, 0.0, lambda m=manager: not m.under_way) / usual
            manager.wait()
            found.append(Save(kind, number == 0, blocked, time.perf_counter() - began, share))
            path = manager.folder / f"step-{number + 1:08d}"
            assert damage(path) is None
            if expected is not None:
                read = {name: torch.empty_like(expected)}
                load_tensors(path, World(), read)
                assert torch.equal(read[name], expected), "not those of its step"
            print(found[-1], flush=True)
    return found, sum(file.stat().st_size for file in path.iterdir())


def middle(saves: list[Save], kind: str, first: bool | None, value: Callable[[Save], float | None]) -> float:
    """Return the median of a value of saves of a kind; first: of the first ones, of the others, or None = of all."""
    chosen = [s for s in saves if s.kind == kind and (first is None or s.first == first)]
    return statistics.median(v for s in chosen if (v := value(s)) is not None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=CONFIG)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build_model(load_config(options.config)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    step = stepper(model, optimizer)
    step()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        saves, size = measured(model, optimizer, step, Path(folder), saves=options.saves, seconds=options.seconds)
    later = middle(saves, "in the background", False, lambda s: s.blocked)
    once = middle(saves, "at once", None, lambda s: s.blocked)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {size / 1e6:,.0f} MB")
    print(f"at once: training waits {once:.2f} s")
    print(
        f"in the background: {middle(saves, 'in the background', True, lambda s: s.blocked):.2f} s the first time, "
        f"{later:.2f} s later ({later / once:.1%}); steps meanwhile at "
        f"{middle(saves, 'in the background', None, lambda s: s.share):.0%} of the usual rate"
    )
    if options.json:
        facts = {"machine": harness.describe("cpu"), "commit": harness.commit(), "bytes": size}
        options.json.write_text(json.dumps({**facts, "saves": [asdict(s) for s in saves]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
