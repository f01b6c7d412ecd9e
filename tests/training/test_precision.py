from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console

from foretrain.errors import TrainingError
from foretrain.training.precision import GROWTH_INTERVAL, LossScaler, draw_seed
from foretrain.training.train_state import TrainState
from foretrain.training.trainer import ValidationResult


def test_every_micro_batch_of_every_step_has_its_own_seed():
    seeds = {draw_seed(seed, step, k) for seed in range(5) for step in range(50) for k in range(20)}
    assert len(seeds) == 5000
    assert draw_seed(1, 2, 3) == draw_seed(1, 2, 3)


def test_the_scale_halves_after_an_overflow_and_doubles_after_many_good_updates():
    scaler = LossScaler(TrainState(), "float16")
    scaler.start(100.0)
    assert scaler.scale == 2.0**9  # 2**16 of the mean loss
    scaler.update(True)
    assert scaler.scale == 2.0**8
    for _ in range(GROWTH_INTERVAL):
        scaler.update(False)
    assert scaler.scale == 2.0**9


def test_other_types_are_not_scaled():
    scaler = LossScaler(TrainState(), "bfloat16")
    scaler.update(False)
    assert (scaler.needs_start, scaler.scale) == (False, 1.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_near_and_is_not_the_same(toy, tmp_path, dtype):
    toy.trainer(tmp_path / "full").fit()
    toy.trainer(tmp_path / dtype, dtype=dtype).fit()
    full, low = ([loss for _, loss in toy.losses(tmp_path / name)] for name in ("full", dtype))
    assert low == pytest.approx(full, rel=0.05)
    assert low != full


def test_a_float16_overflow_is_ordinary(toy, tmp_path):
    """The gradient overflows while the scale is large: left out, scale halved, and not an event that stops a run."""
    model = toy.Model()
    model.last.weight.register_hook(lambda g: g * math.inf if g.abs().max() > 500 else g)
    trainer = toy.trainer(tmp_path, model=model, dtype="float16", max_steps=40, on_nonfinite="stop")
    trainer.fit()
    left_out = [record for record in toy.lines(tmp_path) if record.get("left_out") == "overflow"]
    assert 0 < len(left_out) < 30
    assert trainer.train_state.updates == 40 - len(left_out)
    assert trainer.train_state.bad_batches == 0


def test_the_scale_is_part_of_what_resumes(toy, tmp_path):
    def model():
        model = toy.Model()
        model.last.weight.register_hook(lambda g: g * math.inf if g.abs().max() > 500 else g)
        return model

    toy.trainer(tmp_path / "whole", model=model(), dtype="float16").fit()
    toy.trainer(tmp_path / "cut", model=model(), dtype="float16", max_steps=7).fit()
    toy.trainer(tmp_path / "cut", model=model(), dtype="float16", resume="auto").fit()
    assert toy.losses(tmp_path / "cut") == toy.losses(tmp_path / "whole")


def test_a_float16_gradient_that_no_scale_helps_is_an_event(toy, tmp_path):
    model = toy.Model()
    model.last.weight.register_hook(lambda g: g * math.nan)
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        toy.trainer(tmp_path, model=model, dtype="float16", max_steps=100).fit()


def test_tf32_is_asked_of_torch_for_the_run_and_given_back_after(toy, tmp_path):
    seen = {}
    for on in (False, True):
        console = Console(file=io.StringIO(), width=300)

        def evaluate(model, step, on=on):
            seen[on] = torch.get_float32_matmul_precision()
            return ValidationResult({"loss": 1.0})

        toy.trainer(tmp_path / str(on), tf32=on, evaluate=evaluate, console=console).fit()
        assert ("tf32 has no effect on cpu" in console.file.getvalue()) == on
    assert seen == {False: "highest", True: "high"}
    assert torch.get_float32_matmul_precision() == "highest"
