"""Skips the module that imports it where Optuna is not installed."""

import pytest

optuna = pytest.importorskip("optuna", reason="needs the extra tune: optuna")
TrialState = optuna.trial.TrialState
