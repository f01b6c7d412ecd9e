"""A quarter of the quick config's training is enough to forecast better than seasonal naive by more than chance.

`python -m benchmarks.linear` shows it for three seeds and whole trainings.
"""

from __future__ import annotations

from benchmarks.linear import run


def test_a_short_training_is_better_than_seasonal_naive(tmp_path):
    day, week = run(0, tmp_path / "run", ["training.max_steps=100"])
    for found in (day, week):
        assert found.verdict.startswith("better than seasonal naive") and found.p_value < 0.01
        assert found.mae < found.seasonal_naive_mae and found.wql < found.seasonal_naive_wql
    assert week.seasonal_naive_mae < day.seasonal_naive_mae  # the harder test
