"""The learning-rate range test."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.tuning.short_runs import config_of, left_in, watch_scratch, words_of
from typer.testing import CliRunner

from foretrain.cli.app import app
from foretrain.errors import ConfigError
from foretrain.tuning.lr_range import RateRange, range_lines, read_range, run_range

RATES = np.geomspace(1e-6, 1.0, 240)
WIDTH = 31
PER_WINDOW = (RATES[1] / RATES[0]) ** WIDTH  # a point is known to a window


def course(noise: float, offset: float = 0.0, explodes: bool = True) -> np.ndarray:
    """Losses that fall by 1 around a rate of 1e-3, are lowest near 1e-2, and explode above 0.05."""
    x = np.log10(RATES)
    falls = 1 / (1 + np.exp(-4 * (x + 3)))
    bursts = np.exp(np.clip(20 * (x - np.log10(0.05)), None, 12)) if explodes else 0.0
    return offset + 2 - falls + bursts + noise * np.random.default_rng(0).standard_normal(len(x))


def read(losses: np.ndarray, lost: bool = False) -> RateRange:
    return read_range(RATES[: len(losses)], losses, np.ones(len(losses)), WIDTH, lost=lost)


def within_a_window(found: float | None, truth: float) -> bool:
    return found is not None and truth / PER_WINDOW <= found <= truth * PER_WINDOW


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("offset", [0.0, -5.0])
def test_the_fall_the_lowest_loss_and_the_divergence_are_found(noise: float, offset: float):
    found = read(course(noise, offset))
    assert within_a_window(found.steepest, 1e-3)
    assert within_a_window(found.lowest, 0.02)
    assert within_a_window(found.diverged, 0.05)
    assert found.suggestion == pytest.approx((found.lowest or 0) / 10)
    text = "\n".join(range_lines(found, "my.yaml"))
    assert f"foretrain train my.yaml optimizer.learning_rate={found.suggestion:.2g}" in text
    assert f"lost from {found.diverged:.2g} on" in text


def test_without_a_fall_there_is_no_suggestion():
    found = read(2 + 0.05 * np.random.default_rng(1).standard_normal(len(RATES)))
    assert found.suggestion is None and found.diverged is None
    assert "no suggestion" in "\n".join(range_lines(found, "my.yaml"))


def test_a_loss_that_is_not_finite_is_lost_at_the_last_rate():
    found = read(course(0.01, explodes=False)[:200], lost=True)
    assert found.diverged == RATES[199]


def test_a_loss_that_still_falls_at_the_end_asks_for_a_higher_rate():
    found = read(course(0.0, explodes=False)[:120])
    assert "give a higher --to" in found.words[0]


def test_one_wild_loss_moves_nothing():
    losses = course(0.02)
    wild = losses.copy()
    wild[100] = 1e9
    assert within_a_window(read(wild).lowest, read(losses).lowest or 0)
    assert within_a_window(read(wild).diverged, read(losses).diverged or 0)


def test_a_run_trains_at_growing_rates_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scratch, said = watch_scratch(monkeypatch, tmp_path / "scratch"), list[str]()
    found = run_range(config_of(training__epochs=None), 1e-4, 1e-1, 30, said.append)
    assert found.rates == pytest.approx(np.geomspace(1e-4, 1e-1, 30), rel=1e-9)
    assert np.isfinite(found.losses).all() and not left_in(scratch)
    assert said[-1].startswith("step 30 of 30, loss ")


def test_a_run_that_is_lost_says_from_where_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scratch = watch_scratch(monkeypatch, tmp_path / "scratch")
    config = config_of(training__clip_norm=None)
    found = run_range(config, 1e-3, 1e12, 40, lambda text: None)
    assert len(found.rates) < 40 and found.diverged is not None
    assert not left_in(scratch)


def test_the_command_writes_its_files(tmp_path: Path):
    out = tmp_path / "out"
    words = ["tune", "lr-range", *words_of(), "--steps", "30", "--from", "1e-4", "--to", "0.1", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "wrote" in done.stdout and not (tmp_path / "scratch").exists()
    assert (out / "lr-range.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((out / "lr-range.json").read_text())
    rows = list(csv.DictReader((out / "lr-range.csv").open()))
    assert len(rows) == len(facts["steps"]) == 30
    assert float(rows[3]["loss"]) == facts["steps"][3]["loss"] and rows[0]["smooth_loss"] == ""


@pytest.mark.parametrize(
    "words, said",
    [
        (["--from", "0.1", "--to", "0.1"], "give 0 < from < to"),
        (["--from", "0"], "give 0 < from < to"),
        (["--to", "nan"], "give 0 < from < to"),
        (["--steps", "29"], "a range test takes 30 or more"),
    ],
)
def test_what_is_no_range_is_refused(words: list[str], said: str):
    done = CliRunner().invoke(app, ["tune", "lr-range", "debug", *words])
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)


def test_a_pipeline_and_a_file_for_the_folder_are_refused(tmp_path: Path):
    done = CliRunner().invoke(app, ["tune", "lr-range", "kronos/debug"])
    assert isinstance(done.exception, ConfigError) and "has stages" in str(done.exception)
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["tune", "lr-range", "debug", "--out", str(tmp_path / "file")])
    assert isinstance(done.exception, ConfigError) and "is a file" in str(done.exception)
