"""Chronos-2's two configurations: upstream's config.json (Chronos2Config) and the `model:` section of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from foretrain.errors import ModelError
from foretrain.models.architecture import Architecture, ModelSection, Positive, Rate, Whole, section_of

QUANTILES = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)  # the 21 levels of the published models

# Keys of config.json that are derived from others: written for upstream's loader, checked when read.
_DERIVED = {"dense_act_fn", "is_gated_act", "vocab_size", "pad_token_id", "reg_token_id", "architectures", "model_type"}
_NESTED = (
    "context_length",
    "input_patch_size",
    "input_patch_stride",
    "output_patch_size",
    "quantiles",
    "use_reg_token",
    "use_arcsinh",
    "max_output_patches",
    "time_encoding_scale",
)


@dataclass(frozen=True)
class Chronos2Config(Architecture):
    """Architecture of a Chronos-2 model, with the fields and defaults of upstream's config.json.

    Unknown keys are stored in `extra` and `chronos_extra` and written back.
    """

    title = "Chronos-2 model"
    signature = ("chronos_config",)

    context_length: Whole
    input_patch_size: Whole
    output_patch_size: int
    quantiles: tuple[float, ...]
    input_patch_stride: int = 0  # 0 = input_patch_size
    use_reg_token: bool = False
    use_arcsinh: bool = False
    max_output_patches: Whole = 1
    time_encoding_scale: Whole = 0  # 0 = context_length
    d_model: Whole = 512
    d_kv: Annotated[int, Field(ge=2)] = 64
    d_ff: Whole = 2048
    num_layers: Whole = 6
    num_heads: Whole = 8
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: Positive = 1e-6
    initializer_factor: Positive = 0.05
    feed_forward_proj: str = "relu"
    rope_theta: Positive = 10000.0
    dtype: str = "float32"
    chronos_extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.input_patch_stride:
            object.__setattr__(self, "input_patch_stride", self.input_patch_size)
        if not self.time_encoding_scale:
            object.__setattr__(self, "time_encoding_scale", self.context_length)
        object.__setattr__(self, "quantiles", tuple(float(q) for q in self.quantiles))
        self.check()

    def inconsistencies(self) -> list[str]:
        """Return a message for each inconsistency between values."""
        found, sizes = [], (self.input_patch_size, self.input_patch_stride, self.output_patch_size)
        if len({*sizes}) > 1:
            names = "input_patch_size {}, input_patch_stride {} and output_patch_size {}".format(*sizes)
            found.append(f"{names} must be equal")
        if self.d_kv % 2:
            found.append(f"d_kv is {self.d_kv}, must be even for rotary positions")
        levels = list(self.quantiles)
        if not levels or any(not 0 < q < 1 for q in levels) or levels != sorted(set(levels)):
            found.append(f"quantiles {levels} must be increasing and strictly between 0 and 1")
        if self.feed_forward_proj != "relu":
            found.append(f"feed_forward_proj is {self.feed_forward_proj!r}, only 'relu' exists")
        return found

    @property
    def patch_size(self) -> int:
        """Steps in a patch; input, output and stride are equal."""
        return self.input_patch_size

    @property
    def native_horizon(self) -> int:
        """Steps forecast in one pass; longer horizons are decoded autoregressively."""
        return self.max_output_patches * self.output_patch_size

    @property
    def inner_dim(self) -> int:
        """Width of queries, keys and values over all heads; may differ from d_model."""
        return self.num_heads * self.d_kv

    @classmethod
    def matches(cls, raw: Mapping[str, Any]) -> bool:
        """Return True if a config.json belongs to this family."""
        nested = raw.get("chronos_config")
        return isinstance(nested, Mapping) and "input_patch_size" in nested

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> Chronos2Config:
        """Build the config from a parsed config.json; `source` names the file in errors. Raises ModelError."""
        nested = raw.get("chronos_config")
        if not isinstance(nested, Mapping):
            raise ModelError(f"{source}: no chronos_config, so this is not a Chronos-2 model.")
        if missing := [key for key in cls.required() if key not in nested]:
            raise ModelError(f"{source}: chronos_config lacks {', '.join(missing)}.")
        if raw.get("is_gated_act"):
            raise ModelError(f"{source}: gated activations are not part of Chronos-2.")
        own = {f.name for f in fields(cls)} - set(_NESTED) - {"extra", "chronos_extra"}
        values = {key: raw[key] for key in own if key in raw}
        if "dtype" not in raw and "torch_dtype" in raw:
            values["dtype"] = raw["torch_dtype"]
        values |= {key: nested[key] for key in _NESTED if key in nested}
        consumed = own | _DERIVED | {"chronos_config", "chronos_pipeline_class", "torch_dtype"}
        try:
            return cls(
                **values,
                extra={key: value for key, value in raw.items() if key not in consumed},
                chronos_extra={key: value for key, value in nested.items() if key not in _NESTED},
            )
        except (ModelError, TypeError, ValueError) as error:
            raise ModelError(f"{source}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Return upstream's config.json, including the keys by which its loaders dispatch."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        nested = {key: own.pop(key) for key in _NESTED}
        nested["quantiles"] = list(self.quantiles)
        extra, chronos_extra = own.pop("extra"), own.pop("chronos_extra")
        return dict(
            sorted(
                {
                    **extra,
                    **own,
                    "architectures": ["Chronos2Model"],
                    "model_type": "t5",
                    "chronos_pipeline_class": "Chronos2Pipeline",
                    "chronos_config": {**chronos_extra, **nested},
                    "dense_act_fn": self.feed_forward_proj,
                    "is_gated_act": False,
                    "vocab_size": 2 if self.use_reg_token else 1,
                    "pad_token_id": 0,
                    "reg_token_id": 1 if self.use_reg_token else None,
                }.items()
            )
        )

    def resized(self, context_length: int | None = None, prediction_length: int | None = None) -> Chronos2Config:
        """Return the config with another context length and at least this native horizon (steps).

        time_encoding_scale is unchanged, because the weights were trained with it.
        """
        patches = math.ceil(prediction_length / self.output_patch_size) if prediction_length else 0
        return replace(
            self,
            context_length=context_length or self.context_length,
            max_output_patches=max(self.max_output_patches, patches),
        )


# Published architectures; the small one's layer count is inferred from its parameter count.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "test": {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 2, "num_heads": 4},
}

# Known hub ids, so that a dry run needs no download. The small one is assumed; its file was not available.
PUBLISHED = {"amazon/chronos-2": "base", "autogluon/chronos-2-synth": "base", "autogluon/chronos-2-small": "small"}


# Keys for random initialisation; with model_id they come from the checkpoint.
_KEYS = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate", "layer_norm_epsilon",
         "initializer_factor", "rope_theta", "patch_size", "quantiles", "use_reg_token", "use_arcsinh")  # fmt: skip


class _Chronos2Start(ModelSection):
    preset: Literal["base", "small", "test"] | None = None


class Chronos2ModelConfig(section_of(Chronos2Config, _KEYS, _Chronos2Start, named={"patch_size": "input_patch_size"})):
    """The `model:` section of a run that trains Chronos-2."""

    presets: ClassVar = PRESETS
    published: ClassVar = PUBLISHED
    adjustable: ClassVar = ("dropout_rate", "initializer_factor")  # the latter affects random weights only

    family: Literal["chronos2"] = "chronos2"
    context_length: int | None = Field(default=None, ge=1)  # None = data.context_length
    max_output_patches: int | None = Field(
        default=None, ge=1
    )  # None = 64, or the checkpoint's own; raised to the horizon
    time_encoding_scale: int | None = Field(default=None, ge=1)  # None = max(8192, context_length)
    loss_normalisation: Literal["rows", "observed"] = "rows"
    # how far a loss predicts: to the run's horizon (a forecast depends on the number of patches), or to its batch's
    loss_horizon: Literal["run", "batch"] = "run"

    @classmethod
    def published_architecture(cls, hub_id: str | None) -> Chronos2Config | None:
        """Return the config of a known hub id, None for others."""
        if hub_id not in PUBLISHED:
            return None
        return Chronos2Config(
            context_length=8192,
            input_patch_size=16,
            output_patch_size=16,
            quantiles=QUANTILES,
            use_reg_token=True,
            use_arcsinh=True,
            max_output_patches=64,
            **PRESETS[PUBLISHED[hub_id]],
        )

    def architecture(self, context_length: int, prediction_length: int) -> Chronos2Config:
        """Return the config of a randomly initialised model. Raises ModelError if the keys contradict each other."""
        preset = PRESETS[self.preset or "small"]
        values = {"use_reg_token": True, "use_arcsinh": True, **preset, **self.given()}
        patch = values.pop("patch_size", 16)
        context = self.context_length or context_length
        quantiles = values.pop("quantiles", QUANTILES)
        scale = self.time_encoding_scale or max(8192, context)
        return Chronos2Config(
            context_length=context,
            input_patch_size=patch,
            output_patch_size=patch,
            quantiles=tuple(quantiles),
            max_output_patches=max(self.max_output_patches or 64, math.ceil(prediction_length / patch)),
            time_encoding_scale=scale,
            **values,
        )

    def fitted(self, stored: Chronos2Config, context_length: int, prediction_length: int) -> Chronos2Config:
        """Return a checkpoint's config for this run, which may change context length, horizon and dropout.

        Raises ModelError if another given key contradicts the checkpoint.
        """
        adjusted = replace(self.adjusted(stored), initializer_factor=stored.initializer_factor)
        scale = self.time_encoding_scale
        if scale not in (None, stored.time_encoding_scale):
            raise self.clash([f"time_encoding_scale is {scale!r} here and {stored.time_encoding_scale!r} there"])
        patches = self.max_output_patches or stored.max_output_patches
        context = self.context_length or context_length
        return replace(adjusted, max_output_patches=patches).resized(context, prediction_length)
