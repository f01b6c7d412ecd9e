"""A small run with a token budget, for tests and for the processes that they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foretrain.config import build
from foretrain.data.store import Corpus
from foretrain.run.config import RunConfig

CHRONOS2 = {
    "family": "chronos2", "random_init": True, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "patch_size": 4, "quantiles": [0.1, 0.5, 0.9],
    "use_arcsinh": False,  # so that a large value can spoil a loss
}  # fmt: skip
DATA = {
    "context_length": 24, "prediction_length": 6, "min_context": 4, "min_prediction_length": 2, "stride": 3,
    "validation_steps": 0, "test_steps": 0, "sampling": "epoch",
}  # fmt: skip
BUDGET = {"length_buckets": [8, 16], "horizon_buckets": [3], "max_tokens_per_batch": 240, "micro_batches_per_step": 3}


def corpus(poison: tuple[int, int] | None = None) -> Corpus:
    """Random walks of 8 to 60 steps; poison: (series, step) of two values whose sum overflows."""
    rng = np.random.default_rng(0)
    items = []
    for k in range(20):
        values = rng.standard_normal((1, int(rng.integers(8, 61)))).cumsum(1).astype(np.float32)
        if poison is not None and poison[0] == k:
            values[0, poison[1] : poison[1] + 2] = 3e38
        items.append((f"{k}", values, None))
    return Corpus.from_arrays("walks", items, ["x"])


def config(
    out: Path, *, budget: dict[str, Any] | None = None, dropout: float = 0.0, data: dict[str, Any] | None = None,
    **training: Any,
) -> RunConfig:  # fmt: skip
    """The config of a run; keywords are training settings."""
    if "epochs" not in training:
        training = {"max_steps": 8, **training}
    settings = {
        "log_every": 1,
        "tensorboard": False,
        "checkpoint_every": 4,
        "token_budget": {**BUDGET, **(budget or {})},
    }
    tree = {
        "model": {**CHRONOS2, "dropout_rate": dropout},
        "data": {"corpora": [{"path": "walks"}], **DATA, **(data or {})},
        "training": {**settings, **training},
        "optimizer": {"learning_rate": 1e-2},
        "output_dir": str(out),
        "device": "cpu",
    }
    return build(RunConfig, tree)
