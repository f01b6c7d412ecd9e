"""Evaluators of toy runs: their scores go up and down with the weights, so that the best come in no order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foretrain.training.evaluators import Evaluation
from foretrain.training.ranking import Ranking


def digits(model: Any, shift: float = 1e3) -> float:
    """A number of the weights alone, as good as random."""
    return (sum(p.double().abs().sum().item() for p in model.parameters()) * shift) % 1


@dataclass
class Rhythm:
    """An evaluator that scores by a function of (model, step)."""

    name: str
    every: Any
    function: Callable[[Any, int], Any] = lambda model, step: digits(model)
    keep: int = 0
    mode: Any = "min"
    of: str = "toy"
    max_minutes: float | None = None
    calls: list[int] = field(default_factory=list)

    @property
    def ranking(self) -> Ranking:
        return Ranking(self.of, self.keep, self.mode)

    def __call__(self, model: Any, step: int, until: float | None) -> Evaluation:
        self.calls.append(step)
        found = self.function(model, step)
        return found if isinstance(found, Evaluation) else Evaluation({f"benchmark/{self.name}/avg_wql": found}, found)


def two(function: Callable[[Any, int], Any] | None = None) -> list[Rhythm]:
    """A quick evaluator and a rare one, of which `function` is the second's."""
    quick = Rhythm("quick", 2, keep=2)
    return [quick, Rhythm("rare", 5, function or (lambda model, step: digits(model, 1e4)), keep=1, mode="max")]


def scores_of(out: Path) -> dict[str, dict[int, float]]:
    """Every score in metrics.jsonl: evaluator -> step -> score."""
    found: dict[str, dict[int, float]] = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        if line["kind"] == "evaluation" and line["state"] == "done":
            assert line["step"] not in found.setdefault(line["evaluator"], {})
            found[line["evaluator"]][line["step"]] = line["score"]
    return found


def ranked_steps(scores: dict[int, float], keep: int, mode: str) -> list[int]:
    """The steps of the best scores, by all of them at once, best first."""
    sign = 1 if mode == "min" else -1
    return sorted(scores, key=lambda step: (sign * scores[step], step))[:keep]


def oracle(scores: dict[str, dict[int, float]], evaluators: list[Rhythm]) -> set[int]:
    """The steps whose checkpoints the evaluators of a run retain."""
    return set().union(*(ranked_steps(scores[one.name], one.keep, one.mode) for one in evaluators))
