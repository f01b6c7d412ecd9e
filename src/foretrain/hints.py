"""Names that a misspelt one may have meant, for the end of an error's text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Up to `most` known names spelt like a word, nearest first; cutoff is the least likeness, 0..1."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", *, most: int = 1, cutoff: float = 0.6) -> str:
    """ "Did you mean 'a' or 'b'?" of the nearest known names; `otherwise` where none is near."""
    close = nearest(word, known, most=most, cutoff=cutoff)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else otherwise
