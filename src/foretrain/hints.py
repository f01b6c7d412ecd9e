"""Close matches of a misspelt name, for the end of an error's text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to `most` known names similar to a word, nearest first; cutoff is the least similarity, 0..1."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", *, most: int = 1, cutoff: float = 0.6) -> str:
    """Return "Did you mean 'a' or 'b'?" with the nearest known names; `otherwise` if none is similar."""
    close = nearest(word, known, most=most, cutoff=cutoff)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else otherwise
