"""Suites on generated data in place of the shipped ones, for tests of what runs on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foretrain.suites import definition, published

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# `pooled` imputes as GIFT-Eval does, `single` does not; both have metrics of gluonts. `exog` has
# covariates, `fixed` static ones.
_SUITE = """
title: {name}
origin: this test
licence: none
hub: {{repository: someone/sets, layout: parquet}}
rule: {rule}
baseline: {baseline}
metrics_of: {mode}
metrics: {metrics}
eval_metric: WQL
imputes: {imputes}
quantile_levels: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
published: none.csv
tasks:
{tasks}
"""
_PANEL = "{horizon: 3, freq: D, seasonality: 2, num_windows: 2, dataset: x, raw: {source: walks}}"
_DEEP = "{horizon: 4, freq: D, seasonality: 2, dataset: y, raw: {source: walks}}"
_GLUONTS = '{MASE: "MASE[0.5]", WQL: mean_weighted_sum_quantile_loss, MSE: "MSE[mean]"}'
_EXOG = (
    "{horizon: 3, freq: D, seasonality: 2, num_windows: 2, targets: [y], past_covariates: [seen, nowhere], "
    "known_covariates: [ahead, day], dataset: exog}"
)
TEXTS = {
    "pooled": _SUITE.format(
        name="pooled", rule="gift-eval", baseline="statsforecast-normal", mode="gluonts", metrics=_GLUONTS,
        imputes="true", tasks=f"  walks: {_PANEL}\n  deep/er: {_DEEP}\n  other: {{horizon: 3, freq: D, "
        "seasonality: 2, dataset: other}",
    ),
    "single": _SUITE.format(
        name="single", rule="offset", baseline="point", mode="gluonts", metrics=_GLUONTS, imputes="false",
        tasks=f"  walks: {_PANEL}",
    ),
    "exog": _SUITE.format(
        name="exog", rule="fev", baseline="statsforecast-normal", mode="fev",
        metrics="{SQL: SQL, MASE: MASE, WAPE: WAPE, WQL: WQL}", imputes="true", tasks=f"  exog: {_EXOG}",
    ),
    "fixed": _SUITE.format(
        name="fixed", rule="fev", baseline="statsforecast-normal", mode="fev", metrics="{SQL: SQL, WQL: WQL}",
        imputes="true", tasks="  fixed: {horizon: 3, freq: D, seasonality: 2, num_windows: 2, targets: [y], "
        "static_covariates: [kind, size, nowhere], dataset: fixed}",
    ),
}  # fmt: skip
SOURCES = "walks: {reader: columns, files: [walks.txt], origin: github.com/someone/data, licence: none}\n"
WALKS = np.cumsum(np.random.default_rng(3).standard_normal((40, 5)), axis=0).round(3) + 20


@pytest.fixture
def suites(tmp_path, monkeypatch) -> Iterator[Path]:
    """A data root with the data of `pooled` (not of its task `other`) and `single`; they replace the shipped suites."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "sources.yaml").write_text(SOURCES)
    monkeypatch.setattr(definition, "FOLDER", folder)
    caches = (definition._read, definition.raw_sources, published.published_table)
    for cached in caches:
        cached.cache_clear()
    root = tmp_path / "data"
    root.mkdir()
    write_walks(root, WALKS)
    yield root
    for cached in caches:
        cached.cache_clear()


def write_walks(root: Path, walks: np.ndarray) -> None:
    """Write the raw file."""
    (root / "walks.txt").write_text("\n".join(",".join(map(str, row)) for row in walks.tolist()) + "\n")
