"""Folders of symbols as users of stock pipelines keep them, from a seeded walk."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

HEADER = "timestamp,open,high,low,close,volume"


def days(count: int, *, business: bool = True, start: str = "2022-01-03", hours: int = 24) -> list[str]:
    """Return stamps of `count` bars: business days, all days, or every few hours."""
    found, at = list[str](), datetime.fromisoformat(start)
    while len(found) < count:
        if not business or at.weekday() < 5:
            found.append(at.isoformat(sep=" ") if hours < 24 else at.date().isoformat())
        at += timedelta(hours=hours)
    return found


def bars(stamps: list[str], seed: int) -> list[str]:
    """Return a line of a CSV file for each stamp."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(stamps)))), 2)
    opens = np.r_[close[0], close[:-1]]
    lines = []
    for stamp, first, last, volume in zip(stamps, opens, close, rng.integers(1, 1000, len(stamps)), strict=True):
        lines.append(f"{stamp},{first},{max(first, last)},{min(first, last)},{last},{volume}")
    return lines


def write(path: Path, lines: list[str]) -> None:
    """Write a table with the usual header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *lines]) + "\n")


def write_parts(folder: Path, symbol: str, lines: list[str], **parts: int) -> None:
    """Write the newest rows as the parts with these numbers of rows, in order of time, and what is before as train."""
    end = len(lines) - sum(parts.values())
    write(folder / "train" / f"{symbol}.csv", lines[:end])
    for part, rows in parts.items():
        write(folder / part / f"{symbol}.csv", lines[end : end + rows])
        end += rows


def overview(folder: Path) -> dict[str, list[str]]:
    """Write the layout with train/, test/, unseen15/, cache/ and a subset; return the lines of each symbol."""
    held = {
        "AAPL": bars(days(200), 1),
        "MSFT": bars(days(180), 2),
        "NVDA": bars(days(160), 3),
        "BTC-USD": bars(days(190, business=False), 4),
        "AVGO": bars(days(150), 5),
        "ALGO-USD": bars(days(140, business=False), 6),
    }
    for symbol in ("AAPL", "MSFT", "NVDA", "BTC-USD"):
        write_parts(folder, symbol, held[symbol], test=30)
        if symbol != "MSFT":
            write(folder / f"{symbol}.csv", held[symbol])
    for symbol in ("AVGO", "ALGO-USD"):
        write_parts(folder / "unseen15", symbol, held[symbol], val=20, test=30)
    write(folder / "puffer_subset" / "AAPL.csv", held["AAPL"])
    (folder / "cache").mkdir()
    (folder / "cache" / "old.csv").write_text("junk\n")
    (folder / "data_summary.csv").write_text("symbol,latest_date,total_rows\nAAPL,2022-10-07,200\n")
    return held
