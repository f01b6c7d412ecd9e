"""Text of others on its way to a terminal or a picture: what would act there is shown, as \\x1b, instead of acting.

Names of items and columns, paths and cells come from files. A terminal obeys control characters in them, readers are
misled by those that turn the direction of writing, and XML may hold few of them. Errors and recorded commands, which
people pass on, may quote secrets: without_secrets() takes them out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters but for tab and newline, separators of lines, changes of direction, halves of surrogate pairs
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# for matplotlib: without dates, and with the same names in SVG, equal pictures are equal files
UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
SALT = "foretrain"  # svg.hashsalt

_ACCOUNT = re.compile(r"(?<=://)\S+@")  # user and password of an address
_HEADER = re.compile(r"(authorization\W+(?:basic|bearer|digest)\s+)\S+", re.IGNORECASE)  # as a server may quote it
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY)$", re.IGNORECASE)
_SECRET_LENGTH = 8  # a shorter value is no secret, and may be a word of the text


def without_secrets(text: str) -> str:
    """Return a text with *** for accounts in addresses, quoted authorization headers, and secrets of the environment.

    Secrets are the values of variables whose names end in TOKEN, SECRET, PASSWORD, PASSWD or KEY.
    """
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SECRET_LENGTH}
    for value in sorted(values, key=len, reverse=True):  # one may be a part of another
        text = text.replace(value, "***")
    return _ACCOUNT.sub("***@", _HEADER.sub(r"\1***", text))


_FORMULA = frozenset("=+-@\t\r")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def printable(text: str) -> str:
    """Return a text with the characters that act on a terminal written as their codes, \\x1b or \\u202e."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def for_spreadsheet(text: str) -> str:
    """Return a text of a CSV cell with an apostrophe before it if a spreadsheet would take it for a formula.

    Such texts begin with = + - @, a tab or a carriage return (OWASP, "CSV injection"). Numbers stay as they are.
    """
    return f"'{text}" if text[:1] in _FORMULA and not _NUMBER.fullmatch(text) else text


def duration(seconds: float) -> str:
    """Format a duration: 5h 52m, 3m 20s, 12s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


# For bars of rich: in front of a PrintableStream its own stream would hide the terminal from its console
BESIDE_PRINTABLE: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False}


class PrintableStream:
    """A text stream that writes what is printed to another one, as printable() returns it.

    rich colours what it writes by control characters of its own: it finds the other stream by its `rich_proxied_file`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        self.rich_proxied_file.write(printable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """While entered, what is printed to stdout and stderr is printable."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = PrintableStream(before[0]), PrintableStream(before[1])  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
