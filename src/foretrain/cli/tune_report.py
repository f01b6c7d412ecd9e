"""`foretrain tune report`. Imports neither torch, pandas, numpy nor Optuna at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foretrain.errors import ConfigError


def tune_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study (output_dir).")],
    final: Annotated[bool, typer.Option("--final", help="Open the test part, and compare on it.")] = False,
    trial: Annotated[int | None, typer.Option(min=0, help="Of this trial (default: the best).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compare the winner with the run as it stands, zero-shot and naive on the test part, which counts as opened."""
    from foretrain.cli.tune_final import report_final
    from foretrain.tuning.study import open_study

    if not final:
        raise ConfigError("tune report: give --final.")
    report_final(open_study(folder), trial, as_json)
