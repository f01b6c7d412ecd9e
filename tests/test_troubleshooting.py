"""Every message that docs/troubleshooting.md quotes is one of the code's, and the commonest are printed as quoted."""

from __future__ import annotations

import ast
import contextlib
import functools
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.cli.main import main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
OF_OTHERS = {"Missing option '--data'", "Missing argument 'data'", "No such option"}  # typer's
HOLE = "\0"  # a value in a message


def quoted() -> list[str]:
    return re.findall(r"^\| `(.*?)` \|", PAGE.read_text(), flags=re.M)


@functools.cache
def texts() -> tuple[str, ...]:
    """Every text in the code, with a hole for each value."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else HOLE for p in node.values))
    return tuple(found)


def pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), flags=re.S)


def test_every_quoted_message_is_one_of_the_code_s():
    assert 40 <= len(quoted()) == len(set(quoted()))
    shown = [message for message in quoted() if message not in OF_OTHERS]
    # a name in quotes may be a value
    forms = {message: (message, re.sub(r"'\w+'", HOLE, message)) for message in shown}
    assert [
        message
        for message, ways in forms.items()
        if not any(pattern(way).search(text) for way in ways for text in texts())
    ] == []


def test_every_row_says_what_to_do():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(quoted())
    assert all(len(cell.strip()) > 5 for row in rows for cell in re.split(r"(?<!\\)\|", row.strip("|"))[1:])
    assert len(PAGE.read_text().splitlines()) < 150


@pytest.fixture
def printed(tmp_path, monkeypatch, capfd):
    """Function that runs a command in a folder of small files and gives what it printed."""
    days = pd.date_range("2024-01-01", periods=60)
    sales = pd.DataFrame({"date": days, "sales": 10 + np.arange(60) % 7, "promotion": np.arange(60) % 2})
    sales.to_csv(tmp_path / "sales.csv", index=False)
    sales.iloc[:5].drop(columns="sales").to_csv(tmp_path / "future.csv", index=False)
    sales.assign(date=sales["date"].dt.strftime("%d/%m/%Y")).iloc[:12].to_csv(tmp_path / "days.csv", index=False)
    shops = [sales.assign(kind=k, sales=sales["sales"] + k) for k in (1, 2)]
    pd.concat(shops).sort_values("date").to_csv(tmp_path / "twice.csv", index=False)
    sales.iloc[[0, 1, 8, 10, 29, 41]].to_csv(tmp_path / "uneven.csv", index=False)
    sales.to_csv(tmp_path / "bare.csv", index=False, header=False)
    (tmp_path / "text.csv").write_text(
        "date,sales\n" + "".join(f"2024-01-{d:02d},{d}\n" for d in range(1, 29)) + "2024-01-29,soon\n"
    )
    (tmp_path / "page.csv").write_text("<!DOCTYPE html><html><body>Log in</body></html>")
    (tmp_path / "run.yaml").write_text(
        "model: {family: linear, random_init: true}\n"
        "data: {corpora: [{synthetic: {kind: seasonal, num_series: 2, length: 200, freq: h}}],\n"
        "  context_length: 32, prediction_length: 4}\n"
        "training: {max_steps: 1, batch_size: 2}\noutput_dir: run\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["foretrain", *command.split()])
        capfd.readouterr()
        with contextlib.suppress(SystemExit):
            main()
        return "".join(capfd.readouterr())

    return run


def test_the_commonest_messages_are_printed_as_quoted(printed):
    wanted = {
        "forecast nothing.csv": "no such file or folder",
        "forecast page.csv": "looks like ..., not like a table",
        "forecast bare.csv": "looks like data (..., not like column names",
        "forecast days.csv": "could be day first or month first, and no row decides",
        "forecast text.csv": "text in a number column",
        "forecast twice.csv": "would be lost",
        "forecast uneven.csv": "which is neither a regular frequency nor the hours of a market",
        "forecast nobody sales.csv": "no such folder, and neither ... nor a hub id",
        "forecast some/body sales.csv": "no such folder, and not downloaded before",
        "forecast tiny": "is a model, which comes before the data",
        "forecast sales.csv --target sales --prediction-length 70 --out a.csv": (
            "beyond the ... steps that the model was trained for"
        ),
        "forecast sales.csv --target sales --prediction-length 5 --context-length 600 --out b.csv": (
            "is more than the model's ...; using"
        ),
        "forecast sales.csv --target sales --prediction-length 6 --future future.csv --out d.csv": (
            "it needs exactly prediction_length"
        ),
        "forecast sales.csv --target sales --paths p.csv --out e.csv": "draws no sample paths",
        "evaluate tiny": "Missing option '--data'",
        "evaluate tiny --data sales.csv --target sales --prediction-length 5 --num-windows 2": (
            "too few windows to tell"
        ),
        "evaluate tiny --data sales.csv --target sales --prediction-length 3 --num-windows 12": "weak test",
        "score sales.csv": "no column 'actual'; name it with",
        "evaluate tiny --dta sales.csv": "No such option",
        "quick": "Missing argument 'data'",
        "quick sales.csv --target sales --prediction-length 60": "is not shorter than the data",
        "quick sales.csv --target sales --prediction-length 25": "zero-shot only: the longest series has ... rows",
        "train nothing.yaml": "no such config file, and none of that name is shipped",
        "train chronos2/finetune": "no such corpus folder",
        "train chronos2/finetune data.corpora.0.path=sales.csv": "no corpus (",
        "train linear/quick training.max_steps=3 --dry-run": "longer than the run's ... steps",
        "train run.yaml training.dtype=auto --dry-run": "auto on ...",
        "train run.yaml training.max_stepz=3": "unknown key",
        "train run.yaml max_steps": "expected section.key=value",
        "train run.yaml data.context_length=500 data.min_context=500": "series can be trained on",
        "train run.yaml evaluation.promotion=true data.test_steps=2": "has no room for a window of",
    }
    assert set(wanted.values()) <= set(quoted())
    assert [command for command, message in wanted.items() if not pattern(message).search(printed(command))] == []


def test_a_run_folder_in_use_another_config_and_a_folder_of_checkpoints_are_told_as_quoted(printed):
    printed("train run.yaml")
    assert "already holds a run" in printed("train run.yaml")
    assert "holds checkpoints and no release" in printed("forecast run/checkpoints sales.csv --target sales")
    assert "is a checkpoint: " in printed("forecast run/checkpoints/latest sales.csv --target sales --out f.csv")
    assert "this run cannot be resumed with another config" in printed("train run.yaml --resume seed=5")
