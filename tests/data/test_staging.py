"""Copies of corpora on a local disk: whole or absent, made once, and never a reason to touch what is not ours."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foretrain.data import staging
from foretrain.data.config import DataConfig
from foretrain.data.manifest import MANIFEST_NAME, read_manifest
from foretrain.data.staging import ORIGIN, Staging, copy_of
from foretrain.data.store import Corpus
from foretrain.errors import DataError


@pytest.fixture
def corpus(tmp_path, random_items, write_corpus) -> Corpus:
    """Six series in several shards."""
    items = random_items(0, 6, 2, 40, 60, times="stamps")
    return write_corpus(tmp_path / "net" / "c", items, ["a", "b"], "stamps", batch_bytes=800, shard_bytes=1600)


def stage(corpus: Corpus, target: Path) -> Path:
    found = Staging([str(corpus.path)], str(target))
    found.copy()
    return copy_of(corpus.manifest, target)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_shards_are_read_from_the_copy_and_all_else_names_the_corpus(tmp_path, corpus):
    assert len(corpus.manifest.shards) > 1
    place = stage(corpus, tmp_path / "local")
    assert names(tmp_path / "local") == {place.name}
    assert names(place) == {MANIFEST_NAME, ORIGIN, *(shard["file"] for shard in corpus.manifest.shards)}
    values = [np.array(corpus.values(k)) for k in range(corpus.num_series)]
    for shard in corpus.manifest.shards:
        (corpus.path / shard["file"]).unlink()
    copy = Corpus.open(corpus.path, staged=str(tmp_path / "local"))
    assert (copy.path, copy.origin, copy.name, copy.shards) == (corpus.path, corpus.path, "c", place)
    assert copy.fingerprint == corpus.fingerprint
    for series, expected in enumerate(values):
        np.testing.assert_array_equal(copy.values(series), expected)
        np.testing.assert_array_equal(copy.times(series), corpus.times(series))
    copy.verify()


def test_a_second_start_copies_nothing(tmp_path, corpus, monkeypatch):
    place = stage(corpus, tmp_path)
    before = place.stat().st_ino
    monkeypatch.setattr(staging, "_copy", None)
    found = Staging([str(corpus.path)], str(tmp_path))
    assert found.missing_bytes == 0 and found.read_from == [place]
    found.copy()
    assert place.stat().st_ino == before


def test_the_key_is_content_and_shards_and_neither_name_nor_place(tmp_path, corpus, random_items, write_corpus):
    moved = Path(shutil.copytree(corpus.path, tmp_path / "other name"))
    items = random_items(0, 6, 2, 40, 60, times="stamps")
    other = write_corpus(tmp_path / "resharded", items, ["a", "b"], "stamps")
    assert copy_of(read_manifest(moved / MANIFEST_NAME), tmp_path) == copy_of(corpus.manifest, tmp_path)
    assert other.fingerprint == corpus.fingerprint
    assert stage(other, tmp_path) != stage(corpus, tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file", "empty folder", "link"])
def test_what_is_no_copy_is_refused_and_stays_as_it_is(tmp_path, corpus, kind):
    place = copy_of(corpus.manifest, tmp_path)
    if kind == "file":
        place.write_text("mine")
    elif kind == "link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
    if kind == "folder":
        (place / MANIFEST_NAME).write_text("mine")
    with pytest.raises(DataError, match="is in the place of a copy and is none"):
        stage(corpus, tmp_path)
    with pytest.raises(DataError, match="nothing in it was touched"):
        Corpus.open(corpus.path, staged=str(tmp_path))
    assert place.is_symlink() or (place.read_text() == "mine" if kind == "file" else True)
    assert kind != "folder" or (place / MANIFEST_NAME).read_text() == "mine"


def test_a_damaged_shard_is_named_and_no_copy_of_it_appears(tmp_path, corpus):
    path = corpus.path / corpus.manifest.shards[-1]["file"]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=f"{path.name}: its content differs from the hash"):
        stage(corpus, tmp_path / "local")
    assert not (tmp_path / "local").exists() or names(tmp_path / "local") == set()


def test_a_corpus_that_is_updated_meanwhile_is_not_called_damaged(tmp_path, corpus, random_items, write_corpus):
    found = Staging([str(corpus.path)], str(tmp_path / "local"))
    other = write_corpus(tmp_path / "other", random_items(1, 3, 2, 40, 60, times="stamps"), ["a", "b"], "stamps")
    shutil.rmtree(corpus.path)
    other.path.rename(corpus.path)
    with pytest.raises(DataError, match=r"was updated while it was copied. Repeat the command"):
        found.copy()


def test_a_disk_that_is_too_full_is_one_line_with_bytes(tmp_path, corpus, monkeypatch):
    needed = sum(shard["bytes"] for shard in corpus.manifest.shards)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1234))
    found = Staging([str(corpus.path)], str(tmp_path / "local"))
    message = f"too full: {needed:,} bytes are needed and 1,234 are free"
    for act in (found.check_space, found.copy):
        with pytest.raises(DataError, match=message) as error:
            act()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "local").exists()


def test_a_disk_that_fills_up_meanwhile_is_the_same_line(tmp_path, corpus, monkeypatch):
    def full(source: Path, target: Path) -> str:
        target.write_bytes(b"a part")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(staging, "_copy_file", full)
    with pytest.raises(DataError, match=r"too full: [0-9,]+ bytes are needed and [0-9,]+ are free"):
        stage(corpus, tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_places_that_cannot_hold_copies_are_refused(tmp_path, corpus, monkeypatch):
    with pytest.raises(DataError, match="is a corpus, and copies would lie inside it"):
        stage(corpus, corpus.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data.stage_to: .*Name a folder of a local disk"):
        stage(corpus, tmp_path / "file" / "inside")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(DataError, match=r"has no manifest.json with hashes by which a copy can be checked"):
        Staging([str(tmp_path / "foreign")], str(tmp_path / "local"))
    lengths = {"context_length": 8, "prediction_length": 2}
    with pytest.raises(ValueError, match="stage_to: no effect, as no corpus has a path"):
        DataConfig.model_validate({"corpora": [{"synthetic": {"kind": "seasonal"}}], "stage_to": "x", **lengths})


def in_processes(count: int, act) -> list[int]:
    """Exit codes of forks that each call act(number)."""
    children = []
    for number in range(count):
        if not (child := os.fork()):
            code = 1
            try:
                act(number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.processes
def test_of_several_processes_one_copies_and_the_others_wait_for_it(tmp_path, corpus, monkeypatch):
    copy, log = staging._copy, tmp_path / "log"

    def slow(*given) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        copy(*given)

    monkeypatch.setattr(staging, "_copy", slow)
    monkeypatch.setattr(staging, "_WAIT", 0.01)

    def act(number: int) -> None:
        place = stage(corpus, tmp_path / "local")
        assert (place / ORIGIN).is_file()

    assert in_processes(3, act) == [0, 0, 0]
    assert len(log.read_text().split()) == 1
    assert len(names(tmp_path / "local")) == 1


@pytest.mark.processes
def test_a_kill_in_the_middle_leaves_nothing_that_counts(tmp_path, corpus, monkeypatch):
    copied = staging._copy_file

    def killed(source: Path, target: Path) -> str:
        found = copied(source, target)
        os.kill(os.getpid(), 9)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_copy_file", killed)
        assert in_processes(1, lambda number: stage(corpus, tmp_path / "local")) == [-9]
    assert names(tmp_path / "local")  # a lock and a scratch folder
    assert Corpus.open(corpus.path, staged=str(tmp_path / "local")).shards == corpus.path
    place = stage(corpus, tmp_path / "local")
    assert names(tmp_path / "local") == {place.name}


def test_a_lock_of_another_host_is_not_waited_for(tmp_path, corpus):
    place = copy_of(corpus.manifest, tmp_path / "local")
    place.parent.mkdir()
    lock = place.with_name(f".{place.name}.lock")
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "boot": "x", "started": 1}))
    with pytest.raises(DataError, match=r"process 7 on elsewhere is copying .* Each host needs a folder of its own"):
        stage(corpus, tmp_path / "local")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(DataError, match="is not a lock file"):
        stage(corpus, tmp_path / "local")
