"""A short version of tests/proofs/many_ranks.py, which tries 512 ranks: what each of many ranks trains on."""

from __future__ import annotations

import pytest
from tests.proofs import many_ranks

from foretrain.training.settings import StepPlan

BATCH, STEPS, SERIES = 32, 4, 16
NAMES = ["windows at random", "windows of epochs", many_ranks.DEFAULT, "token budget", "generated", "Kronos"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, many_ranks.Case]:
    made = many_ranks.cases(tmp_path_factory.mktemp("ranks"), BATCH, STEPS, SERIES)
    return {case.name: case for case in made}


@pytest.mark.parametrize("name", NAMES)
def test_ranks_share_the_stream_of_one_in_its_order_also_after_a_resume_on_another_number(cases, name):
    assert cases.keys() == set(NAMES)
    units, work = many_ranks.check(cases[name], 16, before=7)
    assert units >= 2 * BATCH and work.windows.shape[1] == 16


@pytest.mark.parametrize("name", ["windows at random", "windows of epochs", "Kronos"])
def test_ranks_that_divide_a_step_have_equally_many_windows(cases, name):
    """Tokens too, if all windows have as many rows."""
    _, work = many_ranks.check(cases[name], 16, before=16)
    assert work.windows.sum() > 0
    assert many_ranks.Work.spread(work.windows) == 0
    assert many_ranks.Work.spread(work.tokens) == 0 or name == "windows at random"


def test_micro_batches_of_a_large_token_budget_take_equal_work_but_for_two_percent(cases):
    """A step waits for its largest micro-batch. Generated ones whose number of windows is bounded differ more."""
    work = dict(many_ranks.large_budgets(64, 8))
    assert many_ranks.Work.wait(work["budget of 65,536, 1 a rank"].tokens) < 0.02
    assert many_ranks.Work.spread(work["budget of 65,536, 4 a rank"].tokens) < 0.02


def test_a_rank_that_repeats_another_s_windows_is_found(cases, monkeypatch):
    real = StepPlan.for_rank
    monkeypatch.setattr(StepPlan, "for_rank", lambda plan, step, rank, *rest: real(plan, step, rank // 2 * 2, *rest))
    with pytest.raises(AssertionError):
        many_ranks.check(cases["windows at random"], 2, before=2)
