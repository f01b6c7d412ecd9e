from __future__ import annotations

import numpy as np
import pytest
from tests.suites.tasks import LEVELS, series, task

from foretrain.suites.contestants import NaiveMethod
from foretrain.suites.item_losses import item_losses
from foretrain.suites.rows import TaskRows
from foretrain.suites.scoring import score_instances


def test_losses_of_items_and_origins_are_those_of_loops_without_steps_that_do_not_count():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 20)).cumsum(axis=1) + 9, rng.standard_normal((2, 14)).cumsum(axis=1)
    first[1, -1] = np.nan  # one step of the newest window
    flat = np.vstack([np.full(14, 3.0), second[1]])  # no seasonal error: its rows do not count
    own = task(rule="fev", num_windows=3, horizon=2, targets=("a", "b"), min_context=4)
    items = [series(values, item=name, variates=("a", "b")) for name, values in (("x", first), ("y", flat))]
    rows = TaskRows(own, items)
    score, instances = score_instances(NaiveMethod("naive", "naive"), rows)
    found = item_losses(rows, instances)
    assert found.items == ("x", "y") and found.history.tolist() == [14, 8]
    losses: dict[tuple[int, int], list[tuple[float, float]]] = {}
    row = 0
    for cut in rows.cuts:
        item = items[cut.series]
        for values in item.values:
            past, future = values[: cut.cutoff], values[cut.cutoff : cut.cutoff + 2]
            scale = np.nanmean(np.abs(np.diff(past)))
            origin = (item.values.shape[1] - 2 - cut.cutoff) // 2
            for step, y in enumerate(future):
                if np.isfinite(y) and scale > 0:
                    q = [2 * max(p * (y - f), (p - 1) * (y - f))
                         for p, f in zip(LEVELS, instances.quantiles[row, step], strict=True)]  # fmt: skip
                    losses.setdefault((cut.series, origin), []).append((np.mean(q) / scale, abs(y - past[-1]) / scale))
            row += 1

    def mean(keep, which: int) -> float:
        return float(np.mean([one[which] for key, ones in losses.items() if keep(key) for one in ones]))

    for which, name in enumerate(("SQL", "MASE")):
        for k in range(2):
            assert found.by_item(name)[k] == pytest.approx(mean(lambda key, k=k: key[0] == k, which), rel=1e-12)
        expected = [mean(lambda key, o=o: key[1] == o, which) for o in (2, 1, 0)]
        assert found.by_origin(name) == pytest.approx(expected, rel=1e-12)
        assert found.total(name) == pytest.approx(mean(lambda key: True, which), rel=1e-12)
    assert found.total("MASE") == pytest.approx(score.metrics["MASE"], rel=1e-12)
