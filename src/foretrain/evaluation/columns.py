"""Default choice of the scored columns and of the covariates, if the caller or the config does not name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from foretrain.data.splits import Selection, select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.forecasting.record import trained_columns
from foretrain.hints import did_you_mean
from foretrain.models.base import Family
from foretrain.notes import Note


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
) -> tuple[Selection, list[Note]]:
    """Return the columns of an evaluation, and a note on recorded covariates that the corpus lacks.

    Arguments are those of forecasting.record.trained_columns, by which a forecast chooses its columns too. If nothing
    of training is known, and the family does not choose columns, covariates are those that the corpus' manifest calls
    so. Raises ConfigError as trained_columns and data.splits.select do, DataError if the family cannot use the corpus.
    """
    manifest = corpus.manifest
    numeric = list(manifest.default_targets)
    choice = family.columns_of(numeric, corpus.name)
    if not trained and choice is None:
        marked = {"past_covariates": manifest.past_covariates, "known_covariates": manifest.known_covariates}
        trained = {key: [name for name in names if name not in (target or ())] for key, names in marked.items()}
    found = trained_columns(
        corpus.columns,
        numeric,
        family,
        choice,
        trained,
        target=target,
        past_covariates=past_covariates,
        known_covariates=known_covariates,
        source=corpus.name,
    )
    selection = select(corpus, found.targets, found.past, found.known)
    categories = tuple((name, tuple(order)) for name, order in (trained.get("categories") or {}).items())
    return replace(selection, categories=categories), found.notes(corpus.name)
