"""What the steps of one import share: options, the spool, findings and the report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foretrain.data.cuts import OwnCuts
from foretrain.data.findings import Findings
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.report import ImportReport
from foretrain.data.importers.spool import Spool
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray

Progress = Callable[[int, int, str], None]
CutRule = Callable[[str, IntArray], OwnCuts]  # of an item and its (T,) stamps: where its parts begin


@dataclass(frozen=True)
class ImportJob:
    """One import into the corpus folder `out`. name: what messages call it; old: the corpus to update, if any; cut:
    where the parts of new items begin, if items have parts of their own; calendars: item -> that of its exchange or
    None, of items for which the option for all does not hold."""

    options: ImportOptions
    out: Path
    name: str
    spool: Spool
    findings: Findings
    report: ImportReport
    progress: Progress
    old: Corpus | None
    provenance: str
    command: str | None
    cut: CutRule | None = None
    calendars: Mapping[str, str | None] = field(default_factory=dict)

    @functools.cached_property
    def stored(self) -> frozenset[str]:
        """Items of the corpus to update. They and their rows stay, whatever a rule says of them."""
        return frozenset() if self.old is None else frozenset(self.old.item_ids())
