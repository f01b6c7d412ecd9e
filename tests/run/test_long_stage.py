"""A short version of tests/proofs/long_stage.py: the shipped config with contexts 64 and 256, not 2,048 and 8,192."""

from __future__ import annotations

import pytest
from tests import forks
from tests.proofs import long_stage
from tests.waiting import DEADLINE

pytestmark = pytest.mark.processes


def test_a_second_stage_with_four_times_the_context_trains_resumes_and_forecasts_with_all_of_it(tmp_path):
    """In one process and split over two, at the same time."""
    (tmp_path / "cases").write_text("chronos2")
    process = forks.started("tests.proofs.long_stage", tmp_path, *long_stage.SIZES)
    try:
        assert process.wait(timeout=DEADLINE) == 0, [path.read_text() for path in tmp_path.glob("forks*/*.err")]
    finally:
        forks.stop(process)
    found = long_stage.check(tmp_path, "chronos2")
    assert found["contexts"] == [64, 256]
