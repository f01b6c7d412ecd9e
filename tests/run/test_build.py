from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.config import build
from foretrain.data.manifest import Column
from foretrain.data.store import Corpus
from foretrain.data.synthetic.mixture import Layout, Mixture, draw_block
from foretrain.errors import MissingCorpusError
from foretrain.evaluation.columns import evaluation_columns
from foretrain.forecasting.record import records_columns
from foretrain.models import family
from foretrain.notes import Code, codes
from foretrain.run.build import build_model, open_source, release_facts
from foretrain.run.config import RunConfig


def corpus(name: str, kinds: tuple[str, ...]) -> Corpus:
    """Two columns of numbers and one of categories."""
    values = np.stack([np.arange(60.0), np.arange(60.0) ** 0.5, np.arange(60) % len(kinds)]).astype(np.float32)
    columns = [Column(name="load"), Column(name="wind"), Column(name="day", kind="categorical", categories=kinds)]
    return Corpus.from_arrays(name, [("a", values, None)], columns)


def recorded(folder: Path, corpora: list[Corpus], **data) -> dict:
    """The columns and lengths that a run started from a release would record."""
    section = {"corpora": [{"path": c.name} for c in corpora], "context_length": 16, "prediction_length": 4, **data}
    tree = {
        "model": {"family": "chronos2", "model_id": str(folder)},
        "data": section,
        "output_dir": str(folder / "run"),
    }
    config, source = open_source(build(RunConfig, {**tree, "training": {"max_steps": 1}}), corpora)
    return release_facts(config, source)["data"]


def test_the_longest_lengths_of_earlier_trainings_are_recorded(tmp_path: Path):
    found = recorded(tmp_path, [corpus("one", ("a", "b"))], known_covariates=["day"])
    assert (found["context_length"], found["prediction_length"]) == (16, 4)
    assert found["longest_trained"] == {"context_length": 16, "prediction_length": 4}
    before = {"context_length": 8, "prediction_length": 6, "longest_trained": {"context_length": 512}}
    (tmp_path / "release.json").write_text(json.dumps({"data": before}))
    found = recorded(tmp_path, [corpus("one", ("a", "b"))], known_covariates=["day"])
    assert found["longest_trained"] == {"context_length": 512, "prediction_length": 6}


def test_the_codes_of_categories_are_recorded_where_windows_hold_them(tmp_path: Path):
    one, other = corpus("one", ("b", "a")), corpus("other", ("a", "b"))
    assert recorded(tmp_path, [one], known_covariates=["day"])["categories"] == {"day": ["b", "a"]}
    alone = recorded(tmp_path, [one], target=["load"], known_covariates=["day"])
    assert alone["categories"] == {}  # with one target they are its means
    assert recorded(tmp_path, [one, other], known_covariates=["day"])["categories"] == {}


def groups_and_series() -> tuple[list[Corpus], list[dict]]:
    """A corpus of single series and one of groups whose manifest names its covariates, and their entries."""
    single = Mixture(generators=({"kind": "arma"},), lengths=({"shortest": 40, "longest": 40},))
    groups = single.model_copy(update={"layout": Layout(targets=2, past=1, known=1)})
    corpora = []
    for mixture in (single, groups):
        targets, past, known = mixture.layout.names
        values = draw_block(mixture, 0, 6).values.reshape(6, mixture.layout.rows, 40)
        items = [(f"i{k}", one, None) for k, one in enumerate(values)]
        corpus = Corpus.from_arrays(
            "corpus", items, [*targets, *past, *known], past_covariates=past, known_covariates=known
        )
        corpora.append(corpus)
    return corpora, [
        {"path": "single"},
        {"path": "groups", "past_covariates": ["past_1"], "known_covariates": ["known_1"]},
    ]


def opened(corpora: list[Corpus], entries: list[dict], **data):
    tree = {
        "model": {"family": "toto", "random_init": True},
        "data": {"corpora": entries, "context_length": 16, "prediction_length": 4, **data},
        "training": {"max_steps": 1},
        "output_dir": "nowhere",
    }
    return open_source(build(RunConfig, tree), corpora)


def test_a_generated_corpus_of_groups_is_trained_by_the_roles_of_its_manifest(logged_notes):
    corpora, _ = groups_and_series()
    config, source = opened(corpora[1:], [{"path": "groups"}])
    assert (config.data.past_covariates, config.data.known_covariates) == (("past_1",), ("known_1",))
    chosen = source.selections[0]
    assert (chosen.targets, chosen.past, chosen.known) == ((0, 1), (2,), (3,))
    assert "covariates_by_name" in [note.code for note in logged_notes()]


def test_a_run_may_mix_single_series_and_groups_with_columns_of_their_own(logged_notes):
    config, source = opened(*groups_and_series())
    assert [selection.columns for selection in source.selections] == [(0,), (0, 1, 2, 3)]
    assert (config.data.target, config.data.known_covariates) == (None, ())
    assert config.model.variate_labels  # some corpus has covariates known ahead
    assert not logged_notes()
    facts = release_facts(config, source)["data"]
    # no columns are the model's own: a forecast takes `target` and all others as covariates
    assert not records_columns(facts) and "known_covariates" not in facts
    found, _ = evaluation_columns(source.corpora[1], family("toto"), facts)
    assert (found.targets, found.past, found.known) == ((0, 1), (2,), (3,))  # by the corpus' manifest


def adapter_name(output_dir: Path | str, *, given: str | None = None, **sections: Any) -> str | None:
    """The name that a run's adapter gets."""
    data = {"corpora": [{"path": "x"}], "context_length": 16, "prediction_length": 4}
    tree = {
        "model": {"family": "linear", "random_init": True},
        "data": data,
        "training": {"max_steps": 1},
        "adapter": {"rank": 1, "name": given},
        "output_dir": str(output_dir),
        **sections,
    }
    config, _ = open_source(build(RunConfig, tree), [corpus("x", ("a", "b"))])
    return config.adapter and config.adapter.name


def test_an_adapter_is_named_after_its_run_unless_it_has_a_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert adapter_name("runs/bars-lora/") == "bars-lora"
    assert adapter_name("runs/my bars.v2") == "my-bars-v2"
    assert adapter_name("runs/лора") == "default"  # nothing that peft's names may hold is left
    assert adapter_name("runs/bars", given="mine") == "mine"
    assert adapter_name("runs/bars/stages/02-predictor", stage="predictor") == "bars"


def test_an_adapter_keeps_the_name_that_its_run_began_with(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("adapter: {rank: 1, name: default}\n")  # as older versions saved it
    assert adapter_name(tmp_path) == "default"
    assert adapter_name(tmp_path, given="mine") == "mine"  # the resume refuses it


def test_options_of_the_evaluation_are_recorded_and_nothing_where_there_are_none(tmp_path: Path):
    data = {"corpora": [{"path": "one"}], "context_length": 16, "prediction_length": 4}
    tree = {"model": {"family": "chronos2", "random_init": True}, "data": data, "output_dir": str(tmp_path / "run")}
    for options in ({"symmetric": True}, {}):
        section = {**tree, "training": {"max_steps": 1}, "evaluation": {"options": options}}
        config, source = open_source(build(RunConfig, section), [corpus("one", ("a", "b"))])
        assert release_facts(config, source).get("options", {}) == options
        assert ("options" in release_facts(config, source)) == bool(options)


def test_a_linear_run_on_covariates_is_told_that_they_change_nothing(tmp_path: Path, logged_notes):
    for covariates, expected in ((["wind"], {Code.COVARIATES_UNREAD}), ([], set())):
        roles = {"target": ["load"], "past_covariates": covariates}
        data = {"corpora": [{"path": "one"}], "context_length": 16, "prediction_length": 4, **roles}
        tree = {"model": {"family": "linear", "random_init": True}, "data": data, "output_dir": str(tmp_path / "run")}
        config = build(RunConfig, {**tree, "training": {"max_steps": 1}})
        config, source = open_source(config, [corpus("one", ("a", "b"))])
        build_model(config).check(source)
        assert codes(logged_notes()) == expected


def test_what_is_no_corpus_is_named_with_the_command_that_makes_one(tmp_path: Path):
    def refusal(*paths: str) -> str:
        data = {"corpora": [{"path": path} for path in paths], "context_length": 32, "prediction_length": 8}
        tree = {"model": {"family": "chronos2", "random_init": True}, "data": data, "training": {"max_steps": 1}}
        with pytest.raises(MissingCorpusError) as caught:
            open_source(build(RunConfig, {**tree, "output_dir": str(tmp_path / "run")}))
        return str(caught.value)

    text = refusal("corpora/absent")
    assert text.startswith("corpora/absent: no such corpus folder (data.corpora.0.path).")
    assert "`foretrain data import FILES --out corpora/absent`" in text and "data.corpora.0.path=FOLDER" in text
    assert "\n" not in text
    assert refusal("a", "b").startswith("a, b: no such corpus folders (data.corpora.0.path, data.corpora.1.path).")
    (tmp_path / "my.csv").write_text("timestamp,target\n2024-01-01,1\n")
    assert (
        f"`foretrain data import {tmp_path / 'my.csv'} --out corpora/my`, and give data.corpora.0.path=corpora/my"
        in (refusal(str(tmp_path / "my.csv")))
    )
    assert refusal(str(tmp_path)).startswith(f"{tmp_path}: is a folder, no corpus")
