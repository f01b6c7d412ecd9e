"""Folds: where they lie, and that nothing after a fold's block reaches a trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.tuning.studies import never, study

from foretrain.data.writer import CorpusWriter
from foretrain.errors import ConfigError
from foretrain.tuning.candidates import fold_configs
from foretrain.tuning.losses import read_losses
from foretrain.tuning.trial import run_trial

RATE = "optimizer.learning_rate"
DATES = {
    "data.validation_steps": None,
    "data.test_steps": None,
    "data.validation_from": "2020-01-12",
    "data.test_from": "2020-01-14",
    "data.embargo": "6h",
}


def test_folds_step_back_by_the_length_of_a_block(tmp_path: Path) -> None:
    by_steps = [own.data for _, own in fold_configs(study(tmp_path, folds={"count": 3}), {}, tmp_path)]
    assert [(data.validation_steps, data.test_steps) for data in by_steps] == [(36, 36), (36, 72), (36, 108)]
    config = study(tmp_path, change=DATES, folds={"count": 3, "every": "3D"})
    by_dates = [own.data for _, own in fold_configs(config, {}, tmp_path)]
    assert [data.test_from for data in by_dates] == ["2020-01-14", "2020-01-11", "2020-01-08"]
    assert [data.validation_from for data in by_dates] == ["2020-01-12", "2020-01-09", "2020-01-06"]
    assert {data.embargo for data in by_dates} == {"6h"}


def test_a_library_has_no_folds_that_step_back(tmp_path: Path) -> None:
    change = {**DATES, "data.validation_from": "library", "data.test_from": "library"}
    with pytest.raises(ConfigError, match=r"folds\.count: 2, and data.test_from is library"):
        fold_configs(study(tmp_path, change=change, folds={"count": 2}), {}, tmp_path)


@pytest.mark.parametrize("leak", [False, True])
def test_a_trial_reads_nothing_after_the_block_of_its_fold(tmp_path: Path, leak: bool) -> None:
    """Bit for bit; with the change one step earlier, in the block itself, it is found."""
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.standard_normal((4, 1, 300)), axis=-1).astype(np.float32)
    after = 300 - 72 - leak  # the block of fold 1 ends 72 steps before the end
    changed = series.copy()
    changed[:, :, after:] = 1e3 * rng.standard_normal(changed[:, :, after:].shape)
    changed[0, :, 300 - 36 :] = np.nan
    tables = []
    for name, values in (("as-it-was", series), ("changed", changed)):
        folder = tmp_path / name
        with CorpusWriter(folder / "corpus", ["a"], time="steps") as writer:
            for number, one in enumerate(values):
                writer.append(f"item{number}", one)
        tables.append(_losses_of_fold(folder, 1))
    assert tables[0].equals(tables[1]) != leak


def _losses_of_fold(folder: Path, fold: int) -> pa.Table:
    config = study(folder, change={"data.corpora": [{"path": str(folder / "corpus")}]}, folds={"count": 2})
    record = run_trial(config, 0, {RATE: 0.01}, folder / "t", source="sampler", report=never)
    assert record.state == "complete", record.message
    return read_losses(folder / "t" / f"fold-{fold}" / "losses.parquet")
