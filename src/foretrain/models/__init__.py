"""The registry of model families: the one place that lists them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from foretrain.errors import ConfigError

if TYPE_CHECKING:
    from foretrain.models.base import Family

# name of a family -> the module below foretrain.models that exports FAMILY
FAMILIES: dict[str, str] = {"chronos2": "chronos2.forecaster"}


def family(name: str) -> Family:
    """The family of that name; its package exports FAMILY. Raises ConfigError for an unknown one."""
    if name not in FAMILIES:
        raise ConfigError(f"model.family: {name!r} is not known. Known here: {', '.join(FAMILIES)}.")
    return importlib.import_module(f"foretrain.models.{FAMILIES[name]}").FAMILY


def families() -> list[Family]:
    """Every family, in the order in which a folder's config.json is offered to them."""
    return [family(name) for name in FAMILIES]
