"""adviser.jsonl: every exchange of a study with its adviser, shared by all workers and replayable without a network.

An exchange is two lines: the request, before it is sent, and the answer with what became of each proposal. Whoever
writes holds the adviser's lease. A request without an answer belonged to a worker that was killed: its reserve counts
against the budget.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foretrain.errors import ConfigError
from foretrain.reading import Unreadable, parse_json
from foretrain.tuning.adviser.records import RequestLine, ResponseLine, Usage, Verdict
from foretrain.tuning.lines import drop_torn_line

LOG = "adviser.jsonl"
_LONGEST_LINE = 16 << 20  # bytes; an answer of 1 MB may grow sixfold as ASCII JSON, twice


@dataclass(frozen=True)
class AdviserExchange:
    """A request and its answer, which is None if the worker that asked was killed."""

    asked: RequestLine
    answered: ResponseLine | None

    @property
    def usage(self) -> Usage:
        """What it cost, or may have cost."""
        return self.asked.reserve if self.answered is None else self.answered.response.usage

    @property
    def accepted(self) -> list[Verdict]:
        """Proposals that were accepted."""
        return [] if self.answered is None else [one for one in self.answered.response.suggestions if one.accepted]


class AdviserLog:
    """The log of a study, or of an earlier one that is replayed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mend(self) -> None:
        """Cut off a last line that was not written to its end. Only for a holder of the lease."""
        if not self.path.is_file():
            return
        with self.path.open("r+b") as file:
            drop_torn_line(file)

    def append(self, line: RequestLine | ResponseLine) -> None:
        """Write a line. Only for a holder of the lease."""
        text = json.dumps(line.model_dump(mode="json"), allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def exchanges(self) -> list[AdviserExchange]:
        """Return all exchanges, in their order. Raises ConfigError for a line that cannot be used."""
        found: dict[int, AdviserExchange] = {}
        for number, value in self._lines():
            try:
                if value.get("kind") == "response":
                    answered = ResponseLine.model_validate(value)
                    found[answered.exchange] = AdviserExchange(found[answered.exchange].asked, answered)
                else:
                    asked = RequestLine.model_validate(value)
                    found[asked.exchange] = AdviserExchange(asked, None)
            except (ValidationError, KeyError, AttributeError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "no exchange"
                raise self._unusable(number, f"holds no exchange of an adviser ({reason})") from None
        return list(found.values())

    def _lines(self) -> Iterator[tuple[int, Any]]:
        """Yield (number, value) of complete lines; one that is not ended yet is left out."""
        try:
            with self.path.open("rb") as file:
                number = 0
                while line := file.readline(_LONGEST_LINE):
                    number += 1
                    if not line.endswith(b"\n"):
                        if len(line) == _LONGEST_LINE:
                            raise self._unusable(number, f"has more than {_LONGEST_LINE:,} bytes")
                        return
                    try:
                        yield number, parse_json(line.decode())
                    except (Unreadable, UnicodeDecodeError) as error:
                        raise self._unusable(number, str(error)) from None
        except FileNotFoundError:
            return

    def _unusable(self, number: int, what: str) -> ConfigError:
        return ConfigError(
            f"{self.path}: line {number} {what}. Take the file out of the folder: then nobody knows what the adviser "
            "has cost so far."
        )
