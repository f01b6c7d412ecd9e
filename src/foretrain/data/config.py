"""The `data:` section of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from foretrain.config import FREE, FieldRule, Section
from foretrain.data.items import ChosenItems, choose_items, entries
from foretrain.data.manifest import MANIFEST_NAME
from foretrain.data.parts import Cuts, DateCuts, StepCuts, date_text, span_text
from foretrain.data.splits import Selection, select
from foretrain.data.store import Corpus
from foretrain.data.synthetic import SyntheticSpec, generate
from foretrain.data.synthetic.stream import GenerationConfig
from foretrain.data.verification import Verify
from foretrain.errors import MissingCorpusError

_LONGEST = 2**24  # steps of a window, as of the buckets of a token budget
# What a run on generated series decides there or not at all, and what only stored series have a use for
_OF_CORPORA = (
    "target", "past_covariates", "known_covariates", "min_context", "min_prediction_length", "sampling", "stride",
    "series_weighting", "max_train_series", "min_rows", "reader", "read_buffer_mb",
)  # fmt: skip
_DATES = ("validation_from", "test_from", "embargo")
_OF_STORED = ("validation_steps", "test_steps", *_DATES, "holdout_fraction", "items", "holdout_items")


def _off(value: Any) -> Any:
    """YAML reads the word off as False."""
    return "off" if value is False else value


class ColumnRoles(NamedTuple):
    """Names of columns by role; target None = every numeric column that is not a covariate."""

    target: tuple[str, ...] | None
    past_covariates: tuple[str, ...]
    known_covariates: tuple[str, ...]


class CorpusSpec(Section):
    """One corpus of a run: a folder or a synthetic one, its weight in sampling, and its columns if they are its own."""

    path: Annotated[str | None, FieldRule(identity=False, on_resume="fingerprint", fingerprint="data")] = None
    synthetic: SyntheticSpec | None = None
    weight: float = Field(default=1.0, gt=0)
    # If any of these is given, all three are the corpus' own, and covariates that are not named have no role.
    target: tuple[str, ...] | None = None
    past_covariates: tuple[str, ...] | None = None
    known_covariates: tuple[str, ...] | None = None
    items: Annotated[tuple[str, ...] | None, BeforeValidator(entries)] = None  # in the place of data.items

    @property
    def own_roles(self) -> ColumnRoles | None:
        """The roles of the corpus' columns, or None if they are the run's."""
        if self.target is None and self.past_covariates is None and self.known_covariates is None:
            return None
        return ColumnRoles(self.target, self.past_covariates or (), self.known_covariates or ())

    @model_validator(mode="after")
    def _one_origin(self) -> CorpusSpec:
        if (self.path is None) == (self.synthetic is None):
            raise ValueError("give either path or synthetic, one of them and not both (the other one null)")
        return self

    def open(self, stage_to: str | None = None) -> Corpus:
        """Open or generate the corpus; its shards are read from the copy in `stage_to` if there is one."""
        if self.synthetic is not None:
            return generate(self.synthetic)
        assert self.path is not None
        return Corpus.open(self.path, staged=stage_to)


class DataConfig(Section):
    """The `data:` section of a run: corpora, or generators of series."""

    corpora: tuple[CorpusSpec, ...] = ()
    generated: GenerationConfig | None = None  # takes the place of corpora: series are drawn while the model is trained
    target: tuple[str, ...] | None = None  # None: every numeric column that is not a covariate
    past_covariates: tuple[str, ...] = ()
    known_covariates: tuple[str, ...] = ()
    context_length: int = Field(gt=0, le=_LONGEST)
    prediction_length: int = Field(gt=0, le=_LONGEST)
    # Fewest rows before a cutoff; None: prediction_length
    min_context: int | None = Field(default=None, gt=0, le=_LONGEST)
    # Fewest steps after a cutoff; None: prediction_length. A lower value gives the newest windows of a series shorter
    # futures, and gives windows to shorter series.
    min_prediction_length: int | None = Field(default=None, gt=0, le=_LONGEST)
    sampling: Literal["random", "epoch"] = "random"
    # How windows of an epoch are read: from a memory map, or group by group of shards, in an order of its own; order.py
    reader: Literal["mapped", "sequential"] = "mapped"
    # Size of a group of the sequential reader, which keeps two in memory; None: 512
    read_buffer_mb: int | None = Field(default=None, gt=0, le=2**20)
    stride: int | None = Field(default=None, gt=0, le=2**40)  # between windows of an epoch; None: prediction_length
    series_weighting: Literal["uniform", "length"] = "uniform"
    validation_steps: int | None = Field(default=None, ge=0, le=2**40)  # None: prediction_length
    test_steps: int | None = Field(default=None, ge=0, le=2**40)
    # Dates in the place of these steps, of the clock that each corpus stores (parts.py)
    validation_from: Annotated[str | None, BeforeValidator(date_text)] = None
    test_from: Annotated[str | None, BeforeValidator(date_text)] = None
    embargo: Annotated[str | None, BeforeValidator(span_text)] = None  # before both, such as 5D: in no part
    holdout_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)  # share of items never trained on, by hash of item_id
    # Which items the run uses, by name, pattern, file:PATH or subset:NAME (items.py); None: all
    items: Annotated[tuple[str, ...] | None, BeforeValidator(entries)] = None
    # Items, of all corpora, that are neither trained on nor validated
    holdout_items: Annotated[tuple[str, ...] | None, BeforeValidator(entries)] = None
    max_train_series: int | None = Field(default=None, gt=0)
    # Shorter series are not trained on; where dates cut, only rows before the first cut and its embargo count
    min_rows: int | None = Field(default=None, gt=0)
    # When corpora are compared with the hashes in their manifests; verification.py
    verify: Annotated[Verify, BeforeValidator(_off), FREE] = "auto"
    # Folder of a local disk that a host's first process copies the shards of corpora to, and all read; staging.py
    stage_to: Annotated[str | None, FREE] = Field(default=None, min_length=1)
    with_times: bool | None = None  # fill time stamps; None = if the family uses them and the corpora have a calendar

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if bool(self.corpora) == (self.generated is not None):
            raise ValueError("give either corpora or generated, one of them and not both (the other one [] or null)")
        if self.generated is None:
            return self
        self.generated.check(self.context_length, self.prediction_length)
        without = (*_OF_CORPORA, *(() if self.generated.corpora else _OF_STORED))
        given = [name for name in without if getattr(self, name) != type(self).model_fields[name].default]
        if self.with_times:
            given.append("with_times")
        if given:
            raise ValueError(f"{', '.join(given)}: no effect beside data.generated; leave out what is not set there")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.min_context is not None and self.min_context > self.context_length:
            raise ValueError(f"min_context {self.min_context} exceeds context_length {self.context_length}")
        if self.min_prediction_length is not None and self.min_prediction_length > self.prediction_length:
            raise ValueError(
                f"min_prediction_length {self.min_prediction_length} exceeds prediction_length {self.prediction_length}"
            )
        self._check_dates()
        if self.stage_to is not None and not self.folders:
            raise ValueError("stage_to: no effect, as no corpus has a path; leave it out")
        if self.items is not None and self.corpora and all(spec.items is not None for spec in self.corpora):
            raise ValueError("every corpus has items of its own, so data.items cannot take effect; leave it out")
        named = [key for key in ColumnRoles._fields if getattr(self, key)]
        if named and all(spec.own_roles is not None for spec in self.corpora):
            raise ValueError(
                f"every corpus names columns of its own, so {' and '.join(named)} cannot take effect; leave them out"
            )
        weights = {spec.weight for spec in self.corpora}
        if self.sampling == "epoch" and len(weights) > 1:
            raise ValueError("sampling=epoch visits every window once, so unequal corpus weights cannot take effect")
        if self.sampling == "epoch" and self.series_weighting != "uniform":
            raise ValueError("sampling=epoch visits every window once, so series_weighting cannot take effect")
        self._check_reader()
        return self

    def _check_reader(self) -> None:
        if self.reader == "mapped":
            if self.read_buffer_mb is not None:
                raise ValueError(
                    "read_buffer_mb: no effect beside reader=mapped; leave it out, or set reader=sequential"
                )
            return
        if self.sampling != "epoch":
            raise ValueError(
                f"reader=sequential reads the shards of an epoch in order, and sampling={self.sampling} has no epochs; "
                "set sampling=epoch, or reader=mapped"
            )
        drawn = [str(number) for number, spec in enumerate(self.corpora) if spec.synthetic is not None]
        if drawn:
            raise ValueError(
                f"reader=sequential reads shards, and corpora.{drawn[0]} is synthetic, in memory; set reader=mapped, "
                "or write it to a folder with `foretrain data generate`"
            )

    def _check_dates(self) -> None:
        DateCuts(self.validation_from, self.test_from, self.embargo).check()
        dates = [key for key in _DATES if getattr(self, key) is not None]
        steps = [key for key in ("validation_steps", "test_steps") if getattr(self, key) is not None]
        if dates and steps:
            raise ValueError(
                f"{' and '.join(dates)} cut by dates and {' and '.join(steps)} by steps; give one kind (the other null)"
            )

    def open(self) -> list[Corpus]:
        """Open or generate the corpora, each from its copy in `stage_to` if there is one."""
        return [spec.open(self.stage_to) for spec in self.corpora]

    @property
    def folders(self) -> list[str]:
        """Corpus folders that the run reads."""
        stored = () if self.generated is None else self.generated.corpora
        return [spec.path for spec in (*self.corpora, *stored) if spec.path is not None]

    def check_folders(self, given: Collection[str] = ()) -> None:
        """Raise MissingCorpusError unless every path is a corpus folder; those in `given` are not looked at."""
        found = [(f"data.corpora.{n}.path", spec.path) for n, spec in enumerate(self.corpora)]
        if self.generated is not None:
            found = [(f"data.generated.corpora.{n}.path", spec.path) for n, spec in enumerate(self.generated.corpora)]
        wrong = [(key, path) for key, path in found if path is not None and path not in given and not _is_corpus(path)]
        if not wrong:
            return
        (key, path), keys = wrong[0], ", ".join(key for key, _ in wrong)
        if Path(path).exists():
            kind, out = ("file" if Path(path).is_file() else "folder"), f"corpora/{Path(path).name.partition('.')[0]}"
            raise MissingCorpusError(
                f"{path}: is a {kind}, no corpus ({key}). Make one with `foretrain data import {path} --out {out}`, "
                f"and give {key}={out}."
            )
        out = path if len(wrong) == 1 else "FOLDER"
        raise MissingCorpusError(
            f"{', '.join(path for _, path in wrong)}: no such corpus folder{'s' * (len(wrong) > 1)} ({keys}). Make "
            f"{'it' if len(wrong) == 1 else 'each'} with `foretrain data import FILES --out {out}`, or name another: "
            f"{key}=FOLDER."
        )

    @property
    def roles(self) -> tuple[ColumnRoles, ...]:
        """The roles of columns of each corpus: its own, or the run's."""
        shared = ColumnRoles(self.target, self.past_covariates, self.known_covariates)
        return tuple(spec.own_roles or shared for spec in self.corpora)

    def select(self, corpora: Sequence[Corpus]) -> tuple[Selection, ...]:
        """Return the columns of each corpus. Raises ConfigError as splits.select does."""
        found = []
        for number, (corpus, spec, roles) in enumerate(zip(corpora, self.corpora, self.roles, strict=True)):
            found.append(select(corpus, *roles, key="data" if spec.own_roles is None else f"data.corpora.{number}"))
        return tuple(found)

    def choose_items(self, corpora: Sequence[Corpus]) -> list[ChosenItems]:
        """Return which items of each corpus the run uses. Raises ConfigError as items.choose_items does."""
        own = [spec.items for spec in self.corpora] if self.corpora else [None] * len(corpora)
        given = [
            ("data.items", self.items) if items is None else (f"data.corpora.{number}.items", items)
            for number, items in enumerate(own)
        ]
        return choose_items(corpora, given, self.holdout_items or ())

    @property
    def resolved_min_context(self) -> int:
        """min_context, or its default: prediction_length, at most context_length."""
        return self.min_context or min(self.prediction_length, self.context_length)

    @property
    def resolved_min_prediction_length(self) -> int:
        """min_prediction_length, or its default prediction_length."""
        return self.min_prediction_length or self.prediction_length

    @property
    def resolved_stride(self) -> int:
        """stride, or its default prediction_length."""
        return self.stride or self.prediction_length

    @property
    def cuts(self) -> Cuts:
        """What cuts series into parts: the dates, or the steps, each prediction_length if it is not given."""
        if self.validation_from is not None or self.test_from is not None:
            return DateCuts(self.validation_from, self.test_from, self.embargo)
        given = (self.validation_steps, self.test_steps)
        return StepCuts(*(self.prediction_length if steps is None else steps for steps in given))


def _is_corpus(path: str) -> bool:
    """Return True for a folder with a file that a corpus or a datasets folder has; opening it checks the rest."""
    return any((Path(path) / name).is_file() for name in (MANIFEST_NAME, "state.json", "dataset_dict.json"))
