"""Comparing shards with their hashes: damage is named, intact files are hashed once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from foretrain.data import verification
from foretrain.data.store import Corpus, CorpusWriter
from foretrain.data.verification import Verification, verify_folder
from foretrain.errors import DataError

SMALL = {"batch_bytes": 2_000, "shard_bytes": 9_000}  # several shards


@pytest.fixture(autouse=True)
def own_record(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "foretrain" / "verified.json"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    with CorpusWriter(tmp_path / "c", ["a"], time="steps", **SMALL) as writer:
        for k in range(40):
            writer.append(f"i{k}", np.random.default_rng(k).normal(size=(1, 200)))
    return tmp_path / "c"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    usual = verification.check_file

    def check(path: Path, sha256: str) -> None:
        names.append(path.name)
        usual(path, sha256)

    monkeypatch.setattr(verification, "check_file", check)
    return names


def damage(path: Path) -> None:
    """Flip a bit of a value; size and times stay as they were."""
    about = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def checked(folder: Path, mode="auto") -> None:
    check = Verification([folder], mode)
    check.start()
    check.finish()


@pytest.mark.parametrize("at_once", [10**10, 0], ids=["before the start", "meanwhile"])
def test_a_damaged_shard_is_named_and_never_recorded_as_intact(corpus: Path, monkeypatch, at_once: int) -> None:
    monkeypatch.setattr(verification, "AT_ONCE", at_once)
    shard = sorted(corpus.glob("*.arrow"))[1]
    damage(shard)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{shard.name}: its content differs from the hash in manifest\.json"):
            checked(corpus)
    checked(corpus, "off")


def test_damage_is_found_by_a_check_in_the_background_only_at_its_end(corpus: Path, monkeypatch) -> None:
    monkeypatch.setattr(verification, "AT_ONCE", 0)
    damage(next(corpus.glob("*.arrow")))
    check = Verification([corpus])
    check.start()
    with pytest.raises(DataError, match="content differs"):
        check.finish()


def test_intact_files_are_hashed_once_until_they_change(corpus: Path, hashed: list[str]) -> None:
    shards = sorted(path.name for path in corpus.glob("*.arrow"))
    assert len(shards) > 2
    for mode, expected in (("auto", shards), ("auto", []), ("start", shards), ("off", [])):
        hashed.clear()
        checked(corpus, mode)
        assert hashed == expected, mode
    os.utime(corpus / shards[1])
    hashed.clear()
    checked(corpus)
    assert hashed == [shards[1]]


def test_damage_that_keeps_size_and_time_is_found_by_start_and_by_verify(corpus: Path) -> None:
    checked(corpus)
    damage(next(corpus.glob("*.arrow")))
    checked(corpus)
    for check in (lambda: checked(corpus, "start"), lambda: verify_folder(corpus), Corpus.open(corpus).verify):
        with pytest.raises(DataError, match="content differs"):
            check()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}', "\x00"])
def test_a_damaged_record_is_as_none_and_is_written_anew(corpus: Path, own_record: Path, hashed, content) -> None:
    own_record.parent.mkdir(parents=True)
    own_record.write_text(content)
    checked(corpus)
    assert hashed
    hashed.clear()
    checked(corpus)
    assert not hashed


def test_without_a_place_for_the_record_files_are_hashed_each_time(corpus: Path, monkeypatch, hashed, tmp_path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    checked(corpus)
    first = list(hashed)
    checked(corpus)
    assert first and hashed == [*first, *first]


def test_missing_and_cut_shards_and_folders_without_hashes(corpus: Path, tmp_path: Path) -> None:
    shard = next(corpus.glob("*.arrow"))
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-1])
    with pytest.raises(DataError, match=r"bytes, the manifest says"):
        checked(corpus)
    shard.unlink()
    with pytest.raises(DataError, match=r"missing, though the manifest lists it"):
        checked(corpus)
    checked(tmp_path)
    with pytest.raises(DataError, match=r"has no manifest\.json with hashes"):
        verify_folder(tmp_path)
