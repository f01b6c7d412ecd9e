"""Logging of a run: step lines on the console, metrics.jsonl, training.log, sinks such as TensorBoard."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from foretrain.atomic import write_json
from foretrain.distributed.world import World
from foretrain.printing import BESIDE_PRINTABLE, duration, printable
from foretrain.training.alarms import Alarm, Watcher
from foretrain.training.health import Health, render
from foretrain.training.journal import Journal, read_journal
from foretrain.training.line_stats import LineStats
from foretrain.training.settings import StepPlan, TrainingConfig
from foretrain.training.sinks import Sink, Sinks, TensorBoard
from foretrain.training.step import LocalStepStats, StepResult
from foretrain.training.train_state import RunTotals, TrainState

# Dense peak in TFLOP/s according to the vendors' data sheets: (16-bit, TF32, float32)
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


class RunConsole(Console):
    """A console that survives a closed pipe or terminal (`train | head`): the run continues, its log is complete."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, with text made printable."""
        super().print(*(printable(item) if isinstance(item, str) else item for item in objects), **options)

    def on_broken_pipe(self) -> None:
        """Stop printing; rich would exit."""
        self.quiet = True
        silence_stdout()


def silence_stdout() -> None:
    """Redirect standard output to /dev/null, so that a closed pipe fails neither the run nor Python's flush at exit."""
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


class Monitor:
    """Writes the logs of a run, on rank 0; on other ranks its methods do nothing. Counts what the run took.

    flops: those of a forward and backward pass of a window of (context length, prediction length, rows).
    earlier: what the starts before this one took.
    sinks: they take what metrics.jsonl has, beside TensorBoard.
    """

    def __init__(
        self,
        output_dir: Path,
        config: TrainingConfig,
        plan: StepPlan,
        world: World,
        *,
        flops: Callable[[int, int, int], float],
        console: Console | None = None,
        earlier: RunTotals | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self._earlier, self._began = earlier or RunTotals(), time.perf_counter()
        self._run = self._earlier
        self.config, self.plan, self.world, self.flops = config, plan, world, flops
        self.output_dir, self.console = output_dir, console or RunConsole(highlight=False)
        self.line = LineStats()  # the steps since the last line
        self.watcher, self.health, self.serious_alarm = Watcher(), Health(), False  # of rank 0
        self._ended = time.perf_counter()  # when the newest step ended; later by pauses
        self.seconds = 0.0  # that the newest step took, without pauses
        self._timed = True  # False if the newest step was under a profiler
        self._peak: float | None = None
        self._counts_gpu = True  # until there is no counter
        self._bar: Bar | None = None
        if not world.is_main:
            return
        self.journal = Journal(output_dir / "metrics.jsonl")
        self._log = (output_dir / "training.log").open("a", encoding="utf-8")
        self.sinks = Sinks([*([TensorBoard()] if config.tensorboard else []), *sinks], self.log)

    def start(
        self,
        step: int,
        validation_due: bool = False,
        evaluations_due: Sequence[str] = (),
        line: LineStats | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Start after a step: delete lines of later steps, which an interrupted run wrote, from metrics.jsonl.

        With validation_due this step's validation is deleted as well, because it is about to be repeated, and so are
        its evaluations by the evaluators that are due. line: the steps since its last line, as a checkpoint holds them.
        facts: what the line on this start says of the data.
        """
        self._ended = time.perf_counter()
        if not self.world.is_main:
            return
        self.journal.truncate(step, validation_due, evaluations_due)
        self.line = line or LineStats()
        self.watcher, self.health, self.serious_alarm = Watcher(), Health(), False
        self.sinks.open(self.output_dir, step)
        for record in read_journal(self.journal.path):
            self.watcher.see(record)
            self.health.see(record)
            if record.get("kind") == "alarm" and record["step"] == step:  # it was to end the run after the next step
                self.serious_alarm |= record.get("serious") is True
        self._write(
            {
                "step": step,
                "kind": "start",
                "total_steps": self.plan.steps,
                "batch_size": self.plan.batch_size,
                "unit": self.plan.unit,
                "processes": self.world.size,
                "log_every": self.config.log_every,
                "clip_norm": self.config.clip_norm,
                "best_metric": self.config.best_metric,
                "best_mode": self.config.mode,
                **(facts or {}),
                "time": time.time(),
            }
        )
        if self.console.is_terminal and self._bar is None:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=self.console, transient=True, **BESIDE_PRINTABLE)
            self._bar.add_task("training", total=self.plan.steps)
            self._bar.start()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def log(self, text: str) -> None:
        """Write a line to the console and to training.log."""
        if not self.world.is_main:
            return
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._log.write(_with_time(text))
        self._log.flush()

    def step(self, result: StepResult, stats: LocalStepStats, train_state: TrainState, *, timed: bool = True) -> None:
        """Record a finished step; log it every log_every steps, at the last one, and if the update was skipped.

        timed: False leaves its time out of rates, since a profiler slowed it down.
        """
        self._run = replace(self._run, steps=self._run.steps + 1, windows=self._run.windows + result.windows)
        step, now = train_state.step, time.perf_counter()
        self.seconds, self._ended = now - self._ended, now
        if not timed:
            self._run = replace(
                self._run,
                untimed_steps=self._run.untimed_steps + 1,
                untimed_windows=self._run.untimed_windows + result.windows,
                untimed_seconds=self._run.untimed_seconds + self.seconds,
            )
        of_ranks, self._timed = self._timed and timed, timed  # ranks tell of the step before
        if not self.world.is_main:
            return
        flops = sum(windows * self.flops(*size) for windows, *size in stats.sizes)
        self.line.add(
            result.loss,
            result.grad_norm,
            self.seconds if timed else None,
            applied=result.applied,
            clipped=self.config.clip_norm is not None and result.grad_norm > self.config.clip_norm,
            windows=result.windows,
            flops=flops * result.windows / max(stats.windows, 1),  # other ranks are assumed to need the same
            data_wait=stats.data_wait,
            work=result.rank_work if of_ranks else (),
            waits=result.rank_waits if of_ranks else (),
        )
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)
        every = self.config.health_every
        report_due = every is not None and step % every == 0
        due = step % self.config.log_every == 0 or step == self.plan.steps or report_due
        if not (due or result.nonfinite or result.overflow):
            return
        record = self._record(result, train_state)
        alarms = self._write(record)
        self.log(self._line(record, train_state))
        for alarm in alarms:
            self.serious_alarm |= alarm.serious
            self._write({"step": step, "kind": "alarm", **alarm._asdict()})
            self.log(f"ALARM at step {step:,}: {alarm.code}: {alarm.text}")
        self.line = LineStats()
        if report_due:
            self._report(step)

    def _write(self, record: dict[str, Any]) -> list[Alarm]:
        """Write a line of metrics.jsonl, and to the sinks; return the alarms that it raises."""
        written = self.journal.write(record)
        if record["kind"] != "start":  # they are told by open
            self.sinks.record(written)
        self.health.see(written)
        return self.watcher.see(written)

    def _report(self, step: int) -> None:
        """Log the report on the run's health and write it into health.json; what fails there stops no run."""
        report = self.health.report()
        text = render(report)
        try:
            write_json(self.output_dir / "health.json", report)
        except OSError as error:
            text += f"\nWARNING: health.json cannot be written: {error.strerror or error}"
        self.log(text)
        self.sinks.text(step, "health", text)

    def epoch(self, step: int, loss: float | None, steps: int) -> None:
        """Log the end of an epoch, with the mean loss of its steps."""
        if not self.world.is_main:
            return
        number = int(self.plan.epoch(step) or 0)
        self._write({"step": step, "kind": "epoch", "epoch": number, "loss": loss, "steps": steps})
        self.log(f"epoch {number:,} ends at step {step:,}: mean loss {_number(loss)} of {steps:,} steps")

    def validation(self, step: int, metrics: dict[str, float], *, best: bool) -> None:
        """Log the metrics of a validation."""
        if not self.world.is_main:
            return
        self._write({"step": step, "kind": "validation", **self._epoch(step), **metrics, "best": best})
        chosen = self.config.best_metric.partition("/")[0]  # of the figures of each corpus the line has this one alone
        shown = {name: value for name, value in metrics.items() if "/" not in name or name.startswith(f"{chosen}/")}
        values = " | ".join(f"{name} {value:.4f}" for name, value in shown.items())
        epoch = "".join(f", epoch {number:.2f}" for number in self._epoch(step).values())
        self.log(f"validation at step {step:,}{epoch}: {values}{' | new best' if best else ''}")

    def evaluation(self, step: int, facts: Mapping[str, Any], metrics: dict[str, float], line: str) -> None:
        """Record what an evaluator found, under the names of its metrics, and log a line of text on it."""
        if not self.world.is_main:
            return
        self._write({"step": step, "kind": "evaluation", **self._epoch(step), **facts, **metrics})
        self.log(line)

    def end(self, step: int, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Log the lines at the end of a run, and tell the sinks of it. facts: entries of their record of kind end."""
        for line in lines:
            self.log(line)
        if self.world.is_main:
            self.sinks.text(step, "end", "\n".join(lines))
            self.sinks.record({"step": step, "kind": "end", **facts})

    def _epoch(self, step: int) -> dict[str, float]:
        """Return {"epoch": epochs so far}; {} if the run does not count them."""
        epoch = self.plan.epoch(step)
        return {} if epoch is None else {"epoch": epoch}

    def pause(self) -> float:
        """Return the current time; resume(pause()) excludes the time in between from the rates."""
        return time.perf_counter()

    def resume(self, paused_at: float) -> None:
        """See pause."""
        paused = time.perf_counter() - paused_at
        self._ended += paused
        self._run = replace(self._run, paused=self._run.paused + paused)

    def run_totals(self) -> RunTotals:
        """Return what the run took so far, over all its starts but those without a step."""
        if self._run.steps == self._earlier.steps:
            return self._earlier
        return replace(self._run, seconds=self._run.seconds + time.perf_counter() - self._began)

    def sync(self) -> None:
        """Sync metrics.jsonl to disk, before a checkpoint."""
        if self.world.is_main:
            self.journal.sync()

    def close(self) -> None:
        """Close files and the progress bar."""
        if self._bar:
            self._bar.stop()
        if not self.world.is_main:
            return
        for close in (self.sinks.close, self.journal.close, self._log.close):
            with suppress(OSError):  # a full disk was reported before
                close()

    def _record(self, result: StepResult, train_state: TrainState) -> dict[str, Any]:
        """Return the line of metrics.jsonl for a step, and of all since the last line (LineStats.record)."""
        used, total = memory_gb(self.world.device)
        stats = self.line.record()
        rate = stats["flops_per_s"]
        record: dict[str, Any] = {
            "step": train_state.step,
            "kind": "train",
            **self._epoch(train_state.step),
            "loss": result.loss,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "loss_ema": train_state.loss_ema,
            **stats,
            "mfu": None if rate is None or not self.peak() else rate / self.peak() / self.world.size,
            "memory_gb": used,
            "memory_total_gb": total,
            **({} if (busy := self._gpu()) is None else {"gpu_busy_share": busy}),
            "bad_batches": train_state.bad_batches,
            "time": time.time(),
        }
        if not result.applied:
            record["left_out"] = result.nonfinite or ("overflow" if result.overflow else "empty")
        return record

    def _line(self, record: dict[str, Any], train_state: TrainState) -> str:
        """Format a record for the console."""
        rate, left = record["steps_per_s"], self.plan.steps - train_state.step
        best = f"lowest ema {_number(train_state.lowest)}"
        if self.config.validate_every is not None:
            best = f"best {self.config.best_metric} {_number(train_state.best)}"
        epochs = "" if self.config.epochs is None else f"/{self.config.epochs:g}"
        parts = [
            f"step {train_state.step:,}/{self.plan.steps:,}",
            f"epoch {record['epoch']:.2f}{epochs}" if "epoch" in record else "",
            f"loss {record['loss']:.4f}",
            f"ema {_number(train_state.loss_ema)}",
            best,
            f"lr {record['lr']:.2e}",
            f"mem {record['memory_gb']:.1f}/{record['memory_total_gb']:.0f}GB",
            f"gpu {100 * record['gpu_busy_share']:.0f}%" if "gpu_busy_share" in record else "",
            *(
                ["profiled"]
                if rate is None
                else [
                    f"{rate:.3g} step/s",
                    f"{record['windows_per_s']:,.0f} series/s",
                    f"mfu {100 * record['mfu']:.0f}%" if record["mfu"] is not None else "",
                    f"data {100 * record['data_share']:.1f}%",
                    f"eta {duration(left / rate)}",
                ]
            ),
            f"gnorm {record['grad_norm']:.3f}"
            + (f" (clipped {100 * record['clipped_share']:.0f}%)" if record["clipped_share"] else ""),
            f"left out: {record['left_out']}" if "left_out" in record else "",
        ]
        return " | ".join(part for part in parts if part)

    def _gpu(self) -> float | None:
        """Return gpu_busy_share of this process' GPU; None once it could not be read, as without pynvml."""
        share = gpu_busy_share(self.world.device) if self._counts_gpu else None
        self._counts_gpu = share is not None
        return share

    def peak(self) -> float:
        """Peak FLOP/s of one device, see peak_flops; computed once."""
        if self._peak is None:
            self._peak = peak_flops(self.world.device, self.config.dtype, self.config.tf32)
        return self._peak


def append_log(output_dir: Path, text: str) -> None:
    """Write a line to the console and to training.log of a finished run, whose release is whole: a full disk is no
    error."""
    RunConsole(highlight=False).print(text, markup=False, highlight=False, soft_wrap=True)
    with suppress(OSError), (output_dir / "training.log").open("a", encoding="utf-8") as log:
        log.write(_with_time(text))


def _with_time(text: str) -> str:
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n"


def peak_flops(device: torch.device, dtype: str, tf32: bool) -> float:
    """Return the peak FLOP/s of a device: from PEAKS for a GPU, measured for a CPU, 0 if unknown."""
    if device.type == "cpu":
        return _measured_peak(getattr(torch, dtype))
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    for known, (half, tensor_float, single) in PEAKS.items():
        if all(re.search(rf"\b{word}\b", name) for word in known.split()):
            if dtype != "float32":
                return 1e12 * half
            return 1e12 * (tensor_float if tf32 else single)
    return 0.0


def _measured_peak(dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a matrix product of a type that fits the cache, best of 8: takes about 50 ms."""
    n = 384
    a, b, out = (torch.ones(n, n, dtype=dtype) for _ in range(3))
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def memory_gb(device: torch.device) -> tuple[float, float]:
    """Return (used, total) memory in GB; used is the peak of a GPU so far, or the resident size of this process."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_allocated(device) / 1e9, total / 1e9
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
    except OSError:
        resident = 0
    return resident / 1e9, os.sysconf("SC_PHYS_PAGES") * page / 1e9


def gpu_busy_share(device: torch.device) -> float | None:
    """Return the share of the last second or less in which a GPU ran a kernel; None of other devices and if its driver
    does not tell.

    torch reads it by pynvml, which it does not bring along.
    """
    if device.type != "cuda":
        return None
    try:
        return min(max(torch.cuda.utilization(device) / 100, 0.0), 1.0)
    except Exception:  # whatever a driver, a container or a missing package raises: a counter stops no run
        return None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
