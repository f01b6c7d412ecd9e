"""Translates configs of other projects into ours, with a report on each of their keys."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from foretrain.atomic import create_text
from foretrain.config import dump_yaml, read_yaml
from foretrain.errors import ConfigError
from foretrain.foreign import kronos, tsm_trainer
from foretrain.foreign.ledger import Translation


class Format(NamedTuple):
    """A foreign config format."""

    title: str
    translate: Callable[[Path, dict[str, Any]], Translation]  # (path of the file, its contents) -> our config


FORMATS = {
    "kronos": Format("a finetune_csv config of Kronos", kronos.translate),
    "tsm-trainer": Format("a training config of TSM-Trainer", tsm_trainer.translate),
}


def import_config(source: str, path: Path, out: Path | None = None) -> None:
    """Translate the file; the config goes to `out` (never overwritten) or to standard output, the report to stderr.

    The result is validated by our own loader before it is written. Raises ConfigError if the file cannot be read or
    translated, or `out` exists.
    """
    if out is not None and out.exists():
        raise ConfigError(f"{out}: exists already; name another file or remove it.")
    chosen = FORMATS[source]
    found = chosen.translate(path, read_yaml(path))
    _check(found.tree, path)
    comments = [f"Translated from {path.name}, {chosen.title}, by `foretrain config import`.", *found.comments]
    text = "".join(f"# {line}".rstrip() + "\n" for line in comments) + dump_yaml(found.tree)
    if out is None:
        print(text, end="")
    else:
        _write(out, text)
    commands = [*found.commands, f"foretrain train {shlex.quote(str(out or 'FILE-WITH-THE-CONFIG-ABOVE.yaml'))}"]
    print(found.ledger.report(chosen.title, commands), file=sys.stderr)


def refuse_foreign(path: Path) -> None:
    """Raise ConfigError, which names the translation, if a file is a config of another project.

    A file that has a section of ours is taken as ours; one that cannot be read is left to the reader that follows.
    """
    try:
        raw = read_yaml(path) if path.is_file() else {}
    except ConfigError:
        return
    source = "tsm-trainer" if tsm_trainer.recognises(raw) else "kronos" if kronos.recognises(raw) else None
    if source is None:
        return
    out = f"{path.stem}-foretrain.yaml"
    command = f"foretrain config import --from {source} {shlex.quote(str(path))} --out {shlex.quote(out)}"
    raise ConfigError(f"{path}: is {FORMATS[source].title}. Translate it first: {command}")


def _check(tree: dict[str, Any], path: Path) -> None:
    """Raise ConfigError if our loader refuses the translation, because of values that no run can have."""
    from foretrain.run.stages import Draft

    Draft.of(tree, source=f"{path}, translated").build()


def _write(out: Path, text: str) -> None:
    """Write a new file atomically. Raises ConfigError if it exists or cannot be written."""
    try:
        create_text(out, text)
    except FileExistsError:
        raise ConfigError(f"{out}: exists already; name another file or remove it.") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error}). Name another file.") from None
