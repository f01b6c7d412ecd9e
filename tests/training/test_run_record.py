from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.training.test_health import line, start

from foretrain.errors import DataError
from foretrain.processes import this_process
from foretrain.training.run_record import is_higher_better, is_run, measure, read_run, runs_in

OLD = Path(__file__).parents[1] / "fixtures" / "old_runs"


def validation(step: int, wql: float, best: bool = True) -> dict:
    return {"step": step, "kind": "validation", "val_wql": wql, "val_loss": 2 * wql, "best": best}


def write_run(folder: Path, records: list[dict], final: dict | None = None, **training) -> Path:
    """A run folder of a small config with these lines; final: its final_metrics.json."""
    folder.mkdir(parents=True)
    section = {"best_metric": "val_wql", "validate_every": 10, "max_steps": 1000, **training}
    tree = {"model": {"family": "chronos2", "model_id": None}, "training": section, "output_dir": str(folder)}
    (folder / "config.yaml").write_text(json.dumps(tree))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "checkpoints").mkdir()
    if final is not None:
        (folder / "final_metrics.json").write_text(json.dumps(final))
    return folder


def finished(step: int, wql: float, at: int, by: str = "max_steps") -> dict:
    units = {"val_wql": {"value": wql, "unit": "ratio"}}
    return {"step": at, "stopped": {"step": step, "by": by}, "metrics": units}


LINES = [start(), line(10, time=100.0), validation(10, 0.3), line(20, time=105.0), validation(20, 0.4, best=False)]


def test_an_unfinished_run_has_the_metrics_of_its_best_validation(tmp_path):
    found = read_run(write_run(tmp_path / "run", LINES))
    assert (found.state, found.step, found.total_steps, found.family) == ("ended early", 20, 1000, "chronos2")
    assert found.best == {"name": "val_wql", "value": 0.3, "unit": None, "step": 10} and found.metrics_step == 10
    assert found.trained_s == pytest.approx(4.0) and found.problems == []
    assert (found.started, found.ended) == ("1970-01-01T00:01:40+00:00", "1970-01-01T00:01:45+00:00")


@pytest.mark.parametrize(
    ("by", "state"), [("max_steps", "finished"), ("patience", "stopped by patience"), ("alarm", "stopped by alarm")]
)
def test_a_finished_run_says_what_ended_it_and_has_the_units_of_its_metrics(tmp_path, by, state):
    found = read_run(write_run(tmp_path / "run", LINES, finished(20, 0.25, 10, by)))
    assert found.state == state and found.best == {"name": "val_wql", "value": 0.25, "unit": "ratio", "step": 10}


def test_a_run_that_trained_on_after_its_end_is_not_finished(tmp_path):
    found = read_run(write_run(tmp_path / "run", [*LINES, line(30)], finished(20, 0.25, 10)))
    assert found.state == "ended early" and found.best is not None and found.best["value"] == 0.3


def test_the_lock_tells_whether_a_run_trains_or_was_killed(tmp_path):
    folder = write_run(tmp_path / "run", LINES)
    (folder / "run.lock").write_text(json.dumps(this_process()))
    assert read_run(folder).state == "training" and read_run(folder).ended is None
    (folder / "run.lock").write_text(json.dumps({**this_process(), "host": "elsewhere"}))
    assert read_run(folder).state == "training on elsewhere"
    (folder / "run.lock").write_text(json.dumps({**this_process(), "boot": "an earlier one"}))
    assert read_run(folder).state == "killed"


def test_a_pipeline_has_the_state_of_its_newest_stage_or_of_its_lock(tmp_path):
    root = tmp_path / "pipeline"
    first = write_run(root / "stages" / "01-a", LINES, finished(20, 0.25, 10))
    second = write_run(root / "stages" / "02-b", LINES[:2])
    (root / "config.yaml").write_text("stages: [{name: a}, {name: b}, {name: c}]")
    found = read_run(root)
    assert found.pipeline and found.planned_stages == 3 and [s.folder for s in found.stages] == [first, second]
    assert found.state == "ended early" and [s.state for s in found.stages] == ["finished", "ended early"]
    shutil.rmtree(second)
    assert read_run(root).state == "ended early"  # its first stage has finished, and the next has not begun
    (root / "run.lock").write_text(json.dumps(this_process()))
    assert read_run(root).state == "training"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", "no json\n", "metrics.jsonl: line 1 is no record"),
        ("config.yaml", "a: [", "config.yaml: not valid YAML"),
        ("final_metrics.json", "{", "final_metrics.json: cannot be read"),
        ("environment.json", "[1", "environment.json: cannot be read"),
    ],
)
def test_a_damaged_file_is_a_problem_in_a_line_and_the_others_are_read(tmp_path, name, content, said):
    folder = write_run(tmp_path / "run", LINES, finished(20, 0.25, 10))
    (folder / name).write_text(content)
    found = read_run(folder)
    (problem,) = found.problems
    assert said in problem and "\n" not in problem
    assert (found.family == "chronos2") == (name != "config.yaml")


def test_values_of_other_types_are_an_error_of_the_run_or_not_known(tmp_path):
    records = [start(total_steps="many"), line(10, time="noon", steps_per_s="fast"), validation(10, 0.3)]
    found = read_run(write_run(tmp_path / "run", records))
    assert found.started is None and found.trained_s is None and found.total_steps == 1000
    (tmp_path / "run" / "environment.json").write_text("3")
    with pytest.raises(DataError, match="holds values that cannot be used"):
        read_run(tmp_path / "run")


def test_runs_of_an_older_version_are_read():
    found = {place.name: read_run(place) for place in runs_in(OLD / "chronos2")}
    assert {name: record.state for name, record in found.items()} == {
        "finished": "finished", "interrupted": "ended early", "lora": "ended early"
    }  # fmt: skip
    assert found["lora"].family == "chronos2 + adapter" and found["finished"].total_steps == 8
    staged = read_run(OLD / "kronos" / "staged")
    assert staged.family == "kronos_tokenizer > kronos" and len(staged.stages) == 2


def test_folders_that_are_no_runs_are_left_out(tmp_path):
    for name in ("empty", "stages", "corpus"):
        (tmp_path / name).mkdir()
    (tmp_path / "corpus" / "config.yaml").write_text("a: 1")
    (tmp_path / "note.txt").write_text("x")
    run = write_run(tmp_path / "run", [])
    assert runs_in(tmp_path) == [run] and read_run(run).state == "ended early"
    assert not is_run(tmp_path / "corpus")
    for place, said in ((run, "is a run itself"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(DataError, match=said):
            runs_in(place)


def test_the_name_of_a_corpus_or_task_does_not_decide_what_a_metric_is():
    assert measure("val_wql/skill") == "val_wql" and not is_higher_better("val_wql/skill")
    assert is_higher_better("val_skill/a") and is_higher_better("benchmark/local/direction_accuracy_share")
    assert not is_higher_better("benchmark/skill/mase")
