"""Chronos-2 against chronos-forecasting: same weights, same inputs, alternating in one process.

    python -m benchmarks.chronos2 --against upstream [--quick] [--only TEXT] [--json FILE]

Training cases are here, forecasting cases in chronos2_forecast.py. A training step is forward, backward, clipping at
norm 1 and fused AdamW on prepared batches in memory; outputs (dropout 0) are compared before timing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)
import numpy as np

from foretrain.data.windows import Window, Windows, stack_windows
from foretrain.models.chronos2.config import Chronos2ModelConfig
from foretrain.models.chronos2.forecaster import Chronos2
from foretrain.training.precision import autocast

torch.set_num_threads(harness.THREADS)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Training:
    """Shape of one training case. Rows = groups * variates; the model has head width 64 (16 when d_model is 64)."""

    name: str
    layers: int
    width: int
    context: int
    groups: int
    variates: int = 1
    horizon: int = 64
    dropout: float = 0.0


TRAINING = [
    Training("train 2L/d64 ctx512 batch 256", 2, 64, 512, 256),
    Training("train 2L/d64 ctx512 batch 256 dropout .1", 2, 64, 512, 256, dropout=0.1),
    Training("train 6L/d512 ctx512 batch 64", 6, 512, 512, 64),
    Training("train 6L/d512 ctx512 batch 64 dropout .1", 6, 512, 512, 64, dropout=0.1),
    Training("train 2L/d64 ctx512 20 groups of 20", 2, 64, 512, 20, variates=20),
    Training("train 2L/d64 ctx512 20 groups of 20 dropout .1", 2, 64, 512, 20, variates=20, dropout=0.1),
    Training("train 4L/d256 ctx256 batch 1024", 4, 256, 256, 1024),
    Training("train 4L/d256 ctx256 batch 1024 dropout .1", 4, 256, 256, 1024, dropout=0.1),
]
MEMORY = [replace(case, name=case.name.replace("train", "peak memory")) for case in TRAINING[-2:]]


def model_of(case: Training) -> Chronos2:
    """Return a model with random weights of realistic scale, so that outputs are not all zeros."""
    heads = 4 if case.width == 64 else case.width // 64
    config = Chronos2ModelConfig(
        random_init=True,
        d_model=case.width,
        d_kv=case.width // heads,
        d_ff=4 * case.width,
        num_layers=case.layers,
        num_heads=heads,
        dropout_rate=case.dropout,
        initializer_factor=1.0,
    )
    return Chronos2.build(config, context_length=case.context, prediction_length=case.horizon, seed=0)


def windows_of(case: Training) -> Windows:
    """Return complete random walks; every row is a target."""
    rng = np.random.default_rng(0)
    size = (case.groups, case.variates, case.context + case.horizon)
    walks = rng.standard_normal(size).cumsum(-1).astype(np.float32)
    cut = case.context
    return stack_windows([Window(w[:, :cut], case.variates, future=w[:, cut:]) for w in walks], case.horizon)


def upstream_model(model: Chronos2) -> torch.nn.Module:
    """Return the official module with the same weights, in training mode."""
    from chronos import BaseChronosPipeline

    with tempfile.TemporaryDirectory() as folder:
        model.save_release(Path(folder))
        return BaseChronosPipeline.from_pretrained(folder, device_map="cpu").model.train()


def our_step(case: Training, model: Chronos2, windows: Windows, dtype: str = "float32") -> Callable[[], torch.Tensor]:
    """Return a function that runs one optimizer step of our model, under autocast to a dtype."""
    batch = model.collate(windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def loss() -> torch.Tensor:
        with autocast(CPU, dtype):
            total, weight = model(batch)
        return total / weight

    return _step(model, optimizer, loss)


def upstream_step(
    case: Training, model: torch.nn.Module, windows: Windows, dtype: str = "float32"
) -> Callable[[], torch.Tensor]:
    """Return a function that runs the same step with the official module."""
    inputs = {
        "context": torch.from_numpy(windows.context),
        "future_target": torch.from_numpy(windows.future),
        "group_ids": torch.from_numpy(windows.window),
        "num_output_patches": -(-case.horizon // 16),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def loss() -> torch.Tensor:
        with autocast(CPU, dtype):
            return model(**inputs).loss

    return _step(model, optimizer, loss)


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]):
    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.detach()

    return step


def equality(case: Training, ours: Chronos2, theirs: torch.nn.Module, windows: Windows) -> float | None:
    """Return the largest relative difference of loss and gradients; None with dropout, since both are random."""
    if case.dropout:
        return None
    grads = []
    for model in (ours, theirs):
        step = our_step if model is ours else upstream_step
        optimizer_free = step(case, model, windows)
        loss = optimizer_free()  # a step at lr 1e-6 after which both sides still share their gradients
        names = sorted(name.removeprefix("network.") for name, _ in model.named_parameters())
        table = {name.removeprefix("network."): p.grad for name, p in model.named_parameters()}
        grads.append([loss, *(table[name] for name in names if table[name] is not None)])
    return harness.difference(*grads)


def training_case(case: Training, against: str | None, alternations: int) -> harness.Result:
    """Time one training case."""
    windows, model = windows_of(case), model_of(case)
    model.train()
    if against is None:
        return harness.compare(case.name, our_step(case, model, windows), None, alternations=alternations)
    theirs = upstream_model(model)
    equal = equality(case, model, theirs, windows)
    ours, reference = our_step(case, model, windows), upstream_step(case, theirs, windows)
    return harness.compare(case.name, ours, reference, equal=equal, alternations=alternations)


def memory_case(case: Training, against: str | None) -> harness.Result:
    """Measure the peak memory of one step, each side in a new process."""
    sides = ["ours"] if against is None else ["ours", "upstream"]
    figures = [
        harness.subprocess_figure("benchmarks.chronos2", ["--peak-of", side, "--only", case.name]) for side in sides
    ]
    return harness.result(case.name, figures[0], figures[1] if against else None, unit="bytes")


def peak_of(side: str, case: Training) -> float:
    """Return the growth of resident memory from two training steps, in bytes."""
    windows, model = windows_of(case), model_of(case)
    if side == "upstream":
        step = upstream_step(case, upstream_model(model), windows)
    else:
        step = our_step(case, model.train(), windows)
    return harness.peak_growth(lambda: (step(), step()))


def main() -> None:
    """Run the cases selected on the command line."""
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--peak-of", choices=("ours", "upstream"), help="(internal) print one side's peak memory")
    args = parser.parse_args()
    if args.peak_of:
        print(peak_of(args.peak_of, next(case for case in MEMORY if case.name == args.only)))
        return
    alternations = 1 if args.quick else 5

    def wanted(name: str) -> bool:
        return args.only is None or args.only in name

    results = [training_case(case, args.against, alternations) for case in TRAINING if wanted(case.name)]
    results += [memory_case(case, args.against) for case in MEMORY if wanted(case.name)]
    results += forecasting(wanted, args.against, alternations)
    harness.finish(results, args.json)


def forecasting(wanted: Callable[[str], bool], against: str | None, alternations: int) -> list[harness.Result]:
    """Run the forecasting cases of chronos2_forecast."""
    from benchmarks import chronos2_forecast

    return chronos2_forecast.run(wanted, against, alternations)


if __name__ == "__main__":
    main()
