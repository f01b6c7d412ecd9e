"""Forecasts in which items attend to each other: items that end earlier must not see later values of others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from foretrain.errors import ConfigError, DataError
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.future import shown

_log = logging.getLogger(__name__)


def check_ends(ids: Sequence[Any], ends: Any, *, joint: bool, allowed: bool) -> None:
    """Check that items forecast jointly end at one time.

    ends: (N,) stamp or step number of each item's newest row; joint: items of a batch affect each other's forecasts.
    Raises DataError for items that end at different times, which are reported if they are allowed, and ConfigError if
    they are allowed without being forecast jointly.
    """
    if allowed and not joint:
        raise ConfigError("allow_unequal_ends (--allow-unequal-ends): has no effect without cross_learning.")
    if not joint or len(ends) < 2:
        return
    first, last = int(np.argmin(ends)), int(np.argmax(ends))
    earlier = int(np.asarray(ends < ends[last]).sum())
    if not earlier:
        return
    text = (
        f"cross_learning: {earlier:,} of {len(ends):,} items end before others (item {shown(ids[first])} at "
        f"{ends[first]}, item {shown(ids[last])} at {ends[last]}), so their forecasts see values of others from after "
        "their own end"
    )
    if not allowed:
        raise DataError(
            f"{text}. Cut all items at one time or leave cross_learning out; allow_unequal_ends=True "
            "(--allow-unequal-ends) forecasts them so."
        )
    warn(_log, Note(Code.CROSS_LEARNING_SEES_LATER, f"{text}.", {"items": earlier, "of": len(ends)}))
