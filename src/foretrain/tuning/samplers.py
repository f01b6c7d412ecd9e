"""Who proposes candidates, and when a trial is ended early. Imports Optuna.

A draw is made in a copy of the study in memory, by a sampler whose seed is that of the study and of the draw: workers
draw differently, a study of one worker can be repeated, and a candidate that was there before is drawn again before
any other worker sees it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from foretrain.errors import ConfigError
from foretrain.tuning.cmaes import CmaEs
from foretrain.tuning.config import PrunerConfig, TuneConfig
from foretrain.tuning.space import Candidate, CategoricalParameter, FloatParameter, SearchSpace
from foretrain.tuning.study import Direction

DRAWS = 100  # of which one is to be new, before the space counts as exhausted
_MOST_POINTS = 100_000  # of a grid


def check_sampler(config: TuneConfig) -> None:
    """Raise ConfigError if the sampler cannot search the space, or needs a package that is not there."""
    space, kind = SearchSpace(config.space), config.sampler.kind
    if kind in ("gp", "cmaes") and space.is_conditional:
        keys = ", ".join(key for key, parameter in space.parameters.items() if parameter.when)
        raise ConfigError(f"sampler.kind: {kind} takes no conditional space ({keys} has `when`). Take tpe.")
    if kind == "cmaes":
        if space.categorical:
            raise ConfigError(f"sampler.kind: cmaes takes numbers alone, not {', '.join(space.categorical)}. Take tpe.")
        if len(config.objectives) > 1:
            raise ConfigError("sampler.kind: cmaes has one objective. Take tpe, or keep one objective.")
    if kind == "gp" and (missing := [name for name in ("scipy", "torch") if find_spec(name) is None]):
        raise ConfigError(f"sampler.kind: gp needs {' and '.join(missing)}; pip install {' '.join(missing)}.")
    if kind == "grid":
        grid_size(space)


def draw(config: TuneConfig, directions: Sequence[Direction], trials: Sequence[FrozenTrial]) -> Candidate | None:
    """Return a candidate that no trial had, given all trials; None if there is none left, or none was found.

    A trial without parameters, which waits or was refused, says nothing of the space.
    """
    space = SearchSpace(config.space)
    seen = {identity(trial.params) for trial in trials}
    if config.sampler.kind == "grid":
        return next((point for point in _shuffled(space, config.seed) if identity(point) not in seen), None)
    if config.sampler.kind == "cmaes":
        search = CmaEs(space, config.sampler.startup_trials, directions[0], trials)
        drawn = (search.draw(seed_of(config.seed, len(trials), attempt)) for attempt in range(DRAWS))
    else:
        drawn = (_ask(config, space, directions, trials, attempt) for attempt in range(DRAWS))
    return next((candidate for candidate in drawn if identity(candidate) not in seen), None)


def identity(candidate: Candidate) -> str:
    """Return a text that is the same for equal candidates."""
    return json.dumps(candidate, sort_keys=True)


def seed_of(*parts: object) -> int:
    """Return a seed of 32 bits that parts determine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def make_pruner(config: PrunerConfig) -> BasePruner:
    """Return Optuna's pruner."""
    if config.kind == "median":
        return optuna.pruners.MedianPruner(config.startup_trials, config.warmup_steps)
    if config.kind == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=config.warmup_steps or "auto", reduction_factor=config.reduction_factor
        )
    return optuna.pruners.NopPruner()


def grid_size(space: SearchSpace) -> int:
    """Return the number of points of a grid. Raises ConfigError for a parameter without steps, and for too many."""
    count = 0
    for key, parameter in space.parameters.items():
        if isinstance(parameter, FloatParameter) and parameter.step is None and parameter.low < parameter.high:
            raise ConfigError(f"sampler.kind: grid needs steps: give space.{key}.step, or choices. Or take tpe.")
    for _ in _points(space):
        count += 1
        if count > _MOST_POINTS:
            raise ConfigError(f"sampler.kind: grid has more than {_MOST_POINTS:,} points. Take wider steps, or tpe.")
    return count


def _ask(
    config: TuneConfig, space: SearchSpace, directions: Sequence[Direction], trials: Sequence[FrozenTrial], attempt: int
) -> Candidate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that Optuna calls experimental
        sampler = _sampler(config, seed_of(config.seed, len(trials), attempt))
        study = optuna.create_study(directions=list(directions), sampler=sampler)
        study.add_trials([trial for trial in trials if trial.state != TrialState.WAITING and trial.params])
        return space.suggest(study.ask())


def _sampler(config: TuneConfig, seed: int) -> BaseSampler:
    settings = config.sampler
    if settings.kind in ("tpe", "adviser"):  # of which the second proposes through the queue (adviser/fill.py)
        return optuna.samplers.TPESampler(
            n_startup_trials=settings.startup_trials,
            multivariate=settings.multivariate,
            group=settings.multivariate,
            seed=seed,
        )
    if settings.kind == "gp":
        return optuna.samplers.GPSampler(n_startup_trials=settings.startup_trials, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _shuffled(space: SearchSpace, seed: int) -> list[Candidate]:
    points = list(_points(space))
    random.Random(seed).shuffle(points)
    return points


def _points(space: SearchSpace) -> Iterator[Candidate]:
    """Yield every point of a grid; those that differ only in what has no meaning are one."""

    def extended(values: Candidate, keys: list[str]) -> Iterator[Candidate]:
        if not keys:
            yield values
            return
        key, *rest = keys
        if not space.is_active(key, values):
            yield from extended(values, rest)
            return
        parameter = space.parameters[key]
        if isinstance(parameter, CategoricalParameter):
            steps = iter(parameter.choices)
        elif isinstance(parameter, FloatParameter):
            count = round((parameter.high - parameter.low) / parameter.step) if parameter.step else 0
            steps = (parameter.fitted(parameter.low + k * (parameter.step or 0)) for k in range(count + 1))
        else:
            steps = iter(range(parameter.low, parameter.high + 1, parameter.step))
        for value in steps:
            yield from extended({**values, key: value}, rest)

    yield from itertools.islice(extended({}, list(space)), _MOST_POINTS + 1)
