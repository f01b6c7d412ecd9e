"""The verb `foretrain benchmark`, which cli/app.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence, Set
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretrain.cli.options import (
    BaselineSecondsOption,
    BatchSizeOption,
    Device,
    DeviceOption,
    DType,
    FamilyOptions,
    MaxMemoryOption,
    NamedItemsOption,
    PrecisionOption,
    ThreadsOption,
    TokenizerOption,
    TrainedOnOption,
    comma_list,
    dash_as_stdout,
    forecast_settings,
    given_options,
    prepare,
    require_single_process,
    spoken_beside,
)
from foretrain.cli.submit import report_beside, submit
from foretrain.distributed.launchers import count_of_several
from foretrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from foretrain.suites.definition import BenchmarkTask
    from foretrain.suites.self_check import TaskCheck

WIDTH = 120  # characters of a line
_ONLY_MODELS = (  # options that need a model to score
    "out", "data", "trained_on", "horizon", "windows", "seasonality", "look_back", "tokenizer", "option", "items",
    "max_items", "batch_size", "max_memory", "baseline_seconds", "dry_run", "device", "dtype", "threads",
)  # fmt: skip


def benchmark(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Releases, runs, hub ids, tiny (in the box), baselines (seasonal_naive, naive, drift, mean, "
            "linear; with the extra `baselines` auto_ets, auto_theta, dynamic_optimized_theta, auto_arima), or "
            "MODULE:FUNCTION, a forecaster of your own.",
        ),
    ] = None,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Compute published seasonal-naive figures anew, and compare.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List suites and tasks, and which data are there.")] = False,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A suite; local, market-daily or market-intraday with --data; repeatable (default: all with figures).",
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Tasks by name: m4_hourly, 'ett*/short'; repeatable.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where data sets and raw files are.")] = Path("benchmark-data"),
    out: Annotated[Path, typer.Option(help="Folder of the results; finished tasks in it are kept.")] = Path(
        "benchmark-results"
    ),
    data: Annotated[
        Path | None, typer.Option(help="With --suite local, or market-*: a corpus, or files (candles).")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="With --suite local: steps to forecast.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="With --suite local: windows an item (default 1).")] = None,
    seasonality: Annotated[
        int | None, typer.Option(min=1, help="With --suite local: steps of a season (default: of the frequency).")
    ] = None,
    look_back: Annotated[
        int | None,
        typer.Option("--context", min=1, help="With --suite ltsf: steps of history, in place of the suite's 96 (36)."),
    ] = None,
    trained_on: TrainedOnOption = None,
    tokenizer: TokenizerOption = None,
    option: FamilyOptions = None,
    items: NamedItemsOption = None,
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Score a drawn sample of so many items, comparable with no other figure.")
    ] = None,
    batch_size: BatchSizeOption = 256,
    max_memory: MaxMemoryOption = None,
    baseline_seconds: BaselineSecondsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say windows, forecasts and seconds of each task, and write nothing.")
    ] = False,
    device: DeviceOption = Device.auto,
    dtype: PrecisionOption = DType.float32,
    threads: ThreadsOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="With --self-check: also write JSON, or - (stdout).")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--from", metavar="RESULTS", help="With --submission or --report: a folder of results."),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write what the suites take, from whole suites of --from, into a new folder."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Put --from beside the figures of published models, into a new folder."),
    ] = None,
) -> None:
    """Score models on the benchmarks of the field, or check the benchmarks against their published tables.

    Exit code 1 if a model fails on a task, a figure disagrees or a task's data cannot be used; 2 if no task has data.
    """
    given = given_options(context, _ONLY_MODELS)
    if results is not None or submission is not None or report is not None:
        others = self_check or show or models or task or json_file or given
        if results is None or (submission is None) == (report is None) or others:
            raise ConfigError(
                "benchmark: --from RESULTS goes with --submission DIR or --report DIR, and with --suite at most."
            )
        _from_results(results, suite or [], submission=submission, report=report)
        return
    if not models:
        _check_without_models(given, self_check=self_check, show=show, json_file=json_file)
        prepare(None)
        tasks = chosen_tasks(suite or [], task or [])
        if show:
            list_suites(tasks, data_root)
            return
        raise typer.Exit(_self_check(tasks, suite or [], data_root, json_file))
    _check_models(suite or [], task or [], data=data, horizon=horizon, json_file=json_file)
    if self_check or show:
        raise ConfigError("benchmark: models are scored without --self-check and --list. Leave these out.")
    _check_use(suite or [], given)
    if trained_on and dry_run:
        raise ConfigError("--trained-on: has no effect with --dry-run, which scores nothing. Leave it out.")
    prepare(threads)
    code = _score(
        tuple(models),
        suite or [],
        task or [],
        data_root,
        out=out,
        data=data,
        horizon=horizon or 1,
        windows=windows or 1,
        seasonality=seasonality,
        look_back=look_back,
        trained_on=tuple(trained_on or ()),
        tokenizer=tokenizer,
        options=forecast_settings(option),
        items=comma_list(items),
        max_items=max_items,
        batch_size=batch_size,
        max_memory=max_memory,
        baseline_seconds=baseline_seconds,
        dry_run=dry_run,
        device=device.value,
        dtype=dtype.value,
        threads=threads,
    )
    raise typer.Exit(code)


def _from_results(results: Path, suites: Sequence[str], *, submission: Path | None, report: Path | None) -> None:
    """Write what the suites take of finished results, or put these beside published figures."""
    require_single_process("benchmark --from")
    prepare(None)
    if submission is not None:
        submit(results, submission, suites)
    elif report is not None:
        report_beside(results, report, suites)


def _check_without_models(given: Set[str], *, self_check: bool, show: bool, json_file: Path | None) -> None:
    """Raise ConfigError for options that contradict each other where no model is scored.

    given: options of _ONLY_MODELS on the command line.
    """
    if self_check == show:
        raise ConfigError("benchmark: name models to score, or give --self-check, or --list to see suites and tasks.")
    if given:
        name = min(given, key=_ONLY_MODELS.index)
        flag = "context" if name == "look_back" else name.replace("_", "-")
        raise ConfigError(f"--{flag}: has no effect without a model to score. Leave it out.")
    require_single_process("benchmark --self-check" if self_check else "benchmark --list")
    if json_file is not None and show:
        raise ConfigError("--json: has no effect with --list. Leave it out.")


def _check_models(
    suites: Sequence[str], patterns: Sequence[str], *, data: Path | None, horizon: int | None, json_file: Path | None
) -> None:
    """Raise ConfigError for options that contradict each other where models are scored."""
    if json_file is not None:
        raise ConfigError("--json: has no effect with models, whose results are JSON files in --out. Leave it out.")
    if not suites:
        raise ConfigError("benchmark: give --suite, whose tasks the models are scored on. --list names all.")
    if "local" in suites:
        if len(suites) > 1 or patterns:
            raise ConfigError("--suite local: is scored alone, without --task and other suites.")
        if data is None or horizon is None:
            raise ConfigError("--suite local: give --data, a corpus or files, and --horizon, the steps to forecast.")
    elif of_user := [name for name in suites if name.startswith("market-")]:
        if len(suites) > 1:
            raise ConfigError(f"--suite {of_user[0]}: is scored alone, without other suites.")
        if data is None:
            raise ConfigError(f"--suite {of_user[0]}: give --data, a corpus or files with candles.")
    elif data is not None:
        raise ConfigError(
            "--data: belongs to --suite local, market-daily and market-intraday. Other suites find "
            "their data below --data-root."
        )


def _check_use(suites: Sequence[str], given: Set[str]) -> None:
    """Raise ConfigError for options of _ONLY_MODELS on the command line that have no effect on these suites."""
    local = [f"--{name}" for name in ("windows", "seasonality", "horizon") if name in given]
    if local and suites != ["local"]:
        raise ConfigError(f"{local[0]}: has no effect without --suite local and --data.")
    if "items" in given and suites != ["local"] and not suites[0].startswith("market-"):
        raise ConfigError(
            "--items: names items of --data, for --suite local, market-daily and market-intraday. "
            "--max-items scores a sample of other suites."
        )
    if "look_back" in given and suites != ["ltsf"]:
        raise ConfigError("--context: has no effect without --suite ltsf; other suites name a context themselves.")


def _score(
    models: tuple[str, ...],
    suites: Sequence[str],
    patterns: Sequence[str],
    root: Path,
    *,
    dry_run: bool,
    **settings: Any,
) -> int:
    """Score models on the chosen tasks; returns the exit code."""
    if dry_run:
        require_single_process("benchmark --dry-run")
    tasks = () if "local" in suites else tuple(chosen_tasks(suites, patterns))
    if not root.is_dir() and not settings["data"]:
        raise DataError(f"{root}: no such folder. Name the folder of benchmark data with --data-root.")
    check_names(models, settings["baseline_seconds"])
    if not dry_run and count_of_several(os.environ) is None:
        from foretrain.suites.result_folders import result_locks

        for lock in result_locks(settings["out"], models):  # before torch is loaded; it is taken later, by rank 0
            lock.check_free()
    from foretrain.cli.benchmark_models import Request, benchmark_models
    from foretrain.models.memory import memory_bytes

    settings["max_memory"] = memory_bytes(settings["max_memory"])
    return benchmark_models(Request(models, tasks, root, dry_run=dry_run, **settings))


def chosen_tasks(suites: Sequence[str], patterns: Sequence[str]) -> list[BenchmarkTask]:
    """Return the tasks of suites (none named: of all that are no selections) that match, each once.

    Raises ConfigError for unknown suites and for patterns that match nothing.
    """
    from fnmatch import fnmatchcase

    from foretrain.hints import did_you_mean
    from foretrain.suites.definition import own_suites, tasks_of

    found = {(task.suite_name, task.name): task for suite in suites or own_suites() for task in tasks_of(suite)}
    names = sorted({name for _, name in found})
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, names, "`foretrain benchmark --list` names all.")
            raise ConfigError(f"--task {pattern}: no task of the suites is called so. {hint}")
    taken = [t for t in found.values() if not patterns or any(fnmatchcase(t.name, p) for p in patterns)]
    return taken


def check_names(models: Sequence[str], baseline_seconds: float | None) -> None:
    """Raise ConfigError for a model that is given twice, two whose results would share a folder, and a missing extra.

    Also for a time of statistical baselines without one of them.
    """
    from foretrain.evaluation.baselines import STATISTICAL
    from foretrain.suites.result_folders import folder_name

    statistical = [name for name in models if name in STATISTICAL]
    if statistical:
        from foretrain.evaluation.statistical import require_package

        require_package(statistical[0])
    if baseline_seconds is not None and not statistical:
        names = ", ".join(STATISTICAL)
        raise ConfigError(f"--baseline-seconds: has no effect without one of {names} among the models. Leave it out.")
    seen: dict[str, str] = {}
    for name in models:
        folder = folder_name(name)
        if folder in seen:
            other = "twice" if seen[folder] == name else f"beside {seen[folder]}, whose results have the same folder"
            raise ConfigError(f"{name}: is given {other}. Leave one of them out.")
        seen[folder] = name


def list_suites(tasks: Sequence[BenchmarkTask], root: Path) -> None:
    """Print suites, their tasks and which data are there."""
    from foretrain.suites.definition import suite_names, title_of
    from foretrain.suites.score import find_data

    typer.echo("Suites:")
    for name in suite_names():
        typer.echo(f"  {name:18}{title_of(name)}")
    typer.echo(f"  {'local':18}series of the user: each column of numbers (--data, --horizon)")
    for suite, members in _by_suite(tasks):
        typer.echo(f"\n{suite}, {len(members)} tasks:")
        wide, units, licences = (
            max(map(len, words)) + 2
            for words in zip(*((task.name, task.facts.unit, task.facts.licence) for task in members), strict=True)
        )
        for task in members:
            rule, there = task.definition, find_data(task, root) if task.suite.published else "with --data"
            season = f"season {rule.seasonality}"
            facts = f"unit {task.facts.unit:{units}}{task.facts.licence:{licences}}"
            what = f"horizon {rule.horizon:<5}{season:12}{rule.freq:7}{facts}{f'data: {there}' if there else ''}"
            typer.echo(f"  {task.name:{wide}}{what}".rstrip())
    typer.echo("\nUnit and licence: of the data; where they stand: suites/definitions/datasets.yaml.")


def _self_check(tasks: Sequence[BenchmarkTask], suites: Sequence[str], root: Path, json_file: Path | None) -> int:
    """Check tasks against published figures and print what they came to; returns the exit code."""
    without = [one.suite_name for one in tasks if not one.suite.published]
    if without:
        raise ConfigError(f"--suite {without[0]}: is over data of yours, so no figures are published to check.")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Name the folder of benchmark data with --data-root.")
    from foretrain.forecasting.outputs import scratch_files

    written = dash_as_stdout(json_file)
    files = [written] if written else []
    with spoken_beside(written), scratch_files(*files) as scratch:  # says before the work what cannot be written
        return run_self_check(tasks, suites, root, scratch.get(written) if written else None)


def run_self_check(tasks: Sequence[BenchmarkTask], suites: Sequence[str], root: Path, out: Path | None) -> int:
    """Check tasks, print what they came to, and write JSON if a file is named. Returns the exit code.

    Raises DataError if no task has its data.
    """
    from foretrain.atomic import write_json
    from foretrain.cli.commands import progress_bar
    from foretrain.suites.self_check import check_task, counts, report, source_of

    checks: list[TaskCheck] = []
    done = 0
    with progress_bar("checking") as advance:
        for suite, members in _by_suite(tasks):
            typer.echo(f"{suite}: published in {source_of(suite)}")
            wide = max(len(task.name) for task in members) + 2
            for task in members:
                advance(done, len(tasks), task.name)
                checks.append(check_task(task, root))
                done += 1
                if checks[-1].state != "absent":
                    typer.echo(_line(checks[-1], wide))
            for line in _absent([one for one in checks if one.suite == suite and one.state == "absent"]):
                typer.echo(line)
            typer.echo()
    found = counts(checks)
    if not any(found[state] for state in ("agreed", "disagreed", "failed")):
        raise DataError(f"{root}: no task of {len(checks)} has its data there. The lines above say what to put where.")
    typer.echo(_summary(checks))
    if out is not None:
        write_json(out, report(checks, suites or sorted({one.suite for one in checks}), root))
    return 1 if found["disagreed"] or found["failed"] else 0


def _line(check: TaskCheck, wide: int) -> str:
    """Return the line of a task that was checked."""
    if check.state == "failed":
        return f"  FAILED               {check.task:{wide}}{check.remedy}"
    digits = f"{check.digits} digit{'' if check.digits == 1 else 's'}"
    if check.state == "agreed":
        names = list(check.metrics)
        what = ", ".join(names) if len(names) <= 4 else f"{len(names)} metrics"
        return f"  agreed     {digits:10}{check.task:{wide}}{what}, {check.series:,} series, {check.seconds:.1f} s"
    parts = [
        f"{name} {one.found:.6g}, published {one.published:.6g} (ratio {one.ratio:.4g})"
        for name, one in check.metrics.items()
        if not one.agrees
    ]
    return f"  DISAGREED  {digits:10}{check.task:{wide}}{'; '.join(parts)}"


def _absent(checks: Sequence[TaskCheck]) -> list[str]:
    """Return what to put where, for tasks without data: one line for all that need the same files."""
    if not checks:
        return []
    by_remedy: dict[str, list[TaskCheck]] = defaultdict(list)
    for check in checks:
        by_remedy[check.remedy].append(check)
    lines = [f"  absent     {len(checks)} task{'' if len(checks) == 1 else 's'}:"]
    for remedy, missing in by_remedy.items():
        names = list(dict.fromkeys(check.dataset for check in missing))
        lines += [
            f"    put {remedy}:",
            *wrap(", ".join(names), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6),
        ]
    return lines


def _summary(checks: Sequence[TaskCheck]) -> str:
    from foretrain.suites.self_check import TOLERANCE, counts, decimals_of

    found = counts(checks)
    digits = [check.digits for check in checks if check.state == "agreed"]
    span = f" in {min(digits)} to {max(digits)} digits" if digits else ""
    rounded = {decimals_of(one.suite) for one in checks} - {None}
    or_rounded = " or half a unit of the last published decimal" if rounded else ""
    return (
        f"{len(checks) - found['absent']} of {len(checks)} tasks have data: {found['agreed']} agreed{span} "
        f"(within {TOLERANCE:g}, relative{or_rounded}), {found['disagreed']} disagreed, {found['failed']} failed; "
        f"{found['absent']} are absent."
    )


def _by_suite(tasks: Sequence[BenchmarkTask]) -> list[tuple[str, list[BenchmarkTask]]]:
    groups: dict[str, list[BenchmarkTask]] = defaultdict(list)
    for task in tasks:
        groups[task.suite_name].append(task)
    return list(groups.items())
