"""Studies of trials that cost nothing, for tests."""

from __future__ import annotations

from pathlib import Path

from tests.tuning import needs_optuna  # noqa: F401

from foretrain.config import build
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.study import StudyFolder, create_study

RATE = {"rate": {"kind": "float", "low": 1e-4, "high": 1.0, "log": True}}


def tune_config(folder: Path, **more: object) -> TuneConfig:
    tree = {"output_dir": str(folder / "study"), "run": "debug", "space": RATE, "trials": 8, **more}
    return build(TuneConfig, tree, source="a test")


def new_study(folder: Path, **more: object) -> StudyFolder:
    return create_study(tune_config(folder, **more), resume=False)
