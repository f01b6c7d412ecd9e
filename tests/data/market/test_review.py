"""Rules for markets on a folder of generated stocks: each fault is found, and clean series and crashes are not.

tests/proofs/market_rules.py measures the same on real bars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foretrain.data.finding_pictures import findings
from foretrain.data.importers import import_corpus
from foretrain.data.importers.columns import market_layout
from foretrain.data.inspection import plot_corpus
from foretrain.data.market import detect
from foretrain.data.market.review import HIDE, LEAVE_OUT, lost_bars, review
from foretrain.data.quality import ItemRows
from foretrain.data.rules import BY_NAME, MARKET_RULES
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import DAY, HOUR, MINUTE

NAMES = ("open", "high", "low", "close", "volume")
LAYOUT = market_layout(NAMES, [False] * 5)
AT = 200


def stock(name: str, seed: int, days: int = 400) -> ItemRows:
    """Bars of weekdays from a Monday; the market falls by a fifth on day 300, and the stock by a third on day 90."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(4, days) * 0.012
    moves[300], moves[90] = -0.2, -0.4
    close = 50 * np.exp(np.cumsum(moves))
    opened = np.append(50, close[:-1]) * np.exp(0.6 * moves)
    volume = rng.uniform(1e5, 2e5, days)
    volume[90] *= 12
    prices = np.stack([opened, np.maximum(opened, close) * 1.004, np.minimum(opened, close) * 0.996, close])
    week = np.arange(days)
    times = (np.int64(4 + 7 * 2600) + week // 5 * 7 + week % 5) * DAY
    return ItemRows(name, np.concatenate([prices, [volume]]).astype(np.float32), times, week + 2, f"{name}.csv")


def folder() -> list[ItemRows]:
    return [stock(f"S{k}", k) for k in range(8)]


def spike(rows: ItemRows) -> ItemRows:
    rows.values[:4, AT] *= 1.3
    return rows


def stale(rows: ItemRows) -> ItemRows:
    rows.values[:4, AT : AT + 10] = rows.values[:4, AT - 1 : AT]
    return rows


def split(rows: ItemRows) -> ItemRows:
    rows.values[:4, :AT] *= 2
    rows.values[4, :AT] /= 2
    return rows


def repeat(rows: ItemRows) -> ItemRows:
    rows.values[:, AT] = rows.values[:, AT - 1]
    return rows


def idle(rows: ItemRows) -> ItemRows:
    rows.values[4, AT] = 0
    return rows


def shift(rows: ItemRows) -> ItemRows:
    assert rows.times is not None
    times = rows.times.copy()
    times[AT : AT + 5] += HOUR
    return replace(rows, times=times)


def weekend(rows: ItemRows) -> ItemRows:
    assert rows.times is not None
    return replace(
        rows,
        times=np.insert(rows.times, AT, rows.times[AT - 1] + DAY),
        values=np.insert(rows.values, AT, rows.values[:, AT - 1] * np.float32(1.001), axis=1),
        lines=np.insert(rows.lines, AT, 0),
    )


def lack(rows: ItemRows) -> ItemRows:
    return rows.take(np.delete(np.arange(len(rows)), AT))


PLANTS: dict[str, Callable[[ItemRows], ItemRows]] = {
    "spike": spike, "stale_price": stale, "split_like_jump": split, "repeated_bar": repeat, "zero_volume": idle,
    "clock_shift": shift, "closed_session": weekend, "gap": lack,
}  # fmt: skip


def found(series: list[ItemRows], **options) -> dict[str, int]:
    result = review(series, LAYOUT, **options)
    return {rule: result.findings.count(rule)[1] for rule in MARKET_RULES if result.findings.count(rule)[1]}


def test_clean_series_with_crashes_raise_no_alarm() -> None:
    assert found(folder()) == {}


@pytest.mark.parametrize("rule", PLANTS)
def test_a_planted_fault_is_found_and_nothing_else(rule: str) -> None:
    series = folder()
    series[3] = PLANTS[rule](series[3])
    wanted = {"stale_price": 10, "clock_shift": 5}.get(rule, 1)
    assert found(series, on_bad="fix") == {rule: wanted}


@pytest.mark.parametrize("rule", [rule for rule in PLANTS if rule in HIDE])
def test_drop_takes_a_doubtful_bar_out_of_its_series_and_says_why(rule: str) -> None:
    series = folder()
    series[3] = PLANTS[rule](series[3])
    result = review(series, LAYOUT)
    entry = result.quarantine[0]
    assert (entry.item_id, entry.reason) == ("S3", rule)
    kept = result.kept["S3"]
    assert entry.times is not None and kept.times is not None
    hidden = np.isin(kept.times, entry.times)
    assert np.isnan(kept.values[:, hidden]).all() and not np.isnan(kept.values[:, ~hidden]).any()
    kept = review(series, LAYOUT, on_bad="fix").kept["S3"]
    assert not np.isnan(kept.values).any()


def test_drop_leaves_out_series_whose_level_changed_or_that_are_mostly_doubtful() -> None:
    series = folder()
    series[3], series[5] = split(series[3]), replace(series[5], values=series[5].values.copy())
    for start in range(110, 370, 26):
        series[5].values[:4, start : start + 16] = series[5].values[:4, start - 1 : start]
    result = review(series, LAYOUT)
    assert sorted(result.kept) == ["S0", "S1", "S2", "S4", "S6", "S7"]
    why = {entry.item_id: entry.reason for entry in result.quarantine if entry.times is None}
    assert why["S3"] == "split_like_jump" and "of 400 bars are doubtful" in why["S5"]


def test_every_rule_for_markets_changes_something() -> None:
    assert len(MARKET_RULES) <= 12
    for name in MARKET_RULES:
        rule = BY_NAME[name]
        assert "NaN" in rule.fix + rule.drop or "left out" in rule.drop or "no target" in rule.fix, name
    assert {*HIDE, *LEAVE_OUT} < set(MARKET_RULES)


def test_a_move_that_the_market_shares_is_no_bad_print() -> None:
    series = folder()
    for rows in series:
        spike(rows)
    assert "spike" not in found(series)


@pytest.mark.parametrize("ratio", [2.0, 7.0, 1 / 10, 1.5])
def test_a_split_is_seen_and_news_is_none(ratio: float) -> None:
    values = stock("A", 1).values
    values[:4, 200:] /= ratio
    values[4, 200:] *= ratio
    np.testing.assert_array_equal(np.flatnonzero(detect.split_like(values[:4], values[4])), [200])
    values[4, 200] *= 12
    assert bool(detect.split_like(values[:4], values[4]).any()) == (max(ratio, 1 / ratio) > 4.5)


def write(folder: Path, series: list[ItemRows]) -> Path:
    folder.mkdir()
    for rows in series:
        assert rows.times is not None
        stamps = rows.times.astype("M8[us]").astype("M8[D]")
        lines = [",".join([str(t), *(f"{v:.9g}" for v in bar)]) for t, bar in zip(stamps, rows.values.T, strict=True)]
        (folder / f"{rows.item_id}.csv").write_text("\n".join(["Date,Open,High,Low,Close,Volume", *lines]) + "\n")
    return folder


def hourly(days: int = 60) -> ItemRows:
    """Seven hours a day of a stock that is split 2:1 at the opening of day 50; the first hour is wild and busy."""
    rng = np.random.default_rng(0)
    bars = 7 * days
    opening = np.arange(bars) % 7 == 0
    close = 80 * np.exp(np.cumsum(np.where(opening, 0.012, 0.002) * rng.standard_normal(bars)))
    width = np.where(opening, 0.01, 0.002)
    volume = rng.uniform(1e4, 2e4, bars) * np.where(opening, 20, 1)
    prices = np.stack([close, close * (1 + width), close * (1 - width), close])
    prices[:, 7 * 50 :] /= 2
    volume[7 * 50 :] *= 2
    day = np.arange(days) // 5 * 7 + np.arange(days) % 5
    times = ((np.int64(4 + 7 * 2600) + day)[:, None] * DAY + (14 + np.arange(7)) * HOUR).ravel()
    return ItemRows("S", np.concatenate([prices, [volume]]).astype(np.float32), times, np.arange(bars) + 2, "S.csv")


def test_a_split_of_hourly_bars_is_seen_at_the_opening_of_its_session() -> None:
    result = review([hourly()], LAYOUT, on_bad="drop")
    assert [(one.reason, one.times) for one in result.quarantine if one.times is None] == [("split_like_jump", None)]
    assert result.findings.count("split_like_jump")[1] == 1
    assert [one.times.tolist() for one in result.quarantine if one.times is not None] == [[hourly().times[350]]]
    short = hourly().take(np.arange(7 * 25, 7 * 60))  # of 35 sessions each bar is judged: this one looks like news
    assert review([short], LAYOUT, on_bad="drop").findings.count("split_like_jump")[1] == 0


def test_a_hole_of_minutes_is_no_gap_where_others_as_long_are_at_its_time_of_day() -> None:
    minutes = np.arange(0, 8 * 1440) * MINUTE
    thin = minutes % DAY >= 20 * HOUR  # of four hours every fifth minute has a bar
    kept = ~thin | (minutes // MINUTE % 5 == 0)
    kept[[4 * 1440 + k for k in range(600, 640)]] = False  # forty minutes by day, and in the evenings of three days
    for day in (2, 4, 6):
        kept[day * 1440 + 1260 : day * 1440 + 1300] = False
    times = minutes[kept]
    close = 100 + np.cumsum(np.random.default_rng(1).standard_normal(len(times)))
    values = np.stack([close, close + 1, close - 1, close, np.full(len(times), 9.0)]).astype(np.float32)
    after, missing = lost_bars(ItemRows("S", values, times, np.arange(len(times))), LAYOUT, "min")
    assert (times[after] % DAY // MINUTE).tolist() == [640] and missing.tolist() == [40]


def test_the_same_hour_left_out_again_is_a_pause_and_whole_days_are_none() -> None:
    hours = np.arange(0, 200 * 24) * HOUR
    kept = np.ones(len(hours), bool)
    kept[[24 * 50 + 21, 24 * 90 + 21, 24 * 140 + 21, 24 * 30 + 7]] = False
    for day in (20, 60, 100):
        kept[24 * day : 24 * day + 24] = False
    times = hours[kept]
    close = 100 + np.cumsum(np.random.default_rng(2).standard_normal(len(times)))
    values = np.stack([close, close + 1, close - 1, close, np.full(len(times), 9.0)]).astype(np.float32)
    after, missing = lost_bars(ItemRows("S", values, times, np.arange(len(times))), LAYOUT, "h")
    assert missing.tolist() == [24, 1, 24, 24]
    assert times[after[1]] == (24 * 30 + 8) * HOUR


def test_an_import_takes_the_same_bars_out_and_draws_them(tmp_path: Path) -> None:
    series = folder()
    series[3], series[4] = spike(series[3]), split(series[4])
    raw = write(tmp_path / "raw", series)
    fixed = import_corpus([raw], tmp_path / "fixed")
    assert fixed.rules["spike"]["rows"] == fixed.rules["split_like_jump"]["rows"] == 1
    assert fixed.items == 8
    report = import_corpus([raw], tmp_path / "out", on_bad="drop")
    assert report.dropped == {"S4": "split_like_jump"}
    corpus = Corpus.open(tmp_path / "out")
    assert np.flatnonzero(np.isnan(corpus.values(3)).all(axis=0)).tolist() == [AT]
    drawn = findings(corpus, report.rules)
    assert [(one.rule, corpus.item_id(one.series), one.bar) for one in drawn] == [("spike", "S3", AT)]
    plot_corpus(corpus, tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 20_000


def test_an_update_changes_no_stored_bar(tmp_path: Path) -> None:
    series = folder()
    series[3] = spike(series[3])
    write(tmp_path / "before", [rows.take(np.arange(AT + 1)) for rows in series])
    write(tmp_path / "after", series)
    import_corpus([tmp_path / "before"], tmp_path / "out", on_bad="drop")
    report = import_corpus([tmp_path / "after"], tmp_path / "out", on_bad="drop", update=True)
    assert report.rules["spike"]["rows"] == 1
    assert not np.isnan(Corpus.open(tmp_path / "out").values(3)).any()


def test_an_exchange_gives_missing_sessions_a_row_and_knows_holidays(tmp_path: Path) -> None:
    exchange_calendars = pytest.importorskip("exchange_calendars")
    sessions = exchange_calendars.get_calendar("XNYS").sessions_in_range("2023-01-03", "2024-06-28")
    times = sessions.as_unit("us").asi8
    one = stock("A", 1, len(times))
    one = replace(one, times=times)
    holiday = np.searchsorted(times, np.datetime64("2023-07-04", "us").astype(np.int64))
    with_holiday = replace(
        one,
        times=np.insert(times, holiday, np.datetime64("2023-07-04", "us").astype(np.int64)),
        values=np.insert(one.values, holiday, one.values[:, holiday - 1] * np.float32(1.001), axis=1),
        lines=np.insert(one.lines, holiday, 0),
    )
    raw = write(tmp_path / "raw", [with_holiday.take(np.delete(np.arange(len(times) + 1), AT))])
    report = import_corpus([raw], tmp_path / "out", calendar="XNYS", on_bad="drop")
    assert (report.rules["gap"]["rows"], report.rules["closed_session"]["rows"]) == (1, 1)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.length(0) == len(times) + 1
    assert np.isnan(corpus.values(0)).all(axis=0).sum() == 2
    assert report.rules["gap"]["action"] == "NaN rows added"
    with pytest.raises(DataError, match="fit no session of XNYS"):
        import_corpus(
            [write(tmp_path / "week", [replace(one, times=times + 5 * DAY)])], tmp_path / "no", calendar="XNYS"
        )


def test_a_calendar_needs_bars_of_prices(tmp_path: Path) -> None:
    pytest.importorskip("exchange_calendars")
    (tmp_path / "load.csv").write_text("date,load\n" + "".join(f"2024-01-{d:02d},{d}\n" for d in range(1, 29)))
    with pytest.raises(DataError, match="--calendar checks bars of prices"):
        import_corpus([tmp_path / "load.csv"], tmp_path / "out", calendar="XNYS")
