"""Commands as forks of this process, and damage to files beside them; for race_files.py."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120  # of a command; what takes longer hangs


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    command: tuple[str, ...]
    code: int  # of a signal: its number, negative
    said: str  # stdout and stderr

    @property
    def done(self) -> bool:
        return self.code == 0

    @property
    def fault(self) -> str | None:
        """What is wrong with the end of the command, None if it succeeded or was refused as it should."""
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        if "Traceback" in self.said:
            return "a traceback"
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        return f"{len(errors)} lines of errors" if len(errors) != (self.code == 2) else None


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


# What happens to a shard under its readers, in the place of a command
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "overwrite": _overwrite,
    "delete": Path.unlink,
    "replace": lambda path: os.replace(path.parents[1] / "another", path),
}


def started(command: Sequence[str], folder: Path, said: Path, delay: float) -> int:
    """Fork a process that runs a command in a folder after a delay; return its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.alarm(SECONDS)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        tempfile.tempdir = str(folder / "tmp")
        time.sleep(delay)
        if command[0] in DAMAGE:
            time.sleep(float(command[2]))
            DAMAGE[command[0]](Path(command[1]))
            os._exit(0)
        sys.argv = ["foretrain", *command]
        from foretrain.cli import main

        try:
            main()
            code = 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        atexit._run_exitfuncs()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def raced(commands: Sequence[Sequence[str]], folder: Path, delays: Sequence[float]) -> list[Ended]:
    """Run commands at once, each after its delay; return how they ended."""
    (folder / "tmp").mkdir(exist_ok=True)
    outputs = [folder.parent / f"said-{k}.txt" for k in range(len(commands))]
    for output in outputs:
        output.unlink(missing_ok=True)
    pids = [started(*parts) for parts in zip(commands, [folder] * len(commands), outputs, delays, strict=True)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return [
        Ended(tuple(command), code, output.read_text("utf-8", "replace") if output.exists() else "")
        for command, code, output in zip(commands, codes, outputs, strict=True)
    ]


def alone(command: Sequence[str], folder: Path) -> Ended:
    """Run one command; it must succeed."""
    ended = raced([command], folder, [0.0])[0]
    assert ended.done, f"{command}: {ended.said}"
    return ended
