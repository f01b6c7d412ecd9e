"""Fills Optuna's queue from an adviser: any worker that finds too few waiting trials asks, and all draw."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.errors import TrainingError
from foretrain.locks import FileLock
from foretrain.tuning.adviser.adviser import Adviser
from foretrain.tuning.adviser.records import PastTrial

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

LEASE = "adviser.lock"
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class _Busy(TrainingError):
    """Another worker asks the adviser."""


def refill(study: Study, adviser: Adviser, most: int) -> int:
    """Ask the adviser if its candidates run out, and enqueue what it proposes; return how many were enqueued.

    most: trials that the study may still begin. Returns 0 at once while another worker asks: the caller goes on with
    the sampler. A candidate that was accepted and not enqueued, since its worker was killed, is enqueued first.
    """
    if most <= 0 or _waiting(study) >= adviser.config.low_water:
        return 0
    path = adviser.folder / LEASE
    # A holder on another host is never known to be dead; what it does takes no longer than total_s
    _remove_abandoned(path, older_than=2 * adviser.config.total_s + 60)
    try:
        with FileLock(path, adviser.folder, "is asking the adviser", _Busy):
            return _refill(study, adviser, most)
    except _Busy:
        return 0


def _refill(study: Study, adviser: Adviser, most: int) -> int:
    adviser.log.mend()
    waiting = _waiting(study)
    if waiting >= adviser.config.low_water:  # another worker was faster
        return 0
    room = most - waiting
    count = _enqueue_lost(study, adviser, room)
    if count or room <= 0:
        return count
    history = [past_trial(trial) for trial in study.get_trials(deepcopy=False)]
    found = adviser.advise(history, min(adviser.config.batch, room))
    for suggestion in found:
        _enqueue(study, suggestion.values, suggestion.id)
    return len(found)


def past_trial(trial: FrozenTrial) -> PastTrial:
    """Return what an adviser may know of one of Optuna's trials: no attribute, and nothing that is not finite."""
    bounds = trial.system_attrs.get("constraints")
    values = trial.values if trial.state.name == "COMPLETE" else None
    fixed = trial.system_attrs.get("fixed_params", {}) if trial.state.name in ("WAITING", "RUNNING") else {}
    return PastTrial.model_validate(
        {
            "number": trial.number,
            "state": _STATES[trial.state.name],
            "params": {**fixed, **trial.params},
            "values": tuple(values) if values is not None and all(map(math.isfinite, values)) else None,
            "curve": tuple(
                (step, value) for step, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)
            ),
            "feasible": None if bounds is None else all(bound <= 0 for bound in bounds),
        }
    )


def _waiting(study: Study) -> int:
    return sum(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False))


def _enqueue_lost(study: Study, adviser: Adviser, room: int) -> int:
    """Enqueue proposals of the log that the study does not know; return their number."""
    known = {trial.user_attrs.get("suggestion") for trial in study.get_trials(deepcopy=False)}
    lost = [one for exchange in adviser.log.exchanges() for one in exchange.accepted if one.id not in known]
    for one in lost[:room]:
        _enqueue(study, dict(one.values or {}), one.id)
    return len(lost[:room])


def _enqueue(study: Study, values: dict[str, Any], suggestion: str) -> None:
    study.enqueue_trial(values, user_attrs={"source": "adviser", "suggestion": suggestion})


def _remove_abandoned(path: Path, older_than: float) -> None:
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > older_than:
            path.unlink()
