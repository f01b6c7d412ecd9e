"""Prints the library's log messages and other packages' warnings as plain lines."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import typer

from foretrain.cli.slips import about_command, about_option, example
from foretrain.errors import ModelError, out_of_memory
from foretrain.hints import did_you_mean, nearest
from foretrain.notes import Code

Abort: Any = typer.Abort
_SLIP = 0.8  # a word that is more alike than this was misspelt; below it, a name of another program is likelier
_UNKNOWN = re.compile(r"No such (?:command '(?P<command>.*)'\.|option:? '?(?P<option>[^ ']*?)'?(?:\.(?= |$)|(?= )|$))")
UsageError: Any = typer.BadParameter.__base__  # not exported; some versions of typer bring their own click

# Errors of files that the user can mend, so that they are no bugs
_FILE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.EFBIG, errno.ENOENT}
_FILE_ERRORS |= {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

# No warnings: what was chosen where nothing was given, where a name has two meanings, or in place of a config's
# setting; what takes a while
REMARKS = (
    Code.DEFAULT_MODEL,
    Code.DEFAULT_HORIZON,
    Code.FILE_NAMED_AS_CONFIG,
    Code.SHIPPED_CONFIG_USED,
    Code.SETTING_REPLACED,
    Code.SETTING_KEPT,
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


def file_error_text(error: OSError) -> str | None:
    """Return the line about a file that cannot be written or read; None if the error is none of the user's."""
    place = error.filename or "output"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{place}: a file is where a folder is needed. Choose another folder, or remove the file."
    if error.errno in (errno.EIO, errno.ESTALE):
        return f"{place}: {error.strerror}. The disk or its connection fails; look at the system's log."
    if error.errno not in _FILE_ERRORS:
        return None
    if error.errno == errno.ENAMETOOLONG:
        return f"{place}: {error.strerror}. A name has at most 255 bytes; choose a shorter one."
    return f"{place}: {error.strerror}. Free space or choose another folder."


def memory_error_text(error: BaseException) -> str | None:
    """Return the line about memory that an allocation did not get, on any device; None for any other error."""
    if (said := out_of_memory(error)) is None:
        return None
    return (
        f"out of memory ({said}). Less at a time takes less: a smaller training.micro_batch_size (train --resume; the "
        "result stays the same but for rounding) or --batch-size and --max-memory (forecast, evaluate, benchmark, "
        "compare); or end other programs."
    )


@contextlib.contextmanager
def naming_flags_that_take_less(
    *, batch_size: int, context_length: int | None, num_samples: int | None, dtype: str, max_memory: int | None = None
) -> Iterator[None]:
    """Raise a ModelError in place of an error of memory while a model forecasts: the flags that take less, in the order
    of their effect, with their present values."""
    try:
        yield
    except Exception as error:  # libraries raise errors of memory of many types
        if (said := out_of_memory(error)) is None:
            raise
        from foretrain.models.memory import in_words  # not at the start: it imports torch

        now = "none" if max_memory is None else in_words(max_memory)
        ways = [f"a {'' if max_memory is None else 'lower '}--max-memory (now {now})"]
        ways += [f"a lower --batch-size (now {batch_size:,} rows)"] if batch_size > 1 else []
        ways += [] if num_samples is None else [f"a lower --num-samples (now {num_samples:,})"]
        length = "the model's" if context_length is None else f"{context_length:,}"
        ways += [f"a lower --context-length (now {length})"]
        ways += ["--dtype bfloat16"] if dtype == "float32" else []
        raise ModelError(
            f"out of memory ({said}). What takes less, in the order of effect: {'; '.join(ways)}; or end other "
            "programs."
        ) from error


def usage_text(error: Any) -> str:
    """Return the line about a command that cannot be understood; where nothing was given, the help."""
    text = error.format_message()
    command = error.ctx.command_path if error.ctx else " ".join(["foretrain", *filter(str.isalpha, sys.argv[1:2])])
    if text.startswith("Usage:"):
        error.show()
        sys.exit(2)
    text = " ".join(text.replace("Value error, ", "").split())
    verb, unknown = command.partition(" ")[2], _UNKNOWN.match(text)
    hint = example(verb) if text.startswith(("Missing ", "Got unexpected extra")) else ""
    if unknown is not None and error.ctx:
        meant = _meant(unknown["command"], unknown["option"], text[unknown.end() :], verb, error.ctx)
        text = f"{unknown[0].rstrip('. ')}. {meant}".rstrip()
    return f"{text}{'' if text[-1:] in '.?!' else '.'} `{command} -h` shows how to call it. {hint}".rstrip()


def _meant(command: str | None, option: str | None, advice: str, verb: str, context: Any) -> str:
    """Return what an unknown command or option was probably meant to be; advice is what typer says of those alike."""
    word, alike = command or option or "", re.findall(r"-*[a-z][a-z-]+", advice)
    if nearest(word, alike, cutoff=_SLIP):
        return did_you_mean(word, alike, most=3, cutoff=0.5)
    if command is not None:
        return about_command(command, context.command.list_commands(context))
    return about_option(word, verb, {name for parameter in context.command.params for name in parameter.opts})
