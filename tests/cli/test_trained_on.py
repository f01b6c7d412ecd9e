"""`--trained-on` of `benchmark` and `compare`, and what they say of data of the user that training saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.cli.test_train import SHORT
from tests.suites.shipped import WALKS, suites  # noqa: F401

from foretrain.config import dump_yaml
from foretrain.run.config import load_config, shipped_config

SEEN, EARLIER, PERHAPS, UNKNOWN = (
    f"benchmark_{kind}" for kind in ("test_seen", "data_seen", "data_perhaps_seen", "data_unknown")
)
FUNCTION = """
import numpy as np

def last(histories, horizon, quantile_levels):
    newest = np.array([row[-1] for values in histories for row in values])
    return np.tile(newest[:, None, None], (1, len(quantile_levels), horizon))
"""


def imported(folder: Path, name: str, table: np.ndarray, columns: tuple[str, ...] | None = None) -> Path:
    """A corpus of columns (T, K) by day, each an item of its own, or with names of columns the columns of one item."""
    days = np.datetime64("2024-01-01") + np.arange(len(table))
    if columns is None:
        lines = ["item_id,timestamp,y"]
        lines += [f"i{k},{days[t]},{table[t, k]!r}" for k in range(table.shape[1]) for t in range(len(table))]
    else:
        lines = [f"timestamp,{','.join(columns)}"]
        lines += [f"{days[t]},{','.join(map(repr, row))}" for t, row in enumerate(table.tolist())]
    (folder / f"{name}.csv").write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n")
    foretrain("data", "import", folder / f"{name}.csv", "--out", folder / name)
    return folder / name


def trained(folder: Path, corpus: Path, *more: str) -> Path:
    """The release of a model that was trained on a corpus for two steps."""
    overrides = [*SHORT, f"data.corpora=[{{path: {corpus}}}]", f"output_dir={folder / 'run'}", *more]
    tree = load_config(shipped_config("debug.yaml"), overrides)
    (folder / "run.yaml").write_text(dump_yaml(tree.model_dump(mode="json")))
    foretrain("train", folder / "run.yaml")
    return folder / "run" / "release"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    name = f"mine_{abs(hash(tmp_path)) % 10**12}"
    (tmp_path / f"{name}.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / f"{name}.py"


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Results by the last part of the model's name."""
    found = {}
    for path in folder.glob("*/*/*.json"):
        one = json.loads(path.read_text())
        found["release" if one["model"].endswith("release") else one["model"].rpartition(":")[2]] = one
    return found


def codes(result: dict[str, Any]) -> list[str]:
    return [flag["code"] for flag in result["flags"]]


def test_windows_in_a_corpus_of_training_are_flagged_at_another_scale_without_a_new_score(suites, here, capsys):  # noqa: F811
    later = 900 + np.cumsum(np.random.default_rng(9).standard_normal((40, 5)), axis=0)
    corpus = imported(here.parent, "past", np.concatenate([WALKS * 7 - 3, later]).round(3))
    words = (trained(here.parent, corpus), "naive", f"{here.stem}:last", "--suite", "pooled", "--task", "walks")
    into = ("--data-root", suites, "--out", here.parent / "out", "--threads", 1)
    foretrain("benchmark", *words, *into)
    before = results(here.parent / "out")
    # the raw file has no dates to compare, and no record names what a function was made from
    assert [codes(before[name]) for name in ("release", "naive", "last")] == [[UNKNOWN], [], [UNKNOWN]]
    capsys.readouterr()
    foretrain("benchmark", *words, "--trained-on", corpus, *into)
    said = capsys.readouterr().out
    after = results(here.parent / "out")
    assert "0 scored, 3 kept" in said and "looked for the windows of 1 task in past" in said
    # the corpus counts for the model that records it alone
    assert [codes(after[name]) for name in ("release", "naive", "last")] == [[SEEN], [], [UNKNOWN]]
    assert after["release"]["trained_on"] == ["x"] and before["release"]["trained_on"] is None
    assert after["release"]["metrics"] == before["release"]["metrics"]
    assert "10 of 10 scored windows of x are in past by their values" in after["release"]["flags"][0]["text"]
    foretrain("benchmark", *words[1:], "--trained-on", corpus, *into)
    stated = results(here.parent / "out")["last"]
    assert codes(stated) == [SEEN] and "is the user's word" in stated["flags"][0]["text"]
    foretrain("benchmark", *words[1:2], *words[3:], "--trained-on", corpus, *into, code=2)
    assert "--trained-on" in capsys.readouterr().err


def test_compare_flags_them_too(suites, here, capsys):  # noqa: F811
    corpus = imported(here.parent, "past", (WALKS * 0.01 + 50).round(6))
    words = (f"{here.stem}:last", "naive", "--suite", "pooled", "--task", "walks", "--data-root", suites)
    foretrain("compare", *words, "--trained-on", corpus, "--json", "out.json", "--threads", 1)
    said = capsys.readouterr().out
    assert "TRAINING: SEEN" in said and "10 of 10 scored windows of x are in past" in said
    (task,) = json.loads(Path("out.json").read_text())["tasks"]
    assert [codes(one) for one in task["results"].values()] == [[SEEN], []]


def candles(steps: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    close = 50 * np.exp(np.cumsum(rng.normal(0.001, 0.02, steps)))
    return np.stack([close, close * 1.02, close * 0.98, close], axis=1).round(4)


def test_prices_that_training_reached_are_flagged_on_market_suites_and_those_held_out_are_not(here, capsys):
    columns = ("open", "high", "low", "close")
    corpus = imported(here.parent, "prices", candles(260), columns)
    model = trained(here.parent, corpus, "data.target=[close]", "data.test_steps=20", "data.validation_steps=16")
    command = ("benchmark", model, "naive", "--suite", "market-daily", "--task", "close/1", "--threads", 1)
    foretrain(*command, "--data", corpus, "--out", "same")
    found = results(Path("same"))
    assert (codes(found["release"]), codes(found["naive"])) == ([SEEN], [])
    assert "24 of 60 windows" in found["release"]["flags"][0]["text"]  # before the 36 steps that were held out
    said = capsys.readouterr().out
    assert (
        "SEEN: WINDOWS OVERLAP TRAINING DATA" in said and "So this is no score on data that training never saw." in said
    )
    # other prices of the same days, and later ones
    others = np.concatenate([candles(200) * 3, candles(200)[::-1] * 2])
    foretrain(*command, "--data", imported(here.parent, "others", others[:250], columns), "--out", "others")
    assert codes(results(Path("others"))["release"]) == [PERHAPS]
    foretrain(*command, "--data", imported(here.parent, "later", others, columns), "--out", "later")
    assert codes(results(Path("later"))["release"]) == []
    local = ("benchmark", model, "--suite", "local", "--data", corpus, "--horizon", 10, "--threads", 1)
    for windows, expected in ((2, []), (4, [SEEN])):
        foretrain(*local, "--windows", windows, "--out", f"local{windows}")
        assert codes(results(Path(f"local{windows}"))["release"]) == expected


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["benchmark", "naive", "--suite", "pooled", "--trained-on", "x", "--dry-run"], "no effect with --dry-run"),
        (["benchmark", "--list", "--trained-on", "x"], "--trained-on: has no effect without a model"),
        (["compare", "--from", "x", "--trained-on", "y"], "--trained-on: has no effect with --from"),
        (["benchmark", "naive", "--suite", "pooled", "--trained-on", "nowhere"], "nowhere"),
    ],
)
def test_choices_without_effect_are_refused(words, reason, suites, here, capsys):  # noqa: F811
    root = () if words[0] == "compare" or "--list" in words else ("--data-root", suites)
    foretrain(*words, *root, code=2)
    assert reason in capsys.readouterr().err
