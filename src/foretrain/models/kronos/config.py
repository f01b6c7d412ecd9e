"""Kronos configurations: the published config.json files, presets, and the `model:` sections of a run's config."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from foretrain.config import FieldRule
from foretrain.errors import ConfigError
from foretrain.models.architecture import (
    RELATIVE_FLOOR,
    Architecture,
    ModelSection,
    Positive,
    Rate,
    ScaleFloor,
    Whole,
    floor_problems,
    section_of,
)
from foretrain.models.hub import resolve

COLUMNS = ("open", "high", "low", "close", "volume", "amount")
PRICES = COLUMNS[:4]
OURS = {"max_context": 512, "clip": 5.0, "scale_floor": "upstream"}  # keys that upstream does not know

Bits = Annotated[int, Field(ge=1, le=20)]
Layers = Annotated[int, Field(ge=2)]
Weight = Annotated[float, Field(ge=0, le=1e18)]


class _Flat(Architecture):
    """Base of both configs: flat JSON objects, written as upstream's writer does."""

    d_model: int
    n_heads: int
    scale_floor: ScaleFloor

    @property
    def relative(self) -> bool:
        """True if scales do not depend on the unit of the data."""
        return self.scale_floor == "relative"

    def inconsistencies(self) -> list[str]:
        """Return a message for each contradiction between fields."""
        width, heads = self.d_model, self.n_heads
        uneven = width % heads or width // heads % 2
        problems = [f"d_model {width} over n_heads {heads} is no even head width"] if uneven else []
        return problems + floor_problems(self)

    def text(self) -> str:
        """Return the text of config.json, byte for byte as upstream's writer."""
        return json.dumps(self.to_json(), indent=2)


@dataclass(frozen=True)
class TokenizerConfig(_Flat):
    """The flat config.json of a tokenizer; names and order are upstream's."""

    title = "Kronos tokenizer"
    signature = ("n_enc_layers", "s1_bits")
    ours: ClassVar = OURS

    d_in: Whole
    d_model: Whole
    n_heads: Whole
    ff_dim: Whole
    n_enc_layers: Layers
    n_dec_layers: Layers
    ffn_dropout_p: Rate
    attn_dropout_p: Rate
    resid_dropout_p: Rate
    s1_bits: Bits
    s2_bits: Bits
    beta: Weight
    gamma0: Weight
    gamma: Weight
    zeta: Weight
    group_size: Whole
    clip: Positive = 5.0
    scale_floor: ScaleFloor = "upstream"  # what keeps scales from 0, see inputs.statistics

    def inconsistencies(self) -> list[str]:
        """Return a message for each contradiction between fields."""
        problems, bits = super().inconsistencies(), self.s1_bits + self.s2_bits
        if self.d_in != len(COLUMNS):
            problems.append(f"d_in is {self.d_in}, candles have {len(COLUMNS)} columns ({', '.join(COLUMNS)})")
        if bits % self.group_size:
            problems.append(f"group_size {self.group_size} does not divide {bits} bits")
        return problems


@dataclass(frozen=True)
class KronosConfig(_Flat):
    """The flat config.json of a predictor; names are upstream's except those of OURS."""

    title = "Kronos predictor"
    signature = ("learn_te", "s1_bits")
    ours: ClassVar = OURS

    s1_bits: Bits
    s2_bits: Bits
    n_layers: Whole
    d_model: Annotated[int, Field(ge=8)]
    n_heads: Whole
    ff_dim: Whole
    ffn_dropout_p: Rate
    attn_dropout_p: Rate
    resid_dropout_p: Rate
    token_dropout_p: Rate
    learn_te: bool
    max_context: Whole = 512
    clip: Positive = 5.0
    scale_floor: ScaleFloor = "upstream"

    def inconsistencies(self) -> list[str]:
        """Return a message for each contradiction between fields."""
        return (
            [f"d_model is {self.d_model}, must be a multiple of 8"] if self.d_model % 8 else super().inconsistencies()
        )


# Published architectures. Kronos-Tokenizer-base is its file verbatim; the predictors' widths and depths reproduce the
# published parameter counts. Heads of mini and dropouts of mini and small are assumed; a checkpoint's own config.json
# takes precedence.
TOKENIZER_PRESETS: dict[str, dict[str, Any]] = {
    "base": {"d_in": 6, "d_model": 256, "n_heads": 4, "ff_dim": 512, "n_enc_layers": 4, "n_dec_layers": 4,
             "ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0, "s1_bits": 10, "s2_bits": 10,
             "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05, "group_size": 4},
}  # fmt: skip
TOKENIZER_PRESETS["2k"] = TOKENIZER_PRESETS["base"]  # assumed, for contexts of 2048; its file was not available
_SHARED = {"s1_bits": 10, "s2_bits": 10, "learn_te": True}
_SMALL = {"ffn_dropout_p": 0.25, "attn_dropout_p": 0.1, "resid_dropout_p": 0.25, "token_dropout_p": 0.1}
_BASE = {"ffn_dropout_p": 0.2, "attn_dropout_p": 0.0, "resid_dropout_p": 0.2, "token_dropout_p": 0.0}
PREDICTOR_PRESETS: dict[str, dict[str, Any]] = {
    "mini": {"n_layers": 4, "d_model": 256, "n_heads": 4, "ff_dim": 512, "max_context": 2048, **_SHARED, **_BASE},
    "small": {"n_layers": 8, "d_model": 512, "n_heads": 8, "ff_dim": 1024, **_SHARED, **_SMALL},
    "base": {"n_layers": 12, "d_model": 832, "n_heads": 16, "ff_dim": 2048, **_SHARED, **_BASE},
}

# Hub ids: preset, and for a predictor the tokenizer that it was trained with.
PUBLISHED_TOKENIZERS = {"NeoQuasar/Kronos-Tokenizer-base": "base", "NeoQuasar/Kronos-Tokenizer-2k": "2k"}
PUBLISHED = {
    "NeoQuasar/Kronos-mini": ("mini", "NeoQuasar/Kronos-Tokenizer-2k"),
    "NeoQuasar/Kronos-small": ("small", "NeoQuasar/Kronos-Tokenizer-base"),
    "NeoQuasar/Kronos-base": ("base", "NeoQuasar/Kronos-Tokenizer-base"),
}


TOKENIZER = FieldRule(
    identity=True, on_resume="fingerprint", fingerprint="tokenizer"
)  # location of the frozen tokenizer
_RATES = ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p")


class _Start(ModelSection):
    """Architecture of a random start: `preset` or the config.json of `architecture_of`, changed by the keys given."""

    architecture_of: str | None = None  # folder or hub id
    preset: str | None = None

    def check_start(self) -> None:
        """Raise ConfigError unless exactly one of model_id and random_init is given, without keys it makes useless."""
        super().check_start()
        unused = [name for name in ("preset", "architecture_of") if getattr(self, name) is not None]
        if self.model_id and unused:
            raise ConfigError(
                f"model.{unused[0]}: has no effect with model_id, which brings its architecture; remove it."
            )
        if len(unused) == 2:
            raise ConfigError("model: preset and architecture_of both name an architecture; give one.")

    def random_architecture(self, default: str, offline: bool, **values: Any) -> Any:
        """Return the config of a random start; `values` override the section's keys, `default` is a preset."""
        changes = self.given() | values
        if self.architecture_of is None:
            return self.kind(**{**self.presets[self.preset or default], **changes})
        return replace(self.kind.read(resolve(self.architecture_of, None, offline) / "config.json"), **changes)


class _TokenizerStart(_Start):
    preset: Literal["base", "2k"] | None = None
    clip: float | None = Field(default=None, gt=0)  # cuts normalised values; None = 5, or the checkpoint's own


_TOKENIZER_KEYS = ("d_model", "n_heads", "ff_dim", "n_enc_layers", "n_dec_layers", *_RATES, "s1_bits", "s2_bits",
                   "beta", "gamma0", "gamma", "zeta", "group_size", "scale_floor")  # fmt: skip


class KronosTokenizerModelConfig(section_of(TokenizerConfig, _TOKENIZER_KEYS, _TokenizerStart)):
    """The `model:` section of a run that trains a tokenizer."""

    architecture_keys: ClassVar = (*_TOKENIZER_KEYS, "clip")
    adjustable: ClassVar = (*_RATES, "beta", "gamma0", "gamma", "zeta", "clip", "scale_floor")
    of_new_models: ClassVar = RELATIVE_FLOOR  # and of their predictors, which have the tokenizer's
    presets: ClassVar = TOKENIZER_PRESETS
    published: ClassVar = PUBLISHED_TOKENIZERS

    family: Literal["kronos_tokenizer"] = "kronos_tokenizer"


class _PredictorStart(_Start):
    preset: Literal["mini", "small", "base"] | None = None
    tokenizer: Annotated[str | None, TOKENIZER] = None
    tokenizer_revision: Annotated[str | None, TOKENIZER] = None
    clip: float | None = Field(default=None, gt=0)  # None = the tokenizer's own
    token_cache: bool = False  # tokenise every window once, before training; needs data.sampling: epoch
    max_context: int | None = Field(default=None, ge=1)  # None = tokens of a window, or the checkpoint's own if larger


_PREDICTOR_KEYS = ("n_layers", "d_model", "n_heads", "ff_dim", *_RATES, "token_dropout_p", "learn_te", "scale_floor")


class KronosModelConfig(section_of(KronosConfig, _PREDICTOR_KEYS, _PredictorStart)):
    """The `model:` section of a run that trains a predictor; weights and architecture as for the tokenizer.

    `tokenizer` is the frozen tokenizer: a folder, a hub id or "stage:NAME". None takes that of a published model_id, or
    the folder `tokenizer` inside model_id. A random start without scale_floor has the tokenizer's.
    """

    architecture_keys: ClassVar = (*_PREDICTOR_KEYS, "clip", "max_context")
    adjustable: ClassVar = (*_RATES, "token_dropout_p", "clip", "max_context", "scale_floor")
    presets: ClassVar = PREDICTOR_PRESETS
    published: ClassVar = {name: preset for name, (preset, _) in PUBLISHED.items()}

    family: Literal["kronos"] = "kronos"
