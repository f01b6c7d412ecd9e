"""Outputs that are no files: pipes, devices and /dev/stdout; and CSV files for spreadsheets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from tests.cli.test_app import foretrain
from tests.waiting import DEADLINE

DAYS = pd.date_range("2024-01-01", periods=40, freq="D")


@pytest.fixture(scope="module")
def folder(zoo, tmp_path_factory) -> Path:
    """A small release, and the series =cmd and b."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "release").mkdir()
    zoo.built("linear").save_release(folder / "release")
    values = {"=cmd": range(40), "b": range(1, 41)}
    series = [pd.DataFrame({"item_id": name, "timestamp": DAYS, "target": target}) for name, target in values.items()]
    pd.concat(series).to_csv(folder / "a.csv", index=False)
    return folder


def forecast(folder: Path, *words: object, code: int = 0) -> None:
    foretrain("forecast", folder / "release", folder / "a.csv", "--prediction-length", 2, *words, code=code)


@pytest.mark.parametrize("name", ["/dev/stdout", "-"])
def test_a_forecast_goes_to_stdout_and_its_words_to_stderr(folder, name, capfd):
    forecast(folder, "--out", folder / "file.csv")
    capfd.readouterr()
    forecast(folder, "--out", name)
    shown = capfd.readouterr()
    assert shown.out == (folder / "file.csv").read_text()
    assert "wrote /dev/stdout: 4 rows, 2 items, 2 steps of 'target'" in shown.err


def test_a_forecast_goes_into_a_pipe(folder, tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    forecast(folder, "--out", tmp_path / "pipe")
    reader.join()
    assert len(pd.read_csv(io.StringIO(found[0]))) == 4
    assert (tmp_path / "pipe").is_fifo() and "wrote" in capfd.readouterr().out


@pytest.mark.parametrize("words", [["forecast"], ["config", "copy", "debug"]], ids=lambda words: words[0])
def test_a_full_device_is_one_line_and_stays_a_device(folder, words, capfd):
    if words == ["forecast"]:
        forecast(folder, "--out", "/dev/full", code=2)
    else:
        foretrain(*words, "--out", "/dev/full", code=2)
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "error: /dev/full: cannot be written (No space left on device)." in error
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    "words",
    [["export", "x"], ["data", "import", "a.csv"], ["score", "a.csv"], ["evaluate", "release", "--data", "a.csv"]],
)
def test_a_device_is_no_folder(folder, words, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    foretrain(*words, "--out", "/dev/null", code=2)
    assert capfd.readouterr().err.startswith("error: ")
    assert Path("/dev/null").is_char_device()


def test_a_text_and_a_picture_go_to_stdout_alone(folder, tmp_path, capfdbinary):
    foretrain("config", "copy", "debug", "--out", "-")
    assert capfdbinary.readouterr().out.startswith(b"# ")
    foretrain("data", "import", folder / "a.csv", "--out", tmp_path / "corpus")
    capfdbinary.readouterr()
    foretrain("data", "inspect", tmp_path / "corpus", "--plot", "/dev/stdout")
    assert capfdbinary.readouterr().out.startswith(b"\x89PNG")


@pytest.mark.processes
def test_a_reader_that_has_had_enough_ends_the_command_quietly(tmp_path):
    command = [sys.executable, "-m", "foretrain.cli", "config", "list"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.wait(DEADLINE) == 141
        assert running.stderr.read() == b""
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"No space left on device" in done.stderr and list(tmp_path.iterdir()) == []


def test_csv_files_for_spreadsheets_have_no_formulas(folder, tmp_path, capfd):
    forecast(folder, "--out", tmp_path / "safe.csv", "--csv-safe")
    forecast(folder, "--out", tmp_path / "exact.csv")
    safe, exact = (pd.read_csv(tmp_path / name) for name in ("safe.csv", "exact.csv"))
    assert set(safe["item_id"]) == {"'=cmd", "b"} and set(exact["item_id"]) == {"=cmd", "b"}
    assert safe.drop(columns="item_id").equals(exact.drop(columns="item_id"))
    evaluate = ["evaluate", folder / "release", "--data", folder / "a.csv", "--num-windows", 2, "--csv-safe"]
    foretrain(*evaluate, "--prediction-length", 2, "--out", tmp_path / "scores")
    assert "\n'=cmd," in (tmp_path / "scores" / "per_item.csv").read_text()
    capfd.readouterr()
    foretrain(*evaluate, "--prediction-length", 2, code=2)
    assert "--csv-safe: has no effect without --out" in capfd.readouterr().err
