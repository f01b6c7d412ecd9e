"""Did training see the windows that are scored? A score on them would be a copy, not a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foretrain.data.splits import Origin, held_out, train_rows
from foretrain.data.store import Corpus


def check_overlap(
    release: dict[str, Any], corpora: Sequence[Corpus], origins: Sequence[Sequence[Origin]]
) -> str | None:
    """A warning when a release was trained, or chosen, on windows that are to be scored; None when it was not.

    Args:
        release: the contents of release.json: `corpora` with each one's fingerprint, `data` with validation_steps,
            test_steps and holdout_fraction, and `date_range` of everything trained on.
        corpora: what is to be scored.
        origins: forecast origins in each corpus.

    The same corpus (by fingerprint) is compared step by step. Another one, of other or of longer series, can only be
    compared by date: values of the same days may have been seen through it.
    """
    known = {entry.get("fingerprint") for entry in release.get("corpora") or []}
    notes = []
    for corpus, found in zip(corpora, origins, strict=True):
        check = _same if corpus.fingerprint in known else _by_date
        notes.append(check(release, corpus, found))
    return " ".join(note for note in notes if note) or None


def _same(release: dict[str, Any], corpus: Corpus, origins: Sequence[Origin]) -> str | None:
    data = release.get("data") or {}
    series = np.array([origin.series for origin in origins])
    cutoffs = np.array([origin.cutoff for origin in origins])
    length = corpus.lengths[series]
    test = int(data.get("test_steps") or 0)
    seen = cutoffs < train_rows(length, int(data.get("validation_steps") or 0), test)
    seen &= ~held_out(corpus, float(data.get("holdout_fraction") or 0.0))[series]
    if seen.any():
        return (
            f"WINDOWS OVERLAP TRAINING DATA: {int(seen.sum())} of {len(origins)} windows of {corpus.name} begin inside "
            f"what this model was trained on, so it has seen their answers. Train again with data.test_steps of at "
            f"least {int((length - cutoffs).max())}, or score fewer windows."
        )
    chosen = int((cutoffs < length - test).sum())
    if chosen:
        return (
            f"{chosen} of {len(origins)} windows of {corpus.name} lie in the validation part that chose this model's "
            "weights; the score leans to its side."
        )
    return None


def _by_date(release: dict[str, Any], corpus: Corpus, origins: Sequence[Origin]) -> str | None:
    dates = release.get("date_range")
    if not dates or not dates[1] or corpus.manifest.time == "steps":
        return None
    first = min(_time(corpus, origin) for origin in origins)
    last = np.datetime64(str(dates[1]).replace("Z", "").split("+")[0], "us")
    if np.datetime64(first, "us") > last:
        return None
    return (
        f"The model was trained on other data reaching to {dates[1]}; windows of {corpus.name} begin at "
        f"{np.datetime64(first, 'us').astype('datetime64[s]')}. It may have seen the same days through other series."
    )


def _time(corpus: Corpus, origin: Origin) -> int:
    times = corpus.times_slice(origin.series, origin.cutoff - 1, origin.cutoff)
    assert times is not None
    return int(times[0])
