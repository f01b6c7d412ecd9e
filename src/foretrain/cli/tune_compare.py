"""`foretrain tune` of several studies side by side. Imports neither torch, pandas, numpy nor Optuna."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foretrain.errors import ConfigError

if TYPE_CHECKING:
    from foretrain.tuning.compare import CompareConfig
    from foretrain.tuning.config import TuneConfig

Check = Callable[["TuneConfig"], None]
Run = Callable[["TuneConfig", bool], None]


def names_comparison(path: Path) -> bool:
    """Whether a config is one of a comparison: it has `studies`."""
    from foretrain.config import read_yaml

    return "studies" in read_yaml(path)


def holds_comparison(folder: Path) -> bool:
    """Whether a folder is one of a comparison."""
    from foretrain.tuning.study import COMPARE

    return (folder / COMPARE).is_file()


def search_comparison(
    path: Path, overrides: list[str | tuple[str, Any]], resume: bool, dry_run: bool, check: Check, run: Run
) -> None:
    """Search the studies of a config one after the other, and print their table.

    check: refuses a study that cannot run, and describes it. run: searches one, going on if the flag says so.
    """
    from foretrain.tuning.compare import load_comparison

    _search(load_comparison(path, overrides), resume, dry_run, check, run)


def resume_comparison(folder: Path, shared: list[tuple[str, Any]], check: Check, run: Run) -> None:
    """Go on with a comparison; shared: keys of all its studies that change."""
    from foretrain.tuning.compare import open_comparison

    config = open_comparison(folder)
    _search(config.model_copy(update={"shared": {**config.shared, **dict(shared)}}), True, False, check, run)


def show_comparison(folder: Path, as_json: bool) -> None:
    """Print the table of a comparison."""
    from foretrain.tuning.compare import compare_studies, comparison_lines

    found = compare_studies(folder)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    for line in comparison_lines(found):
        typer.echo(line)


def _search(config: CompareConfig, resume: bool, dry_run: bool, check: Check, run: Run) -> None:
    from foretrain.tuning.compare import check_windows, create_comparison, studies_of

    studies = studies_of(config)
    for name, study in studies.items():
        typer.echo(f"study {name}")
        try:
            check(study)
        except ConfigError as error:
            raise ConfigError(f"studies: {name}: {error}") from None
    naive = check_windows(studies)
    if dry_run:
        return
    create_comparison(config, naive, resume)
    for name, study in studies.items():
        typer.echo(f"\nstudy {name}")
        run(study, resume)
    typer.echo("")
    show_comparison(Path(config.output_dir), as_json=False)
    place = Path(config.output_dir)
    typer.echo(f"this table: foretrain tune show {shlex.quote(str(place))}; a study: foretrain tune show {place}/NAME")
