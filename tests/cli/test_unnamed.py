"""Where no model, no horizon and no output is named: the model in the box, usual lengths, new files named after the
data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain
from tests.cli.test_as_evaluated import delivered
from tests.waiting import DEADLINE

from foretrain import load
from foretrain.cli.commands import evaluate_model
from foretrain.errors import DataError
from foretrain.models.shipped import shipped
from foretrain.notes import Code, codes

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """The current folder, with sales.csv: 60 months of a sine."""
    monkeypatch.chdir(tmp_path)
    months = pd.date_range("2019-01-01", periods=60, freq="MS").strftime("%Y-%m")
    pd.DataFrame({"month": months, "sales": values()}).to_csv("sales.csv", index=False)
    return tmp_path


def values(rows: int = 60) -> np.ndarray:
    return (100 + 10 * np.sin(np.arange(rows) * np.pi / 6)).round(3)


def weather(rows: int = 200) -> pd.DataFrame:
    """Hours of three columns of numbers and one of text."""
    rng, angle = np.random.default_rng(0), np.arange(rows) * np.pi / 12
    columns = {"load": 50 + 9 * np.sin(angle), "wind": rng.normal(5, 1, rows), "sun": np.maximum(0, -np.cos(angle))}
    frame = pd.DataFrame(columns).round(3).assign(kind=rng.choice(["work", "free"], rows))
    frame.insert(0, "time", pd.date_range("2024-03-04", periods=rows, freq="h"))
    return frame


def test_only_the_data_need_be_named(capsys):
    foretrain("forecast", "sales.csv", "--threads", 1)
    table = pd.read_csv("sales-forecast.csv")
    assert len(table) == 18 and set(table["target_name"]) == {"sales"}  # months
    assert Path("sales-forecast.png").read_bytes().startswith(PNG)
    said, told = capsys.readouterr()
    assert (
        "wrote sales-forecast.csv: 18 rows, 1 item, 18 steps of 'sales'\n" in said
        and "picture: sales-forecast.png" in said
    )
    about = [line for line in told.splitlines() if "no model is named" in line]
    assert len(about) == 1 and about[0].startswith("note: ") and "trained on synthetic series alone" in about[0]
    assert "--prediction-length sets another" in told and "warning" not in told
    foretrain("forecast", "tiny", "sales.csv", "--prediction-length", 18, "--out", "named.csv")
    foretrain("forecast", "sales.csv", "--model", "tiny", "--prediction-length", 18, "--out", "option.csv")
    assert capsys.readouterr().err == ""  # all is named
    for name in ("named.csv", "option.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(name), table, rtol=1e-4)


def test_files_that_nobody_named_are_never_overwritten():
    Path("sales-forecast.csv").write_text("my own")
    for _ in range(2):
        foretrain("forecast", "sales.csv", "--threads", 1)
    assert Path("sales-forecast.csv").read_text() == "my own"
    assert sorted(path.name for path in Path().glob("sales-*-forecast.*")) == [
        f"sales-{number}-forecast.{kind}" for number in (2, 3) for kind in ("csv", "png")
    ]
    foretrain("forecast", "sales.csv", "--out", "named.csv")
    assert not list(Path().glob("named*.png"))


def test_a_model_with_a_horizon_of_its_own_keeps_it(zoo):
    place = Path("recorded")
    place.mkdir()
    zoo.shared("chronos2").save_release(place)
    (place / "release.json").write_text('{"data": {"target": ["sales"], "prediction_length": 5}}')
    foretrain("forecast", place, "sales.csv", "--out", "f.csv")
    assert len(pd.read_csv("f.csv")) == 5


def test_a_file_of_known_covariates_says_how_many_steps_to_forecast(capsys):
    frame = weather()
    frame[:-30].to_csv("history.csv", index=False)
    frame[-30:][["time", "sun"]].to_csv("ahead.csv", index=False)
    foretrain("forecast", "history.csv", "--future", "ahead.csv", "--out", "f.csv", "--threads", 1)
    table = pd.read_csv("f.csv")
    assert set(table["target_name"]) == {"load", "wind"} and len(table) == 2 * 30
    assert "no horizon" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{box}"], "holds a model, not data"),
        (["a", "b", "sales.csv"], "give one model"),
        (["a", "sales.csv", "--model", "b"], "give one model"),
        (["none.csv"], "none.csv: no such file"),
        (["tinny", "sales.csv"], "a model in the box (tiny)"),
        (["tiny"], "comes before the data: tiny DATA"),
        (["sales.csv", "tiny"], "comes before the data: tiny sales.csv"),
        (["sales.csv", "sales.csv"], "or a folder of files"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words, message, capsys):
    foretrain("forecast", *(word.format(box=shipped()["tiny"]) for word in words), code=2)
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: ") and message in told[-1]


def test_files_are_named_after_compressed_data_without_its_ending():
    pd.read_csv("sales.csv").to_csv("shop.csv.gz", index=False)
    foretrain("forecast", "shop.csv.gz", "--threads", 1)
    assert {path.name for path in Path().glob("shop*")} == {"shop.csv.gz", "shop-forecast.csv", "shop-forecast.png"}


def test_the_columns_of_a_forecast_are_told(capsys):
    weather()[:-24].to_csv("all.csv", index=False)
    weather()[-24:][["time", "sun"]].to_csv("ahead.csv", index=False)
    foretrain("forecast", "all.csv", "--target", "load", "--future", "ahead.csv", "--out", "f.csv", "--threads", 1)
    said = capsys.readouterr().out
    assert "24 steps of 'load'\n" in said and "covariates: 'sun' known ahead; 'wind', 'kind' without values" in said
    foretrain("forecast", "all.csv", "--out", "f.csv", "--threads", 1)
    said = capsys.readouterr().out
    assert "steps of 'load', 'wind', 'sun'\n" in said and "covariates" not in said


def single_rows() -> str:
    """The model in the box as if its training had seen windows of one row alone."""
    shutil.copytree(shipped()["tiny"], "single")
    path = Path("single", "release.json")
    facts = json.loads(path.read_text())
    facts["pretraining"]["recipe"]["config"]["data"]["generated"]["layouts"] = [
        {"targets": 1, "past": 0, "known": 0, "share": 1.0}
    ]
    path.write_text(json.dumps(facts))
    return "single"


def test_the_model_in_the_box_uses_covariates_and_says_nothing_of_them(logged_notes):
    model = load("tiny", device="cpu")
    history, ahead = weather()[:-24], weather()[-24:][["time", "sun"]]
    asked = {"timestamp_column": "time", "prediction_length": 24, "target": "load", "past_covariates": ()}
    plain = model.forecast_df(history, **asked)["0.5"]
    found = model.forecast_df(history, future_df=ahead, known_covariates=("sun",), **asked)["0.5"]
    assert Code.COVARIATES_NOT_LEARNT not in codes(logged_notes())
    assert (found - plain).abs().max() > 0.02 * history["load"].std()


def test_covariates_that_the_model_never_learnt_to_use_are_told(logged_notes):
    model = load(single_rows(), device="cpu")
    asked = {"timestamp_column": "time", "prediction_length": 4}
    model.forecast_df(weather(), **asked)
    assert Code.COVARIATES_NOT_LEARNT not in codes(logged_notes())  # all columns of numbers are forecast
    model.forecast_df(weather(), **asked, target="load", past_covariates=())
    assert Code.COVARIATES_NOT_LEARNT not in codes(logged_notes())
    model.forecast_df(weather(), **asked, target="load")
    (note,) = (note for note in logged_notes() if note.code == Code.COVARIATES_NOT_LEARNT)
    assert note.counts == {"columns": 3} and "'wind'" in note.text
    weather().to_csv("all.csv", index=False)
    result = evaluate_model("single", Path("all.csv"), num_windows=1, target=["load"], threads=1)
    assert Code.COVARIATES_NOT_LEARNT in codes(result.warnings)


@pytest.mark.parametrize("flags", [[], ["--target", "load"]], ids=["all columns", "a target"])
def test_a_forecast_of_the_model_in_the_box_is_the_one_that_is_evaluated(flags, capsys):
    frame = weather()
    frame.to_csv("all.csv", index=False)
    frame[:-48].to_csv("history.csv", index=False)
    named = {"target": ["load"]} if flags else {}
    result = evaluate_model("tiny", Path("all.csv"), num_windows=1, threads=1, **named)
    foretrain("forecast", "history.csv", "--out", "f.parquet", "--threads", 1, *flags)
    assert result.settings["prediction_length"] == 48 and result.scored is not None
    targets = ["load"] if flags else ["load", "wind", "sun"]
    expected = np.asarray(result.scored.quantiles, np.float32)
    np.testing.assert_array_equal(delivered(pd.read_parquet("f.parquet"), result, targets), expected)


def test_columns_of_the_future_are_known_covariates_and_the_others_are_forecast(logged_notes):
    frame, model = weather(), load("tiny", device="cpu")
    history, ahead = frame[:-24], frame[-24:].assign(load=np.nan)
    asked = {"timestamp_column": "time", "prediction_length": 24}
    found = model.forecast_df(history, **asked, future_df=ahead[["time", "sun", "wind"]])
    assert set(found["target_name"]) == {"load"}
    other = ahead[["time", "sun", "wind"]].assign(sun=5.0)
    assert not np.allclose(found["predictions"], model.forecast_df(history, **asked, future_df=other)["predictions"])
    named = {"target": "load", "past_covariates": ["kind"], "known_covariates": ["wind", "sun"]}
    pd.testing.assert_frame_equal(
        model.forecast_df(history, **asked, **named, future_df=ahead[["time", "sun", "wind"]]),
        model.forecast_df(history, **asked, target="load", future_df=ahead[["time", "sun", "wind"]]),
    )
    assert Code.KNOWN_COVARIATES_NOT_GIVEN not in codes(logged_notes())


def test_values_ahead_of_the_only_column_leave_nothing_to_forecast_and_are_named():
    history, ahead = (part[["time", "load"]] for part in (weather()[:-24], weather()[-24:]))
    with pytest.raises(DataError, match=r"no column to forecast: 'load' has values ahead .* so it is a covariate"):
        load("tiny", device="cpu").forecast_df(history, 24, timestamp_column="time", future_df=ahead)


def test_text_that_is_left_out_is_told_with_the_way_to_use_it(logged_notes):
    model = load("tiny", device="cpu")
    model.forecast_df(weather(), 4, timestamp_column="time")
    (note,) = (note for note in logged_notes() if note.code == Code.COLUMNS_LEFT_OUT)
    assert "'kind' left out" in note.text and "--target" in note.text and note.counts["columns"] == 1
    model.forecast_df(weather(), 4, timestamp_column="time", target="load")
    assert Code.COLUMNS_LEFT_OUT not in codes(logged_notes())


@pytest.mark.parametrize("name", ["target", "y"])
def test_a_column_with_the_usual_name_of_a_target_is_the_target(name):
    frame = weather().rename(columns={"wind": name})
    found = load("tiny", device="cpu").forecast_df(frame, 4, timestamp_column="time")
    assert set(found["target_name"]) == {name}


@pytest.mark.processes
def test_the_first_forecast_opens_no_socket():
    """In a new process in which any socket, and any look-up of a name, fails."""
    code = (
        "import sys, socket\n"
        "def refuse(event, details):\n"
        "    if event.startswith('socket.'): raise RuntimeError(f'{event} {details}')\n"
        "sys.addaudithook(refuse)\n"
        "sys.argv = ['foretrain', 'forecast', 'sales.csv', '--threads', '1']\n"
        "from foretrain.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("sales-forecast.png").read_bytes().startswith(PNG)
