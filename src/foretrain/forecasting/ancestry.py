"""What a model and everything that it was made from saw in training, as release.json records it.

A release records its own corpora and settings (`corpora`, `data`) and, under `ancestry`, the same of its ancestors:
parent models, tokenizers, bases of adapters and earlier stages, up to the first random weights. So the folders of the
ancestors may be gone. An ancestor is named by the roles that lead to it: "model" is the parent model, "model.tokenizer"
the tokenizer of that one, "" the model itself. Published weights among the ancestors, which have no record, are named
by their hub ids: models/training_data.py knows what they saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from foretrain.data.items import ItemRule
from foretrain.data.parts import DateCuts, cuts_of, date_micros, micros_text

LIMIT = 100_000  # bytes of the record in release.json
_DIGITS = 16  # of a fingerprint in a shortened record
_LONG = 1_000  # bytes of the items of a rule in a shortened record
_MOST_PUBLISHED = 50  # weights named in a record
OR_EARLIER = ".?"  # end of a name in a shortened record: the ancestor or one of its own ancestors


@dataclass(frozen=True)
class Seen:
    """What one training saw of one corpus: all but the steps and the items that it held out.

    Which items a fraction holds out follows from their ids alone (data.splits.held_out): a larger one holds out more.
    """

    fingerprint: str  # its first digits in a shortened record
    by: str = ""  # the ancestor that was trained
    name: str | None = None
    provenance: str | None = None
    generated: bool | None = None  # of synthetic data: drawn by a generator of ours, imported from no file
    date_range: tuple[str, str] | None = None  # of the whole corpus; where a library cut, up to its last test part
    validation_steps: int = 0
    test_steps: int = 0
    holdout_fraction: float = 0.0
    max_train_series: int | None = None  # a sample of this many series was trained on; None = all
    # Dates in the place of the steps, of the corpus' own clock; as of a config
    validation_from: str | None = None
    test_from: str | None = None
    embargo: str | None = None
    # Names and patterns of its items that were used, None = all, and of those that were not (data/items.py)
    items: tuple[str, ...] | None = None
    holdout_items: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise TypeError for what a damaged record has in the place of a text or a truth value."""
        for key, kind in (("name", str), ("provenance", str), ("generated", bool)):
            value = getattr(self, key)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{key} is {str(value)[:30]}")

    @property
    def dates(self) -> DateCuts | None:
        """The dates that cut the corpus; None if steps did."""
        found = DateCuts(self.validation_from, self.test_from, self.embargo)
        return None if found == DateCuts() else found

    @property
    def rule(self) -> ItemRule:
        """Which items were used, by name."""
        return ItemRule(self.items, self.holdout_items)

    def is_of(self, fingerprint: str) -> bool:
        """Return whether the corpus has this fingerprint."""
        return fingerprint == self.fingerprint or fingerprint[:_DIGITS] == self.fingerprint


@dataclass(frozen=True)
class Ancestry:
    """What the ancestors of a model saw, and the ancestors of which that is not known."""

    seen: tuple[Seen, ...] = ()
    unknown: tuple[str, ...] = ()
    published: tuple[tuple[str, str], ...] = ()  # (ancestor, hub id)

    def through(self, role: str) -> Ancestry:
        """Return the part that came in through one parent, named from that parent on; the parent itself is ""."""
        inside = [(self._rest(rule.by, role), rule) for rule in self.seen]
        unknown = [self._rest(name, role) for name in self.unknown]
        published = [(self._rest(name, role), hub_id) for name, hub_id in self.published]
        return Ancestry(
            tuple(replace(rule, by=rest) for rest, rule in inside if rest is not None),
            tuple(rest for rest in unknown if rest is not None),
            tuple((rest, hub_id) for rest, hub_id in published if rest is not None),
        )

    def without(self, role: str) -> Ancestry:
        """Return what came in through all parents but one."""
        seen = tuple(rule for rule in self.seen if self._rest(rule.by, role) is None)
        published = tuple(pair for pair in self.published if self._rest(pair[0], role) is None)
        return Ancestry(seen, tuple(name for name in self.unknown if self._rest(name, role) is None), published)

    def and_also(self, other: Ancestry) -> Ancestry:
        """Return both together."""
        return Ancestry(
            self.seen + other.seen, self.unknown + other.unknown, tuple(dict.fromkeys(self.published + other.published))
        )

    @staticmethod
    def _rest(name: str, role: str) -> str | None:
        """Return a name without its first role, None if that is another one."""
        head, _, rest = name.partition(".")
        return rest if head == role else None

    @classmethod
    def joined(cls, parents: Mapping[str, Ancestry]) -> Ancestry:
        """Return the ancestry of a model from those of its parents, in which "" is the parent itself."""
        seen = [replace(rule, by=_under(role, rule.by)) for role, of in parents.items() for rule in of.seen]
        unknown = [_under(role, name) for role, of in parents.items() for name in of.unknown]
        published = {(_under(role, name), hub_id) for role, of in parents.items() for name, hub_id in of.published}
        return cls(
            _without_repeats(seen),
            tuple(dict.fromkeys(sorted(unknown, key=_depth))),
            tuple(sorted(published, key=lambda pair: (_depth(pair[0]), pair))),
        )

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Ancestry | None:
        """Return the ancestry that a release.json records; None if it is of a version that recorded none.

        Raises ValueError if the record is malformed.
        """
        record = facts.get("ancestry")
        if record is None:
            return None if facts.get("parents") else cls()
        try:
            seen = [rule for entry in record["corpora"] for rule in _read_entry(entry)]
            published = tuple((str(name), str(hub_id)) for name, hub_id in (record.get("published") or {}).items())
            return cls(tuple(seen), tuple(str(name) for name in record["unknown"]), published)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"its ancestry is malformed ({error!r})") from None

    def to_json(self) -> dict[str, Any]:
        """Return the record for release.json, of at most LIMIT bytes.

        A longer one is shortened: of each corpus, one rule that covers all that was seen of it, and corpora with equal
        rules in one entry, by the first digits of their fingerprints. What does not fit even so counts as unknown.
        """
        record: dict[str, Any] = {"known": not self.unknown, "unknown": list(self.unknown)}
        if self.published:  # only then, so that records without are what they were
            record["published"] = dict(self.published[:_MOST_PUBLISHED])
        full = {**record, "corpora": [_entry(rule) for rule in self.seen]}
        if _bytes(full) <= LIMIT:
            return full
        groups = _shortened(self.seen)
        short = {**record, "shortened": True, "corpora": [_group(rule, names) for rule, names in groups.items()]}
        excess = _bytes(short) - LIMIT
        if excess <= 0:
            return short
        short |= {"known": False, "unknown": ["model.?", *self.unknown][:20]}
        short["left_out"] = 0
        for entry in reversed(short["corpora"]):
            names = entry["fingerprints"].split()
            fewer = names[: max(0, len(names) + (LIMIT - 500 - _bytes(short)) // (_DIGITS + 1))]
            entry["fingerprints"] = " ".join(fewer)
            short["left_out"] += len(names) - len(fewer)
            if _bytes(short) <= LIMIT:
                break
        return short


def own_training(facts: Mapping[str, Any]) -> list[Seen]:
    """Return what the training of a release itself saw, from its release.json; [] if that is not recorded.

    Raises ValueError if the record is malformed.
    """
    try:
        settings, dates = _settings(facts.get("data") or {}), facts.get("date_range")
        return [
            Seen(
                str(entry["fingerprint"]),
                name=entry.get("name"),
                provenance=entry.get("provenance"),
                generated=entry.get("generated"),
                date_range=_dates(entry.get("date_range", dates)),
                **settings,
                **_read_items(entry),
            )
            for entry in facts.get("corpora") or []
            if entry.get("fingerprint")
        ]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its record of training data is malformed ({error!r})") from None


def ancestor(by: str, parents: Mapping[str, Any] | None = None) -> str:
    """Return how a text names an ancestor: "its parent model (runs/base/release)", "its parent model's tokenizer"."""
    roles = by.removesuffix(OR_EARLIER).split(".")
    text = "its " + "'s ".join({"model": "parent model"}.get(role, role) for role in roles)
    parent = (parents or {}).get(by)
    asked = parent.get("asked") if isinstance(parent, Mapping) else None
    later = ", or one of its ancestors," if by.endswith(OR_EARLIER) else ""
    return text + (f" ({asked})" if asked else "") + later


def most_seen(rules: Iterable[Seen]) -> Seen:
    """Return one rule that covers all that several saw of one corpus; its name is the first one's."""
    rules = list(rules)
    test = min(rule.test_steps for rule in rules)
    held = min(rule.test_steps + rule.validation_steps for rule in rules)
    limits = [rule.max_train_series for rule in rules]
    return replace(
        rules[0],
        test_steps=test,
        validation_steps=held - test,
        **_most_dates(rules),
        **_most_items(rules),
        holdout_fraction=min(rule.holdout_fraction for rule in rules),
        max_train_series=None if None in limits else max(limit for limit in limits if limit is not None),
        date_range=_span(rule.date_range for rule in rules),
    )


def _most_dates(rules: Sequence[Seen]) -> dict[str, str | None]:
    """Return dates that leave out no more than any of several rules; none, and so no steps, if one has none."""
    dates, most = [rule.dates for rule in rules], dict.fromkeys(("validation_from", "test_from", "embargo"))
    given = [one for one in dates if one is not None]
    if len(given) < len(dates):
        return {**most}
    if any(one.by_library for one in given):
        return {**most, **(given[0].record() if len(set(given)) == 1 else {})}
    trained = max(one.train_until for one in given)
    tests = [date_micros(one.test_from) for one in given if one.test_from is not None]
    if len(tests) < len(given):  # one had no test part
        return {**most, "validation_from": micros_text(trained)}
    found = {**most, "test_from": micros_text(max(tests))}
    return found | {"validation_from": micros_text(trained)} if trained < max(tests) else found


def _most_items(rules: Sequence[Seen]) -> dict[str, Any]:
    """Return entries that leave out no item that any of several rules uses."""
    if len({rule.rule for rule in rules}) == 1:
        return {"items": rules[0].items, "holdout_items": rules[0].holdout_items}
    lists = [rule.items for rule in rules]
    used = None if None in lists else tuple(dict.fromkeys(entry for own in lists for entry in own or ()))
    kept_out = set.intersection(*(set(rule.holdout_items) for rule in rules))
    return {"items": used, "holdout_items": tuple(entry for entry in rules[0].holdout_items if entry in kept_out)}


def _under(role: str, name: str) -> str:
    return f"{role}.{name}" if name else role


def _depth(name: str) -> int:
    return name.count(".")


def _without_repeats(seen: Iterable[Seen]) -> tuple[Seen, ...]:
    """Return the rules, nearest ancestors first, without those that a nearer one through the same parent equals."""
    found = dict[tuple[Seen, str], Seen]()
    for rule in sorted(seen, key=lambda rule: _depth(rule.by)):
        found.setdefault((replace(rule, by="", name=None), rule.by.partition(".")[0]), rule)
    return tuple(found.values())


def _entry(rule: Seen) -> dict[str, Any]:
    return {key: value for key, value in asdict(rule).items() if value is not None and value != ()}


def _read_entry(entry: Mapping[str, Any]) -> list[Seen]:
    """Return the rules of an entry: one or, in a shortened record, those of several corpora."""
    names = entry["fingerprints"].split() if "fingerprints" in entry else [str(entry["fingerprint"])]
    rule = Seen(
        "",
        by=str(entry["by"]),
        name=entry.get("name"),
        provenance=entry.get("provenance"),
        generated=entry.get("generated"),
        date_range=_dates(entry.get("date_range")),
        **_settings(entry),
        **_read_items(entry),
    )
    return [replace(rule, fingerprint=name) for name in names]


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training held out, from the fields of the same names."""
    limit, share = data.get("max_train_series"), data.get("holdout_fraction") or 0.0
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise TypeError(f"holdout_fraction is {str(share)[:30]}")
    return {
        "validation_steps": _count(data, "validation_steps"),
        "test_steps": _count(data, "test_steps"),
        "holdout_fraction": float(share),
        "max_train_series": None if limit is None else _count(data, "max_train_series"),
        **_read_dates(data),
    }


def _read_items(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return which items were used; {} for all."""
    found = ItemRule.read(entry)
    return {} if found == ItemRule() else {"items": found.items, "holdout_items": found.holdout_items}


def _read_dates(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the dates that cut a corpus; {} without any."""
    try:
        found = cuts_of(data)
    except ValueError as error:
        raise TypeError(f"its dates are malformed: {str(error)[:100]}") from None
    return {} if found is None else found.record()


def _count(data: Mapping[str, Any], key: str) -> int:
    """Return a number of steps or series; 0 for null."""
    value = data.get(key) or 0
    if not isinstance(value, int) or not 0 <= value <= 2**40:  # as in a config
        raise TypeError(f"{key} is {str(value)[:30]}")
    return value


def _shortened(seen: Iterable[Seen]) -> dict[Seen, list[str]]:
    """Return the rules of a shortened record, each with the fingerprints of its corpora."""
    corpora = dict[tuple[str, str], list[Seen]]()
    for rule in seen:
        corpora.setdefault((rule.fingerprint[:_DIGITS], rule.by.partition(".")[0]), []).append(rule)
    groups = dict[Seen, list[Seen]]()
    for (_, role), rules in corpora.items():
        one = replace(most_seen(rules), by=role + OR_EARLIER, name=None)
        if len(json.dumps(one.rule.record())) > _LONG:  # then all items count as seen
            one = replace(one, items=None, holdout_items=())
        groups.setdefault(replace(one, fingerprint="", date_range=None), []).append(one)
    return {
        replace(key, date_range=_span(rule.date_range for rule in rules)): [r.fingerprint[:_DIGITS] for r in rules]
        for key, rules in groups.items()
    }


def _group(rule: Seen, fingerprints: list[str]) -> dict[str, Any]:
    entry = {key: value for key, value in _entry(rule).items() if key != "fingerprint"}
    return {"fingerprints": " ".join(fingerprints), **entry}


def _span(ranges: Iterable[tuple[str, str] | None]) -> tuple[str, str] | None:
    known = [dates for dates in ranges if dates]
    return (min(first for first, _ in known), max(last for _, last in known)) if known else None


def _dates(value: Any) -> tuple[str, str] | None:
    if not value or not all(value):
        return None
    dates = str(value[0]), str(value[1])
    for date in dates:
        try:
            datetime.fromisoformat(date[:26])  # with digits of nanoseconds Python reads none
        except ValueError:
            raise TypeError(f"{date[:30]!r} is no date") from None
    return dates


def _bytes(record: dict[str, Any]) -> int:
    """Return the size of the record in a release.json, as atomic.write_json writes it."""
    return len(json.dumps({"ancestry": record}, indent=1))
