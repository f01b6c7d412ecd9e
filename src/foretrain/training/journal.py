"""metrics.jsonl: one JSON object a line, append only, cut back when a run goes back to a checkpoint."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foretrain.atomic import replacing_file
from foretrain.errors import TrainingError


class Journal:
    """The metrics of a run on disk. Every line is complete or, after a crash, the last one is torn and gets dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a line at once, so that killing the process loses none; NaN and infinities become null."""
        self._file.write(json.dumps({key: _finite(value) for key, value in record.items()}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make the lines so far survive a power cut: before a checkpoint that will not repeat them."""
        os.fsync(self._file.fileno())

    def cut(self, step: int, validation_due: bool = False) -> None:
        """Keep the lines of steps <= step, but for that step's validation where it is due; by an atomic rewrite."""
        self._file.close()
        with replacing_file(self.path) as scratch, scratch.open("w", encoding="utf-8") as file:
            for record in read_journal(self.path):
                again = validation_due and record["step"] == step and record.get("kind") == "validation"
                if record["step"] <= step and not again:
                    file.write(json.dumps(record) + "\n")
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl; a torn last line is left out. Raises TrainingError where another is no JSON."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                raise TrainingError(f"{path}: line {number} is not JSON. Repair or remove it, then resume.") from None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
