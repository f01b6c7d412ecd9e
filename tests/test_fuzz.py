"""Short, fixed runs of the proofs fuzz_files.py and hostile_inputs.py: refusals in one line, within limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import DEADLINE

PROOFS = Path(__file__).parent / "proofs"


def run(folder: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script in a folder; return the counts in its last line. Fails unless it ends with 0."""
    done = subprocess.run(
        [sys.executable, str(PROOFS / script), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.processes
def test_damaged_files_end_no_command_but_by_a_refusal_in_one_line(tmp_path: Path) -> None:
    """Those that once ended in a fault, and some new ones; the next call continues the log."""
    log, kept = tmp_path / "log.jsonl", tmp_path / "kept"
    arguments = ("--seed", "0", "--no-whole", "--log", str(log), "--keep", str(kept))
    counts = run(tmp_path, "fuzz_files.py", "--found", "--count", "12", *arguments)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert counts["inputs"] == len(lines) >= 27 and counts["refused"] > 10 and counts["fault"] == 0
    assert not kept.exists()
    assert max(line["n"] for line in lines) == counts["inputs"] - len([line for line in lines if line["n"] < 0]) - 1


@pytest.mark.processes
def test_inputs_that_ask_for_too_much_take_neither_time_nor_memory(tmp_path: Path) -> None:
    chosen = "npy,npz,gzip,yaml,override,config.json,safetensors,manifest,json,prediction_length,batch_size,model."
    counts = run(tmp_path, "hostile_inputs.py", "--only", chosen)
    assert counts["inputs"] > 20 and counts["faults"] == 0 and counts["most_mb"] <= 1024
