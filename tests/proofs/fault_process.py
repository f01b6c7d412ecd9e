"""One command in a process of its own, forked after the imports, whose n-th file operation fault_shim.c disturbs."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from fault_shim import End, arm, forked


def run(
    words: list[str],
    folder: Path,
    fault: tuple[str, int, int, int] | None = None,
    log: int = -1,
    modules: Path | None = None,
) -> End:
    """Run a command in a fork, in its folder, and disturb it as arm says.

    modules: a file for the names of the modules that the command imported, for import_found.
    """

    def work() -> None:
        os.chdir(folder)
        tempfile.tempdir = str(folder / "tmp")
        sys.argv = ["foretrain", *words]
        from foretrain.cli import main

        known = set(sys.modules)
        if fault is not None:
            arm(folder, fault, log)
        code: int | str | None = 0
        try:
            main()
        except SystemExit as leave:
            code = leave.code
        if modules is not None:
            modules.write_text("\n".join(set(sys.modules) - known))
        raise SystemExit(code)

    return forked(work)


def import_all() -> None:
    """Import what commands import, so that forks need not, and let typer build its commands once."""
    import torch
    import torch._dynamo
    import typer.main
    from fuzzing.studies import in_process

    import foretrain.cli.commands
    import foretrain.cli.quick_steps
    import foretrain.evaluation.candles
    import foretrain.evaluation.plots
    import foretrain.evaluation.report
    import foretrain.run.export
    import foretrain.run.pipeline
    import foretrain.run.quick  # noqa: F401
    from foretrain.cli.app import app

    if importlib.util.find_spec("optuna") is not None:
        in_process()  # or workers would be processes that nothing disturbs

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
