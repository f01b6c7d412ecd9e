"""Where models are found, without a network."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from foretrain.errors import ModelError
from foretrain.models.hub import resolve


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty download cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_its_own_answer(tmp_path):
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/place", "chronos-2", "a/b/c"])
def test_what_is_neither_folder_nor_id_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        resolve(name, offline=True)


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is a file"):
        resolve(path)


def test_offline_says_what_to_do_about_a_model_never_downloaded(cache):
    with pytest.raises(ModelError, match=r"someone/something.*run once without offline") as error:
        resolve("someone/something", offline=True)
    assert "\n" not in str(error.value)


def test_a_downloaded_model_is_found_offline(cache):
    repository = cache / "models--someone--something"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    assert (resolve("someone/something", offline=True) / "config.json").exists()
    with pytest.raises(ModelError, match="revision v2"):
        resolve("someone/something", revision="v2", offline=True)
