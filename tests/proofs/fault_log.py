"""The log of the trials of fault_files.py: a file of JSON lines, which its next call continues, and its counts."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fault_shim import Operation


class Log:
    """The trials of earlier calls, and the file to which this one adds its own."""

    def __init__(self, path: Path | None, again: bool) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        trials = [line for line in _lines(path) if "fault" in line]
        last = {(line["case"], line["fault"], line["n"]): line for line in trials}
        self.failed = {key for key, line in last.items() if line["wrong"]}
        self.done = {key: line for key, line in last.items() if not (again and line["wrong"])}
        self._listed = {line["case"]: line["operations"] for line in _lines(path) if "operations" in line}

    def complete(self, case: str, faults: Collection[str]) -> bool:
        """Return whether every operation of a command has been tried with these faults."""
        tried = Counter(fault for name, fault, _ in self.done if name == case)
        return case in self._listed and all(tried[fault] >= self._listed[case].get(fault, 1) for fault in faults)

    def wrong(self, case: str) -> int:
        """Return how many trials of a command were wrong."""
        return sum(bool(line["wrong"]) for (name, *_), line in self.done.items() if name == case)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read_log(path: Path | None) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the trials of an earlier call: {(case, fault, number): trial}."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["case"], line["fault"], line["n"]): line for line in lines}


def write_log(path: Path | None, name: str, fault: str, operation: Operation, result: dict[str, Any]) -> None:
    """Add a trial to a log, if there is one."""
    if path is not None:
        line = {"case": name, "fault": fault, "n": operation.number, "operation": operation.name}
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({**line, "path": operation.path, **result}) + "\n")


def _lines(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def summary(log: Path, faults: Collection[str]) -> dict[str, Any]:
    """Return the counts of a log: of each fault and command the operations listed and tried, and how the trials ended.

    new: operations that --new chooses. found: trials that were wrong once. wrong: those whose last trial was.
    """
    lines = _lines(log)
    listed = {line["case"]: line["operations"] for line in lines if "operations" in line}
    new_of = {line["case"]: line["new"] for line in lines if "new" in line}
    trials = [line for line in lines if "fault" in line]
    last = {(line["case"], line["fault"], line["n"]): line for line in trials}
    found = {(line["case"], line["fault"], line["n"]) for line in trials if line["wrong"]}

    def counts(case: str | None, fault: str | None) -> dict[str, int]:
        def one(key: tuple[str, str, int]) -> bool:
            return case in (None, key[0]) and fault in (None, key[1])

        all_of = sum(n for c, each in listed.items() for f, n in each.items() if one((c, f, 0)))
        new = sum(n for c, each in new_of.items() for f, n in each.items() if one((c, f, 0)))
        here = [line for key, line in last.items() if one(key)]
        wrong = {"found": sum(map(one, found)), "wrong": sum(bool(line["wrong"]) for line in here)}
        reruns = sum(line["again"] for line in here)
        ends = dict(sorted(Counter(line["end"] for line in here).items()))
        return {"listed": all_of, "new": new, "tried": len(here), "next_runs": reruns, **ends, **wrong}

    return {
        "python": platform.python_version(),
        "commands": len(listed),
        **counts(None, None),
        "faults": {fault: counts(None, fault) for fault in faults},
        "cases": {case: {fault: counts(case, fault) for fault in faults} for case in listed},
    }
