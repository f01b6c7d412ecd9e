"""Look for the windows of tasks in corpora that models were trained on, by their values (known_windows.py).

Each corpus is read once, for all tasks and models together.

# N windows, S series, L = LENGTH steps
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray
from foretrain.errors import ConfigError
from foretrain.evaluation.overlap import TrainingRecord
from foretrain.evaluation.scored import Array
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.known_windows import LENGTH, KnownWindows
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.windows import windows_of

MOST_VALUES = 50_000_000  # of training that are compared: 45 s of a core; of more, a sample of series
MOST_WINDOWS = 100_000  # of a task that are looked for: 14 MB; of more, evenly spread ones
MOST_TOGETHER = 400_000  # of all tasks of a command: 150 MB
_EARLIER = 8  # windows of a series' history that are looked for
_SEED = 0  # of the sample of series

TaskName = tuple[str, str]  # suite, task


class TrainingPart(NamedTuple):
    """A corpus on disk that a model was trained on."""

    corpus: Corpus
    rows: IntArray | None = None  # (S,) oldest rows that were trained on or chose the weights; None = all
    recorded: bool = False  # by the model or one of its ancestors; else it is said to be so

    @property
    def fingerprints(self) -> list[str]:
        """Of the corpus, and of what it was before updates."""
        return [self.corpus.fingerprint, *(entry.fingerprint for entry in self.corpus.manifest.earlier)]


class ComparedValues(NamedTuple):
    """What looking for a task's windows in corpora of training came to."""

    scored: int  # windows, each variate one, with steps that were looked for
    found: int  # of them whose truth is in the corpora
    earlier: int  # windows of history that are in the corpora
    looked_for: int  # windows of history that were looked for
    left_out: int  # scored windows that no value can tell: too short, not observed, constant, or ramps
    windows: int  # that are scored, also those of too many to be looked for
    values: int  # of the corpora that were compared,
    of_values: int  # of so many


class _Wanted(NamedTuple):
    """What is looked for of a task."""

    windows: Array  # (N, L)
    owner: IntArray  # (N,) the number of the scored window of each, -1 of history
    scored: int  # windows that are scored, each variate one
    without: int  # of them without L steps


def training_parts(facts: Mapping[str, Any] | None, corpora: Sequence[Corpus]) -> tuple[TrainingPart, ...]:
    """Return corpora as the training of a model used them: recorded ones without what it held out for test.

    All others count wholly. A model without training, whose facts are None, used none.
    """
    if facts is None:
        return ()
    record, found = TrainingRecord(dict(facts)), list[TrainingPart]()
    for corpus in corpora:
        extents = record.extents(corpus)
        rows = np.max([extent.chosen for extent in extents], axis=0) if extents else None
        found.append(TrainingPart(corpus, rows, recorded=bool(extents)))
    return tuple(found)


def parts_of_models(
    facts: Mapping[str, Mapping[str, Any] | None], corpora: Sequence[Corpus]
) -> dict[str, tuple[TrainingPart, ...]]:
    """Return which of some corpora count for each model that any does; facts: records by model, as training_parts.

    A corpus that models record counts for these; one that none does for those whose record may not name all of their
    training: models without one, and those made of such. Raises ConfigError for a corpus that counts for no model.
    """
    named = {model: training_parts(record, corpora) for model, record in facts.items()}
    recorded = {id(part.corpus) for parts in named.values() for part in parts if part.recorded}
    found = dict[str, tuple[TrainingPart, ...]]()
    for model, parts in named.items():
        is_open = _is_open(facts[model])
        own = [part for part in parts if part.recorded or (is_open and id(part.corpus) not in recorded)]
        if own:
            found[model] = tuple(own)
    used = {id(part.corpus) for parts in found.values() for part in parts}
    lost = next((corpus for corpus in corpora if id(corpus) not in used), None)
    if lost is not None:
        raise ConfigError(
            f"--trained-on {lost.origin or lost.name}: counts for no model here, as their records name all that they "
            "were trained on, and not this corpus. Give it as it was then, or leave it out."
        )
    return found


def _is_open(facts: Mapping[str, Any] | None) -> bool:
    """Return whether a model may have been trained on what its record does not name."""
    if facts is None:
        return False
    record = TrainingRecord(dict(facts))
    return not record.own or bool(record.ancestry.unknown)


def compare_values(
    task: BenchmarkTask,
    series: Sequence[BenchmarkSeries],
    parts: Sequence[TrainingPart],
    most_values: int = MOST_VALUES,
) -> ComparedValues:
    """Look for the windows of a task, and for some of the history before them, in corpora of training.

    A scored window is found if LENGTH steps that end in its truth are there, of which all but the truth are history.
    """
    found = compare_all([(task, series)], {"": parts}, most_values=most_values)
    return found["", (task.suite_name, task.name)]


def compare_all(
    tasks: Iterable[tuple[BenchmarkTask, Sequence[BenchmarkSeries]]],
    parts: Mapping[str, Sequence[TrainingPart]],
    *,
    most_windows: int = MOST_WINDOWS,
    most_values: int = MOST_VALUES,
) -> dict[tuple[str, TaskName], ComparedValues]:
    """Return what looking for the windows of each task in the corpora of each model came to, by model and task.

    Args:
        tasks: tasks with their series, which are let go one by one.
        parts: corpora by the model that was trained on them.
        most_windows: of a task that are looked for.
        most_values: of all corpora together that are read.
    """
    wanted = {(task.suite_name, task.name): _wanted(task, series, most_windows) for task, series in tasks}
    if not wanted:
        return {}
    known = KnownWindows(np.concatenate([one.windows for one in wanted.values()]), readers=len(parts))
    corpora = list({id(part.corpus): part.corpus for of in parts.values() for part in of}.values())
    read = dict.fromkeys(map(id, corpora), 0)
    limits = [{id(part.corpus): part for part in of} for of in parts.values()]
    for corpus, index in _sampled(corpora, most_values):
        known_to = [_rows(of.get(id(corpus)), index) for of in limits]
        for row in corpus.values(index):
            known.look_into(row, known_to)
            read[id(corpus)] += len(row)
    found = dict[tuple[str, TaskName], ComparedValues]()
    for reader, (model, of) in enumerate(parts.items()):
        own = {id(part.corpus): part.corpus for part in of}
        values = sum(read[key] for key in own), sum(one.num_rows * len(one.columns) for one in own.values())
        first = 0
        for name, one in wanted.items():
            place = slice(first, first := first + len(one.windows))
            found[model, name] = _counted(one, known.telling[place], known.found_by[reader, place], *values)
    return found


def _rows(part: TrainingPart | None, index: int) -> int:
    """Return how many of the oldest rows of a series a model was trained on."""
    if part is None:
        return 0
    return part.corpus.length(index) if part.rows is None else int(part.rows[index])


def _counted(wanted: _Wanted, telling: Any, found: Any, values: int, of_values: int) -> ComparedValues:
    scored, earlier = wanted.owner >= 0, (wanted.owner < 0) & telling
    told = len(np.unique(wanted.owner[scored & telling]))
    return ComparedValues(
        scored=told,
        found=len(np.unique(wanted.owner[scored & found])),
        earlier=int((earlier & found).sum()),
        looked_for=int(earlier.sum()),
        left_out=wanted.without + len(np.unique(wanted.owner[scored])) - told,
        windows=wanted.scored,
        values=values,
        of_values=of_values,
    )


def _wanted(task: BenchmarkTask, series: Sequence[BenchmarkSeries], most: int) -> _Wanted:
    """Return the windows of a task to look for, of too many evenly spread ones."""
    cuts, horizon = windows_of(task, series), task.definition.horizon
    of, cutoff = np.array([cut.series for cut in cuts]), np.array([cut.cutoff for cut in cuts])
    variates = np.array([len(one.variates) for one in series])
    end = cutoff + horizon
    # pieces of L steps from the end of the truth back, as long as they end in the truth and begin in the series
    pieces = np.maximum(np.minimum(-(-horizon // LENGTH), end // LENGTH), 0)
    first = np.full(len(series), np.iinfo(np.int64).max)
    np.minimum.at(first, of, cutoff)
    history = np.where(np.isin(np.arange(len(series)), of), np.minimum(_EARLIER, first // LENGTH), 0)
    rows_scored, rows_history = np.cumsum(pieces * variates[of]), np.cumsum(history * variates)
    scored, total = int(rows_scored[-1]), int(rows_scored[-1] + rows_history[-1])
    chosen = np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64)) if total else np.empty(0, np.int64)
    windows, owner = np.empty((len(chosen), LENGTH)), np.full(len(chosen), -1)
    numbers = np.cumsum(variates[of]) - variates[of]  # of the first variate of each cut
    for place, row in enumerate(chosen.tolist()):
        if row < scored:
            cut = int(np.searchsorted(rows_scored, row, side="right"))
            variate, piece = divmod(row - int(rows_scored[cut] - pieces[cut] * variates[of[cut]]), int(pieces[cut]))
            item, stop = int(of[cut]), int(end[cut]) - piece * LENGTH
            owner[place] = numbers[cut] + variate
        else:
            item = int(np.searchsorted(rows_history, row - scored, side="right"))
            before = int(rows_history[item] - history[item] * variates[item])
            variate, piece = divmod(row - scored - before, int(history[item]))
            stop = int(first[item]) - piece * LENGTH
        windows[place] = series[item].values[variate, stop - LENGTH : stop]
    without = int(variates[of][pieces == 0].sum())
    return _Wanted(windows, owner, int(variates[of].sum()), without)


def _sampled(corpora: Sequence[Corpus], most_values: int) -> Iterable[tuple[Corpus, int]]:
    """Yield the series of corpora in the order of the files; of more than most_values values a sample, by a seed."""
    total = sum(corpus.num_rows * len(corpus.columns) for corpus in corpora)
    rng, share = np.random.default_rng(_SEED), min(1.0, most_values / max(total, 1))
    for corpus in corpora:
        taken = rng.random(corpus.num_series) < share if share < 1 else np.ones(corpus.num_series, bool)
        yield from ((corpus, int(index)) for index in np.flatnonzero(taken))
