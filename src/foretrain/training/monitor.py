"""What a run says while it runs: step lines, metrics.jsonl, training.log, TensorBoard."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from foretrain.distributed.world import World
from foretrain.training.journal import Journal
from foretrain.training.settings import StepPlan, TrainingConfig
from foretrain.training.step import LocalStepStats, StepResult
from foretrain.training.train_state import TrainState

# Dense peak in TFLOP/s by the vendors' data sheets: (16-bit, TF32, float32)
PEAKS = {
    "B200": (2250.0, 1125.0, 75.0),
    "H200": (989.0, 494.0, 67.0),
    "H100 PCIe": (756.0, 378.0, 51.0),
    "H100 NVL": (835.0, 417.0, 60.0),
    "H100": (989.0, 494.0, 67.0),
    "A100": (312.0, 156.0, 19.5),
    "L40S": (362.0, 183.0, 91.6),
    "L4": (121.0, 60.0, 30.3),
    "A10G": (125.0, 62.5, 31.2),
    "A10": (125.0, 62.5, 31.2),
    "RTX 4090": (165.0, 82.6, 82.6),
    "RTX 3090": (71.0, 35.6, 35.6),
    "V100": (125.0, 15.7, 15.7),
    "T4": (65.0, 8.1, 8.1),
}


@dataclass
class _Tally:
    """What has gone by since the last step line."""

    began: float = field(default_factory=time.perf_counter)
    steps: int = 0
    windows: int = 0
    wait: float = 0.0
    flops: float = 0.0


class RunConsole(Console):
    """A console whose reader may go away (`train | head`, a closed terminal): the run goes on, its log has it all."""

    def on_broken_pipe(self) -> None:
        """Fall silent, where rich would end the program."""
        self.quiet = True
        silence_stdout()


def silence_stdout() -> None:
    """Point standard output at nothing, so that a reader gone away ends neither the run nor, at exit, its success."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


class Monitor:
    """Writes on rank 0 only; on the others every call does nothing."""

    def __init__(
        self,
        output_dir: Path,
        config: TrainingConfig,
        plan: StepPlan,
        world: World,
        *,
        flops: Callable[[int, int, int], float],
        console: Console | None = None,
    ) -> None:
        self.config, self.plan, self.world, self.flops = config, plan, world, flops
        self.output_dir, self.console = output_dir, console or RunConsole(highlight=False)
        self.tally = _Tally()
        self._peak: float | None = None
        self._bar: Bar | None = None
        self._board: Any = None
        if not world.is_main:
            return
        self.journal = Journal(output_dir / "metrics.jsonl")
        self._log = (output_dir / "training.log").open("a", encoding="utf-8")

    def begin(self, step: int, validation_due: bool = False) -> None:
        """Start from a step: later lines of metrics.jsonl, of an interrupted course, go.

        With validation_due the step's own validation goes as well, because it is about to be done again.
        """
        if not self.world.is_main:
            return
        self.journal.cut(step, validation_due)
        self.tally = _Tally()
        if self.config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # its import is slow

            self._close_board()
            self._board = SummaryWriter(str(self.output_dir / "tensorboard"), purge_step=step + 1)
        if self.console.is_terminal and self._bar is None:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=self.console, transient=True)
            self._bar.add_task("training", total=self.plan.steps)
            self._bar.start()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def say(self, text: str) -> None:
        """A line for people: console and training.log."""
        if not self.world.is_main:
            return
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._log.write(_stamped(text))
        self._log.flush()

    def step(self, outcome: StepResult, share: LocalStepStats, progress: TrainState) -> None:
        """Take a finished step; every log_every steps (and at the last one) write and print it."""
        if not self.world.is_main:
            return
        tally = self.tally
        tally.steps += 1
        tally.windows += outcome.windows
        tally.wait += share.wait
        own = sum(windows * self.flops(*size) for windows, *size in share.sizes)
        tally.flops += 3 * own * outcome.windows / max(share.windows, 1)  # the other ranks' are taken to be alike
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=progress.step)
        due = progress.step % self.config.log_every == 0 or progress.step == self.plan.steps
        if not (due or outcome.nonfinite or outcome.overflow):
            return
        record = self._record(outcome, progress)
        self.journal.write(record)
        self._to_board("train", progress.step, record)
        self.say(self._line(record, progress))
        if progress.step % self.config.log_every == 0:
            self.tally = _Tally()

    def validation(self, step: int, metrics: dict[str, float], *, best: bool) -> None:
        """Take the metrics of a validation."""
        if not self.world.is_main:
            return
        self.journal.write({"step": step, "kind": "validation", **metrics, "best": best})
        self._to_board("validation", step, metrics)
        figures = " | ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.say(f"validation at step {step:,}: {figures}{' | new best' if best else ''}")

    def pause(self) -> float:
        """Now; resume(pause()) leaves what happened in between out of the rates."""
        return time.perf_counter()

    def resume(self, since: float) -> None:
        """See pause."""
        self.tally.began += time.perf_counter() - since

    def sync(self) -> None:
        """Make metrics.jsonl durable, before a checkpoint."""
        if self.world.is_main:
            self.journal.sync()

    def close(self) -> None:
        """Close files and the progress bar."""
        if self._bar:
            self._bar.stop()
        if not self.world.is_main:
            return
        for close in (self._close_board, self.journal.close, self._log.close):
            with suppress(OSError):  # a full disk has been told of already
                close()

    def _record(self, outcome: StepResult, progress: TrainState) -> dict[str, Any]:
        seconds = max(time.perf_counter() - self.tally.began, 1e-9)
        used, total = memory_gb(self.world.device)
        record: dict[str, Any] = {
            "step": progress.step,
            "kind": "train",
            "loss": outcome.loss,
            "lr": outcome.lr,
            "grad_norm": outcome.grad_norm,
            "loss_ema": progress.loss_ema,
            "steps_per_s": self.tally.steps / seconds,
            "windows_per_s": self.tally.windows / seconds,
            "data_share": self.tally.wait / seconds,
            "mfu": self.tally.flops / seconds / self.peak() / self.world.size if self.peak() else None,
            "memory_gb": used,
            "memory_total_gb": total,
            "time": time.time(),
        }
        if not outcome.applied:
            record["left_out"] = outcome.nonfinite or ("overflow" if outcome.overflow else "empty")
        return record

    def _line(self, record: dict[str, Any], progress: TrainState) -> str:
        best = progress.best if progress.best is not None else progress.lowest
        left = (self.plan.steps - progress.step) / record["steps_per_s"]
        parts = [
            f"step {progress.step:,}/{self.plan.steps:,}",
            f"loss {record['loss']:.4f}",
            f"ema {_figure(progress.loss_ema)}",
            f"best {_figure(best)}",
            f"lr {record['lr']:.2e}",
            f"mem {record['memory_gb']:.1f}/{record['memory_total_gb']:.0f}GB",
            f"{record['steps_per_s']:.3g} step/s",
            f"{record['windows_per_s']:,.0f} series/s",
            f"mfu {100 * record['mfu']:.0f}%" if record["mfu"] is not None else "",
            f"data {100 * record['data_share']:.1f}%",
            f"eta {duration(left)}",
            f"gnorm {record['grad_norm']:.3f}",
            f"left out: {record['left_out']}" if "left_out" in record else "",
        ]
        return " | ".join(part for part in parts if part)

    def peak(self) -> float:
        """Peak FLOP/s of one device: from the vendor's sheet, measured on a CPU, 0 where unknown."""
        if self._peak is None:
            self._peak = peak_flops(self.world.device, self.config.dtype, self.config.tf32)
        return self._peak

    def _to_board(self, group: str, step: int, values: dict[str, Any]) -> None:
        if self._board is None:
            return
        for name, value in values.items():
            if isinstance(value, (int, float)) and name not in ("step", "time", "memory_total_gb"):
                self._board.add_scalar(f"{group}/{name}", value, step)
        self._board.flush()

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()


def append_log(output_dir: Path, text: str) -> None:
    """A line for people of a run that has ended: console and training.log."""
    RunConsole(highlight=False).print(text, markup=False, highlight=False, soft_wrap=True)
    with (output_dir / "training.log").open("a", encoding="utf-8") as log:
        log.write(_stamped(text))


def _stamped(text: str) -> str:
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n"


def peak_flops(device: torch.device, dtype: str, tf32: bool) -> float:
    """FLOP/s that a device could do at most; 0 where nobody has told."""
    if device.type == "cpu":
        return _measured_peak()
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    for known, (half, middle, full) in PEAKS.items():
        if all(re.search(rf"\b{word}\b", name) for word in known.split()):
            return 1e12 * (full if dtype == "float32" and not tf32 else middle if dtype == "float32" else half)
    return 0.0


def _measured_peak() -> float:
    """The rate of a float32 product that fits the cache, best of a few: about 50 ms, once."""
    n = 384
    a, b, best = torch.rand(n, n), torch.rand(n, n), float("inf")
    out = torch.empty(n, n)
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def memory_gb(device: torch.device) -> tuple[float, float]:
    """(used, available) memory in GB: the peak so far of a GPU, the resident size of this process on a CPU."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_allocated(device) / 1e9, total / 1e9
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
    except OSError:
        resident = 0
    return resident / 1e9, os.sysconf("SC_PHYS_PAGES") * page / 1e9


def duration(seconds: float) -> str:
    """5h 52m, 3m 20s, 12s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
