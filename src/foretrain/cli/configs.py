"""The verbs `foretrain config ...`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

import re
import shlex
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from foretrain.cli.options import (
    ForeignFormat,
    Overrides,
    config_and_overrides,
    dash_as_stdout,
    prepare,
    write_new_text,
)

WIDTH = 120  # characters of a line of the list

config_app = typer.Typer(help="List, copy, show, import or describe configs.", no_args_is_help=True)


@config_app.command("list")
def config_list() -> None:
    """List the shipped configs, by the name that other commands take."""
    from foretrain.run.shipped import GENERATE, TRAIN, TUNE, about, made_for, shipped_names

    names = shipped_names()
    wide = max(map(len, names)) + 2
    for verb, kind in ((TRAIN, "Trainings"), (TUNE, "Searches"), (GENERATE, "Synthetic series")):
        typer.echo(f"{kind}, for `foretrain {verb} NAME`:")
        taken = [name for name in names if made_for(name) == verb]
        for _, group in groupby(taken, lambda name: name.rpartition("/")[0]):
            typer.echo()
            for name in group:
                typer.echo(f"  {name:{wide}}{shortened(about(name), WIDTH - wide - 2)}")
        typer.echo()
    typer.echo("KEY=VALUE after the name overrides a setting. `foretrain config copy NAME` writes a file to edit.")


@config_app.command("copy")
def config_copy(
    name: Annotated[str, typer.Argument(help="A shipped config: chronos2/finetune.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write, never overwritten (default: chronos2-finetune.yaml).")
    ] = None,
) -> None:
    """Write a shipped config into a file, to edit it."""
    from foretrain.atomic import is_stream
    from foretrain.run.shipped import config_folder, made_for, shipped_config

    source = shipped_config(name)
    plain = source.relative_to(config_folder()).with_suffix("").as_posix()
    out = dash_as_stdout(out) or Path(f"{plain.replace('/', '-')}.yaml")
    write_new_text(out, source.read_text(encoding="utf-8"))
    if not is_stream(out):
        typer.echo(f"wrote {out}: edit it, then foretrain {made_for(plain)} {shlex.quote(str(out))}")


@config_app.command("show")
def config_show(
    items: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="The config, if not given as first argument.")] = None,
) -> None:
    """Print the config of a run with its defaults filled in."""
    prepare(None)
    from foretrain.config import dump_yaml
    from foretrain.run.stages import load_any

    typer.echo(dump_yaml(load_any(*config_and_overrides(items, config))), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a run's config."""
    prepare(None)
    import json

    from foretrain.run.stages import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@config_app.command("import")
def config_import(
    file: Annotated[Path, typer.Argument(help="The YAML file of the other project.")],
    source: Annotated[
        ForeignFormat, typer.Option("--from", help="The file's project: Kronos' finetune_csv, TSM-Trainer.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The config to write, never overwritten (default: print it).")
    ] = None,
) -> None:
    """Convert another project's config; a report on stderr lists how each key was converted."""
    prepare(None)
    from foretrain.foreign import import_config

    import_config(source.value, file, dash_as_stdout(out))


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters: as it is, or up to a comma, colon or semicolon, or with dots."""
    if len(text) <= most:
        return text
    ends = [found.start() for found in re.finditer(r"[,:;] ", text[:most])]
    heads = [text[:end] for end in ends if end > most // 2 and text[:end].count("(") == text[:end].count(")")]
    return heads[-1] if heads else text[: most - 4].rpartition(" ")[0] + " ..."
