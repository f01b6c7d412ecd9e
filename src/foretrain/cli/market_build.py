"""`foretrain data market build`. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foretrain.cli.options import prepare, require_single_process
from foretrain.errors import ConfigError


def market_build(
    folder: Annotated[
        Path, typer.Argument(help="A folder with a file for each symbol, or train/ and test/ with them.")
    ],
    reading: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="The folder of the library.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Add new rows and symbols to a library.")] = False,
    unseen: Annotated[
        str | None,
        typer.Option(metavar="N|A,B", help="Symbols that no training may see: how many of each class, or which."),
    ] = None,
    test_from: Annotated[
        str | None, typer.Option(metavar="DATE", help="Where the test part of symbols without one begins.")
    ] = None,
    test_rows: Annotated[
        int | None, typer.Option(min=0, help="Its newest rows instead, at most a quarter (default: 30).")
    ] = None,
    validation_rows: Annotated[
        int | None, typer.Option(min=0, help="The rows before it, at most a quarter (default: 30).")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Facts of symbols (default: asset_metadata.json of the folder).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw of --unseen N (default: 0).")] = None,
) -> None:
    """Build a library of market symbols: corpora by frequency, unseen symbols apart, summary and metadata.

    Symbols whose files contradict each other go to quarantine, with the reason; the others are built.
    """
    require_single_process("data market build")
    if out is None:
        raise ConfigError("data market build: give --out, the folder of the library.")
    if test_from is not None and test_rows is not None:
        raise ConfigError(
            "data market build: --test-from and --test-rows both say where the test part begins; give one."
        )
    fixed = {"--unseen": unseen, "--test-from": test_from, "--test-rows": test_rows,
             "--validation-rows": validation_rows, "--seed": seed}  # fmt: skip
    given = [flag for flag, value in fixed.items() if value is not None]
    if update and given:
        raise ConfigError(
            f"data market build --update: {given[0]} was decided when the library was built; leave it out."
        )
    prepare(None)
    from foretrain.cli.commands import command_line, progress_bar
    from foretrain.data.importers import ImportOptions
    from foretrain.data.market import library
    from foretrain.data.market.record import Cuts

    options = ImportOptions.of(**reading)
    with progress_bar("building") as advance:
        settings: dict[str, Any] = {
            "options": options, "metadata": metadata, "command": command_line(), "progress": advance
        }  # fmt: skip
        if update:
            report = library.update(folder, out, **settings)
        else:
            rows = {"test_rows": test_rows, "validation_rows": validation_rows}
            cuts = Cuts(
                **{key: value for key, value in rows.items() if value is not None},
                test_from=None if test_from is None else _micros(test_from),
            )
            report = library.build(folder, out, held_out=unseen, cuts=cuts, seed=seed or 0, **settings)
    print(report.text(_horizons()))


def _horizons() -> dict[str, int]:
    """Return the steps that shipped configs of all families forecast: their names -> prediction_length."""
    from foretrain.config import read_yaml
    from foretrain.run.shipped import shipped_config, shipped_names

    names = [name for name in shipped_names() if name.startswith("market/library-")]
    by_steps: dict[int, list[str]] = {}
    for name in (*names, "kronos/stock", "chronos2/finetune", "toto/finetune", "toto2/finetune"):
        by_steps.setdefault(read_yaml(shipped_config(name))["data"]["prediction_length"], []).append(name)
    return {", ".join(named): steps for steps, named in sorted(by_steps.items())}


def _micros(text: str) -> int:
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--test-from {text}: no date. Write it as 2024-01-31.") from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return int(found.timestamp()) * 10**6
