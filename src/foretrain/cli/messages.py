"""How the command shows what the library logs, and what other packages warn of."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from foretrain.notes import Code


class _Lines(logging.Handler):
    """A line for each message, equal ones once; as plain as the command's own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self._shown:
            return
        self._shown.add(text)
        with contextlib.suppress(OSError):  # the reader of a pipe went away
            if getattr(record, "code", None) == Code.RELEASE_WITHOUT_FACTS:  # a remark on what the verb wrote
                print(f"note: {text}")
            else:
                print(f"warning: {text}", file=sys.stderr)


@contextlib.contextmanager
def messages_in_lines() -> Iterator[None]:
    """While entered, messages of the library and Python warnings of others are shown in one line each."""
    log, lines, usual = logging.getLogger("foretrain"), _Lines(), warnings.formatwarning
    propagate = log.propagate
    log.addHandler(lines)
    log.propagate = False  # a package that sets up logging would show them once more
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.propagate = propagate
        warnings.formatwarning = usual


def _one_line(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """A warning without the place in the code that it comes from."""
    return f"warning: {message}\n" if category is UserWarning else f"warning: {category.__name__}: {message}\n"
