"""The entry point: every way in which a command ends, with its line on stderr and its exit code.

| end | exit code |
|---|---|
| done | 0 |
| something that the user can mend, in one line | 2 |
| Ctrl-C; SIGTERM, SIGUSR1 or a closed terminal | 130; 143 |
| the reader of a pipe closed it | 141 |
| a fault of foretrain's own, in one line that names a saved report | 1 |
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from foretrain.cli.app import app
from foretrain.cli.faults import name_bus_errors
from foretrain.cli.messages import Abort, UsageError, file_error_text, memory_error_text, messages_in_lines, usage_text
from foretrain.cli.start import nothing_begun
from foretrain.errors import ForetrainError, Interrupted
from foretrain.printing import printable_output, without_secrets
from foretrain.processes import in_import, send_again

_INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 130, 141, 143
_BREAK = re.compile(r"[\n\r](?!  )")


def main() -> None:
    """Run the command that sys.argv names, and exit with its code."""
    name_bus_errors()
    with printable_output():
        _main()


def _main() -> None:
    try:
        with messages_in_lines(), _signals_as_exceptions():
            code = app(prog_name="foretrain", standalone_mode=False)
            sys.stdout.flush()  # here, where an error has its line
        if code == _INTERRUPTED:  # typer's, in place of Ctrl-C
            print("interrupted", file=sys.stderr)
        sys.exit(code or 0)
    except UsageError as error:
        _fail(usage_text(error))
    except ForetrainError as error:
        _fail(str(error))
    except Interrupted as stopped:  # a run has logged this and saved a checkpoint
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe closed it
        _end_of_reader()
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # typer's, in place of it
            _end_of_reader()
        raise
    except OSError as error:
        _discard_output()
        if (text := file_error_text(error) or memory_error_text(error)) is None:
            _report(error)
        else:
            _fail(text)
    except Abort as error:  # typer's, in place of an EOFError
        _report(error.__cause__ or error)
    except UnicodeEncodeError as error:  # of a path or another argument that is not text
        if error.reason != "surrogates not allowed":
            _report(error)
        _fail(f"{error.object[:100]!a}: holds bytes that are no UTF-8 text. Write it in UTF-8, or rename the file.")
    except Exception as error:  # a fault of our own must not show a user a traceback
        if (text := memory_error_text(error)) is None:
            _report(error)
        else:
            _fail(text)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and SIGUSR1 raise Interrupted, so that scratch files are deleted; training has its own.

    In an import, where an exception may abort the process, a signal waits for its end, or ends the process at once if
    the command has begun nothing else.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if in_import(frame):
            if nothing_begun():
                os._exit(_INTERRUPTED if number == signal.SIGINT else _TERMINATED)
            send_again(number)
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted(_TERMINATED, "terminated")

    asked, usual_ones = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1), dict[int, Any]()
    try:
        for number in asked:
            if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, stop)
                usual_ones[number] = handler
    except ValueError:  # not in the main thread
        pass
    usual, sys.unraisablehook = sys.unraisablehook, _sent_again
    try:
        yield
    finally:
        sys.unraisablehook = usual
        for number, handler in usual_ones.items():
            signal.signal(number, handler)


def _sent_again(unraisable: Any) -> None:
    """Send a signal again whose exception a finalizer or a callback has swallowed, during which it came."""
    number = {Interrupted: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
        return
    send_again(number)  # here it would be swallowed again


def _discard_output() -> None:
    """Let Python's flush at the end of the process not fail again for what is still to be written to stdout."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_of_reader() -> None:
    _discard_output()
    sys.exit(_BROKEN_PIPE)


def _fail(message: str) -> None:
    """Print an error and exit; line breaks of names in it are shown, those before indented problems are kept."""
    print(f"error: {_BREAK.sub(_shown, without_secrets(message))}", file=sys.stderr)
    sys.exit(2)


def _shown(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]


def _report(error: BaseException) -> None:
    """Save a report on an exception that nothing expected, and exit with code 1."""
    from foretrain.cli.crash import save_report

    place = save_report(error)
    where = f"A report is in {place}" if place else "No report could be saved"
    print(f"error: foretrain failed ({type(error).__name__}), which is a fault of its own. {where}.", file=sys.stderr)
    sys.exit(1)
