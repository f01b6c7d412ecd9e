"""Validation during training: the model's losses, and the metrics of its forecasts beside naive."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from foretrain.config import FREE, LAYOUT, Section
from foretrain.data.config import DataConfig
from foretrain.data.parts import DateCuts, StepCuts
from foretrain.data.splits import Origins, Selection, SplitName
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.evaluation import metrics
from foretrain.evaluation.backtest import DEFAULT_LEVELS, Backtest
from foretrain.evaluation.columns import validation_columns
from foretrain.evaluation.losses import loss_units, validation_losses
from foretrain.evaluation.panel import Panel, ShardedWindows, make_panel, newest_origins
from foretrain.evaluation.scored import Scored
from foretrain.forecasting.batching import forecast_notes, log_tallies
from foretrain.models import forecast_options
from foretrain.models.base import Family, Forecaster, ForecastOptions, Trainable
from foretrain.models.output import OutputSettings
from foretrain.notes import Code, Note, once, warn

if TYPE_CHECKING:
    from foretrain.distributed.world import World
    from foretrain.training.trainer import ValidationResult

_log = logging.getLogger(__name__)

VALIDATION_METRICS = ("wql", "mase", "sql", "coverage_80_share", "pct_mae", "direction_accuracy_share",
                      "price_mae")  # fmt: skip


class EvaluationConfig(Section):
    """The `evaluation:` section of a run: what validation scores. The trainer decides when, and which step is best."""

    num_windows: int = Field(default=1, ge=1)  # forecast origins per item, at most what data.validation_steps can hold
    stride: int | None = Field(default=None, ge=1)  # steps between origins; None = prediction_length
    batch_size: Annotated[int, LAYOUT] = Field(default=256, ge=1)  # rows per forward pass
    quantile_levels: tuple[float, ...] = DEFAULT_LEVELS  # levels that WQL and SQL sum over
    max_items: int | None = Field(default=None, ge=1)  # size of a fixed random sample of items; None = all
    seasonality: int | None = Field(default=None, ge=1)  # steps of a season; None = the corpus' own
    loss: bool = True  # compute the model's losses on the validation windows (val_loss and others that it names)
    forecasts: bool = True  # also score its forecasts; false if they are expensive
    target: tuple[str, ...] | None = None  # which of data.target are scored; None = the family's choice, else all
    num_samples: int | None = Field(default=None, ge=1)  # sample paths of a forecast; None = the family's default
    options: dict[str, Any] = Field(default_factory=dict)  # the family's forecast options, such as {temperature: 0.8}
    # Compare the released weights with those that the run started from, naive and the seasons of the data, on the test
    # part, and record whether they are promoted.
    promotion: Annotated[bool, FREE] = False
    require_significance: Annotated[bool, FREE] = True  # promotion requires significant differences
    # what they are tested over: origins; items = over the items, where there are too few origins
    promote_over: Annotated[Literal["origins", "items"], FREE] = "origins"
    clusters: Annotated[str | None, FREE] = None  # a column that groups items with common shocks, for a test over items

    @model_validator(mode="before")
    @classmethod
    def _drop_repair(cls, tree: Any) -> Any:
        """Drop `options: {repair: true}` of runs of earlier versions, which is what every validation does now."""
        options = tree.get("options") if isinstance(tree, dict) else None
        if not isinstance(options, dict) or options.get("repair") is not True:
            return tree
        return {**tree, "options": {name: value for name, value in options.items() if name != "repair"}}

    @model_validator(mode="after")
    def _check_promotion(self) -> EvaluationConfig:
        if not (self.promotion or self.require_significance):
            raise ValueError("require_significance has no effect without promotion: true")
        for name in ("promote_over", "clusters"):
            if name in self.model_fields_set and getattr(self, name) not in ("origins", None) and not self.promotion:
                raise ValueError(f"{name} has no effect without promotion: true")
        if self.promote_over == "items" and not self.require_significance:
            raise ValueError("promote_over has no effect with require_significance: false")
        return self


class Validation:
    """A callable (model, step) -> ValidationResult for the trainer, which scores the validation part of the run's data.

    Windows, truth and baselines are computed once, at construction. All ranks call it together; every rank gets the
    same numbers, for any number of ranks. Items that data.items leaves out, and those among data.holdout_items, are
    not validated; those that data.holdout_fraction holds out are, like the others.

    Losses are computed on windows as in training; forecasts are scored on evaluation.target, and the run's other
    targets are past covariates for them. The forecasts have the default output settings whatever the run's are, since
    those may change at any time and the validation chooses the weights.

    Metrics of forecasts are over all rows; of several corpora there are also those of each one (val_wql/NAME), what a
    run of that corpus alone would have. Losses are over all.
    """

    units: dict[str, str]  # unit of each metric of a call; names start with val_

    def __init__(
        self,
        config: EvaluationConfig,
        data: DataConfig,
        *,
        model: Trainable,
        family: Family | None = None,
        corpora: Sequence[Corpus] | None = None,
        selections: Sequence[Selection] | None = None,
        world: World | None = None,
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        """
        Args:
            config: the run's `evaluation:` section.
            data: its `data:` section.
            model: the trained model, which determines the losses and whether there are forecasts. Later calls may pass
                another one of the same kind.
            family: the model's family; its columns decide what is scored if evaluation.target is not given.
            corpora: opened corpora; None opens those of data.
            selections: columns used in training, for each corpus; None = those of data.
            world: the processes that share the work.
            dtype: autocast dtype, as in training.
            seed: of sampling and of the sample of max_items.

        Raises:
            DataError: the validation part has no window.
            ConfigError: there is nothing to compute; an unknown target or forecast option.
        """
        forecasts = config.forecasts and isinstance(model, Forecaster)
        if not forecasts and not config.loss:
            why = "is off" if isinstance(model, Forecaster) else f"is not what {model.family} does"
            raise ConfigError(f"evaluation.loss: false leaves nothing to validate, as forecasting {why}. Leave it out.")
        opened = data.open() if corpora is None else list(corpora)
        if selections is None:
            selections = data.select(opened)
        self.config, self.seed = config, seed
        self._precision = None if dtype == "float32" else getattr(torch, dtype)
        self._notes_shown = world is not None and not world.is_main  # only the main rank shows the notes, once
        self._warned: set[tuple[str, str]] = set()  # warnings of forecasts already shown
        panel = validation_panel(config, data, opened, selections, seed)
        self._losses = self._backtest = None
        self.units = {f"val_{name}": unit for name, unit in loss_units(model).items()} if config.loss else {}
        if forecasts:
            self._options = chosen_options(config, family)
            scored = tuple(
                validation_columns(*pair, config.target, family) for pair in zip(opened, selections, strict=True)
            )
            self._backtest = Backtest(
                replace(panel, selections=scored),
                levels=config.quantile_levels,
                baselines=("naive",),
                batch_size=config.batch_size,
                world=world,
            )
            self._rows = _rows_of_corpora(self._backtest)
            self.units |= {name: _UNITS[_measure(name)] for name in self.figures(self._backtest.naive)}
        elif not self._notes_shown:
            _warn_unused_settings(config, model)
        if config.loss:
            existing = self._backtest.sharded if self._backtest is not None else None
            same = existing is not None and existing.panel.selections == panel.selections
            self._losses = existing if same else ShardedWindows(panel, config.batch_size, world)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics of every call."""
        return tuple(self.units)

    def __call__(self, model: Any, step: int) -> ValidationResult:
        """Return the metrics of a model, NaN if not finite. step is part of the trainer's interface and unused."""
        from foretrain.training.trainer import ValidationResult

        found: dict[str, float] = {}
        if self._losses is not None:
            losses = validation_losses(self._losses, model, self._precision)
            found |= {f"val_{name}": value for name, value in losses.items()}
        if self._backtest is not None:
            found |= self.figures(self.forecasts(model))
        return ValidationResult({name: value if math.isfinite(value) else math.nan for name, value in found.items()})

    @property
    def backtest(self) -> Backtest:
        """The rows that forecasts are scored on. Raises ConfigError if they are not scored."""
        if self._backtest is None:
            raise ConfigError("evaluation.forecasts: false, so there are no forecasts to score. Leave it out.")
        return self._backtest

    def forecasts(self, model: Forecaster, *, context_length: int | None = None) -> Scored:
        """Return a model's forecasts of those rows; every rank calls it.

        context_length: steps of history that the model sees; None = those of the windows.
        """
        backtest = self.backtest
        request = backtest.request(
            context_length=context_length,
            num_samples=self.config.num_samples,
            seed=self.seed,
            options=self._options,
            output=OutputSettings(),
        )
        with once(self._warned):
            found = backtest.forecast(model, request, dtype=self._precision)
        if not self._notes_shown:
            self._notes_shown = bool(forecast_notes(found.notes, "{}"))
            log_tallies(found.notes)
        return backtest.naive.forecast(found.quantiles)

    def figures(self, scored: Scored) -> dict[str, float]:
        """Return the metrics of all rows, and those of each corpus if there are several."""
        naive = self.backtest.naive
        found = {f"val_{name}": value for name, value in _figures(scored, naive).items()}
        for corpus, rows in self._rows.items():
            own = _figures(_taken(scored, rows), _taken(naive, rows))
            found |= {f"val_{name}/{corpus}": value for name, value in own.items()}
        return found


_UNITS = {name: metric.unit for name, metric in (metrics.METRICS | metrics.SQUARED).items()}
_UNITS["skill"] = _UNITS["skill_vs_naive"]


def _measure(name: str) -> str:
    """Return a metric of a validation without val_ and its corpus."""
    return name.removeprefix("val_").partition("/")[0]


def _figures(scored: Scored, naive: Scored) -> dict[str, float]:
    pooled = metrics.pooled(scored)
    return {
        **{name: pooled[name] for name in VALIDATION_METRICS if name in pooled},
        **metrics.price_squares(scored),
        "skill": metrics.skill(scored, naive),
    }


def _taken(scored: Scored, rows: np.ndarray) -> Scored:
    """Return some of the rows, and of the items only theirs, so that units of others do not count."""
    taken = scored.take(rows)
    kept, item = np.unique(taken.item, return_inverse=True)
    items, units = (tuple(names[k] for k in kept) for names in (taken.items, taken.unit))
    return replace(taken, item=item.reshape(-1), items=items, unit=units)


def _rows_of_corpora(backtest: Backtest) -> dict[str, np.ndarray]:
    """Return the scored rows of each corpus that has any, by its name; {} in a run of one corpus."""
    corpus = backtest.item_keys[backtest.naive.item, 0]
    present = np.unique(corpus).tolist()
    if len(backtest.panel.corpora) == 1:
        return {}
    return {backtest.panel.name(k): np.flatnonzero(corpus == k) for k in present}


def validation_panel(
    config: EvaluationConfig, data: DataConfig, corpora: Sequence[Corpus], selections: Sequence[Selection], seed: int
) -> Panel:
    """Return the windows that a validation scores. Raises DataError and ConfigError as Validation does."""
    cuts = data.cuts
    if isinstance(cuts, DateCuts) and cuts.validation_from is None:
        raise ConfigError(
            f"data.validation_from: not given, so data.test_from {cuts.test_from} leaves no validation part, and this "
            "run validates. Give the date on which that part begins, or leave training.validate_every out."
        )
    panel = _panel("validation", config.num_windows, config, data, corpora, selections, seed)
    # As in training: all windows have time stamps or none, so that batches are alike.
    timed = data.with_times is not False and all(corpus.manifest.time != "steps" for corpus in corpora)
    return replace(panel, with_times=timed)


def held_panel(
    config: EvaluationConfig, data: DataConfig, corpora: Sequence[Corpus], selections: Sequence[Selection], seed: int
) -> Panel:
    """Return all windows of the test part, evaluation.stride apart, of the items that a run uses.

    Raises ConfigError or DataError if the part has no room for a window.
    """
    longest = max(int(corpus.lengths.max(initial=1)) for corpus in corpora)  # no item has more windows
    return _panel("test", longest, config, data, corpora, selections, seed)


def _panel(
    split: SplitName,
    num_windows: int,
    config: EvaluationConfig,
    data: DataConfig,
    corpora: Sequence[Corpus],
    selections: Sequence[Selection],
    seed: int,
) -> Panel:
    """Return the newest windows of a part, at most num_windows an item."""
    stride, cuts = config.stride or data.prediction_length, data.cuts
    steps = cuts if isinstance(cuts, StepCuts) else StepCuts(0, 0)
    used = [items.used for items in data.choose_items(corpora)]
    regions = [
        getattr(cuts.parts(corpus), split).only(among) if isinstance(cuts, DateCuts) else None
        for corpus, among in zip(corpora, used, strict=True)
    ]
    rooms = [0 if region is None else region.most_room(data.resolved_min_context) for region in regions]
    origins = [
        newest_origins(
            corpus,
            split,
            data.prediction_length,
            num_windows,
            stride,
            steps.validation,
            steps.test,
            data.resolved_min_context,
            data.context_length,
            region,
            among,
        )
        if region is None or not room < data.prediction_length <= max(rooms)
        else Origins.of([])  # by dates this corpus has no such part, and others have one
        for corpus, region, room, among in zip(corpora, regions, rooms, used, strict=True)
    ]
    return make_panel(
        corpora,
        selections,
        origins,
        prediction_length=data.prediction_length,
        context_length=data.context_length,
        stride=stride,
        seasonality=config.seasonality,
        max_items=config.max_items,
        seed=seed,
    )


def chosen_options(config: EvaluationConfig, family: Family | None) -> Any:
    """Return the forecast options of a run's `evaluation:` section, None for defaults. Raises ConfigError."""
    if not config.options:
        return None
    if family is None:
        raise ConfigError("evaluation.options: this model's family is not known, so it has no options.")
    try:
        options = forecast_options(family, config.options)
    except ConfigError as error:
        raise ConfigError(f"evaluation.options: {error}") from None
    refuse_cross_learning(options)
    return options


def refuse_cross_learning(options: ForecastOptions | None) -> None:
    """Raise ConfigError for options that make a score depend on which series share a batch."""
    if options is not None and options.mixes_items:
        raise ConfigError(
            "cross_learning: the series that share a batch would be part of the model, so the score would depend on "
            "batch size and order. Evaluate without it."
        )


def _warn_unused_settings(config: EvaluationConfig, model: Trainable) -> None:
    unused = [name for name in ("target", "num_samples", "options") if getattr(config, name)]
    if unused:
        why = "evaluation.forecasts is false" if config.forecasts is False else f"{model.family} makes none"
        text = f"evaluation.{unused[0]} has no effect: it is for forecasts, and {why}."
        warn(_log, Note(Code.SETTING_UNUSED, text))
