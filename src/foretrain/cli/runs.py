"""`foretrain runs`: what the files of runs tell. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from foretrain.cli.options import require_single_process
from foretrain.errors import DataError

runs_app = typer.Typer(help="Look at runs.", no_args_is_help=True)


@runs_app.callback()
def _group() -> None:
    """Look at runs."""


@runs_app.command("health")
def runs_health(
    run: Annotated[Path, typer.Argument(help="A run folder, or that of a pipeline with stages.")],
    step: Annotated[int | None, typer.Option(min=1, help="As of this step (default: the newest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print the report on a run's health from its metrics.jsonl: loss, gradients, speed, data, scores."""
    require_single_process("runs health")
    from foretrain.training.health import health, render
    from foretrain.training.journal import read_journal

    files = [folder / "metrics.jsonl" for folder in _with_journal(run)]
    found = {file.parent: health(read_journal(file), step, of=str(file)) for file in files}
    if as_json:
        tree = {str(folder): report for folder, report in found.items()}
        typer.echo(json.dumps(tree[str(run)] if run in found else tree, indent=1))
        return
    for folder, report in found.items():
        if folder != run:
            typer.echo(f"{folder}:")
        typer.echo(render(report))


def _with_journal(run: Path) -> list[Path]:
    """Return the folders with a metrics.jsonl: the run's, or those of its stages. Raises DataError without one."""
    folders = [run, *sorted((run / "stages").glob("*"))]
    found = [folder for folder in folders if (folder / "metrics.jsonl").is_file()]
    if not found:
        what = "no such folder" if not run.is_dir() else "holds no metrics.jsonl, so no run has trained there"
        raise DataError(f"{run}: {what}. Name the output_dir of a run.")
    return found[:1] if found[0] == run else found
