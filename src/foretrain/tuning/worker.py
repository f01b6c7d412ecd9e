"""A worker of a study: takes trials one after the other, and ends when none is left for anybody.

`python -m foretrain.tuning.worker FOLDER NAME` is one. Exit codes as of the command line: 2 for what concerns the whole
study, 143 if it was stopped, with its trial at a checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from foretrain.errors import ConfigError, DataError, ForetrainError, Interrupted, TrainingError, of_the_disk
from foretrain.printing import without_secrets
from foretrain.processes import in_import, send_again
from foretrain.reading import believing
from foretrain.tuning.adviser.adviser import Adviser
from foretrain.tuning.adviser.fill import refill
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.leases import MOST_DEATHS, Heartbeat, Leases, LeaseState
from foretrain.tuning.records import DEFAULT_TRIAL, Source, TrialRecord
from foretrain.tuning.samplers import draw, identity, make_pruner
from foretrain.tuning.space import Candidate, SearchSpace
from foretrain.tuning.storage import JOURNAL, open_storage
from foretrain.tuning.study import PARENT, StudyFolder, open_study

REFUSED = "refused"  # attribute of an enqueued trial that was none, with the reason; it does not count
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_RESTORE = "Restore the study from a copy of its whole folder, or start a new one."
_SOURCES: tuple[Source, ...] = ("default", "sampler", "adviser", "user")
_PAUSE = 0.5  # seconds between two looks for a trial whose worker died
_log = logging.getLogger(__name__)


class Runner(Protocol):
    """What runs a trial: foretrain.tuning.trial.run_trial."""

    def __call__(
        self,
        config: TuneConfig,
        number: int,
        candidate: Candidate,
        folder: Path,
        *,
        source: Source,
        report: Callable[[int, float], bool],
    ) -> TrialRecord:
        """Run a trial, or go on with it, and return its record."""
        ...


class LeaseLost(BaseException):
    """Another worker took this one for dead and has its trial."""


@dataclass(frozen=True)
class Claim:
    """A trial that this worker holds. trial_id: in Optuna's storage, None for the default."""

    number: int
    candidate: Candidate
    source: Source
    lease: LeaseState
    trial_id: int | None = None
    suggestion: str | None = None


class TuneWorker:
    """One worker of a study, in this process."""

    def __init__(self, folder: StudyFolder, runner: Runner, name: str = "worker") -> None:
        self._folder, self._runner, self._name = folder, runner, name
        self._config, self._space = folder.config, SearchSpace(folder.config.space)
        self._leases = Leases(folder.leases, name)
        self._study = open_optuna(folder)
        self._adviser = _adviser(folder, self._space)
        self._stopped: int | None = None  # the exit code that a signal asks for
        self._in_trial = False
        self._exhausted_at: int | None = None  # trials after which no new candidate was found
        self._parent = int(os.environ.get(PARENT, os.getppid()))

    def run(self) -> None:
        """Run trials until none is left. Raises Interrupted after a signal, and errors of the whole study."""
        previous = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._may_go_on():
                self._ask_adviser()
                claim, others = self._claim()
                if claim is not None:
                    self._work(claim)
                elif others:
                    time.sleep(_PAUSE)
                else:
                    with self._folder.claims.held():
                        self._leases.drop_ended({_lease_name(record.number) for record in self._folder.records()})
                        self._folder.remove_leftovers()
                    return
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _may_go_on(self) -> bool:
        if os.getppid() != self._parent:
            self._stopped = 143
        if self._stopped is not None:
            raise Interrupted(self._stopped, "stopped between two trials")
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopped = 130 if number == signal.SIGINT else 143
        if not self._in_trial:
            return
        if in_import(frame):
            send_again(number)
            return
        self._in_trial = False
        raise Interrupted(self._stopped, "stopped in a trial, to be gone on with later")

    def _ask_adviser(self) -> None:
        """Let the adviser fill the queue, if there is one, the queue runs out, and no other worker asks."""
        if self._adviser is None or self._folder.record(DEFAULT_TRIAL) is None:  # the default is what it goes by first
            return
        began = _count(self._study.get_trials(deepcopy=False))
        refill(self._study, self._adviser, self._config.trials - began)

    def _claim(self) -> tuple[Claim | None, bool]:
        """Return a trial to work on, and whether others are at work, whose trials may fall to this one."""
        with self._folder.claims.held():
            if (claim := self._claim_begun()) is not None:
                return claim, True
            trials = self._study.get_trials(deepcopy=False)
        if _count(trials) >= self._config.trials or len(trials) == self._exhausted_at:
            return None, self._others()
        candidate = draw(self._config, self._folder.directions, trials)  # takes its time, and no lock
        if candidate is None:
            _log.info("the space has no candidate left that no trial had")
            self._exhausted_at = len(trials)
            return None, self._others()
        with self._folder.claims.held():
            now = self._study.get_trials(deepcopy=False)
            if len(now) != len(trials):
                return None, True  # another worker drew meanwhile: draw knowing of that one
            return self._begin(candidate), True

    def _others(self) -> bool:
        return bool(self._leases.holders()) or any(
            trial.state in (TrialState.RUNNING, TrialState.WAITING) and not _is_beyond(trial, self._config, self._study)
            for trial in self._study.get_trials(deepcopy=False)
        )

    def _claim_begun(self) -> Claim | None:
        """Take the default, a trial whose worker is gone, or one that was enqueued."""
        if self._folder.record(DEFAULT_TRIAL) is None and (lease := self._leases.claim("default")) is not None:
            claim = Claim(DEFAULT_TRIAL, {}, "default", lease)
            if not self._buried(claim):
                return claim
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state != TrialState.RUNNING or (lease := self._leases.claim(str(trial.number))) is None:
                continue
            claim = self._adopted(optuna.trial.Trial(self._study, trial._trial_id), lease)
            if claim is not None and not self._buried(claim):
                return claim
        while _count(trials) < self._config.trials and any(t.state == TrialState.WAITING for t in trials):
            trial = self._study.ask()  # the enqueued one
            lease = self._leases.claim(str(trial.number))
            assert lease is not None, "a trial that was just begun has no other worker"
            if (claim := self._adopted(trial, lease)) is not None:
                return claim
            trials = self._study.get_trials(deepcopy=False)
        return None

    def _adopted(self, trial: optuna.trial.Trial, lease: LeaseState) -> Claim | None:
        """Return the claim of a trial that is in the storage; one whose values do not fit the space is refused."""
        frozen = self._study._storage.get_trial(trial._trial_id)
        values = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
        try:
            checked = self._space.check(values)
            clipped = [change for change in checked.changes if "clipped" in change]
            if clipped:
                raise ConfigError(f"{clipped[0]}, which whoever proposes a candidate has to do")
            self._refuse_repeated(frozen.number, checked.values)
            candidate = self._space.suggest(trial)
        except ConfigError as error:
            reason = " ".join(str(error).split())
            trial.set_user_attr(REFUSED, reason)
            self._study.tell(trial, state=TrialState.FAIL)
            self._leases.drop(str(frozen.number))
            _log.warning("trial %d was refused: %s", frozen.number, reason)
            return None
        source = frozen.user_attrs.get("source", "user")
        suggestion = frozen.user_attrs.get("suggestion")
        return Claim(
            frozen.number,
            candidate,
            source if source in _SOURCES else "user",
            lease,
            trial._trial_id,
            suggestion if isinstance(suggestion, str) else None,
        )

    def _refuse_repeated(self, number: int, candidate: Candidate) -> None:
        for other in self._study.get_trials(deepcopy=False):
            if other.number != number and other.params and identity(other.params) == identity(candidate):
                raise ConfigError(f"the same candidate as trial {other.number}")

    def _begin(self, candidate: Candidate) -> Claim:
        """Create a trial with all its values, in one step, and take it."""
        distributions = self._space.distributions()
        trial = create_trial(
            state=TrialState.RUNNING,
            params=candidate,
            distributions={key: distributions[key] for key in candidate},
            user_attrs={"source": "sampler"},
        )
        trial_id = self._study._storage.create_new_trial(self._study._study_id, trial)
        number = self._study._storage.get_trial(trial_id).number
        lease = self._leases.claim(str(number))
        assert lease is not None, "a trial that was just begun has no other worker"
        return Claim(number, candidate, "sampler", lease, trial_id)

    def _buried(self, claim: Claim) -> bool:
        """Whether too many workers died in a trial; it has failed then."""
        if claim.lease.deaths < MOST_DEATHS:
            return False
        self._finish(claim, self._failed(claim, f"{claim.lease.deaths} workers died in it"))
        return True

    def _work(self, claim: Claim) -> None:
        """Run a trial to its end."""
        name = _lease_name(claim.number)
        try:
            record = self._ended(claim)
            if record is None:
                with Heartbeat(self._leases, name, self._watch_parent) as heartbeat:
                    record = self._run(claim, name, heartbeat)
            with self._folder.claims.held():
                if self._leases.is_mine(name):
                    self._finish(claim, record)
        except LeaseLost:
            _log.warning("trial %d: another worker has it now", claim.number)
        except BaseException:
            with self._folder.claims.held():
                self._leases.release(name)
            raise

    def _ended(self, claim: Claim) -> TrialRecord | None:
        """Return the record of a trial whose worker was killed after it. Raises TrainingError for that of another."""
        record = self._folder.record(claim.number)
        if record is not None and identity(record.params) != identity(claim.candidate):
            raise TrainingError(
                f"{self._folder.trial(claim.number)}: holds a trial of other values than the study's storage says: "
                "they are not of one study. Restore both, or start a new study."
            )
        return record

    def _run(self, claim: Claim, name: str, heartbeat: Heartbeat) -> TrialRecord:
        trial = None if claim.trial_id is None else optuna.trial.Trial(self._study, claim.trial_id)
        prunes = self._config.pruner.kind != "none" and trial is not None

        def report(step: int, value: float) -> bool:
            self._in_trial = False  # a signal waits until the storage has been written
            if heartbeat.lost:
                raise LeaseLost
            finite = math.isfinite(value)
            self._leases.note(name, step, value if finite else None)
            stop = prunes and not finite
            if trial is not None and finite and len(self._config.objectives) == 1:
                if step not in self._study._storage.get_trial(trial._trial_id).intermediate_values:
                    trial.report(value, step)  # one that goes on from a checkpoint may say it again
                stop = prunes and bool(trial.should_prune())  # Optuna may answer by a numpy.bool
            if self._stopped is not None:
                raise Interrupted(self._stopped, "stopped in a trial, to be gone on with later")
            self._in_trial = True
            return stop

        folder = self._folder.trial(claim.number)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._in_trial = True
            return self._runner(self._config, claim.number, claim.candidate, folder, source=claim.source, report=report)
        except ForetrainError:
            raise
        except Exception as error:
            if of_the_disk(error):  # which is no fault of the candidate
                raise TrainingError(_disk_text(folder, error)) from error
            _log.exception("trial %d failed", claim.number)
            return self._failed(claim, f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000])
        finally:
            self._in_trial = False

    def _watch_parent(self) -> None:
        if os.getppid() != self._parent:  # nobody is there to stop this worker later
            os.kill(os.getpid(), signal.SIGTERM)

    def _failed(self, claim: Claim, message: str) -> TrialRecord:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return TrialRecord(
            number=claim.number,
            state="failed",
            source=claim.source,
            params=claim.candidate,
            values=None,
            started=now,
            ended=now,
            message=message,
        )

    def _finish(self, claim: Claim, record: TrialRecord) -> None:
        """Write a trial's record, and tell the study. Only under the claim lock."""
        excesses = _excesses(self._config, record.constraints)
        more = {
            "feasible": record.feasible and all(excess <= 0 for excess in excesses.values()),
            "worker": f"{os.uname().nodename}:{os.getpid()}",
            "attempts": claim.lease.attempts,
            "suggestion": claim.suggestion,
        }
        self._folder.write(record.model_copy(update=more))
        if claim.trial_id is not None:
            trial = optuna.trial.Trial(self._study, claim.trial_id)
            for key, excess in excesses.items():
                if key not in trial.constraints:
                    trial.set_constraint(key, excess)
            values = list(record.values) if record.state == "complete" and record.values else None
            self._study.tell(trial, values, _STATES[record.state])
        self._leases.drop(_lease_name(claim.number))
        running = [int(name) for name in self._leases.holders() if name.isdecimal()]
        if left := self._folder.trim(running):
            _log.warning("disk_gb: checkpoints take %.1f GB more, of the best trial and of those at work", left / 1e9)
        _log.info("trial %d: %s %s %s", record.number, record.state, record.values or "", record.message)


def _adviser(folder: StudyFolder, space: SearchSpace) -> Adviser | None:
    config = folder.config.adviser
    if config is None:
        return None
    objectives = zip((one.metric for one in folder.config.objectives), folder.directions, strict=True)
    return Adviser(config, space, list(objectives), folder.path)


def open_optuna(folder: StudyFolder) -> optuna.Study:
    """Open Optuna's side of a study, which is created if it is not there.

    Raises DataError for a storage that cannot be read, or does not fit the records of the trials.
    """
    warnings.filterwarnings("ignore", module="optuna")
    records = folder.records()  # before the storage, which knows of a trial before its record is written
    where = f"{folder.path / JOURNAL}" if folder.config.storage is None else "storage"
    try:
        study = optuna.create_study(
            study_name=folder.name,
            storage=open_storage(folder.path, folder.config.storage),
            directions=folder.directions,
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=folder.config.seed),
            pruner=make_pruner(folder.config.pruner),
        )
        ways, trials = [way.name.lower() for way in study.directions], study.get_trials(deepcopy=False)
    except (ForetrainError, OSError):
        raise
    except Exception as error:  # of Optuna, which takes what is there for what it wrote
        said = without_secrets(" ".join(str(error).split()))[:300].rstrip(". ")
        raise DataError(f"{where}: cannot be used: {type(error).__name__}: {said}. {_RESTORE}") from None
    if ways != folder.directions:
        raise DataError(f"{where}: its directions are {', '.join(ways)}, and those of study.yaml others. {_RESTORE}")
    _check_trials(where, trials, SearchSpace(folder.config.space).distributions())
    _check_records(where, records, trials)
    return study


def _check_trials(where: str, trials: list[FrozenTrial], space: Mapping[str, BaseDistribution]) -> None:
    """Raise DataError for a trial of a storage whose values are none of the space."""
    for trial in trials:
        with believing(Path(where), DataError, _RESTORE):
            drawn = [(value, trial.distributions[key], space.get(key)) for key, value in trial.params.items()]
            figures = [*trial.intermediate_values.values(), *(trial.values or ())]
            fits = (
                all(own == other and own._contains(own.to_internal_repr(value)) for value, own, other in drawn)
                and all(isinstance(figure, int | float) for figure in figures)
                and isinstance(trial.system_attrs.get("fixed_params", {}), dict)
                and isinstance(trial.user_attrs.get("suggestion"), str | None)
            )
        if not fits:
            raise DataError(f"{where}: trial {trial.number} holds what no trial of study.yaml's space has. {_RESTORE}")


def _check_records(where: str, records: list[TrialRecord], trials: list[FrozenTrial]) -> None:
    """Raise DataError unless a storage knows the trials of the records, with the same values."""
    for record in records:
        if record.number == DEFAULT_TRIAL:
            continue
        trial = trials[record.number] if record.number < len(trials) else None
        if trial is not None and not trial.state.is_finished() and identity(trial.params) == identity(record.params):
            continue  # its worker ended between the two
        values = None if trial is None or trial.state != TrialState.COMPLETE else tuple(trial.values)
        told = None if trial is None else (trial.state, identity(trial.params), values)
        if told != (_STATES[record.state], identity(record.params), record.values):
            raise DataError(f"{where}: has another trial {record.number} than its record in trials/. {_RESTORE}")


def _count(trials: list[FrozenTrial]) -> int:
    """Return how many trials count: all that began, but for those that were refused."""
    return sum(trial.state != TrialState.WAITING and REFUSED not in trial.user_attrs for trial in trials)


def _is_beyond(trial: FrozenTrial, config: TuneConfig, study: optuna.Study) -> bool:
    """Whether a trial waits in vain, since there are enough without it."""
    return trial.state == TrialState.WAITING and _count(study.get_trials(deepcopy=False)) >= config.trials


def _lease_name(number: int) -> str:
    return "default" if number == DEFAULT_TRIAL else str(number)


def _excesses(config: TuneConfig, measured: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each constraint is exceeded; not above 0 where it is kept."""
    bounds = config.constraints.model_dump()
    return {key: measured[key] - bound for key, bound in bounds.items() if bound is not None and key in measured}


def _disk_text(folder: Path, error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{folder}: a file cannot be written or read ({said}). See to the disk, then resume."


def work(folder: Path, name: str, runner: Runner) -> int:
    """Be a worker of the study in a folder. Returns the exit code; errors are printed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        TuneWorker(open_study(folder), runner, name).run()
    except ForetrainError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        if not of_the_disk(error):
            raise
        print(f"error: {_disk_text(folder, error)}", file=sys.stderr, flush=True)
        return 2
    except (Interrupted, KeyboardInterrupt) as stopped:
        return getattr(stopped, "exit_code", 130)
    return 0


if __name__ == "__main__":
    from foretrain.tuning.trial import run_trial

    sys.exit(work(Path(sys.argv[1]), sys.argv[2], run_trial))
