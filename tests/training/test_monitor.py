from __future__ import annotations

import io
import json
import re
import sys
import time

import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from foretrain.printing import printable_output
from foretrain.training import monitor
from foretrain.training.ending import step_times
from foretrain.training.journal import read_journal
from foretrain.training.monitor import RunConsole, append_log, duration, gpu_busy_share, memory_gb, peak_flops
from foretrain.training.trainer import ValidationResult

LINE = re.compile(
    r"step \d[\d,]*/1,002 \| loss \d+\.\d{4} \| ema \d+\.\d{4} \| lowest ema \d+\.\d{4} \| lr \d\.\d\de-\d\d \| "
    r"mem \d+\.\d/\d+GB \| [\d.e+]+ step/s \| [\d,]+ series/s \| mfu \d+% \| data \d+\.\d% \| eta [\dhms ]+ \| "
    r"gnorm \d+\.\d{3}( \(clipped \d+%\))?"
)


def test_a_step_line_says_it_all(toy, tmp_path):
    console = Console(file=io.StringIO(), width=40)  # narrower than the line, which must not be wrapped
    toy.trainer(tmp_path, max_steps=1002, batch_size=2, log_every=500, checkpoint_every=None, console=console).fit()
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("step")]
    assert [line.split("/")[0] for line in lines] == ["step 500", "step 1,000", "step 1,002"]
    assert all(LINE.fullmatch(line) for line in lines), lines
    logged = (tmp_path / "training.log").read_text()
    assert all(line in logged for line in lines)


def test_the_share_of_clipped_steps_is_told(toy, tmp_path):
    console = Console(file=io.StringIO(), width=300)
    toy.trainer(tmp_path, log_every=6, clip_norm=1e-3, console=console).fit()
    assert [record["clipped_share"] for record in toy.lines(tmp_path)] == [1, 1]
    assert console.file.getvalue().count(" (clipped 100%)") == 2
    toy.trainer(tmp_path / "free", log_every=6, clip_norm=None).fit()
    assert [record["clipped_share"] for record in toy.lines(tmp_path / "free")] == [0, 0]


def test_log_every_rules_how_many_lines_there_are(toy, tmp_path):
    toy.trainer(tmp_path, log_every=5).fit()
    assert [record["step"] for record in toy.lines(tmp_path)] == [5, 10, 12]


def test_best_names_its_metric_and_is_empty_until_the_first_validation(toy, tmp_path):
    console = Console(file=io.StringIO(), width=300)
    toy.trainer(
        tmp_path, console=console, validate_every=6, evaluate=lambda model, step: ValidationResult({"loss": 0.125})
    ).fit()
    text = console.file.getvalue()
    assert "validation at step 6: loss 0.1250 | new best" in text
    steps = [line for line in text.splitlines() if line.startswith("step ")]
    assert ["| best loss - |" in line for line in steps] == [True] * 6 + [False] * 6
    assert all("| best loss 0.1250 |" in line for line in steps[6:])


def test_a_run_in_epochs_says_its_epoch_and_the_mean_loss_of_each(toy, tmp_path):
    console = Console(file=io.StringIO(), width=400)
    settings = {"epochs": 2.5, "validate_every": "epoch", "checkpoint_every": "epoch", "keep_last": 3, "keep_best": 3}
    toy.trainer(
        tmp_path, source=toy.Source(epoch_length=20), console=console, **settings,
        evaluate=lambda model, step: ValidationResult({"loss": float(step)}),
    ).fit()  # fmt: skip
    train, text = toy.lines(tmp_path), console.file.getvalue()
    assert [record["epoch"] for record in train] == [0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.5]  # 8 windows a step
    assert "step 3/7 | epoch 1.20/2.5 | loss " in text and "validation at step 3, epoch 1.20: loss 3.0000" in text
    losses = [record["loss"] for record in train]
    assert toy.lines(tmp_path, "epoch") == [
        {"step": 3, "kind": "epoch", "epoch": 1, "loss": pytest.approx(sum(losses[:3]) / 3), "steps": 3},
        {"step": 5, "kind": "epoch", "epoch": 2, "loss": pytest.approx(sum(losses[3:5]) / 2), "steps": 2},
    ]
    assert [record["step"] for record in toy.lines(tmp_path, "validation")] == [3, 5, 7]
    assert toy.steps(tmp_path) == [3, 5, 7]


def test_a_resumed_epoch_has_the_mean_loss_of_all_its_steps(toy, tmp_path):
    source = toy.Source(epoch_length=48)
    toy.trainer(tmp_path / "whole", source=source, checkpoint_every="epoch").fit()
    toy.trainer(tmp_path / "cut", source=source, checkpoint_every="epoch", max_steps=4).fit()
    toy.trainer(tmp_path / "cut", source=source, checkpoint_every="epoch", resume="auto").fit()
    whole, cut = (toy.lines(tmp_path / name, "epoch") for name in ("whole", "cut"))
    assert whole == cut and [record["step"] for record in whole] == [6, 12]


def test_a_finished_run_says_what_it_took_and_what_it_released(toy, tmp_path):
    def evaluate(model, step):
        time.sleep(0.2)
        return ValidationResult({"loss": 7.0 + step})

    toy.trainer(tmp_path, max_steps=6, evaluate=evaluate, validate_every=6, ema_decay=0.5).fit()
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(
        tmp_path, evaluate=evaluate, validate_every=6, ema_decay=0.5, resume="auto", console=console
    ).fit()  # fmt: skip
    end, took, times = console.file.getvalue().splitlines()[-3:]
    assert end == "finished at step 12 (max_steps); release/ holds step 6 (averaged weights), the best: loss 13.0000"
    assert re.fullmatch(
        r"took \d+s for 12 steps on 96 windows, \d+s of it validations and checkpoints; training alone: \S+ step/s, "
        r"[\d,]+ series/s",
        took,
    )
    second = r"[\d.]+(e-\d+)? m?s"
    assert re.fullmatch(
        f"a step: mean {second}, standard deviation {second}, median {second}, 95th percentile {second}", times
    )
    found = json.loads((tmp_path / "final_metrics.json").read_text())
    run = found["run"]
    assert {name: run[name] for name in run if "step_s" in name} == step_times(read_journal(tmp_path / "metrics.jsonl"))
    assert found["best"] == {"metric": "loss", "unit": None, "value": 13.0, "step": 6}
    assert (run["steps"], run["windows"]) == (12, 96) and found["stopped"] == {"step": 12, "by": "max_steps"}
    assert 0.4 < run["validation_and_checkpoint_seconds"] < run["seconds"]
    assert run["windows_per_s"] == pytest.approx(8 * run["steps_per_s"])


def test_validations_are_lines_of_the_journal(toy, tmp_path):
    toy.trainer(
        tmp_path, validate_every=6, evaluate=lambda model, step: ValidationResult({"loss": step, "wql": 0.5})
    ).fit()
    assert toy.lines(tmp_path, "validation") == [
        {"step": 6, "kind": "validation", "loss": 6, "wql": 0.5, "best": True},
        {"step": 12, "kind": "validation", "loss": 12, "wql": 0.5, "best": False},
    ]


def test_a_validation_line_has_of_each_corpus_the_metric_that_chooses_weights(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = {"loss": 1.0, "wql": 0.5, "loss/a": 2.0, "wql/a": 0.6}
    console = Console(file=io.StringIO(), width=400)
    settings = {"evaluate": lambda model, step: ValidationResult(metrics), "validate_every": 12, "tensorboard": True}
    toy.trainer(tmp_path, console=console, **settings).fit()
    (said,) = [line for line in console.file.getvalue().splitlines() if line.startswith("validation at step 12")]
    assert said.endswith(": loss 1.0000 | wql 0.5000 | loss/a 2.0000 | new best")
    (line,) = toy.lines(tmp_path, "validation")
    assert {name: line[name] for name in metrics} == metrics
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"]
    assert {"validation/wql", "validation/a/wql", "validation/a/loss"} <= set(found)


def test_a_terminal_gets_a_progress_bar_and_other_consoles_plain_lines(toy, tmp_path):
    terminal, plain = (Console(file=io.StringIO(), width=300, force_terminal=on) for on in (True, False))
    toy.trainer(tmp_path / "a", console=terminal).fit()
    toy.trainer(tmp_path / "b", console=plain).fit()
    assert "━" in terminal.file.getvalue()
    assert "\x1b" not in plain.file.getvalue()
    assert "step 12/12" in terminal.file.getvalue()


def test_the_bar_of_a_run_on_a_terminal_acts_under_the_command_line_too(toy, tmp_path, monkeypatch):
    raw = io.StringIO()
    monkeypatch.setattr(raw, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", raw)
    monkeypatch.setenv("TERM", "xterm")
    with printable_output():
        toy.trainer(tmp_path, max_steps=2, console=RunConsole()).fit()
    assert "\x1b[?25l" in raw.getvalue() and "\\x1b" not in raw.getvalue()


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
    record = toy.lines(tmp_path)[-1]
    assert len(slept) == 2 and 12 / record["steps_per_s"] < whole - sum(slept)
    assert 0 < record["step_s_median"] <= record["step_s_p95"] < 1


def test_the_times_of_steps_have_their_spread(toy, tmp_path):
    class Slow(toy.Source):
        def windows(self, first, count):
            time.sleep(0.3 if first == 0 else 0)  # in the first step alone
            return super().windows(first, count)

    toy.trainer(tmp_path, source=Slow(), prefetch=0, log_every=6).fit()
    slow, usual = toy.lines(tmp_path)
    assert slow["step_s_p95"] > 0.2 > slow["step_s_median"] and usual["step_s_p95"] < 0.2


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_peak_of_a_cpu_is_that_of_products_in_the_type_of_the_training(dtype):
    seen = set()

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func._overloadpacket is torch.ops.aten.mm:
                seen.update(tensor.dtype for tensor in args)
            return func(*args, **(kwargs or {}))

    with Types():
        assert peak_flops(torch.device("cpu"), dtype, False) > 0
    assert seen == {getattr(torch, dtype)}


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


@pytest.mark.parametrize(("told", "share"), [(87, 0.87), (0, 0.0), (255, 1.0)])
def test_a_gpu_tells_how_busy_it_is(monkeypatch, told, share):
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: told)
    assert gpu_busy_share(torch.device("cuda", 0)) == share and gpu_busy_share(torch.device("cpu")) is None


@pytest.mark.parametrize("error", [ModuleNotFoundError("nvidia-ml-py"), RuntimeError("no driver"), AttributeError("x")])
def test_a_gpu_without_a_counter_tells_nothing(monkeypatch, error):
    def refuse(device):
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert gpu_busy_share(torch.device("cuda", 0)) is None


def test_the_busy_share_is_in_line_and_report_until_it_cannot_be_read(toy, tmp_path, monkeypatch):
    told = iter([0.5, 0.75, None])  # a fourth call would raise
    monkeypatch.setattr(monitor, "gpu_busy_share", lambda device: next(told))
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, log_every=3, health_every=6, console=console).fit()
    assert [line.get("gpu_busy_share") for line in toy.lines(tmp_path)] == [0.5, 0.75, None, None]
    text = console.file.getvalue()
    assert text.count("| gpu 50% |") == 1 and text.count("| gpu ") == 2
    assert "; the GPU is busy 62.5% of the time" in text.split("health at step 6")[1]


def test_a_line_of_a_finished_run_that_cannot_be_written_is_still_shown(tmp_path, capsys):
    (tmp_path / "training.log").mkdir()
    append_log(tmp_path, "next: sleep")
    assert capsys.readouterr().out == "next: sleep\n"
