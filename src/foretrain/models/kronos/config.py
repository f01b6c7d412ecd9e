"""Kronos configurations: the published config.json files, presets, and the `model:` sections of runs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from foretrain.config import STARTING_WEIGHTS, FieldRule, Section
from foretrain.errors import ConfigError, ModelError
from foretrain.models.config_json import read_config_json

COLUMNS = ("open", "high", "low", "close", "volume", "amount")
PRICES = COLUMNS[:4]
OURS = {"max_context": 512, "clip": 5.0}  # keys that upstream does not know: written where they differ from its habits


@dataclass(frozen=True)
class TokenizerConfig:
    """The flat config.json of a tokenizer; names and order are upstream's."""

    d_in: int
    d_model: int
    n_heads: int
    ff_dim: int
    n_enc_layers: int
    n_dec_layers: int
    ffn_dropout_p: float
    attn_dropout_p: float
    resid_dropout_p: float
    s1_bits: int
    s2_bits: int
    beta: float
    gamma0: float
    gamma: float
    zeta: float
    group_size: int
    clip: float = 5.0
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check(self, least_two=("n_enc_layers", "n_dec_layers"))
        problems = []
        if self.d_in != len(COLUMNS):
            problems.append(f"d_in is {self.d_in}, candles have {len(COLUMNS)} columns ({', '.join(COLUMNS)})")
        if (self.s1_bits + self.s2_bits) % self.group_size:
            problems.append(f"group_size {self.group_size} does not divide {self.s1_bits + self.s2_bits} bits")
        _raise(problems)


@dataclass(frozen=True)
class KronosConfig:
    """The flat config.json of a predictor; names are upstream's but for max_context and clip."""

    s1_bits: int
    s2_bits: int
    n_layers: int
    d_model: int
    n_heads: int
    ff_dim: int
    ffn_dropout_p: float
    attn_dropout_p: float
    resid_dropout_p: float
    token_dropout_p: float
    learn_te: bool
    max_context: int = 512
    clip: float = 5.0
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        _raise([f"d_model is {self.d_model}, must be a multiple of 8"] if self.d_model % 8 else [])


AnyConfig = TypeVar("AnyConfig", TokenizerConfig, KronosConfig)


def _check(config: Any, least_two: tuple[str, ...] = ()) -> None:
    problems = []
    for f in fields(config):
        value = getattr(config, f.name)
        if f.type == "int":
            low = 2 if f.name in least_two else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                problems.append(f"{f.name} is {value!r}, must be a whole number of at least {low}")
        elif f.name.endswith("_p"):
            if not isinstance(value, int | float) or not 0 <= value < 1:
                problems.append(f"{f.name} is {value!r}, must be in [0, 1)")
        elif f.type == "float" and not isinstance(value, int | float):
            problems.append(f"{f.name} is {value!r}, must be a number")
        elif f.type == "bool" and not isinstance(value, bool):
            problems.append(f"{f.name} is {value!r}, must be true or false")
    _raise(problems)
    _raise([f"{name} is {bits}, at most 20" for name in ("s1_bits", "s2_bits") if (bits := getattr(config, name)) > 20])
    width, heads = config.d_model, config.n_heads
    if width % heads or width // heads % 2:
        _raise([f"d_model {width} over n_heads {heads} is no even head width"])


def _raise(problems: list[str]) -> None:
    if problems:
        raise ModelError("; ".join(problems) + ".")


def read_config(kind: type[AnyConfig], path: Path) -> AnyConfig:
    """From a config.json; keys beyond the constructor's are kept. Raises ModelError."""
    raw = read_config_json(path)
    known = {f.name for f in fields(kind)} - {"extra"}
    missing = sorted(known - OURS.keys() - raw.keys())
    if missing:
        what = "tokenizer" if kind is TokenizerConfig else "predictor"
        raise ModelError(f"{path}: no Kronos {what}: {', '.join(missing[:4])} not given.")
    try:
        return kind(
            **{key: value for key, value in raw.items() if key in known},
            extra={key: value for key, value in raw.items() if key not in known},
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def to_json(config: TokenizerConfig | KronosConfig) -> dict[str, Any]:
    """The config.json that upstream writes: flat, keys sorted."""
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "extra"}
    own = {key: value for key, value in own.items() if key not in OURS or value != OURS[key]}
    return dict(sorted({**config.extra, **own}.items()))


# Published architectures. Kronos-Tokenizer-base was read word for word; the predictors' widths and depths reproduce the
# published parameter counts. Heads of mini and drop-outs of mini and small are assumed: a checkpoint's own config.json
# always rules.
TOKENIZER_PRESETS: dict[str, dict[str, Any]] = {
    "base": {"d_in": 6, "d_model": 256, "n_heads": 4, "ff_dim": 512, "n_enc_layers": 4, "n_dec_layers": 4,
             "ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0, "s1_bits": 10, "s2_bits": 10,
             "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05, "group_size": 4},
}  # fmt: skip
TOKENIZER_PRESETS["2k"] = TOKENIZER_PRESETS["base"]  # assumed: its file was never seen, its use is contexts of 2048
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


TOKENIZER = FieldRule(identity=True, on_resume="fingerprint", fingerprint="tokenizer")  # where a frozen tokenizer lies


class KronosTokenizerModelConfig(Section):
    """The `model:` section of a run that trains a tokenizer.

    Either `model_id` (a folder or hub id whose weights and architecture are used) or `random_init: true`. A random
    start takes its architecture from `preset` or from the config.json of `architecture_of`, changed by the keys given.
    """

    family: Literal["kronos_tokenizer"] = "kronos_tokenizer"
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False
    architecture_of: str | None = None  # folder or hub id
    preset: Literal["base", "2k"] | None = None
    clip: float | None = Field(default=None, gt=0)  # normalised values are cut here; None = 5, or the checkpoint's own
    d_model: int | None = Field(default=None, ge=1)
    n_heads: int | None = Field(default=None, ge=1)
    ff_dim: int | None = Field(default=None, ge=1)
    n_enc_layers: int | None = Field(default=None, ge=2)
    n_dec_layers: int | None = Field(default=None, ge=2)
    ffn_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    attn_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    resid_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    s1_bits: int | None = Field(default=None, ge=1, le=20)
    s2_bits: int | None = Field(default=None, ge=1, le=20)
    beta: float | None = Field(default=None, ge=0)
    gamma0: float | None = Field(default=None, ge=0)
    gamma: float | None = Field(default=None, ge=0)
    zeta: float | None = Field(default=None, ge=0)
    group_size: int | None = Field(default=None, ge=1)


class KronosModelConfig(Section):
    """The `model:` section of a run that trains a predictor; weights and architecture as for the tokenizer.

    `tokenizer` is the frozen tokenizer: a folder, a hub id or "stage:NAME". None takes that of a published model_id, or
    the folder `tokenizer` inside model_id.
    """

    family: Literal["kronos"] = "kronos"
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False
    architecture_of: str | None = None
    preset: Literal["mini", "small", "base"] | None = None
    tokenizer: Annotated[str | None, TOKENIZER] = None
    tokenizer_revision: Annotated[str | None, TOKENIZER] = None
    clip: float | None = Field(default=None, gt=0)  # None = the tokenizer's own
    token_cache: bool = False  # tokenise every window once, before training; needs data.sampling: epoch
    max_context: int | None = Field(default=None, ge=1)  # None = what a window holds, or the checkpoint's own if more
    n_layers: int | None = Field(default=None, ge=1)
    d_model: int | None = Field(default=None, ge=8)
    n_heads: int | None = Field(default=None, ge=1)
    ff_dim: int | None = Field(default=None, ge=1)
    ffn_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    attn_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    resid_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    token_dropout_p: float | None = Field(default=None, ge=0, lt=1)
    learn_te: bool | None = None


_RATES = ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p", "token_dropout_p")
# what a run that fine-tunes may choose: rates, the weights of the quantiser's loss, and what the weights do not fix
_CHANGEABLE = (*_RATES, "beta", "gamma0", "gamma", "zeta", "clip", "max_context")


def given(section: Section, kind: type[AnyConfig]) -> dict[str, Any]:
    """The architecture keys that a section sets."""
    names = {f.name for f in fields(kind)} - {"extra"}
    return {key: value for key in sorted(names) if (value := getattr(section, key, None)) is not None}


def fitted(section: Any, stored: AnyConfig) -> AnyConfig:
    """A checkpoint's configuration for this run: the keys of _CHANGEABLE are the run's to choose, nothing else is.

    Raises ModelError when another key given contradicts it.
    """
    wanted = given(section, type(stored))
    clashes = [
        f"{key} is {value!r} here and {getattr(stored, key)!r} there"
        for key, value in wanted.items()
        if key not in _CHANGEABLE and value != getattr(stored, key)
    ]
    if clashes:
        raise ModelError(
            f"model.model_id {section.model_id!r} fixes the architecture: {'; '.join(clashes)}. Leave these keys out."
        )
    return replace(stored, **{key: value for key, value in wanted.items() if key in _CHANGEABLE})


def check_start(section: Any) -> None:
    """Raise ConfigError unless exactly one of model_id and random_init is given, and the rest goes with it."""
    if bool(section.model_id) == section.random_init:
        raise ConfigError("model: give either model_id (a folder or hub id) or random_init: true.")
    idle = [name for name in ("preset", "architecture_of") if getattr(section, name) is not None]
    if section.model_id and idle:
        raise ConfigError(f"model.{idle[0]}: has no effect with model_id, which brings its architecture; remove it.")
    if len(idle) == 2:
        raise ConfigError("model: preset and architecture_of both name an architecture; give one.")
