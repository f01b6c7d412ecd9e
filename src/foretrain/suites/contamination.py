"""Whether the training of a model saw the data set of a benchmark task, and what its suite makes of that.

Three ways to know: what is published of official weights (models/training_data.py), among which are the ancestors of a
release; the dates of what a release and its ancestors record; and the values themselves, where corpora of training are
on disk (seen_values.py). Data of the user are a corpus, whose steps are compared with the record as evaluations do
(evaluation/overlap.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.splits import Origin
from foretrain.data.store import Corpus
from foretrain.evaluation.overlap import TrainingRecord, check_overlap, is_apart, last_time
from foretrain.forecasting.ancestry import Seen
from foretrain.notes import Code, Note
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.known_windows import LENGTH
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.seen_values import ComparedValues, TrainingPart, compare_values, training_parts
from foretrain.suites.windows import windows_of

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
# Of data of the user: these too, as models are trained on what comes before.
_OWN = "own"
_COUNTS = {"gift-eval": FLAGS[:1], "fev": FLAGS[:2], "offset": FLAGS[:2], "ltsf": FLAGS[:2], _OWN: FLAGS[:1]}
_MAKES_OF_IT = {
    "gift-eval": "the model's testdata_leakage is Yes",
    "fev": "trained_on_this_dataset is True, and leaderboards replace the score by that of a model that saw nothing",
    "offset": "this is an in-domain score, no zero-shot one",
    "ltsf": "this is no zero-shot score",
    _OWN: "this is no score on data that training never saw",
}
_MARKS: dict[str, str] = dict(zip(FLAGS, ("SEEN", "SEEN", "perhaps seen", "unknown"), strict=True))
# What evaluations say of the windows of a corpus.
_BY_OVERLAP: dict[str, Code] = {
    Code.TRAINING_SAW_WINDOWS: FLAGS[0],
    Code.VALIDATION_SAW_WINDOWS: FLAGS[0],
    Code.BEFORE_TRAINING_CUTOFF: FLAGS[2],
    Code.TRAINING_SAW_DAYS: FLAGS[2],
    Code.TRAINING_MAY_HAVE_SEEN_DAYS: FLAGS[2],
    Code.TRAINING_UNKNOWN: FLAGS[3],
    Code.ANCESTRY_UNKNOWN: FLAGS[3],
    Code.TRAINING_CANNOT_BE_COMPARED: FLAGS[3],
}


class OwnData(NamedTuple):
    """The corpus of the user that the series of a task are from."""

    corpus: Corpus
    items: tuple[int, ...]  # of the corpus, for each series


class SeenValues(NamedTuple):
    """Corpora on disk that a model was trained on, and what looking for a task's windows in them came to."""

    parts: tuple[TrainingPart, ...]
    found: ComparedValues


def flags_of(
    task: BenchmarkTask,
    facts: Mapping[str, Any] | None,
    series: Sequence[BenchmarkSeries] | None = None,
    *,
    corpora: Sequence[Corpus] = (),
    seen: SeenValues | None = None,
    own: OwnData | None = None,
) -> list[Note]:
    """Return notes on what training saw of a task's data set, the gravest first; [] if it saw nothing of it.

    Args:
        task: the benchmark task.
        facts: the record of the model, as Predictor.facts; {} = nothing is recorded; None = a model without training,
            such as a baseline.
        series: the task's series, for the dates of its windows and for their values.
        corpora: corpora on disk that training used. Those among the model's record count as far as it did not hold
            them out for test, others wholly.
        seen: what looking for the task's windows in them came to, if that is known.
        own: the corpus that the series are from, if it is the user's own.
    """
    if facts is None:
        return []
    record = TrainingRecord(dict(facts))
    if seen is None and corpora and series is not None:
        parts = training_parts(facts, corpora)
        seen = SeenValues(parts, compare_values(task, series, parts))
    notes = [] if seen is None else _by_value(task, seen)
    if own is not None and series is not None:
        known = seen is not None and not record.own and not record.published
        found = _by_overlap(task, facts, series, own)
        notes += [note for note in found if not (known and note.code == FLAGS[3])]
    else:
        notes += _by_name(task, record)
        compared = [] if seen is None else [name for part in seen.parts for name in part.fingerprints]
        rules = [rule for rule in record.rules if not any(rule.is_of(name) for name in compared)]
        notes += _by_record(task, record, rules, series)
        notes += _without_record(task, record, known=seen is not None)
    return sorted(notes, key=lambda note: FLAGS.index(Code(note.code)))


def counts_as_seen(task: BenchmarkTask, flags: Iterable[Note]) -> bool:
    """Return whether the task's suite counts its data as seen by training."""
    return any(note.code in _COUNTS[_rule(task)] for note in flags)


def flag_lines(task: BenchmarkTask, flags: Sequence[Note]) -> list[str]:
    """Return what to print beside a score: a line a flag, and what the suite makes of them."""
    lines = [f"{_MARKS[note.code]}: {note.text}" for note in flags]
    return [*lines, f"So {_MAKES_OF_IT[_rule(task)]}."] if counts_as_seen(task, flags) else lines


def mark_of(codes: Iterable[str]) -> str:
    """Return the mark of the gravest of some flags, for a table; "" without any."""
    found = set(codes)
    return next((_MARKS[code] for code in FLAGS if code in found), "")


def _rule(task: BenchmarkTask) -> str:
    """Return what decides which flags count: the rule of the suite, or that of data of the user."""
    return task.suite.rule if task.suite.published else _OWN


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


def _without_record(task: BenchmarkTask, record: TrainingRecord, *, known: bool) -> list[Note]:
    """Return a note if it is not recorded what a model was trained on. known: it is said, if not recorded."""
    named = {by for by, _, _ in record.published}
    nothing_own = not record.own and "" not in named and not known
    unknown = [record.name(by) for by in record.ancestry.unknown if by not in named]
    if not nothing_own and not unknown:
        return []
    who = "the model" if nothing_own else " and ".join(unknown[:2])
    text = f"may have seen {task.definition.dataset}: what it was trained on is not recorded"
    return [Note(Code.BENCHMARK_DATA_UNKNOWN, f"{who} {text}.")]


def _by_overlap(
    task: BenchmarkTask,
    facts: Mapping[str, Any],
    series: Sequence[BenchmarkSeries],
    own: OwnData,
) -> list[Note]:
    """Return what an evaluation on the same windows of a corpus says of training."""
    origins = dict.fromkeys(Origin(own.items[cut.series], cut.cutoff) for cut in windows_of(task, series))
    found = check_overlap(dict(facts), [own.corpus], [list(origins)])
    return [Note(_BY_OVERLAP[note.code], note.text, note.counts) for note in found]


def _by_value(task: BenchmarkTask, seen: SeenValues) -> list[Note]:
    """Return a note on windows that corpora of training hold, or if only some values could be compared."""
    found, all_names = seen.found, [part.corpus.name for part in seen.parts]
    names = _listed(all_names)
    said = [part.corpus.name for part in seen.parts if not part.recorded]
    counts = {"windows": found.found, "scored": found.scored, "left_out": found.left_out, "values": found.values}
    if found.found or found.earlier:
        code = Code.BENCHMARK_TEST_SEEN if found.found else Code.BENCHMARK_DATA_SEEN
        some = f" that were looked for (of {found.windows:,})" if found.scored + found.left_out < found.windows else ""
        what = (
            f"{found.found:,} of {found.scored:,} scored windows{some}"
            if found.found
            else f"{found.earlier:,} of {found.looked_for:,} windows of history, and no scored one,"
        )
        text = f"{what} of {task.definition.dataset} are in {names} by their values, up to scale and offset."
        if said:
            text += f" That the model was trained on {_listed(said)} is the user's word, no record's."
        return [Note(code, text, counts)]
    why = ""
    if found.values < found.of_values:
        why = f"only {found.values:,} of {found.of_values:,} values of {names} were compared"
    if found.scored < max(found.left_out, 1):
        only = (
            f"only {found.scored:,} of {found.scored + found.left_out:,} scored windows"
            if found.scored
            else "no window"
        )
        why = f"{only} of {LENGTH} steps can be told by {'their' if found.scored else 'its'} values"
    if why:
        return [Note(Code.BENCHMARK_DATA_UNKNOWN, f"{task.definition.dataset} may be in {names}: {why}.", counts)]
    return []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _first_truth(task: BenchmarkTask, series: Sequence[BenchmarkSeries] | None) -> np.datetime64 | None:
    """Return the first stamp of truth among a task's windows; None without series or stamps."""
    if series is None or any(one.stamps is None for one in series):
        return None
    found = [(series[cut.series].stamps, cut.cutoff) for cut in windows_of(task, series)]
    return min(stamps[cutoff] for stamps, cutoff in found if stamps is not None)
