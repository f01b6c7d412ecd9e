"""Runs and results on damaged corpora: refused before they start, or at the latest before a release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foretrain.cli.commands import evaluate_model, verify_corpora
from foretrain.data import verification
from foretrain.data.store import CorpusWriter
from foretrain.errors import DataError
from foretrain.run.config import load_config
from foretrain.run.train import train_run


@pytest.fixture(autouse=True)
def own_record(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    with CorpusWriter(tmp_path / "c", ["target"], time="regular", freq="h") as writer:
        for k in range(4):
            values = np.random.default_rng(k).normal(size=(1, 200))
            writer.append(f"i{k}", values, times=np.datetime64("2024-01-01T00", "h") + np.arange(200))
    return tmp_path / "c"


def config(tmp_path: Path, corpus: Path, **changes: object):
    text = f"""
model: {{family: linear, random_init: true}}
data: {{corpora: [{{path: {corpus}}}], context_length: 32, prediction_length: 8}}
training: {{max_steps: 2, micro_batch_size: 4}}
optimizer: {{learning_rate: 0.001}}
output_dir: {tmp_path / "run"}
"""
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", [f"{key}={value}" for key, value in changes.items()])


def damage(corpus: Path) -> None:
    shard = next(corpus.glob("*.arrow"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 4
    shard.write_bytes(raw)


def test_a_run_on_a_damaged_corpus_does_not_start(tmp_path: Path, corpus: Path) -> None:
    damage(corpus)
    with pytest.raises(DataError, match="content differs from the hash"):
        train_run(config(tmp_path, corpus))
    assert not (tmp_path / "run").exists()


def test_a_large_corpus_is_compared_while_the_run_trains_and_no_release_comes_of_damage(
    tmp_path: Path, corpus: Path, monkeypatch
) -> None:
    monkeypatch.setattr(verification, "AT_ONCE", 0)
    damage(corpus)
    with pytest.raises(DataError, match="content differs from the hash"):
        train_run(config(tmp_path, corpus))
    assert (tmp_path / "run" / "checkpoints").is_dir() and not (tmp_path / "run" / "release").exists()


def test_a_run_that_was_asked_not_to_look_does_not(tmp_path: Path, corpus: Path) -> None:
    damage(corpus)
    train_run(config(tmp_path, corpus, **{"data.verify": "off"}))
    assert (tmp_path / "run" / "release").is_dir()


@pytest.mark.parametrize("at_once", [10**10, 0], ids=["before the start", "meanwhile"])
def test_a_damaged_corpus_is_not_evaluated_on(tmp_path: Path, corpus: Path, monkeypatch, capsys, at_once) -> None:
    train_run(config(tmp_path, corpus))
    monkeypatch.setattr(verification, "AT_ONCE", at_once)
    damage(corpus)
    capsys.readouterr()
    with pytest.raises(DataError, match="content differs from the hash"):
        evaluate_model(str(tmp_path / "run"), corpus, out=tmp_path / "report")
    assert capsys.readouterr().out == "" and not (tmp_path / "report").exists()


def test_verify_says_at_what_rate_it_compared(corpus: Path, capsys) -> None:
    verify_corpora([corpus])
    assert "c: every shard has its recorded hash (" in capsys.readouterr().out
    damage(corpus)
    with pytest.raises(DataError, match="content differs from the hash"):
        verify_corpora([corpus])
