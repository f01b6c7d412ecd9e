"""Learning-rate schedules (and the cycle of beta1) as pure functions: lr_at(config, peak, step, total_steps).

Steps count from 0; the last one is total_steps - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.errors import ConfigError

WARMUP = {"warmup_steps", "warmup_ratio", "warmup_start_ratio"}
USED_BY = {  # the settings that each kind uses; setting any other is an error
    "constant": WARMUP,
    "linear": WARMUP | {"min_lr_ratio"},
    "cosine": WARMUP | {"min_lr_ratio"},
    "one_cycle": {"pct_start", "div_factor", "final_div_factor", "cycle_momentum"},
    "wsd": WARMUP | {"min_lr_ratio", "decay_ratio", "decay_steps", "stable_steps", "decay_shape"},
    "plateau": WARMUP | {"min_lr_ratio", "factor", "patience"},
    "exponential": {"min_lr_ratio"},
}
MAX_BETA1, MIN_BETA1 = 0.95, 0.85  # beta1 at the lowest and at the highest rate of a cycle: torch's defaults


class ScheduleConfig(Section):
    """The learning-rate schedule.

    Warm-up is linear and reaches the peak at its last step; warmup_steps takes precedence over warmup_ratio.
    """

    # exponential: grows from min_lr_ratio x peak to the peak by the same factor in every step (a range test)
    kind: Literal["constant", "linear", "cosine", "one_cycle", "wsd", "plateau", "exponential"] = "constant"
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)  # share of all steps
    warmup_start_ratio: float = Field(default=0.0, ge=0, le=1)  # rate before the first step / peak
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)  # lowest rate / peak
    pct_start: float = Field(default=0.3, gt=0, lt=1)  # one_cycle: share of steps that rise
    div_factor: float = Field(default=25.0, ge=1)  # one_cycle: peak / first rate
    final_div_factor: float = Field(default=1e4, ge=1)  # one_cycle: first rate / last rate
    # one_cycle: Adam's beta1 falls from 0.95 to 0.85 while the rate rises and rises again while it falls, the default
    # of torch's OneCycleLR; the optimizer's own beta1 then has no effect
    cycle_momentum: bool = False
    decay_ratio: float = Field(default=0.2, gt=0, le=1)  # wsd: share of steps with decay, at the end
    # wsd: number of steps with decay, in place of decay_ratio. They start stable_steps after warm-up, and the rate then
    # stays at its lowest (stable_steps None = they are the last steps of the run).
    decay_steps: int | None = Field(default=None, ge=1)
    stable_steps: int | None = Field(default=None, ge=0)
    decay_shape: Literal["linear", "sqrt"] = "linear"  # wsd: the rate falls with the progress or with its square root
    factor: float = Field(default=0.5, gt=0, lt=1)  # plateau: the rate is multiplied by this
    patience: int = Field(default=3, ge=1)  # plateau: validations without a better metric before the rate is cut

    @model_validator(mode="after")
    def _reject_unused_keys(self) -> ScheduleConfig:
        unused = self.model_fields_set - {"kind"} - USED_BY[self.kind]
        unused = {name for name in unused if getattr(self, name) != type(self).model_fields[name].default}
        if unused:
            raise ValueError(f"schedule.{', '.join(sorted(unused))} has no effect on kind {self.kind!r}; remove it")
        if self.kind == "exponential" and not self.min_lr_ratio:
            raise ValueError("schedule.kind exponential grows from min_lr_ratio x peak; set min_lr_ratio above 0")
        if self.decay_steps is None and self.stable_steps is not None:
            raise ValueError("schedule.stable_steps has no effect without decay_steps; set decay_steps or remove it")
        if self.decay_steps is not None and self.decay_ratio != type(self).model_fields["decay_ratio"].default:
            raise ValueError("schedule.decay_ratio has no effect beside decay_steps; remove one")
        if not (self.warmup_steps or self.warmup_ratio) and self.warmup_start_ratio:
            raise ValueError("schedule.warmup_start_ratio has no effect without warm-up; set warmup_steps")
        return self


def lr_at(config: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    """Return the learning rate of `step` (0-based) of total_steps; for plateau without its cuts (see Plateau).

    one_cycle follows torch's OneCycleLR (cosine, two phases); wsd is the warmup-stable-decay schedule of MiniCPM (arXiv
    2404.06395). With decay_ratio the lowest rate would follow one step after the run; with decay_steps it is that of
    their last step. Toto's schedule is wsd with its numbers of steps and {warmup_start_ratio: min_lr / lr,
    min_lr_ratio: min_lr / lr, decay_shape: sqrt}.
    """
    step = min(max(step, 0), total_steps - 1)
    if config.kind == "one_cycle":
        return _one_cycle(config, peak, step, total_steps)
    if config.kind == "exponential":
        return peak * config.min_lr_ratio ** (1 - step / max(total_steps - 1, 1))
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        start = peak * config.warmup_start_ratio
        return start + (step + 1) / warmup * (peak - start)
    low = peak * config.min_lr_ratio
    if config.kind == "linear":
        return low + (peak - low) * (1 - (step - warmup) / max(total_steps - warmup, 1))
    if config.kind == "cosine":
        progress = (step - warmup) / max(total_steps - warmup, 1)
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.kind == "wsd":
        progress = min(max(_decay_progress(config, step, warmup, total_steps), 0.0), 1.0)
        return low + (1 - (math.sqrt(progress) if config.decay_shape == "sqrt" else progress)) * (peak - low)
    return peak


def _decay_progress(config: ScheduleConfig, step: int, warmup: int, total_steps: int) -> float:
    """Return the finished share of wsd's decay: at most 0 before it, at least 1 after it."""
    if config.decay_steps is None:
        decay = max(round(config.decay_ratio * total_steps), 1)
        return (step - (total_steps - decay)) / decay
    stable = total_steps - warmup - config.decay_steps if config.stable_steps is None else config.stable_steps
    return (step + 1 - warmup - stable) / config.decay_steps


def beta1_at(config: ScheduleConfig, step: int, total_steps: int) -> float | None:
    """Return Adam's beta1 of `step` (0-based) if the schedule cycles it, else None."""
    if not config.cycle_momentum:
        return None
    return _cycle(config, min(max(step, 0), total_steps - 1), total_steps, (MAX_BETA1, MIN_BETA1, MAX_BETA1))


def warmup_steps(config: ScheduleConfig, total_steps: int) -> int:
    """Return the number of warm-up steps. Raises ConfigError if the phases of the schedule are longer than the run."""
    steps = math.ceil(config.warmup_ratio * total_steps) if config.warmup_steps is None else config.warmup_steps
    if steps > total_steps:
        raise ConfigError(
            f"optimizer.schedule.warmup_steps: {steps} exceed the run's {total_steps} steps, so that the learning rate "
            "would never reach its peak. Shorten the warm-up or train longer."
        )
    if (phases := steps + (config.stable_steps or 0) + (config.decay_steps or 0)) > total_steps:
        raise ConfigError(
            f"optimizer.schedule: {steps} steps of warm-up, {config.stable_steps or 0} stable and {config.decay_steps} "
            f"of decay are {phases}, more than the run's {total_steps}, so that the decay would be incomplete. Shorten "
            "them or train longer."
        )
    return steps


def _one_cycle(config: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    first = peak / config.div_factor
    return _cycle(config, step, total_steps, (first, peak, first / config.final_div_factor))


def _cycle(config: ScheduleConfig, step: int, total_steps: int, values: tuple[float, float, float]) -> float:
    """Interpolate from the first value to the second over pct_start of the steps, then to the third."""
    first, middle, last = values
    turn = config.pct_start * total_steps - 1
    if step <= turn:
        return _cosine(first, middle, step / turn if turn > 0 else 1.0)
    return _cosine(middle, last, (step - turn) / max(total_steps - 1 - turn, 1e-12))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


@dataclass
class Plateau:
    """State of the plateau schedule, which depends on validation metrics; saved in every checkpoint."""

    scale: float = 1.0  # current rate / peak
    best: float | None = None
    stale: int = 0  # validations since the best one or the last cut

    def observe(self, config: ScheduleConfig, score: float) -> bool:
        """Record a validation score (lower is better; NaN and infinities never are); return True if the rate is cut."""
        if math.isfinite(score) and (self.best is None or score < self.best):
            self.best, self.stale = score, 0
            return False
        self.stale += 1
        if self.stale < config.patience:
            return False
        before = self.scale
        self.scale, self.stale = max(self.scale * config.factor, config.min_lr_ratio), 0
        return self.scale < before
