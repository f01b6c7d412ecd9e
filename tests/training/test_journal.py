from __future__ import annotations

import hashlib
import json
import math

import pytest
from tests.training.curves import loss_curve_hash

from foretrain.errors import TrainingError
from foretrain.training.journal import Journal, read_journal


def test_a_line_is_on_disk_once_it_is_written(tmp_path):
    journal = Journal(tmp_path / "m.jsonl")
    journal.write({"step": 1, "loss": 0.1})
    assert list(read_journal(journal.path)) == [{"step": 1, "loss": 0.1}]


def test_values_that_json_lacks_become_null(tmp_path):
    journal = Journal(tmp_path / "m.jsonl")
    journal.write({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    assert json.loads(journal.path.read_text()) == {"step": 1, "loss": None, "grad_norm": None}


def test_cutting_keeps_lines_up_to_a_step_and_drops_a_torn_one(tmp_path):
    journal = Journal(tmp_path / "m.jsonl")
    for step in range(1, 6):
        journal.write({"step": step, "kind": "train", "loss": step / 3})
    journal.close()
    with journal.path.open("a") as file:
        file.write('{"step": 3, "lo')
    journal = Journal(journal.path)
    journal.truncate(3)
    journal.write({"step": 4, "kind": "train", "loss": 1.0})
    assert [record["step"] for record in read_journal(journal.path)] == [1, 2, 3, 4]


def test_a_line_that_is_no_json_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\x00{"st\n{"step": 3}\n')
    with pytest.raises(TrainingError, match=r"metrics.jsonl: line 2 is no record of a run"):
        list(read_journal(path))


def test_the_loss_curve_hash_covers_step_and_loss_of_training_lines_only(tmp_path):
    journal = Journal(tmp_path / "m.jsonl")
    journal.write({"step": 1, "kind": "train", "loss": 0.5, "time": 7})
    journal.write({"step": 1, "kind": "validation", "loss": 9.0})
    assert loss_curve_hash(journal.path) == hashlib.sha256(b"1 0.5\n").hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"loss_mean": "1.0"}, {"loss_mean": [1.0]}, {"steps": 0}, {"steps": -(10**9)}, {"steps": True}, {"step": True},
        {"step": -1}, {"grad_norm_bins": 3}, {"grad_norm_bins": {"99999": 1}}, {"step_s_bins": {"1": "x"}},
        {"step_s_bins": {"x": 1}}, {"loss_mean": 10**250}, {"data_share": {}}, {"kind": "start", "log_every": 0.5},
        {"kind": "validation", "val_loss": "low"},
    ],
)  # fmt: skip
def test_a_record_without_numbers_where_they_are_computed_with_is_named(tmp_path, change):
    path = tmp_path / "metrics.jsonl"
    sound = {
        "step": 1,
        "kind": "train",
        "steps": 1,
        "loss_mean": 1.0,
        "left_out": "overflow",
        "grad_norm_bins": {"-8": 1},
    }
    path.write_text(json.dumps(sound) + "\n" + json.dumps(sound | change) + "\n")
    with pytest.raises(TrainingError, match=r"metrics.jsonl: line 2 is no record of a run"):
        list(read_journal(path))
    path.write_text(json.dumps(sound) + "\n" + json.dumps({"step": 1, "kind": "evaluation", "suite": ["x"]}) + "\n")
    assert len(list(read_journal(path))) == 2
