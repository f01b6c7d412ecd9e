"""The tiers of the suite: what they leave out, what they print last, and their exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiers import SLOW, TIERS, Part, exit_code, run

ROOT = Path(__file__).parents[1]
PARTS = (Part("first", "not processes"), Part("second", "processes"))


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Function that makes a suite of the given tests, in which tiers then run."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = processes\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")

    def make(*tests: str) -> None:
        (tmp_path / "test_all.py").write_text("import pytest\n" + "\n".join(tests))

    return make


def test_what_the_quick_tier_leaves_out_exists():
    assert not [path for path in SLOW if not (ROOT / path).exists()]


def test_the_quick_tier_has_tests_of_every_package():
    left_out = {ROOT / path for path in SLOW}
    for folder in {path.parent for path in (ROOT / "tests").rglob("test_*.py")} - {ROOT / "tests" / "gpu"}:
        if folder.name != "parity":
            assert set(folder.glob("test_*.py")) - left_out, folder


def test_the_parts_of_the_whole_suite_share_its_tests_between_them():
    parallel, serial = (part.marks for part in TIERS["test"])
    assert (parallel, serial) == ("not (processes or parity or gpu)", "processes and not (parity or gpu)")


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((0, 5), 0), ((5, 5), 5), ((5, 2), 2), ((0, 3), 3)]
)
def test_the_exit_code_is_that_of_a_part_which_failed(codes, expected):
    assert exit_code(codes) == expected


def test_a_process_that_a_test_starts_without_the_marker_is_refused():
    for start in (lambda: subprocess.run([sys.executable, "-c", ""], check=True), os.fork):
        with pytest.raises(RuntimeError, match="starts a process"):
            start()


@pytest.mark.processes
@pytest.mark.parametrize("broken", [None, "first", "second"])
def test_the_last_line_counts_all_parts(suite, capfd, broken):
    suite(
        "def test_one(): pass",
        "@pytest.mark.skip(reason='no disk')\ndef test_two(): pass",
        f"def test_three(): assert {broken != 'first'}",
        f"@pytest.mark.processes\ndef test_four(): assert {broken != 'second'}",
    )
    assert run(PARTS) == (1 if broken else 0)
    last = capfd.readouterr().out.splitlines()[-1]
    assert ("1 failed, 2 passed, 1 skipped in " if broken else " 3 passed, 1 skipped in ") in last


@pytest.mark.processes
def test_a_selection_within_one_part_is_no_failure_of_the_other(suite, capfd):
    suite("def test_one(): pass", "@pytest.mark.processes\ndef test_two(): pass")
    assert run(PARTS, ["-k", "one"]) == 0
    assert " 1 passed in " in capfd.readouterr().out.splitlines()[-1]
    assert run(PARTS, ["-k", "none"]) == 5
    assert " exit code 5 in " in capfd.readouterr().out.splitlines()[-1]
