from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain

from foretrain import load, quick
from foretrain.cli.quick_steps import _folder
from foretrain.data.frames import read_table
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation import candles
from foretrain.models.hub import facts_of, release_hash
from foretrain.models.shipped import shipped
from foretrain.processes import this_process
from foretrain.training.checkpoint import CheckpointManager
from foretrain.training.journal import Journal
from foretrain.training.lock import RunLock
from foretrain.training.manifest import CheckpointInfo

PNG = b"\x89PNG"
OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "old_runs"
SHORT = ("--prediction-length", 4, "--max-steps", 3, "--threads", 1)


def series(path: Path, values: np.ndarray) -> Path:
    days = pd.date_range("2024-01-01", periods=len(values), freq="D").strftime("%Y-%m-%d")
    pd.DataFrame({"day": days, "sales": values.round(3)}).to_csv(path, index=False)
    return path


def weekly(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 50 + 9 * np.sin(np.arange(rows) * 2 * np.pi / 7) + rng.normal(0, 1, rows)


def state(folder: Path) -> dict:
    return json.loads((folder / "quick.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with sales.csv, where `foretrain quick sales.csv` has run."""
    place = tmp_path_factory.mktemp("quick")
    series(place / "sales.csv", weekly(160))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        foretrain("quick", "sales.csv", *SHORT)
    return place


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_command_leaves_model_forecast_picture_and_report(done: Path):
    out = done / "sales-quick"
    table, naive = pd.read_csv(out / "forecast.csv"), pd.read_csv(out / "naive.csv")
    rows = ["item_id", "timestamp", "target_name"]
    assert len(table) == 4 and table[rows].equals(naive[rows]) and list(naive.columns) == list(table.columns)
    assert (out / "forecast.png").read_bytes().startswith(PNG)
    assert "Is the difference more than chance?" in (out / "report.html").read_text()
    assert load(out / "release").facts["data"]["prediction_length"] == 4
    assert (out / "run" / "config.yaml").is_file()
    found = state(out)
    assert found["finished"] and found["released"] in ("base", "fine-tuned")
    assert {"naive", "model"} <= found["test"]["errors"].keys()


def test_the_forecast_is_that_of_the_release(done: Path, monkeypatch):
    monkeypatch.chdir(done)
    foretrain("forecast", "sales-quick/release", "sales.csv", "--out", "again.csv", "--threads", 1)
    assert Path("again.csv").read_bytes() == Path("sales-quick/forecast.csv").read_bytes()


def test_the_best_weights_on_the_validation_part_are_released_those_before_training_among_them(done: Path):
    run = done / "sales-quick" / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["val_mase"] for line in lines if line["kind"] == "validation"}
    assert 0 in scores and max(scores) == 3
    best = min(scores, key=lambda step: scores[step])
    assert facts_of(run)["step"] == best == state(run.parent)["step"]
    assert release_hash(run / "release") == release_hash(run.parent / "release")


def test_training_never_saw_the_parts_that_judge(done: Path):
    evaluation = json.loads((done / "sales-quick" / "evaluation" / "evaluation.json").read_text())
    assert not evaluation["overlaps_training"]
    assert not {"training_saw_windows", "validation_saw_windows"} & {entry["code"] for entry in evaluation["codes"]}
    assert evaluation["counts"]["origins"] == 13  # of 4 steps each, in a third of 160 rows
    if "promotion" in facts_of(done / "sales-quick" / "release"):
        assert evaluation["comparison"]["against"]["key"] == "zero_shot"


def test_a_finished_folder_is_not_overwritten(done: Path, monkeypatch, capsys):
    monkeypatch.chdir(done)
    foretrain("quick", "sales.csv", *SHORT, "--out", "sales-quick", code=2)
    assert capsys.readouterr().err.startswith("error: sales-quick: exists already")


def test_a_series_too_short_to_train_on_gets_a_zero_shot_forecast_and_is_told_what_it_takes(elsewhere: Path, capsys):
    series(elsewhere / "few.csv", weekly(30))
    foretrain("quick", "few.csv", "--prediction-length", 10, "--threads", 1)
    said = capsys.readouterr().out
    assert "zero-shot only" in said and "takes 40" in said and "2 origins (a verdict over origins takes 10)" in said
    assert release_hash(Path("few-quick/release")) == release_hash(shipped()["tiny"])
    foretrain("forecast", "few.csv", "--prediction-length", 10, "--out", "plain.csv", "--threads", 1)
    assert Path("plain.csv").read_bytes() == Path("few-quick/forecast.csv").read_bytes()


def test_a_series_without_room_for_a_test_is_forecast_and_not_judged(elsewhere: Path, capsys):
    series(elsewhere / "few.csv", weekly(12))
    foretrain("quick", "few.csv", "--prediction-length", 8, "--threads", 1)
    assert "Nothing was judged" in capsys.readouterr().out
    assert not Path("few-quick/report.html").exists() and len(pd.read_csv("few-quick/forecast.csv")) == 8


def test_where_naive_is_better_on_the_validation_part_it_is_the_main_forecast(elsewhere: Path, capsys):
    values = np.repeat([5.0, 9.0, 4.0, 8.0, 6.0], [30, 25, 20, 5, 80])  # constant for a long time
    series(elsewhere / "steps.csv", values)
    foretrain("quick", "steps.csv", *SHORT, "--max-steps", 1, "--out", "out")
    assert state(Path("out"))["main"] == "naive"
    said = capsys.readouterr().out
    assert "use         naive.csv: naive beats the model on validation" in said
    assert pd.read_csv("out/naive.csv")["predictions"].tolist() == [6.0] * 4


def test_weights_are_not_called_the_best_where_the_checkpoint_of_those_is_damaged(elsewhere: Path, capsys, monkeypatch):
    best_intact = CheckpointManager.best_intact

    def after_a_fault(store: CheckpointManager, log: Callable[[str], None]) -> CheckpointInfo | None:
        next(store.best()[0].path.glob("*.safetensors")).write_bytes(b"")
        return best_intact(store, log)

    monkeypatch.setattr(CheckpointManager, "best_intact", after_a_fault)
    series(elsewhere / "sales.csv", weekly(160))
    foretrain("quick", "sales.csv", *SHORT, "--max-steps", 1, "--learning-rate", 1)  # at which step 0 is the best
    said = capsys.readouterr().out
    assert "step-00000000, better than others, is damaged and is skipped" in said
    assert "released    the weights of step 1: the checkpoint of the best ones, step 0, is damaged" in said


def test_an_interrupted_command_continues_to_the_same_weights(done: Path, elsewhere: Path, capsys, monkeypatch):
    (elsewhere / "sales.csv").write_bytes((done / "sales.csv").read_bytes())
    write = Journal.write

    def interrupt(journal: Journal, record: dict[str, Any]) -> dict[str, Any]:
        written = write(journal, record)
        if record.get("step") == 1:
            monkeypatch.setattr(Journal, "write", write)
            os.kill(os.getpid(), signal.SIGINT)
        return written

    monkeypatch.setattr(Journal, "write", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the suite runs in a background
    try:
        foretrain("quick", "sales.csv", *SHORT, code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command continues in sales-quick" in capsys.readouterr().err
    assert not Path("sales-quick/release").exists() and not state(Path("sales-quick"))["finished"]
    foretrain("quick", "sales.csv", *SHORT)
    assert "continue in sales-quick" in capsys.readouterr().out and not Path("sales-quick-2").exists()
    for name in ("forecast.csv", "naive.csv"):
        assert Path("sales-quick", name).read_bytes() == (done / "sales-quick" / name).read_bytes()


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({}, "sales-quick"),
        ({".tmp-quick.json": "{"}, "sales-quick"),
        ({"run.lock": ""}, "sales-quick"),
        ({"run.lock": "of an ended process"}, "sales-quick"),
        ({"run.lock": "of this process"}, "sales-quick-2"),
        ({"notes.txt": "mine"}, "sales-quick-2"),
    ],
)
def test_a_folder_that_a_command_left_without_writing_anything_is_used_again(tmp_path, monkeypatch, left, expected):
    monkeypatch.chdir(tmp_path)
    Path("sales-quick").mkdir()
    holders = {"of this process": this_process(), "of an ended process": {**this_process(), "boot": "another"}}
    for name, text in left.items():
        Path("sales-quick", name).write_text(json.dumps(holders[text]) if text in holders else text)
    job: Any = SimpleNamespace(path=Path("sales.csv"))
    assert _folder(None, job) == Path(expected)


WRONG = {
    "no model": (("--model", "nothing"), "nothing: no such folder"),
    "long horizon": (("--prediction-length", 160), "sales.csv: prediction_length 160 is not shorter than the data"),
    "no column": (("--target", "salse"), "no column 'salse'"),
    "no minutes": (("--minutes", "inf"), "--minutes inf: give a number of minutes"),
    "no rate": (("--learning-rate", 0), "optimizer.learning_rate: Input should be greater than 0"),
    "no file": ((), "no-file.csv: no such file or folder"),
    "no future": (("--future", "no-future.csv"), "no-future.csv"),
    "no numbers": ((), "words.csv"),
    "words to forecast": (("--target", "word", "--prediction-length", 1), "target 'word' is not a column of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_written(case: str, done: Path, elsewhere: Path, capsys):
    (elsewhere / "sales.csv").write_bytes((done / "sales.csv").read_bytes())
    Path("words.csv").write_text("day,word\n2024-01-01,a\n2024-01-02,b\n2024-01-03,c\n")
    Path("mixed.csv").write_text("day,word,n\n2024-01-01,a,1\n2024-01-02,b,2\n2024-01-03,c,4\n")
    options, message = WRONG[case]
    files = {"no file": "no-file.csv", "no numbers": "words.csv", "words to forecast": "mixed.csv"}
    data = files.get(case, "sales.csv")
    foretrain("quick", data, *options, "--out", "out", "--threads", 1, code=2)
    told = capsys.readouterr().err
    error = told[told.index("error: ") :]
    assert message in error and "Traceback" not in error
    assert not Path("out").exists()


def test_several_items_of_unlike_lengths_are_all_forecast(elsewhere: Path):
    parts = []
    for item, rows in (("a", 150), ("b", 90), ("c", 12)):
        days = pd.date_range("2024-06-01", periods=rows, freq="D").strftime("%Y-%m-%d")
        parts.append(pd.DataFrame({"store": item, "day": days, "sales": weekly(rows).round(2)}))
    pd.concat(parts).to_csv("stores.csv", index=False)
    foretrain("quick", "stores.csv", *SHORT, "--max-steps", 1)
    table = pd.read_csv("stores-quick/forecast.csv")
    assert table["item_id"].value_counts().to_dict() == {"a": 4, "b": 4, "c": 4}
    assert pd.read_csv("stores-quick/naive.csv")["item_id"].equals(table["item_id"])


def test_newest_rows_that_have_covariates_alone_are_the_steps_to_forecast_and_cost_no_test(elsewhere: Path, capsys):
    days = pd.date_range("2024-01-01", periods=164, freq="D").strftime("%Y-%m-%d")
    table = pd.DataFrame({"day": days, "sales": weekly(164).round(3), "promotion": np.arange(164) % 5})
    table.loc[160:, "sales"] = np.nan
    table.to_csv("sales.csv", index=False)
    foretrain("quick", "sales.csv", "--target", "sales", "--max-steps", 1, "--threads", 1)
    out, said = Path("sales-quick"), capsys.readouterr().out
    assert "4 steps of sales are forecast; promotion known ahead" in said
    assert "160 rows (without the newest 4, which have no target) the newest 52 are the test part" in said
    assert pd.read_csv(out / "forecast.csv")["timestamp"].tolist() == days[160:].tolist()
    assert facts_of(out / "release")["data"]["known_covariates"] == ["promotion"]
    evaluation = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert evaluation["counts"]["origins"] == 13 and not evaluation["overlaps_training"]
    foretrain("forecast", out / "release", "sales.csv", "--out", "again.csv", "--threads", 1)
    assert Path("again.csv").read_bytes() == (out / "forecast.csv").read_bytes()
    foretrain("quick", "sales.csv", *SHORT, "--target", "sales", "--prediction-length", 3, code=2)
    assert "Give that number as --prediction-length, or leave these rows out" in capsys.readouterr().err


def test_targets_for_which_validation_prefers_the_other_forecast_are_named(elsewhere: Path, capsys):
    days = pd.date_range("2024-01-01", periods=160, freq="D").strftime("%Y-%m-%d")
    flat = np.repeat([5.0, 9.0, 4.0, 8.0, 6.0], [30, 25, 20, 5, 80])  # constant for a long time
    pd.DataFrame({"day": days, "wave": weekly(160).round(3), "flat": flat}).to_csv("two.csv", index=False)
    foretrain("quick", "two.csv", *SHORT, "--max-steps", 1, "--target", "wave,flat", "--out", "out")
    found, said = state(Path("out")), capsys.readouterr().out
    assert (found["main"], found["exceptions"]) == ("model", ["flat"])
    assert "but naive.csv for flat: " in said and "has the lower error there on validation" in said
    assert "not alike for all targets; error against naive: wave " in said


def test_candles_are_drawn_as_candles_beside_the_close_of_the_naive_forecast(elsewhere: Path, monkeypatch):
    drawn = []
    draw = candles.draw_candles
    monkeypatch.setattr(candles, "draw_candles", lambda charts: drawn.extend(charts) or draw(charts))
    rng = np.random.default_rng(0)
    close = 20 + rng.normal(0, 0.1, 100).cumsum()
    opened = close + rng.normal(0, 0.05, 100)
    prices = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close}
    days = pd.date_range("2024-01-01", periods=100).strftime("%Y-%m-%d")
    pd.DataFrame({"date": days, **prices, "volume": 5}).to_csv("bars.csv", index=False)
    foretrain("quick", "bars.csv", *SHORT, "--max-steps", 1, "--model", OLD_RUNS / "kronos" / "finished" / "release")
    table, naive = pd.read_csv("bars-quick/forecast.csv"), pd.read_csv("bars-quick/naive.csv")
    (chart,) = drawn
    own = naive[naive["target_name"] == "close"]["predictions"]
    np.testing.assert_allclose(chart.other, own, rtol=1e-6)
    assert "0.25" not in table.columns and {0.25, 0.75} <= {*chart.levels}


def test_a_folder_that_another_process_writes_is_left_alone(done: Path, elsewhere: Path, capsys):
    (elsewhere / "sales.csv").write_bytes((done / "sales.csv").read_bytes())
    unfinished = {**state(done / "sales-quick"), "finished": False}
    Path("sales-quick").mkdir()
    Path("sales-quick/quick.json").write_text(json.dumps(unfinished))
    with RunLock(Path("sales-quick")):
        foretrain("quick", "sales.csv", *SHORT, code=2)
    assert "is writing this run" in capsys.readouterr().err
    assert state(Path("sales-quick")) == unfinished


def test_from_python_a_file_gives_what_the_command_gives(done: Path, elsewhere: Path):
    (elsewhere / "sales.csv").write_bytes((done / "sales.csv").read_bytes())
    found = quick("sales.csv", prediction_length=4, max_steps=3, threads=1)
    assert found.folder == Path("sales-quick")
    for name in ("forecast.csv", "naive.csv"):
        assert Path("sales-quick", name).read_bytes() == (done / "sales-quick" / name).read_bytes()
    written = state(found.folder)
    assert found.outcome.items() <= written.items() and "opened once" in found.summary
    again = load(found.release).forecast_df(read_table("sales.csv"), 4, target="sales")
    pd.testing.assert_frame_equal(again, found.forecast)


def test_from_python_frames_are_taken_too_and_errors_speak_of_them(elsewhere: Path):
    stamps = pd.date_range("2024-01-01", periods=28, freq="D")
    history = pd.DataFrame({"timestamp": stamps, "target": weekly(28), "promotion": np.arange(28) % 5})
    ahead = history[["timestamp", "promotion"]].assign(timestamp=stamps + pd.Timedelta(days=28)).head(8)
    found = quick(history, out="mine", future=ahead, threads=1)
    assert found.forecast["timestamp"].tolist() == ahead["timestamp"].tolist() and len(found.naive) == 8
    assert "promotion known ahead" in found.summary
    for wrong, error, message in (
        ({"out": None}, ConfigError, "out: a frame has no name"),
        ({"future": "ahead.csv"}, ConfigError, "not str"),
        ({"target": "sale"}, DataError, "^df: no column 'sale'"),
        ({"prediction_length": 30}, DataError, "^df: prediction_length 30 is not shorter"),
    ):
        with pytest.raises(error, match=message):
            quick(history, **{"out": "other", "threads": 1, **wrong})
    assert not Path("other").exists()
