"""Calendar effects are found at the stamps that they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.config import build
from foretrain.data.store import Corpus
from foretrain.data.synthetic.axis import axis_stamps, drawn_starts, easter, supported
from foretrain.data.synthetic.calendar import Calendar
from foretrain.data.synthetic.mixture import Lengths, Mixture, draw_block
from foretrain.data.synthetic.to_disk import write_corpus
from foretrain.errors import ConfigError

NONE = (1e-12, 1e-12)
# no effect, no noise, a level of 1
PLAIN = {
    "absent": 0.0, "week": NONE, "weekend": (0.0, 0.0), "closed": 0.0, "hours": NONE, "daylight": 0.0, "shut": 0.0,
    "clock_changes": 0.0, "year": NONE, "edges": NONE, "holidays": (0, 0), "holiday": (0.0, 0.0),
    "around": NONE, "growth": (0.0, 0.0), "walk": NONE, "noise": NONE,
    "averages": 0.0, "additive": 0.0, "counts": 0.0, "level": (1.0, 1.0),
}  # fmt: skip


def drawn(freq: str, length: int, count: int = 20, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return values (N, T) and the dates or times (N, T) of series with the named effects alone."""
    frequency, rng = supported(freq), np.random.default_rng(2)
    starts = drawn_starts(rng, count, frequency, length)
    values = Calendar(**(PLAIN | options)).draw_on(rng, starts, frequency, length)
    return values, axis_stamps(starts, frequency, length).astype("M8[us]")


def weekday(times: np.ndarray) -> np.ndarray:
    return (times.astype("M8[D]").astype(np.int64) + 3) % 7


def spread_within(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the largest deviation of values from the mean of their group, relative to the values' deviation."""
    means = np.array([values[groups == group].mean() for group in np.unique(groups)])
    place = np.searchsorted(np.unique(groups), groups)
    return float(np.abs(values - means[place]).max() / values.std())


def test_without_effects_a_series_is_flat():
    for freq in ("15min", "D", "B", "2D"):
        np.testing.assert_allclose(drawn(freq, 100)[0], 1.0, rtol=1e-9)


@pytest.mark.parametrize("freq", ["D", "B", "h"])
def test_the_effect_of_a_weekday_is_found_at_that_weekday_of_the_stored_stamps(tmp_path, freq):
    generator = PLAIN | {"kind": "calendar", "week": (0.4, 0.4)}
    lengths = (Lengths(shortest=400, longest=400),)
    mixture = Mixture(generators=(generator,), lengths=lengths, freq=freq, missing=0.0)
    write_corpus(mixture, tmp_path / "out", 40)
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.manifest.time, corpus.manifest.freq) == ("regular", freq)
    starts = set()
    for series in range(40):
        times = corpus.times(series)
        starts.add(weekday(times[:1].astype("M8[us]"))[0])
        assert spread_within(corpus.values(series)[0], weekday(times.astype("M8[us]"))) < 1e-4
    assert len(starts) >= 5  # series begin on different weekdays


def test_weekdays_are_recovered_from_noise():
    values, times = drawn("D", 700, 60, week=(0.3, 0.3), noise=(0.3, 0.3), walk=(0.1, 0.1))
    clean, _ = drawn("D", 700, 60, week=(0.3, 0.3))
    logs, truth = np.log(values), np.log(clean)
    for row in range(60):
        day = weekday(times[row])
        found, true = (np.array([one[row][day == k].mean() for k in range(7)]) for one in (logs, truth))
        error = found - true
        assert np.abs(error - error.mean()).max() < 0.3 * 5 / np.sqrt(100)


def test_a_closed_series_is_zero_at_weekends_and_holidays_only():
    values, times = drawn("D", 730, closed=1.0, holidays=(10, 10))
    assert (values[weekday(times) > 4] == 0).all()
    holidays = (values == 0) & (weekday(times) < 5)
    assert (holidays.sum(axis=1) <= 2 * 10).all()
    assert holidays.any(axis=1).all()
    assert ((values == 0) | (np.abs(values - 1) < 1e-9)).all()


def test_holidays_are_once_a_year_by_a_fixed_date_an_nth_weekday_or_easter():
    values, times = drawn("D", 6 * 366, 100, holidays=(1, 1), holiday=(1.0, 1.0))
    rules = np.zeros(3)
    for row, stamps in zip(values, times.astype("M8[D]"), strict=True):
        found = stamps[np.abs(row - np.e) < 1e-6]
        assert np.abs(np.delete(row, np.flatnonzero(np.isin(stamps, found))) - 1.0).max() < 1e-9
        assert len(found) in (6, 7)
        month = found.astype("M8[M]")
        number = (found - month.astype("M8[D]")).astype(int)
        year = found.astype("M8[Y]").astype(int) + 1970
        from_end = ((month + 1).astype("M8[D]") - found).astype(int) - 1
        same_weekday = len(set(weekday(found))) == 1 and len(set(month.astype(int) % 12)) == 1
        nth = same_weekday and (len(set(number // 7)) == 1 or from_end.max() < 7)
        fixed = len(set(zip(month.astype(int) % 12, number, strict=True))) == 1
        moving = len(set(found.astype(int) - easter()[year - 1700])) == 1
        assert fixed or nth or moving
        rules += [fixed, nth, moving]
    assert (rules > 8).all()


def test_holidays_change_the_days_around_them_and_fade():
    values, _ = drawn("D", 366, 200, holidays=(1, 1), holiday=(0.0, 0.0), around=(0.3, 0.3))
    size = np.abs(np.log(values))
    assert ((size > 1e-9).sum(axis=1) <= 2 * 16).all()
    assert 0.3 < (size.max(axis=1) > 0.01).mean() < 0.9


def test_months_and_quarters_have_the_trading_days_that_the_calendar_gives_them():
    values, times = drawn("MS", 120, closed=1.0)
    first = times.astype("M8[M]")
    trading = np.busday_count(first.astype("M8[D]"), (first + 1).astype("M8[D]"))
    np.testing.assert_allclose(values * 365.2425 / 12, trading, rtol=1e-9)
    values, times = drawn("QE", 60, closed=1.0)
    month = times.astype("M8[M]") + 1
    trading = np.busday_count((month - 3).astype("M8[D]"), month.astype("M8[D]"))
    np.testing.assert_allclose(values * 365.2425 / 4, trading, rtol=1e-9)


def test_months_sum_their_days_leap_days_too_or_average_them():
    values, times = drawn("ME", 120)
    month = times.astype("M8[M]")
    length = ((month + 1).astype("M8[D]") - month.astype("M8[D]")).astype(int)
    assert set(length[month.astype(int) % 12 == 1]) == {28, 29}
    np.testing.assert_allclose(values * 365.2425 / 12, length, rtol=1e-9)
    np.testing.assert_allclose(drawn("ME", 120, averages=1.0)[0], 1.0, rtol=1e-9)
    np.testing.assert_allclose(drawn("W", 120, week=(0.5, 0.5))[0].std(axis=1), 0.0, atol=1e-9)


def test_month_ends_stand_out_and_more_so_at_the_end_of_a_quarter():
    values, times = drawn("D", 730, 100, edges=(0.3, 0.3))
    date = times.astype("M8[D]")
    left = (((date.astype("M8[M]") + 1).astype("M8[D]") - date).astype(int)) - 1
    into = (date - date.astype("M8[M]").astype("M8[D]")).astype(int)
    size = np.abs(np.log(values))
    assert size[(left >= 5) & (into >= 5)].max() < 1e-9
    assert size[left == 0].mean() > 2 * size[left == 4].mean()
    quarter = date.astype("M8[M]").astype(int) % 3 == 2
    assert size[(left == 0) & quarter].mean() > 1.2 * size[(left == 0) & ~quarter].mean()


def test_hours_repeat_every_day_and_begin_an_hour_earlier_in_summer():
    values, times = drawn("h", 24 * 400, 12, hours=(0.5, 0.5), clock_changes=1.0)
    hour = times.astype("M8[h]").astype(int) % 24
    month = times.astype("M8[M]").astype(int) % 12
    workday = weekday(times) < 5
    for row in range(12):
        profile = [
            np.array([values[row][workday[row] & (month[row] == m) & (hour[row] == h)].mean() for h in range(24)])
            for m in (0, 6)
        ]
        inner = slice(1, 23)
        np.testing.assert_allclose(np.roll(profile[0], -1)[inner], profile[1][inner], rtol=1e-6)
    still, _ = drawn("30min", 48 * 30, 12, hours=(0.5, 0.5))
    summer_free = still.reshape(12, 30, 48)
    assert np.abs(summer_free[:, 7:14] - summer_free[:, 14:21]).max() < 1e-9


def test_daylight_and_opening_hours_are_zero_outside():
    for share in ("daylight", "shut"):
        values, times = drawn("h", 24 * 14, 30, **{share: 1.0})
        hour = times.astype("M8[h]").astype(int) % 24
        by_hour = np.stack([np.stack([row[at == h] for h in range(24)]) for row, at in zip(values, hour, strict=True)])
        np.testing.assert_allclose(by_hour, by_hour[:, :, :1] * np.ones(14), atol=1e-9)
        closed = (by_hour[:, :, 0] == 0).sum(axis=1)
        assert ((closed >= 7) & (closed <= 18)).all()


def test_series_grow_wander_and_are_counted_or_added():
    grown, _ = drawn("D", 200, 50, growth=(1.0, 1.0))
    np.testing.assert_allclose(np.log(grown[:, -1] / grown[:, 0]), 1.0, rtol=1e-6)
    counted, _ = drawn("D", 200, 50, counts=1.0, level=(20.0, 20.0))
    assert (counted == np.round(counted)).all()
    assert abs(counted.var() / 20.0 - 1.0) < 0.06
    added, _ = drawn("D", 200, 50, additive=1.0, week=(0.3, 0.3))
    assert (added < 0).any()


def test_a_block_without_an_axis_mixes_frequencies():
    generator = {"kind": "calendar", "frequencies": {"h": 1.0, "D": 1.0}}
    block = draw_block(Mixture(generators=(generator,), lengths=(Lengths(shortest=336, longest=336),), missing=0.0), 0)
    assert block.times is None
    centred = block.values - block.values.mean(axis=1, keepdims=True)
    daily = (centred[:, 24:] * centred[:, :-24]).mean(axis=1) / centred.var(axis=1)
    weekly = (centred[:, 7:] * centred[:, :-7]).mean(axis=1) / centred.var(axis=1)
    assert 0.15 < (daily > weekly + 0.1).mean() < 0.75


@pytest.mark.parametrize(
    ("frequencies", "text"),
    [({"fortnight": 1.0}, "fortnight"), ({"D": 0.0}, "above 0"), ({}, "frequencies"), ({"WOM-3FRI": 1.0}, "WOM")],
)
def test_frequencies_that_cannot_be_drawn_are_refused(frequencies, text):
    with pytest.raises(ConfigError, match=text):
        build(Mixture, {"generators": [{"kind": "calendar", "frequencies": frequencies}]})
