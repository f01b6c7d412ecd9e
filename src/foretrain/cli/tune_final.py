"""What `foretrain tune report STUDY --final` does. Imports neither torch, pandas, numpy nor Optuna at the top."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from foretrain.cli.options import prepare, require_single_process

if TYPE_CHECKING:
    from foretrain.tuning.study import StudyFolder


def report_final(study: StudyFolder, trial: int | None, as_json: bool) -> None:
    """Open the test part of a study and print its final table, or all figures as JSON.

    trial: the winner; None = that of the only objective. Raises ConfigError without a winner or a test part.
    """
    require_single_process("tune report --final")
    prepare(None)
    from foretrain.cli.commands import command_line
    from foretrain.tuning.final import final_table
    from foretrain.tuning.final_text import final_lines
    from foretrain.tuning.study import chosen

    winner = chosen(study, trial)
    with final_table(study, winner, command=command_line(), say=lambda text: typer.echo(text, err=True)) as found:
        for line in [json.dumps(found, indent=1)] if as_json else final_lines(found):
            typer.echo(line)
