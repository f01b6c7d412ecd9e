"""Hours that clocks repeat at the end of summer time."""

from __future__ import annotations

import numpy as np

from foretrain.timeaxis.frequency import DAY, HOUR, IntArray


def may_repeat(stamps: IntArray) -> bool:
    """Return True if all naive stamps (microseconds) lie in hours that clocks repeat: on Sunday nights of autumn."""
    sunday = (stamps // DAY + 4) % 7 == 0  # day 0 is a Thursday
    night = stamps % DAY < 4 * HOUR
    month = stamps.astype("M8[us]").astype("M8[M]").astype(np.int64) % 12 + 1
    autumn = np.isin(month, (3, 4, 9, 10, 11))  # of both hemispheres
    return bool((sunday & night & autumn).all())
