"""What the quality rules find in an import: counts by rule, with the first examples of each."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foretrain.data.duplicates import Duplicates
from foretrain.data.rules import BY_NAME, RULES, OnBad
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import counted

_EXAMPLES = 5


@dataclass
class _Found:
    items: int = 0
    rows: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, int] = field(default_factory=dict)


@dataclass
class Lost:
    """Rows of one item whose values the rules leave out: those without a stamp, and the stamps of conflicting ones."""

    unstamped: int = 0
    stamps: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


class Findings:
    """Counts of findings by rule, with the first few examples of each. duplicates: what the user says about them."""

    def __init__(self, on_bad: OnBad, duplicates: Duplicates | None = None) -> None:
        self.on_bad: OnBad = on_bad
        self.duplicates: Duplicates | None = duplicates
        self.lost = Lost()
        self._found: dict[str, _Found] = {}
        self.done: dict[str, str] = {}  # rule -> action taken, for rules whose table entry names alternatives

    def add(self, name: str, rows: int, example: dict[str, Any], details: dict[str, int] | None = None) -> None:
        """Count `rows` rows of one item under a rule. Call it at most once for each item and rule."""
        found = self._found.setdefault(BY_NAME[name].name, _Found())
        found.items += 1
        found.rows += rows
        if len(found.examples) < _EXAMPLES:
            found.examples.append(example)
        for key, count in (details or {}).items():
            found.details[key] = found.details.get(key, 0) + count

    def add_column(self, name: str, more_rows: int, example: dict[str, Any]) -> None:
        """Add a further column of an item that was counted under a rule, and the rows beyond those counted."""
        found = self._found[name]
        found.rows += more_rows
        if len(found.examples) < _EXAMPLES:
            found.examples.append(example)

    def count(self, name: str) -> tuple[int, int]:
        """Return (items, rows) found under a rule."""
        found = self._found.get(name, _Found())
        return found.items, found.rows

    def to_json(self) -> dict[str, Any]:
        """Return rule name -> severity, items, rows, action taken, examples; rules without findings included."""
        result: dict[str, Any] = {}
        for rule in RULES:
            found = self._found.get(rule.name, _Found())
            entry = {"severity": rule.severity, "items": found.items, "rows": found.rows, "meaning": rule.meaning}
            if found.items:
                entry |= {"action": self.done.get(rule.name, getattr(rule, self.on_bad)), "examples": found.examples}
            if found.details:
                entry["details"] = found.details
            result[rule.name] = entry
        return result

    def refuse_if_bad(self, source: str, *, min_rows: int | None) -> None:
        """In mode `error`, raise a DataError that lists the first findings of every rule above severity note."""
        if self.on_bad != "error":
            return
        lines = []
        for rule in RULES:
            found = self._found.get(rule.name)
            if not found or rule.severity == "note" or (rule.name == "too_short" and min_rows is None):
                continue
            first = "; ".join(example_text(example) for example in found.examples[:3])
            lines.append(f"  {rule.name}: {counted(found.items, 'item')}, {counted(found.rows, 'row')}, first {first}")
        if lines:
            text = "\n".join(lines)
            raise DataError(
                f"{source}: refused because of --on-bad error; nothing was written.\n{text}\n"
                "  Repair the files, or import with --on-bad fix or drop: the rule table says what each does."
            )


class ItemFindings(Findings):
    """Findings in one item, stored until it is known whether the item enters the corpus."""

    def __init__(self, on_bad: OnBad, duplicates: Duplicates | None = None) -> None:
        super().__init__(on_bad, duplicates)
        self._calls: list[tuple[str, int, dict[str, Any], dict[str, int] | None]] = []

    def add(self, name: str, rows: int, example: dict[str, Any], details: dict[str, int] | None = None) -> None:
        """Store one finding."""
        self._calls.append((BY_NAME[name].name, rows, example, details))

    def has(self, name: str) -> bool:
        """Return True if a rule was found."""
        return any(call[0] == name for call in self._calls)

    def first(self, name: str) -> str:
        """Return the finding of a rule as text: where it is, and its detail."""
        return next(example_text(example) for rule, _, example, _ in self._calls if rule == name)

    def only(self, rules: Collection[str]) -> ItemFindings:
        """Return the findings of these rules."""
        found = ItemFindings(self.on_bad)
        found._calls = [call for call in self._calls if call[0] in rules]
        return found

    def count_in(self, findings: Findings) -> None:
        """Add all stored findings to those of the whole import."""
        rows_of: dict[str, int] = {}  # rule -> rows of this item; a rule may find several columns in the same rows
        for name, rows, example, details in self._calls:
            if name in rows_of:
                findings.add_column(name, max(0, rows - rows_of[name]), example)
            else:
                findings.add(name, rows, example, details)
            rows_of[name] = max(rows, rows_of.get(name, 0))

    def dumps(self) -> str:
        """Return the findings as JSON, "" if there are none."""
        return json.dumps([self.on_bad, self._calls]) if self._calls else ""

    @classmethod
    def loads(cls, text: str) -> ItemFindings:
        """Return the findings written by dumps."""
        on_bad, calls = json.loads(text) if text else ("fix", [])
        found = cls(on_bad)
        found._calls = [tuple(call) for call in calls]
        return found


def example_text(example: dict[str, Any]) -> str:
    """Return the place of a finding, and its detail, for messages."""
    where = [f"item {example['item']!r}"]
    where += [f"{key} {example[key]}" for key in ("file", "line", "time") if example.get(key) is not None]
    if example.get("detail"):
        where.append(str(example["detail"]))
    return " ".join(where)
