"""The parent of a study's workers on this machine: starts them, shows one progress for all, stops them, counts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from foretrain.errors import ForetrainError, Interrupted, TrainingError
from foretrain.printing import BESIDE_PRINTABLE
from foretrain.tuning.leases import Leases
from foretrain.tuning.records import DEFAULT_TRIAL
from foretrain.tuning.study import PARENT, STORAGE, StudyFolder
from foretrain.tuning.tables import progress_line, progress_table

if TYPE_CHECKING:
    from rich.live import Live

_PAUSE = 0.2  # seconds between two looks at the workers
_STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # of a worker that was asked to stop; < 0: before it could obey
_OF_THE_STUDY = 2  # exit code of an error that any worker would meet
MOST_RESTARTS = 3  # of a worker in a row, without a trial that ended
BACKOFF = 1.0  # seconds before the first of them, doubled by each


@dataclass
class _Member:
    """The place of a worker. code: of its process, if that has ended for good; due: when the next one is started."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    code: int | None = None
    restarts: int = 0  # since a trial of the study ended
    due: float | None = None


@dataclass
class Crew:
    """The workers of this machine. command: starts one, given the study's folder and its name.

    say: prints a line. backoff: seconds before a worker that was killed is started anew.
    """

    folder: StudyFolder
    workers: int
    say: Callable[[str], None] = print
    command: Sequence[str] = (sys.executable, "-m", "foretrain.tuning.worker")
    backoff: float = BACKOFF
    _members: list[_Member] = field(default_factory=list)
    _stop: int | None = None  # the signal that came

    def run(self) -> None:
        """Run the study until its trials are done.

        Raises Interrupted after a signal, and TrainingError if all workers ended before: of exit code 2 with the
        reason, as an error of the study, else a CrewLost.
        """
        (self.folder.path / "workers").mkdir(exist_ok=True)
        handlers = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._watch()
        finally:
            for member in self._members:
                if member.process.poll() is None:  # after an error of this process
                    member.process.kill()
                    member.process.wait()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _watch(self) -> None:
        began, known = time.monotonic(), {record.number for record in self.folder.records()}
        names = [f"{os.uname().nodename}-{number}" for number in range(self.workers)]
        logs = [self.folder.path / "workers" / f"{name}.log" for name in names]
        self._members = [_Member(name, log, self._start(name, log)) for name, log in zip(names, logs, strict=True)]
        minutes, over = self.folder.config.max_minutes, False
        with _table() as live:
            while any(self._running()):
                time.sleep(_PAUSE)
                ended = self._tell_ended(known, live)
                for member in self._members if ended != known else ():
                    member.restarts = 0
                known = ended
                self._tell_gone(may_restart=not over and self._stop is None)
                if minutes is not None and not over and time.monotonic() - began > minutes * 60:
                    over = True
                    self.say(f"max_minutes: {minutes:g} are over; trials at work go to their next checkpoint")
                    self._signal(signal.SIGTERM)
        self._tell_ended(known, None)
        if self._stop is not None:
            raise Interrupted(130 if self._stop == signal.SIGINT else 143, "stopped")
        if over:
            return
        if not any(member.code == 0 for member in self._members):
            self._refuse()

    def _running(self) -> Iterator[_Member]:
        return (member for member in self._members if member.code is None)

    def _start(self, name: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            return subprocess.Popen(
                [*self.command, str(self.folder.path), name],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={
                    **worker_environment(self.workers, self.folder.config.storage, os.environ),
                    PARENT: str(os.getpid()),
                },
                start_new_session=True,  # Ctrl-C of a terminal comes to this process alone, which passes it on
            )

    def _tell_ended(self, known: set[int], live: Live | None) -> set[int]:
        """Print a line for each trial that has ended since, or update the table. Returns those known now."""
        names = {int(p.name) if p.name.isdecimal() else DEFAULT_TRIAL for p in self._result_folders()}
        if not names - known and live is None:
            return known
        records = self.folder.records()
        if live is not None:
            leases = Leases(self.folder.leases, "").holders()
            live.update(progress_table(self.folder, records, leases), refresh=True)
        else:
            new = sorted((one for one in records if one.number in names - known), key=lambda one: one.ended)
            for record in new:
                self.say(progress_line(self.folder, record, records))
        return names

    def _result_folders(self) -> list[Path]:
        return [path.parent for path in self.folder.path.glob("trials/*/result.json")]

    def _tell_gone(self, may_restart: bool) -> None:
        """Print a line for each worker that ended by a fault, and start it anew, unless that was tried often enough."""
        may_restart &= not any(member.code in (0, _OF_THE_STUDY) for member in self._members)
        for member in list(self._running()):
            code = member.process.poll()
            if code is None or (member.due is not None and may_restart and time.monotonic() < member.due):
                continue
            if member.due is not None and may_restart:
                member.process, member.due = self._start(member.name, member.log), None
                continue
            if member.due is not None or code in (0, *_STOPPED):
                member.code = code
                continue
            if code != _OF_THE_STUDY and may_restart and member.restarts < MOST_RESTARTS:
                self._put_off(member, code)
                continue
            member.code = code
            others = sum(1 for _ in self._running())
            rest = f"{others} go on" if others else "none is left"
            self.say(f"worker {member.name} ended {_said(code)}; {rest}. Its log: {member.log}")

    def _put_off(self, member: _Member, code: int) -> None:
        pause = self.backoff * 2**member.restarts
        member.restarts, member.due = member.restarts + 1, time.monotonic() + pause
        self.say(
            f"worker {member.name} ended {_said(code)}; it starts anew in {pause:g} s ({member.restarts} of "
            f"{MOST_RESTARTS} times until a trial ends). Its log: {member.log}"
        )

    def _refuse(self) -> None:
        again = f"Go on with: foretrain tune resume {self.folder.path}"
        for member in self._members:
            if member.code == 2 and (reason := _last_error(member.log)):
                raise ForetrainError(reason)
        codes = ", ".join(f"{member.name} {_said(member.code or 0)}" for member in self._members)
        raise CrewLost(
            f"all workers ended before the study did: {codes}. Their logs: {self.folder.path}/workers. {again}"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._stop = self._stop is not None, number
        self._signal(signal.SIGKILL if again else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for member in self._running():
            if member.process.poll() is None:
                member.process.send_signal(number)


class CrewLost(TrainingError):
    """All workers ended by no fault that they could name."""


def worker_environment(workers: int, storage: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: the cores are divided, unless the user says how many threads it has."""
    found = dict(environment)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if storage is not None:
        found[STORAGE] = storage
    return found


@contextmanager
def _table() -> Iterator[Live | None]:
    """Yield a table that is drawn anew on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    beside: dict[str, Any] = BESIDE_PRINTABLE
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True, **beside) as live:
        yield live


def _said(code: int) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with code {code}"


def _last_error(log: Path) -> str | None:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-50:]
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not errors:
        return None
    rest = [line for line in lines[errors[-1] + 1 :] if line.startswith("  ")]
    return "\n".join([lines[errors[-1]].removeprefix("error: "), *rest])
