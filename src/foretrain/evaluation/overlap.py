"""Check whether training saw the windows that are scored: a score on them would measure memory, not forecasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foretrain.data.splits import Origin, held_out, train_rows
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray
from foretrain.notes import Code, Note

# Notes about training; reports print those of all corpora first, in one paragraph.
ABOUT_TRAINING = (
    Code.TRAINING_SAW_WINDOWS,
    Code.VALIDATION_SAW_WINDOWS,
    Code.TRAINING_UNKNOWN,
    Code.TRAINING_SAW_DAYS,
    Code.TRAINING_MAY_HAVE_SEEN_DAYS,
    Code.TRAINING_CANNOT_BE_COMPARED,
)
_SAMPLE = 5_000  # series and windows whose dates are compared; more would take seconds and change nothing


def check_overlap(
    release: dict[str, Any], corpora: Sequence[Corpus], origins: Sequence[Sequence[Origin]]
) -> list[Note]:
    """Return a warning for each corpus that a release was, or may have been, trained or selected on.

    At most one per corpus. Those with Code.TRAINING_SAW_WINDOWS come first: training certainly saw scored windows.

    Args:
        release: the contents of release.json: `corpora` with each one's fingerprint, `data` with validation_steps,
            test_steps and holdout_fraction, and `date_range` of everything trained on; {} if nothing is recorded.
        corpora: the corpora to score.
        origins: forecast origins in each corpus.

    The same corpus (by fingerprint) is compared step by step, and by date across its items. Any other corpus can only
    be compared by date: training may have seen the same days through other or longer series.
    """
    known = fingerprints(release)
    if not known:
        text = "The release does not record what this model was trained on, so it may have seen these series before."
        return [Note(Code.TRAINING_UNKNOWN, text)]
    notes = list[Note]()
    for corpus, found in zip(corpora, origins, strict=True):
        check = _same if corpus.fingerprint in known else _by_date
        note = check(release, corpus, found)
        notes += [] if note is None else [note]
    return sorted(notes, key=lambda note: note.code != Code.TRAINING_SAW_WINDOWS)


def fingerprints(release: dict[str, Any]) -> set[str]:
    """Return the fingerprints of the corpora that a release was trained on."""
    return {entry["fingerprint"] for entry in release.get("corpora") or [] if entry.get("fingerprint")}


def reserved_steps(release: dict[str, Any] | None, corpus: Corpus) -> dict[str, int]:
    """Return {"validation": steps, "test": steps} that training held out of this corpus; {} for any other corpus."""
    if not release or corpus.fingerprint not in fingerprints(release):
        return {}
    data = release.get("data") or {}
    return {split: int(data.get(f"{split}_steps") or 0) for split in ("validation", "test")}


def _same(release: dict[str, Any], corpus: Corpus, origins: Sequence[Origin]) -> Note | None:
    steps = reserved_steps(release, corpus)
    series = np.array([origin.series for origin in origins])
    cutoffs = np.array([origin.cutoff for origin in origins])
    length = corpus.lengths[series]
    out = held_out(corpus, float((release.get("data") or {}).get("holdout_fraction") or 0.0))
    trained = np.where(out, 0, train_rows(corpus.lengths, steps["validation"], steps["test"]))
    seen = int((cutoffs < trained[series]).sum())
    if seen:
        needed = int((length - cutoffs).max())
        text = (
            f"WINDOWS OVERLAP TRAINING DATA: {seen} of {len(origins)} windows of {corpus.name} start inside the "
            f"data that this model was trained on, so it has seen their truth. Train again with data.test_steps of at "
            f"least {needed}, or score fewer windows."
        )
        counts = {"windows": seen, "scored": len(origins), "test_steps_needed": needed}
        return Note(Code.TRAINING_SAW_WINDOWS, text, counts)
    chosen = int((cutoffs < length - steps["test"]).sum())
    if chosen:
        text = (
            f"{chosen} of {len(origins)} windows of {corpus.name} are in the validation part that chose this model's "
            "weights, so the score is biased in its favour."
        )
        return Note(Code.VALIDATION_SAW_WINDOWS, text, {"windows": chosen, "scored": len(origins)})
    return _same_days(corpus, origins, trained)


def _same_days(corpus: Corpus, origins: Sequence[Origin], trained: IntArray) -> Note | None:
    """Return a note if training saw, in other items, the days of scored windows.

    Splits count steps from each item's own end. If items end at different times, the training part of one item covers
    days of another's test part, and training saw what moved all items on these days.
    """
    items = np.flatnonzero(trained)
    if corpus.manifest.time == "steps" or not len(items):
        return None
    newest = max(_time(corpus, int(i), int(trained[i]) - 1) for i in items[:: -(-len(items) // _SAMPLE)])
    sample = origins[:: -(-len(origins) // _SAMPLE)]
    share = float(np.mean([_time(corpus, *origin) <= newest for origin in sample]))
    if share < 0.01:
        return None
    text = (
        f"About {share:.0%} of the windows of {corpus.name} start on days that training saw in other items, because "
        f"items end at different times (training reached {_text(newest)}). The model knows what moved all items then."
    )
    return Note(Code.TRAINING_SAW_DAYS, text, {"share": share})


def _by_date(release: dict[str, Any], corpus: Corpus, origins: Sequence[Origin]) -> Note | None:
    dates = release.get("date_range")
    if not dates or not dates[1] or corpus.manifest.time == "steps":
        text = (
            f"{corpus.name} is not the corpus that this model was trained on, and without dates on both it is unknown "
            "whether training saw the same values."
        )
        return Note(Code.TRAINING_CANNOT_BE_COMPARED, text)
    first = min(_time(corpus, *origin) for origin in origins)
    last = np.datetime64(str(dates[1]).replace("Z", "").split("+")[0], "us")
    if np.datetime64(first, "us") > last:
        return None
    text = (
        f"The model was trained on other data up to {last.astype('datetime64[s]')}; windows of {corpus.name} start at "
        f"{_text(first)}. It may have seen the same or later days through other series."
    )
    return Note(Code.TRAINING_MAY_HAVE_SEEN_DAYS, text)


def _time(corpus: Corpus, series: int, step: int) -> int:
    times = corpus.times_slice(series, step, step + 1)
    assert times is not None
    return int(times[0])


def _text(microseconds: int) -> str:
    return str(np.datetime64(microseconds, "us").astype("datetime64[s]"))
