"""Configurations of Toto 1.0: the published config.json, and the `model:` section of a run's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from foretrain.errors import ModelError
from foretrain.models.architecture import (
    RELATIVE_FLOOR,
    Architecture,
    ModelSection,
    Rate,
    ScaleFloor,
    Whole,
    floor_problems,
    section_of,
)

# config.json contains the repr of classes; any module path may precede the class name
SCALERS = ("CausalPatchStdMeanScaler", "CausalStdMeanScaler", "StdMeanScaler")
LONGEST = 4096  # context length in steps of the published model's training
MIXTURE, STUDENT = "MixtureOfStudentTsOutput", "StudentTOutput"


@dataclass(frozen=True)
class TotoConfig(Architecture):
    """Architecture of a Toto 1.0 model; its fields are those of the published config.json."""

    title = "Toto 1.0 model"
    signature = ("scaler_cls", "output_distribution_classes")
    ours: ClassVar = {"max_context_length": LONGEST, "scale_floor": "upstream", "rescale": False}

    patch_size: Whole
    stride: Whole
    embed_dim: Annotated[int, Field(ge=2)]
    num_layers: Whole
    num_heads: Whole
    mlp_hidden_dim: Whole
    dropout: Rate
    spacewise_every_n_layers: Annotated[int, Field(ge=-1)]  # -1 = no variate attention
    scaler_cls: str
    output_distribution_classes: tuple[str, ...]  # only the first is used
    spacewise_first: bool = True
    output_distribution_kwargs: Mapping[str, Any] | None = None
    use_memory_efficient_attention: bool = True  # for upstream's loader; has no effect here
    stabilize_with_global: bool = True
    scale_factor_exponent: Annotated[float, Field(gt=0, le=300)] = 10.0  # of 10, as a float64
    max_context_length: Whole = LONGEST  # steps; upstream does not know this key, nor the next two
    scale_floor: ScaleFloor = "upstream"  # what keeps scales from 0: upstream's constant, or a share of the row's size
    rescale: bool = False  # trained on rows that were multiplied so that upstream's constant hides none of them

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_distribution_classes", tuple(self.output_distribution_classes))
        self.check()

    def inconsistencies(self) -> list[str]:
        """Return a message for each contradiction between fields."""
        return [*_sizes(self), *_classes(self), *floor_problems(self)]

    @property
    def scaler(self) -> str:
        """Class name of the scaler, one of SCALERS."""
        return class_name(self.scaler_cls)

    @property
    def components(self) -> int | None:
        """Number of mixture components; None for a single Student-T, which has no weights."""
        if class_name(self.output_distribution_classes[0]) == STUDENT:
            return None
        return (self.output_distribution_kwargs or {})["k_components"]

    @property
    def k_components(self) -> int | None:
        """`components` under its name in the `model:` section."""
        return self.components

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def spacewise(self) -> tuple[bool, ...]:
        """True for each layer that attends over variates, False for time attention."""
        every = self.spacewise_every_n_layers
        if every == -1:
            return (False,) * self.num_layers
        position = 0 if self.spacewise_first else every - 1
        return tuple(layer % every == position for layer in range(self.num_layers))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> TotoConfig:
        """Build from the parsed config.json; `source` names it in errors. Raises ModelError."""
        if missing := [key for key in _REQUIRED if key not in raw]:
            raise ModelError(f"{source}: lacks {', '.join(missing)}, so this is not a Toto 1.0 model.")
        return super().from_json(raw, source)

    def to_json(self) -> dict[str, Any]:
        """Return the published config.json, keys sorted."""
        raw = super().to_json() | {"output_distribution_classes": list(self.output_distribution_classes)}
        if self.output_distribution_kwargs is not None:
            raw["output_distribution_kwargs"] = dict(self.output_distribution_kwargs)
        return raw


_REQUIRED = ("patch_size", "stride", "embed_dim", "num_layers", "num_heads", "mlp_hidden_dim", "dropout",
             "spacewise_every_n_layers", "scaler_cls", "output_distribution_classes")  # fmt: skip


def class_name(text: str) -> str:
    """Return CausalStdMeanScaler for "<class 'model.scaler.CausalStdMeanScaler'>"."""
    return text.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]


def _sizes(c: TotoConfig) -> list[str]:
    problems = []
    if c.stride != c.patch_size:
        problems.append(f"stride {c.stride} must equal patch_size {c.patch_size}")
    if c.embed_dim % c.num_heads or c.embed_dim // c.num_heads % 2:
        problems.append(f"embed_dim {c.embed_dim} over num_heads {c.num_heads} is no even head width")
    every = c.spacewise_every_n_layers
    if every == 0:
        problems.append(f"spacewise_every_n_layers is {every!r}, must be at least 1, or -1 for none")
    elif every != -1 and c.num_layers % every:
        problems.append(f"num_layers {c.num_layers} must be a multiple of spacewise_every_n_layers {every}")
    return problems


def _classes(c: TotoConfig) -> list[str]:
    problems = []
    if c.scaler not in SCALERS:
        problems.append(f"scaler_cls is {c.scaler_cls!r}, known are {', '.join(SCALERS)}")
    outputs = c.output_distribution_classes
    if not outputs or not isinstance(outputs[0], str) or class_name(outputs[0]) not in (MIXTURE, STUDENT):
        problems.append(f"output_distribution_classes is {list(outputs)!r}, known are {MIXTURE}, {STUDENT}")
    elif class_name(outputs[0]) == MIXTURE:
        count = (c.output_distribution_kwargs or {}).get("k_components")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            problems.append(
                f"output_distribution_kwargs.k_components is {count!r}, must be a whole number of at least 1"
            )
    return problems


_CLASSES = {"scaler_cls": "<class 'model.scaler.CausalPatchStdMeanScaler'>",
            "output_distribution_classes": (f"<class 'model.distribution.{MIXTURE}'>",)}  # fmt: skip

# The published model and a tiny one for experiments. Values of the published one come from independent ports and give
# its stated 151M parameters; a checkpoint's own config.json takes precedence.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {"patch_size": 64, "embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_hidden_dim": 3072,
             "dropout": 0.1, "spacewise_every_n_layers": 12, "spacewise_first": False, "k_components": 24},
    "debug": {"patch_size": 8, "embed_dim": 64, "num_layers": 4, "num_heads": 4, "mlp_hidden_dim": 128,
              "dropout": 0.0, "spacewise_every_n_layers": 4, "spacewise_first": False, "k_components": 4},
}  # fmt: skip

# Presets of published models, so that a dry run needs no download.
PUBLISHED = {"Datadog/Toto-Open-Base-1.0": "base"}


def preset(name: str, **changes: Any) -> TotoConfig:
    """Return a config of PRESETS with changes. Raises ModelError if they contradict."""
    values = {**PRESETS[name], **changes}
    components = values.pop("k_components")
    return TotoConfig(
        stride=values["patch_size"], output_distribution_kwargs={"k_components": components}, **_CLASSES, **values
    )


class _TotoStart(ModelSection):
    preset: Literal["base", "debug"] | None = None


_KEYS = ("patch_size", "embed_dim", "num_layers", "num_heads", "mlp_hidden_dim", "dropout",
         "spacewise_every_n_layers", "spacewise_first", "scale_floor", "rescale")  # fmt: skip


class TotoModelConfig(section_of(TotoConfig, _KEYS, _TotoStart)):
    """The `model:` section of a run that trains Toto 1.0."""

    architecture_keys: ClassVar = (*_KEYS, "k_components")
    presets: ClassVar = PRESETS
    published: ClassVar = PUBLISHED
    adjustable: ClassVar = ("dropout", "scale_floor", "rescale")
    of_new_models: ClassVar = RELATIVE_FLOOR

    family: Literal["toto"] = "toto"
    k_components: int | None = Field(default=None, ge=1)
    # label tokens of targets and covariates known ahead; None = if the run has such covariates, or as stored
    variate_labels: bool | None = None
    upstream_compat: bool = False  # reproduce upstream's errors, see README.md

    def resolve_defaults(self, known: bool, saved: Mapping[str, Any] | None = None) -> TotoModelConfig:
        """Also enable variate_labels if it is None and the run has covariates known ahead.

        With upstream_compat, scale_floor stays upstream's.
        """
        resolved = self if self.upstream_compat else super().resolve_defaults(known, saved)
        enable = known and self.variate_labels is None
        return resolved.model_copy(update={"variate_labels": True}) if enable else resolved

    def architecture(self, context_length: int, prediction_length: int) -> TotoConfig:
        """Return the config of a random start. Raises ModelError if the keys contradict."""
        return preset(self.preset or "base", **self.given(), max_context_length=context_length)

    def fitted(self, stored: TotoConfig, context_length: int, prediction_length: int) -> TotoConfig:
        """Return a checkpoint's config adapted to this run, which may change dropout, scale_floor and rescale, and
        lengthen the context.

        Raises ModelError if another key of the section contradicts the checkpoint.
        """
        longest = max(context_length, stored.max_context_length)
        return replace(self.adjusted(stored), max_context_length=longest)

    @classmethod
    def published_architecture(cls, hub_id: str | None) -> TotoConfig | None:
        """Return the config of a known hub id, None for others."""
        return preset(PUBLISHED[hub_id]) if hub_id in PUBLISHED else None
