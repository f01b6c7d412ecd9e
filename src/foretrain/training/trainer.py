"""The training loop: step, log, validate, checkpoint."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import foretrain
from foretrain.adapters.layers import adapter_facts
from foretrain.config import Section
from foretrain.distributed.world import World, of_lost_ranks
from foretrain.errors import ConfigError, TrainingError
from foretrain.models.base import Trainable
from foretrain.models.types import WindowSource
from foretrain.printing import duration
from foretrain.training import checkpoint
from foretrain.training.ema import Ema
from foretrain.training.ending import (
    describe_end,
    describe_release,
    describe_steps,
    describe_totals,
    disk_errors,
    step_times,
)
from foretrain.training.evaluators import Evaluator, Evaluators
from foretrain.training.interrupt import NO_STOPS, Interrupted, SignalHandler, StopRequests
from foretrain.training.journal import read_journal
from foretrain.training.launch import record_start, save_config
from foretrain.training.line_stats import LineStats
from foretrain.training.loader import BatchIterator, BatchLoader, describe_stream, plan_of
from foretrain.training.lock import locked
from foretrain.training.manifest import read_info, read_run_state
from foretrain.training.memory import naming_what_to_lower, ways_of_training
from foretrain.training.micro_batch import find
from foretrain.training.monitor import Monitor
from foretrain.training.nonfinite import save_for_replay
from foretrain.training.offload import offload_note, offloads
from foretrain.training.optimizer import OptimizerConfig, build_optimizer, check_optimizer
from foretrain.training.optimizer_state import state_numbers
from foretrain.training.parallel import Parallel, parallelism, parallelize, shards, unwrap
from foretrain.training.profile import StepProfiler, steps_of
from foretrain.training.release import drop_evaluation, saved_promotion, write_records, write_release
from foretrain.training.resume import changes_since, checkpoint_to_resume
from foretrain.training.run_record import JOURNAL
from foretrain.training.schedule import beta1_at, lr_at, warmup_steps
from foretrain.training.scoring import Evaluate, OnValidation, Scoring, WeightScores
from foretrain.training.scoring import ValidationResult as ValidationResult
from foretrain.training.settings import TrainingConfig
from foretrain.training.sinks import Sink
from foretrain.training.step import LocalStepStats, StepResult, Updater
from foretrain.training.train_state import RunTotals, StoppedBy, TrainState

if TYPE_CHECKING:
    from rich.console import Console

AFTER_ERROR, SOON = 60.0, 1.0  # seconds that an aborted run waits for the checkpoint that it was writing


@dataclass(frozen=True)
class TrainResult:
    """The result of a run."""

    step: int
    loss: float | None  # training loss of the last step since this start or resume
    best: float | None  # best_metric of the best validation
    best_step: int | None
    release_step: int  # step of the weights in release/ and in the model in memory
    stopped_by: StoppedBy
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation since this start or resume
    scores: dict[str, float] = field(default_factory=dict)  # the last by each evaluator since then
    facts: dict[str, Any] = field(default_factory=dict)  # what release.json says of these weights, or would


class Trainer:
    """Trains one model in one run folder.

    Args:
        source: anything with windows(first, count), fingerprint and epoch_length; with a token budget a TrainingSource.
        evaluate: evaluate(model, step) validates. All ranks call it together, with the model in eval mode and, with
            ema_decay, with averaged weights.
        resume: None starts a new run (an output_dir that holds a run is an error), "auto" resumes from the newest
            intact checkpoint or starts, a path resumes from that checkpoint.
        evaluators: they score the weights beside validation, each at its own rhythm.
        on_validation: called on rank 0 as (step, metrics) after a validation and the evaluators that are due with it;
            True ends the run.
        resolved_config: a dump of `schema`, saved in checkpoints and compared on resume.
        schema: the config class, whose fields declare which of them may change on resume.
        facts: entries of release.json (hashes of parents, date range).
        notes: lines at the start of the log.
        units: units of the metrics that evaluate returns.
        sinks: they take what metrics.jsonl has (sinks.py); one that fails is dropped with a line in the log.
        before_release: called on every rank before the release is written; its errors end the run without one.
    """

    def __init__(
        self,
        model: Trainable,
        source: WindowSource,
        training: TrainingConfig,
        optimizer: OptimizerConfig,
        *,
        output_dir: str | Path,
        seed: int,
        world: World | None = None,
        evaluate: Evaluate | None = None,
        evaluators: Sequence[Evaluator] = (),
        on_validation: OnValidation | None = None,
        resolved_config: dict[str, Any] | None = None,
        resume: Literal["auto"] | str | Path | None = None,
        console: Console | None = None,
        facts: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
        before_release: Callable[[], None] | None = None,
        schema: type[Section] = Section,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.model, self.source, self.config, self.optimizer_config = model, source, training, optimizer
        self.output_dir, self.seed, self.world = Path(output_dir), seed, world or World()
        self.loader = BatchLoader(model, source, training, self.world)
        self.evaluate, self.resolved_config, self.resume = evaluate, resolved_config or {}, resume
        self.console, self.facts, self.notes, self.units = console, facts or {}, notes, units or {}
        self.schema, self.before_release, self.on_validation = schema, before_release, on_validation
        self.sinks = tuple(sinks)
        self.evaluators = Evaluators(evaluators, self.world, self.output_dir)
        if evaluate is None and (training.validate_every or optimizer.schedule.kind == "plateau"):
            raise ConfigError(
                "training.validate_every and the plateau schedule need something to validate on, and this run has "
                "nothing: configure evaluation, or remove them."
            )
        if optimizer.schedule.kind == "plateau" and not training.validate_every:
            raise ConfigError("optimizer.schedule.kind: plateau follows validations; set training.validate_every.")
        shards(training, model, self.world)  # raises for a number that does not divide the processes
        self.offloads = offloads(training, self.world.device)
        check_optimizer(model, optimizer, parallelism(training, model, self.world) in ("fsdp", "hsdp"), self.offloads)
        self.plan = plan_of(self.loader.stream, training, self.world.size)
        self.evaluators.check(self.plan)
        steps_of(training, self.plan)  # raises for steps that the run does not have
        warmup_steps(
            optimizer.schedule, self.plan.steps
        )  # raises for an impossible schedule before anything is written

    def fit(self) -> TrainResult:
        """Train to the end and write release/.

        Raises TrainingError (non-finite values, a full disk or memory, another writer) and, after a signal, Interrupted
        once the step is finished and checkpointed. After any of them a model that is split over processes (fsdp, hsdp)
        stays split, each process with its part of the weights, since the others may not be there to gather them: build
        a new one to use it or to resume; a Trainer refuses it.
        """

        def ways() -> Iterator[str]:
            return ways_of_training(self.config, self.plan, self.resolved_config, self.world)

        with ExitStack() as stack:
            self.signals = stack.enter_context(SignalHandler(self.world.watch))
            self.world.watch.folder = self.output_dir
            stack.enter_context(self.world.watch.running())
            with disk_errors(self.output_dir), naming_what_to_lower(self.world, ways):
                self._open(stack)
                return self._finish(self._loop())

    def _loop(self) -> StoppedBy:
        train_state, self.started_at = self.train_state, time.monotonic()
        if train_state.ended == "alarm" and self.config.alarms == "say":
            train_state.ended = None
        if train_state.ended and not train_state.evaluations_due:
            return train_state.ended
        while True:
            due = train_state.validation_due or train_state.evaluations_due
            if due and (stop := self._validate_and_checkpoint(NO_STOPS)):
                return stop
            if train_state.step >= self.plan.steps:
                return "max_steps"
            result, stats = self._step()
            if result.nonfinite and self._handle_nonfinite(result):
                continue
            train_state.step += 1
            if result.applied:
                self.last_loss = result.loss
                train_state.observe_loss(result.loss)
            self.monitor.step(result, stats, train_state, timed=self.profiler.timed(train_state.step))
            self.profiler.after(train_state.step, stats)
            if self.plan.ends_epoch(train_state.step):
                self.monitor.epoch(train_state.step, *train_state.end_epoch())
            if stop := self._validate_and_checkpoint(StopRequests(*result.stops)):
                return stop

    def _step(self) -> tuple[StepResult, LocalStepStats]:
        """Run a step. The first one since the start may compile: it has the longer deadline, and a signal ends it."""
        first, self.stepped, watch = not self.stepped, True, self.world.watch
        watch.step = number = self.train_state.step + 1
        phase, profiled = self.world.phase("evaluation" if first else "step"), self.profiler.around(number)
        with phase, self.signals.at_once(first), profiled:
            done = self.updater.step(self.batches, self._lr(), self._stop_requests, self._beta1())
        watch.tick("logging")
        return done

    def _validate_and_checkpoint(self, stops: StopRequests) -> StoppedBy | None:
        """Validate and checkpoint after a step, each if due; return why the run ends here, None if it continues.

        Raises Interrupted after a signal.
        """
        if stops.failed_save:
            self.checkpoints.wait()  # raises on every rank: they agree on whether a save is complete
        if stops.alarm:
            self.train_state.ended = self.train_state.ended or "alarm"
        ended, stops = self.scoring.run(stops)
        self._checkpoint_if_due(stops)
        if ended:
            return ended
        if stops.interrupt or stops.terminate:
            self.checkpoints.wait()
            text = f"stopped at step {self.train_state.step:,}, checkpoint written; continue with --resume"
            self.monitor.log(text)
            raise Interrupted(130 if stops.interrupt else 143, text, by_all=True)
        return "max_minutes" if stops.time_limit else None

    def _stop_requests(self) -> StopRequests:
        """Return the requests of this process; the step sums them over ranks."""
        config, now = self.config, time.monotonic()
        time_limit = config.max_minutes is not None and now - self.started_at > 60 * config.max_minutes
        checkpoint_due = config.checkpoint_minutes is not None and now - self.saved_at > 60 * config.checkpoint_minutes
        failed = int(self.checkpoints.failed)
        alarm = self.config.alarms == "stop" and self.monitor.serious_alarm
        return StopRequests(*self.signals.flags, int(time_limit), int(checkpoint_due), failed, int(alarm))

    def _open(self, stack: ExitStack) -> None:
        """Set up everything that the loop needs; the stack undoes it in reverse order."""
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        stack.enter_context(locked(self.output_dir, self.world))
        self.checkpoints = checkpoint.CheckpointManager(
            self.output_dir / "checkpoints",
            self.world,
            keep_last=self.config.keep_last,
            keep_best=self.config.keep_best,
            keep_every=self.config.keep_every,
            mode=self.config.mode,
            rankings=self.evaluators.rankings,
            background=self.config.in_background(self.world.device.type),
        )
        notes = [*self.notes, *offload_note(self.config, self.world.device)]
        if self.config.tf32 and self.world.device.type != "cuda":
            notes.append(f"warning: training.tf32 has no effect on {self.world.device.type}")
        stack.callback(lambda: unwrap(self.model))
        with self.signals.at_once():
            resumed = self.world.on_main(
                lambda: checkpoint_to_resume(self.resume, self.output_dir, self.checkpoints, notes.append)
            )
            saved = read_run_state(resumed) if resumed else None
            self.model.to(self.world.device).train()
            if self.config.micro_batch_size == "auto":
                notes.append(self._settle_micro_batch(saved))
            self.parallel = parallelize(self.model, self.world, self.config, self.loader.num_shapes)
        # these two after sharding, which replaces the parameters, and before a checkpoint is read into them
        self.ema = Ema(self.model, self.config.ema_decay) if self.config.ema_decay else None
        self.optimizer = build_optimizer(self.model, self.optimizer_config, self.offloads)
        self.weights = WeightScores()
        size = saved["micro_batch_size"] if saved else None
        self.plan = plan_of(self.loader.stream, self.config, self.world.size, size)
        first = self.config.validate_first
        self.train_state = TrainState(
            validation_due=first, evaluations_due=self.evaluators.due(0, self.plan) if first else []
        )
        if resumed and saved:
            with self.signals.at_once():
                notes += self._restore(resumed, saved)
            # after _restore, because a resume that is refused must change nothing
            self.world.on_main(lambda: self.checkpoints.quarantine_after(self.train_state.step, notes.append))
        self.world.on_main(lambda: save_config(self.output_dir, self.resolved_config))
        record_start(self.output_dir, self.world, step=self.train_state.step, seed=self.seed)
        notes += [self.plan.describe_batch(self.world.size), *describe_stream(self.loader.stream)]
        section = "training.token_budget" if self.config.token_budget else "data.generated"
        notes += self.plan.warn_of_idle(self.world.size, section)
        with self.signals.at_once():
            self._prepare_model()
        self.monitor = Monitor(
            self.output_dir,
            self.config,
            self.plan,
            self.world,
            flops=functools.cache(self.model.step_flops),
            console=self.console,
            earlier=RunTotals(**(saved or {}).get("totals", {})),
            sinks=self.sinks,
        )
        stack.callback(self.monitor.close)
        stack.push(self._abandon_save)
        for note in notes:
            self.monitor.log(note)
        self._start_records(saved)
        self.scoring = Scoring(
            self.model,
            self.config,
            self.optimizer_config,
            self.plan,
            self.world,
            self.ema,
            self.parallel,
            self.signals,
            self.monitor,
            self.checkpoints,
            self.train_state,
            self.weights,
            self.evaluate,
            self.evaluators,
            self.on_validation,
            settings=self.resolved_config,
            shapes=self.loader.num_shapes is not None,
        )
        self.updater = Updater(
            self.parallel, self.optimizer, self.ema, self.train_state, self.config, seed=self.seed, world=self.world
        )
        self.profiler = StepProfiler(
            self.config, self.plan, self.world, self.model, self.updater, self.monitor, self.output_dir,
            done=self.train_state.step,
        )  # fmt: skip
        self._warm_up()
        self.stepped = False  # since this start
        self.batches = self._batches()
        stack.callback(lambda: self.batches.close())
        self.last_loss: float | None = None
        self.last_saved, self.saved_at = self.train_state.step if resumed else -1, time.monotonic()
        if self.config.on_nonfinite == "rollback" and not resumed:
            self._save(WeightScores())  # a rollback needs a checkpoint from the beginning

    def _start_records(self, saved: Mapping[str, Any] | None) -> None:
        """Delete from the run's records what is later than a checkpoint's state, or about to be repeated."""
        state, line = self.train_state, LineStats(**(saved or {}).get("line", {}))
        counts = getattr(self.source, "series_counts", {})
        self.monitor.start(state.step, state.validation_due, state.evaluations_due, line, counts)
        self.world.on_main(lambda: self.evaluators.start(state.step))

    def _abandon_save(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        """Let a save in the background come to its end after an error of the run, and log what became of it."""
        in_vain = error is not None and of_lost_ranks(error)  # it waits for the same ranks, others for this process
        patience = SOON if in_vain or kind is KeyboardInterrupt else AFTER_ERROR
        if problem := self.checkpoints.abandon(patience):
            with suppress(OSError):  # of a full disk, which must not take the place of the run's own error
                self.monitor.log(f"WARNING: the checkpoint after step {self.last_saved:,}: {problem}")

    def _settle_micro_batch(self, saved: dict[str, Any] | None) -> str:
        """Put the number of a checkpoint, or the one that is found now, in the place of auto; return its line."""
        if saved is not None:
            size, how = saved["micro_batch_size"], "as the run began"
        else:
            self.parallel = Parallel(self.model)
            self._prepare_model()
            size, how = find(self.model, self.source, self.config, self.optimizer_config, self.world)
        self.config = self.config.model_copy(update={"micro_batch_size": size})
        if section := self.resolved_config.get("training"):
            self.resolved_config = {**self.resolved_config, "training": {**section, "micro_batch_size": size}}
        return f"auto: training.micro_batch_size {size:,} ({how})"

    def _prepare_model(self) -> None:
        """Prepare the model for its first step: rank 0 first, since it may write files that the others read."""
        with self.parallel.unsharded():
            self.world.on_main(lambda: self.model.prepare(self.source, self.output_dir))
            if not self.world.is_main:
                self.model.prepare(self.source, self.output_dir)

    def _restore(self, path: Path, saved: dict[str, Any]) -> list[str]:
        """Restore model, optimizer, weight average and train state from a checkpoint; return notes for the log."""
        notes = changes_since(
            path, saved, self.resolved_config, self.schema,
            data=self.source.fingerprint, seed=self.seed, batch_size=self.plan.batch_size,
        )  # fmt: skip
        self._load_state(path, saved)
        self.train_state = TrainState.from_json(saved["progress"])
        return notes

    def _load_state(self, path: Path, saved: dict[str, Any]) -> None:
        """Load a checkpoint's model, optimizer and weight average, and the ancestry that it records."""
        if saved.get("ancestry") is not None:  # as it was at the start: what the parents' folders say may have changed
            self.facts = {**self.facts, "ancestry": saved["ancestry"]}
        manifest = read_info(path)
        self.weights.metric, self.weights.scores = manifest.metric, dict(manifest.scores)
        checkpoint.restore(path, self.world, self.model, self.optimizer, self.ema, saved)

    def _batches(self) -> BatchIterator:
        return self.loader.iterate(self.plan, self.train_state.step, self.train_state.offset)

    def _warm_up(self) -> None:
        """Run every shape of micro-batches once before the first step, to compile it, if the config asks for it."""
        wanted = self.config.token_budget.warmup if self.config.token_budget else None
        if self.loader.num_shapes is None or not (self.config.compile if wanted is None else wanted):
            return
        paused_at, start = self.monitor.pause(), time.monotonic()
        self.world.watch.tick("warm-up")
        with self.signals.at_once():
            self.updater.warm_up(self.loader.blank_batches())
        shapes = f"{self.loader.num_shapes} shape{'s' * (self.loader.num_shapes != 1)}"
        self.monitor.log(f"warmed up for {shapes} in {duration(time.monotonic() - start)}")
        self.monitor.resume(paused_at)

    def _lr(self) -> float:
        config = self.optimizer_config
        return self.train_state.plateau.scale * lr_at(
            config.schedule, config.learning_rate, self.train_state.step, self.plan.steps
        )

    def _beta1(self) -> float | None:
        return beta1_at(self.optimizer_config.schedule, self.train_state.step, self.plan.steps)

    def _checkpoint_if_due(self, stops: StopRequests) -> None:
        step, weights = self.train_state.step, self.weights
        final = self.train_state.ended is not None or step == self.plan.steps
        every = (self.config.checkpoint_every, self.config.keep_every)
        due = final or any(stops) or any(self.plan.is_due(steps, step) for steps in every)
        if not due and (weights.metric is not None or weights.scores):
            self.checkpoints.wait()  # its metric and scores count too
            due = self.world.on_main(lambda: self.checkpoints.is_among_best(weights.metric, weights.scores))
        if due:
            self._save(weights, final=final)

    def _save(self, weights: WeightScores, final: bool = False) -> None:
        paused_at = self.monitor.pause()
        self.world.watch.tick("saving a checkpoint")
        self.monitor.sync()
        state = {
            "progress": self.train_state.to_json(),
            "totals": asdict(self.monitor.run_totals()),
            "line": asdict(self.monitor.line),
            "config": self.resolved_config,
            "seed": self.seed,
            "batch_size": self.plan.batch_size,
            "micro_batch_size": self.plan.micro_batch_size,
            "data_fingerprint": self.source.fingerprint,
            "ancestry": self.facts.get("ancestry"),
            "facts": {key: value for key, value in self.facts.items() if key != "ancestry"},
            "optimizer": state_numbers(self.model, self.optimizer),
            "threads": torch.get_num_threads(),
            "world_size": self.world.size,
            "versions": {"foretrain": foretrain.__version__, "torch": torch.__version__},
        }
        tensors = checkpoint.collect(self.model, self.optimizer, self.ema)
        metric, scores = weights.metric, weights.scores
        self.checkpoints.save(self.train_state.step, tensors, state, metric=metric, scores=scores, final=final)
        self.last_saved, self.saved_at = self.train_state.step, time.monotonic()
        self.monitor.resume(paused_at)

    def _handle_nonfinite(self, result: StepResult) -> bool:
        """Apply on_nonfinite to a non-finite step: stop raises, skip returns False, rollback returns True."""
        train_state, policy = self.train_state, self.config.on_nonfinite
        step = train_state.step + 1
        folder = self.output_dir / "nonfinite"
        error: Exception | None = None
        try:
            save_for_replay(folder, result, self.loader, self.seed)
        except OSError as problem:
            error = TrainingError(f"{folder}: the bad batch could not be saved: {problem.strerror or problem}")
        self.world.all_agree(error)
        what = f"step {step:,}: the {result.nonfinite} is not finite; its batch is saved in {folder}"
        train_state.bad_batches += 1
        if policy == "stop":
            raise TrainingError(
                f"{what}. Look at the data or lower the learning rate; to continue without such batches, resume with "
                "training.on_nonfinite: skip or rollback."
            )
        if train_state.bad_batches > self.config.skip_budget:
            raise TrainingError(f"{what}, and training.skip_budget ({self.config.skip_budget}) is used up.")
        if policy == "skip":
            self.monitor.log(f"{what} and is skipped ({train_state.bad_batches} of {self.config.skip_budget})")
            return False
        self._roll_back(what)
        return True

    def _roll_back(self, what: str) -> None:
        """Return to the newest intact checkpoint and continue with the windows after the bad batch."""
        train_state = self.train_state
        bad_step, bad_batches, offset = train_state.step, train_state.bad_batches, train_state.offset
        self.checkpoints.wait()
        path = self.world.on_main(lambda: self.checkpoints.newest_intact(self.monitor.log))
        if path is None:
            raise TrainingError(f"{what}, and there is no checkpoint to return to.")
        saved = read_run_state(path)
        self._load_state(path, saved)
        vars(train_state).update(vars(TrainState.from_json(saved["progress"])))  # in place: updater and scaler hold it
        train_state.bad_batches = bad_batches
        # The next step takes the windows after the bad batch; those before it are not repeated. The offset before the
        # rollback counts, because the checkpoint's does not include an earlier rollback to the same checkpoint.
        train_state.offset = offset + (bad_step - train_state.step + 1) * self.plan.batch_size
        self.batches.close()
        self.batches = self._batches()
        self._start_records(saved)
        self.monitor.log(f"{what}; back to step {train_state.step:,} ({bad_batches} of {self.config.skip_budget})")

    def _finish(self, stopped_by: StoppedBy) -> TrainResult:
        """Load the best checkpoint, or the last one without validation, into the model, and write the release."""
        train_state = self.train_state
        self.world.watch.tick("writing the release")
        self.profiler.end(train_state.step)
        if self.last_saved != train_state.step:
            self._save(WeightScores(), final=True)
        self.checkpoints.wait()
        self.world.on_main(self.checkpoints.prune)  # also for a run that was killed after its last save
        totals = self.monitor.run_totals()
        if self.before_release is not None:
            self.before_release()
        best = self.world.on_main(lambda: self.checkpoints.best_intact(self.monitor.log))
        step, metric = (best.step, best.metric) if best else (train_state.step, None)
        path = best.path if best else self.checkpoints.folder / f"step-{train_state.step:08d}"
        averaged = self.ema is not None
        weights = checkpoint.release_weights(path, self.world, self.model, averaged)
        self.model.load_state_dict(weights, strict=False)
        self.parallel.gather()
        facts = {
            "step": step,
            "metric": {"name": self.config.best_metric, "value": metric} if best else None,
            "weights": "ema" if averaged else "trained",
            "data_fingerprint": self.source.fingerprint,
            "seed": self.seed,
            "versions": {"foretrain": foretrain.__version__, "torch": torch.__version__},
            "stopped": {"step": train_state.step, "by": stopped_by},
            **self.facts,
            **(adapter := adapter_facts(self.model)),
        }
        if alarm := adapter.get("adapter", {}).get("alarm"):
            self.monitor.log(f"WARNING: {alarm}")
        times = self.world.on_main(lambda: step_times(read_journal(self.output_dir / JOURNAL)))
        epochs = self.plan.epoch(train_state.step)
        taken = {**totals.facts(), **times, **({} if epochs is None else {"epochs": epochs})}
        self.world.on_main(lambda: self._write_release(facts, taken))
        end = describe_end(self.config, self.plan, train_state.step, stopped_by)
        held = describe_release(step, self.config.best_metric, metric, averaged)
        lines = [f"{end}; {held if self.config.release else f'no release (training.release: false), {held}'}"]
        lines += [describe_totals(totals), describe_steps(times, epochs)] if totals.steps else []
        told = {"stopped_by": stopped_by, "release_step": step, "metric": self.config.best_metric, "value": metric}
        self.monitor.end(train_state.step, lines, {**told, "run": taken})
        self.model.eval()
        return TrainResult(
            step=train_state.step,
            loss=self.last_loss,
            best=train_state.best,
            best_step=train_state.best_step,
            release_step=step,
            stopped_by=stopped_by,
            metrics=self.scoring.last_metrics,
            scores=self.scoring.last_scores,
            facts=facts,
        )

    def _write_release(self, facts: dict[str, Any], taken: dict[str, Any]) -> None:
        """Write the release, unless the run is to have none, its metrics and the list of best checkpoints.

        taken: what the run took.
        """
        promotion = saved_promotion(self.output_dir / "release", facts) if self.config.release else {}
        if self.config.release:
            if not promotion:
                drop_evaluation(self.output_dir / "release")
            write_release(self.output_dir, self.model, None, {**facts, **promotion})
        write_records(
            self.output_dir,
            facts["step"],
            self.checkpoints.best(),
            metric=self.config.best_metric,
            units=self.units,
            facts={"weights": facts["weights"], "stopped": facts["stopped"], "run": taken, **promotion},
            by_evaluator={name: self.checkpoints.best_by(name) for name in self.evaluators.rankings},
        )
