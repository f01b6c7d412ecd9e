"""Scores of a run's weights after a step: its own validation, then the evaluators that are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from foretrain.adapters.layers import merged
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.models.base import Trainable
from foretrain.training.checkpoint import CheckpointManager
from foretrain.training.ema import Ema
from foretrain.training.evaluators import Evaluators
from foretrain.training.interrupt import SignalHandler, StopRequests, ValidationInterrupted
from foretrain.training.memory import naming_what_to_lower, ways_of_validation
from foretrain.training.monitor import Monitor
from foretrain.training.optimizer import OptimizerConfig
from foretrain.training.parallel import Parallel
from foretrain.training.ranking import EvaluatorScore
from foretrain.training.settings import StepPlan, TrainingConfig
from foretrain.training.train_state import StoppedBy, TrainState


@dataclass(frozen=True)
class ValidationResult:
    """The metrics of a validation; stop=True ends the run (a pruned trial)."""

    metrics: dict[str, float]
    stop: bool = False


Evaluate = Callable[[Trainable, int], "ValidationResult | None"]
# (step, metrics of the validation and of the evaluations after it) -> whether the run ends here
OnValidation = Callable[[int, dict[str, float]], bool | None]


@dataclass
class WeightScores:
    """What is known of the weights as they are after a step."""

    metric: float | None = None  # best_metric of the validation
    scores: dict[str, EvaluatorScore] = field(default_factory=dict)  # by evaluator


@dataclass
class Scoring:
    """Scores the weights of a run after its steps, and records what was found.

    A signal breaks off what is under way: `train_state` then says what is due, and the resumed run starts with it.
    """

    model: Trainable
    config: TrainingConfig
    optimizer: OptimizerConfig
    plan: StepPlan
    world: World
    ema: Ema | None
    parallel: Parallel
    signals: SignalHandler
    monitor: Monitor
    checkpoints: CheckpointManager
    train_state: TrainState
    weights: WeightScores  # of the checkpoint that the run resumes from, at first
    evaluate: Evaluate | None
    evaluators: Evaluators
    on_validation: OnValidation | None
    settings: Mapping[str, Any]  # the run's whole config, dumped
    shapes: bool  # whether blocks were compiled for the shapes of micro-batches
    last_metrics: dict[str, float] = field(default_factory=dict)  # of the last validation since this start
    last_scores: dict[str, float] = field(default_factory=dict)  # the last score by each evaluator since this start

    def run(self, stops: StopRequests) -> tuple[StoppedBy | None, StopRequests]:
        """Do what is due after a step: the validation every validate_every steps and at the end, evaluators likewise.

        Returns why the run ends here (None if it continues) and the stop requests including those of new signals.
        """
        state, step = self.train_state, self.train_state.step
        if state.validation_due or state.evaluations_due:
            validation, names = state.validation_due, self.evaluators.known(state.evaluations_due)
        else:
            self.weights.metric, self.weights.scores = None, {}
            validation = step == self.plan.steps or self.plan.is_due(self.config.validate_every, step)
            names = self.evaluators.due(step, self.plan)
        state.validation_due, state.evaluations_due = validation and self.evaluate is not None, names
        if not (state.validation_due or names):
            return state.ended, stops
        if stops.interrupt or stops.terminate:  # time may be short: the resumed run starts with what is due
            return state.ended, stops
        paused_at, found = self.monitor.pause(), dict[str, float]()
        self.model.eval()
        try:
            with torch.no_grad(), self._whole_weights(), self._no_recompilation():
                self._do_what_is_due(found)
        except ValidationInterrupted:
            everyone = self.world.gather_objects(self.signals.flags)
            stops = StopRequests(*(sum(flags) for flags in zip(*everyone, strict=True)))
        finally:
            self.model.train()
            self.monitor.resume(paused_at)
        if self.evaluators.rankings:
            self.world.on_main(self.evaluators.write_history)
        if found and self.on_validation is not None and self._hook_stops(step, found):
            state.ended = state.ended or "evaluation"
        return state.ended, stops

    def _hook_stops(self, step: int, found: dict[str, float]) -> bool:
        """Return whether the hook ends the run. It is called on rank 0, and its errors are raised on all."""
        hook = self.on_validation
        return hook is not None and self.world.on_main(lambda: bool(hook(step, dict(found))))

    def _do_what_is_due(self, found: dict[str, float]) -> None:
        """Validate, then run the evaluators; add their metrics to `found`. What is done is due no more."""
        state = self.train_state
        if state.validation_due and self.evaluate is not None:
            self.world.watch.tick("validation")
            ways = naming_what_to_lower(self.world, lambda: ways_of_validation(self.settings), " in a validation")
            with ways, self._interruptible():
                result = self.evaluate(self.model, state.step)
            state.validation_due = False
            if result is not None:
                state.ended = self._record_validation(result)
                found |= result.metrics
        state.validation_due = False
        for name in list(state.evaluations_due):
            evaluation, seconds = self.evaluators.run(name, self.model, state.step, self._interruptible)
            state.evaluations_due = state.evaluations_due[1:]
            score, best = self.evaluators.score(name, evaluation), False
            if score is not None:
                self.checkpoints.wait()  # its scores count too
                mine = {name: score}
                best = self.world.on_main(lambda mine=mine: self.checkpoints.is_among_best(None, mine))
                self.weights.scores[name], self.last_scores[name] = score, score.value
            self.evaluators.record(name, state.step, evaluation, seconds, self.monitor, best=best)
            found |= evaluation.metrics

    @contextmanager
    def _whole_weights(self) -> Iterator[None]:
        """Give the model the weights that a release would have: averaged, gathered, with its adapter merged."""
        with self.ema.swapped() if self.ema else nullcontext(), self.parallel.unsharded(), merged(self.model):
            yield

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let a signal break off the block.

        A single process may drop its evaluation anywhere, one of several only what it does on its own.
        """
        alone = self.world.size == 1
        with (
            self.signals.interruptible(alone),
            nullcontext() if alone else self.world.watch.broken_off_by(self.signals.interruptible),
        ):
            yield

    def _no_recompilation(self) -> AbstractContextManager[object]:
        """Let blocks that were compiled for the shapes of micro-batches run eagerly for any other shape."""
        if not self.config.compile or not self.shapes:
            return nullcontext()
        return torch.compiler.set_stance("eager_on_recompile")

    def _record_validation(self, result: ValidationResult) -> StoppedBy | None:
        """Update best metric, early stopping and plateau schedule; return why the run ends here, if it does."""
        if self.config.best_metric not in result.metrics:
            raise ConfigError(
                f"training.best_metric: {self.config.best_metric!r} is not among the validation's metrics: "
                f"{', '.join(result.metrics) or 'none'}."
            )
        score = self.weights.metric = float(result.metrics[self.config.best_metric])
        self.last_metrics = dict(result.metrics)
        best = self.train_state.observe_score(score, self.config.mode)
        self.monitor.validation(self.train_state.step, self.last_metrics, best=best)
        if self.optimizer.schedule.kind == "plateau":
            towards = score if self.config.mode == "min" else -score
            if self.train_state.plateau.observe(self.optimizer.schedule, towards):
                self.monitor.log(f"plateau: learning rate now {self.train_state.plateau.scale:g} of its peak")
        if result.stop:
            return "evaluation"
        if self.config.patience and self.train_state.stale >= self.config.patience:
            return "patience"
        return None
