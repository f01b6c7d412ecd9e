"""Learning rates (and where asked for, beta1) as pure functions of the step: lr_at(config, peak, step, total_steps).

Step s is the index of the update, from 0; the last one is total_steps - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.errors import ConfigError

WARMUP = {"warmup_steps", "warmup_ratio", "warmup_start_ratio"}
USED_BY = {  # which settings rule which kind; one set for a kind that does not read it is an error
    "constant": WARMUP,
    "linear": WARMUP | {"min_lr_ratio"},
    "cosine": WARMUP | {"min_lr_ratio"},
    "one_cycle": {"pct_start", "div_factor", "final_div_factor", "cycle_momentum"},
    "wsd": WARMUP | {"min_lr_ratio", "decay_ratio", "decay_steps", "stable_steps", "decay_shape"},
    "plateau": WARMUP | {"min_lr_ratio", "factor", "patience"},
}
CALM, EAGER = 0.95, 0.85  # beta1 at the lowest and at the highest rate of a cycle, torch's defaults


class ScheduleConfig(Section):
    """How the learning rate moves.

    Warm-up rises linearly to the peak, which its last step uses; warmup_steps wins over warmup_ratio.
    """

    kind: Literal["constant", "linear", "cosine", "one_cycle", "wsd", "plateau"] = "constant"
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)  # share of all steps
    warmup_start_ratio: float = Field(default=0.0, ge=0, le=1)  # what warm-up rises from / peak; no step uses it itself
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)  # lowest rate / peak
    pct_start: float = Field(default=0.3, gt=0, lt=1)  # one_cycle: share of steps that rise
    div_factor: float = Field(default=25.0, ge=1)  # one_cycle: peak / first rate
    final_div_factor: float = Field(default=1e4, ge=1)  # one_cycle: first rate / last rate
    # one_cycle: Adam's beta1 falls from 0.95 to 0.85 while the rate rises and comes back while it falls, as torch's
    # OneCycleLR does unless told otherwise; the optimizer's own beta1 then has no effect
    cycle_momentum: bool = False
    decay_ratio: float = Field(default=0.2, gt=0, le=1)  # wsd: share of steps that fall, at the end
    # wsd: steps that fall, in place of a share; they begin stable_steps after warm-up, and the rate stays at its lowest
    # after them (stable_steps None = they are the last ones)
    decay_steps: int | None = Field(default=None, ge=1)
    stable_steps: int | None = Field(default=None, ge=0)
    decay_shape: Literal["linear", "sqrt"] = "linear"  # wsd: the fall so far is the progress, or its square root
    factor: float = Field(default=0.5, gt=0, lt=1)  # plateau: the rate is multiplied by this
    patience: int = Field(default=3, ge=1)  # plateau: after so many validations without a better metric

    @model_validator(mode="after")
    def _only_what_counts(self) -> ScheduleConfig:
        idle = self.model_fields_set - {"kind"} - USED_BY[self.kind]
        idle = {name for name in idle if getattr(self, name) != type(self).model_fields[name].default}
        if idle:
            raise ValueError(f"schedule.{', '.join(sorted(idle))} has no effect on kind {self.kind!r}; remove it")
        if self.decay_steps is None and self.stable_steps is not None:
            raise ValueError("schedule.stable_steps has no effect without decay_steps, which follow them")
        if self.decay_steps is not None and self.decay_ratio != type(self).model_fields["decay_ratio"].default:
            raise ValueError("schedule.decay_ratio has no effect beside decay_steps; remove one")
        if not (self.warmup_steps or self.warmup_ratio) and self.warmup_start_ratio:
            raise ValueError("schedule.warmup_start_ratio has no effect without warm-up; set warmup_steps")
        return self


def lr_at(config: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    """Learning rate of update `step` (0-based) of total_steps; of plateau its warm-up and peak only (see Plateau).

    one_cycle follows torch's OneCycleLR (cosine, two phases); wsd is the warmup-stable-decay schedule of MiniCPM (arXiv
    2404.06395). A decay_ratio would be at its lowest rate one step after the run, decay_steps are at their last one,
    so that Toto's own schedule is {warmup_start_ratio and min_lr_ratio: min_lr / lr, decay_shape: sqrt} with its steps.
    """
    step = min(max(step, 0), total_steps - 1)
    if config.kind == "one_cycle":
        return _one_cycle(config, peak, step, total_steps)
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
    """How much of wsd's decay lies behind: 0 or less before it, 1 or more after it."""
    if config.decay_steps is None:
        fall = max(round(config.decay_ratio * total_steps), 1)
        return (step - (total_steps - fall)) / fall
    stable = total_steps - warmup - config.decay_steps if config.stable_steps is None else config.stable_steps
    return (step + 1 - warmup - stable) / config.decay_steps


def beta1_at(config: ScheduleConfig, step: int, total_steps: int) -> float | None:
    """Adam's beta1 of update `step` (0-based) where the schedule cycles it, None where the optimizer's own holds."""
    if not config.cycle_momentum:
        return None
    return _cycle(config, min(max(step, 0), total_steps - 1), total_steps, (CALM, EAGER, CALM))


def warmup_steps(config: ScheduleConfig, total_steps: int) -> int:
    """Steps of warm-up. Raises ConfigError when a run has no room for them, or for what wsd lets follow."""
    steps = math.ceil(config.warmup_ratio * total_steps) if config.warmup_steps is None else config.warmup_steps
    if steps > total_steps:
        raise ConfigError(
            f"optimizer.schedule.warmup_steps: {steps} exceed the run's {total_steps} steps, so that the learning rate "
            "would never reach its peak. Shorten the warm-up or train longer."
        )
    if (phases := steps + (config.stable_steps or 0) + (config.decay_steps or 0)) > total_steps:
        raise ConfigError(
            f"optimizer.schedule: {steps} steps of warm-up, {config.stable_steps or 0} stable and {config.decay_steps} "
            f"of decay are {phases}, more than the run's {total_steps}, so that the learning rate would not come down. "
            "Shorten them or train longer."
        )
    return steps


def _one_cycle(config: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    first = peak / config.div_factor
    return _cycle(config, step, total_steps, (first, peak, first / config.final_div_factor))


def _cycle(config: ScheduleConfig, step: int, total_steps: int, values: tuple[float, float, float]) -> float:
    """From the first value to the second over pct_start of the steps, then to the third."""
    first, turn, last = values
    top = config.pct_start * total_steps - 1
    if step <= top:
        return _cosine(first, turn, step / top if top > 0 else 1.0)
    return _cosine(turn, last, (step - top) / max(total_steps - 1 - top, 1e-12))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


@dataclass
class Plateau:
    """State of the plateau schedule, the one kind that depends on what was measured; saved in every checkpoint."""

    scale: float = 1.0
    best: float | None = None
    stale: int = 0

    def observe(self, config: ScheduleConfig, score: float) -> bool:
        """Take a validation score (lower is better, NaN and infinities never are); True when the rate was cut."""
        if math.isfinite(score) and (self.best is None or score < self.best):
            self.best, self.stale = score, 0
            return False
        self.stale += 1
        if self.stale < config.patience:
            return False
        before = self.scale
        self.scale, self.stale = max(self.scale * config.factor, config.min_lr_ratio), 0
        return self.scale < before
