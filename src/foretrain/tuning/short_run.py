"""A short training of a config in a scratch folder, by the one training loop: of a range test and of a probe.

It writes no release, no evaluation and no promotion; its folder is deleted at its end, however it ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foretrain.atomic import temporary_files
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.run.config import RunConfig
from foretrain.run.stages import Draft
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal
from foretrain.training.memory import ResidentGrowth
from foretrain.training.run_record import JOURNAL
from foretrain.training.scoring import OnValidation
from foretrain.tuning.quiet import quiet
from foretrain.tuning.trial import peak_gb

Record = dict[str, Any]
_SPOKEN = 5  # lines of progress


@dataclass(frozen=True)
class ShortRun:
    """What a short training came to.

    records: those of its metrics.jsonl. memory_gb: at its peak beyond what the process had, of a GPU that of the GPU.
    validation_s: seconds of a validation, None without one. nonfinite: the step whose loss or gradient was not finite,
    which ended it.
    """

    records: list[Record]
    memory_gb: float | None
    device: str
    validation_s: float | None
    nonfinite: int | None

    @property
    def lines(self) -> list[Record]:
        """The training lines."""
        return [record for record in self.records if record.get("kind") == "train"]


@dataclass
class _Teller:
    """A sink (training/sinks.py) that tells of the progress, and times validations."""

    steps: int
    say: Callable[[str], None]
    validations: list[float] = field(default_factory=list)  # seconds each
    _said: int = 0
    _newest: float = 0.0  # when the newest record came

    def open(self, folder: Path, step: int) -> None:
        """Begin."""
        self._newest = time.monotonic()

    def record(self, record: Mapping[str, Any]) -> None:
        """Take a record. A validation follows its step's line, so its time is that since the record before."""
        before, self._newest = self._newest, time.monotonic()
        if record.get("kind") == "validation":
            self.validations.append(self._newest - before)
            self.say(f"validated at step {record['step']:,}")
        due = record["step"] * _SPOKEN // self.steps
        if record.get("kind") == "train" and due > self._said:
            self._said = due
            loss = record.get("loss_mean")
            self.say(f"step {record['step']:,} of {self.steps:,}" + ("" if loss is None else f", loss {loss:.4g}"))

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text, which is in the log too."""

    def close(self) -> None:
        """End."""


def one_run(path: Path, overrides: Sequence[Any]) -> RunConfig:
    """Return the config of a single run. Raises ConfigError for one with stages."""
    draft = Draft.read(path, [*overrides, ("output_dir", "scratch")])
    if draft.is_pipeline:
        raise ConfigError(f"{path}: has stages. Write the stage that is meant as a config of its own.")
    draft.settle(None)
    built = draft.build()
    assert isinstance(built, RunConfig)
    return built


def shortened(config: RunConfig, training: Mapping[str, Any], **sections: Any) -> RunConfig:
    """Return a config that trains without release, evaluators and files of others; training: more of its section."""
    own: dict[str, Any] = {
        "max_minutes": None, "patience": None, "checkpoint_every": None, "checkpoint_minutes": None, "keep_every": None,
        "health_every": None, "alarms": "say", "profile": None, "tensorboard": False, "release": False,
        "on_nonfinite": "stop",
    }  # fmt: skip
    return config.model_copy(
        update={
            "training": config.training.model_copy(update={**own, **training}),
            "evaluation": config.evaluation.model_copy(update={"promotion": False}),
            "evaluators": (),
            **sections,
        }
    )


def short_run(
    config: RunConfig, steps: int, say: Callable[[str], None], on_validation: OnValidation | None = None
) -> ShortRun:
    """Train a config of shortened() in a scratch folder and return what it tells.

    steps: that it takes, for the lines of its progress. A loss or gradient that is not finite ends it without an error;
    raises ForetrainError for what else ends it.
    """
    progress, nonfinite = _Teller(steps, say), None
    with temporary_files() as folder, quiet(folder / "output.log"):
        place = folder / "run"
        config = config.model_copy(update={"output_dir": str(place)})
        world = World.start(config.device, config.threads, config.deadlines)
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        growth = ResidentGrowth()
        try:
            train_run(config, world=world, on_validation=on_validation, sinks=[progress])
        except TrainingError:
            saved = sorted((place / "nonfinite").glob("step-*.safetensors"))
            if not saved:
                raise
            nonfinite = int(saved[-1].name.split("-")[1]) + 1
        memory, records = peak_gb(world, growth), list(read_journal(place / JOURNAL))
    return ShortRun(records, memory, world.device.type, min(progress.validations, default=None), nonfinite)


def to_stderr() -> Callable[[str], None]:
    """Return a function that prints lines where a user sees them while a run's own output is kept away."""
    stream = sys.stderr

    def say(text: str) -> None:
        print(text, file=stream, flush=True)

    return say
