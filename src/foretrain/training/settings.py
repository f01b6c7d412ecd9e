"""The training section of a config, the plan of steps and micro-batches, and the check of a resumed config."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from foretrain.config import FREE, LAYOUT, FieldRule, Section, leaves, or_auto, rules, upgraded
from foretrain.errors import ConfigError, TrainingError
from foretrain.training.run_record import is_higher_better

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]  # torch's
Recompute = Literal["off", "selective", "full"]
Parallelism = Literal["auto", "ddp", "fsdp", "hsdp"]


def _recompute(value: Any) -> Any:
    """Read false and true, which a YAML file has for off too, as off and full."""
    return {False: "off", True: "full"}[value] if isinstance(value, bool) else value


def _one_message(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise ValueError("give a number of steps, 1 or more, or epoch, for once an epoch") from None


# steps, or "epoch": after every pass over the data
Every = Annotated[Annotated[int, Field(ge=1)] | Literal["epoch"], WrapValidator(_one_message)]

LENGTH = FieldRule(
    identity=False, on_resume="allowed", note="the learning-rate schedule is computed anew for the new length"
)
ROUNDING = FieldRule(
    identity=False,
    on_resume="allowed",
    note="TensorFloat-32 rounds the factors of a product to fewer bits: sums may differ in more than their last bits",
)
MICRO_BATCH = FieldRule(
    identity=False,
    on_resume="allowed",
    note="another micro-batch: sums may differ in their last bits; draws of dropout, and terms of a loss that are "
    "computed per micro-batch, follow the new size",
)


class TokenBudgetConfig(Section):
    """Micro-batches by length: windows are sorted into buckets, and a micro-batch holds as many as the budget allows.

    A bucket is a pair of context length and horizon; a window goes to the smallest that holds it. The run's own lengths
    are always among the buckets.
    """

    # (context + horizon) steps x variates of a micro-batch; auto follows the memory of the device (auto.py)
    max_tokens_per_batch: Annotated[int | Literal["auto"], or_auto(Annotated[int, Field(gt=0, le=2**30)])] = 262_144
    # windows of a micro-batch; None = as many as the tokens allow, so that short windows are trained on in few steps
    max_windows_per_batch: int | None = Field(default=None, ge=1, le=2**22)
    length_buckets: tuple[Annotated[int, Field(gt=0, le=2**24)], ...] = (128, 256, 512)
    horizon_buckets: tuple[Annotated[int, Field(gt=0, le=2**24)], ...] = (20, 32, 64)
    draw_horizons: bool = (
        False  # a micro-batch's labels end at a horizon drawn from horizon_buckets, up to its bucket's
    )
    micro_batches_per_step: int = Field(default=1, ge=1, le=2**20)  # over all ranks
    # one forward and backward pass of every shape before the first step, to compile them; None = if compile is on
    warmup: Annotated[bool | None, FREE] = None


class ProfileConfig(Section):
    """The steps that a run measures part by part (profile.py)."""

    start: Annotated[int, FREE] = Field(default=11, ge=1)  # the first of them; the run's first steps are slower
    steps: Annotated[int, FREE] = Field(default=20, ge=1, le=1000)  # that are timed; a few more rank the operators


class TrainingConfig(Section):
    """Length, batch sizes, precision, validation, checkpoints and logs of a run.

    Exactly one of max_steps and epochs is given. `auto` becomes a value at the start of a run, by its device (auto.py);
    what is saved, hashed and compared is that value.
    """

    max_steps: Annotated[int | None, LENGTH] = Field(default=None, ge=1, le=10**12)
    epochs: Annotated[float | None, LENGTH] = Field(default=None, gt=0)  # converted to steps at the start
    # counted from this start or resume; then a checkpoint is written and the run finishes
    max_minutes: Annotated[float | None, FREE] = Field(default=None, gt=0)
    batch_size: int = Field(default=32, ge=1, le=2**22)  # windows per optimizer step over all ranks
    # windows per forward per rank; None = batch_size / ranks, auto = as many of them as the memory holds
    # (micro_batch.py); on resume both are the value of the checkpoint
    micro_batch_size: Annotated[
        int | Literal["auto"] | None, MICRO_BATCH, or_auto(Annotated[int | None, Field(ge=1, le=2**22)])
    ] = None
    token_budget: TokenBudgetConfig | None = None  # replaces batch_size and micro_batch_size: batches by length
    # of autocast; weights stay float32. auto = bfloat16 on a GPU that has it, and on a CPU where a record says that it
    # pays (processors.py), else float32
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    tf32: Annotated[bool, ROUNDING] = False  # float32 matrix products in TensorFloat-32 on GPUs that support it
    clip_norm: float | None = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)  # None = weights are not averaged
    # auto = on a GPU for which torch.compile works; compile_mode then has no effect elsewhere
    compile: Annotated[bool | Literal["auto"], LAYOUT, or_auto(bool)] = False
    compile_mode: Annotated[CompileMode, LAYOUT] = "default"
    # full: a block's activations are computed again in the backward pass; selective: but for those of matrix products
    # and attention, which are most of the time and little of the memory
    activation_checkpointing: Annotated[Recompute, LAYOUT, BeforeValidator(_recompute)] = "off"
    # of several processes. ddp: each holds the model; fsdp: each holds a part of weights, gradients and optimizer
    # state; hsdp: the processes of a node share a copy. auto = ddp below 1e9 parameters, else fsdp
    parallel: Annotated[Parallelism, LAYOUT, BeforeValidator(lambda v: "fsdp" if v == "fsdp2" else v)] = "auto"
    # processes that hold a copy between them, for hsdp; None = those of a node
    shard_size: Annotated[int | None, LAYOUT] = Field(default=None, ge=1)
    # of sharded weights: free a block's after its forward pass and gather them again for its backward pass
    reshard_after_forward: Annotated[bool, LAYOUT] = True
    # keep the optimizer's state in the host's memory; on a GPU it is copied there and back in every step, in parts
    offload_optimizer: Annotated[bool, FREE] = False
    # Batches that a thread prepares in advance; None = 2 with a GPU and 0 on a CPU, where the thread competes with the
    # loop for Python's interpreter lock (35 against 21 steps/s on configs/debug.yaml, whose data take 2% of the time).
    # Generated series have processes of their own (data.generated.workers).
    prefetch: Annotated[int | None, FREE] = Field(default=None, ge=0)
    on_nonfinite: Annotated[Literal["stop", "skip", "rollback"], FREE] = "stop"
    # maximum number of batches that skip and rollback leave out in a run
    skip_budget: Annotated[int, FREE] = Field(default=10, ge=0)
    # steps, or "epoch": at the end of every epoch; None = only at the end
    validate_every: Every | None = None
    # also before the first step, so that the weights that the run starts from can be the best, which are released
    validate_first: bool = False
    best_metric: str = "val_loss"  # a key of the metrics that validation returns
    best_mode: Literal["min", "max"] | None = None  # None = "max" for skill, accuracy and R2, else "min"
    patience: int | None = Field(default=None, ge=1)  # early stopping: validations without a better metric
    checkpoint_every: Annotated[Every | None, FREE] = 1000  # steps, or "epoch"
    # also after this many minutes, if that comes first
    checkpoint_minutes: Annotated[float | None, FREE] = Field(default=None, gt=0)
    # write checkpoints in a thread while training goes on, which takes as much memory of the host as the state; auto =
    # on a GPU
    checkpoint_in_background: Annotated[bool | Literal["auto"], FREE, or_auto(bool)] = "auto"
    keep_last: Annotated[int, FREE] = Field(default=2, ge=1)
    keep_best: Annotated[int, FREE] = Field(default=1, ge=1)
    # for ever also those of every so many steps, each of which is saved, whatever checkpoint_every is
    keep_every: Annotated[int | None, FREE] = Field(default=None, ge=1)
    log_every: Annotated[int, FREE] = Field(default=10, ge=1)  # steps
    health_every: Annotated[int | None, FREE] = Field(default=1000, ge=1)  # steps between health reports; null: none
    alarms: Annotated[Literal["say", "stop"], FREE] = "say"  # stop: a serious one ends the run (alarms.py)
    profile: Annotated[ProfileConfig | None, FREE] = None  # a table of what a step takes, by its parts
    tensorboard: Annotated[bool, FREE] = True
    release: Annotated[bool, FREE] = True  # write release/ at the end; false for trials of a tuner

    @property
    def mode(self) -> Literal["min", "max"]:
        """best_mode, or the mode that the name of best_metric implies."""
        return self.best_mode or ("max" if is_higher_better(self.best_metric) else "min")

    def in_background(self, device: str) -> bool:
        """Return whether checkpoints are written while training goes on, on a type of device (cpu, cuda, mps)."""
        return device == "cuda" if self.checkpoint_in_background == "auto" else self.checkpoint_in_background

    @property
    def given_micro_batch(self) -> int | None:
        """micro_batch_size, if it is a number."""
        return None if self.micro_batch_size == "auto" else self.micro_batch_size

    @property
    def epoch_key(self) -> str | None:
        """A key of this section by which the run counts epochs; None if it counts steps alone."""
        every = [key for key in ("validate_every", "checkpoint_every") if getattr(self, key) == "epoch"]
        return "epochs" if self.epochs is not None else next(iter(every), None)

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of max_steps and epochs")
        if self.token_budget is not None and (
            self.micro_batch_size is not None or self.batch_size != type(self).model_fields["batch_size"].default
        ):
            raise ValueError(
                "batch_size and micro_batch_size have no effect beside token_budget, whose micro_batches_per_step and "
                f"max_tokens_per_batch{' (auto too)' * (self.micro_batch_size == 'auto')} take their place; remove them"
            )
        if (self.given_micro_batch or 0) > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} exceeds batch_size {self.batch_size}")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"compile_mode {self.compile_mode!r} has no effect without compile: true")
        if self.shard_size is not None and self.parallel != "hsdp":
            raise ValueError("shard_size has no effect without parallel: hsdp")
        if not self.reshard_after_forward and self.parallel == "ddp":
            raise ValueError("reshard_after_forward has no effect on parallel: ddp")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("patience counts validations; set validate_every")
        if self.validate_first and self.validate_every is None:
            raise ValueError("validate_first: has no effect without validate_every; set it")
        return self


IDLE = 0.1  # share of the rounds of all processes that may be without work before a run says so


class MicroBatch(NamedTuple):
    """Micro-batch k of a step: units [first, first + count) of the run; an idle one contributes nothing.

    A unit is a window or, with a token budget, one micro-batch (count is 1).
    """

    step: int
    k: int
    first: int
    count: int
    idle: bool
    last: bool  # True for this rank's last micro-batch of the step


class StepPlan(NamedTuple):
    """The steps of a run and their micro-batches, which do not depend on the world size."""

    steps: int
    total: int  # units (windows, or micro-batches of a token budget) in the run
    batch_size: int  # units per step
    micro_batch_size: int
    unit: str = "windows"
    epoch_length: int | None = None  # units in an epoch, if the run counts epochs

    def epoch(self, step: int) -> float | None:
        """Return how many epochs have passed after a number of steps; None if the run does not count them."""
        return None if self.epoch_length is None else min(step * self.batch_size, self.total) / self.epoch_length

    def ends_epoch(self, step: int) -> bool:
        """Return True if an epoch ends within the last of a number of steps."""
        passed = [int(self.epoch(n) or 0) for n in (step - 1, step)]
        return step > 0 and passed[0] < passed[1]

    def is_due(self, every: int | Literal["epoch"] | None, step: int) -> bool:
        """Return True if what happens every so many steps, or after each epoch, happens after this number of steps."""
        return self.ends_epoch(step) if every == "epoch" else bool(every) and step % every == 0

    def micro_batches(self, step: int) -> list[tuple[int, int]]:
        """Return (first unit within the step, count) of each micro-batch; only the run's last step may be shorter."""
        size = self.batch_size if step < self.steps - 1 else self.total - (self.steps - 1) * self.batch_size
        return [(k, min(self.micro_batch_size, size - k)) for k in range(0, size, self.micro_batch_size)]

    def describe_batch(self, world_size: int) -> str:
        """Describe the batch of a step for the log: per process, accumulated, over all processes."""
        rounds = -(-self.batch_size // (self.micro_batch_size * world_size))
        full = self.micro_batch_size * rounds * world_size
        less = f", less {full - self.batch_size:,}" if full != self.batch_size else ""
        each = f"{self.micro_batch_size:,} per process and forward x " if self.unit == "windows" else ""
        return (
            f"batch: {self.batch_size:,} {self.unit} a step = {each}{rounds:,} accumulation x {world_size:,} "
            f"process{'es' if world_size > 1 else ''}{less}"
        )

    def warn_of_idle(self, world_size: int, section: str) -> list[str]:
        """Return a line if processes have no micro-batch in the last round of a step, with the setting that helps.

        section: that of micro_batches_per_step. Of windows a tenth of all rounds must be lost, as a whole step has few.
        """
        count = -(-self.batch_size // self.micro_batch_size)
        rounds, idle = -(-count // world_size), -count % world_size
        last = f"warning: {idle:,} of {world_size:,} processes are idle in the last round of a step"
        if self.unit == "micro-batches":
            return [f"{last}; make {section}.micro_batches_per_step a multiple of {world_size}"] if idle else []
        if idle < IDLE * rounds * world_size:
            return []
        held = f"{last}, which has {count:,} micro-batch{'es' * (count > 1)} of {self.micro_batch_size:,} windows"
        smaller = -(-self.batch_size // (rounds * world_size))
        if smaller < self.micro_batch_size:
            return [f"{held}; training.micro_batch_size={smaller} gives work to more, and may change on resume"]
        return [f"{held}; in a new run make training.batch_size a multiple of {self.micro_batch_size * world_size:,}"]

    def for_rank(self, step: int, rank: int, size: int, offset: int = 0) -> Iterator[MicroBatch]:
        """Yield the micro-batches of a rank, assigned round-robin, with an idle one if other ranks have one more.

        Every rank runs the same number, because gradients are all-reduced in the backward pass.
        """
        batches = self.micro_batches(step)
        rounds = -(-len(batches) // size)
        start = offset + step * self.batch_size
        for n in range(rounds):
            k = n * size + rank
            idle = k >= len(batches)
            first, count = batches[0 if idle else k]
            yield MicroBatch(step, k, start + first, count, idle, last=n == rounds - 1)


def plan_run(
    config: TrainingConfig,
    *,
    epoch_length: int,
    world_size: int,
    micro_batch_size: int | None = None,
    micro_batches: int | None = None,
) -> StepPlan:
    """Compute the steps and micro-batches of a run.

    epoch_length: number of windows or, if they are the unit, of micro-batches (see loader.stream_of).
    micro_batches: number in a step, if micro-batches are the unit without a token budget.
    micro_batch_size: that of a checkpoint, used if the config gives no number.
    Raises ConfigError if a run that counts epochs has no window.
    """
    size, micro, unit = config.batch_size, config.given_micro_batch or micro_batch_size, "windows"
    if config.token_budget is not None:
        micro_batches = config.token_budget.micro_batches_per_step
    if micro_batches is not None:
        size, micro, unit = micro_batches, 1, "micro-batches"
    micro, key = micro or -(-size // world_size), config.epoch_key
    if key is not None and epoch_length < 1:
        raise ConfigError(f"training.{key}: the data has no window to train on; shorten context or prediction length.")
    epoch = None if key is None else epoch_length
    if config.max_steps is not None:
        return StepPlan(config.max_steps, config.max_steps * size, size, micro, unit, epoch)
    total = max(round((config.epochs or 0) * epoch_length), 1)
    return StepPlan(math.ceil(total / size), total, size, micro, unit, epoch)


def check_resumable(saved: dict[str, Any], current: dict[str, Any], schema: type[Section]) -> list[str]:
    """Describe what changed since a run's config was saved. Raises TrainingError naming the keys that may not change.

    The fields of schema declare which may. Both trees are dumps of it; saved may be of an earlier version. `parents`
    holds the hashes of the weights that a run started from (role: hash); while they are equal, their paths may change.
    The caller compares the fingerprints of the data.
    """
    parents = saved.get("parents")
    saved = {**upgraded(schema, saved), "parents": parents}
    current = {**current, "parents": None if parents is None else current.get("parents")}
    old, new, declared = dict[str, Any](), dict[str, Any](), dict[str, FieldRule]()
    for tree, values in ((saved, old), (current, new)):
        for key, value, rule in leaves(schema, tree):
            values[key], declared[key] = value, rule
    changed = [key for key in sorted(declared) if old.get(key) != new.get(key)]
    refused = [key for key in changed if not _may_change(declared[key], {"data", *(parents or {})})]
    if refused:
        lines = "".join(f"\n  {_refusal(key, old.get(key), new.get(key))}" for key in refused)
        raise TrainingError(
            f"this run cannot be resumed with another config:{lines}\n  Restore the values above, or start a new run "
            f"in another output_dir. These keys may change:{_changeable(schema)}"
        )
    notes = [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed if key != "output_dir"]
    return [*notes, *dict.fromkeys(declared[key].note for key in changed if declared[key].note)]


def _may_change(rule: FieldRule, compared: set[str]) -> bool:
    """Return True if a field may change on resume; compared: the fingerprints that are compared elsewhere."""
    return rule.on_resume == "allowed" or (rule.on_resume == "fingerprint" and rule.fingerprint in compared)


def _changeable(schema: type[Section]) -> str:
    """List every key that may change on resume, in lines."""
    declared = rules(schema)
    allowed = [key for key, rule in declared if rule.on_resume == "allowed"]
    paths = [key for key, rule in declared if rule.on_resume == "fingerprint"]
    lines = f"\n  always: {', '.join(allowed)}"
    return lines + (f"\n  while what it names has the same content: {', '.join(paths)}" if paths else "")


def _refusal(key: str, saved: Any, current: Any) -> str:
    if key.startswith("parents."):
        return f"{key}: it began from weights with the hash {saved}, and would continue from others, {current}"
    old, new = (text if len(text) <= 500 else f"{text[:500]}..." for text in map(repr, (saved, current)))
    return f"{key}: {old} was saved, {new} is asked for"
