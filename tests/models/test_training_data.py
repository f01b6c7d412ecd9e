"""What published weights saw: the files beside the families, and how weights are known."""

from __future__ import annotations

from datetime import date

import pytest

from foretrain.errors import ConfigError
from foretrain.models import families, training_data
from foretrain.models.training_data import published_name, published_weights
from foretrain.suites.definition import own_suites, tasks_of


def test_every_published_name_of_a_family_has_an_entry_with_sources():
    known = published_weights()
    assert {name for family in families() for name in family.published} <= known.keys()
    assert all(entry.sources and all(sets.source for sets in entry.sets.values()) for entry in known.values())


def test_every_data_set_named_is_one_of_a_suite():
    """A name written wrongly would never be found."""
    tasks = [task for suite in own_suites() for task in tasks_of(suite)]
    known = {(task.suite.hub.repository, task.definition.dataset) for task in tasks if task.suite.hub is not None}
    named = {
        (repository, dataset)
        for entry in published_weights().values()
        for repository, sets in entry.sets.items()
        for dataset in (*sets.saw_test, *sets.trained_on, *sets.perhaps)
    }
    assert len(named) > 30 and named <= known


def test_what_is_known_of_a_data_set():
    chronos2, toto = published_weights()["amazon/chronos-2"], published_weights()["Datadog/Toto-Open-Base-1.0"]
    assert chronos2.sets["autogluon/chronos_datasets"].seen("m4_hourly") == "trained_on"
    assert chronos2.sets["autogluon/chronos_datasets"].seen("monash_rideshare") == "unseen"
    assert chronos2.sets["Salesforce/GiftEval"].seen("solar/H") == "perhaps"
    assert toto.sets["autogluon/fev_datasets"].seen("m5_1D") == "saw_test"
    assert toto.sets["autogluon/chronos_datasets"].seen("m5") == "unknown"
    assert published_weights()["NeoQuasar/Kronos-base"].last_day == date(2024, 5, 31)


def test_weights_are_known_by_hub_id_and_by_the_folder_of_the_hub_s_cache(tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "models--amazon--chronos-2" / "snapshots" / "0123"
    assert published_name("amazon/chronos-2") == "amazon/chronos-2" == published_name(str(cached))
    assert published_name("someone/chronos-2") is None is published_name(None)
    assert published_name(str(tmp_path / "models--someone--chronos-2")) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "amazon" / "chronos-2").mkdir(parents=True)
    assert published_name("amazon/chronos-2") is None  # this folder holds other weights


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{names: [a/b], saw: x, sources: [], chosen_until: 2024-01-01}", "chosen_until is before trained_until"),
        ("{names: [a/b, a/b], saw: x, sources: []}", "a/b is there twice"),
        ("{names: [a/b], saw: x, sources: [], trained_until: soon}", "trained_until"),
        ("{names: [a/b], saw: x, sources: [], sets: {s: {others: maybe, source: y}}}", "others"),
    ],
)
def test_an_impossible_entry_is_refused(tmp_path, monkeypatch, entry, problem):
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "training_data.yaml").write_text(f"weights:\n  - {entry}\n")
    monkeypatch.setattr(training_data, "FOLDER", tmp_path)
    published_weights.cache_clear()
    try:
        with pytest.raises(ConfigError, match=problem):
            published_weights()
    finally:
        published_weights.cache_clear()
