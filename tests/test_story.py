"""docs/the-1.16-percent-story.md: its commands are run, and what it says of figures is computed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.cli.test_app import foretrain

PAGE = Path(__file__).parents[1] / "docs" / "the-1.16-percent-story.md"
TEXT = PAGE.read_text()


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.S | re.M)
    return [text for name, text in found if name == kind]


def huber(error: float, delta: float = 0.01) -> float:
    return float(F.huber_loss(torch.tensor(error), torch.tensor(0.0), delta=delta))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the page's commands ran, and all that they printed. The last one needs a run."""
    folder, out = tmp_path_factory.mktemp("story"), io.StringIO()
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("foretrain ")]
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        for block in blocks("python"):
            exec(compile(block, str(PAGE), "exec"), {})
        for line in commands[:-1]:
            foretrain(*shlex.split(line)[1:])
    return folder, out.getvalue()


@pytest.fixture(scope="module")
def score(story) -> dict:
    return json.loads((story[0] / "score" / "score.json").read_text())


def test_the_page_shows_what_its_commands_print(story):
    lines = [line for block in blocks("text") for line in block.splitlines() if line]
    assert len(lines) == 7
    for line in lines:
        assert line in story[1].splitlines()


def test_an_error_of_1_161_of_the_last_close_is_116_1_percent(score):
    assert score["pooled"]["pct_mae"]["value"] == pytest.approx(116.1)
    assert score["pooled"]["pct_mae"]["unit"] == "percent of the last close"
    assert score["look_alikes"]["mae_as_fraction_of_last_close"] == pytest.approx(1.161)
    assert score["claims"] == [
        "1.161 % is a fraction with a percent sign. The error is 116.1 percent of the last close."
    ]


def test_a_statistic_of_11_28_is_worse_than_naive(score):
    assert score["dm"]["statistic"] == pytest.approx(11.28)
    assert score["dm"]["mean_difference"] > 0
    assert score["dm"]["verdict"] == "worse than naive, p=0.008"
    assert "worse than naive" in score["headline"] and "better" not in score["headline"]


def test_the_last_batch_alone_has_the_same_error_and_no_verdict(story):
    assert "too few windows to tell (4 origins, 10 needed). Its mean absolute error is 29.8 times naive's" in story[1]


def test_no_price_is_averaged_over_symbols(score):
    assert not {"price_mae", "mae", "rmse"} & set(score["pooled"])
    errors = [entry["price_mae"] for entry in score["per_item"]]
    assert max(errors) > 100 * min(errors)


def test_huber_s_loss_of_that_error_is_the_published_loss():
    assert huber(1.161) == pytest.approx(0.01 * (1.161 - 0.005)) == pytest.approx(0.01156, abs=5e-6)
    assert "0.01 x (1.161 - 0.005) = 0.01156" in TEXT


@pytest.mark.parametrize(("error", "logged"), [(0.834, 0.00207), (0.637, 0.00158), (0.531, 0.00132)])
def test_the_logged_losses_of_batches_are_a_quarter_of_huber_s(error, logged):
    assert huber(error) / 4 == pytest.approx(logged, abs=5e-6)
    assert f"{error}" in TEXT and f"{logged}" in TEXT and f"{huber(error):.5f}" in TEXT


def test_a_mape_of_returns_is_a_hundred_for_naive(story, tmp_path):
    rows = (story[0] / "predictions.csv").read_text().splitlines()
    naive = [line.rsplit(",", 3) for line in rows[1:]]
    (tmp_path / "naive.csv").write_text("\n".join([rows[0], *(f"{a},{last},{y},{last}" for a, last, y, _ in naive)]))
    foretrain("score", tmp_path / "naive.csv", "--out", tmp_path / "score")
    found = json.loads((tmp_path / "score" / "score.json").read_text())
    assert found["look_alikes"]["mape_of_returns_pct"] == pytest.approx(100.0)
    assert found["dm"]["verdict"] == "no difference from naive (identical losses)"
