from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from foretrain.training.line_stats import LineStats, bins, merged, quantile


def add(stats: LineStats, loss: float = 1.0, norm: float = 2.0, seconds: float = 0.1, **rest) -> None:
    facts = {"applied": True, "clipped": False, "windows": 8, "flops": 100.0, "data_wait": 0.01, **rest}
    stats.add(loss, norm, seconds, **facts)


def test_a_record_has_sums_extremes_and_counts_of_all_steps():
    stats = LineStats()
    add(stats, 1.0, 2.0, 0.1)
    add(stats, 3.0, 6.0, 0.3, clipped=True)
    add(stats, math.nan, math.inf, 0.2, applied=False)
    found = stats.record()
    expected = {
        "steps": 3, "loss_mean": 2.0, "loss_min": 1.0, "loss_max": 3.0, "grad_norm_mean": 4.0, "grad_norm_min": 2.0,
        "grad_norm_max": 6.0, "clipped_share": 1 / 3, "left_out_steps": 1, "steps_per_s": 5.0, "windows_per_s": 40.0,
        "flops_per_s": 500.0, "step_s_median": 0.2, "step_s_p95": 0.29, "data_share": 0.05, "data_wait_s": 0.03,
        "step_s_std": math.sqrt(0.02 / 3),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found.keys() - expected.keys() == {"grad_norm_bins", "step_s_bins"}  # one process has no slowest rank
    assert sum(found["step_s_bins"].values()) == 3 and sum(found["grad_norm_bins"].values()) == 2


def test_the_slowest_rank_and_the_one_that_waits_longest_are_named():
    stats = LineStats()
    add(stats, work=(0.1, 0.2, 0.6), waits=(0.0, 0.4, 0.0))
    add(stats, work=(0.3, 0.2, 0.6), waits=(0.0, 0.2, 0.1))
    found = stats.record()
    assert (found["slowest_rank"], found["waiting_rank"]) == (2, 1)
    assert [found[name] for name in ("slowest_rank_s", "median_rank_s", "waiting_rank_s")] == pytest.approx(
        [0.6, 0.2, 0.3]
    )
    sharded = LineStats()
    add(sharded, work=(0.0, 0.0), waits=(0.0, 0.0))
    assert not {"slowest_rank", "waiting_rank"} & sharded.record().keys()


def test_steps_under_a_profiler_count_for_losses_and_not_for_times():
    stats, ranks = LineStats(), {"work": (0.1, 0.2), "waits": (0.0, 0.1)}
    add(stats, 1.0, seconds=0.1, **ranks)
    before = {name: value for name, value in stats.record().items() if not name.startswith(("loss", "grad"))}
    stats.add(3.0, 4.0, None, applied=False, clipped=True, windows=9, flops=9.0, data_wait=9.0, **ranks)
    found = stats.record()
    assert (found["steps"], found["untimed_steps"], found["loss_mean"], found["left_out_steps"]) == (2, 1, 2.0, 1)
    changed = {name for name, value in before.items() if found[name] != value}
    assert changed == {"steps", "clipped_share", "left_out_steps"}
    alone = LineStats()
    alone.add(3.0, 4.0, None, applied=True, clipped=True, windows=9, flops=9.0, data_wait=9.0)
    rates = ("steps_per_s", "windows_per_s", "flops_per_s", "step_s_median", "step_s_p95", "data_share")
    assert all(alone.record()[name] is None for name in rates) and alone.record()["loss_mean"] == 3.0


def test_no_step_has_no_record_and_no_finite_loss_has_no_mean():
    assert LineStats().record() == {}
    stats = LineStats()
    add(stats, math.nan, applied=False)
    assert stats.record()["loss_mean"] is None and stats.record()["grad_norm_mean"] == 2.0


def test_a_copy_from_json_goes_on_as_the_original_does():
    stats = LineStats()
    add(stats, 0.1 + 0.2, work=(0.1, 0.2), waits=(0.3, 0.4))
    copy = LineStats(**json.loads(json.dumps(asdict(stats))))
    for one in (stats, copy):
        add(one, 1e-17, work=(0.5, 0.1), waits=(0.0, 0.0))
    assert copy.record() == stats.record()


def test_quantiles_of_a_histogram_are_within_half_a_bin():
    values = np.random.default_rng(0).lognormal(-3, 1, 5000)
    histogram = bins(values)
    for share in (0.05, 0.5, 0.95, 1.0):
        assert quantile(histogram, share) == pytest.approx(np.quantile(values, share), rel=0.06)
    assert quantile({}, 0.5) is None


def test_histograms_add_up():
    assert merged([bins([0.5, 1.0]), bins([1.0, 3.0, 0.0])]) == bins([0.5, 1.0, 1.0, 3.0])
    assert list(merged([{"10": 1}, {"-3": 2, "9": 1}])) == ["-3", "9", "10"]
