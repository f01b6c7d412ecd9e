"""OutputSettings: what is done to a model's forecasts before they are delivered or scored.

A run records them in its release; `forecast` and `evaluate` both apply those of the release, so that what was scored is
what is delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from foretrain.config import FREE, Section, build
from foretrain.errors import ConfigError


class OutputSettings(Section):
    """The `output:` section of a run: what is done to forecasts. It does not change the weights."""

    # sort the quantiles of a step, so that they ascend with their levels; the point forecast is the sorted median
    sort_quantiles: Annotated[bool, FREE] = True
    # candles: high and low enclose open and close, volume and amount are not below 0; nor is a price, in items whose
    # prices were always above 0
    repair_candles: Annotated[bool, FREE] = True
    # NaN as the forecast of a series without a value in the context, instead of numbers that say nothing
    blank_missing: Annotated[bool, FREE] = True

    def changed(self, **settings: bool | None) -> Self:
        """Return a copy with the settings that are not None."""
        return self.model_copy(update={name: value for name, value in settings.items() if value is not None})


RAW = OutputSettings(sort_quantiles=False, repair_candles=False, blank_missing=False)  # forecasts as a model gives them


def recorded_output(facts: Mapping[str, Any]) -> OutputSettings:
    """Return the output settings in the contents of a release.json; the defaults if it records none.

    Raises ConfigError if they are not settings.
    """
    found = facts.get("output") or {}
    if not isinstance(found, dict):
        raise ConfigError(f"release.json: output takes settings, not {found!r}.")
    return build(OutputSettings, found, source="release.json: output")
