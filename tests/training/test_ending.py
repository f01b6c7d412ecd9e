from __future__ import annotations

import math

import pytest

from foretrain.training.ending import describe_totals, step_times
from foretrain.training.line_stats import LineStats
from foretrain.training.train_state import RunTotals

START = {"step": 0, "kind": "start"}


def test_the_times_of_all_steps_are_those_of_their_seconds():
    stats, seconds = [LineStats(), LineStats()], [[0.1, 0.3], [0.2, 0.2, 1.2]]
    for one, own in zip(stats, seconds, strict=True):
        for second in own:
            one.add(1.0, 1.0, second, applied=True, clipped=False, windows=8, flops=0.0, data_wait=0.0)
    records = [{"step": step, "kind": "train", **one.record()} for step, one in zip((2, 5), stats, strict=True)]
    found = step_times([START, *records])
    assert found["step_s_mean"] == pytest.approx(0.4)
    assert found["step_s_std"] == pytest.approx(math.sqrt((0.09 + 0.01 + 0.04 + 0.04 + 0.64) / 5))
    assert found["step_s_p50"] == pytest.approx(0.2, rel=0.05) and found["step_s_p95"] == pytest.approx(1.2, rel=0.05)


def test_lines_of_an_older_version_tell_no_more_than_they_know():
    old = {"step": 10, "kind": "train", "loss": 1.0, "steps_per_s": 5.0}
    names = ("step_s_mean", "step_s_std", "step_s_p50", "step_s_p95")
    assert step_times([old]) == dict(zip(names, (pytest.approx(0.2), None, None, None), strict=True))
    assert step_times([{**old, "steps_per_s": None}]) == dict.fromkeys(names) == step_times([START])


def test_steps_under_a_profiler_are_in_no_time_and_no_rate():
    lines = [
        {"step": 2, "kind": "train", "steps": 2, "steps_per_s": 5.0},
        {"step": 4, "kind": "train", "steps": 2, "steps_per_s": None, "untimed_steps": 2},
        {"step": 7, "kind": "train", "steps": 3, "steps_per_s": 2.0, "untimed_steps": 2},
    ]
    assert step_times(lines)["step_s_mean"] == pytest.approx((2 * 0.2 + 0.5) / 3)
    totals = RunTotals(10, 80, 12.0, 1.0, untimed_steps=4, untimed_windows=32, untimed_seconds=8.0)
    facts = totals.facts()
    assert (facts["steps"], facts["untimed_steps"]) == (10, 4)
    assert (facts["steps_per_s"], facts["windows_per_s"]) == (2.0, 16.0)
    assert describe_totals(totals) == (
        "took 12s for 10 steps on 80 windows, 1s of it validations and checkpoints; training alone (without 4 profiled "
        "steps): 2 step/s, 16 series/s"
    )
    nothing_else = RunTotals(4, 32, 9.0, 1.0, untimed_steps=4, untimed_windows=32, untimed_seconds=8.0)
    assert nothing_else.facts()["steps_per_s"] is None and "alone" not in describe_totals(nothing_else)
