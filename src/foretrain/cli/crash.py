"""The report on an exception that nothing expected: enough to find the fault, and none of the user's data."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foretrain import __version__
from foretrain.printing import without_secrets

MESSAGES = "FORETRAIN_REPORT_MESSAGES"  # environment variable; "1" puts the exceptions' messages into reports
_PACKAGES = ("torch", "numpy", "pyarrow", "pandas", "pydantic", "safetensors", "typer")


def save_report(error: BaseException) -> Path | None:
    """Write a report into the current folder, or the one for temporary files; return its path, None if none could be.

    It holds versions, the command, and of each exception the type and the frames. Messages, which may quote data, are
    left out unless the environment variable FORETRAIN_REPORT_MESSAGES is 1. No variable of the environment is in it,
    and what without_secrets() takes for a secret is not, wherever it stood.
    """
    now = datetime.datetime.now()
    name = f"foretrain-error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    text = report_text(error, now)
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        try:
            path = folder() / name
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
        except OSError:
            continue
    return None


def report_text(error: BaseException, now: datetime.datetime) -> str:
    """Return the text of the report on an exception."""
    lines = [
        f"foretrain {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name))),
        f"{now:%Y-%m-%d %H:%M:%S}",
        f"command: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
    ]
    seen = set[int]()
    link, current = "", error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines += ["", f"{link}{type(current).__module__}.{type(current).__qualname__}{_message(current)}"]
        lines += [line.rstrip("\n") for line in traceback.format_tb(current.__traceback__)]
        link = "raised from " if current.__cause__ is not None else "raised while handling "
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    if os.environ.get(MESSAGES) != "1":
        lines += ["", f"Messages of exceptions may quote data and are left out; {MESSAGES}=1 puts them in."]
    return without_secrets("\n".join(lines) + "\n")


def _message(error: BaseException) -> str:
    return f": {error}" if os.environ.get(MESSAGES) == "1" else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
