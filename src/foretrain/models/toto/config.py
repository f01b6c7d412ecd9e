"""Toto 1.0's two configurations: the published config.json, and the `model:` section of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from foretrain.config import STARTING_WEIGHTS, Section
from foretrain.errors import ModelError
from foretrain.models.config_json import read_config_json

# config.json names classes by how Python prints them; anything may stand in front of the class name
SCALERS = ("CausalPatchStdMeanScaler", "CausalStdMeanScaler", "StdMeanScaler")
LONGEST = 4096  # steps of context that the published model was trained with
MIXTURE, STUDENT = "MixtureOfStudentTsOutput", "StudentTOutput"


@dataclass(frozen=True)
class TotoConfig:
    """Architecture of one Toto 1.0 model, field for field what the published config.json holds.

    Keys this class does not know are kept (`extra`) and written back. Raises ModelError when a value is impossible.
    """

    patch_size: int
    stride: int
    embed_dim: int
    num_layers: int
    num_heads: int
    mlp_hidden_dim: int
    dropout: float
    spacewise_every_n_layers: int  # -1 = no layer attends over variates
    scaler_cls: str
    output_distribution_classes: tuple[str, ...]  # the first one counts
    spacewise_first: bool = True
    output_distribution_kwargs: Mapping[str, Any] | None = None
    use_memory_efficient_attention: bool = True  # of upstream's loader; without effect here
    stabilize_with_global: bool = True
    scale_factor_exponent: float = 10.0
    max_context_length: int = LONGEST  # steps; a key of ours, written where it is another
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_distribution_classes", tuple(self.output_distribution_classes))
        problems = _problems(self)
        if problems:
            raise ModelError("Toto config: " + "; ".join(problems) + ".")

    @property
    def scaler(self) -> str:
        """Class name of the scaler, one of SCALERS."""
        return class_name(self.scaler_cls)

    @property
    def components(self) -> int | None:
        """Student-T distributions in the mixture; None for a single one, which has no weights."""
        if class_name(self.output_distribution_classes[0]) == STUDENT:
            return None
        return (self.output_distribution_kwargs or {})["k_components"]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def spacewise(self) -> tuple[bool, ...]:
        """Of each layer, whether it attends over variates instead of over time."""
        every = self.spacewise_every_n_layers
        if every == -1:
            return (False,) * self.num_layers
        place = 0 if self.spacewise_first else every - 1
        return tuple(layer % every == place for layer in range(self.num_layers))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "config.json") -> TotoConfig:
        """From the parsed config.json; `source` names it in errors. Raises ModelError."""
        known = {f.name for f in fields(cls)} - {"extra"}
        missing = [key for key in _REQUIRED if key not in raw]
        if missing:
            raise ModelError(f"{source}: lacks {', '.join(missing)}, so this is not a Toto 1.0 model.")
        try:
            return cls(
                **{key: value for key, value in raw.items() if key in known},
                extra={key: value for key, value in raw.items() if key not in known},
            )
        except (ModelError, TypeError, ValueError) as error:
            raise ModelError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> TotoConfig:
        """From a config.json file. Raises ModelError when it is missing, not JSON or not Toto's."""
        return cls.from_json(read_config_json(path), str(path))

    def to_json(self) -> dict[str, Any]:
        """The published config.json, keys sorted."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        if self.max_context_length == LONGEST:
            del own["max_context_length"]
        own["output_distribution_classes"] = list(self.output_distribution_classes)
        if self.output_distribution_kwargs is not None:
            own["output_distribution_kwargs"] = dict(self.output_distribution_kwargs)
        return dict(sorted({**self.extra, **own}.items()))

    def lengthened(self, context_length: int, *, at_least: bool = True) -> TotoConfig:
        """The same weights that look at so many steps, or (at_least) at no fewer than before."""
        return replace(self, max_context_length=max(context_length, self.max_context_length if at_least else 1))


_REQUIRED = ("patch_size", "stride", "embed_dim", "num_layers", "num_heads", "mlp_hidden_dim", "dropout",
             "spacewise_every_n_layers", "scaler_cls", "output_distribution_classes")  # fmt: skip


def class_name(text: str) -> str:
    """CausalStdMeanScaler of "<class 'model.scaler.CausalStdMeanScaler'>"."""
    return text.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]


def _problems(c: TotoConfig) -> list[str]:
    found = []
    for name in ("patch_size", "stride", "embed_dim", "num_layers", "num_heads", "mlp_hidden_dim",
                 "max_context_length"):  # fmt: skip
        value = getattr(c, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found.append(f"{name} is {value!r}, must be a whole number of at least 1")
    if not isinstance(c.dropout, int | float) or not 0 <= c.dropout < 1:
        found.append(f"dropout is {c.dropout!r}, must be in [0, 1)")
    if not isinstance(c.scale_factor_exponent, int | float) or c.scale_factor_exponent <= 0:
        found.append(f"scale_factor_exponent is {c.scale_factor_exponent!r}, must be positive")
    for name in ("spacewise_first", "stabilize_with_global", "use_memory_efficient_attention"):
        if not isinstance(getattr(c, name), bool):
            found.append(f"{name} is {getattr(c, name)!r}, must be true or false")
    return found or [*_sizes(c), *_classes(c)]


def _sizes(c: TotoConfig) -> list[str]:
    found = []
    if c.stride != c.patch_size:
        found.append(f"stride {c.stride} must equal patch_size {c.patch_size}")
    if c.embed_dim % c.num_heads or c.embed_dim // c.num_heads % 2:
        found.append(f"embed_dim {c.embed_dim} over num_heads {c.num_heads} is no even head width")
    every = c.spacewise_every_n_layers
    if not isinstance(every, int) or isinstance(every, bool) or (every < 1 and every != -1):
        found.append(f"spacewise_every_n_layers is {every!r}, must be at least 1, or -1 for none")
    elif every != -1 and c.num_layers % every:
        found.append(f"num_layers {c.num_layers} must be a multiple of spacewise_every_n_layers {every}")
    return found


def _classes(c: TotoConfig) -> list[str]:
    found = []
    if not isinstance(c.scaler_cls, str) or c.scaler not in SCALERS:
        found.append(f"scaler_cls is {c.scaler_cls!r}, known are {', '.join(SCALERS)}")
    outputs = c.output_distribution_classes
    if not outputs or not isinstance(outputs[0], str) or class_name(outputs[0]) not in (MIXTURE, STUDENT):
        found.append(f"output_distribution_classes is {list(outputs)!r}, known are {MIXTURE}, {STUDENT}")
    elif class_name(outputs[0]) == MIXTURE:
        count = (c.output_distribution_kwargs or {}).get("k_components")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            found.append(f"output_distribution_kwargs.k_components is {count!r}, must be a whole number of at least 1")
    return found


_CLASSES = {"scaler_cls": "<class 'model.scaler.CausalPatchStdMeanScaler'>",
            "output_distribution_classes": (f"<class 'model.distribution.{MIXTURE}'>",)}  # fmt: skip

# The published model and a tiny one for trying things out. Values of the published one come from independent ports and
# give its stated 151M parameters; a checkpoint's own config.json always rules.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {"patch_size": 64, "embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_hidden_dim": 3072,
             "dropout": 0.1, "spacewise_every_n_layers": 12, "spacewise_first": False, "k_components": 24},
    "debug": {"patch_size": 8, "embed_dim": 64, "num_layers": 4, "num_heads": 4, "mlp_hidden_dim": 128,
              "dropout": 0.0, "spacewise_every_n_layers": 4, "spacewise_first": False, "k_components": 4},
}  # fmt: skip

# Known hub ids, so that a dry run needs no download.
PUBLISHED = {"Datadog/Toto-Open-Base-1.0": "base"}


def preset(name: str, **changes: Any) -> TotoConfig:
    """A configuration of PRESETS with changes. Raises ModelError when they contradict."""
    values = {**PRESETS[name], **changes}
    components = values.pop("k_components")
    return TotoConfig(
        stride=values["patch_size"], output_distribution_kwargs={"k_components": components}, **_CLASSES, **values
    )


class TotoModelConfig(Section):
    """The `model:` section of a run that trains Toto 1.0.

    Either `model_id` (a folder or a hub id whose weights and architecture are used) or `random_init: true`. The
    architecture keys belong to random init; `preset` fills those that are not given.
    """

    family: Literal["toto"] = "toto"
    model_id: Annotated[str | None, STARTING_WEIGHTS] = None
    revision: Annotated[str | None, STARTING_WEIGHTS] = None
    random_init: bool = False
    preset: Literal["base", "debug"] | None = None
    patch_size: int | None = Field(default=None, ge=1)
    embed_dim: int | None = Field(default=None, ge=2)
    num_layers: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    mlp_hidden_dim: int | None = Field(default=None, ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None = the preset's, or the checkpoint's own
    spacewise_every_n_layers: int | None = Field(default=None, ge=-1)
    spacewise_first: bool | None = None
    k_components: int | None = Field(default=None, ge=1)
    # tokens that tell targets from covariates known ahead; None = where the run has such covariates, or as stored
    variate_labels: bool | None = None
    upstream_compat: bool = False  # upstream's numbers where it is wrong, see README.md

    def settled(self, known: bool) -> TotoModelConfig:
        """With labels where the run has covariates known ahead, unless that was decided."""
        wanted = known and self.variate_labels is None
        return self.model_copy(update={"variate_labels": True}) if wanted else self

    def architecture(self) -> TotoConfig:
        """The configuration of a randomly initialised model. Raises ModelError when the keys contradict."""
        return preset(self.preset or "base", **self._given())

    def fitted(self, stored: TotoConfig) -> TotoConfig:
        """A checkpoint's configuration for this run, which may choose its dropout.

        Raises ModelError when another key given here contradicts the checkpoint.
        """
        wanted = {**(PRESETS[self.preset] if self.preset else {}), **self._given()}
        wanted.pop("dropout", None)
        found = {key: stored.components if key == "k_components" else getattr(stored, key) for key in wanted}
        clashes = [
            f"{key} is {value!r} here and {found[key]!r} there" for key, value in wanted.items() if value != found[key]
        ]
        if clashes:
            raise ModelError(
                f"model.model_id {self.model_id!r} fixes the architecture: {'; '.join(clashes)}. Leave these keys out."
            )
        return stored if self.dropout is None else replace(stored, dropout=self.dropout)

    def _given(self) -> dict[str, Any]:
        return {key: value for key in PRESETS["base"] if (value := getattr(self, key)) is not None}
