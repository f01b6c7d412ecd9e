"""Forecast options of Toto 1.0."""

from __future__ import annotations

from dataclasses import dataclass

from foretrain.models.types import ForecastOptions

DEFAULT_SAMPLES = 128  # upstream's README recommends 128 to 256


@dataclass(frozen=True)
class TotoOptions(ForecastOptions):
    """Options of a forecast.

    Attributes:
        exact_first_patch: compute the quantiles of the first patch from its distribution (a closed form) instead of
            from sample paths. Horizons of at most one patch then need no paths, and none are drawn unless num_samples
            is given.
        reference_cache: re-centre positions in every call, as upstream does with its KV cache: forecasts then differ
            by about 1e-3 from those without a cache, and more for longer horizons. By default they are equal.
        compat: upstream's other behaviour, for comparisons: values that were not observed and empty patches are used as
            stored, and every quantile is computed from paths.
    """

    exact_first_patch: bool = True
    reference_cache: bool = False
    compat: bool = False

    @property
    def closed_form(self) -> bool:
        """True if the first patch's quantiles are computed from its distribution."""
        return self.exact_first_patch and not self.compat
