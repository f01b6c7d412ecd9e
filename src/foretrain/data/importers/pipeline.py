"""The steps of an import, in order: read, clean each item once, choose the time axis, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretrain.data.exclusive import exclusive
from foretrain.data.findings import Findings
from foretrain.data.importers.axis import choose_axis
from foretrain.data.importers.cleaning import Cleaned, clean_items
from foretrain.data.importers.job import CutRule, ImportJob, Progress
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.reading import read_files
from foretrain.data.importers.report import ImportReport
from foretrain.data.importers.spool import Spool
from foretrain.data.importers.update import load_old
from foretrain.data.importers.writing import write_corpus
from foretrain.data.rules import UPDATE_RULES
from foretrain.errors import DataError


def import_corpus(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    update: bool = False,
    provenance: str = "real",
    progress: Progress | None = None,
    command: str | None = None,
    name: str | None = None,
    cut: CutRule | None = None,
    calendars: Mapping[str, str | None] | None = None,
    **options: Any,
) -> ImportReport:
    """Import files or folders into the corpus folder `out`; options are the fields of ImportOptions.

    With update, new bars and items are appended to an existing corpus. provenance is "real" or "synthetic". progress is
    called with (done, total, text). name is what messages call the import, the folder if it is None. cut says where the
    parts of each new item begin, of a corpus whose items have parts of their own. calendars: item -> the calendar of
    its exchange, None for none, in the place of the option for all. Raises DataError naming the file and
    a remedy; `out` is then unchanged.
    """
    settings, out = ImportOptions.of(**options), Path(out)
    check_target(out, update, provenance, settings)
    findings, report = Findings(settings.on_bad, settings.duplicates), ImportReport(out, on_bad=settings.on_bad)
    try:
        with exclusive(out) as folder, Spool(folder) as spool:
            old = load_old(folder, spool, provenance) if update else None
            title, progress = name or str(out), progress or _silent
            job = ImportJob(
                settings, folder, title, spool, findings, report, progress, old, provenance, command, cut,
                calendars or {},
            )  # fmt: skip
            _run([Path(path) for path in paths], job)
    except OSError as error:
        place = str(out) if name is None else f"{name}: the scratch folder {out.parent}"
        raise DataError(f"{place}: cannot be written: {error.strerror or error}. Nothing was changed.") from None
    return report


def _run(paths: Sequence[Path], job: ImportJob) -> None:
    """Run the steps; each takes the result of the one before it."""
    gathered = read_files(paths, job)
    cleaned = clean_items(gathered, job)
    placeable, axis = choose_axis(cleaned, job)
    if job.old is None or _has_new_rows(cleaned, job):
        write_corpus(placeable, axis, job)
    else:
        job.report.changed = False
        _report_old_rows(cleaned, job)


def _report_old_rows(cleaned: Cleaned, job: ImportJob) -> None:
    """Report what the files say of the old corpus' time, if they add nothing. Raises DataError in mode error."""
    for item in cleaned.items:
        job.spool.cleaned(item)[1].only(UPDATE_RULES).count_in(job.findings)
    job.findings.refuse_if_bad(job.name, min_rows=None)
    job.report.rules = job.findings.to_json()


def _silent(done: int, total: int, text: str) -> None:
    """Report no progress."""


def check_target(out: Path, update: bool, provenance: str, options: ImportOptions) -> None:
    """Raise DataError if the corpus folder `out` cannot be created, or with `update` extended, by these options."""
    if provenance not in ("real", "synthetic"):
        raise DataError(f"provenance {provenance!r}: choose real or synthetic.")
    if out.is_file():
        raise DataError(f"{out}: is a file; a corpus is a folder. Choose another --out.")
    if not update and out.exists():
        raise DataError(f"{out}: exists already. Say --update to append new bars to it, or choose another --out.")
    if update and not out.exists():
        raise DataError(f"{out}: no corpus to update. Leave --update out to create it.")
    if update and options.adjust:
        raise DataError("--update with --adjust: every dividend changes all adjusted history; import all files again.")


def _has_new_rows(cleaned: Cleaned, job: ImportJob) -> bool:
    """Return True if the files add a bar or an item to the old corpus."""
    old = job.old
    assert old is not None
    before = {old.item_id(k): old.length(k) for k in range(old.num_series)}
    return any(len(job.spool.times(item)) > before.get(item, 0) for item in cleaned.items)
