"""One architecture class a family: a frozen dataclass that is the network's config, config.json, and the source of the
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
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args, get_type_hints

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from foretrain.config import STARTING_WEIGHTS, Section
from foretrain.errors import ConfigError, ModelError
from foretrain.models.config_json import read_config_json

Whole = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Architecture:
    """Base of a network's config: the values of config.json, checked. Raises ModelError when a value is impossible.

    Fields are annotated with their bounds (Whole, Rate, Positive or Annotated[..., Field(...)]), which hold here and in
    the `model:` section; a field's default passes whatever it is, so that 0 may mean "from the others". Keys that the
    class does not know are kept (`extra`) and written back.
    """

    title: ClassVar[str]  # "Toto 2.0 model", in errors
    signature: ClassVar[tuple[str, ...]]  # keys by which a config.json is told from other families'
    # keys that upstream does not know, with what it takes for granted: written where they differ
    ours: ClassVar[Mapping[str, Any]] = {}
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ModelError that names every value out of its bounds, or else every misfit."""
        self.check_bounds()
        self._refuse(self.misfits())

    def check_bounds(self) -> None:
        """Raise ModelError that names every value out of its bounds."""
        self._refuse(_out_of_bounds(self))

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            raise ModelError(f"{self.title}: {'; '.join(problems)}.")

    def misfits(self) -> list[str]:
        """What is wrong with values beside each other, in words."""
        return []

    @classmethod
    def matches(cls, raw: Mapping[str, Any]) -> bool:
        """Whether a config.json is of this family."""
        return all(key in raw for key in cls.signature)

    @classmethod
    def required(cls) -> list[str]:
        """Keys without which a config.json is none of this family, sorted."""
        return sorted(f.name for f in fields(cls) if f.default is f.default_factory is MISSING)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> Self:
        """From the parsed config.json; `source` names it in errors. Raises ModelError."""
        missing = [key for key in cls.required() if raw.get(key) is None]
        if missing:
            raise ModelError(f"{source}: no {cls.title}: {', '.join(missing[:4])} not given.")
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
        """From a config.json file. Raises ModelError when it is missing, not JSON or not the family's."""
        return cls.from_json(read_config_json(path), str(path))

    def to_json(self) -> dict[str, Any]:
        """The object in config.json, keys sorted."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        own = {key: value for key, value in own.items() if key not in self.ours or value != self.ours[key]}
        return dict(sorted({**self.extra, **own}.items()))

    def text(self) -> str:
        """The text of config.json."""
        return json.dumps(self.to_json(), indent=2) + "\n"


AnyArchitecture = TypeVar("AnyArchitecture", bound=Architecture)


class ModelSection(Section):
    """Base of the `model:` sections: where weights come from, and the architecture keys that section_of adds.

    Either `model_id` (a folder or a hub id whose weights and architecture are used) or `random_init: true`. The
    architecture keys belong to a random start; a `preset`, in families that have some, fills those that are not given.
    """

    kind: ClassVar[type[Architecture]]
    architecture_keys: ClassVar[tuple[str, ...]] = ()
    adjustable: ClassVar[tuple[str, ...]] = ()  # of these, what a run that starts from weights may choose
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # architecture keys by the name of a preset
    published: ClassVar[Mapping[str, str]] = {}  # known hub ids to their preset, so that a dry run needs no download

    family: str
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False

    def check_start(self) -> None:
        """Raise ConfigError unless exactly one of model_id and random_init is given."""
        if bool(self.model_id) == self.random_init:
            raise ConfigError("model: give either model_id (a folder or hub id) or random_init: true.")

    def given(self) -> dict[str, Any]:
        """The architecture keys that are set."""
        return {key: value for key in self.architecture_keys if (value := getattr(self, key)) is not None}

    def of_preset(self) -> dict[str, Any]:
        """The architecture keys of the preset that is set; none where none is."""
        return dict(self.presets.get(dict(self).get("preset") or "", {}))

    def architecture(self, context_length: int, prediction_length: int) -> Any:
        """The config of a random start, for a run's lengths in steps. Raises ModelError when the keys contradict."""
        return self.kind(**{**self.of_preset(), **self.given()})

    def fitted(self, stored: Any, context_length: int, prediction_length: int) -> Any:
        """A checkpoint's config for a run of these lengths. Raises ModelError where a key given contradicts it."""
        return self.adjusted(stored)

    def adjusted(self, stored: AnyArchitecture) -> AnyArchitecture:
        """A checkpoint's config with the adjustable keys that are given.

        Raises ModelError when another key given here contradicts the checkpoint.
        """
        given = self.given()
        clashes = [
            f"{key} is {value!r} here and {getattr(stored, key)!r} there"
            for key, value in {**self.of_preset(), **given}.items()
            if key not in self.adjustable and value != getattr(stored, key)
        ]
        if clashes:
            raise self.clash(clashes)
        return replace(stored, **{key: value for key, value in given.items() if key in self.adjustable})

    def clash(self, clashes: Sequence[str]) -> ModelError:
        """The error about keys that contradict a checkpoint, each in words."""
        return ModelError(
            f"model.model_id {self.model_id!r} fixes the architecture: {'; '.join(clashes)}. Leave these keys out."
        )

    @classmethod
    def published_architecture(cls, hub_id: str | None) -> Any:
        """The config of a known hub id, None for others."""
        preset = cls.published.get(hub_id or "")
        return None if preset is None else cls.kind(**cls.presets[preset])

    def resolve_defaults(self, known: bool) -> Self:
        """The section with what follows from whether the run has covariates known ahead."""
        return self


AnySection = TypeVar("AnySection", bound=ModelSection)


def section_of(
    kind: type[Architecture],
    keys: Sequence[str],
    base: type[AnySection] = ModelSection,
    *,
    named: Mapping[str, str] | None = None,
) -> type[AnySection]:
    """A base class for a family's `model:` section: base and, after its fields, an optional key for each of an
    architecture's fields named, with the same type and bounds. named: key to field, where the section's word differs.

    An optional key is None where a run does not set it: its value is then the preset's, the checkpoint's own, or the
    field's default.
    """
    hints = get_type_hints(kind, include_extras=True)
    optional: dict[str, Any] = {key: (hints[(named or {}).get(key, key)] | None, None) for key in keys}
    made = create_model(f"{kind.__name__}Keys", __base__=base, __module__=kind.__module__, **optional)
    made.kind, made.architecture_keys = kind, tuple(keys)
    return made


@cache
def _bounds(kind: type[Architecture]) -> dict[str, tuple[Any, bool, dict[str, float]]]:
    """Of each field of a plain type: that type, whether None is allowed, and bounds by pydantic's names."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts = [part for part in get_args(hint) if part is not type(None)] if type(None) in get_args(hint) else [hint]
        plain, *notes = get_args(parts[0]) if hasattr(parts[0], "__metadata__") else (parts[0],)
        limits = [limit for note in notes if isinstance(note, FieldInfo) for limit in note.metadata]
        bounds = {key: getattr(x, key) for x in limits for key in ("ge", "gt", "le", "lt") if hasattr(x, key)}
        if plain in (int, float, bool):
            found[name] = (plain, parts[0] is not hint, bounds)
    return found


def _out_of_bounds(config: Architecture) -> list[str]:
    """What is wrong with each value on its own, in words."""
    defaults = {f.name: f.default for f in fields(config)}
    found = []
    for name, (plain, optional, bounds) in _bounds(type(config)).items():
        value = getattr(config, name)
        if (optional and value is None) or (type(value) is type(defaults[name]) and value == defaults[name]):
            continue
        if problem := _problem(value, plain, bounds):
            found.append(f"{name} is {value!r}, {problem}")
    return found


def _problem(value: Any, plain: type, bounds: Mapping[str, float]) -> str | None:
    if plain is bool:
        return None if isinstance(value, bool) else "must be true or false"
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
    return f"at most {most}" if most is not None and value > most else None
