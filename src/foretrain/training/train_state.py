"""Where a run stands: everything of a checkpoint that is not a tensor."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from foretrain.training.schedule import Plateau

StoppedBy = Literal["max_steps", "patience", "max_minutes", "evaluation"]


@dataclass
class TrainState:
    """Counters and bests of a run. Small, plain and JSON: floats survive it bit for bit."""

    step: int = 0  # steps done
    updates: int = 0  # of them those that changed the weights
    offset: int = 0  # windows passed over by roll-backs
    bad_batches: int = 0  # skipped or rolled back, against the budget
    loss_ema: float | None = None  # training loss smoothed for the console
    lowest: float | None = None  # its minimum
    best: float | None = None  # validation
    best_step: int | None = None
    stale: int = 0  # validations since
    validation_due: bool = False  # a signal came before or during it
    ended: StoppedBy | None = None  # by its own measure; resuming does not go on
    scale: float | None = None  # float16 loss scale, None until the first step
    scale_streak: int = 0
    plateau: Plateau = field(default_factory=Plateau)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainState:
        """The Progress of to_json's dictionary."""
        return cls(**{**data, "plateau": Plateau(**data["plateau"])})

    def observe_loss(self, loss: float) -> None:
        """Take a step's training loss into the smoothed one (weight 0.05)."""
        self.loss_ema = loss if self.loss_ema is None else self.loss_ema + 0.05 * (loss - self.loss_ema)
        self.lowest = self.loss_ema if self.lowest is None else min(self.lowest, self.loss_ema)

    def observe_score(self, value: float, mode: Literal["min", "max"]) -> bool:
        """Take a validation metric; True when it is the best so far. NaN and infinities never are."""
        if math.isfinite(value) and (self.best is None or (value < self.best if mode == "min" else value > self.best)):
            self.best, self.best_step, self.stale = value, self.step, 0
            return True
        self.stale += 1
        return False
