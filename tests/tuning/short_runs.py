"""Configs that train in a second, for tests of range tests and probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tuning.studies import SMALL

from foretrain.run.config import RunConfig
from foretrain.run.shipped import shipped_config
from foretrain.tuning.short_run import one_run


def config_of(**more: Any) -> RunConfig:
    """The linear model on generated series; more: keys with __ for dots."""
    changes = SMALL | {key.replace("__", "."): value for key, value in more.items()}
    return one_run(shipped_config("linear/quick"), list(changes.items()))


def words_of(**more: Any) -> list[str]:
    """The same as words of a command line."""
    changes = SMALL | {key.replace("__", "."): value for key, value in more.items()}
    return ["linear/quick", *(f"{key}={'null' if value is None else value}" for key, value in changes.items())]


def watch_scratch(monkeypatch: Any, folder: Path) -> Path:
    """Let temporary files lie in a folder, and return it."""
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def left_in(scratch: Path) -> list[str]:
    """What foretrain left there; torch keeps a cache of its own beside it."""
    return [one.name for one in scratch.iterdir() if one.name.startswith("foretrain")]
