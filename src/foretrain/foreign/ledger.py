"""The result for each key of a foreign config: carried over, equal to a default, filled in, or dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from foretrain.errors import ConfigError
from foretrain.hints import nearest
from foretrain.notes import Code, Note

Verdict = Literal["carried", "moved", "equal", "filled", "dropped", "unknown"]
TITLES: dict[Verdict, str] = {
    "carried": "carried over",
    "moved": "the number is carried over, what it counts is not",
    "equal": "as foretrain does it anyway",
    "filled": "not in the file, filled in",
    "dropped": "not carried over",
    "unknown": "unknown, not carried over",
}
_KINDS = {"whole": "a whole number", "number": "a number", "flag": "true or false", "text": "text", "any": "a value"}


class Key(NamedTuple):
    """A key that upstream reads."""

    kind: Literal["whole", "number", "flag", "text", "any"]
    default: Any = None  # upstream's default


class Translation(NamedTuple):
    """Our config, translated from a foreign one."""

    tree: dict[str, Any]
    ledger: Ledger
    commands: list[str]  # to run before training
    comments: list[str]  # for the head of the file


@dataclass(frozen=True)
class Entry:
    """One line of the report."""

    verdict: Verdict
    key: str
    text: str


class Ledger:
    """The keys of a foreign file by dotted name; each known key in the file is settled exactly once.

    A key given as null counts as not given. Raises ConfigError with file and key if a value has the wrong type.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], known: Mapping[str, Key]) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.notes: list[Note] = []
        self._known = known
        self._values = {key: value for key, value in values.items() if key in known and value is not None}
        self._open = set(self._values)
        for key, value in values.items():
            if key not in known:
                self.entries.append(Entry("unknown", key, _nearest(key, known)))
            elif value is None:
                self.entries.append(Entry("dropped", key, "null: as if the file did not have it"))

    def given(self, key: str) -> bool:
        """Return True if the file has a value for the key."""
        return key in self._values

    def get(self, key: str) -> Any:
        """Return the file's value, checked and converted to the key's kind, or upstream's default."""
        spec = self._known[key]
        if key not in self._values:
            return spec.default
        value = self._values[key]
        whole = isinstance(value, float) and value.is_integer()
        if spec.kind == "whole" and whole:
            return int(value)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = {
            "whole": number and isinstance(value, int),
            "number": number,
            "flag": isinstance(value, bool),
            "text": isinstance(value, str),
            "any": True,
        }
        if not fits[spec.kind]:
            raise ConfigError(f"{self.path}: {key}: {_shown(value)} is not {_KINDS[spec.kind]}.")
        return value

    def carried(self, key: str, to: str, remark: str = "") -> None:
        """Record that the key's value, or upstream's default, was written to the key `to` of the new config."""
        self._write("carried", key, to, remark)

    def moved(self, key: str, to: str, remark: str) -> None:
        """Record, as `carried` does, a value that was written to a key of another meaning; the remark names it."""
        self._write("moved", key, to, remark)

    def equal(self, key: str, how: str) -> None:
        """Record that the value is what the new config does by default, so nothing was written."""
        self._settle("equal", key, f"{_shown(self.get(key))}: {how}")

    def dropped(self, key: str, why: str) -> None:
        """Record that the value has no place in the new config."""
        self._settle("dropped", key, f"{_shown(self.get(key))}: {why}")

    def filled(self, to: str, why: str) -> None:
        """Record a key of the new config that no key of the file determines."""
        self.entries.append(Entry("filled", to, why))

    def note(self, code: Code, text: str, **counts: int) -> None:
        """Add a note that the user should read before training, with the numbers in it."""
        self.notes.append(Note(code, text, counts))

    def report(self, title: str, commands: list[str]) -> str:
        """Return the report: every key once under its verdict, then notes and the commands to run next."""
        assert not self._open, f"not settled: {', '.join(sorted(self._open))}"
        lines = [f"{self.path}: {title}"]
        for verdict, name in TITLES.items():
            entries = [entry for entry in self.entries if entry.verdict == verdict]
            lines += [f"{name} ({len(entries)})"] if entries else []
            lines += [f"  {entry.key}: {entry.text}" for entry in entries]
        lines += [f"note: {note.text}" for note in self.notes]
        lines += ["next", *(f"  {command}" for command in commands)] if commands else []
        return "\n".join(lines)

    def _write(self, verdict: Verdict, key: str, to: str, remark: str) -> None:
        value = _shown(self.get(key))
        tail = f" ({remark})" if remark else ""
        if self.given(key):
            self._settle(verdict, key, f"{value} -> {to}{tail}")
        else:
            self.filled(to, f"{value}, upstream's {key} by default{'; ' + remark if remark else ''}")

    def _settle(self, verdict: Verdict, key: str, text: str) -> None:
        if key not in self._known:
            raise KeyError(key)
        if not self.given(key):
            return
        assert key in self._open, f"settled twice: {key}"
        self._open.discard(key)
        self.entries.append(Entry(verdict, key, text))


def _nearest(key: str, known: Mapping[str, Key]) -> str:
    """Return a hint at the intended key: the same name in another section, or a similar name."""
    own = key.rpartition(".")[2]
    names = {name.rpartition(".")[2]: name for name in known}
    close = [names[name] for name in nearest(own, names, cutoff=0.7)]
    return f"did you mean {close[0]!r}?" if close else "upstream does not read it"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
