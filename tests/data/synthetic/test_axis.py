"""Days, holidays and starts of generated time axes."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.synthetic.axis import EDGE, MIDDLE, Holidays, axis_stamps, days, drawn_starts, easter, supported
from foretrain.errors import DataError
from foretrain.timeaxis import grid


def day(text: str) -> int:
    return int(np.datetime64(text, "D").astype(np.int64))


@pytest.mark.parametrize("freq", ["15min", "h", "36h", "D", "2D", "B", "W", "W-WED", "MS", "ME", "QE", "QS-FEB", "YS"])
def test_starts_are_drawn_on_the_grid_of_their_frequency(freq):
    frequency = supported(freq)
    starts = drawn_starts(np.random.default_rng(1), 40, frequency, 50)
    assert len(np.unique(starts)) > 10
    for times in axis_stamps(starts, frequency, 50):
        number = grid.grid_numbers(times, frequency.alias, "series")
        assert number.tolist() == list(range(50))
        assert times[-1] < day("2031-01-01") * 86_400_000_000


def test_a_frequency_without_days_of_its_own_is_refused():
    for freq in ("WOM-3FRI", "2YE", "fortnight"):
        with pytest.raises(DataError, match=freq):
            supported(freq)


def test_easter_has_its_dates():
    dates = {1818: "03-22", 1943: "04-25", 1961: "04-02", 2000: "04-23", 2024: "03-31", 2025: "04-20", 2038: "04-25"}
    for year, date in dates.items():
        assert easter()[year - 1700] == day(f"{year}-{date}")


def test_holidays_fall_on_the_dates_of_their_rules():
    rules = {  # rule, month, day, weekday, nth
        (0, 11, 24, 0, 0): ["2023-12-25", "2024-12-25"],
        (1, 10, 0, 3, 3): ["2023-11-23", "2024-11-28"],  # Thanksgiving, the fourth Thursday
        (1, 4, 0, 0, 4): ["2023-05-29", "2024-05-27"],  # Memorial Day, the last Monday
        (2, 0, -2, 0, 0): ["2023-04-07", "2024-03-29"],  # Good Friday
    }
    columns = [np.array(column) for column in zip(*rules, strict=True)]
    found = Holidays(*columns).dates(np.full(len(rules), 2023), 2)
    assert found.tolist() == [[day(date) for date in dates] for dates in rules.values()]


def test_the_table_of_days_knows_leap_days_month_ends_and_clock_changes():
    table = days()

    def at(text: str, column: np.ndarray) -> int:
        return int(column[day(text) - table.first])

    assert at("2024-02-29", table.year_day) == 59
    assert at("2023-03-01", table.year_day) == at("2024-03-01", table.year_day) == 60
    assert at("2023-12-31", table.year_day) == 365
    assert at("2024-02-29", table.edge) == at("2023-02-28", table.edge) == EDGE
    assert at("2024-05-01", table.edge) == 0
    assert at("2024-05-15", table.edge) == MIDDLE
    assert at("2024-06-30", table.edge) == EDGE + MIDDLE + 1  # a quarter ends
    assert [at(date, table.summer) for date in ("2024-03-30", "2024-03-31", "2024-10-26", "2024-10-27")] == [0, 1, 1, 0]
    assert at("2024-02-29", table.weekday) == 3
