"""`foretrain benchmark --suite ltsf` on a generated file, its look-back, and its corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_app import foretrain

from foretrain.suites.definition import tasks_of
from foretrain.suites.self_check import FigureCheck, check_task

STEPS = 1000
VALUES = np.cumsum(np.random.default_rng(5).standard_normal((STEPS, 2)), axis=0).round(3)


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with the raw file of the exchange rates."""
    days = np.datetime64("1990-01-01") + np.arange(STEPS)
    stamps = [f"{day.item().year}/{day.item().month}/{day.item().day} 0:00" for day in days]
    rows = [f"{stamp},{x},{y}" for stamp, (x, y) in zip(stamps, VALUES.tolist(), strict=True)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "exchange_rate.csv").write_text("\n".join(["date,0,OT", *rows]) + "\n")
    return tmp_path / "data"


def repeated() -> dict[str, float]:
    """MSE and MAE of the last value over the 105 windows of 96 steps in the last 200."""
    scaled = (VALUES - VALUES[:700].mean(0)) / VALUES[:700].std(0)
    errors = np.stack([scaled[cutoff : cutoff + 96] - scaled[cutoff - 1] for cutoff in range(800, 905)])
    return {"MSE": float((errors**2).mean()), "MAE": float(np.abs(errors).mean())}


def test_a_baseline_is_scored_over_all_windows_and_another_look_back_is_said(root: Path, tmp_path, capsys):
    words = ("naive", "--suite", "ltsf", "--task", "exchange_rate/96", "--data-root", root, "--out", tmp_path / "out")
    foretrain("benchmark", *words)
    said = capsys.readouterr().out
    assert "MSE" in said and "MAE" in said and "look-back" not in said
    path = tmp_path / "out" / "naive" / "ltsf" / "exchange_rate--96.json"
    own = json.loads(path.read_text())
    assert own["metrics"] == own["baseline"] == pytest.approx(repeated(), rel=1e-9)
    assert (own["series"], own["windows"], own["variates"]) == (1, 105, 2)
    foretrain("benchmark", *words, "--context", 300)
    other = json.loads(path.read_text())
    assert other["metrics"] == own["metrics"] and other["identity"] != own["identity"]
    assert (
        other["notes"] == ["look-back: 300 steps in place of the suite's 96; compares with no figure of another."]
        and other["notes"][0] in capsys.readouterr().out
    )


def test_a_corpus_of_the_raw_file_keeps_its_columns_together(root: Path, tmp_path, capsys):
    words = ("ltsf", "--task", "exchange_rate/96", "--data-root", root)
    foretrain("data", "download", *words, code=2)
    assert "ltsf: has no data sets on the hub" in capsys.readouterr().err
    task = next(task for task in tasks_of("ltsf") if task.name == "exchange_rate/96")
    raw = check_task(task, root)
    foretrain("data", "download", *words, "--source", "local")
    corpus = check_task(task, root)
    assert (raw.data, corpus.data) == ("ltsf-exchange-rate", str(root / "ltsf" / "exchange_rate" / "96"))
    assert (raw.series, corpus.series, raw.state) == (1, 1, "disagreed")
    assert corpus.metrics["MSE"].found == pytest.approx(raw.metrics["MSE"].found, rel=1e-5)


@pytest.mark.parametrize(("found", "agrees"), [(1.2945, True), (1.2955, True), (1.29551, False), (1.2944, False)])
def test_rounded_figures_agree_within_half_a_unit_of_their_last_decimal(found: float, agrees: bool):
    assert FigureCheck(1.295, found, 3).agrees is agrees
    assert FigureCheck(1.295, found).agrees == (abs(found - 1.295) <= 5e-4 * 1.295)
