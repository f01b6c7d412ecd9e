"""A suite `small` in place of the shipped ones, as a fixture that other modules import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foretrain.suites import definition, published

HEAD = """
title: a small suite
origin: this test
licence: none
hub: {repository: someone/sets, layout: parquet}
rule: fev
baseline: statsforecast-normal
metrics_of: fev
metrics: {MASE: MASE, WQL: WQL}
eval_metric: WQL
quantile_levels: [0.1, 0.5, 0.9]
published: small.csv
tasks:
"""


@pytest.fixture
def define(tmp_path: Path, monkeypatch) -> Iterator[Callable[[str, str], None]]:
    """A function (tasks, sources) that makes a suite of lines of YAML the only one; figures of all tasks are 1."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    caches = (definition._read, definition.raw_sources, published.published_table)
    monkeypatch.setattr(definition, "FOLDER", folder)
    monkeypatch.setattr(published, "FOLDER", folder)

    def write(
        tasks: str, sources: str = "none: {reader: columns, files: [n.txt], origin: here, licence: none}"
    ) -> None:
        (folder / "small.yaml").write_text(HEAD + "".join(f"  {line}\n" for line in tasks.splitlines()))
        (folder / "sources.yaml").write_text(sources)
        names = [line.partition(":")[0] for line in tasks.splitlines()]
        rows = "".join(f"{name},1.0,1.0\n" for name in names)
        (folder / "small.csv").write_text(f"# Seasonal naive as published: a test\ntask,MASE,WQL\n{rows}")
        for cached in caches:
            cached.cache_clear()

    yield write
    for cached in caches:
        cached.cache_clear()
