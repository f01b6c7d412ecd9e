"""What tests of imports share: write a text, import it, look at the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.importers import ImportReport, import_corpus
from foretrain.data.store import Corpus

DAYS = [str(np.datetime64("2024-01-01") + k) for k in range(40)]


def imported(tmp_path: Path, *paths: Path, **options: Any) -> tuple[Corpus, ImportReport]:
    """Import into a folder of its own; paths default to everything in tmp_path/in."""
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    report = import_corpus(list(paths) or [tmp_path / "in"], out, **options)
    return Corpus.open(out), report


def written(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def items(corpus: Corpus) -> dict[str, list[list[float]]]:
    return {corpus.item_id(k): np.round(corpus.values(k), 4).tolist() for k in range(corpus.num_series)}


def first_stamp(corpus: Corpus, series: int = 0) -> str:
    times = corpus.times(series)
    assert times is not None
    return str(times[0].astype("M8[us]").astype("M8[s]"))
