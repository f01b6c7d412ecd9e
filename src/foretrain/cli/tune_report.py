"""`foretrain tune report`, `lr-range` and `probe`. Imports neither torch, pandas, numpy nor Optuna."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretrain.cli.options import require_single_process
from foretrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from foretrain.tuning.records import TrialRecord
    from foretrain.tuning.study import StudyFolder

PAGE = "report.html"


def tune_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study (output_dir).")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of the pictures (default: report in the folder of the study)."),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help=f"Write {PAGE} too, a page that stands alone, with the pictures inside.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for programs; draws only with --out or --html.")
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Open the test part: the winner beside the default, naive and zero-shot.")
    ] = False,
    trial: Annotated[
        int | None, typer.Option(min=0, help="The edge, or the final table, of this trial (default: of the best).")
    ] = None,
) -> None:
    """Report on a study: history, which keys mattered, the best beside the default, their edge with the choice counted.

    Draws history, importance, candidates, slices, Pareto front and learning curves, and writes
    full_optimization_results.json into the folder of the study.
    """
    require_single_process("tune report")
    from foretrain.tuning.study import open_study

    study = open_study(folder)
    if final:
        if out is not None or html:
            raise ConfigError("--final: opens the test part and draws nothing. Leave --out and --html out.")
        from foretrain.cli.tune_final import report_final

        report_final(study, trial, as_json)
        return
    from foretrain.tuning.report import study_facts, study_lines

    records = study.records()
    facts = study_facts(study, records, trial)
    written = list[str]()
    if not as_json or out is not None or html:
        written = _write(study, records, facts, out or study.path / "report", html)
    if as_json:
        typer.echo(json.dumps(facts, indent=1, allow_nan=False))
        return
    for line in study_lines(facts):
        typer.echo(line)
    typer.echo("")
    for line in written:
        typer.echo(line)


def _write(study: StudyFolder, records: list[TrialRecord], facts: dict[str, Any], out: Path, html: bool) -> list[str]:
    """Write pictures, page and results; return lines that say where. Raises DataError."""
    from foretrain.forecasting.outputs import scratch_files
    from foretrain.tuning.report_page import study_page
    from foretrain.tuning.report_pictures import PICTURES, pictures
    from foretrain.tuning.results import RESULTS, write_results

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file. Name a folder for the pictures.")
    drawn = pictures(study, records, facts)
    files: dict[Path, bytes] = {out / f"{name}.png": data for name, data in drawn.items()}
    if html:
        files[out / PAGE] = study_page(facts, drawn).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be made ({error.strerror or error}). Name another folder.") from None
    with scratch_files(*files) as scratch:
        for path, data in files.items():
            scratch[path].write_bytes(data)
    for name in PICTURES:  # of an earlier report, which would be taken for this one's
        if name not in drawn:
            (out / f"{name}.png").unlink(missing_ok=True)
    lines = [f"wrote {out}: {', '.join(path.name for path in files)}" if files else "no picture: no trial has a value"]
    try:
        lines.append(f"wrote {write_results(study, records, facts)}")
    except OSError as error:  # a study that may be read alone
        lines.append(f"{study.path / RESULTS}: cannot be written ({error.strerror or error})")
    return lines
