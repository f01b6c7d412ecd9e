"""One GPU in some minutes: the tests of tests/gpu, then what training Chronos-2 base takes there.

    python -m benchmarks.gpu [--minutes M] [--json FILE] [--only STAGE,...] [--smoke]

Needs no network and no data. The model has 119,477,664 parameters, context 2,048, prediction length 64, bfloat16
autocast over float32 weights, no activation checkpointing, and series that a generator made. Stages, in order:

- tests: `pytest -m gpu tests/gpu`, ended at its share of the time; counts, and the names of tests that failed
- auto: what training.micro_batch_size: auto finds of a step of 4,096 windows; the next stages use it
- eager, compiled: `train_run` for some time; medians of the log's lines without their first third
- profile: three eager steps under torch.profiler, which slows the CPU's part; the kernels that took most of the time,
  and the time without any kernel
- offload: peak memory and time of a step with the optimizer's state on the GPU and with training.offload_optimizer
- saves: how long training waits for a checkpoint of 1.4 GB, at once and in the background (benchmarks.checkpoints)

MFU = step FLOPs of a window x windows a second / peak. Step FLOPs are Trainable.step_flops, what both passes need
mathematically (three forward passes), which tests/models/test_base.py compares with torch's own count; the peak is the
dense one of the vendor's data sheet (training.monitor.PEAKS: 989 TFLOP/s for an H200 in bfloat16). Each stage looks at
what is left of the time first; the JSON is written anew after each. --smoke does all but the tests and the compilation
with a tiny model, on any device, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, harness

import torch  # isort: skip  (after the harness, which sets the threads)

from foretrain.distributed.world import World
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig, load_config
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal
from foretrain.training.micro_batch import find
from foretrain.training.monitor import peak_flops
from foretrain.training.offload import on_device
from foretrain.training.optimizer import build_optimizer, state_size

ROOT = Path(__file__).parents[1]
STEP = 4096  # windows of a step, of which auto takes what fits
SERIES = "[{synthetic: {kind: seasonal, num_series: 256, length: 8192, freq: h}}]"
FULL = [f"data.corpora={SERIES}", "training.dtype=bfloat16", "training.activation_checkpointing=off",
        f"training.batch_size={STEP}"]  # fmt: skip
TINY = ["data.corpora=[{synthetic: {kind: seasonal, num_series: 4, length: 200, freq: h}}]", "model.preset=null",
        "model.d_model=16", "model.d_kv=8", "model.d_ff=32", "model.num_layers=1", "model.num_heads=2",
        "data.context_length=64", "data.prediction_length=16", "data.min_context=32", "training.dtype=float32",
        "training.activation_checkpointing=off", "training.batch_size=8"]  # fmt: skip
ALWAYS = ["training.checkpoint_every=null", "training.checkpoint_minutes=null", "training.validate_every=null",
          "training.micro_batch_size=auto", "training.tensorboard=false", "training.log_every=1",
          "training.best_metric=loss"]  # fmt: skip
# of all minutes, and the seconds that a stage needs at least
SHARES = {"tests": (0.35, 20), "auto": (0.05, 10), "eager": (0.12, 20), "compiled": (0.28, 60), "profile": (0.08, 10),
          "offload": (0.05, 10), "saves": (0.12, 20)}  # fmt: skip
LARGEST = 3  # losses of the profile that are named


@dataclass
class Measuring:
    """What the stages share: the run's settings, the device, the time, and the micro-batch that was found."""

    folder: Path
    device: torch.device
    smoke: bool
    seconds: float
    began: float = field(default_factory=time.monotonic)
    micro_batch: int = 8

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)

    def config(self, name: str, *overrides: str) -> RunConfig:
        """Return the config of a run."""
        more = [*(TINY if self.smoke else FULL), *ALWAYS, f"device={self.device}", *overrides]
        return load_config(checkpoints.CONFIG, [*more, ("output_dir", str(self.folder / name))])

    def model(self, config: RunConfig) -> Any:
        """Return a new model on the device, in training mode."""
        return build_model(config).to(self.device).train()


def tests(at: Measuring, seconds: float) -> dict[str, Any]:
    """Run tests/gpu in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu"]
    path = at.folder / "tests.txt"
    with path.open("w") as output:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=output, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = path.read_text()
    words = {"passed": "PASSED", "failed": "FAILED", "broken": "ERROR", "skipped": "SKIPPED"}
    counts = {name: len(re.findall(rf"^\S+::.* {word}\b", text, re.MULTILINE)) for name, word in words.items()}
    failed = sorted(set(re.findall(r"^(\S+::\S+) (?:FAILED|ERROR)", text, re.MULTILINE)))
    return {"exit_code": code, **counts, "which_failed": failed, "end": text.splitlines()[-5:]}


def auto(at: Measuring, seconds: float) -> dict[str, Any]:
    """Let training.micro_batch_size: auto choose."""
    config, source = open_source(at.config("auto"))
    model, began = at.model(config), time.monotonic()
    found = find(model, source, config.training, config.optimizer, World(device=at.device))
    at.micro_batch = found.windows
    return {"micro_batch_size": found.windows, "how": found.how, "took_s": time.monotonic() - began}


def eager(at: Measuring, seconds: float, *, compiled: bool = False) -> dict[str, Any]:
    """Train for some time, and read the run's own log."""
    size, name = at.micro_batch, "compiled" if compiled else "eager"
    limit = "training.max_steps=4" if at.smoke else f"training.max_minutes={seconds / 60}"
    config = at.config(
        name, limit, f"training.compile={compiled}", f"training.micro_batch_size={size}", f"training.batch_size={size}"
    )
    if at.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(at.device)
    with (at.folder / f"{name}.txt").open("w") as output, redirect_stdout(output):
        train_run(config, world=World(device=at.device))
    lines = [line for line in read_journal(at.folder / name / "metrics.jsonl") if line["kind"] == "train"]
    steady = lines[len(lines) // 3 :]

    def middle(key: str) -> float | None:
        values = [line[key] for line in steady if line[key] is not None]
        return statistics.median(values) if values else None

    return {
        "windows_a_step": size,
        "steps": len(lines),
        "series_per_s": middle("windows_per_s"),
        "step_s": middle("step_s_median"),
        "mfu": middle("mfu"),
        "loader_wait_share": middle("data_share"),
        "peak_memory_gb": max(line["memory_gb"] for line in lines),
        "first_step_s": lines[0]["step_s_median"],
        "last_loss": lines[-1]["loss"],
    }


def compiled(at: Measuring, seconds: float) -> dict[str, Any]:
    """Do the same with compiled blocks."""
    if at.smoke:
        return {"left_out": "a smoke run compiles nothing"}
    return eager(at, seconds, compiled=True)


def profile(at: Measuring, seconds: float) -> dict[str, Any]:
    """Profile three eager steps: the largest parts of their time, kernels and gaps."""
    config = at.config("profile")
    model = at.model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    step = _stepper(at, config, model, optimizer)
    step()
    cuda = at.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities, acc_events=True) as recorded:
        _wait(at.device)
        began = time.perf_counter()
        for _ in range(3):
            step()
        _wait(at.device)
        wall = time.perf_counter() - began
    return {"wall_s": wall, "largest": losses(recorded.key_averages(), wall, cuda=cuda)[:LARGEST]}


def losses(averages: Any, wall: float, *, cuda: bool) -> list[dict[str, Any]]:
    """Return the parts of a profile by their seconds, largest first: kernels (on a CPU, operations), and the gaps.

    wall: seconds of all of it. A gap is time without any kernel; kernels of several streams may hide one.
    """
    found = []
    for event in averages:
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if getattr(event, "is_user_annotation", False) or on_device != cuda:
            continue
        taken = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        found.append({"name": event.key[:200], "calls": event.count, "seconds": taken})
    gap = max(wall - sum(entry["seconds"] for entry in found), 0.0)
    found.append({"name": "gaps: no kernel runs" if cuda else "gaps: no operation runs", "calls": None, "seconds": gap})
    found.sort(key=lambda entry: -entry["seconds"])
    return [{**entry, "share": entry["seconds"] / wall} for entry in found]


def offload(at: Measuring, seconds: float) -> dict[str, Any]:
    """Step one model in turns by an optimizer with state on the device and by one with state on the host.

    Peaks are taken before, of each optimizer alone. On a CPU both places are the host.
    """
    config = at.config("offload")
    windows, model = min(at.micro_batch, 64), at.model(config)
    optimizers = {apart: build_optimizer(model, config.optimizer, apart) for apart in (False, True)}
    steps = {apart: _stepper(at, config, model, own, windows) for apart, own in optimizers.items()}
    cuda, peaks, turns = at.device.type == "cuda", dict[str, int | None](), dict[bool, list[float]]()
    names = {False: "device", True: "host"}
    for apart, step in steps.items():
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(at.device)
        step()
        step()
        peaks[names[apart]] = torch.cuda.max_memory_allocated(at.device) if cuda else None
        optimizers[apart].state.clear()
    for _ in range(3):
        for apart, step in steps.items():
            step()  # makes its state, the first time
            turns.setdefault(apart, []).append(1 / checkpoints.rate(step, 0.01 if at.smoke else seconds / 8))
    middle = {apart: statistics.median(taken) for apart, taken in turns.items()}
    state = 4 * state_size(model, config.optimizer)
    return {
        "windows_a_step": windows,
        "state_bytes": state,
        "on_device_at_once_bytes": on_device(state, model),
        "peak_bytes": peaks,
        "step_s": {names[apart]: taken for apart, taken in middle.items()},
        "step_ratio": middle[True] / middle[False],
    }


def saves(at: Measuring, seconds: float) -> dict[str, Any]:
    """Measure how long training waits for checkpoints."""
    config = at.config("saves")
    model = at.model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    step = _stepper(at, config, model, optimizer, windows=min(at.micro_batch, 64))
    step()
    with redirect_stdout(sys.stderr):
        found, size = checkpoints.measured(
            model, optimizer, step, at.folder / "saves", saves=2, seconds=0.01 if at.smoke else seconds / 20
        )
    background = [save for save in found if save.kind == "in the background"]
    return {
        "bytes": size,
        "blocked_at_once_s": [save.blocked for save in found if save.kind == "at once"],
        "blocked_in_background_first_s": background[0].blocked,
        "blocked_in_background_later_s": background[-1].blocked,
        "saves": [asdict(save) for save in found],
    }


def _stepper(
    at: Measuring, config: RunConfig, model: Any, optimizer: torch.optim.Optimizer, windows: int | None = None
) -> Callable[[], None]:
    return checkpoints.stepper(
        model,
        optimizer,
        windows=windows or at.micro_batch,
        context_length=config.data.context_length,
        horizon=config.data.prediction_length,
        dtype=config.training.dtype,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


STAGES = {"tests": tests, "auto": auto, "eager": eager, "compiled": compiled, "profile": profile, "offload": offload,
          "saves": saves}  # fmt: skip


def measure(at: Measuring, chosen: list[str], say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run stages in order, each in its share of the time; return their results, which `say` gets after each."""
    found: dict[str, Any] = {}
    for name in chosen:
        share, least = SHARES[name]
        if at.left < least and not at.smoke:
            found[name] = {"left_out": f"{at.left:.0f} s were left, and it needs {least} at least"}
        else:
            began = time.monotonic()
            try:
                found[name] = STAGES[name](at, min(max(share * at.seconds, least), at.left))
            except Exception as error:  # the other stages are still worth their time
                found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
            found[name] |= {"stage_s": time.monotonic() - began}
        if at.device.type == "cuda":
            torch.cuda.empty_cache()
        say(found)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the JSON. Returns 1 if tests failed or took too long, or a stage has an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--only", default="", help=f"stages, separated by commas: {', '.join(STAGES)}")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny model on any device, without tests and compilation"
    )
    options = parser.parse_args(arguments)
    chosen = [name for name in STAGES if name in (options.only.split(",") if options.only else STAGES)]
    if options.smoke:
        chosen = [name for name in chosen if name != "tests"]
    elif not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA device; --smoke tries the stages without one", file=sys.stderr)
        return 2
    world = World.start("cuda" if torch.cuda.is_available() else "cpu")
    facts = {
        "device": harness.describe(str(world.device)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": harness.commit(),
        "threads": harness.THREADS,
        "smoke": options.smoke,
        "peak_flops": peak_flops(world.device, "float32" if options.smoke else "bfloat16", False),
        "mfu_formula": "step_flops x series_per_s / peak_flops",
    }

    def say(found: dict[str, Any]) -> None:
        name = list(found)[-1]
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({**facts, "stages": found}, indent=1) + "\n", encoding="utf-8")

    print(json.dumps(facts), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Measuring(Path(folder), world.device, options.smoke, 60 * options.minutes), chosen, say)
    # an exit code of None: the tests were ended
    return int(any("error" in stage or stage.get("exit_code", 0) != 0 for stage in found.values()))


if __name__ == "__main__":
    sys.exit(main())
