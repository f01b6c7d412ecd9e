"""The recorded tiny model and the toy model of the training suite."""

from __future__ import annotations

from tests.forecasting.conftest import golden_folder, predictor
from tests.training.conftest import toy

__all__ = ["golden_folder", "predictor", "toy"]
