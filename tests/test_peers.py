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
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("by_hand")


@pytest.fixture(scope="module")
def ended(folder) -> dict[str, dict[int, tuple[int, str, float]]]:
    """Of each case and rank: exit code, what it wrote to stderr, seconds until it had ended."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.by_hand", str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TORCH_CPP_LOG_LEVEL": "FATAL"},  # as the command sets it
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
        ("first fails", [1, 2], "error: rank 0 of 3 failed: item 'a' has 3 rows; needs 9."),
        ("fails", [1], "error: item 'a' has 3 rows; needs 9."),
        ("hangs", [0, 1], "error: rank 1 of 2 hangs: reading data at step 8 for "),
        ("freezes", [0], "error: rank 1 of 2 does not answer: it hangs, or its machine or network is gone (deadlines."),
        ("never starts", [0], "error: rank 0 of 3 cannot join the others at 127.0.0.1:"),
        ("never starts", [2], "error: rank 2 of 3 cannot join the others at 127.0.0.1:"),
        ("train", [0], f"error: rank 1 of 2 {GONE} with --resume; checkpoints so far are intact."),
        ("benchmark", [0], f"error: rank 1 of 2 {GONE} by the same command; finished tasks are kept."),
        (
            "train freezes",
            [0],
            "error: rank 1 of 2 does not answer: it hangs, or its machine or network is gone (deadl",
        ),
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


def test_of_a_start_that_hangs_who_did_not_come_is_named_and_the_address_in_use(ended):
    text = ended["never starts"][0][1]
    assert "rank 1 did not come within 0.0167 minutes. All 3 processes must start within" in text
    assert "this one does so from 127.0.0.1" in text


def test_every_rank_of_a_run_that_hangs_leaves_its_stacks(ended, folder):
    stacks = {rank: (folder / "hangs" / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)}
    assert "rank 1 of 2: reading data at step 8 for" in stacks[1]
    assert "time.sleep(3600)" in stacks[1]
    assert "world.all_reduce_sum(" in stacks[0]
    assert f"The stacks of its threads are in {folder / 'hangs' / 'stacks'}. Start again" in ended["hangs"][0][1]


def test_ranks_that_lose_one_to_a_signal_end_with_its_code(ended):
    assert [end[:2] for end in ended["first stopped"].values()] == [(143, "")] * 3


def test_a_single_process_that_hangs_leaves_its_stacks_and_is_ended_only_where_a_deadline_is_given(ended, folder):
    assert [ended[case][0][0] for case in ("alone", "alone and told")] == [0, 2]
    lines = [ended[case][0][1] for case in ("alone", "alone and told")]
    assert lines[0].startswith(
        "warning: the run does not get on: reading data for 1 s (deadlines.step: 0.0167 minutes)."
    )
    assert lines[1].startswith("error: the run does not get on: reading data for ")
    assert [line.count("\n") for line in lines] == [1, 1]
    for case in ("alone", "alone and told"):
        assert "time.sleep(4)" in (folder / case / "stacks" / "rank-0.txt").read_text()


def test_a_command_that_hangs_gives_its_lock_back_and_leaves_stacks(ended, folder):
    out = folder / "train freezes" / "run"
    assert "(deadlines.step: 0.2 minutes)" in ended["train freezes"][0][1]
    assert not (out / "run.lock").exists()
    assert "in fit" in (out / "stacks" / "rank-0.txt").read_text()


def test_rank_0_holds_the_lock_of_the_results_and_gives_it_back(ended, folder):
    holder, rank_0 = json.loads((folder / "benchmark" / "held.json").read_text())
    assert holder == rank_0
    assert not (folder / "benchmark" / "results").exists()


def test_a_wait_outside_of_steps_may_be_longer_than_one_in_a_step(ended):
    assert [end[:2] for end in ended["waits"].values()] == [(0, "")] * 2


def test_torch_prints_no_frames_of_its_own_in_several_processes(monkeypatch):
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "2"})
    prepare(None)
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "FATAL"
