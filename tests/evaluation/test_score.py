from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.evaluation.score import score_file
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code

DAYS = pd.bdate_range("2025-01-06", periods=20)


@pytest.fixture
def scored(tmp_path: Path):
    """Score predictions of two items of different prices with errors of `error` times naive's, and more columns."""

    def run(error: float = 0.5, *, days: int = 20, more=None, **how):
        frames = []
        for k, level in enumerate((10.0, 1000.0)):
            move = np.where(np.arange(days) % (3 + k) == 0, -0.02, 0.01)
            last = level * np.cumprod(1.0 + np.concatenate([[0.0], move[:-1]]))
            actual = last * (1.0 + move)
            frame = {"symbol": f"S{k}", "timestamp": DAYS[:days], "last_close": last, "actual": actual}
            frames.append(pd.DataFrame(frame | {"predicted": actual - error * (actual - last)}))
        frame = pd.concat(frames)
        for name, column in (more or {}).items():
            frame[name] = column(frame)
        frame.to_csv(tmp_path / "p.csv", index=False)
        return score_file(tmp_path / "p.csv", **how)

    return run


def test_errors_are_in_percent_of_the_last_close_beside_naive_s(scored):
    found = scored(0.5)
    entry = found.pooled["pct_mae"]
    assert entry["unit"] == "percent of the last close"
    assert entry["naive"] == pytest.approx(100 * np.mean([0.01] * 28 + [0.02] * 12))
    assert entry["value"] == pytest.approx(0.5 * entry["naive"])
    assert found.pooled["skill_vs_naive"]["value"] == pytest.approx(0.5)
    assert found.pooled["direction_accuracy_share"]["value"] == 1.0
    assert np.isnan(found.pooled["direction_accuracy_share"]["naive"])


@pytest.mark.parametrize(
    ("error", "verdict", "how"),
    [
        (0.5, "better than naive, p<0.001", "Its mean absolute error is 50.0% below naive's: 0.65 against 1.3 percent"),
        (1.5, "worse than naive, p<0.001", "Its mean absolute error is 50.0% above naive's: 1.95 against 1.3 percent"),
        (5.0, "worse than naive, p<0.001", "Its mean absolute error is 5 times naive's: 6.5 against 1.3 percent"),
        (1.0, "no difference from naive (identical losses)", "Its mean absolute error is the same as naive's: 1.3"),
    ],
)
def test_the_verdict_is_in_words(scored, error, verdict, how):
    found = scored(error)
    assert found.against_naive.verdict == verdict and f"p.csv: {verdict}. {how}" in found.headline


def test_a_statistic_above_0_is_worse(scored):
    assert scored(1.5).against_naive.statistic > 0 > scored(0.5).against_naive.statistic


def test_few_origins_give_no_verdict(scored):
    assert scored(0.5, days=4).against_naive.verdict == "too few windows to tell (4 origins, 10 needed)"


def test_prices_are_reported_by_item_and_never_averaged(scored):
    found = scored(0.5)
    assert "price_mae" not in found.pooled and "mae" not in found.pooled
    small, large = (entry["price_mae"] for entry in found.per_item)
    assert 0.05 < small < 0.1 and 5 < large < 10
    assert found.per_item[0]["price_median_error"] < small
    assert found.medians["pct_mae"] == np.median([entry["pct_mae"] for entry in found.per_item])


def test_quantiles_are_scored_if_there_are_any(scored):
    bands = {"0.1": lambda f: f["actual"] - 1e-3, "0.9": lambda f: f["actual"] + 1e-3}
    found = scored(0.5, more=bands)
    assert found.pooled["coverage_80_share"]["value"] == 1.0
    assert found.pooled["wql"]["value"] < found.pooled["wql"]["naive"]
    assert not {"wql", "coverage_80_share"} & set(scored(0.5).pooled)
    assert "coverage_80_share" not in scored(0.5, more={"0.25": bands["0.1"]}).pooled


def test_crossing_quantiles_are_reported(scored):
    found = scored(0.5, more={"0.1": lambda f: f["actual"] + 1, "0.9": lambda f: f["actual"] - 1})
    assert [note.counts for note in found.notes if note.code == Code.QUANTILES_CROSSED] == [{"share": 1.0}]


@pytest.mark.parametrize(
    ("claim", "what"),
    [
        (1.3, "1.3 % is right"),
        (0.013, "0.013 % is a fraction with a percent sign. The error is 1.3 percent of the last close."),
        (100.0, "100 % is a MAPE of returns"),
        (1.0, "1 % is a MAPE of returns"),
        (7.0, "7 % is not a known figure"),
    ],
)
def test_a_published_percentage_is_identified(scored, claim, what):
    assert scored(1.0, claimed_percent=(claim,)).claims[0].startswith(what)


def test_a_large_error_is_also_given_as_a_fraction(scored):
    (trap,) = (trap for trap in scored(20.0).traps if trap.code == Code.FRACTION_AS_PERCENT)
    assert trap.counts["fraction"] == pytest.approx(0.26, abs=5e-3) and "printed as 0.26 %" in trap.text
    assert not scored(1.0).traps


def test_a_large_mape_of_returns_is_a_trap(scored):
    found = scored(3.0)
    assert found.look_alikes["mape_of_returns_pct"] == pytest.approx(300.0)
    (trap,) = (trap for trap in found.traps if trap.code == Code.MAPE_OF_RETURNS)
    assert trap.counts["percent"] == pytest.approx(300.0)


def test_changes_without_prices_have_no_price_errors(scored):
    def change(name):
        return lambda frame: frame[name] / frame["last_close"] - 1.0

    frame_of_changes = {"a": change("actual"), "b": change("predicted")}
    roles = {"actual": "a", "predicted": "b"}
    whole = scored(0.5, more=frame_of_changes, columns=roles, values="fraction")
    assert whole.pooled["pct_mae"]["value"] == pytest.approx(0.65) and "price_mae" in whole.per_item[0]
    bare = scored(0.5, more={**frame_of_changes, "last_close": lambda f: 0.0}, columns=roles, values="fraction")
    assert np.isnan(bare.pooled["pct_mae"]["value"])
    assert [note.counts for note in bare.notes if note.code == Code.NO_LAST_CLOSE] == [{"forecasts": 40}]


def test_scoring_the_forecasts_of_an_evaluation_gives_its_metrics(hourly, persistence, tmp_path):
    """evaluate and score use one set of formulas."""
    corpus = hourly(4, 200, price=True)
    found = evaluate(persistence(0.5), corpus, prediction_length=3, num_windows=12)
    s = found.scored
    n, h = np.indices(s.target.shape)
    stamps = s.start[:, None] + h * 3_600_000_000
    columns = {
        "item": np.array(s.items)[s.item][n],
        "cutoff": (s.start[:, None] - 3_600_000_000 + 0 * h).astype("datetime64[us]"),
        "timestamp": stamps.astype("datetime64[us]"),
        "last_close": s.last[n],
        "actual": s.target,
        "predicted": s.median,
        **{str(level): s.at(level) for level in s.levels},
    }
    pd.DataFrame({name: column.ravel() for name, column in columns.items()}).to_parquet(tmp_path / "p.parquet")
    again = score_file(tmp_path / "p.parquet")
    names = ("pct_mae", "smape_pct", "direction_accuracy_share", "wql", "coverage_80_share", "skill_vs_naive")
    assert {name: again.pooled[name]["value"] for name in names} == pytest.approx(
        {name: found.pooled["model"][name] for name in names}
    )
    naive = next(c for c in found.comparisons if c.against == "naive")
    assert again.against_naive.statistic == pytest.approx(naive.statistic)
    assert (again.against_naive.origins, again.against_naive.lag) == (naive.origins, naive.lag)
    assert [e["price_mae"] for e in again.per_item] == pytest.approx(found.per_item["model"]["price_mae"])


def test_json_and_markdown_hold_the_same(scored, tmp_path):
    found = scored(0.5, claimed_percent=(0.0065,), more={"actual": lambda f: f["actual"].where(f.index > 0)})
    paths = found.save(tmp_path / "out")
    assert [path.name for path in paths] == ["score.json", "score.md"]
    saved, text = json.loads(paths[0].read_text()), paths[1].read_text()
    assert saved["headline"] in text and saved["claims"][0] in text and saved["dm"]["convention"] in text
    assert saved["pooled"]["direction_accuracy_share"]["naive"] is None
    assert "2 rows without an actual value are not scored" in saved["notes"]
    assert all(entry["item"] in text for entry in saved["per_item"])


def test_many_items_are_cut_in_the_text_and_whole_in_the_json(tmp_path):
    items = [f"I{k:03d}" for k in range(60)]
    columns = {"item": items, "timestamp": DAYS[0], "last_close": 10.0, "actual": 11.0, "predicted": 10.5}
    pd.DataFrame(columns).to_csv(tmp_path / "p.csv", index=False)
    found = score_file(tmp_path / "p.csv")
    assert len(found.to_dict()["per_item"]) == 60
    assert "I039" in found.markdown() and "I040" not in found.markdown()
    assert "20 more items are in score.json." in found.markdown()
