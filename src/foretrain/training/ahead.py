"""Processes that make micro-batches ahead of the training, which would otherwise share its interpreter lock with them.

A worker is a Python of its own with a pipe to the rank that started it; it imports neither torch nor the user's script.
It holds no state that matters, as a micro-batch follows from its number. It ends when the pipe is closed, so also when
the rank is killed, and leaves signals to the rank, which finishes its step first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import foretrain
from foretrain.data.buckets import MicroBatches
from foretrain.data.windows import Windows
from foretrain.distributed.watch import STOPPING
from foretrain.errors import ForetrainError, TrainingError

_AHEAD = 4  # micro-batches that each worker makes ahead
_SECONDS = 10  # a worker has to end after its pipe was closed
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    pipe: Connection


class AheadOfTraining:
    """Iterates over the micro-batches of the given numbers, made by processes. Close it when done.

    Raises what making one raised, and TrainingError if a worker was killed.
    """

    def __init__(self, stream: MicroBatches, numbers: Iterator[int], workers: int) -> None:
        """stream must be picklable."""
        self._numbers = numbers
        self._asked: deque[_Worker] = deque()  # a worker for each micro-batch that is awaited, in order
        self._workers = [_start() for _ in range(workers)]
        for worker in self._workers:
            _send(worker, stream)
        for _ in range(_AHEAD):
            for worker in self._workers:
                self._ask(worker)

    def __iter__(self) -> AheadOfTraining:
        return self

    def __next__(self) -> Windows:
        """Return the next micro-batch."""
        if not self._asked:
            raise StopIteration
        worker = self._asked.popleft()
        try:
            found = worker.pipe.recv()
        except (EOFError, OSError):
            raise _lost(worker) from None
        self._ask(worker)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            try:
                worker.process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []

    def _ask(self, worker: _Worker) -> None:
        for number in self._numbers:
            _send(worker, number)
            self._asked.append(worker)
            return


def _start() -> _Worker:
    here, there = Pipe()
    package = str(Path(foretrain.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "foretrain.training.ahead", str(there.fileno())]
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": path}
    # A child begins with the signals that are blocked here: it ends for none of them, not even while it starts, where
    # a scheduler sends them to all processes of a job.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        process = subprocess.Popen(
            command, pass_fds=[there.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    return _Worker(process, here)


def _send(worker: _Worker, message: Any) -> None:
    try:
        worker.pipe.send(message)
    except OSError:
        raise _lost(worker) from None


def _lost(worker: _Worker) -> TrainingError:
    code = worker.process.poll()
    return TrainingError(
        f"a process that generates series ended{'' if code is None else f' with exit code {code}'}, perhaps for want "
        "of memory. Resume the run, if need be with data.generated.workers=0."
    )


def serve(pipe: Connection) -> None:
    """Make the micro-batches that are asked for through the pipe until it is closed."""
    ready: SimpleQueue[Windows | Exception] = SimpleQueue()
    Thread(target=_deliver, args=(pipe, ready), daemon=True).start()  # so that the next one is made meanwhile
    with contextlib.suppress(EOFError, OSError):
        stream = pipe.recv()
        while True:
            number = pipe.recv()
            try:
                found = stream.windows(number)
            except (ForetrainError, OSError, MemoryError) as error:
                found = error
            ready.put(found)


def _deliver(pipe: Connection, ready: SimpleQueue[Windows | Exception]) -> None:
    with contextlib.suppress(OSError):
        while True:
            pipe.send(ready.get())


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
