"""Validation folds inside the training period: blocks that step back from the test part, as overrides of a run's data.

Fold 0 is the run's own split. The block of fold k lies k distances earlier, and its test part begins where that block
ends, so that training, scaling, baselines and validation have no access to what lies after it. The embargo of dates
stays before each block, and the futures of training windows lie in the training part: folds are purged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foretrain.data.config import DataConfig
from foretrain.data.parts import DateCuts, StepCuts, date_micros, date_text, micros_text, span_micros, span_text
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.validation import EvaluationConfig, validation_panel
from foretrain.notes import counted
from foretrain.run.config import RunConfig
from foretrain.tuning.config import FoldsConfig


@dataclass(frozen=True)
class Fold:
    """One fold.

    changes: keys of the run's config that make it, none for fold 0. words: its block, for messages.
    """

    number: int
    changes: tuple[tuple[str, Any], ...]
    words: str


def folds_of(data: DataConfig, config: FoldsConfig) -> list[Fold]:
    """Return the folds of a run's data, the newest first.

    Raises ConfigError for folds that overlap, that no cut of this kind can make, or whose distance is of another kind.
    """
    if data.generated is not None:
        raise ConfigError(
            "run: data.generated has no validation period that folds could cut. Tune on data.corpora, or on a corpus "
            "of generated series (data.corpora: [{synthetic: ...}])."
        )
    cuts = data.cuts
    return _by_dates(cuts, config) if isinstance(cuts, DateCuts) else _by_steps(cuts, config)


def _by_steps(cuts: StepCuts, config: FoldsConfig) -> list[Fold]:
    every = cuts.validation if config.every is None else config.every
    if not isinstance(every, int) or isinstance(every, bool):
        raise ConfigError(f"folds.every: {every!r} is a span, and this run is cut by steps. Give a number of steps.")
    _check_block(cuts.validation, every, f"{every:,} steps", f"{cuts.validation:,} steps", config)
    found = []
    for number in range(config.count):
        test = cuts.test + number * every
        changes = () if not number else (("data.validation_steps", cuts.validation), ("data.test_steps", test))
        found.append(Fold(number, changes, f"the {cuts.validation:,} steps before the newest {test:,} of each series"))
    return found


def _by_dates(cuts: DateCuts, config: FoldsConfig) -> list[Fold]:
    if cuts.validation_from is None:
        raise ConfigError(
            f"run: data.test_from {cuts.test_from} alone leaves no validation part to choose by. Give "
            "data.validation_from in `set`."
        )
    if cuts.by_library or cuts.test_from is None:
        if config.count == 1:
            return [Fold(0, (), f"from {cuts.validation_from} on" if cuts.test_from is None else "the library's own")]
        why = "library: each series has dates of its own, which cannot step back together"
        why = why if cuts.by_library else "not given, so the validation part has no end from which blocks step back"
        raise ConfigError(
            f"folds.count: {config.count}, and data.test_from is {why}. Give data.validation_from and data.test_from "
            "as dates in `set`, or folds.count: 1."
        )
    return _dated(cuts.validation_from, cuts.test_from, cuts.embargo, config)


def _dated(validation_from: str, test_from: str, embargo: str | None, config: FoldsConfig) -> list[Fold]:
    block, every = date_micros(test_from) - date_micros(validation_from), _distance(config)
    distance = block if every is None else every
    _check_block(block, distance, str(config.every), f"{validation_from} to {test_from}", config)
    found = []
    for number in range(config.count):
        dates = {"validation_from": validation_from, "test_from": test_from}
        try:
            moved = {name: _earlier(text, number * distance) for name, text in dates.items()}
        except ValueError as error:
            raise ConfigError(f"folds.count: fold {number} would lie before the year 1 ({error}).") from None
        changes = tuple((f"data.{name}", text) for name, text in moved.items()) if number else ()
        less = "" if embargo is None else f" less {embargo}"
        found.append(Fold(number, changes, f"from {moved['validation_from']} to {moved['test_from']}{less}"))
    return found


def _distance(config: FoldsConfig) -> int | None:
    """Return the distance of blocks in microseconds, None if it is not given."""
    if config.every is None:
        return None
    try:
        text = span_text(config.every)
    except ValueError as error:
        raise ConfigError(f"folds.every: {config.every!r} {error}; dates cut this run.") from None
    return span_micros(text)


def _check_block(block: int, every: int, asked: str, length: str, config: FoldsConfig) -> None:
    """Raise ConfigError for no block, and for blocks that overlap: a date would count twice."""
    if block < 1:
        raise ConfigError("run: data.validation_steps 0 leaves no validation part to choose by. Give it more in `set`.")
    if config.count > 1 and every < block:
        raise ConfigError(
            f"folds.every: {asked} is shorter than a block ({length}), so blocks would overlap and days count twice. "
            "Leave it out, or give more."
        )


def _earlier(text: str, micros: int) -> str:
    """Return a date of a config moved back; ValueError before the year 1."""
    moved, zone = date_micros(text) - micros, "+00:00" if text.endswith("+00:00") else ""
    if moved < date_micros("0001-01-01"):
        raise ValueError(text)
    plain = micros_text(moved)
    return date_text(plain + ("T00:00:00" if zone and "T" not in plain else "") + zone)


def check_folds(folds: Sequence[Fold], configs: Sequence[RunConfig], corpora: Sequence[Corpus]) -> list[str]:
    """Return a line on each fold.

    configs: that of each fold. Raises ConfigError for a fold without a training window, or without one to score.
    """
    lines = []
    for fold, own in zip(folds, configs, strict=True):
        try:
            source = TrainingSource(own.data, own.seed, list(corpora))
            origins = _origins(own.evaluation, own.data, source, own.seed)
        except (DataError, ConfigError) as error:
            raise ConfigError(
                f"folds: fold {fold.number} ({fold.words}) has too little history: {str(error).rstrip('.')}. Use "
                "fewer folds, a shorter folds.every, or a shorter context."
            ) from None
        lines.append(
            f"fold {fold.number}: {fold.words}; trained on {source.num_series:,} series before it, "
            f"{counted(origins, 'forecast origin')}"
        )
    return lines


def _origins(evaluation: EvaluationConfig, data: DataConfig, source: TrainingSource, seed: int) -> int:
    """Return the most forecast origins that an item has in a validation part."""
    panel = validation_panel(evaluation, data, source.corpora, source.selections, seed)
    counts: dict[tuple[int, int], int] = {}
    for ref in panel.refs:
        counts[ref.corpus, ref.series] = counts.get((ref.corpus, ref.series), 0) + 1
    return max(counts.values())
