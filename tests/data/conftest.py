"""Corpora for the data tests: random series in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.data.store import Corpus, CorpusWriter

Item = tuple[str, np.ndarray, np.ndarray | None]


@pytest.fixture(scope="session")
def random_items() -> Callable[..., list[Item]]:
    """make(seed, count, variates, low, high, missing=0.1, times=None): items of low..high steps, some values NaN.

    times: None, "regular" (hours) or "stamps" (uneven).
    """

    def make(
        seed: int, count: int, variates: int, low: int, high: int, missing: float = 0.1, times: str | None = None
    ) -> list[Item]:
        rng = np.random.default_rng(seed)
        items: list[Item] = []
        for k in range(count):
            length = int(rng.integers(low, high + 1))
            values = rng.normal(size=(variates, length)).astype(np.float32)
            values[rng.random(values.shape) < missing] = np.nan
            axis = None
            if times == "regular":
                axis = (k + np.arange(length)) * 3_600_000_000
            if times == "stamps":
                axis = np.cumsum(rng.integers(1, 1_000_000_000, length))
            items.append((f"item {k}", values, axis))
        return items

    return make


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., Corpus]:
    """write(folder, items, columns, time="steps", **writer options): the corpus on disk, opened again."""

    def write(folder: Path, items: list[Item], columns: list[str], time: str = "steps", **options: Any) -> Corpus:
        with CorpusWriter(folder, columns, time=time, **options) as writer:
            for item_id, values, times in items:
                writer.append(item_id, values, times=times)
        return Corpus.open(folder)

    return write
