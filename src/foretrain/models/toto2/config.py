"""Toto 2.0's two configurations: upstream's config.json (Toto2Config) and the `model:` section of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foretrain.config import STARTING_WEIGHTS, Section
from foretrain.errors import ModelError
from foretrain.models.config_json import read_config_json

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # what the head says, always
_OURS = {"context_length": 4096}  # keys that upstream does not know: written where they differ
_REQUIRED = ("patch_size", "d_model", "num_heads", "num_layers", "layer_group_size", "num_variate_layers_per_group",
             "variate_layer_first", "residual_attn_ratio")  # fmt: skip


@dataclass(frozen=True)
class Toto2Config:
    """Architecture of one Toto 2.0 model, key for key upstream's config.json, whose defaults these are.

    0 in a width means "from the others"; the numbers in use are then filled in. Keys that this class does not know are
    kept (`extra`) and written back. Raises ModelError when a value is impossible.
    """

    patch_size: int
    d_model: int
    num_heads: int
    num_layers: int
    layer_group_size: int  # layers that attend over time and over variates alternate in groups of so many
    num_variate_layers_per_group: int
    variate_layer_first: bool  # variate layers open their group; else they end it
    residual_attn_ratio: float  # sqrt(s / ln s) for training contexts of s patches
    dropout_p: float = 0.0
    norm_eps: float = 5e-5
    attn_bias: bool = False
    mlp_bias: bool = False
    num_output_patches: int = 1
    pre_norm: bool = True  # no effect upstream either
    d_ff: int = 0
    qk_dim: int = 0
    v_dim: int = 0
    num_groups: int = 0  # heads of keys and values
    residual_mult: float = 1.0
    qk_norm: bool = True
    norm_include_weight: bool = False
    qk_norm_include_weight: bool | None = None
    per_dim_scale: bool = False
    use_xpos: bool = False
    context_length: int = _OURS["context_length"]  # ours: steps of history that the model is given
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        problems = _problems(self)
        if not problems:
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
            problems = _misfits(self)
        if problems:
            raise ModelError("Toto 2.0 config: " + "; ".join(problems) + ".")

    @property
    def heads_per_group(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.num_heads // self.num_groups

    @property
    def over_variates(self) -> tuple[bool, ...]:
        """For each layer whether it attends over the variates of a window (True) or over time."""
        size, count = self.layer_group_size, self.num_variate_layers_per_group
        first = range(count) if self.variate_layer_first else range(size - count, size)
        return tuple(i % size in first for i in range(self.num_layers))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> Toto2Config:
        """From the parsed config.json; `source` names it in errors. Raises ModelError."""
        missing = [key for key in _REQUIRED if raw.get(key) is None]
        if missing:
            raise ModelError(f"{source}: no Toto 2.0 model: {', '.join(missing[:4])} not given.")
        known = {f.name for f in fields(cls)} - {"extra"}
        try:
            made = cls(
                **{key: value for key, value in raw.items() if key in known and value is not None},
                extra={key: value for key, value in raw.items() if key not in known | {"heads_per_group"}},
            )
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from None
        if raw.get("heads_per_group") not in (None, made.heads_per_group):
            raise ModelError(
                f"{source}: heads_per_group is {raw['heads_per_group']}, but {made.num_heads} heads in "
                f"{made.num_groups} groups are {made.heads_per_group} each."
            )
        return made

    @classmethod
    def read(cls, path: Path) -> Toto2Config:
        """From a config.json file. Raises ModelError when it is missing, not JSON or not Toto 2.0's."""
        return cls.from_json(read_config_json(path), str(path))

    def to_json(self) -> dict[str, Any]:
        """Upstream's config.json, keys sorted."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        own = {key: value for key, value in own.items() if value != _OURS.get(key)}
        return dict(sorted({**self.extra, **own, "heads_per_group": self.heads_per_group}.items()))


def attention_ratio(patches: float) -> float:
    """residual_attn_ratio for training contexts of so many patches: sqrt(s / ln s) (u-muP, arXiv 2407.17465)."""
    counted = max(patches, 2.0)  # ln 1 is 0
    return math.sqrt(counted / math.log(counted))


def _problems(c: Toto2Config) -> list[str]:
    """What is wrong with each value on its own."""
    found = []
    for f in fields(c):
        value = getattr(c, f.name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if f.type == "int":
            low = 0 if f.name in ("d_ff", "qk_dim", "v_dim", "num_groups", "num_variate_layers_per_group") else 1
            if not whole or value < low:
                found.append(f"{f.name} is {value!r}, must be a whole number of at least {low}")
        elif f.type == "float" and not (isinstance(value, float) or whole):
            found.append(f"{f.name} is {value!r}, must be a number")
        elif f.type == "bool" and not isinstance(value, bool):
            found.append(f"{f.name} is {value!r}, must be true or false")
    if c.dropout_p:
        found.append(f"dropout_p is {c.dropout_p!r}, but upstream knows none other than 0")
    if c.num_output_patches != 1:
        found.append(f"num_output_patches is {c.num_output_patches!r}, but every published model has 1")
    for name in ("norm_eps", "residual_attn_ratio", "residual_mult"):
        value = getattr(c, name)
        if isinstance(value, int | float) and not value > 0:
            found.append(f"{name} is {value!r}, must be positive")
    return found


def _misfits(c: Toto2Config) -> list[str]:
    """What is wrong with values beside each other."""
    found = []
    if c.num_heads % c.num_groups:
        found.append(f"num_groups {c.num_groups} does not divide num_heads {c.num_heads}")
    if c.qk_dim % 4:
        found.append(f"qk_dim is {c.qk_dim}, must be a multiple of 4: positions turn pairs in half of it")
    if c.num_variate_layers_per_group > c.layer_group_size:
        found.append(
            f"num_variate_layers_per_group {c.num_variate_layers_per_group} is more than layer_group_size "
            f"{c.layer_group_size}"
        )
    return found


_COMMON: dict[str, Any] = {
    "patch_size": 32, "qk_dim": 64, "v_dim": 64, "num_variate_layers_per_group": 1, "variate_layer_first": False,
    "attn_bias": True, "mlp_bias": False, "qk_norm": False, "norm_include_weight": False, "per_dim_scale": True,
    "use_xpos": True, "norm_eps": 1e-4, "residual_mult": 0.75, "residual_attn_ratio": attention_ratio(128),
}  # fmt: skip
# Published architectures; their parameter counts are tested. Assumed, for their files were not seen: layer_group_size
# and norm_eps of 22m, 313m and 1B. A checkpoint's own config.json always rules.
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


def published(hub_id: str) -> Toto2Config | None:
    """The architecture of a known hub id, None for others."""
    return Toto2Config(**{**_COMMON, **PRESETS[PUBLISHED[hub_id]]}) if hub_id in PUBLISHED else None


class Toto2ModelConfig(Section):
    """The `model:` section of a run that trains Toto 2.0.

    Either `model_id` (a folder or a hub id whose weights and architecture are used) or `random_init: true`. The
    architecture keys belong to random init; `preset` fills those that are not given.
    """

    family: Literal["toto2"] = "toto2"
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False
    preset: Literal["4m", "22m", "313m", "1B", "2.5B"] | None = None
    patch_size: int | None = Field(default=None, ge=1)
    d_model: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    num_layers: int | None = Field(default=None, ge=1)
    layer_group_size: int | None = Field(default=None, ge=1)
    num_variate_layers_per_group: int | None = Field(default=None, ge=0)
    variate_layer_first: bool | None = None
    d_ff: int | None = Field(default=None, ge=1)
    qk_dim: int | None = Field(default=None, ge=4)
    v_dim: int | None = Field(default=None, ge=1)
    num_groups: int | None = Field(default=None, ge=1)
    norm_eps: float | None = Field(default=None, gt=0)
    attn_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: bool | None = None
    norm_include_weight: bool | None = None
    qk_norm_include_weight: bool | None = None
    per_dim_scale: bool | None = None
    use_xpos: bool | None = None
    residual_mult: float | None = Field(default=None, gt=0)
    # None = that of the training contexts' patches, or the preset's
    residual_attn_ratio: float | None = Field(default=None, gt=0)
    context_length: int | None = Field(default=None, ge=1)  # None = data.context_length, or the checkpoint's if longer
    # Contiguous patch masking: share of training windows that lose one run of patches, and its longest length.
    cpm_probability: float = Field(default=0.0, ge=0, le=1)
    cpm_patches: int | None = Field(default=None, ge=1)  # None = 8

    @model_validator(mode="after")
    def _only_what_counts(self) -> Toto2ModelConfig:
        if self.cpm_patches is not None and not self.cpm_probability:
            raise ValueError("cpm_patches has no effect with cpm_probability 0; set both or leave it out")
        return self

    def architecture(self, context_length: int) -> Toto2Config:
        """The configuration of a randomly initialised model. Raises ModelError when the keys contradict."""
        given = self._given()
        values = {**_COMMON, **PRESETS[self.preset or "4m"], **given}
        if "num_layers" in given and "layer_group_size" not in given:
            values["layer_group_size"] = given["num_layers"]
        if {"d_model", "num_heads"} & given.keys():  # widths that follow from these
            values = {key: x for key, x in values.items() if key not in ("d_ff", "qk_dim", "v_dim") or key in given}
        longest = self.context_length or context_length
        if self.preset is None and "residual_attn_ratio" not in given:
            values["residual_attn_ratio"] = attention_ratio(longest / values["patch_size"])
        return Toto2Config(**values, context_length=longest)

    def fitted(self, stored: Toto2Config, context_length: int) -> Toto2Config:
        """A checkpoint's configuration for this run, whose context length alone is the run's to choose.

        Raises ModelError when another key given here contradicts the checkpoint.
        """
        wanted = {**(PRESETS[self.preset] if self.preset else {}), **self._given()}
        clashes = [
            f"{key} is {value!r} here and {getattr(stored, key)!r} there"
            for key, value in wanted.items()
            if value != getattr(stored, key)
        ]
        if clashes:
            raise ModelError(
                f"model.model_id {self.model_id!r} fixes the architecture: {'; '.join(clashes)}. Leave these keys out."
            )
        return replace(stored, context_length=self.context_length or max(stored.context_length, context_length))

    def _given(self) -> dict[str, Any]:
        """The architecture keys that are set."""
        names = {f.name for f in fields(Toto2Config)} & type(self).model_fields.keys() - _OURS.keys()
        return {key: value for key in sorted(names) if (value := getattr(self, key)) is not None}
