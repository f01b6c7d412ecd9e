from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.predictions import read_predictions
from foretrain.notes import Code, codes

DAYS = pd.date_range("2025-01-06", periods=12, freq="D")


@pytest.fixture
def write(tmp_path: Path):
    """Write a frame, or columns, to a file."""

    def save(columns, name: str = "p.csv") -> Path:
        frame = pd.DataFrame(columns)
        path = tmp_path / name
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
        return path

    return save


def rows(**more):
    """Columns of two items with six days each, one row per forecast."""
    n = np.arange(12.0)
    return {
        "symbol": ["007"] * 6 + ["NA"] * 6,
        "timestamp": [*DAYS[:6], *DAYS[:6]],
        "last_close": 100.0 + n,
        "actual": 101.0 + n,
        "predicted": 103.0 + n,
        **more,
    }


def windows(horizon: int = 3, origins: int = 4, **more):
    """One item, forecasts of `horizon` days made on successive days."""
    made, step = np.divmod(np.arange(origins * horizon), horizon)
    columns = {
        "item": "a",
        "cutoff": DAYS[made],
        "timestamp": DAYS[made + step + 1],
        "step": step + 1,
        "last_close": 100.0 + made,
        "actual": 100.0 + made + step + 1,
        "predicted": 100.0 + made,
    }
    return {name: column for name, column in {**columns, **more}.items() if column is not None}


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_rows_without_cutoff_or_step_are_forecasts_one_step_ahead(write, name):
    found = read_predictions(write(rows(), name))
    points = found.points
    assert points.items == ("007", "NA") and points.item.tolist() == [0] * 6 + [1] * 6
    assert points.target[:, 0].tolist() == [101.0 + k for k in range(12)]
    assert points.median[:, 0].tolist() == [103.0 + k for k in range(12)]
    assert found.naive.median[:, 0].tolist() == [100.0 + k for k in range(12)]
    assert (points.start[:6] == points.start[6:]).all() and (points.start == points.end).all()
    assert found.dates == ("2025-01-06T00:00:00", "2025-01-11T00:00:00")
    assert codes(found.notes) == {Code.ONE_STEP_AHEAD}


@pytest.mark.parametrize("drop", [(), ("step",), ("timestamp",), ("cutoff",)])
def test_forecasts_of_several_steps_are_put_together(write, drop):
    found = read_predictions(write(windows(**dict.fromkeys(drop))))
    np.testing.assert_array_equal(found.points.target, [[101.0 + k, 102.0 + k, 103.0 + k] for k in range(4)])
    assert found.points.last.tolist() == [100.0, 101.0, 102.0, 103.0]


@pytest.mark.parametrize(
    ("drop", "horizon", "overlap"),
    [((), 1, 0), ((), 3, 2), (("timestamp",), 3, 2), (("cutoff",), 3, 2), (("cutoff",), 1, 0), (("step",), 3, 2)],
)
def test_the_overlap_of_forecasts_is_known(write, drop, horizon, overlap):
    from foretrain.evaluation.significance import origin_losses

    found = read_predictions(write(windows(horizon, **dict.fromkeys(drop))))
    _, _, h, stride = origin_losses(found.points, found.naive)
    assert -(-h // stride) - 1 == overlap


def test_a_single_row_far_ahead_overlaps_those_made_meanwhile(write):
    from foretrain.evaluation.significance import origin_losses

    found = read_predictions(write(rows(step=5)))
    _, _, h, stride = origin_losses(found.points, found.naive)
    assert -(-h // stride) - 1 == 4


def test_rows_may_come_in_any_order_where_cutoffs_are_given(write):
    frame = pd.DataFrame(windows())
    mixed = frame.sample(frac=1.0, random_state=0)
    first, second = read_predictions(write(frame, "a.csv")), read_predictions(write(mixed, "b.csv"))
    np.testing.assert_array_equal(first.points.target, second.points.target)


def test_forecasts_of_different_lengths_end_unobserved(write):
    frame = pd.DataFrame(windows()).drop(index=[5])
    found = read_predictions(write(frame))
    assert np.isnan(found.points.target).sum() == 1 and np.isnan(found.points.target[1, 2])


@pytest.mark.parametrize(("values", "unit"), [("fraction", 1.0), ("percent", 100.0)])
def test_changes_since_the_last_close_become_prices(write, values, unit):
    prices = rows()
    change = {name: (np.array(prices[name]) / prices["last_close"] - 1.0) * unit for name in ("actual", "predicted")}
    change["0.9"] = change["predicted"]
    found = read_predictions(write(rows(**change)), values=values)
    np.testing.assert_allclose(found.points.target[:, 0], prices["actual"])
    np.testing.assert_allclose(found.points.median[:, 0], prices["predicted"])
    np.testing.assert_allclose(found.bands.at(0.9)[:, 0], prices["predicted"])
    assert found.has_prices
    bare = {name: column for name, column in rows(**change).items() if name != "last_close"}
    found = read_predictions(write(bare), values=values)
    assert not found.has_prices and (found.points.last == 1.0).all()


def test_values_that_look_like_changes_are_refused_unless_they_are_declared(write):
    path = write(rows(actual=0.01, predicted=0.02))
    with pytest.raises(DataError, match=r"look like changes, not prices.*--values fraction"):
        read_predictions(path)
    assert read_predictions(path, values="price").points.target[0, 0] == 0.01


def test_quantiles_are_taken_from_columns_named_by_numbers(write):
    found = read_predictions(write(rows(**{"0.1": 90.0, "0.9": 120.0, "1.5": 7.0})))
    assert found.bands.scored_levels == (0.1, 0.9) and found.bands.levels == (0.1, 0.5, 0.9)
    assert (found.bands.at(0.1) == 90.0).all() and (found.bands.median == found.points.median).all()
    assert read_predictions(write(rows())).bands is None


def test_missing_levels_are_nan(write):
    found = read_predictions(write(rows(**{"0.25": 90.0})))
    assert np.isnan(found.bands.at(0.1)).all() and (found.bands.at(0.25) == 90.0).all()


def test_columns_may_have_any_name(write):
    names = {"symbol": "S", "timestamp": "D", "last_close": "L", "actual": "Y", "predicted": "F"}
    path = write({names[name]: column for name, column in rows().items()})
    roles = {"item": "S", "timestamp": "D", "last_close": "L", "actual": "Y", "predicted": "F"}
    assert read_predictions(path, roles).points.items == ("007", "NA")


def test_step_numbers_can_replace_times(write):
    found = read_predictions(write(rows(timestamp=[*range(6), *range(6)])))
    assert found.points.start.tolist() == [*range(6), *range(6)] and found.dates == ("step 0", "step 5")


def test_what_was_left_out_in_reading_is_noted(write):
    path = write(rows())
    path.write_text("made by a tool\n" + path.read_text() + "007,2025-02-0")
    assert codes(read_predictions(path).notes) >= {Code.LINES_SKIPPED, Code.LAST_LINE_LEFT_OUT}


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York"])
def test_cutoffs_at_midnight_are_instants_beside_hourly_stamps(write, zone):
    stamps = pd.date_range("2025-01-06", periods=12, freq="h", tz=zone)
    found = read_predictions(write(rows(cutoff=[str(stamps[0])] * 12, timestamp=stamps + pd.Timedelta("1h"),
                                        symbol="A", last_close=100.0)))  # fmt: skip
    assert found.points.target.shape == (1, 12)
    assert found.dates[0] == str((stamps[1]).tz_convert("UTC").tz_localize(None).isoformat())


def test_steps_and_stamps_are_not_mixed(write):
    with pytest.raises(DataError, match="one of the columns 'timestamp' and 'cutoff' counts steps"):
        read_predictions(write(rows(cutoff=[0] * 12)))


def test_quantiles_may_be_most_of_the_columns(write):
    path = write(rows(**{f"{k / 20:g}": 100.0 for k in range(1, 20)}))
    assert len(read_predictions(path).bands.scored_levels) == 19


def test_a_file_without_items_is_one_item(write):
    columns = {name: column[:6] for name, column in rows().items() if name != "symbol"}
    assert read_predictions(write(columns)).points.items == ("p",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"predicted": None}, "no column 'predicted'; name it with --column predicted=NAME"),
        ({"last_close": None}, "no column 'last_close'; name it with --column last_close=NAME"),
        ({"timestamp": None}, "no column looks like a time stamp"),
        ({"predicted": [np.nan, *range(11)]}, r"row 1 \(item '007'\) has an actual value and no prediction"),
        ({"predicted": [1.0, "x"] * 6}, r"line 3, column 'predicted': 'x' is text in a number column\."),
        ({"timestamp": [DAYS[0]] * 12}, "item '007' has several rows with one timestamp. Add when"),
        ({"cutoff": [DAYS[9]] * 12}, "row 1: its timestamp is not after its cutoff"),
        ({"cutoff": ["2024-01-01"] * 12}, "last_close changes within a forecast of item '007'"),
        ({"cutoff": ["2024-01-01"] * 12, "timestamp": [DAYS[0]] * 12}, "rows with one cutoff and one timestamp"),
    ],
)
def test_contradictions_are_errors_that_name_them(write, columns, message):
    found = {name: column for name, column in rows(**columns).items() if column is not None}
    with pytest.raises(DataError, match=message):
        read_predictions(write(found))


def test_missing_columns_and_unknown_values_are_errors(write):
    with pytest.raises(DataError, match=r"no column 'Y' \(actual\)"):
        read_predictions(write(rows()), {"actual": "Y"})
    with pytest.raises(ConfigError, match="--values dollars: choose one of price, fraction, percent"):
        read_predictions(write(rows()), values="dollars")
    with pytest.raises(ConfigError, match="--column truth: choose one of item, cutoff"):
        read_predictions(write(rows()), {"truth": "actual"})
