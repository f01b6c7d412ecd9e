"""Base classes of a family's architecture and of its `model:` section.

An architecture is a frozen dataclass: the network's config, the content of config.json, and the source of the
architecture keys of the `model:` section.

    @dataclass(frozen=True)
    class LinearConfig(Architecture):
        title = "linear model"
        signature = ("trend_kernel",)
        context_length: Whole
        trend_kernel: Whole = 25

    class LinearModelConfig(section_of(LinearConfig, ("trend_kernel",))):
        family: Literal["linear"] = "linear"
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from foretrain.config import STARTING_WEIGHTS, Section
from foretrain.errors import ConfigError, ModelError
from foretrain.models.config_json import read_config_json

# Largest whole numbers of an architecture. Sizes are so bounded that products of some fit 64 bits; a network of more
# layers takes minutes to build even without its weights.
_LARGEST, _MOST_LAYERS = 2**20, 1000
Whole = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e18)]  # JSON has whole numbers of any size, which torch takes up to 2**63
# What keeps the scale of a row from 0: a constant of the published model, in the unit of the data, or a share of the
# row's own size, so that a forecast of c times the data is c times the forecast.
ScaleFloor = Literal["upstream", "relative"]
RELATIVE_FLOOR: Mapping[str, Any] = {"scale_floor": "relative"}


@dataclass(frozen=True)
class Architecture:
    """Base of a network's config: the validated values of config.json. Raises ModelError for impossible values.

    Fields are annotated with their bounds (Whole, Rate, Positive or Annotated[..., Field(...)]), which also apply in
    the `model:` section. A field's default is always accepted, so that 0 may mean "derived from other fields". Unknown
    keys are stored in `extra` and written back.
    """

    title: ClassVar[str]  # "Toto 2.0 model", in errors
    signature: ClassVar[tuple[str, ...]]  # keys that identify the family's config.json
    # keys that upstream lacks, with the value that it implies: written only if they differ from it
    ours: ClassVar[Mapping[str, Any]] = {}
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ModelError that names every value out of bounds or, if there is none, every inconsistency."""
        self.check_bounds()
        self._raise_for(self.inconsistencies())

    def check_bounds(self) -> None:
        """Raise ModelError that names every value out of bounds."""
        self._raise_for(_out_of_bounds(self))

    def _raise_for(self, problems: Sequence[str]) -> None:
        if problems:
            raise ModelError(f"{self.title}: {'; '.join(problems)}.")

    def inconsistencies(self) -> list[str]:
        """Return a message for each inconsistency between values."""
        return []

    @classmethod
    def matches(cls, raw: Mapping[str, Any]) -> bool:
        """Return True if a config.json belongs to this family."""
        return all(key in raw for key in cls.signature)

    @classmethod
    def required(cls) -> list[str]:
        """Return the keys that a config.json of this family must have, sorted."""
        return sorted(f.name for f in fields(cls) if f.default is f.default_factory is MISSING)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> Self:
        """Build the config from a parsed config.json; `source` names the file in errors. Raises ModelError."""
        missing = [key for key in cls.required() if raw.get(key) is None]
        if missing:
            raise ModelError(f"{source}: not a {cls.title}: {', '.join(missing[:4])} missing.")
        known = {f.name for f in fields(cls)} - {"extra"}
        try:
            return cls(
                **{key: value for key, value in raw.items() if key in known and value is not None},
                extra={key: value for key, value in raw.items() if key not in known},
            )
        except (ModelError, TypeError, ValueError) as error:
            raise ModelError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config.json file. Raises ModelError if it is missing, not JSON or of another family."""
        return cls.from_json(read_config_json(path), str(path))

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json, keys sorted."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        own = {key: value for key, value in own.items() if key not in self.ours or value != self.ours[key]}
        return dict(sorted({**self.extra, **own}.items()))

    def changes(self, other: Architecture) -> dict[str, tuple[Any, Any]]:
        """Return field -> (value here, value in another config) of the fields that differ, except `extra`."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.compare}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def text(self) -> str:
        """Return the text of config.json."""
        return json.dumps(self.to_json(), indent=2) + "\n"


AnyArchitecture = TypeVar("AnyArchitecture", bound=Architecture)


class ModelSection(Section):
    """Base of the `model:` sections: the source of the weights, and the architecture keys that section_of adds.

    A run sets either `model_id` (a folder or a hub id that provides weights and architecture) or `random_init: true`.
    The architecture keys apply to random initialisation; a `preset`, in families that have presets, sets the others.
    """

    kind: ClassVar[type[Architecture]]
    architecture_keys: ClassVar[tuple[str, ...]] = ()
    adjustable: ClassVar[tuple[str, ...]] = ()  # architecture keys that may be set together with model_id
    # architecture keys of models that start from random weights in this version, where their field's default is the
    # value of published models and of earlier versions
    of_new_models: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # preset name -> architecture keys
    published: ClassVar[Mapping[str, str]] = {}  # known hub id -> preset, so that a dry run needs no download

    family: str
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False

    def check_start(self) -> None:
        """Raise ConfigError unless exactly one of model_id and random_init is given."""
        if bool(self.model_id) == self.random_init:
            raise ConfigError("model: give either model_id (a folder or hub id) or random_init: true.")

    def given(self) -> dict[str, Any]:
        """Return the architecture keys that are set."""
        return {key: value for key in self.architecture_keys if (value := getattr(self, key)) is not None}

    def preset_values(self) -> dict[str, Any]:
        """Return the architecture keys of the chosen preset; {} without one."""
        return dict(self.presets.get(dict(self).get("preset") or "", {}))

    def architecture(self, context_length: int, prediction_length: int) -> Any:
        """Return the config of a randomly initialised model, for a run's lengths in steps.

        Raises ModelError if the keys contradict each other.
        """
        return self.kind(**{**self.preset_values(), **self.given()})

    def fitted(self, stored: Any, context_length: int, prediction_length: int) -> Any:
        """Return a checkpoint's config for a run of these lengths. Raises ModelError if a given key contradicts it."""
        return self.adjusted(stored)

    def adjusted(self, stored: AnyArchitecture) -> AnyArchitecture:
        """Return a checkpoint's config with the given adjustable keys.

        Raises ModelError if another given key contradicts the checkpoint.
        """
        given = self.given()
        clashes = [
            f"{key} is {value!r} here and {getattr(stored, key)!r} there"
            for key, value in {**self.preset_values(), **given}.items()
            if key not in self.adjustable and value != getattr(stored, key)
        ]
        if clashes:
            raise self.clash(clashes)
        return replace(stored, **{key: value for key, value in given.items() if key in self.adjustable})

    def clash(self, clashes: Sequence[str]) -> ModelError:
        """Return the error about keys that contradict a checkpoint, given one message for each."""
        return ModelError(
            f"model.model_id {self.model_id!r} fixes the architecture: {'; '.join(clashes)}. Leave these keys out."
        )

    @classmethod
    def published_architecture(cls, hub_id: str | None) -> Any:
        """Return the config of a known hub id, None for others."""
        preset = cls.published.get(hub_id or "")
        return None if preset is None else cls.kind(**cls.presets[preset])

    def resolve_defaults(self, known: bool, saved: Mapping[str, Any] | None = None) -> Self:
        """Return the section with the defaults that depend on the run.

        Args:
            known: whether the run has covariates known ahead.
            saved: the section as the run's folder or checkpoint holds it, if there is one. A key that it lacks is of a
                later version: the run keeps the field's default.
        """
        unset = {} if not self.random_init else self.of_new_models
        found = {
            key: value
            for key, value in unset.items()
            if getattr(self, key) is None and (saved is None or key in saved) and self._takes(key)
        }
        return self.model_copy(update=found) if found else self

    def _takes(self, key: str) -> bool:
        """Return False if a key of of_new_models contradicts another one that is set."""
        return not (key == "scale_floor" and dict(self).get("rescale"))


def floor_problems(config: Any) -> list[str]:
    """Return a message for each inconsistency of an architecture's fields scale_floor and, if it has it, rescale."""
    if config.scale_floor not in get_args(ScaleFloor):
        return [f"scale_floor is {config.scale_floor!r}, must be {' or '.join(get_args(ScaleFloor))}"]
    if getattr(config, "rescale", False) and config.scale_floor == "relative":
        return ["rescale has no effect with scale_floor relative, which needs no other unit"]
    return []


AnySection = TypeVar("AnySection", bound=ModelSection)


def section_of(
    kind: type[Architecture],
    keys: Sequence[str],
    base: type[AnySection] = ModelSection,
    *,
    named: Mapping[str, str] | None = None,
) -> type[AnySection]:
    """Return a base class for a family's `model:` section: `base` with optional keys appended.

    Args:
        kind: the architecture, whose fields give the keys' types and bounds.
        keys: names of the keys.
        base: class to extend.
        named: key -> field, for keys that do not have their field's name.

    A key is None unless a run sets it; the preset, the checkpoint or the field's default then decides.
    """
    hints = get_type_hints(kind, include_extras=True)
    optional: dict[str, Any] = {key: (hints[(named or {}).get(key, key)] | None, None) for key in keys}
    made = create_model(f"{kind.__name__}Keys", __base__=base, __module__=kind.__module__, **optional)
    made.kind, made.architecture_keys = kind, tuple(keys)
    return made


@cache
def _bounds(kind: type[Architecture]) -> dict[str, tuple[Any, bool, dict[str, float]]]:
    """Return, for each field of a plain type: the type, whether None is allowed, and the bounds by pydantic's names."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts = [part for part in get_args(hint) if part is not type(None)] if type(None) in get_args(hint) else [hint]
        plain, *notes = get_args(parts[0]) if hasattr(parts[0], "__metadata__") else (parts[0],)
        limits = [limit for note in notes if isinstance(note, FieldInfo) for limit in note.metadata]
        bounds = {key: getattr(x, key) for x in limits for key in ("ge", "gt", "le", "lt") if hasattr(x, key)}
        plain = Mapping if get_origin(plain) is Mapping else plain
        if plain in (int, float, bool, str, Mapping) and name != "extra":
            found[name] = (plain, parts[0] is not hint, bounds)
    return found


def _out_of_bounds(config: Architecture) -> list[str]:
    """Return a message for each value that is out of its own bounds."""
    defaults = {f.name: f.default for f in fields(config)}
    found = []
    for name, (plain, optional, bounds) in _bounds(type(config)).items():
        value = getattr(config, name)
        if (optional and value is None) or (type(value) is type(defaults[name]) and value == defaults[name]):
            continue
        most = _MOST_LAYERS if "layers" in name else _LARGEST
        if problem := _problem(value, plain, bounds):
            found.append(f"{name} is {_shown(value)}, {problem}")
        elif plain is int and value > most:
            found.append(f"{name} is {_shown(value)}, must be at most {most:,}")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _problem(value: Any, plain: type, bounds: Mapping[str, float]) -> str | None:
    """Return what a value must be, None if it is within bounds."""
    for kind, said in ((bool, "true or false"), (str, "text"), (Mapping, "a mapping")):
        if plain is kind:
            return None if isinstance(value, kind) else f"must be {said}"
    fits = isinstance(value, int if plain is int else int | float) and not isinstance(value, bool)
    least, above, most, below = (bounds.get(key) for key in ("ge", "gt", "le", "lt"))
    inside = fits and (least is None or value >= least) and (below is None or value < below)
    if below is not None:
        return None if inside else f"must be in [{least}, {below})"
    if plain is int and not inside:
        return "must be a whole number" + (f" of at least {least}" if least is not None else "")
    if not fits:
        return "must be a number"
    if not inside:
        return f"must be at least {least}"
    if above is not None and not value > above:
        return "must be positive" if above == 0 else f"must be above {above}"
    return f"must be at most {most}" if most is not None and value > most else None
