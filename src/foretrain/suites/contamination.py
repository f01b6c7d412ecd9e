"""Whether the training of a model saw the data set of a benchmark task, and what its suite makes of that.

Three ways to know: what is published of official weights (models/training_data.py), among which are the ancestors of a
release; the dates of what a release and its ancestors record; and the values themselves, where corpora of training are
on disk (known_windows.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.store import Corpus
from foretrain.evaluation.overlap import TrainingRecord, is_apart, last_time
from foretrain.evaluation.scored import Array
from foretrain.forecasting.ancestry import Seen
from foretrain.notes import Code, Note
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.known_windows import LENGTH, KnownWindows
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.windows import Cut, windows_of

MOST_VALUES = 50_000_000  # of training that are compared: 45 s of a core; of more, a sample of series
MOST_WINDOWS = 100_000  # of a task that are looked for: 14 MB; of more, evenly spread ones
_EARLIER = 8  # windows of a series' history that are looked for
_SEED = 0  # of the sample of series

# The gravest first.
FLAGS = (
    Code.BENCHMARK_TEST_SEEN,
    Code.BENCHMARK_DATA_SEEN,
    Code.BENCHMARK_DATA_PERHAPS_SEEN,
    Code.BENCHMARK_DATA_UNKNOWN,
)
_BY_NAME: dict[str, Code] = {"saw_test": FLAGS[0], "trained_on": FLAGS[1], "perhaps": FLAGS[2], "unknown": FLAGS[3]}
_SAYS = {
    FLAGS[0]: "was trained on {0}, the scored windows included",
    FLAGS[1]: "was trained on {0}, at least on what comes before the scored windows",
    FLAGS[2]: "may have seen {0}: its series are in other data that it was trained on",
    FLAGS[3]: "may have seen {0}: which data sets it was trained on is not published",
}
# What a suite counts as seen. GIFT-Eval: its test windows alone; Chronos and fev: the data set.
_COUNTS = {"gift-eval": FLAGS[:1], "fev": FLAGS[:2], "offset": FLAGS[:2], "ltsf": FLAGS[:2]}
_MAKES_OF_IT = {
    "gift-eval": "the model's testdata_leakage is Yes",
    "fev": "trained_on_this_dataset is True, and leaderboards replace the score by that of a model that saw nothing",
    "offset": "this is an in-domain score, no zero-shot one",
    "ltsf": "this is no zero-shot score",
}
_MARKS: dict[str, str] = dict(zip(FLAGS, ("SEEN", "SEEN", "perhaps seen", "unknown"), strict=True))


class ComparedValues(NamedTuple):
    """What looking for a task's windows in corpora of training came to."""

    scored: int  # windows, each variate one, with steps that can be looked for
    found: int  # of them whose truth is in the corpora
    earlier: int  # windows of history that are in the corpora
    looked_for: int  # windows of history that were looked for
    left_out: int  # scored windows that no value can tell: too short, not observed, constant, or ramps
    values: int  # of the corpora that were compared,
    of_values: int  # of so many


def flags_of(
    task: BenchmarkTask,
    facts: Mapping[str, Any] | None,
    series: Sequence[BenchmarkSeries] | None = None,
    *,
    corpora: Sequence[Corpus] = (),
) -> list[Note]:
    """Return notes on what training saw of a task's data set, the gravest first; [] if it saw nothing of it.

    Args:
        task: the benchmark task.
        facts: the record of the model, as Predictor.facts; {} = nothing is recorded; None = a model without training,
            such as a baseline.
        series: the task's series, for the dates of its windows and for their values.
        corpora: corpora on disk that training used. Those among the model's record count as far as it did not hold
            them out for test, others wholly.
    """
    if facts is None:
        return []
    record = TrainingRecord(dict(facts))
    notes = _by_name(task, record)
    by_value = [rule for rule in record.rules if any(rule.is_of(corpus.fingerprint) for corpus in corpora)]
    if series is not None and corpora:
        notes += _by_value(task, compare_values(task, series, corpora, by_value), corpora)
    notes += _by_record(task, record, [rule for rule in record.rules if rule not in by_value], series)
    named = {by for by, _, _ in record.published}
    nothing_own = not record.own and "" not in named and not corpora
    unknown = [record.name(by) for by in record.ancestry.unknown if by not in named]
    if nothing_own or unknown:
        who = "the model" if nothing_own else " and ".join(unknown[:2])
        text = f"may have seen {task.definition.dataset}: what it was trained on is not recorded"
        notes.append(Note(Code.BENCHMARK_DATA_UNKNOWN, f"{who} {text}."))
    return sorted(notes, key=lambda note: FLAGS.index(Code(note.code)))


def counts_as_seen(task: BenchmarkTask, flags: Iterable[Note]) -> bool:
    """Return whether the task's suite counts its data as seen by training."""
    return any(note.code in _COUNTS[task.suite.rule] for note in flags)


def flag_lines(task: BenchmarkTask, flags: Sequence[Note]) -> list[str]:
    """Return what to print beside a score: a line a flag, and what the suite makes of them."""
    lines = [f"{_MARKS[note.code]}: {note.text}" for note in flags]
    return [*lines, f"So {_MAKES_OF_IT[task.suite.rule]}."] if counts_as_seen(task, flags) else lines


def mark_of(codes: Iterable[str]) -> str:
    """Return the mark of the gravest of some flags, for a table; "" without any."""
    found = set(codes)
    return next((_MARKS[code] for code in FLAGS if code in found), "")


def compare_values(
    task: BenchmarkTask,
    series: Sequence[BenchmarkSeries],
    corpora: Sequence[Corpus],
    rules: Sequence[Seen] = (),
    most_values: int = MOST_VALUES,
) -> ComparedValues:
    """Look for the windows of a task, and for some of the history before them, in corpora of training.

    A scored window is found if LENGTH steps that end in its truth are there, of which all but the truth are history.

    rules: what was held out of the corpora; of one without a rule every step counts.
    """
    cuts = windows_of(task, series)
    windows, owner = _windows(task, series, cuts)
    known = KnownWindows(windows)
    values, of_values = 0, sum(corpus.num_rows * len(corpus.columns) for corpus in corpora)
    for corpus, index in _sampled(corpora, most_values):
        own = [rule for rule in rules if rule.is_of(corpus.fingerprint)]
        rows = corpus.length(index) if not own else corpus.length(index) - min(rule.test_steps for rule in own)
        for row in corpus.values(index):
            known.look_into(row[: max(rows, 0)])
            values += len(row)
    scored = owner >= 0
    telling, found = np.unique(owner[scored & known.telling]), np.unique(owner[scored & known.found])
    variates = sum(len(series[cut.series].variates) for cut in cuts)
    earlier = ~scored & known.telling
    return ComparedValues(
        scored=len(telling),
        found=len(found),
        earlier=int((earlier & known.found).sum()),
        looked_for=int(earlier.sum()),
        left_out=variates - len(telling),
        values=values,
        of_values=of_values,
    )


def _by_name(task: BenchmarkTask, record: TrainingRecord) -> list[Note]:
    """Return a note for each published weights among the model and its ancestors that saw the data set, or may have."""
    notes, dataset, hub = list[Note](), task.definition.dataset, task.suite.hub
    for by, name, weights in record.published:
        sets = None if hub is None else weights.sets.get(hub.repository)
        seen = "unknown" if sets is None else sets.seen(dataset)
        if seen == "unseen":
            continue
        code = _BY_NAME[seen]
        whose = f"{name} ({record.name(by)})" if by else name
        source = "" if sets is None else f" ({sets.source})"
        counts = {"generation": by.count(".") + 1} if by else {}
        notes.append(Note(code, f"{whose} {_SAYS[code].format(dataset)}{source}.", counts))
    return notes


def _by_record(
    task: BenchmarkTask, record: TrainingRecord, rules: Sequence[Seen], series: Sequence[BenchmarkSeries] | None
) -> list[Note]:
    """Return a note if real corpora of training may hold the days of the scored windows."""
    real = [rule for rule in rules if not is_apart(rule, True) and not record.is_in_the_box(rule)]
    if not real:
        return []
    first, dated = _first_truth(task, series), [rule for rule in real if rule.date_range]
    dataset = task.definition.dataset
    if first is None or len(dated) < len(real):
        rule = next((rule for rule in real if not rule.date_range), real[0])
        who = record.name(rule.by) or "the model"
        text = f"{who} may have seen {dataset}: it was trained on {rule.name or 'a corpus'}, without dates to compare."
        return [Note(Code.BENCHMARK_DATA_UNKNOWN, text)]
    newest = max(dated, key=last_time)
    if first > last_time(newest):
        return []
    who = record.name(newest.by) or "the model"
    text = (
        f"{who} may have seen {dataset}: it was trained on {newest.name or 'a corpus'} with days up to "
        f"{last_time(newest).astype('datetime64[D]')}, and windows start on {first.astype('datetime64[D]')}."
    )
    return [Note(Code.BENCHMARK_DATA_PERHAPS_SEEN, text)]


def _by_value(task: BenchmarkTask, found: ComparedValues, corpora: Sequence[Corpus]) -> list[Note]:
    """Return a note on windows that corpora of training hold, or if only some values could be compared."""
    names = ", ".join(corpus.name for corpus in corpora[:3]) + (", ..." if len(corpora) > 3 else "")
    counts = {"windows": found.found, "scored": found.scored, "left_out": found.left_out, "values": found.values}
    if found.found or found.earlier:
        code = Code.BENCHMARK_TEST_SEEN if found.found else Code.BENCHMARK_DATA_SEEN
        what = (
            f"{found.found:,} of {found.scored:,} scored windows"
            if found.found
            else f"{found.earlier:,} of {found.looked_for:,} windows of history, and no scored one,"
        )
        text = f"{what} of {task.definition.dataset} are in {names} by their values, up to scale and offset."
        return [Note(code, text, counts)]
    if not found.scored or found.values < found.of_values:
        why = (
            f"no window of {LENGTH} steps can be told by its values"
            if not found.scored
            else f"only {found.values:,} of {found.of_values:,} values of {names} were compared"
        )
        return [Note(Code.BENCHMARK_DATA_UNKNOWN, f"{task.definition.dataset} may be in {names}: {why}.", counts)]
    return []


def _windows(task: BenchmarkTask, series: Sequence[BenchmarkSeries], cuts: Sequence[Cut]) -> tuple[Array, np.ndarray]:
    """Return windows (N, LENGTH) to look for, and the number (N,) of the scored window of each, -1 of history."""
    rows, owner = list[Array](), list[int]()
    number, horizon = 0, task.definition.horizon
    first: dict[int, int] = {}
    for cut in cuts:
        first[cut.series] = min(cut.cutoff, first.get(cut.series, cut.cutoff))
        for values in series[cut.series].values:
            end = cut.cutoff + horizon
            for stop in range(end, cut.cutoff, -LENGTH):
                if stop >= LENGTH:
                    rows.append(values[stop - LENGTH : stop])
                    owner.append(number)
            number += 1
    for index, cutoff in first.items():
        for values in series[index].values:
            for stop in range(cutoff, max(cutoff - _EARLIER * LENGTH, LENGTH - 1), -LENGTH):
                rows.append(values[stop - LENGTH : stop])
                owner.append(-1)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_WINDOWS)).astype(np.int64))
    kept = [rows[k] for k in chosen.tolist()]
    return np.array(kept, np.float64).reshape(len(kept), LENGTH), np.array(owner, np.int64)[chosen]


def _sampled(corpora: Sequence[Corpus], most_values: int) -> Iterable[tuple[Corpus, int]]:
    """Yield the series of corpora in the order of the files; of more than most_values values a sample, by a seed."""
    total = sum(corpus.num_rows * len(corpus.columns) for corpus in corpora)
    rng, share = np.random.default_rng(_SEED), min(1.0, most_values / max(total, 1))
    for corpus in corpora:
        taken = rng.random(corpus.num_series) < share if share < 1 else np.ones(corpus.num_series, bool)
        yield from ((corpus, int(index)) for index in np.flatnonzero(taken))


def _first_truth(task: BenchmarkTask, series: Sequence[BenchmarkSeries] | None) -> np.datetime64 | None:
    """Return the first stamp of truth among a task's windows; None without series or stamps."""
    if series is None or any(one.stamps is None for one in series):
        return None
    found = [(series[cut.series].stamps, cut.cutoff) for cut in windows_of(task, series)]
    return min(stamps[cutoff] for stamps, cutoff in found if stamps is not None)
