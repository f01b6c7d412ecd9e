"""ForecastRequest: the arguments of a forecast. The command line or the Python API creates it, a family reads it.

A request holds plain values and converts to JSON: `ForecastRequest.model_json_schema()` describes it. Model, data,
device and precision are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from numbers import Integral
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, WithJsonSchema, model_validator

from foretrain.config import Section, explained
from foretrain.errors import ConfigError
from foretrain.models.memory import memory_bytes
from foretrain.models.types import ForecastOptions
from foretrain.nn.quantiles import check_levels

MAX_HORIZON = 1_000_000  # steps; more would fill the memory for hours before they failed
DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

FamilyOptions = TypeVar("FamilyOptions", bound=ForecastOptions)


def whole_number(value: Any, error: Callable[[], Exception], least: int | None = None) -> int:
    """Return the value as an int. Raises error() if it is not a whole number or is below `least`."""
    if not isinstance(value, Integral) or (least is not None and value < least):
        raise error()
    return int(value)


def check_context_length(value: Any) -> int | None:
    """Return the context length as an int, or None if it is not set. Raises ConfigError below 1."""
    text = f"context_length is {value!r}; it counts steps and is at least 1."
    return None if value is None else whole_number(value, lambda: ConfigError(text), 1)


def _horizon(value: Any) -> int:
    found = _count("prediction_length")(value)
    assert found is not None
    if found > MAX_HORIZON:
        raise ConfigError(too_far(found))
    return found


def too_far(horizon: int) -> str:
    """Return the message about a horizon beyond MAX_HORIZON."""
    return f"prediction_length is {horizon:,}; at most {MAX_HORIZON:,} steps can be forecast."


def _count(name: str, optional: bool = False) -> Callable[[Any], int | None]:
    def check(value: Any) -> int | None:
        if value is None and optional:
            return None
        return whole_number(
            value, lambda: ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1."), 1
        )

    return check


def _seed(value: Any) -> int:
    return whole_number(value, lambda: ConfigError(f"seed is {value!r}; it must be a whole number."))


def _options(value: Any) -> Any:
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    if not isinstance(value, ForecastOptions):
        raise ConfigError(f"options: {value!r} is not a set of forecast options; give a mapping of names to values.")
    return value


def _options_as_json(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else asdict(value)


_COUNT = {"type": "integer", "minimum": 1}
HORIZON = _COUNT | {"maximum": MAX_HORIZON}  # JSON schema of prediction_length
_OPEN_COUNT = {"anyOf": [_COUNT, {"type": "null"}]}
_MEMORY = {"anyOf": [_COUNT, {"type": "string"}, {"type": "null"}]}
_LEVELS = {
    "type": "array",
    "items": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "minItems": 1,
    "uniqueItems": True,
}


class ForecastRequest(Section):
    """Arguments of a forecast. Raises ConfigError for impossible values and unknown keys.

    Attributes:
        prediction_length: steps ahead.
        quantile_levels: between 0 and 1, each given once.
        context_length: newest steps to use, clipped to the model's limit; None = as many as the model can read.
        batch_size: rows (variates and covariates) per forward pass.
        max_memory: bytes that the forecast may take besides the model and the data, or text such as "2GB"; batches and
            parts of them are then computed in pieces. None = no bound. docs/evaluation.md says what counts.
        num_samples: number of sample paths, for families that draw them; None = the family's default.
        seed: seed of the sample paths.
        rescale: multiply rows whose moves a constant of the model would hide by a power of two, taken from their
            context, and divide the forecast by it. None = as the model was trained.
        options: options of the family, as a mapping or as its dataclass; missing ones have the family's defaults.
        sort_quantiles, repair_candles, blank_missing: what is done to the forecasts, as OutputSettings says; False or
            None = nothing.
    """

    prediction_length: Annotated[int, PlainValidator(_horizon), WithJsonSchema(HORIZON)]
    quantile_levels: Annotated[Sequence[float], PlainValidator(check_levels), WithJsonSchema(_LEVELS)] = DECILES
    context_length: Annotated[int | None, PlainValidator(check_context_length), WithJsonSchema(_OPEN_COUNT)] = None
    batch_size: Annotated[int, PlainValidator(_count("batch_size")), WithJsonSchema(_COUNT)] = 256
    max_memory: Annotated[int | None, PlainValidator(memory_bytes), WithJsonSchema(_MEMORY)] = None
    num_samples: Annotated[
        int | None, PlainValidator(_count("num_samples", optional=True)), WithJsonSchema(_OPEN_COUNT)
    ] = None
    seed: Annotated[int, PlainValidator(_seed), WithJsonSchema({"type": "integer"})] = 0
    rescale: bool | None = None
    options: Annotated[
        Mapping[str, Any] | ForecastOptions | None,
        PlainValidator(_options),
        PlainSerializer(_options_as_json, return_type=dict[str, Any]),
        WithJsonSchema({"type": "object"}),
    ] = Field(default_factory=dict)
    sort_quantiles: bool | None = False
    repair_candles: bool | None = False
    blank_missing: bool | None = False

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_message(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise explained(cls, error, "forecast request") from None

    def changed(self, **fields: Any) -> Self:
        """Return a copy with some fields changed, validated again. Raises ConfigError."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **fields})

    def options_of(self, kind: type[FamilyOptions]) -> FamilyOptions:
        """Return the options as a family's dataclass, its defaults if none are given.

        The request comes from models.resolved or was created with that dataclass.
        """
        if not self.options:
            return kind()
        assert isinstance(self.options, kind), "the options of a request are resolved before a family sees them"
        return self.options

    @property
    def mixes_items(self) -> bool:
        """True if items in a batch affect each other's forecasts; False unless the options are a family's dataclass."""
        return isinstance(self.options, ForecastOptions) and self.options.mixes_items
