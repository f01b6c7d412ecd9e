"""Chronos-2's two configurations: upstream's config.json (Chronos2Config) and the `model:` section of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from foretrain.config import STARTING_WEIGHTS, Section
from foretrain.errors import ModelError
from foretrain.models.config_json import read_config_json

QUANTILES = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)  # the 21 levels of the published models

# Keys of config.json that follow from others; they are written for upstream's loader and checked when read.
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
class Chronos2Config:
    """Architecture of one Chronos-2 model, field for field what upstream's config.json holds.

    Defaults are upstream's own. Keys this class does not know are kept (`extra`, `chronos_extra`) and written back.
    Raises ModelError when a value is impossible.
    """

    context_length: int
    input_patch_size: int
    output_patch_size: int
    quantiles: tuple[float, ...]
    input_patch_stride: int = 0  # 0 = input_patch_size
    use_reg_token: bool = False
    use_arcsinh: bool = False
    max_output_patches: int = 1
    time_encoding_scale: int = 0  # 0 = context_length
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 0.05
    feed_forward_proj: str = "relu"
    rope_theta: float = 10000.0
    dtype: str = "float32"
    extra: Mapping[str, Any] = field(default_factory=dict)
    chronos_extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.input_patch_stride:
            object.__setattr__(self, "input_patch_stride", self.input_patch_size)
        if not self.time_encoding_scale:
            object.__setattr__(self, "time_encoding_scale", self.context_length)
        object.__setattr__(self, "quantiles", tuple(float(q) for q in self.quantiles))
        problems = _problems(self)
        if problems:
            raise ModelError("Chronos-2 config: " + "; ".join(problems) + ".")

    @property
    def patch_size(self) -> int:
        """Steps in a patch (input, output and stride are one number)."""
        return self.input_patch_size

    @property
    def native_horizon(self) -> int:
        """Steps forecast in one pass; longer horizons are unrolled."""
        return self.max_output_patches * self.output_patch_size

    @property
    def inner_dim(self) -> int:
        """Width of queries, keys and values over all heads; it need not equal d_model."""
        return self.num_heads * self.d_kv

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> Chronos2Config:
        """From the parsed config.json; `source` names it in errors. Raises ModelError."""
        nested = raw.get("chronos_config")
        if not isinstance(nested, Mapping):
            raise ModelError(f"{source}: no chronos_config, so this is not a Chronos-2 model.")
        missing = [key for key in ("context_length", "input_patch_size", "output_patch_size", "quantiles")
                   if key not in nested]  # fmt: skip
        if missing:
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
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from None
        except (TypeError, ValueError) as error:
            raise ModelError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> Chronos2Config:
        """From a config.json file. Raises ModelError when it is missing, not JSON or not Chronos-2's."""
        return cls.from_json(read_config_json(path), str(path))

    def to_json(self) -> dict[str, Any]:
        """Upstream's config.json, with the keys by which its loaders dispatch."""
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
        """The same weights with another context length and at least this native horizon (steps).

        time_encoding_scale stays, because the weights were trained with it.
        """
        patches = math.ceil(prediction_length / self.output_patch_size) if prediction_length else 0
        return replace(
            self,
            context_length=context_length or self.context_length,
            max_output_patches=max(self.max_output_patches, patches),
        )


def _problems(c: Chronos2Config) -> list[str]:
    found = []
    for name in ("context_length", "input_patch_size", "max_output_patches", "time_encoding_scale", "d_model", "d_kv",
                 "d_ff", "num_layers", "num_heads"):  # fmt: skip
        value = getattr(c, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found.append(f"{name} is {value!r}, must be a whole number of at least 1")
    for name in ("layer_norm_epsilon", "initializer_factor", "rope_theta"):
        value = getattr(c, name)
        if not isinstance(value, (int, float)) or not value > 0:
            found.append(f"{name} is {value!r}, must be positive")
    if not isinstance(c.dropout_rate, (int, float)) or not 0 <= c.dropout_rate < 1:
        found.append(f"dropout_rate is {c.dropout_rate!r}, must be in [0, 1)")
    if not (c.input_patch_size == c.output_patch_size == c.input_patch_stride):
        found.append(
            f"input_patch_size {c.input_patch_size}, input_patch_stride {c.input_patch_stride} and output_patch_size "
            f"{c.output_patch_size} must be equal"
        )
    if isinstance(c.d_kv, int) and c.d_kv % 2:
        found.append(f"d_kv is {c.d_kv}, must be even for rotary positions")
    if not c.quantiles or any(not 0 < q < 1 for q in c.quantiles) or list(c.quantiles) != sorted(set(c.quantiles)):
        found.append(f"quantiles {list(c.quantiles)} must be increasing and strictly between 0 and 1")
    if c.feed_forward_proj != "relu":
        found.append(f"feed_forward_proj is {c.feed_forward_proj!r}, only 'relu' exists")
    return found


# Published architectures; the small one's layer count is inferred from its parameter count.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "test": {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 2, "num_heads": 4},
}

# Known hub ids, so that a dry run needs no download. The small one is assumed: its file was never seen here.
PUBLISHED = {"amazon/chronos-2": "base", "autogluon/chronos-2-synth": "base", "autogluon/chronos-2-small": "small"}


def published(hub_id: str) -> Chronos2Config | None:
    """The architecture of a known hub id, None for others."""
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


class Chronos2ModelConfig(Section):
    """The `model:` section of a run that trains Chronos-2.

    Either `model_id` (a folder or a hub id whose weights and architecture are used) or `random_init: true`. The
    architecture keys belong to random init; `preset` fills those that are not given.
    """

    family: Literal["chronos2"] = "chronos2"
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False
    preset: Literal["base", "small", "test"] | None = None
    d_model: int | None = Field(default=None, ge=1)
    d_kv: int | None = Field(default=None, ge=2)
    d_ff: int | None = Field(default=None, ge=1)
    num_layers: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    dropout_rate: float | None = Field(default=None, ge=0, lt=1)  # None = 0.1, or the checkpoint's own
    layer_norm_epsilon: float | None = Field(default=None, gt=0)
    initializer_factor: float | None = Field(default=None, gt=0)
    rope_theta: float | None = Field(default=None, gt=0)
    patch_size: int | None = Field(default=None, ge=1)
    quantiles: tuple[float, ...] | None = None
    use_reg_token: bool | None = None
    use_arcsinh: bool | None = None
    context_length: int | None = Field(default=None, ge=1)  # None = data.context_length
    max_output_patches: int | None = Field(
        default=None, ge=1
    )  # None = 64, or the checkpoint's own; raised to the horizon
    time_encoding_scale: int | None = Field(default=None, ge=1)  # None = max(8192, context_length)
    loss_normalisation: Literal["rows", "observed"] = "rows"

    def architecture(self, context_length: int, prediction_length: int) -> Chronos2Config:
        """The configuration of a randomly initialised model. Raises ModelError when the keys contradict."""
        values = {"use_reg_token": True, "use_arcsinh": True, **PRESETS[self.preset or "small"], **self._given()}
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
        """A checkpoint's configuration for this run: context length, horizon and dropout are the run's to choose.

        Raises ModelError when another key given here contradicts the checkpoint.
        """
        wanted = {**(PRESETS[self.preset] if self.preset else {}), **self._given()}
        wanted.pop("dropout_rate", None)
        wanted.pop("initializer_factor", None)  # rules random weights only
        if self.time_encoding_scale is not None:
            wanted["time_encoding_scale"] = self.time_encoding_scale
        clashes = [
            f"{key} is {value!r} here and {getattr(stored, key)!r} there"
            for key, value in wanted.items()
            if value != getattr(stored, key)
        ]
        if clashes:
            raise ModelError(
                f"model.model_id {self.model_id!r} fixes the architecture: {'; '.join(clashes)}. Leave these keys out."
            )
        patches = self.max_output_patches or stored.max_output_patches
        resized = replace(stored, max_output_patches=patches).resized(
            self.context_length or context_length, prediction_length
        )
        return resized if self.dropout_rate is None else replace(resized, dropout_rate=self.dropout_rate)

    def _given(self) -> dict[str, Any]:
        return {key: value for key in _RANDOM_INIT if (value := getattr(self, key)) is not None}


# Keys that only a random init can obey; with model_id they come from the checkpoint.
_RANDOM_INIT = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate", "layer_norm_epsilon",
                "initializer_factor", "rope_theta", "patch_size", "quantiles", "use_reg_token",
                "use_arcsinh")  # fmt: skip
