"""The training loop: update, log, validate, checkpoint."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

import foretrain
from foretrain.adapters.layers import adapter_facts, merged
from foretrain.atomic import replacing_file
from foretrain.config import Section, dump_yaml
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.models.base import Trainable
from foretrain.models.types import WindowSource
from foretrain.training import checkpoint
from foretrain.training.ema import Ema
from foretrain.training.interrupt import Interrupted, SignalHandler, ValidationInterrupted
from foretrain.training.loader import BatchIterator, BatchLoader, describe_stream
from foretrain.training.lock import RunLock
from foretrain.training.monitor import Monitor, duration
from foretrain.training.nonfinite import save_for_replay
from foretrain.training.optimizer import OptimizerConfig, build_optimizer, check_optimizer
from foretrain.training.optimizer_state import state_numbers
from foretrain.training.parallel import parallelize, unwrap
from foretrain.training.release import mark_of, write_records, write_release
from foretrain.training.schedule import beta1_at, lr_at, warmup_steps
from foretrain.training.settings import TrainingConfig, check_resumable, plan_run
from foretrain.training.step import StepResult, Updater
from foretrain.training.train_state import StoppedBy, TrainState

if TYPE_CHECKING:
    from rich.console import Console

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class StopRequests(NamedTuple):
    """Who asks for what at the end of this step: 1, or how many ranks do."""

    interrupt: int = 0  # Ctrl-C
    terminate: int = 0  # SIGTERM
    overtime: int = 0  # max_minutes
    late: int = 0  # checkpoint_minutes


NO_STOPS = StopRequests()


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found; stop ends the run (a pruned trial)."""

    metrics: dict[str, float]
    stop: bool = False


Evaluate = Callable[[Trainable, int], "ValidationResult | None"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    step: int
    loss: float | None  # training loss of the last step of this start
    best: float | None  # best_metric of the best validation
    best_step: int | None
    release_step: int  # whose weights release/ holds; the model in memory holds them too
    stopped_by: StoppedBy
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation of this start


class Trainer:
    """One run in one folder.

    source: anything with windows(first, count), fingerprint and epoch_length; with a token budget a TrainingSource.
    evaluate(model, step) is entered by all
    ranks together, with the model in eval mode and holding averaged weights where these are on. resume: None starts
    (an output_dir that holds a run is an error), "auto" goes on from the newest good checkpoint or starts, a path goes
    on from that checkpoint. resolved_config is what is saved in checkpoints and compared on resume, a dump of schema,
    whose fields declare what may change. facts go into release.json (parents' hashes, date range), notes to the head
    of the log; units are those of evaluate's metrics.
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
        resolved_config: dict[str, Any] | None = None,
        resume: Literal["auto"] | str | Path | None = None,
        console: Console | None = None,
        facts: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
        schema: type[Section] = Section,
    ) -> None:
        self.model, self.source, self.config, self.optimizer_config = model, source, training, optimizer
        self.output_dir, self.seed, self.world = Path(output_dir), seed, world or World()
        self.feed = BatchLoader(model, source, training, self.world)
        self.evaluate, self.resolved_config, self.resume = evaluate, resolved_config or {}, resume
        self.console, self.facts, self.notes, self.units = console, facts or {}, notes, units or {}
        self.schema = schema
        if evaluate is None and (training.validate_every or optimizer.schedule.kind == "plateau"):
            raise ConfigError(
                "training.validate_every and the plateau schedule need something to validate on, and this run has "
                "nothing: configure evaluation, or remove them."
            )
        if optimizer.schedule.kind == "plateau" and not training.validate_every:
            raise ConfigError("optimizer.schedule.kind: plateau follows validations; set training.validate_every.")
        check_optimizer(model, optimizer)
        plan = plan_run(training, epoch_length=self.feed.stream.epoch_length, world_size=self.world.size)
        warmup_steps(optimizer.schedule, plan.steps)  # an impossible one is told before anything is written

    def fit(self) -> TrainResult:
        """Train to the end and write release/.

        Raises TrainingError (non-finite values, disk, another writer) and, after SIGINT or SIGTERM, Interrupted once
        the step is finished and checkpointed.
        """
        with ExitStack() as stack:
            try:
                self._open(stack)
                return self._finish(self._loop())
            except OSError as error:
                if error.errno not in DISK_TROUBLE:
                    raise
                raise TrainingError(
                    f"{self.output_dir}: cannot be written: {error.strerror}. Checkpoints so far are intact; free some "
                    "space, then resume."
                ) from error

    def _loop(self) -> StoppedBy:
        progress, self.began = self.progress, time.monotonic()
        if progress.ended:
            return progress.ended
        while True:
            if progress.validation_due and (stop := self._validate_and_checkpoint(NO_STOPS)):
                return stop
            if progress.step >= self.plan.steps:
                return "max_steps"
            outcome, share = self.updater.step(self.batches, self._lr(), self._stops(), self._beta1())
            if outcome.nonfinite and self._handle_nonfinite(outcome):
                continue
            progress.step += 1
            if outcome.applied:
                self.last_loss = outcome.loss
                progress.observe_loss(outcome.loss)
            self.monitor.step(outcome, share, progress)
            if stop := self._validate_and_checkpoint(StopRequests(*outcome.stops)):
                return stop

    def _validate_and_checkpoint(self, stops: StopRequests) -> StoppedBy | None:
        """Validate, checkpoint, leave: what follows an update, each if due; why the run ends here, if it does."""
        ended, stops = self._validate_if_due(stops)
        self.progress.ended = ended
        self._checkpoint_if_due(stops)
        if ended:
            return ended
        if stops.interrupt or stops.terminate:
            text = f"stopped at step {self.progress.step:,}, checkpoint written; go on with --resume"
            self.monitor.say(text)
            raise Interrupted(130 if stops.interrupt else 143, text)
        return "max_minutes" if stops.overtime else None

    def _stops(self) -> StopRequests:
        """This process's wishes, which the step's all-reduce turns into everybody's."""
        config, now = self.config, time.monotonic()
        overtime = config.max_minutes is not None and now - self.began > 60 * config.max_minutes
        late = config.checkpoint_minutes is not None and now - self.saved_at > 60 * config.checkpoint_minutes
        return StopRequests(*self.signals.flags, int(overtime), int(late))

    def _open(self, stack: ExitStack) -> None:
        """Everything that the loop needs, in the order in which it must be undone."""
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        lock = RunLock(self.output_dir)
        self.world.on_main(lambda: stack.enter_context(lock) and None)
        self.signals = stack.enter_context(SignalHandler())
        self.store = checkpoint.CheckpointManager(
            self.output_dir / "checkpoints",
            self.world,
            keep_last=self.config.keep_last,
            keep_best=self.config.keep_best,
            mode=self.config.mode,
        )
        notes = list(self.notes)
        if self.config.tf32 and self.world.device.type != "cuda":
            notes.append(f"warning: training.tf32 has no effect on {self.world.device.type}")
        start = self.world.on_main(lambda: self._starting_point(notes.append))
        self.model.to(self.world.device).train()
        self.ema = Ema(self.model, self.config.ema_decay) if self.config.ema_decay else None
        self.optimizer = build_optimizer(self.model, self.optimizer_config)
        self.progress = TrainState()
        state = checkpoint.read_state(start) if start else None
        self.plan = plan_run(
            self.config,
            epoch_length=self.feed.stream.epoch_length,
            world_size=self.world.size,
            micro_batch_size=state["micro_batch_size"] if state else None,
        )
        if start and state:
            notes += self._restore(start, state)
            # not before: a resume that is refused changes nothing
            self.world.on_main(lambda: self.store.quarantine_after(self.progress.step, notes.append))
        self.world.on_main(lambda: save_config(self.output_dir, self.resolved_config))
        notes += [self.plan.describe_batch(self.world.size), *describe_stream(self.feed.stream)]
        if self.config.token_budget is not None and (idle := -self.plan.batch_size % self.world.size):
            notes.append(
                f"warning: {idle} of {self.world.size} processes have nothing to do in a step's last round; make "
                f"training.token_budget.micro_batches_per_step a multiple of {self.world.size}"
            )
        self._prepare_model()
        self.monitor = Monitor(
            self.output_dir,
            self.config,
            self.plan,
            self.world,
            flops=self.model.flops_per_window,
            console=self.console,
        )
        stack.callback(self.monitor.close)
        stack.callback(lambda: unwrap(self.model))
        for note in notes:
            self.monitor.say(note)
        self.monitor.begin(self.progress.step, self.progress.validation_due)
        network = parallelize(self.model, self.world, self.config, self.feed.shapes)
        self.updater = Updater(
            network, self.optimizer, self.ema, self.progress, self.config, seed=self.seed, world=self.world
        )
        self._warm_up()
        self.batches = self._batches()
        stack.callback(lambda: self.batches.close())
        self.last_loss: float | None = None
        self.last_metrics: dict[str, float] = {}
        self.last_saved, self.saved_at = self.progress.step if start else -1, time.monotonic()
        if self.config.on_nonfinite == "rollback" and not start:
            self._save(None)  # something to go back to

    def _prepare_model(self) -> None:
        """Whatever the model needs before its first step: rank 0 may write it, the others find it."""
        self.world.on_main(lambda: self.model.prepare(self.source, self.output_dir))
        if not self.world.is_main:
            self.model.prepare(self.source, self.output_dir)

    def _starting_point(self, say: Callable[[str], None]) -> Path | None:
        """The checkpoint to go on from, verified; None for a start. On rank 0."""
        folder = self.store.folder
        held = checkpoint.steps_in(folder)
        if self.resume is None:
            if held or (self.output_dir / "metrics.jsonl").exists():
                raise TrainingError(
                    f"{self.output_dir} already holds a run. Go on with it by --resume, or choose another output_dir."
                )
            self.store.clean()
            return None
        self.store.clean()
        if self.resume == "auto":
            path = self.store.newest_good(say)
            if path:
                say(f"resuming from {path}")
            return path
        path = Path(self.resume)
        if problem := checkpoint.damage(path):
            raise TrainingError(f"{path}: cannot be resumed from: {problem}")
        if path.resolve().parent != folder.resolve() and held:
            raise TrainingError(
                f"{self.output_dir} already holds a run, and {path} belongs to another. Choose another output_dir."
            )
        say(f"resuming from {path}")
        return path

    def _restore(self, path: Path, state: dict[str, Any]) -> list[str]:
        """Take over a checkpoint's state; what is worth telling about it."""
        notes = check_resumable(state["config"], self.resolved_config, self.schema)
        if state["data_fingerprint"] != self.source.fingerprint:
            raise TrainingError(
                f"{path}: was trained on other data (fingerprint {state['data_fingerprint']}, now "
                f"{self.source.fingerprint}). Restore the corpus, or start a new run in another output_dir."
            )
        for name, now in (("seed", self.seed), ("batch_size", self.plan.batch_size)):
            if state[name] != now:
                raise TrainingError(
                    f"{path}: was trained with {name} {state[name]}, not {now}; it cannot be resumed so."
                )
        if state["threads"] != torch.get_num_threads():
            notes.append(
                f"warning: {torch.get_num_threads()} threads now, {state['threads']} before: sums may differ in their "
                "last bits"
            )
        checkpoint.restore(path, self.world, self.model, self.optimizer, self.ema, state)
        self.progress = TrainState.from_json(state["progress"])
        return notes

    def _batches(self) -> BatchIterator:
        return self.feed.begin(self.plan, self.progress.step, self.progress.offset)

    def _warm_up(self) -> None:
        """Compile for every shape of a token budget before the first step, where this is wanted."""
        budget = self.config.token_budget
        if budget is None or not (self.config.compile if budget.warmup is None else budget.warmup):
            return
        paused, began = self.monitor.pause(), time.monotonic()
        self.updater.warm_up(self.feed.blanks())
        shapes = f"{self.feed.shapes} shape{'s' * (self.feed.shapes != 1)}"
        self.monitor.say(f"warmed up for {shapes} in {duration(time.monotonic() - began)}")
        self.monitor.resume(paused)

    def _lr(self) -> float:
        config = self.optimizer_config
        return self.progress.plateau.scale * lr_at(
            config.schedule, config.learning_rate, self.progress.step, self.plan.steps
        )

    def _beta1(self) -> float | None:
        return beta1_at(self.optimizer_config.schedule, self.progress.step, self.plan.steps)

    def _validate_if_due(self, stops: StopRequests) -> tuple[StoppedBy | None, StopRequests]:
        """Validate on the beat and at the end; why the run ends here, if it does, and who asks to stop by now."""
        step, every = self.progress.step, self.config.validate_every
        self.score: float | None = None
        self.progress.validation_due = False
        if self.evaluate is None or not (step == self.plan.steps or (every and step % every == 0)):
            return None, stops
        if stops.interrupt or stops.terminate:
            self.progress.validation_due = True  # there may be little time: the run that resumes begins with it
            return None, stops
        paused = self.monitor.pause()
        self.model.eval()
        try:
            # Alone, a process can drop what it does; among others it would leave them waiting.
            with (
                torch.no_grad(),
                self.ema.swapped() if self.ema else nullcontext(),
                merged(self.model),
                self.signals.cutting(self.world.size == 1),
                self._compiling_nothing(),
            ):
                result = self.evaluate(self.model, step)
        except ValidationInterrupted:
            self.progress.validation_due = True
            return None, StopRequests(*self.signals.flags)
        finally:
            self.model.train()
            self.monitor.resume(paused)
        return (self._judge(result) if result else None), stops

    def _compiling_nothing(self) -> AbstractContextManager[object]:
        """Blocks that were compiled for the shapes of a token budget run as written for any other shape."""
        if not (self.config.compile and self.config.token_budget):
            return nullcontext()
        return torch.compiler.set_stance("eager_on_recompile")

    def _judge(self, result: ValidationResult) -> StoppedBy | None:
        """Take a validation's metrics into best, patience and plateau; why the run ends here, if it does."""
        if self.config.best_metric not in result.metrics:
            raise ConfigError(
                f"training.best_metric: {self.config.best_metric!r} is not among the validation's metrics: "
                f"{', '.join(result.metrics) or 'none'}."
            )
        self.score = float(result.metrics[self.config.best_metric])
        self.last_metrics = dict(result.metrics)
        best = self.progress.observe_score(self.score, self.config.mode)
        self.monitor.validation(self.progress.step, self.last_metrics, best=best)
        if self.optimizer_config.schedule.kind == "plateau":
            score = self.score if self.config.mode == "min" else -self.score
            if self.progress.plateau.observe(self.optimizer_config.schedule, score):
                self.monitor.say(f"plateau: learning rate now {self.progress.plateau.scale:g} of its peak")
        if result.stop:
            return "evaluation"
        if self.config.patience and self.progress.stale >= self.config.patience:
            return "patience"
        return None

    def _checkpoint_if_due(self, stops: StopRequests) -> None:
        step, every, score = self.progress.step, self.config.checkpoint_every, self.score
        final = self.progress.ended is not None or step == self.plan.steps
        due = final or any(stops) or bool(every and step % every == 0)
        if not due and score is not None:
            due = self.world.on_main(lambda: self.store.enters_best(score))
        if due:
            self._save(score, final=final)

    def _save(self, metric: float | None, final: bool = False) -> None:
        paused = self.monitor.pause()
        self.monitor.sync()
        state = {
            "progress": self.progress.to_json(),
            "config": self.resolved_config,
            "seed": self.seed,
            "batch_size": self.plan.batch_size,
            "micro_batch_size": self.plan.micro_batch_size,
            "data_fingerprint": self.source.fingerprint,
            "optimizer": state_numbers(self.model, self.optimizer),
            "threads": torch.get_num_threads(),
            "world_size": self.world.size,
            "versions": {"foretrain": foretrain.__version__, "torch": torch.__version__},
        }
        tensors = checkpoint.collect(self.model, self.optimizer, self.ema)
        self.store.save(self.progress.step, tensors, state, metric=metric, final=final)
        self.last_saved, self.saved_at = self.progress.step, time.monotonic()
        self.monitor.resume(paused)

    def _handle_nonfinite(self, outcome: StepResult) -> bool:
        """Deal with a non-finite step as configured: stop raises, skip returns False, roll-back returns True."""
        progress, policy = self.progress, self.config.on_nonfinite
        step = progress.step + 1
        folder = self.output_dir / "nonfinite"
        error: Exception | None = None
        try:
            save_for_replay(folder, outcome, self.feed, self.seed)
        except OSError as problem:
            error = TrainingError(f"{folder}: the bad batch could not be saved: {problem.strerror or problem}")
        self.world.all_agree(error)
        what = f"step {step:,}: the {outcome.nonfinite} is not finite; its batch is saved in {folder}"
        progress.bad_batches += 1
        if policy == "stop":
            raise TrainingError(
                f"{what}. Look at the data or lower the learning rate; training.on_nonfinite: skip or rollback goes on "
                "past such batches."
            )
        if progress.bad_batches > self.config.skip_budget:
            raise TrainingError(f"{what}, and training.skip_budget ({self.config.skip_budget}) is used up.")
        if policy == "skip":
            self.monitor.say(f"{what} and is skipped ({progress.bad_batches} of {self.config.skip_budget})")
            return False
        self._roll_back(what)
        return True

    def _roll_back(self, what: str) -> None:
        bad_step, bad_batches, offset = self.progress.step, self.progress.bad_batches, self.progress.offset
        path = self.world.on_main(lambda: self.store.newest_good(self.monitor.say))
        if path is None:
            raise TrainingError(f"{what}, and there is no checkpoint to go back to.")
        state = checkpoint.read_state(path)
        checkpoint.restore(path, self.world, self.model, self.optimizer, self.ema, state)
        vars(self.progress).update(vars(TrainState.from_json(state["progress"])))
        self.progress.bad_batches = bad_batches
        # The next step takes the windows after the bad batch, not the way to it again; the offset counts from the one
        # before the roll-back, since an earlier roll-back to the same checkpoint is not in it.
        self.progress.offset = offset + (bad_step - self.progress.step + 1) * self.plan.batch_size
        self.batches.close()
        self.batches = self._batches()
        self.monitor.begin(self.progress.step, self.progress.validation_due)
        self.monitor.say(f"{what}; back to step {self.progress.step:,} ({bad_batches} of {self.config.skip_budget})")

    def _finish(self, stopped_by: StoppedBy) -> TrainResult:
        """Give the model the weights that count, and release them."""
        progress = self.progress
        if self.last_saved != progress.step:
            self._save(None, final=True)
        best = self.world.on_main(lambda: self.store.best_good(self.monitor.say))
        step, metric = (best.step, best.metric) if best else (progress.step, None)
        path = best.path if best else self.store.folder / f"step-{progress.step:08d}"
        averaged = self.ema is not None
        weights = checkpoint.release_weights(path, self.world, self.model, averaged)
        self.model.load_state_dict(weights, strict=False)
        facts = {
            "step": step,
            "metric": {"name": self.config.best_metric, "value": metric} if best else None,
            "weights": "ema" if averaged else "trained",
            "data_fingerprint": self.source.fingerprint,
            "seed": self.seed,
            "versions": {"foretrain": foretrain.__version__, "torch": torch.__version__},
            "stopped": {"step": progress.step, "by": stopped_by},
            **self.facts,
            **(adapted := adapter_facts(self.model)),
        }
        if alarm := adapted.get("adapter", {}).get("alarm"):
            self.monitor.say(f"WARNING: {alarm}")
        self.world.on_main(lambda: self._leave(facts))
        self.monitor.say(f"finished at step {progress.step:,} ({stopped_by}); release/ holds step {step:,}")
        self.model.eval()
        return TrainResult(
            progress.step, self.last_loss, progress.best, progress.best_step, step, stopped_by, self.last_metrics
        )

    def _leave(self, facts: dict[str, Any]) -> None:
        """Write the release and what is told of it."""
        mark = mark_of(self.output_dir / "release", facts)
        write_release(self.output_dir, self.model, None, {**facts, **mark})
        told = {"weights": facts["weights"], **mark}
        metric = self.config.best_metric
        write_records(self.output_dir, facts["step"], self.store.best(), metric=metric, units=self.units, facts=told)


def save_config(output_dir: Path, tree: dict[str, Any]) -> None:
    """What runs, beside what it writes: config.yaml of the run folder, from which the run can be repeated."""
    path = output_dir / "config.yaml"
    try:
        with replacing_file(path) as scratch:
            scratch.write_text(dump_yaml(tree), encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror or error}. Free some space.") from None
