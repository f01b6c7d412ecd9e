"""Which symbols training never sees: those that are named, or a share of each asset class by a hash of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from foretrain.errors import DataError
from foretrain.hints import did_you_mean


def named(text: str, symbols: Mapping[str, str]) -> tuple[str, ...]:
    """Return the symbols of "A,B". symbols: name -> asset class. Raises DataError for an unknown one."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in found:
        if name not in symbols:
            raise DataError(f"--unseen: no symbol {name!r} in the folder. {did_you_mean(name, symbols)}".rstrip())
    return found


def drawn(count: int, symbols: Mapping[str, str], seed: int) -> tuple[str, ...]:
    """Return `count` symbols, of each asset class in proportion to its number (by largest remainders), the same ones
    for the same seed whatever else is in the folder as long as the numbers of the classes stay.

    symbols: name -> asset class. Raises DataError if no symbol would be left to train on.
    """
    if count >= len(symbols):
        raise DataError(f"--unseen {count}: the folder has {len(symbols)} symbols, and some must be left to train on.")
    classes: dict[str, list[str]] = {}
    for name, kind in symbols.items():
        classes.setdefault(kind, []).append(name)
    exact = {kind: count * len(names) / len(symbols) for kind, names in classes.items()}
    shares = {kind: int(share) for kind, share in exact.items()}
    by_rest = sorted(classes, key=lambda kind: (shares[kind] - exact[kind], kind))
    for kind in by_rest[: count - sum(shares.values())]:
        shares[kind] += 1
    chosen = list[str]()
    for kind, names in classes.items():
        chosen += sorted(names, key=lambda name: _draw(name, seed))[: shares[kind]]
    return tuple(sorted(chosen))


def _draw(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8, person=b"unseen").digest()
