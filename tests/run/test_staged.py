"""Runs that read copies of their corpora (data.stage_to): the same run, whose records name the corpora."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from foretrain.data.manifest import read_manifest
from foretrain.data.staging import copy_of
from foretrain.data.store import CorpusWriter
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError, MissingCorpusError
from foretrain.run.config import config_hash, config_hash_1, load_config
from foretrain.run.dry_run import describe_run
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import load_any
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal


@pytest.fixture(autouse=True)
def own_record(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    with CorpusWriter(tmp_path / "c", ["target"], time="regular", freq="h", shard_bytes=2000) as writer:
        for k in range(6):
            values = np.random.default_rng(k).normal(size=(1, 200))
            writer.append(f"i{k}", values, times=np.datetime64("2024-01-01T00", "h") + np.arange(200))
    return tmp_path / "c"


def config(tmp_path: Path, corpus: Path, run: str, **changes: object):
    text = f"""
model: {{family: linear, random_init: true}}
data: {{corpora: [{{path: {corpus}}}], context_length: 32, prediction_length: 8}}
training: {{max_steps: 6, micro_batch_size: 4, log_every: 1, checkpoint_every: 3, validate_every: 3}}
optimizer: {{learning_rate: 0.001}}
output_dir: {tmp_path / run}
"""
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", [f"{key}={value}" for key, value in changes.items()])


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_journal(run / "metrics.jsonl") if record.get("kind") == "train"]


def test_a_run_on_copies_is_the_run_on_the_corpus_and_may_begin_or_end_as_one(tmp_path: Path, corpus: Path) -> None:
    local = tmp_path / "local"
    plain, staged = config(tmp_path, corpus, "plain"), config(tmp_path, corpus, "staged", **{"data.stage_to": local})
    train_run(plain)
    train_run(staged)
    half = {"data.stage_to": local, "training.max_steps": 3}
    train_run(config(tmp_path, corpus, "mixed", **half))
    train_run(config(tmp_path, corpus, "mixed"), resume="auto")
    assert config_hash(plain) == config_hash(staged) and config_hash_1(plain) == config_hash_1(staged)
    expected = losses(tmp_path / "plain")
    assert len(expected) == 6
    weights = load_file(tmp_path / "plain" / "release" / "model.safetensors")
    for name in ("staged", "mixed"):
        assert losses(tmp_path / name) == expected
        found = load_file(tmp_path / name / "release" / "model.safetensors")
        assert all(np.array_equal(found[key], weights[key]) for key in weights)
    records = [json.loads((tmp_path / name / "release" / "release.json").read_text()) for name in ("plain", "staged")]
    assert records[0]["corpora"] == records[1]["corpora"] and records[0]["ancestry"] == records[1]["ancestry"]
    assert str(local) not in json.dumps(records)
    assert f"copies: of c are read in {local}" in (tmp_path / "staged" / "training.log").read_text()


def test_a_copy_is_checked_before_it_is_used_again(tmp_path: Path, corpus: Path) -> None:
    local = tmp_path / "local"
    train_run(config(tmp_path, corpus, "first", **{"data.stage_to": local, "training.max_steps": 1}))
    place = copy_of(read_manifest(corpus / "manifest.json"), local)
    shard = next(place.glob("*.arrow"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 4
    shard.write_bytes(raw)
    again = config(tmp_path, corpus, "second", **{"data.stage_to": local, "training.max_steps": 1})
    with pytest.raises(DataError, match=f"{shard.name}: its content differs .*delete its folder: the same command"):
        train_run(again)
    assert not (tmp_path / "second").exists()
    shutil.rmtree(place)
    train_run(again)
    assert losses(tmp_path / "second") == losses(tmp_path / "first")


def test_a_dry_run_says_what_is_copied_and_copies_nothing(tmp_path: Path, corpus: Path, monkeypatch) -> None:
    local = tmp_path / "local"
    settings = config(tmp_path, corpus, "run", **{"data.stage_to": local})
    lines = describe_run(settings, World())
    assert any(line.startswith(f"copies: of corpora, in {local} (data.stage_to): ") for line in lines)
    assert not local.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0, total=10, used=10))
    refusals = [line for line in describe_run(settings, World()) if line.startswith("refused: data.stage_to")]
    assert len(refusals) == 1 and "too full" in refusals[0]


def test_corpora_that_are_given_opened_have_no_copy(tmp_path: Path, corpus: Path) -> None:
    settings = config(tmp_path, corpus, "run", **{"data.stage_to": tmp_path / "local"})
    with pytest.raises(ConfigError, match="no effect on corpora that are given opened"):
        train_run(settings, corpora=settings.data.open())


def test_a_corpus_that_is_not_there_is_named_as_without_copies(tmp_path: Path) -> None:
    for data in ({}, {"data.stage_to": tmp_path / "local"}):
        with pytest.raises(MissingCorpusError, match="nothing: no such corpus folder"):
            train_run(config(tmp_path, tmp_path / "nothing", "run", **data))
    assert not (tmp_path / "local").exists()


def test_stages_read_copies_too(tmp_path: Path, corpus: Path) -> None:
    text = f"""
data: {{corpora: [{{path: {corpus}}}], context_length: 32, prediction_length: 8, stage_to: {tmp_path / "local"}}}
training: {{max_steps: 1, micro_batch_size: 4}}
optimizer: {{learning_rate: 0.001}}
output_dir: {tmp_path / "run"}
stages:
  - {{name: one, model: {{family: linear, random_init: true}}}}
  - {{name: two, model: {{model_id: "stage:one"}}}}
"""
    (tmp_path / "s.yaml").write_text(text)
    run_stages(load_any(tmp_path / "s.yaml"))
    for name in ("01-one", "02-two"):
        log = (tmp_path / "run" / "stages" / name / "training.log").read_text()
        assert "copies: of c are read" in log
