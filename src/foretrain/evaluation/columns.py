"""Default choice of the scored columns and of the covariates, if the caller or the config does not name them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from foretrain.data.splits import Selection, select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean
from foretrain.models.base import Family
from foretrain.notes import Code, Note, warn

_log = logging.getLogger(__name__)


def scored_columns(wanted: Sequence[str] | None, targets: Sequence[str], family: Family | None) -> tuple[str, ...]:
    """Return the targets that a run's validation scores: those wanted, else those that its family scores, else all.

    Raises ConfigError if a wanted column is not a target.
    """
    if wanted is None:
        choice = family.columns(targets) if family is not None else None
        return tuple(name for name in choice.scored if name in targets) if choice is not None else tuple(targets)
    for name in wanted:
        if name not in targets:
            hint = did_you_mean(name, targets, f"Targets here: {', '.join(targets)}.", cutoff=0.5)
            raise ConfigError(f"evaluation.target: {name!r} is not among the targets of this run. {hint}")
    if not wanted:
        raise ConfigError("evaluation.target: names no column. Leave it out, or set evaluation.forecasts to false.")
    return tuple(dict.fromkeys(wanted))


def validation_columns(
    corpus: Corpus, trained: Selection, wanted: Sequence[str] | None, family: Family | None
) -> Selection:
    """Return the columns of a validation's forecasts; targets that are not scored become the first past covariates."""
    names = {corpus.columns[k]: k for k in trained.targets}
    targets = tuple(names[name] for name in scored_columns(wanted, tuple(names), family))
    others = tuple(k for k in trained.targets if k not in targets)
    return Selection(targets, others + trained.past, trained.known)


def evaluation_columns(
    corpus: Corpus,
    family: Family,
    trained: Mapping[str, Any],
    *,
    target: Sequence[str] | None = None,
    past_covariates: Sequence[str] | None = None,
    known_covariates: Sequence[str] | None = None,
) -> Selection:
    """Return the columns of an evaluation.

    Args:
        corpus: the corpus to score.
        family: the model's family, which may choose columns.
        trained: the columns of training (`data` of release.json); {} if unknown.
        target: None takes the columns scored while training, else those trained on, else those that the family scores,
            else every numeric column.
        past_covariates: None takes those of training, and for a family that chooses columns also the targets of
            training (or the family's) that are not scored now, if the corpus has them.
        known_covariates: None takes those of training.

    Raises ConfigError as data.splits.select does, DataError if the family cannot use the corpus.
    """
    numeric = [column.name for column in corpus.manifest.columns if column.kind == "numeric"]
    choice = family.columns_of(numeric, corpus.name)
    known = list((trained.get("known_covariates") if known_covariates is None else known_covariates) or ())
    given = target is not None
    if target is None:
        target = trained.get("scored") or trained.get("target") or (choice.scored if choice else None)
    past = list((trained.get("past_covariates") if past_covariates is None else past_covariates) or ())
    lacking: list[str] = []
    if past_covariates is None and target is not None and (choice is not None or not given):
        pool = trained.get("target") or (choice.targets if choice else numeric)
        lacking = [name for name in pool if name not in {*numeric, *target}] if choice is not None else []
        if choice is not None and lacking:  # candles work without a volume
            pool = [name for name in pool if name in numeric]
            pool = pool if family.columns(pool) else choice.targets
        past += [name for name in pool if name not in {*target, *past, *known}]
    found = select(corpus, target, past, known)
    if lacking:
        text = f"{corpus.name} has no {', '.join(lacking)}, which the model was trained with; it forecasts without."
        warn(_log, Note(Code.COLUMNS_UNLIKE_TRAINING, text, {"columns": len(lacking)}))
    return found
