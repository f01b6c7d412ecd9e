"""The search space of a study: which keys are tried, between which bounds, and when.

A candidate is a mapping of the space's active keys to plain values. Optuna's distributions, the JSON schema of an
adviser and the check of values from elsewhere are all made from one SearchSpace, so that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value = bool | int | float | str | None
Candidate = dict[str, Value]


class _Parameter(Section):
    """What all kinds of parameters have."""

    # values of other keys with which this one exists; without it always
    when: dict[str, tuple[Value, ...]] | None = None
    description: str | None = None  # a line for an adviser and for reports


class FloatParameter(_Parameter):
    """A number between two bounds, both included."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False  # drawn evenly in its logarithm
    step: float | None = Field(default=None, gt=0)  # distance of values from low; None = any value

    @model_validator(mode="after")
    def _check(self) -> FloatParameter:
        _check_bounds(self.low, self.high, self.log)
        if self.step is not None:
            if self.log:
                raise ValueError("step and log exclude each other; leave one out")
            if not math.isclose(round(count := (self.high - self.low) / self.step), count, abs_tol=1e-9):
                raise ValueError(f"step: {self.high:g} is no whole number of steps of {self.step:g} from {self.low:g}")
        return self

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a value."""
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def fitted(self, value: Any) -> float:
        """Return the nearest allowed value. Raises ValueError for what is no finite number."""
        number = min(max(_number(value), self.low), self.high)
        if self.step is not None:
            number = self.low + round((number - self.low) / self.step) * self.step
        return min(max(number, self.low), self.high)


class IntParameter(_Parameter):
    """A whole number between two bounds, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> IntParameter:
        _check_bounds(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("step and log exclude each other; leave one out")
        if (self.high - self.low) % self.step:
            raise ValueError(f"step: {self.high} is no whole number of steps of {self.step} from {self.low}")
        return self

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a value."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def fitted(self, value: Any) -> int:
        """Return the nearest allowed value. Raises ValueError for what is no whole number."""
        number = _number(value)
        if number != round(number):
            raise ValueError(f"takes a whole number, not {value!r}")
        inside = min(max(round(number), self.low), self.high)
        return self.low + round((inside - self.low) / self.step) * self.step


class CategoricalParameter(_Parameter):
    """One of some values, which have no order."""

    kind: Literal["categorical"] = "categorical"
    choices: tuple[Value, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _check(self) -> CategoricalParameter:
        tagged = [_tagged(choice) for choice in self.choices]
        if len(set(tagged)) < len(tagged):
            raise ValueError("choices: one is given twice; keep one")
        return self

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a value; strict readers of schemas want its types beside the choices."""
        types = list(dict.fromkeys(_json_type(choice) for choice in self.choices))
        return {"type": types[0] if len(types) == 1 else types, "enum": list(self.choices)}

    def fitted(self, value: Any) -> Value:
        """Return the choice that equals a value. Raises ValueError if none does."""
        for choice in self.choices:
            if _tagged(choice) == _tagged(value):
                return choice
        raise ValueError(f"{value!r} is none of {', '.join(map(repr, self.choices))}")


Parameter = Annotated[
    Union[FloatParameter, IntParameter, CategoricalParameter],  # noqa: UP007 - pydantic reads it at run time
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class Checked:
    """A candidate from elsewhere, made to fit a space.

    changes: what was clipped or dropped, a line each.
    """

    values: Candidate
    changes: list[str] = field(default_factory=list)


class SearchSpace:
    """Parameters by key, in an order in which each stands after those that its `when` names.

    Raises ConfigError for a `when` that names no parameter, no value of it, or leads back to the parameter.
    """

    def __init__(self, parameters: Mapping[str, FloatParameter | IntParameter | CategoricalParameter]) -> None:
        if not parameters:
            raise ConfigError("space: is empty, so there is nothing to search. Give it a key with bounds or choices.")
        self.parameters = {key: parameters[key] for key in _ordered(parameters)}
        for key, parameter in self.parameters.items():
            for other, values in (parameter.when or {}).items():
                for value in values:
                    try:
                        held = self.parameters[other].fitted(value) == value
                    except ValueError:
                        held = False
                    if not held:
                        raise ConfigError(f"space.{key}.when.{other}: {value!r} is no value of space.{other}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def is_conditional(self) -> bool:
        """Whether some parameter exists only with certain values of others."""
        return any(parameter.when for parameter in self.parameters.values())

    @property
    def categorical(self) -> list[str]:
        """Keys of categorical parameters."""
        return [key for key, parameter in self.parameters.items() if isinstance(parameter, CategoricalParameter)]

    def is_active(self, key: str, values: Mapping[str, Value]) -> bool:
        """Whether a parameter exists beside the values of those before it."""
        when = self.parameters[key].when or {}
        return all(other in values and _is_among(values[other], allowed) for other, allowed in when.items())

    def suggest(self, trial: Trial) -> Candidate:
        """Return the candidate that an Optuna trial draws, key by key.

        Raises ConfigError for an enqueued value outside the space, which Optuna hands out with no more than a warning.
        """
        values: Candidate = {}
        for key, parameter in self.parameters.items():
            if self.is_active(key, values):
                _check_fixed(key, parameter, trial._fixed_params)
                values[key] = trial._suggest(key, parameter.distribution())
        return values

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of each parameter, conditional ones too."""
        return {key: parameter.distribution() for key, parameter in self.parameters.items()}

    def check(self, values: Mapping[str, Any]) -> Checked:
        """Return a candidate from elsewhere with numbers clipped to their bounds and inactive keys dropped.

        Raises ConfigError for an unknown key, a missing one, what is no number, and what is none of the choices.
        """
        for key in values:
            if key not in self.parameters:
                raise ConfigError(
                    f"{key}: is not in the search space. {did_you_mean(str(key), list(self), '')}".strip()
                )
        found, changes = Candidate(), list[str]()
        for key, parameter in self.parameters.items():
            if not self.is_active(key, found):
                if values.get(key) is not None:
                    changes.append(f"{key}: {values[key]!r} dropped, since it has no meaning beside the other values")
                continue
            if key not in values:
                raise ConfigError(f"{key}: is missing")
            try:
                found[key] = parameter.fitted(values[key])
            except ValueError as error:
                raise ConfigError(f"{key}: {error}") from None
            if found[key] != values[key]:
                changes.append(f"{key}: {values[key]!r} clipped to {found[key]!r}")
        return Checked(found, changes)

    def json_schema(self) -> dict[str, Any]:
        """Return the strict JSON schema of a candidate: every key is required, a conditional one may be null."""
        properties: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            schema: dict[str, Any] = parameter.schema()
            if parameter.when:
                schema = {"anyOf": [schema, {"type": "null"}]}
            if parameter.description:
                schema["description"] = parameter.description
            properties[key] = schema
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def _check_fixed(key: str, parameter: FloatParameter | IntParameter | CategoricalParameter, fixed: Any) -> None:
    """Raise ConfigError for a value of an enqueued trial that the parameter does not allow."""
    if key not in fixed:
        return
    value = fixed[key]
    try:
        nearest = parameter.fitted(value)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}, in a trial that was enqueued.") from None
    close = isinstance(nearest, float) and math.isclose(nearest, value, rel_tol=1e-9)
    if nearest != value and not close:
        raise ConfigError(f"{key}: {value!r} is outside the search space, in a trial that was enqueued.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json_type(value: Value) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names[type(value)]


def _check_bounds(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"low {low:g} is above high {high:g}")
    if log and low <= 0:
        raise ValueError(f"log: needs low above 0, not {low:g}")


def _number(value: Any) -> float:
    """Return a finite number. Raises ValueError."""
    if not _is_number(value):
        raise ValueError(f"takes a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("takes a number of at most 64 bits") from None
    if not math.isfinite(number):
        raise ValueError(f"takes a finite number, not {value!r}")
    return number


def _tagged(value: Any) -> tuple[str, Any]:
    """Return a value that differs for 1, True and "1", and is the same for 1 and 1.0."""
    return "number" if _is_number(value) else type(value).__name__, value


def _is_among(value: Value, allowed: tuple[Value, ...]) -> bool:
    return _tagged(value) in {_tagged(one) for one in allowed}


def _ordered(parameters: Mapping[str, _Parameter]) -> list[str]:
    """Return the keys, each after those that its `when` names. Raises ConfigError."""
    placed: dict[str, None] = {}

    def place(key: str, above: tuple[str, ...]) -> None:
        if key in above:
            raise ConfigError(f"space.{key}.when: leads back to {key}, through {', '.join(above)}.")
        for other in parameters[key].when or {}:
            if other not in parameters:
                hint = did_you_mean(other, list(parameters), f"The space has {', '.join(parameters)}.")
                raise ConfigError(f"space.{key}.when: the space has no {other}. {hint}")
            place(other, (*above, key))
        placed[key] = None

    for key in parameters:
        place(key, ())
    return list(placed)
