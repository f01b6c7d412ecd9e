"""The shipped definitions: complete, consistent with the rules of their suites, and with published figures."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest

from foretrain.errors import ConfigError
from foretrain.evaluation.library_metrics import METRICS_OF, Instances
from foretrain.evaluation.streamed_metrics import STREAMED, streamed_metrics
from foretrain.suites.definition import (
    MIXED,
    UNKNOWN,
    data_facts,
    own_suites,
    raw_sources,
    raw_uses,
    suite_names,
    tasks_of,
    title_of,
)
from foretrain.suites.published import FOLDER, published_figures, published_table
from foretrain.timeaxis.frequency import Frequency

SIZES = {
    "chronos-in-domain": 15, "chronos-zero-shot": 27, "chronos-lite": 5, "chronos-extended": 15, "fev-bench": 100,
    "fev-bench-mini": 20, "gift-eval": 97, "ltsf": 36, "market-daily": 4, "market-intraday": 4,
}  # fmt: skip
MULTIPLES = {"short": 1, "medium": 10, "long": 15}
GIFT = {"ME": 12, "W": 8, "D": 30, "h": 48, "5min": 48, "10min": 48, "15min": 48, "10s": 60}  # of its short term
M4 = {"YE": 6, "QE": 8, "ME": 18, "W": 13, "D": 14, "h": 48}


def all_tasks():
    return [task for suite in own_suites() for task in tasks_of(suite)]


def test_every_suite_has_its_tasks():
    assert {suite: len(tasks_of(suite)) for suite in suite_names()} == SIZES
    assert all(title_of(suite) for suite in suite_names())


def test_every_task_has_published_figures_for_all_metrics_of_its_suite():
    for task in all_tasks():
        figures = published_figures(task)
        assert set(figures) == set(task.suite.metrics), task.name
        assert all(math.isfinite(value) and value > 0 for value in figures.values()), task.name


def test_every_published_figure_belongs_to_a_task():
    for suite in own_suites():
        table = published_table(tasks_of(suite)[0].suite.published)
        assert set(table.figures) == {task.name for task in tasks_of(suite)}
        assert table.source.startswith("github.com/")
    shipped = {path.name for path in FOLDER.glob("*.csv")}
    assert shipped == {tasks_of(suite)[0].suite.published for suite in own_suites()}


def test_every_metric_is_one_that_its_library_s_mode_computes():
    import numpy as np

    rows = Instances(
        np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2, 3)), (0.1, 0.5, 0.9), np.ones(1),
        np.zeros(1, np.int64), np.zeros(1, np.int64),
    )  # fmt: skip
    for suite in own_suites():
        definition = tasks_of(suite)[0].suite
        mode = definition.metrics_of
        known = streamed_metrics(np.ones((1, 3))) if mode in STREAMED else METRICS_OF[mode][1](rows)
        assert set(definition.metrics.values()) <= set(known)
        assert definition.eval_metric in definition.metrics


def test_seasons_are_those_of_the_frequency_where_the_suite_has_no_choice():
    """fev-bench names seasons of its own: a week of days in some tasks. ltsf's baseline repeats the last value."""
    for task in all_tasks():
        usual = Frequency.parse(task.definition.freq).seasonality
        if task.suite.rule == "ltsf":
            assert task.definition.seasonality == 1, task.name
        elif task.suite.rule != "fev":
            assert task.definition.seasonality == usual, task.name


def test_the_season_of_fev_s_baseline_is_at_least_that_of_its_metrics():
    """Days repeat by weeks, months by years, whatever the metrics' season; of minutes a day exceeds the context."""
    for task in tasks_of("fev-bench"):
        rule, context = task.definition, task.suite.baseline_context or 0
        expected = max(rule.seasonality, 7 if rule.freq == "D" else Frequency.parse(rule.freq).seasonality)
        assert (rule.baseline_seasonality or rule.seasonality) == (1 if expected > context else expected), task.name


def test_horizons_of_gift_eval_follow_from_frequency_and_term():
    for task in tasks_of("gift-eval"):
        rule = task.definition
        m4 = task.name.startswith("m4_")
        assert rule.term is not None and task.name.endswith(f"/{rule.term}")
        assert rule.horizon == (M4 if m4 else GIFT)[rule.freq] * MULTIPLES[rule.term], task.name
        assert (rule.num_windows == 1) == m4


def test_every_raw_source_is_used_and_every_used_one_described():
    used = {use.source for task in all_tasks() for use in raw_uses(task.definition)}
    assert used == set(raw_sources())
    places = ("github.com/", "zenodo.org/")
    assert all(source.licence and source.origin.startswith(places) for source in raw_sources().values())


def test_tasks_of_the_monash_archive_can_be_made_of_its_files_too():
    sources = {task.name: [use.source for use in raw_uses(task.definition)] for task in all_tasks()}
    assert sources["monash_m1_yearly"] == ["m1-competition", "monash-m1-yearly"]
    assert sources["us_births/W/short"] == ["us-births", "monash-us-births"]
    assert sources["monash_tourism_yearly"] == ["monash-tourism-yearly"] and sources["nn5"] == []
    for uses in (raw_uses(task.definition) for task in all_tasks()):
        for first, other in itertools.pairwise(uses):
            assert raw_sources()[other.source].reader == "monash" and other.period is None
            assert (other.derive, other.complete) == (first.derive, first.complete)


def test_fev_s_columns_have_one_role_each():
    for task in tasks_of("fev-bench"):
        rule = task.definition
        columns = [*(rule.targets or ()), *rule.past_covariates, *rule.known_covariates, *rule.static_covariates]
        assert len(set(columns)) == len(columns), task.name


def test_every_task_has_unit_and_licence_and_unknown_ones_say_so():
    tasks = [task for suite in suite_names() for task in tasks_of(suite)]
    assert all(task.facts.unit and task.facts.licence and task.facts.source for task in tasks)
    units = Counter(task.facts.unit if task.facts.unit in (UNKNOWN, MIXED) else "known" for task in all_tasks())
    assert units == {"known": 70, UNKNOWN: 132, MIXED: 73}
    unknown = sum(task.facts.licence == "unknown" for task in all_tasks())
    assert unknown == 72 and {"CC BY 4.0", "competition terms"} <= {task.facts.licence for task in all_tasks()}


def test_every_data_set_with_facts_is_one_of_a_task():
    tasks = [task for suite in suite_names() for task in tasks_of(suite)]
    used = {(task.suite_name if task.suite.hub is None else task.suite.hub.repository, task.definition.dataset)
            for task in tasks}  # fmt: skip
    assert used == {(place, name) for place, sets in data_facts().items() for name in sets}


def test_values_that_a_suite_standardises_have_no_unit_of_their_own():
    assert {task.facts.unit for task in tasks_of("ltsf")} == {"train deviations"}


def test_licences_of_raw_files_are_those_of_the_data_set_or_of_another_copy_of_it():
    """A raw file may be another's copy, such as a package's: then both licences are stated, each at its place."""
    for task in all_tasks():
        if task.definition.raw is not None and "CC BY-ND" in task.facts.licence:
            assert raw_sources()[task.definition.raw.source].licence == task.facts.licence, task.name


def test_an_unknown_suite_is_named_with_those_alike():
    with pytest.raises(ConfigError, match="Did you mean 'gift-eval'"):
        tasks_of("gift_eval")
