"""Chronos-2's forecasting cases; run through benchmarks.chronos2 (alone: --only forecast).

Both sides are called as users call them, from arrays to arrays at nine levels: Predictor.forecast here,
Chronos2Pipeline.predict_quantiles there, with the same weights, inputs and batch size (256 rows). Weights are random
and sinh amplifies rounding: the official pipeline differs from itself, one series at a time against a batch, by as
much as the "equal to" figures here.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)
import numpy as np

from foretrain.forecasting.predictor import Predictor
from foretrain.models.chronos2.config import Chronos2ModelConfig
from foretrain.models.chronos2.forecaster import Chronos2
from foretrain.models.request import DECILES


@dataclass(frozen=True)
class Forecasting:
    """One case: lengths holds (series, steps) pairs in input order; every series has `variates` rows."""

    name: str
    layers: int
    width: int
    lengths: tuple[tuple[int, int], ...]
    horizon: int
    variates: int = 1
    max_output_patches: int = 64


CASES = [
    Forecasting("forecast 2L/d64 1000 x 512, H 24", 2, 64, ((1000, 512),), 24),
    Forecasting("forecast 6L/d512 32 x 512, H 64", 6, 512, ((32, 512),), 64),
    Forecasting("forecast 6L/d512 mixed 24 x 128 + 8 x 2048, H 64", 6, 512, ((24, 128), (8, 2048)), 64),
    Forecasting("forecast 2L/d64 64 x 512, H 256 = 4 x native", 2, 64, ((64, 512),), 256, max_output_patches=4),
    Forecasting("forecast 4L/d256 ctx256 20 groups of 20, H 64", 4, 256, ((20, 256),), 64, variates=20),
]


def predictor_of(case: Forecasting) -> Predictor:
    """Return a predictor with random weights of realistic scale; head width 64, or 16 when the model is 64 wide."""
    heads = 4 if case.width == 64 else case.width // 64
    config = Chronos2ModelConfig(
        random_init=True,
        d_model=case.width,
        d_kv=case.width // heads,
        d_ff=4 * case.width,
        num_layers=case.layers,
        num_heads=heads,
        initializer_factor=1.0,
        max_output_patches=case.max_output_patches,
    )
    longest = max(steps for _, steps in case.lengths)
    return Predictor(Chronos2.build(config, context_length=longest, prediction_length=1, seed=0).eval())


def inputs_of(case: Forecasting) -> list[np.ndarray]:
    """Return complete random walks (variates, steps)."""
    rng = np.random.default_rng(0)
    sizes = [steps for count, steps in case.lengths for _ in range(count)]
    return [rng.standard_normal((case.variates, steps)).cumsum(-1).astype(np.float32) for steps in sizes]


def upstream_pipeline(predictor: Predictor):
    """Return the official pipeline with the same weights."""
    from chronos import BaseChronosPipeline

    with tempfile.TemporaryDirectory() as folder:
        predictor.save(Path(folder) / "release")
        return BaseChronosPipeline.from_pretrained(Path(folder) / "release", device_map="cpu")


def measure(case: Forecasting, against: str | None, alternations: int) -> harness.Result:
    """Time one case."""
    predictor, inputs = predictor_of(case), inputs_of(case)

    def ours() -> list[np.ndarray]:
        return predictor.forecast(inputs, case.horizon, DECILES)

    if against is None:
        return harness.compare(case.name, ours, None, alternations=alternations)
    pipeline = upstream_pipeline(predictor)
    tensors = [torch.from_numpy(values) for values in inputs]

    def theirs() -> list[torch.Tensor]:
        return pipeline.predict_quantiles(tensors, case.horizon, list(DECILES))[0]

    equal = harness.difference([torch.from_numpy(values) for values in ours()], theirs())
    return harness.compare(case.name, ours, theirs, equal=equal, alternations=alternations)


def run(wanted: Callable[[str], bool], against: str | None, alternations: int) -> list[harness.Result]:
    """Return the results of the selected cases."""
    logging.getLogger("foretrain").setLevel(logging.ERROR)  # both sides warn of the long horizon
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return [measure(case, against, alternations) for case in CASES if wanted(case.name)]
