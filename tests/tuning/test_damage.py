"""A short run of the proof fuzz_studies.py: damaged files of a study are refused by name, or do no harm."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from tests.tuning import needs_optuna  # noqa: F401  # before what imports it

from tests.proofs import fuzz_studies  # isort: skip


def test_damage_to_a_file_of_a_study_ends_in_a_refusal_or_in_a_whole_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    fuzz_studies.make(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "template")
    lines = [fuzz_studies.tried(tmp_path, 0, number) for number in range(25)]
    assert not [line for line in lines if line["how"] == "fault"]
    counts = Counter(line["how"] for line in lines)
    assert counts["refused"] > 5 and counts["accepted"] > 3
