"""`foretrain compare` on generated data, whose figures are worked out here by loops and by scipy."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.suites.shipped import suites  # noqa: F401

ITEMS = 33
SERIES = np.cumsum(np.random.default_rng(8).standard_normal((60, ITEMS)), axis=0).round(3) + 50
KEPT = SERIES.astype(np.float32).astype(np.float64)  # as corpora keep values


@pytest.fixture
def sales(tmp_path, monkeypatch) -> Path:
    """A table of daily series in the current folder."""
    monkeypatch.chdir(tmp_path)
    days = np.datetime64("2024-01-01") + np.arange(len(SERIES))
    lines = ["item_id,timestamp,y"]
    lines += [f"i{k},{days[t]},{SERIES[t, k]}" for k in range(ITEMS) for t in range(len(SERIES))]
    (tmp_path / "sales.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "sales.csv"


def naive_loss(column: np.ndarray, cutoff: int, horizon: int, season: int) -> float:
    """MASE of the newest value in a window."""
    past, future = column[:cutoff], column[cutoff : cutoff + horizon]
    scale = np.mean([abs(past[t] - past[t - season]) for t in range(season, cutoff)])
    return float(np.mean([abs(y - past[-1]) for y in future]) / scale)


def compare(*words: object, code: int = 0) -> None:
    foretrain("compare", *words, "--threads", 1, code=code)


def test_items_and_pairs_have_the_figures_of_loops(sales, capsys):
    from scipy.stats import false_discovery_control

    compare(
        "naive", "drift", "--data", sales, "--horizon", 2, "--windows", 10, "--seasonality", 7, "--json", "out.json"
    )
    found = json.loads(Path("out.json").read_text())
    (task,) = found["tasks"]
    losses = task["losses_per_item"]
    assert losses["items"] == [f"i{k}" for k in range(ITEMS)] and losses["history"] == [40] * ITEMS
    expected = [np.mean([naive_loss(column, cut, 2, 7) for cut in range(40, 60, 2)]) for column in KEPT.T]
    assert losses["losses"]["naive"]["MASE"] == pytest.approx(expected, rel=1e-12)
    assert task["figures"]["naive"]["MASE"] == pytest.approx(np.mean(expected), rel=1e-12)  # equal windows

    own, naive = (np.array(losses["losses"][model]["SQL"]) for model in ("drift", "seasonal_naive"))
    standing = next(s for s in found["standings"] if s["model"] == "drift" and s["metric"] == "SQL")
    assert standing["skill"] == pytest.approx(1 - np.exp(np.mean(np.log(own / naive))), rel=1e-12)
    low, high = standing["skill_interval"]
    assert low < standing["skill"] < high and (standing["over"], standing["count"]) == ("items", ITEMS)
    others = [losses["losses"][model]["SQL"] for model in ("naive", "seasonal_naive")]
    wins = np.mean([[(o < x) + 0.5 * (o == x) for o, x in zip(own, other, strict=True)] for other in others])
    assert standing["win_rate"] == pytest.approx(wins, rel=1e-12)

    tests = found["tests"]
    assert [(t["model"], t["other"]) for t in tests] == [
        ("naive", "drift"), ("naive", "seasonal_naive"), ("drift", "seasonal_naive"),
    ]  # fmt: skip
    assert [t["test"]["count"] for t in tests] == [10] * 3 and {t["items_tested"] for t in tests} == {ITEMS}
    raw = [t["test"]["p_value"] for t in tests]
    assert [t["p_adjusted"] for t in tests] == pytest.approx(false_discovery_control(raw).tolist(), rel=1e-12)
    means = [np.mean(losses["losses"][t["model"]]["SQL"]) - np.mean(losses["losses"][t["other"]]["SQL"]) for t in tests]
    assert [t["test"]["mean_difference"] for t in tests] == pytest.approx(means, rel=1e-9)

    (by_frequency, by_history, by_suite) = found["groups"]
    assert (by_frequency["name"], by_history["name"], by_suite["name"]) == ("D", "under 100 steps", "local")
    table = np.array([losses["losses"][model]["SQL"] for model in found["models"]])
    won = {model: float(np.mean(table.argmin(axis=0) == k)) for k, model in enumerate(found["models"])}
    assert by_history["won"] == pytest.approx(won) and by_history["count"] == ITEMS
    said = capsys.readouterr().out
    assert f"Over {ITEMS} items of local/sales" in said and "10 origins" in said


def test_items_with_too_few_windows_are_said_and_tested_together(sales, capsys):
    compare("naive", "--data", sales, "--horizon", 3, "--windows", 2, "--seasonality", 7, "--json", "out.json")
    (test,) = json.loads(Path("out.json").read_text())["tests"]
    assert (test["test"]["over"], test["test"]["count"]) == ("items", ITEMS) and test["items_tested"] == 0
    assert test["items_with_too_few_windows"] == ITEMS and "at these 2 origins" in test["test"]["verdict"]
    assert f"{ITEMS} items: too few windows" in capsys.readouterr().out
    compare("naive", "--data", sales, "--horizon", 3, "--max-items", 5, "--seasonality", 7, "--json", "few.json")
    (test,) = json.loads(Path("few.json").read_text())["tests"]
    assert test["test"]["verdict"] == "too few windows to tell (1 origin, 10 needed)"
    assert test["p_adjusted"] is None
    assert f"SAMPLE of {ITEMS} items" in capsys.readouterr().out


def test_files_hold_what_is_printed_and_the_page_stands_alone(sales, capsys):
    files = ("--markdown", "c.md", "--csv", "c.csv", "--html", "c.html", "--plot", "c.svg")
    compare("naive", "mean", "--data", sales, "--horizon", 3, "--seasonality", 7, *files)
    said = capsys.readouterr().out
    rows = list(csv.DictReader(Path("c.csv").read_text().splitlines()))
    mine = next(row for row in rows if (row["model"], row["metric"]) == ("naive", "WQL"))
    assert float(mine["ratio"]) == float(mine["value"]) / float(mine["seasonal_naive"])
    assert (mine["items"], mine["windows"], mine["state"]) == (str(ITEMS), str(ITEMS), "done")
    assert f"{float(mine['value']):.5g}" in said and f"| {float(mine['value']):.5g} |" in Path("c.md").read_text()
    page = Path("c.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)|<script|@import|url\(", page)
    assert page.count("<img") == 1 and f"{float(mine['value']):.5g}" in page
    assert "naive against mean" in Path("c.svg").read_text()


def test_finished_results_are_compared_over_tasks(suites, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for words in (("naive", "drift"), ("mean",)):
        foretrain("benchmark", *words, "--suite", "pooled", "--data-root", suites, "--out", "results", "--threads", 1)
    capsys.readouterr()
    foretrain("compare", "--from", "results", "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    assert sorted(found["models"]) == ["drift", "mean", "naive", "seasonal_naive"] and found["tests"] == []
    ratios = {
        model: np.prod([t["figures"][model]["WQL"] / t["figures"]["seasonal_naive"]["WQL"] for t in found["tasks"]])
        for model in found["models"]
    }
    for one in (one for one in found["standings"] if one["metric"] == "WQL"):
        assert 1 - one["skill"] == pytest.approx(ratios[one["model"]] ** 0.5, rel=1e-12)
        assert (one["over"], one["count"]) == ("tasks", 2)
    said = capsys.readouterr().out
    assert "Over 2 of 2 tasks (10 items and 15 windows in all of them)" in said and "no tests of pairs" in said
    foretrain("compare", "naive", "--from", "results", "--json", "one.json")
    assert json.loads(Path("one.json").read_text())["models"] == ["naive", "seasonal_naive"]
    foretrain("compare", "tiny", "--from", "results", code=2)
    assert "holds no results of tiny" in capsys.readouterr().err


def test_results_on_other_windows_are_not_compared(suites, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    words = ("--suite", "single", "--data-root", suites, "--out", "results", "--threads", 1)
    foretrain("benchmark", "naive", *words)
    foretrain("benchmark", "drift", *words, "--max-items", 2)
    capsys.readouterr()
    foretrain("compare", "--from", "results", code=2)
    assert "single/walks: naive and drift were scored on other windows" in capsys.readouterr().err


def test_a_failure_is_marked_imputed_and_ends_with_code_1(suites, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    name = f"broken_{abs(hash(tmp_path)) % 10**12}"
    (tmp_path / f"{name}.py").write_text("def forecast(histories, horizon):\n    raise KeyError(horizon)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = (f"{name}:forecast", "naive", "--suite", "pooled", "--data-root", suites, "--json", "out.json")
    compare(*words, code=1)
    said = capsys.readouterr().out
    assert "FAILED, imputed with seasonal naive; TRAINING: unknown" in said and "What training saw:" in said
    found = json.loads(Path("out.json").read_text())
    broken = [one for one in found["standings"] if one["model"] == f"{name}:forecast"]
    assert broken and all((one["imputed"], one["skill"]) == (2, 0.0) for one in broken)
    assert not any(f"{name}:forecast" in (test["model"], test["other"]) for test in found["tests"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("naive",), "give one of --data, --suite and --from"),
        (("--data", "x.csv", "--horizon", 2), "name the models"),
        (("naive", "--data", "x.csv"), "give --horizon"),
        (("naive", "--data", "x.csv", "--horizon", 2, "--task", "a"), "--task: names tasks of --suite"),
        (("naive", "--suite", "single", "--items", "a"), "--items: has no effect with --suite"),
        (("naive", "--suite", "single", "--horizon", 2), "--horizon: has no effect with --suite"),
        (("--from", "x", "--max-items", 2), "--max-items: has no effect with --from"),
        (("naive", "--suite", "single", "--plot", "x.gif"), "pictures are written as"),
        (("naive", "--suite", "single", "--csv", "x", "--json", "x"), "two outputs have one file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foretrain("compare", *words, code=2)
    assert says in capsys.readouterr().err
