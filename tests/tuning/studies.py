"""A small study for tests: a linear model on generated hourly series with a calendar, cut by steps or by dates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretrain.config import build
from foretrain.tuning.config import TuneConfig

SERIES = {"kind": "seasonal", "num_series": 4, "length": 400, "seed": 0, "freq": "h"}
SMALL: dict[str, Any] = {
    "data.corpora": [{"synthetic": SERIES}],
    "data.context_length": 48,
    "data.prediction_length": 12,
    "data.validation_steps": 36,
    "data.test_steps": 36,
    "training.max_steps": 6,
    "training.batch_size": 8,
    "training.validate_every": 2,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
    "training.health_every": None,
    "optimizer.schedule": {"kind": "constant"},
    "evaluation.num_windows": 3,
}
SPACE = {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True}}


def study(folder: Path, *, change: dict[str, Any] | None = None, **more: Any) -> TuneConfig:
    """A config; change: of the run."""
    tree = {"output_dir": str(folder), "run": "linear/quick", "set": {**SMALL, **(change or {})}, "space": SPACE}
    return build(TuneConfig, {**tree, **more}, source="a test")


def never(step: int, value: float) -> bool:
    """A report that prunes nothing."""
    return False
