"""Toto 2.0's two configurations: upstream's config.json (Toto2Config) and the `model:` section of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from foretrain.errors import ModelError
from foretrain.models.architecture import (
    RELATIVE_FLOOR,
    Architecture,
    ModelSection,
    Positive,
    ScaleFloor,
    Whole,
    floor_problems,
    section_of,
)

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # quantile levels of the head
LONGEST = 4096  # steps of context that the published models were trained with


@dataclass(frozen=True)
class Toto2Config(Architecture):
    """Architecture of a Toto 2.0 model, with the keys and defaults of upstream's config.json.

    A width of 0 means "derived from the others" and is replaced by the derived value.
    """

    title = "Toto 2.0 model"
    signature = ("residual_attn_ratio",)
    ours: ClassVar = {"context_length": LONGEST, "scale_floor": "upstream", "rescale": False}

    patch_size: Whole
    d_model: Whole
    num_heads: Whole
    num_layers: Whole
    layer_group_size: Whole  # layers of one group of time and variate attention
    num_variate_layers_per_group: Annotated[int, Field(ge=0)]
    variate_layer_first: bool  # True = variate layers are the first of their group, False = the last
    residual_attn_ratio: Positive  # sqrt(s / ln s) for training contexts of s patches
    dropout_p: float = 0.0
    norm_eps: Positive = 5e-5
    attn_bias: bool = False
    mlp_bias: bool = False
    num_output_patches: int = 1
    pre_norm: bool = True  # no effect upstream either
    d_ff: Whole = 0
    qk_dim: Annotated[int, Field(ge=4)] = 0
    v_dim: Whole = 0
    num_groups: Whole = 0  # key and value heads
    residual_mult: Positive = 1.0
    qk_norm: bool = True
    norm_include_weight: bool = False
    qk_norm_include_weight: bool | None = None
    per_dim_scale: bool = False
    use_xpos: bool = False
    context_length: Whole = LONGEST  # not upstream's, nor are the next two: history steps that the model reads
    scale_floor: ScaleFloor = "upstream"  # smallest scale: upstream's 1e-6, or relative to the row's own size
    rescale: bool = False  # trained on rows that were multiplied so that upstream's floor hides none of them

    def __post_init__(self) -> None:
        self.check_bounds()
        derived = {
            "d_ff": 8 * ((int(8 * self.d_model / 3) + 7) // 8),
            "qk_dim": self.d_model // self.num_heads,
            "num_groups": self.num_heads,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        object.__setattr__(self, "v_dim", self.v_dim or self.qk_dim)
        if self.qk_norm_include_weight is None:
            object.__setattr__(self, "qk_norm_include_weight", self.norm_include_weight)
        self.check()

    def inconsistencies(self) -> list[str]:
        """Return a message for each inconsistency, and for each value that no published model has."""
        found, variates, group = [], self.num_variate_layers_per_group, self.layer_group_size
        if self.dropout_p:
            found.append(f"dropout_p is {self.dropout_p!r}, but upstream supports only 0")
        if self.num_output_patches != 1:
            found.append(f"num_output_patches is {self.num_output_patches!r}, but every published model has 1")
        if self.num_heads % self.num_groups:
            found.append(f"num_groups {self.num_groups} does not divide num_heads {self.num_heads}")
        if self.qk_dim % 4:
            found.append(
                f"qk_dim is {self.qk_dim}, must be a multiple of 4: rotary positions rotate pairs in half of it"
            )
        if variates > group:
            found.append(f"num_variate_layers_per_group {variates} is more than layer_group_size {group}")
        return [*found, *floor_problems(self)]

    @property
    def relative(self) -> bool:
        """True if the smallest scale is relative to a row's own size."""
        return self.scale_floor == "relative"

    @property
    def heads_per_group(self) -> int:
        """Number of query heads that share a key and value head."""
        return self.num_heads // self.num_groups

    @property
    def over_variates(self) -> tuple[bool, ...]:
        """For each layer, True if it attends over the variates of a window, False if over time."""
        size, count = self.layer_group_size, self.num_variate_layers_per_group
        first = range(count) if self.variate_layer_first else range(size - count, size)
        return tuple(i % size in first for i in range(self.num_layers))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> Toto2Config:
        """Build the config from a parsed config.json; `source` names the file in errors. Raises ModelError."""
        made = super().from_json({key: value for key, value in raw.items() if key != "heads_per_group"}, source)
        if raw.get("heads_per_group") not in (None, made.heads_per_group):
            raise ModelError(
                f"{source}: heads_per_group is {raw['heads_per_group']}, but {made.num_heads} heads in "
                f"{made.num_groups} groups are {made.heads_per_group} each."
            )
        return made

    def to_json(self) -> dict[str, Any]:
        """Return upstream's config.json, keys sorted."""
        return dict(sorted({**super().to_json(), "heads_per_group": self.heads_per_group}.items()))


def attention_ratio(patches: float) -> float:
    """Return residual_attn_ratio for training contexts of s patches: sqrt(s / ln s) (u-muP, arXiv 2407.17465)."""
    counted = max(patches, 2.0)  # ln 1 is 0
    return math.sqrt(counted / math.log(counted))


_COMMON: dict[str, Any] = {
    "patch_size": 32, "qk_dim": 64, "v_dim": 64, "num_variate_layers_per_group": 1, "variate_layer_first": False,
    "attn_bias": True, "mlp_bias": False, "qk_norm": False, "norm_include_weight": False, "per_dim_scale": True,
    "use_xpos": True, "norm_eps": 1e-4, "residual_mult": 0.75, "residual_attn_ratio": attention_ratio(128),
}  # fmt: skip
# Published architectures; their parameter counts are tested. layer_group_size and norm_eps of 22m, 313m and 1B are
# assumed, since their files were not available. A checkpoint's own config.json takes precedence.
PRESETS: dict[str, dict[str, Any]] = {
    "4m": {"d_model": 256, "num_layers": 4, "layer_group_size": 4, "num_heads": 4, "d_ff": 688},
    "22m": {"d_model": 512, "num_layers": 6, "layer_group_size": 6, "num_heads": 8, "d_ff": 1368},
    "313m": {"d_model": 1024, "num_layers": 24, "layer_group_size": 24, "num_heads": 16, "d_ff": 2736},
    "1B": {"d_model": 1536, "num_layers": 36, "layer_group_size": 36, "num_heads": 24, "d_ff": 4096},
    "2.5B": {"d_model": 2048, "num_layers": 48, "layer_group_size": 48, "num_heads": 32, "d_ff": 5464,
             "norm_eps": 5e-4},
}  # fmt: skip

# Known hub ids, so that a dry run needs no download.
PUBLISHED = {f"Datadog/Toto-2.0-{size}": size for size in PRESETS}


_KEYS = ("patch_size", "d_model", "num_heads", "num_layers", "layer_group_size", "num_variate_layers_per_group",
         "variate_layer_first", "d_ff", "qk_dim", "v_dim", "num_groups", "norm_eps", "attn_bias", "mlp_bias", "qk_norm",
         "norm_include_weight", "qk_norm_include_weight", "per_dim_scale", "use_xpos", "residual_mult",
         "residual_attn_ratio", "scale_floor", "rescale")  # fmt: skip


class _Toto2Start(ModelSection):
    preset: Literal["4m", "22m", "313m", "1B", "2.5B"] | None = None


class Toto2ModelConfig(section_of(Toto2Config, _KEYS, _Toto2Start)):
    """The `model:` section of a run that trains Toto 2.0.

    residual_attn_ratio: None = the preset's, or without a preset that of the training contexts' patches.
    """

    presets: ClassVar = PRESETS
    published: ClassVar = PUBLISHED
    adjustable: ClassVar = ("scale_floor", "rescale")
    of_new_models: ClassVar = RELATIVE_FLOOR

    family: Literal["toto2"] = "toto2"
    context_length: int | None = Field(default=None, ge=1)  # None = data.context_length, or the checkpoint's if longer
    # Contiguous patch masking: share of training windows in which one run of patches is masked, and its maximum length.
    cpm_probability: float = Field(default=0.0, ge=0, le=1)
    cpm_patches: int | None = Field(default=None, ge=1)  # None = 8

    @model_validator(mode="after")
    def _reject_unused_keys(self) -> Toto2ModelConfig:
        if self.cpm_patches is not None and not self.cpm_probability:
            raise ValueError("cpm_patches has no effect with cpm_probability 0; set both or leave it out")
        return self

    def architecture(self, context_length: int, prediction_length: int) -> Toto2Config:
        """Return the config of a randomly initialised model. Raises ModelError if the keys contradict each other."""
        given = self.given()
        values = {**_COMMON, **PRESETS[self.preset or "4m"], **given}
        if "num_layers" in given and "layer_group_size" not in given:
            values["layer_group_size"] = given["num_layers"]
        if {"d_model", "num_heads"} & given.keys():  # drop the preset's widths, which are derived from these
            values = {key: x for key, x in values.items() if key not in ("d_ff", "qk_dim", "v_dim") or key in given}
        longest = self.context_length or context_length
        if self.preset is None and "residual_attn_ratio" not in given:
            values["residual_attn_ratio"] = attention_ratio(longest / values["patch_size"])
        return Toto2Config(**values, context_length=longest)

    def fitted(self, stored: Toto2Config, context_length: int, prediction_length: int) -> Toto2Config:
        """Return a checkpoint's config for this run, which may change context length, scale_floor and rescale only.

        Raises ModelError if another given key contradicts the checkpoint.
        """
        longest = self.context_length or max(stored.context_length, context_length)
        return replace(self.adjusted(stored), context_length=longest)

    @classmethod
    def published_architecture(cls, hub_id: str | None) -> Toto2Config | None:
        """Return the config of a known hub id, None for others."""
        return Toto2Config(**{**_COMMON, **PRESETS[PUBLISHED[hub_id]]}) if hub_id in PUBLISHED else None
