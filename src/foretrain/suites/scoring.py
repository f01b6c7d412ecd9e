"""Scores of a contestant on a benchmark task, shared over processes.

Windows are put into batches that do not depend on the number of processes; each batch is forecast by one of them, and
all of them return the same score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foretrain.distributed.world import World, of_lost_ranks
from foretrain.errors import ForetrainError
from foretrain.evaluation.library_metrics import Instances
from foretrain.evaluation.scored import Array, Ints
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.rows import Contestant, TaskRows
from foretrain.training.interrupt import ValidationInterrupted

SMALLEST_BATCH = 32  # rows; of small tasks less than batch_size, so that several processes have work


class ForecastFailed(ForetrainError):
    """A contestant has no score on a task: it raised an error, or gave forecasts that no metric can score."""


class OutOfTime(ForetrainError):
    """The time for a task was over before it was scored."""


@dataclass(frozen=True)
class TaskScore:
    """The metrics of a contestant on a task, under their published names, and what they are over."""

    metrics: dict[str, float]  # NaN = undefined on these data
    series: int  # items with a window
    windows: int  # of all items together
    variates: int  # targets of an item
    forecasts: int  # rows scored: the targets of all windows
    seconds: float  # for the forecasts, on the slowest process


def score_task(
    contestant: Contestant,
    task: BenchmarkTask,
    series: Sequence[BenchmarkSeries],
    *,
    batch_size: int = 256,
    world: World | None = None,
    until: float | None = None,
    rows: TaskRows | None = None,
    progress: Callable[[int], None] | None = None,
) -> TaskScore:
    """Return the score of a contestant on a task. All processes of the world call it together.

    Args:
        contestant: what forecasts.
        task: the task.
        series: its items.
        batch_size: most rows of a call of the contestant, unless a window has more; the score does not depend on it.
        world: processes that share the windows; None = this one.
        until: time.monotonic() at which to give up. A batch that has begun is finished.
        rows: the task's rows, if the caller has them already.
        progress: called with the number of windows of each batch that this process has finished.

    Raises:
        ForecastFailed: on every process alike, if the contestant failed on one of them.
        OutOfTime: on every process, if one reached `until` with batches left.
        DataError: the series have no window.
    """
    rows = rows or TaskRows(task, series)
    return score_instances(contestant, rows, batch_size=batch_size, world=world, until=until, progress=progress)[0]


def score_instances(
    contestant: Contestant,
    rows: TaskRows,
    *,
    batch_size: int = 256,
    world: World | None = None,
    until: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[TaskScore, Instances | None]:
    """Return the score of a contestant on the rows of a task, and truth and forecasts of all rows; as score_task.

    None for a suite of which sums of windows alone are kept.
    """
    task = rows.task
    kept, seconds = _all_kept(contestant, rows, batch_size, world or World(), until, progress)
    try:
        found = rows.metrics(kept)
        instances = None if rows.streams else rows.instances(kept)
    except ForetrainError as error:
        raise ForecastFailed(f"{contestant.name}: {error}") from None
    score = TaskScore(
        metrics={published: float(found[name]) for published, name in task.suite.metrics.items()},
        series=rows.num_items,
        windows=len(rows.cuts),
        variates=int(rows.widths.max()),
        forecasts=len(rows),
        seconds=seconds,
    )
    return score, instances


def batches_of(rows: TaskRows, batch_size: int) -> list[Ints]:
    """Return windows of similar lengths, longest first, in batches: their numbers."""
    order = np.argsort(-rows.steps(), kind="stable")
    size = int(np.clip(len(rows) // 16, min(SMALLEST_BATCH, batch_size), batch_size))
    batches: list[list[int]] = []
    filled = size
    for window in order.tolist():
        width = int(rows.widths[window])
        if filled + width > size:
            batches.append([])
            filled = 0
        batches[-1].append(window)
        filled += width
    return [np.array(batch, np.int64) for batch in batches]


def forecast_batch(contestant: Contestant, rows: TaskRows, windows: Ints) -> Array:
    """Return a contestant's forecasts (N, 1 + Q, H) of windows. Raises ForecastFailed for those of another shape."""
    given = [rows.window(int(k), with_covariates=contestant.takes_covariates) for k in windows]
    found = np.asarray(contestant.forecast(given, rows.task), np.float64)
    task = rows.task
    expected = (sum(len(one.targets) for one in given), 1 + len(task.suite.quantile_levels), task.definition.horizon)
    if found.shape != expected:
        raise ForecastFailed(f"{contestant.name}: forecasts have shape {found.shape}; (N, 1 + Q, H) is {expected}.")
    return found


def _all_kept(
    contestant: Contestant,
    rows: TaskRows,
    batch_size: int,
    world: World,
    until: float | None,
    progress: Callable[[int], None] | None,
) -> tuple[Array, float]:
    """Return what is kept of all windows, and the seconds of the slowest process. Raises as score_task."""
    batches, done, problem = batches_of(rows, batch_size), dict[int, Array](), None
    began, broken_off = time.monotonic(), False
    try:
        with world.watch.own_work():
            own = range(world.rank, len(batches), world.size)
            for number in own:
                if until is not None and time.monotonic() >= until:
                    text = f"the time was over after {len(done):,} of {len(own):,} batches of this process."
                    raise OutOfTime(f"{contestant.name}: {text}")
                world.watch.tick("benchmark")
                done[number] = rows.kept(batches[number], forecast_batch(contestant, rows, batches[number]))
                if progress is not None:
                    progress(len(batches[number]))
    except Exception as error:  # any: it is the contestant's, and other processes wait for this one
        if of_lost_ranks(error):
            raise
        problem = error
    except ValidationInterrupted:
        if world.size == 1:
            raise
        broken_off = True
    _agree(contestant, problem, world)
    parts = world.gather_objects(None if broken_off else (done, time.monotonic() - began))
    if any(part is None for part in parts):
        raise ValidationInterrupted
    kept = rows.empty()
    for part in parts:
        for number, values in part[0].items() if part else ():
            kept[rows.places(batches[number].tolist())] = values
    return kept, max(part[1] for part in parts if part)


def _agree(contestant: Contestant, problem: Exception | None, world: World) -> None:
    """Raise the error of the first process that has one, on every process."""
    own = None if problem is None else (isinstance(problem, OutOfTime), _told(contestant, problem))
    found = next((told for told in world.gather_objects(own) if told is not None), None)
    if found is None:
        return
    out_of_time, text = found
    raise (OutOfTime if out_of_time else ForecastFailed)(text) from problem


def _told(contestant: Contestant, error: Exception) -> str:
    """Return what an error says, in a line that names the contestant."""
    if isinstance(error, ForecastFailed | OutOfTime):
        return str(error)
    said = " ".join(str(error).split())[:300]
    if isinstance(error, ForetrainError):
        return f"{contestant.name}: {said}"
    return f"{contestant.name}: raised {type(error).__name__}{f': {said}' if said else ''}."
