"""`foretrain benchmark MODEL...`: models on the tasks of suites, or on data of the user."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from foretrain.data.store import Corpus
from foretrain.distributed.held import held
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.baselines import STATISTICAL
from foretrain.evaluation.statistical import USUAL_SECONDS
from foretrain.notes import Note
from foretrain.suites.contamination import flag_lines
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.result_folders import result_locks
from foretrain.suites.results import TaskResult
from foretrain.suites.run import BenchmarkRun, Entrant, Outcome, Trial
from foretrain.suites.score import TaskData
from foretrain.suites.tables import in_unit_of_data, label_of, number, remark_of, unit_lines

AGAIN = "by the same command; finished tasks are kept"  # what to do where a rank is gone


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    models: tuple[str, ...]
    tasks: tuple[BenchmarkTask, ...]  # empty for data of the user
    root: Path
    out: Path
    data: Path | None = None
    horizon: int = 0
    windows: int = 1
    seasonality: int | None = None
    look_back: int | None = None
    trained_on: tuple[Path, ...] = ()
    tokenizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[str, ...] | None = None  # of data of the user; None = all
    max_items: int | None = None
    batch_size: int = 256
    max_memory: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    dry_run: bool = False
    baseline_seconds: float | None = None  # for a statistical baseline on a task; None = the usual ones


def benchmark_models(request: Request) -> int:
    """Score models, print what they came to, and return the exit code: 1 if one failed on a task.

    Raises DataError if no task has its data, ConfigError and ModelError for models that cannot be had.
    """
    locks = [] if request.dry_run else result_locks(request.out, request.models)
    started = World.start(request.device, request.threads, again=AGAIN)
    with started as world, world.phase("evaluation"), held(world, *locks):
        entrants = [entrant_of(name, request, world) for name in request.models]
        _require_use_of_options(request, entrants)
        tasks, load = request.tasks, None
        if request.data is not None:
            tasks, load = (_market if tasks else _local)(request.data, request)
        if request.look_back is not None:
            tasks = tuple(with_look_back(task, request.look_back) for task in tasks)
        from foretrain.cli.commands import progress_bar

        with progress_bar("scoring") if world.is_main else nullcontext() as advance:
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
            present = [task for task in tasks if run.present(task)]
            if not present:
                needed = run.remedy(tasks[0])
                raise DataError(f"none of {len(tasks)} tasks has its data. For {tasks[0].name}: put {needed}.")
            say = _printed if world.is_main else _silent
            if request.dry_run:
                return _dry_run(run, present, say)
            if request.trained_on:
                run = with_corpora(run, present, request.trained_on, say)
            outcomes = _scored(run, present, say)
        say("")
        for line in table([outcome.result for outcome in outcomes]):
            say(line)
        absent = len(tasks) - len(present)
        say(summary(outcomes, absent, request.out))
        return 1 if any(outcome.result.state == "failed" for outcome in outcomes) else 0


def with_corpora(run: BenchmarkRun, tasks: Sequence[BenchmarkTask], paths: Sequence[Path], say: Any) -> BenchmarkRun:
    """Return a run that knows what of the tasks is in corpora of training. Raises ConfigError for one without use."""
    from foretrain.data.frames import open_input

    began, corpora = time.monotonic(), [open_input(path).corpus for path in paths]
    found = run.looked_into(corpora, tasks)
    names = ", ".join(corpus.name for corpus in corpora)
    count = f"{len(tasks):,} task{'' if len(tasks) == 1 else 's'}"
    say(f"looked for the windows of {count} in {names}: {time.monotonic() - began:,.1f} s")
    return found


def _scored(run: BenchmarkRun, tasks: Sequence[BenchmarkTask], say: Any) -> list[Outcome]:
    """Score all tasks; say a line for each result."""
    found: list[Outcome] = []
    for task in tasks:
        for outcome in run.outcomes(task):
            result = outcome.result
            word = "kept" if outcome.kept else result.state
            took = "" if result.state == "failed" else f"{result.seconds:,.1f} s on {_where(result)}"
            say(f"{word:7}{result.suite}/{result.task}  {result.model}  {result.error or took}".rstrip())
            for note in () if outcome.kept else result.notes:
                say(f"       {note}")
            for line in flag_lines(task, [Note(flag["code"], flag["text"]) for flag in result.flags]):
                say(f"       {line}")
            found.append(outcome)
    return found


def _where(result: TaskResult) -> str:
    return result.device if result.processes == 1 else f"{result.processes} x {result.device}"


def _dry_run(run: BenchmarkRun, tasks: Sequence[BenchmarkTask], say: Any) -> int:
    """Say what each task will cost; returns 1 if a model fails on its batch, or a task's data cannot be used."""
    code = 0
    total: dict[str, float] = {}
    for task in tasks:
        try:
            trials = run.trials(task)
        except DataError as error:
            say(f"{task.suite_name}/{task.name}: {error}")
            code = 1
            continue
        rows = trials[0].rows
        say(
            f"{trials[0].task}: {rows.num_items:,} series{_part(rows.sample)}, {len(rows.cuts):,} windows, "
            f"{len(rows):,} forecasts of {task.definition.horizon} steps"
        )
        for trial in trials:
            say(f"  {trial.model}: {_cost(trial)}")
            code = 1 if trial.seconds is None else code
            if trial.seconds is not None:
                total[trial.model] = total.get(trial.model, 0.0) + trial.seconds
    for model, seconds in total.items():
        say(f"{model}: about {seconds:,.0f} s for all that could be tried")
    say("Nothing was written. Seconds are those of one process, measured on a batch of a few windows.")
    return code


def _cost(trial: Trial) -> str:
    if trial.seconds is None:
        return f"time unknown: {trial.why}"
    over = trial.limit is not None and trial.seconds > trial.limit
    more = f": more than its {trial.limit:,.0f} s (--baseline-seconds), so one process would fail" if over else ""
    return f"about {trial.seconds:,.1f} s{more}"


def _part(sample: Any) -> str:
    return "" if sample is None else f" (a sample of {sample.of:,}, seed {sample.seed})"


def summary(outcomes: Sequence[Outcome], absent: int, out: Path) -> str:
    """Return the last line: how many results are new, kept and failed."""
    failed = sum(outcome.result.state == "failed" for outcome in outcomes)
    kept = sum(outcome.kept for outcome in outcomes)
    text = f"{len(outcomes) - failed - kept} scored, {kept} kept, {failed} failed"
    lacking = f"; {absent} task{'' if absent == 1 else 's'} without data, which --self-check names" if absent else ""
    return f"{text}{lacking}. Results: {out}"


def table(results: Sequence[TaskResult]) -> list[str]:
    """Return the lines of a table of results: items, windows, and each shown metric beside that of seasonal naive."""
    lines: list[str] = []
    for suite in dict.fromkeys(result.suite for result in results):
        chosen = [result for result in results if result.suite == suite]
        names = _shown([result for result in chosen if result.baseline] or chosen)
        head = ["task", "model", "items", "windows"]
        head += [part for name in names for part in (label_of(name), "s.naive", "ratio")]
        cells = [head, *([*_first(result), *_figures(result, names)] for result in chosen)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        lines.append(f"{suite}:")
        for row, result in zip(cells, [None, *chosen], strict=True):
            parts = [
                cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(f"  {'  '.join(parts)}  {'' if result is None else remark_of(result)}".rstrip())
        lines += _legend(chosen, names)
        if suite.startswith("market-"):
            lines += _of_prices(chosen)
    return lines


def _of_prices(results: Sequence[TaskResult]) -> list[str]:
    """Return the lines of a second table, of metrics that have a meaning for prices alone."""
    columns = {
        "pct_mae": "MAE %", "pct_rmse": "RMSE %", "pct_r2": "R2", "coverage_80_share": "inside 80%",
        "direction_accuracy_share": "direction", "direction_up_share": "went up",
    }  # fmt: skip
    cells = [["task", "model", *columns.values()]]
    cells += [[r.task, r.model, *(number(r.metrics.get(name), 4) for name in columns)] for r in results]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        f"  {'  '.join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))}"
        for row in cells
    ]
    return [
        *lines,
        "  MAE, RMSE: percent of the last close (1.16 is 1.16 %). R2: of returns from the last close, not of prices.",
        "  inside 80%, direction, went up: shares. direction: of steps that moved, those whose side of the last close",
        "  was forecast; went up: those above it, what always saying up scores. -: undefined.",
    ]


def _shown(results: Sequence[TaskResult]) -> list[str]:
    """Return the metrics that a table shows; the JSON files have all."""
    names = list(results[0].baseline or results[0].metrics)
    wanted = ("MASE", "MASE[0.5]", "SQL", "WQL", "mean_weighted_sum_quantile_loss")
    return [name for name in names if name in wanted] or names


def _first(result: TaskResult) -> list[str]:
    return [result.task, result.model, f"{result.series:,}", f"{result.windows:,}"]


def _figures(result: TaskResult, names: Sequence[str]) -> list[str]:
    cells: list[str] = []
    for name in names:
        own, naive = result.metrics.get(name), result.baseline.get(name)
        ratio = None if own is None or not naive else own / naive
        cells += [number(own), number(naive), number(ratio, 3)]
    return cells


def _legend(results: Sequence[TaskResult], names: Sequence[str]) -> list[str]:
    labels = ", ".join(label_of(name) for name in names if not in_unit_of_data(name))
    lines = [
        f"  {f'{labels}: without unit; ' if labels else ''}lower is better; s.naive: the suite's seasonal naive; "
        "ratio: to it.",
        "  windows: of all items together. The JSON files have all metrics, seconds and devices.",
        *(f"  {line}" for line in unit_lines(results, names)),
    ]
    if any(result.max_items is not None for result in results):
        lines.append("  SAMPLE: figures of a part of the items, which compare with no published figure.")
    if any(result.flags for result in results):
        lines.append(
            "  TRAINING: whether the model's training saw the task's data; the lines above say how that is known."
        )
    return lines


def local_suites(paths: Sequence[Path], request: Request) -> list[tuple[BenchmarkTask, Callable[[], TaskData]]]:
    """Return the task of each of the user's data, and what loads it. Raises ConfigError for --items of no item."""
    from foretrain.data.frames import open_input
    from foretrain.suites.local import local_data, local_task

    corpora = [open_input(path).corpus for path in paths]
    return [
        (
            local_task(corpus, request.horizon, request.windows, request.seasonality),
            partial(local_data, corpus, str(path), items),
        )
        for path, corpus, items in zip(paths, corpora, _chosen(corpora, request), strict=True)
    ]


def _local(path: Path, request: Request) -> tuple[tuple[BenchmarkTask, ...], Any]:
    """Return the task of the user's data, and what loads it."""
    ((task, load),) = local_suites([path], request)
    return (task,), lambda _: load()


def _market(path: Path, request: Request) -> tuple[tuple[BenchmarkTask, ...], Any]:
    """Return the tasks of a market suite, and what loads the user's candles for each."""
    from foretrain.data.frames import open_input
    from foretrain.suites.market import candles_of, market_data

    opened = open_input(path)
    candles, (items,) = candles_of(opened.corpus, str(path)), _chosen([opened.corpus], request)
    return request.tasks, lambda task: market_data(task, candles, items)


def _chosen(corpora: Sequence[Corpus], request: Request) -> Sequence[list[int] | None]:
    """Return the items of each corpus to score; None = all. Raises ConfigError for --items of no item."""
    from foretrain.evaluation.items import items_by_name

    return [None] * len(corpora) if request.items is None else items_by_name(request.items, corpora)


def with_look_back(task: BenchmarkTask, steps: int) -> BenchmarkTask:
    """Return a task whose histories have other steps than its suite's. Results of it have another identity."""
    return replace(task, definition=task.definition.model_copy(update={"max_context": steps}))


def _require_use_of_options(request: Request, entrants: Sequence[Entrant]) -> None:
    """Raise ConfigError for options of models where none is loaded."""
    if any(entrant.num_parameters is not None for entrant in entrants):
        return
    given = {"--tokenizer": request.tokenizer, "--option": request.options}
    for flag, value in given.items():
        if value:
            raise ConfigError(f"{flag}: has no effect on baselines and functions. Leave it out.")


def entrant_of(name: str, request: Request, world: World) -> Entrant:
    """Return the contestant of a model's name. Raises ModelError or ConfigError."""
    from foretrain.evaluation.statistical import package_version
    from foretrain.suites.contestants import NAMES, baseline
    from foretrain.suites.fitted import LINEAR, StatisticalMethod, TaskLinear
    from foretrain.suites.user_function import UserFunction, is_function_name

    if name in NAMES:
        return Entrant(baseline(name), f"baseline:{NAMES[name]}")
    if name in STATISTICAL:
        version = package_version(name)  # imported here, so that no task's seconds have that
        seconds = request.baseline_seconds or USUAL_SECONDS
        return Entrant(
            StatisticalMethod(name), f"baseline:{name}, statsforecast {version}", dtype="float64", seconds=seconds
        )
    if name == LINEAR:
        return Entrant(TaskLinear(), f"baseline:{LINEAR}")
    if is_function_name(name) and not Path(name).exists():
        found = UserFunction.find(name)
        return Entrant(found, f"source:{found.source}", device="unknown", dtype="float64", facts={})
    return _loaded(name, request, world)


def _loaded(name: str, request: Request, world: World) -> Entrant:
    from foretrain.cli.commands import load_model
    from foretrain.forecasting.record import trained_context, with_recorded_options
    from foretrain.models import family, forecast_options
    from foretrain.models.hub import resolve
    from foretrain.models.output import recorded_output
    from foretrain.run.opening import openable
    from foretrain.suites.contestants import LoadedModel

    asked = world.on_main(lambda: openable(name))  # rank 0 writes or downloads what is missing for all
    folder = world.on_main(lambda: resolve(asked, None, False))
    predictor = load_model(asked, request.tokenizer, str(world.device), request.dtype)
    model, facts = predictor.model, predictor.facts
    of = family(model.family)
    options, output = forecast_options(of, with_recorded_options(facts, request.options)), recorded_output(facts)
    parents = {role: part.get("hash") for role, part in (facts.get("parents") or {}).items()}
    if request.tokenizer is not None:
        beside = world.on_main(lambda: resolve(openable(str(request.tokenizer)), None, False))
        parents["--tokenizer"] = world.on_main(lambda: content_hash(beside, {}))
    contestant = LoadedModel(
        name,
        model,
        context_length=trained_context(facts, model, None),
        output=output,
        options=options,
        batch_size=request.batch_size,
        max_memory=request.max_memory,
        takes_covariates=of.reads_covariates,
    )
    return Entrant(
        contestant,
        model_hash=world.on_main(lambda: content_hash(folder, facts)),
        device=str(world.device.type),
        dtype=request.dtype,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        context_length=contestant.longest,
        options={"family": model.family, "options": repr(options), "output": output.model_dump(), "parents": parents},
        facts=facts,
    )


def content_hash(folder: Path, facts: Mapping[str, Any]) -> str:
    """Return the sha256 that identifies a release, or an adapter with what it is an adapter of."""
    import hashlib
    import json

    from foretrain.models.hub import release_hash

    if (folder / "config.json").is_file():
        return release_hash(folder)
    digest = hashlib.sha256(json.dumps({r: p.get("hash") for r, p in (facts.get("parents") or {}).items()}).encode())
    for path in sorted(folder.glob("adapter*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _printed(text: str) -> None:
    typer.echo(text)


def _silent(text: str) -> None:
    pass
