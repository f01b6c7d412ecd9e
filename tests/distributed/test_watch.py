from __future__ import annotations

import itertools
import threading

import pytest
from pydantic import ValidationError

from foretrain.distributed.watch import Deadlines, Standing, Watchdog, stacks, who_hangs

WAITS = "waiting for the other ranks at step 8"


@pytest.mark.parametrize(
    ("standings", "line"),
    [
        ([(7, 3, "reading data at step 8", 200.0), (8, 0, WAITS, 190.0)], "rank 0 of 2 hangs: reading data at step 8"),
        (
            [(8, 0, WAITS, 9.0), (7, 4, "computing", 1.0), (7, 3, "reading data", 2.0)],
            "rank 2 of 3 hangs: reading data",
        ),
        ([(8, 0, WAITS, 60.0), (8, 0, WAITS, 61.0)], f"ranks 0, 1 of 2 hang: {WAITS} for 61 s"),
        ([(8, 0, WAITS, 60.0), None], "rank 1 of 2 does not answer: it hangs, or its machine or network is gone"),
        ([None, (8, 0, WAITS, 60.0), None], "one of ranks 0, 2 of 3 does not answer"),
    ],
)
def test_the_rank_that_is_behind_in_exchanges_or_silent_is_the_one_that_hangs(standings, line):
    answers = {rank: Standing(*standing) for rank, standing in enumerate(standings) if standing}
    assert who_hangs(answers, len(standings)).startswith(line)


def test_the_place_of_the_loop_advances_with_every_exchange_and_tick():
    watch = Watchdog()
    places = [watch._place]
    watch.tick("reading data")
    places.append(watch._place)
    with watch.exchange():
        places.append(watch._place)
    places.append(watch._place)
    assert [place[:3] for place in places[1:]] == [
        (0, 1, "reading data"),
        (1, 0, "waiting for the other ranks"),
        (1, 1, "reading data"),
    ]
    assert all(a.since <= b.since for a, b in itertools.pairwise(places))


def test_the_time_for_which_the_process_was_suspended_does_not_count():
    watch = Watchdog()
    at = watch._place
    assert [watch.waited(at, at.since + seconds) for seconds in (4, 8, 3600, 3605)] == pytest.approx([4, 8, 0, 5])


def test_stacks_are_those_of_all_threads_with_their_names():
    ready = threading.Event()
    thread = threading.Thread(target=ready.wait, name="a thread that waits")
    thread.start()
    text = stacks()
    ready.set()
    thread.join()
    assert text.startswith("thread MainThread\n")
    assert "thread a thread that waits\n" in text
    assert "text = stacks()" in text


def test_deadlines_are_minutes_and_null_is_the_usual_number():
    assert [Deadlines().seconds(phase) for phase in ("step", "evaluation")] == [1800, 7200]
    assert Deadlines(step=0.5).seconds("step") == 30
    with pytest.raises(ValidationError):
        Deadlines(start=0)
