from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from foretrain.config import build
from foretrain.data.manifest import Column
from foretrain.data.store import Corpus
from foretrain.run.build import open_source, release_facts
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
