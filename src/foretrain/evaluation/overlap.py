"""Check whether training saw the windows that are scored: a score on them would measure memory, not forecasting.

Training is that of the model itself and of every ancestor that its release records (forecasting/ancestry.py). Published
weights among them have no record of their corpora; of some the last day is known (models/training_data.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.items import ItemRule
from foretrain.data.lineage import rows_then
from foretrain.data.parts import LIBRARY, DateCuts, Region, StepCuts, date_micros, rows_before
from foretrain.data.splits import Origin, SplitName, held_out
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray
from foretrain.errors import ConfigError
from foretrain.evaluation.draws import holds_prices
from foretrain.forecasting.ancestry import OR_EARLIER, Ancestry, Seen, ancestor, own_training
from foretrain.forecasting.parents import published_among
from foretrain.models.shipped import shipped
from foretrain.models.training_data import PublishedWeights, published_weights
from foretrain.notes import Code, Note

# Notes about training; reports print those of all corpora first, in one paragraph.
ABOUT_TRAINING = (
    Code.TRAINING_SAW_WINDOWS,
    Code.BEFORE_TRAINING_CUTOFF,
    Code.VALIDATION_SAW_WINDOWS,
    Code.TRAINING_UNKNOWN,
    Code.ANCESTRY_UNKNOWN,
    Code.TRAINING_SAW_DAYS,
    Code.TRAINING_MAY_HAVE_SEEN_DAYS,
    Code.TRAINING_CANNOT_BE_COMPARED,
)
_SAMPLE = 5_000  # series and windows whose dates are compared; more would take seconds and change nothing


@dataclass(frozen=True)
class Overlap(Note):
    """A note on scored windows that were used to make the model."""

    ancestor: str = ""  # whose training used them, as in "its parent model (runs/base/release)"; "" = the model's own


class Reserved(NamedTuple):
    """Newest steps of a corpus that the model and all its ancestors held out."""

    validation: int
    test: int
    ancestor: str = ""  # which one limits them, as in Overlap


class Extent(NamedTuple):
    """The part of a corpus that one training used."""

    rule: Seen
    trained: IntArray  # (N,) oldest rows of each series that were trained on
    chosen: IntArray  # (N,) oldest rows that were trained on or chose the weights
    held: int  # newest steps of every one of today's series that were held out for validation and test,
    test: int  # and for test alone; both are 0 where dates cut
    validated: IntArray  # (N,) where the validation part ends,
    tested: IntArray  # (N,) and where the test part begins


class TrainingRecord:
    """What a release records of its training and of its ancestors; release: the contents of release.json."""

    def __init__(self, release: dict[str, Any]) -> None:
        parents = release.get("parents")
        known = parents if isinstance(parents, dict) else {}
        self.parents = {role: facts if isinstance(facts, dict) else {} for role, facts in known.items()}
        try:
            self.own, found = own_training(release), Ancestry.read(release)
        except ValueError:  # of another program
            self.own, found = [], Ancestry()
        self.ancestry = Ancestry(unknown=tuple(self.parents)) if found is None else found
        self.rules = [*self.own, *self.ancestry.seen]
        known_weights = published_weights()
        self.published = [(by, id, known_weights[id]) for by, id in published_among(release) if id in known_weights]

    def name(self, by: str) -> str:
        """Return how a text names an ancestor; "" for the model itself."""
        return ancestor(by, self.parents) if by else ""

    def is_in_the_box(self, rule: Seen) -> bool:
        """Return True for the generated series of a parent that is a model in the box."""
        return bool(rule.generated) and (self.parents.get(rule.by) or {}).get("asked") in shipped()

    def extents(self, corpus: Corpus) -> list[Extent]:
        """Return what each training used of a corpus, or of what it was before updates; the model's own first."""
        return [extent for rule in self.rules if (extent := _extent(rule, corpus)) is not None]


def check_overlap(
    release: dict[str, Any], corpora: Sequence[Corpus], origins: Sequence[Sequence[Origin]]
) -> list[Note]:
    """Return a warning for each corpus that a release was, or may have been, trained or selected on.

    At most one per corpus. Those with Code.TRAINING_SAW_WINDOWS come first: training certainly saw scored windows. Then
    one with Code.BEFORE_TRAINING_CUTOFF for each corpus of prices with windows before the known last day of published
    weights. One with Code.ANCESTRY_UNKNOWN follows if an ancestor of the model does not record what it was trained on.

    Args:
        release: the contents of release.json: `corpora` with each one's fingerprint, `data` with validation_steps,
            test_steps and holdout_fraction, `date_range` of everything trained on, and the same of the ancestors,
            `ancestry`; {} if nothing is recorded.
        corpora: the corpora to score.
        origins: forecast origins in each corpus.

    The same corpus (by fingerprint, also of its content before updates) is compared step by step, and by date across
    its items. Any other corpus can only be compared by date: training may have seen the same days through other or
    longer series.
    """
    record, notes = TrainingRecord(release), list[Note]()
    if record.rules:
        for corpus, found in zip(corpora, origins, strict=True):
            if not len(found):
                continue
            note = _compare(record, corpus, found)
            notes += [] if note is None else [note]
    for corpus, found in zip(corpora, origins, strict=True):
        note = _before_cutoff(record, corpus, found)
        notes += [] if note is None else [note]
    first = (Code.TRAINING_SAW_WINDOWS, Code.BEFORE_TRAINING_CUTOFF)
    notes.sort(key=lambda note: first.index(note.code) if note.code in first else len(first))
    if not record.own:
        text = "The release does not record what this model was trained on, so it may have seen these series before."
        if itself := next(((name, weights) for by, name, weights in record.published if not by), None):
            name, weights = itself
            text = f"{name} was trained on {weights.saw}; it is not recorded whether these series are among them."
        return [*notes, Note(Code.TRAINING_UNKNOWN, text)]
    if unknown := record.ancestry.unknown:
        names = " and ".join(record.name(by) for by in unknown[:2])
        text = (
            f"It is not recorded what {names}{' and others' if len(unknown) > 2 else ''} "
            f"{'was' if len(unknown) == 1 else 'were'} trained on, so the model may have seen these series before."
        )
        notes.append(Note(Code.ANCESTRY_UNKNOWN, text, {"ancestors": len(unknown)}))
    return notes


def reserved_steps(release: dict[str, Any] | None, corpus: Corpus, split: SplitName = "test") -> Reserved | None:
    """Return the steps that the training of a release and of all its ancestors held out of this corpus.

    None for a corpus that none of them used. The validation part is the release's own, as far as its ancestors held it
    out too.
    """
    record = TrainingRecord(release or {})
    extents = record.extents(corpus)
    if not extents:
        return None
    least = min(extents, key=lambda extent: extent.test)
    test, held = least.test, min(extent.held for extent in extents)
    if split == "validation" and not extents[0].rule.by:
        test = extents[0].test
        least = min(extents, key=lambda extent: extent.held)
    return Reserved(max(0, held - test), test, record.name(least.rule.by))


class HeldByDates(NamedTuple):
    """The steps of a corpus that the model and all its ancestors held out, where dates cut for one of them at least."""

    region: Region
    ancestor: str = ""  # which one limits them most, as in Overlap
    by_training: bool = True  # False: the caller asks for these steps


def held_by_dates(release: dict[str, Any] | None, corpus: Corpus, split: SplitName) -> HeldByDates | None:
    """Return what the training of a release and of its ancestors held out of a corpus for validation or test.

    Of a corpus that none of them used it is what lies in that part by the dates of the release's own training: training
    saw earlier days in other series. None if only steps cut, or if the corpus has no calendar.
    """
    record = TrainingRecord(release or {})
    extents = record.extents(corpus)
    if corpus.manifest.time == "steps" or split == "all":
        return None
    if not extents:
        return _other_corpus(record, corpus, split)
    if all(extent.rule.dates is None for extent in extents):
        return None
    by = "trained" if split == "validation" else "tested"
    begin = np.max([getattr(extent, by) for extent in extents], axis=0)
    end = corpus.lengths if split == "test" else extents[0].validated
    limit = max(extents, key=lambda extent: int(getattr(extent, by).sum()))
    dates = limit.rule.dates
    date = None if dates is None else dates.test_from if split == "test" else dates.validation_from
    words = "of its library" if date == LIBRARY else "that it had" if date is None else f"from {date} on"
    return HeldByDates(Region(begin, end, words), record.name(limit.rule.by))


def _other_corpus(record: TrainingRecord, corpus: Corpus, split: SplitName) -> HeldByDates | None:
    """Return the part of a corpus that no training used, by the dates of all corpora of the model's own training."""
    dates = {rule.dates for rule in record.own}
    cuts = next(iter(dates)) if len(dates) == 1 else None
    key = "test_from" if split == "test" else "validation_from"
    date = None if cuts is None else getattr(cuts, key)
    if cuts is None or date is None:
        return None
    if cuts.by_library:
        return None if corpus.manifest.cuts is None else HeldByDates(getattr(cuts.parts(corpus), split))
    end = corpus.lengths
    if split == "validation" and cuts.test_from is not None:
        end = rows_before(corpus, date_micros(cuts.test_from) - cuts.span)
    return HeldByDates(Region(rows_before(corpus, date_micros(date)), end, f"from {date} on"))


def _before_cutoff(record: TrainingRecord, corpus: Corpus, origins: Sequence[Origin]) -> Note | None:
    """Return a note on windows of prices that do not start after the last day that published weights saw."""
    if corpus.manifest.time == "steps" or not holds_prices(corpus):
        return None
    dated = [entry for entry in record.published if entry[2].last_day]
    if not dated or not len(origins):
        return None
    by, name, weights = max(dated, key=lambda entry: str(entry[2].last_day))
    assert weights.last_day is not None
    clean = weights.last_day + timedelta(days=1)
    limit = int(np.datetime64(clean, "us").astype(np.int64))
    before = sum(_time(corpus, *origin) < limit for origin in origins)
    if not before:
        return None
    text = (
        f"{before} of {len(origins)} windows of {corpus.name} start before {clean}, and {_cutoff_of(name, weights)}"
        f"{f', which is {record.name(by)}' if by else ''}: it may have seen them."
    )
    counts = {"windows": before, "scored": len(origins)}
    counts |= {"generation": by.count(".") + 1} if by else {}
    return Overlap(Code.BEFORE_TRAINING_CUTOFF, text, counts, ancestor=record.name(by))


def refuse_seen_dates(notes: Iterable[Note]) -> None:
    """Raise ConfigError for the first note on windows before the cut-off of published weights."""
    note = next((note for note in notes if note.code == Code.BEFORE_TRAINING_CUTOFF), None)
    if note is not None:
        raise ConfigError(
            f"evaluate: {note.text[:-1]}. Score later windows (newer data, fewer --num-windows), or all of them with "
            "--score-seen-dates, and the report says so."
        )


def _cutoff_of(name: str, weights: PublishedWeights) -> str:
    """Return until when published weights were trained and chosen, and who says so."""
    chosen = f", and chosen on data up to {weights.chosen_until}" if weights.chosen_until else ""
    return f"{name} was trained on data up to {weights.trained_until}{chosen} ({weights.sources[-1]})"


def used_by(notes: Iterable[Note], code: Code) -> str | None:
    """Return whose training used scored windows, in words, by the first note of this code; None without one."""
    note = next((note for note in notes if note.code == code), None)
    if note is None:
        return None
    name = note.ancestor if isinstance(note, Overlap) else ""
    return f"the training of {name}" if name else "training"


def reference_overlap(
    name: str, facts: dict[str, Any] | None, corpora: Sequence[Corpus], origins: Sequence[Sequence[Origin]]
) -> list[Note]:
    """Return a note if a reference model, or what it was made from, was trained or selected on scored windows.

    That favours the reference, so it promotes nothing wrongly.
    """
    found = check_overlap(facts, corpora, origins) if facts else []
    windows = sum(int(note.counts["windows"]) for note in found if isinstance(note, Overlap))
    if not windows:
        return []
    text = (
        f"The comparison favours the {name}: {windows} of {sum(map(len, origins))} windows are in the data that "
        "it, or a model that it was made from, was trained or selected on."
    )
    return [Note(Code.REFERENCE_SAW_WINDOWS, text, {"windows": windows})]


def _extent(rule: Seen, corpus: Corpus) -> Extent | None:
    """Return what a training used of a corpus; None if it was trained on another one."""
    test, held = rule.test_steps, rule.validation_steps + rule.test_steps
    lengths = corpus.lengths
    earlier = None
    if not rule.is_of(corpus.fingerprint):
        earlier = next((entry for entry in corpus.manifest.earlier if rule.is_of(entry.fingerprint)), None)
        if earlier is None:
            return None
    if rule.dates is not None:
        return _dated_extent(rule, rule.dates, corpus, lengths if earlier is None else rows_then(corpus, earlier)[0])
    if earlier is None:
        parts = StepCuts(rule.validation_steps, test).parts(corpus)
        trained, chosen = parts.train_end, parts.test.begin
    else:
        rows, exact = rows_then(corpus, earlier)
        trained = np.maximum(rows - np.where(exact, held, 0), 0)
        chosen = np.maximum(rows - np.where(exact, test, 0), 0)
        # newest steps of today's series, among them those that came later
        later = np.where(rows > 0, lengths - rows, lengths.max())
        held, test = (int((later + np.where(exact, steps, 0)).min()) for steps in (held, test))
    out = held_out(corpus, rule.holdout_fraction)
    extent = Extent(rule, np.where(out, 0, trained), chosen, held, test, chosen, chosen)
    return _of_used_items(extent, corpus)


def _of_used_items(extent: Extent, corpus: Corpus) -> Extent:
    """Return an extent without the items that this training left out by name, for training and for validation."""
    if extent.rule.rule == ItemRule():
        return extent
    used = extent.rule.rule.used(corpus)
    return extent._replace(trained=np.where(used, extent.trained, 0), chosen=np.where(used, extent.chosen, 0))


def _dated_extent(rule: Seen, dates: DateCuts, corpus: Corpus, then: IntArray) -> Extent:
    """Return the same of a training whose parts dates cut; then: (N,) rows of each series at that time.

    What starts in an embargo counts with the part before it, as its future may reach into the next one.
    """
    parts = dates.parts(corpus)
    chosen = np.minimum(parts.test.begin, then)
    trained = np.where(held_out(corpus, rule.holdout_fraction), 0, np.minimum(parts.train_end, then))
    tested = chosen if dates.test_from is None else parts.test.begin
    return _of_used_items(Extent(rule, trained, chosen, 0, 0, parts.validation.end, tested), corpus)


def _compare(record: TrainingRecord, corpus: Corpus, origins: Sequence[Origin]) -> Note | None:
    """Return the gravest note on the windows of one corpus."""
    extents = record.extents(corpus)
    note = _same(record, extents, corpus, origins) if extents else None
    return note or _by_date(record, _elsewhere(record, extents, corpus), corpus, origins)


def _elsewhere(record: TrainingRecord, extents: Sequence[Extent], corpus: Corpus) -> list[Seen]:
    """Return what was seen of corpora that can only be compared by date.

    Of a run on several corpora each one is compared by its own steps alone, as all of them hold out their newest.
    Series that a generator drew hold no values of real ones. Another synthetic corpus may hold series of them: a longer
    one of the same settings does. Those of a model in the box are in no file.
    """
    own = [] if any(not extent.rule.by for extent in extents) else record.own
    used = [extent.rule for extent in extents] + record.own
    real = corpus.manifest.provenance["kind"] == "real"
    return [rule for rule in own if not (rule.generated and real)] + [
        rule
        for rule in record.ancestry.seen
        if not is_apart(rule, real)
        and not any(rule.is_of(other.fingerprint) for other in used)
        and not (record.is_in_the_box(rule) and not corpus.manifest.generated)
    ]


def is_apart(rule: Seen, real: bool) -> bool:
    """Return whether a training of an ancestor saw nothing of other corpora, real ones or not.

    Records of earlier versions do not say whether synthetic data were drawn or imported.
    """
    return rule.provenance == "synthetic" if rule.generated is None else rule.generated and real


def _same(record: TrainingRecord, extents: Sequence[Extent], corpus: Corpus, origins: Sequence[Origin]) -> Note | None:
    series = np.array([origin.series for origin in origins])
    cutoffs = np.array([origin.cutoff for origin in origins])
    if note := _saw(record, [(extent.rule, cutoffs < extent.trained[series]) for extent in extents], corpus, origins):
        return note
    if note := _chose(record, [(extent.rule, cutoffs < extent.chosen[series]) for extent in extents], corpus):
        return note
    return _same_days(corpus, origins, np.max([extent.trained for extent in extents], axis=0))


def _saw(
    record: TrainingRecord, found: Sequence[tuple[Seen, np.ndarray]], corpus: Corpus, origins: Sequence[Origin]
) -> Note | None:
    """Return a note on windows inside the data of a training; found: for each one a mask of the windows."""
    seen = int(np.any([hit for _, hit in found], axis=0).sum())
    if not seen:
        return None
    rule = _most(found)
    needed = max(corpus.length(origin.series) - origin.cutoff for origin in origins)
    who = record.name(rule.by)
    held = f"data.test_steps of at least {needed}"
    if rule.dates is not None:
        held = f"data.test_from {_text(min(_time(corpus, *origin) for origin in origins))} or earlier"
    remedy = f"Train again with {held}, or score fewer windows."
    if who:
        held = f"held out at least {needed} steps (data.test_steps)" if rule.dates is None else f"were cut by {held}"
        remedy = f"Start from weights that {held}, or score fewer windows."
    text = (
        f"WINDOWS OVERLAP TRAINING DATA: {seen} of {len(origins)} windows of {corpus.name} start inside the "
        f"data that {who or 'this model'} was trained on, so {'the model' if who else 'it'} has seen their truth. "
    )
    if rule.max_train_series is not None:
        text += f"(Training drew {rule.max_train_series:,} series, and these may not be among them.) "
    counts = {"windows": seen, "scored": len(origins), "test_steps_needed": needed}
    return Overlap(Code.TRAINING_SAW_WINDOWS, text + remedy, counts | _generation(rule), ancestor=who)


def _chose(record: TrainingRecord, found: Sequence[tuple[Seen, np.ndarray]], corpus: Corpus) -> Note | None:
    """Return a note on windows of a validation part; found: for each training a mask of the windows."""
    chosen = int(np.any([hit for _, hit in found], axis=0).sum())
    if not chosen:
        return None
    rule, scored = _most(found), len(found[0][1])
    who = record.name(rule.by)
    whose = f"the weights of {who}" if who else "this model's weights"
    part = "are in the validation part that chose"
    if rule.dates is not None:
        limit = "the test part of the library" if rule.dates.by_library else rule.dates.test_from or "the end"
        part = f"start before {limit}, in or beside the validation part that chose"
    text = (
        f"{chosen} of {scored} windows of {corpus.name} {part} {whose}, so the score is biased in the model's favour."
    )
    counts = {"windows": chosen, "scored": scored} | _generation(rule)
    return Overlap(Code.VALIDATION_SAW_WINDOWS, text, counts, ancestor=who)


def _most(found: Sequence[tuple[Seen, np.ndarray]]) -> Seen:
    """Return the training that used the most windows, the nearest one of equals."""
    return max(found, key=lambda pair: int(pair[1].sum()))[0]


def _generation(rule: Seen) -> dict[str, int]:
    """Return the counts that say how far back an ancestor is: 1 = a parent; {} for the model itself."""
    return {"generation": rule.by.removesuffix(OR_EARLIER).count(".") + 1} if rule.by else {}


def _same_days(corpus: Corpus, origins: Sequence[Origin], trained: IntArray) -> Note | None:
    """Return a note if training saw, in other items, the days of scored windows.

    Splits count steps from each item's own end. If items end at different times, the training part of one item covers
    days of another's test part, and training saw what moved all items on these days.
    """
    items = np.flatnonzero(trained)
    if corpus.manifest.time == "steps" or not len(items):
        return None
    newest = max(_time(corpus, int(i), int(trained[i]) - 1) for i in items[:: -(-len(items) // _SAMPLE)])
    sample = origins[:: -(-len(origins) // _SAMPLE)]
    share = float(np.mean([_time(corpus, *origin) <= newest for origin in sample]))
    if share < 0.01:
        return None
    text = (
        f"About {share:.0%} of the windows of {corpus.name} start on days that training saw in other items, because "
        f"items end at different times (training reached {_text(newest)}). The model knows what moved all items then."
    )
    return Note(Code.TRAINING_SAW_DAYS, text, {"share": share})


def _by_date(record: TrainingRecord, rules: Sequence[Seen], corpus: Corpus, origins: Sequence[Origin]) -> Note | None:
    """Return a note on windows that do not start after all other data that these trainings saw."""
    if not rules:
        return None
    dated = [rule for rule in rules if rule.date_range]
    if not dated or corpus.manifest.time == "steps":
        newest = next((rule for rule in rules if not rule.by), rules[0])
        who = record.name(newest.by)
        text = (
            f"It is unknown whether training saw values of {corpus.name}: {who or 'this model'} was trained on other "
            "data, and without dates on both they cannot be compared."
        )
        return Note(Code.TRAINING_CANNOT_BE_COMPARED, text)
    first = min(_time(corpus, *origin) for origin in origins)
    newest = max(dated, key=last_time)
    last, who = last_time(newest), record.name(newest.by)
    if np.datetime64(first, "us") > last:
        return None
    text = (
        f"{who[:1].upper() + who[1:] or 'The model'} was trained on other data up to "
        f"{last.astype('datetime64[s]')}; windows of {corpus.name} start at {_text(first)}. It may have seen the "
        "same or later days through other series."
    )
    return Note(Code.TRAINING_MAY_HAVE_SEEN_DAYS, text)


def last_time(rule: Seen) -> np.datetime64:
    """Return the newest time of a dated corpus that a training saw: of one cut by dates, one before its test part."""
    assert rule.date_range is not None
    last = np.datetime64(rule.date_range[1].replace("Z", "").split("+")[0], "us")
    if rule.dates is None or rule.dates.test_from is None or rule.dates.by_library:
        return last  # where a library cut, the range ends before its last test part
    return min(last, np.datetime64(date_micros(rule.dates.test_from) - 1, "us"))


def _time(corpus: Corpus, series: int, step: int) -> int:
    times = corpus.times_slice(series, step, step + 1)
    assert times is not None
    return int(times[0])


def _text(microseconds: int) -> str:
    return str(np.datetime64(microseconds, "us").astype("datetime64[s]"))
