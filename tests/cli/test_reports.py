"""Reports of evaluate and score, and pictures of inspect: complete, or not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from foretrain.cli.commands import _write_folder, inspect_data
from foretrain.data.store import CorpusWriter
from foretrain.errors import DataError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_with_all_its_files(tmp_path: Path, capsys) -> None:
    def write(folder: Path) -> list[Path]:
        for name in ("a", "b"):
            (folder / name).write_text(name)
        assert names(tmp_path) != ["out"]
        return [folder / "a", folder / "b"]

    _write_folder(tmp_path / "deep" / "out", write)
    assert names(tmp_path / "deep") == ["out"] and names(tmp_path / "deep" / "out") == ["a", "b"]
    assert capsys.readouterr().out == f"wrote {tmp_path}/deep/out/a\nwrote {tmp_path}/deep/out/b\n"


def test_a_folder_that_cannot_be_finished_is_not_there_and_the_command_can_be_repeated(tmp_path: Path) -> None:
    def fail(folder: Path) -> list[Path]:
        (folder / "a").write_text("half of it")
        raise OSError(28, os.strerror(28), str(folder / "b"))

    with pytest.raises(DataError, match=r"/out: cannot be written \(No space left on device\)\. Nothing is there"):
        _write_folder(tmp_path / "out", fail)
    assert names(tmp_path) == []
    _write_folder(tmp_path / "out", lambda folder: [])
    assert names(tmp_path) == ["out"]


def test_a_picture_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    with CorpusWriter(tmp_path / "c", ["a"], time="steps") as writer:
        writer.append("x", np.arange(40.0)[None])
    whole = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        whole(path, data[: len(data) // 2])
        raise OSError(5, os.strerror(5), str(path))

    (tmp_path / "p.png").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(DataError, match=r"p\.png: cannot write the picture: Input/output error\."):
        inspect_data(tmp_path / "c", {}, plot=tmp_path / "p.png")
    assert names(tmp_path) == ["c", "p.png"] and (tmp_path / "p.png").read_text() == "old"
