from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from foretrain.errors import ConfigError
from foretrain.training.schedule import Plateau, ScheduleConfig, beta1_at, lr_at, warmup_steps

GOLDEN = Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[1] / "golden") / "toto" / "schedule.json"


def rates(config: ScheduleConfig, total: int, peak: float = 1.0) -> list[float]:
    return [lr_at(config, peak, step, total) for step in range(total)]


@pytest.mark.parametrize(("pct_start", "total"), [(0.3, 100), (0.1, 37), (0.5, 10)])
def test_one_cycle_equals_torchs(pct_start, total):
    config = ScheduleConfig(kind="one_cycle", pct_start=pct_start, div_factor=10, final_div_factor=100)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=total, pct_start=pct_start, div_factor=10, final_div_factor=100
    )
    for step in range(total):
        assert lr_at(config, 0.3, step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if step < total - 1:
            reference.step()


@pytest.mark.parametrize(("pct_start", "total"), [(0.3, 100), (0.03, 10), (0.5, 7)])
def test_cycled_momentum_equals_torchs(pct_start, total):
    config = ScheduleConfig(kind="one_cycle", pct_start=pct_start, cycle_momentum=True)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.3, betas=(0.6, 0.95))
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total, pct_start=pct_start)
    for step in range(total):
        assert beta1_at(config, step, total) == pytest.approx(optimizer.param_groups[0]["betas"][0], rel=1e-12)
        optimizer.step()
        if step < total - 1:
            reference.step()


@pytest.mark.parametrize("kind", ["constant", "one_cycle"])
def test_momentum_is_not_cycled_by_default(kind):
    assert beta1_at(ScheduleConfig(kind=kind), 3, 10) is None


def test_exponential_grows_by_the_same_factor_from_the_lowest_rate_to_the_peak():
    found = rates(ScheduleConfig(kind="exponential", min_lr_ratio=1e-4), 5, peak=0.1)
    assert found == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], rel=1e-12)
    with pytest.raises(ValidationError, match="set min_lr_ratio above 0"):
        ScheduleConfig(kind="exponential")


def test_linear_without_warmup_falls_to_zero_after_the_last_step():
    assert rates(ScheduleConfig(kind="linear"), 4) == [1.0, 0.75, 0.5, 0.25]


def test_warmup_rises_from_the_first_step_to_the_peak_at_its_last():
    config = ScheduleConfig(kind="constant", warmup_steps=4)
    assert rates(config, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_warmup_ratio_counts_shares_of_all_steps_and_steps_win_over_it():
    assert warmup_steps(ScheduleConfig(warmup_ratio=0.1), 50) == 5
    assert warmup_steps(ScheduleConfig(warmup_ratio=0.1, warmup_steps=3), 50) == 3


def test_cosine_is_half_way_down_in_the_middle_and_ends_above_its_floor():
    config = ScheduleConfig(kind="cosine", min_lr_ratio=0.2)
    values = rates(config, 100)
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.6)
    assert 0.2 < values[99] < 0.201


def test_wsd_warms_up_stays_and_decays_in_its_last_share():
    config = ScheduleConfig(kind="wsd", warmup_steps=2, decay_ratio=0.25, min_lr_ratio=0.1)
    values = rates(config, 20)
    assert values[:3] == [0.5, 1.0, 1.0]
    assert values[15] == 1.0
    assert values[16:] == pytest.approx([0.82, 0.64, 0.46, 0.28])


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("warmup5_stable3_decay4", (5, 3, 4)),
        ("warmup0_stable2_decay3", (0, 2, 3)),
        ("warmup1_stable0_decay2", (1, 0, 2)),
    ],
)
def test_wsd_equals_the_recorded_schedule_of_toto(name, steps):
    """From 1e-4 to 1e-5; the recorded rates begin with that of the first update and go on after the decay."""
    recorded = json.loads(GOLDEN.read_text())[name]
    warmup, stable, decay = steps
    config = ScheduleConfig(
        kind="wsd",
        warmup_steps=warmup,
        warmup_start_ratio=0.1 if warmup else 0.0,
        stable_steps=stable,
        decay_steps=decay,
        decay_shape="sqrt",
        min_lr_ratio=0.1,
    )
    assert rates(config, len(recorded), peak=1e-4) == recorded


def test_decay_steps_are_the_last_ones_without_stable_steps():
    config = ScheduleConfig(kind="wsd", decay_steps=4, min_lr_ratio=0.2)
    assert rates(config, 10)[5:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_square_root_falls_faster_at_first():
    config = ScheduleConfig(kind="wsd", decay_ratio=0.4, decay_shape="sqrt")
    assert rates(config, 10)[6:] == pytest.approx([1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)])


def test_warmup_rises_from_its_start_ratio():
    config = ScheduleConfig(kind="constant", warmup_steps=4, warmup_start_ratio=0.6)
    assert rates(config, 5) == pytest.approx([0.7, 0.8, 0.9, 1.0, 1.0])


def test_plateau_cuts_the_rate_after_patience_validations_without_a_better_one():
    config, plateau = ScheduleConfig(kind="plateau", patience=2, factor=0.5), Plateau()
    cuts = [plateau.observe(config, score) for score in (3.0, 2.0, 2.0, math.nan, 1.0, 1.5, 1.5)]
    assert cuts == [False, False, False, True, False, False, True]
    assert plateau.scale == 0.25


def test_plateau_takes_a_nan_for_no_score():
    config, plateau = ScheduleConfig(kind="plateau", patience=5), Plateau()
    plateau.observe(config, math.nan)
    plateau.observe(config, 7.0)
    assert plateau.best == 7.0


def test_a_setting_that_the_kind_does_not_read_is_an_error():
    with pytest.raises(ValidationError, match="pct_start has no effect on kind 'linear'"):
        ScheduleConfig(kind="linear", pct_start=0.2)
    with pytest.raises(ValidationError, match="cycle_momentum has no effect on kind 'cosine'"):
        ScheduleConfig(kind="cosine", cycle_momentum=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stable_steps": 5}, "stable_steps has no effect without decay_steps"),
        ({"decay_steps": 5, "decay_ratio": 0.5}, "decay_ratio has no effect beside decay_steps"),
        ({"warmup_start_ratio": 0.5}, "warmup_start_ratio has no effect without warm-up"),
    ],
)
def test_settings_of_wsd_that_contradict_each_other_are_an_error(settings, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(kind="wsd", **settings)


def test_phases_of_wsd_longer_than_the_run_are_an_error():
    config = ScheduleConfig(kind="wsd", warmup_steps=5, stable_steps=10, decay_steps=6)
    with pytest.raises(ConfigError, match=r"5 steps of warm-up, 10 stable and 6 of decay are 21, more than .* 20"):
        warmup_steps(config, 20)
    assert warmup_steps(config, 21) == 5


def test_a_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(ConfigError, match="warmup_steps: 30 exceed the run's 20 steps"):
        warmup_steps(ScheduleConfig(warmup_steps=30), 20)
