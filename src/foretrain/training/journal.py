"""metrics.jsonl: one JSON object per line, append only, truncated when a run returns to a checkpoint."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from foretrain.atomic import replacing_file
from foretrain.errors import TrainingError
from foretrain.reading import Unreadable, parse_json

_COMPUTED = ("start", "train", "validation")  # kinds of records
_COUNTS = ("steps", "log_every", "total_steps", "processes")
_TEXTS = ("kind", "unit", "left_out", "best_metric", "best_mode")
_DIVISORS = ("steps_per_s", "windows_per_s", "memory_total_gb")
# Within these, squares, products and quotients of figures, and the edges of bins, are finite.
_MOST, _LARGEST, _LARGEST_BIN = 2**53, 1e100, 2400
_BIN = re.compile(r"-?\d{1,4}")


class Journal:
    """The metrics of a run on disk. Only the last line can be incomplete, after a crash; it is dropped on reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> dict[str, Any]:
        """Append a line and flush it, so that a killed process loses none; NaN and infinities become null.

        Returns the record as it is read from the file.
        """
        written = {key: _finite(value) for key, value in record.items()}
        self._file.write(json.dumps(written) + "\n")
        self._file.flush()
        return written

    def sync(self) -> None:
        """Sync the lines written so far to disk, before a checkpoint: a resumed run does not repeat them."""
        os.fsync(self._file.fileno())

    def truncate(self, step: int, validation_due: bool = False, evaluations_due: Collection[str] = ()) -> None:
        """Delete the lines of later steps, with validation_due the validation of this step, and its evaluations by the
        evaluators that are due; atomically."""
        self._file.close()
        with replacing_file(self.path) as scratch, scratch.open("w", encoding="utf-8") as file:
            for record in read_journal(self.path):
                due = {"validation": validation_due, "evaluation": record.get("evaluator") in evaluations_due}
                if record["step"] < step or (record["step"] == step and not due.get(str(record.get("kind")), False)):
                    file.write(json.dumps(record) + "\n")
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl without an incomplete last line.

    Raises TrainingError if any other line is no record.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                record = parse_json(line)
                _check(record)
                yield record
            except (ValueError, TypeError, KeyError):
                raise TrainingError(
                    f"{path}: line {number} is no record of a run. Repair or remove it, then resume."
                ) from None


def _check(record: dict[str, Any]) -> None:
    """Raise Unreadable unless a record has a step, and numbers where reports and alarms compute with them."""
    step = record["step"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < _MOST:
        raise Unreadable("no step")
    if record.get("kind") not in _COMPUTED:
        return
    for name, value in record.items():
        if name.endswith("_bins"):
            bins = value.items() if isinstance(value, dict) else [("", value)]
            known = all(_is_bin(key) and type(count) is int and 0 <= count < _MOST for key, count in bins)
        elif name in _COUNTS:
            known = value is None or (type(value) is int and 0 < value < _MOST)
        else:
            number = isinstance(value, int | float) and abs(value) < _LARGEST
            if number and name in _DIVISORS:
                number = value == 0 or abs(value) > 1 / _LARGEST
            known = name in _TEXTS or value is None or number
        if not known:
            raise Unreadable(f"{name} is no number")


def _is_bin(key: str) -> bool:
    return _BIN.fullmatch(key) is not None and abs(int(key)) <= _LARGEST_BIN


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
