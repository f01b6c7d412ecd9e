"""Prints the library's log messages and other packages' warnings as plain lines."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import typer

from foretrain.notes import Code

Abort: Any = typer.Abort
UsageError: Any = typer.BadParameter.__base__  # not exported; some versions of typer bring their own click

# No warnings: what was chosen where nothing was given, where a name has two meanings, or in place of a config's
# setting; what takes a while
REMARKS = (
    Code.DEFAULT_MODEL,
    Code.DEFAULT_HORIZON,
    Code.FILE_NAMED_AS_CONFIG,
    Code.SHIPPED_CONFIG_USED,
    Code.SETTING_REPLACED,
    Code.TOKENISING,
)


class _Lines(logging.Handler):
    """Handler that prints each message on a line, equal messages once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self._shown:
            return
        self._shown.add(text)
        with contextlib.suppress(OSError):  # the reader of a pipe has closed it
            if getattr(record, "code", None) == Code.RELEASE_WITHOUT_FACTS:  # a remark on the written release
                print(f"note: {text}")
            else:
                kind = "note" if getattr(record, "code", None) in REMARKS else "warning"
                print(f"{kind}: {text}", file=sys.stderr)


@contextlib.contextmanager
def messages_in_lines() -> Iterator[None]:
    """While entered, print the library's messages and other packages' Python warnings as one line each."""
    log, lines, usual = logging.getLogger("foretrain"), _Lines(), warnings.formatwarning
    propagate = log.propagate
    log.addHandler(lines)
    log.propagate = False  # a package that sets up logging would print them again
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.propagate = propagate
        warnings.formatwarning = usual


def _one_line(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """Format a warning without its file and line."""
    return f"warning: {message}\n" if category is UserWarning else f"warning: {category.__name__}: {message}\n"


def usage_text(error: Any) -> str:
    """Return the line about a command that cannot be understood; where nothing was given, the help."""
    text = error.format_message()
    command = error.ctx.command_path if error.ctx else " ".join(["foretrain", *filter(str.isalpha, sys.argv[1:2])])
    if text.startswith("Usage:"):
        error.show()
        sys.exit(2)
    text = re.sub(r" \(Possible options: (.*)\)", lambda found: f". Did you mean {_either(found[1])}?", text)
    text = " ".join(text.replace("Value error, ", "").split())
    return f"{text}{'' if text[-1:] in '.?!' else '.'} `{command} -h` shows how to call it."


def _either(names: str) -> str:
    return " or ".join(map(repr, names.split(", ")))
