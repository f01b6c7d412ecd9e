"""Aggregates of suites on figures that are worked out by hand or by loops here; tests/proofs/fev_parity.py has fev."""

from __future__ import annotations

import math
from itertools import product
from statistics import geometric_mean, mean

import numpy as np
import pytest

from foretrain.errors import DataError
from foretrain.suites.aggregate import (
    GIFT_CRPS,
    GIFT_MASE,
    fev_pairs,
    fev_standings,
    geometric_means,
    gift_eval_standings,
)

NAIVE = "naive"


def figures(columns: dict[str, list[float | None]], metric: str = "E") -> dict[str, dict[str, dict[str, float]]]:
    """Models' errors on the tasks a, b, c, ...; None = no figure."""
    return {
        model: {task: {} if error is None else {metric: error} for task, error in zip("abcdefgh", errors, strict=False)}
        for model, errors in columns.items()
    }


THREE = figures({NAIVE: [1.0, 2.0, 4.0], "good": [0.5, 1.0, 4.0], "mixed": [2.0, 0.5, 4.0]})


def test_chronos_aggregate_is_the_geometric_mean_of_ratios_to_seasonal_naive():
    found = geometric_means(THREE, ["E"], baseline=NAIVE)
    assert {model: of["E"] for model, of in found.items()} == pytest.approx(
        {NAIVE: 1.0, "good": (0.5 * 0.5 * 1) ** (1 / 3), "mixed": (2 * 0.25 * 1) ** (1 / 3)}, rel=1e-14
    )


def test_without_a_baseline_the_mean_is_that_of_the_errors():
    assert geometric_means(THREE, ["E"], baseline=None)["good"]["E"] == pytest.approx(2 ** (1 / 3), rel=1e-14)


def test_win_rate_counts_ties_half_and_skill_is_relative_to_the_baseline():
    found = {row.model: row for row in fev_standings(THREE, "E", baseline=NAIVE)}
    # good against naive: won, won, tied; against mixed: won, lost, tied. mixed against naive: lost, won, tied.
    assert {model: row.win_rate for model, row in found.items()} == pytest.approx(
        {"good": (2.5 + 1.5) / 6, "mixed": (1.5 + 1.5) / 6, NAIVE: (0.5 + 1.5) / 6}
    )
    assert found["good"].skill == pytest.approx(1 - 0.25 ** (1 / 3), rel=1e-14)
    assert found[NAIVE].skill == 0
    assert list(found) == ["good", "mixed", NAIVE]


def test_skill_clips_errors_a_hundred_times_smaller_or_larger():
    wild = figures({NAIVE: [1.0, 1.0], "wild": [0.0, 1e9], "lucky": [1e-9, 1.0]})
    found = {row.model: row for row in fev_standings(wild, "E", baseline=NAIVE)}
    assert found["wild"].skill == pytest.approx(0, abs=1e-14)  # sqrt(0.01 * 100) = 1
    assert found["lucky"].skill == pytest.approx(0.9, rel=1e-14)  # sqrt(0.01)
    assert found["wild"].win_rate == pytest.approx((0.5 + 0 + 1 + 0) / 4)  # both are clipped to 0.01 on the first task


GAPS = figures({NAIVE: [1.0, 2.0, 4.0, 1.0], "gap": [0.5, None, 2.0, math.nan], "whole": [1.0, 1.0, 8.0, 1.0]})


def test_failures_are_an_error_that_names_models_and_tasks():
    with pytest.raises(DataError, match=r"E: no figure of gap on b, d\. Score them"):
        fev_standings(GAPS, "E", baseline=NAIVE)


def test_imputed_failures_count_as_the_baseline_and_are_counted():
    imputed = figures({NAIVE: [1.0, 2.0, 4.0, 1.0], "gap": [0.5, 2.0, 2.0, 1.0], "whole": [1.0, 1.0, 8.0, 1.0]})
    found = {row.model: row for row in fev_standings(GAPS, "E", baseline=NAIVE, missing="impute")}
    for row in fev_standings(imputed, "E", baseline=NAIVE):
        assert (found[row.model].win_rate, found[row.model].skill) == (row.win_rate, row.skill)
    assert {model: (row.failures, row.imputed) for model, row in found.items()} == {
        NAIVE: (0, 0), "gap": (2, 2), "whole": (0, 0),
    }  # fmt: skip


def test_dropped_failures_take_their_task_from_every_model():
    kept = figures({NAIVE: [1.0, 4.0], "gap": [0.5, 2.0], "whole": [1.0, 8.0]})
    found = {row.model: row for row in fev_standings(GAPS, "E", baseline=NAIVE, missing="drop")}
    for row in fev_standings(kept, "E", baseline=NAIVE):
        assert (found[row.model].win_rate, found[row.model].skill) == (row.win_rate, row.skill)
    assert (found["gap"].failures, found["gap"].imputed) == (2, 0)


def test_tasks_that_a_model_was_trained_on_have_the_errors_of_another():
    errors = {NAIVE: [1.0, 2.0], "clean": [0.8, 1.0], "trained": [0.1, 0.2]}
    replaced = figures(errors | {"trained": [0.8, 0.2]})
    named = {"leaky": {"trained": ["a"]}, "leakage_model": "clean"}
    (trained,) = (r for r in fev_standings(figures(errors), "E", baseline=NAIVE, **named) if r.model == "trained")
    (expected,) = (r for r in fev_standings(replaced, "E", baseline=NAIVE) if r.model == "trained")
    assert (trained.win_rate, trained.skill) == (expected.win_rate, expected.skill)
    assert (trained.leaky, trained.imputed, trained.failures) == (1, 1, 0)
    counted_only = fev_standings(figures(errors), "E", baseline=NAIVE, leaky={"trained": ["a"]})
    assert {row.model: (row.leaky, row.imputed) for row in counted_only}["trained"] == (1, 0)


def test_a_model_that_was_trained_on_tasks_cannot_stand_for_others():
    with pytest.raises(DataError, match="good: was trained on tasks itself"):
        fev_standings(THREE, "E", baseline=NAIVE, leaky={"good": ["a"]}, leakage_model="good")


def test_intervals_are_quantiles_over_resampled_tasks():
    """By loops over numpy's draws of the seed: rows of task indices, as fev draws them."""
    rng = np.random.default_rng(5)
    errors = {model: rng.uniform(0.5, 2, 6).round(1).tolist() for model in (NAIVE, "x", "y")}
    (found,) = (r for r in fev_standings(figures(errors), "E", baseline=NAIVE, resamples=40, seed=7) if r.model == "x")
    rates, skills = [], []
    for drawn in np.random.default_rng(7).integers(0, 6, size=(40, 6)):
        x, y, base = ([errors[model][task] for task in drawn] for model in ("x", "y", NAIVE))
        ratio = [a / b for a, b in zip(x, base, strict=True)]
        duels = [(a, b) for other in ([p / q for p, q in zip(y, base, strict=True)], [1.0] * 6)
                 for a, b in zip(ratio, other, strict=True)]  # fmt: skip
        rates.append(mean((a < b) + (a == b) / 2 for a, b in duels))
        skills.append(1 - geometric_mean(ratio))
    assert found.win_rate_interval == pytest.approx(np.quantile(rates, [0.025, 0.975]), rel=1e-12)
    assert found.skill_interval == pytest.approx(np.quantile(skills, [0.025, 0.975]), rel=1e-12)


def test_every_pair_has_its_win_rate_and_the_clipped_ratio_of_its_errors():
    errors = {NAIVE: [1.0, 2.0, 4.0], "good": [0.5, 1.0, 4.0], "extreme": [1e-6, 4.0, 4.0]}
    found = {(pair.model, pair.other): pair for pair in fev_pairs(figures(errors), "E")}
    assert set(found) == set(product(errors, errors))
    for (first, second), pair in found.items():
        two = list(zip(errors[first], errors[second], strict=True))
        assert pair.win_rate == pytest.approx(mean((a < b) + (a == b) / 2 for a, b in two))
        ratios = [min(max(a / b, 0.01), 100) for a, b in two]
        assert pair.skill == pytest.approx(1 - geometric_mean(ratios), abs=1e-14)
    assert next(iter(found))[0] == "good"  # the best mean rank: 2, 1, 2 (ties share theirs)


def test_pairs_have_intervals_if_asked_and_impute_as_the_leaderboard_does():
    with pytest.raises(DataError, match="name the baseline"):
        fev_pairs(GAPS, "E", missing="impute")
    found = {(p.model, p.other): p for p in fev_pairs(GAPS, "E", baseline=NAIVE, missing="impute", resamples=30)}
    pair = found["gap", NAIVE]
    assert pair.skill == pytest.approx(1 - (0.5 * 1 * 0.5 * 1) ** 0.25)
    assert pair.win_rate_interval is not None and pair.skill_interval is not None
    assert pair.skill_interval[0] < pair.skill < pair.skill_interval[1]
    assert found[NAIVE, NAIVE].win_rate_interval == (0.5, 0.5)


def gift(columns: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """(MASE, CRPS) of models on configurations."""
    return {
        model: {task: {GIFT_MASE: a, GIFT_CRPS: b} for task, (a, b) in zip("abc", rows, strict=False)}
        for model, rows in columns.items()
    }


def test_gift_eval_has_geometric_means_and_mean_ranks_with_ties_by_name():
    table = gift({"z": [(1, 0.5), (1, 0.2)], NAIVE: [(2, 1.0), (1, 0.4)], "b": [(1, 0.9), (4, 0.1)]})
    found = gift_eval_standings(table, baseline=NAIVE)
    assert [row.model for row in found] == ["b", "z", NAIVE]  # CRPS ranks 2 + 1, 1 + 2, 3 + 3: equal ones by name
    rows = {row.model: row for row in found}
    assert (rows["b"].mase_rank, rows["z"].mase_rank, rows[NAIVE].mase_rank) == (2.0, 2.0, 2.0)  # 1+3, 2+2, 3+1
    assert (rows["b"].crps_rank, rows["z"].crps_rank, rows[NAIVE].crps_rank) == (1.5, 1.5, 3.0)
    assert rows["z"].mase == pytest.approx(math.sqrt(0.5 * 1))
    assert rows["b"].crps == pytest.approx(math.sqrt(0.9 * 0.25))


def test_gift_eval_refuses_missing_configurations_or_counts_what_it_imputes():
    table = gift({NAIVE: [(2, 1.0), (1, 0.4)], "part": [(1, 0.5)]})
    with pytest.raises(DataError, match=r"MASE\[0\.5\]: no figure of part on b\."):
        gift_eval_standings(table, baseline=NAIVE)
    rows = {row.model: row for row in gift_eval_standings(table, baseline=NAIVE, missing="impute")}
    assert (rows["part"].mase, rows["part"].imputed, rows[NAIVE].imputed) == (pytest.approx(math.sqrt(0.5)), 1, 0)


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"good": [1.0]}, "naive: no figures of this model. There are those of good"),
        ({NAIVE: [0.0, 1.0], "good": [1.0, 1.0]}, "naive: E is missing, 0 or not finite on a; nothing can"),
        ({NAIVE: [None, 1.0], "good": [1.0, 1.0]}, "naive: E is missing, 0 or not finite on a; nothing can"),
        ({NAIVE: [1.0], "good": [-0.5]}, "good, a: E is -0.5; an error is not below 0"),
        ({}, "E: no models to aggregate over"),
    ],
)  # fmt: skip
def test_what_cannot_be_aggregated_is_an_error_of_one_line(columns, words):
    with pytest.raises(DataError, match=words):
        fev_standings(figures(columns), "E", baseline=NAIVE, missing="impute")


def test_no_task_left_after_dropping_is_an_error():
    with pytest.raises(DataError, match="every task lacks a figure of some model"):
        fev_pairs(figures({"x": [1.0, None], "y": [None, 1.0]}), "E", missing="drop")
