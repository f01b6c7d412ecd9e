"""How `foretrain quick` divides the rows of a file and the minutes that it has.

# n rows of a series, H horizon, N series, T rows of all series
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import IntArray
from foretrain.evaluation.significance import lag_in_origins, origins_needed

MOST_TEST, MOST_VALIDATION = 20, 10  # horizons of each part, and forecast origins in it
TEST_SHARE, VALIDATION_SHARE = 3, 6  # at most a third and a sixth of the rows
FEWEST_ITEMS = 4  # of a validation
VALIDATIONS = 8  # of a run, besides the one before its first step
_LONGER = (0.5, 0.75, 0.9, 1.0)  # quantiles of the series' lengths, the first of which that is long enough counts


@dataclass(frozen=True)
class Parts:
    """The newest steps of each series that are held out, and the forecast origins in them.

    Without a validation part nothing is trained, and the test part alone is held out.
    """

    horizon: int
    rows: int  # length of the series that the sizes were chosen for
    min_context: int  # fewest rows before the cutoff of a training window
    validation_steps: int
    validation_origins: int
    validation_stride: int
    test_steps: int
    test_origins: int
    test_stride: int
    unobserved: int = 0  # rows after those, in which no series has a target

    @property
    def train_rows(self) -> int:
        """Rows that are left to train on."""
        return self.rows - self.validation_steps - self.test_steps

    @property
    def trains(self) -> bool:
        """False if there is a test part alone."""
        return self.validation_steps > 0

    @property
    def origins_needed(self) -> int:
        """Origins that a significance test of the test part takes."""
        return origins_needed(lag_in_origins(self.horizon, self.test_stride))

    @property
    def windows_beyond(self) -> int:
        """Windows after the test part, of which nothing or little is observed."""
        return -(-self.unobserved // self.test_stride)

    @property
    def steps_after_validation(self) -> int:
        """Steps of the test part and of the windows beyond it."""
        return self.test_steps + self.windows_beyond * self.test_stride


def rows_for_three_parts(horizon: int, context_length: int) -> int:
    """Return the rows of the shortest series that can be trained, validated and tested on."""
    return min(horizon, context_length) + 3 * horizon


def trailing_rows(observed: npt.NDArray[np.bool_], lengths: IntArray) -> IntArray:
    """Return the newest rows without a target of each series that has any target.

    Args:
        observed: (T,) True for rows with a target, series by series.
        lengths: (N,) rows of each series.
    """
    starts = np.cumsum(lengths) - lengths
    last = np.maximum.reduceat(np.where(observed, np.arange(len(observed)), -1), starts)
    return (starts + lengths - 1 - last)[last >= 0]


def three_parts(lengths: IntArray, horizon: int, context_length: int, unobserved: int = 0) -> Parts | None:
    """Return the parts for series of these lengths, None if none is long enough for three.

    The sizes suit a series of median length if that is long enough, else a longer one. The test part has up to 20
    horizons and a third of the rows, the validation part up to 10 and a sixth, with up to 10 forecasts, which overlap
    if it is short. Training windows have whole contexts or, in short series, contexts of half of the rows left.
    """
    needed = rows_for_three_parts(horizon, context_length)
    lengths = np.maximum(lengths - unobserved, 0)
    sizes = [int(size) for size in np.quantile(lengths, _LONGER, method="lower")]
    rows = next((size for size in sizes if size >= needed), None)
    if rows is None:
        return None
    test = max(horizon, min(rows // TEST_SHARE, MOST_TEST * horizon))
    validation = max(horizon, min(rows // VALIDATION_SHARE, MOST_VALIDATION * horizon))
    steps, origins, stride = _test_origins(test, horizon)
    between = max(1, (validation - horizon) // (MOST_VALIDATION - 1))
    choices = (validation - horizon) // between + 1
    validation = (choices - 1) * between + horizon
    left, shortest = rows - validation - steps, min(horizon, context_length)
    return Parts(
        horizon=horizon,
        rows=rows,
        min_context=min(max(left // 2, shortest), context_length, left - horizon),
        validation_steps=validation,
        validation_origins=choices,
        validation_stride=between,
        test_steps=steps,
        test_origins=origins,
        test_stride=stride,
        unobserved=unobserved,
    )


def only_a_test_part(lengths: IntArray, horizon: int, context_length: int, unobserved: int = 0) -> Parts | None:
    """Return a test part alone for series that are too short for three, None if there is no room for a window."""
    rows, shortest = int(lengths.max()) - unobserved, min(horizon, context_length)
    origins = min(MOST_TEST, (rows - max(shortest, rows // 3)) // horizon)
    origins = max(origins, min(1, (rows - shortest) // horizon))
    if origins < 1:
        return None
    return Parts(horizon, rows, shortest, 0, 0, horizon, origins * horizon, origins, horizon, unobserved)


def _test_origins(room: int, horizon: int) -> tuple[int, int, int]:
    """Return (steps, origins, stride) of a test part with at most `room` steps.

    Forecasts overlap only where that gives the origins that a test takes, which are more then.
    """
    for share in (1, 2, 3, 4):
        stride = math.ceil(horizon / share)
        origins = min((room - horizon) // stride + 1, MOST_TEST)
        if origins >= origins_needed(lag_in_origins(horizon, stride)):
            return (origins - 1) * stride + horizon, origins, stride
    origins = (room - horizon) // horizon + 1
    return origins * horizon, origins, horizon


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal measured, in seconds, and the first metric of the validation that is finite."""

    step: float
    window: float  # of a validation
    metric: str


@dataclass(frozen=True)
class Pace:
    """How a run uses its minutes."""

    steps: int
    validate_every: int
    log_every: int
    max_items: int | None  # of a validation; None = all


def pace(measured: Rehearsal, minutes: float, items: int, windows_per_item: int, max_steps: int | None = None) -> Pace:
    """Return the steps that fit the minutes, beside validations that take at most a fifth of them.

    max_steps: the steps asked for, whatever the minutes.
    """
    seconds = 60 * minutes
    per_item = measured.window * windows_per_item
    most = max(FEWEST_ITEMS, int(seconds / 5 / (VALIDATIONS + 1) / max(per_item, 1e-9)))
    validation = min(most, items) * per_item
    fitting = int((0.95 * seconds - (VALIDATIONS + 1) * validation) / measured.step)
    steps = max_steps or max(1, fitting)
    return Pace(
        steps=steps,
        validate_every=max(1, math.ceil(steps / VALIDATIONS)),
        log_every=max(1, round(4.0 / measured.step)),
        max_items=None if most >= items else most,
    )
