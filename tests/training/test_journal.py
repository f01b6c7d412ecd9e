from __future__ import annotations

import hashlib
import json
import math
import random

import pytest
from tests.training.curves import loss_curve_hash

from foretrain.errors import TrainingError
from foretrain.training.alarms import Watcher
from foretrain.training.ending import step_times
from foretrain.training.health import health, render
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
        {"kind": "validation", "val_loss": "low"}, {"steps_per_s": 1e-320}, {"memory_total_gb": 1e-310},
        {"step_s_std": 1e190}, {"step_s_bins": {"9999": 1}},
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


def test_what_is_computed_of_an_accepted_record_is_finite(tmp_path):
    """Whatever numbers the lines hold, the reports of a run are JSON without infinities."""
    extremes = (0, 0.0, 1, -1, 1e-320, -1e-320, 1e-99, 9e99, -9e99, 5e-324, 1.5, None)
    names = (
        "loss", "loss_mean", "loss_min", "loss_max", "loss_ema", "lr", "grad_norm", "grad_norm_mean", "grad_norm_max",
        "clipped_share", "steps_per_s", "windows_per_s", "step_s_std", "data_wait_s", "data_share", "mfu", "memory_gb",
        "memory_total_gb", "slowest_rank_s", "median_rank_s", "waiting_rank_s", "left_out_steps", "bad_batches", "time",
    )  # fmt: skip
    draws = random.Random(0)
    path = tmp_path / "metrics.jsonl"
    for _ in range(40):
        lines = [{"step": 0, "kind": "start", "log_every": 1, "total_steps": draws.choice([40, 2**52]), "processes": 3}]
        for step in range(1, 40):
            line = {"step": step, "kind": "train", "steps": draws.choice([1, 2**52]), "slowest_rank": 1}
            bins = {str(draws.choice([-2400, 0, 2400])): draws.choice([0, 1, 2**52])}
            line |= {"grad_norm_bins": bins, "step_s_bins": bins, "waiting_rank": 1}
            line |= {name: draws.choice(extremes) for name in names if draws.random() < 0.8}
            lines.append(line)
            if step % 5 == 0:
                lines.append({"step": step, "kind": "validation", "val_loss": draws.choice(extremes), "best": True})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            records = list(read_journal(path))
        except TrainingError:  # a rate of 1e-320
            path.write_text("".join(json.dumps(line) + "\n" for line in _without_tiny_divisors(lines)))
            records = list(read_journal(path))
        watcher = Watcher()
        alarms = [alarm for record in records for alarm in watcher.see(record)]
        report = health(records)
        json.dumps([step_times(records), report, [alarm._asdict() for alarm in alarms]], allow_nan=False)
        render(report)


def _without_tiny_divisors(lines):
    for line in lines:
        yield {
            name: 1.0 if name in ("steps_per_s", "windows_per_s", "memory_total_gb") and value else value
            for name, value in line.items()
        }
