"""bfloat16 against float32 on a CPU, one thread: products, training steps and forecasts, alternating in one process.

    python -m benchmarks.bf16 [--against upstream] [--quick] [--only TEXT] [--json FILE]

Figures are CPU seconds, which other work on the machine disturbs less than wall time; ratio = float32 / bfloat16, above
1 where bfloat16 pays. Training is under autocast with weights in float32, forecasts have weights in bfloat16, as
`training.dtype` and `--dtype` do; a step is forward, backward, clipping and fused AdamW. "equal to" is the relative
difference of the two losses, or the largest of the forecasts. With --against upstream the cases of Chronos-2 are ours
against chronos-forecasting, both sides in float32 and then both in bfloat16. Weights are random; foretrain decides
`dtype: auto` by records of these figures (training/processors.py).
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)
import numpy as np

from benchmarks import chronos2, chronos2_forecast, kronos
from benchmarks.chronos2 import CPU, Training
from benchmarks.chronos2_forecast import Forecasting
from foretrain.config import build as build_section
from foretrain.data.windows import Window, stack_windows
from foretrain.forecasting.predictor import Predictor
from foretrain.models import family
from foretrain.models.base import Trainable
from foretrain.models.request import DECILES
from foretrain.training.precision import autocast

torch.set_num_threads(harness.THREADS)
TYPES = ("bfloat16", "float32")
PRODUCTS = ((2048, 512, 512), (2048, 512, 2048), (1024, 1024, 1024))
TRAINING = [
    Training("train chronos2 2L/d256 ctx2048 batch 8", 2, 256, 2048, 8),
    Training("train chronos2 6L/d512 ctx2048 batch 8", 6, 512, 2048, 8),
]
FORECASTING = [
    Forecasting("forecast chronos2 6L/d512 32 x 512, H 64", 6, 512, ((32, 512),), 64),
    Forecasting("forecast chronos2 6L/d512 8 x 2048, H 64", 6, 512, ((8, 2048),), 64),
]
SECTIONS = {  # of other families, 6 layers of width 512
    "toto": {"preset": "base", "num_layers": 6, "embed_dim": 512, "num_heads": 8, "mlp_hidden_dim": 2048,
             "spacewise_every_n_layers": 6},
    "toto2": {"preset": "22m"},
}  # fmt: skip
CONTEXT, HORIZON, WINDOWS = 2048, 64, 16
Timed = Callable[[], torch.Tensor]


def product_case(size: tuple[int, int, int], alternations: int) -> harness.Result:
    """Time a product (m, k) x (k, n) of a linear layer, 8 in a row."""
    m, k, n = size
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=draw), torch.randn(n, k, generator=draw)
    half = a.bfloat16(), b.bfloat16()

    def of(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                for _ in range(8):
                    torch.nn.functional.linear(x, y)

        return run

    equal = harness.difference([(half[0] @ half[1].t()).float()], [a @ b.t()])
    name = f"8 products {m} x {k} x {n}"
    return harness.compare(name, of(*half), of(a, b), equal=equal, alternations=alternations, clock=time.process_time)


def training_case(case: Training, alternations: int) -> harness.Result:
    """Time a training step of Chronos-2 in both types."""
    windows = chronos2.windows_of(case)
    half, full = (chronos2.our_step(case, chronos2.model_of(case).train(), windows, dtype) for dtype in TYPES)
    return _timed(case.name, half, full, alternations)


def family_case(name: str, alternations: int) -> harness.Result:
    """Time a training step of another family in both types."""
    with tempfile.TemporaryDirectory() as folder:  # of the tokenizer, which is read when a batch needs it
        (case, half), (_, full) = (_family_step(name, dtype, Path(folder)) for dtype in TYPES)
        return _timed(case, half, full, alternations)


def _timed(name: str, half: Timed, full: Timed, alternations: int) -> harness.Result:
    found, exact = float(half()), float(full())
    equal = abs(found - exact) / abs(exact)
    return harness.compare(name, half, full, equal=equal, alternations=alternations, clock=time.process_time)


def _family_step(name: str, dtype: str, tokenizer: Path) -> tuple[str, Timed]:
    """Return the name of a case and its step; tokenizer is the folder in which Kronos' is, or will be."""
    rng = np.random.default_rng(0)
    if name == "kronos":
        model: Trainable = kronos.model_of("small", tokenizer)
        cut, horizon, case = 64, 30, f"train kronos small (8L/d512) 64+30 bars batch {WINDOWS}"
        wide = kronos.windows_of((cut + horizon,) * WINDOWS)
        windows = [_split(window, cut) for window in wide]
    else:
        chosen, horizon = family(name), HORIZON
        section = build_section(chosen.config(), {"family": name, "random_init": True, **SECTIONS[name]})
        model = chosen.build(section, context_length=CONTEXT, prediction_length=HORIZON, seed=0)
        walks = rng.standard_normal((WINDOWS, 1, CONTEXT + HORIZON)).cumsum(-1).astype(np.float32)
        windows = [Window(w[:, :CONTEXT], 1, future=w[:, CONTEXT:]) for w in walks]
        case = f"train {name} 6L/d512 ctx{CONTEXT} batch {WINDOWS}"
    batch = model.train().collate(stack_windows(windows, horizon))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

    def step() -> torch.Tensor:
        torch.manual_seed(0)
        optimizer.zero_grad(set_to_none=True)
        with autocast(CPU, dtype):
            loss = model(batch)
        value = loss.total / loss.weight
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return value.detach()

    return case, step


def _split(window: Window, cut: int) -> Window:
    """Return the window with its steps from `cut` on as its future."""
    times = window.context_times
    assert times is not None
    return replace(window, context=window.context[:, :cut], future=window.context[:, cut:], context_times=times[:cut],
                   future_times=times[cut:])  # fmt: skip


def forecasting_case(case: Forecasting, alternations: int) -> harness.Result:
    """Time forecasts of Chronos-2 with weights in both types."""
    full, inputs = chronos2_forecast.predictor_of(case), chronos2_forecast.inputs_of(case)
    half = Predictor(copy.deepcopy(full.model).bfloat16())

    def of(predictor: Predictor) -> Callable[[], list[np.ndarray]]:
        return lambda: predictor.forecast(inputs, case.horizon, DECILES)

    rough, exact = ([torch.from_numpy(values) for values in of(p)()] for p in (half, full))
    equal = harness.difference(rough, exact)
    return harness.compare(
        case.name, of(half), of(full), equal=equal, alternations=alternations, clock=time.process_time
    )


def upstream_training(case: Training, dtype: str, alternations: int) -> harness.Result:
    """Time a training step of ours against chronos-forecasting's, both in one type."""
    windows, model = chronos2.windows_of(case), chronos2.model_of(case).train()
    theirs = chronos2.upstream_step(case, chronos2.upstream_model(model), windows, dtype)
    ours = chronos2.our_step(case, model, windows, dtype)
    return _timed(f"{case.name}, {dtype}, against upstream", ours, theirs, alternations)


def upstream_forecasting(case: Forecasting, dtype: str, alternations: int) -> harness.Result:
    """Time forecasts of ours against chronos-forecasting's, weights of both in one type."""
    predictor, inputs = chronos2_forecast.predictor_of(case), chronos2_forecast.inputs_of(case)
    pipeline: Any = chronos2_forecast.upstream_pipeline(predictor)
    for module in (predictor.model, pipeline.model):
        module.to(getattr(torch, dtype))
    tensors = [torch.from_numpy(values) for values in inputs]

    def ours() -> list[torch.Tensor]:
        return [torch.from_numpy(values) for values in predictor.forecast(inputs, case.horizon, DECILES)]

    def theirs() -> list[torch.Tensor]:
        return pipeline.predict_quantiles(tensors, case.horizon, list(DECILES))[0]

    equal, name = harness.difference(ours(), theirs()), f"{case.name}, {dtype}, against upstream"
    return harness.compare(name, ours, theirs, equal=equal, alternations=alternations, clock=time.process_time)


def main() -> None:
    """Run the cases selected on the command line."""
    args = harness.parser(__doc__ or "").parse_args()
    logging.getLogger("foretrain").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", UserWarning)
    n, results = 1 if args.quick else 5, list[harness.Result]()
    cases: list[tuple[str, Callable[[], harness.Result]]] = []
    if args.against is None:
        cases += [(f"products {size}", lambda size=size: product_case(size, 2 * n)) for size in PRODUCTS]
        cases += [(case.name, lambda case=case: training_case(case, n)) for case in TRAINING]
        cases += [(f"train {name}", lambda name=name: family_case(name, n)) for name in (*SECTIONS, "kronos")]
        cases += [(case.name, lambda case=case: forecasting_case(case, n)) for case in FORECASTING]
    else:
        for dtype in reversed(TYPES):
            cases += [
                (f"{case.name} {dtype}", lambda case=case, dtype=dtype: upstream_training(case, dtype, n))
                for case in TRAINING[1:]
            ]
            cases += [
                (f"{case.name} {dtype}", lambda case=case, dtype=dtype: upstream_forecasting(case, dtype, n))
                for case in FORECASTING
            ]
    results = [run() for name, run in cases if args.only is None or args.only in name]
    harness.finish(results, args.json)


if __name__ == "__main__":
    main()
