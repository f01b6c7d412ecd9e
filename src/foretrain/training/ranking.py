"""How metrics and scores rank checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class EvaluatorScore:
    """The score of a checkpoint's weights by an evaluator."""

    value: float
    of: str  # hash of what was scored, and how; scores of another one are not compared


@dataclass(frozen=True)
class Ranking:
    """How the scores of an evaluator rank checkpoints."""

    of: str  # as in its scores
    keep: int = 0  # the number of the best that are retained
    mode: Mode = "min"

    def value(self, evaluator: str, scores: Mapping[str, EvaluatorScore]) -> float | None:
        """Return the score by an evaluator among those by all, None if there is none or it is of something else."""
        score = scores.get(evaluator)
        return score.value if score is not None and score.of == self.of else None


def ranked(rows: Iterable[tuple[float | None, int, T]], mode: Mode) -> list[T]:
    """Return what has a value, of rows of (value, step, what), best first; of equal ones the earlier comes first."""
    sign = 1 if mode == "min" else -1
    valued = [(sign * value, step, what) for value, step, what in rows if value is not None]
    return [what for _, _, what in sorted(valued, key=lambda row: row[:2])]


def enters(value: float | None, best: Sequence[float | None], keep: int, mode: Mode) -> bool:
    """Return True if the value of a later step would be among the best `keep`; `best`: those of today, best first."""
    if keep == 0 or value is None or not math.isfinite(value):
        return False
    worst = best[-1] if len(best) >= keep else None
    return worst is None or (value < worst if mode == "min" else value > worst)
