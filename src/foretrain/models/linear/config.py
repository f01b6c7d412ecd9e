"""config.json of the linear model and the `model:` section of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foretrain.models.architecture import Architecture, Whole, section_of

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class LinearConfig(Architecture):
    """config.json. Lengths are in steps; a forecast of more than prediction_length steps is unrolled."""

    title = "linear model"
    signature = ("trend_kernel",)

    context_length: Whole
    prediction_length: Whole
    patch_size: Whole = 16
    d_model: Whole = 32
    trend_kernel: Whole = 25  # steps of the moving average, odd so that it has a middle

    @property
    def patches(self) -> int:
        """Number of patches of the context."""
        return -(-self.context_length // self.patch_size)

    def inconsistencies(self) -> list[str]:
        """Report a moving average over an even number of steps."""
        if self.trend_kernel % 2:
            return []
        return [f"trend_kernel is {self.trend_kernel}, must be odd so that the moving average has a middle step"]


class LinearModelConfig(section_of(LinearConfig, ("patch_size", "d_model", "trend_kernel"))):
    """The `model:` section; context_length and prediction_length are those of `data:`."""

    family: Literal["linear"] = "linear"

    def architecture(self, context_length: int, prediction_length: int) -> LinearConfig:
        """Return the config of a random start. Raises ModelError for impossible values."""
        return LinearConfig(context_length, prediction_length, **self.given())

    def fitted(self, stored: LinearConfig, context_length: int, prediction_length: int) -> LinearConfig:
        """Return a checkpoint's config for a run. Raises ModelError if a length of the run exceeds the checkpoint's."""
        run = {"context_length": context_length, "prediction_length": prediction_length}
        clashes = [
            f"data.{key} is {value} here and at most {getattr(stored, key)} there"
            for key, value in run.items()
            if value > getattr(stored, key)
        ]
        if clashes:
            raise self.clash(clashes)
        return self.adjusted(stored)
