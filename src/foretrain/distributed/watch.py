"""A thread beside the loop of each process, which notices that the run hangs and ends it in one line.

The loop says where it is (`tick`). A rank that stays in one place for longer than the deadline of its phase says so on
a board that all ranks read, a store of the process group. Every rank then writes the stacks of its threads into the run
folder and its place on the board. All ranks make the same exchanges in the same order, so that the one with the fewest
is the one that the others wait for. The thread needs nothing of the main thread but Python's lock.

It also passes on signals: where one rank is told to stop, the others hear of it while they compute.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import Field

from foretrain.atomic import replacing_file, write_text
from foretrain.config import FREE, Section
from foretrain.errors import Interrupted, TrainingError

Phase = Literal["step", "evaluation"]
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)  # signals that a run stops for
_USUAL = {"step": 30.0, "evaluation": 120.0}  # minutes
_LOOK = 0.5  # seconds between two looks at the board
_SUSPENDED = 10.0  # seconds without a look, after which the process must have been stopped
_ANSWER = 5.0  # seconds that a rank has to say where it is
_WRITE = 10.0  # seconds for the stacks, which a disk may never take
_LEAVE = 5.0  # seconds for the main thread to leave where another rank has left
_LEAST_MINUTES = 1e-3  # what is shorter would end every run


class Deadlines(Section):
    """Minutes after which a run that does not get on is ended.

    null is the usual number, with one difference: a single process then writes its stacks, but is not ended.
    """

    start: Annotated[float, FREE] = Field(default=10, ge=_LEAST_MINUTES)  # until all processes have joined
    # for a micro-batch of a step, and for the processes to wait for each other in it; null = 30
    step: Annotated[float | None, FREE] = Field(default=None, ge=_LEAST_MINUTES)
    # the same for all else: preparation, the first step, which may compile, validations, checkpoints; null = 120
    evaluation: Annotated[float | None, FREE] = Field(default=None, ge=_LEAST_MINUTES)

    def seconds(self, phase: Phase) -> float:
        """Return the deadline of a phase in seconds."""
        given = getattr(self, phase)
        return 60 * (_USUAL[phase] if given is None else given)


RESUME = "with --resume; checkpoints so far are intact"  # how to start a training again


class Board(Protocol):
    """What ranks say to each other beside collectives. Its methods raise OSError if it cannot be reached."""

    def put(self, key: str, text: str) -> None:
        """Leave a text under a key."""
        ...

    def read(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the texts of those keys that have one."""
        ...


class Place(NamedTuple):
    """Where the loop of a rank is, and since when (time.monotonic())."""

    exchanges: int  # that it has begun: the same ones on every rank
    ticks: int  # since then
    what: str
    since: float


class Leaver(NamedTuple):
    """A rank that has left the run, without which the others cannot go on."""

    rank: int
    code: int  # its exit code: 2 after an error, else that of a signal
    why: str

    def error(self, size: int) -> BaseException:
        """Return the error that the other ranks raise."""
        if self.code == 2:
            return TrainingError(f"rank {self.rank} of {size} failed: {self.why}")
        return Interrupted(self.code, f"rank {self.rank} of {size} left for a signal")


class Standing(NamedTuple):
    """What a rank says of its place when the run hangs."""

    exchanges: int
    ticks: int
    where: str
    seconds: float


class Watchdog:
    """Where the loop of this process is, and the thread that watches it while it runs (`running`)."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        deadlines: Deadlines | None = None,
        board: Board | None = None,
        again: str = RESUME,
    ) -> None:
        self.rank, self.size, self.deadlines, self.board = rank, size, deadlines or Deadlines(), board
        self.again = again  # how to start again: the end of a sentence
        self._from_config = deadlines is not None
        self.folder: Path | None = None  # the run's, for the stacks
        self.phase: Phase = "evaluation"
        self.step: int | None = None  # that is being computed
        # entered by what ranks do on their own between two exchanges
        self.own_work: Callable[[], AbstractContextManager[object]] = nullcontext
        self.last_acts: list[Callable[[], object]] = []  # before the thread ends the process
        self._place = Place(0, 0, "starting", time.monotonic())
        self._looked = self._resumed = self._place.since
        self._warned: Place | None = None
        self.leaver: Leaver | None = None
        self._left = 0.0  # when it was heard of
        self._receiver: Callable[[int], None] | None = None
        self._turn = 0  # of receivers, so that a signal is none of a later run
        self._passed = -1  # the last turn in which a signal was passed on
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = self._judging = False

    def tick(self, what: str) -> None:
        """Say that the loop gets on, and what it does next."""
        at = self._place
        self._place = Place(at.exchanges, at.ticks + 1, what, time.monotonic())

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Say that the loop waits for the other ranks."""
        before = self._place
        self._place = Place(before.exchanges + 1, 0, "waiting for the other ranks", time.monotonic())
        yield
        self._place = Place(before.exchanges + 1, 1, before.what, time.monotonic())

    def enter(self, phase: Phase) -> None:
        """Say that another phase begins, whose deadline counts from now."""
        self.phase = phase
        self.tick(self._place.what)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the thread run inside the block, if it does not run already."""
        if self._thread is not None:
            yield
            return
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start the thread."""
        self.tick(self._place.what)
        self._looked = self._resumed = time.monotonic()
        self._ending = False
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._former = -1
        if threading.current_thread() is threading.main_thread():
            # the kernel's handler writes there, also while the main thread waits in C for another rank
            self._former = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it runs."""
        thread, self._thread = self._thread, None
        if thread is not None and self._judging and thread is not threading.current_thread():
            thread.join(3 * _ANSWER)  # it is about to end this process, and knows better why
        self._ending = True
        if thread is None:
            return
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._former)
        with suppress(OSError):
            self._waker.send(b"\0")
        if thread is not threading.current_thread():
            thread.join(_LOOK)  # it may wait for a board that is gone
        if not thread.is_alive():
            self._wake.close()
            self._waker.close()

    @contextmanager
    def broken_off_by(self, own_work: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
        """Let a context manager break off, in the block, what ranks do on their own between two exchanges."""
        self.own_work = own_work
        try:
            yield
        finally:
            self.own_work = nullcontext

    @contextmanager
    def listening(self, receiver: Callable[[int], None]) -> Iterator[None]:
        """Call receiver with the number of a signal that another rank gets inside the block, in the thread."""
        self._listen(receiver)
        try:
            yield
        finally:
            self._listen(None)

    def _listen(self, receiver: Callable[[int], None] | None) -> None:
        with self._lock:
            self._receiver = receiver
            self._turn += 1

    def _run(self) -> None:
        pause = min(_LOOK, *(self.deadlines.seconds(phase) / 4 for phase in ("step", "evaluation")))
        while not self._ending:
            ready, _, _ = select.select([self._wake], [], [], pause)
            numbers = self._wake.recv(64) if ready else b""
            if self._ending:
                return
            at = self._place
            waited = self.waited(at, time.monotonic())
            late = waited > self.deadlines.seconds(self.phase)
            if self.board is None:
                if late:
                    self._alone(at, waited)
                continue
            try:
                self._with_others(self.board, late, [number for number in numbers if number in STOPPING])
            except OSError:
                if late:
                    self._end(f"the store of the run cannot be reached, and {self._standing().where} nothing comes.")

    def waited(self, at: Place, now: float) -> float:
        """Return the seconds that the loop has been in a place, as of a look now, since it was last suspended."""
        if now - self._looked > _SUSPENDED:  # as a scheduler or Ctrl-Z does: the run could not get on
            self._resumed = now
        self._looked = now
        return now - max(at.since, self._resumed)

    def _alone(self, at: Place, waited: float) -> None:
        """Write the stacks of a single process that does not get on, once; end it if its deadline was given."""
        if self._warned is at:
            return
        self._warned = at
        where = self._write_stacks()
        text = f"the run does not get on: {_standing(at, self.step).where} for {_span(waited)}{self._rule()}"
        if getattr(self.deadlines, self.phase) is not None:
            self._end(f"{text}.{where} Start again {self.again}.")
        _say(f"warning: {text}.{where} A single process is ended only where a config gives deadlines.{self.phase}.")

    def _with_others(self, board: Board, late: bool, numbers: list[int]) -> None:
        """Exchange what is said on the board."""
        with self._lock:
            key = f"signal/{self._turn}"
            if numbers:
                self._passed = self._turn
                board.put(key, str(numbers[0]))
            said = board.read([key, "hang", "left"])
            if key in said and self._passed != self._turn:
                self._passed = self._turn
                self._pass_on(int(said[key]))
        if "left" in said and self.leaver is None:
            self.leaver, self._left = Leaver(*json.loads(said["left"])), time.monotonic()
            board.put(f"read/{self.rank}", "")
        if self.leaver is not None and time.monotonic() - self._left > _LEAVE:
            self._end(str(self.leaver.error(self.size)) if self.leaver.code == 2 else "", self.leaver.code)
        if late and "hang" not in said:
            board.put("hang", str(self.rank))
        if late or "hang" in said:
            self._hang(board)

    def _pass_on(self, number: int) -> None:
        """Let this process have the signal that another rank has got, where a handler waits for it."""
        if self._receiver is not None:
            self._receiver(number)
        elif callable(signal.getsignal(number)):
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _hang(self, board: Board) -> None:
        """Say where this rank is, write its stacks, and end it with the line about the rank that hangs."""
        phase, own, self._judging = self.phase, self._standing(), True
        board.put(f"standing/{self.rank}", json.dumps(own))
        stacks = self._write_stacks()
        found = _gathered(board, "standing", range(self.size))
        standings = {rank: Standing(*json.loads(text)) for rank, text in found.items()}
        line = f"{who_hangs(standings, self.size)}{self._rule(phase)}.{stacks} Start again {self.again}."
        with suppress(OSError):  # rank 0 may serve the board, and one that leaves would be missed by the others
            board.put(f"judged/{self.rank}", "")
            _gathered(board, "judged", standings)
        self._end(line)

    def _standing(self) -> Standing:
        return _standing(self._place, self.step)

    def _rule(self, phase: Phase | None = None) -> str:
        phase = phase or self.phase
        named = f"deadlines.{phase}:" if self._from_config else "the deadline is"
        return f" ({named} {self.deadlines.seconds(phase) / 60:.3g} minutes)"

    def _write_stacks(self) -> str:
        """Write the stacks of all threads; return the sentence that says where they are."""
        if self.folder is None:
            return ""
        path = self.folder / "stacks" / f"rank-{self.rank}.txt"
        standing = self._standing()
        text = f"{datetime.now().astimezone().isoformat(timespec='seconds')} rank {self.rank} of {self.size}: "
        text += f"{standing.where} for {_span(standing.seconds)}\n{stacks()}"
        failed: list[OSError] = []

        def write() -> None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing_file(path) as scratch:
                    write_text(scratch, text)
            except OSError as error:
                failed.append(error)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(_WRITE)  # the disk may be what hangs
        if failed or writer.is_alive():
            return f" Its stacks could not be written to {path}."
        each = path.parent if self.size > 1 else path
        return f" The stacks of its threads are in {each}."

    def _end(self, line: str, code: int = 2) -> None:
        """End the process from this thread: the main one may wait for ever."""
        if self._ending:
            return
        for act in self.last_acts:
            with suppress(Exception):
                act()
        if line:
            _say(f"error: {line}")
        os._exit(code)


def who_hangs(standings: dict[int, Standing], size: int) -> str:
    """Return which rank of a run hangs, and where, by what those who answer say of their places."""
    if silent := [rank for rank in range(size) if rank not in standings]:
        named = f"rank {silent[0]}" if len(silent) == 1 else f"one of ranks {', '.join(map(str, silent))}"
        return f"{named} of {size} does not answer: it hangs, or its machine or network is gone"
    least = min(standing[:2] for standing in standings.values())
    behind = [rank for rank, standing in standings.items() if standing[:2] == least]
    where, seconds = standings[behind[0]].where, max(standings[rank].seconds for rank in behind)
    if len(behind) == 1:
        return f"rank {behind[0]} of {size} hangs: {where} for {_span(seconds)}"
    return f"ranks {', '.join(map(str, behind))} of {size} hang: {where} for {_span(seconds)}"


def stacks() -> str:
    """Return the stacks of all threads of this process, the main one first."""
    main, names = threading.main_thread().ident, {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    return "\n".join(
        f"thread {names.get(number, number)}\n{''.join(traceback.format_stack(frame))}" for number, frame in frames
    )


def _standing(at: Place, step: int | None) -> Standing:
    where = f"{at.what} at step {step:,}" if step is not None else at.what
    return Standing(at.exchanges, at.ticks, where, time.monotonic() - at.since)


def _gathered(board: Board, key: str, ranks: Iterable[int]) -> dict[int, str]:
    """Return what ranks have left under a key, waiting for all of them for some seconds."""
    end, keys = time.monotonic() + _ANSWER, {f"{key}/{rank}": rank for rank in ranks}
    while True:
        found = board.read(list(keys))
        if len(found) == len(keys) or time.monotonic() > end:
            return {keys[name]: text for name, text in found.items()}
        time.sleep(0.05)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _say(line: str) -> None:
    """Write a line to stderr, past Python's own buffer, whose lock the main thread may hold."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="replace"))
