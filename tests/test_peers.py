"""What the other ranks of a run say when one is gone, fails, hangs or never comes; started by hand, no torchrun."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

from foretrain.cli.options import prepare

pytestmark = pytest.mark.processes

BOUND = 60.0  # seconds until every rank has ended; takes less than one, collectives wait for half an hour


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, dict[int, tuple[int, str, float]]]:
    """Of each case and rank: exit code, what it wrote to stderr, seconds until it had ended."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.by_hand", str(tmp_path_factory.mktemp("by_hand"))],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"},  # as the command sets it
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(done.stdout)
    return {case: {int(rank): tuple(end) for rank, end in ranks.items()} for case, ranks in cases.items()}


GONE = "is gone: it was killed, as by a lack of memory, or failed, as its own output then says. Start all again"


@pytest.mark.parametrize(
    ("case", "survivors", "message"),
    [
        ("killed", [0, 2], f"error: rank 1 of 3 {GONE}"),
        ("first killed", [1, 2], f"error: rank 0 of 3 {GONE}"),
        ("fails", [0, 2], "error: rank 1 of 3 failed: item 'a' has 3 rows; needs 9."),
        ("fails", [1], "error: item 'a' has 3 rows; needs 9."),
        ("hangs", [0], "error: rank 1 of 2 does not answer: it hangs, or its machine or network is gone."),
        ("never starts", [0], "error: rank 0 of 2 cannot join the others at 127.0.0.1:"),
        ("train", [0], f"error: rank 1 of 2 {GONE}"),
    ],
)
def test_a_lost_rank_is_one_line_on_every_other_one_within_seconds(ended, case, survivors, message):
    for rank in survivors:
        code, text, seconds = ended[case][rank]
        assert text.startswith(message)
        assert text.count("\n") == 1
        assert (code, seconds < BOUND) == (2, True)


@pytest.mark.parametrize("case", ["saves", "saves meanwhile"])
def test_a_rank_lost_in_a_save_is_one_line_within_seconds_also_on_those_that_wait_for_others(ended, case):
    """Rank 0 must not ask ranks 1 and 3 whether they have failed too: they wait for it. They may miss it, too."""
    for rank in (0, 1, 3):
        code, text, seconds = ended[case][rank]
        named = re.fullmatch(rf"error: (?:one of ranks|rank) ([\d, ]+) of 4 {re.escape(GONE)}.*\n", text)
        assert named and {"2", "0"} & {*named[1].split(", ")}, text
        assert (code, seconds < BOUND) == (2, True)


def test_who_never_came_is_counted(ended):
    assert "1/2 clients joined. All 2 processes must start within" in ended["never starts"][0][1]


def test_torch_prints_no_frames_of_its_own_in_several_processes(monkeypatch):
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "2"})
    prepare(None)
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR"
