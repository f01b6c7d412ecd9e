"""Run tutorials as they stand, and print what their commands print and how long they take.

python tests/proofs/tutorials.py [NAME ...]      # practitioner, quant, researcher; all: about 12 minutes of two cores

Everything happens in scratch folders, offline, by a shell that stops at the first command that fails. The exit code is
that of the first page that failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.tutorials import PAGES, ROOT, blocks, is_printed

# `foretrain`, `python` and `torchrun` are those of this interpreter and checkout, installed or not.
TOOLS = {"foretrain": "-m foretrain.cli", "python": "", "torchrun": "-m torch.distributed.run"}


def run(page: Path) -> int:
    """Run a page and return the exit code of its first failing command, or 0."""
    with tempfile.TemporaryDirectory(prefix=f"tutorial-{page.stem}-") as folder:
        scratch = Path(folder)
        tools, work = scratch / "bin", scratch / "work"
        tools.mkdir()
        work.mkdir()
        for name, module in TOOLS.items():
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (tools / name).chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "HF_HUB_OFFLINE": "1",
        }
        for block in blocks(page.read_text()):
            printed: list[str] = []
            for command in block.commands:
                words = command.line.split()
                if words[0] == "export":
                    environment |= dict(word.split("=", 1) for word in words[1:])
                    continue
                start = time.monotonic()
                done = subprocess.run(
                    ["bash", "-c", command.text], cwd=work, env=environment, text=True, check=False,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                print(f"\n$ {command.line}    ({time.monotonic() - start:.0f} s)\n{done.stdout}", flush=True)
                if done.returncode:
                    print(f"{page.name}: failed with exit code {done.returncode}")
                    return done.returncode
                printed += done.stdout.splitlines()
            for line in block.shown:
                if not is_printed(line, printed):
                    print(f"{page.name}: not printed: {line}")
    return 0


if __name__ == "__main__":
    chosen = [page for page in PAGES if page.stem in sys.argv[1:] or len(sys.argv) == 1]
    codes = [run(page) for page in chosen]
    sys.exit(next((code for code in codes if code), 0))
