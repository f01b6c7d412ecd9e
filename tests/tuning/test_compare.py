"""Several studies that end in one table: what they must share, and what the table says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tuning.needs_optuna import optuna  # noqa: F401
from tests.tuning.studies import SMALL, SPACE
from typer.testing import CliRunner

from foretrain.cli import tune
from foretrain.cli.app import app
from foretrain.config import dump_yaml
from foretrain.errors import ConfigError, DataError
from foretrain.run.shipped import shipped_config
from foretrain.tuning.compare import check_windows, compare_studies, load_comparison, studies_of
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.edges import with_pruned
from foretrain.tuning.losses import read_losses
from foretrain.tuning.selection import SelectedEdge
from foretrain.tuning.study import create_study
from foretrain.tuning.trial import run_trial
from foretrain.tuning.worker import TuneWorker


def write_study(path: Path, *, change: dict[str, Any] | None = None, **more: Any) -> str:
    """Write the config of a study; change: of its run."""
    tree = {"output_dir": "unused", "run": "linear/quick", "set": {**SMALL, **(change or {})}, "space": SPACE}
    path.write_text(dump_yaml({**tree, "trials": 1, **more}))
    return str(path)


def write_comparison(folder: Path, *studies: str, **more: Any) -> Path:
    path = folder / "both.yaml"
    path.write_text(dump_yaml({"output_dir": str(folder / "out"), "studies": list(studies), **more}))
    return path


def said(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output


def in_this_process(config: TuneConfig, resume: bool) -> None:
    TuneWorker(create_study(config, resume), run_trial).run()


def test_searches_end_in_one_table_that_can_be_shown_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "_run", in_this_process)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    both = write_comparison(
        tmp_path,
        write_study(tmp_path / "slow.yaml", change={"optimizer.learning_rate": 1e-6}),
        write_study(tmp_path / "short.yaml", change={"data.context_length": 24}),
    )
    out = tmp_path / "out"
    assert "study slow" in said("tune", both, "--dry-run") and not out.exists()
    text = said("tune", both)
    head, *rows = text[text.index("study  ") :].splitlines()[:3]
    assert head.split()[:2] == ["study", "trials"] and {row.split()[0] for row in rows} == {"slow", "short"}
    assert "counts the choice among all 2 trials" in text and "3 dates" in text
    assert "3 dates in 3 blocks of 1 are too few" in text  # no p-value is claimed of three dates
    found = json.loads(said("tune", "show", out, "--json"))
    assert found == {
        key: value for key, value in json.loads((out / "comparison.json").read_text()).items() if key != "format"
    }
    best = [row["best"] for row in found["rows"]]
    assert best == sorted(best) and len({row["naive"] for row in found["rows"]}) == 1
    for row in found["rows"]:
        trial = out / row["study"] / "trials" / f"{row['trial']:04d}"
        table = read_losses(trial / "losses.parquet")
        loss, naive, steps = (np.array(table.column(name)) for name in ("loss", "naive", "steps"))
        assert row["over_naive"] == pytest.approx(1 - (loss * steps).sum() / (naive * steps).sum(), rel=1e-9)
        record = json.loads((trial / "result.json").read_text())
        assert row["best"] == record["values"][0]
        # naive's own figure is of the same unit and windows: the skill of a trial in scaled error follows from both
        assert record["metrics"]["val_skill"] == pytest.approx(row["over_naive"], rel=1e-6)
        beside = read_losses(trial.parent / "default" / "losses.parquet")
        assert row["over_default"] == pytest.approx(1 - loss.sum() / np.array(beside.column("loss")).sum(), rel=1e-9)
    assert all(row["p_naive"] is None is row["p_default"] for row in found["rows"])
    assert said("tune", "show", out).splitlines()[0] == head
    with pytest.raises(ConfigError, match=r"holds a comparison\. Go on with it by --resume"):
        said("tune", both)
    assert "counts the choice among all 4 trials" in said("tune", "resume", out, "--trials", 2)
    with pytest.raises(ConfigError, match=r"holds a comparison of studies\. Name the folder of one"):
        said("tune", "best", out)
    assert "optimizer:" in said("tune", "best", out / "slow")
    other = write_comparison(tmp_path, str(tmp_path / "slow.yaml"), "linear", "tune/linear")
    with pytest.raises(ConfigError, match="no such config file"):
        said("tune", other, "--resume")
    # losses of other windows are refused where they are read, too
    result = out / "slow" / "trials" / "0000" / "losses.parquet"
    result.write_bytes((tmp_path / "out" / "short" / "trials" / "0000" / "losses.parquet").read_bytes())
    assert compare_studies(out).dates == 3
    import pyarrow.parquet as pq

    pq.write_table(read_losses(result).slice(1), result)
    with pytest.raises(DataError, match="scored on different windows"):
        said("tune", "show", out)


@pytest.mark.parametrize(
    ("change", "said_of"),
    [
        ({"evaluation.num_windows": 2}, "different windows"),
        ({"data.prediction_length": 6}, "different windows"),
        ({"evaluation.seasonality": 2}, "the same windows with other scales"),
        ({"evaluation.quantile_levels": [0.1, 0.5, 0.9]}, "other quantile levels"),
    ],
)
def test_studies_of_other_windows_are_refused_before_a_trial(tmp_path: Path, change: dict, said_of: str):
    names = [write_study(tmp_path / "a.yaml"), write_study(tmp_path / "b.yaml", change=change)]
    config = load_comparison(write_comparison(tmp_path, *names))
    with pytest.raises(ConfigError, match=f"a and b are scored on {said_of}"):
        check_windows(studies_of(config))


def test_shared_keys_reach_all_studies_and_equal_windows_pass(tmp_path: Path):
    names = [write_study(tmp_path / "a.yaml"), write_study(tmp_path / "b.yaml", change={"evaluation.num_windows": 2})]
    path = write_comparison(tmp_path, *names, shared={"trials": 5})
    config = load_comparison(path, ["shared.set.evaluation.num_windows=2", "shared.folds.count=2"])
    studies = studies_of(config)
    assert [study.trials for study in studies.values()] == [5, 5]
    assert [study.set["evaluation.num_windows"] for study in studies.values()] == [2, 2]
    assert [Path(study.output_dir).name for study in studies.values()] == ["a", "b"]
    assert check_windows(studies)["val_wql"] > 0


def test_studies_that_cannot_stand_in_one_table_are_refused(tmp_path: Path):
    first = write_study(tmp_path / "a.yaml")
    other = write_study(tmp_path / "b.yaml", objectives=[{"metric": "val_mase"}])
    with pytest.raises(ConfigError, match="a and b have other objectives"):
        studies_of(load_comparison(write_comparison(tmp_path, first, other)))
    with pytest.raises(ConfigError, match="two are called a"):
        studies_of(load_comparison(write_comparison(tmp_path, first, first)))
    both = write_comparison(tmp_path, first, other)
    with pytest.raises(ConfigError, match="is itself a comparison"):
        studies_of(load_comparison(write_comparison(tmp_path, first, str(both))))
    with pytest.raises(ConfigError, match="studies"):
        load_comparison(write_comparison(tmp_path, first))
    with pytest.raises(ConfigError, match="unknown key"):
        load_comparison(write_comparison(tmp_path, first, other), ["trials=3"])
    with pytest.raises(ConfigError, match="shared"):
        load_comparison(write_comparison(tmp_path, first, other), ["shared=5", "shared.trials=3"])
    with pytest.raises(ConfigError, match="trials"):
        studies_of(load_comparison(write_comparison(tmp_path, first, other), ["shared.trials=0"]))


def test_a_pruned_trial_counts_as_one_more_that_might_have_won():
    edge = SelectedEdge(3, 10, 10, 0.1, 2.0, 0.04, 0.1)
    assert with_pruned(edge, 2).p_value == pytest.approx(0.18) and with_pruned(edge, 90).p_value == 1
    assert with_pruned(edge, 0) == edge


def test_the_shipped_comparison_is_of_searches_on_one_period():
    studies = studies_of(load_comparison(shipped_config("tune/compare")))
    assert list(studies) == ["toto", "toto2", "kronos", "chronos2", "linear"]
    keys = ("corpora", "min_context", "prediction_length", "validation_from", "test_from")
    windows = {tuple(map(str, (study.set.get(f"data.{key}") for key in keys))) for study in studies.values()}
    assert len(windows) == 1 and {study.set["evaluation.num_windows"] for study in studies.values()} == {25}
