"""One writer at a time for a corpus folder: a lock file beside it, and leftovers of writers that were killed.

The lock is beside the folder, not in it, since an update exchanges folders. Readers need none: they see the folder of
before or of after. What a command writes on the way lies beside the corpus as well, in files `.NAME.writing-*` and
`.NAME.import-*`; whoever holds the lock is the only one who has a use for them.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foretrain.atomic import remove, remove_empty
from foretrain.errors import DataError
from foretrain.locks import FileLock

_KINDS = ("writing", "import")


@contextmanager
def exclusive(out: str | Path) -> Iterator[Path]:
    """Yield the folder that `out` names, links followed; no other process imports into it or updates it meanwhile.

    Leftovers of killed writers are deleted, and parent folders that were created if the block fails. Raises DataError
    if another process writes the corpus, OSError of the disk.
    """
    folder = target(out)
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), Path(out), "is writing this corpus", DataError):
            for path in _leftovers(folder):
                remove(path)
            yield folder
    except BaseException:
        remove_empty(missing)
        raise


def target(out: str | Path) -> Path:
    """Return the folder that is written for `out`: what it names if it is a link, so that the link stays one."""
    out = Path(out)
    return Path(os.path.realpath(out)) if out.is_symlink() else out


def scratch(folder: Path, kind: str) -> Path:
    """Create an empty folder beside a corpus folder, which the corpus' next writer deletes if this one is killed."""
    assert kind in _KINDS
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.{kind}-{uuid.uuid4().hex[:8]}")
    path.mkdir()
    return path


def discard(path: Path, folder: Path) -> None:
    """Delete a folder beside a corpus folder, under another name first: the corpus' next writer deletes what a kill
    leaves of it. A folder that cannot be renamed stays whole."""
    name = folder.with_name(f".{folder.name}.writing-{uuid.uuid4().hex[:8]}")
    with suppress(OSError):
        path.rename(name)
        remove(name)


def kept_folder(folder: Path) -> Path:
    """Return where an update keeps the folder that it replaces, until the next one, since readers may map its files."""
    return folder.with_name(f".{folder.name}.old")


def _leftovers(folder: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.({'|'.join(_KINDS)})-[0-9a-f]{{8}}")
    with suppress(OSError):
        return [path for path in folder.parent.iterdir() if pattern.fullmatch(path.name)]
    return []
