"""FrameRequest: a ForecastRequest for a frame, with columns, frequency and outputs.

Files and how they are read, device and precision are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import PlainValidator, WithJsonSchema

from foretrain.errors import ConfigError, DataError
from foretrain.forecasting.aggregate import aggregation
from foretrain.models.output import OutputSettings
from foretrain.models.request import DECILES, HORIZON, MAX_HORIZON, ForecastRequest, too_far, whole_number

Output = Literal["long", "candles", "paths"]
TrailingRows = Literal["future", "history", "drop"]


def check_horizon(value: Any) -> int:
    """Return prediction_length as an int. Raises DataError if it is no whole number from 1 to MAX_HORIZON."""
    text = f"prediction_length is {value!r}; it counts steps, a whole number of at least 1."
    found = whole_number(value, lambda: DataError(text), 1)
    if found > MAX_HORIZON:
        raise DataError(too_far(found))
    return found


def _names(check: Callable[[tuple[Any, ...]], None] | None = None, *, optional: bool = False) -> Any:
    """Return a validator that converts a name or several to a tuple."""

    def names(value: Any) -> tuple[Any, ...] | None:
        if optional and value is None:
            return None
        single = isinstance(value, str) or not hasattr(value, "__iter__")
        found: tuple[Any, ...] = (value,) if single else tuple(value)
        if check is not None:
            check(found)
        return found

    return PlainValidator(names)


def _check_outputs(outputs: tuple[Any, ...]) -> None:
    wrong = [output for output in outputs if output not in get_args(Output)]
    if wrong:
        raise ConfigError(f"output={wrong[0]!r}: choose {', '.join(get_args(Output))}.")


def _check_trailing(value: Any) -> TrailingRows | None:
    if value is not None and value not in get_args(TrailingRows):
        raise ConfigError(f"trailing_rows={value!r}: choose {', '.join(get_args(TrailingRows))}, or leave it out.")
    return value


def _check_aggregates(names: tuple[Any, ...]) -> None:
    for name in names:
        aggregation(name)


_NAMES = {"type": "array", "items": {"type": "string"}}
_OPEN_NAMES = WithJsonSchema({"anyOf": [_NAMES, {"type": "null"}]})
_TRAILING = WithJsonSchema({"anyOf": [{"type": "string", "enum": list(get_args(TrailingRows))}, {"type": "null"}]})
_OUTPUTS = WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(get_args(Output))}})
# column names may have any type that pandas accepts, and freq may be a pandas offset
_AS_GIVEN = PlainValidator(lambda value: value)
_TEXT = WithJsonSchema({"type": "string"})
_OPEN_TEXT = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})


class FrameRequest(ForecastRequest):
    """A forecast of a long frame. Raises what ForecastRequest raises, and DataError for an impossible horizon.

    Attributes:
        id_column: column of the items' names.
        timestamp_column: column of the time stamps; None = "timestamp".
        target: columns to forecast; None = those that the release records, else those of a candle for candle families,
            else "target".
        past_covariates: covariates known up to the cutoff; None = those that the release records, else all others.
        known_covariates: covariates known beyond it, with values in future_df; None = those that the release records,
            else those of future_df.
        freq: pandas alias of the frequency, on whose grid the rows are put; None = inferred from the stamps.
        calendar: exchange whose sessions the stamps follow.
        outputs: the tables to make: "long", "candles", "paths".
        aggregates: further columns of "long" from the sampled paths, by name (forecasting/aggregate.py).
        sort_quantiles, repair_candles, blank_missing: output settings (models/output.py); None = as the release
            records, else yes.
        trailing_rows: what newest rows without a target are: "future", the steps to forecast; "history"; "drop", left
            out; None = by their number and covariates (forecasting/rows.py).
        allow_unequal_ends: forecast items jointly (cross_learning) even if some end before others, with a note.
    """

    prediction_length: Annotated[int, PlainValidator(check_horizon), WithJsonSchema(HORIZON)]
    id_column: Annotated[str, _AS_GIVEN, _TEXT] = "item_id"
    timestamp_column: Annotated[str | None, _AS_GIVEN, _OPEN_TEXT] = None
    target: Annotated[Sequence[str] | None, _names(optional=True), _OPEN_NAMES] = None
    past_covariates: Annotated[Sequence[str] | None, _names(optional=True), _OPEN_NAMES] = None
    known_covariates: Annotated[Sequence[str] | None, _names(optional=True), _OPEN_NAMES] = None
    freq: Annotated[str | None, _AS_GIVEN, _OPEN_TEXT] = None
    calendar: Annotated[str | None, _AS_GIVEN, _OPEN_TEXT] = None
    outputs: Annotated[Sequence[Output], _names(_check_outputs), _OUTPUTS] = ("long",)
    aggregates: Annotated[Sequence[str], _names(_check_aggregates), WithJsonSchema(_NAMES)] = ()
    sort_quantiles: bool | None = None
    repair_candles: bool | None = None
    blank_missing: bool | None = None
    trailing_rows: Annotated[TrailingRows | None, PlainValidator(_check_trailing), _TRAILING] = None
    allow_unequal_ends: bool = False

    @property
    def columns(self) -> tuple[str, str]:
        """Columns of ids and time stamps of a frame."""
        return self.id_column, self.timestamp_column or "timestamp"

    def output_settings(self, recorded: OutputSettings) -> OutputSettings:
        """Return the recorded settings with those that this request sets."""
        return recorded.changed(**{name: getattr(self, name) for name in OutputSettings.model_fields})

    @property
    def levels_with_median(self) -> tuple[float, ...]:
        """quantile_levels, followed by 0.5 if they lack it: the levels requested of the family.

        If they will be sorted, the other deciles follow too, at which evaluations score: so the value of a decile, and
        of the point forecast, does not depend on which levels are asked for beside it.
        """
        levels = tuple(self.quantile_levels)
        return levels + tuple(level for level in (DECILES if self.sort_quantiles else (0.5,)) if level not in levels)

    @property
    def needs_paths(self) -> bool:
        """True if an output is computed from sampled paths."""
        return "paths" in self.outputs or bool(self.aggregates)
