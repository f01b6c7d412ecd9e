"""The ledger of test parts: openings are counted over studies, and none is lost."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.proofs.fuzzing.mutations import bytes_damaged, lines_damaged

from foretrain.errors import TrainingError
from foretrain.tuning.ledger import HeldPart, open_part

PART = HeldPart("abc", ("one",), 100, 200)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_openings_of_other_studies_on_the_same_days_count(tmp_path: Path) -> None:
    first = open_part(PART, tmp_path / "a", study="a", trials=20)
    first.found({"p": 0.5})
    assert first.count == 1
    other_values = replace(PART, key="def", first=150, last=300)  # overlapping days of the same corpus
    assert open_part(other_values, tmp_path / "b", study="b", trials=5).count == 2
    assert open_part(replace(PART, fingerprints=("copy",)), tmp_path / "c", study="c", trials=5).count == 2
    assert open_part(HeldPart("x", ("one",), 400, 500), tmp_path / "d", study="d", trials=1).count == 1
    again = open_part(PART, tmp_path / "a", study="a", trials=20)
    assert again.count == 4 and again.earlier[0]["trials"] == 20


def test_a_torn_line_counts_as_an_opening(tmp_path: Path) -> None:
    open_part(PART, tmp_path / "a", study="a", trials=20)
    ledger = tmp_path / "cache" / "foretrain" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])
    found = open_part(PART, tmp_path / "b", study="b", trials=20)
    assert found.count == 2 and len(ledger.read_text().splitlines()) == 2


def test_a_part_stays_closed_where_its_opening_cannot_be_recorded(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TrainingError, match="stays closed"):
        open_part(PART, tmp_path / "a", study="a", trials=20)


def test_a_damaged_ledger_is_read_as_far_as_it_makes_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for name in "abc":
        open_part(PART, tmp_path / name, study=name, trials=20).found({"p": 0.5})
    ledger = tmp_path / "cache" / "foretrain" / "ledger.jsonl"
    whole, rng = ledger.read_bytes(), random.Random(0)
    for damage in [bytes_damaged] * 100 + [lines_damaged] * 200:
        damaged = damage(whole, rng)
        ledger.write_bytes(damaged)
        found = open_part(PART, tmp_path / "d", study="d", trials=20)
        # two lines may be damaged at once into one; a line that is damaged may also be of another part
        assert found.count >= 1 and found.unread + len(found.earlier) <= len(damaged.splitlines())
        (tmp_path / "d" / "ledger.jsonl").unlink()


@pytest.mark.parametrize(
    "change", [{"id": []}, {"time": 1}, {"fingerprints": 5}, {"fingerprints": [[]]}, {"first": "x"}]
)
def test_an_opening_of_other_types_counts_as_one_of_this_part(tmp_path: Path, change: dict) -> None:
    open_part(PART, tmp_path / "a", study="a", trials=20)
    ledger = tmp_path / "cache" / "foretrain" / "ledger.jsonl"
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | change) + "\n")
    assert open_part(PART, tmp_path / "b", study="b", trials=20).count == 2
