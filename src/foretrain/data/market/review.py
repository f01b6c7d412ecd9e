"""Judge the bars of a folder of market series by the rules that need a whole series, its peers or an exchange.

Rules of single rows (order, duplicates, impossible values) are in data/quality.py. Here are MARKET_RULES of
data/rules.py: what each finds is in detect.py. In mode drop a doubtful bar is not observed (NaN) but keeps its stamp,
and a series of which many bars are doubtful, or whose level changed, is left out.

# V columns, T rows of one item
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from foretrain.data.findings import Findings, ItemFindings
from foretrain.data.market import detect
from foretrain.data.market.adjustment import factors
from foretrain.data.market.peers import Peers
from foretrain.data.market.traded import as_traded, events_of, has_events, with_factors
from foretrain.data.quality import ItemRows, MarketColumns, clean
from foretrain.data.rules import OnBad
from foretrain.data.windows import FloatArray, IntArray, Mask
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY, HOUR, Frequency
from foretrain.timeaxis.gaps import DayVotes, Week, find_gaps
from foretrain.timeaxis.inference import infer

HIDE = ("stale_price", "spike", "zero_volume", "repeated_bar", "clock_shift", "closed_session")  # in mode drop
LEAVE_OUT = ("split_like_jump", "corporate_action")
MOST_DOUBTFUL = 0.2  # share of a series' bars
_NONE = np.zeros(0, np.int64)
_BRIEF = HOUR // 4  # bars shorter than this stay empty in quiet hours of busy markets
_VOLUME_SHARE = 0.2  # of bars without volume, up to which one of them is doubtful
_SHARED = {"spike": 0.25, "split_like_jump": 0.5}  # of the peers that move as well: then the market did
_BESIDE = HOUR // 2  # from a hole of brief bars, within which a market is as busy
_YEAR = 366 * DAY
_SESSIONS = 40  # of history, from which days tell a split in bars shorter than a session
_LONGEST_SESSION = 18 * HOUR  # of a market that closes
_NO_TRADES = 0.5  # and up to which it had no trade


@dataclass(frozen=True)
class Judged:
    """One series after the rules. why: the reason that it is left out, None if it stays; hidden (T,): bars made NaN.

    found: rule -> bars (T,) that it finds; missing (K,): sessions of the exchange that the series lacks. rows also hold
    a row without values for each of them.
    """

    rows: ItemRows
    why: str | None
    hidden: Mask
    found: dict[str, Mask]
    missing: IntArray


class MarketReview:
    """Judges series one by one, after all were added, so that each is compared with its peers."""

    def __init__(self, layout: MarketColumns, on_bad: OnBad) -> None:
        self.layout, self.on_bad = layout, on_bad
        self.peers = Peers()
        self._stored: dict[str, int] = {}  # item -> rows that are in a corpus already, and stay as they are

    def add(self, rows: ItemRows, *, stored: int = 0) -> None:
        """Count an item among the peers."""
        self._stored[rows.item_id] = stored
        if self.layout.close is None or rows.times is None or not rows.calendar or not len(rows):
            return
        moved = detect.moves(self._close(rows))
        self.peers.add(rows.times, moved, detect.local_scale(moved))

    def judge(
        self, rows: ItemRows, findings: ItemFindings, exchange: Exchange | None = None, *, insert: bool = True
    ) -> Judged:
        """Return an added item's rows as the mode leaves them; findings receives what the rules found.

        exchange: where the item trades, if that is known. Sessions are never guessed without one: then the days of its
        peers count. insert: give its missing sessions a row. Raises DataError if the stamps do not fit the exchange.
        """
        hidden = np.zeros(len(rows), bool)
        if self.layout.close is None or not len(rows):
            return Judged(rows, None, hidden, {}, _NONE)
        compared = None
        if exchange is not None and rows.times is not None and rows.calendar:
            compared = exchange.compare(rows.times, rows.item_id)
        doubtful = self._doubtful(rows, None if compared is None else compared.outside)
        for name, hit in doubtful.items():
            if hit.any():
                first = int(hit.argmax())
                findings.add(name, int(hit.sum()), rows.example(first, self._detail(name, rows, first)))
                hidden |= hit & (name not in LEAVE_OUT)
        stored = self._stored.get(rows.item_id, 0)
        hidden[:stored] = False
        why = self._left_out(findings, hidden) if self.on_bad == "drop" else None
        if self.on_bad == "drop":
            values = rows.values.copy()
            for index in (*self.layout.prices, *self.layout.volumes):
                values[index, hidden] = np.nan
            rows = replace(rows, values=values)
        else:
            hidden = np.zeros_like(hidden)
        missing = _NONE if compared is None else compared.missing
        if stored and rows.times is not None:  # of what is stored, nothing moves
            missing = missing[missing > rows.times[stored - 1]]
        if insert and len(missing):
            rows = _with_sessions(rows, missing, findings)
        return Judged(rows, why, hidden, doubtful, missing)

    def _left_out(self, findings: ItemFindings, hidden: Mask) -> str | None:
        """Return why mode drop leaves an item out."""
        found = next((name for name in LEAVE_OUT if findings.has(name)), None)
        if found is None and hidden.sum() > MOST_DOUBTFUL * len(hidden):
            return f"{int(hidden.sum()):,} of {len(hidden):,} bars are doubtful"
        return found

    def _close(self, rows: ItemRows) -> FloatArray:
        """Return the close (T,), as of the first bar if the item has dividends or splits: known ones are no moves."""
        assert self.layout.close is not None
        close = rows.values[self.layout.close]
        if not has_events(self.layout.names, self.layout):
            return close
        return close * factors(close, events_of(rows.values, self.layout.names))[0]

    def _doubtful(self, rows: ItemRows, outside: Mask | None) -> dict[str, Mask]:
        """Return rule -> bars (T,) that it finds. outside: those not in a session of the exchange."""
        layout, close = self.layout, self._close(rows)
        assert layout.close is not None
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = close / rows.values[layout.close]
        prices = _prices(rows, layout)
        traded = rows.values[layout.volumes[0]] if layout.volumes else None
        volume = None if traded is None else _recorded(traded, _VOLUME_SHARE)
        moved = detect.moves(close)
        usual = detect.local_scale(moved)
        found = {"stale_price": detect.stale(prices, None if traded is None else _recorded(traded, _NO_TRADES))}
        opened, flat = (prices[0] * scale, prices[1] == prices[2]) if len(prices) > 1 else (None, None)
        found["spike"] = detect.spikes(close, opened, usual, flat)
        found["split_like_jump"] = _split_like(rows, prices * scale, volume) & ~found["spike"]
        for name, share in _SHARED.items():
            at = np.flatnonzero(found[name])
            if len(at) and rows.times is not None and rows.calendar:
                found[name][at[self.peers.market_moved(rows.times, moved, usual, at, share)]] = False
        if volume is not None:
            found["zero_volume"] = volume == 0
            if layout.bars:
                found["repeated_bar"] = detect.repeated(prices, volume) & ~found["stale_price"]
        if has_events(layout.names, layout):
            found["corporate_action"] = events_of(rows.values, layout.names).impossible(rows.values[layout.close])
        if rows.times is not None and rows.calendar:
            found["clock_shift"] = detect.shifted(rows.times)
            found["closed_session"] = self._closed(rows.times) if outside is None else outside & ~found["clock_shift"]
        return found

    def _closed(self, times: IntArray) -> Mask:
        """Return the bars on days on which nearly no peer trades."""
        days, place = np.unique(times // DAY, return_inverse=True)
        return self.peers.closed_days(days)[place]

    def _detail(self, name: str, rows: ItemRows, at: int) -> str:
        assert self.layout.close is not None
        close = rows.values[self.layout.close]
        if name in ("spike", "split_like_jump"):
            return f"close {', '.join(f'{value:.6g}' for value in close[max(0, at - 1) : at + 2])}"
        return f"close {close[at]:.6g}"


def _split_like(rows: ItemRows, prices: FloatArray, volume: FloatArray | None) -> Mask:
    """Return the bars (T,) at which prices leave their level like at a split, which takes effect when a session opens.

    Of bars within sessions the sessions are judged, since the first bar of each has another range and volume than those
    before it; in a market that never closes, and in less than _SESSIONS of history, each bar is.
    """
    held = np.flatnonzero(np.isfinite(prices[-1]))
    first = None if rows.times is None or not rows.calendar else _openings(rows.times[held])
    if first is None:
        return detect.split_like(prices, volume)
    known, last = prices[:, held], np.append(first[1:], len(held)) - 1
    sessions = known[:, last]
    if len(known) > 1:
        high, low = np.fmax.reduceat(known[1], first), np.fmin.reduceat(known[2], first)
        sessions = np.stack([known[0, first], high, low, known[3, last]])
    traded = None if volume is None else np.add.reduceat(np.nan_to_num(volume[held]), first)
    result = np.zeros(len(rows), bool)
    result[held[first[detect.split_like(sessions, traded)]]] = True
    return result


def _openings(times: IntArray) -> IntArray | None:
    """Return the first bar of each session of bars within sessions, None if they are none or too few."""
    day = times // DAY
    first = np.flatnonzero(np.diff(day, prepend=-1))
    if len(first) < _SESSIONS or len(first) == len(day):
        return None
    lengths = times[np.append(first[1:], len(day)) - 1] - times[first]
    return None if np.median(lengths) > _LONGEST_SESSION else first


def lost_bars(
    rows: ItemRows, layout: MarketColumns, freq: str, votes: DayVotes | None = None
) -> tuple[IntArray, IntArray]:
    """Return (index of the row after each gap, steps missing in it) of an item of prices whose exchange is unknown.

    A source leaves out a bar in which nothing was traded or quoted: holes that the item's own quiet bars make likely
    are no gaps. Days on which its peers traded always are.
    """
    assert rows.times is not None
    after, missing = find_gaps(rows.times, freq, votes)
    step = Frequency.of(freq).micros
    if layout.close is None or not len(after) or step is None:
        return after, missing
    week = Week.of(rows.times, freq)
    if step >= DAY and week is not None and week.has_closures:  # of a session, peers tell
        return after, missing
    prices = _prices(rows, layout)
    flat = np.append(False, prices[0, 1:] == prices[0, :-1]) if len(prices) == 1 else prices[1] == prices[2]
    lost = detect.unexplained(after, missing, flat, brief=step < _BRIEF)
    if rows.times[-1] - rows.times[0] < 2 * DAY:  # of one day, an hour may be a pause of the market
        lost &= missing * step > HOUR
    if step < DAY:
        lost &= ~_usual_holes(rows.times, after, missing, week, step)
    return after[lost], missing[lost]


def _usual_holes(times: IntArray, after: IntArray, missing: IntArray, week: Week | None, step: int) -> Mask:
    """Return which holes (G,) before the rows `after` are usual at their time of day: two others are as the hole.

    Of brief bars those within half an hour that are half as long or longer; of others the same hours within a year,
    since the pauses and half days of a market change over the years. A whole day is no pause.
    """
    rows = np.flatnonzero(np.diff(times) > step) + 1
    before, until = times[rows - 1], times[rows]
    lengths = (until - before) // step - 1
    if week is not None and week.has_closures:
        lengths = week.open_between(before, until)
    middle = (before + until) // 2 % DAY
    result = np.zeros(len(after), bool)
    for place, (row, length) in enumerate(zip(after.tolist(), missing.tolist(), strict=True)):
        start, end = int(times[row - 1]), int(times[row])
        if step < _BRIEF:
            apart = np.abs(middle - (start + end) // 2 % DAY)
            alike = (np.minimum(apart, DAY - apart) <= max(_BESIDE, (end - start) // 2)) & (2 * lengths >= length)
        else:
            alike = (before % DAY == start % DAY) & (until - before == end - start) & (abs(before - start) <= _YEAR)
            alike &= end - start <= DAY
        result[place] = np.count_nonzero(alike & (rows != row)) >= 2
    return result


def _prices(rows: ItemRows, layout: MarketColumns) -> FloatArray:
    """Return the open, high, low and close (4, T) of the bars, or the closes (1, T) if not all are recorded."""
    assert layout.close is not None
    return rows.values[list(layout.bars[0] if layout.bars else (layout.close,))]


def _with_sessions(rows: ItemRows, missing: IntArray, findings: ItemFindings) -> ItemRows:
    """Return the rows with one without values for each missing session."""
    assert rows.times is not None
    place = np.searchsorted(rows.times, missing)
    findings.add("gap", len(missing), rows.example(int(place[0]), f"the first of {len(missing):,} sessions before it"))
    return replace(
        rows,
        values=np.insert(rows.values, place, np.float32(np.nan), axis=1),
        times=np.insert(rows.times, place, missing),
        lines=np.insert(rows.lines, place, 0),
    )


def _recorded(volume: FloatArray, most: float) -> FloatArray | None:
    """Return the volume, None if more than a share of the bars have none: the source may not record it."""
    return volume if np.mean(~(volume > 0)) <= most else None


@dataclass(frozen=True)
class Quarantined:
    """What mode drop took out of a series: bars by their stamps, with the rule, or all of it (times None)."""

    item_id: str
    reason: str
    times: IntArray | None = None


@dataclass(frozen=True)
class Reviewed:
    """The series of a library after the rules: findings by rule, what stays, and what was taken out and why."""

    findings: Findings
    kept: dict[str, ItemRows]
    quarantine: tuple[Quarantined, ...]


def review(
    series: Iterable[ItemRows],
    layout: MarketColumns,
    *,
    exchanges: Mapping[str, str] | None = None,
    on_bad: OnBad = "drop",
) -> Reviewed:
    """Return the series of one library, cleaned by all rules of single rows and of markets; each has its peers.

    exchanges: item -> code of its exchange's calendar, for the items whose exchange is known. Prices come back as
    traded, with factors as last columns if the layout has dividends or splits. Raises DataError if the stamps of an
    item do not fit its exchange.
    """
    total, judge = Findings(on_bad), MarketReview(layout, on_bad)
    held: list[tuple[ItemRows, ItemFindings]] = []
    for rows in series:
        found = ItemFindings(on_bad)
        rows = clean(as_traded(rows, layout.names, layout, found), layout, found)
        judge.add(rows)
        held.append((rows, found))
    calendars = {code: Exchange(code) for code in sorted(set((exchanges or {}).values()))}
    kept: dict[str, ItemRows] = {}
    quarantine: list[Quarantined] = []
    for rows, found in held:
        code = (exchanges or {}).get(rows.item_id)
        judged = judge.judge(rows, found, None if code is None else calendars[code])
        if code is None and rows.times is not None and len(rows) > 2 and (freq := infer(rows.times).freq) is not None:
            after, missing = lost_bars(rows, layout, freq, judge.peers.votes)
            if len(after):
                found.add("gap", int(missing.sum()), rows.example(int(after[0]), f"{int(missing[0])} steps missing"))
        found.count_in(total)
        for name in (*HIDE, *LEAVE_OUT) if on_bad == "drop" else ():
            hit = judged.found.get(name)
            if hit is not None and hit.any() and rows.times is not None:
                quarantine.append(Quarantined(rows.item_id, name, rows.times[hit]))
        if judged.why is not None:
            quarantine.append(Quarantined(rows.item_id, judged.why))
            continue
        placed = judged.rows
        kept[rows.item_id] = with_factors(placed, layout.names, layout) if has_events(layout.names, layout) else placed
    return Reviewed(total, kept, tuple(quarantine))
