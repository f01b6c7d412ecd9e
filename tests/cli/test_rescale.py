"""`--rescale` of forecast and evaluate, and the warning that names it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from foretrain import cli


def foretrain(*arguments: object) -> None:
    """Run the command in this process."""
    old = sys.argv
    sys.argv = ["foretrain", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as leave:
        assert not leave.code
    finally:
        sys.argv = old


def test_series_that_move_little_are_named_and_rescaled_on_request(zoo, tmp_path: Path, capsys):
    (tmp_path / "release").mkdir()
    zoo.built("toto", scale_floor="upstream").save_release(tmp_path / "release")
    stamps, wave = pd.date_range("2024-01-01", periods=160, freq="h"), np.sin(np.arange(160) * 2 * np.pi / 24)
    pd.DataFrame({"timestamp": stamps, "target": 10 + wave}).to_csv(tmp_path / "a.csv", index=False)

    def widths(*flags: object) -> np.ndarray:
        where = ("--prediction-length", 3, "--out", tmp_path / "q.parquet")
        foretrain("forecast", tmp_path / "release", tmp_path / "a.csv", *where, *flags)
        found = pd.read_parquet(tmp_path / "q.parquet")
        return (found["0.9"] - found["0.1"]).to_numpy()

    def evaluated(out: str, *flags: object) -> dict:
        asked = ("--prediction-length", 3, "--num-windows", 2, "--out", tmp_path / out)
        foretrain("evaluate", tmp_path / "release", "--data", tmp_path / "a.csv", *asked, *flags)
        return json.loads((tmp_path / out / "evaluation.json").read_text())

    plain = widths()
    assert "1 of 1 windows have a target with a standard deviation below 2.23" in capsys.readouterr().err
    assert (widths("--rescale") < plain).all()
    assert "2.23" not in capsys.readouterr().err
    plain, other = evaluated("plain"), evaluated("other", "--rescale")
    assert (plain["settings"]["rescale"], other["settings"]["rescale"]) == (False, True)
    assert any("2 of 2 windows" in text and "--rescale" in text for text in plain["warnings"])
    assert plain["notes"] == {"floored windows": 2, "windows": 2}
    assert not other["notes"] and plain["pooled"]["model"] != other["pooled"]["model"]
