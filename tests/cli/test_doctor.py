"""`foretrain doctor`: what is found, what it takes to mend it, and the exit code."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from tests.cli.test_app import foretrain

from foretrain.cli.doctor import Finding, examine


@pytest.fixture(autouse=True)
def sound(monkeypatch, tmp_path: Path) -> Path:
    """A folder for runs on a machine where nothing that these tests break is broken; returns the one for programs."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "g++")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CXX", raising=False)
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("an NVIDIA driver is here, which torch is made not to see")
    return programs


def program(folder: Path, name: str) -> None:
    """Write a program that does nothing."""
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def found(topic: str, folder: Path) -> Finding:
    (finding,) = (finding for finding in examine(folder).findings if finding.topic == topic)
    return finding


def test_a_sound_machine_has_versions_and_nothing_to_fix(tmp_path: Path, capsys):
    foretrain("doctor", tmp_path / "runs")
    text = capsys.readouterr().out
    assert (
        text.startswith("foretrain ")
        and "\npython 3." in text
        and f"torch {importlib.metadata.version('torch')}" in text
    )
    assert "nothing to fix" in text and "\nfix" not in text and "ok    model in the box: tiny" in text


def test_what_must_be_fixed_has_its_command_and_exit_code_1(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    foretrain("doctor", tmp_path, code=1)
    last = capsys.readouterr().out.rstrip().splitlines()[-4:]
    assert last[0].startswith("fix   openmp: OMP_WAIT_POLICY=ACTIVE") and last[1].startswith("      -> unset OMP_WAIT")
    assert last[3] == "1 to fix"
    foretrain("doctor", "--json", code=1)
    report = json.loads(capsys.readouterr().out)
    assert report["to_fix"] == 1 and report["packages"]["torch"] == importlib.metadata.version("torch")
    assert all(set(finding) == {"state", "topic", "fact", "remedy"} for finding in report["findings"])


def test_a_missing_extra_is_a_note_with_its_installation(tmp_path: Path, monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("peft", "openpyxl"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for extra, use in (("lora", "adapters"), ("excel", "workbooks")):
        finding = found(f"extra {extra}", tmp_path)
        assert finding.state == "note" and use in finding.fact and f"pip install 'foretrain[{extra}]'" in finding.remedy
    assert examine(tmp_path).to_fix == 0


def test_a_package_that_is_too_old_or_missing_is_to_be_fixed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["numpy>=99", "none-such>=2", "peft>=99; extra == 'lora'"]
    )
    finding = found("packages", tmp_path)
    assert finding.state == "fix" and finding.remedy == "pip install 'numpy>=99' 'none-such>=2'"
    assert "numpy>=99 is required" in finding.fact and "none-such is not installed" in finding.fact


def test_without_a_compiler_only_compilation_is_missing(tmp_path: Path, sound: Path):
    assert found("compiler", tmp_path).fact.startswith(str(sound / "g++"))
    (sound / "g++").unlink()
    finding = found("compiler", tmp_path)
    assert finding.state == "note" and "training.compile" in finding.fact and "apt install g++" in finding.remedy


def test_a_gpu_that_torch_cannot_use_is_to_be_fixed_by_what_hinders_it(tmp_path: Path, sound: Path, monkeypatch):
    assert found("gpu", tmp_path).state == "ok"
    program(sound, "nvidia-smi")
    finding = found("gpu", tmp_path)
    assert finding.state == "fix" and "built for the CPU" in finding.fact and "CUDA build" in finding.remedy

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nMore lines")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    finding = found("gpu", tmp_path)
    assert finding.state == "fix" and finding.fact.endswith("too old (found version 11040).")
    assert finding.remedy.startswith("update the driver, or install torch for an older CUDA than 13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found("gpu", tmp_path).remedy == "unset CUDA_VISIBLE_DEVICES"


def test_a_card_is_named_and_one_without_kernels_is_to_be_fixed(tmp_path: Path, monkeypatch):
    Card = namedtuple("Card", "name total_memory major minor")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "compute_90"])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    cards = [Card("New", 80 * 2**30, 9, 0), Card("Old", 8 * 2**30, 6, 1)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    assert found("cuda:0", tmp_path) == Finding("ok", "cuda:0", "New, 80 GiB, compute 9.0, CUDA None, bfloat16")
    assert found("cuda:1", tmp_path).state == "fix" and "no kernels" in found("cuda:1", tmp_path).fact
    usage = namedtuple("Usage", "total free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(64 * 2**20, 2**40))
    assert "--shm-size=1g" in found("/dev/shm", tmp_path).remedy


def test_more_threads_than_cores_are_to_be_fixed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    finding = found("cpu", tmp_path)
    assert finding.state == "fix" and "--threads " in finding.remedy


def test_a_full_disk_and_low_limits_are_to_be_fixed(tmp_path: Path, monkeypatch):
    usage = namedtuple("Usage", "total free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**40, 2**20))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        findings = {finding.topic: finding for finding in examine(tmp_path / "runs" / "new").findings}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert findings["disk"].state == "fix" and str(tmp_path) in findings["disk"].fact
    assert findings["scratch"].state == "fix" and "TMPDIR" in findings["scratch"].remedy
    assert findings["open files"].state == "fix" and "ulimit -n 1024" in findings["open files"].remedy


def test_an_offline_hub_is_a_note(tmp_path: Path, monkeypatch):
    assert found("hub", tmp_path).state == "ok"
    (tmp_path / "hub" / "models--amazon--chronos-2").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    finding = found("hub", tmp_path)
    assert finding.state == "note" and "(1 model in " in finding.fact and "unset HF_HUB_OFFLINE" in finding.remedy


def test_everything_that_is_not_ok_says_what_mends_it(tmp_path: Path, sound: Path, monkeypatch):
    program(sound, "nvidia-smi")
    (sound / "g++").unlink()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    findings = examine(tmp_path).findings
    assert len([finding for finding in findings if finding.state != "ok"]) >= 3
    assert all(bool(finding.remedy) == (finding.state != "ok") for finding in findings)


def test_a_file_in_place_of_the_folder_of_runs_is_to_be_fixed(tmp_path: Path):
    (tmp_path / "my.csv").touch()
    finding = found("disk", tmp_path / "my.csv")
    assert finding.state == "fix" and "is a file" in finding.fact
