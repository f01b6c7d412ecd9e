"""What a source of market bars offers, how its refusals are told apart, and how it is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from foretrain.data.market.bars import Bars
from foretrain.errors import DataError

FIRST_WAIT, LONGEST_WAIT = 5.0, 90.0  # seconds before a question is asked again; each wait is three times the last
_Answer = TypeVar("_Answer")


class SymbolError(DataError):
    """A source has no usable bars of a symbol; asking again would not help. The message does not name the symbol."""


class NoAnswerError(DataError):
    """A source did not answer, or refused because it was asked too often, as often as it was asked."""


@dataclass(frozen=True)
class Fetched:
    """Finished bars of a symbol, what the source says of the symbol, and remarks for the user."""

    bars: Bars
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()


class BarSource(Protocol):
    """A source of bars of one interval. version: of the package that asks; host: that is asked."""

    @property
    def version(self) -> str: ...
    @property
    def host(self) -> str: ...

    def fetch(self, symbol: str, start: int | None, end: int | None, *, again: bool = False) -> Fetched:
        """Return the finished bars of a symbol from `start` on and before `end`, milliseconds since 1970 in UTC.

        None for start is the symbol's first bar. again: bars at `start` were fetched before. A bar is finished if its
        interval is over by the exchange's clock. Raises SymbolError and NoAnswerError.
        """
        ...


class Patience:
    """Asks a source, and asks again after a while where that may help.

    retries: how often it asks again; sleep: waits for seconds; say: takes a line that says what it waits for.
    """

    def __init__(
        self,
        retries: int = 4,
        *,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.retries, self.sleep, self._say = retries, sleep, say

    def ask(
        self,
        what: str,
        question: Callable[[], _Answer],
        is_passing: Callable[[Exception], bool],
        refusal: type[Exception],
    ) -> _Answer:
        """Return the answer to a question. Raises NoAnswerError after the last try, SymbolError for other errors.

        what: the question in the lines that are said. is_passing: whether an error may be gone later. refusal: the
        class of errors that say what is wrong; others are faults of the package that asks.
        """
        wait = FIRST_WAIT
        for left in range(self.retries, -1, -1):
            try:
                return question()
            except MemoryError:
                raise
            except Exception as error:
                if not is_passing(error):
                    kind = "" if isinstance(error, refusal) else f"the package failed, {type(error).__name__}: "
                    raise SymbolError(kind + reason(error)) from error
                if left == 0:
                    raise NoAnswerError(f"no answer in {self.retries + 1} tries ({reason(error)})") from error
                self._say(f"{what}: {reason(error)}; asked again in {wait:.0f} s")
                self.sleep(wait)
                wait = min(3 * wait, LONGEST_WAIT)
        raise AssertionError


def reason(error: Exception) -> str:
    """Return what an error of another package says, in a line of limited length."""
    said = " ".join(str(error).split())[:200].rstrip(". ")
    return said or type(error).__name__
