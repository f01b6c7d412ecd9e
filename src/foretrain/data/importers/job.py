"""What the steps of one import share: options, the spool, findings and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foretrain.data.findings import Findings
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.report import ImportReport
from foretrain.data.importers.spool import Spool
from foretrain.data.store import Corpus

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ImportJob:
    """One import into the corpus folder `out`. name: what messages call it; old: the corpus to update, if any."""

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
