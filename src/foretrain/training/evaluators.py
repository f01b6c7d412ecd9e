"""Evaluators of a run: scores beside its validation, at rhythms of their own, by which the best checkpoints are kept.

What an evaluator does is its own affair: this module decides which one is due, runs it so that no failure of it ends
the run, and records what it found in metrics.jsonl, TensorBoard, eval_results/ and validation_history.csv.
"""

from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from foretrain.atomic import remove_leftovers, replacing_file, write_json
from foretrain.distributed.world import World, of_lost_ranks
from foretrain.errors import ConfigError
from foretrain.models.base import Trainable
from foretrain.printing import duration
from foretrain.training.interrupt import ValidationInterrupted
from foretrain.training.journal import read_journal
from foretrain.training.monitor import Monitor
from foretrain.training.ranking import EvaluatorScore, Ranking
from foretrain.training.settings import StepPlan

FOLDER, HISTORY = "eval_results", "validation_history.csv"
SCHEMA = 1  # of the files in FOLDER
_FILE = re.compile(r"step-(\d+)-.+\.json")
_OWN = ("step", "kind", "epoch", "evaluator", "state", "problem", "score", "best")  # keys of lines that are no metrics

State = Literal["done", "failed", "out of time"]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator found."""

    metrics: dict[str, float]  # by the tag of TensorBoard, such as benchmark/lite/avg_wql
    score: float | None  # ranks checkpoints; None = there is none
    state: State = "done"
    problem: str = ""  # of a state that is not done, in one line
    summary: str = ""  # for the log, such as the metrics that matter
    details: dict[str, Any] = field(default_factory=dict)  # for its file, JSON types


class Evaluator(Protocol):
    """Scores weights during training.

    All ranks call it together, with the model in eval mode and, with ema_decay, with averaged weights, and all of them
    return or raise alike: between its collectives nothing may raise on one rank alone. Its work of one rank between two
    collectives stands in `with world.watch.own_work():`, where a signal raises ValidationInterrupted.
    """

    @property
    def name(self) -> str:
        """What records call it; letters, digits, and `.`, `_`, `-` within."""
        ...

    @property
    def every(self) -> int | Literal["epoch"]:
        """Steps from one evaluation to the next, or "epoch"."""
        ...

    @property
    def max_minutes(self) -> float | None:
        """Minutes that an evaluation may take; None = as many as deadlines.evaluation allows."""
        ...

    @property
    def ranking(self) -> Ranking:
        """How its scores rank checkpoints."""
        ...

    def __call__(self, model: Trainable, step: int, until: float | None) -> Evaluation:
        """Score a model; give up at `until` (time.monotonic()), with the state "out of time"."""
        ...


class Evaluators:
    """The evaluators of a run, and the records of what they found.

    Raises ConfigError for names that are used twice.
    """

    def __init__(self, evaluators: Sequence[Evaluator], world: World, output_dir: Path) -> None:
        names = [evaluator.name for evaluator in evaluators]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"evaluators: two of them are called {twice[0]!r}; give each a name of its own.")
        self._by_name = {evaluator.name: evaluator for evaluator in evaluators}
        self.world, self.output_dir = world, output_dir

    @property
    def rankings(self) -> dict[str, Ranking]:
        """How the scores of each rank checkpoints."""
        return {name: evaluator.ranking for name, evaluator in self._by_name.items()}

    def check(self, plan: StepPlan) -> None:
        """Raise ConfigError if one is due after every epoch of a run that counts none."""
        for name, evaluator in self._by_name.items():
            if evaluator.every == "epoch" and plan.epoch_length is None:
                raise ConfigError(
                    f"evaluators: {name}: every: epoch, but this run counts steps alone. Give a number of steps, or "
                    "training.epochs in place of max_steps."
                )

    def due(self, step: int, plan: StepPlan) -> list[str]:
        """Return the names of those that are due after a step; after the last one all are."""
        last = step == plan.steps
        return [name for name, evaluator in self._by_name.items() if last or plan.is_due(evaluator.every, step)]

    def known(self, names: Sequence[str]) -> list[str]:
        """Return those of the names that the run has an evaluator of, in its own order."""
        return [name for name in self._by_name if name in names]

    def start(self, step: int) -> None:
        """Start after a step: delete what was found at later ones, and write the history from metrics.jsonl anew.

        Call it on rank 0, once metrics.jsonl ends at that step.
        """
        folder = self.output_dir / FOLDER
        if folder.is_dir():
            remove_leftovers(folder)
            for path in sorted(folder.iterdir()):
                if (found := _FILE.fullmatch(path.name)) and int(found[1]) > step:
                    path.unlink()
        self.write_history()

    def write_history(self) -> None:
        """Write validation_history.csv of a run that has evaluators anew. Call it on rank 0."""
        if self._by_name:
            write_history(self.output_dir)

    def run(
        self, name: str, model: Trainable, step: int, interruptible: Callable[[], AbstractContextManager[object]]
    ) -> tuple[Evaluation, float]:
        """Return what an evaluator finds in a model, or why it finds nothing, and the seconds that it took.

        interruptible: a context in which a signal may break it off. Whatever it raises on one rank is its failure on
        all of them, but for a collective that has lost a rank.
        """
        evaluator, began = self._by_name[name], time.monotonic()
        until = None if evaluator.max_minutes is None else began + 60 * evaluator.max_minutes
        self.world.watch.tick(f"evaluator {name}")
        problem, broken_off, found = "", False, Evaluation({}, None)
        try:
            with interruptible():
                found = evaluator(model, step, until)
        except Exception as error:  # any: a failing evaluator must not end the run
            if of_lost_ranks(error):
                raise
            problem = " ".join(f"{type(error).__name__}: {error}".split())
        except ValidationInterrupted:
            if self.world.size == 1:
                raise
            broken_off = True
        answers = self.world.gather_objects((broken_off, problem))
        if any(broken for broken, _ in answers):
            raise ValidationInterrupted
        if first := next((text for _, text in answers if text), ""):
            found = Evaluation({}, None, "failed", first)
        return found, time.monotonic() - began

    def record(self, name: str, step: int, found: Evaluation, seconds: float, monitor: Monitor, *, best: bool) -> None:
        """Record what an evaluator found.

        best: whether the checkpoint of this step will be among its best. A collective: all ranks raise errors of the
        disk.
        """
        facts = {"evaluator": name, "state": found.state, "seconds": seconds, "score": found.score, "best": best}
        facts |= {"problem": found.problem} if found.problem else {}

        def write() -> None:
            folder = self.output_dir / FOLDER
            folder.mkdir(exist_ok=True)
            tree = {"schema": SCHEMA, "step": step, **facts, "metrics": found.metrics, **found.details}
            with replacing_file(folder / f"step-{step:08d}-{name}.json") as scratch:
                write_json(scratch, _plain(tree))
            monitor.evaluation(step, facts, found.metrics, self._line(name, step, found, seconds, best))

        self.world.on_main(write)

    def score(self, name: str, found: Evaluation) -> EvaluatorScore | None:
        """Return the score of an evaluation that is complete and finite, else None."""
        if found.state != "done" or found.score is None or not math.isfinite(found.score):
            return None
        return EvaluatorScore(found.score, self._by_name[name].ranking.of)

    def _line(self, name: str, step: int, found: Evaluation, seconds: float, best: bool) -> str:
        """Return the line of the log on an evaluation."""
        evaluator = self._by_name[name]
        if found.state != "done":
            limit = f" (max_minutes: {evaluator.max_minutes:g})" if found.state == "out of time" else ""
            return (
                f"WARNING: evaluator {name} at step {step:,}: {found.state}{limit} after {duration(seconds)}: "
                f"{found.problem.rstrip('.')}. It ranks no checkpoint at this step; the run goes on."
            )
        among = f" | among the best {evaluator.ranking.keep}" if best else ""
        over = ""
        if evaluator.max_minutes is not None and seconds > 60 * evaluator.max_minutes:
            over = f", longer than max_minutes ({evaluator.max_minutes:g}) allows, and complete"
        text = f"evaluator {name} at step {step:,}: {found.summary or _number(found.score)}{among}"
        return f"{text} | {duration(seconds)}{over}"


def write_history(output_dir: Path) -> None:
    """Write validation_history.csv of a run from its metrics.jsonl: a row for each validation and evaluation.

    Columns: step, epoch, evaluator (empty for the run's own validation), state, then every metric of any row.
    """
    rows = [line for line in read_journal(output_dir / "metrics.jsonl") if line.get("kind") in KINDS]
    metrics = list(dict.fromkeys(key for row in rows for key in row if key not in _OWN))
    with (
        replacing_file(output_dir / HISTORY) as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "epoch", "evaluator", "state", "score", "best", *metrics])
        for row in rows:
            state = row.get("state", "done")
            first = [row["step"], row.get("epoch"), row.get("evaluator"), state, row.get("score"), row.get("best")]
            writer.writerow([*first, *(row.get(name) for name in metrics)])


KINDS = ("validation", "evaluation")  # of lines of metrics.jsonl


def newest_evaluations(output_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the newest line of metrics.jsonl of each evaluator, by its name, without what the line is of."""
    found = dict[str, dict[str, Any]]()
    for line in read_journal(output_dir / "metrics.jsonl"):
        if line.get("kind") == "evaluation":
            facts = {key: line[key] for key in ("step", "state", "score", "seconds") if key in line}
            metrics = {key: value for key, value in line.items() if key not in (*_OWN, "seconds")}
            found[line["evaluator"]] = {**facts, "metrics": metrics}
    return found


def _plain(value: Any) -> Any:
    """Return JSON types, with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "no score" if value is None else f"score {value:.4f}"
