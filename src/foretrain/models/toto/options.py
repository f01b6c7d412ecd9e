"""How Toto 1.0 forecasts."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_SAMPLES = 128  # upstream's README asks for 128 to 256


@dataclass(frozen=True)
class TotoOptions:
    """Choices of a forecast.

    Attributes:
        exact_first_patch: take the quantiles of the first patch from the distribution itself, which is known in closed
            form, instead of from sampled paths. Horizons of at most one patch then need no paths at all, and none are
            drawn unless num_samples asks for them.
        compat: upstream's habits, for comparisons: positions of its key-value cache are centred anew in every call,
            values that were not observed and empty patches are read as they stand, every quantile is one of paths.
    """

    exact_first_patch: bool = True
    compat: bool = False

    @property
    def closed_form(self) -> bool:
        """Whether the first patch's quantiles are the distribution's."""
        return self.exact_first_patch and not self.compat
