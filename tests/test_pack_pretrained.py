"""What a release in the box records of its making comes from the run's own files, and real data are refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.run.test_train import TINY
from tools.pack_pretrained import Totals, of_journal, pack

from foretrain.config import build
from foretrain.data.synthetic.mixture import Mixture
from foretrain.data.synthetic.to_disk import write_corpus
from foretrain.errors import ModelError
from foretrain.models.hub import facts_of, release_hash
from foretrain.run.config import load_config, shipped_config
from foretrain.run.train import train_run

MIXTURE = {
    "generators": [{"kind": "trend_season", "weight": 1.0}],
    "lengths": [{"shortest": 200, "longest": 200, "share": 1.0}],
    "seed": 3,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a corpus of generated series and two runs on it, the second from the first one's release."""
    folder = tmp_path_factory.mktemp("pack")
    write_corpus(build(Mixture, MIXTURE), folder / "mixture", 8)
    for name, more in (("first", []), ("second", [("model", {"model_id": str(folder / "first" / "release")})])):
        train_run(load_config(shipped_config("debug.yaml"), [*TINY, *at(folder, name, "mixture"), *more]))
    return folder


def at(folder: Path, run: str, corpus: str) -> list[tuple[str, Any]]:
    return [("data.corpora", [{"path": str(folder / corpus)}]), ("output_dir", str(folder / run))]


def seen_before(facts: dict[str, Any], **entry: Any) -> None:
    """Let an ancestor of the model have seen synthetic series."""
    record = {"fingerprint": "f", "by": "model", "name": "sales", "provenance": "synthetic", **entry}
    facts["ancestry"]["corpora"].append(record)


def test_figures_of_a_release_are_those_of_its_run(runs: Path, tmp_path: Path):
    packed = pack(runs / "first", tmp_path / "box")
    about, config = packed["pretraining"], load_config(runs / "first" / "config.yaml")
    assert about["steps"] == config.training.max_steps
    assert about["windows"] == config.training.max_steps * config.training.batch_size
    network = about["flops"] / about["windows"]
    assert network > 3 * 2 * about["parameters"] and not about["flops_are_a_bound"]
    assert 0 < about["hours"] < 1 and about["seed"] == config.seed
    recipe = about["recipe"]
    assert recipe["mixtures"]["mixture"]["generators"][0]["kind"] == "trend_season"
    assert str(runs) not in json.dumps(recipe)  # no place on a machine
    assert release_hash(tmp_path / "box") == release_hash(runs / "first" / "release")
    assert facts_of(tmp_path / "box") == json.loads(json.dumps(packed)) and packed["data"]["any_columns"]


def test_a_training_that_went_on_from_another_counts_both(runs: Path, tmp_path: Path):
    both = of_journal(runs / "first") + of_journal(runs / "second")
    about = pack(runs / "second", tmp_path / "box")["pretraining"]
    assert {name: about[name] for name in asdict(both)} == asdict(both)
    packed = tmp_path / "tiny"
    pack(runs / "first", packed)
    release = runs / "second" / "release" / "release.json"
    before = release.read_text()
    facts = json.loads(before)
    facts["parents"]["model"]["asked"] = str(packed)  # as when the run starts from the model in the box
    release.write_text(json.dumps(facts))
    try:
        again = pack(runs / "second", tmp_path / "again")["pretraining"]
    finally:
        release.write_text(before)
    assert {name: again[name] for name in asdict(both)} == asdict(both)


def test_flops_that_a_run_did_not_count_are_a_bound(runs: Path, tmp_path: Path):
    lines = [json.loads(line) for line in (runs / "first" / "metrics.jsonl").read_text().splitlines()]
    (tmp_path / "config.yaml").write_text((runs / "first" / "config.yaml").read_text())
    old = [{key: value for key, value in line.items() if key != "flops_per_s"} for line in lines]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in old))
    bound, counted = of_journal(tmp_path), of_journal(runs / "first")
    assert bound.flops_are_a_bound and bound.flops >= 0.999 * counted.flops
    assert (bound + Totals()).flops_are_a_bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda facts: facts["corpora"][0].update(provenance="real"),
            "was trained on mixture, whose provenance is real",
        ),
        (lambda facts: facts["corpora"][0].update(generated=False), "which was imported and not generated here"),
        (lambda facts: facts["corpora"][0].update(fingerprint="f"), "is not the generated corpus that"),
        (lambda facts: facts["corpora"].clear(), "does not record all that it was trained on"),
        (lambda facts: facts["ancestry"].update(unknown=["model"]), "does not record all that it was trained on"),
        (
            lambda facts: facts["ancestry"]["corpora"].append({"fingerprint": "f", "by": "model", "name": "sales"}),
            "was trained on sales, whose provenance is None",
        ),
        (lambda facts: seen_before(facts, generated=False), "on sales, which was imported and not generated here"),
        (lambda facts: seen_before(facts), "not recorded whether sales, which an ancestor saw, was generated"),
    ],
    ids=[
        "real data",
        "imported",
        "another corpus",
        "no record",
        "unknown ancestor",
        "an ancestor's data",
        "an ancestor's import",
        "an ancestor of an earlier version",
    ],
)
def test_anything_but_synthetic_series_is_refused(runs: Path, tmp_path: Path, change, message: str):
    release = runs / "first" / "release" / "release.json"
    before = release.read_text()
    facts = json.loads(before)
    change(facts)
    release.write_text(json.dumps(facts))
    try:
        with pytest.raises(ModelError, match=message):
            pack(runs / "first", tmp_path / "box")
    finally:
        release.write_text(before)
    assert not (tmp_path / "box").exists()


def test_scores_are_those_of_the_weights(runs: Path, tmp_path: Path):
    own = release_hash(runs / "first" / "release")
    figures = {"wql": 0.8, "mase": 0.85, "coverage": 0.78}
    found = {"group": "short", "weights": {"runs/first": own}, "sets": {"runs/first": {"a": {}, "b": {}}},
             "relative": {"runs/first": figures, "ets": {"wql": 0.79}}}  # fmt: skip
    file = tmp_path / "panels.json"
    file.write_text(json.dumps(found))
    scores = pack(runs / "first", tmp_path / "box", file)["pretraining"]["scores"]
    assert scores == {"panels": "short", "series_sets": 2, **figures, "beside": {"ets": {"wql": 0.79}}}
    file.write_text(json.dumps(found | {"weights": {"runs/first": "another"}}))
    with pytest.raises(ModelError, match="has no scores of the weights"):
        pack(runs / "first", tmp_path / "other", file)
