from __future__ import annotations

import io
import re
import time

import pytest
import torch
from rich.console import Console

from foretrain.training.monitor import duration, memory_gb, peak_flops
from foretrain.training.trainer import ValidationResult

LINE = re.compile(
    r"step \d[\d,]*/1,002 \| loss \d+\.\d{4} \| ema \d+\.\d{4} \| best \d+\.\d{4} \| lr \d\.\d\de-\d\d \| "
    r"mem \d+\.\d/\d+GB \| [\d.e+]+ step/s \| [\d,]+ series/s \| mfu \d+% \| data \d+\.\d% \| eta [\dhms ]+ \| "
    r"gnorm \d+\.\d{3}"
)


def test_a_step_line_says_it_all(toy, tmp_path):
    console = Console(file=io.StringIO(), width=40)  # narrower than the line, which must not be wrapped
    toy.trainer(tmp_path, max_steps=1002, batch_size=2, log_every=500, checkpoint_every=None, console=console).fit()
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("step")]
    assert [line.split("/")[0] for line in lines] == ["step 500", "step 1,000", "step 1,002"]
    assert all(LINE.fullmatch(line) for line in lines), lines
    logged = (tmp_path / "training.log").read_text()
    assert all(line in logged for line in lines)


def test_log_every_rules_how_many_lines_there_are(toy, tmp_path):
    toy.trainer(tmp_path, log_every=5).fit()
    assert [record["step"] for record in toy.lines(tmp_path)] == [5, 10, 12]


def test_best_is_the_best_validation_once_there_is_one(toy, tmp_path):
    console = Console(file=io.StringIO(), width=300)
    toy.trainer(
        tmp_path, console=console, validate_every=6, evaluate=lambda model, step: ValidationResult({"loss": 0.125})
    ).fit()
    text = console.file.getvalue()
    assert "validation at step 6: loss 0.1250 | new best" in text
    assert "| best 0.1250 |" in next(line for line in text.splitlines() if line.startswith("step 7/"))


def test_validations_are_lines_of_the_journal(toy, tmp_path):
    toy.trainer(
        tmp_path, validate_every=6, evaluate=lambda model, step: ValidationResult({"loss": step, "wql": 0.5})
    ).fit()
    assert toy.lines(tmp_path, "validation") == [
        {"step": 6, "kind": "validation", "loss": 6, "wql": 0.5, "best": True},
        {"step": 12, "kind": "validation", "loss": 12, "wql": 0.5, "best": False},
    ]


@pytest.mark.parametrize("on", [True, False])
def test_tensorboard_is_written_if_asked_for(toy, tmp_path, on):
    toy.trainer(tmp_path, tensorboard=on).fit()
    if not on:
        assert not (tmp_path / "tensorboard").exists()
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))


def test_tensorboard_shows_every_step_of_a_resumed_run_once(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toy.trainer(tmp_path, tensorboard=True, max_steps=8).fit()
    resume = tmp_path / "checkpoints" / "step-00000005"
    time.sleep(
        1.1
    )  # TensorBoard orders files by name: the second, then a counter of the process that sorts 10 before 9
    toy.trainer(tmp_path, tensorboard=True, resume=resume).fit()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert shown == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in toy.losses(tmp_path)]


def test_a_terminal_gets_a_progress_bar_and_other_consoles_plain_lines(toy, tmp_path):
    terminal, plain = (Console(file=io.StringIO(), width=300, force_terminal=on) for on in (True, False))
    toy.trainer(tmp_path / "a", console=terminal).fit()
    toy.trainer(tmp_path / "b", console=plain).fit()
    assert "━" in terminal.file.getvalue()
    assert "\x1b" not in plain.file.getvalue()
    assert "step 12/12" in terminal.file.getvalue()


def test_time_spent_in_validation_is_not_in_the_rates(toy, tmp_path):
    import time

    slept = []

    def slow(model, step):
        began = time.perf_counter()
        time.sleep(1)
        slept.append(time.perf_counter() - began)
        return ValidationResult({"loss": 1.0})

    began = time.perf_counter()
    toy.trainer(tmp_path, evaluate=slow, validate_every=6, log_every=12).fit()
    whole = time.perf_counter() - began
    assert len(slept) == 2 and 12 / toy.lines(tmp_path)[-1]["steps_per_s"] < whole - sum(slept)


def test_a_slow_source_shows_as_its_share_of_the_time(toy, tmp_path):
    import time

    class Slow(toy.Source):
        def windows(self, first, count):
            time.sleep(0.1)
            return super().windows(first, count)

    began = time.perf_counter()
    toy.trainer(tmp_path, source=Slow(), prefetch=0, log_every=12).fit()
    assert toy.lines(tmp_path)[-1]["data_share"] > 12 * 0.1 / (time.perf_counter() - began)


@pytest.mark.parametrize(
    ("seconds", "text"), [(12, "12s"), (200, "3m 20s"), (21120, "5h 52m"), (180000, "2d 2h"), (3599.7, "1h 00m")]
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_a_cpu_has_a_measured_peak_and_a_size():
    assert peak_flops(torch.device("cpu"), "float32", False) > 1e8
    used, total = memory_gb(torch.device("cpu"))
    assert 0 < used < total


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
        ("NVIDIA T400", 0.0),
    ],
)
def test_known_gpus_have_the_peak_of_their_data_sheet(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0), "bfloat16", False) == peak
