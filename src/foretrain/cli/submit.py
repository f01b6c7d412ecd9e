"""`foretrain benchmark --from RESULTS --submission DIR`: what the suites take, from results that are there."""

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
