"""One command in a process of its own, forked after the imports, whose n-th file operation fault_shim.c disturbs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("fault_shim.c")
CPU_SECONDS, SECONDS = 60, 3600  # of a command; the second one also ends one that waits for ever


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code (negative: by a signal) and what it printed."""

    code: int
    text: str

    def wrong(self, folder: Path, may_be_killed: bool) -> str | None:
        """Return what is wrong about how a disturbed command ended."""
        reports = [*folder.rglob("foretrain-error-*")]
        if reports or "Traceback" in self.text:
            body = reports[0].read_text() if reports else self.text
            frames = [line.strip() for line in body.splitlines() if "/foretrain/" in line]
            for path in reports:
                path.unlink()
            return f"traceback: {frames[-1] if frames else ''} {self.text.strip().splitlines()[-1:]}"
        if self.code == -signal.SIGKILL and may_be_killed:
            return None
        errors = [line for line in self.text.splitlines() if line.startswith("error: ")]
        if (self.code, len(errors)) not in ((0, 0), (2, 1)):
            return f"exit code {self.code}: {self.text.strip()[-300:]!r}"
        return None


def compiled(folder: Path) -> Path:
    """Build the shim; SystemExit where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("no C compiler (cc, gcc, clang) is in the PATH: file operations cannot be disturbed")
    library = folder / "fault_shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def run(
    words: list[str],
    folder: Path,
    fault: tuple[str, int, int, int] | None = None,
    log: int = -1,
    modules: Path | None = None,
) -> End:
    """Run a command in a fork, in its folder. fault: (kind, n, errno, mode); n = 0 counts only.

    modules: a file for the names of the modules that the command imported, for import_found.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            signal.alarm(SECONDS)
            os.chdir(folder)
            tempfile.tempdir = str(folder / "tmp")
            sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(write), "wb"), "utf-8") for _ in range(2))
            sys.argv = ["foretrain", *words]
            from foretrain.cli import main

            known = set(sys.modules)
            if fault is not None:
                kind, number, error, mode = fault
                arm = ctypes.CDLL(None).fault_arm
                arm.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 1, ctypes.c_char, ctypes.c_long, *[ctypes.c_int] * 2]
                arm(os.fsencode(folder), log, kind.encode(), number, error, mode)
            try:
                main()
                code = 0
            except SystemExit as leave:
                code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
            if modules is not None:
                modules.write_text("\n".join(set(sys.modules) - known))
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode("utf-8", "replace")
    return End(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text)


def import_all() -> None:
    """Import what commands import, so that forks need not, and let typer build its commands once."""
    import torch
    import torch._dynamo
    import typer.main

    import foretrain.cli.commands
    import foretrain.cli.quick_steps
    import foretrain.evaluation.candles
    import foretrain.evaluation.plots
    import foretrain.evaluation.report
    import foretrain.run.export
    import foretrain.run.pipeline
    import foretrain.run.quick  # noqa: F401
    from foretrain.cli.app import app

    torch.set_num_threads(1)
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)


def import_found(modules: Path) -> None:
    """Import what the last command imported; keep garbage collections from copying the pages of what is there."""
    for name in sorted(modules.read_text().split()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    modules.unlink()
    gc.collect()
    gc.freeze()
