"""`foretrain compare`: models on the same windows, or finished results of `foretrain benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import typer

from foretrain.atomic import write_json, write_text
from foretrain.cli.benchmark_models import Request, entrant_of, local_suites, with_corpora
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError
from foretrain.suites.compare import TaskComparison
from foretrain.suites.compare_tables import (
    ModelComparison,
    compared,
    csv_of,
    document,
    draw_items,
    flag_notes,
    html_of,
    markdown_of,
    tables,
)
from foretrain.suites.definition import BenchmarkTask, own_suites, tasks_of
from foretrain.suites.results import as_result
from foretrain.suites.run import BenchmarkRun
from foretrain.suites.score import TaskData
from foretrain.suites.submissions import read_results


@dataclass(frozen=True)
class Outputs:
    """Files to write; None = not asked for."""

    markdown: Path | None
    csv: Path | None
    json: Path | None
    html: Path | None
    plot: Path | None

    @property
    def files(self) -> list[Path]:
        """Those that were asked for."""
        return [path for path in (getattr(self, one.name) for one in fields(self)) if path is not None]

    def into(self, scratch: Mapping[Path, Path]) -> Outputs:
        """Return the same with the scratch files in their place; a picture knows its kind by its own name."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return Outputs(**{name: None if path is None else scratch.get(path) for name, path in own.items()})


def compare_models(request: Request, data: Sequence[Path], outputs: Outputs) -> int:
    """Score models on tasks, or on data of the user, and say how they compare. Returns the exit code.

    Raises DataError if no task has its data, ConfigError and ModelError for models that cannot be had.
    """
    from foretrain.cli.commands import progress_bar

    with World.start(request.device, request.threads) as world, world.phase("evaluation"):
        entrants = [entrant_of(name, request, world) for name in request.models]
        found: list[TaskComparison] = []
        unusable: list[str] = []
        with progress_bar("scoring") as advance:
            tasks, load = _work(request, data)
            run = BenchmarkRun(
                entrants=entrants,
                root=request.root,
                out=request.out,
                load=load,
                batch_size=request.batch_size,
                max_items=request.max_items,
                world=world,
                progress=advance,
            )
            if request.trained_on:
                run = with_corpora(run, tasks, request.trained_on, typer.echo)
            for task in tasks:
                try:
                    found.append(_on_task(run, task))
                except DataError as error:
                    unusable.append(f"{task.suite_name}/{task.name}: {error}")
    if not found:
        raise DataError(unusable[0])
    for line in unusable:
        typer.echo(f"left out: {line}")
    say_comparison(compared(found), outputs)
    failed = any(result.state == "failed" for task in found for result in task.results.values())
    return 1 if failed or unusable else 0


def _work(
    request: Request, data: Sequence[Path]
) -> tuple[list[BenchmarkTask], Callable[[BenchmarkTask], TaskData] | None]:
    """Return the tasks whose data are there, and what loads data of the user.

    Raises DataError if there is none, ConfigError for two of one name.
    """
    if data:
        own = local_suites(data, request)
        loads = {task.name: load for task, load in own}
        names = [task.name for task, _ in own]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"--data: two data are called {twice}. Rename one, or compare on them one by one.")
        return [task for task, _ in own], lambda task: loads[task.name]()
    run = BenchmarkRun(entrants=[], root=request.root, out=request.out)
    present = [task for task in request.tasks if run.present(task)]
    if not present:
        first = request.tasks[0]
        raise DataError(f"none of {len(request.tasks)} tasks has its data. For {first.name}: put {run.remedy(first)}.")
    lacking = len(request.tasks) - len(present)
    if lacking:
        typer.echo(f"{lacking} of {len(request.tasks)} tasks are without data, which benchmark --self-check names.")
    return present, None


def _on_task(run: BenchmarkRun, task: BenchmarkTask) -> TaskComparison:
    results, losses = run.losses(task)
    for result in results:
        typer.echo(f"{result.state:7}{task.suite_name}/{task.name}  {result.model}  {result.error or ''}".rstrip())
        for note in result.notes:
            typer.echo(f"       {note}")
    return TaskComparison(
        task.suite_name, task.name, task.definition.freq, {result.model: result for result in results}, losses
    )


def compare_results(folder: Path, models: Sequence[str], outputs: Outputs) -> int:
    """Compare finished results, without what needs losses of items. Returns the exit code.

    Raises DataError for results that cannot be read, and for models that are not there.
    """
    results = [as_result(one) for one in read_results(folder)]
    there = list(dict.fromkeys(result.model for result in results))
    for model in models:
        if model not in there:
            raise DataError(f"{folder}: holds no results of {model}. There are those of {', '.join(there)}.")
    chosen = [result for result in results if not models or result.model in models]
    freqs = {(task.suite_name, task.name): task.definition.freq for name in own_suites() for task in tasks_of(name)}
    by_task: dict[tuple[str, str], TaskComparison] = {}
    for result in chosen:
        key = result.suite, result.task
        if result.state == "failed" and not result.baseline:
            typer.echo(f"left out: {result.suite}/{result.task}, {result.model}: {result.error}")
            continue
        before = by_task.get(key, TaskComparison(*key, freqs.get(key, ""), {}))
        by_task[key] = replace(before, results={**before.results, result.model: result})
    if not by_task:
        raise DataError(f"{folder}: every result is a failure without a baseline; nothing can be compared.")
    typer.echo("From finished results: no losses of items, so no tests of pairs and no picture of items.")
    say_comparison(compared(list(by_task.values())), outputs)
    return 0


def say_comparison(found: ModelComparison, outputs: Outputs) -> None:
    """Print all tables and flags, and write the files."""
    for table in tables(found):
        typer.echo("")
        for line in table.text():
            typer.echo(line)
    flags = flag_notes(found)
    if flags:
        typer.echo("\nWhat training saw:")
    for line in flags:
        typer.echo(f"  {line}")
    if outputs.markdown is not None:
        write_text(outputs.markdown, markdown_of(found))
    if outputs.csv is not None:
        write_text(outputs.csv, csv_of(found))
    if outputs.json is not None:
        write_json(outputs.json, document(found))
    if outputs.html is not None:
        write_text(outputs.html, html_of(found))
    if outputs.plot is not None:
        from foretrain.evaluation.plots import save, style

        with style():
            drawn = draw_items(found)
            if drawn is None:
                raise DataError("every model failed on every task; there is nothing to draw.")
            save(drawn, outputs.plot)
