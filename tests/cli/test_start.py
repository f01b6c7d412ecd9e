"""What a command does before its work: what it imports, counted, as seconds depend on the machine's load."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.waiting import DEADLINE

from foretrain.cli.start import importing

# Modules that a name imports, at most; measured with Python 3.11 to 3.13, with a third to spare.
LIGHT = {"foretrain": 40, "foretrain.cli": 170, "foretrain.run.shipped": 100}


@pytest.mark.processes
@pytest.mark.parametrize("name", LIGHT)
def test_what_starts_quickly_imports_few_modules(name: str):
    """0.02 s for the package and 0.09 s for the command on a quiet machine."""
    code = f"import sys; before = len(sys.modules); import {name}; print(len(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert int(done.stdout) <= LIGHT[name]


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["config", "list"]])
def test_help_and_the_list_of_configs_import_nothing_heavy(arguments: list[str]):
    code = (
        f"import sys; sys.argv[1:] = {arguments}\nfrom foretrain.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'datasets', 'scipy'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_a_slow_import_is_announced_on_the_first_rank_alone(capsys, monkeypatch):
    for rank, patience in (("0", 60.0), ("1", 0.0), ("0", 0.0)):
        assert capsys.readouterr().out == ""
        monkeypatch.setenv("RANK", rank)
        with importing(patience):
            time.sleep(0.05)
    assert capsys.readouterr().out == "importing PyTorch (a first time, or a busy disk, takes longer) ...\n"
