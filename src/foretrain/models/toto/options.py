"""How Toto 1.0 forecasts."""

from __future__ import annotations

from dataclasses import dataclass

from foretrain.models.types import ForecastOptions

DEFAULT_SAMPLES = 128  # upstream's README asks for 128 to 256


@dataclass(frozen=True)
class TotoOptions(ForecastOptions):
    """Choices of a forecast.

    Attributes:
        exact_first_patch: take the quantiles of the first patch from the distribution itself, which is known in closed
            form, instead of from sampled paths. Horizons of at most one patch then need no paths at all, and none are
            drawn unless num_samples asks for them.
        reference_cache: centre positions anew in every call, as upstream does with its key-value cache: forecasts then
            differ by about 1e-3 from those without a cache, more so the longer the horizon. By default they are equal.
        compat: upstream's other habits, for comparisons: values that were not observed and empty patches are read as
            they stand, every quantile is one of paths.
    """

    exact_first_patch: bool = True
    reference_cache: bool = False
    compat: bool = False

    @property
    def closed_form(self) -> bool:
        """Whether the first patch's quantiles are the distribution's."""
        return self.exact_first_patch and not self.compat
