"""TrainState: the counters and best values of a run, stored in state.json of a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from foretrain.training.schedule import Plateau

StoppedBy = Literal["max_steps", "patience", "max_minutes", "evaluation", "alarm"]


@dataclass(frozen=True)
class RunTotals:
    """What a run took over all its starts, apart from steps that a kill undid; state.json of a checkpoint holds it.

    A run that an older version began counts from its first resume by this one.
    """

    steps: int = 0
    windows: int = 0
    seconds: float = 0.0  # from the start of each loop to its end
    paused: float = 0.0  # seconds of these in validations, checkpoints and warming up
    untimed_steps: int = 0  # of the steps those under a profiler, which slows them down
    untimed_windows: int = 0
    untimed_seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """Return the entry "run" of final_metrics.json; rates are those of training, without the pauses and without
        steps under a profiler: None if there are no others."""
        training = max(self.seconds - self.paused - self.untimed_seconds, 1e-9)
        timed = self.steps > self.untimed_steps
        return {
            "steps": self.steps,
            "windows": self.windows,
            "seconds": round(self.seconds, 3),
            "validation_and_checkpoint_seconds": round(self.paused, 3),
            **({"untimed_steps": self.untimed_steps} if self.untimed_steps else {}),
            "steps_per_s": (self.steps - self.untimed_steps) / training if timed else None,
            "windows_per_s": (self.windows - self.untimed_windows) / training if timed else None,
        }


@dataclass
class TrainState:
    """Counters and best values of a run. JSON preserves its floats bit for bit."""

    step: int = 0  # number of finished steps
    updates: int = 0  # number of steps that changed the weights
    offset: int = 0  # number of windows (of micro-batches, with a token budget) skipped by rollbacks
    bad_batches: int = 0  # number of batches skipped or rolled back, limited by skip_budget
    loss_ema: float | None = None  # smoothed training loss, for the console
    lowest: float | None = None  # minimum of loss_ema, for the console of runs without validations
    best: float | None = None  # best validation metric
    best_step: int | None = None
    stale: int = 0  # validations since best_step
    validation_due: bool = False  # a signal postponed this step's validation
    evaluations_due: list[str] = field(default_factory=list)  # evaluators of this step that it postponed
    ended: StoppedBy | None = None  # why the run finished; a resumed run does not continue then
    scale: float | None = None  # float16 loss scale, None until the first step
    scale_streak: int = 0  # updates without overflow since the scale changed
    epoch_loss: float = 0.0  # sum of the losses of the steps of this epoch that changed the weights
    epoch_steps: int = 0  # their number
    plateau: Plateau = field(default_factory=Plateau)

    def to_json(self) -> dict[str, Any]:
        """Return the state as a dictionary of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainState:
        """Build the state from the dictionary of to_json."""
        return cls(**{**data, "plateau": Plateau(**data["plateau"])})

    def observe_loss(self, loss: float) -> None:
        """Update the smoothed training loss (weight 0.05) and the sum over the epoch with a step's loss."""
        self.epoch_loss, self.epoch_steps = self.epoch_loss + loss, self.epoch_steps + 1
        self.loss_ema = loss if self.loss_ema is None else self.loss_ema + 0.05 * (loss - self.loss_ema)
        self.lowest = self.loss_ema if self.lowest is None else min(self.lowest, self.loss_ema)

    def end_epoch(self) -> tuple[float | None, int]:
        """Return the mean loss of the epoch's steps (None without one) and their number; start the next epoch."""
        steps, total = self.epoch_steps, self.epoch_loss
        self.epoch_loss, self.epoch_steps = 0.0, 0
        return (total / steps if steps else None), steps

    def observe_score(self, value: float, mode: Literal["min", "max"]) -> bool:
        """Record a validation metric; return True if it is the best so far. NaN and infinities never are."""
        if math.isfinite(value) and (self.best is None or (value < self.best if mode == "min" else value > self.best)):
            self.best, self.best_step, self.stale = value, self.step, 0
            return True
        self.stale += 1
        return False
