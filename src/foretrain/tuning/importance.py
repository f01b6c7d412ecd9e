"""How much each key of a space decides whether a trial is among the best, by Optuna's PED-ANOVA.

PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023, https://arxiv.org/abs/2304.10255) compares where the best trials lie
along a key with where all trials lie. It takes conditional keys, and needs no package beside Optuna. Of few trials some
key always looks important by chance, so values are shuffled among the trials, and a key counts as telling only if it is
above what that gives. Imports Optuna in its function.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from foretrain.tuning.records import DEFAULT_TRIAL, TrialRecord
from foretrain.tuning.space import SearchSpace

LEAST = 10  # trials; of fewer, more than half would count as best
BEST_SHARE, LEAST_BEST = 0.1, 5  # the best tenth, and at least five of them, as PED-ANOVA is unsteady with fewer
SHUFFLES = 19  # without any effect, a key is above the highest of them in one of 20 studies

MEANING = (
    "share of a key in what separates the best trials from the others, those that were pruned among these; a key "
    f"above chance is above all keys in {SHUFFLES} shuffles of the values, which noise is in 5% of studies"
)


def importance(
    space: SearchSpace, records: Sequence[TrialRecord], ways: Sequence[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Return for each objective {keys: {key: {share, above_chance}}, trials, best, reason}, the highest share first.

    reason: why there are none. A pruned trial counts as worse than every complete one: only who is among the best
    matters. The default is left out, as no sampler drew it.
    """
    able = [r for r in records if r.number != DEFAULT_TRIAL and r.state in ("complete", "pruned")]
    return [_of_objective(space, able, column, way, seed) for column, way in enumerate(ways)]


def _of_objective(space: SearchSpace, able: Sequence[TrialRecord], column: int, way: str, seed: int) -> dict[str, Any]:
    sign = -1.0 if way == "maximize" else 1.0
    known = [sign * record.values[column] for record in able if record.values]
    worst = max(known, default=0.0)
    losses = [sign * r.values[column] if r.values else worst + max(1.0, abs(worst)) for r in able]
    reason = _reason(space, losses, len(known))
    if reason is not None:
        return {"keys": {}, "trials": len(able), "best": None, "reason": reason}
    most = max(LEAST_BEST, math.ceil(BEST_SHARE * len(able)))
    best = sum(loss <= sorted(losses)[most - 1] for loss in losses)  # those that are equal to the last too
    found, chance = _ped_anova(space, able, losses, (most - 0.5) / len(able), seed)
    total = sum(found.values())
    if not total:
        return {"keys": {}, "trials": len(able), "best": best, "reason": "the best trials lie where all others do"}
    bound = max(chance)
    keys = {
        key: {"share": value / total, "above_chance": value > bound}
        for key, value in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    }
    return {"keys": keys, "trials": len(able), "best": best, "reason": None}


def _reason(space: SearchSpace, losses: Sequence[float], complete: int) -> str | None:
    if len(losses) < LEAST or complete < LEAST_BEST:
        return f"{len(losses)} trials, {complete} of them complete, are too few: {LEAST} and {LEAST_BEST} are the least"
    if len(set(losses)) == 1:
        return "all trials have the same value"
    if find_spec("optuna") is None:
        return "the package optuna, which computes it, is not installed"
    if len(space) == 1:
        return f"the space has one key, {next(iter(space))}"
    return None


def _ped_anova(
    space: SearchSpace, able: Sequence[TrialRecord], losses: Sequence[float], share: float, seed: int
) -> tuple[dict[str, float], list[float]]:
    """Return the divergence of each key, and the highest one of all keys in each shuffle of the values."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = space.distributions()
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=record.params, distributions={key: distributions[key] for key in record.params}, value=loss
            )
            for record, loss in zip(able, losses, strict=True)
        ]
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)

    def evaluate(values: Sequence[float]) -> Mapping[str, float]:
        return get_param_importances(
            study, evaluator=evaluator, target=lambda trial: values[trial.number], normalize=False
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lower is better, that normalize is new, and of conditional keys
        found = dict(evaluate(losses))
        shuffled, draws, chance = list(losses), random.Random(seed), list[float]()
        for _ in range(SHUFFLES):
            draws.shuffle(shuffled)
            chance.append(max(evaluate(shuffled).values()))
    return found, chance
