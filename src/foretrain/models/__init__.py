"""Registry of the model families; no other module lists them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from foretrain.errors import ConfigError, ModelError
from foretrain.hints import did_you_mean
from foretrain.models.checkpoints import checkpoint_family, is_checkpoint
from foretrain.models.config_json import read_config_json
from foretrain.models.hub import local_folder
from foretrain.models.output import OutputSettings
from foretrain.reading import read_json

if TYPE_CHECKING:
    from foretrain.models.base import Family, Trainable
    from foretrain.models.request import ForecastRequest

AnyRequest = TypeVar("AnyRequest", bound="ForecastRequest")

# family name -> module under foretrain.models that exports FAMILY
FAMILIES: dict[str, str] = {
    "chronos2": "chronos2.forecaster",
    "kronos": "kronos.forecaster",
    "kronos_tokenizer": "kronos.trainable",
    "linear": "linear.forecaster",
    "toto": "toto.forecaster",
    "toto2": "toto2.forecaster",
}


def family(name: str) -> Family:
    """Return the family called `name`. Raises ConfigError if there is none."""
    if name not in FAMILIES:
        raise ConfigError(f"model.family: {name!r} is not known. Known here: {', '.join(FAMILIES)}.")
    return importlib.import_module(f"foretrain.models.{FAMILIES[name]}").FAMILY


def families() -> list[Family]:
    """Return all families, in the order in which a folder's config.json is matched against them."""
    return [family(name) for name in FAMILIES]


def open_release(folder: Path, origin: str, offline: bool, parts: Mapping[str, str]) -> Trainable:
    """Load the release in a folder, of whichever family its config.json describes.

    origin is the folder or hub id that the user named. Raises ModelError for a config.json of no known family, and what
    the family's load raises.
    """
    raw = read_config_json(folder / "config.json")
    for candidate in families():
        if candidate.matches(raw):
            return candidate.load(folder, origin=origin, offline=offline, **parts)
    kind = raw.get("model_type") or ", ".join(map(str, raw.get("architectures") or [])) or "unnamed"
    raise ModelError(
        f"{folder}: its config.json describes a model ({kind}) of none of the families known here "
        f"({', '.join(f.name for f in families())})."
    )


def infer_family(model_id: str | None) -> str:
    """Return the name of a model's family.

    A release or run folder and a model in the box are identified by their config.json, a checkpoint by its state, a
    published hub id by its name; anything else counts as the first family.
    """
    folder = None if model_id is None else local_folder(str(model_id))
    if folder is not None and is_checkpoint(folder) and (name := checkpoint_family(folder)) in FAMILIES:
        return str(name)
    if folder is not None and (path := folder / "config.json").is_file():
        try:
            raw = read_json(path)
        except (OSError, ValueError):
            raw = None  # loading the folder reports the problem
        for candidate in families():
            if isinstance(raw, dict) and candidate.matches(raw):
                return candidate.name
    for candidate in families():
        if model_id in candidate.published:
            return candidate.name
    return next(iter(FAMILIES))


def forecast_options(which: str | Family, given: Mapping[str, Any]) -> Any:
    """Return a family's forecast options (its frozen dataclass) with the given values; the others keep their defaults.

    Raises ConfigError for an unknown option or an impossible value.
    """
    chosen = family(which) if isinstance(which, str) else which
    options_class = chosen.options()
    known = [field.name for field in fields(options_class)]
    for option in given:
        if option in ("repair", *OutputSettings.model_fields):
            name = "repair_candles" if option == "repair" else option
            raise ConfigError(
                f"{option} is no forecast option of {chosen.name}, but an output setting of every family: "
                f"{name}=True or False in Python, --{name.replace('_', '-')} on the command line, output.{name} in a "
                "run's config."
            )
        if option not in known:
            hint = did_you_mean(str(option), known, f"Known: {', '.join(known)}.")
            raise ConfigError(f"{chosen.name} has no forecast option {option!r}. {hint}")
    options = options_class(**given)  # first, since the family's own error messages are more specific
    return replace(options, **{key: _coerced(chosen.name, options_class, key, value) for key, value in given.items()})


def resolved(request: AnyRequest, which: str) -> AnyRequest:
    """The request with its options as the family's dataclass, where they are a mapping. Raises as forecast_options."""
    if isinstance(request.options, Mapping) and request.options:
        return request.changed(options=forecast_options(which, request.options))
    return request


def _coerced(name: str, options_class: type, option: str, value: Any) -> Any:
    """Return the value converted to its field's type, such as a list to a tuple. Raises ConfigError for other types."""
    if getattr(value, "ndim", None) == 0:  # a NumPy scalar
        value = value.item()
    try:
        return TypeAdapter(get_type_hints(options_class)[option]).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{name}: forecast option {option} cannot be {value!r}: {problem.lower()}.") from None
