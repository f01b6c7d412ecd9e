"""What training asks of a library of symbols: its subsets by name, and whether a corpus is of unseen symbols."""

from __future__ import annotations

from pathlib import Path

from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.reading import believing, read_object, resolved

LIBRARY_FILE = "library.json"
UNSEEN = "unseen"


def library_of(corpus: Corpus) -> Path | None:
    """Return the folder of the library that a corpus is in, None for another one."""
    if corpus.path is None:
        return None
    above = resolved(corpus.path).parent
    found = above.parent if above.name == UNSEEN else above
    return found if (found / LIBRARY_FILE).is_file() else None


def subsets_of(library: Path) -> dict[str, tuple[str, ...]]:
    """Return the symbols of each subset of a library. Raises DataError for a damaged library.json."""
    path, again = library / LIBRARY_FILE, "Build the library anew."
    try:
        tree = read_object(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}. {again}") from None
    with believing(path, DataError, again):
        found = {str(name): tuple(symbols) for name, symbols in tree["subsets"].items()}
        if not all(isinstance(symbol, str) for symbols in found.values() for symbol in symbols):
            raise ValueError("a subset with what is no name")
    return found


def refuse_unseen(corpus: Corpus) -> None:
    """Raise ConfigError for a corpus of the symbols of a library that no training may see."""
    library = library_of(corpus)
    if library is None or corpus.path is None or resolved(corpus.path).parent.parent != library:
        return
    raise ConfigError(
        f"data.corpora: {corpus.path} holds the unseen symbols of {library}, which no training may see. Name another "
        "corpus; to train on these symbols too, build a library without --unseen."
    )
