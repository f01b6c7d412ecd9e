"""Which items of corpora an evaluation scores: by name, or by what the training of a release used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.items import Mask, entries, match
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.evaluation.overlap import TrainingRecord

TRAINED, UNSEEN = "trained", "unseen"  # in the place of names


class ScoredItems(NamedTuple):
    """Some of the items of corpora."""

    asked: tuple[str, ...]  # as the user named them
    masks: tuple[Mask, ...]  # (N,) of each corpus


def scored_items(asked: Sequence[str], corpora: Sequence[Corpus], release: dict[str, Any] | None) -> ScoredItems:
    """Return the items that are asked for.

    asked: names, patterns, file:PATH and subset:NAME as in a config; or "unseen" alone, the items that neither the
    training and validation of a release nor those of its ancestors used; or "trained" alone, those that its own
    training chose by name (all without data.items and data.holdout_items). release: its release.json.

    Raises ConfigError for names of no item, and where the release does not record what it used of a corpus.
    """
    given = _entries(asked)
    if given not in ((TRAINED,), (UNSEEN,)):
        return ScoredItems(given, tuple(mask for mask, _ in match(corpora, given, "--items")))
    record = TrainingRecord(release or {})
    masks = tuple(_by_record(record, corpus, given[0]) for corpus in corpora)
    if not any(mask.any() for mask in masks):
        names = ", ".join(corpus.name for corpus in corpora)
        raise ConfigError(
            f"--items {given[0]}: training used {'every' if given[0] == UNSEEN else 'no'} item of {names}."
        )
    return ScoredItems(given, masks)


def items_by_name(asked: Sequence[str], corpora: Sequence[Corpus]) -> list[list[int]]:
    """Return the numbers of the items that are asked for, of each corpus, for several models at once.

    asked: names, patterns, file:PATH and subset:NAME. Raises ConfigError for names of no item, for a corpus of which no
    item is named, and for "trained" and "unseen", which are other items for each model.
    """
    given = _entries(asked)
    if given in ((TRAINED,), (UNSEEN,)):
        raise ConfigError(
            f"--items {given[0]}: is what the training of one model used or not. Name items, or score each model with "
            f"`foretrain evaluate MODEL --items {given[0]}`."
        )
    found = [np.flatnonzero(mask).tolist() for mask, _ in match(corpora, given, "--items")]
    lost = next((corpus.name for corpus, items in zip(corpora, found, strict=True) if not items), None)
    if lost is not None:
        raise ConfigError(f"--items: none of the items of {lost} is among them. Leave its --data out.")
    return found


def _entries(asked: Sequence[str]) -> tuple[str, ...]:
    try:
        return entries(list(asked))
    except ValueError as error:
        raise ConfigError(f"--items: {error}.") from None


def _by_record(record: TrainingRecord, corpus: Corpus, which: str) -> Mask:
    """Return the items of a corpus that training used, or did not."""
    extents = record.extents(corpus)
    own = [extent for extent in extents if not extent.rule.by]
    if not (own if which == TRAINED else extents):
        raise ConfigError(
            f"--items {which}: the release records no training on {corpus.name} as it is, so it does not tell which of "
            "its items training used. Name them, or leave --items out to score all."
        )
    if which == TRAINED:
        return np.any([extent.rule.rule.used(corpus) for extent in own], axis=0)
    return np.all([extent.chosen == 0 for extent in extents], axis=0)
