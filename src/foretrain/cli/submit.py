"""`foretrain benchmark --from RESULTS`: what the suites take, or figures beside published ones, from results there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer


def submit(results: Path, out: Path, suites: Sequence[str]) -> None:
    """Write the submissions of results and print the files. Raises DataError for results that are not whole."""
    from foretrain.suites.submissions import read_results, write_submissions

    for path in write_submissions(read_results(results, suites), out):
        hint = "   (fill in its empty fields)" if path.name == "config.json" else ""
        typer.echo(f"{path}{hint}")


def report_beside(results: Path, out: Path, suites: Sequence[str]) -> None:
    """Put results beside published figures: print the tables, write the report and name its files. Raises DataError."""
    from foretrain.suites.beside import beside, table_of, write_report
    from foretrain.suites.results import as_result
    from foretrain.suites.submissions import read_results

    found = beside([as_result(one) for one in read_results(results, suites)])
    files = write_report(found, out)
    for one in found:
        for line in table_of(one).text():
            typer.echo(line)
        typer.echo("")
    for path in files:
        typer.echo(str(path))
