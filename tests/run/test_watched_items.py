"""Every window that runs read, in two processes and through a kill and a resume: none is of a symbol that is unseen or
held out, and none touches its symbol's cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.data.market.folders import bars, days, write
from tests.waiting import run_command

from foretrain.data.cuts import read_cuts
from foretrain.data.market.library import build
from foretrain.data.store import Corpus
from foretrain.timeaxis.frequency import DAY

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).with_name("watched_items.py")
HELD, UNSEEN = {"stock1", "coin2"}, {"stock2", "coin3"}
RUNS = ("killed", "resumed", "alone")


class Watched(NamedTuple):
    """What the processes of each start read: (rank, purpose, corpus, item, newest stamp)."""

    codes: dict[str, list[int]]
    windows: dict[str, list[tuple[int, str, str, str, int]]]
    cuts: dict[tuple[str, str], tuple[int, int]]  # (corpus, item) -> validation, test


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Watched:
    root = tmp_path_factory.mktemp("watched")
    for k in range(5):
        write(root / "in" / f"stock{k}.csv", bars(days(150 + 10 * k), k))
        write(root / "in" / f"coin{k}.csv", bars(days(170 - 10 * k, business=False, start="2022-02-01"), 10 + k))
    build(root / "in", root / "lib", held_out=",".join(sorted(UNSEEN)))
    run = {
        "model": {"family": "linear", "random_init": True},
        "data": {
            "corpora": [{"path": str(root / "lib" / freq)} for freq in ("B", "D")],
            "context_length": 16, "prediction_length": 4,
            "validation_from": "library", "test_from": "library", "embargo": "3D",
            "holdout_items": sorted(HELD),
        },
        "training": {
            "max_steps": 12, "batch_size": 8, "micro_batch_size": 2, "validate_every": 4, "checkpoint_every": 2,
            "tensorboard": False,
        },
        "evaluation": {"promotion": True, "require_significance": False},
        "device": "cpu", "threads": 1,
    }  # fmt: skip
    (root / "run.json").write_text(json.dumps(run))
    done = run_command([sys.executable, str(SCRIPT), str(root)])
    assert done.returncode == 0, done.stdout[-3000:]
    windows = {
        path.name: [
            (int(file.name.split("-")[1]), *json.loads(line))
            for file in sorted(path.iterdir())
            for line in file.read_text().splitlines()
        ]
        for path in (root / "logs").iterdir()
    }
    cuts = {}
    for freq in ("B", "D"):
        corpus = Corpus.open(root / "lib" / freq)
        for item, own in read_cuts(corpus.path, corpus.manifest.cuts).items():
            assert own.validation_from is not None and own.test_from is not None
            cuts[freq, item] = own.validation_from, own.test_from
    print(done.stdout[-3000:])  # tracebacks, if a process failed
    return Watched(json.loads(done.stdout.splitlines()[-1]), windows, cuts)


def wrong(watched: Watched, run: str) -> set[str]:
    """The items of a run's windows that break a rule: not to be seen, or newer than what training may read."""
    found = set[str]()
    for _, purpose, corpus, item, newest in watched.windows[run]:
        hidden = item in HELD | UNSEEN or (corpus, item) not in watched.cuts
        late = not hidden and purpose == "train" and newest >= watched.cuts[corpus, item][0] - 3 * DAY
        found |= {item} if hidden or late else set()
    return found


def test_no_process_reads_a_window_of_a_hidden_symbol_or_behind_a_cut_through_a_kill_and_a_resume(watched: Watched):
    assert watched.codes == {"killed": [-9, -9], "resumed": [0, 0], "alone": [0], "fault": [0, 0]}
    everything = {item for _, item in watched.cuts}
    assert not UNSEEN & everything and everything > HELD
    for run in RUNS:
        assert not wrong(watched, run)
        trained = {(rank, item) for rank, purpose, _, item, _ in watched.windows[run] if purpose == "train"}
        assert {rank for rank, _ in trained} == set(range(len(watched.codes[run]))), "every process is watched"
        assert {item for _, item in trained} == everything - HELD, "and reads windows of all other symbols"
    for run in ("resumed", "alone"):
        assert {item for _, purpose, _, item, _ in watched.windows[run] if purpose == "score"} == everything - HELD


def test_a_held_out_symbol_that_is_let_in_is_found(watched: Watched):
    """The fault that the test above looks for, planted: lists of items that choose everything."""
    assert wrong(watched, "fault") == HELD
