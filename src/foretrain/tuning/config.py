"""The config of a study: what is tried on which run, by which sampler, and what counts as better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from foretrain.config import Section, apply_overrides, build, override_of, read_yaml
from foretrain.errors import ConfigError
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.space import Parameter, SearchSpace

DOTTED = ("set", "space")  # sections whose keys have dots


class StudyObjective(Section):
    """A figure of a trial that counts: a metric of its validation, or TAG/METRIC of one of the run's evaluators."""

    metric: str
    direction: Literal["minimize", "maximize", "auto"] = "auto"  # auto: by the name of the metric


class Constraints(Section):
    """Bounds that a trial must keep to be chosen. A trial beyond one is kept, and said to be."""

    memory_gb: float | None = Field(default=None, gt=0)  # peak of the trial's process, beyond that of its imports
    seconds_per_forecast: float | None = Field(default=None, gt=0)  # of one item and window of the validation
    seconds: float | None = Field(default=None, gt=0)  # of the trial as a whole


class SamplerConfig(Section):
    """Who proposes candidates. gp takes no conditional space, cmaes no conditional and no categorical one.

    adviser: a language model fills the queue, and tpe proposes while it is empty.
    """

    kind: Literal["tpe", "gp", "cmaes", "random", "grid", "adviser"] = "tpe"
    startup_trials: int = Field(default=10, ge=0)  # random ones before tpe, gp and cmaes have something to go by
    multivariate: bool = True  # tpe: parameters are drawn together, and conditional ones by group


class PrunerConfig(Section):
    """When a trial that does badly is ended early, by the metric of its validations."""

    kind: Literal["none", "median", "asha"] = "none"
    warmup_steps: int = Field(default=0, ge=0)  # steps of a trial before which it is not pruned
    startup_trials: int = Field(default=5, ge=0)  # median: finished trials before one is pruned
    reduction_factor: int = Field(default=3, ge=2)  # asha: one in so many goes on beyond a rung


class FoldsConfig(Section):
    """Validation folds inside the training period: walk-forward blocks, the newest just before the test part.

    Fold k is trained on what lies before its block and scored on it. What lies after the block is not read.
    """

    count: int = Field(default=1, ge=1, le=100)
    # distance of the blocks' starts: steps, or a span such as "30D" where dates cut; None = the length of a block
    every: int | str | None = None


class TuneConfig(Section):
    """The full config of a study, saved as output_dir/study.yaml."""

    output_dir: str
    run: str  # the config that is tuned: the name of a shipped one, or a file
    set: dict[str, Any] = Field(default_factory=dict)  # keys of that config that all trials share, by dotted key
    # train: each trial trains. forecast: each trial forecasts with the release `model` under other options.
    task: Literal["train", "forecast"] = "train"
    model: str | None = None  # task: forecast: the release that is used
    space: dict[str, Parameter] = Field(min_length=1)
    objectives: tuple[StudyObjective, ...] = (StudyObjective(metric="val_wql"),)
    constraints: Constraints = Constraints()
    sampler: SamplerConfig = SamplerConfig()
    adviser: AdviserConfig | None = None  # goes with sampler.kind: adviser
    pruner: PrunerConfig = PrunerConfig()
    folds: FoldsConfig = FoldsConfig()
    trials: int = Field(default=20, ge=1, le=100_000)
    workers: int = Field(default=1, ge=1, le=256)  # processes of this machine that draw trials from the study
    storage: str | None = None  # of Optuna: the URL of a database; None = a journal file in output_dir
    max_minutes: float | None = Field(default=None, gt=0)
    disk_gb: float | None = Field(default=None, gt=0)  # of trials' checkpoints; those of the worst are removed first
    seed: int = Field(default=0, ge=0, lt=2**31)

    @field_validator("objectives")
    @classmethod
    def _some_and_each_once(cls, objectives: tuple[StudyObjective, ...]) -> tuple[StudyObjective, ...]:
        if not objectives:
            raise ValueError("is empty; name a metric, such as [{metric: val_wql}]")
        names = [objective.metric for objective in objectives]
        if len(set(names)) < len(names):
            raise ValueError("names a metric twice; keep one")
        return objectives

    @model_validator(mode="after")
    def _check(self) -> TuneConfig:
        SearchSpace(self.space)
        if (self.sampler.kind == "adviser") != (self.adviser is not None):
            raise ValueError("adviser: goes with sampler.kind: adviser, which needs it, and with no other sampler")
        if len(self.objectives) > 1 and self.pruner.kind != "none":
            raise ValueError(
                "pruner: several objectives have no single curve to prune by, and Optuna has no pruning for them; "
                "leave pruner out, or keep one objective"
            )
        if (self.task == "forecast") != (self.model is not None):
            raise ValueError("model: goes with task: forecast, which needs it, and with no other task")
        if self.task == "forecast" and self.pruner.kind != "none":
            raise ValueError("pruner: a trial of task: forecast has no curve to prune by; leave it out")
        return self


def load_study_config(path: Path, overrides: Sequence[str | tuple[str, Any]] = ()) -> TuneConfig:
    """Read the config of a study. Raises ConfigError."""
    return build(TuneConfig, study_tree(read_yaml(path), overrides), source=str(path))


def study_tree(tree: dict[str, Any], overrides: Sequence[str | tuple[str, Any]]) -> dict[str, Any]:
    """Return a study's tree with overrides set in order. Raises ConfigError.

    In `set` and `space`, dots belong to the key: set.training.max_steps=50 is the entry training.max_steps of `set`,
    and space.optimizer.learning_rate.low=1e-5 a bound of that key. null takes an entry out.
    """
    result = apply_overrides(tree, ())
    for override in overrides:
        key, value = override_of(override)
        section, _, rest = key.partition(".")
        if section not in DOTTED or not rest:
            result = apply_overrides(result, [(key, value)])
            continue
        entries = result.get(section)
        if entries is None:
            entries = result[section] = {}
        if not isinstance(entries, dict):
            raise ConfigError(f"{key}: {section!r} is a value ({entries!r}), not a section.")
        if section == "space" and (name := _parameter_in(entries, rest)) is not None:
            entries[name] = apply_overrides(entries[name], [(rest.removeprefix(f"{name}."), value)])
        elif section == "space" and value is None:
            entries.pop(rest, None)
        else:
            entries[rest] = value
    return result


def _parameter_in(space: dict[str, Any], rest: str) -> str | None:
    """Return the key of a space of which `rest` names a field, such as its bound low."""
    return next((key for key, one in space.items() if rest.startswith(f"{key}.") and isinstance(one, dict)), None)
