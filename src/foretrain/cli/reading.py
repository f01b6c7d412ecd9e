"""The options of every verb that reads files, declared once: `reads_files` adds them to a command.

Imports neither torch, pandas nor numpy, so that the command line starts quickly.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from foretrain.cli.options import OnBad, comma_list, pairs
from foretrain.errors import ConfigError

PANEL = "Reading files"
SERIES_ONLY = frozenset(
    ("columns", "categorical", "freq", "duplicates", "allow_loss", "on_bad", "id_pattern", "layout")
)  # options that say how rows become series
LISTS = frozenset(
    [
        "target",
        "past_covariates",
        "known_covariates",
        "quantile_levels",
        "compare",
        "id_column",
        "columns",
        "categorical",
        "names",
        "na_values",
    ]
)  # options whose values are separated by commas


class GroupedCommand(TyperCommand):
    """A command whose help lists the options of reading files apart, and that refuses lists given in two parts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises ConfigError for a list that is given twice, of which one would be lost."""
        _, _, order = self.make_parser(ctx).parse_args(args=[*args])
        for parameter in order:
            if parameter.name in LISTS and not getattr(parameter, "multiple", False) and order.count(parameter) > 1:
                flag = parameter.opts[0]
                raise ConfigError(f"{flag} is given twice; give it once, with commas: {flag} a,b.")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of arguments and options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], PANEL: []}
        for parameter in self.get_params(ctx):
            panel = getattr(parameter, "rich_help_panel", None)
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections[panel or usual].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _option(help: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel=PANEL, show_default=False, **more)


def _given_options(
    id_column: Annotated[str | None, _option("Column of item ids, or several: Store,Dept (default: detected).")] = None,
    timestamp_column: Annotated[str | None, _option("Column of time stamps (default: detected).")] = None,
    column: Annotated[
        list[str] | None,
        _option("The column of a role: {roles}; repeatable.", metavar="ROLE=NAME"),
    ] = None,
    columns: Annotated[str | None, _option("Comma-separated value columns to keep (default: all).")] = None,
    categorical: Annotated[str | None, _option("Comma-separated columns to read as text.")] = None,
    freq: Annotated[str | None, _option("Frequency alias such as D, B, h, 15min (default: inferred).")] = None,
    date_format: Annotated[str | None, _option("Pattern of the time stamps: %d.%m.%Y %H:%M, ...")] = None,
    time_unit: Annotated[str | None, _option("Unit of unix times: s, ms, us or ns (default: by size).")] = None,
    dayfirst: Annotated[
        bool | None, _option("How to read 01/02/2020 (default: from the column).", "--dayfirst/--monthfirst")
    ] = None,
    timezone: Annotated[str | None, _option("Zone of stamps that name none; they are converted to UTC.")] = None,
    encoding: Annotated[str | None, _option("Encoding of text files (default: UTF-8, or UTF-16 by its mark).")] = None,
    skip_rows: Annotated[int | None, _option("Lines to skip at the top of each text file.", min=0)] = None,
    header: Annotated[bool | None, _option("Whether the first line has column names.", "--header/--no-header")] = None,
    names: Annotated[str | None, _option("Comma-separated column names of files without a header.")] = None,
    na_values: Annotated[str | None, _option("Comma-separated further texts for a missing value.")] = None,
    decimal: Annotated[
        str | None, _option("The decimal mark, . or , (default: from each column).", metavar="MARK")
    ] = None,
    duplicates: Annotated[str | None, _option("Rows of one item and time: last, first, mean or error.")] = None,
    allow_loss: Annotated[float | None, _option("Share of rows, 0 to 1, that may be lost.")] = None,
    on_bad: Annotated[OnBad | None, _option("What to do if data break a quality rule (default: fix).")] = None,
    id_pattern: Annotated[str | None, _option("Regular expression that extracts the id from a file's name.")] = None,
    layout: Annotated[
        str | None,
        _option("table, panel (a column per item), wide (a row per item), array, hf (default: detected).", "--format"),
    ] = None,
) -> dict[str, Any]:
    """Return the options that were given, as fields of ImportOptions."""
    ids = comma_list(id_column)
    found: dict[str, Any] = {
        "id_column": ids[0] if ids is not None and len(ids) == 1 else ids,
        "timestamp_column": timestamp_column,
        "column": pairs(column, "--column", "timestamp=Date") or None,
        "columns": comma_list(columns),
        "categorical": comma_list(categorical),
        "freq": freq,
        "date_format": date_format,
        "time_unit": time_unit,
        "dayfirst": dayfirst,
        "timezone": timezone,
        "encoding": encoding,
        "skip_rows": skip_rows,
        "header": header,
        "names": comma_list(names),
        "na_values": comma_list(na_values),
        "decimal": decimal,
        "duplicates": duplicates,
        "allow_loss": allow_loss,
        "on_bad": on_bad.value if on_bad is not None else None,
        "id_pattern": id_pattern,
        "format": layout,
    }
    return {name: value for name, value in found.items() if value is not None}


def reads_files(
    without: frozenset[str] = frozenset(),
    roles: str = "item_id, timestamp, target, open, high, low, close, ...",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator: the command gains the options of reading files and receives those given as `reading`.

    without: options that the command does not take; roles: those that its --column names.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = [_with_roles(p, roles) for p in _parameters(_given_options) if p.name not in without]
        own = [p for p in _parameters(command) if p.name != "reading"]

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            given = {p.name: arguments.pop(p.name) for p in shared}
            command(**arguments, reading=_given_options(**given))

        parameters = [*own, *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _with_roles(parameter: inspect.Parameter, roles: str) -> inspect.Parameter:
    """Return the parameter with the roles in its help."""
    kind, option = get_args(parameter.annotation)
    shown = copy.copy(option)
    shown.help = option.help.format(roles=roles)
    return parameter.replace(annotation=Annotated[kind, shown])


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function, to be given by name, with their annotations evaluated."""
    hints = get_type_hints(function, include_extras=True)
    return [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    ]
