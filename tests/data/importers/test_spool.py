"""The scratch files of an import."""

from __future__ import annotations

from pathlib import Path

import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.importers.spool import Spool

_READ = {"values", "lines", "times"}  # files of the rows as they were read


def test_rows_as_they_were_read_are_removed_once_they_are_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held: list[set[str]] = []
    drop = Spool.drop_read

    def watched(spool: Spool) -> None:
        held.append({path.name for path in spool.folder.iterdir()})
        drop(spool)
        held.append({path.name for path in spool.folder.iterdir()})
        assert len(spool.cleaned("a")[0]) == 28

    monkeypatch.setattr(Spool, "drop_read", watched)
    days = "".join(f"2024-01-{day:02d},{day}\n" for day in range(1, 29))
    (tmp_path / "a.csv").write_text("time,value\n" + days)
    import_corpus([tmp_path / "a.csv"], tmp_path / "out")
    before, after = held
    assert before >= _READ
    assert not after & _READ
