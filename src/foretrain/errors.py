"""Errors for users: which item, what is wrong, what to do. The CLI prints them without a traceback."""


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


class TrainingError(ForetrainError):
    """A run cannot start, continue or be resumed."""


class Interrupted(BaseException):
    """A run was stopped by a signal, after its checkpoint. exit_code is 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
