"""Errors for users: which item, what is wrong, what to do. The CLI prints them without a traceback."""

import errno
import re

# what allocators say in plain RuntimeErrors: torch's of hosts and devices, CUDA's, and those of its libraries
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory|STATUS_ALLOC_FAILED", re.IGNORECASE
)

DISK_TROUBLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))


class ForetrainError(Exception):
    """Base of every error that a user can cause; the CLI prints its message and exits with code 2."""


class ConfigError(ForetrainError):
    """A setting is unknown, contradictory or cannot take effect."""


class DataError(ForetrainError):
    """A file, column, item or window is missing or malformed."""


class MissingCorpusError(DataError):
    """A corpus that a config names is not there."""


class ModelError(ForetrainError):
    """A release or checkpoint cannot be opened, or does not support the request."""


class UnreadableError(ModelError):
    """A file of a release is there, and the system fails to read it: what it says is not known."""


class TrainingError(ForetrainError):
    """A run cannot start, continue or be resumed."""


class Interrupted(BaseException):
    """A run was stopped by a signal, after its checkpoint. exit_code is 130 for Ctrl-C and 143 for other signals.

    by_all: every rank of the run raises it.
    """

    def __init__(self, exit_code: int, message: str, by_all: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.by_all = exit_code, by_all


def of_the_disk(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised for, is of a disk that is full, read-only or broken."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
            return True
        error = error.__cause__ or error.__context__
    return False


def out_of_memory(error: BaseException) -> str | None:
    """Return what an error says of memory that an allocation did not get, on any device, in a line; None for any other
    error."""
    said = " ".join(str(error).split())
    own = type(error).__name__ == "OutOfMemoryError"  # torch's, which need not be imported for this
    plain = isinstance(error, RuntimeError) and _NO_MEMORY.search(said)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (own or plain or refused or isinstance(error, MemoryError)):
        return None
    return said[:120].rstrip(". ") or "an allocation failed"
