"""Default choice of the scored columns and of the covariates, if the caller or the config does not name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from foretrain.data.splits import Selection, select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.forecasting.record import (
    category_note,
    listed,
    records_columns,
    trained_categories,
    trained_columns,
)
from foretrain.hints import did_you_mean
from foretrain.models.base import Family
from foretrain.notes import Code, Note


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
    """Return the columns of an evaluation, and notes on recorded covariates that the corpus lacks or has otherwise.

    Arguments are those of forecasting.record.trained_columns, by which a forecast chooses its columns too. If no
    columns of training are known, and the family does not choose any, covariates are those that the corpus' manifest
    calls so. Raises ConfigError as trained_columns and data.splits.select do, DataError if the family cannot use the
    corpus.
    """
    manifest = corpus.manifest
    numeric = list(manifest.default_targets)
    choice = family.columns_of(numeric, corpus.name)
    unrecorded = choice is None and not records_columns(trained)
    if unrecorded:
        marked = {"past_covariates": manifest.past_covariates, "known_covariates": manifest.known_covariates}
        free = {key: [name for name in names if name not in (target or ())] for key, names in marked.items()}
        trained = {**free, **trained}
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
    order = trained_categories(trained, corpus.columns)
    notes = found.notes(corpus.name)
    unused = [name for k, name in enumerate(corpus.columns) if k not in selection.columns]
    if unrecorded and past_covariates is None and unused:
        text = (
            f"{corpus.name}: the release records no columns, so {listed(unused)} are not used here; a forecast uses "
            "every column beside its target as a covariate. Name the same ones in both: --past-covariates."
        )
        notes.append(Note(Code.COLUMNS_LEFT_OUT, text, {"columns": len(unused)}))
    if order is not None and len(selection.targets) > 1:  # windows of one target hold no codes
        for column in (manifest.columns[k] for k in (*selection.past, *selection.known)):
            trained_on = order.get(column.name)
            unseen = [name for name in column.categories or () if trained_on is not None and name not in trained_on]
            note = category_note(column.name, column.categories, unseen, trained_on)
            notes += [] if note is None else [note]
    return replace(selection, categories=tuple((order or {}).items())), notes
