"""The registry of model families: the one place that lists them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean
from foretrain.models.hub import release_in

if TYPE_CHECKING:
    from foretrain.models.base import Family
    from foretrain.models.request import ForecastRequest

AnyRequest = TypeVar("AnyRequest", bound="ForecastRequest")

# name of a family -> the module below foretrain.models that exports FAMILY
FAMILIES: dict[str, str] = {
    "chronos2": "chronos2.forecaster",
    "kronos": "kronos.forecaster",
    "kronos_tokenizer": "kronos.trainable",
    "linear": "linear.forecaster",
    "toto": "toto.forecaster",
    "toto2": "toto2.forecaster",
}


def family(name: str) -> Family:
    """The family of that name; its package exports FAMILY. Raises ConfigError for an unknown one."""
    if name not in FAMILIES:
        raise ConfigError(f"model.family: {name!r} is not known. Known here: {', '.join(FAMILIES)}.")
    return importlib.import_module(f"foretrain.models.{FAMILIES[name]}").FAMILY


def families() -> list[Family]:
    """Every family, in the order in which a folder's config.json is offered to them."""
    return [family(name) for name in FAMILIES]


def infer_family(model_id: str | None) -> str:
    """The family of a release or run folder by its config.json, of a published hub id by its name; else the first."""
    path = release_in(Path(str(model_id))) / "config.json"
    if model_id is not None and path.is_file():
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raw = None  # whoever loads it says what is wrong
        for candidate in families():
            if isinstance(raw, dict) and candidate.matches(raw):
                return candidate.name
    for candidate in families():
        if model_id in candidate.published:
            return candidate.name
    return next(iter(FAMILIES))


def forecast_options(which: str | Family, given: Mapping[str, Any]) -> Any:
    """A family's forecast options (its frozen dataclass) with the given ones set; the rest are its defaults.

    Raises ConfigError for an option that the family does not have, and what the family raises for impossible values.
    """
    found = family(which) if isinstance(which, str) else which
    kind = found.options()
    known = [field.name for field in fields(kind)]
    for option in given:
        if option not in known:
            hint = did_you_mean(str(option), known, f"Known: {', '.join(known)}.")
            raise ConfigError(f"{found.name} has no forecast option {option!r}. {hint}")
    made = kind(**given)  # the family's own words first
    return replace(made, **{option: _fitting(found.name, kind, option, value) for option, value in given.items()})


def resolved(request: AnyRequest, which: str) -> AnyRequest:
    """The request with its options as the family's dataclass, where they are a mapping. Raises as forecast_options."""
    if isinstance(request.options, Mapping) and request.options:
        return request.changed(options=forecast_options(which, request.options))
    return request


def _fitting(name: str, kind: type, option: str, value: Any) -> Any:
    """The value as its field's type, such as a tuple for a list. Raises ConfigError where it is of another type."""
    if getattr(value, "ndim", None) == 0:  # a number of numpy's
        value = value.item()
    try:
        return TypeAdapter(get_type_hints(kind)[option]).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{name}: forecast option {option} cannot be {value!r}: {problem.lower()}.") from None
