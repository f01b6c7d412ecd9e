"""Studies with planted records and losses, for tests of reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from foretrain.config import build
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.losses import SCHEMA, write_losses
from foretrain.tuning.records import DEFAULT_TRIAL, LOSSES, CurvePoint, State, TrialRecord
from foretrain.tuning.study import StudyFolder, create_study

RATE, DECAY, NAME = "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.name"
SPACE: dict[str, Any] = {
    RATE: {"kind": "float", "low": 1e-5, "high": 1e-1, "log": True},
    DECAY: {"kind": "float", "low": 0.0, "high": 0.3},
}


def study_of(folder: Path, records: Sequence[TrialRecord], **more: Any) -> StudyFolder:
    """A study in which these trials ended."""
    tree = {"output_dir": str(folder / "study"), "run": "debug", "space": SPACE, **more}
    study = create_study(build(TuneConfig, tree, source="a test"), resume=False)
    for record in records:
        study.write(record)
    return study


def trial(
    number: int, params: Mapping[str, Any], *values: float, state: State = "complete", curve: Sequence[float] = ()
) -> TrialRecord:
    """A trial that ended."""
    return TrialRecord(
        number=number,
        state=state,
        source="default" if number == DEFAULT_TRIAL else "sampler",
        params=dict(params),
        values=values or None,
        curve=tuple(CurvePoint(fold=0, step=10 * (k + 1), value=value) for k, value in enumerate(curve)),
        steps=10 * len(curve),
        seconds=2.0,
        worker=f"host:{number % 2}",
        started="2026-01-01T00:00:00+00:00",
        ended=f"2026-01-01T00:01:{max(number, 0) % 60:02d}+00:00",
    )


def drawn(count: int, seed: int = 0) -> list[TrialRecord]:
    """Random candidates whose value is least at a rate of 0.001, whatever the decay is."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        rate, decay = 10 ** rng.uniform(-5, -1), rng.uniform(0, 0.3)
        value = 1 + abs(math.log10(rate) + 3) + 0.01 * rng.standard_normal()
        found.append(trial(number, {RATE: rate, DECAY: decay}, value, curve=(value + 0.5, value)))
    return found


def write_table(
    study: StudyFolder, number: int, losses: Sequence[float], *, items: Sequence[str] = ("A",), naive: float = 1.0
) -> None:
    """Write losses of a trial: one row of each item at each origin, items one origin apart if there are several."""
    rows = [
        (0, 1_000 * (len(items) * k + n), "corpus", item, "value", 4, loss, naive)
        for n, item in enumerate(items)
        for k, loss in enumerate(losses)
    ]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    folder = study.trial(number)
    folder.mkdir(parents=True, exist_ok=True)
    write_losses(pa.Table.from_arrays(columns, schema=SCHEMA), folder / LOSSES)
