"""The verb `foretrain data download`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foretrain.cli.benchmark import WIDTH, chosen_tasks
from foretrain.cli.options import prepare, require_single_process
from foretrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from foretrain.suites.definition import BenchmarkTask, Hub
    from foretrain.suites.download import Obtained

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")  # and in small letters


class DataSource(StrEnum):
    """Where data come from."""

    hub = "hub"
    local = "local"


def data_download(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite of `foretrain benchmark --list`.")],
    task: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Tasks by name: m4_hourly, 'ett*/short'; repeatable.")
    ] = None,
    source: Annotated[
        DataSource | None,
        typer.Option(
            help="hub: the suite's own data sets; local: raw public files (default: hub; with --from: local)."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="local: a folder or git repository (default: the data root)."),
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where data go.")] = Path("benchmark-data"),
    proxy: Annotated[
        str | None, typer.Option(metavar="URL", help="hub: http://HOST:PORT (default: HTTPS_PROXY and the like).")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="hub: no network; check what is there, or say what to put where.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="hub: branch, tag or commit (default: as recorded, else main).")
    ] = None,
) -> None:
    """Fetch the data of a benchmark from the hub, or convert raw public files. Repeat the command to go on.

    Exit code 1 if some tasks have no data then, 2 if none has or an argument is wrong.
    """
    require_single_process("data download")
    chosen = source or (DataSource.local if folder is not None else DataSource.hub)
    _check_options(chosen, folder, {"--proxy": proxy, "--offline": offline, "--revision": revision})
    prepare(None)
    tasks = chosen_tasks([suite], task or [])
    if data_root.exists() and not data_root.is_dir():
        raise ConfigError(f"--data-root {data_root}: is a file. Name a folder.")
    if chosen is DataSource.local:
        code = run_local(tasks, data_root, folder or data_root)
    else:
        _use_proxy(proxy)
        code = run_hub(tasks, data_root, revision, offline or _is_set("HF_HUB_OFFLINE"))
    raise typer.Exit(code)


def _check_options(source: DataSource, folder: Path | None, of_hub: dict[str, str | bool | None]) -> None:
    """Raise ConfigError for options without effect."""
    if source is DataSource.hub and folder is not None:
        raise ConfigError("--from: has no effect with --source hub. Leave one of them out.")
    if source is DataSource.local:
        for flag, value in of_hub.items():
            if value:
                raise ConfigError(f"{flag}: has no effect with --source local, which uses no network. Leave it out.")
    if of_hub["--offline"] and of_hub["--proxy"]:
        raise ConfigError("--proxy: has no effect with --offline. Leave one of them out.")


def _use_proxy(proxy: str | None) -> None:
    """Let all requests of this process go through a proxy. Raises ConfigError for an address that is none."""
    from urllib.parse import urlsplit

    if proxy is None:
        return
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "--proxy: is no address of a proxy. Give http://HOST:PORT."
        )  # not repeated: it may hold a secret
    for name in VARIABLES:
        os.environ[name] = os.environ[name.lower()] = proxy
    for name in ("NO_PROXY", "no_proxy"):
        os.environ.pop(name, None)


def run_hub(tasks: Sequence[BenchmarkTask], root: Path, revision: str | None, offline: bool) -> int:
    """Fetch the data sets of tasks, print what became of them, and return the exit code."""
    import logging

    from foretrain.suites.download import Obtained, Repository

    groups: dict[str, tuple[Hub, list[str]]] = {}
    for one in tasks:
        if one.suite.hub is None:
            text = f"has no data sets on the hub. Convert raw files with --source {DataSource.local.value} or --from."
            raise ConfigError(f"{one.suite_name}: {text}")
        _, datasets = groups.setdefault(one.suite.hub.repository, (one.suite.hub, []))
        if one.definition.dataset not in datasets:
            datasets.append(one.definition.dataset)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("huggingface_hub", "httpx"):  # their retries are told by the error, if they come to nothing
        logging.getLogger(name).setLevel(logging.ERROR)
    outcomes: list[Obtained] = []
    for hub, datasets in groups.values():
        _say(f"{hub.repository}{' (offline)' if offline else ''} into {root / hub.folder}")
        wide, begun = max(map(len, datasets)) + 2, len(outcomes)
        try:
            with Repository(hub, root, revision=revision, offline=offline) as repository, byte_bar() as meter:
                if repository.commit and not offline:
                    _say(f"  commit {repository.commit}")
                for dataset in datasets:
                    outcomes.append(repository.obtain(dataset, meter))
                    _say(_line(outcomes[-1], wide) + _shadow(outcomes[-1], tasks, root))
        except DataError as error:
            outcomes += [Obtained(dataset, "missing", "") for dataset in datasets[len(outcomes) - begun :]]
            typer.echo(f"error: {error}", err=True)
    _also_raw([one for one in tasks if _is_missing(one.definition.dataset, outcomes)], root)
    return _closing(outcomes, "data sets", root)


def run_local(tasks: Sequence[BenchmarkTask], root: Path, folder: Path) -> int:
    """Convert the raw files of tasks, print what became of them, and return the exit code."""
    from foretrain.atomic import temporary_files
    from foretrain.cli.commands import command_line, progress_bar
    from foretrain.suites.convert import convert
    from foretrain.suites.definition import raw_sources, raw_uses
    from foretrain.suites.raw_places import RawPlaces

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder or git repository of the raw files with --from.")
    used = {use.source for task in tasks for use in raw_uses(task.definition)}
    outcomes: list[Obtained] = []
    wide = max(len(task.name) for task in tasks) + 2
    _say(f"raw files of {folder} into corpora of {root}")
    with temporary_files() as scratch, progress_bar("converting") as advance:
        places = RawPlaces(folder, scratch, [raw_sources()[name] for name in sorted(used)])
        for number, task in enumerate(tasks):
            advance(number, len(tasks), task.name)
            outcomes.append(convert(task, root, places, command_line()))
            if outcomes[-1].state != "missing":
                _say(_line(outcomes[-1], wide))
    _say_missing(outcomes)
    return _closing(outcomes, "tasks", root)


def _line(outcome: Obtained, wide: int) -> str:
    state = "MISSING" if outcome.state == "missing" else outcome.state
    return f"  {state:11}{outcome.name:{wide}}{outcome.text}".rstrip()


def _say_missing(outcomes: Sequence[Obtained]) -> None:
    """Print why tasks have no data, and what to do: one line for all of the same reason."""
    from textwrap import wrap

    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.state == "missing":
            reasons.setdefault(outcome.text, []).append(outcome.name)
    for reason, names in reasons.items():
        _say(f"  {'MISSING':11}{reason.rstrip('.')}:")
        for line in wrap(", ".join(names), WIDTH, initial_indent=" " * 13, subsequent_indent=" " * 13):
            _say(line)


def _shadow(outcome: Obtained, tasks: Sequence[BenchmarkTask], root: Path) -> str:
    """Return what is read in place of a data set: a corpus of the same task."""
    from foretrain.suites.score import find_data

    before = [t for t in tasks if t.definition.dataset == outcome.name and find_data(t, root) == "corpus"]
    folders = ", ".join(str(root / task.suite_name / task.name) for task in before)
    return f"; {folders} is read before it" if before and outcome.state != "missing" else ""


def _is_missing(name: str, outcomes: Sequence[Obtained]) -> bool:
    return any(outcome.name == name and outcome.state == "missing" for outcome in outcomes)


def _also_raw(tasks: Sequence[BenchmarkTask], root: Path) -> None:
    """Print which raw files would do for tasks whose data sets are missing."""
    from foretrain.suites.score import where_to_get

    remedies: dict[str, list[str]] = {}
    for task in tasks:
        if task.definition.raw is not None:
            remedies.setdefault(where_to_get(task, root), []).append(task.name)
    if remedies:
        _say("Raw files would do for some (`--source local` converts them):")
    for remedy, names in remedies.items():
        _say(f"  {', '.join(names)}: put {remedy}")


def _closing(outcomes: Sequence[Obtained], noun: str, root: Path) -> int:
    counts = {state: sum(one.state == state for one in outcomes) for state in ("fetched", "converted", "kept")}
    done = sum(counts.values())
    parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    _say(f"{done} of {len(outcomes)} {noun} {'are' if done != 1 else 'is'} in {root}{f': {parts}' if parts else ''}.")
    return 0 if done == len(outcomes) else 1 if done else 2


def _say(text: str) -> None:
    typer.echo(text)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def byte_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function (bytes done, of how many, text): it updates a bar on a terminal, and elsewhere prints what is to
    come before the first byte."""
    from foretrain.suites.download import size_text

    if not sys.stderr.isatty():
        yield lambda done, total, text: None if done else _say(f"  fetching   {text}: {size_text(total)}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from foretrain.printing import BESIDE_PRINTABLE

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, **BESIDE_PRINTABLE) as bar:
        task = bar.add_task("fetching", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
