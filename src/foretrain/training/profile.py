"""What a step takes, part by part: plain timers on some steps, then a profiler and a counter on a few more.

The timed steps run as all others do; their parts and the rest sum to the step. The profiler, which slows a step down,
ranks operators on the steps after them, and a counter of operations sees one more: these few are left out of the rates
in metrics.jsonl. None of it changes a number of the training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from foretrain.atomic import write_json, write_text
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.models.base import Trainable
from foretrain.training.flops import FlopCounter, FlopReport, compare, needed_flops
from foretrain.training.monitor import Monitor
from foretrain.training.profile_table import table
from foretrain.training.settings import StepPlan, TrainingConfig
from foretrain.training.step import LocalStepStats, Updater, not_profiled

PARTS = ("data", "copy", "forward", "backward", "exchange", "optimizer", "average", "rest")  # in the order of a step
RANKED = 3  # steps that rank operators, at most
MOST_EVENTS = 200_000  # of the profiler: some 400 MB while they are read
OPERATORS = 15  # in the table


class PartTimes:
    """Seconds of the parts of a step on one rank: by the clock on a CPU, by events on a GPU, without a host sync.

    With touch() called for each gradient, the last backward pass of a step ends with the last one; what follows is the
    exchange that the passes do not hide.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []
        self._gradient: Any = None  # when the newest gradient was there
        self._last: Any = None
        self.begin()

    def begin(self) -> None:
        """Begin the step."""
        self._last = self._now()

    def mark(self, part: str) -> None:
        """End a part of the step (Updater.mark)."""
        now = self._now()
        if part == "last backward":
            if self._gradient is not None:
                self._spans += [("backward", self._last, self._gradient), ("exchange", self._gradient, now)]
                self._last = now
                return
            part = "backward"
        self._spans.append((part, self._last, now))
        self._last = now

    def touch(self, parameter: torch.Tensor) -> None:
        """Note that the gradient of a parameter is computed."""
        if self._cuda and self._gradient is not None:
            self._gradient.record()
        else:
            self._gradient = self._now()

    def seconds(self) -> dict[str, float]:
        """Return the sums by part. On a GPU, call it after a host sync of a later step."""
        found: dict[str, float] = {}
        for part, first, last in self._spans:
            taken = first.elapsed_time(last) / 1e3 if self._cuda else last - first
            found[part] = found.get(part, 0.0) + taken
        return found

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class Operators:
    """Self time of torch's operators, ranked by a profiler that starts anew for every micro-batch, so that its trace
    stays small. Counts are of whole micro-batches and updates."""

    cuda: bool
    calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # on the device
    events: int = 0
    micro_batches: int = 0
    _running: Any = None

    def start(self) -> None:
        """Start the profiler, unless there are enough events."""
        if self.events < MOST_EVENTS:
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints two lines for each start
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if self.cuda else []
            self._running = torch.profiler.profile(activities=kinds, acc_events=True)
            self._running.start()

    def mark(self, part: str) -> None:
        """End a part of the step (Updater.mark)."""
        if part.endswith("backward"):
            self.micro_batches += self._running is not None
            self.stop()
            self.start()

    def stop(self) -> None:
        """Stop the profiler and add what it saw."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.stop()
        for one in running.key_averages():
            own = one.self_device_time_total if self.cuda else one.self_cpu_time_total
            self.events += one.count
            if own > 0 and one.device_type == DeviceType.CPU:  # kernels have rows beside those of their operators
                self.calls[one.key] = self.calls.get(one.key, 0) + one.count
                self.seconds[one.key] = self.seconds.get(one.key, 0.0) + own / 1e6

    def ranked(self) -> list[dict[str, Any]]:
        """Return the OPERATORS that take the most time, with their shares of the time of all."""
        total = sum(self.seconds.values()) or 1.0
        first = sorted(self.seconds, key=lambda name: (-self.seconds[name], name))[:OPERATORS]
        return [{"name": name, "calls": self.calls[name], "self_s": self.seconds[name],
                 "share": self.seconds[name] / total} for name in first]  # fmt: skip


class StepProfiler:
    """Profiles the steps of a run that training.profile names, and writes the tables into RUN/profile.

    Every rank times its steps; rank 0 ranks operators, counts, and writes. Raises ConfigError for steps that the run
    does not have.
    """

    def __init__(
        self,
        config: TrainingConfig,
        plan: StepPlan,
        world: World,
        model: Trainable,
        updater: Updater,
        monitor: Monitor,
        folder: Path,
        *,
        done: int,
    ) -> None:
        """done: steps that the run has behind it."""
        self.plan, self.world, self.model, self.updater, self.monitor = plan, world, model, updater, monitor
        self.folder, self.compiled = folder / "profile", bool(config.compile)
        self._times: dict[int, PartTimes] = {}  # by step, as the rest
        self._totals: dict[int, float] = {}
        self._needed: dict[int, float] = {}
        self._operators = Operators(world.device.type == "cuda")
        self._counter: FlopCounter | None = None
        self._flops: FlopReport | None = None
        self.steps = steps_of(config, plan)
        if self.steps and done >= self.steps.first:
            if done < plan.steps and not (self.folder / f"step-{self.steps.first}.txt").exists():
                monitor.log(
                    f"no profile: training.profile.start is {self.steps.first:,}, and the run goes on at step "
                    f"{done + 1:,}; a later one may be given"
                )
            self.steps = None
        self.missing = self.steps is not None  # a table that is still to be written

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Profile a step of the updater inside the block, if it is among those to profile."""
        steps = self.steps
        if steps is None or not steps.first <= step <= steps.last:
            yield
            return
        with ExitStack() as stack:
            stack.callback(setattr, self.updater, "mark", not_profiled)
            if step <= steps.timed:
                times = self._times[step] = PartTimes(self.world.device)
                stack.enter_context(_watched_gradients(self.updater.network, times))
                self.updater.mark = times.mark
                times.begin()
            elif self.world.is_main and step <= steps.ranked:
                self._operators.start()
                stack.callback(self._operators.stop)
                self.updater.mark = self._operators.mark
            elif self.world.is_main:
                self._counter = stack.enter_context(FlopCounter())
                stack.enter_context(self._counter.watching(self.model.blocks()))
                self.updater.mark = self._counter.mark
            yield

    def timed(self, step: int) -> bool:
        """Return False for a step that was slowed down."""
        return self.steps is None or not self.steps.timed < step <= self.steps.last

    def after(self, step: int, stats: LocalStepStats) -> None:
        """Take up a step that the monitor has recorded; after the last one write the tables. A collective then."""
        steps = self.steps
        if steps is None or not steps.first <= step <= steps.last:
            return
        if step <= steps.timed:
            self._totals[step], self._needed[step] = self.monitor.seconds, needed_flops(self.model, stats)
        if step < steps.last:
            return
        paused_at = self.monitor.pause()
        if self._counter is not None:
            self._flops = compare(self._counter, self.model, stats)
        every = self.world.gather_objects(self._of_rank())
        if self.world.is_main:
            self._write(every)
        self.steps, self.missing = None, False
        self.monitor.resume(paused_at)

    def end(self, step: int) -> None:
        """Say at the end of a run that it did not come to the end of its profile."""
        if self.missing and self.steps:
            self.monitor.log(
                f"WARNING: no profile: the run ends at step {step:,}, and the profile at step {self.steps.last:,}"
            )

    def _of_rank(self) -> dict[str, Any]:
        """Return means and 95th percentiles of this rank's parts, which sum to the mean step."""
        found = {step: times.seconds() for step, times in self._times.items()}
        rows = {part: [found[step].get(part, 0.0) for step in found] for part in PARTS}
        rows["rest"] = [self._totals[step] - sum(found[step].values()) for step in found]
        rows["step"] = [self._totals[step] for step in found]
        return {
            part: {"mean_s": float(np.mean(values)), "p95_s": float(np.percentile(values, 95))}
            for part, values in rows.items()
            if any(values)
        }

    def _write(self, every: Sequence[Mapping[str, Any]]) -> None:
        """Write profile.json and the table, and log it; what fails there stops no run."""
        steps, device = self.steps, self.world.device
        assert steps is not None
        peak = self.monitor.peak()
        needed = sum(self._needed.values()) / max(sum(self._totals.values()), 1e-9)
        found: dict[str, Any] = {
            "steps": [steps.first, steps.timed],
            "left_out": [steps.timed + 1, steps.last],
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "dtype": self.monitor.config.dtype,
            "sharded": self.updater.parallel.sharded is not None,
            "ranks": list(every),
            "operators": {
                "steps": steps.ranked - steps.timed,
                "micro_batches": self._operators.micro_batches,
                "complete": self._operators.events < MOST_EVENTS,
                "of": self._operators.ranked(),
            },
            "flops": None if self._flops is None else asdict(self._flops),
            "needed_flops_per_s": needed,
            "peak_flops_per_s": peak or None,
            "mfu": needed / peak if peak else None,
        }
        text = table(found)
        try:
            self.folder.mkdir(exist_ok=True)
            write_json(self.folder / "profile.json", found)
            write_text(self.folder / f"step-{steps.first}.txt", text + "\n")
        except OSError as error:
            self.monitor.log(f"WARNING: no profile in {self.folder}: {error.strerror or error}")
        self.monitor.log(text)


@dataclass(frozen=True)
class ProfiledSteps:
    """The steps of a profile, each the last of its kind."""

    first: int
    timed: int
    ranked: int
    last: int  # counted; as ranked if operations are not counted


def steps_of(config: TrainingConfig, plan: StepPlan) -> ProfiledSteps | None:
    """Return the steps that a run profiles. Raises ConfigError if it does not have them all."""
    if (chosen := config.profile) is None:
        return None
    timed = chosen.start + chosen.steps - 1
    ranked = timed + min(RANKED, chosen.steps)
    last = ranked + (not config.compile)  # a compiled step would be run uncompiled, and round otherwise
    if last > plan.steps:
        raise ConfigError(
            f"training.profile: profiles steps {chosen.start:,} to {last:,}, those that rank operators and count FLOPs "
            f"included, and the run has {plan.steps:,}. Give a smaller start or fewer steps."
        )
    return ProfiledSteps(chosen.start, timed, ranked, last)


@contextmanager
def _watched_gradients(network: nn.Module, times: PartTimes) -> Iterator[None]:
    """Tell the times of each gradient inside the block, of a network that exchanges them at the end of its backward."""
    if not isinstance(network, DistributedDataParallel):
        yield
        return
    hook: Callable[[torch.Tensor], None] = times.touch
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(hook) for parameter in parameters]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
