"""benchmarks/gpu.py on the CPU, with a tiny model: its figures mean nothing here, its keys and its limits do."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from benchmarks import gpu


def test_a_smoke_run_writes_every_figure_of_every_stage(tmp_path, capsys):
    assert gpu.main(["--smoke", "--json", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"] and found["torch"] == torch.__version__ and found["peak_flops"] > 0
    stages = found["stages"]
    assert list(stages) == ["auto", "eager", "compiled", "profile", "offload", "saves"]
    assert stages["auto"]["micro_batch_size"] == stages["eager"]["windows_a_step"] == 8
    assert 0 < stages["eager"]["mfu"] < 1 and stages["eager"]["series_per_s"] > 0
    assert 0 <= stages["eager"]["loader_wait_share"] < 1 and stages["eager"]["peak_memory_gb"] > 0
    assert "left_out" in stages["compiled"]
    largest = stages["profile"]["largest"]
    assert len(largest) == 3 and [e["share"] for e in largest] == sorted((e["share"] for e in largest), reverse=True)
    assert stages["offload"]["step_ratio"] > 0 and stages["offload"]["state_bytes"] > 0
    assert stages["saves"]["blocked_in_background_first_s"] > 0 and stages["saves"]["bytes"] > 0
    assert "eager: {" in capsys.readouterr().out


def test_a_stage_without_enough_time_is_left_out_and_an_error_ends_no_other(tmp_path, monkeypatch):
    def broken(at, seconds):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(gpu, "STAGES", {**gpu.STAGES, "auto": broken})
    at, said = gpu.Measuring(tmp_path, torch.device("cpu"), smoke=False, seconds=15.0), []
    found = gpu.measure(at, ["auto", "compiled"], lambda stages: said.append(list(stages)))
    assert found["auto"]["error"] == "RuntimeError: CUDA error"
    assert found["compiled"]["left_out"] == "15 s were left, and it needs 60 at least"
    assert said == [["auto"], ["auto", "compiled"]]


def test_the_losses_of_a_profile_are_kernels_of_the_gpu_and_the_time_without_one():
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    rows = [
        ("gemm", cuda, 4e6, False),
        ("softmax", cuda, 1e6, False),
        ("step", cuda, 9e6, True),
        ("aten::mm", cpu, 4e6, False),
    ]
    events = [
        SimpleNamespace(key=key, device_type=kind, self_device_time_total=time, count=2, is_user_annotation=marked)
        for key, kind, time, marked in rows
    ]
    found = gpu.losses(events, 8.0, cuda=True)
    assert [(entry["name"], entry["share"]) for entry in found] == [
        ("gemm", 0.5), ("gaps: no kernel runs", 0.375), ("softmax", 0.125)
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
