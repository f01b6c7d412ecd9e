"""Which items of corpora a run uses, and which it never sees: `data.items`, `data.holdout_items`.

# N series of a corpus

An entry is an item's name, a pattern (`BTC*`, `?`, `[ab]`, as fnmatch, upper and lower case unlike; `[*]` is the
character), `file:PATH` (names and patterns, one a line; one that begins with # is a comment) or `subset:NAME` (of the
library that a corpus is in). What a pattern matches in a corpus is part of a run's data fingerprint.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from foretrain.data.market.subsets import library_of, subsets_of
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean, nearest
from foretrain.notes import counted
from foretrain.reading import read_text

Mask = npt.NDArray[np.bool_]
FILE, SUBSET = "file:", "subset:"
MOST_PATTERNS = 1_000  # of one corpus: each is compared with every name
_MOST_NAMES = 20_000  # among which the nearest ones are looked for, which takes a second


def entries(value: Any) -> Any:
    """Return entries of a config as an ordered tuple without repeats; one text is one entry. None stays None.

    Raises ValueError for what is no text, as YAML makes of ON, NO, 600519 or 000001, and for none at all.
    """
    if value is None:
        return None
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise ValueError("takes a list of names and patterns, file:PATH or subset:NAME")
    for entry in found:
        if not isinstance(entry, str):
            raise ValueError(f"{entry!r} is no text: write the name in quotes, or list the names in a file (file:PATH)")
        if not entry.strip() or entry in (FILE, SUBSET):
            raise ValueError(f"{entry!r} names nothing")
    if not found:
        raise ValueError("is empty; name items, or leave it out (null)")
    return tuple(sorted(set(found)))


# -- names and patterns ------------------------------------------------------------------------------------------------


def _is_pattern(entry: str) -> bool:
    return any(sign in entry for sign in "*?[")


class _Matcher:
    """Finds the items that names and patterns mean."""

    def __init__(self, given: Iterable[str]) -> None:
        given = list(given)
        self.names = {entry for entry in given if not _is_pattern(entry)}
        patterns = {entry: fnmatch.translate(entry) for entry in given if _is_pattern(entry)}
        self._each = {entry: re.compile(text) for entry, text in patterns.items()}
        self._any = re.compile("|".join(patterns.values())) if patterns else None
        self.found = set[str]()  # entries that mean an item

    def mask(self, corpus: Corpus) -> Mask:
        """Return an (N,) mask of a corpus' items."""
        parts = [np.zeros(0, bool)]
        for ids in corpus.parts_of_ids():
            part = np.fromiter((item in self.names for item in ids), bool, len(ids))
            self.found |= self.names.intersection(ids)
            if self._any is not None:
                part |= np.fromiter((self._any.match(item) is not None for item in ids), bool, len(ids))
                for entry in self._each.keys() - self.found:
                    if any(map(self._each[entry].match, ids)):
                        self.found.add(entry)
            parts.append(part)
        return np.concatenate(parts)


@dataclass(frozen=True)
class ItemRule:
    """The items of one corpus that a training used, as its release records them: names and patterns.

    It used those among `items` (None = all) that are not among `holdout_items`.
    """

    items: tuple[str, ...] | None = None
    holdout_items: tuple[str, ...] = ()

    def used(self, corpus: Corpus) -> Mask:
        """Return an (N,) mask of the items of a corpus that were used, of those that it holds now."""
        found = np.ones(corpus.num_series, bool) if self.items is None else _Matcher(self.items).mask(corpus)
        return found & ~_Matcher(self.holdout_items).mask(corpus) if self.holdout_items else found

    def record(self) -> dict[str, Any]:
        """Return the entries of release.json; {} for all items."""
        items = {} if self.items is None else {"items": list(self.items)}
        return items | ({"holdout_items": list(self.holdout_items)} if self.holdout_items else {})

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> ItemRule:
        """Return the rule in a record. Raises TypeError for what is none."""
        found = dict[str, Any]()
        for key in ("items", "holdout_items"):
            value = record.get(key)
            if value is None:
                continue
            if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
                raise TypeError(f"{key} is {str(value)[:30]}")
            if sum(map(_is_pattern, value)) > MOST_PATTERNS:
                raise TypeError(f"{key} has more than {MOST_PATTERNS:,} patterns")
            found[key] = tuple(value)
        return cls(**found)


# -- what a run uses ---------------------------------------------------------------------------------------------------


class ChosenItems(NamedTuple):
    """The items of one corpus that a run uses, for training and validation."""

    rule: ItemRule = ItemRule()
    used: Mask | None = None  # (N,); None = all
    held: Mask | None = None  # (N,) items among data.holdout_items

    @property
    def fingerprint(self) -> str:
        """Hash of which of the corpus' items are used; "" for all."""
        return "" if self.used is None else hashlib.sha256(np.packbits(self.used).tobytes()).hexdigest()

    def among(self, count: int) -> Mask:
        """Return the (N,) mask of `count` items."""
        return np.ones(count, bool) if self.used is None else self.used

    def counts(self) -> dict[str, int]:
        """Return how many items are held out by name, and how many others are not among data.items; {} for all."""
        if self.used is None:
            return {}
        held = 0 if self.held is None else int(self.held.sum())
        return {"held_out_by_name": held, "not_among_items": int((~self.used).sum()) - held}


def choose_items(
    corpora: Sequence[Corpus],
    given: Sequence[tuple[str, Sequence[str] | None]],
    holdout: Sequence[str],
) -> list[ChosenItems]:
    """Return which items of each corpus a run uses.

    Args:
        corpora: its corpora.
        given: of each one, the key of the config that chooses its items, and the entries; None = all items. An entry
            must mean an item of one corpus at least of those with its key.
        holdout: entries of data.holdout_items, which hold of every corpus.

    Raises ConfigError for an entry that means no item, for an item that is chosen and held out, and for a corpus of
    which no item is left.
    """
    if not holdout and all(chosen is None for _, chosen in given):
        return [ChosenItems() for _ in corpora]
    taken = list[tuple[Mask, tuple[str, ...] | None]]()
    masks: dict[int, tuple[Mask, tuple[str, ...]]] = {}
    for key in dict.fromkeys(key for key, chosen in given if chosen is not None):
        where = [number for number, (own, _) in enumerate(given) if own == key]
        chosen = given[where[0]][1]
        assert chosen is not None
        masks |= dict(zip(where, match([corpora[k] for k in where], chosen, key), strict=True))
    for number, corpus in enumerate(corpora):
        mask, found = masks.get(number, (np.ones(corpus.num_series, bool), None))
        taken.append((mask, found))
    out = match(corpora, holdout, "data.holdout_items") if holdout else [(~np.ones(len(m), bool), ()) for m, _ in taken]
    result = []
    for corpus, (key, _), (mask, found), (held, names) in zip(corpora, given, taken, out, strict=True):
        both = np.flatnonzero(mask & held & (found is not None))
        if len(both):
            more = f" and {len(both) - 1:,} more" if len(both) > 1 else ""
            raise ConfigError(
                f"{key} and data.holdout_items: both have {corpus.item_id(int(both[0]))!r} of {corpus.name}{more}. "
                "Leave it out of one of them."
            )
        used = mask & ~held
        if not used.any():
            raise _nothing_left(corpus, key, mask)
        result.append(ChosenItems(ItemRule(found, names), used, held))
    return result


def _nothing_left(corpus: Corpus, key: str, mask: Mask) -> ConfigError:
    items = counted(corpus.num_series, "item")
    if mask.any():
        return ConfigError(
            f"data.holdout_items: they hold out all {items} of {corpus.name}, and none is left to train on. Leave the "
            "corpus out of data.corpora, or name fewer."
        )
    return ConfigError(
        f"{key}: none of the {items} of {corpus.name} is among them. Leave the corpus out of data.corpora, or give it "
        "items of its own (data.corpora.N.items)."
    )


def match(corpora: Sequence[Corpus], given: Sequence[str], key: str) -> list[tuple[Mask, tuple[str, ...]]]:
    """Return, of each corpus, an (N,) mask of the items that entries mean, and the names and patterns that mean some.

    key: the setting, for errors. Raises ConfigError for an entry that means no item of any corpus.
    """
    read = {entry: _read_file(entry, key) for entry in given if entry.startswith(FILE)}
    by_library = {entry: _read_subset(entry, corpora, key) for entry in given if entry.startswith(SUBSET)}
    everything, found, means = dict[str, str](), list[tuple[Mask, tuple[str, ...]]](), set[str]()
    for entry in given:
        names = read.get(entry, () if entry in by_library else (entry,))
        everything |= {name: f"{key} ({entry})" if entry in read else key for name in names if name not in everything}
    for number, corpus in enumerate(corpora):
        own = [glob.escape(name) for subset in by_library.values() for name in subset[number]]
        listed = [*everything, *(name for name in own if name not in everything)]
        if (many := sum(map(_is_pattern, listed))) > MOST_PATTERNS:
            raise ConfigError(f"{key}: {many:,} patterns, more than {MOST_PATTERNS:,}. Write names in their place.")
        matcher = _Matcher(listed)
        found.append((matcher.mask(corpus), tuple(name for name in listed if name in matcher.found)))
        means |= matcher.found
    lost = [name for name in everything if name not in means]
    if lost:
        raise _unknown(lost, everything[lost[0]], corpora)
    return found


def _unknown(lost: Sequence[str], where: str, corpora: Sequence[Corpus]) -> ConfigError:
    """Return the error for entries that mean no item."""
    entry, names = lost[0], [name for corpus in corpora for name in corpus.item_ids()[:_MOST_NAMES]]
    of = corpora[0].name if len(corpora) == 1 else f"{len(corpora)} corpora"
    what = f"no item of {of} {'matches' if _is_pattern(entry) else 'is called'} {entry!r}"
    more = f" (nor are {len(lost) - 1:,} more)" if len(lost) > 1 else ""
    if entry in names:
        hint = f"As a pattern, the item of this name is written {glob.escape(entry)!r}."
    elif os.path.isfile(entry):  # Path raises for what is too long to be one
        hint = f"A file of names is written file:{entry}."
    else:
        close = nearest(re.sub(r"[*?\[\]]", "", entry), names, most=3, cutoff=0.5)
        hint = f"Nearest: {', '.join(close)}." if close else f"Its items are such as {', '.join(names[:3])}."
    return ConfigError(f"{where}: {what}{more}. {hint}")


def _read_file(entry: str, key: str) -> tuple[str, ...]:
    """Return the names and patterns in a text file."""
    path = Path(entry.removeprefix(FILE)).expanduser()
    try:
        lines = read_text(path).removeprefix("\ufeff").split("\n")
    except FileNotFoundError:
        raise ConfigError(f"{key}: {path}: no such file of names.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{key}: {path}: cannot be read ({why}). Give a text file with a name a line.") from None
    found = tuple(dict.fromkeys(text for line in lines if (text := line.strip()) and not text.startswith("#")))
    if not found:
        raise ConfigError(f"{key}: {path}: holds no name.")
    return found


def _read_subset(entry: str, corpora: Sequence[Corpus], key: str) -> list[tuple[str, ...]]:
    """Return the symbols of a subset by corpus, none for a corpus whose library has no such subset."""
    name, known, found, some = entry.removeprefix(SUBSET), dict[str, None](), list[tuple[str, ...]](), False
    for corpus in corpora:
        library = library_of(corpus)
        subsets = {} if library is None else subsets_of(library)
        known |= dict.fromkeys(subsets)
        held = set(subsets.get(name, ())).intersection(corpus.item_ids()) if name in subsets else set()
        found.append(tuple(sorted(held)))
        some |= bool(held)
    if some:
        return found
    if name in known:
        raise ConfigError(f"{key}: subset {name!r} has no symbol in {', '.join(corpus.name for corpus in corpora)}.")
    where = "no corpus here is of a library with subsets"
    if known:
        where = f"the library has no subset {name!r} (has {', '.join(list(known)[:10])})"
    raise ConfigError(f"{key}: {where}. {did_you_mean(name, known)}".rstrip())
