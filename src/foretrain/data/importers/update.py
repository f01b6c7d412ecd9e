"""Append to a corpus: old rows are unchanged, newer ones follow (atomic.replace_folder swaps the folders)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from foretrain.data.findings import Findings
from foretrain.data.importers.arrays import corpus_parts
from foretrain.data.importers.spool import OLD, Spool
from foretrain.data.manifest import MANIFEST_NAME
from foretrain.data.quality import ItemRows, MarketColumns, order_rows
from foretrain.data.store import Corpus
from foretrain.data.verification import verify_folder
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.timeaxis.grid import iso


def load_old(out: Path, spool: Spool, provenance: str) -> Corpus:
    """Open the corpus to update and store its rows in the spool. DataError if it cannot be appended to."""
    corpus = Corpus.open(out)
    if (out / MANIFEST_NAME).is_file():
        verify_folder(out)  # its rows are written anew, with new hashes, which would hide damage for ever
    manifest = corpus.manifest
    if manifest.provenance["kind"] != provenance:
        raise DataError(
            f"{out}: its data are {manifest.provenance['kind']}, the new ones {provenance}; they are not mixed. "
            f"Say --provenance {manifest.provenance['kind']} if that is what they are."
        )
    if manifest.time == "steps":
        raise DataError(f"{out}: has no calendar, so new rows cannot be identified. Import all files again.")
    if manifest.adjusted:
        raise DataError(
            f"{out}: its prices are adjusted, and every dividend changes all of them. Import all files again."
        )
    spool.categories.keep(column.name for column in manifest.columns if column.categories is not None)
    for part in corpus_parts(corpus):
        spool.add(part, OLD, str(out))
    return corpus


def merge(old: ItemRows | None, new: ItemRows | None, layout: MarketColumns, findings: Findings) -> ItemRows | None:
    """Return the old rows and the new rows after the last of them.

    Changed values of old stamps count as `revised`, rows between or before the old ones as `older_rows`.
    """
    if old is None or new is None or not len(old):
        return new if old is None else old
    new = order_rows(new, findings, layout)
    assert old.times is not None and new.times is not None
    lost = findings.lost
    lost.stamps = lost.stamps[lost.stamps > old.times[-1]]  # older rows are not taken from the files
    _, at_old, at_new = np.intersect1d(old.times, new.times, return_indices=True)
    before, after = old.values[:, at_old], new.values[:, at_new]
    changed = ~np.isclose(before, after, rtol=1e-6, atol=0, equal_nan=True) & ~np.isnan(after) & ~np.isinf(after)
    hit = changed.any(axis=0)
    if hit.any():
        first = int(hit.argmax())
        column = int(changed[:, first].argmax())
        detail = (
            f"{layout.names[column]} {before[column, first]:.6g} in the corpus, {after[column, first]:.6g} in the file"
        )
        findings.add("revised", int(hit.sum()), new.example(int(at_new[first]), detail))
    known = np.zeros(len(new), bool)
    known[at_new] = True
    older = ~known & (new.times != NO_TIME) & (new.times < old.times[-1]) & ~np.isnan(new.values).all(axis=0)
    if older.any():
        detail = f"the corpus ends {iso(int(old.times[-1]))}"
        findings.add("older_rows", int(older.sum()), new.example(int(older.argmax()), detail))
    later = new.take(new.times > old.times[-1])
    assert later.times is not None
    return replace(
        old,
        values=np.concatenate([old.values, later.values], axis=1),
        times=np.concatenate([old.times, later.times]),
        lines=np.concatenate([old.lines, later.lines]),
        file=later.file,
    )
