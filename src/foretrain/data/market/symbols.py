"""Symbols to download: of the command line, of a file, or of the list in the package."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

from foretrain.errors import ConfigError, DataError
from foretrain.hints import missing_text
from foretrain.reading import Unreadable, read_text

SAMPLES = ("all", "stock", "etf", "crypto")
_LARGEST = 1 << 20  # bytes of a file of symbols


class SampleSymbol(NamedTuple):
    """A symbol of the list in the package: its class (stock, etf, crypto), currency and exchange, and its name in each
    source; "" if a source has none."""

    name: str
    asset_class: str
    currency: str
    exchange: str
    yfinance: str
    ccxt: str


def sample_symbols() -> list[SampleSymbol]:
    """Return the list in the package, as of November 2026."""
    text = resources.files("foretrain.data.market").joinpath("symbols.csv").read_text(encoding="utf-8")
    return [SampleSymbol(*row) for row in list(csv.reader(text.splitlines()))[1:]]


def sample(name: str, source: Literal["yfinance", "ccxt"]) -> list[str]:
    """Return the symbols of a sample in a source. Raises ConfigError if there is none of its name there."""
    if name not in SAMPLES:
        raise ConfigError(f"--sample {name}: choose {', '.join(SAMPLES)}.")
    rows = [row for row in sample_symbols() if name in ("all", row.asset_class)]
    if without := [row.name for row in rows if not getattr(row, source)]:
        raise ConfigError(f"--sample {name}: {source} has no {without[0]}. Choose crypto.")
    return [getattr(row, source) for row in rows]


def symbols_of(path: Path) -> list[str]:
    """Return the symbols of a text file: separated by line breaks, blanks or commas; # begins a comment.

    Raises ConfigError or DataError.
    """
    try:
        text = read_text(path, _LARGEST)
    except FileNotFoundError:
        raise ConfigError(f"--symbols {missing_text(path)}") from None
    except (OSError, Unreadable) as error:
        raise DataError(f"--symbols {path}: cannot be read ({error}). Give a text file, one symbol a line.") from None
    found = once(word for line in text.splitlines() for word in line.split("#")[0].replace(",", " ").split())
    if not found:
        raise ConfigError(f"--symbols {path}: holds no symbol. Write one on each line.")
    return found


def once(symbols: Iterable[str]) -> list[str]:
    """Return symbols without repetitions, in order of first appearance."""
    return list(dict.fromkeys(symbols))
