"""Download of market bars: symbol by symbol into a library, resumed where it ended, updated on one price base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from foretrain.data.market.bars import Bars
from foretrain.data.market.folder import MarketFolder, check_names
from foretrain.data.market.overlap import OVERLAP, OverlapCheck, compare, unadjusted_splits
from foretrain.data.market.sources import BarSource, Fetched, NoAnswerError, SymbolError
from foretrain.errors import ConfigError, DataError

SILENT = 3  # symbols in a row without an answer, after which the others are not asked for
State = Literal["fetched", "updated", "rebased", "kept", "failed"]
_Say = Callable[["SymbolOutcome"], None]


@dataclass(frozen=True)
class SymbolOutcome:
    """What became of a symbol, and remarks.

    fetched: written for the first time; updated: bars were added, or had other values; rebased: fetched again from
    its start; kept: as it was, which is no failure; failed: as it was, or not there, and why.
    """

    symbol: str
    state: State
    text: str


@dataclass(frozen=True)
class _Merged:
    """The bars that a library is to hold, what was fetched for them, and how the user is told."""

    bars: Bars
    fetched: Fetched
    state: State
    text: str


class Downloader:
    """Downloads into an open library.

    start: of all symbols; end: of this fetch: bars before it. Both in milliseconds since 1970 in UTC, None = no bound.
    update: fetch what is new of symbols that are there.
    """

    def __init__(
        self, folder: MarketFolder, source: BarSource, *, update: bool, start: int | None = None, end: int | None = None
    ) -> None:
        self._folder, self._source, self._update, self._start, self._end = folder, source, update, start, end

    def run(self, symbols: Sequence[str], say: _Say = lambda outcome: None) -> list[SymbolOutcome]:
        """Download symbols one after the other; say takes the outcome of each as soon as it is known."""
        check_names([*symbols, *self._folder.symbols])
        outcomes: list[SymbolOutcome] = []
        silent = 0
        for symbol in symbols:
            outcome = None
            if silent < SILENT:
                try:
                    outcome, silent = self._one(symbol), 0
                except NoAnswerError as error:
                    outcome, silent = SymbolOutcome(symbol, "failed", str(error)), silent + 1
                except DataError as error:
                    outcome = SymbolOutcome(symbol, "failed", str(error).rstrip("."))
            outcomes.append(outcome or SymbolOutcome(symbol, "failed", "not asked for: the source gives no answer"))
            say(outcomes[-1])
        return outcomes

    def _one(self, symbol: str) -> SymbolOutcome:
        """Bring the file of a symbol to what is asked for. Raises DataError; its file is then as it was."""
        if not self._folder.has(symbol):
            merged = self._whole(symbol, "fetched")
        elif self._update:
            merged = self._newer(symbol)
        else:
            self._folder.check(symbol)
            return SymbolOutcome(symbol, "kept", "already there")
        if merged.state != "kept":
            fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
            record = {"fetched_at": fetched_at, "version": self._source.version, "host": self._source.host}
            self._folder.store(symbol, merged.bars, record | dict(merged.fetched.facts))
        text = "; ".join(filter(None, (merged.text, *merged.fetched.notes)))
        return SymbolOutcome(symbol, merged.state, text)

    def _whole(self, symbol: str, state: State) -> _Merged:
        """Fetch a symbol from its start."""
        fetched = self._source.fetch(symbol, self._start, self._end)
        bars = fetched.bars
        if not len(bars):
            raise SymbolError("no finished bars in the span asked for")
        text = f"{len(bars):,} bars, {bars.stamp(0)} .. {bars.stamp(-1)}"
        for row, ratio in unadjusted_splits(bars):
            text += f"; prices before {bars.stamp(row)} are not adjusted for its split of {ratio:g}"
        return _Merged(bars, fetched, state, text)

    def _newer(self, symbol: str) -> _Merged:
        """Fetch the newest stored bars again, and what follows; all of them if those have other prices now."""
        stored = self._folder.bars(symbol)
        if self._end is not None and stored.times[-1] >= self._end:
            return _Merged(stored, Fetched(stored, {}), "kept", f"reaches {stored.stamp(-1)} already")
        again = stored.where(slice(-OVERLAP, None))
        fetched = self._source.fetch(symbol, int(again.times[0]), self._end, again=True)
        fresh = fetched.bars.where(fetched.bars.times >= again.times[0])
        if fresh.columns != stored.columns:
            raise SymbolError(f"the source gives other columns now: {', '.join(fresh.columns)}; the file is unchanged")
        found = compare(again, fresh)
        if found is None:
            raise SymbolError(
                f"none of the bars {again.stamp(0)} .. {again.stamp(-1)} was given again, so that new ones cannot be "
                "said to follow them; the file is unchanged"
            )
        if fresh.times[-1] < stored.times[-1]:
            raise SymbolError(
                f"the source ends at {fresh.stamp(-1)} now, before the stored {stored.stamp(-1)}; the file is unchanged"
            )
        if found.rebased:
            return self._rebased(symbol, stored, found)
        bars = stored.where(slice(None, -len(again))).followed_by(fresh)
        _check_splits(bars, stored)
        count = int((fresh.times > stored.times[-1]).sum())
        if not count and not found.text():
            return _Merged(stored, fetched, "kept", f"no new bars after {stored.stamp(-1)}")
        text = f"{count:,} new bars, up to {bars.stamp(-1)}"
        return _Merged(bars, fetched, "updated", "; ".join(filter(None, (text, found.text()))))

    def _rebased(self, symbol: str, stored: Bars, found: OverlapCheck) -> _Merged:
        """Fetch a symbol again from its start, since its stored prices are on another base than new ones."""
        factor = "" if found.factor is None else f", by a factor of {found.factor:.6g}"
        why = f"stored prices differ from those of today{factor}"
        whole = self._whole(symbol, "rebased")
        if whole.bars.columns != stored.columns:
            raise SymbolError(f"{why}, and the source gives other columns now; the file is unchanged")
        if whole.bars.times[0] > stored.times[0] or whole.bars.times[-1] < stored.times[-1]:
            span = f"{whole.bars.stamp(0)} .. {whole.bars.stamp(-1)}"
            raise SymbolError(
                f"{why}, and the source now has {span} only, where {stored.stamp(0)} .. {stored.stamp(-1)} are stored; "
                "the file is unchanged"
            )
        _check_splits(whole.bars, stored)
        gone = len(stored) - len(np.intersect1d(stored.times, whole.bars.times))
        lost = f"; {gone:,} stored bars are no longer there" if gone else ""
        return _Merged(whole.bars, whole.fetched, "rebased", f"{why}: all fetched again, {whole.text}{lost}")


def _check_splits(bars: Bars, stored: Bars) -> None:
    """Raise SymbolError for a split after the stored bars that prices before it are not adjusted for."""
    for row, ratio in unadjusted_splits(bars, after=int(stored.times[-1])):
        raise SymbolError(
            f"the source has not yet adjusted prices before {bars.stamp(row)} for its split of {ratio:g}; the file is "
            "unchanged, try again tomorrow"
        )


def settle(folder: MarketFolder, asked: Mapping[str, str | None], *, update: bool) -> dict[str, Any]:
    """Return the settings of a library: those it has, or, of a new one, those asked for (None: not given) and defaults.

    Raises ConfigError if they differ, or if there is nothing to update.
    """
    if folder.settings:
        for name, value in asked.items():
            held = folder.settings[name]
            if value is not None and value != held:
                raise ConfigError(
                    f"--{name} {value}: the library in {folder.path} has {'none' if held is None else held}. Leave it "
                    "out, or download into another folder."
                )
        return dict(folder.settings)
    if update:
        raise ConfigError(f"{folder.path}: holds no library to update. Leave --update out.")
    if asked["source"] is None:
        raise ConfigError("--source: give yfinance or ccxt.")
    of_exchange = asked["source"] == "ccxt"
    if asked["exchange"] is not None and not of_exchange:
        raise ConfigError("--exchange: has no effect with --source yfinance. Leave it out.")
    exchange = (asked["exchange"] or "binance") if of_exchange else None
    return {**asked, "exchange": exchange, "interval": asked["interval"] or "1d"}
