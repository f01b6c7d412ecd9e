"""The verbs `foretrain data ...`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foretrain.cli.download import data_download
from foretrain.cli.market import market_app
from foretrain.cli.options import (
    Overrides,
    comma_list,
    config_and_overrides,
    prepare,
    require_single_process,
    spoken_beside,
)
from foretrain.cli.reading import GroupedCommand, reads_files
from foretrain.errors import ConfigError

data_app = typer.Typer(help="Import, generate or download series as a corpus, and inspect one.", no_args_is_help=True)
data_app.add_typer(market_app, name="market")


@data_app.command("import", cls=GroupedCommand)
@reads_files()
def data_import(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders: CSV, Parquet, .tsf, .xlsx, JSON, .zip, numpy.")],
    reading: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option(help="The corpus folder to create (or, with --update, to extend).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be read, and write nothing.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Append new bars and items to an existing corpus.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Comma-separated columns that must exist; they come first.")
    ] = None,
    adjust: Annotated[bool, typer.Option("--adjust", help="Multiply OHLC by adj_close/close.")] = False,
    calendar: Annotated[
        str | None, typer.Option(help="Exchange that all items trade at (XNYS): checks its sessions; extra market.")
    ] = None,
    min_rows: Annotated[int | None, typer.Option(min=1, help="Drop items shorter than this.")] = None,
    provenance: Annotated[str, typer.Option(help="real or synthetic; reports state it.")] = "real",
) -> None:
    """Convert raw files to a checked, memory-mapped corpus. Prints what was found, fixed and dropped."""
    require_single_process("data import")
    if out is None and not dry_run:
        raise ConfigError("data import: give --out, the corpus folder to write, or --dry-run, to write none.")
    from foretrain.cli.commands import import_data, preview_files

    reading |= {"target": comma_list(target), "adjust": adjust, "calendar": calendar, "min_rows": min_rows}
    if out is None or dry_run:
        preview_files(paths, out=out, update=update, provenance=provenance, **reading)
        return
    import_data(paths, out, update=update, provenance=provenance, **reading)


@data_app.command("generate")
def data_generate(
    items: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The corpus folder to create.")] = None,
    num_series: Annotated[int, typer.Option(min=1, max=10**10, help="How many series.")] = 100_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw series.")] = 1,
) -> None:
    """Write synthetic series as a corpus for pretraining. Repeat an interrupted command to continue it."""
    require_single_process("data generate")
    if out is None:
        raise ConfigError("data generate: give --out, the corpus folder to write.")
    from foretrain.cli.commands import generate_data

    example = "data generate synthetic/mixture --out corpora/mixture"
    config, overrides = config_and_overrides(items, None, example, "data generate")
    generate_data(config, overrides, out, num_series=num_series, workers=workers)


@data_app.command("verify")
def data_verify(
    folders: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="Corpus folders.")],
) -> None:
    """Compare every shard of corpora with the hash in its manifest."""
    require_single_process("data verify")
    prepare(None)
    from foretrain.cli.commands import verify_corpora

    verify_corpora(folders)


data_app.command("download")(data_download)


@data_app.command("inspect", cls=GroupedCommand)
@reads_files()
def data_inspect(
    data: Annotated[Path, typer.Argument(help="A corpus folder, or files that an import reads.")],
    reading: dict[str, Any],
    plot: Annotated[Path | None, typer.Option(help="Plot the corpus to this PNG file.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every shard against its recorded hash.")] = False,
) -> None:
    """Print the columns, ranges, quality and provenance of a corpus, or what an import would read from files."""
    require_single_process("data inspect")
    from foretrain.cli.commands import inspect_data

    with spoken_beside(plot):
        inspect_data(data, reading, plot=plot, verify=verify)
