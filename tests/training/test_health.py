from __future__ import annotations

import json
import math

import pytest

from foretrain.errors import ConfigError
from foretrain.training.health import bar, health, render, sparkline
from foretrain.training.journal import read_journal
from foretrain.training.line_stats import bins
from foretrain.training.trainer import ValidationResult


def line(step: int, loss: float = 1.0, steps: int = 10, norm: float = 1.0, **rest) -> dict:
    return {
        "step": step, "kind": "train", "steps": steps, "loss": loss, "loss_mean": loss, "loss_min": loss - 0.5,
        "loss_max": loss + 0.5, "lr": 1e-3, "grad_norm": norm, "grad_norm_mean": norm, "grad_norm_max": 2 * norm,
        "grad_norm_bins": bins([norm] * (steps - 1) + [2 * norm]), "clipped_share": 0.5, "left_out_steps": 0,
        "steps_per_s": 5.0, "windows_per_s": 40.0, "step_s_bins": bins([0.2] * steps), "data_share": 0.1,
        "data_wait_s": 0.2, "mfu": 0.25, "memory_gb": 1.0, "memory_total_gb": 4.0, "bad_batches": 0, **rest,
    }  # fmt: skip


def start(step: int = 0, **rest) -> dict:
    return {
        "step": step, "kind": "start", "total_steps": 1000, "batch_size": 8, "unit": "windows", "processes": 1,
        "log_every": 10, "clip_norm": 1.0, "series": 50, "short_series": 3, **rest,
    }  # fmt: skip


def test_figures_are_those_of_all_lines_or_of_the_recent_ones():
    records = [start(), *(line(10 * k, 100.0 - k) for k in range(1, 61))]
    found = health(records)
    assert (found["step"], found["total_steps"], found["starts"], found["lines"]) == (600, 1000, 1, 60)
    loss = found["loss"]
    assert loss["newest"] == 40.0 and loss["lowest_line"] == {"step": 600, "loss": 40.0}
    assert loss["slope_per_1000_steps"] == pytest.approx(-100.0) and loss["trend"] == "falling"
    assert loss["recent"] == [100.0 - k for k in range(21, 61)] and loss["recent_highest_step"] == 79.5
    assert loss["lowest_step"] == 39.5 and loss["half_lives"] == [100, 500]
    assert 40 < loss["fast"] < loss["slow"] < 99
    grads = found["gradients"]
    assert grads["mean"] == pytest.approx(1.0) and grads["max"] == 2.0 and grads["clipped_share"] == 0.5
    assert grads["p95"] == pytest.approx(2.0, rel=0.05) and grads["explosions"] == []
    speed = found["throughput"]
    assert speed["steps_per_s"] == pytest.approx(5.0) and speed["step_s_p50"] == pytest.approx(0.2, rel=0.05)
    assert speed["trained_s"] == pytest.approx(120.0) and speed["left_s"] == pytest.approx(80.0)
    assert found["data"]["wait_share"] == pytest.approx(0.1) and found["data"]["wait_s_of_run"] == pytest.approx(12.0)
    assert found["data"]["short_series"] == 3 and found["ranks"] is None


def test_a_constant_loss_moves_no_average_and_has_no_trend():
    found = health([start(), *(line(10 * k, 2.5) for k in range(1, 11))])["loss"]
    assert found["fast"] == pytest.approx(2.5) and found["slow"] == pytest.approx(2.5)
    assert found["trend"] == "flat within its noise" and found["spread"] == 0.0


def test_a_negative_loss_that_rises_is_called_so():
    assert health([line(10 * k, -9.0 + 0.5 * k) for k in range(1, 9)])["loss"]["trend"] == "RISING"
    assert health([line(10), line(20)])["loss"]["trend"] == "too few lines to tell"


def test_the_slope_has_the_error_of_least_squares():
    noise = [math.sin(7.0 * k) for k in range(40)]
    found = health([line(10 * (k + 1), 5 + value) for k, value in enumerate(noise)])["loss"]
    np = pytest.importorskip("numpy")
    x, y = np.arange(10, 410, 10) / 1000, 5 + np.array(noise)
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    assert found["slope_per_1000_steps"] == pytest.approx(slope)
    assert found["slope_error"] == pytest.approx(covariance[0, 0] ** 0.5)


def test_a_norm_far_above_those_before_is_an_explosion():
    lines = [line(10 * k, norm=6.0 if k == 15 else 1.0) for k in range(1, 21)]
    assert health(lines)["gradients"]["explosions"] == [150]
    assert "1 lines with a norm over 10 x the usual, the last near step 150" in render(health(lines))


def test_ranks_are_those_named_most_often():
    lines = [
        line(10 * k, slowest_rank=k % 3 // 2, slowest_rank_s=0.4, median_rank_s=0.1, waiting_rank=2, waiting_rank_s=0.3)
        for k in range(1, 10)
    ]
    found = health(lines)["ranks"]
    assert found["slowest"] == {
        "rank": 0, "share_of_lines": pytest.approx(2 / 3), "step_s": pytest.approx(0.4),
        "median_step_s": pytest.approx(0.1),
    }  # fmt: skip
    assert found["waiting"]["rank"] == 2 and "rank 2 waits for data longest in 100.0%" in render(health(lines))


def test_only_what_a_report_at_a_step_could_know_is_in_it():
    scores = {"step": 20, "kind": "validation", "val_loss": 3.0, "best": True}
    evaluation = {"step": 20, "kind": "evaluation", "evaluator": "lite", "state": "done", "benchmark/lite/avg_wql": 0.5}
    records = [start(), line(10), line(20), scores, evaluation, start(20), line(30)]
    at_20, at_30 = health(records, 20), health(records)
    assert at_20 == health(records[:3], 20) == health(records, 25)
    assert at_20["validation"] is None and at_20["starts"] == 1 and at_20["evaluators"] == {}
    assert at_30["validation"] == {"step": 20, "metrics": {"val_loss": 3.0}, "best": True} and at_30["starts"] == 2
    assert at_30["evaluators"]["lite"]["metrics"] == {"benchmark/lite/avg_wql": 0.5}
    text = render(at_30)
    assert "at step 20, the best so far: loss 3" in text and "lite" in text and "avg_wql 0.5" in text
    assert "started 2 times" in text
    with pytest.raises(ConfigError, match="no training line up to step 5"):
        health(records, 5)


def test_lines_of_an_older_version_are_read_as_far_as_they_go():
    old = [{"step": k, "kind": "train", "loss": 2.0, "lr": 1e-3, "grad_norm": 1.0, "steps_per_s": 2.0} for k in (5, 15)]
    found = health(old)
    assert found["loss"]["newest"] == 2.0 and found["throughput"]["trained_s"] == pytest.approx(7.5)
    assert found["gradients"]["p95"] is None and "- to go" in render(found)


def test_lines_without_rates_leave_the_speed_as_it_is():
    slowed = dict.fromkeys(("steps_per_s", "windows_per_s", "data_share", "mfu"))
    found = [health([start(), line(10), line(20, **rest)]) for rest in ({}, {**slowed, "step_s_bins": {}})]
    for name in ("steps_per_s", "series_per_s", "step_s_mean", "step_s_p95", "mfu"):
        assert found[1]["throughput"][name] == pytest.approx(found[0]["throughput"][name])
    assert found[1]["throughput"]["trained_s"] == pytest.approx(2.0)
    only = render(health([start(), line(10, **slowed, step_s_bins={})]))
    assert "speed       - step/s, - series/s" in only


def test_a_box_is_as_wide_as_its_longest_line():
    rows = render(health([start(), line(10)])).splitlines()
    assert len({len(row) for row in rows}) == 1 and rows[0][0] == "┌" and rows[-1][-1] == "┘"


def test_sparklines_and_bars():
    assert sparkline([0.0, 7.0, None, 3.5]) == "▁█ ▅" and sparkline([]) == "" and sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([math.nan, 1.0]) == " ▁"
    assert (bar(0.5, 4), bar(2.0, 4), bar(-1.0, 4)) == ("██░░", "████", "░░░░")


def test_a_run_prints_the_report_that_its_files_give_later(toy, tmp_path):
    evaluate = lambda model, step: ValidationResult({"loss": 1.0 / step})  # noqa: E731
    settings = {"health_every": 4, "log_every": 3, "validate_every": 4, "evaluate": evaluate}
    toy.trainer(tmp_path, **settings).fit()
    records = list(read_journal(tmp_path / "metrics.jsonl"))
    assert [r["step"] for r in records if r["kind"] == "train"] == [3, 4, 6, 8, 9, 12]
    assert [r["steps"] for r in records if r["kind"] == "train"] == [3, 1, 2, 2, 1, 3]
    log = (tmp_path / "training.log").read_text()
    for step in (4, 8, 12):
        assert render(health(records, step)) in log
    assert json.loads((tmp_path / "health.json").read_text()) == json.loads(json.dumps(health(records, 12)))
    assert "at step 8" in render(health(records)) and log.count("health at step") == 3


def test_a_resumed_run_goes_on_with_the_line_that_was_begun(toy, tmp_path):
    settings = {"log_every": 10, "checkpoint_every": 4, "health_every": None}
    toy.trainer(tmp_path / "whole", **settings).fit()
    cut = toy.trainer(tmp_path / "cut", **settings)
    step, count = cut._step, iter(range(100))

    def killed():
        if next(count) == 7:
            raise KeyboardInterrupt
        return step()

    cut._step = killed
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    toy.trainer(tmp_path / "cut", resume="auto", **settings).fit()
    whole, resumed = (toy.lines(tmp_path / name)[0] for name in ("whole", "cut"))
    names = (
        "steps",
        "loss_mean",
        "loss_min",
        "loss_max",
        "grad_norm_mean",
        "grad_norm_max",
        "grad_norm_bins",
        "clipped_share",
    )
    assert resumed["steps"] == 10 and [resumed[n] for n in names] == [whole[n] for n in names]
    kinds = [record["kind"] for record in read_journal(tmp_path / "cut" / "metrics.jsonl")]
    assert kinds == ["start", "start", "train", "train"]


def test_a_report_that_cannot_be_written_stops_no_run(toy, tmp_path):
    (tmp_path / "health.json").mkdir()
    toy.trainer(tmp_path, health_every=6, log_every=6).fit()
    log = (tmp_path / "training.log").read_text()
    assert "health at step 6" in log and "WARNING: health.json cannot be written: Is a directory" in log
    assert toy.lines(tmp_path)[-1]["step"] == 12
